"""The default map through `gym.make`, both seats, sampling, and the import of the package."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import bilevel_gym
from bilevel_gym.core.soft import solve_soft_mdp
from tests.benchmarks.table import Compare, Row, duration, in_turn
from tests.helpers import game_of

STEPS = 20_000
# More copies would be no faster: it steps them one by one.
PEER_COPIES = 64


@pytest.fixture
def seat() -> bilevel_gym.HyperGradient:
    """Return the leader's seat of the default map."""
    env = bilevel_gym.make("BilevelGridWorld-v0")
    env.reset(seed=0)
    return env


def bench_evaluation(compare: Compare, seat: bilevel_gym.HyperGradient) -> None:
    game = game_of(seat)
    x = game.initial_upper_params
    compare(
        "objective and hyper-gradient, default map",
        lambda: game.evaluate(x),
        "the follower's problem alone",
        lambda: solve_soft_mdp(game.model.lower_mdp(x)),
    )


def bench_leaders_seat(compare: Compare, seat: bilevel_gym.HyperGradient) -> None:
    game = game_of(seat)
    x = game.initial_upper_params
    compare(
        "a step of the leader's seat, default map",
        lambda: seat.step(x),
        "its objective and hyper-gradient",
        lambda: game.evaluate(x),
        before_ours=lambda: seat.method.reset(game.np_random),  # forgets the warm start
    )


def bench_followers_seat(compare: Compare) -> None:
    game = bilevel_gym.LowerLevel(gym.make("BilevelGridWorld-v0"), np.zeros(52))
    lake = gym.make("FrozenLake-v1", map_name="8x8")
    compare(
        f"{STEPS} steps of the follower's seat",
        lambda: roll(game),
        "FrozenLake-v1 8x8",
        lambda: roll(lake),
        at_least=5.0,
    )


def bench_vector_environment(compare: Compare) -> None:
    copies = 1024
    ours = bilevel_gym.LowerLevelVectorEnv("BilevelGridWorld-v0", copies, np.zeros(52))
    peer = gym.make_vec("FrozenLake-v1", PEER_COPIES, vectorization_mode="sync", map_name="8x8")
    compare(
        f"{copies * PEER_COPIES} steps of the follower's seat, {copies} copies",
        lambda: roll_copies(ours, PEER_COPIES),
        f"FrozenLake-v1 8x8, {PEER_COPIES} copies in a SyncVectorEnv",
        lambda: roll_copies(peer, copies),
        at_least=100.0,
    )


def roll_copies(envs: gym.vector.VectorEnv[Any, Any, Any], steps: int) -> None:
    """Make steps of all copies; they begin again by themselves."""
    envs.reset(seed=0)
    actions = np.arange(envs.num_envs) & 3
    for _ in range(steps):
        envs.step(actions)


def roll(env: gym.Env[Any, Any]) -> None:
    """Make steps, and begin again where an episode ends."""
    env.reset(seed=0)
    for step in range(STEPS):
        _, _, terminated, truncated, _ = env.step(step & 3)
        if terminated or truncated:
            env.reset()


def bench_import(rows: list[Row]) -> None:
    def fresh(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    bare, peer, ours = in_turn(
        lambda: fresh("sys"), lambda: fresh("gymnasium"), lambda: fresh("bilevel_gym"), rounds=11
    )
    rows.append(
        Row(
            "import bilevel_gym",
            duration(ours - bare),
            "import gymnasium (both less the interpreter)",
            duration(peer - bare),
            (ours - bare) / (peer - bare),
            at_most=1.5,
        )
    )
