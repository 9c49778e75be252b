"""BiCGSTAB on a diagonal incomplete LU factorisation, M ~ (E + L) E^-1 (E + U).

L and U are the strict triangles of M itself; only the diagonal E is computed, so that the product
has M's diagonal. On a mesh this carries a value along the whole order of the states in one pass,
where Jacobi's preconditioner carries it one cell. With its rows divided by E the matrix is
L + D + U, and the preconditioned one, on y = (I + U) x, needs no product with it:

    (I + L)^-1 (L + D + U) (I + U)^-1 y = t + (I + L)^-1 (y + (D - 2) t),    t = (I + U)^-1 y

so that an iteration costs as much as one without a preconditioner (S. C. Eisenstat, "Efficient
implementation of a class of preconditioned conjugate gradient methods", SIAM J. Sci. Stat. Comput.
2, 1981). References: Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, sections
7.4.2, 9.2.2, 10.3 and 12.2.

States are taken in an order in which sweeps neither wait nor guess (`sweep_order`). In the order of
a map each row needs the one before, and the processor mispredicts how many entries it has. Sorted
by how many rows in turn must come before them, and then by how many entries they have, next rows
are alike and do not need each other. Each pair of neighbours keeps its order, so the factors have
the same entries. (Saad, section 11.6.3, on levels.) On a map of 300 x 300 an iteration takes less
than half of the time.

Several threads have a block of states each, and sweep within it. C, the entries between blocks, is
in no triangle: it adds C t to y + (D - 2) t. So threads meet seven times in an iteration; on a
mesh, where few entries are between blocks, hardly more iterations are needed.

A system is `(indptr, first, places, last, indices, scaled)`: CSR rows in the order, with sorted
columns and divided by E. From `first` on come a row's entries of L, at `places` is that of D, and
after it come those of U, until `last`; what else it has is of C.

Indices are made unsigned where they are used: for signed ones numba adds Python's treatment of
negative indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import compiled
from .team import meet, size_of

__all__ = ["bicgstab", "factorise", "inner", "reorder", "sweep_order", "transpose"]

ONE = np.uint64(1)

# Squared cosine between two residuals that are orthogonal up to rounding.
ORTHOGONAL = 1e-31


@compiled
def inner(indptr: Any, indices: Any, blocks: Any) -> Any:
    """Return where each row's entries within its block begin and end `[S]`; columns are sorted.

    Block b has the states from blocks[b] to before blocks[b + 1].
    """
    first, last = indptr[:-1].copy(), indptr[1:].copy()
    for block in range(len(blocks) - 1):
        start, stop = blocks[block], blocks[block + 1]
        for row in range(start, stop):
            while indices[first[row]] < start:
                first[row] += 1
            while indices[last[row] - 1] >= stop:
                last[row] -= 1
    return first, last


@compiled
def levels(first: Any, last: Any, indices: Any) -> Any:
    """Return how many neighbours in turn come before each state in its block, `[S]`."""
    level = np.zeros(len(first), dtype=np.int32)
    for row in range(len(level)):
        for k in range(first[row], last[row]):
            if indices[k] < row:
                level[row] = max(level[row], level[indices[k]] + 1)
        for k in range(first[row], last[row]):
            if indices[k] > row:
                level[indices[k]] = max(level[indices[k]], level[row] + 1)
    return level


def sweep_order(indptr: Any, indices: Any, places: Any, blocks: Any) -> Any:
    """Return the order of the states `[S]`, given a pattern with sorted columns."""
    first, last = inner(indptr, indices, blocks)
    level = levels(first, last, indices)
    block = np.repeat(np.arange(len(blocks) - 1, dtype=np.int32), np.diff(blocks))
    return np.lexsort((last - places, places - first, level, block)).astype(np.int32)


@compiled
def reorder(
    indptr: Any, indices: Any, places: Any, order: Any, rows: Any, columns: Any, diagonal: Any
) -> Any:
    """Set `indptr`, `indices`, `places` in an order, and return where mirrored entries are `[E]`.

    That is, for an entry (i, j) left of the diagonal, the place of (j, i), -1 if nowhere. Given are
    those of a pattern with sorted columns; the entries of a row keep their order.
    """
    position, mirrors = np.empty_like(order), np.full_like(indices, -1)
    rows[0] = 0
    for row in range(len(order)):
        state = order[row]
        position[state] = row
        rows[row + 1] = rows[row] + indptr[state + 1] - indptr[state]
    for row in range(len(order)):
        state = order[row]
        shift = rows[row] - indptr[state]
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
                mirrors[k + shift] = rows[position[other]] + low - indptr[other]
    return mirrors


@compiled
def factorise(
    natural: Any, order: Any, mirrors: Any, entries: Any, system: Any, inverse: Any, block: Any
) -> None:
    """Set 1 / E `[S]` of a block, and `scaled` of the system there.

    `natural` says where the rows of `entries` begin, which are in the order of the states; `block`
    is the range of rows.
    """
    indptr, first, places, _, _, scaled = system
    for row in range(block[0], block[1]):
        shift = natural[order[row]] - indptr[row]
        value = entries[places[row] + shift]
        for k in range(first[row], places[row]):
            if mirrors[k] >= 0:
                # Row j of `scaled` is divided by E_j already.
                value -= entries[k + shift] * scaled[mirrors[k]]
        inverse[row] = 1.0 / value
        for k in range(indptr[row], indptr[row + 1]):
            scaled[k] = entries[k + shift] * inverse[row]


@compiled
def transpose(
    indptr: Any, indices: Any, scaled: Any, rows: Any, columns: Any, diagonal: Any, entries: Any
) -> None:
    """Set `indptr`, `indices`, `places` and `scaled` of the transposed matrix, columns sorted."""
    rows[:] = 0
    for column in indices:
        rows[column + 1] += 1
    for row in range(len(diagonal)):
        rows[row + 1] += rows[row]
    free = rows[:-1].copy()
    for row in range(len(diagonal)):
        for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            column = np.uint64(indices[k])
            place = np.uint64(free[column])
            columns[place], entries[place] = row, scaled[k]
            free[column] = place + ONE
            if column == row:
                diagonal[row] = place


@compiled
def bicgstab(
    system: Any, reduction: float, most: int, room: Any, block: Any, sums: Any, team: Any, rank: int
) -> float:
    """Solve a system approximately; return the share of the right-hand side left.

    `room`, seven vectors `[S]`, has the right-hand side in the first and then the solution in the
    second. Each thread calls it with its rank and the range of its block; `sums` has five rows, and
    a column for each.
    The share is that of the preconditioned residual, in the Euclidean norm: `reduction` is where to
    stop, after `most` iterations at the latest, or where a scalar of the method is zero.

    Where the residual has become orthogonal to the first one, as it does where that stands in one
    absorbing state, the method begins again from the residual.
    """
    start, size = np.uint64(block[0]), np.uint64(block[1] - block[0])
    mine, half = slice(block[0], block[1]), room[1]
    residual, solution, shadow = room[0][mine], room[2][mine], room[3][mine]
    direction, moved, turned = room[4][mine], room[5][mine], room[6][mine]
    _forward(system, room[0], start, size)
    solution[:], shadow[:], direction[:] = 0.0, residual, residual
    left = _sum(np.dot(residual, residual), sums, team, rank, 0)
    aligned = first = whole = left
    goal = reduction**2 * whole
    for _ in range(most):
        if not left > goal:
            break
        if aligned**2 <= ORTHOGONAL * first * left:
            shadow[:], direction[:] = residual, residual
            aligned = first = left
        _multiply(system, room[4], half, room[5], start, size, team, rank)
        against = _sum(np.dot(shadow, moved), sums, team, rank, 1)
        if against == 0.0:
            break
        alpha = aligned / against
        for i in range(len(residual)):
            residual[i] -= alpha * moved[i]
        _multiply(system, room[0], half, room[6], start, size, team, rank)
        length = _sum(np.dot(turned, turned), sums, team, rank, 2)
        along = _sum(np.dot(turned, residual), sums, team, rank, 3)
        omega = along / length if length > 0.0 else 0.0
        for i in range(len(residual)):
            solution[i] += alpha * direction[i] + omega * residual[i]
            residual[i] -= omega * turned[i]
        left = _sum(np.dot(residual, residual), sums, team, rank, 0)
        before, aligned = aligned, _sum(np.dot(shadow, residual), sums, team, rank, 4)
        if omega == 0.0:
            break
        beta = aligned / before * alpha / omega
        for i in range(len(residual)):
            direction[i] = residual[i] + beta * (direction[i] - omega * moved[i])
    _backward(system, room[2], half, start, size)
    return np.sqrt(left / whole)


@compiled
def _sum(part: float, sums: Any, team: Any, rank: int, row: int) -> float:
    """Return the sum of what all threads have; from one call to the next the row changes."""
    sums[row, rank] = part
    meet(team, rank)
    total = 0.0
    for other in range(size_of(team)):
        total += sums[row, other]
    return total


@compiled
def _multiply(
    system: Any, vector: Any, half: Any, product: Any, start: Any, size: Any, team: Any, rank: int
) -> None:
    """Write the preconditioned matrix times a vector; `half` is room for (I + U)^-1 of it."""
    indptr, first, places, last, indices, scaled = system
    _backward(system, vector, half, start, size)
    if size_of(team) == 1:
        for n in range(size):
            i = start + n
            value = vector[i] + (scaled[np.uint64(places[i])] - 2.0) * half[i]
            for k in range(np.uint64(first[i]), np.uint64(places[i])):
                value -= scaled[k] * product[np.uint64(indices[k])]
            product[i] = value
    else:
        meet(team, rank)
        for n in range(size):
            i = start + n
            value = vector[i] + (scaled[np.uint64(places[i])] - 2.0) * half[i]
            for k in range(np.uint64(first[i]), np.uint64(places[i])):
                value -= scaled[k] * product[np.uint64(indices[k])]
            for k in range(np.uint64(indptr[i]), np.uint64(first[i])):
                value += scaled[k] * half[np.uint64(indices[k])]
            for k in range(np.uint64(last[i]), np.uint64(indptr[i + ONE])):
                value += scaled[k] * half[np.uint64(indices[k])]
            product[i] = value
    for n in range(size):
        product[start + n] += half[start + n]


@compiled
def _forward(system: Any, vector: Any, start: Any, size: Any) -> None:
    """Replace a vector by (I + L)^-1 of it."""
    _, first, places, _, indices, scaled = system
    for n in range(size):
        i = start + n
        value = vector[i]
        for k in range(np.uint64(first[i]), np.uint64(places[i])):
            value -= scaled[k] * vector[np.uint64(indices[k])]
        vector[i] = value


@compiled
def _backward(system: Any, vector: Any, solution: Any, start: Any, size: Any) -> None:
    """Write (I + U)^-1 of a vector."""
    _, _, places, last, indices, scaled = system
    stop = start + size - ONE
    for n in range(size):
        i = stop - n
        value = vector[i]
        for k in range(np.uint64(places[i]) + ONE, np.uint64(last[i])):
            value -= scaled[k] * solution[np.uint64(indices[k])]
        solution[i] = value
