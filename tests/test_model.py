"""Bilevel problems without any environment: models of arrays, and objectives of one's own."""

from __future__ import annotations

import pickle
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, TabularBilevelEnv
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.methods import METHODS, make_method
from bilevel_gym.model import TabularModel, evaluate, evaluate_batch
from bilevel_gym.model.objectives import DiscountedReturn, Outcome, QuadraticCost, Sum, UpperValue

from .helpers import refusals
from .models import numeric_gradient, relative_error

SIZE = (4, 2)


class Spread:
    """The entropy of the discounted state occupancy, -sum_s d log d; it declares no scope."""

    def evaluate(self, outcome: Outcome) -> UpperValue:
        mdp = outcome.solution.mdp
        visits = np.maximum(outcome.occupancy(mdp.gamma), 1e-12)
        density = (1.0 - mdp.gamma) * visits
        slope = -(1.0 - mdp.gamma) * (np.log(density) + 1.0)
        value, _ = outcome.solution.discounted_system(mdp.gamma).solve(slope)
        return UpperValue(
            value=float(-density @ np.log(density)),
            policy=visits[:, None] * mdp.gamma * mdp.kernel.expect(value),
        )


def arrays(**options: Any) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "transition": 0.95 * rng.dirichlet(np.ones(SIZE[0]), size=SIZE),
        "reward": rng.normal(size=SIZE),
        "upper_reward": rng.normal(size=SIZE),
        "initial_distribution": np.full(SIZE[0], 1.0 / SIZE[0]),
        "features": np.eye(8).reshape(*SIZE, 8),
        "gamma": 0.8,
        "temperature": 0.5,
        "initial_upper_params": rng.uniform(-0.5, 0.5, 8),
        **options,
    }


