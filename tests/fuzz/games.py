"""Odd arguments for the tasks, for games of one's own and for reward models."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

import bilevel_gym
from bilevel_gym.envs.grid_world import random_map
from bilevel_gym.envs.inverse_rl import random_terrain
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.envs.tasks import TASKS, Task
from bilevel_gym.model.base import BilevelModel
from bilevel_gym.rewards import LinearReward, make_reward_model

from ..helpers import RING, TERRAIN, game_class
from .judge import Case, check_answer, check_same, finite
from .odd import Draw, case_of, odd_like, scribble, spoilt

# What stands in place of a default of None, and of what would take long.
EXAMPLES: dict[str, dict[str, Any]] = {
    "BilevelGridWorld": {"desc": ["S.G", "..H"]},
    "BilevelContract": {"outcomes": [[0.8, 0.1, 0.1], [0.2, 0.1, 0.7]], "costs": [0.0, 0.1]},
    "BilevelFourRooms": {"goals": [[1, 9], [11, 11]]},
    "BilevelGoalPlacement": {"desc": ["S.T", ".H."]},
    "BilevelIncentive": {"paid": [[0, 1], [1, 0]]},
    "BilevelInverseRL": {"desc": TERRAIN, "num_demonstrations": 5},
    "BilevelLQR": {
        "num_states": 2,
        "num_actions": 1,
        "dynamics": np.array([[0.9, 0.1], [0.0, 0.8]]),
        "control": np.array([[0.0], [1.0]]),
        "state_cost": np.eye(2),
        "action_cost": np.eye(1),
        "upper_state_cost": np.eye(2),
        "upper_action_cost": np.eye(1),
        "horizon": 5,
    },
    "BilevelRandomMDP": {"num_states": 4, "num_actions": 2, "upper_dim": 3, "branching": 2},
    "BilevelTaxDesign": {"num_assets": 7, "hours_levels": 2, "spending_levels": 2},
    "BilevelToll": {
        "network": RING,
        "zone": 5,
        "tolled_links": [[2, 3], [7, 2]],
        "origins": [2],
        "destinations": [3],
    },
    "BilevelPreferencePendulum": {"hidden": [8], "episode_steps": 60, "fragment_steps": 15},
    "BilevelReacher": {"episode_steps": 60},
    "BilevelBodyDesign": {"episode_steps": 12},
    "BilevelBeamRider": {"channels": 2, "episode_steps": 60},
}

# Other ways to make them, some of the time.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "BilevelContract": [{"revenues": [0.0, 0.5, 1.0]}],
    "BilevelGridWorld": [
        {"desc": None, "map_name": "4x4"},
        {"desc": None, "size": 4, "map_seed": 1},
        {"desc": None, "size": [3, 4], "map_seed": 1},
    ],
    "BilevelInverseRL": [
        {"desc": None, "size": 4, "num_kinds": 3},
        {"features": [[0.5, 1.0]] * 9, "true_params": [0.5, -0.5]},
        {"demonstrations": [[[0, 1], [1, 2]], [[2, 0]]]},
    ],
    "BilevelLQR": [
        {"num_states": 4, "num_actions": 2, "enters": "dynamics"}
        | dict.fromkeys(
            (
                "dynamics",
                "control",
                "state_cost",
                "action_cost",
                "upper_state_cost",
                "upper_action_cost",
            )
        )
    ],
    "BilevelRandomMDP": [{"reward": "features", "active_features": 2}],
    "BilevelToll": [
        dict.fromkeys(("network", "tolled_links", "origins", "destinations"), None) | {"zone": 10}
    ],
}

# Arguments of which large values ask for much work and memory: they are given small ones.
EXTENTS = {
    "num_states",
    "num_actions",
    "num_assets",
    "hours_levels",
    "spending_levels",
    "upper_dim",
    "branching",
    "size",
    "num_demonstrations",
    "channels",
    "hidden",
    "num_kinds",
    "horizon",
}


def arguments_of(task: Task, draw: Draw) -> dict[str, Any]:
    """Return arguments with which a task is made, none of them odd."""
    kind = game_class(task)
    parameters = inspect.signature(kind).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    given = {**defaults, **task.kwargs, **EXAMPLES.get(kind.__name__, {})}
    if others := OTHERS.get(kind.__name__):
        given |= draw(st.sampled_from([{}, *others]))
    return {name: value for name, value in given.items() if name != "seed" or value is not None}


def play(game: Any, given: Any) -> None:
    """Answer at the first x, if there is an exact answer, and make two steps."""
    x = game.initial_upper_params
    exact = isinstance(game.model, BilevelModel)
    if exact:
        before = check_answer(game.evaluate(x))
        scribble(given)
        check_same(before, game.evaluate(x), "the arrays that had been given")
    game.reset(seed=0)
    game.lower_space.seed(0)
    for _ in range(2):
        _, reward, over, cut, info = game.step({"upper": x, "lower": game.lower_space.sample()})
        finite(float(reward), float(info["upper_reward"]))
        if over or cut:
            break


LEARNT = ("Pendulum", "CartPole", "Reacher", "BodyDesign", "BeamRider")


def made(task: Task, draw: Draw) -> Case:
    """A task with odd arguments, by its class, by Gymnasium or by this package's `make`."""
    given, said = spoilt(draw, arguments_of(task, draw))
    way = draw(st.sampled_from(["class", "class", "make"]))
    kind = game_class(task)

    def call() -> None:
        if way == "class":
            game: Any = kind(**given)
        else:
            rest = {n: v for n, v in given.items() if n != "render_mode"}
            game = bilevel_gym.make(task.id, **rest).unwrapped
        try:
            play(game, given)
        finally:
            game.close()

    return case_of(
        f"{kind.__name__}, {way}",
        said,
        call,
        *given,
        "bounds of x",
        "`bound`",
        "initial_upper_params",
        "`upper_reward`",  # which a weight makes too large
    )


