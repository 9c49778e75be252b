"""Linear systems with `I - discount * P_pi`: the one matrix behind values, occupancies, adjoints.

The matrix is a row-diagonally-dominant M-matrix, so it is never singular for a discount below one.
`SOLVERS` lists the ways to solve with it; each is an approximate inverse, to be refined against the
true matrix, whose residual is always the one that is reported:

* "dense", "banded" and "sparse" are LU factorisations. One made at a nearby policy (the last
  Newton step's) still serves as the approximate inverse.
* "krylov" is BiCGSTAB. On graphs that are neither small nor narrow its cost is that of some dozens
  of products with the matrix, where factors fill up. "krylov-ilu" has a stronger preconditioner
  (compiled, extra `fast`), which carries values across a large mesh in fewer of them.
* "value-iteration" repeats x <- x + (b - M x), which contracts with the discount: it cannot fail,
  and is slow.
* "compiled" is a banded LU factorisation whose solves do not leave compiled code until they are
  refined (extra `fast`): the choice for many small problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from . import fast
from .checks import check_choice
from .mdp import FloatArray, Kernel
from .pattern import SystemPattern
from .threads import single_threaded

__all__ = [
    "DIRECT",
    "SOLVERS",
    "ApproximateInverse",
    "Breakdown",
    "DiscountedSystem",
    "Record",
    "approximate_inverse",
    "check_solver",
    "choose_solver",
]

EPS = float(np.finfo(np.float64).eps)

# Factorising a band takes about S * lower * (lower + upper) operations, and at this many a solve
# with its gradient costs as much as the Krylov one (grids of side 30).
BAND_WORK = 3e6

# Where the band is no band, dense LAPACK is the faster one up to this many states.
DENSE_LIMIT = 250

# Refinement goes on while each round leaves at most this share of the residual: poorer factors
# are made anew, an iterative solver that does worse has broken down.
DIRECT_CONTRACTION, ITERATIVE_CONTRACTION = 0.1, 0.5

# The incomplete factorisation pays on meshes of this many states (a third of the time at gamma =
# .999), and is a loss where the graph is no mesh: there Jacobi needs few iterations anyway.
ILU_STATES = 50_000
MESH_BAND = 0.02

KRYLOV_ITERATIONS = 2000


class Breakdown(ArithmeticError):
    """An iterative solve that made no progress."""


class ApproximateInverse(Protocol):
    """Something that nearly inverts `I - discount * P_pi`."""

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        """Solve for `rhs` `[S]` with the matrix or its transpose.

        Args:
            rhs: Right-hand side.
            transpose: Whether to use the transposed matrix.
            reduction: Share of `rhs` that may be left (iterative ones stop there; Euclidean norm).

        Raises:
            Breakdown: If an iterative solve makes no progress.
        """
        ...


class _Dense:
    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        from scipy.linalg.lapack import dgetrf

        # The transpose of a C-ordered matrix is what LAPACK reads without a copy.
        self._lu, self._pivots, info = dgetrf(pattern.dense(entries).T, overwrite_a=True)
        _check_info("dgetrf", info)

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        from scipy.linalg.lapack import dgetrs

        solution, _ = dgetrs(self._lu, self._pivots, rhs, trans=0 if transpose else 1)
        return np.asarray(solution, dtype=np.float64)


class _Banded:
    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        from scipy.linalg.lapack import dgbtrf

        self._band = band = pattern.band
        storage = np.zeros((pattern.num_states, band.height))
        storage.ravel()[pattern.band_slots] = entries
        self._lu, self._pivots, info = dgbtrf(storage.T, band.lower, band.upper, overwrite_ab=True)
        _check_info("dgbtrf", info)

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        from scipy.linalg.lapack import dgbtrs

        band = self._band
        reordered, _ = dgbtrs(
            self._lu, band.lower, band.upper, rhs[band.order], self._pivots, trans=int(transpose)
        )
        solution = np.empty_like(reordered)
        solution[band.order] = reordered
        return solution


class _Sparse:
    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        from scipy.sparse.linalg import splu

        self._parts = pattern, entries
        # Diagonal dominance makes pivoting unnecessary; a symmetric ordering then fills least.
        self._lu = splu(
            pattern.matrix(entries).tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def __reduce__(self) -> tuple[type[_Sparse], tuple[SystemPattern, FloatArray]]:
        """Factorise again where the factors are copied or pickled: SuperLU's cannot be."""
        return _Sparse, self._parts

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        return np.asarray(self._lu.solve(rhs, trans="T" if transpose else "N"), dtype=np.float64)


