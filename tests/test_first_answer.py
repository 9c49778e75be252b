"""What the first answer of a follower who learns says of a game, and how a seat goes on later."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from bilevel_gym import HyperGradient
from bilevel_gym.envs.parametric import ParametricGame

from .test_parametric_game import GAMES, TINY, cart


def first_answer(**changes: Any) -> list[str]:
    """Return the warnings about the game that the first two answers give."""
    env = HyperGradient(ParametricGame(**{**GAMES["cartpole"], **changes}), **TINY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env.reset(seed=0)
        env.step(np.zeros(2))
    # Trust in an estimate from three episodes is another matter.
    said = [str(warning.message) for warning in caught]
    return [text for text in said if "trust" not in text]


def test_a_leader_whose_return_is_always_the_same_is_told_why() -> None:
    assert not first_answer()
    (said,) = first_answer(upper_reward=lambda seen, taken, rewards: np.ones(len(seen)) * 0.0)
    assert re.search("CartPole-v1 is the same, 0, in all 3 episodes", said)
    assert "upper_gamma" not in said
    (said,) = first_answer(upper_gamma=0.01, upper_reward=lambda seen, taken, rewards: -rewards)
    assert "the same, -1.0101, in all 3 episodes" in said
    assert re.search("steps and `upper_gamma` is 0.01, so that .* first 1.01 count", said)


def test_a_temperature_far_from_the_rewards_is_named_with_their_spread() -> None:
    rewards = {"kind": "linear", "features": cart, "num_params": 2}
    for temperature, effect in ((1e5, "choose at random"), (1e-7, "hardly try other actions")):
        (said,) = first_answer(
            temperature=temperature, reward_model=rewards, initial_upper_params=[1.0, 1.0]
        )
        assert f"is {temperature:.3g} and the standard deviation" in said and effect in said


def test_a_seat_that_goes_on_shows_the_game_from_its_beginning(tmp_path: Any) -> None:
    env = HyperGradient(ParametricGame(**GAMES["cartpole"]), **TINY)
    env.reset(seed=0)
    env.method.save(tmp_path / "learnt")  # type: ignore[attr-defined]
    fresh = HyperGradient(ParametricGame(**GAMES["cartpole"], render_mode="rgb_array"), **TINY)
    fresh.method.load(tmp_path / "learnt")  # type: ignore[attr-defined]
    with pytest.raises(ResetNeeded, match="`reset` first"):
        fresh.step(np.zeros(2))
    fresh.reset(options={"keep_learnt": True})
    frame = fresh.render()
    assert isinstance(frame, np.ndarray) and len(np.unique(frame)) > 3
