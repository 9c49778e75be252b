"""All linear solvers: agreement, choice, refinement, breakdown, threads, error bounds."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from bilevel_gym import TabularBilevelEnv
from bilevel_gym.core import bellman, fast, kernel, threads
from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.linear import SOLVERS, DiscountedSystem, choose_solver
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.soft import SoftSolution, solve_soft_mdp
from bilevel_gym.core.solvers import Dense, KrylovILU
from bilevel_gym.envs import BilevelGridWorld, BilevelRandomMDP
from bilevel_gym.methods.trace import Trace
from bilevel_gym.model import evaluate
from bilevel_gym.model.objectives import DiscountedReturn, Outcome

from .models import MODELS, answer_to, corridor, evaluated, grid, random_mdp

Patch = pytest.MonkeyPatch


def assert_same_gradient(found: SoftSolution, wanted: SoftSolution) -> None:
    """Assert that gradients of a random slope agree, within the bound that is reported."""
    slope = np.random.default_rng(0).normal(size=wanted.policy.shape)
    exact, answer = (response_gradient(s, slope) for s in (wanted, found))
    size = np.abs(exact.reward).max()
    np.testing.assert_allclose(answer.reward, exact.reward, rtol=0, atol=1e-7 * size)
    assert np.abs(answer.reward - exact.reward).sum() <= answer.error_bound + 1e-12 * size
    assert answer.residual <= 1e-8 * size


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
class TestEverySolver:
    """Each solver on each kind of kernel."""

    def test_gives_the_same_value_policy_and_gradient(self, model: str, solver: str) -> None:
        mdp = MODELS[model]
        reference = solve_soft_mdp(mdp, solver="dense")
        solution = solve_soft_mdp(mdp, solver=solver)
        assert solution.solver == solver and solution.converged
        error = np.abs(solution.soft_value - reference.soft_value).max()
        assert error <= solution.value_error_bound + reference.value_error_bound + 1e-13
        np.testing.assert_allclose(solution.policy, reference.policy, rtol=0, atol=2.1e-8)
        assert_same_gradient(solution, reference)

    def test_solves_systems_and_transposed_systems(self, model: str, solver: str) -> None:
        mdp = MODELS[model]
        system = solve_soft_mdp(mdp, solver=solver).system
        size = mdp.kernel.num_states
        rhs = np.random.default_rng(1).normal(size=size)
        matrix = np.eye(size) - mdp.gamma * mdp.kernel.policy_matrix(system.policy).toarray()
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
    assert solve_soft_mdp(grid(20)).solver == "banded"
    mdp = corridor(2_000, gamma=0.9999)
    band = mdp.kernel.pattern.band
    assert (band.lower, band.upper) == (1, 1)
    solution = solve_soft_mdp(mdp)
    krylov = solve_soft_mdp(mdp, solver="krylov", initial_value=solution.soft_value + 1e-6)
    assert solution.converged and solution.residual <= 1e-11
    np.testing.assert_allclose(krylov.soft_value, solution.soft_value, atol=1e-6)


def test_poor_factors_are_replaced_not_trusted(monkeypatch: Patch) -> None:
    mdp = random_mdp(8, gamma=0.99, termination=0.0)
    policy = solve_soft_mdp(mdp).policy
    # Factors of another discount are no approximation at all: refinement with them diverges.
    entries = mdp.kernel.system_entries(policy, 0.5)
    poor = SOLVERS["dense"].init(mdp.kernel.pattern, entries)
    made = []

    class Counted(Dense):
        def init(self, *arguments: Any) -> Any:
            made.append(arguments)
            return super().init(*arguments)

    monkeypatch.setitem(SOLVERS, "dense", Counted())
    system = DiscountedSystem(mdp.kernel, policy, mdp.gamma, solver="dense", factors=poor)
    solved, residual = system.solve(np.ones(8))
    assert len(made) == 1
    assert residual <= 1e-12
    np.testing.assert_allclose(solved, np.linalg.solve(system.matrix, np.ones(8)), rtol=1e-12)


def test_steps_that_make_things_worse_are_not_taken(monkeypatch: Patch) -> None:
    class Spoilt(Dense):
        def solve(self, factors: Any, rhs: Any, *how: Any) -> Any:
            size = np.abs(rhs).max()
            return super().solve(factors, rhs, *how) * (-1e6 if size < 1e-11 else 0.999)

    monkeypatch.setitem(SOLVERS, "dense", Spoilt())
    solution = solve_soft_mdp(random_mdp(0), solver="dense")
    assert solution.converged and solution.residual < 1e-11 and solution.iterations < 20
    assert solution.system.solve(np.ones(8))[1] < 1e-11


class TestBreakdown:
    """BiCGSTAB that gives up, overflows or returns a wrong solution."""

    @pytest.fixture(params=["gives up", "overflows", "is wrong"])
    def broken(self, request: pytest.FixtureRequest, monkeypatch: Patch) -> Iterator[None]:
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
        assert_same_gradient(solution, exact)

    @pytest.mark.usefixtures("broken")
    def test_a_solve_that_may_not_go_on_says_that_it_has_not_converged(self) -> None:
        start = solve_soft_mdp(grid(9), solver="krylov", max_iterations=0)
        stopped = solve_soft_mdp(grid(9), solver="krylov", max_iterations=2)
        assert not stopped.converged and stopped.iterations == 2
        assert stopped.residual < start.residual

    def test_a_healthy_solve_takes_no_sweeps(self) -> None:
        solution = solve_soft_mdp(grid(9), solver="krylov")
        assert solution.sweeps == 0 and solution.iterations > 2


def test_solutions_of_last_time_shorten_iterative_solves(monkeypatch: Patch) -> None:
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
        return answer_to(solution, evaluated(DiscountedReturn(), solution, mdp.reward, rho)).reward

    first = solve_soft_mdp(mdp, solver="krylov")
    gradient(first)
    assert [name for name, _ in first.solutions] == ["value", "occupancy", "adjoint"]
    counts, answers = [], []
    for guesses in (None, first.solutions):
        solution = solve_soft_mdp(moved, solver="krylov", guesses=guesses)
        products.clear()
        answers.append(gradient(solution))
        counts.append(len(products))
    assert counts[1] <= 0.8 * counts[0]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-7 * np.abs(answers[0]).max())


def test_guesses_of_another_game_do_no_harm() -> None:
    mdp = grid(9)
    ones = np.ones(mdp.kernel.num_states)
    wrong = {("short", mdp.gamma): np.ones(3), ("large", mdp.gamma): 1e6 * ones}
    for solver in ("krylov", "banded"):
        system = solve_soft_mdp(mdp, solver=solver, guesses=wrong).system
        for name in ("short", "large", "missing", None):
            assert system.solve(ones, name=name)[1] <= 1e-8


@pytest.mark.parametrize("temperature", [0.5, 0.05])
@pytest.mark.parametrize("upper_gamma", [None, 0.7])
def test_gradient_bounds_hold_for_rough_solves(
    temperature: float, upper_gamma: float | None
) -> None:
    finite = 0
    for seed in range(4):
        mdp = random_mdp(seed, num_states=12, temperature=temperature, masked=seed % 2 == 1)
        rng = np.random.default_rng(seed)
        upper_reward, rho = rng.normal(size=mdp.reward.shape), rng.dirichlet(np.ones(12))

        tolerances = (None, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
        answers = []
        for tolerance in tolerances:
            solver = "auto" if tolerance is None else "value-iteration"
            solution = solve_soft_mdp(mdp, solver=solver, tolerance=tolerance)
            upper = evaluated(DiscountedReturn(upper_gamma), solution, upper_reward, rho)
            answers.append(answer_to(solution, upper))
        exact = answers[0].reward
        for answer in answers[1:]:
            rough, bound = answer.reward, answer.error_bound
            error = np.abs(rough - exact).sum()
            assert error <= bound + 1e-12 * np.abs(exact).sum()
            finite += np.isfinite(bound)
        # A bound that never bites would hold as well: at a tight tolerance it must say something.
        assert bound <= 1e-2 * np.abs(exact).sum()
    assert finite >= 12


def test_linear_algebra_runs_on_one_thread_and_leaves_the_setting_alone(monkeypatch: Patch) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        # OpenCV, which other tests may have loaded, brings a BLAS of its own.
        pools = [pool for pool in threadpool_info() if "opencv" not in pool["filepath"]]
        return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}

    seen = []

    class Watching(Dense):
        def init(self, *arguments: Any) -> Any:
            seen.append(threads())
            return super().init(*arguments)

    model = BilevelRandomMDP().model
    monkeypatch.setitem(SOLVERS, "dense", Watching())
    solve_soft_mdp(random_mdp(0))  # loads the libraries
    with threadpool_limits(2, user_api="blas"):
        seen.clear()
        x = model.initial_upper_params
        evaluate(model, x)
        Trace(model, episodes=2).step(x)
        assert len(seen) >= 2 and all(pools == {1} for pools in seen)
        assert threads() == {2}
        with pytest.raises(ArithmeticError), np.errstate(all="ignore"):
            solve_soft_mdp(replace(random_mdp(0), reward=np.full((8, 3), 1e308)))
        assert threads() == {2}


def test_the_incomplete_factorisation_is_chosen_where_there_are_kernels() -> None:
    large = grid(60).kernel.pattern, random_mdp(0, num_states=1200).kernel.pattern
    with fast.switched(True):
        assert {choose_solver(pattern) for pattern in large} == {"krylov-ilu"}
    with fast.switched(False):
        assert {choose_solver(pattern) for pattern in large} == {"krylov"}
        with pytest.raises(ImportError, match="extra `fast`"):
            solve_soft_mdp(grid(20), solver="krylov-ilu")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("transpose", [False, True])
def test_the_preconditioned_solve_is_that_of_an_incomplete_factorisation(transpose: bool) -> None:
    from scipy.sparse.linalg import bicgstab

    from bilevel_gym.core.compiled import dilu
    from bilevel_gym.core.compiled.team import gather

    mdp = grid(9)
    pattern = mdp.kernel.pattern
    entries = mdp.kernel.system_entries(solve_soft_mdp(mdp).policy, mdp.gamma)
    factors = SOLVERS["krylov-ilu"].init(pattern, entries)
    order, size = factors.order, pattern.num_states
    indptr, first, places, last, indices, scaled = factors.system
    assert (first == indptr[:-1]).all() and (last == indptr[1:]).all()  # one block
    matrix = csr_array((scaled, indices, indptr)).toarray()
    natural = pattern.dense(entries)[np.ix_(order, order)]
    np.testing.assert_allclose(matrix, natural * factors.inverse[:, None], rtol=1e-15)
    assert (indices[places] == np.arange(size)).all() and (order != np.arange(size)).any()
    # Neighbours keep their order, hence their factors; next rows are no neighbours, for the most.
    rows, columns = np.nonzero(pattern.dense(entries))
    place = np.argsort(order)
    assert ((place[rows] < place[columns]) == (rows < columns)).all()
    assert np.mean(matrix[np.arange(1, size), np.arange(size - 1)] != 0.0) < 0.2
    system = factors.system
    if transpose:
        system = factors.transposed
        indptr, _, places, _, indices, scaled = system
        assert (csr_array((scaled, indices, indptr)).toarray() == matrix.T).all()
        assert (indices[places] == np.arange(size)).all()
        matrix = matrix.T
    lower, upper = np.tril(matrix, -1) + np.eye(size), np.triu(matrix, 1) + np.eye(size)
    np.testing.assert_allclose(np.diag(lower @ upper), np.diag(matrix), rtol=1e-13)
    # The iterates are those of the preconditioned matrix without a preconditioner.
    plain = np.linalg.solve(lower, matrix) @ np.linalg.inv(upper)
    rhs = np.random.default_rng(0).normal(size=size)
    start = np.linalg.solve(lower, rhs)

    def solved(most: int) -> tuple[Any, float]:
        room = (rhs.copy(), *np.empty((6, size)))
        left = dilu.bicgstab(system, 1e-12, most, room, (0, size), np.empty((5, 1)), gather(1), 0)
        return room[1], left

    for most in (1, 2, 5):
        found, left = solved(most)
        expected = bicgstab(plain, start, rtol=1e-12, maxiter=most)[0]
        np.testing.assert_allclose(upper @ found, expected, rtol=1e-8, atol=1e-8)
        share = np.linalg.norm(start - plain @ expected) / np.linalg.norm(start)
        assert left == pytest.approx(share, rel=1e-6)
    found, left = solved(1000)
    assert left <= 1e-12
    np.testing.assert_allclose(matrix @ found, rhs, atol=1e-10)


@pytest.fixture
def two_threads(monkeypatch: Patch) -> Iterator[None]:
    """Two threads for problems of every size, whatever the machine has."""
    monkeypatch.setattr(threads, "LARGE", 0)
    monkeypatch.setattr(threads, "_processors", lambda: 2)
    monkeypatch.setattr(bellman, "LARGE", 0)
    monkeypatch.setattr(kernel, "COPIED_STATES", 0)
    with threads.threads(2):
        yield


@pytest.mark.usefixtures("compiled", "two_threads")
@pytest.mark.parametrize("model", MODELS)
def test_two_threads_give_the_answer_of_one(model: str) -> None:
    mdp = MODELS[model]
    with threads.threads(1):
        one = solve_soft_mdp(mdp, solver="krylov-ilu")
    two = solve_soft_mdp(mdp, solver="krylov-ilu")
    assert two.converged and two.iterations <= one.iterations + 1
    error = np.abs(two.soft_value - one.soft_value).max()
    assert error <= one.value_error_bound + two.value_error_bound + 1e-13
    assert_same_gradient(two, one)
    factors, system = two.system.strategy.init(mdp.kernel.pattern, two.system._entries), two.system
    assert factors.threads == 2 and 0 < factors.blocks[1] < mdp.kernel.num_states
    for transpose in (False, True):
        rhs = np.random.default_rng(1).normal(size=mdp.kernel.num_states)
        solution, left = factors.solve(rhs, transpose, 1e-12, 1000)
        assert left <= 1e-12
        np.testing.assert_allclose(system.matrices[transpose] @ solution, rhs, atol=1e-9)


@pytest.mark.usefixtures("compiled", "two_threads")
def test_few_threads_meet_and_none_waits_for_those_that_never_began(monkeypatch: Patch) -> None:
    from bilevel_gym.core.compiled import team as teams

    found = []
    for _ in range(20):
        game = BilevelGridWorld(size=12)
        found.append(game.evaluate(game.initial_upper_params, solver="krylov-ilu"))
    assert len({answer.objective for answer in found}) == 1  # the same each time
    gradients = np.array([answer.hyper_gradient for answer in found])
    assert (gradients == gradients[0]).all()

    def interrupted(rank: int) -> None:
        if rank == 0:
            raise KeyboardInterrupt
        for _ in range(3):
            teams.meet(team, rank)

    team = teams.gather(2)
    with pytest.raises(KeyboardInterrupt):
        teams.together(team, interrupted)


def test_threads_are_asked_for_within_what_there_is(monkeypatch: Patch) -> None:
    monkeypatch.setattr(threads, "_processors", lambda: 2)
    assert threads.threads_for(10**6) == 1
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "2")
    assert threads.threads_for(10**6) == 2 and threads.threads_for(1000) == 1
    with threads.threads(1):
        assert threads.threads_for(10**6) == 1
        with threads.threads(None):
            assert threads.threads_for(10**6) == 2
    for wrong in ("3", "0", "-1", "two", ""):
        monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, wrong)
        with pytest.raises(
            ValueError, match=rf"BILEVEL_GYM_THREADS` must be in 1\.\.2.*got '{wrong}'"
        ):
            threads.threads_for(10**6)
    for count in (0, 3):
        with pytest.raises(ValueError, match="processors"), threads.threads(count):
            pass


@pytest.mark.usefixtures("compiled")
def test_a_guess_that_is_worse_than_nothing_is_left_alone() -> None:
    mdp = grid(20)
    system = solve_soft_mdp(mdp, solver="krylov-ilu").system
    rhs = np.random.default_rng(0).normal(size=mdp.kernel.num_states)
    starts = []
    solve = KrylovILU.solve

    class Spied(KrylovILU):
        def solve(self, factors: Any, rhs: Any, *args: Any) -> Any:
            starts.append(np.abs(rhs).max())
            return solve(self, factors, rhs, *args)

    factors = Spied().init(mdp.kernel.pattern, system._entries)
    for guess in (1e6 * rhs, np.zeros_like(rhs)):
        Spied().refine(system, factors, rhs, guess, 1e-10, False)
    assert starts[0] == np.abs(rhs).max()


def test_a_gradient_that_must_vanish_does_so_to_rounding() -> None:
    # x shifts all rewards alike, so the exact hyper-gradient is zero.
    ones = np.ones((1, 2, 1))
    leader: dict[str, Any] = {"upper_reward": [[1.0, -0.5]], "initial_distribution": [1.0]}
    options = {**leader, "features": ones, "gamma": 0.999, "temperature": 0.1}
    game = TabularBilevelEnv.from_arrays(ones, [[1.59, 0.1]], **options)
    for response in (game.evaluate([0.0]), *game.evaluate_batch([[0.0], [0.1]])):
        gradient = abs(float(response.hyper_gradient[0]))
        assert gradient <= 1e-12 and gradient <= response.gradient_error_bound


def test_a_response_reports_the_bounds_of_its_solution() -> None:
    game = BilevelGridWorld()
    x = game.initial_upper_params
    response = game.evaluate(x, tolerance=1e-6)
    solution = solve_soft_mdp(game.model.lower_mdp(x), tolerance=1e-6)
    outcome = Outcome(solution, x, game.upper_reward(x), game.initial_distribution)
    upper = game.objective.evaluate(outcome)
    answer = response_gradient(solution, upper.policy, policy_gradient_error=upper.policy_error)
    assert response.value_error_bound == solution.value_error_bound
    assert response.gradient_error_bound == pytest.approx(answer.error_bound) != 0.0
    copy = pickle.loads(pickle.dumps(response))
    assert copy.gradient_error_bound == response.gradient_error_bound
    assert len(pickle.dumps(response)) <= 40 * response.policy.nbytes
    with pytest.raises(ValueError, match="`warm_start` must be a response of a game with 52"):
        game.evaluate(x, warm_start=BilevelGridWorld(map_name="4x4").evaluate(np.zeros(14)))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_copied_solution_solves_as_the_first_one(solver: str) -> None:
    solution = solve_soft_mdp(grid(9), solver=solver)
    rhs = np.random.default_rng(0).normal(size=len(solution.soft_value))
    found, _ = solution.system.solve(rhs)
    for copy in (deepcopy(solution), pickle.loads(pickle.dumps(solution))):
        np.testing.assert_array_equal(copy.soft_value, solution.soft_value)
        np.testing.assert_allclose(copy.system.solve(rhs)[0], found, atol=1e-7)


@pytest.mark.parametrize("solver", ["krylov", "dense"])
def test_rewards_of_any_size_are_solved_for(solver: str) -> None:
    kernel = Kernel.from_dense(np.full((2, 1, 2), 0.5))
    mdp = TabularMDP(kernel, np.array([[1e160], [-2e160]]), 0.9, 1.0)
    solution = solve_soft_mdp(mdp, solver=solver)
    np.testing.assert_allclose(solution.soft_value, [-3.5e160, -6.5e160], rtol=1e-8)


def test_steps_that_go_round_in_a_circle_are_solved_more_tightly(monkeypatch: Patch) -> None:
    forcings = []

    def overshooting(matrix: Any, rhs: Any, *, rtol: float, **options: Any) -> tuple[Any, int]:
        """Solve, but go too far at the loosest tolerance."""
        forcings.append(rtol)
        share = 1.02 if rtol == 0.02 else 0.0
        return (1.0 + share) * np.linalg.solve(matrix.toarray(), rhs), 0

    monkeypatch.setattr("scipy.sparse.linalg.bicgstab", overshooting)
    mdp = corridor(30)
    solution = solve_soft_mdp(mdp, solver="krylov")
    assert solution.converged and max(forcings) == 0.02 and solution.sweeps == 0
    monkeypatch.setattr("bilevel_gym.core.solvers.PATIENCE", 10**9)
    assert not solve_soft_mdp(mdp, solver="krylov").converged  # it was a circle indeed
