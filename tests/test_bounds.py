"""Error bounds against the referee: they hold, and they say something."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.bounds import Uncertainty, bounded
from bilevel_gym.core.linear import SOLVERS
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LogLikelihood,
    Objective,
    PolicyCost,
    TruncatedReturn,
)

from .bounds import NAMES, answered, errors, objective_error
from .models import answer_to, evaluated, random_mdp
from .referee import Truth, extended
from .worlds import World, world


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "value-iteration"])
def test_bounds_hold_and_are_of_use_whatever_the_problem(solver: str) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in NAMES}
    for seed in range(60):
        found = world(seed, (2, 3, 5, 10, 20))
        solution = solve_soft_mdp(found.mdp, solver=solver)
        _, answer = answered(found, solution)
        for name, (error, bound, one) in errors(found, solution, answer).items():
            assert error <= bound, (seed, name)
            assert np.isfinite(bound) or not solution.converged, (seed, name)
            if error > one and solution.converged:
                ratios[name].append(bound / error)
    assert all(np.median(of_one) <= 1e3 and len(of_one) > 30 for of_one in ratios.values())


@cache
def small_world(seed: int) -> World:
    """Return a problem with exact answers at hand."""
    return world(seed, (2, 3, 4, 6))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
def test_answers_are_as_near_the_exact_ones_as_their_bounds_say(solver: str) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in NAMES}
    for seed in range(40):
        found = small_world(seed)
        if solver == "value-iteration" and found.mdp.gamma > 0.99:
            continue  # sweeps take minutes there
        solution = solve_soft_mdp(found.mdp, solver=solver)
        objective, answer = answered(found, solution)
        assert solution.converged
        for name, (error, bound, one) in errors(found, solution, answer, exact=True).items():
            assert error <= bound < np.inf, (seed, name)
            if error > one:
                ratios[name].append(bound / error)
        off = objective_error(found, objective, exact=True)
        assert (
            off <= (1e-13 if SOLVERS[solver].direct else 1e-8) + 2.0 * solution.policy_error_bound
        )
    assert all(np.median(of_one) <= 1e3 and len(of_one) >= 10 for of_one in ratios.values())


def test_the_referees_agree() -> None:
    for seed in range(40):
        found = small_world(seed)
        extended, exact = found.answers, found.exact_answers
        # What the referee in extended precision is off by, float64 makes hundreds of times as much.
        solution = solve_soft_mdp(found.mdp)
        scale = np.abs(exact.value).max()
        allowed = 1e-18 * scale + 0.01 * solution.value_error_bound
        assert np.abs(extended.value - exact.value).max() <= allowed
        _, answer = answered(found, solution)
        off = np.abs(extended.gradient - exact.gradient).sum()
        assert off <= 1e-17 * np.abs(exact.gradient).sum() + 0.05 * answer.error_bound
        off = np.abs(extended.policy - exact.policy).max()
        assert off <= 1e-18 + 0.05 * solution.policy_error_bound
        assert objective_error(found, float(extended.objective), exact=True) <= 1e-13


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-7])
def test_bounds_of_rough_policies_hold(tolerance: float) -> None:
    tightest = np.inf
    for seed in range(30):
        mdp = random_mdp(seed, num_states=6, temperature=0.5, gamma=0.7, masked=seed % 2 == 0)
        rng = np.random.default_rng(seed)
        truth = Truth(
            mdp.kernel.to_dense(), mdp.reward, mdp.gamma, mdp.temperature, mdp.action_mask
        )
        found = World("rough", mdp, rng.normal(size=(6, 3)), rng.dirichlet(np.ones(6)), truth)
        start = truth.value.astype(np.float64) + tolerance * rng.normal(size=6)
        rough = solve_soft_mdp(mdp, initial_value=start, max_iterations=0)
        for name, (error, bound, _) in errors(found, rough, answered(found, rough)[1]).items():
            assert error <= bound, (seed, name)
            tightest = min(tightest, bound / error)
    assert tightest <= 10.0


@pytest.mark.parametrize(
    "objective",
    [
        DiscountedReturn(0.97),
        DiscountedReturn(0.3),
        TruncatedReturn(7),
        PolicyCost(0.4),
        LogLikelihood(np.arange(24.0).reshape(8, 3)),
    ],
)
@pytest.mark.parametrize("accuracy", [1e-3, 1e-9])
def test_bounds_of_every_objective_hold(objective: Objective, accuracy: float) -> None:
    for seed in range(10):
        mdp, rng = random_mdp(seed, temperature=0.3), np.random.default_rng(seed)
        truth = Truth(mdp.kernel.to_dense(), mdp.reward, mdp.gamma, mdp.temperature)
        upper_reward, start = rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
        slope, log_slope = None, None
        if isinstance(objective, LogLikelihood):
            log_slope = extended(objective.counts)
        else:
            slope = slope_of(objective, truth, upper_reward, start)
        exact = truth.response(slope, log_slope)
        # The policy is known to rounding or roughly, and so are the solutions of linear systems.
        for off in (0.0, accuracy):
            value = truth.value.astype(np.float64) + off * rng.normal(size=8)
            rough = solve_soft_mdp(mdp, initial_value=value, max_iterations=0, solver="krylov")
            rough = replace(rough, accuracy=accuracy)
            answer = answer_to(rough, evaluated(objective, rough, upper_reward, start))
            error = float(np.abs(exact - answer.reward).sum())
            assert error <= answer.error_bound
            most = 1e5 if isinstance(objective, TruncatedReturn) else 1e4
            assert answer.error_bound <= most * error or error <= 1e-12


@pytest.mark.parametrize(
    "objective",
    [DiscountedReturn(0.97), DiscountedReturn(0.3), TruncatedReturn(7), PolicyCost(0.4)],
)
def test_bounds_of_derivatives_with_respect_to_the_policy_hold(objective: Objective) -> None:
    for seed in range(10):
        mdp, rng = random_mdp(seed, temperature=0.3), np.random.default_rng(seed)
        truth = Truth(mdp.kernel.to_dense(), mdp.reward, mdp.gamma, mdp.temperature)
        upper_reward, start = rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
        wanted = slope_of(objective, truth, upper_reward, start)
        for size in (1e-2, 1e-5):
            value = truth.value.astype(np.float64) + size * rng.normal(size=8)
            rough = solve_soft_mdp(mdp, initial_value=value, max_iterations=0)
            found = evaluated(objective, rough, upper_reward, start)
            assert found.policy is not None
            # Constants of a state do not count: the best one is the difference at some action.
            off = found.policy - wanted
            apart = np.abs(off[:, :, None] - off[:, None, :])
            error = (rough.policy[:, :, None] * apart).sum(axis=1).min(axis=1).sum()
            assert 0.0 < error <= bounded(found.policy_error, Uncertainty(rough)) <= 1e5 * error


def slope_of(objective: Objective, truth: Truth, upper_reward: Any, start: Any) -> Any:
    """Return the derivative of an objective with respect to the exact policy."""
    if isinstance(objective, DiscountedReturn):
        return truth.discounted_return(upper_reward, start, objective.gamma)[1]
    if isinstance(objective, TruncatedReturn):
        return truncated_slope(truth, objective.horizon, upper_reward, start)
    assert isinstance(objective, PolicyCost)
    return -2.0 * extended(objective.weight) * truth.policy


def truncated_slope(truth: Truth, horizon: int, upper_reward: Any, start: Any) -> Any:
    """Return the derivative of a truncated return with respect to a stationary policy."""
    policy, leader, gamma = truth.policy, extended(upper_reward), extended(truth.gamma)
    steps = np.einsum("sa,sat->st", policy, truth.kernel.reshape(*policy.shape, -1))
    to_go = [extended(np.zeros(len(policy)))]
    for _ in range(horizon - 1):
        to_go.append((policy * leader).sum(axis=1) + gamma * steps @ to_go[-1])
    slope, visits = np.zeros_like(policy), extended(start)
    for ahead in reversed(to_go):
        slope = slope + visits[:, None] * (
            leader + gamma * (truth.kernel @ ahead).reshape(policy.shape)
        )
        visits = gamma * (visits @ steps)
    return slope


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("filler", [-1e15, 1e15, -np.inf])
def test_what_stands_behind_a_mask_changes_nothing(solver: str, filler: float) -> None:
    mdp = random_mdp(0, masked=True, gamma=0.9, temperature=1.0)
    mask = mdp.action_mask
    assert mask is not None and not mask.all()
    filled = replace(mdp, reward=np.where(mask, mdp.reward, filler))
    plain, odd = (solve_soft_mdp(problem, solver=solver) for problem in (mdp, filled))
    np.testing.assert_array_equal(odd.soft_value, plain.soft_value)
    assert (odd.converged, odd.tolerance) == (True, plain.tolerance)
    # A reward that nobody collects stands where nothing masks it.
    barrier = np.where(mdp.reward == mdp.reward.min(), -1e15, mdp.reward)
    kept = solve_soft_mdp(replace(mdp, reward=barrier), solver=solver)
    assert kept.converged and kept.residual <= 1e-8


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("unit", [2.0**-990, 2.0**-50, 2.0**40])
def test_answers_do_not_depend_on_the_unit_of_reward(solver: str, unit: float) -> None:
    mdp = random_mdp(3)
    other = replace(mdp, reward=unit * mdp.reward, temperature=unit * mdp.temperature)
    plain, scaled = (solve_soft_mdp(problem, solver=solver) for problem in (mdp, other))
    np.testing.assert_allclose(scaled.soft_value / unit, plain.soft_value, rtol=1e-9)
    np.testing.assert_allclose(scaled.policy, plain.policy, rtol=1e-8)
    assert scaled.converged and scaled.value_error_bound / unit <= 2.0 * plain.value_error_bound


def test_bounds_count_long_rows_and_the_rounding_of_exponentials() -> None:
    kernel = Kernel.from_dense(np.full((1000, 1, 1000), 1e-3))
    mdp = TabularMDP(kernel, np.full((1000, 1), 0.37), 0.999, 0.1)
    truth = Truth(kernel.to_dense(), mdp.reward, 0.999, 0.1)
    solution = solve_soft_mdp(mdp)
    assert np.abs(truth.value - solution.soft_value).max() <= solution.value_error_bound <= 1e-6
    greedy = replace(random_mdp(0), gamma=0.0)
    assert 0.0 < solve_soft_mdp(greedy).policy_error_bound < 1e-13


def test_a_solve_without_a_bound_has_not_converged() -> None:
    mdp = random_mdp(0, num_states=60, gamma=1.0 - 1e-6, termination=0.0)
    # Two actions that are one: no gap tells that rounding cannot choose between them.
    twice = Kernel.from_dense(mdp.kernel.to_dense()[:, [0, 0, 1, 2]])
    reward = mdp.reward[:, [0, 0, 1, 2]]
    solution = solve_soft_mdp(TabularMDP(twice, reward, mdp.gamma, 1e-16))
    assert solution.residual <= 1e-8 and np.isinf(solution.policy_error_bound)
    assert not solution.converged
    for temperature in (1e-4, 1e-8):  # differences of values are known better than values
        assert solve_soft_mdp(TabularMDP(twice, reward, mdp.gamma, temperature)).converged


def test_a_problem_that_does_not_contract_is_refused() -> None:
    kernel = Kernel.from_dense(np.full((2, 1, 2), 0.5 + 2e-10))
    with pytest.raises(ValueError, match="`gamma` times the largest sum of a row"):
        TabularMDP(kernel, np.ones((2, 1)), 1.0 - 1e-10, 0.1)


@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.parametrize("longest", [1e-12, 0.004, 0.3, 1.0])
def test_what_is_common_to_all_states_counts_where_actions_end_episodes(
    states: int, longest: float
) -> None:
    rng = np.random.default_rng(0)
    goes_on = longest * np.array([1.0, 1e-5, 0.7, 1e-3])[None, :, None]
    transition = goes_on * rng.dirichlet(np.ones(states), size=(states, 4))
    mdp = TabularMDP(Kernel.from_dense(transition), rng.normal(size=(states, 4)), 0.5, 3.0)
    truth = Truth(mdp.kernel.to_dense(), mdp.reward, 0.5, 3.0)
    for tolerance in (1e-3, 1e-8):
        start = truth.value.astype(np.float64) + tolerance  # the residual is a constant
        solution = solve_soft_mdp(mdp, initial_value=start, tolerance=2.0 * tolerance)
        assert solution.iterations == 0 and solution.residual > 0.4 * tolerance
        off = float(np.abs(truth.policy / solution.policy - 1.0).max())
        assert off <= solution.policy_error_bound


@pytest.mark.parametrize("seed", [52, 782, 865, 1032, 1354])
def test_rounding_that_a_long_episode_adds_up_is_bounded(seed: int) -> None:
    # Where one goes does not depend on what one does: the exact adjoint is zero, and the computed
    # one the rounding of sums, times a million.
    rng = np.random.default_rng(seed)
    row = rng.dirichlet(np.ones(6))
    reward = 0.3 * rng.normal(size=(6, 4)) * 10.0 ** rng.uniform(-3.0, 2.0)
    counts = rng.integers(0, 4, size=(6, 4)).astype(np.float64)
    mdp = TabularMDP(Kernel.from_dense(np.tile(row, (6, 4, 1))), reward, 1.0 - 1e-6, 0.3)
    solution = solve_soft_mdp(mdp)
    answer = answer_to(solution, evaluated(LogLikelihood(counts), solution, reward, row))
    weights = np.exp(extended(reward) / extended(0.3))
    policy = weights / weights.sum(axis=1, keepdims=True)
    exact = (counts - policy * counts.sum(axis=1, keepdims=True)) / extended(0.3)
    assert np.abs(exact - answer.reward).sum() <= answer.error_bound < 1e-7


def test_a_problem_of_one_step_has_bounds() -> None:
    mdp = TabularMDP(Kernel.from_dense(np.zeros((2, 3, 2))), np.eye(2, 3), 0.9, 0.1)
    solution = solve_soft_mdp(mdp)
    upper = evaluated(PolicyCost(1.0), solution, np.zeros((2, 3)), np.full(2, 0.5))
    assert 0.0 < solution.policy_error_bound < 1e-13
    assert 0.0 < answer_to(solution, upper).error_bound < 1e-12
