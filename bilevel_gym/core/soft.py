"""The follower's problem: the soft Bellman equation, and what its solution knows.

With reward r, kernel P, discount gamma and temperature tau,

    Q(s, a)  = r(s, a) + gamma sum_s' P(s'|s, a) V(s')
    (T V)(s) = tau log sum_a exp(Q(s, a) / tau)
    pi(a|s)  = exp((Q(s, a) - (T V)(s)) / tau)

and the solution is the unique V with T V = V, found by Newton's method (see
`bilevel_gym.core.solvers`).

Stopping rule: a residual ||T V - V|| <= eps bounds the error by ||V - V*|| <= eps / (1 - gamma),
and that of log pi by 2 gamma / temperature times as much: it is the temperature that decides how
accurate a residual must be, so the default tolerance scales with temperature * (1 - gamma).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .bellman import EPS, rounding_of, soft_backup, soft_q
from .bounds import Uncertainty, change_of_log_policy
from .checks import check_at_least, check_positive, real_numbers
from .linear import SOLVERS, DiscountedSystem, Solutions, choose_solver
from .mdp import FloatArray, TabularMDP, action_major
from .solvers import SoftProblem
from .threads import single_threaded

__all__ = ["PolicyAnswer", "SoftSolution", "default_tolerance", "solve_all", "solve_soft_mdp"]

DIRECT = {name for name, strategy in SOLVERS.items() if strategy.direct}

# Relative error of the policy that the default tolerance allows for.
POLICY_ACCURACY = 2e-8


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicyAnswer:
    """A policy of the follower, and the linear systems with its matrix.

    Attributes:
        mdp: The follower's problem.
        policy: pi `[S, A]`; rows sum to one.
        solver: How linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS` or "auto".
        guesses: Where iterative solves start, by what is solved for.
        solutions: Of the linear systems solved at this policy, likewise.
        log_probabilities: log pi `[S, A]` where it is known better than from `policy`.
        accuracy: Residual of iterative solves relative to the right-hand side; None takes a
            default.
    """

    mdp: TabularMDP
    policy: FloatArray
    solver: str = "auto"
    guesses: Solutions | None = field(default=None, repr=False)
    solutions: dict[tuple[str, float], FloatArray] = field(default_factory=dict, repr=False)
    log_probabilities: FloatArray | None = field(default=None, repr=False)
    accuracy: float | None = field(default=None, repr=False)
    _factors: Any = field(default=None, repr=False)

    @cached_property
    @single_threaded
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
        """Linear systems with I - gamma P_pi, on the factors of a solve if there are any."""
        return self._system(self.mdp.gamma, self._factors)

    def release(self) -> None:
        """Drop what the solves have prepared, which may be large: it is made again at need."""
        for prepared in ("system", "_others"):
            self.__dict__.pop(prepared, None)
        self.__dict__["_factors"] = None

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

    def _system(self, discount: float, factors: Any = None) -> DiscountedSystem:
        kernel, accuracy = self.mdp.kernel, self.accuracy
        if accuracy is None and self.solver not in DIRECT:  # others go on to rounding
            accuracy = self._default_accuracy
        return DiscountedSystem(
            kernel.by_move,
            kernel.on_moves(self.policy),
            discount,
            solver=self.solver,
            factors=factors,
            accuracy=0.0 if accuracy is None else accuracy,
            guesses=self.guesses,
            solutions=self.solutions,
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
            where that is larger (rewards of 1e9 cannot meet 1e-10), and bounds the errors of value
            and policy.
    """

    soft_value: FloatArray
    residual: float
    tolerance: float
    iterations: int
    sweeps: int
    converged: bool

    @cached_property
    def soft_q(self) -> FloatArray:
        """Q = r + gamma P V `[S, A]`; -inf for actions that do not exist."""
        return soft_q(self.mdp, self.soft_value)

    def _computed_log_policy(self) -> FloatArray:
        soft_q = self.soft_q
        value, _ = soft_backup(soft_q, self.mdp.temperature)
        return (soft_q - value[:, None]) / self.mdp.temperature

    @cached_property
    def value_error_bound(self) -> float:
        """Bound on the sup norm of `soft_value - V*`: residual / (1 - gamma), rounding included."""
        rounding = rounding_of(self.mdp, self.soft_value)
        return (self.residual + rounding) / (1.0 - self.mdp.contraction)

    @cached_property
    @single_threaded
    def defect(self) -> FloatArray:
        """T V - V at `soft_value` `[S]`."""
        return soft_backup(self.soft_q, self.mdp.temperature)[0] - self.soft_value

    @cached_property
    def rough_change(self) -> float:
        """Bound on |log pi - log pi*| from the defect and the discount alone."""
        rounding = rounding_of(self.mdp, self.soft_value)
        return change_of_log_policy(self.mdp, self.defect, rounding) + self.policy_rounding

    @cached_property
    @single_threaded
    def policy_error_bound(self) -> float:
        """Bound on |pi - pi*| / pi, for every action whose probability does not underflow.

        It is infinite where nothing is known. It is computed when it is asked for, which takes
        about as long as the solve did; see `bilevel_gym.core.bounds`.
        """
        return 0.0 if self.mdp.kernel.num_actions == 1 else Uncertainty(self).policy_error

    @property
    def is_bounded(self) -> bool:
        """Whether there is a finite bound on the error of the policy."""
        # Where this is small, it is no less than what the bound is made of.
        rough = 4.0 * self.value_error_bound / self.mdp.temperature
        return rough < 1.0 or self.rough_change < 1.0 or math.isfinite(self.policy_error_bound)

    @cached_property
    def policy_rounding(self) -> float:
        """Bound on what rounding makes of log pi, where pi does not underflow."""
        kernel = self.mdp.kernel
        largest = float(np.abs(self.soft_value).max())
        depth = -math.log(float(self.policy[self.policy > 0.0].min()))
        row = (kernel.longest_row + 5.0) * self.mdp.contraction + 4.0
        in_values = row * largest / self.mdp.temperature
        return EPS * (in_values + 6.0 * depth + 2.0 * kernel.num_actions + 16.0)

    @property
    def _default_accuracy(self) -> float:
        # Nothing is gained by systems more accurate than the policy that they are made of.
        largest = float(np.abs(self.soft_value).max())
        return min(1e-8, max(self.tolerance / largest, 1e-13)) if largest > 0.0 else 1e-8


def default_tolerance(mdp: TabularMDP) -> float:
    """Return the residual at which the policy, hence the hyper-gradient, is accurate.

    It bounds the relative error of every action's probability by `POLICY_ACCURACY`. Where rounding
    forbids it, solves end at `Backup.rounding` instead.
    """
    return 0.5 * POLICY_ACCURACY * mdp.temperature * (1.0 - mdp.contraction)


@single_threaded
def solve_soft_mdp(
    mdp: TabularMDP,
    *,
    initial_value: FloatArray | None = None,
    solver: str = "auto",
    tolerance: float | None = None,
    max_iterations: int = 200,
    guesses: Solutions | None = None,
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
            (`SoftSolution.solutions`), to start iterative solves from.

    Raises:
        ValueError: If an argument is out of range or of the wrong shape.
        ImportError: If the solver needs compiled kernels that are not to be had.
        ArithmeticError: If values overflow.
    """
    return solve_all([mdp], [initial_value], solver, tolerance, max_iterations, [guesses])[0]


def solve_all(
    mdps: Sequence[TabularMDP],
    initial_values: Sequence[FloatArray | None],
    solver: str,
    tolerance: float | None,
    max_iterations: int,
    guesses: Sequence[Solutions | None],
    *,
    many: bool = False,
) -> list[SoftSolution]:
    """Solve the soft Bellman equations of MDPs on one structure; see `solve_soft_mdp`.

    An initial value is `[S]`, or None. With `many`, "auto" chooses the solver of a batch. The
    caller sees to the threads.
    """
    problems = [mdp if mdp.kernel.moves is None else by_move(mdp) for mdp in mdps]
    starts = [
        _starting_value(f"initial_values[{b}]" if many else "initial_value", mdp, value)
        for b, (mdp, value) in enumerate(zip(mdps, initial_values, strict=True))
    ]
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    check_at_least("max_iterations", max_iterations, 0)
    tolerances = [default_tolerance(p) if tolerance is None else tolerance for p in problems]
    chosen = choose_solver(problems[0].kernel.pattern, solver, many=many)
    found = SOLVERS[chosen].soft_values(
        [
            SoftProblem(problem, start, wanted, max_iterations, tolerance is None)
            for problem, start, wanted in zip(problems, starts, tolerances, strict=True)
        ]
    )
    solutions = [
        SoftSolution(
            mdp=mdp,
            soft_value=solved.value,
            policy=solved.policy if mdp.kernel.moves is None else by_action(mdp, solved.policy),
            residual=solved.residual,
            tolerance=wanted,
            iterations=solved.steps,
            sweeps=solved.sweeps,
            converged=solved.converged,
            solver=chosen,
            guesses=guess,
            _factors=solved.factors,
        )
        for mdp, solved, wanted, guess in zip(mdps, found, tolerances, guesses, strict=True)
    ]
    return [
        s if s.is_bounded or not s.converged else replace(s, converged=False) for s in solutions
    ]


def by_move(mdp: TabularMDP) -> TabularMDP:
    """Return a problem whose kernel has moves over its moves; it has the same values.

    Actions that make one move differ in their rewards alone, so the reward of a move is their soft
    maximum, r(s, m) = tau log sum_{a makes m} exp(r(s, a) / tau).
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


def by_action(mdp: TabularMDP, policy: FloatArray) -> FloatArray:
    """Return the policy over actions `[S, A]` from that over moves `[S, M]`."""
    moves = mdp.kernel.moves
    assert moves is not None
    _, total, weights = _soft_shares(mdp)
    np.divide(weights, total[moves], out=weights, where=weights > 0.0)
    weights *= policy.T[moves]
    return weights.T


def _soft_shares(mdp: TabularMDP) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the largest reward of each move `[M, S]`, and the weights exp((r - largest) / tau).

    First the sums of weights `[M, S]` (zero where a state has none of the move's actions), then
    the weights of actions `[A, S]`.
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


def _starting_value(name: str, mdp: TabularMDP, value: FloatArray | None) -> FloatArray:
    """Return the start of an iteration `[S]` as a fresh array, zeros for None.

    Raises:
        ValueError: If it has another shape or is not finite.
    """
    num_states = mdp.kernel.num_states
    if value is None:
        return np.zeros(num_states)
    given = real_numbers(name, value)
    finite = np.isfinite(given).sum() if given.shape == (num_states,) else 0
    if finite < num_states:
        raise ValueError(
            f"`{name}` must be finite with shape [S] = ({num_states},), "
            f"got shape {given.shape} with {finite} finite entries"
        )
    return np.array(given, np.float64)
