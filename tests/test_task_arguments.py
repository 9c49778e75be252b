"""What tasks refuse when they are made: numbers out of range by their kind, and each one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bilevel_gym.envs import (
    BilevelContract,
    BilevelFourRooms,
    BilevelGoalPlacement,
    BilevelGridWorld,
    BilevelIncentive,
    BilevelInverseRL,
    BilevelLQR,
    BilevelPendulum,
    BilevelRandomMDP,
    BilevelTaxDesign,
    BilevelToll,
    BilevelToyText,
    random_map,
)
from bilevel_gym.registration import TASKS
from bilevel_gym.wrappers.entry_points import bare_game

from .helpers import HOUSEHOLDS, RING, TERRAIN, game_class, leader_seat

NAN, INF = float("nan"), float("inf")

# What is said of each kind of number, what is none, and which arguments are such numbers in
# every task that takes them.
NUMBERS: list[tuple[str, tuple[Any, ...], str]] = [
    (
        "must be positive and finite",
        (0.0, -1.0, INF, NAN, "2"),
        "action_limit asset_limit budget hours_step max_payment max_rate max_toll max_weight noise "
        "norm rationality reward_bound spending_step start_variance temperature upper_bound wage",
    ),
    (
        "must be finite and not negative",
        (-1.0, INF, NAN, "2"),
        "bonus consumption_weight effort_cost energy_cost hazard_cost hours_cost noise_std "
        "own_reward payment_cost payment_weight revenue revenue_weight ridge shaping_cost "
        "start_std upper_cost zone_cost",
    ),
    ("must lie in [0, ", (1.5, -0.1, NAN, "0.5"), "gamma slip sticky upper_gamma"),
    ("must lie in [0, 1)", (1.0,), "gamma"),
    (
        "an integer of at least",
        (0, -1, 1.5, True, "3"),
        "branching channels episode_steps fragment_steps horizon hours_levels num_actions "
        "num_assets num_demonstrations num_kinds num_states spending_levels stages upper_dim",
    ),
    ("must be True or False", (1, "no"), "clipped"),
]
CLASSES = {game_class(task): task for task in TASKS}


@pytest.mark.parametrize("task", CLASSES.values(), ids=lambda task: task.id)
def test_numbers_out_of_range_are_named_with_what_was_given(task: Any) -> None:
    parameters = inspect.signature(game_class(task)).parameters
    for said, values, names in NUMBERS:
        for name in {*names.split()} & {*parameters}:
            for value in values:
                with pytest.raises(ValueError) as caught:
                    leader_seat(task, **{name: value})
                assert f"`{name}` " in str(caught.value)
                assert said in str(caught.value) and f"got {value!r}" in str(caught.value)
    for mode in ("ansi", "rgb"):
        with pytest.raises(ValueError, match=f"unknown render_mode '{mode}'.*'rgb_array'"):
            bare_game(task.id, render_mode=mode)


ROWS: list[Any] = []


def refused(make: Callable[..., Any], name: str, said: str, *values: Any) -> None:
    """Add values that an argument does not take.

    Args:
        make: What makes the task; `partial` adds other arguments.
        name: The argument.
        said: What the message must contain, in parts with a semicolon between them. Where it says
            nothing of what was received, the message must contain the value.
        values: The values.
    """
    label = f"{getattr(make, 'func', make).__name__}, {name}: {said}"
    for value in values:
        parts = said.split("; ") + ([] if "got" in said else [repr(value)])
        ROWS.append(pytest.param(partial(make, **{name: value}), parts, id=label))


grid = partial(refused, BilevelGridWorld)
grid("desc", "`desc`; exactly one start ('S'); got 0", ["..G"])
grid("desc", "`desc`; exactly one start ('S'); got 2", ["S.G", "..S"])
grid("desc", "`desc`; exactly one goal ('G'); got 0", ["S.."])
grid("desc", "`desc`; exactly one goal ('G'); got 2", ["SGG"])
grid("desc", "`desc`; reachable; got; (0, 0); (1, 2)", ["S#.", ".#G"])
grid("desc", "`desc`; equal lengths, got 3 in row 0; 2 in row 2", ["S.G", "...", ".."])
grid("desc", "`desc`; got 'F'; row 1; column 1; 'H' hazard; '#' wall", ["S.G", ".F."])
grid("desc", "`desc`; at least one cell; got an empty map", [], [""])
grid("desc", "`desc`; list of strings", "S.G", 8, [["S", "G"]])
grid("map_name", "unknown map_name '8x9'; '16x16'; '4x4'; Did you mean '8x8'?", "8x9")
grid("map_name", "unknown map_name 8; '8x8'", 8)
grid("map_name", "unknown map_name ['SG']; '8x8'", ["SG"])
grid("map_seed", "`map_seed` goes with `size`, got map_seed=3", 3)
sides: tuple[Any, ...] = (1, 5001, (8, 5001), 8.5, (8.0, 8), "8x8", True)
grid("size", "`size`; 2..5000", *sides)
grid("size", "`size`; (rows, columns)", (8, 8, 8))
refused(partial(random_map, seed=0), "size", "`size`; 2..5000", "8")
refused(partial(BilevelGridWorld, ["SG"]), "size", "`desc`, `map_name` and `size`; got; size=4", 4)
named = partial(BilevelGridWorld, map_name="4x4")
refused(named, "size", "one of `desc`, `map_name` and `size`; got; map_name='4x4' and size=8", 8)
sized = partial(BilevelGridWorld, size=5)
refused(sized, "map_seed", "`map_seed`; integer of at least 0", -1, 0.5)

rooms = partial(refused, BilevelFourRooms)
rooms("goals", "`goals` must have at least one cell, got none", [])
no_goals = ((1, 9), 7, None, "ab", ["ab"], [(1, 9, 2)], [(1.0, 9.0)], np.array(3))
rooms("goals", "`goals` must be a list of (row, column) pairs", *no_goals)
rooms("goals", "`goals` must be free cells; got (0, 0)", [(1, 9), (0, 0)])
rooms("goals", "`goals` must be free cells; got (13, 1)", [(13, 1)])
rooms("goals", "`goals` must be free cells; got (-1, 9)", [(-1, 9)])
rooms("goals", "`goals` must be free cells; other than start; got (4, 1)", [(4, 1)])
rooms("goals", "`goals` must be free cells; target, got (8, 4)", [(8, 4)])
rooms("goals", "`goals` must differ from each other, got (1, 9) twice", [(1, 9), (1, 9)])
rooms("slip", "`slip` must lie in [0, 0.75]", 0.8)

terrain = partial(refused, BilevelInverseRL)
terrain("desc", "`desc` must be a list of strings, one per row", "aG")
terrain("desc", "`desc` must have at least one cell; got", [])
terrain("desc", "rows of `desc` must have equal lengths, got 2 in row 0 and 1", ["aG", "a"])
terrain("desc", "cells of `desc` must be one of 'a' to 'z'; got '#' in row 0", ["a#", "aG"])
terrain("desc", "got 'A' in row 0, column 1", ["aA", "aG"])
terrain("desc", "`desc` must have a goal ('G'), got none", ["ab", "cS"])
terrain("desc", "`desc` must have a cell of terrain; got", ["SG"])
sides = (0, 301, (2, 2, 2), 2.5)
terrain("size", "`size` must be a side or (rows, columns), each in 1..300", *sides)
terrain("num_kinds", "`num_kinds` must be at most 26 on this map", 27)
refused(partial(BilevelInverseRL, size=2), "num_kinds", "`num_kinds` must be at most 3 on this", 4)
mapped = partial(refused, partial(BilevelInverseRL, TERRAIN))
mapped("size", "`size` is for random maps, got size=3 with `desc`", 3)
mapped("num_kinds", "`num_kinds` is for random maps; got", 3)
no_features: Any = ([[1.0]] * 8, [[1.0]] * 8 + [[1.0, 2.0]], "abc", [[]] * 9)
mapped("features", "equally many numbers for each of 9 cells, got", *no_features)
mapped("features", "`features` must be finite, got nan in", [[NAN]] * 9)
terrain("features", "`features` must be a list of equally many numbers; got", [[1.0]] * 9)
numbered = partial(BilevelInverseRL, num_kinds=5)
refused(numbered, "features", "`features` replace kinds of terrain; got", [[1.0]] * 64)
terrain("true_params", "`true_params` must have shape (5,), got (4,)", [0.1] * 4)
terrain("true_params", "`true_params[4]` must be finite and lie in; got 1.5", [0.1] * 4 + [1.5])
terrain("true_params", "`true_params` must be an array of real numbers; got", ["a"] * 5)
terrain("seed", "`seed` must be an integer of at least 0", -1, 0.5, None)
terrain("demonstrations", "`demonstrations` must have at least one episode, got none", [])
terrain("demonstrations", "`demonstrations` must be a list of episodes", 3, "ab")
terrain(
    "demonstrations", "`demonstrations[1]` must have at least one step, got none", [[[0, 1]], []]
)
terrain(
    "demonstrations", "[0]` must be a list of [state, action], two integers; got [0, 1]", [[0, 1]]
)
no_steps = ([[[0, 1, 2]]], [[[0, 1], [2]]], [[[0.0, 1.0]]], [["ab"]])
terrain("demonstrations", "list of [state, action], two integers; got", *no_steps)
states = "states of `demonstrations` must lie in 0..63, got "
terrain("demonstrations", states + "64 in episode 1, step 1", [[[0, 1]], [[3, 2], [64, 1]]])
terrain("demonstrations", states + "-1", [[[-1, 1]]])
actions = "actions of `demonstrations` must lie in 0..3, got 4 in episode 0, step 0"
terrain("demonstrations", actions, [[[0, 4]]])

placed = partial(refused, BilevelGoalPlacement)
placed("desc", "`desc` must have exactly one start ('S'), got 0", ["..T", "..."])
placed("desc", "`desc` must have exactly one start ('S'), got 2", ["S.T", "S.."])
placed("desc", "`desc` must have a target ('T'), got none", ["S..", "..."])
placed("desc", "`desc` must have at least two rows and columns, got (1, 3)", ["S.T"])
placed("desc", "got 'G'; 'T' target", ["S.G", "..T"])
placed("width", "`width` must lie in [0.1, 100]", 0.05, 101.0, NAN, "1")
placed("radius", "`radius` must lie in [0.1, 100]", 0.0, INF)

contract = partial(refused, BilevelContract)
contract("stages", "`stages` must be; at most 200", 201)
contract("outcomes", "rows of equally many probabilities", 3, "ab", [[0.5, 0.5], [1.0]], [[]])
contract("outcomes", "setback, no change and progress, got 2 in a row; give `revenues`", np.eye(2))
no_chances = ([[0.5, 0.4, 0.0]], [[1.5, -0.5, 0.0]])
contract("outcomes", "probabilities that sum to 1, got; in row 0", *no_chances)
contract("costs", "`costs` must have shape [A] = (3,), got (2,)", [0.0, 0.1])
contract("costs", "`costs` must not be negative, got -0.1", [0.0, 0.1, -0.1])
contract("costs", "`costs` must be finite, got nan at [1]", [0.0, NAN, 0.1])
contract("revenues", "`revenues` must have shape [O] = (3,), got (2,)", [0.0, 0.1])
contract("revenues", "`revenues` must not be negative, got -1.0", [0.0, 0.1, -1.0])

payments = partial(refused, BilevelIncentive)
payments("paid", "`paid` must have at least one pair, got none", [])
no_pairs = (7, "ab", ["7a"], [7, 0], [[7, 0, 1]], [[7, "a"]], [[7.0, 0.0]], [[7, True]])
payments("paid", "`paid` must be a list", *no_pairs)
pairs = "`paid` must hold states in 0..12; actions in 0..3, got "
payments("paid", pairs + "(13, 0)", [[13, 0]])
payments("paid", pairs + "(-1, 0)", [[-1, 0]])
payments("paid", pairs + "(7, 4)", [[7, 4]])
payments("paid", "`paid` must differ from each other, got (7, 0) twice", [[7, 0], [7, 0]])

random = partial(refused, BilevelRandomMDP)
random("num_states", "`num_states` must be an integer of at least 2", 1)
random("branching", "`branching` must be at most the number of states, 10", 11)
random("num_states", "`branching` must be given for so many states, got None", 100_000)
random("reward", "unknown reward 'linaer'; Did you mean 'linear'", "linaer")
random("reward", "unknown reward", ["linear"])
random("seed", "`seed` must be an integer of at least 0", -1, None)
random("active_features", '`active_features` goes with reward="linear"', 3)
linear = partial(refused, partial(BilevelRandomMDP, reward="linear"))
linear("active_features", "`active_features` must be an integer of at", 0)
linear("active_features", "`active_features` must be at most `upper_dim`, 100", 101)

taxes = partial(refused, partial(BilevelTaxDesign, **HOUSEHOLDS))
taxes("num_assets", "`num_assets` must be an integer of at least 2", 1, 21.0)
taxes("noise", "`noise` must be at least 0.767, 1/30 of how far", 0.1, 0.766)
taxes("start_rate", "`start_rate` must lie in [0, 2]", 2.5, -0.1, NAN)
taxes("preferences", "`preferences` must be a list with an exponent for each good; got", [])
taxes("preferences", "`preferences` must be a list with an exponent; got", [0.5, 0.5], "ab")
taxes("preferences", "`preferences` must be a list with an exponent; got", [[0.5], [0.5, 0.1]])
taxes("preferences", "`preferences` must be positive and at most 10; got", [[0.5, 0.0]])
taxes("preferences", "`preferences` must be finite, got nan", [[0.5, NAN]])

tolls = partial(refused, BilevelToll)
tolls("network", "`network` must have at least one link, got none", [])
no_rows = ("ab", 7, [[1, 2]], [[1, 2, "3"]], np.array(3))
tolls("network", "`network` must be a list of [from, to, minutes] rows", *no_rows)
tolls("network", "`network` must join nodes that are integers; got; [1.5, 2, 3]", [[1.5, 2, 3]])
tolls("network", "`network` must join different nodes, got the link [1, 1, 3]", [[1, 1, 3]])
tolls("network", "`network` must have each link once, got 2 to 3 twice", [*RING, [2, 3, 1]])
tolls("network", "minutes in; got the link [1, 2, -3]", [[1, 2, -3]])
tolls("network", "minutes in [0, 1e+06]; got", [[1, 2, NAN]], [[1, 2, INF]])
tolls("network", "`zone` must be a node of the network (2, 3, 5, 7), got 10", RING)
tolls("zone", "`zone` must be a node of the network", 25, "10")
zoned = partial(refused, partial(BilevelToll, zone=2))
dead_end = [[1, 2, 1], [2, 3, 1], [2, 1, 1]]
zoned("network", "`network` must have a link out of every node, got none out of node 3", dead_end)
one_way = [[1, 2, 1], [2, 3, 1], [3, 2, 1]]
no_way = "`network` must lead to every destination from wherever drivers can come, got no way from "
zoned("network", no_way + "node 2 to node 1", one_way)
alone = "`origins` must hold a node other than each destination, got only "
zoned("network", alone + "1", [[1, 2, 1], [2, 1, 1]])
# Drivers could be led astray to where there is no way back from.
astray = [[1, 2, 10], [2, 1, 10], [1, 3, 0], [3, 4, 0], [4, 3, 0]]
elsewhere = partial(BilevelToll, zone=4, origins=[1], destinations=[2])
refused(elsewhere, "network", no_way + "node 3 to node 2", astray)
tolls("tolled_links", "`tolled_links` must have at least one link, got none", [])
tolls("tolled_links", "`tolled_links` must be a list of [from, to] rows", [1, 2], [[1, 2, 3]])
tolls("tolled_links", "`tolled_links` must be links of the network, got (1, 10", [[1, 10]])
tolls("tolled_links", "must differ from each other, got (9, 10) twice", [[9, 10], [9, 10]])
tolls("origins", "`origins` must have at least one node, got none", [])
tolls("origins", "`origins` must be a list of nodes", 3, [1, "2"])
tolls("origins", "`origins` must be nodes of the network; got 0", [0])
tolls("origins", "`origins` must differ from each other, got 1 twice", [1, 1])
tolls("destinations", "`destinations` must be nodes of the network; got 99", [1, 99])
tolls("destinations", "`destinations` must be a list of nodes", "12")
refused(partial(BilevelToll, origins=[4]), "destinations", alone + "4", [5, 4])

control = partial(refused, BilevelLQR)
control("enters", "unknown enters 'rewards'; Did you mean 'reward'", "rewards")
control("seed", "`seed` must be an integer of at least 0", -1)
control("dynamics", "`dynamics` must be square, got shape (1, 2)", [[1.0, 0.0]])
control("dynamics", "`dynamics` must be a list of equally long rows", [[1.0], [1.0, 2.0]])
control("control", "`control` must be a list of equally long rows", "B", [1.0, 2.0])
control("control", "`control` must be finite; got", [[NAN]])
halves = partial(BilevelLQR, dynamics=[[0.5, 0.0], [0.0, 0.5]])
refused(halves, "control", "`control` must fit `dynamics`, which has 2 states; got", [[1.0]])
control("state_cost", "`state_cost` must be symmetric; got", [[1.0, 2.0], [0.0, 1.0]])
control("state_cost", "`state_cost` must be positive definite; got", [[1.0, 2.0], [2.0, 1.0]])
control("action_cost", "`action_cost` must be positive definite; got", [[0.0]])
control("upper_action_cost", "`upper_action_cost` must be positive semidefinite; got", [[-1.0]])

refused(BilevelPendulum, "upper_gamma", "`upper_gamma` must lie in [0, 1)", 1.0)

toy = partial(refused, BilevelToyText)
toy("env_id", "model; got; Blackjack-v1", "Blackjack-v1")
toy("env_id", "model; got; BilevelGridWorld-v0", "BilevelGridWorld-v0")
toy("env_id", "env_id; got", "FrozenLke", "Frozen Lake!", 7)
taxi, lake = (partial(refused, partial(BilevelToyText, name)) for name in ("Taxi", "FrozenLake"))
taxi("env_kwargs", "fickle_passenger; P; got", {"fickle_passenger": True})
lake("env_kwargs", "env_kwargs; got; 9x9", {"map_name": "9x9"})
lake("env_kwargs", "got map_name=None; random", {"map_name": None})
lake("env_kwargs", "env_kwargs; got; size", {"size": 3})
lake("env_kwargs", "env_kwargs", ["8x8"], {1: 2})
lake("env_kwargs", "env_kwargs; got; JSON", {"desc": np.ones(3)})
lake("env_kwargs", "render_mode; game; got", {"render_mode": "human"})
lake("env_kwargs", "max_episode_steps; got", {"max_episode_steps": 3})
lake("features", "features; got; (4, 16, 2)", np.ones((4, 16, 2)))
lake("features", "features; got nan", np.full((16, 4, 1), np.nan))


@pytest.mark.parametrize(("make", "parts"), ROWS)
def test_a_mistake_is_explained(make: Callable[[], Any], parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)
