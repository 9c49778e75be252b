"""Random problems: Garnets, and the synthetic problem of the paper behind the hyper-gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.mdp import FloatArray, TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.optimizers import lbfgsb
from tests.benchmarks import peers
from tests.benchmarks.problems import garnet, random_mdp
from tests.benchmarks.table import Compare, Row, check_agreement, duration, in_turn

ROUGHLY: dict[str, Any] = {"tolerance": peers.TOLERANCE}


def bench_garnet_against_compiled_value_iteration(compare: Compare) -> None:
    mdp = garnet(20_000, 5, 5)
    peer = peers.compiled_soft_value_iteration(mdp)
    solution = solve_soft_mdp(mdp, tolerance=peers.TOLERANCE)
    check_agreement(peer()[0], solution.soft_value, 1e-6, "values")
    name, against = (
        "solve, Garnet 20000 x 5 x 5, gamma 0.99",
        "soft value iteration compiled by numba",
    )
    compare(name, partial(solve_soft_mdp, mdp, **ROUGHLY), against, peer, at_least=15.0)


def bench_garnet_against_quantecon(compare: Compare) -> None:
    mdp = garnet(1_000, 10, 10, temperature=0.01)
    peer = peers.quantecon(mdp, "modified_policy_iteration")
    excess = solve_soft_mdp(mdp, tolerance=peers.TOLERANCE).soft_value - peer()
    bound = mdp.temperature * np.log(10) / (1.0 - mdp.gamma)  # what entropy may add
    assert -1e-5 <= excess.min() and excess.max() <= bound + 1e-5
    name = "solve, Garnet 1000 x 10 x 10, gamma 0.99"
    against = "QuantEcon modified policy iteration (no entropy)"
    compare(name, partial(solve_soft_mdp, mdp, **ROUGHLY), against, peer, at_least=1.0)


@pytest.mark.large
def bench_garnet_of_a_million(compare: Compare) -> None:
    mdp = garnet(1_000_000, 5, 5)
    value = np.random.default_rng(4).random(mdp.kernel.num_states)
    name, product = "solve, Garnet 1e6 x 5 x 5, gamma 0.99", lambda: mdp.kernel.matrix @ value
    solve = partial(solve_soft_mdp, mdp, **ROUGHLY)
    solution = compare(name, solve, "one product P @ V (SciPy CSR)", product)
    assert solution.residual <= peers.TOLERANCE


def bench_synthetic_problem(rows: list[Row]) -> None:
    """To a gradient norm of 1e-6; the published code takes 2001 iterations and 55 s on a CPU."""
    kernel, scales, form = random_mdp()
    low, high = np.full(100, -10.0), np.full(100, 10.0)
    start = np.random.default_rng(0).normal(size=100).clip(low, high)

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        mdp = TabularMDP(kernel, scales * (x @ form @ x), gamma=0.5, temperature=1.0)
        solution = solve_soft_mdp(mdp)
        policy = solution.policy
        value = -0.5 * float(x @ x) - 0.5 * float((policy * policy).sum())
        reward = response_gradient(solution, -policy).reward
        return value, -x + float((reward * scales).sum()) * ((form + form.T) @ x)

    # The optimizer's tolerance is on the sup norm.
    run = lbfgsb(objective, start, low, high, tolerance=1e-7)
    assert abs(run.best.value + 1.0) < 1e-9 and np.linalg.norm(run.best.gradient) <= 1e-6
    (took,) = in_turn(lambda: lbfgsb(objective, start, low, high, tolerance=1e-7), rounds=25)
    name = "synthetic problem of SoBiRL to a gradient norm of 1e-6, L-BFGS-B"
    against = "its published code (quoted: another machine, 2001 iterations)"
    name = f"{name}, {run.evaluations} evaluations"
    rows.append(Row(name, duration(took), against, "55.1 s"))
