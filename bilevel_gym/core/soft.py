"""The follower's problem: the soft Bellman equation, solved by Newton's method.

With reward r, kernel P, discount gamma and temperature tau,

    Q(s, a)  = r(s, a) + gamma sum_s' P(s'|s, a) V(s')
    (T V)(s) = tau log sum_a exp(Q(s, a) / tau)
    pi(a|s)  = exp((Q(s, a) - (T V)(s)) / tau)

and the solution is the unique V with T V = V. T is a gamma-contraction in sup norm and convex;
Newton's step solves with I - gamma P_pi, hence *is* soft policy iteration: it converges from any
start, monotonically after the first step, and quadratically in the end.

Stopping rule: a residual ||T V - V|| <= eps bounds the error by ||V - V*|| <= eps / (1 - gamma),
and that of log pi by 2 gamma / temperature times as much: it is the temperature that decides how
accurate a residual must be, so the default tolerance scales with temperature * (1 - gamma).

With factors at hand, a solve of default tolerance goes on down to rounding with chord steps (the
last factorisation, one backup each) while these contract well: differences of objectives then are
as clean as float64 allows.

With an iterative solver each step is solved only as far as it deserves (Eisenstat and Walker,
"Choosing the forcing terms in an inexact Newton method", SIAM J. Sci. Comput. 17, 1996, choice 2),
and one backup follows it: Krylov errors are rough, and a backup smooths them. Where that breaks
down, sweeps V <- T V take over, which always contract.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .checks import check_at_least, check_positive
from .linear import (
    DIRECT,
    ApproximateInverse,
    Breakdown,
    DiscountedSystem,
    Record,
    approximate_inverse,
    choose_solver,
    sweeps_for,
)
from .mdp import FloatArray, TabularMDP, action_major
from .threads import single_threaded

__all__ = [
    "PolicyAnswer",
    "SoftSolution",
    "default_tolerance",
    "policy_entropy",
    "soft_backup",
    "solve_soft_mdp",
]

EPS = float(np.finfo(np.float64).eps)

# Chord steps go on while each leaves at most this share of the residual.
CHORD_CONTRACTION = 0.1

# Share of the residual that an inexact Newton step may leave: at most, and at least.
FORCING = (0.02, 1e-4)

# Inexact steps may raise the residual for a while; after so many without a new best one, the solves
# are made tighter.
PATIENCE = 30

# A fallback sweeps until this share of the residual is left.
SWEEP_REDUCTION = 0.1

# Relative error of the policy that the default tolerance allows for.
POLICY_ACCURACY = 2e-8


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicyAnswer:
    """A policy of the follower, and the linear systems with its matrix.

    Attributes:
        mdp: The follower's problem.
        policy: pi `[S, A]`; rows sum to one.
        solver: How linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS` or "auto".
        record: Solutions of the linear systems solved at this policy.
        log_probabilities: log pi `[S, A]` where it is known better than from `policy`.
        accuracy: Residual of iterative solves relative to the right-hand side; None takes a
            default.
    """

    mdp: TabularMDP
    policy: FloatArray
    solver: str = "auto"
    record: Record = field(default_factory=Record, repr=False)
    log_probabilities: FloatArray | None = field(default=None, repr=False)
    accuracy: float | None = field(default=None, repr=False)

    @cached_property
    def log_policy(self) -> FloatArray:
        """Logarithm of the policy `[S, A]`, finite where it underflows; -inf for absent actions."""
        given = self.log_probabilities
        return self._computed_log_policy() if given is None else given

    def _computed_log_policy(self) -> FloatArray:
        logarithm = np.log(np.maximum(self.policy, np.finfo(np.float64).smallest_subnormal))
        if self.mdp.action_mask is not None:
            logarithm[~self.mdp.action_mask] = -np.inf
        return logarithm

    @property
    def policy_error_bound(self) -> float:
        """Bound on |pi - pi*| / pi for every action; infinite where nothing is known."""
        return math.inf

    @cached_property
    def system(self) -> DiscountedSystem:
        """Linear systems with I - gamma P_pi."""
        return self._system(self.mdp.gamma)

    def discounted_system(self, discount: float) -> DiscountedSystem:
        """Return the systems with I - discount P_pi; `system` itself where discounts agree."""
        if discount == self.mdp.gamma:
            return self.system
        if discount not in self._others:
            self._others[discount] = self._system(discount)
        return self._others[discount]

    @cached_property
    def _others(self) -> dict[float, DiscountedSystem]:
        return {}

    @property
    def _default_accuracy(self) -> float:
        return 1e-10

    def _system(
        self, discount: float, inverse: ApproximateInverse | None = None
    ) -> DiscountedSystem:
        kernel = self.mdp.kernel
        return DiscountedSystem(
            kernel.by_move,
            kernel.on_moves(self.policy),
            discount,
            solver=self.solver,
            inverse=inverse,
            accuracy=self._default_accuracy if self.accuracy is None else self.accuracy,
            record=self.record,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftSolution(PolicyAnswer):
    """Solution of the soft Bellman equation, with its accuracy.

    Attributes:
        soft_value: V `[S]`; `policy` is soft-optimal for it.
        residual: Sup norm of T V - V at `soft_value`.
        tolerance: The residual that was asked for.
        iterations: Newton steps taken (with "value-iteration": rounds of sweeps).
        sweeps: Soft value-iteration sweeps taken in place of Newton steps; zero unless the solver
            is "value-iteration", or the linear solver broke down.
        converged: Whether the residual is at most `tolerance`, or at the rounding of the values
            where that is larger (rewards of 1e9 cannot meet 1e-10).
    """

    soft_value: FloatArray
    residual: float
    tolerance: float
    iterations: int
    sweeps: int
    converged: bool
    _inverse: ApproximateInverse | None = field(default=None, repr=False)

    @cached_property
    def soft_q(self) -> FloatArray:
        """Q = r + gamma P V `[S, A]`; -inf for actions that do not exist."""
        return _soft_q(self.mdp, self.soft_value).T

    def _computed_log_policy(self) -> FloatArray:
        soft_q = self.soft_q
        value, _ = soft_backup(soft_q, self.mdp.temperature)
        return (soft_q - value[:, None]) / self.mdp.temperature

    @property
    def value_error_bound(self) -> float:
        """Bound on the sup norm of `soft_value - V*`: residual / (1 - gamma), rounding included."""
        return (self.residual + _rounding(self.soft_value)) / (1.0 - self.mdp.gamma)

    @property
    def policy_error_bound(self) -> float:
        """Bound on |pi - pi*| / pi, for every action whose probability does not underflow.

        It is infinite where the value's error is too large to say anything.
        """
        exponent = 2.0 * self.mdp.gamma * self.value_error_bound / self.mdp.temperature
        return math.expm1(exponent) if exponent < 1.0 else math.inf

    @cached_property
    def system(self) -> DiscountedSystem:
        """Linear systems with I - gamma P_pi at the solution, on the last factorisation."""
        return self._system(self.mdp.gamma, self._inverse)

    @property
    def _default_accuracy(self) -> float:
        # Nothing is gained by systems more accurate than the policy that they are made of.
        return min(1e-8, max(self.tolerance, 1e-13))


def default_tolerance(mdp: TabularMDP) -> float:
    """Return the residual at which the policy, hence the hyper-gradient, is accurate.

    It bounds the relative error of every action's probability by `POLICY_ACCURACY`, unless the
    rounding of values of the size that the rewards allow forbids it.

    Args:
        mdp: The follower's problem.
    """
    largest = float(np.abs(mdp.reward).max()) + mdp.temperature * np.log(mdp.kernel.num_actions)
    wanted = 0.5 * POLICY_ACCURACY * min(1.0, mdp.temperature * (1.0 - mdp.gamma))
    return max(wanted, 8.0 * EPS * max(1.0, float(largest) / (1.0 - mdp.gamma)))


def solve_soft_mdp(
    mdp: TabularMDP,
    *,
    initial_value: FloatArray | None = None,
    solver: str = "auto",
    tolerance: float | None = None,
    max_iterations: int = 200,
    guesses: Sequence[FloatArray] = (),
) -> SoftSolution:
    """Solve the soft Bellman equation of an MDP.

    Args:
        mdp: The follower's problem.
        initial_value: Start of the iteration `[S]`, zeros when None.
        solver: How Newton's linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS`;
            "auto" chooses by the size and the shape of the kernel (see `choose_solver`).
        tolerance: Sup norm of the Bellman residual to reach, positive; None takes
            `default_tolerance`, and goes beyond it where that costs little.
        max_iterations: Newton steps allowed; a solve that needs more returns what it has with
            `converged` False.
        guesses: Solutions of the linear systems of an earlier, nearby solution
            (`SoftSolution.record`), to start iterative solves from.

    Raises:
        ValueError: If an argument is out of range or of the wrong shape.
        ImportError: If the solver needs compiled kernels that are not to be had.
        ArithmeticError: If values overflow.
    """
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    check_at_least("max_iterations", max_iterations, 0)
    if mdp.kernel.moves is not None:
        solution = solve_soft_mdp(
            by_move(mdp),
            initial_value=initial_value,
            solver=solver,
            tolerance=tolerance,
            max_iterations=max_iterations,
            guesses=guesses,
        )
        return by_action(solution, mdp)
    solver = choose_solver(mdp.kernel.pattern, solver)
    value = starting_value(mdp, "initial_value", initial_value)
    wanted = default_tolerance(mdp) if tolerance is None else tolerance
    if solver == "compiled":
        from .batch import solve_compiled

        return solve_compiled([mdp], [value], [wanted], max_iterations, tolerance is None)[0]
    newton = _Newton if solver in DIRECT else _InexactNewton
    iteration = newton(mdp, solver, wanted, value)
    iteration.run(max_iterations, polish=tolerance is None)
    at = iteration.at
    return SoftSolution(
        mdp=mdp,
        soft_value=at.value,
        policy=at.policy,
        residual=at.residual,
        tolerance=wanted,
        iterations=iteration.steps,
        sweeps=iteration.sweeps,
        converged=at.residual <= max(wanted, at.rounding),
        solver=solver,
        record=Record(guesses),
        _inverse=iteration.inverse,
    )


def by_move(mdp: TabularMDP) -> TabularMDP:
    """Return the follower's problem over moves, which has the same values.

    Actions that make one move differ in what they pay alone, so a move is worth their soft
    maximum, r(s, m) = tau log sum_{a makes m} exp(r(s, a) / tau).

    Args:
        mdp: A problem whose kernel has moves.
    """
    kernel = mdp.kernel
    top, total = _soft_shares(mdp)[:2]
    with np.errstate(divide="ignore"):  # moves that none of a state's actions makes
        reward = top + mdp.temperature * np.log(total)
    possible = total > 0.0
    return TabularMDP(
        kernel=kernel.by_move,
        reward=np.where(possible, reward, 0.0).T,
        gamma=mdp.gamma,
        temperature=mdp.temperature,
        action_mask=None if possible.all() else possible.T,
    )


def by_action(solution: SoftSolution, mdp: TabularMDP) -> SoftSolution:
    """Return the solution of a problem from that of `by_move(mdp)`."""
    moves = mdp.kernel.moves
    assert moves is not None
    _, total, weights = _soft_shares(mdp)
    np.divide(weights, total[moves], out=weights, where=weights > 0.0)
    weights *= solution.policy.T[moves]
    return replace(solution, mdp=mdp, policy=weights.T)


def _soft_shares(mdp: TabularMDP) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the largest reward of each move, and the weights exp((r - largest) / tau) of actions.

    Returns:
        Largest rewards `[M, S]`, sums of weights `[M, S]` (zero where a state has none of the
        move's actions) and weights `[A, S]`.
    """
    kernel, moves = mdp.kernel, mdp.kernel.moves
    assert moves is not None
    reward = action_major(mdp.reward)
    if mdp.action_mask is not None:
        reward = np.where(mdp.action_mask.T, reward, -np.inf)
    top = np.full((kernel.num_moves, kernel.num_states), -np.inf)
    np.maximum.at(top, moves, reward)
    top[np.isneginf(top)] = 0.0
    weights = np.exp((reward - top[moves]) / mdp.temperature)
    return top, action_major(kernel.on_moves(weights.T)), weights


