"""Batches of soft MDPs against one at a time, with and without compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import TabularBilevelEnv
from bilevel_gym.core import fast
from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.batch import solve_batch
from bilevel_gym.core.linear import SOLVERS, DiscountedSystem, check_solver
from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.core.soft import SoftSolution, solve_soft_mdp
from bilevel_gym.model.objectives import DiscountedReturn, QuadraticCost, Sum
from bilevel_gym.registration import Task

from .helpers import TABULAR_TASKS, array_game, game_of, interior_point, leader_seat
from .models import MODELS, grid, random_mdp

Patch = pytest.MonkeyPatch

every_task = pytest.mark.parametrize("task", TABULAR_TASKS, ids=lambda task: task.id)


def batch_of(mdp: TabularMDP, size: int = 5, *, kernels: bool = False) -> list[TabularMDP]:
    """Return problems with other rewards and, if asked for, other probabilities."""
    rng = np.random.default_rng(0)
    _ = mdp.kernel.pattern  # what has been computed is shared
    batch = []
    for _ in range(size):
        reward, kernel = mdp.reward + 0.2 * rng.normal(size=mdp.reward.shape), mdp.kernel
        if kernels:
            data = kernel.matrix.data * rng.uniform(0.7, 1.0, kernel.matrix.nnz)
            kernel = kernel.with_probabilities(data)
        batch.append(replace(mdp, reward=reward, kernel=kernel))
    return batch


CIRCLE = Kernel.from_triplets(
    np.arange(9), np.zeros(9, int), (np.arange(9) + 1) % 9, np.ones(9), num_states=9, num_actions=2
)
BATCHES = {
    **{name: batch_of(mdp) for name, mdp in MODELS.items()},
    "other kernels": batch_of(random_mdp(4, num_states=20), kernels=True),
    "other kernels, grid": batch_of(grid(6), kernels=True),
    "one state": batch_of(random_mdp(5, num_states=1)),
    "nearly greedy": batch_of(random_mdp(6, gamma=0.99, temperature=1e-6, masked=True)),
    "cycle one way": batch_of(TabularMDP(CIRCLE, np.zeros((9, 2)), 0.9, 0.1)),
}
every_batch = pytest.mark.parametrize("name", BATCHES)


def one_by_one(mdps: Sequence[TabularMDP], **options: Any) -> list[SoftSolution]:
    with fast.switched(False):
        return [solve_soft_mdp(mdp, **options) for mdp in mdps]


def gradient_of(solution: SoftSolution) -> Any:
    slope = np.random.default_rng(1).normal(size=solution.policy.shape)
    return response_gradient(solution, slope, policy_gradient_error=1e-9)


def assert_near(found: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    """Assert agreement relative to the largest entry."""
    size = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * size)


# Agreement --------------------------------------------------------------------------------------


@every_batch
@pytest.mark.parametrize("tolerance", [None, 1e-8])
def test_each_solution_is_the_one_that_its_problem_has_alone(
    name: str, tolerance: float | None, backend: str
) -> None:
    mdps = BATCHES[name]
    found, alone = solve_batch(mdps, tolerance=tolerance), one_by_one(mdps, tolerance=tolerance)
    for mdp, one, other in zip(mdps, found, alone, strict=True):
        assert one.mdp is mdp and one.tolerance == other.tolerance
        assert one.converged and other.converged and one.sweeps == 0
        assert_near(one.soft_value, other.soft_value)
        # Rounding of values is magnified by the temperature.
        assert_near(one.policy, other.policy, 1e-10 + 1e-14 / mdp.temperature)
        assert_near(one.soft_q[one.policy > 0], other.soft_q[one.policy > 0])
        np.testing.assert_allclose(one.policy.sum(axis=1), 1.0, rtol=0, atol=1e-14)
        if mdp.action_mask is not None:
            assert not one.policy[~mdp.action_mask].any()
        # At rounding, where the default ends, a last step more or less is chance.
        assert abs(one.iterations - other.iterations) <= (tolerance is None)
        assert one.solver == (other.solver if backend == "numpy" else "compiled")
    assert sum(s.iterations for s in found) <= sum(s.iterations for s in alone) + 1


@every_batch
def test_residuals_gradients_and_bounds_are_those_of_one_alone(name: str, backend: str) -> None:
    mdps = BATCHES[name]
    for one, other in zip(solve_batch(mdps), one_by_one(mdps), strict=True):
        tau = one.mdp.temperature
        top = one.soft_q.max(axis=1)
        backed_up = top + tau * np.log(np.exp((one.soft_q - top[:, None]) / tau).sum(axis=1))
        rounding = 8 * 2.0**-52 * max(1.0, np.abs(one.soft_value).max())
        assert one.residual == pytest.approx(np.abs(backed_up - one.soft_value).max(), abs=rounding)
        assert one.residual <= max(2.0 * other.residual, rounding)
        assert one.converged and other.converged
        found, wanted = gradient_of(one), gradient_of(other)
        for part in ("reward", "adjoint", "kernel"):
            assert_near(getattr(found, part), getattr(wanted, part), 1e-10 + 1e-14 / tau)
        assert list(one.solutions) == [("adjoint", one.mdp.gamma)]
        assert one.solutions["adjoint", one.mdp.gamma] is found.adjoint
        size = np.abs(wanted.adjoint).sum()
        assert found.residual <= 1e-13 * max(1.0, size)
        difference = np.abs(found.reward - wanted.reward).sum()
        assert difference <= found.error_bound + wanted.error_bound


@every_batch
def test_rough_solves_have_the_same_bounds(name: str, backend: str) -> None:
    mdps, tolerance = BATCHES[name], 1e-5 * BATCHES[name][0].temperature
    found, alone = (solve(mdps, tolerance=tolerance) for solve in (solve_batch, one_by_one))
    for one, other in zip(found, alone, strict=True):
        if one.residual > 1e-12:  # else it is rounding
            assert one.residual == pytest.approx(other.residual, rel=1e-2)
            bound, wanted = gradient_of(one).error_bound, gradient_of(other).error_bound
            assert bound == pytest.approx(wanted, rel=1e-2)


@every_batch
@pytest.mark.parametrize("discount", [None, 0.5])
def test_linear_systems_use_its_factors(name: str, discount: float | None, backend: str) -> None:
    rng = np.random.default_rng(2)
    for one in solve_batch(BATCHES[name], tolerance=1e-3):
        gamma = one.mdp.gamma if discount is None else discount
        system = one.discounted_system(gamma)
        size = one.mdp.kernel.num_states
        matrix = np.eye(size) - gamma * one.mdp.kernel.policy_matrix(one.policy).toarray()
        for transpose, dense in ((False, matrix), (True, matrix.T)):
            rhs = rng.normal(size=size)
            solved, residual = system.solve(rhs, transpose=transpose)
            assert_near(solved, np.linalg.solve(dense, rhs), 1e-12)
            assert residual <= 1e-13 * np.abs(solved).sum()


# The compiled solver, for one problem -----------------------------------------------------------


@pytest.mark.usefixtures("compiled")
class TestCompiled:
    def test_solves_one_problem_as_a_batch_of_one(self) -> None:
        for mdps in BATCHES.values():
            one, alone = solve_soft_mdp(mdps[0], solver="compiled"), solve_batch(mdps)[0]
            assert one.solver == "compiled" and one.iterations == alone.iterations
            np.testing.assert_array_equal(one.soft_value, alone.soft_value)
            np.testing.assert_array_equal(one.policy, alone.policy)

    def test_is_chosen_for_batches_where_it_is_faster_and_never_for_one_problem(self) -> None:
        assert solve_soft_mdp(BATCHES["grid"][0]).solver == "banded"
        assert solve_soft_mdp(BATCHES["dense rows"][0]).solver == "dense"

        def chosen(mdp: TabularMDP) -> str:
            return solve_batch([mdp], tolerance=1e-2)[0].solver

        assert chosen(grid(20)) == chosen(random_mdp(0, num_states=60)) == "compiled"
        assert chosen(random_mdp(0, num_states=150)) == "dense"
        assert chosen(grid(60)) == "krylov-ilu"
        assert solve_batch(BATCHES["grid"], solver="dense")[0].solver == "dense"

    @pytest.mark.parametrize("made", ["at another policy", "never"])
    def test_poor_factors_are_replaced_not_trusted(self, made: str) -> None:
        mdp = random_mdp(8, gamma=0.99, termination=0.0)
        good, factors = solve_soft_mdp(mdp, solver="compiled"), None
        if made == "at another policy":
            entries = mdp.kernel.system_entries(good.policy, 0.5)
            factors = SOLVERS["compiled"].init(mdp.kernel.pattern, entries)
        options: dict[str, Any] = {"solver": "compiled", "factors": factors}
        system = DiscountedSystem(mdp.kernel, good.policy, mdp.gamma, **options)
        ones = np.ones(8)
        assert_near(system.solve(ones)[0], good.system.solve(ones)[0], 1e-12)

    def test_its_factors_alone_solve_their_own_systems(self) -> None:
        mdp = BATCHES["masked"][0]
        policy = solve_soft_mdp(mdp).policy
        solver = SOLVERS["compiled"]
        entries = mdp.kernel.system_entries(policy, mdp.gamma)
        factors = solver.init(mdp.kernel.pattern, entries)
        matrix = np.eye(30) - mdp.gamma * mdp.kernel.policy_matrix(policy).toarray()
        rhs = np.random.default_rng(0).normal(size=30)
        for transpose, dense in ((False, matrix), (True, matrix.T)):
            solved = solver.solve(factors, rhs, transpose, 0.0)
            assert_near(solved, np.linalg.solve(dense, rhs), 1e-12)

    def test_values_that_overflow_are_an_error(self) -> None:
        mdp = random_mdp(0)
        huge = replace(mdp, reward=np.full((8, 3), 1e308))
        with np.errstate(all="ignore"):
            for solver in ("compiled", "dense"):
                with pytest.raises(ArithmeticError, match="values overflowed"):
                    solve_soft_mdp(huge, solver=solver)
        solution = solve_soft_mdp(mdp, solver="compiled")
        for rhs in (np.full(8, np.nan), np.array([np.nan, *np.ones(7)]), np.full(8, np.inf)):
            with pytest.raises(ArithmeticError, match="overflowed"):
                solution.system.solve(rhs)
            with pytest.raises(ArithmeticError, match="overflowed"):
                response_gradient(solution, np.stack([rhs, np.ones(8), np.ones(8)], axis=1))


def test_without_compiled_kernels_the_error_names_the_extra(monkeypatch: Patch) -> None:
    mdp = random_mdp(0)
    with fast.switched(False):
        with pytest.raises(ImportError, match="extra `fast`.*switched off"):
            solve_soft_mdp(mdp, solver="compiled")
        with pytest.raises(ImportError, match="extra `fast`.*switched off"):
            solve_batch([mdp], solver="compiled")
        with pytest.raises(ImportError, match="extra `fast`.*switched off"):
            check_solver("compiled")
        assert solve_batch([mdp])[0].solver == "dense"
    monkeypatch.setattr(fast, "available", lambda: False)
    with fast.switched(None):
        monkeypatch.delenv(fast.ENVIRONMENT_VARIABLE, raising=False)
        with pytest.raises(ImportError, match=r"pip install -e \"\.\[fast\]\""):
            solve_soft_mdp(mdp, solver="compiled")
        assert solve_batch([mdp])[0].solver == "dense"


# Starts, limits, independence -------------------------------------------------------------------


def test_starts_are_taken_from_earlier_solutions(backend: str) -> None:
    mdps = BATCHES["grid"]
    cold = solve_batch(mdps)
    starts = np.array([solution.soft_value for solution in cold])
    before = starts.copy()
    assert [s.iterations for s in solve_batch(mdps, initial_values=starts)] == [0] * 5
    np.testing.assert_array_equal(starts, before)
    mixed = [None, starts[1], None, starts[3], starts[4]]
    warm = solve_batch(mdps, initial_values=mixed, guesses=[s.solutions for s in cold])
    assert [s.iterations == 0 for s in warm] == [False, True, False, True, True]
    for one, other in zip(warm, cold, strict=True):
        assert_near(one.soft_value, other.soft_value, 1e-13)
        assert_near(gradient_of(one).reward, gradient_of(other).reward)


def test_steps_are_limited_and_the_outcome_is_reported(backend: str) -> None:
    mdps = BATCHES["grid"]
    for limit in (0, 2):
        found, alone = (solve(mdps, max_iterations=limit) for solve in (solve_batch, one_by_one))
        for one, other in zip(found, alone, strict=True):
            assert one.iterations == limit and not one.converged
            assert one.residual == pytest.approx(other.residual, rel=1e-9)
            assert_near(one.soft_value, other.soft_value)
            assert_near(gradient_of(one).reward, gradient_of(other).reward)
            rhs = np.ones(len(one.soft_value))
            assert_near(one.system.solve(rhs)[0], other.system.solve(rhs)[0])


def test_a_problem_is_solved_the_same_whatever_is_solved_with_it(backend: str) -> None:
    for mdps in (BATCHES["grid"], BATCHES["other kernels"]):
        together, again = solve_batch(mdps), solve_batch(mdps)
        for b, mdp in enumerate(mdps):
            for other in (again[b], solve_batch([mdp])[0], solve_batch(mdps[b:])[0]):
                np.testing.assert_array_equal(together[b].soft_value, other.soft_value)
                np.testing.assert_array_equal(together[b].policy, other.policy)
                assert together[b].residual == other.residual
                first, second = gradient_of(together[b]), gradient_of(other)
                np.testing.assert_array_equal(first.reward, second.reward)


def test_solutions_share_no_memory_and_no_problems_have_none(backend: str) -> None:
    solutions = solve_batch(BATCHES["grid"])
    arrays = [array for s in solutions for array in (s.soft_value, s.policy)]
    for b, array in enumerate(arrays):
        assert array.base is None or array.base.nbytes == array.nbytes
        assert not any(np.shares_memory(array, other) for other in arrays[:b])
    assert solve_batch([]) == []


# Bad input --------------------------------------------------------------------------------------

MDP = random_mdp(0)
EVERY_ACTION = replace(MDP, action_mask=np.ones((8, 3), bool))
SOME_ACTIONS = replace(MDP, action_mask=~np.eye(8, 3, dtype=bool))


@pytest.mark.parametrize(
    ("mdps", "options", "message"),
    [
        ([MDP, random_mdp(0)], {}, "pattern.*problem 1.*with_probabilities"),
        ([MDP, MDP, replace(MDP, gamma=0.8)], {}, "one `gamma`, got 0.9 in.*0 and 0.8 in.*2"),
        ([MDP, replace(MDP, temperature=1.0)], {}, "one `temperature`, got 0.1 .* 1.0 in"),
        ([MDP, EVERY_ACTION], {}, "one `action_mask`, got another in problem 1"),
        ([EVERY_ACTION, SOME_ACTIONS], {}, "one `action_mask`"),
        ([MDP], {"tolerance": 0.0}, "`tolerance` must be positive"),
        ([MDP], {"max_iterations": -1}, "`max_iterations`.*got -1"),
        ([MDP], {"solver": "compile"}, "unknown solver 'compile'.*Did you mean 'compiled'"),
        ([MDP, MDP], {"initial_values": np.zeros((3, 8))}, "`initial_values`.*2 problems, got 3"),
        ([MDP, MDP], {"initial_values": np.zeros((2, 7))}, r"`initial_values\[0\]`.*\(7,\)"),
        ([MDP, MDP], {"initial_values": [None, [np.inf] * 8]}, r"_values\[1\]` must be fin"),
        ([MDP, MDP], {"guesses": [None]}, "`guesses`.*2 problems, got 1"),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(
    mdps: list[TabularMDP], options: dict[str, Any], message: str, backend: str
) -> None:
    with pytest.raises(ValueError, match=message):
        solve_batch(mdps, **options)


# Games ------------------------------------------------------------------------------------------


class Drift(TabularBilevelEnv):
    """A game whose kernel and rewards move with x `[2]`, on one pattern or on ever new ones."""

    def __init__(self, one_pattern: bool) -> None:
        mdp = random_mdp(11, num_states=6)
        self._one_pattern, self._reward = one_pattern, mdp.reward
        self._slope = np.random.default_rng(12).uniform(-0.05, 0.0, mdp.kernel.matrix.nnz)
        leader: dict[str, Any] = {"upper_space": gym.spaces.Box(0.0, 1.0, (2,), np.float32)}
        leader |= {"objective": Sum((DiscountedReturn(0.8), QuadraticCost(0.1)))}
        follower: dict[str, Any] = {"kernel": mdp.kernel, "initial_distribution": np.full(6, 1 / 6)}
        follower |= {"gamma": mdp.gamma, "temperature": mdp.temperature}
        super().__init__(**leader, **follower, initial_upper_params=np.full(2, 0.5))

    def kernel(self, upper_params: FloatArray) -> Kernel:
        moved = self.model.initial_kernel.matrix.data * (1.0 + upper_params[0] * self._slope)
        kernel = self.model.initial_kernel.with_probabilities(moved)
        return kernel if self._one_pattern else Kernel.from_dense(kernel.to_dense())

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.array([cotangent @ (self.model.initial_kernel.matrix.data * self._slope), 0.0])

    def reward(self, upper_params: FloatArray) -> FloatArray:
        return self._reward * upper_params[1]

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.array([0.0, (cotangent * self._reward).sum()])

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        return -self._reward


def assert_same_answers(game: TabularBilevelEnv, xs: FloatArray, **options: Any) -> list[Any]:
    """Assert that many x are answered as each is alone; return the answers."""
    found = game.evaluate_batch(xs, **options)
    assert len(found) == len(xs)
    starts = options.pop("warm_starts", [None] * len(xs))
    for x, one, start in zip(xs, found, starts, strict=True):
        with fast.switched(False):
            other = game.evaluate(x, warm_start=start, **options)
        assert one.objective == pytest.approx(other.objective, rel=1e-10, abs=1e-10)
        assert one.iterations == other.iterations and one.converged
        for part in ("hyper_gradient", "direct_gradient", "policy", "soft_value", "occupancy"):
            assert_near(getattr(one, part), getattr(other, part))
            assert not getattr(one, part).flags.writeable
        assert one.linear_solutions.keys() == other.linear_solutions.keys()
        np.testing.assert_array_equal(one.upper_params, x)
    return found


@every_task
def test_many_x_are_answered_as_each_is_alone(task: Task, backend: str) -> None:
    game = game_of(leader_seat(task))
    xs = np.array([interior_point(game, seed, 0.2) for seed in range(4)])
    first = assert_same_answers(game, xs, tolerance=1e-8)
    assert_same_answers(game, xs + 1e-3, tolerance=1e-8, warm_starts=[None, *first[1:]])


@pytest.mark.parametrize("one_pattern", [True, False])
def test_what_shares_a_pattern_is_solved_together_from_where_it_was(
    one_pattern: bool, monkeypatch: Patch, backend: str
) -> None:
    calls: list[Any] = []

    def noted(mdps: Any, **options: Any) -> Any:
        calls.append((len(mdps), options["initial_values"], options["guesses"]))
        return solve_batch(mdps, **options)

    monkeypatch.setattr("bilevel_gym.model.tabular.solve_batch", noted)
    game = Drift(one_pattern)
    first = game.evaluate_batch(np.full((3, 2), 0.5), solver="krylov")
    assert [size for size, *_ in calls] == ([3] if one_pattern else [1, 1, 1])
    assert calls[0][1:] == ([None] * calls[0][0], [None] * calls[0][0])
    calls.clear()
    game.evaluate_batch(np.full((3, 2), 0.6), solver="krylov", warm_starts=[None, *first[1:]])
    for part, name in ((1, "soft_value"), (2, "linear_solutions")):
        given = [start for call in calls for start in call[part]]
        assert given[0] is None and given[2] is getattr(first[2], name)


@pytest.mark.parametrize("one_pattern", [True, False])
def test_the_kernels_of_many_x_may_differ(one_pattern: bool, backend: str) -> None:
    game = Drift(one_pattern)
    xs = np.random.default_rng(0).uniform(0.0, 1.0, (4, 2))
    first = assert_same_answers(game, xs, tolerance=1e-8)
    assert_same_answers(game, xs[::-1], tolerance=1e-8, warm_starts=first[::-1])
    assert {answer.solver for answer in first} == {"compiled" if backend == "numba" else "dense"}


def test_a_bad_row_is_named_before_anything_is_done(monkeypatch: Patch, backend: str) -> None:
    game = array_game()
    monkeypatch.setattr(game, "reward", lambda x: pytest.fail("nothing is to be solved"))
    good = np.zeros(3)
    cases: tuple[tuple[Any, str], ...] = (
        ([good, [0.0, 2.0, 0.0]], r"row 1: `upper_params\[1\]` must be finite.*got 2.0"),
        ([good, good, good[:2]], r"row 2: `upper_params` must have shape \(3,\), got \(2,\)"),
        (good, r"row 0: `upper_params` must have shape \(3,\), got \(\)"),
        ([[np.nan] * 3], "row 0: .*got nan"),
    )
    for rows, message in cases:
        with pytest.raises(ValueError, match=message):
            game.evaluate_batch(rows)
    with pytest.raises(ValueError, match="`warm_starts`.*each of 2 x, got 1"):
        game.evaluate_batch([good, good], warm_starts=[None])
    assert game.evaluate_batch([]) == []
