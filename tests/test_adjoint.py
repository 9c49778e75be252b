"""Every derivative of the adjoint against differences, on random dense MDPs."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from bilevel_gym.core.adjoint import ResponseGradient, response_gradient
from bilevel_gym.core.bounds import Uncertainty, bounded
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.core.soft import SoftSolution, solve_soft_mdp
from bilevel_gym.model import objectives
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LinearCost,
    LogLikelihood,
    Objective,
    Outcome,
    PolicyCost,
    QuadraticCost,
    Sum,
    TruncatedReturn,
    UpperValue,
)

from .helpers import refusals
from .models import (
    answer_to,
    central_difference,
    evaluated,
    numeric_gradient,
    random_mdp,
    relative_error,
    symmetric_mdp,
)

# Bar for agreement with differences; steps are chosen well below the temperature.
BAR = 1e-6
STEP = 1e-4


class Problem:
    """A random lower level under a random return."""

    def __init__(
        self, seed: int, objective: Objective, *, temperature: float = 0.2, masked: bool = False
    ) -> None:
        self.mdp = random_mdp(seed, temperature=temperature, masked=masked)
        rng = np.random.default_rng(seed + 100)
        self.upper_reward = rng.normal(size=(8, 3))
        self.rho = rng.dirichlet(np.ones(8))
        self.objective, self.step = objective, STEP * min(1.0, 10 * temperature)

    def evaluated(self, solution: SoftSolution) -> UpperValue:
        return evaluated(self.objective, solution, self.upper_reward, self.rho)

    def solved(self) -> tuple[SoftSolution, UpperValue, ResponseGradient]:
        """Return the follower's answer, its evaluation and the response gradient."""
        solution = solve_soft_mdp(self.mdp)
        upper = self.evaluated(solution)
        return solution, upper, answer_to(solution, upper)

    def value(self, **changes: Any) -> float:
        return self.evaluated(solve_soft_mdp(replace(self.mdp, **changes))).value

    def value_at(self, probabilities: FloatArray) -> float:
        return self.value(kernel=self.mdp.kernel.with_probabilities(probabilities))


PROBLEMS = [(0, 1.0, False, None), (1, 0.1, False, 0.7), (2, 0.1, True, None)]
PROBLEMS += [(3, 0.03, True, 0.95), (4, 0.03, False, 0.0)]


@pytest.fixture(params=PROBLEMS, ids=str)
def problem(request: pytest.FixtureRequest) -> Problem:
    """A random lower level under a random return: seed, temperature, mask, leader's discount."""
    seed, temperature, masked, gamma = request.param
    return Problem(seed, DiscountedReturn(gamma), temperature=temperature, masked=masked)


def test_derivatives_of_the_return_are_differences(problem: Problem) -> None:
    _, upper, answer = problem.solved()
    mdp, step = problem.mdp, problem.step
    numeric = numeric_gradient(lambda reward: problem.value(reward=reward), mdp.reward, step)
    assert relative_error(numeric, answer.reward) <= BAR
    numeric = numeric_gradient(problem.value_at, mdp.kernel.matrix.data, step)
    assert upper.kernel is not None and upper.upper_reward is not None
    assert relative_error(numeric, answer.kernel + upper.kernel) <= BAR
    # The return is linear in the leader's reward, so the derivative reproduces it.
    value = float((upper.upper_reward * problem.upper_reward).sum())
    assert value == pytest.approx(upper.value, rel=1e-12)