def starting_value(mdp: TabularMDP, name: str, value: FloatArray | None) -> FloatArray:
    """Return the start of an iteration `[S]` as a fresh array, zeros for None.

    Raises:
        ValueError: If it has another shape or is not finite; the message has its `name`.
    """
    num_states = mdp.kernel.num_states
    if value is None:
        return np.zeros(num_states)
    start = np.array(value, np.float64)
    if start.shape != (num_states,) or not np.isfinite(start).all():
        raise ValueError(
            f"`{name}` must be finite with shape [S] = ({num_states},), "
            f"got shape {start.shape} with {np.isfinite(start).sum()} finite entries"
        )
    return start


def overflow(residual: float) -> ArithmeticError:
    """Return the error for values that are not finite; rewards near the end of float64 do that."""
    return ArithmeticError(
        f"the follower's values overflowed (Bellman residual {residual}): its rewards are too "
        "large for float64, or its temperature too small"
    )


class _Iterate:
    """A value, and what one backup makes of it."""

    def __init__(self, mdp: TabularMDP, value: FloatArray) -> None:
        self.mdp, self.value = mdp, value
        self.backed_up, weights = _backup(_soft_q(mdp, value), mdp.temperature)
        self.policy = weights.T
        self.defect = self.backed_up - value
        self.residual = float(np.abs(self.defect).max())
        if not np.isfinite(self.residual):
            raise overflow(self.residual)

    @property
    def rounding(self) -> float:
        """The residual that rounding leaves on values of this size."""
        return _rounding(self.value)

    def moved(self, correction: FloatArray) -> _Iterate:
        return _Iterate(self.mdp, self.value + correction)

    def swept(self) -> _Iterate:
        return _Iterate(self.mdp, self.backed_up)


