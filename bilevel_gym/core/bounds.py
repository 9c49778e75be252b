"""How far the follower's computed policy, and what follows from it, can be from the exact one.

Let |Q - Q*| and rounding change log pi by t at most, kappa = e^t - 1. Then for every action

    |pi - pi*| <= kappa m,   m(s, a) = pi(a|s), for the best action of a state at most the
                             probability of the others, which it takes it from or gives it to,

so that a policy which is nearly certain is nearly exact, whatever the temperature. The changes of
a state sum to zero, and so do those of the flow that it sends on: what such a flow, sent by the
policy on from state to state, amounts to is not bounded by the length of an episode, 1 / (1 -
gamma), but by the time until it does not matter any more where it began. With Z = (I - gamma
P_pi)^-1, whose rows are expected visits,

    |Z^T z|_1 <= C |z|_1 for flows z that sum to zero,   max Z x - min Z x <= 2 C |x|_inf,
    C = 1/2 max over two states of |Z(s, .) - Z(s', .)|_1,

the end of the episode being one more state, from where there are no visits. C is at most

* the mean number of visits in all, at most 1 / (1 - gamma);
* 1 / (1 - gamma delta), where no two rows of P_pi differ by more than delta in total variation
  (Dobrushin's coefficient; E. Seneta, "Non-negative Matrices and Markov Chains", section 3.1);
* the visits until a state that is often visited is reached, from where all goes on alike.

For the exact policy they hold with C / (1 - gamma kappa C max_s sum_a m) (a Neumann series).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from .bellman import EPS, expm1, rounding_of
from .mdp import FloatArray, TabularMDP
from .soft import SoftSolution

__all__ = ["FINER", "ErrorBound", "Uncertainty", "bounded", "extended"]

# Rounding in extended precision, relative to that of float64; 1 on machines that have none.
FINER = min(1.0, float(np.finfo(np.longdouble).eps) / EPS)


class Uncertainty:
    """What is known of the exact policy, from a computed one.

    Attributes:
        solution: The computed answer.
    """

    def __init__(self, solution: SoftSolution) -> None:
        """Take note of the answer."""
        self.solution = solution
        self._reach: dict[float, float] = {}

    @cached_property
    def moved(self) -> FloatArray:
        """The m `[S, A]`: |pi - pi*| is at most kappa times as much."""
        policy = self.solution.policy
        moved = policy.copy()
        states, best = np.arange(len(policy)), policy.argmax(axis=1)
        moved[states, best] = 0.0
        moved[states, best] = np.minimum(moved.sum(axis=1), policy[states, best])
        return moved

    @cached_property
    def spread(self) -> FloatArray:
        """Sums of m over the actions of each state `[S]`, in [0, 2]."""
        return self.moved.sum(axis=1)

    @cached_property
    def kappa(self) -> float:
        """Bound on |pi - pi*| / m; infinite where nothing is known."""
        return self._kappa(self.reach(self.solution.mdp.gamma))

    @cached_property
    def _rough_kappa(self) -> float:
        """The same without a look at how fast differences vanish."""
        return self._kappa(self.mass(self.solution.mdp.gamma))

    def _kappa(self, reach: float) -> float:
        """Return kappa for a C, from the residual or from a more exact value, as is smaller."""
        solution, mdp = self.solution, self.solution.mdp
        rounding = rounding_of(mdp, solution.soft_value)
        scale = 2.0 * mdp.gamma * reach / mdp.temperature
        known = expm1(scale * (solution.residual + rounding) + solution.policy_rounding)
        seen, residual = self._refined
        left = expm1(scale * (residual + FINER * rounding) + FINER * solution.policy_rounding)
        return min(solution.policy_error_bound, known, seen + left * (1.0 + seen))

    @cached_property
    def _refined(self) -> tuple[float, float]:
        """How far pi is, in units of m, from that after one more Newton step; the residual there.

        The step is checked in extended precision, where there is any.
        """
        solution, mdp = self.solution, self.solution.mdp
        value = extended(solution.soft_value)
        _, image = _extended_backup(mdp, value)
        value = value + solution.system.solve((image - value).astype(np.float64))[0]
        policy, image = _extended_backup(mdp, value)
        moved = np.abs(policy - solution.policy)
        # The best action's own rounding is in every residual.
        moved[np.arange(len(moved)), solution.policy.argmax(axis=1)] -= 4.0 * EPS
        possible = self.moved > 0.0
        seen = float((moved[possible] / self.moved[possible]).max(initial=0.0))
        return seen, float(np.abs(image - value).max())

    @cached_property
    def column(self) -> int:
        """Largest number of states and actions that lead to a state."""
        kernel = self.solution.mdp.kernel
        return int(np.bincount(kernel.pattern.indices).max()) + kernel.num_actions

    def mass(self, discount: float) -> float:
        """Return a bound on the sums of the rows of Z, whatever the policy."""
        return 1.0 / (1.0 - discount * self.solution.mdp.kernel.largest_sum)

    def reach(self, discount: float) -> float:
        """Return C for the exact policy."""
        if discount not in self._reach:
            mass, known = self.mass(discount), self._reach_of_computed(discount)
            kappa = self._rough_kappa
            lost = discount * known * kappa * float(self.spread.max()) if kappa < 1.0 else 1.0
            self._reach[discount] = min(mass, known / (1.0 - lost)) if lost < 0.9 else mass
        return self._reach[discount]

    def apart(self, computed: FloatArray, exact: Any) -> float:
        """Return the sum norm of what rounding did to an array, seen in extended precision."""
        exact = np.abs(exact - computed) + FINER * 16.0 * EPS * np.abs(computed)
        return float(exact.sum())

    def residual(
        self, found: FloatArray, rhs: Any, discount: float, *, transpose: bool = False
    ) -> float:
        """Return the norm of the residual of a linear system with I - discount P_pi.

        That is the sup norm, and for the transposed system the sum norm.
        """
        kernel, policy, at = self.solution.mdp.kernel, self.solution.policy, extended(found)
        if transpose:
            after = kernel.flow(policy * at[:, None])
        else:
            after = (policy * kernel.expect(at)).sum(axis=1)
        left, size = np.abs(rhs + discount * after - at), np.abs(found)
        worst = 2.0 * FINER * EPS * (self.column + kernel.longest_row + 8.0)
        if transpose:
            return float(left.sum() + worst * (size.sum() + np.abs(rhs).sum()))
        return float(left.max() + worst * (size.max() + np.abs(rhs).max()))

    def _reach_of_computed(self, discount: float) -> float:
        solution, kernel = self.solution, self.solution.mdp.kernel
        system, size = solution.discounted_system(discount), kernel.num_states
        mass = np.full(size, self.mass(discount))
        steady = float(kernel.row_sums.min()) > 1.0 - 1e-12
        if not steady:
            mass = system.solve(np.ones(size))[0]
        visits = system.solve(np.ones(size), transpose=True)[0]
        at = int(np.argmax(visits))
        towards, left = system.solve(np.eye(1, size, at)[0])
        share = towards / towards[at]
        off = 8.0 * self.mass(discount) ** 2 * (left + (kernel.longest_row + 8.0) * EPS)
        found = float((mass + mass[at] - 2.0 * mass[at] * share).max()) + off
        if steady:
            steps = kernel.policy_matrix(solution.policy)
            mean = steps.sum(axis=0) / size
            here = np.repeat(np.arange(size), np.diff(steps.indptr))
            near = mean[steps.indices]
            apart = np.bincount(here, np.abs(steps.data - near) - near, minlength=size)
            delta = min(1.0, float(apart.max() + mean.sum()) * (1.0 + 1e-9))
            found = min(found, 1.0 / (1.0 - discount * delta))
        else:
            found = max(found, 0.5 * float(mass.max()) + off)
        return max(1.0, min(found, float(mass.max()) + off, self.mass(discount)))


def extended(values: Any) -> Any:
    """Return numbers in extended precision."""
    return np.asarray(values, dtype=np.longdouble)


def _extended_backup(mdp: TabularMDP, value: Any) -> tuple[Any, Any]:
    """Return the policy `[S, A]` at a value, and T V `[S]`, in the precision of the value."""
    q_value = np.where(mdp.mask, mdp.reward + mdp.gamma * mdp.kernel.expect(value), -np.inf)
    top = q_value.max(axis=1, keepdims=True)
    weights = np.exp((q_value - top) / mdp.temperature)
    total = weights.sum(axis=1, keepdims=True)
    return weights / total, (top + mdp.temperature * np.log(total))[:, 0]


# A bound on an error, or what computes it from what is known of the policy.
ErrorBound = float | Callable[[Uncertainty], float]


def bounded(error: ErrorBound, known: Uncertainty) -> float:
    """Return a bound as a number."""
    return error(known) if callable(error) else error
