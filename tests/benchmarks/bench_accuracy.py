"""How exact the answers are: no times here, figures against their bars."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest

import bilevel_gym  # noqa: F401
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.testing import check_hyper_gradient
from tests.benchmarks.problems import grid
from tests.benchmarks.table import Row

GAMMAS = (0.99, 0.999, 0.9999)
TEMPERATURES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)


@pytest.mark.parametrize(("temperature", "at_most"), [(1e-3, 1e-6), (3e-4, 1e-5)])
def bench_hyper_gradient(rows: list[Row], temperature: float, at_most: float) -> None:
    env = gym.make("BilevelGridWorld-v0", temperature=temperature)
    report = check_hyper_gradient(env, tolerance=1.0)
    name = f"relative error of the hyper-gradient, default map, temperature {temperature:g}"
    error, against = report.relative_error, "central differences"
    rows.append(Row(name, f"{error:.1e}", against, ratio=error, at_most=at_most))


def bench_convergence(rows: list[Row]) -> None:
    """Whether the default solver meets its tolerance in every regime."""
    problem = grid(60)
    solutions = [
        solve_soft_mdp(replace(problem, gamma=gamma, temperature=temperature))
        for gamma in GAMMAS
        for temperature in TEMPERATURES
    ]
    converged = sum(solution.converged for solution in solutions)
    residual = max(solution.residual for solution in solutions)
    steps = max(solution.iterations for solution in solutions)
    rows.append(
        Row(
            f"grid 60^2, gamma {GAMMAS} x temperature {TEMPERATURES}",
            f"{converged} of {len(solutions)} converge, residual <= {residual:.1e}, "
            f"Newton steps <= {steps}",
            ratio=converged / len(solutions),
            at_least=1.0,
        )
    )
