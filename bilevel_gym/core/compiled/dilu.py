"""BiCGSTAB on a diagonal incomplete LU factorisation, M ~ (E + L) E^-1 (E + U).

L and U are the strict triangles of M itself; only the diagonal E is computed, so that the product
has M's diagonal. On a mesh this carries a value along the whole order of the states in one pass,
where Jacobi's preconditioner carries it one cell. With its rows divided by E the matrix is
L + D + U, and the preconditioned one, on y = (I + U) x, needs no product with it:

    (I + L)^-1 (L + D + U) (I + U)^-1 y = t + (I + L)^-1 (y + (D - 2) t),    t = (I + U)^-1 y

so that an iteration costs as much as one without a preconditioner (S. C. Eisenstat, "Efficient
implementation of a class of preconditioned conjugate gradient methods", SIAM J. Sci. Stat. Comput.
2, 1981). For the transposed matrix U^T and L^T take the places of L and U. References: Y. Saad,
Iterative Methods for Sparse Linear Systems, 2nd edition, sections 7.4.2, 9.2.2 and 10.3.

Matrices are CSR with sorted rows, `indptr` and `indices`, their diagonal at `places`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import compiled

__all__ = ["bicgstab", "factorised", "mirrors"]

# Squared cosine between two residuals that are orthogonal up to rounding.
ORTHOGONAL = 1e-31


@compiled
def mirrors(indptr: Any, indices: Any, places: Any) -> Any:
    """Return where entry (j, i) is for each stored entry (i, j) with j < i; -1 if nowhere."""
    found = np.full(len(indices), -1, dtype=np.int32)
    for row in range(len(places)):
        for k in range(indptr[row], places[row]):
            column = indices[k]
            low, high = places[column] + 1, indptr[column + 1]
            while low < high:
                middle = (low + high) // 2
                if indices[middle] < row:
                    low = middle + 1
                else:
                    high = middle
            if low < indptr[column + 1] and indices[low] == row:
                found[k] = low
    return found


@compiled
def factorised(indptr: Any, indices: Any, entries: Any, places: Any, mirror: Any) -> Any:
    """Return 1 / E `[S]` of a matrix, and its entries with rows divided by E."""
    inverse, scaled = np.empty(len(places)), np.empty_like(entries)
    for row in range(len(places)):
        value = entries[places[row]]
        for k in range(indptr[row], places[row]):
            if mirror[k] >= 0:
                value -= entries[k] * entries[mirror[k]] * inverse[indices[k]]
        inverse[row] = 1.0 / value
        for k in range(indptr[row], indptr[row + 1]):
            scaled[k] = entries[k] * inverse[row]
    return inverse, scaled


@compiled
def bicgstab(matrix: Any, rhs: Any, transpose: bool, reduction: float, most: int) -> Any:
    """Return an approximate solution `[S]` of the scaled system, and the share of `rhs` left.

    `matrix` is `(indptr, indices, scaled, places)`.
    The share is that of the preconditioned residual, in the Euclidean norm: `reduction` is where to
    stop, after `most` iterations at the latest, or where a scalar of the method is zero.

    Where the residual has become orthogonal to the first one, as it does where that stands in one
    absorbing state, the method begins again from the residual.
    """
    residual = _forward(matrix, transpose, rhs)
    shadow, direction = residual.copy(), residual.copy()
    solution, half = np.zeros_like(rhs), np.empty_like(rhs)
    moved, turned = np.empty_like(rhs), np.empty_like(rhs)
    aligned = first = whole = size = np.dot(residual, residual)
    goal = reduction**2 * whole
    for _ in range(most):
        if not size > goal:
            break
        if aligned**2 <= ORTHOGONAL * first * size:
            shadow[:], direction[:] = residual, residual
            aligned = first = size
        _multiply(matrix, transpose, direction, half, moved)
        against = np.dot(shadow, moved)
        if against == 0.0:
            break
        alpha = aligned / against
        for i in range(len(rhs)):
            residual[i] -= alpha * moved[i]
        _multiply(matrix, transpose, residual, half, turned)
        length = np.dot(turned, turned)
        omega = np.dot(turned, residual) / length if length > 0.0 else 0.0
        for i in range(len(rhs)):
            solution[i] += alpha * direction[i] + omega * residual[i]
            residual[i] -= omega * turned[i]
        size = np.dot(residual, residual)
        before, aligned = aligned, np.dot(shadow, residual)
        if omega == 0.0:
            break
        beta = aligned / before * alpha / omega
        for i in range(len(rhs)):
            direction[i] = residual[i] + beta * (direction[i] - omega * moved[i])
    _backward(matrix, transpose, solution, half)
    return half, np.sqrt(size / whole)


@compiled
def _multiply(matrix: Any, transpose: bool, vector: Any, half: Any, product: Any) -> None:
    """Write the preconditioned matrix times a vector; `half` is room for (I + U)^-1 of it."""
    indptr, indices, scaled, places = matrix
    _backward(matrix, transpose, vector, half)
    size = len(vector)
    if transpose:
        for i in range(size):
            product[i] = vector[i] + (scaled[places[i]] - 2.0) * half[i]
        for i in range(size):
            value = product[i]
            for k in range(places[i] + 1, indptr[i + 1]):
                product[indices[k]] -= scaled[k] * value
    else:
        for i in range(size):
            value = vector[i] + (scaled[places[i]] - 2.0) * half[i]
            for k in range(indptr[i], places[i]):
                value -= scaled[k] * product[indices[k]]
            product[i] = value
    product += half


@compiled
def _forward(matrix: Any, transpose: bool, vector: Any) -> Any:
    """Return (I + L)^-1 of a vector."""
    indptr, indices, scaled, places = matrix
    solution = vector.copy()
    for i in range(len(vector)):
        if transpose:
            value = solution[i]
            for k in range(places[i] + 1, indptr[i + 1]):
                solution[indices[k]] -= scaled[k] * value
        else:
            for k in range(indptr[i], places[i]):
                solution[i] -= scaled[k] * solution[indices[k]]
    return solution


@compiled
def _backward(matrix: Any, transpose: bool, vector: Any, solution: Any) -> None:
    """Write (I + U)^-1 of a vector."""
    indptr, indices, scaled, places = matrix
    size = len(vector)
    if transpose:
        solution[:] = vector
        for i in range(size - 1, -1, -1):
            value = solution[i]
            for k in range(indptr[i], places[i]):
                solution[indices[k]] -= scaled[k] * value
    else:
        for i in range(size - 1, -1, -1):
            value = vector[i]
            for k in range(places[i] + 1, indptr[i + 1]):
                value -= scaled[k] * solution[indices[k]]
            solution[i] = value
