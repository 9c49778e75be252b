"""Tianshou: an epoch of SAC for the leader, of DQN for the follower, by the id and its options.

Its `DummyVectorEnv` reads the action space of `env.unwrapped`, past every wrapper that changes it,
as a seat does; its vectors of processes read that of the environment.
"""

from __future__ import annotations

from typing import Any

from . import seats

NAME, NEEDS = "Tianshou", ("tianshou", "tianshou")


def trained(builder: str, env_id: str, options: dict[str, Any]) -> str:
    """Run an experiment of the high-level interface: an epoch of training, and a test."""
    from tianshou.highlevel import experiment as experiments
    from tianshou.highlevel.config import OffPolicyTrainingConfig
    from tianshou.highlevel.env import EnvFactoryRegistered, VectorEnvType

    made: Any = getattr(experiments, builder)(
        EnvFactoryRegistered(task=env_id, venv_type=VectorEnvType.SUBPROC, **options),
        experiments.ExperimentConfig(
            watch=False, persistence_enabled=False, log_file_enabled=False, device="cpu"
        ),
        OffPolicyTrainingConfig(
            max_epochs=1,
            epoch_num_steps=64,
            num_training_envs=2,
            num_test_envs=1,
            test_step_num_episodes=1,
            buffer_size=500,
            batch_size=16,
            collection_step_num_env_steps=16,
            start_timesteps=32,
            start_timesteps_random=True,
        ),
    )
    found = made.build().run(raise_error_on_dirname_collision=False)
    steps = found.trainer_result.update_step
    if not steps:
        raise AssertionError("an epoch has made no update")
    return f"an epoch of {builder.removesuffix('ExperimentBuilder')}"


def leader() -> str:
    """Learn x."""
    return trained("SACExperimentBuilder", seats.LEADER, seats.OPTIONS[seats.LEADER])


def follower() -> str:
    """Learn to act, from a vector for each state."""
    return f"{trained('DQNExperimentBuilder', seats.FOLLOWER, seats.ONE_HOT)}, one-hot"


CHECKS = {"leader": leader, "follower": follower}
