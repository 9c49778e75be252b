"""Games that the differentiable operations are tested on, and what F is made of without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym.core.mdp import FloatArray

from .small_games import small_game

# What each has of its own: x that moves kernel and start, the leader's reward (in all small games),
# actions that do not exist, a leader's discount of its own, an answer that is no table.
GAMES: dict[str, Callable[[], Any]] = {
    "x in kernel and start": lambda: gym.make("BilevelMarkovGame-v0"),
    "x in the leader's reward": small_game,
    "masked": lambda: small_game(masked=True, termination=0.1),
    "leader's discount": lambda: small_game(upper_gamma=0.5),
    "linear-quadratic": lambda: gym.make("BilevelLQR-v0"),
}
UNTABULATED = "linear-quadratic"
TABULAR = [name for name in GAMES if name != UNTABULATED]


def inner_point(game: Any, *batch: int) -> FloatArray:
    """Return an x, or a batch of them, in the middle half of the box."""
    model = game.unwrapped.model
    middle, width = 0.5 * (model.low + model.high), model.high - model.low
    noise = np.random.default_rng(5).uniform(-0.25, 0.25, size=(*batch, *model.low.shape))
    return middle + np.minimum(width, 4.0) * noise


def operations_of(name: str, game: Any, framework: Any) -> list[Any]:
    """Return the operations that a game has in `bilevel_gym.torch` or `bilevel_gym.jax`."""
    makers = [framework.objective, *([framework.soft_policy] if name != UNTABULATED else [])]
    return [make(game) for make in makers]
