"""Optimizers that keep constraints: on x, and on costs of the leader."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.model.costs import ExpectedCost
from bilevel_gym.model.objectives import DiscountedReturn, TruncatedReturn
from bilevel_gym.optimizers import (
    FEASIBLE,
    ConstrainedOptimum,
    CostConstraint,
    Iterate,
    LinearConstraint,
    NonlinearConstraint,
    make_optimizer,
    slsqp,
    trust_constr,
)
from bilevel_gym.wrappers import HyperGradient, LeaderObjective, exact_objective

from .helpers import refusals
from .small_games import SHAPE, small_game

every_optimizer = pytest.mark.parametrize("name", ["slsqp", "trust-constr"])

TARGET = np.array([0.5, 2.0, -0.25])
BOX: Any = {"low": -np.ones(3), "high": np.ones(3)}


def quadratic(x: FloatArray) -> tuple[float, FloatArray]:
    return -float((x - TARGET) @ (x - TARGET)), -2.0 * (x - TARGET)


def incentive(**kwargs: Any) -> TabularBilevelEnv:
    """Return the game of payments, in which promises alone cost nothing."""
    game = gym.make("BilevelIncentive-v0", payment_weight=0.0, temperature=0.1, **kwargs).unwrapped
    assert isinstance(game, TabularBilevelEnv)
    return game


def climbed(name: str, game: TabularBilevelEnv, *constraints: Any) -> ConstrainedOptimum:
    model: Any = game.model
    run = make_optimizer(name, constraints=constraints, max_evaluations=600)
    found = run(exact_objective(model), model.initial_upper_params, model.low, model.high)
    assert isinstance(found, ConstrainedOptimum)
    return found


# On x --------------------------------------------------------------------------------------------


@every_optimizer
def test_a_linear_constraint_holds_with_its_multiplier(name: str) -> None:
    # On the plane the nearest point is TARGET - t (1, 1, 1); its second entry is in the box.
    constraint = {"matrix": [[1.0, 1.0, 1.0]], "at_most": 0.0}
    run: Any = make_optimizer(name, constraints=[constraint])
    found = run(quadratic, np.zeros(3), **BOX)
    best = [-0.125, 1.0, -0.875]
    np.testing.assert_allclose(found.best.upper_params, best, atol=1e-4)
    assert found.feasible and found.best.violation <= FEASIBLE
    np.testing.assert_allclose(found.multipliers, [[1.25]], atol=1e-3)
    assert "largest violation of a constraint" in found.message


@every_optimizer
def test_nonlinear_constraints_and_equations_hold_with_their_multipliers(name: str) -> None:
    def ball(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return np.array([x @ x, x[0] - x[2]]), np.array([2.0 * x, [1.0, 0.0, -1.0]])

    constraint = NonlinearConstraint(function=ball, at_least=[-np.inf, 0.1], at_most=[0.25, 0.1])
    seen: list[Iterate] = []
    run: Any = make_optimizer(name, constraints=[constraint], max_evaluations=400)
    found = run(quadratic, np.full(3, 0.9), **BOX, callback=seen.append)
    values, jacobian = ball(found.best.upper_params)
    np.testing.assert_allclose(values, [0.25, 0.1], atol=1e-6)
    (multipliers,) = found.multipliers
    np.testing.assert_allclose(found.best.gradient, multipliers @ jacobian, atol=1e-4)
    assert multipliers[0] > 0.0
    # What has the largest value breaks the constraints.
    assert seen[0].violation == pytest.approx(3 * 0.81 - 0.25)
    assert max(iterate.value for iterate in seen) > found.best.value


@every_optimizer
def test_a_lower_bound_has_a_negative_multiplier_and_x_any_shape(name: str) -> None:
    box: Any = {"low": -np.ones((2, 1)), "high": np.ones((2, 1))}
    constraint = LinearConstraint(matrix=[[[2.0], [0.0]]], at_least=1.0)
    run: Any = make_optimizer(name, constraints=[constraint])
    found = run(lambda x: (-float((x * x).sum()), -2.0 * x), np.full((2, 1), 0.2), **box)
    np.testing.assert_allclose(found.best.upper_params, [[0.5], [0.0]], atol=1e-4)
    np.testing.assert_allclose(found.multipliers, [[-0.5]], atol=1e-3)


# On costs ----------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("budget", [0.05, 0.3])
def test_a_budget_on_payments_is_spent_and_the_lagrangian_is_stationary(
    name: str, budget: float
) -> None:
    game = incentive()
    found = climbed(name, game, CostConstraint(cost="payments", at_most=budget))
    x = found.best.upper_params
    paid = game.evaluate(x, objective=game.model.costs["payments"])
    exactly = {"slsqp": 1e-6, "trust-constr": 1e-3}[name]  # of an interior point
    assert paid.objective == pytest.approx(budget, abs=exactly)
    assert found.multipliers is not None
    ((price,),) = found.multipliers
    assert price > 0.1
    # Stationary: no step in the box follows the gradient of the Lagrangian.
    lagrangian = game.evaluate(x).hyper_gradient - price * paid.hyper_gradient
    step = np.clip(x + lagrangian, game.model.low, game.model.high) - x
    assert np.abs(step).max() < exactly
    assert np.abs(paid.hyper_gradient).max() > 100.0 * exactly
    assert found.best.value > found.first.value + 0.05


def test_a_multiplier_is_what_another_unit_of_budget_adds() -> None:
    game = incentive()
    optima = [
        climbed("slsqp", game, {"cost": "payments", "at_most": budget})
        for budget in (0.099, 0.1, 0.101)
    ]
    slope = (optima[2].best.value - optima[0].best.value) / 0.002
    assert optima[1].multipliers is not None
    assert optima[1].multipliers[0][0] == pytest.approx(slope, rel=1e-3)


def test_constraints_on_x_and_on_costs_hold_together() -> None:
    game = incentive(paid=[[6, 1], [7, 0], [9, 1], [9, 2]])
    budget = CostConstraint(cost="payments", at_most=0.1)
    equal = LinearConstraint(matrix=[[0.0, 0.0, 1.0, -1.0]], at_least=0.0, at_most=0.0)
    found = climbed("slsqp", game, budget, equal)
    x = found.best.upper_params
    assert x[2] == pytest.approx(x[3], abs=1e-7)
    assert found.best.value <= climbed("slsqp", game, budget).best.value + 1e-9
    assert found.multipliers is not None and [len(part) for part in found.multipliers] == [1, 1]


def test_a_loose_budget_changes_nothing() -> None:
    game = gym.make("BilevelToll-v0").unwrapped
    assert isinstance(game, TabularBilevelEnv)
    found = climbed("slsqp", game, {"cost": "tolls", "at_most": 5.0})
    assert found.best.value == pytest.approx(climbed("slsqp", game).best.value, abs=1e-6)
    assert found.multipliers is not None
    assert found.multipliers[0] == pytest.approx(0.0, abs=1e-9)
    spent = game.evaluate(found.best.upper_params, objective=game.model.costs["tolls"])
    tight = climbed("slsqp", game, {"cost": "tolls", "at_most": 0.5 * spent.objective})
    assert tight.feasible and tight.best.value < found.best.value - 0.001


def squares(x: FloatArray) -> FloatArray:
    return x.reshape(SHAPE) ** 2


def squares_vjp(x: FloatArray, cotangent: FloatArray) -> FloatArray:
    return 2.0 * x * cotangent.ravel()


@pytest.mark.parametrize(
    ("game", "cost"),
    [
        (incentive(), "payments"),
        (gym.make("BilevelToll-v0").unwrapped, "tolls"),
        (small_game(), ExpectedCost(squares, squares_vjp, DiscountedReturn(0.5))),
        (small_game(masked=True), ExpectedCost(squares, squares_vjp, TruncatedReturn(4))),
        (small_game(), ExpectedCost(lambda x: np.eye(*SHAPE))),
        (gym.make("BilevelMarkovGame-v0").unwrapped, ExpectedCost(lambda x: np.eye(6, 3))),
    ],
    ids=["payments", "tolls", "discount", "horizon", "constant", "x in the kernel"],
)
def test_costs_have_exact_gradients_from_the_solve_of_the_objective(game: Any, cost: Any) -> None:
    model = game.model
    middle = 0.5 * (model.low + model.high)
    x = middle + 0.2 * np.random.default_rng(1).uniform(-1.0, 1.0, size=middle.shape)
    objective = exact_objective(model)
    objective(x)
    value, gradient = objective.cost(cost)(x)
    direction = np.random.default_rng(2).normal(size=x.shape)
    run, step = exact_objective(model).cost(cost), 1e-5 * direction
    difference = (run(x + step)[0] - run(x - step)[0]) / 2e-5
    assert gradient.ravel() @ direction.ravel() == pytest.approx(difference, rel=1e-6)
    assert value == pytest.approx(run(x)[0], rel=1e-12)
    named = model.costs[cost] if isinstance(cost, str) else cost
    again = game.evaluate(x, objective=named, warm_start=game.evaluate(x))
    assert again.iterations == 0 and again.objective == pytest.approx(value, rel=1e-12)


def test_the_leader_seat_knows_costs_too() -> None:
    game = incentive()
    leader = LeaderObjective(HyperGradient(game))
    start = leader.reset(seed=0)
    constraints = json.loads('[{"cost": "payments", "at_most": 0.1}]')
    found = slsqp(leader, start, leader.low, leader.high, constraints=constraints)
    alone = climbed("slsqp", game, *constraints)
    assert found.best.value == pytest.approx(alone.best.value, abs=1e-8)


# What cannot be kept, and what is refused --------------------------------------------------------


@every_optimizer
def test_a_cost_that_cannot_be_so_low_is_told(name: str) -> None:
    game = incentive(paid=[[7, 0], [9, 1]])
    run: Any = make_optimizer(name, constraints=[{"cost": "payments", "at_most": -0.1}])
    model = game.model
    found = run(exact_objective(model), np.full(2, 0.3), model.low, model.high)
    assert not found.feasible and found.multipliers is None
    assert found.best.violation == pytest.approx(0.1, abs=1e-3)
    assert found.message.endswith("as no x was found at which all hold")


def test_a_budget_of_evaluations_is_kept() -> None:
    for run in (slsqp, trust_constr):
        constraint = LinearConstraint(matrix=[[1.0, 1.0, 1.0]], at_most=0.0)
        found = run(quadratic, np.ones(3), **BOX, constraints=[constraint], max_evaluations=3)
        assert found.evaluations == 3 and "evaluations" in found.message


def kept(*constraints: Any, objective: Any = quadratic) -> Any:
    return lambda: slsqp(objective, np.zeros(3), **BOX, constraints=constraints)


def line(**bounds: Any) -> Any:
    return kept({"matrix": [[1.0, 0.0, 0.0]], **bounds})


def function(values: Any, jacobian: Any) -> Any:
    return kept(NonlinearConstraint(function=lambda x: (values, jacobian), at_most=1.0))


test_what_cannot_hold_or_is_none_is_told_in_one_line = refusals(
    None,
    (line(at_most=-2.0), ValueError, "`constraints` cannot hold: no x in the box satisfies"),
    (
        kept({"matrix": np.eye(3), "at_most": 0.2}, {"matrix": np.ones((1, 3)), "at_least": 0.7}),
        ValueError,
        "`constraints` cannot hold",
    ),
    (line(at_least=0.5, at_most=0.4), ValueError, "constraint cannot hold with `at_least` = 0.5"),
    (line(at_least=np.inf), ValueError, r"`constraints\[0\]`: a constraint needs numbers.*got inf"),
    (line(), ValueError, "needs numbers for `at_least` or `at_most`, got -inf and inf"),
    (line(at_most=np.nan), ValueError, "needs numbers .* nan"),
    (line(at_most="low"), ValueError, "`at_most` must be an array of real numbers, got str"),
    (line(at_most=[0.0, 1.0]), ValueError, r"`constraints\[0\]`: .*shape"),
    (line(at_mots=0.0), TypeError, "for a constraint: 'at_mots'.* Did you mean 'at_most'?"),
    (kept({"matrix": [[1.0]], "at_most": 0}), ValueError, r"`matrix` must have shape \[M, \*shape"),
    (kept({"at_most": 0.0}), TypeError, 'a dict with "matrix" or "cost", got'),
    (kept(3), TypeError, r"`constraints\[0\]`: a constraint must be .* got 3"),
    (lambda: make_optimizer("slsqp", constraints=3)(quadratic, TARGET * 0, **BOX), TypeError, "3"),
    (function([1.0, 2.0], np.ones(3)), ValueError, r"with shape \(2, 3\), got \(2,\) and \(3,\)"),
    (function(np.nan, np.ones(3)), ValueError, "must have finite values and derivatives, got"),
    (kept({"cost": "payments", "at_most": 0.0}), TypeError, "needs an objective that knows costs"),
    (
        kept({"cost": "tols", "at_most": 0}, objective=exact_objective(incentive().model)),
        ValueError,
        "unknown cost 'tols'; accepted: 'payments'",
    ),
    (
        lambda: exact_objective(gym.make("BilevelLQR-v0").unwrapped.model).cost("payments"),  # type: ignore[attr-defined]
        TypeError,
        "costs need a tabular model, got LinearQuadraticModel",
    ),
    (
        lambda: small_game().evaluate(
            np.zeros(15), objective=ExpectedCost(lambda x: np.full(SHAPE, np.inf))
        ),
        ValueError,
        "`cost` must return finite numbers of shape",
    ),
    (
        lambda: small_game().evaluate(
            np.zeros(15), objective=ExpectedCost(squares, lambda x, c: c)
        ),
        ValueError,
        r"`cost_vjp` must return the shape of x, \(15,\), got \(5, 3\)",
    ),
    (lambda: small_game().evaluate(np.zeros(15), objective=3), TypeError, "`objective` must be"),
)
