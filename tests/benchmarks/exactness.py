"""Whether error bounds tell the truth, and how tightly, over random and structured problems.

    python -m tests.benchmarks.exactness --problems 1000

Each problem is solved by every solver that applies, and compared with answers in extended
precision. A bound lies where the true error is larger. Ratios of bound and true error are over
solves that converged and errors above one rounding.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from bilevel_gym.core import fast
from bilevel_gym.core.linear import SOLVERS
from bilevel_gym.core.soft import solve_soft_mdp

from ..bounds import NAMES, answered, errors
from ..worlds import World, world


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10, help="problems of 1000 states")
    parser.add_argument("--solvers", nargs="*", default=[*SOLVERS], choices=[*SOLVERS])
    options = parser.parse_args()
    for solver in options.solvers:
        if not SOLVERS[solver].needs_kernels or fast.enabled():
            print(report(solver, problems(options.problems, options.large)))


def problems(count: int, large: int) -> Iterator[World]:
    """Yield the problems, one at a time: those of 1000 states are large."""
    for seed in range(count):
        yield world(seed)
    for seed in range(large):
        yield world(seed, (1000,))


def report(solver: str, worlds: Iterator[World]) -> str:
    """Return the rows of a solver."""
    converged = missed = total = 0
    lies: dict[str, int] = defaultdict(int)
    infinite: dict[str, int] = defaultdict(int)
    ratios: dict[str, list[float]] = defaultdict(list)
    for found in worlds:
        if solver == "value-iteration" and found.mdp.gamma > 0.99:
            continue  # sweeps take minutes there
        solution = solve_soft_mdp(found.mdp, solver=solver)
        answer = answered(found, solution)
        total, converged = total + 1, converged + solution.converged
        seen = errors(found, solution, answer)
        missed += not solution.converged and seen["policy"][0] <= 1e-7
        for name, (error, bound, one) in seen.items():
            lies[name] += not error <= bound
            infinite[name] += solution.converged and not np.isfinite(bound)
            if solution.converged and error > one:
                ratios[name].append(float(bound / error))
    rows = [f"{solver}: converged {converged} of {total}, the policy right all the same {missed}"]
    for name in NAMES:
        middle, most = np.quantile(ratios[name], [0.5, 0.9])
        rows.append(
            f"  {name:10} lies {lies[name]:3}  infinite where converged {infinite[name]:3}  "
            f"median {middle:.3g}, 90 % {most:.3g} of {len(ratios[name])}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
