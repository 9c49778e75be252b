"""What tests of both vectors of seats share: games, Gymnasium's own vectors, and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import bilevel_gym
from bilevel_gym import (
    HyperGradient,
    LeaderVectorEnv,
    LowerLevelVectorEnv,
    TabularBilevelEnv,
)
from bilevel_gym.envs.ids import follower_id

from .helpers import array_game, assert_identical, interior_point
from .test_batch import Drift

GRID, WALK, NOISE, DRIFT, BARE = (
    "BilevelGridWorld-v0",
    "MaskedWalk-v0",
    "Noise-v0",
    "Drift-v0",
    "Bare-v0",
)
MODES = [mode.value for mode in AutoresetMode]
every_mode = pytest.mark.parametrize("mode", MODES)


def masked_walk() -> TabularBilevelEnv:
    """Return five cells in a row, left by the right end; at the left end no step to the left."""
    transition = np.zeros((5, 2, 5))
    for state in range(5):
        transition[state, 0, max(state - 1, 0)] = 1.0
        if state < 4:
            transition[state, 1, state + 1] = 1.0
    rng = np.random.default_rng(0)
    return TabularBilevelEnv.from_arrays(
        transition,
        rng.normal(size=(5, 2)),
        upper_reward=rng.normal(size=(5, 2)),
        initial_distribution=[0.0, 1.0, 0.0, 0.0, 0.0],
        action_mask=[[0, 1], [1, 1], [1, 1], [1, 1], [1, 1]],
    )


class BareGame(bilevel_gym.BilevelEnv):
    """A game without a model; it is refused when it is wrapped, so nothing below is ever called."""

    def __init__(self) -> None:
        space = gym.spaces.Discrete(2)
        super().__init__(
            upper_space=gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
            lower_space=space,
            observation_space=space,
            leader_observation_space=space,
            gamma=0.9,
            temperature=0.1,
            initial_upper_params=[0.0],
        )

    # Its episodes are never played: the test needs the game's model and spaces alone.
    def begin(self) -> Any:
        raise NotImplementedError

    def advance(self, upper_params: Any, action: Any) -> Any:
        raise NotImplementedError

    def observe(self, response: Any) -> Any:
        raise NotImplementedError

    def view(self) -> Any:
        raise NotImplementedError


def register_games() -> Iterator[None]:
    """Register the games of these tests, and forget them again; see the fixture `vector_games`."""
    bilevel_gym.register(WALK, masked_walk, max_episode_steps=6)
    bilevel_gym.register(NOISE, array_game, max_episode_steps=5)
    bilevel_gym.register(DRIFT, Drift, kwargs={"one_pattern": True})
    gym.register(BARE, f"{__name__}:BareGame")
    yield
    for game_id in (WALK, NOISE, DRIFT):
        del gym.registry[game_id], gym.registry[follower_id(game_id)]
    del gym.registry[BARE]


def leaders(game_id: str = NOISE, num_envs: int = 4, mode: str = MODES[0], **kwargs: Any) -> Any:
    """Return copies of the leader's seat."""
    return LeaderVectorEnv(game_id, num_envs, autoreset_mode=mode, **kwargs)


def leader_seats(
    game_id: str = NOISE, num_envs: int = 4, mode: str = MODES[0], **kwargs: Any
) -> Any:
    """Return Gymnasium's own vector of leader's seats."""
    names = ("outer_steps", "solver", "tolerance", "max_iterations")
    options = {name: kwargs.pop(name) for name in names if name in kwargs}

    def seat() -> Any:
        return HyperGradient(gym.make(game_id, **kwargs), **options)

    return SyncVectorEnv([seat] * num_envs, autoreset_mode=mode)


def moves(envs: Any, steps: int, seed: int = 0) -> Any:
    """Return x for each step and copy, near each other from step to step."""
    space, rng = envs.single_action_space, np.random.default_rng(seed)
    middle, half = (space.low + space.high) / 2.0, (space.high - space.low) / 2.0
    here = middle + 0.3 * half * rng.uniform(-1, 1, (envs.num_envs, *space.shape))
    return here + 0.01 * half * rng.uniform(-1, 1, (steps, envs.num_envs, *space.shape))


def followers(game_id: str = NOISE, num_envs: int = 6, mode: str = MODES[0], **kwargs: Any) -> Any:
    """Return copies of the follower's seat."""
    x = interior_point(gym.make(follower_id(game_id), **kwargs))
    return LowerLevelVectorEnv(game_id, num_envs, x, autoreset_mode=mode, **kwargs)


def follower_seats(
    game_id: str = NOISE, num_envs: int = 6, mode: str = MODES[0], **kwargs: Any
) -> Any:
    """Return Gymnasium's own vector of follower's seats."""
    own = follower_id(game_id)
    x = interior_point(gym.make(own, **kwargs))

    def seat() -> Any:
        return gym.make(own, upper_params=x, **kwargs)

    return SyncVectorEnv([seat] * num_envs, autoreset_mode=mode)


def sampled(envs: Any, steps: int, seed: int = 0) -> Any:
    """Return actions of the follower for each step and copy."""
    actions = int(envs.single_action_space.n)
    return np.random.default_rng(seed).integers(actions, size=(steps, envs.num_envs))


def assert_close(first: Any, second: Any) -> None:
    """Assert that two records are the same to rounding."""
    assert_identical(first, second, rounding=True)


def continued(envs: Any, actions: Any) -> list[Any]:
    """Return what further steps give; ended copies start again where needed."""
    records = []
    for action in actions:
        records.append(envs.step(action))
        over = records[-1][2] | records[-1][3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            records.append(envs.reset(options={"reset_mask": over.copy()}))
    return records


def played(envs: Any, actions: Any, seed: Any = None, **options: Any) -> list[Any]:
    """Return what a reset and further steps give."""
    return [envs.reset(seed=seed, options=dict(options) or None), *continued(envs, actions)]


@dataclass(frozen=True)
class Kind:
    """A kind of vector: how to make it and Gymnasium's own, its actions, and how to compare."""

    make: Callable[..., Any]
    seats: Callable[..., Any]
    actions: Callable[..., Any]
    same: Callable[[Any, Any], None]
    short: dict[str, Any]


# Arguments for episodes of three steps, or little more.
KINDS = {
    "leader": Kind(leaders, leader_seats, moves, assert_close, {"outer_steps": 3}),
    "follower": Kind(followers, follower_seats, sampled, assert_identical, {"game_id": WALK}),
}
