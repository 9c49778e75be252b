"""The soft Bellman solver: closed forms, limits, accuracy, unconverged solves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bilevel_gym.core.bellman import soft_backup
from bilevel_gym.core.linear import SOLVERS
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.soft import PolicyAnswer, default_tolerance, solve_soft_mdp
from bilevel_gym.envs import BilevelGridWorld

from .helpers import refusals
from .models import random_mdp, symmetric_mdp


@pytest.mark.parametrize("temperature", [1.0, 0.1, 1e-3, 1e-4])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 0.9999])
def test_two_symmetric_states_have_their_closed_form(gamma: float, temperature: float) -> None:
    bonus = 0.3 * temperature
    solution = solve_soft_mdp(symmetric_mdp(bonus=bonus, gamma=gamma, temperature=temperature))
    value = temperature * math.log1p(math.exp(0.3)) / (1.0 - gamma)
    # 1e-12, or a few roundings of a backup magnified by 1 / (1 - gamma) where that is larger.
    accuracy = max(1e-12, 4.0 * np.finfo(float).eps / (1.0 - gamma))
    np.testing.assert_allclose(solution.soft_value, value, rtol=accuracy)
    stay = 1.0 / (1.0 + math.exp(-0.3))
    np.testing.assert_allclose(solution.policy[:, 0], stay, rtol=accuracy)


def test_two_states_that_end_have_their_closed_form() -> None:
    # State 0 leads to state 1 whatever is done; acting in state 1 ends the episode.
    kernel = Kernel.from_triplets([0, 0], [0, 1], [1, 1], [1, 1], num_states=2, num_actions=2)
    mdp = TabularMDP(kernel, np.array([[1.0, 2.0], [3.0, 1.0]]), 0.9, 0.5)
    last = 0.5 * math.log(math.exp(3 / 0.5) + math.exp(1 / 0.5))
    first = 0.5 * math.log(math.exp((1 + 0.9 * last) / 0.5) + math.exp((2 + 0.9 * last) / 0.5))
    solution = solve_soft_mdp(mdp)
    np.testing.assert_allclose(solution.soft_value, [first, last], rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.95, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("temperature", [0.1, 1e-2, 1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("size", [8, 30])
@pytest.mark.filterwarnings("ignore:.*entropy alone adds up")
def test_grids_are_solved_to_rounding_at_every_temperature_and_discount(
    size: int, temperature: float, gamma: float
) -> None:
    game = BilevelGridWorld(size=size, map_seed=1, gamma=gamma, temperature=temperature)
    x = 0.1 * np.random.default_rng(0).uniform(-1, 1, game.upper_space.shape)
    solution = solve_soft_mdp(game.model.lower_mdp(x))
    assert solution.converged and solution.residual <= 1e-10 and solution.solver == "banded"
    q = solution.mdp.reward + gamma * solution.mdp.kernel.expect(solution.soft_value)
    value, policy = soft_backup(q, temperature)
    assert np.abs(value - solution.soft_value).max() == solution.residual
    np.testing.assert_array_equal(policy, solution.policy)
    np.testing.assert_allclose(solution.policy.sum(axis=1), 1.0, atol=1e-14)


def test_masked_actions_get_no_probability_and_do_not_enter_the_value() -> None:
    mdp = random_mdp(4, masked=True)
    assert mdp.action_mask is not None and not mdp.action_mask.all()
    solution = solve_soft_mdp(mdp)
    assert (solution.policy[~mdp.action_mask] == 0.0).all()
    # The same problem where absent actions are so bad that nobody takes them.
    reward = np.where(mdp.action_mask, mdp.reward, -1e6)
    unmasked = solve_soft_mdp(TabularMDP(mdp.kernel, reward, mdp.gamma, mdp.temperature))
    np.testing.assert_allclose(solution.soft_value, unmasked.soft_value, atol=1e-12)


def test_the_error_bound_holds_for_an_unconverged_solve() -> None:
    mdp = random_mdp(6, gamma=0.99)
    exact = solve_soft_mdp(mdp)
    for steps in (0, 1, 2, 3):
        rough = solve_soft_mdp(mdp, max_iterations=steps)
        error = np.abs(rough.soft_value - exact.soft_value).max()
        assert error <= rough.value_error_bound + 1e-10
        assert rough.iterations == steps
        assert rough.converged == (rough.residual <= rough.tolerance)
    assert not solve_soft_mdp(mdp, max_iterations=1).converged


def test_a_policy_of_any_origin_has_the_systems_of_a_solution() -> None:
    mdp = random_mdp(4, masked=True)
    solution = solve_soft_mdp(mdp)
    answer = PolicyAnswer(mdp=mdp, policy=solution.policy)
    assert answer.policy_error_bound == math.inf > solution.policy_error_bound
    np.testing.assert_allclose(answer.log_policy, solution.log_policy, rtol=1e-12, atol=1e-13)
    for discount in (mdp.gamma, 0.5):
        for transpose in (False, True):
            found, _ = answer.discounted_system(discount).solve(np.ones(8), transpose=transpose)
            wanted, _ = solution.discounted_system(discount).solve(np.ones(8), transpose=transpose)
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert answer.discounted_system(mdp.gamma) is answer.system


def test_log_probabilities_that_underflow_stay_finite_or_as_given() -> None:
    mdp, policy = random_mdp(0), np.tile([1.0, 0.0, 0.0], (8, 1))
    assert np.isfinite(PolicyAnswer(mdp=mdp, policy=policy).log_policy).all()
    given = np.tile([0.0, -1e4, -2e4], (8, 1))
    answer = PolicyAnswer(mdp=mdp, policy=policy, log_probabilities=given, accuracy=1e-12)
    assert answer.log_policy is given


def test_a_warm_start_saves_the_newton_steps() -> None:
    mdp = random_mdp(7)
    cold = solve_soft_mdp(mdp)
    warm = solve_soft_mdp(mdp, initial_value=cold.soft_value)
    assert cold.iterations > 2 and warm.iterations == 0
    np.testing.assert_array_equal(warm.soft_value, cold.soft_value)
    # Without any Newton step the systems still find their factors.
    ones, residual = warm.system.solve(np.ones(8))
    np.testing.assert_allclose(warm.system.matrix @ ones, 1.0, atol=1e-13)
    assert residual <= 1e-13


def test_a_warm_start_within_the_default_tolerance_is_solved_all_the_same() -> None:
    mdp = random_mdp(7)
    old = solve_soft_mdp(mdp).soft_value
    shift = 0.1 * default_tolerance(mdp)
    moved = TabularMDP(mdp.kernel, mdp.reward + shift, mdp.gamma, mdp.temperature)
    warm, cold = solve_soft_mdp(moved, initial_value=old), solve_soft_mdp(moved)
    # Both end at rounding, wherever they started.
    assert max(warm.residual, cold.residual) <= 1e-14
    np.testing.assert_allclose(warm.soft_value, cold.soft_value, rtol=1e-14, atol=1e-14)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tolerance_that_is_asked_for_is_where_the_solve_stops(solver: str) -> None:
    mdp = random_mdp(7, gamma=0.99)
    loose = solve_soft_mdp(mdp, tolerance=1e-2, solver=solver)
    tight = solve_soft_mdp(mdp, solver=solver)
    assert loose.converged and 1e-13 < loose.residual <= 1e-2
    assert loose.iterations < tight.iterations
    assert solve_soft_mdp(mdp, initial_value=loose.soft_value, tolerance=1e-2).iterations == 0


def test_the_default_tolerance_scales_with_temperature_and_discount() -> None:
    mild, sharp = (random_mdp(0, gamma=0.99, temperature=t) for t in (1e-1, 1e-3))
    for mdp in (mild, sharp):
        horizon = 1.0 / (1.0 - mdp.gamma * mdp.kernel.row_sums.max())
        assert default_tolerance(mdp) == pytest.approx(1e-8 * mdp.temperature / horizon)
    # At the default tolerance the bound on the policy is what is promised.
    for mdp in (mild, sharp):
        krylov = solve_soft_mdp(mdp, solver="krylov")
        assert krylov.converged and krylov.policy_error_bound <= 2.1e-8
        exact = solve_soft_mdp(mdp).policy
        assert (np.abs(krylov.policy - exact) <= 2.1e-8 * exact).all()


def test_values_that_overflow_are_refused_not_iterated() -> None:
    mdp = random_mdp(7, gamma=0.99)
    huge = TabularMDP(mdp.kernel, np.full((8, 3), 1e308), mdp.gamma, mdp.temperature)
    with pytest.raises(ArithmeticError, match="overflowed"), np.errstate(all="ignore"):
        solve_soft_mdp(huge)
    with pytest.raises(ArithmeticError, match="not finite"):
        solve_soft_mdp(mdp).system.solve(np.array([np.nan] + [0.0] * 7))


def test_rewards_too_large_for_the_tolerance_are_solved_to_their_rounding() -> None:
    small = random_mdp(9, temperature=0.1)
    large = TabularMDP(small.kernel, 1e9 * small.reward, small.gamma, 1e9 * small.temperature)
    solution = solve_soft_mdp(large)
    assert solution.converged and solution.residual <= 1e-14 * 1e10
    assert solution.iterations <= 10
    np.testing.assert_allclose(
        solution.soft_value, 1e9 * solve_soft_mdp(small).soft_value, rtol=1e-13
    )


test_bad_solver_options_are_named = refusals(
    lambda **options: solve_soft_mdp(random_mdp(0), **options),
    ({"tolerance": 0.0}, "`tolerance` must be positive and finite, got 0.0"),
    ({"solver": ["dense"]}, r"unknown solver \['dense'\]; accepted: 'auto', "),
    ({"solver": "dens"}, r"unknown solver .dens.\. Did you mean .dense.\? Accepted: 'auto'"),
    ({"max_iterations": -1}, "`max_iterations` must be an integer of at least 0, got -1"),
    ({"initial_value": np.zeros(3)}, r"\(8,\), got shape \(3,\)"),
    ({"initial_value": np.full(8, np.nan)}, "0 finite entries"),
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-300, 1e-310, 1e300])
@pytest.mark.parametrize("filler", [-1e308, -1e20, 1e-310])
@pytest.mark.parametrize("solver", ["dense", "krylov", "value-iteration"])
def test_what_overflows_on_the_way_is_no_warning(
    filler: float, temperature: float, solver: str
) -> None:
    mdp = random_mdp(0, num_states=3, num_actions=2)
    reward = mdp.reward.copy()
    reward[0, 1] = filler
    problem = TabularMDP(mdp.kernel, reward, 0.9, temperature)
    # One answer for each: what one computes, another would find.
    for name in ("rough_change", "policy_error_bound", "log_policy", "value_error_bound"):
        found = solve_soft_mdp(problem, solver=solver)
        assert not np.isnan(getattr(found, name)).any(), name
    assert np.isfinite(found.policy).all() and found.value_error_bound >= 0.0
    assert found.is_bounded or not found.converged


@pytest.mark.usefixtures("compiled")
def test_the_compiled_exponential_is_right_to_a_rounding() -> None:
    from bilevel_gym.core.compiled.exponential import exp_of_gap

    gaps = -np.concatenate([np.geomspace(1e-300, 1.0, 2000), np.linspace(1.0, 750.0, 40_000)])
    found = np.array([exp_of_gap(gap) for gap in gaps])
    exact = np.exp(gaps.astype(np.longdouble))
    rounding = np.maximum(np.finfo(np.float64).eps * exact, np.finfo(np.float64).smallest_subnormal)
    assert float((np.abs(found - exact) / rounding).max()) <= 0.75
    assert [exp_of_gap(gap) for gap in (0.0, -0.0, -746.0, -1e9, -np.inf)] == [1, 1, 0, 0, 0]
    assert np.isnan(exp_of_gap(np.nan))