class _Krylov:
    """BiCGSTAB with Jacobi's preconditioner: rows are divided by their diagonal."""

    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        self._scale = 1.0 / entries[pattern.diagonal]
        entries = entries * np.repeat(self._scale, np.diff(pattern.indptr))
        self._matrix = pattern.matrix(entries)

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        # M x = b is (D M) x = D b, and M^T x = b is (D M)^T (x / D) = b.
        if transpose:
            return self._scale * _bicgstab(self._matrix.T, rhs, reduction)
        return _bicgstab(self._matrix, self._scale * rhs, reduction)


class _KrylovILU:
    """BiCGSTAB with a diagonal incomplete LU factorisation; needs the extra `fast`."""

    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        from .compiled import dilu

        self._matrix = pattern.matrix(entries)
        parts = pattern.indptr, pattern.indices, entries, pattern.diagonal
        self._factors = *parts, dilu.diagonal(*parts)

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        from scipy.sparse.linalg import LinearOperator

        from .compiled import dilu

        inverse = dilu.solve_transposed if transpose else dilu.solve
        preconditioner = LinearOperator(
            self._matrix.shape, matvec=lambda v: inverse(*self._factors, v), dtype=np.float64
        )
        matrix = self._matrix.T if transpose else self._matrix
        return _bicgstab(matrix, rhs, reduction, preconditioner)


def _bicgstab(
    matrix: Any, rhs: FloatArray, reduction: float, preconditioner: Any = None
) -> FloatArray:
    from scipy.sparse.linalg import bicgstab

    size = float(np.abs(rhs).max())
    if size == 0.0:
        return np.zeros_like(rhs)
    # SciPy's test for a breakdown is absolute, so the right-hand side is brought to order one.
    rhs = rhs / size
    solution, info = bicgstab(
        matrix,
        rhs,
        rtol=max(reduction, 4.0 * EPS),
        maxiter=KRYLOV_ITERATIONS,
        M=preconditioner,
    )
    if info != 0 or not np.isfinite(solution).all():
        left = float(np.linalg.norm(rhs - matrix @ solution) / np.linalg.norm(rhs))
        if not left <= 0.5:
            raise Breakdown(
                f"BiCGSTAB left {left:.1e} of the right-hand side after at most "
                f"{KRYLOV_ITERATIONS} iterations"
            )
    solution *= size
    return np.asarray(solution, dtype=np.float64)


class _Sweeps:
    """Richardson's iteration: for values this is policy evaluation by sweeps."""

    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        self._matrix = pattern.matrix(entries)

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        matrix = self._matrix.T if transpose else self._matrix
        norm = _sum_norm if transpose else _sup_norm  # in which it contracts
        goal = max(reduction, 1e-3) * norm(rhs)
        solution, defect = rhs.copy(), rhs - matrix @ rhs
        while norm(defect) > goal:
            solution += defect
            defect = rhs - matrix @ solution
        return solution


def _compiled(pattern: SystemPattern, entries: FloatArray) -> ApproximateInverse:
    """Return factors whose `refine` does the work of `DiscountedSystem` in one call."""
    from .compiled.newton import Factors

    return Factors.of(pattern, entries)


SOLVERS: dict[str, Any] = {
    "dense": _Dense,
    "banded": _Banded,
    "sparse": _Sparse,
    "compiled": _compiled,
    "krylov": _Krylov,
    "krylov-ilu": _KrylovILU,
    "value-iteration": _Sweeps,
}

# The factorisations among them: good for a nearby policy too, and refined down to rounding.
DIRECT = frozenset({"dense", "banded", "sparse", "compiled"})


