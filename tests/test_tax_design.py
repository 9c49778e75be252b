"""Households, taxes, numbers and pictures of BilevelTaxDesign-v0."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from bilevel_gym.envs.base import View
from bilevel_gym.envs.tax_design import (
    BilevelTaxDesign,
    cell_density_steps,
    cell_masses,
    start_probabilities,
)
from bilevel_gym.optimizers import Iterate, normalized_ascent
from bilevel_gym.rendering import frame
from bilevel_gym.wrappers import exact_objective

from .helpers import HOUSEHOLDS, FloatArray
from .models import direct_objective

# Fewer and longer steps of hours, spending and assets.
NUM_ASSETS: int = HOUSEHOLDS["num_assets"]
NUM_STATES = 2 * NUM_ASSETS
PREFERENCES = ((0.6, 0.3, 0.1), (0.1, 0.7, 0.2))
X = np.array([0.25, 0.1, 0.6, 0.45])


def small(**arguments: Any) -> BilevelTaxDesign:
    return BilevelTaxDesign(**{**HOUSEHOLDS, **arguments})


def phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def assets_of(count: int) -> list[float]:
    return [-100.0 + 200.0 * k / (count - 1) for k in range(count)]


def joint_actions(
    hours_levels: int, hours_step: float, spending_levels: int, spending_step: float
) -> list[tuple[float, tuple[float, ...]]]:
    """Return (hours, spending on each good), hours first and the last good fastest."""
    spent = [spending_step * level for level in range(spending_levels)]
    return [
        (hours_step * level, goods)
        for level in range(hours_levels)
        for goods in itertools.product(spent, repeat=3)
    ]


SMALL_ACTIONS = joint_actions(4, 2.67, 3, 2.5)


def plain_row(assets: float, hours: float, spent: float, tax: float) -> FloatArray:
    """Return the probabilities of the small grid, straight from the definition."""
    grid = assets_of(NUM_ASSETS)
    mean = assets + (1.0 - tax) * hours - spent
    edges = [-100.0, *((a + b) / 2.0 for a, b in itertools.pairwise(grid)), 100.0]
    row = np.array(
        [
            phi((high - mean) / 5.0) - phi((low - mean) / 5.0)
            for low, high in itertools.pairwise(edges)
        ]
    )
    return row / row.sum()


# The model --------------------------------------------------------------------------------------


def test_the_default_has_the_published_hours_goods_and_assets() -> None:
    game = BilevelTaxDesign()
    actions = joint_actions(10, 0.89, 5, 1.25)
    hours, goods = zip(*actions, strict=True)
    np.testing.assert_allclose(game.hours, np.array(hours), rtol=1e-14)
    np.testing.assert_allclose(game.spending, np.array(goods), rtol=1e-14)
    np.testing.assert_allclose(game.assets, np.array(assets_of(101)), atol=1e-13)


def test_actions_with_equal_hours_and_equal_spending_share_their_row() -> None:
    kernel = BilevelTaxDesign().kernel(X)
    assert kernel.num_actions == 1250 and kernel.num_moves == 130
    assert kernel.matrix.nnz == 2 * 101 * 130 * 101
    game = small()
    kernel = game.kernel(X)
    assert kernel.num_moves == 4 * 7 and kernel.moves is not None
    kinds: dict[int, set[tuple[float, float]]] = {}
    for (hours, goods), move in zip(SMALL_ACTIONS, kernel.moves.tolist(), strict=True):
        kinds.setdefault(move, set()).add((hours, sum(goods)))
    assert len(kinds) == 28 and all(len(kind) == 1 for kind in kinds.values())


@pytest.mark.parametrize("tax", [0.0, 0.3, 1.0, 2.0])
def test_the_kernel_is_the_rounded_normal_around_what_is_left(tax: float) -> None:
    game = small()
    dense = game.kernel(np.array([0.5, 0.0, 1.0, tax])).to_dense()
    expected = np.zeros((NUM_STATES, 108, NUM_STATES))
    for household in range(2):
        block = slice(NUM_ASSETS * household, NUM_ASSETS * (household + 1))
        for i, assets in enumerate(assets_of(NUM_ASSETS)):
            for a, (hours, goods) in enumerate(SMALL_ACTIONS):
                row = plain_row(assets, hours, sum(goods), tax)
                expected[NUM_ASSETS * household + i, a, block] = row
    # The plain differences of Phi lose digits where the mean lies beyond the grid.
    np.testing.assert_allclose(dense, expected, atol=1e-9)
    np.testing.assert_allclose(dense.sum(axis=2), 1.0, atol=1e-14)


def test_the_pattern_is_the_same_at_every_x() -> None:
    game = small(noise=1.0)
    first, second = game.kernel(np.zeros(4)), game.kernel(np.full(4, 2.0))
    assert first.pattern is second.pattern
    assert (first.matrix.data == 0.0).any()  # far tails underflow, and stay stored
    assert first.matrix.nnz == second.matrix.nnz == 28 * NUM_STATES * NUM_ASSETS


def test_households_begin_without_debts_and_both_types_are_equally_likely() -> None:
    distribution = BilevelTaxDesign().initial_distribution
    np.testing.assert_array_equal(distribution[:101], distribution[101:])
    assert distribution[:101].sum() == pytest.approx(0.5, abs=1e-15)
    # N(0, 2) between -1 and 1, and between 1 and 3.
    assert distribution[50] == pytest.approx(0.5 * math.erf(0.5), abs=1e-15)
    tail = 0.25 * (math.erfc(0.5) - math.erfc(1.5))
    assert distribution[51] == pytest.approx(tail, abs=1e-15)
    assert distribution[49] == pytest.approx(tail, abs=1e-15)
    # The outermost cells have no end.
    ends = start_probabilities(np.array([-1.0, 0.0, 1.0]), 1.0)
    np.testing.assert_allclose(ends, [phi(-0.5), phi(0.5) - phi(-0.5), phi(-0.5)], atol=1e-15)


def test_the_assets_at_the_start_have_the_variance_asked_for() -> None:
    start = small(start_variance=900.0).initial_distribution.reshape(2, NUM_ASSETS)
    middles = [(a + b) / 60.0 for a, b in itertools.pairwise(assets_of(NUM_ASSETS))]
    shares = [phi(middle) for middle in middles]
    expected = [high - low for low, high in itertools.pairwise([0.0, *shares, 1.0])]
    np.testing.assert_allclose(start, [[0.5 * share for share in expected]] * 2, atol=1e-15)


def test_households_are_paid_for_assets_and_goods_and_dislike_work() -> None:
    game = small(hours_cost=0.2)
    reward = game.reward(X)
    for household, preferences in enumerate(PREFERENCES):
        for i, assets in enumerate(assets_of(NUM_ASSETS)):
            worth = math.log(assets / 20.0 + 1.0) if assets > 0.0 else assets
            for a, (hours, goods) in enumerate(SMALL_ACTIONS):
                pleasure = 1.0
                for spent, rate, preference in zip(goods, X, preferences, strict=False):
                    pleasure *= (spent / (1.0 + rate)) ** preference
                expected = worth - 0.2 * hours**2 + pleasure
                assert reward[NUM_ASSETS * household + i, a] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("consumption", "revenues"), [(15.0 / 5.0, 5.0), (2.0, 7.0)])
def test_the_leader_is_paid_for_consumption_and_revenue(
    consumption: float, revenues: float
) -> None:
    weights = {"consumption_weight": consumption, "revenue_weight": revenues}
    game = small(wage=1.5, **({} if revenues == 5.0 else weights))  # published by default
    upper = game.upper_reward(X)
    for a, (hours, goods) in enumerate(SMALL_ACTIONS):
        consumed = [spent / (1.0 + rate) for spent, rate in zip(goods, X, strict=False)]
        revenue = sum(c * rate for c, rate in zip(consumed, X, strict=False)) + X[3] * 1.5 * hours
        expected = consumption * sum(consumed) / 3.0 + revenues * math.log(1.0 + revenue)
        np.testing.assert_allclose(upper[:, a], expected, rtol=1e-13)


def test_a_wage_multiplies_what_the_hours_bring() -> None:
    richer, longer = small(wage=2.0), small(hours_step=2.0 * 2.67, hours_cost=0.025)
    first, second = richer.evaluate(X), longer.evaluate(X)
    assert first.objective == pytest.approx(second.objective, abs=1e-10)
    np.testing.assert_allclose(first.hyper_gradient, second.hyper_gradient, atol=1e-9)


def test_masses_of_cells_keep_their_digits_in_both_tails() -> None:
    low, high = np.array([-30.0, 29.0, -0.5, -40.0]), np.array([-29.0, 30.0, 0.5, 40.0])
    masses = cell_masses(low, high)
    # Phi(-29), to which the mass beyond -30 adds nothing.
    tail = 0.5 * math.erfc(29.0 / math.sqrt(2.0))
    np.testing.assert_allclose(masses, [tail, tail, math.erf(0.5 / math.sqrt(2.0)), 1.0])
    assert masses[0] == masses[1] > 0.0


def test_the_density_steps_are_the_derivatives_of_the_masses() -> None:
    low = np.linspace(-3.0, 3.0, 13)
    difference = (
        cell_masses(low + 1e-5, low + 0.40001) - cell_masses(low - 1e-5, low + 0.39999)
    ) / 2e-5
    np.testing.assert_allclose(cell_density_steps(low, low + 0.4), difference, atol=1e-10)


# Numbers ----------------------------------------------------------------------------------------


def test_the_published_anchors_with_equal_rates() -> None:
    response = BilevelTaxDesign().evaluate([0.3, 0.3, 0.3, 0.3])
    assert response.converged
    # Published with six decimals.
    assert response.objective == pytest.approx(32.601995, abs=6e-7)
    expected = [-2.975346, -4.746958, -1.208305, 43.398324]
    np.testing.assert_allclose(response.hyper_gradient, expected, atol=6e-7)


def test_the_best_known_taxes_are_stationary_and_worth_what_is_recorded() -> None:
    game = BilevelTaxDesign()
    best = game.best_known
    assert best is not None
    response = game.evaluate(best.upper_params)
    assert response.objective == pytest.approx(54.784836, abs=6e-7)
    assert best.value == pytest.approx(response.objective, rel=1e-12)
    gradient = response.hyper_gradient
    # Two rates at their lower bound want to fall; the others rest.
    assert (best.upper_params[:2] == 0.0).all() and (gradient[:2] < -0.05).all()
    np.testing.assert_allclose(gradient[2:], 0.0, atol=0.01)


def test_the_direct_gradient_taxes_until_nobody_works() -> None:
    ends: list[Iterate] = []
    for objective in (exact_objective(small().model), direct_objective(small())):
        seen: list[Iterate] = []
        start, low, high = np.full(4, 0.3), np.zeros(4), np.full(4, 2.0)
        normalized_ascent(objective, start, low, high, callback=seen.append)
        ends.append(seen[-1])
    exact, direct = ends
    assert exact.value == pytest.approx(51.01, abs=0.01)
    assert direct.value < 0.5 and direct.upper_params[3] > 1.2


def test_other_numbers_of_goods_and_households_make_a_game() -> None:
    game = small(preferences=[[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]], max_rate=1.0, start_rate=0.0)
    assert game.observation_space == spaces.Discrete(3 * NUM_ASSETS)
    assert game.lower_space == spaces.Discrete(36)
    assert game.upper_space == spaces.Box(0.0, 1.0, (3,), np.float32)


def test_the_least_noise_brings_households_back_from_wherever_they_are_led() -> None:
    # The farthest: 15 spent, and 8.01 paid for working; 23.01 / 30 = .767.
    kernel = small(noise=0.7671).kernel(np.array([0.0, 0.0, 0.0, 2.0]))
    np.testing.assert_allclose(kernel.row_sums, 1.0, atol=1e-14)


# Pictures ---------------------------------------------------------------------------------------


def test_the_scene_holds_the_rates_with_their_derivatives() -> None:
    game = small()
    response = game.evaluate(X)
    scene = game.scene(View("title", X, response))
    np.testing.assert_array_equal(scene.rates, X)
    assert scene.max_rate == 2.0 and scene.gradient is not None
    np.testing.assert_array_equal(scene.gradient, response.hyper_gradient)
    assert game.scene(View("title", X)).gradient is None


def test_the_schedules_are_what_each_type_of_household_does_over_its_assets() -> None:
    game = small(wage=1.5)
    response = game.evaluate(X)
    scene = game.scene(View("title", X, response, state=NUM_ASSETS + 9))
    assert scene.schedules is not None and scene.follower == (1, 9)
    np.testing.assert_allclose(scene.assets, assets_of(NUM_ASSETS), atol=1e-13)
    for household in range(2):
        # Hours, money spent on each good, taxes paid, and share of this type's time.
        curves = np.zeros((NUM_ASSETS, 6))
        for i in range(NUM_ASSETS):
            state = NUM_ASSETS * household + i
            for likely, (hours, goods) in zip(response.policy[state], SMALL_ACTIONS, strict=True):
                taxes = X[3] * 1.5 * hours
                taxes += sum(c * r / (1.0 + r) for c, r in zip(goods, X, strict=False))
                curves[i, :5] += likely * np.array([hours, *goods, taxes])
            curves[i, 5] = 2.0 * response.occupancy[state]
        assert curves[:, 5].sum() == pytest.approx(1.0, abs=1e-8)
        drawn = np.concatenate([values[household] for values in scene.schedules], axis=1)
        np.testing.assert_allclose(drawn, curves, atol=1e-12)
    for limit, values in zip(scene.limits, scene.schedules, strict=True):
        assert limit >= values.max() > 0.0


def test_the_status_tells_the_mean_revenue_and_the_followers_assets() -> None:
    game = small()
    response = game.evaluate(X)
    taxes = [
        X[3] * hours + sum(c * r / (1.0 + r) for c, r in zip(goods, X, strict=False))
        for hours, goods in SMALL_ACTIONS
    ]
    # The occupancy sums to one, so this is a mean over time.
    expected = float(response.occupancy @ response.policy @ np.array(taxes))
    assert expected > 0.1
    for state, assets in ((9, "-25"), (NUM_ASSETS + 9, "-25"), (NUM_ASSETS + 15, "25")):
        view = View("", X, response, state=state, status=(("step", "3"),))
        assert game.scene(view).status == (
            ("step", "3"),
            ("mean tax revenue", f"{expected:.4f}"),
            ("assets", assets),
        )
    assert game.scene(View("", X)).status == ()


def picture(view: View, **arguments: Any) -> FloatArray:
    return frame(small(**arguments).draw(view)).astype(float)


def test_without_an_answer_only_the_taxes_are_shown() -> None:
    empty = picture(View("title", X))
    answered = picture(View("title", X, small().evaluate(X)))
    assert empty.shape == answered.shape
    # The bars are the same, above the triangles.
    np.testing.assert_array_equal(empty[116:310, :350], answered[116:310, :350])
    assert (empty[150:, 372:] != answered[150:, 372:]).any()


def test_the_follower_is_marked_among_the_households_of_its_type() -> None:
    response = small().evaluate(X)
    without = picture(View("title", X, response))
    for household, state in enumerate((9, NUM_ASSETS + 9)):
        changed = (picture(View("title", X, response, state=state)) != without).any(axis=(0, 2))
        panels = [changed[372:716].any(), changed[740:].any()]
        assert panels == [household == 0, household == 1]
