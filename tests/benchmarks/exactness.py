"""Whether error bounds tell the truth, and how tightly, over random and structured problems.

    python -m tests.benchmarks.exactness --problems 1000

Each problem is solved by every solver that applies, and compared with answers in extended
precision, or with exact ones. A bound lies where the true error is larger. Ratios of bound and
true error are over solves that converged and errors above one rounding.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from bilevel_gym.core import fast
from bilevel_gym.core.linear import SOLVERS
from bilevel_gym.core.soft import solve_soft_mdp

from ..bounds import NAMES, answered, errors, objective_error
from ..worlds import SIZES, World, world

# Numbers of states of the problems.
SIZES_OF = {"problems": SIZES, "exact": (2, 3, 4, 5, 6), "large": (1000,)}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10, help="problems of 1000 states")
    parser.add_argument("--exact", type=int, default=100, help="problems with exact answers")
    parser.add_argument("--first", type=int, default=0, help="seed of the first problem")
    parser.add_argument("--solvers", nargs="*", default=[*SOLVERS], choices=[*SOLVERS])
    options = parser.parse_args()
    for solver in options.solvers:
        if not SOLVERS[solver].needs_kernels or fast.enabled():
            for name, sizes in SIZES_OF.items():
                seeds = range(options.first, options.first + getattr(options, name))
                if seeds:
                    print(report(solver, name, (world(seed, sizes) for seed in seeds)), flush=True)


def report(solver: str, name: str, worlds: Iterator[World]) -> str:
    """Return the rows of a solver on problems, exact answers beside those that are "exact"."""
    converged = missed = total = 0
    lies: dict[str, int] = defaultdict(int)
    infinite: dict[str, int] = defaultdict(int)
    ratios: dict[str, list[float]] = defaultdict(list)
    objectives = []
    for found in worlds:
        if solver == "value-iteration" and found.mdp.gamma > 0.99:
            continue  # sweeps take minutes there
        solution = solve_soft_mdp(found.mdp, solver=solver)
        objective, answer = answered(found, solution)
        total, converged = total + 1, converged + solution.converged
        seen = errors(found, solution, answer, exact=name == "exact")
        objectives.append(objective_error(found, objective, exact=name == "exact"))
        missed += not solution.converged and seen["policy"][0] <= 1e-7
        for kind, (error, bound, one) in seen.items():
            lies[kind] += not error <= bound
            infinite[kind] += solution.converged and not np.isfinite(bound)
            if solution.converged and error > one:
                ratios[kind].append(float(bound / error))
    rows = [
        f"{solver}, {name}: converged {converged} of {total}, the policy right all the same "
        f"{missed}; error of the objective at most {max(objectives):.1g} of the largest possible"
    ]
    for kind in NAMES:
        middle, most = np.quantile(ratios[kind] or [np.nan], [0.5, 0.9])
        rows.append(
            f"  {kind:10} lies {lies[kind]:3}  infinite where converged {infinite[kind]:3}  "
            f"median {middle:.3g}, 90 % {most:.3g} of {len(ratios[kind])}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
