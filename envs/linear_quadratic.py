"""Games with linear dynamics and quadratic costs: the episode, the spaces and charts over time.

States and actions are vectors. The mathematics is `bilevel_gym.model.LinearQuadraticModel`, which
a `LinearQuadraticEnv` has; the tasks are in `lqr` and `thermal`.
"""

from __future__ import annotations

import copy
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_between, check_in_box, check_positive
from ..core.lqr import Coefficients
from ..core.mdp import FloatArray
from ..methods import METHODS
from ..model.base import evaluate
from ..model.linear_quadratic import LinearQuadraticModel
from ..model.responses import ExactGaussianResponse, GaussianResponse, Response
from ..rendering.picture_charts import Axis, Chart, Series, nice_limit
from ..rendering.strokes import line_style
from .base import BilevelEnv, View, upper_box

__all__ = ["EpisodeView", "LinearQuadraticEnv", "root_mean_squares"]

# Steps of the follower's episode that a picture can look back on.
REMEMBERED = 100
# Steps that a picture shows, in units of 1 / (1 - gamma): after two, 14 % of the weight is left.
SHOWN_HORIZONS = 2.0
# The scales of an episode end at so many standard deviations, those of charts at these digits.
PLAYED_DEVIATIONS = 2.0
LEADS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeView(View):
    """What the follower's seat shows of a game with vectors for states.

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

    `LinearQuadraticEnv(model)` makes a game of a model. A task is a subclass that builds its model
    from two methods of its own, `coefficients` and `coefficients_vjp`.

    Observation: the state, an unbounded float64 `Box` (or the model's `state_limit`). Action: a
    `Box(-action_limit, action_limit)` with room for what the soft-optimal policy draws; that policy
    is not clipped, so the limit should be many of its standard deviations away, and a larger action
    is refused.

    The leader observes how much the follower moves: the root of the discounted mean square,
    (1 - gamma) E[sum_t gamma^t s_i^2] and likewise a_j^2, of each state and each action,
    `Box(0, inf, [S + A])`.

    Attributes:
        model: The bilevel problem as mathematics.
    """

    kind = "a game whose states and actions are continuous"
    methods = {name: METHODS[name] for name in ("exact", "direct", "zero-order", "annealed")}

    def __init__(
        self,
        model: LinearQuadraticModel,
        *,
        action_limit: float = 100.0,
        render_mode: str | None = None,
    ) -> None:
        """Make a game of a model.

        Args:
            model: The bilevel problem.
            action_limit: Largest magnitude of an action, positive.
            render_mode: None, "human" or "rgb_array".

        Raises:
            ValueError: If an argument is out of range.
        """
        self.model = model
        num_states, num_actions = model.num_states, model.num_actions
        limit = check_positive("action_limit", action_limit)
        check_between("action_limit", limit, 0.0, float(np.finfo(np.float32).max))
        reach = self._reach = np.inf if model.state_limit is None else model.state_limit
        super().__init__(
            upper_space=upper_box(model.low, model.high, model.low.shape),
            lower_space=spaces.Box(-limit, limit, (num_actions,), np.float32),
            observation_space=spaces.Box(-reach, reach, (num_states,), np.float64),
            leader_observation_space=spaces.Box(
                0.0, np.inf, (num_states + num_actions,), np.float32
            ),
            gamma=model.gamma,
            temperature=model.temperature,
            initial_upper_params=model.initial_upper_params,
            render_mode=render_mode,
        )
        self._state = np.zeros(num_states)
        self._states: deque[FloatArray] = deque(maxlen=REMEMBERED + 1)
        self._actions: deque[FloatArray] = deque(maxlen=REMEMBERED)
        # Made for the x in force when it is first needed.
        self._problem: Coefficients | None = None

    def evaluate(self, upper_params: ArrayLike, **options: Any) -> ExactGaussianResponse:
        """Return the exact answer to x; `LinearQuadraticModel.respond` has the options."""
        return evaluate(self.model, upper_params, **options)

    def observe(self, response: Response) -> NDArray[np.float32]:
        """Return the root mean square of each state and each action, float32 `[S + A]`.

        Raises:
            TypeError: If the response has no such moments.
        """
        if not isinstance(response, GaussianResponse):
            raise TypeError(
                "`response` must be a GaussianResponse, as `bilevel_gym.model.evaluate` returns "
                f"one, got {type(response).__name__}"
            )
        return root_mean_squares(response).astype(np.float32)

    def begin(self) -> tuple[FloatArray, dict[str, Any]]:
        """Draw the first state, `[S]`; the info is empty."""
        drawn = self.np_random.standard_normal(self.model.num_states)
        self._state = np.clip(self.model.start_std * drawn, -self._reach, self._reach)
        self._over = False  # as it never is from now on
        self._states.clear()
        self._actions.clear()
        self._states.append(self._state)
        return self._state.copy(), {}

    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x; see `BilevelEnv.advance`.

        Raises:
            OverflowError: If a reward is beyond the largest number, as it may be where an unstable
                system runs without control for thousands of steps; the game is left as it was.
        """
        self._check_under_way()
        space = self.lower_space
        assert isinstance(space, spaces.Box)
        move = check_in_box("action", action, space.low, space.high)
        x = self.commit(upper_params)
        if self._problem is None:
            self._problem = self.model.coefficients(x)
        dynamics, control, state_cost, action_cost = self._problem
        state = self._state
        with np.errstate(over="ignore", invalid="ignore"):
            reward = -float(state @ state_cost @ state + move @ action_cost @ move)
            upper_reward = float(self.model.upper_reward(state, move))
        if not np.isfinite(reward + upper_reward):
            raise OverflowError(
                f"the state has grown beyond what rewards can be computed for, got {state}; "
                "call `reset`"
            )
        noise = self.model.noise_std * self.np_random.standard_normal(len(state))
        moved = dynamics @ state + control @ move + noise
        self._state = np.clip(moved, -self._reach, self._reach)
        self._states.append(self._state)
        self._actions.append(move)
        self._count(reward, upper_reward)
        info = {"upper_reward": np.float64(upper_reward)}
        return self._state.copy(), reward, False, False, info

    def view(self) -> View:
        """Return the follower's episode, and the exact answer to the leader's x if there is one."""
        if self._answer is None and self.model.state_limit is None:
            self._answer = self.evaluate(self._upper_params)
        return EpisodeView(
            title=self.headline("follower"),
            upper_params=self._upper_params,
            response=self._answer,
            status=self._status(not self._over),
            first_step=self.elapsed_steps - len(self._actions),
            states=np.array(self._states).reshape(-1, self.model.num_states),
            actions=np.array(self._actions).reshape(-1, self.model.num_actions),
        )

    def time_charts(self, view: View, state_label: str, action_label: str) -> list[Chart]:
        """Return charts of states and actions over time.

        They show the episode where one is played; else the standard deviations of states and
        actions under the follower's answer. Their scales are the same at every x and throughout
        an episode; what is beyond their ends is drawn there.

        Args:
            view: What is shown of the game.
            state_label: What the states are.
            action_label: What the actions are.
        """
        model, labels, length = self.model, [state_label, action_label], self._shown_steps
        values = [np.zeros((0, model.num_states)), np.zeros((0, model.num_actions))]
        first, played = 0, isinstance(view, EpisodeView)
        if isinstance(view, EpisodeView):
            values = [view.states[-length - 1 :], view.actions[-length:]]
            first = view.first_step + len(view.actions) - len(values[1])
        elif isinstance(view.response, GaussianResponse):
            values = [*model.spread_over_time(view.response, length)]
            labels = [f"{label}, standard deviation over time" for label in labels]
        time_axis = Axis(float(first), float(first + length), "step of the follower")
        charts = []
        for rows, label, spreads in zip(values, labels, self._spreads, strict=True):
            widest = PLAYED_DEVIATIONS * max(spreads[:2]) if played else max(spreads)
            limit = nice_limit(widest, LEADS)
            times = np.arange(first, first + len(rows), dtype=np.float64)
            lines = [Series(times, y, line_style(i)) for i, y in enumerate(rows.T) if len(rows)]
            axis = Axis(-limit if played else 0.0, limit, label)
            charts.append(Chart(time_axis, axis, tuple(lines)))
        return charts

    @property
    def _shown_steps(self) -> int:
        return min(REMEMBERED, max(1, round(SHOWN_HORIZONS / (1.0 - self.model.gamma))))

    @cached_property
    def _spreads(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Largest standard deviations of a state, and of an action, at some x.

        They are those at the first x, at the best one known, and at the ends of the box.
        """
        model = copy.copy(self.model)
        model.state_limit = None  # without it there is an exact answer
        start, best = model.initial_upper_params, self.best_known
        ends = (start, start if best is None else best.upper_params, model.low, model.high)
        states, actions = zip(*(self._largest(model, x) for x in ends), strict=True)
        return states, actions

    def _largest(self, model: LinearQuadraticModel, x: FloatArray) -> tuple[float, float]:
        """Return the largest standard deviations at an x, zero where they are not known."""
        with suppress(ArithmeticError, ValueError, np.linalg.LinAlgError):
            states, actions = model.spread_over_time(evaluate(model, x), self._shown_steps)
            if np.isfinite(states).all() and np.isfinite(actions).all():
                return float(states.max()), float(actions.max())
        return 0.0, 0.0

    def _forget(self) -> None:
        self._problem = None


def root_mean_squares(response: GaussianResponse) -> FloatArray:
    """Return the discounted root mean square of each state and each action, `[S + A]`."""
    squares = (np.diag(response.state_moments), np.diag(response.action_moments))
    return np.sqrt(np.concatenate(squares).clip(0.0))