def check_solver(solver: str) -> None:
    """Raise a `ValueError` unless `solver` is "auto" or a key of `SOLVERS`.

    Raises:
        ImportError: If it is "compiled" or "krylov-ilu", and compiled kernels are missing or
            switched off.
    """
    check_choice("solver", solver, ["auto", *SOLVERS])
    if solver in ("compiled", "krylov-ilu"):
        fast.require(f"solver={solver!r}")


def choose_solver(pattern: SystemPattern, solver: str = "auto") -> str:
    """Return the name of the solver to use.

    Args:
        pattern: Sparsity pattern of the systems.
        solver: A key of `SOLVERS`, or "auto": "banded" where the states can be ordered into a
            narrow band, else "dense" for up to `DENSE_LIMIT` states, else "krylov", or
            "krylov-ilu" on large meshes where the extra `fast` is installed.

    Raises:
        ValueError: If the name is unknown.
    """
    check_solver(solver)
    if solver != "auto":
        return solver
    size, band = pattern.num_states, pattern.band
    if 3 * (band.lower + band.upper) <= size:
        if size * band.lower * (band.lower + band.upper) <= BAND_WORK:
            return "banded"
    if size <= DENSE_LIMIT:
        return "dense"
    mesh = size >= ILU_STATES and band.lower + band.upper <= MESH_BAND * size
    return "krylov-ilu" if mesh and fast.enabled() else "krylov"


def approximate_inverse(
    kernel: Kernel, policy: FloatArray, discount: float, solver: str
) -> ApproximateInverse:
    """Factorise `I - discount * P_pi`, or prepare its iterative solution.

    Args:
        kernel: Transition kernel.
        policy: Action probabilities `[S, A]`.
        discount: In [0, 1).
        solver: A key of `SOLVERS`.
    """
    inverse: ApproximateInverse = SOLVERS[solver](
        kernel.pattern, kernel.system_entries(policy, discount)
    )
    return inverse


class Record:
    """Solutions of linear systems, in the order in which they were asked for.

    At a nearby x the same questions come in the same order, and the i-th solution of last time is a
    good start for the i-th iterative solve of this time. A start changes the effort, never the
    answer.

    Attributes:
        solutions: What has been solved so far.
    """

    def __init__(self, guesses: Sequence[FloatArray] = ()) -> None:
        """Start a record.

        Args:
            guesses: Solutions of an earlier record.
        """
        self._guesses = guesses
        self.solutions: list[FloatArray] = []

    def guess(self) -> FloatArray | None:
        """Return the start for the next solve, None where there is none."""
        number = len(self.solutions)
        return self._guesses[number] if number < len(self._guesses) else None

    def note(self, solution: FloatArray, residual: float) -> None:
        """Add a solution with its residual.

        Raises:
            ArithmeticError: If they are not finite.
        """
        if not math.isfinite(residual):
            raise ArithmeticError(
                "a linear system of the follower's problem overflowed: rewards or values are "
                "not finite, or too large for float64"
            )
        self.solutions.append(solution)


