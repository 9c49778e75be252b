"""An independent referee: exact answers in extended precision, from arrays alone.

It shares no code with the package. Linear systems are solved with float64 factors and refined by
residuals in extended precision (64 bits of mantissa, exponents up to 4932), so its answers have
three digits more than float64 can have whatever the condition, and units of 1e-300 do not
underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve

# Refinements that bring no better residual before a solve ends.
PATIENCE = 30


def extended(values: Any) -> Any:
    """Return numbers in extended precision."""
    return np.asarray(values, dtype=np.longdouble)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of a problem; its arrays are in extended precision.

    Attributes:
        transition: P `[S, A, S]`, taken at its float64 values; rows sum to at most one.
        reward: The follower's reward `[S, A]`.
        gamma: Its discount.
        temperature: Weight of its policy's entropy.
        mask: Which actions exist `[S, A]`, None for all.
    """

    transition: Any
    reward: Any
    gamma: float
    temperature: float
    mask: Any = None

    @cached_property
    def kernel(self) -> Any:
        """P, a row for each state and action, `[S * A, S]`."""
        return extended(self.transition).reshape(-1, len(self.transition))

    @cached_property
    def value(self) -> Any:
        """The soft value V `[S]`, by Newton's method."""
        value = extended(np.zeros(len(self.reward)))
        best, least, idle = value, np.longdouble(np.inf), 0
        for _ in range(500):
            log_policy, image = self._answer(value)
            residual = np.abs(image - value).max()
            idle = 0 if residual < 0.5 * least else idle + 1
            if residual < least:
                best, least = value, residual
            if residual == 0.0 or idle > PATIENCE:
                break
            value = value + self.system(np.exp(log_policy)).solve(image - value)
        return best

    @cached_property
    def log_policy(self) -> Any:
        """The logarithm of the soft-optimal policy `[S, A]`."""
        return self._answer(self.value)[0]

    @cached_property
    def policy(self) -> Any:
        """The soft-optimal policy `[S, A]`."""
        return np.exp(self.log_policy)

    def system(self, policy: Any, discount: float | None = None) -> System:
        """Return the linear systems of a policy."""
        return System(self.kernel, policy, self.gamma if discount is None else discount)

    def discounted_return(
        self, upper_reward: Any, start: Any, discount: float | None = None
    ) -> tuple[Any, Any]:
        """Return a leader's discounted return, and its derivative with respect to pi `[S, A]`."""
        gamma = self.gamma if discount is None else discount
        system, leader = self.system(self.policy, gamma), extended(upper_reward)
        gain = system.solve((self.policy * leader).sum(axis=1))
        visits = system.solve(extended(start), transpose=True)
        after = (self.kernel @ gain).reshape(leader.shape)
        return extended(start) @ gain, visits[:, None] * (leader + np.longdouble(gamma) * after)

    def response(self, slope: Any = None, log_slope: Any = None) -> Any:
        """Return the derivative with respect to r `[S, A]` of what has these derivatives.

        `slope` is that with respect to pi, `log_slope` that with respect to log pi, `[S, A]`.
        """
        policy, states = self.policy, np.arange(len(self.reward))
        best = policy.argmax(axis=1)
        score = extended(np.zeros(policy.shape))
        if slope is not None:
            gain = slope - slope[states, best][:, None]
            score += policy * (gain - (policy * gain).sum(axis=1, keepdims=True))
        if log_slope is not None:
            score += log_slope - policy * log_slope.sum(axis=1, keepdims=True)
        # Scores of a state sum to zero: that of the best action is what the others leave.
        score[states, best] = 0.0
        score[states, best] = -score.sum(axis=1)
        score /= np.longdouble(self.temperature)
        flow = np.longdouble(self.gamma) * (score.ravel() @ self.kernel)
        return score + policy * self.system(policy).solve(flow, transpose=True)[:, None]

    def _answer(self, value: Any) -> tuple[Any, Any]:
        """Return log pi at a value `[S, A]`, and T V `[S]`."""
        after = np.longdouble(self.gamma) * (self.kernel @ value).reshape(self.reward.shape)
        q_value = extended(self.reward) + after
        if self.mask is not None:
            q_value = np.where(self.mask, q_value, -np.inf)
        tau, top = np.longdouble(self.temperature), q_value.max(axis=1, keepdims=True)
        scaled = (q_value - top) / tau
        total = np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return scaled - total, (top + tau * total)[:, 0]


class System:
    """The matrix I - discount P_pi."""

    def __init__(self, kernel: Any, policy: Any, discount: float) -> None:
        """Assemble and factorise it."""
        size, actions = policy.shape
        blocks = kernel.reshape(size, actions, size)
        matrix = -np.longdouble(discount) * (policy[:, None, :] @ blocks)[:, 0]
        matrix[np.arange(size), np.arange(size)] += np.longdouble(1.0)
        self._matrix = matrix
        self._factors = lu_factor(matrix.astype(np.float64), check_finite=False)

    def solve(self, rhs: Any, *, transpose: bool = False) -> Any:
        """Return the refined solution."""
        matrix = self._matrix.T if transpose else self._matrix
        solution, defect = np.zeros_like(rhs), rhs
        best, least, idle = solution, np.longdouble(np.inf), 0
        for _ in range(50):
            size = np.abs(defect).max()
            idle = 0 if size < 0.5 * least else idle + 1
            if size < least:
                best, least = solution, size
            if size == 0.0 or idle > 3:
                break
            scaled = (defect / size).astype(np.float64)
            step = lu_solve(self._factors, scaled, trans=int(transpose), check_finite=False)
            solution = solution + size * extended(step)
            defect = rhs - matrix @ solution
        return best
