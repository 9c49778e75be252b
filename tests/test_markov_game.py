"""Places, strategies, numbers and pictures of BilevelMarkovGame-v0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from bilevel_gym.envs import View
from bilevel_gym.envs.markov_game import BilevelMarkovGame
from bilevel_gym.optimizers import lbfgsb
from bilevel_gym.wrappers import exact_objective

from .helpers import FloatArray

S, A, B = range(3)
STAY, TO_A, TO_B = range(3)  # the moves s, a, b, by what they do in S
SHAPE = (3, 2)


def mixing(p: float) -> FloatArray:
    """Return an x with which the leader shows 0 in A with probability p."""
    x = np.zeros(SHAPE)
    x[A, 0] = np.log(p / (1.0 - p))
    return x


def some_x(seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=SHAPE)


def successor(place: int, shown: int, move: int) -> int:
    """Return the next place, as published."""
    if place == B:
        return S if move == STAY else B
    if place == A and shown == 1:
        return S
    return {STAY: S, TO_A: A, TO_B: B}[move]


def model(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return kernel `[6, 3, 6]` and start `[6]` at x, by plain loops."""
    strategy = softmax(x, axis=1)
    kernel, start = np.zeros((6, 3, 6)), np.zeros(6)
    for shown in range(2):
        start[2 * S + shown] = strategy[S, shown]
        for place in range(3):
            for move in range(3):
                there = successor(place, shown, move)
                for following in range(2):
                    kernel[2 * place + shown, move, 2 * there + following] = strategy[
                        there, following
                    ]
    return kernel, start


# The model --------------------------------------------------------------------------------------


def test_kernel_and_start_are_the_published_ones_at_every_x() -> None:
    game = BilevelMarkovGame()
    np.testing.assert_array_equal(game.initial_distribution, model(np.zeros(SHAPE))[1])
    for x in (np.zeros(SHAPE), some_x(), 10.0 * np.sign(some_x(1))):
        kernel, start = model(x)
        np.testing.assert_allclose(game.kernel(x).to_dense(), kernel, atol=1e-15)
        np.testing.assert_allclose(game.start_distribution(x), start, atol=1e-15)


def test_kernels_of_different_x_share_their_pattern() -> None:
    kernels = [BilevelMarkovGame().kernel(x) for x in (np.zeros(SHAPE), 10.0 * np.sign(some_x()))]
    for name in ("indices", "indptr"):
        np.testing.assert_array_equal(*(getattr(kernel.matrix, name) for kernel in kernels))


@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_both_are_paid_as_published(bonus: float) -> None:
    game, x = BilevelMarkovGame(bonus=bonus), some_x()
    reward, upper_reward = np.zeros((6, 3)), np.zeros((6, 3))
    reward[[2 * S, 2 * S + 1], TO_A:] = 1.0
    reward[2 * A, TO_B], reward[2 * A + 1] = bonus, -1.0
    upper_reward[[2 * S, 2 * S + 1], TO_A] = 1.0
    np.testing.assert_array_equal(game.reward(x), reward)
    np.testing.assert_array_equal(game.upper_reward(x), upper_reward)


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizon", "objective", "slope"), [(150, 0.480792, 3.382636), (None, 0.617005, 4.338510)]
)
def test_the_published_anchors_at_equal_logits(
    horizon: int | None, objective: float, slope: float
) -> None:
    response = BilevelMarkovGame(horizon=horizon).evaluate(np.zeros(SHAPE))
    # Published with six decimals.
    assert response.objective == pytest.approx(objective, abs=6e-7)
    assert response.hyper_gradient[A] == pytest.approx([slope, -slope], abs=6e-7)
    assert response.direct_gradient[A, 0] == pytest.approx(-2e-4 * slope, rel=0.15)


def test_the_best_strategy_mixes() -> None:
    game = BilevelMarkovGame()
    assert game.evaluate(mixing(0.833757)).objective == pytest.approx(27.315565, abs=6e-7)
    best = game.best_known
    assert best is not None and best.value == pytest.approx(27.315565, abs=6e-7)
    assert game.evaluate(best.upper_params).objective == pytest.approx(best.value, abs=6e-7)
    assert softmax(best.upper_params, axis=1)[A, 0] == pytest.approx(0.833757, abs=2e-6)
    probabilities = np.linspace(0.01, 0.99, 99)
    responses = game.evaluate_batch(np.array([mixing(p) for p in probabilities]))
    values = np.array([response.objective for response in responses])
    assert values.max() < best.value
    assert probabilities[values.argmax()] == pytest.approx(0.83)
    rises = np.diff(values) > 0.0
    assert rises[: values.argmax()].all() and not rises[values.argmax() :].any()


def best_probability(game: BilevelMarkovGame) -> float:
    """Return the probability of 0 in A that an ascent from x = 0 ends at."""
    box = np.full(SHAPE, 10.0)
    optimum = lbfgsb(exact_objective(game.model), np.zeros(SHAPE), -box, box, max_evaluations=60)
    return float(softmax(optimum.best.upper_params, axis=1)[A, 0])