class _Newton:
    """Newton steps on factorisations."""

    def __init__(self, mdp: TabularMDP, solver: str, tolerance: float, value: FloatArray) -> None:
        self.mdp, self.solver, self.tolerance = mdp, solver, tolerance
        self.at = _Iterate(mdp, value)
        self.inverse: ApproximateInverse | None = None
        self.steps, self.sweeps = 0, 0

    @single_threaded
    def run(self, max_iterations: int, *, polish: bool) -> None:
        contraction, fresh = 0.0, False
        while self.at.residual > self.at.rounding:
            met = self.at.residual <= self.tolerance
            if met and (not polish or (fresh and contraction > 0.5)):
                return  # as accurate as asked for, or as far as rounding lets it
            # Once the tolerance is met the policy hardly moves: old factors do while they contract.
            fresh = self.inverse is None or not met or contraction > CHORD_CONTRACTION
            if fresh:
                if self.steps == max_iterations:
                    return
                self.inverse = self._inverse_here()
                self.steps += 1
            assert self.inverse is not None
            candidate = self.at.moved(self.inverse.solve(self.at.defect))
            contraction = candidate.residual / self.at.residual
            if not met or candidate.residual < self.at.residual:
                self.at = candidate

    def _inverse_here(self) -> ApproximateInverse:
        return approximate_inverse(self.mdp.kernel, self.at.policy, self.mdp.gamma, self.solver)


