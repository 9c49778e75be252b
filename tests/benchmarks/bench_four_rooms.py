"""Small problems: Four-Rooms, one at a time and in batches.

x are tolls on the 104 cells and f = 0.5 ||x||^2 + 0.5 ||pi||^2; both sides go from x to the
follower's value and the hyper-gradient, at a residual of 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.batch import solve_batch
from bilevel_gym.core.mdp import FloatArray, TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from tests.benchmarks import peers
from tests.benchmarks.problems import four_rooms
from tests.benchmarks.table import Compare, check_agreement

BATCH = 1024

# The fastest for a small problem, without and with compiled kernels.
SOLVERS = {"numpy": "auto", "numba": "compiled"}

Evaluation = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


def ours(mdp: TabularMDP, solver: str) -> Evaluation:
    """Return x -> (soft value, hyper-gradient) by one of our solvers."""

    def evaluate(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        taxed = replace(mdp, reward=mdp.reward - x[:, None])
        solution = solve_soft_mdp(taxed, solver=solver, tolerance=peers.TOLERANCE)
        answer = response_gradient(solution, solution.policy)
        return solution.soft_value, x - answer.reward.sum(axis=1)

    return evaluate


def theirs(mdp: TabularMDP, solve: peers.ValueAndGradient) -> Evaluation:
    """Return x -> (soft value, hyper-gradient) by a peer; batches of x give batches."""

    def evaluate(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        value, gradient = solve(mdp.reward - x[..., None])
        return np.asarray(value), x - np.asarray(gradient).sum(axis=-1)

    return evaluate


@pytest.mark.parametrize("cycling", [True, False], ids=["cycling", "kind"])
@pytest.mark.parametrize("peer", ["value-iteration", "newton"])
def bench_against_jax(compare: Compare, cycling: bool, peer: str, backend: str) -> None:
    mdp, x = four_rooms(cycling=cycling), tolls()
    if peer == "newton":
        name, solve, bars = "dense Newton", peers.jax_newton(mdp), {"numpy": 1.7, "numba": 4.0}
        accuracy = 1e-6
    else:
        name, solve = "soft value iteration", peers.jax_soft_value_iteration(mdp)
        # The bars are for the many sweeps of the cycling variant.
        bars = {"numpy": 9.0, "numba": 20.0} if cycling else {"numpy": 1.0, "numba": 1.0}
        # It stops as early as it may: temperature and discount magnify what is left.
        accuracy = 1e-3
    left, right = ours(mdp, SOLVERS[backend]), theirs(mdp, solve)
    (value, gradient), (peer_value, peer_gradient) = left(x), right(x)
    check_agreement(peer_value, value, 1e-6, "values")
    check_agreement(peer_gradient, gradient, accuracy, "the hyper-gradient")
    row = f"Four-Rooms ({'cycling' if cycling else 'kind'}), solve + hyper-gradient, {backend}"
    against = f"JAX {name} + implicit adjoint"
    compare(row, partial(left, x), against, partial(right, x), at_least=bars[backend])


def bench_batch_against_jax(compare: Compare, backend: str) -> None:
    mdp, xs = four_rooms(cycling=False), batch()
    right = theirs(mdp, peers.jax_newton(mdp, batched=True))
    (value, gradient), (peer_value, peer_gradient) = in_batch(mdp, xs), right(xs)
    check_agreement(peer_value, value, 1e-8, "values")
    check_agreement(peer_gradient, gradient, 1e-6, "the hyper-gradient")
    bar, against = {"numpy": 1.0, "numba": 8.0}[backend], "JAX vmap of dense Newton + adjoint"
    name = f"{BATCH} Four-Rooms problems, solve + hyper-gradient, {backend}"
    compare(name, partial(in_batch, mdp, xs), against, partial(right, xs), at_least=bar)


def bench_batch_against_loop(compare: Compare) -> None:
    pytest.importorskip("numba")  # a batch is a loop without it
    mdp, xs = four_rooms(cycling=False), batch()
    single = ours(mdp, "compiled")
    check_agreement(in_batch(mdp, xs[:8])[1], [single(x)[1] for x in xs[:8]], 1e-9, "gradients")
    name = f"{BATCH} Four-Rooms problems, solve + hyper-gradient, numba"
    loop, against = lambda: [single(x) for x in xs], "our own loop over them, numba"
    compare(name, partial(in_batch, mdp, xs), against, loop, at_least=1.0)


def in_batch(mdp: TabularMDP, xs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return soft values and hyper-gradients `[B, S]` of a batch of x."""
    taxed = [replace(mdp, reward=mdp.reward - x[:, None]) for x in xs]
    solutions = solve_batch(taxed, tolerance=peers.TOLERANCE)
    answers = [response_gradient(solution, solution.policy) for solution in solutions]
    return (
        np.array([solution.soft_value for solution in solutions]),
        xs - [answer.reward.sum(axis=1) for answer in answers],
    )


def tolls() -> FloatArray:
    """Return an x."""
    return np.random.default_rng(1).uniform(0.0, 0.05, 104)


def batch() -> FloatArray:
    """Return a batch of x."""
    return np.random.default_rng(1).uniform(0.0, 0.05, (BATCH, 104))
