"""Random games of arrays, for `ten_games.toml`: games on which no method was tuned.

    bilevel-gym benchmark tests/benchmarks/ten_games.toml --out runs/ten_games

from the root of the repository, which registers `BilevelRandomArrays-v0` by this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevel_gym import TabularBilevelEnv, register
from bilevel_gym.core.checks import check_at_least, check_choice

# What x adds to the reward: an entry for each state and action, each state, or each feature.
KINDS = ("pairs", "states", "features")
FEATURES = 6
# Rows of the kernel are Dirichlet draws: these are the concentrations, fewer successors the last.
CONCENTRATION = {"pairs": 1.0, "states": 1.0, "features": 0.3}


def random_arrays(
    kind: str = "pairs",
    *,
    seed: int = 0,
    num_states: int = 30,
    num_actions: int = 4,
    gamma: float = 0.95,
    temperature: float = 0.05,
    upper_cost: float = 0.05,
    render_mode: Any = None,
) -> TabularBilevelEnv:
    """Return a random game: dense kernel, rewards of both players uniform in [0, 1].

    Args:
        kind: One of `KINDS`.
        seed: Seed of all arrays.
        num_states: S; the follower starts in state 0.
        num_actions: A.
        gamma: Discount of both players.
        temperature: The follower's.
        upper_cost: Weight of ||x||^2 in the leader's cost.
        render_mode: Has no effect: there is no picture.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_choice("kind", kind, KINDS)
    check_at_least("num_states", num_states, 2)
    check_at_least("num_actions", num_actions, 1)
    rng = np.random.default_rng(check_at_least("seed", seed, 0))
    pairs = (num_states, num_actions)
    kernel = rng.dirichlet(np.full(num_states, CONCENTRATION[kind]), size=pairs)
    reward, upper_reward = rng.uniform(size=pairs), rng.uniform(size=pairs)
    if kind == "features":
        features = rng.normal(size=(*pairs, FEATURES))
    elif kind == "states":
        features = np.repeat(np.eye(num_states)[:, None], num_actions, axis=1)
    else:
        features = np.eye(num_states * num_actions).reshape(*pairs, -1)
    return TabularBilevelEnv.from_arrays(
        kernel,
        reward,
        upper_reward=upper_reward,
        features=features,
        initial_distribution=np.eye(num_states)[0],
        gamma=gamma,
        temperature=temperature,
        upper_cost=upper_cost,
    )


register("BilevelRandomArrays-v0", f"{__name__}:{random_arrays.__name__}", max_episode_steps=200)