class _InexactNewton(_Newton):
    """Newton steps on iterative solves, with sweeps to fall back on."""

    @single_threaded
    def run(self, max_iterations: int, *, polish: bool) -> None:
        # An exact step from a residual d leads to at most 4 d / (1 - gamma): whatever exceeds this
        # has been spoilt by the inexactness of a solve.
        largest = 4.0 * self.at.residual / (1.0 - self.mdp.gamma)
        loosest, tightest = FORCING
        best, previous, idle = self.at, np.inf, 0
        while self.at.residual > max(self.tolerance, self.at.rounding):
            if self.steps == max_iterations:
                self.at = min(self.at, best, key=lambda iterate: iterate.residual)
                return
            self.steps += 1
            if self.solver == "value-iteration":
                self._sweep()
                continue
            forcing = max(0.9 * (self.at.residual / previous) ** 1.6, tightest)
            forcing = max(min(forcing, loosest), 0.3 * self.tolerance / self.at.residual)
            previous = self.at.residual
            try:
                correction = self._inverse_here().solve(self.at.defect, reduction=forcing)
                candidate = self.at.moved(correction).swept()
                if candidate.residual > largest:
                    raise Breakdown("an inexact Newton step led astray")
            except Breakdown:
                self.at, previous, loosest = best, np.inf, max(0.1 * loosest, tightest)
                self._sweep()
                candidate = self.at
            idle = 0 if candidate.residual < best.residual else idle + 1
            best = min(best, candidate, key=lambda iterate: iterate.residual)
            self.at = candidate
            if idle == PATIENCE:  # loose solves may go round in a circle
                loosest, idle = max(0.1 * loosest, tightest), 0

    def _sweep(self) -> None:
        """Sweep until the residual is a tenth; the contraction bounds how long that takes."""
        goal = SWEEP_REDUCTION * self.at.residual
        for _ in range(sweeps_for(SWEEP_REDUCTION, self.mdp.gamma)):
            self.at = self.at.swept()
            self.sweeps += 1
            if self.at.residual <= goal:
                return


