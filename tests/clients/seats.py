"""The ids and options that the clients are tried on, and environments of them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import bilevel_gym

gym.register_envs(bilevel_gym)

LEADER, FOLLOWER = "BilevelGridWorld-v0", "BilevelGridWorldFollower-v0"
TOLL, TOLL_FOLLOWER = "BilevelToll-v0", "BilevelTollFollower-v0"
THERMAL, THERMAL_FOLLOWER = "BilevelThermal-v0", "BilevelThermalFollower-v0"

OPTIONS: dict[str, dict[str, Any]] = {
    LEADER: {"map_name": "4x4", "outer_steps": 16},
    FOLLOWER: {"map_name": "4x4"},
}
"""What keeps episodes short."""

ONE_HOT: dict[str, Any] = {**OPTIONS[FOLLOWER], "observation": "one-hot"}
"""For learners that read no Discrete observations."""


def make(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """Return an environment, small unless options are given."""
    return gym.make(env_id, **(options or OPTIONS.get(env_id, {})))


def one_hot() -> gym.Env[Any, Any]:
    """Return the follower's seat with a vector for each state."""
    return make(FOLLOWER, **ONE_HOT)
