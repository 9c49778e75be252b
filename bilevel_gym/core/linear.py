"""Linear systems with `I - discount * P_pi`: the one matrix behind values, occupancies, adjoints.

`SOLVERS` lists the strategies to solve them with:

* "dense", "banded" and "sparse" are LU factorisations.
* "krylov" is BiCGSTAB. On graphs that are neither small nor narrow its cost is that of some dozens
  of products with the matrix, where factors fill up. "krylov-ilu" has a stronger preconditioner
  (compiled, extra `fast`), which carries values across a mesh in a third of them.
* "value-iteration" repeats x <- x + (b - M x), which contracts with the discount: it cannot fail,
  and is slow.
* "compiled" is a banded LU factorisation that does not leave compiled code until everything is
  solved (extra `fast`): the choice for many small problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from . import fast
from .checks import check_choice
from .mdp import FloatArray, Kernel
from .pattern import SystemPattern
from .skyline import Compiled
from .solvers import (
    Banded,
    Breakdown,
    Dense,
    Krylov,
    KrylovILU,
    LinearSolver,
    Sparse,
    ValueIteration,
)

__all__ = ["SOLVERS", "DiscountedSystem", "Solutions", "check_solver", "choose_solver"]

# Solutions of linear systems by what they are: a name and a discount. At a nearby x the systems are
# nearly the same, and the solution of last time is a good start for the iterative solve of this
# time: it changes the effort, never the answer.
Solutions = Mapping[tuple[str, float], FloatArray]

SOLVERS: dict[str, LinearSolver] = {
    "dense": Dense(),
    "banded": Banded(),
    "sparse": Sparse(),
    "compiled": Compiled(),
    "krylov": Krylov(),
    "krylov-ilu": KrylovILU(),
    "value-iteration": ValueIteration(),
}

# Factorising a band takes about S * lower * (lower + upper) operations, and at this many a solve
# with its gradient costs as much as the Krylov one: grids of side 30. (With compiled kernels 20
# would be faster; factors go on to rounding, though.)
BAND_WORK = 3e6

# Where the band is no band, dense LAPACK is the faster one up to this many states, and faster than
# the compiled skyline from the second number on.
DENSE_LIMIT = 250
COMPILED_DENSE_LIMIT = 100


def check_solver(solver: str) -> None:
    """Raise a `ValueError` unless `solver` is "auto" or a key of `SOLVERS`.

    Raises:
        ImportError: If it needs compiled kernels, and these are missing or switched off.
    """
    check_choice("solver", solver, ("auto", *SOLVERS))
    if solver in SOLVERS and SOLVERS[solver].needs_kernels:
        fast.require(f"solver={solver!r}")


def choose_solver(pattern: SystemPattern, solver: str = "auto", *, many: bool = False) -> str:
    """Return the name of the solver to use.

    Args:
        pattern: Sparsity pattern of the systems.
        solver: A key of `SOLVERS`, or "auto": "banded" where the states can be ordered into a
            narrow band, else "dense" for up to `DENSE_LIMIT` states, else "krylov-ilu", or "krylov"
            without the extra `fast`.
        many: Whether there is a batch of systems: then "auto" takes "compiled" instead of "banded",
            and of "dense" on few states, where the extra `fast` is installed.

    Raises:
        ValueError: If the name is unknown.
    """
    check_solver(solver)
    if solver != "auto":
        return solver
    size, band = pattern.num_states, pattern.band
    width = band.lower + band.upper
    narrow = 3 * width <= size and size * band.lower * width <= BAND_WORK
    if many and (narrow or size <= COMPILED_DENSE_LIMIT) and fast.enabled():
        return "compiled"
    if narrow:
        return "banded"
    if size <= DENSE_LIMIT:
        return "dense"
    return "krylov-ilu" if fast.enabled() else "krylov"


class DiscountedSystem:
    """The matrix `I - discount * P_pi` of one policy, with solves on it and on its transpose."""

    def __init__(
        self,
        kernel: Kernel,
        policy: FloatArray,
        discount: float,
        *,
        solver: str = "auto",
        factors: Any = None,
        accuracy: float = 1e-10,
        guesses: Solutions | None = None,
        solutions: dict[tuple[str, float], FloatArray] | None = None,
    ) -> None:
        """Store what the matrix is made of; it is assembled and factorised at the first solve.

        Args:
            kernel: Transition kernel.
            policy: Action probabilities `[S, A]`.
            discount: In [0, 1).
            solver: A key of `SOLVERS`, or "auto".
            factors: What the solver has prepared for the same matrix at a nearby policy, if there
                is any.
            accuracy: Residual of iterative solves relative to the right-hand side;
                factorisations always go on to rounding.
            guesses: Where iterative solves find their start.
            solutions: Where solutions are recorded.
        """
        self.kernel, self.policy, self.discount = kernel, policy, discount
        self.solver = choose_solver(kernel.pattern, solver)
        self.strategy = SOLVERS[self.solver]
        self._factors, self._fresh = factors, False
        self._accuracy = 0.0 if self.strategy.direct else accuracy
        self._guesses = {} if guesses is None else guesses
        self._solutions = {} if solutions is None else solutions

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, name: str | None = None
    ) -> tuple[FloatArray, float]:
        """Solve `M x = rhs`, or `M^T x = rhs`.

        Residuals are measured in the norm in which the inverse is bounded by 1 / (1 - discount):
        the sup norm, and for the transposed matrix the sum norm.

        Args:
            rhs: Right-hand side `[S]`.
            transpose: Whether to use the transposed matrix.
            name: What the solution is called in the record, such as "value": there an iterative
                solve finds its start. None starts from zeros and records nothing.

        Returns:
            The solution `[S]` and the norm of its residual.

        Raises:
            ArithmeticError: If the solution overflows.
        """
        guess = None
        if name is not None and self._accuracy > 0.0:
            guess = self._guesses.get((name, self.discount))
        solution = guess if guess is not None and guess.shape == rhs.shape else np.zeros_like(rhs)
        if self._factors is None:
            self._renew(self.strategy)
        while True:
            start = solution
            try:
                solution, residual, settled = self.strategy.refine(
                    self, self._factors, rhs, start, self._accuracy, transpose
                )
            except Breakdown:
                residual, settled = np.inf, False
            if settled:
                break
            if not self._fresh:
                solution = start
                self._renew(self.strategy)
            elif self.strategy.fallback is not None:
                self._renew(self.strategy.fallback)
            else:
                break
        if self.strategy is not SOLVERS[self.solver]:  # it may do for other right-hand sides
            self.strategy, self._factors = SOLVERS[self.solver], None
        self.note(name, solution, residual)
        return solution, residual

    def solve_columns(self, rhs: FloatArray, *, transpose: bool = False) -> FloatArray:
        """Solve for each column of `[S, K]`, as accurately as the strategy does at once.

        Raises:
            ArithmeticError: If a solution overflows.
        """
        if self._factors is None:
            self._renew(self.strategy)
        if not (self.strategy.takes_columns and self._fresh):
            columns = [self.solve(np.ascontiguousarray(c), transpose=transpose)[0] for c in rhs.T]
            return np.stack(columns, axis=1)
        return self.strategy.solve(self._factors, rhs, transpose, 0.0)

    def note(self, name: str | None, solution: FloatArray, residual: float) -> None:
        """Record a solution with its residual.

        Raises:
            ArithmeticError: If they are not finite.
        """
        if not math.isfinite(residual):
            raise ArithmeticError(
                "a linear system of the follower's problem overflowed: rewards or values are "
                "not finite, or too large for float64"
            )
        if name is not None:
            self._solutions[name, self.discount] = solution

    @property
    def matrix(self) -> Any:
        """`I - discount * P_pi`, dense for small state spaces, else CSR, `[S, S]`."""
        return self.matrices[0]

    @cached_property
    def matrices(self) -> tuple[Any, Any]:
        """The matrix and its transpose."""
        pattern, entries = self.kernel.pattern, self._entries
        small = pattern.num_states <= DENSE_LIMIT
        matrix = pattern.dense(entries) if small else pattern.matrix(entries)
        return matrix, matrix.T

    @cached_property
    def _entries(self) -> FloatArray:
        return self.kernel.system_entries(self.policy, self.discount)

    def _renew(self, strategy: LinearSolver) -> None:
        """Prepare the matrix anew, and go on with a strategy."""
        self.strategy, self._fresh = strategy, True
        self._factors = strategy.init(self.kernel.pattern, self._entries)
