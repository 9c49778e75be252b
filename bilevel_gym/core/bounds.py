"""How far the follower's computed policy, and what follows from it, can be from the exact one.

V solves the problem whose rewards in state s are less by d(s) = (T V - V)(s). Let d vanish
steadily: on the way to V*, with pi_t the policies and Z_t = (I - gamma P_pi_t)^-1, whose rows are
expected visits,

    V' = Z_t d,   |(log pi_t)'| <= gamma / tau (max V' - min V'),   so that log pi changes by theta.

Then with kappa = e^theta - 1, for every action,

    |pi - pi*| <= kappa m,   m(s, a) = pi(a|s), for the best action of a state at most the
                             probability of the others, which it takes it from or gives it to,

so that a policy which is nearly certain is nearly exact, whatever the temperature. The changes of
a state sum to zero, and so do those of the flow that it sends on: what such a flow, sent by the
policy on from state to state, amounts to is not bounded by the length of an episode, 1 / (1 -
gamma), but by the time until it does not matter any more where it began:

    |Z^T z|_1 <= C |z|_1 for flows z that sum to zero,   max Z x - min Z x <= 2 C |x|_inf,
    C = 1/2 max over two states of |Z(s, .) - Z(s', .)|_1,

the end of the episode being one more state, from where there are no visits, unless all rows of P
have one sum. C is at most

* the mean number of visits in all, at most 1 / (1 - gamma);
* 1 / (1 - gamma delta), where no two rows of P_pi differ by more than delta in total variation
  (Dobrushin's coefficient; E. Seneta, "Non-negative Matrices and Markov Chains", section 3.1);
* the visits until a state that is often visited is reached, from where all goes on alike;
* the largest distance of a row of Z from their mean, where Z is small enough to be computed.

For policies within kappa m they hold with C / (1 - gamma kappa C max_s sum_a m) (a Neumann series).
Where no episode ends, what is common to all of d changes no difference of values.

A Newton step or two in extended precision give a policy that is known much better than the computed
one. Then pi stands for it in bounds of what was computed: what the computed numbers miss of what
follows from it is measured, and kappa is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from .bellman import EPS, TINY, expm1, rounding_of
from .mdp import FloatArray, TabularMDP

__all__ = ["ErrorBound", "Uncertainty", "bounded", "change_of_log_policy", "extended", "finer"]

# Residuals are taken in extended precision; it is that of float64 on machines that have no other.
EXTENDED: Any = np.longdouble

# Up to so many states Z is computed.
SMALL = 1500

# Newton steps taken there.
REFINEMENTS = 2


class System(Protocol):
    """Linear systems with I - discount P_pi."""

    def solve(self, rhs: FloatArray, *, transpose: bool = False) -> tuple[FloatArray, float]:
        """Return the solution and the norm of its residual."""


class Answer(Protocol):
    """What is used of a `bilevel_gym.core.soft.SoftSolution`."""

    @property
    def mdp(self) -> TabularMDP:
        """The problem."""

    @property
    def policy(self) -> FloatArray:
        """The policy `[S, A]` at the value."""

    @property
    def soft_q(self) -> FloatArray:
        """Q at the value `[S, A]`."""

    @property
    def soft_value(self) -> FloatArray:
        """The value `[S]`."""

    @property
    def defect(self) -> FloatArray:
        """T V - V there `[S]`."""

    @property
    def policy_rounding(self) -> float:
        """Bound on what rounding makes of log pi."""

    @property
    def rough_change(self) -> float:
        """Bound on |log pi - log pi*| from the residual alone."""

    @property
    def system(self) -> System:
        """Linear systems of the policy."""

    def discounted_system(self, discount: float) -> System:
        """Return those with another discount."""


class _Refined(NamedTuple):
    """A policy after more Newton steps.

    Attributes:
        policy: It, `[S, A]`.
        seen: How far the computed one is from it, in units of m.
        apart: How far their logarithms are.
        left: Theta of this one.
    """

    policy: Any
    seen: float
    apart: float
    left: float


class Uncertainty:
    """What is known of the exact policy, from a computed one.

    Attributes:
        solution: The computed answer.
    """

    def __init__(self, solution: Answer) -> None:
        """Take note of the answer."""
        self.solution = solution
        self._reach: dict[float, float] = {}
        self._computed: dict[float, float] = {}

    @cached_property
    def policy(self) -> Any:
        """The best policy that is known `[S, A]`, in extended precision."""
        return self._computed_policy if self._is_computed else self._refined.policy

    @cached_property
    def kappa(self) -> float:
        """Bound on |pi - pi*| / m for that policy; infinite where nothing is known."""
        if self._is_computed:
            return self.total
        refined = self._refined
        return expm1(refined.left) * (1.0 + refined.seen)

    @cached_property
    def changes(self) -> FloatArray:
        """Bound on |pi - pi*| for the computed policy `[S, A]`."""
        seen = np.abs(self.solution.policy - self.policy).astype(np.float64)
        return seen + self.kappa * self.moved

    @cached_property
    def _computed_policy(self) -> Any:
        policy = extended(self.solution.policy)
        return policy / policy.sum(axis=1, keepdims=True)

    @cached_property
    def _is_computed(self) -> bool:
        """Whether no policy is known that is much better than the computed one."""
        left = expm1(self._refined.left) * (1.0 + self._refined.seen)
        return self.is_certain or not left < 0.5 * self.total

    @cached_property
    def moved(self) -> FloatArray:
        """The m `[S, A]`: |pi - pi*| is at most kappa times as much."""
        if not self.is_certain:
            return self._least
        policy = self.solution.policy
        floor = np.where(policy > 0.0, TINY, 0.0) + 2.0 * self._of_others / self.total
        return self._moved(floor)

    @cached_property
    def spread(self) -> FloatArray:
        """Sums of m over the actions of each state `[S]`, in [0, 2]."""
        return self.moved.sum(axis=1)

    @cached_property
    def total(self) -> float:
        """Bound on |pi - pi*| / m for the computed policy; infinite where nothing is known."""
        if not self.is_certain:
            return self._kappa
        # The smaller this is, the larger is m.
        return max(math.sqrt(self._of_others), 16.0 * EPS) if self._of_others < 1e-4 else math.inf

    @cached_property
    def policy_error(self) -> float:
        """Bound on |pi - pi*| / pi, for every action whose probability does not underflow."""
        actions = self.solution.mdp.kernel.num_actions
        if self.is_certain:
            return actions * self._of_others if self._of_others < 1e-4 else math.inf
        return self._kappa + (actions + 4.0) * EPS

    @cached_property
    def is_certain(self) -> bool:
        """Whether the probability of all but the best action of each state underflows."""
        return bool((self.solution.policy > TINY).sum() == len(self.solution.policy))

    @cached_property
    def _of_others(self) -> float:
        """Bound on the exact probability of all but the best actions, where that underflows."""
        return math.exp(min(1.0, self._change + self._next_best))

    @cached_property
    def _next_best(self) -> float:
        """Largest log pi of all but the best action of each state, pi at V being certain."""
        q = self.solution.soft_q - self.solution.soft_q[self._best][:, None]
        q[self._best] = -np.inf
        return (1.0 - 1e-9) * float(q.max()) / self.solution.mdp.temperature

    @cached_property
    def _least(self) -> FloatArray:
        return self._moved(TINY)

    def _moved(self, floor: float | FloatArray) -> FloatArray:
        """Return m, no less than a floor: what underflows is known to `TINY` at best."""
        policy, mask = self.solution.policy, self.solution.mdp.mask
        moved = np.where(mask, np.maximum(policy, floor), 0.0)
        moved[self._best] = 0.0
        moved[self._best] = np.minimum(moved.sum(axis=1), policy[self._best])
        return moved

    @cached_property
    def _best(self) -> tuple[Any, Any]:
        policy = self.solution.policy
        return np.arange(len(policy)), policy.argmax(axis=1)

    @cached_property
    def _kappa(self) -> float:
        """Kappa from the residual, or from that of a more exact value, as is smaller."""
        seen, left = self._refined.seen, self._refined.left
        return min(expm1(self._from_residual), seen + expm1(left) * (1.0 + seen))

    @cached_property
    def _change(self) -> float:
        """Theta likewise."""
        return min(self._from_residual, self._refined.apart + self._refined.left)

    @cached_property
    def _from_residual(self) -> float:
        solution = self.solution
        rounding = solution.policy_rounding
        return min(solution.rough_change, self._theta(solution.defect, 1.0, rounding))

    def _theta(self, defect: Any, precision: float, seen: float) -> float:
        """Return theta for a defect `[S]` with rounding of some precision, relative to float64.

        `seen` bounds what log pi is off by at the value of the defect already.
        """
        solution, mdp = self.solution, self.solution.mdp
        rounding = precision * rounding_of(mdp, solution.soft_value)
        known = self._reach_of_computed(mdp.gamma)
        change = 2.0 * change_of_log_policy(mdp, defect, rounding, known)
        # While theta is at most this, no rate is more than twice the first, so it stays there.
        off = self._sum_moved_by(change + seen)
        kept = 1.0 - mdp.gamma * known * off
        change = 0.5 * change / kept if kept >= 0.5 else math.inf
        change = min(change, change_of_log_policy(mdp, defect, rounding))
        return change + precision * solution.policy_rounding

    def _sum_moved_by(self, change: float) -> float:
        """Return a bound on sum_a |pi - pi'| where log pi and log pi' differ by so much."""
        if self.is_certain:
            actions = self.solution.mdp.kernel.num_actions
            return 2.0 * actions * math.exp(min(1.0, change + self._next_best))
        return expm1(change) * float(self._least.sum(axis=1).max())

    @cached_property
    def _refined(self) -> _Refined:
        """The policy after more Newton steps, in extended precision where there is any."""
        solution, mdp = self.solution, self.solution.mdp
        value = extended(solution.soft_value)
        policy, image = _backup(mdp, value)
        for _ in range(REFINEMENTS):
            defect = image - value
            unit = max(float(np.abs(defect).max()), TINY)
            step = solution.system.solve((defect / unit).astype(np.float64))[0]
            value = value + unit * extended(step)
            policy, image = _backup(mdp, value)
        moved, at = np.abs(policy - self._computed_policy), self._best
        # What the best action's probability moves by, the others together move by.
        others = moved.sum(axis=1) - moved[at]
        moved[at] = np.minimum(moved[at], others)
        possible = self._least > 0.0
        seen = float((moved[possible] / self._least[possible]).max(initial=0.0))
        apart = math.log1p(seen)
        if self.is_certain:  # what underflows may change by any factor
            apart = 2.0 * mdp.contraction * float(np.abs(value - solution.soft_value).max())
            apart /= mdp.temperature
        rounding = apart + finer() * solution.policy_rounding
        return _Refined(policy, seen, apart, self._theta(image - value, finer(), rounding))

    @cached_property
    def column(self) -> int:
        """Largest number of rows of the kernel that lead to a state, and of actions."""
        kernel = self.solution.mdp.kernel
        return int(np.bincount(kernel.matrix.indices).max(initial=0)) + kernel.num_actions

    @property
    def row(self) -> int:
        """Largest number of states that a state leads to by an action, and of actions."""
        kernel = self.solution.mdp.kernel
        return kernel.longest_row + kernel.num_actions

    def _rounding(self, terms: int) -> float:
        """Return a bound on what rounding makes of a sum of so many, in extended precision."""
        return finer() * EPS * (terms + 8.0)

    def mass(self, discount: float) -> float:
        """Return a bound on the sums of the rows of Z, whatever the policy."""
        return 1.0 / (1.0 - discount * self.solution.mdp.kernel.largest_sum)

    def reach(self, discount: float) -> float:
        """Return C for the exact policy."""
        if discount not in self._reach:
            mass, known = self.mass(discount), self._reach_of_computed(discount)
            spread = float(self.spread.max())
            lost = discount * known * self.total * spread if self.total < 1e50 else 1.0
            self._reach[discount] = min(mass, known / (1.0 - lost)) if lost < 0.9 else mass
        return self._reach[discount]

    def apart(self, computed: FloatArray, exact: Any) -> float:
        """Return the sum norm of what rounding did to an array, seen in extended precision."""
        exact = np.abs(exact - computed) + finer() * 16.0 * EPS * np.abs(computed)
        return float(exact.sum())

    def residual(self, found: FloatArray, rhs: Any, discount: float) -> float:
        """Return the sup norm of the residual of a linear system with I - discount P_pi."""
        left, worst = self._residual(found, rhs, discount, transpose=False)
        return float(np.abs(left).max() + worst * (np.abs(found).max() + np.abs(rhs).max()))

    def error_of_visits(self, found: FloatArray, rhs: Any, discount: float) -> float:
        """Return the sum norm of the error of a solution of the transposed system.

        The part of its residual that sums to zero grows by C only.
        """
        left, worst = self._residual(found, rhs, discount, transpose=True)
        rounding = worst * float(np.abs(found).sum() + np.abs(rhs).sum())
        total, common = float(np.abs(left).sum()), float(abs(left.sum()))
        most = self.mass(discount)
        split = self.reach(discount) * (total + common) + most * common
        return min(split, most * total) + most * rounding

    def _residual(
        self, found: FloatArray, rhs: Any, discount: float, *, transpose: bool
    ) -> tuple[Any, float]:
        """Return a residual `[S]`, and its own rounding relative to what it is made of."""
        kernel, policy, at = self.solution.mdp.kernel, self.policy, extended(found)
        if transpose:
            after = kernel.flow(policy * at[:, None])
        else:
            after = (policy * kernel.expect(at)).sum(axis=1)
        return rhs + discount * after - at, self._rounding(self.column if transpose else self.row)

    def _reach_of_computed(self, discount: float) -> float:
        """Return C for the computed policy."""
        if discount not in self._computed:
            self._computed[discount] = self._computed_reach(discount)
        return self._computed[discount]

    def _computed_reach(self, discount: float) -> float:
        solution, kernel = self.solution, self.solution.mdp.kernel
        size, most = kernel.num_states, self.mass(discount)
        mass, off = np.full(size, most), 0.0
        uneven = float(np.ptp(kernel.row_sums)) + EPS * kernel.longest_row
        steady = uneven <= 1e-12
        if not steady:
            mass, off = self._solved(np.ones(size), discount)
        visits = solution.discounted_system(discount).solve(np.ones(size), transpose=True)[0]
        at = int(np.argmax(visits))
        towards, left = self._solved(np.eye(1, size, at)[0], discount)
        off = 8.0 * most * (most * left + off) + (most * most * uneven if steady else 0.0)
        found = float((mass + mass[at] - 2.0 * mass[at] * (towards / towards[at])).max()) + off
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
        if size <= SMALL:
            found = min(found, self._reach_of_inverse(discount, steady))
        return max(1.0, min(found, float(mass.max()) + off, most))

    def _reach_of_inverse(self, discount: float, steady: bool) -> float:
        """Return C for the computed policy from all of Z."""
        kernel, most = self.solution.mdp.kernel, self.mass(discount)
        steps = kernel.policy_matrix(self.solution.policy).toarray()
        identity = np.eye(len(steps))
        matrix = identity - discount * steps
        visits = np.linalg.inv(matrix)
        # What the inverse is off by, and what the matrix is: its sums have their own rounding.
        left = float(np.abs(identity - matrix @ visits).sum(axis=1).max())
        rounding = (2.0 * len(steps) + kernel.longest_row + 8.0) * EPS
        off = 2.0 * most * (left + rounding * float(np.abs(visits).sum(axis=1).max()))
        mean = visits.mean(axis=0)
        apart = float(np.abs(visits - mean).sum(axis=1).max()) + off
        return apart if steady else 0.5 * (apart + max(apart, float(np.abs(mean).sum()) + off))

    def _solved(self, rhs: FloatArray, discount: float) -> tuple[Any, float]:
        """Return the refined solution of a system, and the sup norm of its residual."""
        system, kernel = self.solution.discounted_system(discount), self.solution.mdp.kernel
        found, defect = extended(np.zeros_like(rhs)), extended(rhs)
        for _ in range(2):
            step = system.solve(defect.astype(np.float64))[0]
            found = found + step
            after = (self._computed_policy * kernel.expect(found)).sum(axis=1)
            defect = rhs + discount * after - found
        worst = self._rounding(self.row)
        return found, float(np.abs(defect).max() + worst * (np.abs(found).max() + 1.0))


def extended(values: Any) -> Any:
    """Return numbers in extended precision."""
    return np.asarray(values, dtype=EXTENDED)


def finer() -> float:
    """Return rounding in extended precision, relative to that of float64."""
    return min(1.0, float(np.finfo(EXTENDED).eps) / EPS)


def change_of_log_policy(
    mdp: TabularMDP, defect: Any, rounding: float, reach: float | None = None
) -> float:
    """Return a bound on how far log pi is from log pi*.

    Args:
        mdp: The follower's problem.
        defect: T V - V `[S]`.
        rounding: Bound on what it is off by.
        reach: Bound on C, whatever the policy; None takes 1 / (1 - gamma).
    """
    mass = 1.0 / (1.0 - mdp.contraction)
    reach = mass if reach is None else reach
    low, high = float(defect.min()), float(defect.max())
    half, middle = 0.5 * (high - low) + rounding, 0.5 * abs(high + low)
    sums = mdp.kernel.row_sums[mdp.mask]
    uneven = float(np.ptp(sums)) + EPS * mdp.kernel.longest_row
    common = (middle * (1.0 + mdp.gamma * mass) + half) * mass * uneven
    of_all = mdp.contraction * 2.0 * reach * (max(high, -low) + rounding)
    # What is common to all states differs between actions that end episodes more or less often.
    of_parts = mdp.contraction * 2.0 * reach * half + mdp.gamma * common
    return min(of_all, of_parts) / mdp.temperature


def _backup(mdp: TabularMDP, value: Any) -> tuple[Any, Any]:
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
