"""Maps, moves and numbers of BilevelGridWorld-v0."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import bilevel_gym  # noqa: F401  (registers the ids)
from bilevel_gym import LowerLevel
from bilevel_gym.envs import BilevelGridWorld, random_map
from bilevel_gym.envs.grid_world import MAPS
from bilevel_gym.optimizers import lbfgsb, normalized_ascent
from bilevel_gym.wrappers import exact_objective

from .models import plain_kernel

UP, RIGHT, DOWN, LEFT = range(4)

SMALL = ("#.G", "SH.")  # states: 0 = (0, 1), 1 = G, 2 = S, 3 = H, 4 = (1, 2)


def cells_with(desc: tuple[str, ...], sign: str) -> list[tuple[int, int]]:
    """Return the cells of a map, row by row, that carry a sign."""
    return [
        (r, c) for r, row in enumerate(desc) for c, character in enumerate(row) if character == sign
    ]


def distances(desc: tuple[str, ...], blocked: str) -> dict[tuple[int, int], int]:
    """Return the number of moves from the start to every cell that can be reached."""
    (start,) = cells_with(desc, "S")
    found = {start: 0}
    queue = deque([start])
    while queue:
        row, column = queue.popleft()
        for r, c in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
            inside = 0 <= r < len(desc) and 0 <= c < len(desc[0])
            if inside and desc[r][c] not in blocked and (r, c) not in found:
                found[r, c] = found[row, column] + 1
                queue.append((r, c))
    return found


# Maps -------------------------------------------------------------------------------------------


def test_x_has_an_entry_for_every_cell_that_is_no_wall_row_by_row() -> None:
    game = BilevelGridWorld(SMALL)
    assert game.upper_space == gym.spaces.Box(-1.0, 1.0, (5,), np.float32)
    # The start, the goal and the hazard have theirs too.
    rewards = game.reward(np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    np.testing.assert_allclose(rewards, np.outer([0.1, 1.2, 0.3, 0.4, 0.5], np.ones(4)))


@pytest.mark.parametrize("map_name", MAPS)
def test_cells_and_states_are_inverse_to_each_other(map_name: str) -> None:
    game = BilevelGridWorld(map_name=map_name)
    height, width = len(MAPS[map_name]), len(MAPS[map_name][0])
    states = []
    for cell in itertools.product(range(height), range(width)):
        state = game.state_of(cell)
        assert (state is None) == (MAPS[map_name][cell[0]][cell[1]] == "#")
        if state is not None:
            assert game.cell_of(state) == cell
            states.append(state)
    assert states == list(range(game.upper_space.shape[0]))


def test_named_maps_have_the_size_of_their_name_and_a_hazardous_short_way() -> None:
    assert {"4x4", "8x8", "16x16"} <= set(MAPS)
    for name, desc in MAPS.items():
        assert f"{len(desc)}x{len(desc[0])}" == name
        (goal,) = cells_with(desc, "G")
        assert distances(desc, "#H")[goal] > distances(desc, "#")[goal]


def test_the_default_is_the_published_map() -> None:
    game = gym.make("BilevelGridWorld-v0").unwrapped
    assert isinstance(game, BilevelGridWorld)
    tunnel = ("..####..", "..#..#..", "S.HHHH.G", "..#..#..", "..####..")
    assert game.desc == ("........", *tunnel, "........", "........")


def test_a_map_may_be_given_as_rows_through_gym_make() -> None:
    env = gym.make("BilevelGridWorld-v0", desc=["S.", "HG"])
    assert env.action_space.shape == (4,)
    game = env.unwrapped
    assert isinstance(game, BilevelGridWorld) and game.desc == ("S.", "HG")
    # An array of strings is a list of rows too, and NumPy's integers are integers.
    assert BilevelGridWorld(np.array(["S.", "HG"])).desc == ("S.", "HG")  # type: ignore[arg-type]
    assert random_map(np.int64(5), 1) == random_map(5, 1)  # type: ignore[arg-type]


def test_the_follower_starts_at_the_start() -> None:
    game = BilevelGridWorld(SMALL)
    np.testing.assert_array_equal(game.initial_distribution, [0, 0, 1, 0, 0])
    assert {game.reset(seed=seed)[0] for seed in range(10)} == {2}


# Moves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slip", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("map_name", MAPS)
def test_moves_go_over_the_map_and_bounce_at_walls(map_name: str, slip: float) -> None:
    game = BilevelGridWorld(map_name=map_name, slip=slip)
    (goal,) = cells_with(MAPS[map_name], "G")
    cells = [game.cell_of(state) for state in range(game.upper_space.shape[0])]
    dense = game.kernel(game.initial_upper_params).to_dense()
    np.testing.assert_allclose(dense, plain_kernel(cells, goal, slip), atol=1e-15)


def test_the_leaders_reward_and_costs_are_arguments() -> None:
    x = np.array([0.5, -0.5, 0.0, 1.0, 0.0])
    game = BilevelGridWorld(SMALL, hazard_cost=0.75, shaping_cost=0.2)
    np.testing.assert_array_equal(game.upper_reward(x)[:, 0], [0.0, 1.0, 0.0, -0.75, 0.0])
    free = BilevelGridWorld(SMALL, hazard_cost=0.75, shaping_cost=0.0)
    # The cost of x is counted once, not per step.
    difference = free.evaluate(x).objective - game.evaluate(x).objective
    assert difference == pytest.approx(0.2 * 1.5, abs=1e-14)


# Random maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8, (5, 12), (12, 5), 30])
@pytest.mark.parametrize("seed", range(6))
def test_random_maps_have_a_hazardous_short_way_and_a_longer_safe_one(
    size: int | tuple[int, int], seed: int
) -> None:
    desc = random_map(size, seed)
    rows, columns = (size, size) if isinstance(size, int) else size
    assert len(desc) == rows and {len(row) for row in desc} == {columns}
    assert set("".join(desc)) <= set("SGH#.")
    (start,), (goal,) = cells_with(desc, "S"), cells_with(desc, "G")
    assert start[1] == 0 and goal[1] == columns - 1
    assert cells_with(desc, "H")
    # The follower's interest and the leader's differ: every shortest way meets a hazard.
    assert distances(desc, "#H")[goal] > distances(desc, "#")[goal]


def test_a_random_map_is_a_function_of_its_size_and_seed() -> None:
    np.random.seed(1)
    first = random_map(10, 3)
    np.random.seed(2)
    assert random_map(10, 3) == first
    assert random_map((10, 10), 3) == first
    assert random_map(10, 4) != first
    assert BilevelGridWorld(size=10, map_seed=3).desc == first


def test_the_smallest_random_maps_are_playable() -> None:
    sizes: list[int | tuple[int, int]] = [2, 3, (2, 9), (9, 2)]
    for size, seed in itertools.product(sizes, range(5)):
        game = BilevelGridWorld(size=size, map_seed=seed)
        assert np.isfinite(game.evaluate(game.initial_upper_params).objective)


def test_a_map_of_a_million_cells_is_built_and_entered_within_half_a_minute() -> None:
    began = time.perf_counter()
    game = BilevelGridWorld(size=1000)
    x = game.initial_upper_params
    state, _ = game.reset(seed=0)
    for action in (RIGHT, UP, DOWN, LEFT):
        state, *_ = game.step({"upper": x, "lower": action})
    assert time.perf_counter() - began < 30.0
    assert len(game.desc) == len(game.desc[0]) == 1000
    assert 7e5 < game.upper_space.shape[0] < 9e5  # a fifth of the cells are walls
    assert game.cell_of(state)[1] < 5


# Numbers ----------------------------------------------------------------------------------------


def test_normalised_steps_lead_the_follower_onto_the_detour() -> None:
    env = gym.make("BilevelGridWorld-v0")
    _, info = env.reset(seed=0)
    x, best = info["upper_params"], -math.inf
    for _ in range(200):
        _, objective, _, _, info = env.step(x)
        best = max(best, float(objective))
        gradient = info["hyper_gradient"]
        x = (x + 0.05 * gradient / np.linalg.norm(gradient)).clip(-1.0, 1.0)
    assert best == pytest.approx(0.459, abs=1e-3)

    # What is left of the climb ends in the local optimum there.
    game = BilevelGridWorld()
    optimum = lbfgsb(exact_objective(game.model), x, -np.ones(52), np.ones(52))
    assert optimum.best.value == pytest.approx(0.460703, abs=1e-6)
    assert optimum.best.projected_gradient_norm < 1e-4
    # The follower now walks around the tunnel: its way has no hazard.
    occupancy = game.evaluate(optimum.best.upper_params).occupancy
    hazards = np.ravel([game.state_of(cell) for cell in cells_with(MAPS["8x8"], "H")])
    before = game.evaluate(np.zeros(52)).occupancy
    assert occupancy[hazards].sum() < 0.01 * before[hazards].sum()


def test_normalised_steps_that_shrink_reach_it_and_plain_ones_of_a_half_end_in_the_trap() -> None:
    objective, x, bound = exact_objective(BilevelGridWorld().model), np.zeros(52), np.ones(52)
    assert normalized_ascent(objective, x, -bound, bound).best.value == pytest.approx(
        0.4607, abs=1e-3
    )
    for _ in range(400):
        x = np.clip(x + 0.5 * objective(x)[1], -1.0, 1.0)
    assert objective(x)[0] == pytest.approx(-0.00093, abs=1e-5)


def test_quasi_newton_from_no_shaping_ends_in_the_trap() -> None:
    game = BilevelGridWorld()
    optimum = lbfgsb(exact_objective(game.model), np.zeros(52), -np.ones(52), np.ones(52))
    assert optimum.best.value == pytest.approx(-0.00093, abs=1e-5)
    assert optimum.best.projected_gradient_norm < 1e-4  # it is a stationary point
    # In the trap the follower wanders for ever: it hardly ever acts in the goal.
    (goal,) = cells_with(MAPS["8x8"], "G")
    response = game.evaluate(optimum.best.upper_params)
    # The occupancy falls short of one by gamma times the discounted chance of the end.
    assert response.occupancy.sum() > 0.99
    assert response.occupancy[game.state_of(goal)] < 1e-4


# The warning about entropy ----------------------------------------------------------------------


def warnings_of(**kwargs: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gym.make("BilevelGridWorld-v0", **kwargs)
        _, info = env.reset(seed=0)
        for _ in range(3):
            env.step(info["upper_params"])
        follower = LowerLevel(env, info["upper_params"])
        follower.reset(seed=0)
        follower.step(0)
    return [str(warning.message) for warning in caught]


def test_entropy_worth_more_than_half_the_goal_is_warned_of_once() -> None:
    # 0.05 * log 4 / (1 - 0.95) = 1.386
    (message,) = warnings_of(temperature=0.05)
    assert "1.39" in message and "`temperature`" in message and "entropy" in message
    threshold = 0.5 * (1.0 - 0.95) / math.log(4.0)
    assert len(warnings_of(temperature=1.001 * threshold)) == 1
    assert warnings_of(temperature=0.999 * threshold) == warnings_of() == []
