"""The game: an environment with two players, without any learning.

`BilevelEnv` holds what every game has: the two players' spaces, validation of x, drawing. Games
with a model that is known exactly are in `tabular`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from ..core.checks import (
    check_choice,
    check_discount,
    check_in_box,
    check_probability,
    check_reset_options,
    check_temperature,
    optional,
    received,
)
from ..core.mdp import FloatArray
from ..core.reprs import Described, Made
from ..methods import METHODS
from ..model.base import BilevelModel, evaluate, single_precision_bounds
from ..model.responses import Response, TabularResponse
from ..optimizers.rules import feasible_part
from ..rendering import Window, frame, notebook_picture

if TYPE_CHECKING:
    import pygame

__all__ = [
    "BestKnown",
    "BilevelEnv",
    "View",
    "check_seed",
    "check_upper_space",
    "in_words",
    "inward",
    "shown",
    "upper_box",
]


# Entries of x that are this share of the box away from its end are at the end: the box is one of
# single precision.
BOUND_TOLERANCE = 1e-6

# Gradients of a norm below this share of max(1, |F|) are rounding.
ROUNDING = 1e-8


@dataclass(frozen=True, eq=False, repr=False)
class BestKnown(Described):
    """Best upper-level parameters known for a game.

    Attributes:
        upper_params: x, shape of the upper space.
        value: F(x).
        source: How x was found, and what is proven about it.
    """

    upper_params: FloatArray
    value: float
    source: str


@dataclass(frozen=True, eq=False)
class View:
    """What a seat wants to be seen of the game.

    Attributes:
        title: Name of the game and the seat, and lines of text below it; see `BilevelEnv.headline`.
        upper_params: x, of the shape of the upper space.
        response: The follower's answer to x, None where it is not known.
        state: Where the follower stands, None where no episode is played.
        status: Labels and values of the status line.
    """

    title: str
    upper_params: FloatArray
    response: Response | None = None
    state: int | None = None
    status: tuple[tuple[str, str], ...] = ()

    @property
    def tabular(self) -> TabularResponse | None:
        """The answer of a tabular game's follower, None where it is not known."""
        return self.response if isinstance(self.response, TabularResponse) else None

    @property
    def hyper_gradient(self) -> FloatArray | None:
        """dF/dx, None where it is not known."""
        return None if self.response is None else self.response.hyper_gradient


