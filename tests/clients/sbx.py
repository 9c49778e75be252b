"""SBX, the algorithms of Stable-Baselines3 in JAX."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from . import seats
from .sb3 import REPLAY, ROLLOUT, learn

NAME, NEEDS = "SBX", ("sbx", "sbx-rl")


def leader() -> str:
    """Learn x."""
    import sbx

    def make() -> gym.Env[Any, Any]:
        return seats.make(seats.LEADER)

    return (
        f"{learn(sbx, ['PPO'], make, **ROLLOUT)}, {learn(sbx, ['SAC', 'CrossQ'], make, **REPLAY)}"
    )


def follower() -> str:
    """Learn to act."""
    import sbx

    done = learn(sbx, ["PPO"], seats.one_hot, **ROLLOUT)
    return f"{done}, {learn(sbx, ['DQN'], seats.one_hot, **REPLAY)}"


CHECKS = {"leader": leader, "follower": follower}
