"""Linear systems with `I - discount * P_pi`: the one matrix behind values, occupancies, adjoints.

The matrix is a row-diagonally-dominant M-matrix, so it is never singular for a discount below
one. A factorisation made at a nearby policy (the last Newton step's) serves as the
preconditioner of iterative refinement; the residual is always taken with the true matrix.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .mdp import FloatArray, Kernel

__all__ = ["DiscountedSystem", "Factorisation", "factorise"]

# Below this many states dense LAPACK beats sparse LU even on grids (a solve with its gradient, one
# thread: 2.8x faster at 51 states, 1.6x at 165, equal at 208, half as fast at 317).
DENSE_LIMIT = 200

# A kernel whose rows hold more than this share of the states fills the sparse factors anyway (rows
# without zeros: dense LAPACK is 3x faster at 300 states, 1.7x at 1000).
DENSE_FILL = 0.1


class Factorisation(Protocol):
    """LU factors of `I - discount * P_pi` for some policy."""

    def solve(self, rhs: FloatArray, *, transpose: bool = False) -> FloatArray:
        """Solve with the factorised matrix, or with its transpose, for `rhs` `[S]`."""
        ...


class _DenseLU:
    def __init__(self, matrix: FloatArray) -> None:
        from scipy.linalg.lapack import dgetrf

        # The transpose of a C-ordered matrix is what LAPACK reads without a copy.
        self._lu, self._pivots, info = dgetrf(matrix.T.copy(order="F"), overwrite_a=True)
        if info != 0:
            raise ArithmeticError(f"LU factorisation failed (LAPACK dgetrf returned {info})")

    def solve(self, rhs: FloatArray, *, transpose: bool = False) -> FloatArray:
        from scipy.linalg.lapack import dgetrs

        solution, _ = dgetrs(self._lu, self._pivots, rhs, trans=0 if transpose else 1)
        return np.asarray(solution, dtype=np.float64)


class _SparseLU:
    def __init__(self, matrix: Any) -> None:
        from scipy.sparse.linalg import splu

        # Diagonal dominance makes pivoting unnecessary; a symmetric ordering then fills least.
        self._lu = splu(
            matrix.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def solve(self, rhs: FloatArray, *, transpose: bool = False) -> FloatArray:
        return np.asarray(self._lu.solve(rhs, trans="T" if transpose else "N"), dtype=np.float64)


class DiscountedSystem:
    """The matrix `I - discount * P_pi` of one policy, with solves on it and on its transpose.

    Attributes:
        discount: The discount of the matrix, in [0, 1).
    """

    def __init__(
        self,
        kernel: Kernel,
        policy: FloatArray,
        discount: float,
        preconditioner: Factorisation | None = None,
    ) -> None:
        """Store what the matrix is made of; it is assembled and factorised at the first solve.

        Args:
            kernel: Transition kernel.
            policy: Action probabilities `[S, A]`.
            discount: In [0, 1).
            preconditioner: Factors of the same matrix at a nearby policy, if there are any.
        """
        self.discount = discount
        self._kernel = kernel
        self._policy = policy
        self._factors = preconditioner
        self._fresh = False
        self._matrix: Any = None

    def solve(self, rhs: FloatArray, *, transpose: bool = False) -> tuple[FloatArray, float]:
        """Solve `M x = rhs`, or `M^T x = rhs`, to rounding.

        Args:
            rhs: Right-hand side `[S]`.
            transpose: Whether to use the transposed matrix.

        Returns:
            The solution `[S]` and the sup norm of its residual.
        """
        if self._factors is None:
            self._refactorise()
        solution, residual, settled = self._refine(rhs, transpose)
        if not settled and not self._fresh:
            self._refactorise()
            solution, residual, _ = self._refine(rhs, transpose)
        return solution, residual

    def _refine(self, rhs: FloatArray, transpose: bool) -> tuple[FloatArray, float, bool]:
        """Return solution, residual and whether the residual is down to rounding."""
        assert self._factors is not None
        matrix = self.matrix.T if transpose else self.matrix
        solution = self._factors.solve(rhs, transpose=transpose)
        defect = rhs - matrix @ solution
        residual = float(np.abs(defect).max())
        while residual > 8.0 * np.finfo(np.float64).eps * float(np.abs(solution).max()):
            refined = solution + self._factors.solve(defect, transpose=transpose)
            defect = rhs - matrix @ refined
            remaining = float(np.abs(defect).max())
            # A poor preconditioner creeps; fresh factors are then the cheaper way.
            creeps = not remaining <= 0.1 * residual
            if remaining < residual:
                solution, residual = refined, remaining
            if creeps:
                return solution, residual, False
        if not np.isfinite(residual):
            raise ArithmeticError(
                "a linear system of the follower's problem overflowed: rewards or values are "
                "not finite, or too large for float64"
            )
        return solution, residual, True

    @property
    def matrix(self) -> Any:
        """`I - discount * P_pi`, dense for small state spaces, else CSR, `[S, S]`."""
        if self._matrix is None:
            self._matrix = _system_matrix(self._kernel, self._policy, self.discount)
        return self._matrix

    def _refactorise(self) -> None:
        self._factors = _factorise(self.matrix)
        self._fresh = True


def factorise(kernel: Kernel, policy: FloatArray, discount: float) -> Factorisation:
    """Factorise `I - discount * P_pi`.

    Args:
        kernel: Transition kernel.
        policy: Action probabilities `[S, A]`.
        discount: In [0, 1).
    """
    return _factorise(_system_matrix(kernel, policy, discount))


def _system_matrix(kernel: Kernel, policy: FloatArray, discount: float) -> Any:
    size = kernel.num_states
    fill = kernel.matrix.nnz / (kernel.num_actions * size * size)
    if size <= DENSE_LIMIT or fill > DENSE_FILL:
        dense = kernel.dense_policy_matrix(policy)
        dense *= -discount
        dense.flat[:: size + 1] += 1.0
        return dense
    from scipy.sparse import eye_array

    return eye_array(size, format="csr") - discount * kernel.policy_matrix(policy)


def _factorise(matrix: Any) -> Factorisation:
    return _DenseLU(matrix) if isinstance(matrix, np.ndarray) else _SparseLU(matrix)