class DiscountedSystem:
    """The matrix `I - discount * P_pi` of one policy, with solves on it and on its transpose.

    Attributes:
        discount: The discount of the matrix, in [0, 1).
        solver: Name of the solver, a key of `SOLVERS`.
    """

    def __init__(
        self,
        kernel: Kernel,
        policy: FloatArray,
        discount: float,
        *,
        solver: str = "auto",
        inverse: ApproximateInverse | None = None,
        accuracy: float = 1e-10,
        record: Record | None = None,
    ) -> None:
        """Store what the matrix is made of; it is assembled and factorised at the first solve.

        Args:
            kernel: Transition kernel.
            policy: Action probabilities `[S, A]`.
            discount: In [0, 1).
            solver: A key of `SOLVERS`, or "auto".
            inverse: Factors of the same matrix at a nearby policy, if there are any.
            accuracy: Residual of iterative solves relative to the right-hand side;
                factorisations always go on to rounding.
            record: Where solutions are recorded, and iterative solves find their start.
        """
        self.discount = discount
        self.solver = choose_solver(kernel.pattern, solver)
        self._kernel = kernel
        self._policy = policy
        self._inverse, self._fresh = inverse, False
        self._direct = self.solver in DIRECT
        self._accuracy = 0.0 if self._direct else accuracy
        self._record = Record() if record is None else record
        self._entries: FloatArray | None = None
        self._matrices: tuple[Any, Any] | None = None

    @single_threaded
    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, guess: FloatArray | None = None
    ) -> tuple[FloatArray, float]:
        """Solve `M x = rhs`, or `M^T x = rhs`.

        Residuals are measured in the norm in which the inverse is bounded by 1 / (1 - discount):
        the sup norm, and for the transposed matrix the sum norm.

        Args:
            rhs: Right-hand side `[S]`.
            transpose: Whether to use the transposed matrix.
            guess: Start of an iterative solve `[S]`; the record's when None.

        Returns:
            The solution `[S]` and the norm of its residual.

        Raises:
            ArithmeticError: If the solution overflows.
        """
        if guess is None:
            guess = self._record.guess()
        if guess is None or self._accuracy == 0.0 or guess.shape != rhs.shape:
            guess = np.zeros_like(rhs)
        if self._inverse is None:
            self._renew()
        try:
            solution, residual, settled = self._refine(rhs, guess, transpose)
        except Breakdown:
            solution, residual, settled = guess, np.inf, False
        if not settled and not self._fresh:
            self._renew()
            solution, residual, settled = self._refine(rhs, guess, transpose)
        if not settled and self.solver.startswith("krylov"):
            self._inverse = _Sweeps(self._kernel.pattern, self._system_entries())
            solution, residual, _ = self._refine(rhs, solution, transpose)
        self._record.note(solution, residual)
        return solution, residual

    @property
    def matrix(self) -> Any:
        """`I - discount * P_pi`, dense for small state spaces, else CSR, `[S, S]`."""
        return self._both()[0]

    def _refine(
        self, rhs: FloatArray, solution: FloatArray, transpose: bool
    ) -> tuple[FloatArray, float, bool]:
        """Return solution, residual and whether the residual is as small as it should be."""
        assert self._inverse is not None
        if self.solver == "compiled":
            factors: Any = self._inverse
            matrix = self._kernel, self._policy, self.discount
            return factors.refine(*matrix, rhs, transpose, DIRECT_CONTRACTION)
        matrix, norm = self._both()[int(transpose)], _sum_norm if transpose else _sup_norm
        target = self._accuracy * norm(rhs)
        defect = rhs - matrix @ solution if solution.any() else rhs
        residual = norm(defect)
        limit = DIRECT_CONTRACTION if self._direct else ITERATIVE_CONTRACTION
        while residual > max(target, 8.0 * EPS * norm(solution)):
            refined = solution + self._inverse.solve(
                defect, transpose=transpose, reduction=0.3 * target / residual
            )
            defect = rhs - matrix @ refined
            remaining = norm(defect)
            creeps = not remaining <= limit * residual
            if remaining < residual:
                solution, residual = refined, remaining
            if creeps:
                return solution, residual, False
        return solution, residual, True

    def _renew(self) -> None:
        self._inverse = SOLVERS[self.solver](self._kernel.pattern, self._system_entries())
        self._fresh = True

    def _system_entries(self) -> FloatArray:
        if self._entries is None:
            self._entries = self._kernel.system_entries(self._policy, self.discount)
        return self._entries

    def _both(self) -> tuple[Any, Any]:
        if self._matrices is None:
            pattern, entries = self._kernel.pattern, self._system_entries()
            small = pattern.num_states <= DENSE_LIMIT
            matrix = pattern.dense(entries) if small else pattern.matrix(entries)
            self._matrices = matrix, matrix.T
        return self._matrices


def sweeps_for(reduction: float, discount: float) -> int:
    """Return how many sweeps of a contraction by `discount` leave this share of an error."""
    return 1 if discount == 0.0 else math.ceil(math.log(reduction) / math.log(discount))


def _sup_norm(vector: FloatArray) -> float:
    return float(np.abs(vector).max())


def _sum_norm(vector: FloatArray) -> float:
    return float(np.abs(vector).sum())


def _check_info(routine: str, info: int) -> None:
    if info != 0:
        raise ArithmeticError(f"LU factorisation failed (LAPACK {routine} returned {info})")