OBJECTIVES: dict[str, Any] = {
    "default": None,
    "spread": Spread(),
    "sum": Sum((DiscountedReturn(0.6), Spread(), QuadraticCost(0.1))),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_model_of_arrays_is_solved_and_differentiated(objective: Any) -> None:
    model = TabularModel.from_arrays(**arrays(objective=objective))
    x = model.initial_upper_params
    response = evaluate(model, x)
    numeric = numeric_gradient(lambda x: evaluate(model, x).objective, x, 1e-4)
    assert response.converged
    assert relative_error(response.hyper_gradient, numeric) < 1e-9
    many = evaluate_batch(model, [x, x])
    np.testing.assert_allclose(many[1].hyper_gradient, response.hyper_gradient, rtol=1e-12)


def test_a_model_becomes_a_game_with_the_same_answers() -> None:
    model = TabularModel.from_arrays(**arrays())
    game, twin = TabularBilevelEnv(model), TabularBilevelEnv.from_arrays(**arrays())
    x = model.initial_upper_params
    wanted = evaluate(model, x)
    for answer in (
        game.evaluate(x),
        twin.evaluate(x),
        pickle.loads(pickle.dumps(game)).evaluate(x),
    ):
        assert answer.objective == wanted.objective
        np.testing.assert_array_equal(answer.hyper_gradient, wanted.hyper_gradient)
    _, info = HyperGradient(game).reset(seed=0)
    np.testing.assert_array_equal(info["hyper_gradient"], wanted.hyper_gradient)


# Objectives of one's own ------------------------------------------------------------------------

EXACT_POLICY = [name for name in METHODS if not name.startswith("deep-")]
ESTIMATES: dict[str, dict[str, Any]] = {
    "pbrl-value": {"penalty": 1e4},
    "pbrl-bellman": {"penalty": 1e5},
    "pbrl-sl-value": {"penalty": 1e4},
    "slac": {"penalty": 1e4},
    "m-sobirl": {"sweeps": 200, "adjoint_steps": 2000},
    "amd": {"sweeps": 200},
    "zero-order": {"directions": 400},
    **{name: {"episodes": 4096} for name in ("plug-in", "trace", "aho", "bc-hg", "hpgd", "sobirl")},
    "stoc-sobirl": {"episodes": 4096},
}


@pytest.mark.parametrize(
    "name", [name for name in EXACT_POLICY if name not in ("direct", "first-order-penalty")]
)
@pytest.mark.parametrize("objective", [Spread(), OBJECTIVES["sum"]], ids=["spread", "sum"])
def test_an_objective_of_the_occupancy_works_with_every_method(name: str, objective: Any) -> None:
    model = TabularModel.from_arrays(**arrays(objective=objective))
    x = model.initial_upper_params
    exact = evaluate(model, x)
    method = make_method(name, model, **ESTIMATES.get(name, {}))
    method.reset(np.random.default_rng(0))
    response = method.step(x)
    assert response.objective == pytest.approx(exact.objective, abs=0.05)
    gradient: FloatArray = np.asarray(response.hyper_gradient)
    norms = np.linalg.norm(gradient) * np.linalg.norm(exact.hyper_gradient)
    assert gradient @ exact.hyper_gradient > 0.95 * norms


# Bad input --------------------------------------------------------------------------------------


class Halfway(TabularModel):
    """A model without a leader's reward."""

    def reward(self, upper_params: FloatArray) -> FloatArray:
        return np.zeros((1, 1))


class Taught(TabularBilevelEnv):
    """A task that defines its reward, and is given a model all the same."""

    def reward(self, upper_params: FloatArray) -> FloatArray:
        return np.zeros(SIZE)


test_what_makes_no_model_is_refused = refusals(
    None,
    (lambda: TabularBilevelEnv(), TypeError, "parts, got no `upper_space`"),
    (lambda: TabularBilevelEnv(cast("Any", "model")), TypeError, "one TabularModel.*got str"),
    (lambda: Taught(TabularModel.from_arrays(**arrays())), TypeError, "reward.*got Taught"),
    (
        lambda: TabularModel.from_arrays(**arrays(reward=np.zeros((3, 2)))),
        ValueError,
        r"`reward` must have shape \[S, A\] = \(4, 2\), got \(3, 2\)",
    ),
    (
        lambda: TabularModel.from_arrays(**arrays(upper_high=np.inf)),
        ValueError,
        "below a finite `high`",
    ),
    (
        lambda: evaluate(TabularModel.from_arrays(**arrays()), np.zeros(7)),
        ValueError,
        r"`upper_params` must have shape \(8,\), got \(7,\)",
    ),
    (
        lambda: evaluate_batch(TabularModel.from_arrays(**arrays()), [np.zeros(8), [2.0] * 8]),
        ValueError,
        r"row 1: `upper_params\[0\]`",
    ),
    (lambda: make_method("trace", gym.make("CartPole-v1").unwrapped), TypeError, "got CartPoleEnv"),
)


def test_a_model_without_a_leaders_reward_says_so() -> None:
    whole = TabularModel.from_arrays(**arrays())
    model = Halfway(
        kernel=whole.initial_kernel,
        initial_distribution=whole.initial_distribution,
        objective=DiscountedReturn(),
        low=whole.low,
        high=whole.high,
        initial_upper_params=whole.initial_upper_params,
        gamma=0.9,
        temperature=1.0,
    )
    with pytest.raises((TypeError, ValueError), match="reward"):
        evaluate(model, model.initial_upper_params)


@pytest.mark.parametrize(
    ("env_id", "weight"),
    [
        ("BilevelTaxi-v0", "shaping_cost"),
        ("BilevelInverseRL-v0", "ridge"),
        ("BilevelThermal-v0", "energy_cost"),
    ],
)
def test_an_objective_that_overflows_is_refused(env_id: str, weight: str) -> None:
    options: dict[str, Any] = {weight: 1e308}
    game: Any = gym.make(env_id, **options).unwrapped
    x = game.model.low + 0.9 * (game.model.high - game.model.low)
    with pytest.raises(ArithmeticError, match="the leader's objective overflowed"):
        game.evaluate(x)
