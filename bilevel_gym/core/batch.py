"""Many small soft MDPs on one structure.

The problems of a batch share the pattern of their kernels, discount, temperature and action mask;
rewards differ, and probabilities may. With the extra `fast` one compiled function solves them in
turn, on one thread, and little is left between the floating-point operations. Without it they are
solved one by one: Newton steps in lockstep on stacked arrays gain a quarter at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from .checks import check_entries
from .linear import Solutions
from .mdp import FloatArray, TabularMDP
from .soft import SoftSolution, solve_all
from .threads import single_threaded

__all__ = ["solve_batch"]


@single_threaded
def solve_batch(
    mdps: Sequence[TabularMDP],
    *,
    initial_values: Sequence[FloatArray | None] | FloatArray | None = None,
    solver: str = "auto",
    tolerance: float | None = None,
    max_iterations: int = 200,
    guesses: Sequence[Solutions | None] | None = None,
) -> list[SoftSolution]:
    """Solve the soft Bellman equations of many MDPs on one structure; see `solve_soft_mdp`.

    Each solution is as good as that of `bilevel_gym.core.soft.solve_soft_mdp`, whose options these
    are: the stopping rules are the same. The problems have one `kernel.pattern`, discount,
    temperature and mask. `initial_values` are `[B, S]`, or `[S]` or None for each problem, as
    guesses are. "auto" takes "compiled" instead of "banded", and of "dense" on few states, where
    the extra `fast` is installed.

    Raises:
        ImportError: If `solver` is "compiled", and compiled kernels are missing or switched off.
        ValueError: If an argument is out of range or of the wrong shape, or the problems differ in
            what they must share.
        ArithmeticError: If values overflow.
    """
    given = [None] * len(mdps) if initial_values is None else initial_values
    hints = [None] * len(mdps) if guesses is None else guesses
    for name, entries in (("initial_values", given), ("guesses", hints)):
        check_entries(name, entries, len(mdps), "problems")
    if not mdps:
        return []
    _check_structure(mdps)
    return solve_all(mdps, list(given), solver, tolerance, max_iterations, hints, many=True)


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
        for name, array, other in (
            ("action_mask", mdp.action_mask, first.action_mask),
            ("kernel.moves", mdp.kernel.moves, first.kernel.moves),
        ):
            if array is not other and (array is None or other is None or (array != other).any()):
                raise ValueError(f"`mdps` must have one `{name}`, got another in problem {b}")
