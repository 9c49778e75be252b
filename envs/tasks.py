"""The table of tasks. Adding a task is its module and one row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["QUICK", "TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """A registered task.

    Attributes:
        id: Gymnasium id, `Bilevel...-vN`; N rises whenever its numbers change.
        summary: What the leader is to do, in at most 36 characters.
        entry_point: Class of the game.
        upper: What x is, for the table of tasks.
        source: Where the task comes from.
        enters: Where x enters: "reward", "kernel" or both.
        max_episode_steps: Time limit of the follower's episodes.
        tabular: Whether the game is tabular, so that copies of it can be stepped as arrays.
        kwargs: Constructor arguments of the game.
        test_kwargs: Constructor arguments of an instance small enough for the tests.
        test_options: Options of a leader's seat that is quick enough for the tests.
        climb: How the command line climbs where the follower learns, by Adam at a constant rate:
            `steps` and `learning_rate`, such as the docstring's numbers were reached with.
    """

    id: str
    summary: str
    entry_point: str
    upper: str
    source: str
    enters: str = "reward"
    max_episode_steps: int = 200
    tabular: bool = False
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

# The same without a critic.
PROBED = {name: option for name, option in QUICK.items() if name != "critic_updates"}

TASKS = (
    Task(
        id="BilevelGridWorld-v0",
        summary="lead a walker around hazards",
        entry_point="bilevel_gym.envs.grid_world:BilevelGridWorld",
        tabular=True,
        upper="shaping reward of each free cell",
        source="this project",
    ),
    Task(
        id="BilevelFourRooms-v0",
        summary="deter a walker with random goals",
        entry_point="bilevel_gym.envs.four_rooms:BilevelFourRooms",
        tabular=True,
        upper="logits of penalties on each free cell, and of what is unspent",
        source="Thoma et al., NeurIPS 2024",
    ),
    Task(
        id="BilevelGoalPlacement-v0",
        summary="place a goal to keep a walker near",
        entry_point="bilevel_gym.envs.goal_placement:BilevelGoalPlacement",
        tabular=True,
        upper="row and column of the follower's goal",
        source="this project, after Zeng et al., AISTATS 2026",
    ),
    Task(
        id="BilevelRandomMDP-v0",
        summary="keep a random policy spread out",
        entry_point="bilevel_gym.envs.random_mdp:BilevelRandomMDP",
        tabular=True,
        upper="parameters of random rewards",
        source="Yang et al., AISTATS 2025",
    ),
    Task(
        id="BilevelIncentive-v0",
        summary="pay for single moves in a graph",
        entry_point="bilevel_gym.envs.incentive:BilevelIncentive",
        tabular=True,
        max_episode_steps=100,
        upper="payment for each action in each state",
        source="Ma et al., TMLR 2025",
    ),
    Task(
        id="BilevelContract-v0",
        summary="pay for outcomes, not for effort",
        entry_point="bilevel_gym.envs.contract:BilevelContract",
        tabular=True,
        upper="payment for each outcome of a project",
        source="this project, after Grossman and Hart, 1983",
    ),
    Task(
        id="BilevelMarkovGame-v0",
        summary="commit to a mixed strategy",
        entry_point="bilevel_gym.envs.markov_game:BilevelMarkovGame",
        tabular=True,
        max_episode_steps=150,
        upper="logits of the leader's strategy in each place",
        enters="kernel, start",
        source="Kudo et al., ICAPS 2026",
    ),
    Task(
        id="BilevelTaxDesign-v0",
        summary="tax goods and income of households",
        entry_point="bilevel_gym.envs.tax_design:BilevelTaxDesign",
        tabular=True,
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
        summary="toll roads at one node of a network",
        entry_point="bilevel_gym.envs.toll:BilevelToll",
        tabular=True,
        upper="toll in minutes on each link at node 10",
        source="LeBlanc et al., 1975; Baillon and Cominetti, 2008",
    ),
    Task(
        id="BilevelCongestion-v0",
        summary="toll roads that traffic makes slow",
        entry_point="bilevel_gym.envs.congestion:BilevelCongestion",
        upper="toll in minutes on each link",
        source="LeBlanc et al., 1975; Baillon and Cominetti, 2008",
        test_kwargs={
            "network": [
                *([1, 2, 10, 5], [2, 1, 10, 5], [2, 3, 8, 4], [3, 2, 8, 4], [1, 3, 5, 8]),
                *([3, 1, 5, 8], [3, 4, 10, 3], [4, 3, 10, 3], [2, 4, 6, 6], [4, 2, 6, 6]),
            ],
            "demand": [[1, 4, 12], [4, 1, 6], [2, 3, 4]],
            "max_toll": 20,
        },
    ),
    Task(
        id="BilevelMarketEntry-v0",
        summary="spread many firms over markets",
        entry_point="bilevel_gym.envs.market_entry:BilevelMarketEntry",
        upper="fee or subsidy in each market",
        source="this project, after Zeng et al., arXiv 2509.15392",
    ),
    Task(
        id="BilevelInverseRL-v0",
        summary="infer rewards from demonstrations",
        entry_point="bilevel_gym.envs.inverse_rl:BilevelInverseRL",
        tabular=True,
        upper="reward of each kind of terrain, learnt from demonstrations",
        source="this project, after Ziebart et al., AAAI 2008",
    ),
    Task(
        id="BilevelThermal-v0",
        summary="insulate and ventilate a building",
        entry_point="bilevel_gym.envs.thermal:BilevelThermal",
        max_episode_steps=100,
        upper="insulation of each zone, air flow through each wall",
        enters="dynamics",
        source="Kudo et al., ICAPS 2026",
    ),
    Task(
        id="BilevelLQR-v0",
        summary="shape a linear controller's costs",
        entry_point="bilevel_gym.envs.lqr:BilevelLQR",
        max_episode_steps=100,
        upper="log-weights of the follower's costs",
        source="this project",
    ),
    Task(
        id="BilevelFrozenLake-v0",
        summary="shape rewards on a slippery lake",
        entry_point="bilevel_gym.envs.toy_text:BilevelToyText",
        tabular=True,
        max_episode_steps=100,
        upper="shaping reward of each state",
        source="Gymnasium toy text",
        kwargs={"env_id": "FrozenLake", "temperature": 0.1},
    ),
    Task(
        id="BilevelCliffWalking-v0",
        summary="shape rewards beside a cliff",
        entry_point="bilevel_gym.envs.toy_text:BilevelToyText",
        tabular=True,
        upper="shaping reward of each state",
        source="Gymnasium toy text",
        kwargs={"env_id": "CliffWalking", "temperature": 0.5},
        test_kwargs={"env_kwargs": {"is_slippery": True}},
    ),
    Task(
        id="BilevelTaxi-v0",
        summary="shape the rewards of a taxi driver",
        entry_point="bilevel_gym.envs.toy_text:BilevelToyText",
        tabular=True,
        upper="shaping reward of each state",
        source="Gymnasium toy text",
        kwargs={"env_id": "Taxi", "temperature": 0.5},
        test_kwargs={"env_kwargs": {"is_rainy": True}},
    ),
    Task(
        id="BilevelMiniGrid-v0",
        summary="lead a walker past lava",
        entry_point="bilevel_gym.envs.minigrid:BilevelMiniGrid",
        tabular=True,
        max_episode_steps=100,
        upper="reward of arriving in each cell, and of each event",
        source="this project, on MiniGrid",
    ),
    Task(
        id="BilevelPendulum-v0",
        summary="design the reward of a pendulum",
        entry_point="bilevel_gym.envs.pendulum:BilevelPendulum",
        max_episode_steps=100,
        upper="reward of each direction of the pole",
        source="this project",
        test_kwargs={"episode_steps": 20},
        test_options=QUICK,
    ),
    Task(
        id="BilevelCartPole-v0",
        summary="weigh terms of a cart-pole's reward",
        entry_point="bilevel_gym.envs.cartpole:BilevelCartPole",
        upper="weight of each shaping term",
        source="this project, after Hu et al., NeurIPS 2020",
        test_kwargs={"episode_steps": 20},
        test_options=QUICK,
    ),
    Task(
        id="BilevelReacher-v0",
        summary="design the reward of a robot arm",
        entry_point="bilevel_gym.envs.reacher:BilevelReacher",
        max_episode_steps=50,
        upper="reward of six features of a robot arm",
        source="this project, on Gymnasium's MuJoCo",
        test_kwargs={"episode_steps": 60},
        test_options=QUICK,
    ),
    Task(
        id="BilevelBodyDesign-v0",
        summary="design the body of a robot arm",
        entry_point="bilevel_gym.envs.body_design:BilevelBodyDesign",
        max_episode_steps=25,
        upper="lengths and motors of a robot arm",
        source="this project, on MuJoCo",
        enters="kernel",
        test_kwargs={"episode_steps": 12},
        test_options={**PROBED, "directions": 1},
    ),
    Task(
        id="BilevelPreferencePendulum-v0",
        summary="learn a reward from preferences",
        entry_point="bilevel_gym.envs.preference_pendulum:BilevelPreferencePendulum",
        upper="weights of a reward network, learnt from preferences",
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
        summary="reward a player of an Atari game",
        entry_point="bilevel_gym.envs.beam_rider:BilevelBeamRider",
        max_episode_steps=400,
        upper="weights of a convolutional network",
        source="the game of Yang et al., AISTATS 2025",
        test_kwargs={"channels": 2, "episode_steps": 60},
        test_options={
            "episodes": 1,
            "inner_steps": 8,
            "first_inner_steps": 16,
            "critic_updates": 1,
            "first_critic_updates": 1,
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
