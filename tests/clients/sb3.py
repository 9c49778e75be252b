"""Stable-Baselines3: each algorithm on a seat whose action space it takes, and its own check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from . import seats

NAME, NEEDS = "Stable-Baselines3", ("stable_baselines3", "stable-baselines3")

STEPS = 96

REPLAY: dict[str, Any] = {"learning_starts": 32, "buffer_size": 200, "batch_size": 16}
ROLLOUT: dict[str, Any] = {"n_steps": 32}
"""What keeps a run short, of algorithms with a replay buffer and of those without."""


def learn(
    module: Any,
    names: Sequence[str],
    make: Callable[[], gym.Env[Any, Any]],
    policy: str = "MlpPolicy",
    **options: Any,
) -> str:
    """Let algorithms of a module learn, be saved and loaded, and act; return their names."""
    for name in names:
        algorithm = getattr(module, name)
        model = algorithm(policy, make(), seed=0, device="cpu", **options).learn(STEPS)
        if model.num_timesteps < STEPS:
            raise AssertionError(f"{name} has made {model.num_timesteps} of {STEPS} steps")
        model.save("model")
        observation, _ = make().reset(seed=0)
        action, _ = algorithm.load("model", device="cpu").predict(observation)
        if action not in model.action_space:
            raise AssertionError(f"{name} predicts {action}, which is no action")
    return ", ".join(names)


def leader() -> str:
    """Learn x."""
    import stable_baselines3 as library
    from stable_baselines3.common.env_checker import check_env

    def make() -> gym.Env[Any, Any]:
        return seats.make(seats.LEADER)

    check_env(make())
    done = learn(library, ["A2C", "PPO"], make, **ROLLOUT)
    return f"check_env; {done}, {learn(library, ['SAC', 'TD3', 'DDPG'], make, **REPLAY)}"


def follower() -> str:
    """Learn to act, with discrete actions and with continuous ones."""
    import stable_baselines3 as library
    from stable_baselines3.common.env_checker import check_env

    def make() -> gym.Env[Any, Any]:
        return seats.make(seats.FOLLOWER)

    def thermal() -> gym.Env[Any, Any]:
        return seats.make(seats.THERMAL_FOLLOWER)

    for any_of in (make, seats.one_hot, thermal):
        check_env(any_of())
    for seen in (make, seats.one_hot):
        done = learn(library, ["A2C", "PPO"], seen, **ROLLOUT)
        done += f", {learn(library, ['DQN'], seen, **REPLAY)}"
    return (
        f"check_env; {done}; {learn(library, ['SAC', 'TD3', 'DDPG'], thermal, **REPLAY)} on Thermal"
    )


CHECKS = {"leader": leader, "follower": follower}
