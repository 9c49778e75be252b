"""One table of tasks, one loop that registers them. Adding a task is its module and one row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from .core.plugins import declared

__all__ = ["ENTRY_POINTS", "TASKS", "Task", "register", "register_tasks", "task_ids"]

# Group of the entry points by which a package declares tasks: id = "module:Class".
ENTRY_POINTS = "bilevel_gym.tasks"

LEADER = WrapperSpec(
    name="HyperGradient",
    entry_point="bilevel_gym.wrappers.hyper_gradient:HyperGradient",
    kwargs={"outer_steps": 100},
)


@dataclass(frozen=True)
class Task:
    """A registered task.

    Attributes:
        id: Gymnasium id, `Bilevel...-vN`; N rises whenever its numbers change.
        entry_point: Class of the game.
        max_episode_steps: Time limit of the follower's episodes.
        upper: What x is, for the table of tasks.
        enters: Where x enters: "reward", "kernel" or both.
        source: Where the task comes from.
        kwargs: Constructor arguments of the game.
        test_kwargs: Constructor arguments of an instance small enough for the tests.
        test_options: Options of a leader's seat that is quick enough for the tests.
        climb: How the command line climbs where the follower learns, by Adam at a constant rate:
            `steps` and `learning_rate`, such as the docstring's numbers were reached with.
    """

    id: str
    entry_point: str
    max_episode_steps: int
    upper: str
    enters: str
    source: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    test_kwargs: dict[str, Any] = field(default_factory=dict)
    test_options: dict[str, Any] = field(default_factory=dict)
    climb: dict[str, Any] = field(default_factory=dict)


# What a follower who learns gets in tests.
QUICK: dict[str, Any] = {
    "episodes": 2,
    "first_inner_steps": 12,
    "inner_steps": 12,
    "critic_updates": 2,
    "inner_options": {
        "policy_kwargs": {"net_arch": [8]},
        "learning_starts": 10,
        "batch_size": 16,
        "buffer_size": 500,
    },
}

TASKS = (
    Task(
        id="BilevelGridWorld-v0",
        entry_point="bilevel_gym.envs.grid_world:BilevelGridWorld",
        max_episode_steps=200,
        upper="shaping reward of each free cell",
        enters="reward",
        source="this project",
    ),
    Task(
        id="BilevelFourRooms-v0",
        entry_point="bilevel_gym.envs.four_rooms:BilevelFourRooms",
        max_episode_steps=200,
        upper="logits of penalties on each free cell, and of what is unspent",
        enters="reward",
        source="Thoma et al., NeurIPS 2024",
    ),
    Task(
        id="BilevelRandomMDP-v0",
        entry_point="bilevel_gym.envs.random_mdp:BilevelRandomMDP",
        max_episode_steps=200,
        upper="parameters of random rewards",
        enters="reward",
        source="Yang et al., AISTATS 2025",
    ),
    Task(
        id="BilevelIncentive-v0",
        entry_point="bilevel_gym.envs.incentive:BilevelIncentive",
        max_episode_steps=100,
        upper="payment for each action in each state",
        enters="reward",
        source="Ma et al., TMLR 2025",
    ),
    Task(
        id="BilevelMarkovGame-v0",
        entry_point="bilevel_gym.envs.markov_game:BilevelMarkovGame",
        max_episode_steps=150,
        upper="logits of the leader's strategy in each place",
        enters="kernel, start",
        source="Kudo et al., ICAPS 2026",
    ),
    Task(
        id="BilevelTaxDesign-v0",
        entry_point="bilevel_gym.envs.tax_design:BilevelTaxDesign",
        max_episode_steps=200,
        upper="tax rates on three goods and on income",
        enters="reward, kernel",
        source="Thoma et al., NeurIPS 2024",
        test_kwargs={
            "num_assets": 25,
            "hours_levels": 4,
            "hours_step": 2.67,
            "spending_levels": 3,
            "spending_step": 2.5,
        },
    ),
    Task(
        id="BilevelToll-v0",
        entry_point="bilevel_gym.envs.toll:BilevelToll",
        max_episode_steps=200,
        upper="toll in minutes on each link at node 10",
        enters="reward",
        source="LeBlanc et al., 1975; Baillon and Cominetti, 2008",
    ),
    Task(
        id="BilevelInverseRL-v0",
        entry_point="bilevel_gym.envs.inverse_rl:BilevelInverseRL",
        max_episode_steps=200,
        upper="reward of each kind of terrain, learnt from demonstrations",
        enters="reward",
        source="this project, after Ziebart et al., AAAI 2008",
    ),
    Task(
        id="BilevelThermal-v0",
        entry_point="bilevel_gym.envs.thermal:BilevelThermal",
        max_episode_steps=100,
        upper="insulation of each zone, air flow through each wall",
        enters="dynamics",
        source="Kudo et al., ICAPS 2026",
    ),
    Task(
        id="BilevelLQR-v0",
        entry_point="bilevel_gym.envs.lqr:BilevelLQR",
        max_episode_steps=100,
        upper="log-weights of the follower's costs",
        enters="reward",
        source="this project",
    ),
    Task(
        id="BilevelFrozenLake-v0",
        entry_point="bilevel_gym.envs.toy_text:BilevelToyText",
        max_episode_steps=100,
        upper="shaping reward of each state",
        enters="reward",
        source="Gymnasium toy text",
        kwargs={"env_id": "FrozenLake", "temperature": 0.1},
    ),
    Task(
        id="BilevelCliffWalking-v0",
        entry_point="bilevel_gym.envs.toy_text:BilevelToyText",
        max_episode_steps=200,
        upper="shaping reward of each state",
        enters="reward",
        source="Gymnasium toy text",
        kwargs={"env_id": "CliffWalking", "temperature": 0.5},
        test_kwargs={"env_kwargs": {"is_slippery": True}},
    ),
    Task(
        id="BilevelTaxi-v0",
        entry_point="bilevel_gym.envs.toy_text:BilevelToyText",
        max_episode_steps=200,
        upper="shaping reward of each state",
        enters="reward",
        source="Gymnasium toy text",
        kwargs={"env_id": "Taxi", "temperature": 0.5},
        test_kwargs={"env_kwargs": {"is_rainy": True}},
    ),
    Task(
        id="BilevelPendulum-v0",
        entry_point="bilevel_gym.envs.pendulum:BilevelPendulum",
        max_episode_steps=100,
        upper="pay for each direction of the pole",
        enters="reward",
        source="this project",
        test_kwargs={"episode_steps": 20},
        test_options=QUICK,
        climb={"steps": 6, "learning_rate": 0.4},
    ),
    Task(
        id="BilevelCartPole-v0",
        entry_point="bilevel_gym.envs.cartpole:BilevelCartPole",
        max_episode_steps=200,
        upper="weight of each shaping term",
        enters="reward",
        source="this project, after Hu et al., NeurIPS 2020",
        test_kwargs={"episode_steps": 20},
        test_options=QUICK,
        climb={"steps": 12, "learning_rate": 0.1},
    ),
    Task(
        id="BilevelReacher-v0",
        entry_point="bilevel_gym.envs.reacher:BilevelReacher",
        max_episode_steps=50,
        upper="pay for six features of a robot arm",
        enters="reward",
        source="this project, on Gymnasium's MuJoCo",
        test_kwargs={"episode_steps": 60},
        test_options=QUICK,
        climb={"steps": 8, "learning_rate": 0.3},
    ),
    Task(
        id="BilevelPreferencePendulum-v0",
        entry_point="bilevel_gym.envs.preference_pendulum:BilevelPreferencePendulum",
        max_episode_steps=200,
        upper="weights of a reward network, learnt from preferences",
        enters="reward",
        source="this project, after Christiano et al., NeurIPS 2017",
        test_kwargs={"hidden": [8], "episode_steps": 60, "fragment_steps": 15},
        test_options={
            "first_comparisons": 4,
            "comparisons": 4,
            "inner_steps": 8,
            "inner_options": {**QUICK["inner_options"], "learning_starts": 4},
        },
        climb={"steps": 700, "learning_rate": 1e-3},
    ),
    Task(
        id="BilevelBeamRider-v0",
        entry_point="bilevel_gym.envs.beam_rider:BilevelBeamRider",
        max_episode_steps=400,
        upper="weights of a convolutional network",
        enters="reward",
        source="the game of Yang et al., AISTATS 2025",
        test_kwargs={"channels": 2, "episode_steps": 60},
        test_options={
            "episodes": 1,
            "inner_steps": 8,
            "critic_updates": 1,
            "inner_options": {
                "buffer_size": 100,
                "learning_starts": 4,
                "train_freq": 4,
                "gradient_steps": 1,
                "batch_size": 4,
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
                "policy_kwargs": {
                    "n_critics": 1,
                    "features_extractor_kwargs": {"features_dim": 8},
                },
            },
        },
        climb={"steps": 4, "learning_rate": 1e-3},
    ),
)


def register(
    id: str,
    entry_point: str | Callable[..., gym.Env[Any, Any]],
    *,
    max_episode_steps: int | None = None,
    kwargs: dict[str, Any] | None = None,
) -> None:
    """Register a game with Gymnasium, in the leader's seat.

    Args:
        id: Gymnasium id, such as "Commute-v0".
        entry_point: Class of the game, or "module:Class". A class at the top of a module is
            remembered by its name, so that the environment's spec survives the way through JSON.
        max_episode_steps: Time limit of the follower's episodes.
        kwargs: Constructor arguments of the game.
    """
    if isinstance(entry_point, type) and entry_point.__module__ != "__main__":
        name = entry_point.__qualname__
        if getattr(sys.modules.get(entry_point.__module__), name, None) is entry_point:
            entry_point = f"{entry_point.__module__}:{name}"
    gym.register(
        id=id,
        entry_point=entry_point,
        max_episode_steps=max_episode_steps,
        kwargs=dict(kwargs or {}),
        additional_wrappers=(LEADER,),
    )


def register_tasks() -> None:
    """Register every task of this package and those that installed packages declare.

    An id that is taken already stays as it is.
    """
    for task in TASKS:
        if task.id not in gym.registry:
            register(
                task.id,
                task.entry_point,
                max_episode_steps=task.max_episode_steps,
                kwargs=task.kwargs,
            )
    own = frozenset(task.id for task in TASKS)
    for env_id, entry_point in declared(ENTRY_POINTS, own).items():
        if env_id not in gym.registry:
            register(env_id, entry_point)


def task_ids() -> list[str]:
    """Return the ids of all registered games: this package's first, then those from outside."""
    own = [task.id for task in TASKS]
    games = [spec.id for spec in gym.registry.values() if LEADER in spec.additional_wrappers]
    return [*dict.fromkeys([*own, *games])]
