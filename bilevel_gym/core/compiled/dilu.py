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

Matrices are CSR, `indptr` and `indices`, their diagonal at `places`; before it in a row is L, after
it U.

States are taken in an order in which sweeps neither wait nor guess (`sweep_order`). In the order of
a map each row needs the one before, and the processor mispredicts how many entries it has. Sorted
by how many rows in turn must come before them, and then by how many entries they have, next rows
are alike and do not need each other. Each pair of neighbours keeps its order, so the factors have
the same entries. (Saad, section 11.6.3, on levels.) On a map of 300 x 300 an iteration takes less
than half of the time.

Indices are made unsigned where they are used: for signed ones numba adds Python's treatment of
negative indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import compiled

__all__ = ["bicgstab", "factorised", "reordered", "sweep_order"]

ONE = np.uint64(1)

# Squared cosine between two residuals that are orthogonal up to rounding.
ORTHOGONAL = 1e-31


@compiled
def levels(indptr: Any, indices: Any) -> Any:
    """Return how many neighbours in turn come before each state `[S]`."""
    level = np.zeros(len(indptr) - 1, dtype=np.int32)
    for row in range(len(level)):
        for k in range(indptr[row], indptr[row + 1]):
            if indices[k] < row:
                level[row] = max(level[row], level[indices[k]] + 1)
        for k in range(indptr[row], indptr[row + 1]):
            if indices[k] > row:
                level[indices[k]] = max(level[indices[k]], level[row] + 1)
    return level


def sweep_order(indptr: Any, indices: Any, places: Any) -> Any:
    """Return the order of the states `[S]`, given a pattern with sorted rows."""
    below, above = places - indptr[:-1], indptr[1:] - places - 1
    return np.lexsort((above, below, levels(indptr, indices))).astype(np.int32)


@compiled
def reordered(indptr: Any, indices: Any, places: Any, order: Any) -> Any:
    """Return `indptr`, `indices`, `places` in an order, and where mirrored entries are.

    The last, for an entry (i, j) left of the diagonal, is the place of (j, i), -1 if nowhere. Given
    are those of a pattern with sorted rows; the entries of a row keep their order.
    """
    size = len(order)
    position, starts = np.empty(size, dtype=np.int32), np.zeros(size + 1, dtype=np.int32)
    for row in range(size):
        state = order[row]
        position[state] = row
        starts[row + 1] = starts[row] + indptr[state + 1] - indptr[state]
    columns, diagonal = np.empty_like(indices), np.empty_like(places)
    mirrors = np.full(len(indices), -1, dtype=np.int32)
    for row in range(size):
        state = order[row]
        shift = starts[row] - indptr[state]
        diagonal[row] = places[state] + shift
        for k in range(indptr[state], indptr[state + 1]):
            columns[k + shift] = position[indices[k]]
        for k in range(indptr[state], places[state]):
            other = indices[k]
            low, high = places[other] + 1, indptr[other + 1]
            while low < high:
                middle = (low + high) // 2
                if indices[middle] < state:
                    low = middle + 1
                else:
                    high = middle
            if low < indptr[other + 1] and indices[low] == state:
                mirrors[k + shift] = starts[position[other]] + low - indptr[other]
    return starts, columns, diagonal, mirrors


@compiled
def factorised(
    natural: Any, order: Any, indptr: Any, indices: Any, places: Any, mirrors: Any, entries: Any
) -> Any:
    """Return 1 / E `[S]` of a matrix, and its entries with rows divided by E, both in the order.

    `natural` says where the rows of `entries` begin, which are in the order of the states.
    """
    inverse, scaled = np.empty(len(order)), np.empty_like(entries)
    for row in range(len(order)):
        shift = natural[order[row]] - indptr[row]
        value = entries[places[row] + shift]
        for k in range(indptr[row], places[row]):
            if mirrors[k] >= 0:
                # Row j of `scaled` is divided by E_j already.
                value -= entries[k + shift] * scaled[mirrors[k]]
        inverse[row] = 1.0 / value
        for k in range(indptr[row], indptr[row + 1]):
            scaled[k] = entries[k + shift] * inverse[row]
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
    residual = rhs.copy()
    _forward(matrix, transpose, residual)
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
    if transpose:
        for i in range(len(vector)):
            product[i] = vector[i] + (scaled[np.uint64(places[i])] - 2.0) * half[i]
        _forward(matrix, transpose, product)
    else:
        # As above, in one pass.
        for i in range(np.uint64(len(vector))):
            value = vector[i] + (scaled[np.uint64(places[i])] - 2.0) * half[i]
            for k in range(np.uint64(indptr[i]), np.uint64(places[i])):
                value -= scaled[k] * product[np.uint64(indices[k])]
            product[i] = value
    product += half


@compiled
def _forward(matrix: Any, transpose: bool, vector: Any) -> None:
    """Replace a vector by (I + L)^-1 of it."""
    indptr, indices, scaled, places = matrix
    for i in range(np.uint64(len(vector))):
        value = vector[i]
        if transpose:
            for k in range(np.uint64(places[i]) + ONE, np.uint64(indptr[i + ONE])):
                vector[np.uint64(indices[k])] -= scaled[k] * value
        else:
            for k in range(np.uint64(indptr[i]), np.uint64(places[i])):
                value -= scaled[k] * vector[np.uint64(indices[k])]
            vector[i] = value


@compiled
def _backward(matrix: Any, transpose: bool, vector: Any, solution: Any) -> None:
    """Write (I + U)^-1 of a vector."""
    indptr, indices, scaled, places = matrix
    size = np.uint64(len(vector))
    if transpose:
        solution[:] = vector
    for n in range(size):
        i = size - ONE - n
        if transpose:
            value = solution[i]
            for k in range(np.uint64(indptr[i]), np.uint64(places[i])):
                solution[np.uint64(indices[k])] -= scaled[k] * value
        else:
            value = vector[i]
            for k in range(np.uint64(places[i]) + ONE, np.uint64(indptr[i + ONE])):
                value -= scaled[k] * solution[np.uint64(indices[k])]
            solution[i] = value