def test_two_symmetric_states_have_their_closed_form_gradient() -> None:
    bonus, gamma, temperature = 0.02, 0.95, 0.05
    solution = solve_soft_mdp(symmetric_mdp(bonus=bonus, gamma=gamma, temperature=temperature))
    stays = np.array([[1.0, 0.0], [1.0, 0.0]])
    upper = evaluated(DiscountedReturn(), solution, stays, np.array([1.0, 0.0]))
    stay = 1.0 / (1.0 + math.exp(-bonus / temperature))
    assert upper.value == pytest.approx(stay / (1.0 - gamma), rel=1e-12)
    assert upper.policy is not None
    slope = stay * (1.0 - stay) / (1.0 - gamma)
    # d value / d bonus, the bonus being added in both states.
    found = answer_to(solution, upper).reward[:, 0].sum()
    assert found == pytest.approx(slope / temperature, rel=1e-12)


def test_a_sum_adds_values_and_every_derivative() -> None:
    solution = solve_soft_mdp(random_mdp(12))
    x = np.array([1.0, -2.0])
    upper_reward = np.random.default_rng(0).normal(size=(8, 3))
    outcome = Outcome(solution, x, upper_reward, np.full(8, 0.125))
    counts = LogLikelihood(np.ones((8, 3)))
    terms = (DiscountedReturn(), DiscountedReturn(0.5), QuadraticCost(0.1), counts)
    parts = [term.evaluate(outcome) for term in terms]
    total = Sum(terms).evaluate(outcome)
    assert total.value == pytest.approx(sum(part.value for part in parts), rel=1e-14)
    names = ("policy", "log_policy", "upper_reward", "kernel", "params", "initial_distribution")
    for name in names:
        present = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        np.testing.assert_allclose(getattr(total, name), sum(present), rtol=1e-13)
    known = Uncertainty(cast("SoftSolution", outcome.solution))
    expected = sum(bounded(part.policy_error, known) for part in parts)
    assert bounded(total.policy_error, known) == pytest.approx(expected, rel=1e-14)
    assert expected != 0.0
    assert parts[2].value == pytest.approx(-0.5) and total.params is not None
    np.testing.assert_allclose(total.params, [-0.2, 0.4])
    assert Sum((QuadraticCost(0.1),)).evaluate(outcome).policy is None


