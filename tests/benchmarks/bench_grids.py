"""Open grids of 100^2 to 1000^2 cells, a toll in each: solves, hyper-gradients and memory.

Ratios of hyper-gradients are what they add to their own solve: .1 stands for 1.1 solves in all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, issparse, linalg

from bilevel_gym.core import fast
from bilevel_gym.core.adjoint import ResponseGradient, response_gradient
from bilevel_gym.core.mdp import FloatArray, TabularMDP
from bilevel_gym.core.soft import SoftSolution, solve_soft_mdp
from bilevel_gym.core.threads import threads
from tests.benchmarks import peers
from tests.benchmarks.problems import grid, kernel_bytes, perturbed
from tests.benchmarks.table import Compare, Row, check_agreement, duration, in_turn

# The same problem serves several rows; a million states are too many to keep.
kept_grid = lru_cache(maxsize=4)(grid)

PRODUCT = "one product P @ V (SciPy CSR)"
ON_100 = "solve, grid 100^2, gamma 0.99"
SIDES = [100, pytest.param(300, marks=pytest.mark.large)]


def solve(mdp: TabularMDP, solver: str = "auto") -> SoftSolution:
    """Solve to the residual of all rows."""
    return solve_soft_mdp(mdp, solver=solver, tolerance=peers.TOLERANCE)


# Solves ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "gamma", "at_least"),
    [(100, 0.99, 7.0), (100, 0.999, 25.0), pytest.param(300, 0.99, 12.0, marks=pytest.mark.large)],
)
def bench_against_value_iteration(
    compare: Compare, side: int, gamma: float, at_least: float
) -> None:
    mdp = kept_grid(side, gamma=gamma)
    value, _ = peers.soft_value_iteration(mdp)
    check_agreement(value, solve(mdp).soft_value, 1e-5, "values")
    name, against = f"solve, grid {side}^2, gamma {gamma}", "our best soft value iteration in NumPy"
    iterate = partial(peers.soft_value_iteration, mdp)
    compare(name, partial(solve, mdp), against, iterate, at_least=at_least)


@pytest.mark.parametrize(
    ("method", "at_least"), [("modified_policy_iteration", 2.5), ("policy_iteration", 10.0)]
)
def bench_against_quantecon(compare: Compare, method: str, at_least: float) -> None:
    mdp = kept_grid(100)
    peer = peers.quantecon(mdp, method)
    check_greedy(mdp, peer())
    against = f"QuantEcon {method.replace('_', ' ')} (no entropy)"
    compare(ON_100, partial(solve, mdp), against, peer, at_least=at_least)


def bench_against_mdpsolver(compare: Compare) -> None:
    mdp = kept_grid(100)
    make, peer = peers.mdpsolver(mdp)
    make()
    check_greedy(mdp, peer())
    against = "mdpsolver modified policy iteration (no entropy)"
    compare(ON_100, partial(solve, mdp), against, peer, before_peer=make, at_least=1.0)


@pytest.mark.large
def bench_against_sparse_lu(compare: Compare) -> None:
    mdp = kept_grid(300)
    check_agreement(solve(mdp, "sparse").soft_value, solve(mdp).soft_value, 1e-6, "values")
    name, theirs = "solve, grid 300^2, gamma 0.99", partial(solve, mdp, "sparse")
    compare(name, partial(solve, mdp), "our Newton with sparse LU", theirs, at_least=5.0)


def check_greedy(mdp: TabularMDP, value: FloatArray) -> None:
    """Fail unless a value is that of the problem without entropy.

    Entropy adds between 0 and temperature * log A / (1 - gamma) to a value.
    """
    cold = replace(mdp, temperature=1e-5)
    excess = solve(cold).soft_value - value
    bound = cold.temperature * np.log(mdp.kernel.num_actions) / (1.0 - mdp.gamma)
    if not (excess.min() >= -1e-5 and excess.max() <= bound + 1e-5):
        pytest.fail(f"the peer's values differ by {excess.min():.2e} .. {excess.max():.2e}")


# Hyper-gradients ---------------------------------------------------------------------------


class Gradient:
    """A hyper-gradient on top of a solve of its own."""

    def __init__(
        self, mdp: TabularMDP, solver: str, jacobian: Any = None, guess: FloatArray | None = None
    ) -> None:
        """Choose problem, solver, d reward / dx `[S*A, n]` and the start of the adjoint."""
        self._mdp, self._solver = mdp, solver
        self._guesses = None if guess is None else {("adjoint", mdp.gamma): guess}
        # What a task would hold: its vector-Jacobian product, ready for use.
        self._transposed = jacobian.T.tocsr() if issparse(jacobian) else np.transpose(jacobian)
        self._solution = solve(mdp, solver)

    def solve(self) -> None:
        """Solve the follower's problem."""
        self._solution = solve(self._mdp, self._solver)

    def differentiate(self) -> ResponseGradient:
        """Return the derivative of 0.5 ||pi||^2 with respect to the rewards of the last solve."""
        # A solution keeps what its first gradient needed; a copy must work it out again.
        fresh = replace(self._solution, guesses=self._guesses, solutions={})
        return response_gradient(fresh, fresh.policy)

    def hyper_gradient(self) -> FloatArray:
        """Return its derivative with respect to x, `[n]`."""
        gradient: FloatArray = self._transposed @ self.differentiate().reward.ravel()
        return gradient


