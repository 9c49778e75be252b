"""What both seats share, and where they are put: directly on the game, in place of another seat."""

from __future__ import annotations

from typing import Any, Generic

import gymnasium as gym
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from typing_extensions import TypeVar

from ..core.checks import received
from ..envs.base import BilevelEnv

__all__ = ["NotThere", "Seat", "take_seat"]

# Wrappers that `gymnasium.make` puts on every game; they change neither moves nor rewards.
TRANSPARENT = (OrderEnforcing, PassiveEnvChecker, TimeLimit)


class NotThere(ResetNeeded, AttributeError):
    """What no episode has brought yet: `hasattr` and inspection find that it is not there."""


GameT = TypeVar("GameT", bound=BilevelEnv, default=BilevelEnv)


class Seat(gym.Wrapper[Any, Any, Any, Any], Generic[GameT]):
    """A wrapper that gives one player of a game an environment.

    Attributes:
        game: The game.
    """

    game: GameT


def take_seat(
    seat: type[Seat[Any]], env: gym.Env[Any, Any]
) -> tuple[gym.Env[Any, Any], BilevelEnv]:
    """Return the environment that a new seat wraps, `env` without its outermost seat; and the game.

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
    inner = env.env if isinstance(env, Seat) else env
    above = None
    layer = inner
    while isinstance(layer, gym.Wrapper):
        # On another seat even a time limit is in the way: it would be dropped with that seat.
        if not isinstance(layer, TRANSPARENT):
            offender = above if isinstance(layer, Seat) and above is not None else layer
            name, x = type(offender).__name__, ", x" if seat.__name__ == "LowerLevel" else ""
            right = f"{name}({seat.__name__}(gym.make(id){x}), ...)"
            raise TypeError(
                f"`{seat.__name__}` must sit directly on the game, got {name} in between; first "
                f"take the seat, then wrap it, for example {right}"
            )
        above, layer = above or layer, layer.env
    return inner, env.unwrapped
