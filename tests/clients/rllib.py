"""RLlib: an iteration of PPO, by the id and its options."""

from __future__ import annotations

from typing import Any

from . import seats

NAME, NEEDS = "RLlib", ("ray.rllib", "ray")


def trained(env_id: str, options: dict[str, Any]) -> str:
    """Train for one iteration, in this process."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    if not ray.is_initialized():
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment(env_id, env_config=options)
        .env_runners(num_env_runners=0)
        .training(train_batch_size=128, minibatch_size=64, num_epochs=1)
    )
    algorithm = config.build_algo()
    result = algorithm.train()
    algorithm.stop()
    steps = result["env_runners"]["num_env_steps_sampled"]
    if steps < 128:
        raise AssertionError(f"one iteration has made {steps} of 128 steps")
    return "an iteration of PPO"


def leader() -> str:
    """Learn x."""
    return trained(seats.LEADER, seats.OPTIONS[seats.LEADER])


def follower() -> str:
    """Learn to act, from a vector for each state: RLlib has no default encoder for Discrete."""
    return f"{trained(seats.FOLLOWER, seats.ONE_HOT)}, one-hot"


CHECKS = {"leader": leader, "follower": follower}
