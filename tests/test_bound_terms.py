"""Every term of the error bounds counts: each is compared with its equation, or tampered with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core import bounds
from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.bellman import centred_score
from bilevel_gym.core.bounds import Uncertainty, bounded
from bilevel_gym.core.linear import SOLVERS
from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.core.soft import PolicyAnswer, SoftSolution, default_tolerance, solve_soft_mdp
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LogLikelihood,
    Objective,
    PolicyCost,
    TruncatedReturn,
)

from .bounds import errors
from .models import answer_to, evaluated, random_mdp
from .referee import Truth
from .worlds import World, world

Patch = pytest.MonkeyPatch


def truth_of(mdp: TabularMDP) -> Truth:
    return Truth(mdp.kernel.to_dense(), mdp.reward, mdp.gamma, mdp.temperature, mdp.action_mask)


def roughly(mdp: TabularMDP, off: Any) -> SoftSolution:
    """Return a solution whose value is off by so much."""
    start = truth_of(mdp).value.astype(np.float64) + off
    return solve_soft_mdp(mdp, initial_value=start, max_iterations=0)


def fork(gamma: float = 0.5, temperature: float = 0.1) -> TabularMDP:
    """Return a state with a likely and an unlikely action, whose episodes end where they lead."""
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[0, 1, 2] = 1.0
    reward = np.zeros((3, 2))
    reward[0, 1] = -0.4
    return TabularMDP(Kernel.from_dense(transition), reward, gamma, temperature)


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_the_bound_of_a_value_that_is_off_by_a_constant_is_sharp(gamma: float) -> None:
    rough = roughly(mdp := random_mdp(0, gamma=gamma, termination=0.0), 1e-3)
    error = float(np.abs(truth_of(mdp).value - rough.soft_value).max())
    assert error <= rough.value_error_bound <= 1.000001 * error
    # A constant changes no policy.
    assert rough.policy_error_bound <= 1e-11


@pytest.mark.parametrize("refinements", [0, 2])
def test_bounds_of_the_policy_are_sharp_where_the_worst_happens(
    refinements: int, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(bounds, "REFINEMENTS", refinements)
    rough = roughly(mdp := fork(), np.array([0.0, 1e-3, -1e-3]))
    exact = truth_of(mdp).policy
    error = float((np.abs(exact - rough.policy) / rough.policy).max())
    assert error <= rough.policy_error_bound <= (2.0 if refinements == 0 else 1.001) * error
    known = Uncertainty(rough)
    assert (np.abs(exact - rough.policy) <= known.changes + 1e-17).all()
    assert (np.abs(exact - known.policy) <= known.kappa * known.moved + 1e-18).all()


@pytest.mark.parametrize("small", [0, 1500])
@pytest.mark.parametrize("discount", [0.5, 0.99])
def test_the_time_until_it_does_not_matter_where_one_began(
    small: int, discount: float, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(bounds, "SMALL", small)
    sharp = 0
    for seed in range(40):
        mdp = replace(world(seed, (3, 5, 10)).mdp, gamma=discount)
        solution = solve_soft_mdp(mdp)
        steps = np.einsum("sa,sat->st", solution.policy, mdp.kernel.to_dense())
        visits = np.linalg.inv(np.eye(len(steps)) - discount * steps)
        rows = visits
        if steps.sum(axis=1).min() < 1.0 - 1e-9:
            rows = np.vstack([visits, np.zeros(len(steps))])
        wanted = 0.5 * np.abs(rows[:, None] - rows[None]).sum(axis=2).max()
        found = Uncertainty(solution).reach(discount)
        assert wanted * (1.0 - 1e-9) <= found <= 1.001 / (1.0 - discount)
        sharp += found <= 2.0 * max(1.0, wanted)
    assert sharp >= (16 if small == 0 else 38)


def test_the_end_of_an_episode_is_a_state_too(monkeypatch: Patch) -> None:
    monkeypatch.setattr(bounds, "SMALL", 0)
    kernel, reward = Kernel.from_dense([[[0.95], [0.9]]]), np.array([[1.0, -9.0]])
    # From the only state there are 1 / (1 - .9405) visits, from the end there are none.
    wanted = 0.5 / (1.0 - 0.99 * 0.95)
    solution = solve_soft_mdp(TabularMDP(kernel, reward, 0.99, 0.1))
    assert wanted * (1.0 - 1e-9) <= Uncertainty(solution).reach(0.99) <= 2.001 * wanted


class Known(Uncertainty):
    """What is known of a policy, some of it said."""

    def __init__(self, solution: SoftSolution, kappa: float, reach: float) -> None:
        super().__init__(solution)
        self.__dict__["_is_computed"] = True
        self.__dict__["total"], self._said = kappa, reach

    def reach(self, discount: float) -> float:
        return self._said


@pytest.mark.parametrize("kind", ["policy", "log policy"])
def test_bounds_of_gradients_are_what_the_equations_say(kind: str, monkeypatch: Patch) -> None:
    rng, kappa, reach, slope_error = np.random.default_rng(0), 0.05, 3.0, 0.2
    mdp = random_mdp(0, gamma=0.8, temperature=0.7)
    solution = solve_soft_mdp(mdp)
    policy, slope = solution.policy, rng.normal(size=(8, 3))
    monkeypatch.setattr(
        "bilevel_gym.core.adjoint.Uncertainty", lambda solution: Known(solution, kappa, reach)
    )
    if kind == "policy":
        answer = response_gradient(solution, slope, policy_gradient_error=slope_error)
        gain = np.abs(slope - (policy * slope).sum(axis=1, keepdims=True))
        moved = Uncertainty(solution).moved
        score = 2.0 * kappa * (moved * gain).sum() + 2.0 * (1.0 + kappa) ** 2 * slope_error
    else:
        counts = np.abs(slope)
        answer = response_gradient(solution, None, log_policy_gradient=counts)
        moved = Uncertainty(solution).moved
        score = kappa * (moved.sum(axis=1) @ counts.sum(axis=1))
    score /= mdp.temperature
    length = kappa * (moved.sum(axis=1) @ np.abs(answer.adjoint))
    wanted = score + reach * mdp.gamma * (score + length) + length
    assert answer.error_bound == pytest.approx(wanted, rel=1e-9)


def test_bounds_of_returns_are_what_the_equations_say() -> None:
    rng, kappa, reach = np.random.default_rng(0), 0.05, 3.0
    mdp = random_mdp(0, gamma=0.8, temperature=0.7)
    solution = solve_soft_mdp(mdp)
    upper_reward, start = rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
    found = evaluated(DiscountedReturn(), solution, upper_reward, start)
    known = Known(solution, kappa, reach)
    steps = np.einsum("sa,sat->st", solution.policy, mdp.kernel.to_dense())
    visits = np.linalg.inv(np.eye(8) - 0.8 * steps)
    value = visits @ (solution.policy * upper_reward).sum(axis=1)
    occupancy = start @ visits
    gain = np.abs(upper_reward + 0.8 * mdp.kernel.expect(value) - value[:, None])
    exposed, part = float(occupancy @ known.spread), (known.moved * gain).sum(axis=1).max()
    of_visits, span = reach * 0.8 * kappa * exposed, 2.0 * reach * kappa * part
    wanted = (solution.policy * gain).sum(axis=1).max() * of_visits
    wanted += (0.5 * exposed + of_visits) * 0.8 * span
    assert bounded(found.policy_error, known) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("objective", [DiscountedReturn(), LogLikelihood(np.ones((8, 3)))])
@pytest.mark.parametrize("part", ["_centred", "reward", "adjoint"])
@pytest.mark.parametrize("alike", [True, False])
def test_bounds_of_gradients_see_what_has_been_tampered_with(
    objective: Objective, part: str, alike: bool
) -> None:
    mdp = random_mdp(1, gamma=0.9, termination=0.0)
    rng, solution = np.random.default_rng(2), solve_soft_mdp(mdp)
    upper_reward, start = rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
    answer = answer_to(solution, evaluated(objective, solution, upper_reward, start))
    noise = 1e-6 * (1.0 if alike else rng.normal(size=np.shape(getattr(answer, part))))
    tampered: Any = replace(answer, **{part: getattr(answer, part) + noise})
    if part != "reward":  # what follows from it follows
        adjoint = tampered.adjoint
        if part == "_centred":
            flow = mdp.gamma * mdp.kernel.flow(tampered._centred)
            adjoint = solution.system.solve(flow, transpose=True)[0]
        reward = tampered._centred + solution.policy * adjoint[:, None]
        tampered = replace(tampered, adjoint=adjoint, reward=reward)
    error = float(np.abs(tampered.reward - answer.reward).sum())
    assert answer.error_bound < 1e-9 < error <= tampered.error_bound <= 60.0 * error


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("part", ["value", "occupancy", "returns"])
def test_bounds_of_returns_see_what_has_been_tampered_with(part: str, alike: bool) -> None:
    mdp = random_mdp(1, gamma=0.9, termination=0.0)
    rng, solution = np.random.default_rng(2), solve_soft_mdp(mdp)
    upper_reward, start = rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
    found = evaluated(DiscountedReturn(), solution, upper_reward, start)
    error_of: Any = found.policy_error
    names = ["start", "upper_reward", "gamma", "value", "occupancy", "returns"]
    given = dict(zip(names, error_of.args, strict=True))
    exact = given["occupancy"][:, None] * given["returns"]
    noise = 1e-6 * (1.0 if alike else rng.normal(size=given[part].shape))
    given[part] = given[part] + noise
    if part == "value":
        given["returns"] = upper_reward + mdp.gamma * mdp.kernel.expect(given["value"])
    off = given["occupancy"][:, None] * given["returns"] - exact
    off -= (solution.policy * off).sum(axis=1, keepdims=True)
    error = float((solution.policy * np.abs(off)).sum())
    bound = error_of.func(*given.values(), Uncertainty(solution))
    assert error <= bound and bounded(error_of, Uncertainty(solution)) < 1e-10
    assert bound > 1e-7 or (alike and part == "returns")  # constants of a state are no error


def test_the_cost_of_a_policy_knows_how_far_the_policy_is_off(monkeypatch: Patch) -> None:
    monkeypatch.setattr(bounds, "REFINEMENTS", 0)
    mdp, states = fork(), np.array([1.0, 0.0, 0.0])
    rough = roughly(mdp, np.array([0.0, 1e-3, -1e-3]))
    found = evaluated(PolicyCost(0.5), rough, np.zeros((3, 2)), states)
    exact = truth_of(mdp).policy
    error = float((rough.policy * np.abs(found.policy - (-1.0) * exact)).sum())
    assert error <= bounded(found.policy_error, Uncertainty(rough)) <= 100.0 * error
    # What counts is the gradient's bound, to which this is all that there is.
    answer = answer_to(rough, found)
    alone = replace(answer, _slope_error=0.0)
    assert answer.error_bound > 1.2 * alone.error_bound


@pytest.mark.parametrize("horizon", [2, 5])
def test_truncated_returns_know_how_far_the_policy_is_off(horizon: int) -> None:
    rough = roughly(fork(), np.array([0.0, 1e-3, -1e-3]))
    reward, start = np.zeros((3, 2)), np.array([1.0, 0.0, 0.0])
    reward[1], reward[2] = 1.0, -1.0
    found = evaluated(TruncatedReturn(horizon, 1.0), rough, reward, start)
    assert bounded(found.policy_error, Uncertainty(rough)) > 1e-4


@pytest.mark.parametrize("precision", [np.float64, np.longdouble])
def test_bounds_hold_where_there_is_no_extended_precision(
    precision: Any, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(bounds, "EXTENDED", precision)
    for seed in range(100, 160):
        found: World = world(seed, (2, 3, 5, 10, 20))
        solution = solve_soft_mdp(found.mdp)
        upper = evaluated(DiscountedReturn(), solution, found.upper_reward, found.start)
        for name, (error, bound, _) in errors(found, solution, answer_to(solution, upper)).items():
            assert error <= bound and (np.isfinite(bound) or not solution.converged), (seed, name)


def test_nothing_overflows_where_rewards_are_tiny() -> None:
    for unit in (1e-300, 1e-290):
        mdp = random_mdp(3, gamma=0.999)
        tiny = replace(mdp, reward=unit * mdp.reward, temperature=unit * mdp.temperature)
        rng = np.random.default_rng(0)
        upper_reward, start = 1e3 * rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
        plain, scaled = (
            answer_to(solution, evaluated(DiscountedReturn(), solution, upper_reward, start))
            for solution in (solve_soft_mdp(mdp), solve_soft_mdp(tiny))
        )
        assert plain.error_bound / 10.0 <= scaled.error_bound * unit <= 1e3 * plain.error_bound


@pytest.mark.parametrize("solver", ["krylov", "value-iteration"])
def test_iterative_systems_are_as_accurate_as_promised(solver: str) -> None:
    mdp = random_mdp(0, gamma=0.9)
    solution = solve_soft_mdp(mdp, solver=solver, tolerance=1e-3)
    rhs = np.random.default_rng(0).normal(size=8)
    for transpose, norm in ((False, np.max), (True, np.sum)):
        found, residual = solution.system.solve(rhs, transpose=transpose)
        assert residual <= 1e-8 * norm(np.abs(rhs))
        matrix = solution.system.matrix.T if transpose else solution.system.matrix
        assert norm(np.abs(rhs - matrix @ found)) == pytest.approx(residual, rel=1e-3)
    upper = evaluated(DiscountedReturn(), solution, np.ones((8, 3)) * rhs[:, None], np.eye(8)[0])
    answer = answer_to(solution, upper)
    scores = mdp.gamma * mdp.kernel.flow(answer._centred)
    assert answer.residual <= 1e-8 * np.abs(scores).sum()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_right_hand_side_of_zero_has_the_solution_zero(solver: str) -> None:
    solution = solve_soft_mdp(random_mdp(0), solver=solver)
    for transpose in (False, True):
        found, residual = solution.system.solve(np.zeros(8), transpose=transpose)
        assert residual == 0.0 and not found.any()
    assert not response_gradient(solution, np.zeros((8, 3))).reward.any()
    nothing = replace(solution.mdp, reward=np.zeros((8, 3)), temperature=1e-9)
    assert solve_soft_mdp(nothing, solver=solver).converged


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", ["dense", "compiled"])
def test_scores_sum_to_zero_however_large_their_common_part(solver: str) -> None:
    mdp = random_mdp(0, temperature=1.0, gamma=0.9999, termination=0.0)
    solution = solve_soft_mdp(mdp, solver=solver)
    slope = 1e11 + np.random.default_rng(0).normal(size=(8, 3))
    found = solution.system.strategy.adjoint(solution.system, mdp, solution.policy, slope, None)
    # One rounding of the common part is 1e-5.
    assert np.abs(found.centred.sum(axis=1)).max() <= 1e-12
    assert np.abs(found.centred).max() > 0.1
    centred = centred_score(solution.policy, 1.0, None, slope)
    assert np.abs(centred.sum(axis=1)).max() <= 1e-4


def test_a_step_that_brings_no_better_residual_is_dropped(monkeypatch: Patch) -> None:
    dense, residuals = SOLVERS["dense"], list[float]()
    solve, mdp = type(dense).solve, random_mdp(0)
    tolerance = default_tolerance(mdp)

    def overshooting(self: Any, factors: Any, defect: FloatArray, *options: Any) -> FloatArray:
        residuals.append(float(np.abs(defect).max()))
        return solve(self, factors, defect, *options) * (-50.0 if residuals[-1] <= tolerance else 1)

    monkeypatch.setattr(type(dense), "solve", overshooting)
    solution = solve_soft_mdp(mdp, initial_value=None, solver="dense")
    assert solution.converged and solution.residual == min(residuals) < tolerance
    # Nor does a linear system take what is worse than its start.
    monkeypatch.setattr(type(dense), "solve", lambda *_: np.full(8, 1e3))
    system = solve_soft_mdp(mdp, solver="dense", max_iterations=0).system
    rhs, start = np.ones(8), np.full(8, 9.0)
    found, residual, settled = dense.refine(system, None, rhs, start, 0.0, False)
    assert not settled and found is start
    assert residual == pytest.approx(np.abs(rhs - system.matrix @ start).max())


def test_the_default_tolerance_is_that_of_the_documents() -> None:
    mdp = random_mdp(0, gamma=0.75, temperature=0.5, termination=0.0)
    assert default_tolerance(mdp) == pytest.approx(1e-8 * 0.5 * 0.25, rel=1e-12)


@pytest.mark.parametrize("reach", [1.0, 30.0, 1e6])
def test_changes_of_the_policy_are_bounded_as_the_equations_say(reach: float) -> None:
    mdp = random_mdp(0, gamma=0.9, temperature=0.5, termination=0.0)
    rough = roughly(mdp, 1e-3 * np.random.default_rng(0).normal(size=8))
    known, seen = Uncertainty(rough), 1e-4
    known._computed[mdp.gamma] = reach
    span, mass = float(np.ptp(rough.defect)), 1.0 / (1.0 - mdp.gamma)
    first, any_policy = (mdp.gamma * c * span / mdp.temperature for c in (reach, mass))
    kept = 1.0 - mdp.gamma * reach * np.expm1(2.0 * first + seen) * known.spread.max()
    wanted = min(first / kept if kept >= 0.5 else np.inf, any_policy)
    assert known._theta(rough.defect, 1.0, seen) == pytest.approx(wanted, rel=1e-6)
    assert (kept >= 0.5) == (reach == 1.0)


def test_bounds_of_truncated_returns_are_what_the_equations_say() -> None:
    rng, kappa, horizon, gamma = np.random.default_rng(0), 1e-3, 5, 0.7
    solution = solve_soft_mdp(random_mdp(0, gamma=0.8, temperature=0.7))
    upper_reward, start = rng.normal(size=(8, 3)), rng.dirichlet(np.ones(8))
    found = evaluated(TruncatedReturn(horizon, gamma), solution, upper_reward, start)
    known = Known(solution, kappa, 1.0)
    steps = np.einsum("sa,sat->st", solution.policy, solution.mdp.kernel.to_dense())
    values = [np.zeros(8)]
    for _ in range(horizon - 1):
        gains = (solution.policy * upper_reward).sum(axis=1)
        values.append(gains + gamma * steps @ values[-1])
    span = np.ptp(upper_reward) + gamma * max(float(np.ptp(value)) for value in values)
    part, discounts = known.spread.max(), gamma ** np.arange(horizon)
    drift, total = discounts @ np.arange(horizon), discounts.sum()
    moved = kappa * part
    of_advantage = 2.0 * gamma * total * moved * span
    wanted = 0.5 * part * (moved * drift * span + (total + moved * drift) * of_advantage)
    assert bounded(found.policy_error, known) == pytest.approx(wanted, rel=1e-6)


def test_the_rounding_of_unlikely_actions_is_bounded() -> None:
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(50):
        temperature, kernel = rng.uniform(0.1, 1.0), Kernel.from_dense(np.ones((1, 2, 1)))
        reward = np.array([[0.0, -600.0 * temperature * rng.uniform(0.9, 1.1)]])
        solution = solve_soft_mdp(TabularMDP(kernel, reward, 0.0, temperature))
        exact = truth_of(solution.mdp).policy
        error = float((np.abs(exact - solution.policy) / solution.policy).max())
        assert error <= np.expm1(solution.rough_change)
        assert error <= solution.policy_error_bound
        worst = max(worst, error)
    assert worst > 1e-14  # a hundred roundings


def test_systems_of_a_policy_that_is_no_solution_are_accurate() -> None:
    mdp = random_mdp(0, gamma=0.9)
    answer = PolicyAnswer(mdp=mdp, policy=np.full((8, 3), 1.0 / 3.0), solver="krylov")
    rhs = np.random.default_rng(0).normal(size=8)
    assert answer.system.solve(rhs)[1] <= 1e-10 * np.abs(rhs).max()


def test_the_rounding_of_residuals_is_counted(monkeypatch: Patch) -> None:
    monkeypatch.setattr(bounds, "EXTENDED", np.float64)
    known, rhs = Uncertainty(solve_soft_mdp(random_mdp(0, gamma=0.9))), np.ones(8)
    # Of 24 predecessors, or 8 successors, and 3 actions.
    rounding, forward = 2.0**-52 * (24.0 + 3.0), 2.0**-52 * (8.0 + 3.0)
    for found in (np.zeros(8), np.full(8, 1e6)):
        sizes = 8.0 * (found.max() + 1.0)
        assert known.error_of_visits(found, rhs, 0.9) >= known.mass(0.9) * rounding * sizes
        bare = np.abs(known._residual(found, rhs, 0.9, transpose=False)[0]).max()
        assert known.residual(found, rhs, 0.9) >= bare + forward * (found.max() + 1.0)
    exact = known.solution.system.solve(rhs, transpose=True)[0]
    assert known.error_of_visits(exact, rhs, 0.9) >= known.mass(0.9) * rounding * exact.sum()


def test_scores_that_do_not_sum_to_zero_are_counted(monkeypatch: Patch) -> None:
    reach, off = 3.0, 1e-3
    solution = solve_soft_mdp(random_mdp(0, gamma=0.8, temperature=0.7))
    answer = response_gradient(solution, np.random.default_rng(0).normal(size=(8, 3)))
    monkeypatch.setattr(
        "bilevel_gym.core.adjoint.Uncertainty", lambda solution: Known(solution, 0.0, reach)
    )
    centred = answer._centred + off * np.array([1.0, 0.0, 0.0]) * np.linspace(-1.0, 2.0, 8)[:, None]
    flow = 0.8 * solution.mdp.kernel.flow(centred)
    adjoint = solution.system.solve(flow, transpose=True)[0]
    reward = centred + solution.policy * adjoint[:, None]
    tampered = replace(answer, _centred=centred, adjoint=adjoint, reward=reward)
    total, common = off * np.abs(np.linspace(-1.0, 2.0, 8)).sum(), off * 4.0
    mass = 1.0 / (1.0 - 0.8 * solution.mdp.kernel.largest_sum)
    wanted = total * (1.0 + reach * 0.8 + 2.0 * reach) + mass * common
    assert tampered.error_bound == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("total", [0.0, 0.01, 0.4, np.inf])
def test_what_holds_for_the_computed_policy_holds_for_those_near_it(total: float) -> None:
    known = Uncertainty(solve_soft_mdp(random_mdp(0, gamma=0.9, temperature=1.0)))
    known._computed[0.9], known.__dict__["total"] = 2.0, total
    lost = 0.9 * 2.0 * total * known.spread.max()
    wanted = min(2.0 / (1.0 - lost), known.mass(0.9)) if lost < 0.9 else known.mass(0.9)
    assert known.reach(0.9) == pytest.approx(wanted, rel=1e-12)
