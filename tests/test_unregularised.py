"""F without entropy: best and worst over ties, against brute force and small temperatures."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import bilevel_gym
from bilevel_gym.core.hard import control, finite_control
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.model import ArrayModel, evaluate_unregularised
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    PolicyCost,
    QuadraticCost,
    Sum,
    TruncatedReturn,
)

from .helpers import refusals

STATES, ACTIONS = 4, 2


def tied_model(seed: int = 0, *, scale: float = 1.0, **options: Any) -> ArrayModel:
    """Return a model with rewards of few values and even rows: many actions are tied."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((STATES, ACTIONS, STATES))
    for state, action in product(range(STATES), range(ACTIONS)):
        transition[state, action, rng.choice(STATES, 2, replace=False)] = 0.5
    reward = scale * rng.integers(0, 2, size=(STATES, ACTIONS)).astype(float)
    # The actions of two states lead to the same place, for the same reward.
    transition[:2, 1], reward[:2, 1] = transition[:2, 0], reward[:2, 0]
    arguments: dict[str, Any] = {
        "upper_reward": rng.normal(size=(STATES, ACTIONS)),
        "initial_distribution": np.full(STATES, 1.0 / STATES),
        "gamma": 0.75,
        "temperature": 0.5,
    }
    return ArrayModel(transition, reward, **{**arguments, **options})


def returns(model: ArrayModel, reward: FloatArray, policy: Any, gamma: float) -> FloatArray:
    """Return the value of a deterministic stationary policy, `[S]`."""
    states = np.arange(model.num_states)
    matrix = model.initial_kernel.to_dense()[states, policy]
    return np.linalg.solve(np.eye(len(states)) - gamma * matrix, reward[states, policy])


def policies(model: ArrayModel) -> list[tuple[int, ...]]:
    return list(product(range(model.num_actions), repeat=model.num_states))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("upper_gamma", [None, 0.3])
def test_best_and_worst_of_all_optimal_policies(seed: int, upper_gamma: float | None) -> None:
    model = tied_model(seed, upper_gamma=upper_gamma, upper_cost=0.25)
    x = np.zeros(STATES)
    x[seed % STATES] = 0.5
    lower = {p: returns(model, model.reward(x), p, model.gamma) for p in policies(model)}
    top = np.max([*lower.values()], axis=0)
    optimal = [p for p, value in lower.items() if np.abs(value - top).max() < 1e-9]
    gamma = model.gamma if upper_gamma is None else upper_gamma
    values = [
        model.initial_distribution @ returns(model, model.upper_reward(x), p, gamma)
        for p in optimal
    ]
    found = evaluate_unregularised(model, x)
    cost = 0.25 * 0.25
    assert found.optimistic == pytest.approx(max(values) - cost, abs=1e-12)
    assert found.pessimistic == pytest.approx(min(values) - cost, abs=1e-12)
    np.testing.assert_allclose(found.value, top, atol=1e-12)
    assert found.ties >= 2 and found.pessimistic < found.optimistic
    assert tuple(found.optimistic_policy) in optimal
    assert tuple(found.pessimistic_policy) in optimal


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_a_leaders_horizon(gamma: float | None) -> None:
    horizon = 3
    model = tied_model(3, objective=TruncatedReturn(horizon, gamma=gamma))
    x = np.zeros(STATES)
    found = evaluate_unregularised(model, x)
    dense, reward = model.initial_kernel.to_dense(), model.upper_reward(x)
    discount = model.gamma if gamma is None else gamma
    choices = [np.flatnonzero(row) for row in found.optimal_actions]
    values = []
    # Each step may choose anew between the optimal actions.
    for steps in product([*product(*choices)], repeat=horizon):
        value = np.zeros(STATES)
        for policy in reversed(steps):
            states = np.arange(STATES)
            value = reward[states, policy] + discount * dense[states, policy] @ value
        values.append(model.initial_distribution @ value)
    assert found.optimistic == pytest.approx(max(values), abs=1e-12)
    assert found.pessimistic == pytest.approx(min(values), abs=1e-12)
    assert found.optimistic_policy.shape == (horizon, STATES)