def task(draw: Draw) -> Case:
    """A task whose follower is solved."""
    solved = [t for t in TASKS if not any(name in t.id for name in LEARNT)]
    return made(draw(st.sampled_from(solved)), draw)


def learnt_task(draw: Draw) -> Case:
    """A task whose follower learns; it is made and played."""
    learnt = [t for t in TASKS if any(name in t.id for name in LEARNT)]
    return made(draw(st.sampled_from(learnt)), draw)


def maps(draw: Draw) -> Case:
    if draw(st.booleans()):
        given, said = spoilt(draw, {"size": 5, "seed": 0})
        return case_of("random_map", said, lambda: random_map(**given))
    given, said = spoilt(draw, {"size": 5, "num_kinds": 3, "seed": 0})
    return case_of("random_terrain", said, lambda: random_terrain(**given), "num_kinds")


def upright(observations: Any, actions: Any) -> Any:
    return np.maximum(observations[:, :1], 0.0)


def parametric(draw: Draw) -> Case:
    model = draw(
        st.sampled_from(
            [
                {"kind": "linear", "features": upright, "num_params": 1, "bound": 1.0},
                {"kind": "network", "hidden": [3], "activation": "tanh", "bound": 1.0, "seed": 1},
            ]
        )
    )
    good = {
        "env_id": "Pendulum-v1",
        "reward_model": model,
        "env_kwargs": None,
        "episode_steps": 20,
        "upper_reward": None,
        "gamma": 0.9,
        "temperature": 0.5,
        "upper_gamma": 0.9,
        "upper_bound": 5.0,
        "initial_upper_params": np.zeros(1) if model["kind"] == "linear" else None,
        "render_mode": None,
    }
    given, said = spoilt(draw, good)

    def call() -> None:
        play(ParametricGame(**given), given)

    return case_of("ParametricGame", said, call, *good, *model, "reward model", "bounds of x")


OBSERVED, ACTED = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 2.0, (1,))


def reward_model(draw: Draw) -> Case:
    kind = draw(st.sampled_from(["LinearReward", "linear", "network"]))
    linear = {"features": upright, "num_params": 1, "base": None, "bound": 2.0}
    network = {
        "hidden": [3],
        "activation": "tanh",
        "bound": 1.0,
        "reads_actions": True,
        "seed": 0,
    }
    given, said = spoilt(draw, network if kind == "network" else linear)

    def call() -> None:
        if kind == "LinearReward":
            model: Any = LinearReward(**given)
        else:
            model = make_reward_model({"kind": kind, **given}, OBSERVED, ACTED)
        if model.num_params > 1000:
            return
        x = np.zeros(model.num_params)
        finite(np.asarray(model.rewards(x, np.zeros((4, 3)), np.zeros((4, 1)))))

    return case_of(f"reward model, {kind}", said, call, *given)


def gym_make(draw: Draw) -> Case:
    """Gymnasium's own `make`: its errors, ours within."""
    task = draw(st.sampled_from([t for t in TASKS if "BeamRider" not in t.id]))
    options = {"max_episode_steps": 5, "render_mode": None, **task.test_kwargs}
    name = draw(st.sampled_from([*options]))
    label, value = odd_like(draw, options[name])

    def call() -> None:
        gym.make(task.id, **{**options, name: value})

    return case_of(f"gym.make({task.id!r})", [f"{name}: {label}"], call, named=False)


TARGETS = {f.__name__: f for f in (task, learnt_task, maps, parametric, reward_model)}
