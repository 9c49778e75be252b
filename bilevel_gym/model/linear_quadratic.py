"""A bilevel problem with linear dynamics, quadratic costs and Gaussian noise, as mathematics.

The game that is played with it is `bilevel_gym.envs.LinearQuadraticEnv`; the numerics, with their
formulas, are in `bilevel_gym.core.lqr`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_at_least,
    check_between,
    check_horizon,
    check_not_negative,
    check_positive,
    finite_array,
    received,
)
from ..core.lqr import (
    Coefficients,
    action_moments,
    cost_gradient,
    follow,
    policy_covariance,
    response_gradient,
    soft_value_constant,
    solve_riccati,
)
from ..core.mdp import FloatArray
from ..core.threads import single_threaded
from .base import BilevelModel, CommonOptions, check_finite, check_warm_start
from .responses import ExactGaussianResponse, GaussianResponse

__all__ = ["LinearQuadraticModel"]

LARGEST_STD = 1e150  # its square is a float64


class LinearQuadraticModel(BilevelModel):
    """A leader shapes the linear-quadratic problem of a follower.

    The follower's state moves as s' = A(x) s + B(x) a + w, its reward is
    -(s^T Q(x) s + a^T R(x) a), discounted by `gamma`, with `temperature` times the differential
    entropy of its policy. Its soft-optimal policy is Gaussian, its soft value quadratic. The leader
    maximises

        F(x) = -E[ sum_t gamma^t (s_t^T M s_t + a_t^T N a_t + upper_cost ||x||^2) ]

    over the first `horizon` steps, or all of them.

    With `state_limit` the entries of the state are clipped; where they are, the dynamics are not
    linear. Such a model can be played, but has no exact answer: `respond` refuses.

    The arguments of the constructor are attributes.

    Attributes:
        num_states: Number of entries of the state, S.
        num_actions: Number of entries of an action, A.
        start_covariance: E[s_0 s_0^T], `[S, S]`.
        noise_covariance: Covariance of w, `[S, S]`.
    """

    solve_options: ClassVar[tuple[str, ...]] = ("tolerance", "max_iterations")

    def __init__(
        self,
        coefficients: Callable[[FloatArray], Coefficients],
        coefficients_vjp: Callable[[FloatArray, Coefficients], FloatArray],
        *,
        upper_state_cost: ArrayLike,
        upper_action_cost: ArrayLike,
        upper_cost: float = 0.0,
        start_std: float = 1.0,
        noise_std: float = 0.0,
        horizon: int | None = None,
        state_limit: float | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        """Set up the model.

        Args:
            coefficients: Function that returns A `[S, S]`, B `[S, A]`, Q `[S, S]`, positive
                semidefinite, and R `[A, A]`, positive definite, at x.
            coefficients_vjp: Function that returns, for x and a cotangent, the sum of
                cotangent * d/dx over all entries of A, B, Q and R, shape of x.
            upper_state_cost: M, symmetric, `[S, S]`.
            upper_action_cost: N, symmetric, `[A, A]`.
            upper_cost: The leader's price of ||x||^2 in each step, not negative.
            start_std: Standard deviation of each entry of the first state, whose mean is zero; not
                negative.
            noise_std: Standard deviation of each entry of w, not negative.
            horizon: Steps that count for the leader, at least 1; None for all.
            state_limit: Where the entries of the state are clipped, positive; None for nowhere.
            **common: See `BilevelModel`: low, high, initial_upper_params, gamma (of both levels),
                temperature, name.
        """
        self._coefficients, self.coefficients_vjp = coefficients, coefficients_vjp
        super().__init__(**common)
        if self.entropy != "plain":
            raise ValueError(
                "`entropy` must be 'plain' where actions are unbounded, as no policy is uniform "
                f"over them, got {self.entropy!r}; episodes never end, so that it would only shift "
                "values"
            )
        self.upper_state_cost = _square("upper_state_cost", upper_state_cost, "[S, S]")
        self.upper_action_cost = _square("upper_action_cost", upper_action_cost, "[A, A]")
        self.upper_cost = check_not_negative("upper_cost", upper_cost)
        self.start_std = _deviation("start_std", start_std)
        self.noise_std = _deviation("noise_std", noise_std)
        self.horizon = check_horizon(horizon)
        self.state_limit = (
            None if state_limit is None else check_positive("state_limit", state_limit)
        )
        states, actions = len(self.upper_state_cost), len(self.upper_action_cost)
        self.num_states, self.num_actions = states, actions
        self.start_covariance = self.start_std**2 * np.eye(states)
        self.noise_covariance = self.noise_std**2 * np.eye(states)
        shapes = ((states, states), (states, actions), (states, states), (actions, actions))
        at_start = coefficients(self.initial_upper_params)
        for name, matrix, shape in zip(Coefficients._fields, at_start, shapes, strict=True):
            given = finite_array(f"coefficients(x).{name}", matrix, (None, None), "[N, M]")
            if given.shape != shape:
                raise ValueError(
                    f"`coefficients` must return `{name}` with shape {shape}, as "
                    f"`upper_state_cost` and `upper_action_cost` have it, got {given.shape}"
                )
            if name.endswith("cost") and not np.allclose(given, given.T, 1e-12, 0.0):
                raise ValueError(
                    f"`coefficients` must return a symmetric `{name}`, got {received(given)}"
                )

    def coefficients(self, upper_params: FloatArray) -> Coefficients:
        """Return A, B, Q and R at x, float64."""
        return Coefficients(*(np.asarray(m, np.float64) for m in self._coefficients(upper_params)))

    def reward(
        self, upper_params: FloatArray, states: FloatArray, actions: FloatArray
    ) -> FloatArray:
        """Return r_x(s, a), `[...]`, of states `[..., S]` and actions `[..., A]`."""
        problem = self.coefficients(upper_params)
        return -_quadratic(states, problem.state_cost) - _quadratic(actions, problem.action_cost)

    def upper_reward(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return the leader's reward without terms in x alone; shapes as in `reward`."""
        by_state = _quadratic(states, self.upper_state_cost)
        return -by_state - _quadratic(actions, self.upper_action_cost)

    @single_threaded
    def respond(
        self,
        upper_params: FloatArray,
        *,
        warm_start: GaussianResponse | None = None,
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> ExactGaussianResponse:
        """Return the exact answer to a validated x; see `BilevelModel.respond`.

        Args:
            upper_params: x.
            warm_start: An earlier response, at a nearby x.
            tolerance: Largest entry of the residual of the Riccati equation to reach, positive;
                None takes what rounding allows.
            max_iterations: Newton steps allowed.

        Raises:
            TypeError: If states are clipped.
            ValueError: If an option is out of range.
            ArithmeticError: If the follower's value at x is infinite.
        """
        if self.state_limit is not None:
            raise TypeError(
                "there is no exact answer with clipped states "
                f"(`state_limit` = {self.state_limit:g}): where they are clipped the dynamics are "
                "not linear; make it without, or take the follower's seat, LowerLevel(env, x)"
            )
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        check_at_least("max_iterations", max_iterations, 1)
        check_warm_start(warm_start, ExactGaussianResponse, "value_matrix", self.num_states)
        initial = None if warm_start is None else warm_start.value_matrix
        x, gamma, problem = upper_params, self.gamma, self.coefficients(upper_params)
        try:
            riccati = solve_riccati(
                problem,
                gamma,
                initial=initial,
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
        except ArithmeticError as error:
            raise ArithmeticError(f"no answer to `upper_params` = {x.tolist()}: {error}") from error
        gain, covariance = riccati.gain, policy_covariance(riccati, self.temperature)
        flow = follow(
            problem,
            gain,
            covariance,
            gamma,
            start=self.start_covariance,
            noise=self.noise_covariance,
            cost_of_state=self.upper_state_cost,
            cost_of_action=self.upper_action_cost,
            horizon=self.horizon,
        )
        actions = action_moments(flow, gain, covariance)
        cost = (self.upper_state_cost * flow.moments).sum()
        cost += (self.upper_action_cost * actions).sum()
        cost += self.upper_cost * flow.weight * (x * x).sum()
        direct = -2.0 * self.upper_cost * flow.weight * x
        direct -= self.coefficients_vjp(x, cost_gradient(problem, gain, covariance, flow))
        response = response_gradient(
            problem, riccati, gamma, self.temperature, flow, self.upper_action_cost
        )
        total = direct - self.coefficients_vjp(x, response)
        check_finite(-float(cost), total)
        constant = soft_value_constant(riccati, gamma, self.temperature, self.noise_covariance)
        return ExactGaussianResponse(
            upper_params=x,
            objective=-float(cost),
            hyper_gradient=total,
            direct_gradient=direct,
            lower_value=constant - float((riccati.value_matrix * self.start_covariance).sum()),
            residual=riccati.residual,
            iterations=riccati.iterations,
            converged=riccati.converged,
            gain=gain,
            covariance=covariance,
            value_matrix=riccati.value_matrix,
            state_moments=(1.0 - gamma) * flow.moments,
            action_moments=(1.0 - gamma) * actions,
        )

    def spread_over_time(
        self, response: GaussianResponse, steps: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return the standard deviations of states and of actions over time under an answer.

        Args:
            response: The follower's answer, a Gaussian policy.
            steps: T; shapes are `[T + 1, S]` and `[T + 1, A]`.
        """
        problem, gain = self.coefficients(response.upper_params), response.gain
        loop = problem.dynamics - problem.control @ gain
        added = problem.control @ response.covariance @ problem.control.T + self.noise_covariance
        moment, variances = self.start_covariance, []
        for _ in range(steps + 1):
            actions = gain @ moment @ gain.T + response.covariance
            variances.append(np.concatenate([np.diag(moment), np.diag(actions)]))
            moment = loop @ moment @ loop.T + added
        states, actions = np.split(np.sqrt(variances), [self.num_states], axis=1)
        return states, actions

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Protect x again: copies of arrays forget that they are read-only."""
        self.__dict__.update(state)
        self.initial_upper_params.flags.writeable = False


def _quadratic(vectors: FloatArray, matrix: FloatArray) -> FloatArray:
    """Return v^T matrix v of vectors `[..., N]`, `[...]`."""
    return (vectors @ matrix * vectors).sum(axis=-1)


def _square(name: str, values: ArrayLike, letters: str) -> FloatArray:
    """Return a square matrix of finite numbers."""
    matrix = finite_array(name, values, (None, None), letters)
    if len(set(matrix.shape)) != 1 or not matrix.size:
        raise ValueError(f"`{name}` must have shape {letters}, got {matrix.shape}")
    return matrix


def _deviation(name: str, value: float) -> float:
    """Return a standard deviation whose square does not overflow."""
    return check_between(name, check_not_negative(name, value), 0.0, LARGEST_STD)
