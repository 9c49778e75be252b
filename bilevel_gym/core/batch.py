"""Many small soft MDPs on one structure.

The problems of a batch share the pattern of their kernels, discount, temperature and action mask;
rewards differ, and probabilities may. With the extra `fast` one compiled function solves them in
turn, on one thread, and little is left between the floating-point operations. Without it they are
solved one by one: Newton steps in lockstep on stacked arrays gain a quarter at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import fast
from .checks import check_at_least, check_positive
from .linear import DIRECT_CONTRACTION, choose_solver
from .mdp import FloatArray, TabularMDP
from .soft import (
    CHORD_CONTRACTION,
    SoftSolution,
    by_action,
    by_move,
    default_tolerance,
    overflow,
    solve_soft_mdp,
    starting_value,
)

__all__ = ["compiled_adjoint", "solve_batch", "solve_compiled"]

# Where the graph has no narrow band, LAPACK's dense factorisation is the faster one beyond this
# many states.
COMPILED_DENSE_LIMIT = 100


def solve_batch(
    mdps: Sequence[TabularMDP],
    *,
    initial_values: Sequence[FloatArray | None] | FloatArray | None = None,
    solver: str = "auto",
    tolerance: float | None = None,
    max_iterations: int = 200,
    guesses: Sequence[Sequence[FloatArray]] | None = None,
) -> list[SoftSolution]:
    """Solve the soft Bellman equations of many MDPs on one structure.

    Each solution is as good as that of `bilevel_gym.core.soft.solve_soft_mdp`: the stopping rules
    are the same.

    Args:
        mdps: The problems, B of them, with one `kernel.pattern`, discount, temperature and mask.
        initial_values: Starts of the iterations, `[B, S]`, or `[S]` or None for each problem; zeros
            when None.
        solver: As in `solve_soft_mdp`, but "auto" takes "compiled" instead of "banded", and of
            "dense" on few states, where the extra `fast` is installed.
        tolerance: As in `solve_soft_mdp`.
        max_iterations: Newton steps allowed for each problem.
        guesses: For each problem, solutions of the linear systems of an earlier, nearby solution.

    Raises:
        ImportError: If `solver` is "compiled", and compiled kernels are missing or switched off.
        ValueError: If an argument is out of range or of the wrong shape, or the problems differ in
            what they must share.
        ArithmeticError: If values overflow.
    """
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    check_at_least("max_iterations", max_iterations, 0)
    given = [None] * len(mdps) if initial_values is None else initial_values
    hints: Sequence[Sequence[FloatArray]] = [()] * len(mdps) if guesses is None else guesses
    for name, entries in (("initial_values", given), ("guesses", hints)):
        if len(entries) != len(mdps):
            raise ValueError(
                f"`{name}` must have an entry for each of {len(mdps)} problems, got {len(entries)}"
            )
    if not mdps:
        return []
    _check_structure(mdps)
    if any(mdp.kernel.moves is not None for mdp in mdps):
        solutions = solve_batch(
            [mdp if mdp.kernel.moves is None else by_move(mdp) for mdp in mdps],
            initial_values=given,
            solver=solver,
            tolerance=tolerance,
            max_iterations=max_iterations,
            guesses=hints,
        )
        return [
            solution if mdp.kernel.moves is None else by_action(solution, mdp)
            for solution, mdp in zip(solutions, mdps, strict=True)
        ]
    starts = [
        starting_value(mdp, f"initial_values[{b}]", value)
        for b, (mdp, value) in enumerate(zip(mdps, given, strict=True))
    ]
    pattern = mdps[0].kernel.pattern
    chosen = choose_solver(pattern, solver)
    small = chosen == "banded" or pattern.num_states <= COMPILED_DENSE_LIMIT
    if chosen == "compiled" or (solver == "auto" and small and fast.enabled()):
        wanted = [default_tolerance(mdp) if tolerance is None else tolerance for mdp in mdps]
        return solve_compiled(mdps, starts, wanted, max_iterations, tolerance is None)
    return [
        solve_soft_mdp(
            mdp,
            initial_value=start,
            solver=chosen,
            tolerance=tolerance,
            max_iterations=max_iterations,
            guesses=hint,
        )
        for mdp, start, hint in zip(mdps, starts, hints, strict=True)
    ]


def solve_compiled(
    mdps: Sequence[TabularMDP],
    starts: Sequence[FloatArray],
    tolerances: Sequence[float],
    max_iterations: int,
    polish: bool,
) -> list[SoftSolution]:
    """Solve problems on one structure in one compiled call; all arguments have been checked.

    Args:
        mdps: The problems, at least one.
        starts: For each problem, the start of its iteration `[S]`.
        tolerances: For each problem, the residual to reach.
        max_iterations: Newton steps allowed for each problem.
        polish: Whether to go on to rounding where that costs little.
    """
    from .compiled.newton import Factors, layout_of, newton

    count, kernel, mask = len(mdps), mdps[0].kernel, mdps[0].action_mask
    layout = layout_of(kernel.pattern)
    transitions = layout.transitions(kernel)
    probabilities = transitions[-1][None]
    if any(mdp.kernel is not kernel for mdp in mdps):
        probabilities = np.array([mdp.kernel.matrix.data for mdp in mdps])
        probabilities.flags.writeable = False  # as those of one kernel
    rewards = np.array([mdp.reward.T for mdp in mdps])
    if mask is not None:
        rewards[:, ~mask.T] = -np.inf
    values, policies = np.array(starts), np.empty_like(rewards)
    factors = np.empty((count, layout.size))
    residuals, iterations = np.empty(count), np.empty(count, dtype=np.int64)
    converged = np.empty(count, dtype=bool)
    newton(
        layout.position,
        layout.skyline,
        transitions,
        probabilities,
        rewards,
        float(mdps[0].gamma),
        float(mdps[0].temperature),
        np.array(tolerances, dtype=np.float64),
        int(max_iterations),
        CHORD_CONTRACTION if polish else 0.0,
        values,
        policies,
        factors,
        residuals,
        iterations,
        converged,
    )
    solutions = []
    for b, mdp in enumerate(mdps):
        residual, taken = float(residuals[b]), int(iterations[b])
        if not math.isfinite(residual):
            raise overflow(residual)
        solutions.append(
            SoftSolution(
                mdp=mdp,
                # Copies, for a view keeps the arrays of all problems alive.
                soft_value=values[b].copy(),
                policy=policies[b].copy().T,
                residual=residual,
                tolerance=tolerances[b],
                iterations=taken,
                sweeps=0,
                converged=bool(converged[b]),
                solver="compiled",
                _inverse=Factors(layout, factors[b]) if taken else None,
            )
        )
    return solutions


def compiled_adjoint(
    solution: SoftSolution, policy_gradient: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[float, float, float]]:
    """Return u_c `[S, A]`, v `[S]` and q `[S, A]` of `bilevel_gym.core.adjoint`.

    Args:
        solution: A solution by the solver "compiled".
        policy_gradient: f_pi `[S, A]`.

    Returns:
        The three, and the sum norms of the residual of v, of u_c and of v.
    """
    from .compiled.newton import adjoint, layout_of

    mdp = solution.mdp
    layout = layout_of(mdp.kernel.pattern)
    policy = np.array(solution.policy.T)
    centred, reward, vector = np.empty_like(policy), np.empty_like(policy), np.empty(len(policy.T))
    norms = adjoint(
        layout.position,
        layout.skyline,
        layout.transitions(mdp.kernel),
        policy,
        np.array(policy_gradient.T, dtype=np.float64, order="C"),
        float(mdp.gamma),
        float(mdp.temperature),
        DIRECT_CONTRACTION,
        centred,
        vector,
        reward,
    )
    solution.record.note(vector, norms[0])
    return centred.T, vector, reward.T, norms


def _check_structure(mdps: Sequence[TabularMDP]) -> None:
    first = mdps[0]
    for b, mdp in enumerate(mdps):
        if mdp.kernel.pattern is not first.kernel.pattern:
            raise ValueError(
                f"`mdps` must share the pattern of their kernels, got another in problem {b}; "
                "kernels made by `with_probabilities` share a pattern that has been computed"
            )
        for name in ("gamma", "temperature"):
            value, wanted = getattr(mdp, name), getattr(first, name)
            if value != wanted:
                raise ValueError(
                    f"`mdps` must have one `{name}`, got {wanted} in problem 0 and {value} in "
                    f"problem {b}"
                )
        mask, other = mdp.action_mask, first.action_mask
        if mask is not other and (mask is None or other is None or (mask != other).any()):
            raise ValueError(f"`mdps` must have one `action_mask`, got another in problem {b}")