@pytest.mark.parametrize(
    ("bonus", "horizon", "probability", "value"),
    [
        (1.0, 150, 0.833757, 27.315565),
        (1.0, None, 0.833544, 34.992641),
        (2.0, 150, 0.497474, 31.165579),
        (2.0, None, 0.497362, 39.940211),
    ],
)
def test_quasi_newton_on_the_hyper_gradient_finds_the_documented_optima(
    bonus: float, horizon: int | None, probability: float, value: float
) -> None:
    game = BilevelMarkovGame(bonus=bonus, horizon=horizon)
    assert game.evaluate(mixing(probability)).objective == pytest.approx(value, abs=6e-7)
    assert best_probability(game) == pytest.approx(probability, abs=2e-6)


@pytest.mark.parametrize(
    ("horizon", "x", "value", "error"),
    [
        # Always showing 0 in A: 1 is shown with probability 2e-9.
        (150, [[0, 0], [10, -10], [0, 0]], 26.217401, 6e-7),
        (None, [[0, 0], [10, -10], [0, 0]], 33.65, 5e-3),
        # Published of the infinite horizon.
        (None, mixing(0.833757), 34.99, 5e-3),
        (None, mixing(0.5), 0.617, 5e-4),
    ],
)
def test_other_strategies_have_the_known_values(
    horizon: int | None, x: Any, value: float, error: float
) -> None:
    objective = BilevelMarkovGame(horizon=horizon).evaluate(x).objective
    assert objective == pytest.approx(value, abs=error)


# Pictures ---------------------------------------------------------------------------------------

WAYS = {
    (S, S): "s",
    (S, A): "a",
    (S, B): "b",
    (A, S): "0: s; 1: s, a, b",
    (A, A): "0: a",
    (A, B): "0: b",
    (B, S): "s",
    (B, B): "a, b",
}


def test_the_picture_shows_the_ways_between_the_places() -> None:
    game, x = BilevelMarkovGame(bonus=2.0), mixing(0.7)
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response, state=2 * A + 1, status=(("step", "3"),)))
    assert scene.names == ("S", "A", "B") and scene.follower == A
    assert [tuple(edge) for edge in scene.edges.tolist()] == list(WAYS)
    assert scene.edge_labels == tuple(WAYS.values())
    assert scene.status == (("step", "3"), ("place", "A"), ("leader shows", "1"))
    assert scene.flow is not None and scene.values is not None and scene.occupancy is not None
    # Moves, discounted; the occupancy is that of the follower, 1 in all.
    moves = np.zeros((3, 3))
    rewards = np.zeros((3, 3))
    for state in range(6):
        for move in range(3):
            flow = 100.0 * response.occupancy[state] * response.policy[state, move]
            way = state // 2, successor(state // 2, state % 2, move)
            moves[way] += flow
            rewards[way] += flow * game.reward(x)[state, move]
    for (origin, target), flow, value in zip(WAYS, scene.flow, scene.values, strict=True):
        assert flow == pytest.approx(moves[origin, target], abs=1e-12)
        assert value == pytest.approx(rewards[origin, target] / moves[origin, target], abs=1e-5)
    assert scene.value_limit == 2.0
    np.testing.assert_allclose(scene.occupancy, moves.sum(axis=1) / 100.0, atol=1e-12)


def test_panels_show_both_strategies() -> None:
    game, x = BilevelMarkovGame(), some_x()
    response = game.evaluate(x)
    leader, *follower = game.scene(View("", x, response)).panels
    assert leader.labels == ("0 in S", "1 in S", "0 in A", "1 in A", "0 in B", "1 in B")
    np.testing.assert_allclose(leader.values, softmax(x, axis=1).ravel(), atol=1e-15)
    assert response.hyper_gradient is not None and leader.gradient is not None
    np.testing.assert_array_equal(leader.gradient, response.hyper_gradient.ravel())
    titles = ["follower in S", "follower in A, seeing 0", "follower in A, seeing 1"]
    assert [panel.title for panel in follower] == [*titles, "follower in B"]
    for panel, state in zip(follower, (2 * S, 2 * A, 2 * A + 1, 2 * B), strict=True):
        assert panel.labels == ("s", "a", "b") and panel.limit == 1.0
        np.testing.assert_array_equal(panel.values, response.policy[state])
    # One panel for S and one for B are enough.
    for place in (S, B):
        first, second = response.policy[2 * place : 2 * place + 2]
        np.testing.assert_allclose(first, second, atol=1e-12)


def test_a_view_without_an_answer_shows_the_leaders_strategy() -> None:
    game = BilevelMarkovGame()
    scene = game.scene(View("", mixing(0.9)))
    assert scene.flow is None and scene.values is None and scene.follower is None
    (panel,) = scene.panels
    assert panel.gradient is None and panel.values[2 * A] == pytest.approx(0.9)
    game.draw(View("", mixing(0.9)))
