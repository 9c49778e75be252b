"""Payments for outcomes, known optima, and pictures of BilevelContract-v0."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from bilevel_gym.envs import BilevelContract, View
from bilevel_gym.optimizers import CostConstraint, make_optimizer
from bilevel_gym.wrappers import exact_objective

from .helpers import FloatArray

REST, WORK, RUSH = range(3)
OUTCOMES = np.array([[0.1, 0.85, 0.05], [0.05, 0.6, 0.35], [0.3, 0.1, 0.6]])
COSTS = np.array([0.0, 0.1, 0.15])

# One period with three efforts and three outcomes.
PERIOD: dict[str, Any] = {
    "outcomes": [[0.6, 0.3, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]],
    "costs": [0.0, 0.1, 0.3],
    "revenues": [0.0, 0.5, 1.5],
}


def climbed(game: BilevelContract, start: FloatArray | None = None) -> tuple[float, FloatArray]:
    """Return the best F of a climb, and its x."""
    model = game.model
    start = model.initial_upper_params if start is None else start
    climb = make_optimizer("climb", max_evaluations=400)
    best = climb(exact_objective(model), start, model.low, model.high).best
    return best.value, best.upper_params


# The model --------------------------------------------------------------------------------------


def test_the_project_falls_back_stays_or_advances() -> None:
    game = BilevelContract(stages=3)
    expected = np.zeros((4, 3, 4))
    for effort, (back, same, ahead) in enumerate(OUTCOMES):
        expected[0, effort, :2] = back + same, ahead
        expected[1, effort, :3] = back, same, ahead
        expected[2, effort, 1:] = back, same, ahead
    np.testing.assert_allclose(game.model.initial_kernel.to_dense(), expected, atol=1e-15)
    np.testing.assert_array_equal(game.initial_distribution, [1.0, 0.0, 0.0, 0.0])


def test_both_are_paid_for_the_outcome_on_average() -> None:
    x = np.random.default_rng(0).uniform(0.0, 4.0, 8)
    game = BilevelContract(stages=3, revenue=5.0)
    payment = np.zeros((4, 4))
    payment[[0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 0, 1, 2, 1, 2, 3]] = x
    kernel = game.model.initial_kernel.to_dense()
    paid = np.einsum("sat,st->sa", kernel, payment)
    costs = np.array([*3 * [COSTS], np.zeros(3)])
    np.testing.assert_allclose(game.reward(x), paid - costs, atol=1e-14)
    np.testing.assert_allclose(game.upper_reward(x), 5.0 * kernel[:, :, 3] - paid, atol=1e-14)
    np.testing.assert_allclose(game.payments(x), paid, atol=1e-14)


def test_an_agent_of_one_period_weighs_payments_against_costs() -> None:
    game, x = BilevelContract(**PERIOD, temperature=0.1), np.array([0.1, 0.2, 0.7])
    chances, response = np.array(PERIOD["outcomes"]), game.evaluate(x)
    weights = np.exp((chances @ x - PERIOD["costs"]) / 0.1)
    policy = weights / weights.sum()
    np.testing.assert_allclose(response.policy[0], policy, atol=1e-14)
    profit = policy @ chances @ (np.array(PERIOD["revenues"]) - x)
    assert response.objective == pytest.approx(profit, abs=1e-14)
    # d F/dx = -E[P] + Cov(P, profit) / temperature, the derivative of a softmax.
    gains = chances @ (np.array(PERIOD["revenues"]) - x)
    slope = -policy @ chances + (policy * (gains - profit)) @ chances / 0.1
    np.testing.assert_allclose(response.hyper_gradient, slope, atol=1e-13)


def test_probabilities_of_single_precision_are_normalised() -> None:
    game = BilevelContract(outcomes=OUTCOMES.astype(np.float32).tolist())
    np.testing.assert_allclose(
        game.model.initial_kernel.to_dense()[:-1].sum(axis=2), 1.0, rtol=1e-15
    )


def test_x_starts_at_a_quarter_of_each_revenue() -> None:
    np.testing.assert_array_equal(BilevelContract().initial_upper_params, [*10 * [0.0], 1.0])
    period = BilevelContract(**PERIOD, max_payment=0.3).initial_upper_params
    np.testing.assert_allclose(period, [0.0, 0.125, 0.3], rtol=1e-6)


def test_payments_can_be_limited() -> None:
    game = BilevelContract(**PERIOD, temperature=0.03)
    model, objective = game.model, exact_objective(game.model)
    free = climbed(game)[1]
    limit = CostConstraint(cost="payments", at_most=0.2)
    assert objective.cost("payments")(free)[0] > 0.3
    bounded = make_optimizer("slsqp", constraints=[limit], max_evaluations=100)
    best = bounded(objective, model.initial_upper_params, model.low, model.high).best
    assert objective.cost("payments")(best.upper_params)[0] == pytest.approx(0.2, abs=1e-6)


# Known optima -----------------------------------------------------------------------------------


def least_payments(
    game: BilevelContract, efforts: tuple[int, ...]
) -> tuple[float, FloatArray | None]:
    """Return the profit of the least payments for an effort in each state, and these payments.

    They solve a linear programme in x and the agent's values V of the states that it acts in: V is
    that of the efforts wanted, and no other effort is worth more. None where nothing makes the
    agent choose them.
    """
    kernel, gamma = game.model.initial_kernel.to_dense(), game.gamma
    none = np.zeros_like(game.initial_upper_params)
    costs, revenue = -game.reward(none), game.upper_reward(none)
    paid = np.array([game.payments(unit) for unit in np.eye(none.size)])  # [D, S, A]
    states, acting = np.arange(game.num_states), range(len(efforts))
    wanted = np.append(efforts, np.zeros(game.num_states - len(efforts), int))
    system = np.eye(game.num_states) - gamma * kernel[states, wanted].T
    visits = np.linalg.solve(system, game.initial_distribution)
    rows: dict[bool, list[Any]] = {True: [], False: []}
    for state in acting:
        for effort in range(game.num_actions):
            value = gamma * kernel[state, effort, acting] - np.eye(len(efforts))[state]
            row = np.concatenate([paid[:, state, effort], value])
            rows[effort == wanted[state]].append((row, costs[state, effort]))
    least = linprog(
        np.concatenate([paid[:, states, wanted] @ visits, np.zeros(len(efforts))]),
        A_ub=[row for row, _ in rows[False]],
        b_ub=[cost for _, cost in rows[False]],
        A_eq=[row for row, _ in rows[True]],
        b_eq=[cost for _, cost in rows[True]],
        bounds=[(0.0, game.upper_space.high[0])] * none.size + [(None, None)] * len(efforts),
    )
    if least.status != 0:
        return -np.inf, None
    return float(visits @ revenue[states, wanted] - least.fun), least.x[: none.size]


def best_contract(game: BilevelContract, states: int) -> tuple[float, FloatArray]:
    """Return the largest profit without entropy, and its payments: one programme for each plan."""
    plans = itertools.product(range(game.num_actions), repeat=states)
    profit, payments = max((least_payments(game, plan) for plan in plans), key=lambda p: p[0])
    assert payments is not None
    return profit, payments


def test_the_climb_comes_to_the_linear_programmes_as_the_temperature_vanishes() -> None:
    known = [least_payments(BilevelContract(**PERIOD), (effort,))[0] for effort in range(3)]
    np.testing.assert_allclose(known, [0.3, 0.5, 0.6], atol=1e-12)
    values = [climbed(BilevelContract(**PERIOD, temperature=t))[0] for t in (1e-2, 1e-3, 1e-4)]
    np.testing.assert_allclose(values, [0.5449, 0.5895, 0.5985], atol=5e-5)


@pytest.mark.parametrize("seed", range(5))
def test_random_contracts_of_one_period_come_within_the_order_of_the_temperature(seed: int) -> None:
    rng = np.random.default_rng(seed)
    efforts, outcomes = rng.integers(2, 5, 2)
    given: dict[str, Any] = {
        "outcomes": rng.dirichlet(np.ones(outcomes), efforts),
        "costs": np.append(0.0, np.sort(rng.uniform(0.0, 0.3, efforts - 1))),
        "revenues": np.sort(rng.uniform(0.0, 2.0, outcomes)),
    }
    limit, payments = best_contract(BilevelContract(**given), 1)
    # Without entropy the agent is indifferent at the best contract, and acts for the principal.
    exact = BilevelContract(**given).evaluate_unregularised(np.maximum(payments, 0.0))
    assert exact.optimistic == pytest.approx(limit, abs=1e-9)
    for temperature in (1e-2, 1e-3):
        value, _ = climbed(BilevelContract(**given, temperature=temperature))
        # It takes temperature * log(1 / temperature) of payment to make one effort likely.
        assert abs(value - limit) < 2.0 * temperature * np.log(1.0 / temperature)


def test_the_best_project_is_that_of_the_best_of_81_programmes() -> None:
    limit, payments = best_contract(BilevelContract(), 4)
    assert limit == pytest.approx(1.235660, abs=1e-6)
    assert least_payments(BilevelContract(), (RUSH, RUSH, WORK, WORK))[0] == limit
    exact = BilevelContract().evaluate_unregularised(payments.clip(0.0, 4.0))
    assert exact.optimistic == pytest.approx(limit, abs=1e-9) and exact.ties > 0
    values = []
    x = None
    for temperature in (0.01, 0.005, 0.002, 0.001):
        value, x = climbed(BilevelContract(temperature=temperature), x)
        values.append(value)
    np.testing.assert_allclose(values, [1.0362, 1.0837, 1.1403, 1.1738], atol=1e-4)


def test_the_climb_leaves_the_local_optimum_that_steps_along_the_gradient_end_in() -> None:
    game = BilevelContract()
    model, known = game.model, game.best_known
    assert game.evaluate(model.initial_upper_params).objective == pytest.approx(0.316107, abs=1e-6)
    descent = make_optimizer("lbfgsb", max_evaluations=200)
    end = descent(exact_objective(model), model.initial_upper_params, model.low, model.high).best
    assert end.value == pytest.approx(0.694362, abs=1e-6)
    assert known is not None and climbed(game)[0] == pytest.approx(known.value, abs=1e-5)


# Pictures ---------------------------------------------------------------------------------------


def test_the_picture_shows_who_pays_what_for_which_outcome() -> None:
    game, x = BilevelContract(stages=2), np.array([0.0, 0.25, 0.0, 0.004, 2.0])
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response, state=1))
    assert scene.names == ("1", "2", "end") and scene.marks == ("S", "", "T")
    assert scene.edges.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert scene.edge_labels == ("", "0.25", "", "", "2.00")
    account, agent, *efforts = scene.panels
    revenue, paid, profit = account.values
    assert account.labels == ("revenue", "payments", "profit")
    assert agent.labels == ("payments", "costs")
    assert agent.values[0] == paid and agent.values[1] > 0.0
    assert profit == pytest.approx(response.objective, abs=1e-12)
    assert scene.flow is not None and scene.flow @ x == pytest.approx(paid, abs=1e-12)
    assert revenue == pytest.approx(4.0 * scene.flow[-1], abs=1e-12)
    assert [panel.title for panel in efforts] == ["agent in stage 1", "agent in stage 2"]
    for state, panel in enumerate(efforts):
        assert panel.labels == ("rest", "work", "rush")
        np.testing.assert_array_equal(panel.values, response.policy[state])


def test_a_loss_is_called_one() -> None:
    game = BilevelContract(**PERIOD)
    scene = game.scene(View("", x := np.full(3, 4.0), game.evaluate(x)))
    account, _, revenues, agent = scene.panels
    assert account.labels[2] == "loss" and account.values[2] > 2.0
    assert scene.names == ("agent", "1", "2", "3") and agent.title == "agent"
    np.testing.assert_array_equal(revenues.values, PERIOD["revenues"])


def test_long_projects_are_shown_as_a_table() -> None:
    game = BilevelContract(stages=200)
    assert game.draw(View("", game.initial_upper_params)).get_width() > 0


def test_a_view_without_an_answer_shows_the_payments() -> None:
    game = BilevelContract()
    scene = game.scene(View("", game.initial_upper_params))
    assert scene.occupancy is None and scene.edge_labels[-1] == "1.00"
    game.draw(View("", game.initial_upper_params))
