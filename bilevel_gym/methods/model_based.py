"""What methods that know the model share: judging a policy that is not quite the follower's.

They keep a value V [S] that is near the follower's, and act on its greedy policy

    Q = r_x + gamma P_x V,   pi = exp((Q - T V) / tau),   (T V)(s) = tau log sum_a exp(Q / tau).

The leader's objective f(x, pi) and its derivatives are exact at that pi; what is inexact is pi, and
what a method makes of the response term. With u_c the derivative of f with respect to Q / tau,

    u_c(s, a) = (pi f_pi + f_log)(s, a) / tau - pi(a|s) sum_b (pi f_pi + f_log)(s, b) / tau,

the response term is sum_sa u_c dQ/dx. Methods differ in how they get at dQ/dx = dr/dx + gamma P
dV/dx (+ gamma dP/dx V).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from ..core.bellman import centred_score, soft_backup
from ..core.checks import check_at_least, check_flag
from ..core.linear import choose_solver
from ..core.mdp import FloatArray, TabularMDP
from ..core.soft import SoftSolution, default_tolerance
from ..model.objectives import Objective, Outcome, UpperValue
from ..model.responses import TabularResponse

__all__ = [
    "Judgement",
    "SoftSweeps",
    "TabularGame",
    "check_tabular",
    "direct_gradient",
    "greedy_solution",
    "judge",
    "policy_score",
    "pulled_back",
    "soft_q",
    "tabular_response",
    "through_model",
]


class TabularGame(Protocol):
    """What these methods need of a game; see `bilevel_gym.envs.tabular.TabularBilevelEnv`."""

    objective: Objective
    upper_space: spaces.Box
    initial_upper_params: FloatArray

    @property
    def gamma(self) -> float:
        """The follower's discount, in [0, 1)."""
        ...

    @property
    def moves_kernel(self) -> bool:
        """Whether x moves the kernel."""
        ...

    def validate_upper_params(self, upper_params: ArrayLike) -> FloatArray:
        """Return x as a read-only float64 copy."""
        ...

    def lower_mdp(self, upper_params: FloatArray) -> TabularMDP:
        """Return the follower's problem at x."""
        ...

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, shape of x."""
        ...

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, shape of x."""
        ...

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward u_x `[S, A]`."""
        ...

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, shape of x."""
        ...

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        """Return the distribution of the first state at x, `[S]`."""
        ...

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_s cotangent(s) d rho(s)/dx, shape of x."""
        ...


def check_tabular(game: object) -> None:
    """Raise a `TypeError` unless a game has a tabular model."""
    if not hasattr(game, "lower_mdp"):
        raise TypeError(
            f"this method needs a tabular game, got {type(game).__name__} without `lower_mdp`"
        )


# The inner learner ------------------------------------------------------------------------------


def soft_q(mdp: TabularMDP, value: FloatArray) -> FloatArray:
    """Return Q = r + gamma P V, -inf for actions that do not exist.

    Args:
        mdp: The follower's problem.
        value: V `[S]`.

    Returns:
        Q `[S, A]`.
    """
    future = mdp.reward + mdp.gamma * mdp.kernel.expect(value)
    return future if mdp.action_mask is None else np.where(mdp.action_mask, future, -np.inf)


def greedy_solution(mdp: TabularMDP, value: FloatArray, *, sweeps: int = 0) -> SoftSolution:
    """Return the soft greedy policy of any value, as if the value solved the problem.

    Args:
        mdp: The follower's problem.
        value: V `[S]`.
        sweeps: Sweeps that led to it, for the record.

    Raises:
        ArithmeticError: If values overflow.
    """
    backed_up, policy = soft_backup(soft_q(mdp, value), mdp.temperature)
    residual = float(np.abs(backed_up - value).max())
    if not np.isfinite(residual):
        raise ArithmeticError(
            f"the follower's values overflowed (Bellman residual {residual}): its rewards are too "
            "large for float64, or its temperature too small"
        )
    wanted = default_tolerance(mdp)
    return SoftSolution(
        mdp=mdp,
        soft_value=value,
        policy=policy,
        residual=residual,
        tolerance=wanted,
        iterations=sweeps,
        sweeps=sweeps,
        converged=residual <= wanted,
        solver=choose_solver(mdp.kernel.by_move.pattern),
    )


class SoftSweeps:
    """Soft value iteration that goes on from where it was when x moves."""

    def __init__(self, sweeps: int, *, warm_start: bool = True) -> None:
        """Set up the learner.

        Args:
            sweeps: Sweeps V <- T V for each x, at least 1.
            warm_start: Whether to start from the value of the last x, instead of from zeros.

        Raises:
            ValueError: If an option is out of range.
        """
        check_at_least("sweeps", sweeps, 1)
        check_flag("warm_start", warm_start)
        self._sweeps, self._warm_start = int(sweeps), bool(warm_start)
        self._value: FloatArray | None = None

    def reset(self) -> None:
        """Forget the value."""
        self._value = None

    def answer(self, mdp: TabularMDP) -> SoftSolution:
        """Sweep, and return the greedy policy of what came out.

        Raises:
            ArithmeticError: If values overflow.
        """
        value = self._value
        if value is None or not self._warm_start:
            value = np.zeros(mdp.kernel.num_states)
        for _ in range(self._sweeps):
            value, _ = soft_backup(soft_q(mdp, value), mdp.temperature)
        solution = greedy_solution(mdp, value, sweeps=self._sweeps)
        self._value = value
        return solution


# Judging the answer -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judgement:
    """How the leader judges an answer, and the derivative at a fixed policy.

    Attributes:
        game: The game.
        outcome: The x and the answer.
        upper: f(x, pi) and its derivatives.
    """

    game: TabularGame
    outcome: Outcome
    upper: UpperValue

    @cached_property
    def direct(self) -> FloatArray:
        """Derivative of f(x, pi) with respect to x at a fixed policy, shape of x."""
        return direct_gradient(self.game, self.outcome.upper_params, self.upper)


def judge(game: TabularGame, x: FloatArray, solution: SoftSolution) -> Judgement:
    """Return how the leader judges an answer to x, be it exact or not.

    Args:
        game: The game.
        x: The leader's parameters, validated.
        solution: The answer; its policy is what counts.
    """
    outcome = Outcome(solution, x, game.upper_reward(x), game.start_distribution(x))
    return Judgement(game, outcome, game.objective.evaluate(outcome))


def direct_gradient(game: TabularGame, x: FloatArray, upper: UpperValue) -> FloatArray:
    """Return the derivative of f(x, pi) with respect to x at a fixed policy, shape of x.

    Args:
        game: The game.
        x: The leader's parameters.
        upper: f(x, pi) and its derivatives.

    Raises:
        ValueError: If a vector-Jacobian product of the task has a wrong shape.
    """
    direct = np.zeros(x.shape)
    if upper.params is not None:
        direct += upper.params
    if upper.upper_reward is not None:
        direct += pulled_back(game, "upper_reward_vjp", x, upper.upper_reward)
    if upper.lower_reward is not None:
        direct += pulled_back(game, "reward_vjp", x, upper.lower_reward)
    if upper.kernel is not None and game.moves_kernel:
        direct += pulled_back(game, "kernel_vjp", x, upper.kernel)
    if upper.initial_distribution is not None:
        direct += pulled_back(game, "start_distribution_vjp", x, upper.initial_distribution)
    return direct


def through_model(
    game: TabularGame, x: FloatArray, reward: FloatArray, kernel: Callable[[], FloatArray]
) -> FloatArray:
    """Return the derivative with respect to x of what depends on it through r and P alone.

    Args:
        game: The game.
        x: The leader's parameters.
        reward: Derivative with respect to the follower's reward `[S, A]`.
        kernel: Gives the derivative with respect to the stored transitions `[K]`; called only
            where x moves them.

    Returns:
        The derivative, shape of x.

    Raises:
        ValueError: If a vector-Jacobian product of the task has a wrong shape.
    """
    gradient = pulled_back(game, "reward_vjp", x, reward).copy()
    if game.moves_kernel:
        gradient += pulled_back(game, "kernel_vjp", x, kernel())
    return gradient


def pulled_back(
    game: TabularGame, product: str, x: FloatArray, cotangent: FloatArray
) -> FloatArray:
    """Return one of the task's vector-Jacobian products.

    Args:
        game: The game.
        product: Name of the method.
        x: The leader's parameters.
        cotangent: What it takes.

    Raises:
        ValueError: If the product has not the shape of x.
    """
    gradient: FloatArray = getattr(game, product)(x, cotangent)
    if np.shape(gradient) != x.shape:
        raise ValueError(
            f"`{product}` must return the shape of x, {x.shape}, got {np.shape(gradient)}"
        )
    return gradient


def policy_score(solution: SoftSolution, upper: UpperValue) -> FloatArray:
    """Return u_c, the derivative of f with respect to Q `[S, A]` at the answer's policy.

    Its rows sum to zero: adding a constant to the Q of a state changes nothing.

    Args:
        solution: The answer.
        upper: f(x, pi) and its derivatives.
    """
    return centred_score(solution.policy, solution.mdp.temperature, upper.policy, upper.log_policy)


def tabular_response(
    judgement: Judgement, hyper_gradient: FloatArray, **more: Any
) -> TabularResponse:
    """Return the response that a judged answer amounts to.

    Args:
        judgement: The answer and how the leader judges it.
        hyper_gradient: The method's estimate, shape of x.
        **more: Fields of the response to be other than the answer's.
    """
    outcome = judgement.outcome
    solution, gamma = outcome.solution, judgement.game.gamma
    fields: dict[str, Any] = {
        "upper_params": outcome.upper_params,
        "objective": judgement.upper.value,
        "hyper_gradient": hyper_gradient,
        "direct_gradient": judgement.direct.copy(),
        "policy": solution.policy,
        "occupancy": (1.0 - gamma) * outcome.occupancy(gamma),
        "soft_value": solution.soft_value.copy(),
        "lower_value": float(outcome.initial_distribution @ solution.soft_value),
        "residual": solution.residual,
        "iterations": solution.iterations,
        "converged": solution.converged,
    }
    return TabularResponse(**{**fields, **more})
