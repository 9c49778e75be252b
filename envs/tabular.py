"""Games with finitely many states and actions, whose follower's answer is known exactly.

A `TabularBilevelEnv` has a model, `bilevel_gym.model.TabularModel`, and adds the follower's
episode, the spaces and the picture.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self, TypedDict, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..core.checks import received
from ..core.mdp import FloatArray, Kernel
from ..episodes.transitions import TransitionArrays, TransitionTables
from ..model import (
    TabularModel,
    Unregularised,
    evaluate,
    evaluate_batch,
    evaluate_unregularised,
)
from ..model.base import single_precision_bounds
from ..model.objectives import (
    DiscountedReturn,
    LinearCost,
    LogLikelihood,
    Objective,
    PolicyCost,
    QuadraticCost,
    TruncatedReturn,
    flattened,
)
from ..model.responses import ExactResponse, Response, TabularResponse
from ..model.tabular import ArrayOptions
from ..rendering.canvas import pygame
from ..rendering.picture_charts import nice_limit
from ..rendering.table import LEADS, TableScene, draw_table
from .base import BilevelEnv, View, check_upper_space

__all__ = ["TabularBilevelEnv"]

# Uniform numbers drawn at a time: one call for each would take longer than the rest of a step.
DRAWN_AHEAD = 1024

# A notebook that shows a game solves it for that, up to so many states.
SOLVED_TO_SHOW = 10_000

# What a task may define of its model.
HOOKS = (
    "reward",
    "reward_vjp",
    "upper_reward",
    "upper_reward_vjp",
    "kernel",
    "kernel_vjp",
    "log_kernel_vjp",
    "start_distribution",
    "start_distribution_vjp",
    "log_start_vjp",
)


class TaskModel(TabularModel):
    """The model that a task describes by methods of its own."""

    def __init__(
        self, task: TabularBilevelEnv, *, upper_reward: FloatArray | None = None, **parts: Any
    ) -> None:
        """Bind the methods of a task, or the leader's reward `[S, A]` where it has none for it."""
        super().__init__(name=type(task).__name__, **parts)
        self._upper_reward = upper_reward
        if upper_reward is not None:
            upper_reward.flags.writeable = False  # it is handed out
        for hook in HOOKS:
            if _defines(type(task), hook):
                setattr(self, hook, getattr(task, hook))
        self.moves_upper_reward = "upper_reward_vjp" in vars(self)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward, `[S, A]`."""
        known = self._upper_reward
        return super().upper_reward(upper_params) if known is None else known


# What terms of an objective want, in words.
AIMS: dict[type, str] = {
    DiscountedReturn: "a high discounted return",
    TruncatedReturn: "a high return up to its horizon",
    LogLikelihood: "a policy under which recorded actions are likely",
    PolicyCost: "a policy that is spread out",
    LinearCost: "a small x",
    QuadraticCost: "a small x",
}


class TaskParts(TypedDict, total=False):
    """What a task gives of its model; see `TabularModel` and `TaskModel`."""

    kernel: Kernel
    initial_distribution: ArrayLike
    objective: Objective
    upper_reward: FloatArray
    initial_upper_params: ArrayLike
    gamma: float
    temperature: float
    entropy: str
    action_mask: ArrayLike | None


class TabularBilevelEnv(BilevelEnv):
    """A game with finitely many states and actions, and a model that is known exactly.

    It is made of a model, or it is a task: a subclass that supplies `reward` and `upper_reward`
    with their vector-Jacobian products, and `kernel` and `start_distribution` with theirs where x
    moves them.

    Observation: the follower's state, `Discrete(S)`. The leader observes the discounted state
    occupancy times (1 - gamma), `Box(0, 1, [S])`.

    Attributes:
        model: The bilevel problem.
        num_states: S.
        num_actions: A.
        initial_distribution: Distribution of the first state `[S]` (at the initial x, where x
            moves it).
        action_mask: Which actions exist, bool `[S, A]`; None when all do.
    """

    model: TabularModel

    def __init__(
        self,
        model: TabularModel | None = None,
        *,
        upper_space: spaces.Box | None = None,
        render_mode: str | None = None,
        **parts: Unpack[TaskParts],
    ) -> None:
        """Set up the game.

        Args:
            model: The bilevel problem; a task gives its parts, which follow, instead.
            upper_space: Finite `Box` of x.
            render_mode: None, "human" or "rgb_array".
            **parts: Arguments of `TabularModel`, but for the bounds of x and the name; and
                `upper_reward`, the leader's reward `[S, A]`, where x does not move it. By default
                the objective is the discounted return, and x starts at the point nearest 0.

        Raises:
            TypeError: If there is neither a model nor all of its parts, or both.
            ValueError: If a shape or a range is violated.
        """
        if model is None:
            if upper_space is None:
                raise TypeError("a task must give its model's parts, got no `upper_space`")
            check_upper_space(upper_space)
            low, high = upper_space.low, upper_space.high
            parts.setdefault("objective", DiscountedReturn())
            parts.setdefault("initial_upper_params", np.zeros(low.shape).clip(low, high))
            model = TaskModel(self, low=low, high=high, **parts)
        else:
            given = [*parts, *(["upper_space"] if upper_space is not None else [])]
            if not isinstance(model, TabularModel) or given:
                raise TypeError(
                    "a game is made of one TabularModel, or of the parts of one, got "
                    f"{type(model).__name__} and {given}"
                )
            own = [name for name in HOOKS if _defines(type(self), name)]
            if own:
                raise TypeError(
                    f"a game made of a model takes {own} from it, got {type(self).__name__}, which "
                    "defines them itself; define them in a subclass of the model"
                )
            upper_space = spaces.Box(
                *single_precision_bounds(model.low, model.high, model.low.shape), dtype=np.float32
            )
        self.num_states, self.num_actions = model.num_states, model.num_actions
        super().__init__(
            upper_space=upper_space,
            lower_space=spaces.Discrete(self.num_actions),
            observation_space=spaces.Discrete(self.num_states),
            leader_observation_space=spaces.Box(0.0, 1.0, (self.num_states,), np.float32),
            gamma=model.gamma,
            temperature=model.temperature,
            initial_upper_params=model.initial_upper_params,
            render_mode=render_mode,
        )
        self.model = model
        self.action_mask = model.action_mask
        self.initial_distribution = model.initial_distribution
        self._state: int | None = None
        # Uniform numbers drawn ahead, the next one last, and the generator they came from.
        self._uniforms: list[float] = []
        self._drawn_from: np.random.Generator | None = None
        # Made for the x in force when they are first needed.
        self._start_cumulative: FloatArray | None = None
        self._tables: TransitionTables | None = None

    @classmethod
    def from_arrays(
        cls, transition: ArrayLike | Kernel, reward: ArrayLike, **options: Unpack[ArrayOptions]
    ) -> Self:
        """Return a game of arrays; see `bilevel_gym.model.ArrayModel` for the arguments."""
        return cls(TabularModel.from_arrays(transition, reward, **options))

    @property
    def objective(self) -> Objective:
        """How the leader evaluates a policy."""
        return self.model.objective

    @objective.setter
    def objective(self, objective: Objective) -> None:
        self.model.objective = objective

    # The model -----------------------------------------------------------------------------
    #
    # What a task does not define, the class of its model does: the model of a task has the task's
    # own methods in their place.

    def kernel(self, upper_params: FloatArray) -> Kernel:
        """Return the kernel at x; see `TabularModel.kernel`."""
        return type(self.model).kernel(self.model, upper_params)

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, shape of x; see `TabularModel.kernel_vjp`."""
        return type(self.model).kernel_vjp(self.model, upper_params, cotangent)

    def log_kernel_vjp(self, upper_params: FloatArray, *seen: Any) -> FloatArray:
        """Return sum_b cotangent(b) d log P(s'_b|s_b, a_b)/dx, shape of x.

        `seen` is states, actions, next_states, ended and cotangent, `[B]` each; see
        `TabularModel.log_kernel_vjp`.
        """
        return type(self.model).log_kernel_vjp(self.model, upper_params, *seen)

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        """Return the distribution of the first state at x, `[S]`."""
        return type(self.model).start_distribution(self.model, upper_params)

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_s cotangent(s) d rho(s)/dx, shape of x, for a cotangent `[S]`."""
        return type(self.model).start_distribution_vjp(self.model, upper_params, cotangent)

    def log_start_vjp(self, upper_params: FloatArray, *seen: Any) -> FloatArray:
        """Return sum_b cotangent(b) d log rho(s_b)/dx, shape of x, of states and cotangent `[B]`.

        See `TabularModel.log_start_vjp`.
        """
        return type(self.model).log_start_vjp(self.model, upper_params, *seen)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward r_x `[S, A]`."""
        return type(self.model).reward(self.model, upper_params)

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, shape of x; `cotangent` is `[S, A]`."""
        return type(self.model).reward_vjp(self.model, upper_params, cotangent)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward u_x `[S, A]`, without terms in x alone."""
        return type(self.model).upper_reward(self.model, upper_params)

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, shape of x; zero unless overridden."""
        return type(self.model).upper_reward_vjp(self.model, upper_params, cotangent)

    def evaluate(self, upper_params: ArrayLike, **options: Any) -> ExactResponse:
        """Return the exact answer to x, the referee's; `TabularModel.respond` has the options."""
        return evaluate(self.model, upper_params, **options)

    def evaluate_batch(
        self, upper_params: Sequence[ArrayLike] | FloatArray, **options: Any
    ) -> list[ExactResponse]:
        """Return what `evaluate` returns, for many x; see `bilevel_gym.model.evaluate_batch`."""
        responses: list[ExactResponse] = evaluate_batch(self.model, upper_params, **options)
        return responses

    def evaluate_unregularised(self, upper_params: ArrayLike, **options: Any) -> Unregularised:
        """Return F under the follower's hard-optimal policy, best and worst over ties.

        See `bilevel_gym.model.evaluate_unregularised`; its option is `tie_tolerance`.
        """
        return evaluate_unregularised(self.model, upper_params, **options)

    def observe(self, response: Response) -> NDArray[np.float32]:
        """Return the discounted state occupancy times (1 - gamma), float32 `[S]`.

        Raises:
            TypeError: If the response is not a tabular one.
        """
        if not isinstance(response, TabularResponse):
            raise TypeError(
                "`response` must be a TabularResponse, with the follower's `policy` and "
                "`occupancy`, as `bilevel_gym.model.evaluate` returns one, got "
                f"{type(response).__name__}"
            )
        return np.clip(response.occupancy, 0.0, 1.0).astype(np.float32)

    # The follower's episode ----------------------------------------------------------------

    def begin(self) -> tuple[int, dict[str, Any]]:
        """Draw the first state; the info has `action_mask` where actions vary."""
        ahead = self._uniforms if self._drawn_from is self.np_random else None
        uniform = ahead.pop() if ahead else self.np_random.random()
        self._state = int(self.first_states(uniform))
        self._over = False
        return self._state, self._state_info()

    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x; see `BilevelEnv.advance`."""
        # What is known to be right is not checked again: on most steps this is the only condition.
        if (
            upper_params is not self._upper_params
            or self._tables is None
            or self._over
            or type(action) is not int
            or not 0 <= action < self.model.num_actions
        ):
            action = self._prepare(upper_params, action)
        if self._drawn_from is not self._np_random or not self._uniforms:
            # A block of the very numbers that single draws would give; first states take theirs
            # from it, too. It is left when its generator is: after a new seed, or another
            # `np_random`. (Writing to the state inside a generator is felt in the next block.)
            self._uniforms = self.np_random.random(DRAWN_AHEAD)[::-1].tolist()
            self._drawn_from = self.np_random
        state, tables = self._state, self._tables
        assert state is not None and tables is not None
        uniform = self._uniforms.pop()
        state, self._over, reward, upper_reward = tables.sample(state, action, uniform)
        self._state = state
        self._count(reward, upper_reward)
        info: dict[str, Any] = {"upper_reward": np.float64(upper_reward)}
        if self.action_mask is not None:
            info |= self._state_info()
        return state, reward, self._over, False, info

    def first_states(self, uniforms: ArrayLike) -> NDArray[np.int64]:
        """Return the first states under the x in force that uniform numbers in [0, 1) select.

        Args:
            uniforms: Of any shape, which is that of the states.
        """
        if self._start_cumulative is None:
            self._start_cumulative = np.cumsum(self.model.checked_start(self._upper_params))
            self._start_cumulative /= self._start_cumulative[-1]
        return np.searchsorted(self._start_cumulative, uniforms, side="right")

    def transition_arrays(self, upper_params: FloatArray) -> TransitionArrays:
        """Return every transition under x, for drawing many at a time."""
        return TransitionArrays(
            self.model.lower_mdp(upper_params), self.model.checked_upper_reward(upper_params)
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the follower's state, bool `[A]`."""
        if self.action_mask is None or self._state is None:
            return np.ones(self.model.num_actions, dtype=bool)
        return self.action_mask[self._state].copy()

    def view(self) -> View:
        """Return the follower's episode over the exact answer to the leader's x."""
        if self._answer is None:
            self._answer = self.evaluate(self._upper_params)
        return View(
            title=self.headline("follower"),
            upper_params=self._upper_params,
            response=self._answer,
            state=self._state,
            status=self._status(self._state is not None),
        )

    def draw(self, view: View) -> pygame.Surface:
        """Draw a view; without a picture of its own, a game shows its table."""
        return draw_table(self.table(view))

    def table(self, view: View) -> TableScene:
        """Return reward, policy and occupancy of a view as a table of states and actions, and x."""
        answer = view.tabular
        reward = self.reward(view.upper_params)
        if self.action_mask is not None:
            reward = np.where(self.action_mask, reward, np.nan)
        return TableScene(
            reward=reward,
            policy=None if answer is None else answer.policy,
            occupancy=None if answer is None else answer.occupancy,
            params=view.upper_params,
            gradient=self.slopes(view),
            follower=view.state,
            title=view.title,
            status=view.status,
            reward_limit=self._table_limits[0],
            params_limit=self._table_limits[1],
            gradient_limit=None if view.response is None else self._gradient_limit,
        )

    @cached_property
    def _table_limits(self) -> tuple[float, float]:
        """Ends of the scales of rewards and of x in tables: what they are at the first x."""
        x = self.initial_upper_params
        box = np.abs([self.model.low, self.model.high])
        reward = np.abs(self.reward(x))
        largest = float(reward[np.isfinite(reward)].max(initial=0.0))
        entries = float((np.abs(x) if x.any() else box).max())
        return nice_limit(largest, LEADS), nice_limit(entries, LEADS)

    @cached_property
    def _gradient_limit(self) -> float | None:
        """End of the scale of the hyper-gradient: that at the first x; None where it is zero."""
        gradient = self.slopes(View("", x := self.initial_upper_params, self.evaluate(x)))
        largest = 0.0 if gradient is None else float(np.abs(gradient).max(initial=0.0))
        return nice_limit(largest, LEADS) if largest > 0.0 else None

    def _default_aim(self) -> str:
        """Return what the terms of the objective want, as far as they are known."""
        costs, unknown = (PolicyCost, LinearCost, QuadraticCost), super()._default_aim()
        aims = [
            AIMS.get(type(term), unknown)
            for term in flattened(self.model.objective)
            if not (isinstance(term, costs) and term.weight == 0.0)
        ]
        return " and ".join(dict.fromkeys(aims))

    def _repr_png_(self) -> bytes | None:
        """Return the picture; of a large game only where its answer need not be computed for it."""
        known = self._answer is not None or self.num_states <= SOLVED_TO_SHOW
        return super()._repr_png_() if known else None

    def _forget(self) -> None:
        self._start_cumulative, self._tables = None, None

    def _prepare(self, upper_params: ArrayLike, action: Any) -> int:
        """Check both moves, put x in force with its tables, and return the action's index."""
        self._check_under_way()
        try:
            index = operator.index(action)
        except TypeError:
            index = -1
        if not 0 <= index < self.model.num_actions:
            raise ValueError(
                "the follower's action must be an integer in "
                f"0..{self.model.num_actions - 1}, got {received(action)}"
            )
        x = self.commit(upper_params)
        if self._tables is None:
            self._tables = TransitionTables(
                self.model.lower_mdp(x), self.model.checked_upper_reward(x)
            )
        return index

    def _state_info(self) -> dict[str, Any]:
        if self.action_mask is None:
            return {}
        return {"action_mask": self.action_mask[self._state].astype(np.int8)}


def _defines(task: type[TabularBilevelEnv], hook: str) -> bool:
    return getattr(task, hook) is not getattr(TabularBilevelEnv, hook)
