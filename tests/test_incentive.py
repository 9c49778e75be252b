"""Graph, payments, numbers and pictures of BilevelIncentive-v0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.bellman import soft_backup
from bilevel_gym.envs import View
from bilevel_gym.envs.incentive import BilevelIncentive
from bilevel_gym.optimizers import lbfgsb
from bilevel_gym.wrappers import exact_objective

from .helpers import FloatArray

# Action and successor of every intended move, as published.
GRAPH = {
    0: "a1 b2 c3 d4",
    1: "a5 b8 c6",
    2: "a6 b7",
    3: "b5 c7",
    4: "c7 d5",
    6: "b9 d10",
    7: "a9 b8",
    9: "b11 c12",
}
MOVES = {(s, "abcd".index(m[0])): int(m[1:]) for s, text in GRAPH.items() for m in text.split()}
ENDS = {5, 8, 10, 11, 12}
Q7A, Q9A, Q9D = 4 * 7, 4 * 9, 4 * 9 + 3


def paying(payments: dict[int, float]) -> FloatArray:
    """Return x on all pairs with some payments, by 4 * state + action."""
    x = np.zeros(52)
    for pair, payment in payments.items():
        x[pair] = payment
    return x


def some_x(seed: int = 0, most: float = 2.0) -> FloatArray:
    return np.random.default_rng(seed).uniform(0.0, most, 52)


def on_policy(game: BilevelIncentive, policy: FloatArray, reward: FloatArray) -> float:
    """Return the discounted sum of a reward from q0 under a policy."""
    dense = game.kernel(game.initial_upper_params).to_dense()
    chain = np.einsum("sa,sat->st", policy, dense)
    value = np.linalg.solve(np.eye(13) - game.gamma * chain, (policy * reward).sum(axis=1))
    return float(value[0])


# The model --------------------------------------------------------------------------------------


def test_the_default_begins_in_q0_and_pays_for_every_pair() -> None:
    game = BilevelIncentive()
    np.testing.assert_array_equal(game.initial_distribution, np.eye(13)[0])
    assert game.paid == tuple((s, a) for s in range(13) for a in range(4))


@pytest.mark.parametrize("slip", [0.0, 0.3, 1.0])
def test_the_kernel_is_the_published_one(slip: float) -> None:
    expected = np.zeros((13, 4, 13))
    for state in set(range(13)) - ENDS:
        for chosen in range(4):
            for works in range(4):
                likely = 1.0 - slip if works == chosen else slip / 3.0
                expected[state, chosen, MOVES.get((state, works), state)] += likely
    game = BilevelIncentive(slip=slip)
    dense = game.kernel(game.initial_upper_params).to_dense()
    np.testing.assert_allclose(dense, expected, atol=1e-15)


def test_the_follower_is_paid_in_q10_and_what_was_promised_the_leader_in_q11_and_q12() -> None:
    game, upper_reward = BilevelIncentive(), np.zeros((13, 4))
    upper_reward[[11, 12]] = 1.0
    for x in (np.zeros(52), some_x()):
        reward = x.reshape(13, 4).copy()
        reward[10] += 1.0
        np.testing.assert_array_equal(game.reward(x), reward)
        np.testing.assert_array_equal(game.upper_reward(x), upper_reward)


def test_only_the_chosen_pairs_are_paid_in_their_order() -> None:
    game = BilevelIncentive(paid=[[9, 3], [7, 0]])
    assert game.upper_space.shape == (2,) and game.paid == ((9, 3), (7, 0))
    expected = np.zeros((13, 4))
    expected[10], expected[9, 3], expected[7, 0] = 1.0, 0.25, 0.5
    np.testing.assert_array_equal(game.reward(np.array([0.25, 0.5])), expected)
    full = BilevelIncentive().evaluate(paying({Q9D: 0.25, Q7A: 0.5}))
    part = game.evaluate([0.25, 0.5])
    assert part.objective == pytest.approx(full.objective, abs=1e-12)
    np.testing.assert_allclose(part.hyper_gradient, full.hyper_gradient[[Q9D, Q7A]], atol=1e-9)


def test_what_is_promised_costs_once_however_often_it_is_collected() -> None:
    x = some_x(2, 0.3)
    game, free = BilevelIncentive(payment_weight=0.7), BilevelIncentive(payment_weight=0.0)
    response = game.evaluate(x)
    returns = on_policy(game, response.policy, game.upper_reward(x))
    assert response.objective == pytest.approx(returns - 0.7 * x.sum(), abs=1e-12)
    assert free.evaluate(x).objective == pytest.approx(returns, abs=1e-12)
    np.testing.assert_array_equal(response.direct_gradient, np.full(52, -0.7))


# Numbers ----------------------------------------------------------------------------------------


def test_the_published_anchors_without_payments() -> None:
    game = BilevelIncentive()
    response = game.evaluate(np.zeros(52))
    # Published with six decimals.
    assert response.objective == pytest.approx(0.147802, abs=6e-7)
    assert response.lower_value == pytest.approx(0.534445, abs=6e-7)
    expected_reward = on_policy(game, response.policy, game.reward(np.zeros(52)))
    assert expected_reward == pytest.approx(0.504979, abs=6e-7)
    assert np.linalg.norm(response.hyper_gradient) == pytest.approx(4.594235, abs=6e-7)
    np.testing.assert_array_equal(response.direct_gradient, np.full(52, -0.5))
    assert np.flatnonzero(response.hyper_gradient > 0.0).tolist() == [Q7A]
    assert response.hyper_gradient[Q7A] == pytest.approx(0.996583, abs=6e-7)


def test_the_published_values_are_those_after_eight_sweeps() -> None:
    game = BilevelIncentive()
    mdp = game.model.lower_mdp(np.zeros(52))
    value = np.zeros(13)
    for _ in range(8):
        value, policy = soft_backup(mdp.reward + mdp.gamma * mdp.kernel.expect(value), 0.01)
    upper = on_policy(game, policy, game.upper_reward(np.zeros(52)))
    assert (upper, value[0]) == pytest.approx((0.152371, 0.530529), abs=6e-7)


def ascent(start: FloatArray, objective: Any) -> Any:
    return lbfgsb(objective, start, np.zeros(52), np.full(52, 2.0)).best


def test_quasi_newton_from_zero_ends_in_a_poor_optimum() -> None:
    best = ascent(np.zeros(52), exact_objective(BilevelIncentive().model))
    assert best.value == pytest.approx(0.172858, abs=6e-7)
    assert np.flatnonzero(best.upper_params).tolist() == [Q7A]


def test_the_best_known_payment_is_for_staying_in_q9() -> None:
    game = BilevelIncentive()
    best = game.best_known
    assert best is not None
    assert np.flatnonzero(best.upper_params).tolist() == [Q9A]
    assert best.value == pytest.approx(0.417292, abs=6e-7)
    assert best.upper_params[Q9A] == pytest.approx(0.26262, abs=5e-6)  # as documented
    assert game.evaluate(best.upper_params).objective == pytest.approx(0.417292, abs=6e-7)
    # It is a local optimum, also with every other payment free, and so is the same for d.
    for pair in (Q9A, Q9D):
        found = ascent(paying({pair: 0.25}), exact_objective(game.model))
        assert found.value == pytest.approx(0.417292, abs=6e-7)
        assert np.flatnonzero(found.upper_params > 1e-6).tolist() == [pair]
        assert found.upper_params[pair] == pytest.approx(best.upper_params[Q9A], abs=1e-5)


def test_the_best_basin_is_as_narrow_as_documented() -> None:
    game = BilevelIncentive(paid=[[9, 0]])
    values = [game.evaluate([payment]).objective for payment in (0.22, 0.24)]
    assert values == pytest.approx([0.1036, 0.2467], abs=6e-5)


def test_pairs_may_be_tuples_or_an_array() -> None:
    for paid in ([(7, 0), (9, 3)], np.array([[7, 0], [9, 3]])):
        assert BilevelIncentive(paid=paid).paid == ((7, 0), (9, 3))  # type: ignore[arg-type]


# Pictures ---------------------------------------------------------------------------------------


def test_the_picture_has_an_edge_for_every_intended_move() -> None:
    game, x = BilevelIncentive(), some_x()
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response, state=7, status=(("step", "3"),)))
    assert scene.status == (("step", "3"), ("payments", f"{sum(x.tolist()):.4f}"))
    assert scene.occupancy is not None
    np.testing.assert_array_equal(scene.occupancy, response.occupancy)
    assert scene.names == tuple(f"q{state}" for state in range(13))
    assert scene.follower == 7 and scene.title == "title"
    assert [scene.marks[state] for state in (0, 10, 11, 12, 9)] == ["S", "G", "T", "T", ""]
    assert scene.values is not None and scene.flow is not None and scene.gradient is not None
    assert response.hyper_gradient is not None
    visits = response.occupancy[:, None] * response.policy / 0.05
    for edge, ((state, action), successor) in enumerate(MOVES.items()):
        assert scene.edges[edge].tolist() == [state, successor]
        assert scene.values[edge] == x[4 * state + action]
        assert scene.flow[edge] == pytest.approx(visits[state, action])
        assert scene.gradient[edge] == response.hyper_gradient[4 * state + action]
        assert scene.edge_labels[edge] == f"{'abcd'[action]} {x[4 * state + action]:.2f}"


def test_what_leads_nowhere_is_a_loop_with_the_sum_of_its_payments() -> None:
    game, x = BilevelIncentive(), some_x()
    response = game.evaluate(x)
    scene = game.scene(View("", x, response))
    # Every action of q0 leads somewhere.
    assert scene.edges[len(MOVES) :].tolist() == [[s, s] for s in range(1, 13)]
    assert scene.values is not None and scene.flow is not None
    assert scene.values[len(MOVES) + 8] == pytest.approx(x[Q9A] + x[Q9D])
    assert scene.edge_labels[len(MOVES) + 8] == f"ad {x[Q9A] + x[Q9D]:.2f}"
    assert scene.values[-1] == pytest.approx(x[-4:].sum())
    # Everything that the follower does is on some edge.
    assert scene.flow.sum() == pytest.approx(response.occupancy.sum() / 0.05)


def test_pairs_that_are_not_paid_have_no_colour_and_no_loop() -> None:
    game = BilevelIncentive(paid=[[7, 0], [9, 3]])
    scene = game.scene(View("", np.array([0.0, 0.3]), game.evaluate([0.0, 0.3])))
    assert scene.edges[len(MOVES) :].tolist() == [[9, 9]]
    assert scene.values is not None
    coloured = np.flatnonzero(~np.isnan(scene.values)).tolist()
    assert coloured == [list(MOVES).index((7, 0)), len(MOVES)]
    assert scene.edge_labels[coloured[0]] == "a" and scene.edge_labels[-1] == "d 0.30"
    # Where nothing is paid loops have no label, and no derivative that points out of the box.
    game, nothing = BilevelIncentive(), np.zeros(52)
    scene = game.scene(View("", nothing, game.evaluate(nothing)))
    assert scene.gradient is not None and not any(scene.edge_labels[len(MOVES) :])
    assert np.flatnonzero(~np.isnan(scene.gradient)).tolist() == [list(MOVES).index((7, 0))]


def test_derivatives_point_into_the_box_from_both_of_its_ends() -> None:
    # At the least, the largest, and a payment between; slopes down, up, and none.
    x = np.repeat([0.0, 0.3, 0.1], 3)
    slopes = np.tile([-2.0, 3.0, 0.0], 3)
    expected = np.array([np.nan, 3.0, np.nan, -2.0, np.nan, np.nan, -2.0, 3.0, np.nan])
    game = BilevelIncentive(paid=list(MOVES)[:9], max_payment=0.3)
    answer = replace(game.evaluate(x), hyper_gradient=slopes)
    gradient = game.scene(View("", x, answer)).gradient
    assert gradient is not None
    np.testing.assert_array_equal(gradient[:9], expected)
    assert np.isnan(gradient[9:]).all()  # what is not paid for, and has no loop


@pytest.mark.parametrize(
    ("slopes", "payments", "shown"),
    [
        ((1.0, -3.0), (0.1, 0.1), -3.0),
        ((4.0, -3.0), (0.1, 0.1), 4.0),
        ((-1.0, -3.0), (0.1, 0.1), -3.0),
        ((1.0, 3.0), (0.1, 0.1), 3.0),
        ((1.0, 3.0), (0.1, 2.0), 1.0),  # the second one is at its upper end
        ((1.0, -3.0), (0.1, 0.0), 1.0),  # and here at its lower one
        ((1.0, -3.0), (2.0, 0.0), np.nan),
    ],
)
def test_a_loop_shows_the_largest_of_its_derivatives(
    slopes: tuple[float, ...], payments: tuple[float, ...], shown: float
) -> None:
    game, x = BilevelIncentive(paid=[[9, 0], [9, 3]]), np.array(payments)
    answer = replace(game.evaluate(x), hyper_gradient=np.array(slopes))
    gradient = game.scene(View("", x, answer)).gradient
    assert gradient is not None
    np.testing.assert_array_equal(gradient[len(MOVES) :], [shown])
