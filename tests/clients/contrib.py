"""sb3-contrib; `MaskablePPO` on the actions that exist in Toll."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from . import seats
from .sb3 import REPLAY, ROLLOUT, learn

NAME, NEEDS = "sb3-contrib", ("sb3_contrib", "sb3-contrib")


def leader() -> str:
    """Learn x."""
    import sb3_contrib as library

    def make() -> gym.Env[Any, Any]:
        return seats.make(seats.LEADER)

    replaying = learn(library, ["TQC", "CrossQ"], make, **REPLAY)
    searching = learn(library, ["ARS"], make, n_delta=2)
    recalling = learn(library, ["RecurrentPPO"], make, "MlpLstmPolicy", **ROLLOUT)
    return f"{replaying}, {searching}, {learn(library, ['TRPO'], make, **ROLLOUT)}, {recalling}"


def follower() -> str:
    """Learn to act; where actions vary, only those that exist."""
    import sb3_contrib as library

    make = seats.one_hot
    replaying = learn(library, ["QRDQN"], make, **REPLAY)
    searching = learn(library, ["ARS"], make, n_delta=2)
    recalling = learn(library, ["RecurrentPPO"], make, "MlpLstmPolicy", **ROLLOUT)
    without = f"{replaying}, {searching}, {learn(library, ['TRPO'], make, **ROLLOUT)}, {recalling}"
    return f"{without}; {masked()} on Toll"


def masked() -> str:
    """Let MaskablePPO learn on Toll, and see that it takes no action that does not exist."""
    from sb3_contrib import MaskablePPO
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    env = seats.make(seats.TOLL_FOLLOWER)
    if not is_masking_supported(env):
        raise AssertionError("the follower's seat of Toll offers no masks")
    model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=0, device="cpu")
    model.learn(256)
    observation, info = env.reset(seed=0)
    for _ in range(100):
        masks = get_action_masks(env)
        np.testing.assert_array_equal(masks, info["action_mask"])
        action, _ = model.predict(observation, action_masks=masks)
        if not masks[int(action)]:
            raise AssertionError(f"action {action} does not exist, got masks {masks}")
        observation, _, terminated, truncated, info = env.step(int(action))
        if terminated or truncated:
            observation, info = env.reset()
    return "MaskablePPO"


CHECKS = {"leader": leader, "follower": follower}
