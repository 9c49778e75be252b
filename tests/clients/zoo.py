"""RL Baselines3 Zoo: train and enjoy, with the hyperparameters that ship in `demos/rl_zoo3.yml`."""

from __future__ import annotations

from pathlib import Path

from . import seats
from .commands import run

NAME, NEEDS = "rl_zoo3", ("rl_zoo3", "rl_zoo3")

HYPERPARAMETERS = Path(__file__).parents[2] / "demos" / "rl_zoo3.yml"


def trained(env_id: str) -> str:
    """Train for a few steps, and watch the agent for a few."""
    task = (
        "--algo",
        "ppo",
        "--env",
        env_id,
        "--gym-packages",
        "tests.clients.seats",
        "--device",
        "cpu",
    )
    few = ("--n-timesteps", "256", "--eval-freq", "128", "--eval-episodes", "1", "--seed", "0")
    run("-m", "rl_zoo3.train", *task, *few, "--conf-file", str(HYPERPARAMETERS))
    if not list(Path("logs/ppo").glob(f"{env_id}_1/{env_id}.zip")):
        raise AssertionError(f"no agent is left of {env_id}")
    run("-m", "rl_zoo3.enjoy", *task, "--folder", "logs", "--no-render", "--n-timesteps", "100")
    return "train and enjoy, PPO of demos/rl_zoo3.yml"


def leader() -> str:
    """Learn x."""
    return trained(seats.LEADER)


def follower() -> str:
    """Learn to act."""
    return trained(seats.FOLLOWER)


CHECKS = {"leader": leader, "follower": follower}
