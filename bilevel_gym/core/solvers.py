"""Strategies for `I - discount * P_pi` and for what is built on it, behind one interface.

The matrix is a row-diagonally-dominant M-matrix, so it is never singular for a discount below one.
A strategy prepares a matrix (`init`) and solves with it approximately (`solve`); `refine` drives
down the residual of the true matrix, which is the one that is reported. It also knows how to solve
the adjoint system of a response (`adjoint`) and the soft Bellman equation V = T V (`soft_value`):

T is a gamma-contraction in sup norm and convex; Newton's step solves with I - gamma P_pi, hence
*is* soft policy iteration: it converges from any start, monotonically after the first step, and
quadratically in the end.

With factors at hand, a solve of default tolerance goes on down to rounding with chord steps (the
last factorisation, one backup each) while these contract well: differences of objectives then are
as clean as float64 allows.

With an iterative solver each step is solved as accurately as it needs to be (Eisenstat and Walker,
"Choosing the forcing terms in an inexact Newton method", SIAM J. Sci. Comput. 17, 1996, choice 2),
and one backup follows it: Krylov errors are rough, and a backup smooths them. Where that breaks
down, sweeps V <- T V take over, which always contract.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from .bellman import EPS, Backup, centred_score
from .mdp import FloatArray, Kernel, TabularMDP
from .pattern import SystemPattern
from .progress import tell

__all__ = ["Adjoint", "Breakdown", "LinearSolver", "SoftProblem", "Solved", "System"]
__all__ += ["Banded", "Dense", "DirectSolver", "Krylov", "KrylovILU", "Sparse", "ValueIteration"]

# Chord steps go on while each leaves at most this share of the residual.
CHORD_CONTRACTION = 0.1

# Share of the residual that an inexact Newton step may leave: at most, and at least.
FORCING = (0.02, 1e-4)

# Inexact steps may raise the residual for a while; after so many without a new best one, the solves
# are made tighter.
PATIENCE = 30

# A round of sweeps ends when this share of the residual is left.
SWEEP_REDUCTION = 0.1

# Sweeps of a round, whatever the discount.
MAX_SWEEPS = 10_000

KRYLOV_ITERATIONS = 2000

# Of the absolute values of a vector; the norms in which the inverse of the matrix, and that of its
# transpose, is bounded by 1 / (1 - discount): the sup norm and the sum norm.
NORMS = np.maximum.reduce, np.add.reduce


class Breakdown(ArithmeticError):
    """An iterative solve that made no progress."""


class SoftProblem(NamedTuple):
    """A soft Bellman equation to be solved.

    Attributes:
        mdp: The follower's problem, without moves.
        start: First V `[S]`.
        tolerance: The residual to reach.
        max_iterations: Newton steps allowed.
        polish: Whether to go on to rounding where that costs little.
    """

    mdp: TabularMDP
    start: FloatArray
    tolerance: float
    max_iterations: int
    polish: bool


class Solved(NamedTuple):
    """Where the solution of a soft Bellman equation has ended.

    Attributes:
        value: V `[S]`.
        policy: pi at V `[S, A]`.
        residual: Sup norm of T V - V.
        converged: Whether it is at most the tolerance, or at rounding.
        steps: Newton steps, or rounds of sweeps, that were taken.
        sweeps: Sweeps V <- T V that were taken.
        factors: Those of the last Newton step, if there are any.
    """

    value: FloatArray
    policy: FloatArray
    residual: float
    converged: bool
    steps: int
    sweeps: int = 0
    factors: Any = None


class Adjoint(NamedTuple):
    """Solution of an adjoint system, in the letters of `bilevel_gym.core.adjoint`.

    Attributes:
        centred: u_c `[S, A]`.
        vector: v `[S]`.
        reward: q `[S, A]`.
        residual: Sum norm of the residual of v.
        centred_norm: Sum norm of u_c.
        vector_norm: Sum norm of v.
    """

    centred: FloatArray
    vector: FloatArray
    reward: FloatArray
    residual: float
    centred_norm: float
    vector_norm: float


class System(Protocol):
    """What strategies use of a `bilevel_gym.core.linear.DiscountedSystem`."""

    kernel: Kernel
    policy: FloatArray
    discount: float

    @property
    def matrices(self) -> tuple[Any, Any]:
        """The matrix and its transpose, `[S, S]` each."""

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, name: str | None = None
    ) -> tuple[FloatArray, float]:
        """Solve, and record the solution."""

    def note(self, name: str | None, solution: FloatArray, residual: float) -> None:
        """Record a solution."""


class LinearSolver(ABC):
    """A strategy; it has no state of its own.

    Attributes:
        direct: Whether it factorises: then systems are solved down to rounding, and factors of a
            matrix at a nearby policy are good enough to start from.
        contraction: Refinement goes on while each round leaves at most this share of the residual:
            poorer factors are made anew, an iterative solver that does worse has broken down.
        needs_kernels: Whether it needs the compiled kernels of the extra `fast`.
        takes_columns: Whether `solve` takes right-hand sides `[S, K]`, too.
        fallback: What takes over where a system is not solved.
    """

    direct: ClassVar[bool]
    contraction: ClassVar[float]
    needs_kernels: ClassVar[bool] = False
    takes_columns: ClassVar[bool] = False
    fallback: ClassVar[LinearSolver | None] = None

    @abstractmethod
    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Prepare the matrix with the entries `[E]`: what is returned is what `solve` takes."""

    @abstractmethod
    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Solve with a prepared matrix or its transpose, for a right-hand side `[S]`.

        `reduction` is the share of it that may be left (iterative ones stop there; Euclidean norm).

        Raises:
            Breakdown: If an iterative solve makes no progress.
        """

    @abstractmethod
    def soft_value(self, problem: SoftProblem) -> Solved:
        """Solve a soft Bellman equation.

        Raises:
            ArithmeticError: If values overflow.
        """

    def soft_values(self, problems: Sequence[SoftProblem]) -> list[Solved]:
        """Solve soft Bellman equations on one structure, at least one."""
        return [self.soft_value(problem) for problem in problems]

    def refine(
        self,
        system: System,
        factors: Any,
        rhs: FloatArray,
        solution: FloatArray,
        accuracy: float,
        transpose: bool,
    ) -> tuple[FloatArray, float, bool]:
        """Solve a system, or the transposed one, with what is prepared for a nearby matrix.

        Returns the solution `[S]`, the norm of its residual, and whether that is small enough:
        `accuracy` is the residual to reach, relative to the right-hand side. `solution` is the
        start.
        """
        matrix, norm = system.matrices[transpose], NORMS[transpose]
        size = float(norm(np.abs(rhs)))
        target, defect, residual = accuracy * size, rhs, size
        if solution.any():
            defect = rhs - matrix @ solution
            residual = float(norm(np.abs(defect)))
            if not residual <= size:  # worse than zeros
                solution, defect, residual = np.zeros_like(rhs), rhs, size
        while residual > max(target, 8.0 * EPS * float(norm(np.abs(solution)))):
            refined = solution + self.solve(factors, defect, transpose, 0.3 * target / residual)
            defect = rhs - matrix @ refined
            remaining = float(norm(np.abs(defect)))
            creeps = not remaining <= self.contraction * residual
            if remaining < residual:
                solution, residual = refined, remaining
            if creeps:
                return solution, residual, False
        return solution, residual, True

    def adjoint(
        self,
        system: System,
        mdp: TabularMDP,
        policy: FloatArray,
        policy_gradient: FloatArray | None,
        log_policy_gradient: FloatArray | None,
    ) -> Adjoint:
        """Solve the adjoint system of a response; see `bilevel_gym.core.adjoint`.

        f_pi and f_log are `[S, A]`, None for zero.
        """
        centred = centred_score(policy, mdp.temperature, policy_gradient, log_policy_gradient)
        rhs = mdp.gamma * mdp.kernel.flow(centred)
        vector, residual = system.solve(rhs, transpose=True, name="adjoint")
        reward = centred + policy * vector[:, None]
        sizes = float(np.abs(centred).sum()), float(np.abs(vector).sum())
        return Adjoint(centred, vector, reward, residual, *sizes)


class DirectSolver(LinearSolver):
    """What factorisations have in common: Newton steps with chord steps after them."""

    direct, contraction = True, 0.1

    def soft_value(self, problem: SoftProblem) -> Solved:
        """Take Newton steps on factorisations."""
        mdp, start, tolerance, max_iterations, polish = problem
        kernel, gamma, at = mdp.kernel, mdp.gamma, Backup(mdp, start)
        factors, steps, contraction, fresh = None, 0, 0.0, False
        while at.residual > at.rounding:
            _tell(at)
            met = at.residual <= tolerance
            if met and (not polish or (fresh and contraction > 0.5)):
                break  # as accurate as asked for, or as far as rounding lets it
            # Once the tolerance is met the policy hardly moves: old factors do while they contract.
            fresh = factors is None or not met or contraction > CHORD_CONTRACTION
            if fresh:
                if steps == max_iterations:
                    break
                factors = self.init(kernel.pattern, kernel.system_entries(at.policy, gamma))
                steps += 1
            candidate = Backup(mdp, at.value + self.solve(factors, at.defect, False, 0.0))
            contraction = candidate.residual / at.residual
            if not met or candidate.residual < at.residual:
                at = candidate
        return _solved(at, tolerance, steps, 0, factors)


class Dense(DirectSolver):
    """LAPACK's dense factorisation."""

    takes_columns = True

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Factorise."""
        # The transpose of a C-ordered matrix is what LAPACK reads without a copy.
        lu, pivots, info = _lapack().dgetrf(pattern.dense(entries).T, overwrite_a=True)
        if info:
            raise _failure("dgetrf", info)
        return lu, pivots

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Solve with the factors."""
        return np.asarray(
            _lapack().dgetrs(*factors, rhs, trans=0 if transpose else 1)[0], dtype=np.float64
        )


