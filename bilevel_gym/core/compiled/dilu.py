"""The diagonal incomplete LU factorisation, M ~ (D + L) D^-1 (D + U).

L and U are the strict triangles of M itself; only the diagonal D is computed, so that the product
has M's diagonal. On a mesh this carries a value along the whole order of the states in one pass,
where Jacobi's preconditioner carries it one cell. Reference: Y. Saad, Iterative Methods for Sparse
Linear Systems, 2nd edition, section 10.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import compiled

__all__ = ["diagonal", "solve", "solve_transposed"]


@compiled
def diagonal(indptr: Any, indices: Any, entries: Any, places: Any) -> Any:
    """Return D `[S]` for a CSR matrix with sorted rows and its diagonal at `places`."""
    size = len(indptr) - 1
    inverse = np.empty(size)
    for row in range(size):
        value = entries[places[row]]
        for k in range(indptr[row], places[row]):
            column = indices[k]
            low, high = places[column] + 1, indptr[column + 1]
            while low < high:  # where is (column, row)?
                middle = (low + high) // 2
                if indices[middle] < row:
                    low = middle + 1
                else:
                    high = middle
            if low < indptr[column + 1] and indices[low] == row:
                value -= entries[k] * entries[low] * inverse[column]
        inverse[row] = 1.0 / value
    return inverse


@compiled
def solve(indptr: Any, indices: Any, entries: Any, places: Any, inverse: Any, rhs: Any) -> Any:
    """Return the solution of (D + L) D^-1 (D + U) x = rhs; `inverse` is 1 / D."""
    size = len(rhs)
    solution = np.empty(size)
    for row in range(size):
        value = rhs[row]
        for k in range(indptr[row], places[row]):
            value -= entries[k] * solution[indices[k]]
        solution[row] = value * inverse[row]
    for row in range(size - 1, -1, -1):
        value = 0.0
        for k in range(places[row] + 1, indptr[row + 1]):
            value += entries[k] * solution[indices[k]]
        solution[row] -= value * inverse[row]
    return solution


@compiled
def solve_transposed(
    indptr: Any, indices: Any, entries: Any, places: Any, inverse: Any, rhs: Any
) -> Any:
    """Return the solution of the transposed factorisation, (D + U^T) D^-1 (D + L^T) x = rhs."""
    size = len(rhs)
    solution = rhs.copy()
    for row in range(size):
        solution[row] *= inverse[row]
        for k in range(places[row] + 1, indptr[row + 1]):
            solution[indices[k]] -= entries[k] * solution[row]
    carried = np.zeros(size)
    for row in range(size - 1, -1, -1):
        solution[row] -= carried[row] * inverse[row]
        for k in range(indptr[row], places[row]):
            carried[indices[k]] += entries[k] * solution[row]
    return solution
