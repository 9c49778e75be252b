"""Rooms, incentives, payments, numbers and pictures of BilevelFourRooms-v0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bilevel_gym.envs import BilevelFourRooms, View
from bilevel_gym.optimizers import Iterate, lbfgsb
from bilevel_gym.rendering import draw_grid, frame, grid_layout
from bilevel_gym.wrappers import exact_objective

from .helpers import FloatArray
from .models import direct_objective, plain_kernel

ID = "BilevelFourRooms-v0"
UP, RIGHT, DOWN, LEFT = range(4)
CELLS = 104
START, TARGET = (4, 1), (8, 4)
GOALS = [(1, 9), (11, 11)]

# Columns of the walls in each row, as published.
WALLS = {
    **dict.fromkeys((0, 12), range(13)),
    **dict.fromkeys((1, 2, 4, 5, 8, 9, 11), (0, 6, 12)),
    **dict.fromkeys((3, 10), (0, 12)),
    6: (0, 1, 3, 4, 5, 6, 12),
    7: (0, 6, 7, 8, 10, 11, 12),
}
FREE = [(row, column) for row in range(13) for column in range(13) if column not in WALLS[row]]


def some_x(seed: int = 0, spread: float = 1.0) -> FloatArray:
    return np.random.default_rng(seed).normal(scale=spread, size=CELLS + 1)


def softmax(x: FloatArray) -> FloatArray:
    weights: FloatArray = np.exp(x) / np.exp(x).sum()
    return weights


# The model --------------------------------------------------------------------------------------


def test_every_goal_has_a_block_of_the_free_cells_row_by_row() -> None:
    assert len(FREE) == CELLS
    game = BilevelFourRooms()
    assert game.goals == tuple(GOALS)
    # In the picture the rooms of the second goal stand twelve columns to the right.
    assert [game.cell_of(state) for state in range(CELLS)] == FREE
    assert [game.cell_of(CELLS + i) for i in range(CELLS)] == [(r, c + 12) for r, c in FREE]
    assert [game.state_of(cell) for cell in FREE] == list(range(CELLS))
    assert [game.state_of((r, c + 12)) for r, c in FREE] == list(range(CELLS))
    assert game.state_of((0, 0)) is None and game.state_of((6, 6)) is None


def test_every_episode_draws_a_goal_and_begins_at_the_start() -> None:
    game = BilevelFourRooms()
    start = FREE.index(START)
    expected = np.zeros(2 * CELLS)
    expected[[start, CELLS + start]] = 0.5
    np.testing.assert_array_equal(game.initial_distribution, expected)


@pytest.mark.parametrize("slip", [0.0, 0.33, 0.75])
def test_the_kernel_is_the_published_one_for_each_goal(slip: float) -> None:
    game = BilevelFourRooms(slip=slip)
    expected = np.zeros((2 * CELLS, 4, 2 * CELLS))
    for context, goal in enumerate(GOALS):
        block = slice(context * CELLS, (context + 1) * CELLS)
        expected[block, :, block] = plain_kernel(FREE, goal, 4.0 * slip / 3.0)
    dense = game.kernel(game.initial_upper_params).to_dense()
    np.testing.assert_allclose(dense, expected, atol=1e-15)


def test_the_follower_is_paid_in_its_own_goal_and_charged_elsewhere() -> None:
    x = some_x()
    reward = BilevelFourRooms(budget=0.3).reward(x)
    for context, goal in enumerate(GOALS):
        expected = -0.3 * softmax(x)[:CELLS]
        expected[FREE.index(goal)] = 1.0
        block = reward[context * CELLS : (context + 1) * CELLS]
        np.testing.assert_allclose(block, np.repeat(expected[:, None], 4, axis=1), rtol=1e-14)


def test_the_leader_is_paid_in_the_target_and_pays_for_all_penalties_in_the_goal() -> None:
    x = some_x()
    upper = BilevelFourRooms(budget=0.3, payment_cost=5.0).upper_reward(x)
    for context, goal in enumerate(GOALS):
        expected = np.zeros(CELLS)
        expected[FREE.index(TARGET)] = 1.0
        expected[FREE.index(goal)] = -5.0 * 0.3 * softmax(x)[:CELLS].sum()
        block = upper[context * CELLS : (context + 1) * CELLS]
        np.testing.assert_allclose(block, np.repeat(expected[:, None], 4, axis=1), rtol=1e-13)


# Numbers ----------------------------------------------------------------------------------------


def ascended(objective: Any) -> Iterate:
    box = np.full(CELLS + 1, 10.0)
    return lbfgsb(objective, np.zeros(CELLS + 1), -box, box, max_evaluations=400).best


def test_quasi_newton_on_the_hyper_gradient_comes_close_to_the_best_known_value() -> None:
    game = BilevelFourRooms()
    found = ascended(exact_objective(game.model))
    assert game.best_known is not None
    assert found.value == pytest.approx(game.best_known.value, abs=1e-4)


def test_the_direct_gradient_alone_learns_to_spend_nothing() -> None:
    optimum = ascended(direct_objective(BilevelFourRooms()))
    assert optimum.value == pytest.approx(0.3209, abs=1e-4)
    assert softmax(optimum.upper_params)[-1] > 0.99


def test_goals_may_be_lists_or_an_array() -> None:
    for goals in ([[1, 9], [11, 11]], np.array([(1, 9), (11, 11)])):
        assert BilevelFourRooms(goals).goals == ((1, 9), (11, 11))  # type: ignore[arg-type]


# Pictures ---------------------------------------------------------------------------------------


def test_the_picture_shows_the_rooms_once_for_each_goal() -> None:
    game, x = BilevelFourRooms(), some_x()
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response, state=CELLS + FREE.index(START)))
    assert scene.cells.shape == (13, 25)
    assert scene.follower == (4, 13)
    signs = {sign: np.argwhere(scene.cells == sign).tolist() for sign in "SGT"}
    assert signs == {"S": [[4, 1], [4, 13]], "G": [[1, 9], [11, 23]], "T": [[8, 4], [8, 16]]}
    for context, goal in enumerate(GOALS):
        for i, (row, column) in enumerate(FREE):
            place, state = (row, column + 12 * context), context * CELLS + i
            incentive = 0.0 if (row, column) == goal else -0.2 * softmax(x)[i]
            assert scene.shaping[place] == pytest.approx(incentive, abs=1e-15)
            assert scene.policy is not None and scene.occupancy is not None
            np.testing.assert_array_equal(scene.policy[place], response.policy[state])
            assert scene.occupancy[place] == response.occupancy[state]
            assert scene.gradient is not None
            assert scene.gradient[place] == response.hyper_gradient[i]
    assert np.isnan(scene.shaping).sum() == 13 * 25 - 2 * CELLS
    assert not scene.signed and scene.shaping_limit <= np.nanmin(scene.shaping)


def test_three_goals_are_shown_in_two_rows() -> None:
    game = BilevelFourRooms([(1, 9), (11, 11), (11, 1)])
    scene = game.scene(View("", game.initial_upper_params))
    assert scene.cells.shape == (25, 25)
    assert scene.cells[23, 1] == "G" and (scene.cells[13:, 13:] == "#").all()
    assert game.state_of((13, 1)) == 0 and game.state_of((13, 13)) is None
    assert scene.policy is None and scene.gradient is None


def test_the_target_has_a_sign_of_its_own() -> None:
    game = BilevelFourRooms()
    scene = game.scene(View("", game.initial_upper_params))
    x, y = grid_layout((13, 25)).cell_corner(*TARGET)

    def cell(sign: str) -> FloatArray:
        cells = np.where(scene.cells == "T", sign, scene.cells)
        picture = frame(draw_grid(replace(scene, cells=cells)))
        return picture[y + 2 : y + 24, x + 2 : x + 24].astype(float)

    pictures = [cell(sign) for sign in "TSG."]
    assert pictures[3].std(axis=(0, 1)).max() == 0.0
    for other in pictures[1:]:
        assert np.abs(pictures[0] - other).max() > 100.0
