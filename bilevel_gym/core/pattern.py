"""Where the entries of `I - discount * P_pi` come from: computed once for a sparsity pattern.

The matrix is linear in the policy. With the coefficients c = (-discount * pi(a|s), ..., 1), its
stored entries are a sparse product G c: row i of G holds the probabilities P(s'|s, a) of the
transitions that meet in entry i = (s, s'), and a one where s = s'. G depends on the probabilities;
everything else here depends on the pattern alone, so that every x and every Newton step share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["Band", "SystemPattern"]

IntArray = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Band:
    """Place of the entries in LAPACK's band storage, after a reordering of the states.

    Attributes:
        order: State at each new position `[S]` (reverse Cuthill-McKee).
        lower: Subdiagonals.
        upper: Superdiagonals.
    """

    order: IntArray
    lower: int
    upper: int

    @cached_property
    def height(self) -> int:
        """Rows of the band storage, those that pivoting may fill included."""
        return 2 * self.lower + self.upper + 1


class SystemPattern:
    """Sparsity pattern of `I - discount * P_pi`, the diagonal always included.

    Attributes:
        num_states: S.
        indices: Column of each entry, `[E]`.
        indptr: First entry of each row, `[S + 1]`.
        diagonal: Entry of each state's diagonal, `[S]`.
    """

    def __init__(self, indptr: IntArray, successors: IntArray, rows: IntArray, size: int) -> None:
        """Find the pattern of a CSR kernel of `size` states; `rows` are of its transitions."""
        self.num_states = size
        num_rows, transitions = len(indptr) - 1, len(successors)
        # Transitions and diagonal, gathered by state, then sorted by successor: two linear passes.
        counts = np.diff(indptr).reshape(-1, size)
        first = np.zeros(size + 1, dtype=np.int32)
        np.cumsum(counts.sum(axis=0) + 1, out=first[1:])
        start = first[:-1] + np.cumsum(counts, axis=0) - counts
        place = np.repeat((start.ravel() - indptr[:-1]).astype(np.int32), counts.ravel())
        place += np.arange(transitions, dtype=np.int32)
        columns = np.empty(transitions + size, dtype=np.int32)
        sources = np.full(transitions + size, transitions, dtype=np.int32)
        columns[place] = successors
        sources[place] = np.arange(transitions, dtype=np.int32)
        columns[first[1:] - 1] = np.arange(size, dtype=np.int32)
        gathered = csr_array((sources, columns, first), shape=(size, size))
        gathered.sort_indices()
        columns, self._sources = gathered.indices, gathered.data

        new = np.empty(columns.size, dtype=bool)
        new[1:] = columns[1:] != columns[:-1]
        new[first[:-1]] = True
        entries = np.flatnonzero(new)
        self.indices: IntArray = columns[entries]
        self.indptr: IntArray = np.searchsorted(entries, first).astype(np.int32)
        self.diagonal = np.flatnonzero(self.indices == self._entry_rows).astype(np.int32)
        self._gather_indptr = np.append(entries, columns.size).astype(np.int32)
        self._gather_indices = np.append(rows, np.int32(num_rows))[self._sources]
        self._num_coefficients = num_rows + 1

    def gatherer(self, probabilities: NDArray[np.float64]) -> Any:
        """Return G as CSR `[E, A*S + 1]`, for the probabilities `[K]` of the transitions."""
        indptr, rows, sources = self.gathering
        shape = self.indices.size, self._num_coefficients
        return csr_array((np.append(probabilities, 1.0)[sources], rows, indptr), shape=shape)

    @property
    def gathering(self) -> tuple[IntArray, IntArray, IntArray]:
        """Where the rows of G begin `[E + 1]`, its columns, and the transitions that are in it.

        The last of these is K for the ones of the diagonal.
        """
        return self._gather_indptr, self._gather_indices, self._sources

    def matrix(self, entries: NDArray[np.float64]) -> Any:
        """Return the entries `[E]` as a CSR matrix `[S, S]`."""
        return csr_array((entries, self.indices, self.indptr), shape=(self.num_states,) * 2)

    def dense(self, entries: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entries `[E]` as a dense matrix `[S, S]`."""
        matrix = np.zeros((self.num_states, self.num_states))
        matrix.ravel()[self._cells] = entries
        return matrix

    @cached_property
    def _cells(self) -> NDArray[np.int64]:
        """Position `s * S + s'` of each entry in a dense matrix, `[E]`."""
        return self._entry_rows.astype(np.int64) * self.num_states + self.indices

    def sweeps(self, threads: int) -> tuple[Any, ...]:
        """The order of the states for triangular sweeps, and the pattern in that order.

        Returns:
            Where the block of each thread begins, and the last one ends; the state at each place
            `[S]`; `indptr`, `first`, `places`, `last` and `indices` of the systems; the place of
            each entry's mirrored one `[E]`, -1 if there is none. See
            `bilevel_gym.core.compiled.dilu`, which needs the extra `fast`.
        """
        if threads not in self._sweeps:
            from .compiled import dilu

            shares = np.arange(threads + 1) * (self.indices.size / threads)
            blocks = np.searchsorted(self.indptr, shares)
            parts = self.indptr, self.indices, self.diagonal
            order = dilu.sweep_order(*parts, blocks)
            rows, columns, diagonal = map(np.empty_like, parts)
            mirrors = dilu.reorder(*parts, order, rows, columns, diagonal)
            first, last = dilu.inner(rows, columns, blocks)
            self._sweeps[threads] = blocks, order, (rows, first, diagonal, last, columns), mirrors
        return self._sweeps[threads]

    @cached_property
    def _sweeps(self) -> dict[int, tuple[Any, ...]]:
        return {}

    @cached_property
    def band(self) -> Band:
        """The narrow band that reverse Cuthill-McKee finds."""
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        order = reverse_cuthill_mckee(self.matrix(np.ones(self.indices.size)))
        offsets = self._offsets(order)
        return Band(order, max(0, int(-offsets.min())), max(0, int(offsets.max())))

    @cached_property
    def band_slots(self) -> NDArray[np.int64]:
        """Position of each entry in the transposed band storage `[S, band.height]`, flattened."""
        band = self.band
        position = np.argsort(band.order)
        offsets = self._offsets(band.order)
        return position[self.indices] * band.height + band.lower + band.upper - offsets

    def _offsets(self, order: IntArray) -> IntArray:
        """Return column minus row of each entry after a reordering, `[E]`."""
        position = np.empty_like(order)
        position[order] = np.arange(order.size, dtype=order.dtype)
        return position[self.indices] - position[self._entry_rows]

    @property
    def _entry_rows(self) -> IntArray:
        return np.repeat(np.arange(self.num_states, dtype=np.int32), np.diff(self.indptr))