class Banded(DirectSolver):
    """LAPACK's banded factorisation, the states in reverse Cuthill-McKee order."""

    takes_columns = True

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Factorise."""
        band = pattern.band
        storage = np.zeros((pattern.num_states, band.height))
        storage.ravel()[pattern.band_slots] = entries
        lu, pivots, info = _lapack().dgbtrf(storage.T, band.lower, band.upper, overwrite_ab=True)
        if info:
            raise _failure("dgbtrf", info)
        return band, lu, pivots

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Solve with the factors."""
        band, lu, pivots = factors
        trans, order = int(transpose), band.order
        reordered, _ = _lapack().dgbtrs(lu, band.lower, band.upper, rhs[order], pivots, trans=trans)
        solution = np.empty_like(reordered)
        solution[order] = reordered
        return solution


class Sparse(DirectSolver):
    """SuperLU."""

    takes_columns = True

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Factorise."""
        return _SparseFactors(pattern, entries)

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Solve with the factors."""
        return np.asarray(factors.lu.solve(rhs, trans="T" if transpose else "N"), dtype=np.float64)


class _SparseFactors:
    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        from scipy.sparse.linalg import splu

        self._parts = pattern, entries
        # Diagonal dominance makes pivoting unnecessary; a symmetric ordering then fills least.
        self.lu = splu(
            pattern.matrix(entries).tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def __reduce__(self) -> tuple[type[_SparseFactors], tuple[SystemPattern, FloatArray]]:
        """Factorise again where the factors are copied or pickled: SuperLU's cannot be."""
        return _SparseFactors, self._parts


class ValueIteration(LinearSolver):
    """Richardson's iteration: for values this is policy evaluation by sweeps."""

    direct, contraction = False, 0.5

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Return the matrix."""
        return pattern.matrix(entries)

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Repeat x <- x + (b - M x)."""
        matrix, norm = factors.T if transpose else factors, NORMS[transpose]
        goal = max(reduction, 1e-3) * norm(np.abs(rhs))
        solution, defect = rhs.copy(), rhs - matrix @ rhs
        for _ in range(MAX_SWEEPS):
            if not norm(np.abs(defect)) > goal:
                break
            solution += defect
            defect = rhs - matrix @ solution
        return solution

    def soft_value(self, problem: SoftProblem) -> Solved:
        """Take rounds of sweeps V <- T V in place of Newton steps."""
        mdp, start, tolerance, max_iterations, _ = problem
        at, steps, total = Backup(mdp, start), 0, 0
        while steps < max_iterations and at.residual > max(tolerance, at.rounding):
            _tell(at)
            at, swept = _swept(at)
            steps, total = steps + 1, total + swept
        return _solved(at, tolerance, steps, total)


class Krylov(LinearSolver):
    """BiCGSTAB with Jacobi's preconditioner: rows are divided by their diagonal."""

    direct, contraction, fallback = False, 0.5, ValueIteration()

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Return the inverse diagonal, and the matrix with rows divided by the diagonal."""
        scale = 1.0 / entries[pattern.diagonal]
        return scale, pattern.matrix(entries * np.repeat(scale, np.diff(pattern.indptr)))

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Backup."""
        # M x = b is (D M) x = D b, and M^T x = b is (D M)^T (x / D) = b.
        scale, matrix = factors
        if transpose:
            return np.asarray(scale * _bicgstab(matrix.T, rhs, reduction))
        return _bicgstab(matrix, scale * rhs, reduction)

    def soft_value(self, problem: SoftProblem) -> Solved:
        """Take Newton steps on iterative solves, with sweeps to fall back on."""
        mdp, start, tolerance, max_iterations, _ = problem
        kernel, gamma = mdp.kernel, mdp.gamma
        best = at = Backup(mdp, start)
        # An exact step from a residual d leads to at most 4 d / (1 - gamma): whatever exceeds this
        # has been spoilt by the inexactness of a solve.
        largest = 4.0 * at.residual / (1.0 - gamma)
        loosest, tightest = FORCING
        previous, steps, total, idle = np.inf, 0, 0, 0
        while at.residual > max(tolerance, at.rounding):
            _tell(at)
            if steps == max_iterations:
                at = min(at, best, key=_residual)
                break
            steps += 1
            forcing = max(0.9 * (at.residual / previous) ** 1.6, tightest)
            forcing = max(min(forcing, loosest), 0.3 * tolerance / at.residual)
            previous = at.residual
            try:
                prepared = self.init(kernel.pattern, kernel.system_entries(at.policy, gamma))
                correction = self.solve(prepared, at.defect, False, forcing)
                at = Backup(mdp, Backup(mdp, at.value + correction).backed_up)
                if at.residual > largest:
                    raise Breakdown("an inexact Newton step raised the residual too far")
            except Breakdown:
                previous, loosest = np.inf, max(0.1 * loosest, tightest)
                at, swept = _swept(best)
                total += swept
            idle = 0 if at.residual < best.residual else idle + 1
            best = min(best, at, key=_residual)
            if idle == PATIENCE:  # loose solves may go round in a circle
                loosest, idle = max(0.1 * loosest, tightest), 0
        return _solved(at, tolerance, steps, total)


class KrylovILU(Krylov):
    """BiCGSTAB with a diagonal incomplete LU factorisation, in compiled code."""

    needs_kernels = True

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Return the incomplete factors."""
        from .incomplete import IncompleteFactors

        return IncompleteFactors(pattern, entries)

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Backup."""
        goal = max(reduction, 4.0 * EPS)
        solution, left = factors.solve(rhs, transpose, goal, KRYLOV_ITERATIONS)
        if not left <= 0.5:
            raise Breakdown(_left(left))
        return np.asarray(solution, dtype=np.float64)


@cache
def _lapack() -> Any:
    """Import LAPACK at its first use, and then return it in no time."""
    from scipy.linalg import lapack

    return lapack


def _failure(routine: str, info: int) -> ArithmeticError:
    return ArithmeticError(f"LU factorisation failed (LAPACK {routine} returned {info})")


def _bicgstab(matrix: Any, rhs: FloatArray, reduction: float) -> FloatArray:
    from scipy.sparse.linalg import bicgstab

    size = float(np.abs(rhs).max())
    # SciPy's test for a breakdown is absolute, so the right-hand side is brought to order one.
    rhs, rtol = rhs / size, max(reduction, 4.0 * EPS)
    options = {"rtol": rtol, "maxiter": KRYLOV_ITERATIONS}
    # A breakdown is told by what is left of the right-hand side, not by warnings on the way.
    with np.errstate(all="ignore"):
        solution, info = bicgstab(matrix, rhs, **options)
        if info < 0 and np.isfinite(solution).all():
            # The first residual has become orthogonal to that of the transposed system, as it does
            # where it stands in one absorbing state: it is taken anew.
            solution, info = bicgstab(matrix, rhs, x0=solution, **options)
        left = 0.0
        if info != 0 or not np.isfinite(solution).all():
            left = float(np.linalg.norm(rhs - matrix @ solution) / np.linalg.norm(rhs))
    if not left <= 0.5:
        raise Breakdown(_left(left))
    solution *= size
    return np.asarray(solution, dtype=np.float64)


def _left(share: float) -> str:
    return (
        f"BiCGSTAB left {share:.1e} of the right-hand side after at most "
        f"{KRYLOV_ITERATIONS} iterations"
    )


def _swept(at: Backup) -> tuple[Backup, int]:
    """Sweep until the residual is a tenth; the contraction bounds how long that takes."""
    goal, gamma = SWEEP_REDUCTION * at.residual, at.mdp.gamma
    limit = 1 if gamma == 0.0 else math.ceil(math.log(SWEEP_REDUCTION) / math.log(gamma))
    limit = min(limit, MAX_SWEEPS)
    count = 0
    while count < limit and (count == 0 or at.residual > goal):
        at, count = Backup(at.mdp, at.backed_up), count + 1
    return at, count


def _solved(at: Backup, tolerance: float, *effort: Any) -> Solved:
    converged = at.residual <= max(tolerance, at.rounding)
    return Solved(at.value, at.policy, at.residual, converged, *effort)


def _tell(at: Backup) -> None:
    """Say how far a solve is, if it takes long and anybody listens."""
    tell(lambda: f"solving, Bellman residual {at.residual:.0e} to {at.rounding:.0e}")


def _residual(iterate: Backup) -> float:
    return iterate.residual
