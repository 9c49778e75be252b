"""TorchRL: specs of both seats, readers of their infos, and rollouts."""

from __future__ import annotations

from typing import Any

from . import seats

NAME, NEEDS = "TorchRL", ("torchrl", "torchrl")


def rolled(env_id: str, *keys: str, **options: Any) -> str:
    """Check specs without and with infos; a rollout has them."""
    from torchrl.envs import GymEnv
    from torchrl.envs.utils import check_env_specs

    options = options or seats.OPTIONS.get(env_id, {})
    check_env_specs(GymEnv(env_id, **options))
    reading: Any = GymEnv(env_id, **options).auto_register_info_dict()
    check_env_specs(reading)
    found = reading.rollout(4)["next"].keys()
    for key in keys:
        if key not in found:
            raise AssertionError(f"a rollout lacks {key!r}, got {sorted(found)}")
    return "GymEnv, check_env_specs, auto_register_info_dict, rollout"


def leader() -> str:
    """Read the hyper-gradient."""
    return rolled(seats.LEADER, "hyper_gradient", "objective", "inner_converged")


def follower() -> str:
    """Read the leader's reward and, on Toll, the masks."""
    rolled(seats.TOLL_FOLLOWER, "upper_reward", "action_mask")
    rolled(seats.THERMAL_FOLLOWER, "upper_reward")
    rolled(seats.FOLLOWER, "upper_reward", **seats.ONE_HOT)
    return rolled(seats.FOLLOWER, "upper_reward")


CHECKS = {"leader": leader, "follower": follower}