@pytest.mark.parametrize("size", [10, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("side", SIDES)
def bench_gradient_direct(compare: Compare, side: int, size: int) -> None:
    mdp = kept_grid(side)
    ours = Gradient(mdp, "sparse", jacobian(mdp, size))
    check_directional(mdp, ours.differentiate().reward)
    name = f"hyper-gradient, grid {side}^2, n = {size}, sparse LU"
    compare(name, ours.hyper_gradient, "its own solve", ours.solve, at_most=0.1)


@pytest.mark.parametrize(("warm", "at_most"), [(False, 0.65), (True, 0.35)], ids=["cold", "warm"])
@pytest.mark.parametrize("side", SIDES)
def bench_gradient_krylov(compare: Compare, side: int, warm: bool, at_most: float) -> None:
    mdp = kept_grid(side)
    nearby = solve(perturbed(mdp, 1e-3), "krylov")
    guess = response_gradient(nearby, nearby.policy).adjoint if warm else None
    ours = Gradient(mdp, "krylov", jacobian(mdp, 1_000), guess)
    check_directional(mdp, ours.differentiate().reward)
    start = "adjoint of an x 0.1 % off" if warm else "cold"
    name, bar = f"hyper-gradient, grid {side}^2, Krylov, {start}", at_most if side == 300 else None
    compare(name, ours.hyper_gradient, "its own solve", ours.solve, at_most=bar)


def jacobian(mdp: TabularMDP, size: int) -> Any:
    """Return a d reward / dx `[S*A, n]`: dense for few x, else four of them in each reward."""
    rng, pairs = np.random.default_rng(2), mdp.reward.size
    if size <= 10:
        return rng.normal(size=(pairs, size))
    columns = rng.integers(size, size=4 * pairs)
    starts = np.arange(0, 4 * pairs + 1, 4)
    return csr_array((rng.normal(size=4 * pairs), columns, starts), shape=(pairs, size))


def check_directional(mdp: TabularMDP, gradient: FloatArray) -> None:
    """Fail unless a gradient agrees with a central difference along a random direction."""
    step, direction = 1e-5, np.random.default_rng(3).normal(size=mdp.reward.shape)

    def objective(offset: float) -> float:
        policy = solve(replace(mdp, reward=mdp.reward + offset * direction)).policy
        return 0.5 * float((policy * policy).sum())

    difference = (objective(step) - objective(-step)) / (2.0 * step)
    check_agreement([float((gradient * direction).sum())], [difference], 1e-4, "the gradient")


# Millions ----------------------------------------------------------------------------------


@pytest.mark.large
@pytest.mark.parametrize(("gamma", "at_most"), [(0.99, 350.0), (0.999, 1200.0)])
def bench_in_products(compare: Compare, gamma: float, at_most: float, backend: str) -> None:
    mdp = grid(1000, gamma=gamma)
    name = f"solve, grid 1000^2, gamma {gamma}, {backend}"
    solution = compare(name, partial(solve, mdp), PRODUCT, product(mdp), at_most=at_most)
    assert solution.residual <= peers.TOLERANCE


@pytest.mark.large
def bench_preparation(compare: Compare) -> None:
    """What a kernel costs once: the first solve works out where entries of the systems go."""
    mdp = grid(1000)
    kernel = mdp.kernel

    def renew() -> None:
        nonlocal kernel
        kernel = replace(mdp.kernel)

    name = "pattern of the systems, once per kernel, grid 1000^2"
    compare(name, lambda: kernel.pattern, PRODUCT, product(mdp), before_ours=renew)


@pytest.mark.large
def bench_gradient_of_a_million(compare: Compare) -> None:
    ours = Gradient(grid(1000), "auto")
    name = "hyper-gradient, grid 1000^2, gamma 0.99"
    compare(name, ours.differentiate, "its own solve", ours.solve)


@pytest.mark.large
def bench_two_threads(compare: Compare) -> None:
    pytest.importorskip("numba")
    mdp = grid(1000)

    def solve_and_gradient(count: int) -> SoftSolution:
        with threads(count):
            solution = solve_soft_mdp(mdp)
            response_gradient(solution, solution.policy)
        return solution

    one, two = (solve_and_gradient(count).soft_value for count in (1, 2))
    check_agreement(two, one, 1e-9, "values")
    name = "solve + hyper-gradient, grid 1000^2, gamma 0.99, two threads"
    run = partial(solve_and_gradient, 2), "the same, one thread", partial(solve_and_gradient, 1)
    compare(name, *run, at_least=1.6)


@pytest.mark.large
@pytest.mark.parametrize("side", [300, 1000])
def bench_share_of_bandwidth(rows: list[Row], side: int, backend: str) -> None:
    mdp = grid(side)
    data = np.ones(50_000_000)
    took, read = in_turn(lambda: solve(mdp), lambda: data @ data, rounds=3)
    floor = compulsory_bytes(mdp) / (data.nbytes / read)
    name, rate = f"solve, grid {side}^2, gamma 0.99, {backend}", data.nbytes / read / 1e9
    traffic = f"compulsory traffic of Newton on plain BiCGSTAB at {rate:.3g} GB/s"
    rows.append(Row(name, duration(took), traffic, duration(floor), took / floor))


def compulsory_bytes(mdp: TabularMDP) -> float:
    """Return what inexact Newton must read from memory, if caches hold none of it.

    Each step reads the kernel for two backups and to assemble I - gamma P_pi, which each product of
    BiCGSTAB (two per iteration) reads in turn; vectors are left out.
    """
    iterations = 0

    def count(solution: FloatArray) -> None:
        nonlocal iterations
        iterations += 1

    with pytest.MonkeyPatch.context() as patch, fast.switched(False):
        patch.setattr(linalg, "bicgstab", partial(linalg.bicgstab, callback=count))
        steps = solve(mdp, "krylov").iterations
    system = mdp.kernel.pattern.indices.size * (8 + 4)
    return 3.0 * steps * kernel_bytes(mdp.kernel) + 2.0 * iterations * system


@pytest.mark.large
def bench_peak_memory(rows: list[Row], backend: str) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.memory", "0.99"]
    setting = {**os.environ, fast.ENVIRONMENT_VARIABLE: "1" if backend == "numba" else "0"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=setting).stdout
    kernel, before, peak = (int(number) for number in answer.split())
    for what, used in (("on top of the problem", peak - before), ("of the process", peak)):
        name = f"peak memory {what}, solve, grid 1000^2, gamma 0.99, {backend}"
        ours, theirs = f"{used / 1e6:.0f} MB", f"{kernel / 1e6:.0f} MB"
        rows.append(Row(name, ours, "the kernel P", theirs, used / kernel, at_most=8.0))


def product(mdp: TabularMDP) -> Callable[[], Any]:
    """Return one product of the kernel with a value, the unit of large solves."""
    matrix = mdp.kernel.matrix
    value = np.random.default_rng(4).random(mdp.kernel.num_states)
    return lambda: matrix @ value
