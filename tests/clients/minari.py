"""Minari: episodes of both seats recorded with their infos, and read again."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from . import seats

NAME, NEEDS = "Minari", ("minari", "minari")


def recorded(env: gym.Env[Any, Any], name: str) -> str:
    """Record two episodes, and compare a dataset on disk with them."""
    os.environ["MINARI_DATASETS_PATH"] = str(Path.cwd() / "minari")
    import minari

    collector = minari.DataCollector(env, record_infos=True)
    env.action_space.seed(0)
    infos, rewards = [], []
    for seed in range(2):
        _, info = collector.reset(seed=seed)
        infos.append(info)
        for _ in range(5):
            _, reward, terminated, truncated, info = collector.step(env.action_space.sample())
            infos.append(info)
            rewards.append(float(reward))
            if terminated or truncated:
                break
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of authors and permalinks
        made = collector.create_dataset(f"bilevel/{name}-v0", eval_env=env)
    episodes = list(minari.load_dataset(made.spec.dataset_id).iterate_episodes())
    np.testing.assert_allclose(np.concatenate([one.rewards for one in episodes]), rewards)
    for key in infos[0]:
        values = np.concatenate([np.asarray(one.infos[key]) for one in episodes])
        np.testing.assert_array_equal(values, np.array([info[key] for info in infos]))
    made.recover_environment().reset(seed=0)
    return "DataCollector(record_infos=True), load_dataset, recover_environment"


def leader() -> str:
    """Record answers to random x, with their hyper-gradients."""
    return recorded(seats.make(seats.LEADER), "leader")


def follower() -> str:
    """Record random actions; Toll has masks."""
    recorded(seats.make(seats.TOLL_FOLLOWER), "toll")
    return recorded(seats.make(seats.FOLLOWER), "follower")


CHECKS = {"leader": leader, "follower": follower}