def soft_backup(soft_q: FloatArray, temperature: float) -> tuple[FloatArray, FloatArray]:
    """Return the soft maximum over actions and its policy.

    The maximum is subtracted before exponentiating, so temperatures of 1e-4 and below are safe.

    Args:
        soft_q: Q `[S, A]`, -inf for actions that do not exist.
        temperature: Positive.

    Returns:
        tau log sum_a exp(Q / tau) `[S]` and the policy exp((Q - V) / tau) `[S, A]`.
    """
    value, weights = _backup(action_major(soft_q).copy(), temperature)
    return value, weights.T


def policy_entropy(policy: FloatArray) -> FloatArray:
    """Return the entropy -sum_a pi log pi of each state's actions, `[S]`, in [0, log A].

    Args:
        policy: Action probabilities `[S, A]`.
    """
    from scipy.special import entr

    entropy: FloatArray = entr(policy).sum(axis=1)
    return entropy


def _rounding(value: FloatArray) -> float:
    """Return the residual that rounding leaves on values of this size."""
    return 8.0 * EPS * max(1.0, float(np.abs(value).max()))


def _soft_q(mdp: TabularMDP, value: FloatArray) -> FloatArray:
    """Return Q at V as a fresh action-major array `[A, S]`."""
    soft_q = action_major(mdp.kernel.expect(value))
    soft_q *= mdp.gamma
    soft_q += mdp.reward.T
    if mdp.action_mask is not None:
        np.copyto(soft_q, -np.inf, where=~mdp.action_mask.T)
    return soft_q


def _backup(soft_q: FloatArray, temperature: float) -> tuple[FloatArray, FloatArray]:
    """Return the soft maximum `[S]` and the policy `[A, S]`, which overwrites Q `[A, S]`."""
    top = soft_q.max(axis=0)
    soft_q -= top
    soft_q /= temperature
    np.exp(soft_q, out=soft_q)
    total = soft_q.sum(axis=0)
    soft_q /= total
    np.log(total, out=total)
    total *= temperature
    total += top
    return total, soft_q
