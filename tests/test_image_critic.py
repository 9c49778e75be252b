"""The leader's critic of images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.learnt.critics import LeaderCritic
from bilevel_gym.sb3.replay import Transitions


class Pictures:
    """A game, its replay and its follower at once: a bright square is in one of four places.

    The leader wants the action of that number, or a large one the further down the square is.
    """

    upper_gamma, episode_steps = 0.5, 10

    def __init__(self, acting: str) -> None:
        rng = np.random.default_rng(0)
        self.observation_space = spaces.Box(0, 255, (1, 40, 40), np.uint8)
        self.place = rng.integers(4, size=300)
        self.seen = rng.integers(0, 60, (300, 1, 40, 40), dtype=np.uint8)
        for picture, place in zip(self.seen[:, 0], self.place.tolist(), strict=True):
            picture[10 * place : 10 * place + 10, 10:20] = 220
        if acting == "discrete":
            self.lower_space: spaces.Space[Any] = spaces.Discrete(4)
            self.taken: NDArray[Any] = rng.integers(4, size=300)
            self.advantages = (self.taken == self.place) - 0.25
        else:
            self.lower_space = spaces.Box(-1.0, 1.0, (1,))
            self.taken = rng.uniform(-1.0, 1.0, (300, 1)).astype(np.float32)
            self.advantages = (self.place - 1.5) * self.taken[:, 0]
        self.model = self
        # Replays draw slots, followers draw actions.
        self.replay_buffer = SimpleNamespace(
            draw=lambda count, rng: rng.integers(300, size=count), transitions=self.transitions
        )

    def transitions(self, at: NDArray[Any], rng: np.random.Generator) -> Transitions:
        paid, zeros = self.advantages[at].astype(np.float32), np.zeros(len(at), np.float32)
        return Transitions(self.seen[at], self.taken[at], self.seen[at[::-1]], paid, zeros)

    def upper_reward(self, seen: Any, taken: Any, rewards: FloatArray) -> FloatArray:
        return rewards

    def probabilities(self, seen: NDArray[Any]) -> FloatArray:
        return np.full((len(seen), 4), 0.25)

    def draw(self, seen: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        assert len(seen) <= 256  # pictures go through in blocks
        return rng.uniform(-1.0, 1.0, (len(seen), 1)).astype(np.float32)


@pytest.mark.parametrize("acting", ["discrete", "box"])
def test_the_leaders_critic_learns_from_images(acting: str) -> None:
    world: Any = Pictures(acting)
    critic, rng = LeaderCritic(world, 0, "cpu"), np.random.default_rng(0)
    for _ in range(5):
        critic.fit(world, 30, rng)
    found, every = critic.advantages(world.seen, world.taken, world, rng)
    assert np.corrcoef(found, world.advantages)[0, 1] > 0.8
    assert (every is None) == (acting == "box")
    # What it is made of is the same for the same seed, and leaves other random numbers alone.
    state = world.observation_space.np_random.bit_generator.state
    again, other = LeaderCritic(world, 0), LeaderCritic(world, 1)
    assert world.observation_space.np_random.bit_generator.state == state
    first, second, third = (
        next(made.network.parameters()).detach() for made in (again, LeaderCritic(world, 0), other)
    )
    assert (first == second).all() and (first != third).any()