@pytest.mark.parametrize("entropy", ["plain", "relative"])
@pytest.mark.parametrize("seed", range(4))
def test_the_limit_of_small_temperatures(seed: int, entropy: str) -> None:
    x = np.zeros(STATES)
    found = evaluate_unregularised(tied_model(seed, entropy=entropy), x)
    cold = TabularBilevelEnv(tied_model(seed, entropy=entropy, temperature=1e-4)).evaluate(x)
    assert found.pessimistic - 1e-9 <= cold.objective <= found.optimistic + 1e-9
    # Without ties there is one value, the limit.
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 1.0, size=STATES)
    features = rng.normal(size=(STATES, ACTIONS, STATES))
    found = evaluate_unregularised(tied_model(seed, features=features), x)
    cold = TabularBilevelEnv(tied_model(seed, features=features, temperature=1e-4)).evaluate(x)
    assert found.ties == 0
    assert found.optimistic == found.pessimistic == pytest.approx(cold.objective, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_ties_do_not_depend_on_the_unit_of_reward(scale: float) -> None:
    x = np.zeros(STATES)
    plain, scaled = (evaluate_unregularised(tied_model(5, scale=s), x) for s in (1.0, scale))
    assert np.array_equal(plain.optimal_actions, scaled.optimal_actions)
    assert (plain.optimistic, plain.pessimistic) == (scaled.optimistic, scaled.pessimistic)


def test_the_tolerance_of_ties_is_relative_to_the_follower_s_values() -> None:
    # One state, two actions worth 1 and 1 - 1e-6 a step, of which the leader likes the second.
    model = ArrayModel(
        np.ones((1, 2, 1)),
        [[1.0, 1.0 - 1e-6]],
        upper_reward=[[0.0, 1.0]],
        initial_distribution=[1.0],
        gamma=0.5,
    )
    x = np.zeros(1)
    strict, loose = (evaluate_unregularised(model, x, tie_tolerance=t) for t in (1e-9, 1e-6))
    assert (strict.ties, strict.optimistic, strict.pessimistic) == (0, 0.0, 0.0)
    assert (loose.ties, loose.optimistic, loose.pessimistic) == (1, 2.0, 0.0)


def test_absent_actions_are_never_chosen() -> None:
    mask = np.ones((STATES, ACTIONS), dtype=bool)
    mask[:2, 1] = False
    found = evaluate_unregularised(tied_model(0, action_mask=mask), np.zeros(STATES))
    assert not found.optimal_actions[~mask].any()


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        ("BilevelGridWorld-v0", {}),
        ("BilevelFourRooms-v0", {}),
        ("BilevelFrozenLake-v0", {"gamma": 0.9}),
        ("BilevelIncentive-v0", {}),
        ("BilevelContract-v0", {}),
        ("BilevelGoalPlacement-v0", {}),
        ("BilevelMarkovGame-v0", {}),
    ],
)
def test_tasks(task: str, kwargs: dict[str, Any]) -> None:
    """The follower's value is that of value iteration, and the policies get what they say."""
    game: Any = bilevel_gym.make(task, **kwargs).unwrapped
    model, x = game.model, game.initial_upper_params
    found = game.evaluate_unregularised(x)
    kernel, reward = model.kernel(x), np.where(model.lower_mdp(x).mask, model.reward(x), -np.inf)
    value = np.zeros(model.num_states)
    for _ in range(int(40 / (1.0 - model.gamma))):
        value = (reward + model.gamma * kernel.expect(value)).max(axis=1)
    np.testing.assert_allclose(found.value, value, atol=1e-10 * max(1.0, np.abs(value).max()))
    assert found.pessimistic <= found.optimistic


def test_policy_iteration_and_long_backward_induction_agree() -> None:
    rng = np.random.default_rng(1)
    kernel = Kernel.from_dense(rng.dirichlet(np.ones(6), size=(6, 3)))
    reward, allowed = rng.normal(size=(6, 3)), rng.random((6, 3)) < 0.7
    allowed[:, 0] = True
    endless = control(kernel, reward, 0.8, allowed)
    long = finite_control(kernel, reward, 0.8, allowed, 200)
    np.testing.assert_allclose(endless.value, long.value, rtol=1e-12)
    assert np.array_equal(endless.policy, long.policy[0])
    assert np.isneginf(endless.q[~allowed]).all()


two_discounts = Sum((DiscountedReturn(0.5), DiscountedReturn(0.9)))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Sum((DiscountedReturn(), PolicyCost(0.5))), "PolicyCost, which evaluates the policy"),
        (two_discounts, r"one discount and horizon.*\(0.5, None\), \(0.9, None\)"),
    ],
)
def test_what_is_no_control_problem_is_refused(objective: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        evaluate_unregularised(tied_model(objective=objective), np.zeros(STATES))


def test_terms_of_one_kind_add_up() -> None:
    twice = Sum((DiscountedReturn(), Sum((DiscountedReturn(), QuadraticCost(0.5)))))
    x = np.full(STATES, 0.5)
    once = evaluate_unregularised(tied_model(2), x)
    found = evaluate_unregularised(tied_model(2, objective=twice), x)
    assert found.optimistic == pytest.approx(2.0 * once.optimistic - 0.5, abs=1e-12)
    alone = evaluate_unregularised(tied_model(2, objective=QuadraticCost(0.5)), x)
    assert alone.optimistic == alone.pessimistic == -0.5


test_bad_input = refusals(
    lambda x=0.0, **options: evaluate_unregularised(tied_model(), np.full(STATES, x), **options),
    ({"x": 2.0}, "`upper_params.*2.0"),
    ({"tie_tolerance": -1.0}, "`tie_tolerance`.*finite and not negative, got -1.0"),
    ({"tie_tolerance": np.nan}, "`tie_tolerance`.*got nan"),
)
