"""Goals and targets, the landscape of F, and pictures of BilevelGoalPlacement-v0."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from bilevel_gym.envs import BilevelGoalPlacement, View
from bilevel_gym.model.objectives import DiscountedReturn
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.rendering import draw_grid, frame, grid_layout
from bilevel_gym.rendering.signs import GOAL_COLOUR
from bilevel_gym.wrappers import exact_objective

from .helpers import FloatArray
from .models import plain_kernel

SMALL = ["S.#", ".HT"]
FREE = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def at(row: float, column: float) -> FloatArray:
    return np.array([row, column])


# The model --------------------------------------------------------------------------------------


def test_the_follower_is_drawn_to_the_goal_and_the_leader_to_its_targets() -> None:
    game = BilevelGoalPlacement(SMALL, width=0.5, radius=1.5, hazard_cost=0.25, slip=0.2)
    x = at(0.3, 1.2)
    for number, (row, column) in enumerate(FREE):
        goal = np.exp(-((row - 0.3) ** 2 + (column - 1.2) ** 2) / 0.5)
        near = np.exp(-((row - 1.0) ** 2 + (column - 2.0) ** 2) / 4.5)
        np.testing.assert_allclose(game.reward(x)[number], goal, rtol=1e-14)
        upper = near - 0.25 * ((row, column) == (1, 1))
        np.testing.assert_allclose(game.upper_reward(x)[number], upper, rtol=1e-13)
    # No cell is one at which episodes end.
    expected = plain_kernel(FREE, (9, 9), 0.2)
    np.testing.assert_allclose(game.model.initial_kernel.to_dense(), expected, atol=1e-15)
    np.testing.assert_array_equal(game.initial_distribution, np.arange(5) == 0)


def test_the_goal_is_somewhere_on_the_map() -> None:
    game = BilevelGoalPlacement(["S..T", "....", "...."])
    np.testing.assert_array_equal(game.upper_space.high, [2.0, 3.0])
    np.testing.assert_array_equal(game.initial_upper_params, [1.0, 1.5])
    assert game.knob_names() == ("row", "column")


def test_a_goal_without_a_place_moves_nobody() -> None:
    # Rewards differ by less than 100 / (2 * 100^2), a tenth of the temperature.
    response = BilevelGoalPlacement(width=100.0).evaluate(at(3.0, 4.0))
    np.testing.assert_allclose(response.policy, 0.25, atol=0.02)
    assert np.abs(response.hyper_gradient).max() < 0.1


def test_f_has_the_symmetry_of_the_map() -> None:
    game = BilevelGoalPlacement(["T...", "S..H", "T..."])
    above, below = (game.evaluate(at(1.0 + side, 1.7)) for side in (-0.4, 0.4))
    assert above.objective == pytest.approx(below.objective, abs=1e-12)
    np.testing.assert_allclose(above.hyper_gradient * (-1.0, 1.0), below.hyper_gradient, atol=1e-11)
    assert game.evaluate(at(1.0, 2.0)).hyper_gradient[0] == pytest.approx(0.0, abs=1e-11)


# Numbers ----------------------------------------------------------------------------------------


def test_no_point_of_a_scan_is_better_than_the_best_known_x() -> None:
    game, axis = BilevelGoalPlacement(), np.linspace(0.0, 9.0, 19)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    values = np.array([answer.objective for answer in game.evaluate_batch(points)])
    best = game.best_known
    assert best is not None
    assert best.value - 0.02 < values.max() < best.value
    assert np.abs(points[values.argmax()] - best.upper_params).max() < 0.25
    # At this distance of the points there is a local maximum at each target.
    grid = values.reshape(19, 19)
    tops = points[(grid == maximum_filter(grid, 3)).ravel()]
    assert len(tops) == 3
    assert np.abs(tops - [(0, 8), (7, 7), (8, 1)]).max() <= 0.5


def test_the_climb_comes_to_the_best_known_x_and_steps_along_the_gradient_do_not() -> None:
    game = BilevelGoalPlacement()
    model, objective = game.model, exact_objective(game.model)
    assert game.best_known is not None
    for name, options, value in (
        ("climb", {"max_evaluations": 400}, game.best_known.value),
        ("normalized", {"steps": 200, "learning_rate": 0.05}, 9.823256),
    ):
        climb = make_optimizer(name, **options)
        best = climb(objective, model.initial_upper_params, model.low, model.high).best
        assert best.value == pytest.approx(value, abs=1e-5)


# Pictures ---------------------------------------------------------------------------------------


def test_colours_are_f_with_the_goal_in_the_cell() -> None:
    game = BilevelGoalPlacement(SMALL)
    scene = game.scene(View("title", x := at(0.2, 1.3), game.evaluate(x), state=1))
    for row, column in FREE:
        value = game.evaluate(at(row, column)).objective
        assert scene.shaping[row, column] == pytest.approx(value, abs=1e-10)
    assert np.isnan(scene.shaping[0, 2]) and not scene.signed and scene.follower == (0, 1)
    assert [entry.name for entry in scene.entries] == ["goal", "where F rises"]
    assert scene.entries[0].note == "x = (0.20, 1.30)"
    game.objective = DiscountedReturn(0.5)
    again = game.scene(View("", x))
    assert again.shaping[1, 2] == pytest.approx(game.evaluate(at(1, 2)).objective, abs=1e-10)
    assert len(again.entries) == 1  # there is no answer to tell where F rises
    costly = BilevelGoalPlacement(SMALL, hazard_cost=9.0)
    assert costly.scene(View("", x)).signed


def test_large_maps_are_coloured_by_the_followers_reward() -> None:
    game = BilevelGoalPlacement(["S" + 19 * "."] + 10 * [20 * "."] + ["T" + 19 * "."])
    scene = game.scene(View("", x := at(4.4, 7.1)))
    np.testing.assert_array_equal(scene.shaping.ravel(), game.reward(x)[:, 0])


def test_the_goal_stands_where_x_is_with_an_arrow_to_where_f_rises() -> None:
    game, x = BilevelGoalPlacement(), at(6.0, 2.6)
    response = game.evaluate(x)
    scene = game.scene(View("", x))
    left, top, width, height = grid_layout(scene.cells.shape).map
    side = width / 10

    def changed(view: View) -> FloatArray:
        """Return the middle of what is drawn upon the map, right and down in cells."""
        pictures = frame(game.draw(view)), frame(draw_grid(game.scene(view)))
        differs = (pictures[0] != pictures[1]).any(axis=2)[top : top + height, left : left + width]
        rows, columns = np.nonzero(differs)
        return np.array([rows.mean(), columns.mean()]) / side - 0.5

    assert (frame(game.draw(View("", x))) == GOAL_COLOUR).all(axis=2).sum() > 300
    np.testing.assert_allclose(changed(View("", x)), x, atol=0.05)
    assert game.best_known is not None
    best = game.best_known.upper_params
    np.testing.assert_allclose(changed(View("", best, game.evaluate(best))), best, atol=0.05)
    moved = changed(View("", x, response)) - x
    assert moved @ response.hyper_gradient > 0.95 * np.linalg.norm(moved) * np.linalg.norm(
        response.hyper_gradient
    )
