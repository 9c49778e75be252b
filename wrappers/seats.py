"""What both seats share, and where they are put: directly on the game, in place of another seat."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from typing_extensions import TypeVar

from ..core.checks import received
from ..core.reprs import brief
from ..envs.base import BilevelEnv
from ..envs.ids import follower_id, place_of
from ..envs.sources import time_limit

__all__ = ["NotThere", "PointsToGame", "Seat", "plain", "registered_limit", "take_seat"]

# Wrappers that `gymnasium.make` puts on every game; they change neither moves nor rewards.
TRANSPARENT = (OrderEnforcing, PassiveEnvChecker, TimeLimit)


class NotThere(ResetNeeded, AttributeError):
    """What no episode has brought yet: `hasattr` and inspection find that it is not there."""


GameT = TypeVar("GameT", bound=BilevelEnv, default=BilevelEnv)


class PointsToGame:
    """An environment of a game: who asks it for what others have is told where that is."""

    if not TYPE_CHECKING:  # type checkers are to report names that do not exist

        def __getattr__(self, name):
            """Raise an `AttributeError` that says who has the attribute, the game for instance."""
            if hasattr(type(self), name):  # a property: say what it says
                return super().__getattribute__(name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if not name.startswith("_"):
                game = vars(self).get("game")
                way = "unwrapped" if game is None else "game"
                owners = {
                    way: self.unwrapped if game is None else game,
                    "response": vars(self).get("_response"),
                    "method": vars(self).get("method"),
                }
                where = [f"`env.{way}.{name}`" for way, it in owners.items() if hasattr(it, name)]
                text += f"; it is {where[0]}" if where else ""
            raise AttributeError(text, name=name, obj=self)


class Seat(PointsToGame, gym.Wrapper[Any, Any, Any, Any], Generic[GameT]):
    """A wrapper that gives one player of a game an environment.

    Attributes:
        game: The game.
    """

    game: GameT
    _options: Mapping[str, Any]  # those of the seat that are not its defaults
    _limit: float = math.inf  # steps of an episode, where no wrapper counts them

    @staticmethod
    @abstractmethod
    def own_id(env_id: str) -> str:
        """Return the id of this seat of a task, from either of the task's ids."""

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # as Gymnasium's own wrappers do
        """What `gymnasium.make` makes this seat of: the seat's own id, and options of JSON types.

        However the seat was taken, `gymnasium.make(env.spec)` makes another one like it. Of games
        that were not made by an id of the package it is what Gymnasium says of wrappers.
        """
        made, spec = self.game.made_with, self.game.spec
        if made is None or spec is None:
            return super().spec
        own = type(self).own_id(spec.id)
        if own not in gym.registry:
            return None
        limit = None if math.isinf(self._limit) else int(self._limit)
        options = {**made, **plain(self._options)}
        if self.game.render_mode is not None:
            options["render_mode"] = self.game.render_mode
        return replace(gym.registry[own], kwargs=options, max_episode_steps=limit)

    def __repr__(self) -> str:
        """Return game, method and options."""
        parts = (f"{name}={brief(value)}" for name, value in self._said().items())
        return f"{type(self).__name__}({', '.join([repr(self.game), *parts])})"

    def _said(self) -> Mapping[str, Any]:
        return self._options

    def _repr_png_(self) -> bytes | None:
        """Return the picture that notebooks show, None where there is none."""
        return self.game._repr_png_()


def plain(value: Any) -> Any:
    """Return a value with arrays as lists, NumPy's scalars as Python's, and classes by name."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else place_of(value)


def registered_limit(game: BilevelEnv) -> float:
    """Return the steps that episodes of the follower's id have, inf without one."""
    spec = game.spec
    registered = gym.registry.get(follower_id(spec.id)) if spec and game.made_with else None
    limit = registered.max_episode_steps if registered else None
    return math.inf if limit is None else limit


def take_seat(
    seat: type[Seat[Any]], env: gym.Env[Any, Any]
) -> tuple[gym.Env[Any, Any], BilevelEnv, float]:
    """Return what a new seat wraps, the game, and the steps that wrappers allow the follower.

    The new seat wraps `env` without its outermost seat.

    Args:
        seat: Class of the new seat.
        env: A game, or a game in one of its seats.

    Raises:
        TypeError: If `env` is no bilevel game, or a wrapper stands between the seat and the game
            (it would transform moves or rewards, or be dropped silently).
    """
    if not isinstance(env, gym.Env):
        raise TypeError(
            f"`env` must be a Gymnasium environment, got {received(env)}; make one "
            "with gym.make(id)"
        )
    if not isinstance(env.unwrapped, BilevelEnv):
        raise TypeError(
            f"`{seat.__name__}` needs a bilevel game, got {type(env.unwrapped).__name__}; "
            "bilevel_gym.envs.ParametricGame makes one of a registered environment"
        )
    former, limit = env, math.inf
    while isinstance(former, TRANSPARENT):
        limit = min(limit, former._max_episode_steps if isinstance(former, TimeLimit) else math.inf)
        former = former.env
    inner = env
    # A time limit above a follower's seat is one of the follower, whichever seat replaces it.
    if isinstance(former, Seat) and (former.own_id is follower_id or math.isinf(limit)):
        inner = former.env
    limit = min(limit, time_limit(inner))
    above = None
    layer = inner
    while isinstance(layer, gym.Wrapper):
        # On a leader's seat even a time limit is in the way: it would be dropped with that seat.
        if not isinstance(layer, TRANSPARENT):
            offender = above if isinstance(layer, Seat) and above is not None else layer
            raise TypeError(_in_the_way(seat, offender, env.unwrapped))
        above, layer = above or layer, layer.env
    return inner, env.unwrapped, limit


def _in_the_way(seat: type[Seat[Any]], offender: gym.Env[Any, Any], game: BilevelEnv) -> str:
    """Return what to do about a wrapper between a seat and its game."""
    name, follower = type(offender).__name__, seat.own_id is follower_id
    right = f"{name}({seat.__name__}(gym.make(id){', x' if follower else ''}), ...)"
    text = (
        f"`{seat.__name__}` must sit directly on the game, got {name} in between; first "
        f"take the seat, then wrap it, for example {right}"
    )
    if game.made_with and game.spec:
        own = seat.own_id(game.spec.id)
        options = "upper_params=x" if follower else "method=..., outer_steps=..."
        text += f'; or make it as gym.make("{own}", {options})'
    return text
