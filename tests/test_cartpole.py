"""The cart whose shaping is weighed: what the terms pay, and what they do to the follower."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import LowerLevel
from bilevel_gym.envs import BilevelCartPole

TASK = "BilevelCartPole-v0"


def test_a_term_pays_for_pushing_in_the_direction_of_what_it_looks_at() -> None:
    game = BilevelCartPole()
    observations = np.array([[1.0, -2.0, 0.05, 0.0]])
    strength = np.tanh([1.0, -2.0, 0.5, 0.0])
    for index, x in enumerate(np.eye(4)):
        left, right = (game.reward(x, observations, np.array([a]))[0] for a in (0, 1))
        living = 0.2 - 0.3 * np.log(2.0)
        assert right == pytest.approx(living + strength[index])
        assert left == pytest.approx(living - strength[index])


def returns(x: Any) -> float:
    """Return the mean length of 10 episodes in which each push is the one that pays most now."""
    env = LowerLevel(gym.make(TASK), x)
    game: Any = env.game
    lengths = []
    for seed in range(10):
        state, _ = env.reset(seed=seed)
        steps, over = 0, False
        while not over:
            paid = game.reward(np.asarray(x), np.repeat(state[None], 2, axis=0), np.arange(2))
            state, _, terminated, truncated, _ = env.step(int(paid.argmax()))
            steps, over = steps + 1, terminated or truncated
        lengths.append(steps)
    return float(np.mean(lengths))


def test_what_pays_at_once_drops_the_pole_at_first_and_holds_it_with_the_signs_turned() -> None:
    start = BilevelCartPole().initial_upper_params
    assert returns(start) < 12.0
    assert returns(-start * [0.0, 0.0, 1.0, 1.0]) == 200.0


def test_the_picture_has_x_below_the_cart() -> None:
    env = gym.make(TASK, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    picture: Any = env.render()
    env.reset(seed=0, options={"upper_params": np.zeros(4)})
    other: Any = env.render()
    changed = np.flatnonzero((picture != other).any(axis=(1, 2)))
    # Only the bars are another picture.
    assert changed.size and changed.min() > 520
