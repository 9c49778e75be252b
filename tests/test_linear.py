"""The ladder of linear solvers: agreement, choice, refinement, breakdown, threads, error bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bilevel_gym import HyperGradient, TabularBilevelEnv, fast, linear
from bilevel_gym.adjoint import response_gradient
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.linear import SOLVERS, DiscountedSystem, Record, choose_solver
from bilevel_gym.mdp import Kernel, TabularMDP
from bilevel_gym.objectives import DiscountedReturn, Outcome
from bilevel_gym.soft import solve_soft_mdp
from bilevel_gym.testing import check_hyper_gradient

from .models import random_mdp


def corridor(length: int, *, gamma: float = 0.99) -> TabularMDP:
    """Return a line of cells, numbered at random, with a reward at one end."""
    rng = np.random.default_rng(0)
    label = rng.permutation(length)
    cells = np.arange(length)
    left, right = np.maximum(cells - 1, 0), np.minimum(cells + 1, length - 1)
    kernel = Kernel.from_triplets(
        np.tile(label, 4),
        np.repeat([0, 1], 2 * length),
        label[np.concatenate([left, right, right, left])],
        np.tile(np.repeat([0.875, 0.125], length), 2),
        num_states=length,
        num_actions=2,
    )
    reward = np.zeros((length, 2))
    reward[label[-1]] = 1.0
    return TabularMDP(kernel, reward, gamma, 0.05)


def grid(side: int, **options: Any) -> TabularMDP:
    game = BilevelGridWorld(size=side, map_seed=3, temperature=0.01, **options)
    x = 0.05 * np.random.default_rng(0).uniform(-1, 1, game.upper_space.shape)
    return game.lower_mdp(x)


MODELS = {
    "dense rows": random_mdp(1, num_states=30, temperature=0.05),
    "masked": random_mdp(2, num_states=30, masked=True, temperature=0.05),
    "corridor": corridor(40),
    "grid": grid(9),
    "no future": random_mdp(3, gamma=0.0),
}


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
class TestEverySolver:
    """Each rung of the ladder on each kind of kernel."""

    def test_gives_the_same_value_policy_and_gradient(self, model: str, solver: str) -> None:
        mdp = MODELS[model]
        reference = solve_soft_mdp(mdp, solver="dense")
        solution = solve_soft_mdp(mdp, solver=solver)
        assert solution.solver == solver and solution.converged
        error = np.abs(solution.soft_value - reference.soft_value).max()
        assert error <= solution.value_error_bound + reference.value_error_bound + 1e-13
        np.testing.assert_allclose(solution.policy, reference.policy, rtol=0, atol=2.1e-8)
        slope = np.random.default_rng(0).normal(size=mdp.reward.shape)
        wanted, found = (response_gradient(s, slope) for s in (reference, solution))
        size = np.abs(wanted.reward).max()
        np.testing.assert_allclose(found.reward, wanted.reward, rtol=0, atol=1e-7 * size)
        assert np.abs(found.reward - wanted.reward).sum() <= found.error_bound + 1e-12 * size

    def test_solves_systems_and_transposed_systems(self, model: str, solver: str) -> None:
        mdp = MODELS[model]
        system = solve_soft_mdp(mdp, solver=solver).system
        size = mdp.kernel.num_states
        rhs = np.random.default_rng(1).normal(size=size)
        matrix = np.eye(size) - mdp.gamma * mdp.kernel.policy_matrix(system._policy).toarray()
        for transpose, dense in ((False, matrix), (True, matrix.T)):
            solved, residual = system.solve(rhs, transpose=transpose)
            order = 1 if transpose else np.inf  # the norm in which the inverse is bounded
            left = np.linalg.norm(rhs - dense @ solved, order)
            assert residual == pytest.approx(left, abs=1e-12)
            assert left <= 1e-8 * np.linalg.norm(rhs, order)
            np.testing.assert_allclose(solved, np.linalg.solve(dense, rhs), atol=1e-6)


def test_the_solver_is_chosen_by_size_and_shape() -> None:
    def chosen(mdp: TabularMDP) -> str:
        return choose_solver(mdp.kernel.pattern)

    assert chosen(random_mdp(0, num_states=60)) == "dense"
    assert chosen(corridor(20_000)) == "banded"
    assert chosen(grid(20)) == "banded"
    assert chosen(grid(60)) == "krylov"
    assert chosen(random_mdp(0, num_states=300)) == "krylov"
    assert solve_soft_mdp(grid(20)).solver == "banded"


def test_a_long_corridor_is_solved_in_its_band() -> None:
    mdp = corridor(2_000, gamma=0.9999)
    band = mdp.kernel.pattern.band
    assert (band.lower, band.upper) == (1, 1)
    solution = solve_soft_mdp(mdp)
    krylov = solve_soft_mdp(mdp, solver="krylov", initial_value=solution.soft_value + 1e-6)
    assert solution.converged and solution.residual <= 1e-11
    np.testing.assert_allclose(krylov.soft_value, solution.soft_value, atol=1e-6)


def test_poor_factors_are_replaced_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = random_mdp(8, gamma=0.99, termination=0.0)
    policy = solve_soft_mdp(mdp).policy
    # Factors of another discount are no approximation at all: refinement with them diverges.
    poor = linear.approximate_inverse(mdp.kernel, policy, 0.5, "dense")
    made = []

    class Counted(linear._Dense):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setitem(SOLVERS, "dense", Counted)
    system = DiscountedSystem(mdp.kernel, policy, mdp.gamma, solver="dense", inverse=poor)
    solved, residual = system.solve(np.ones(8))
    assert len(made) == 1
    assert residual <= 1e-12
    np.testing.assert_allclose(solved, np.linalg.solve(system.matrix, np.ones(8)), rtol=1e-12)


class TestBreakdown:
    """What happens where BiCGSTAB gives up, or lies."""

    @pytest.fixture(params=["gives up", "overflows", "lies"])
    def broken(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        def bicgstab(matrix: Any, rhs: Any, **options: Any) -> tuple[Any, int]:
            if request.param == "gives up":
                return np.zeros_like(rhs), -10
            if request.param == "overflows":
                return np.full_like(rhs, np.nan), 0
            return -1e6 * np.ones_like(rhs), 0

        monkeypatch.setattr("scipy.sparse.linalg.bicgstab", bicgstab)
        yield

    @pytest.mark.usefixtures("broken")
    def test_sweeps_take_over_and_say_so(self) -> None:
        mdp = grid(9)
        exact = solve_soft_mdp(mdp, solver="dense")
        solution = solve_soft_mdp(mdp, solver="krylov")
        assert solution.converged and solution.sweeps > 100
        np.testing.assert_allclose(solution.soft_value, exact.soft_value, rtol=0, atol=1e-9)
        slope = np.random.default_rng(0).normal(size=mdp.reward.shape)
        wanted, found = (response_gradient(s, slope) for s in (exact, solution))
        size = np.abs(wanted.reward).max()
        np.testing.assert_allclose(found.reward, wanted.reward, rtol=0, atol=1e-7 * size)
        assert found.residual <= 1e-8 * size

    @pytest.mark.usefixtures("broken")
    def test_a_solve_that_may_not_go_on_says_that_it_has_not_converged(self) -> None:
        start = solve_soft_mdp(grid(9), solver="krylov", max_iterations=0)
        stopped = solve_soft_mdp(grid(9), solver="krylov", max_iterations=2)
        assert not stopped.converged and stopped.iterations == 2
        assert stopped.residual < start.residual

    def test_a_healthy_solve_takes_no_sweeps(self) -> None:
        solution = solve_soft_mdp(grid(9), solver="krylov")
        assert solution.sweeps == 0 and solution.iterations > 2


def test_solutions_of_last_time_shorten_iterative_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse.linalg

    products = []
    original = scipy.sparse.linalg.bicgstab

    def counted(matrix: Any, rhs: Any, **options: Any) -> Any:
        return original(matrix, rhs, callback=lambda _: products.append(1), **options)

    monkeypatch.setattr("scipy.sparse.linalg.bicgstab", counted)
    mdp = grid(40)
    moved = TabularMDP(mdp.kernel, mdp.reward * 1.0001, mdp.gamma, mdp.temperature)
    rho = np.full(mdp.kernel.num_states, 1.0 / mdp.kernel.num_states)

    def gradient(solution: Any) -> Any:
        upper = DiscountedReturn().evaluate(Outcome(solution, np.zeros(1), mdp.reward, rho))
        assert upper.policy is not None
        return response_gradient(solution, upper.policy).reward

    first = solve_soft_mdp(mdp, solver="krylov")
    gradient(first)
    assert len(first.record.solutions) == 3  # value, occupancy, adjoint
    counts, answers = [], []
    for guesses in ((), first.record.solutions):
        solution = solve_soft_mdp(moved, solver="krylov", guesses=guesses)
        products.clear()
        answers.append(gradient(solution))
        counts.append(len(products))
    assert counts[1] <= 0.8 * counts[0]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-7 * np.abs(answers[0]).max())


def test_guesses_of_another_game_do_no_harm() -> None:
    mdp = grid(9)
    wrong = [np.ones(3), 1e6 * np.ones(mdp.kernel.num_states)]
    for solver in ("krylov", "banded"):
        system = solve_soft_mdp(mdp, solver=solver, guesses=wrong).system
        for _ in range(3):
            solved, residual = system.solve(np.ones(mdp.kernel.num_states))
            assert residual <= 1e-8
    assert Record(wrong).guess() is wrong[0] and Record().guess() is None


@pytest.mark.parametrize("temperature", [0.5, 0.05])
@pytest.mark.parametrize("upper_gamma", [None, 0.7])
def test_the_gradient_error_bound_holds_for_rough_solves(
    temperature: float, upper_gamma: float | None
) -> None:
    finite = 0
    for seed in range(4):
        mdp = random_mdp(seed, num_states=12, temperature=temperature, masked=seed % 2 == 1)
        rng = np.random.default_rng(seed)
        upper_reward, rho = rng.normal(size=mdp.reward.shape), rng.dirichlet(np.ones(12))

        def gradient(
            solution: Any, upper_reward: Any = upper_reward, rho: Any = rho
        ) -> tuple[Any, float]:
            upper = DiscountedReturn(upper_gamma).evaluate(
                Outcome(solution, np.zeros(1), upper_reward, rho)
            )
            assert upper.policy is not None
            answer = response_gradient(
                solution, upper.policy, policy_gradient_error=upper.policy_error
            )
            return answer.reward, answer.error_bound

        exact, _ = gradient(solve_soft_mdp(mdp))
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
            rough, bound = gradient(
                solve_soft_mdp(mdp, solver="value-iteration", tolerance=tolerance)
            )
            error = np.abs(rough - exact).sum()
            assert error <= bound + 1e-12 * np.abs(exact).sum()
            finite += np.isfinite(bound)
        # A bound that never bites would hold as well: at a tight tolerance it must say something.
        assert bound <= 1e-2 * np.abs(exact).sum()
    assert finite >= 12


def test_linear_algebra_runs_on_one_thread_and_leaves_the_setting_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen = []

    class Watching(linear._Dense):
        def __init__(self, *arguments: Any) -> None:
            seen.append(threads())
            super().__init__(*arguments)

    monkeypatch.setitem(SOLVERS, "dense", Watching)
    solve_soft_mdp(random_mdp(0))  # loads the libraries
    with threadpool_limits(2, user_api="blas"):
        seen.clear()
        solution = solve_soft_mdp(random_mdp(0), tolerance=1e-3)
        solution.system._inverse = None
        solution.system.solve(np.ones(8))
        assert len(seen) >= 2 and all(pools == {1} for pools in seen)
        assert threads() == {2}
        with pytest.raises(ArithmeticError), np.errstate(all="ignore"):
            solution.system.solve(np.full(8, np.nan))
        assert threads() == {2}


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", ["auto", "krylov-ilu", "sparse"])
def test_differences_agree_with_the_gradient_whatever_solves(solver: str) -> None:
    mdp = grid(45)
    size = mdp.kernel.num_states
    game = TabularBilevelEnv.from_arrays(
        mdp.kernel,
        mdp.reward,
        upper_reward=np.random.default_rng(0).normal(size=(size, 1)).repeat(4, axis=1),
        initial_distribution=np.full(size, 1.0 / size),
        gamma=0.99,
        temperature=0.02,
    )
    env = HyperGradient(game, solver=solver)
    report = check_hyper_gradient(env, coordinates=3)
    assert env.response.solver == ("krylov" if solver == "auto" else solver)  # type: ignore[attr-defined]
    assert report.relative_error <= 1e-6 and report.response_share >= 0.1


def test_the_incomplete_factorisation_is_chosen_on_large_meshes_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "ILU_STATES", 1000)
    monkeypatch.setattr(linear, "MESH_BAND", 0.05)
    mesh, graph = grid(60).kernel.pattern, random_mdp(0, num_states=1200).kernel.pattern
    with fast.switched(True):
        assert choose_solver(mesh) == "krylov-ilu" and choose_solver(graph) == "krylov"
    with fast.switched(False):
        assert choose_solver(mesh) == "krylov"
        with pytest.raises(ImportError, match="extra `fast`"):
            solve_soft_mdp(grid(20), solver="krylov-ilu")


@pytest.mark.usefixtures("compiled")
def test_the_incomplete_factorisation_has_the_diagonal_of_the_matrix() -> None:
    from bilevel_gym.compiled import dilu

    mdp = grid(9)
    pattern = mdp.kernel.pattern
    policy = solve_soft_mdp(mdp).policy
    entries = mdp.kernel.system_entries(policy, mdp.gamma)
    parts = pattern.indptr, pattern.indices, entries, pattern.diagonal
    inverse = dilu.diagonal(*parts)
    matrix = pattern.dense(entries)
    lower, upper = np.tril(matrix, -1), np.triu(matrix, 1)
    product = (np.diag(1 / inverse) + lower) @ np.diag(inverse) @ (np.diag(1 / inverse) + upper)
    np.testing.assert_allclose(np.diag(product), np.diag(matrix), rtol=1e-13)
    rhs = np.random.default_rng(0).normal(size=len(matrix))
    np.testing.assert_allclose(product @ dilu.solve(*parts, inverse, rhs), rhs, atol=1e-12)
    transposed = dilu.solve_transposed(*parts, inverse, rhs)
    np.testing.assert_allclose(product.T @ transposed, rhs, atol=1e-12)