class BilevelEnv(Made, gym.Env[Any, dict[str, Any]], ABC):
    """A game between a leader, who chooses x, and a follower, who acts in an MDP shaped by x.

    What a task's docstring does not say is the same in all of them:

    * Spaces. Those described are the follower's, and the game's observations. The leader's action
      is x, in the box of the Upper Level, and the game's `{"upper": x, "lower": a}`. What the
      leader observes depends on the kind of game: `TabularBilevelEnv`, `LinearQuadraticEnv`,
      `MeanFieldEnv` and `ParametricGame` describe it.
    * Rewards. Leader: F(x), to be maximised. Follower and game: r_x(s, a).
    * Info. Leader: see `HyperGradient`. Follower and game: `upper_reward`, the leader's reward u of
      the step without terms in x alone, float64, 0 in `reset`; and `action_mask`, int8, where
      actions vary.
    * Episode end. The leader's episode is truncated after `outer_steps` (100) leader steps, the
      follower's after the `max_episode_steps` of its id (`NameFollower-vN`).
    * Arguments. `gamma`: discount of both levels (of the follower's alone where there is an
      `upper_gamma`), in [0, 1); `temperature`: weight of the entropy of the follower's policy,
      positive: for a follower that never finishes, entropy adds up to temperature * log A /
      (1 - gamma); `entropy`: "plain", which is that, or "relative" to the uniform policy, where
      each step of the follower is worth temperature * log A less, A being the number of actions
      that exist in its state; `render_mode`: None, "human" or "rgb_array".
    * Version history. v0: first version; before the release of 0.2.0, entropy became relative in
      `ParametricGame` and the tasks made of it, and its `upper_gamma` 1 by default.

    One `step` takes both players' moves, `{"upper": x, "lower": a}`, makes one transition of the
    follower, whose reward is r_x(s, a); `info["upper_reward"]` is the leader's part. Wrappers
    (`HyperGradient`, `LowerLevel`) turn the game into an environment for either player.

    A game defines `begin`, which draws the first state for `reset`, and `advance`, which makes the
    transition: `step` unpacks the moves for it, and the follower's seat calls it directly, so what
    is to change in a transition changes there.

    Attributes:
        model: What methods are built on: a `BilevelModel`; where the follower learns, what
            `bilevel_gym.model.protocols` asks of such a game.
        best_known: Best x known for this very instance, None if none is recorded.
        upper_space: Finite `Box` of x.
        lower_space: The follower's action space.
        leader_observation_space: Space of what the leader sees of the follower's answer.
        initial_upper_params: x at the start of every episode, shape of x.
        kind: What kind of game it is, for errors: why some methods do not suit.
        methods: Methods that the leader's seat may take, by name.
        default_method: The one of them that it takes unless one is named.
        method_options: Options that suit the game, for methods that take them; those that are
            given replace them one by one.
        elapsed_steps: Transitions of the follower's episode so far; `advance` counts them, and the
            follower's seat ends episodes by them where there is a time limit.
        made_with: What an id of the package made this game with: `game`, its class, and arguments;
            None for a game made otherwise.
        leader_does: What the leader does, in words, as "sets tolls"; and likewise `follower_does`.
        leader_wants: What it wants, the rest of a sentence that begins "The leader wants", or ""
            for what the objective says; and likewise `follower_wants`.
        has_map: Whether states are cells of a map and x is painted on it: such a game has `scene`,
            which returns a `GridScene`, and `state_of`, as `BilevelGridWorld` has them.
        undiscounted: Whether the follower's discount may be 1, as every episode ends.
        moves: The follower's actions that go up, right, down and left on a map; none without one.
        draws_itself: Whether steps and resets update the window when `render_mode="human"`; a
            seat that draws its own picture turns it off.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 10}

    leader_does, follower_does = "sets x", "acts"
    leader_wants: str = ""
    follower_wants = "high rewards r_x, and some entropy"

    model: Any
    best_known: BestKnown | None = None
    kind = "a game whose states and actions are finitely many"
    methods: Mapping[str, str] = METHODS
    default_method = "exact"
    method_options: Mapping[str, Any] = {}
    made_with: dict[str, Any] | None = None
    has_map = False
    undiscounted = False
    moves: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        upper_space: spaces.Box,
        lower_space: spaces.Space[Any],
        observation_space: spaces.Space[Any],
        leader_observation_space: spaces.Space[Any],
        gamma: float,
        temperature: float,
        initial_upper_params: ArrayLike,
        render_mode: str | None = None,
    ) -> None:
        """Set up the spaces.

        Raises:
            ValueError: If the upper space is unbounded, the initial x is not in it, the discount or
                the temperature is out of range, or the render mode is unknown.
        """
        self._gamma = (check_probability if self.undiscounted else check_discount)("gamma", gamma)
        self._temperature = check_temperature(temperature)
        check_upper_space(upper_space)
        modes = self.metadata["render_modes"]
        self.render_mode = optional(check_choice, "render_mode", render_mode, modes)
        self.upper_space = upper_space
        self.lower_space = lower_space
        self.action_space = spaces.Dict({"upper": upper_space, "lower": lower_space})
        self.observation_space = observation_space
        self.leader_observation_space = leader_observation_space
        self.initial_upper_params = check_in_box(
            "initial_upper_params", initial_upper_params, upper_space.low, upper_space.high
        )
        # The x in force, returns of the follower's episode, and the exact answer to the x where
        # one is made.
        self._upper_params = self.initial_upper_params
        self.elapsed_steps, self._lower_return, self._upper_return = 0, 0.0, 0.0
        self._answer: Any = None
        self._over = True  # no episode is under way
        self.draws_itself = True
        self._window: Window | None = None

    @property
    def title(self) -> str:
        """What pictures call the game."""
        return type(self).__name__

    def headline(self, seat: Literal["leader", "follower"], title: str | None = None) -> str:
        """Return what stands above a picture: a title, and what both players want, in three lines.

        By default the title says task and seat in words.
        """
        if title is None:
            does = self.leader_does if seat == "leader" else self.follower_does
            title = f"{in_words(self.title)}: the {seat} {does}"
        wanted = self.leader_wants or self._default_aim()
        aims = f"The leader wants {wanted}.\nThe follower wants {self.follower_wants}."
        return f"{title}\n{aims}"

    def _default_aim(self) -> str:
        """Return what the leader wants where the game does not say."""
        return "a high objective F(x)"

    def knob_names(self) -> tuple[str, ...]:
        """Return a short name of each entry of x, in the order of x flattened."""
        indices = np.ndindex(*self.upper_space.shape)
        return tuple(f"x[{', '.join(map(str, index))}]" for index in indices)

    def slopes(self, view: View) -> FloatArray | None:
        """Return dF/dx at the x of a view, 0 where it points out of the box; None if not known.

        Where all of it is the rounding of F, it is zero.
        """
        if view.response is None or view.hyper_gradient is None:
            return None
        box = self.upper_space.low, self.upper_space.high
        slopes = inward(view.upper_params, view.hyper_gradient, *box)
        least = ROUNDING * max(1.0, abs(view.response.objective))
        return slopes if np.linalg.norm(slopes) > least else np.zeros_like(slopes)

    @property
    def gamma(self) -> float:
        """The follower's discount, in [0, 1), or 1 where there is none; it cannot be set."""
        return self._gamma

    @property
    def temperature(self) -> float:
        """The weight of the policy's entropy, positive; another one makes another game."""
        return self._temperature

    def evaluate(self, upper_params: ArrayLike, **options: Any) -> Response:
        """Return the exact objective, hyper-gradient and follower's answer at x: the referee.

        Args:
            upper_params: x, shape of `upper_space`.
            **options: See `bilevel_gym.model.evaluate`, also for errors.

        Raises:
            TypeError: If the game has no exact answer, as its follower learns.
        """
        if not isinstance(self.model, BilevelModel):
            raise TypeError(
                f"{self.title} has no exact answer, as its follower learns; the leader's seat, "
                "HyperGradient(game), estimates F and its gradient in each `step`"
            )
        response: Response = evaluate(self.model, upper_params, **options)
        return response

    def evaluate_unregularised(self, upper_params: ArrayLike, **options: Any) -> Any:
        """Return F without entropy; see `TabularBilevelEnv`.

        Raises:
            TypeError: If the game has no table.
        """
        raise TypeError(
            f"{self.title} has no table of states, so that F without entropy is not known; "
            "a low temperature comes near to it"
        )

    def validate_upper_params(self, upper_params: ArrayLike) -> FloatArray:
        """Return x as a read-only float64 array; see `BilevelModel.validate`."""
        return check_in_box(
            "upper_params", upper_params, self.upper_space.low, self.upper_space.high
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode of the follower.

        Args:
            seed: Seed of everything random that follows.
            options: `{"upper_params": x}` puts the leader at x instead of `initial_upper_params`.

        Returns:
            The first observation, and the info that belongs to it.

        Raises:
            ValueError: If an option is unknown or x is out of range; the game is left as it was.
        """
        options = check_reset_options(options, ["upper_params"])
        start = options.get("upper_params", self.initial_upper_params)
        if start is not self._upper_params:
            start = self.validate_upper_params(start)
        check_seed(seed)
        super().reset(seed=seed)  # may refuse the seed, hence nothing has changed so far
        self._enter(start)
        observation, info = self.begin()
        self.elapsed_steps, self._lower_return, self._upper_return = 0, 0.0, 0.0
        if self.render_mode == "human" and self.draws_itself:
            self.render()
        # With the keys of a step: what records infos expects those of `reset` in all of them.
        return observation, {"upper_reward": np.float64(0.0), **info}

    def begin(self) -> tuple[Any, dict[str, Any]]:
        """Draw the first state of an episode under the x in force; return it and its info.

        `reset` adds `upper_reward`.
        """
        raise TypeError(f"{type(self).__name__} must define `begin`, or `reset` as a whole")

    def step(self, action: Mapping[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x.

        Args:
            action: `{"upper": x, "lower": a}`.

        Returns:
            What `advance` returns.

        Raises:
            ValueError: If the action has another form; `advance` says more.
        """
        try:
            upper, lower = action["upper"], action["lower"]
        except (TypeError, KeyError, IndexError):
            raise ValueError(
                f'`action` must be {{"upper": x, "lower": a}}, got {received(action)}'
            ) from None
        return self.advance(upper, lower)

    @abstractmethod
    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x, which is in force from then on.

        Args:
            upper_params: x, shape of `upper_space`.
            action: The follower's action.

        Returns:
            Next observation, r_x(s, a), whether the episode ended, False (time limits are
            wrappers), and `upper_reward` with `action_mask` where actions vary.

        Raises:
            ResetNeeded: If no episode is under way.
            ValueError: If x or the action is not in its space; the game is left as it was.
        """

    def commit(self, upper_params: ArrayLike) -> FloatArray:
        """Make x the one in force, and return it as a read-only float64 array.

        Passing the very array that this returns to `step` or `advance` spares every further step
        the validation, and keeps what the game has prepared for this x.

        Args:
            upper_params: x, shape of `upper_space`.

        Raises:
            ValueError: If x is out of range; the game is left as it was.
        """
        if upper_params is not self._upper_params:
            self._enter(self.validate_upper_params(upper_params))
        return self._upper_params

    def _enter(self, x: FloatArray) -> None:
        """Make a validated x the one in force; what was made for an equal x is kept."""
        if not np.array_equal(x, self._upper_params):
            self._upper_params, self._answer = x, None
            self._forget()

    def _forget(self) -> None:  # noqa: B027  (most games make nothing for an x)
        """Drop what was made for the x that was in force before."""

    def _check_under_way(self) -> None:
        """Raise `ResetNeeded` unless an episode is under way."""
        if self._over:
            raise ResetNeeded(
                "`step` needs an episode under way, got a game before its first `reset`, or whose "
                "episode ended; call `reset` first"
            )

    def _count(self, reward: float, upper_reward: float) -> None:
        """Count a transition of the episode and its rewards, and show it to a human."""
        self.elapsed_steps += 1
        self._lower_return += reward
        self._upper_return += upper_reward
        if self.render_mode == "human" and self.draws_itself:
            self.render()

    def _status(self, under_way: bool) -> tuple[tuple[str, str], ...]:
        """Return the status line: the exact answer if there is one, and the episode under way."""
        status: tuple[tuple[str, str], ...] = ()
        if self._answer is not None:
            status += (
                ("objective", shown(self._answer.objective)),
                ("lower value", shown(self._answer.lower_value)),
            )
        if under_way:
            status += (
                ("step", str(self.elapsed_steps)),
                ("return", shown(self._lower_return)),
                ("leader's return", shown(self._upper_return)),
            )
        return status

    @abstractmethod
    def observe(self, response: Response) -> Any:
        """Return what the leader sees of an answer, an element of `leader_observation_space`."""

    @abstractmethod
    def view(self) -> View:
        """Return what `render` shows."""

    def draw(self, view: View) -> pygame.Surface:
        """Draw a view; no display is needed.

        Raises:
            RuntimeError: If the game has no picture.
        """
        raise RuntimeError(f"{type(self).__name__} has no picture; a subclass may define `draw`")

    def render(self) -> Any:
        """Show the game: a `uint8 [height, width, 3]` frame, or a window for "human"."""
        return self.show(self.view())

    def show(self, view: View) -> NDArray[np.uint8] | None:
        """Show a view in the render mode: return a frame, or update the window."""
        if self.render_mode is None:
            gym.logger.warn(
                "`render` was called without a render mode; choose one when the environment is "
                'made, for example gym.make(id, render_mode="rgb_array")'
            )
            return None
        surface = self.draw(view)
        if self.render_mode == "rgb_array":
            return frame(surface)
        if self._window is None:
            self._window = Window(type(self).__name__, self.metadata["render_fps"])
        self._window.show(surface)
        return None

    def _repr_png_(self) -> bytes | None:
        """Return the picture that notebooks show, None where there is none."""
        return notebook_picture(lambda: self.draw(self.view()))

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Protect x again: copies of arrays forget that they are read-only."""
        self.__dict__.update(state)
        for x in (self.initial_upper_params, self._upper_params):
            x.flags.writeable = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the window behind when the game is copied or pickled."""
        return {**self.__dict__, "_window": None}


def check_seed(seed: int | None) -> None:
    """Raise Gymnasium's error for a negative seed, which its own may fail to show."""
    if isinstance(seed, int) and seed < 0:
        raise gym.error.Error(f"`seed` must not be negative, got {received(seed)}")


def upper_box(low: ArrayLike, high: ArrayLike, shape: tuple[int, ...]) -> spaces.Box:
    """Return a float32 `Box` for x of a shape; see `model.base.single_precision_bounds`."""
    return spaces.Box(*single_precision_bounds(low, high, shape), shape, np.float32)


def check_upper_space(upper_space: spaces.Box) -> None:
    """Raise an error unless it is a finite box, wider than a point in every entry.

    Raises:
        TypeError: If it is no box.
        ValueError: If it is another one.
    """
    if not isinstance(upper_space, spaces.Box):
        raise TypeError(
            "`upper_space` must be a gymnasium.spaces.Box, such as Box(-1.0, 1.0, (2,)), got "
            f"{received(upper_space)}"
        )
    if not upper_space.is_bounded() or (upper_space.low >= upper_space.high).any():
        raise ValueError(
            "`upper_space` must be a finite Box, wider than a point in every entry, got "
            f"{upper_space}"
        )


def inward(
    upper_params: FloatArray, gradient: FloatArray, low: ArrayLike, high: ArrayLike
) -> FloatArray:
    """Return a gradient at x without the entries that point out of the box, shape of x."""
    low, high = (np.asarray(end, dtype=np.float64) for end in (low, high))
    at_bound = BOUND_TOLERANCE * (high - low)
    return feasible_part(upper_params, gradient, low + at_bound, high - at_bound)


def in_words(name: str) -> str:
    """Return the name of a task or a class in words: "Grid world" for "BilevelGridWorld"."""
    name = re.sub(r"-v\d+$", "", name).removeprefix("Bilevel").strip()
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z\s_]+", name) or [name]
    first, *rest = words
    return " ".join([first, *(word if word.isupper() else word.lower() for word in rest)])


def shown(value: float) -> str:
    """Return a number for the status line: four decimals, or two digits of a smaller one."""
    return f"{value:.4f}" if value == 0.0 or abs(value) >= 5e-4 else f"{value:.1e}"