OBJECTIVES: dict[str, Objective] = {
    "discounted": DiscountedReturn(),
    "truncated": TruncatedReturn(7),
    "truncated, own discount": TruncatedReturn(4, 1.0),
    "spread": PolicyCost(0.3),
    # Action 0 exists in every state of the masked problem too.
    "likelihood": LogLikelihood(np.outer(np.arange(8.0), [1.0, 0.0, 0.0])),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("masked", [False, True])
class TestOtherObjectives:
    """Derivatives of the other objectives, and their error bounds."""

    def test_reward_and_kernel(self, name: str, masked: bool) -> None:
        problem = Problem(6, OBJECTIVES[name], masked=masked)
        _, upper, answer = problem.solved()
        reward, rng = problem.mdp.reward, np.random.default_rng(0)
        for bump in rng.normal(size=(4, 8, 3)):

            def shifted(h: float, bump: FloatArray = bump) -> float:
                return problem.value(reward=reward + h * bump)

            numeric = central_difference(shifted, STEP)
            assert numeric == pytest.approx(float((answer.reward * bump).sum()), rel=BAR)
        analytic = answer.kernel + (0.0 if upper.kernel is None else upper.kernel)
        weights, data = rng.normal(size=analytic.size), problem.mdp.kernel.matrix.data
        numeric = central_difference(lambda h: problem.value_at(data * (1.0 + h * weights)), STEP)
        assert numeric == pytest.approx(float((analytic * data * weights).sum()), rel=BAR)

    def test_the_error_bound_holds(self, name: str, masked: bool) -> None:
        problem = Problem(6, OBJECTIVES[name], masked=masked)
        exact, _, wanted = problem.solved()
        for size in (1e-3, 1e-5, 1e-7, 1e-9):
            rough = roughly_solved(exact, size)
            found = answer_to(rough, problem.evaluated(rough))
            assert np.abs(found.reward - wanted.reward).sum() <= found.error_bound
        assert found.error_bound <= 1e-2 * np.abs(wanted.reward).sum()


def roughly_solved(exact: SoftSolution, size: float, seed: int = 0) -> SoftSolution:
    """Return what a solve that stops too early may give: values off by up to `size`, unevenly."""
    errors = size * np.random.default_rng(seed).uniform(-1.0, 1.0, len(exact.soft_value))
    return solve_soft_mdp(exact.mdp, initial_value=exact.soft_value + errors, max_iterations=0)


def slopes_off(rough: SoftSolution, found: UpperValue, wanted: UpperValue) -> float:
    """Return sum_sa pi |df/dpi - exact|, up to the best constant in each state."""
    assert found.policy is not None and wanted.policy is not None
    off = found.policy - wanted.policy
    # A weighted median is one of the numbers.
    around = (rough.policy[:, :, None] * np.abs(off[:, :, None] - off[:, None, :])).sum(axis=1)
    return float(around.min(axis=1).sum())


@pytest.mark.parametrize(("horizon", "accuracy"), [(400, 1e-9), (10**15, 1e-12)])
def test_a_long_truncated_return_is_the_return_at_no_memory(horizon: int, accuracy: float) -> None:
    assert objectives.last_step_that_counts(0.9) < 500  # else the rest would take for ever
    _, endless, _ = Problem(3, DiscountedReturn()).solved()
    tracemalloc.start()
    _, cut, _ = Problem(3, TruncatedReturn(horizon)).solved()
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert cut.value == pytest.approx(endless.value, rel=1e-13)
    for name in ("policy", "upper_reward", "kernel", "initial_distribution"):
        np.testing.assert_allclose(getattr(cut, name), getattr(endless, name), rtol=accuracy)


@pytest.mark.parametrize("gamma", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("horizon", [1, 2, 30])
def test_the_bound_on_derivatives_of_a_truncated_return_holds(horizon: int, gamma: float) -> None:
    objective, errors = TruncatedReturn(horizon, gamma), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        mdp = random_mdp(seed, gamma=0.6, temperature=rng.choice([0.05, 0.5]))
        upper_reward, rho = rng.normal(size=(8, 3)), rng.dirichlet(0.2 * np.ones(8))
        exact = solve_soft_mdp(mdp)
        wanted = evaluated(objective, exact, upper_reward, rho)
        for size in (1e-2, 1e-4, 1e-6):
            rough = roughly_solved(exact, size, seed)
            found = evaluated(objective, rough, upper_reward, rho)
            off = slopes_off(rough, found, wanted)
            bound = bounded(found.policy_error, Uncertainty(rough))
            assert off <= bound
            if math.isfinite(bound):
                errors.append(off)
    assert len(errors) >= 16
    assert max(errors) > 1e-6 or horizon == 1  # where the first reward is all there is


@pytest.mark.parametrize("buffer", [1, 100, 400, 600, 1344, 10_000])
def test_sums_over_steps_do_not_depend_on_how_many_are_taken_at_a_time(
    buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(6, TruncatedReturn(7))  # 192 transitions
    _, whole, _ = problem.solved()
    monkeypatch.setattr(objectives, "BUFFER", buffer)
    _, cut, _ = problem.solved()
    assert cut.value == whole.value
    for name in ("policy", "kernel", "upper_reward", "initial_distribution"):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), rtol=1e-12, atol=1e-14)


def test_sums_over_steps_take_no_more_memory_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    solution = solve_soft_mdp(random_mdp(0, num_states=60))
    row = solution.mdp.kernel.matrix.nnz
    outcome = Outcome(solution, np.zeros(1), np.ones((60, 3)), np.full(60, 1.0 / 60.0))
    peaks = []
    for steps in (0, 1, 2, 20):
        monkeypatch.setattr(objectives, "BUFFER", max(1, steps * row))
        TruncatedReturn(20).evaluate(outcome)
        tracemalloc.start()
        TruncatedReturn(20).evaluate(outcome)
        peaks.append(tracemalloc.get_traced_memory()[1] / (8 * row))
        tracemalloc.stop()
    # A step has two or three numbers for each transition; one step is the least there can be.
    assert abs(peaks[1] - peaks[0]) < 0.5
    assert 1.5 < peaks[2] - peaks[1] < 3.5 and 1.5 < (peaks[3] - peaks[2]) / 18 < 3.5


def test_a_truncated_return_without_discount_takes_every_step() -> None:
    solution = solve_soft_mdp(mdp := random_mdp(2, temperature=0.2, termination=0.0))
    for horizon in (1, 3, 600):
        problem = Problem(2, TruncatedReturn(horizon, 1.0))
        value = problem.evaluated(solution)
        present, total = problem.rho, 0.0
        for _ in range(horizon):
            pairs = present[:, None] * solution.policy
            total += float((pairs * problem.upper_reward).sum())
            present = np.einsum("sa,sat->t", pairs, mdp.kernel.to_dense())
        assert value.value == pytest.approx(total, rel=1e-12)
        assert value.upper_reward is not None
        assert value.upper_reward.sum() == pytest.approx(horizon, rel=1e-12)


def test_a_truncated_return_that_looks_no_step_ahead_is_the_first_reward() -> None:
    assert objectives.last_step_that_counts(0.0) == 1  # else the rest would take for ever
    problem = Problem(2, TruncatedReturn(10**15, 0.0))
    solution, value, _ = problem.solved()
    first = (solution.policy * problem.upper_reward).sum(axis=1)
    assert value.value == pytest.approx(float(problem.rho @ first), rel=1e-14)
    known = Uncertainty(solution)
    assert value.policy is not None and bounded(value.policy_error, known) <= 1e-12
    np.testing.assert_allclose(value.policy, problem.rho[:, None] * problem.upper_reward)


def test_a_likelihood_is_that_of_the_policy_even_where_it_underflows() -> None:
    mdp = random_mdp(0, temperature=1e-4)
    solution = solve_soft_mdp(mdp)
    assert (solution.policy == 0.0).any()  # some actions are never taken
    assert np.isfinite(solution.log_policy).all()
    likely = solution.policy > 1e-300
    found, wanted = solution.log_policy[likely], np.log(solution.policy[likely])
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    counts = np.ones((8, 3))
    value = evaluated(LogLikelihood(counts), solution, np.zeros((8, 3)), np.full(8, 0.125))
    assert value.value == pytest.approx(float(solution.log_policy.sum()))
    gradient = response_gradient(solution, None, log_policy_gradient=value.log_policy)
    assert np.isfinite(gradient.reward).all()


def judged_by(counts: FloatArray) -> UpperValue:
    solution = solve_soft_mdp(random_mdp(6, masked=True))
    return evaluated(LogLikelihood(counts), solution, np.zeros((8, 3)), np.full(8, 0.125))


test_bad_demonstrations_are_refused = refusals(
    judged_by,
    ({"counts": -np.ones((8, 3))}, "`counts` must"),
    ({"counts": np.full((8, 3), np.nan)}, "`counts` must"),
    ({"counts": np.ones(8)}, r"shape \[S, A\]"),
    ({"counts": np.ones((8, 2))}, r"shape \[S, A\] = \(8, 3\), got \(8, 2\)"),
    ({"counts": np.ones((8, 3))}, "does not exist in state"),
)


def test_a_linear_cost_falls_on_both_sides_of_zero() -> None:
    solution = solve_soft_mdp(random_mdp(6))
    x = np.array([-2.0, 0.0, 3.0])
    value = LinearCost(0.5).evaluate(Outcome(solution, x, np.zeros((8, 3)), np.full(8, 0.125)))
    assert value.value == -2.5 and value.params is not None
    np.testing.assert_array_equal(value.params, [0.5, -0.5, -0.5])
