"""Games with linear dynamics and quadratic costs, whose follower can be answered for exactly.

States and actions are vectors. `LinearQuadraticEnv` adds the model to the game: the matrices of the
follower's problem and their vector-Jacobian products, and with them the exact response. A task is
a subclass that supplies matrices.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from ..core.checks import (
    check_at_least,
    check_in_box,
    check_not_negative,
    check_positive,
    unknown_name,
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
from ..methods import METHODS
from ..model.responses import ExactGaussianResponse, GaussianResponse, Response
from .base import BestKnown, BilevelEnv, View, shown

if TYPE_CHECKING:
    from ..rendering.picture_charts import Chart
    from ..rendering.strokes import LineStyle

__all__ = [
    "EpisodeView",
    "LinearQuadraticEnv",
    "line_style",
    "root_mean_squares",
    "shown_gradient",
    "spread_over_time",
    "time_charts",
]

# Steps of the follower's episode that a picture can look back on.
REMEMBERED = 100
# Steps that a picture shows, in units of 1 / (1 - gamma): after two, 14 % of the weight is left.
SHOWN_HORIZONS = 2.0


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeView(View):
    """What the follower's seat wants to be seen of a game with vectors for states.

    Attributes:
        first_step: When the first of the states was entered.
        states: The last states of the episode, the present one at the end, `[T + 1, S]`; empty
            where no episode is played.
        actions: The actions between them, `[T, A]`.
    """

    first_step: int = 0
    states: FloatArray
    actions: FloatArray


class LinearQuadraticEnv(BilevelEnv):
    """A game with linear dynamics, quadratic costs and Gaussian noise.

    The follower's state moves as s' = A(x) s + B(x) a + w, its reward is
    -(s^T Q(x) s + a^T R(x) a), discounted by `gamma`, with `temperature` times the differential
    entropy of its policy. Its soft-optimal policy is Gaussian, its soft value quadratic (see
    `bilevel_gym.core.lqr`). The leader maximises

        F(x) = -E[ sum_t gamma^t (s_t^T M s_t + a_t^T N a_t + upper_cost ||x||^2) ]

    over the first `horizon` steps, or all of them. A task supplies `coefficients`, that is
    (A, B, Q, R) at x, with their vector-Jacobian products.

    Observation: the state, an unbounded float64 `Box`. Action: a `Box(-action_limit, action_limit)`
    with room for what the soft-optimal policy draws; that policy is not clipped, so the limit
    should be many of its standard deviations away, and a larger action is refused.

    The leader observes how much the follower moves: the root of the discounted mean square,
    (1 - gamma) E[sum_t gamma^t s_i^2] and likewise a_j^2, of each state and each action,
    `Box(0, inf, [S + A])`.

    With `state_limit` the simulator clips the state, which is another game, without an exact
    answer: `evaluate` refuses.

    Attributes:
        best_known: Best x known for this very instance, None if none is recorded.
        upper_state_cost: M, `[S, S]`.
        upper_action_cost: N, `[A, A]`.
        upper_cost: The leader's price of ||x||^2 in each step.
        horizon: Steps that count for the leader, None for all.
        state_limit: Where the simulator clips the entries of the state, None where it does not.
    """

    best_known: BestKnown | None = None

    # The others need a table.
    methods = {name: METHODS[name] for name in ("exact", "direct", "zero-order")}

    def __init__(
        self,
        *,
        upper_state_cost: ArrayLike,
        upper_action_cost: ArrayLike,
        upper_cost: float,
        upper_space: spaces.Box,
        initial_upper_params: ArrayLike,
        gamma: float,
        temperature: float,
        start_std: float,
        noise_std: float,
        action_limit: float,
        horizon: int | None = None,
        state_limit: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Set up the game.

        Args:
            upper_state_cost: M, symmetric, `[S, S]`.
            upper_action_cost: N, symmetric, `[A, A]`.
            upper_cost: The leader's price of ||x||^2 in each step, not negative.
            upper_space: Finite `Box` of x.
            initial_upper_params: x at the start, in the box.
            gamma: Discount of both levels, in [0, 1).
            temperature: The weight of the policy's entropy, positive.
            start_std: Standard deviation of each entry of the first state, not negative.
            noise_std: And of what is added to each entry in each step, not negative.
            action_limit: Largest magnitude of an action, positive.
            horizon: Steps that count for the leader, at least 1; None for all.
            state_limit: Where the simulator clips the state, positive; None for the exact game.
            render_mode: None, "human" or "rgb_array".

        Raises:
            ValueError: If a shape or a range is violated.
        """
        self.upper_state_cost = np.array(upper_state_cost, dtype=np.float64)
        self.upper_action_cost = np.array(upper_action_cost, dtype=np.float64)
        num_states, num_actions = len(self.upper_state_cost), len(self.upper_action_cost)
        limit = check_positive("action_limit", action_limit)
        if state_limit is not None:
            state_limit = check_positive("state_limit", state_limit)
        check_horizon(horizon)
        super().__init__(
            upper_space=upper_space,
            lower_space=spaces.Box(-limit, limit, (num_actions,), np.float32),
            observation_space=spaces.Box(
                *((-np.inf, np.inf) if state_limit is None else (-state_limit, state_limit)),
                (num_states,),
                np.float64,
            ),
            leader_observation_space=spaces.Box(
                0.0, np.inf, (num_states + num_actions,), np.float32
            ),
            gamma=gamma,
            temperature=temperature,
            initial_upper_params=initial_upper_params,
            render_mode=render_mode,
        )
        self.upper_cost = check_not_negative("upper_cost", upper_cost)
        self._start_std = check_not_negative("start_std", start_std)
        self._noise_std = check_not_negative("noise_std", noise_std)
        self.horizon = None if horizon is None else int(horizon)
        self.state_limit = state_limit
        self._upper_params = self.initial_upper_params
        self._state: FloatArray | None = None
        self._states: deque[FloatArray] = deque(maxlen=REMEMBERED + 1)
        self._actions: deque[FloatArray] = deque(maxlen=REMEMBERED)
        self._lower_return, self._upper_return = 0.0, 0.0
        # Made for the x in force when they are first needed.
        self._problem: Coefficients | None = None
        self._answer: ExactGaussianResponse | None = None

    @property
    def num_states(self) -> int:
        """Number of entries of the state, S."""
        return len(self.upper_state_cost)

    @property
    def num_actions(self) -> int:
        """Number of entries of an action, A."""
        return len(self.upper_action_cost)

    # The model -----------------------------------------------------------------------------

    @abstractmethod
    def coefficients(self, upper_params: FloatArray) -> Coefficients:
        """Return A `[S, S]`, B `[S, A]`, Q `[S, S]` and R `[A, A]` at x."""

    @abstractmethod
    def coefficients_vjp(self, upper_params: FloatArray, cotangent: Coefficients) -> FloatArray:
        """Return the sum of cotangent * d/dx over all entries of A, B, Q and R, shape of x."""

    @property
    def start_covariance(self) -> FloatArray:
        """E[s_0 s_0^T], `[S, S]`; the mean is zero."""
        return self._start_std**2 * np.eye(self.num_states)

    @property
    def noise_covariance(self) -> FloatArray:
        """Covariance of the noise, `[S, S]`."""
        return self._noise_std**2 * np.eye(self.num_states)

    def reward(
        self, upper_params: FloatArray, states: FloatArray, actions: FloatArray
    ) -> FloatArray:
        """Return r_x(s, a) of many states and actions.

        Args:
            upper_params: x.
            states: `[..., S]`.
            actions: `[..., A]`.

        Returns:
            Rewards `[...]`.
        """
        problem = self.coefficients(upper_params)
        return -_quadratic(states, problem.state_cost) - _quadratic(actions, problem.action_cost)

    def upper_reward(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return the leader's reward without terms in x alone; shapes as in `reward`."""
        by_state = _quadratic(states, self.upper_state_cost)
        return -by_state - _quadratic(actions, self.upper_action_cost)

    @single_threaded
    def evaluate(
        self,
        upper_params: ArrayLike,
        *,
        warm_start: GaussianResponse | None = None,
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> ExactGaussianResponse:
        """Return the exact objective, hyper-gradient and follower's answer at x.

        This is the referee: it scores any method, whatever the method itself sees.

        Args:
            upper_params: x, shape of `upper_space`.
            warm_start: An earlier response, at a nearby x, to start the solve from.
            tolerance: Largest entry of the residual of the Riccati equation to reach, positive;
                None takes what rounding allows.
            max_iterations: Newton steps allowed.

        Raises:
            TypeError: If the simulator clips the state: that game has no exact answer.
            ValueError: If x or an option is out of range.
            ArithmeticError: If the follower's value at x is infinite.
        """
        x = self.validate_upper_params(upper_params)
        if self.state_limit is not None:
            raise TypeError(
                f"{type(self).__name__} has no exact answer with clipped states "
                f"(`state_limit` = {self.state_limit:g}): where they are clipped the dynamics are "
                "not linear; make it without, or take the follower's seat, LowerLevel(env, x)"
            )
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        check_at_least("max_iterations", max_iterations, 1)
        problem, gamma, temperature = self.coefficients(x), self.gamma, self.temperature
        try:
            riccati = solve_riccati(
                problem,
                gamma,
                initial=None if warm_start is None else self._checked_start(warm_start),
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
        except ArithmeticError as error:
            raise ArithmeticError(f"no answer to `upper_params` = {x.tolist()}: {error}") from error
        covariance = policy_covariance(riccati, temperature)
        flow = follow(
            problem,
            riccati.gain,
            covariance,
            gamma,
            start=self.start_covariance,
            noise=self.noise_covariance,
            cost_of_state=self.upper_state_cost,
            cost_of_action=self.upper_action_cost,
            horizon=self.horizon,
        )
        actions = action_moments(flow, riccati.gain, covariance)
        cost = (self.upper_state_cost * flow.moments).sum()
        cost += (self.upper_action_cost * actions).sum()
        cost += self.upper_cost * flow.weight * (x * x).sum()
        by_dynamics, by_control = cost_gradient(problem, riccati.gain, covariance, flow)
        direct = -2.0 * self.upper_cost * flow.weight * x - self.coefficients_vjp(
            x,
            Coefficients(
                by_dynamics,
                by_control,
                np.zeros_like(problem.state_cost),
                np.zeros_like(problem.action_cost),
            ),
        )
        response = response_gradient(
            problem, riccati, gamma, temperature, flow, self.upper_action_cost
        )
        constant = soft_value_constant(riccati, gamma, temperature, self.noise_covariance)
        return ExactGaussianResponse(
            upper_params=x,
            objective=-float(cost),
            hyper_gradient=direct - self.coefficients_vjp(x, response),
            direct_gradient=direct,
            lower_value=constant - float((riccati.value_matrix * self.start_covariance).sum()),
            residual=riccati.residual,
            iterations=riccati.iterations,
            converged=riccati.converged,
            gain=riccati.gain,
            covariance=covariance,
            value_matrix=riccati.value_matrix,
            state_moments=(1.0 - gamma) * flow.moments,
            action_moments=(1.0 - gamma) * actions,
        )

    def _checked_start(self, warm_start: GaussianResponse) -> FloatArray:
        """Return the P of an earlier response."""
        value = warm_start.value_matrix
        if value.shape != self.upper_state_cost.shape:
            raise ValueError(
                f"`warm_start` must be a response of a game with {self.num_states} states, got "
                f"one with {len(value)}"
            )
        return value

    def observe(self, response: Response) -> NDArray[np.float32]:
        """Return the root mean square of each state and each action, float32 `[S + A]`.

        Raises:
            TypeError: If the response has no such moments.
        """
        if not isinstance(response, GaussianResponse):
            raise TypeError(f"`response` must be a GaussianResponse, got {type(response).__name__}")
        return root_mean_squares(response).astype(np.float32)

    # The follower's episode ----------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode of the follower.

        Args:
            seed: Seed of everything random that follows.
            options: `{"upper_params": x}` puts the leader at x instead of `initial_upper_params`.

        Returns:
            The first state `[S]`, and an empty info.

        Raises:
            ValueError: If an option is unknown or x is out of range; the game is left as it was.
        """
        options = options or {}
        for option in options:
            if option != "upper_params":
                raise ValueError(unknown_name("reset option", option, ["upper_params"]))
        start = options.get("upper_params", self.initial_upper_params)
        if start is not self._upper_params:
            start = self.validate_upper_params(start)
        super().reset(seed=seed)  # may refuse the seed, hence nothing has changed so far
        self._enter(start)
        state = self._clipped(self._start_std * self.np_random.standard_normal(self.num_states))
        self._state = state
        self._states.clear()
        self._actions.clear()
        self._states.append(state)
        self.elapsed_steps, self._lower_return, self._upper_return = 0, 0.0, 0.0
        if self.render_mode == "human" and self.draws_itself:
            self.render()
        return state.copy(), {}

    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x; see `BilevelEnv.advance`.

        Raises:
            OverflowError: If a reward is beyond the largest number, as it may be where an unstable
                system is left alone for thousands of steps; the game is left as it was.
        """
        if self._state is None:
            raise ResetNeeded(
                "`step` needs an episode under way, got a game before its first `reset`; call "
                "`reset` first"
            )
        space = self.lower_space
        assert isinstance(space, spaces.Box)
        move = check_in_box("action", action, space.low, space.high)
        x = self.commit(upper_params)
        if self._problem is None:
            self._problem = self.coefficients(x)
        dynamics, control, state_cost, action_cost = self._problem
        state = self._state
        with np.errstate(over="ignore", invalid="ignore"):
            reward = -float(state @ state_cost @ state + move @ action_cost @ move)
            upper_reward = float(self.upper_reward(state, move))
        if not np.isfinite(reward + upper_reward):
            raise OverflowError(
                f"the state has grown beyond what rewards can be computed for, got {state}; "
                "call `reset`"
            )
        noise = self._noise_std * self.np_random.standard_normal(self.num_states)
        self._state = self._clipped(dynamics @ state + control @ move + noise)
        self._states.append(self._state)
        self._actions.append(move)
        self.elapsed_steps += 1
        self._lower_return += reward
        self._upper_return += upper_reward
        if self.render_mode == "human" and self.draws_itself:
            self.render()
        return self._state.copy(), reward, False, False, {"upper_reward": upper_reward}

    def commit(self, upper_params: ArrayLike) -> FloatArray:
        """Make x the one in force, with its matrices; see `BilevelEnv.commit`."""
        if upper_params is not self._upper_params:
            self._enter(self.validate_upper_params(upper_params))
        return self._upper_params

    def view(self) -> View:
        """Return the follower's episode, and the exact answer to the leader's x if there is one."""
        if self._answer is None and self.state_limit is None:
            self._answer = self.evaluate(self._upper_params)
        status: tuple[tuple[str, str], ...] = ()
        if self._answer is not None:
            status += (
                ("objective", shown(self._answer.objective)),
                ("lower value", shown(self._answer.lower_value)),
            )
        if self._state is not None:
            status += (
                ("step", str(self.elapsed_steps)),
                ("return", shown(self._lower_return)),
                ("leader's return", shown(self._upper_return)),
            )
        return EpisodeView(
            title=f"{self.title}: the follower acts",
            upper_params=self._upper_params,
            response=self._answer,
            status=status,
            first_step=self.elapsed_steps - len(self._actions),
            states=np.array(self._states).reshape(-1, self.num_states),
            actions=np.array(self._actions).reshape(-1, self.num_actions),
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Protect x again: copies of arrays forget that they are read-only."""
        self.__dict__.update(state)
        for x in (self.initial_upper_params, self._upper_params):
            x.flags.writeable = False

    def _enter(self, x: FloatArray) -> None:
        """Make a validated x the one in force; what was made for an equal x is kept."""
        if not np.array_equal(x, self._upper_params):
            self._upper_params = x
            self._problem, self._answer = None, None

    def _clipped(self, state: FloatArray) -> FloatArray:
        if self.state_limit is None:
            return state
        return np.clip(state, -self.state_limit, self.state_limit)


def root_mean_squares(response: GaussianResponse) -> FloatArray:
    """Return the discounted root mean square of each state and each action, `[S + A]`."""
    squares = (np.diag(response.state_moments), np.diag(response.action_moments))
    return np.sqrt(np.concatenate(squares).clip(0.0))


def spread_over_time(
    game: LinearQuadraticEnv, response: GaussianResponse, steps: int
) -> tuple[FloatArray, FloatArray]:
    """Return the standard deviations of states and actions over time under a Gaussian policy.

    Args:
        game: The game of the response.
        response: The follower's answer.
        steps: T.

    Returns:
        Of the states, `[T + 1, S]`, and of the actions `[T + 1, A]`.
    """
    problem = game.coefficients(response.upper_params)
    loop = problem.dynamics - problem.control @ response.gain
    added = problem.control @ response.covariance @ problem.control.T + game.noise_covariance
    moment, states, actions = game.start_covariance, [], []
    for _ in range(steps + 1):
        states.append(np.sqrt(np.diag(moment)))
        actions.append(
            np.sqrt(np.diag(response.gain @ moment @ response.gain.T + response.covariance))
        )
        moment = loop @ moment @ loop.T + added
    return np.array(states), np.array(actions)


def time_charts(
    game: LinearQuadraticEnv, view: View, state_label: str, action_label: str
) -> tuple[Chart, Chart]:
    """Return charts of states and actions over time.

    They show the episode where one is played, and what spread of states and actions the follower's
    answer leads to where none is.

    Args:
        game: The game shown.
        view: What is shown of it.
        state_label: What the states are.
        action_label: What the actions are.
    """
    from ..rendering.picture_charts import Axis, Chart, Series, nice_limit

    length = min(REMEMBERED, max(1, round(SHOWN_HORIZONS / (1.0 - game.gamma))))
    first, low = 0, 0.0
    states, actions = np.zeros((0, game.num_states)), np.zeros((0, game.num_actions))
    if isinstance(view, EpisodeView):
        states, actions = view.states[-length - 1 :], view.actions[-length:]
        first, low = view.first_step + len(view.actions) - len(actions), -1.0
    elif isinstance(view.response, GaussianResponse):
        states, actions = spread_over_time(game, view.response, length)
        state_label = f"{state_label}, standard deviation over time"
        action_label = f"{action_label}, standard deviation over time"
    charts = []
    for values, label in ((states, state_label), (actions, action_label)):
        limit = nice_limit(float(np.abs(values).max(initial=0.0)))
        times = np.arange(first, first + len(values), dtype=np.float64)
        charts.append(
            Chart(
                x_axis=Axis(float(first), float(first + length), "step of the follower"),
                y_axis=Axis(low * limit, limit, label),
                series=tuple(
                    Series(times, column, line_style(i)) for i, column in enumerate(values.T)
                )
                if len(values)
                else (),
            )
        )
    return charts[0], charts[1]


def shown_gradient(view: View) -> FloatArray | None:
    """Return the hyper-gradient, entries that are written as zero being zero, so without a sign."""
    from ..rendering.picture_charts import SMALLEST

    if view.response is None or view.response.hyper_gradient is None:
        return None
    gradient = view.response.hyper_gradient
    return np.where(np.abs(gradient) < SMALLEST, 0.0, gradient)


def line_style(number: int) -> LineStyle:
    """Return how the line of an entry is drawn; after four entries colours come again."""
    from ..rendering.canvas import THEME
    from ..rendering.strokes import LineStyle

    dashes = (None, (9.0, 5.0), (2.0, 4.0), (12.0, 3.0))
    colour = THEME.curves[number % len(THEME.curves)]
    return LineStyle(colour, dashes[(number + number // len(THEME.curves)) % len(dashes)])


def check_horizon(horizon: object) -> None:
    """Raise a `ValueError` unless steps can be counted up to it, or all of them count."""
    if horizon is None:
        return
    if isinstance(horizon, bool) or not isinstance(horizon, Integral) or int(horizon) < 1:
        raise ValueError(f"`horizon` must be None or an integer of at least 1, got {horizon!r}")


def _quadratic(vectors: FloatArray, matrix: FloatArray) -> FloatArray:
    """Return v^T matrix v of vectors `[..., N]`, `[...]`."""
    product: FloatArray = (vectors @ matrix * vectors).sum(axis=-1)
    return product
