"""Systems with `I - discount * P_pi` on incomplete factors; `compiled.dilu` has the method."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import dilu
from .compiled.team import gather, together
from .pattern import SystemPattern
from .threads import threads_for

__all__ = ["IncompleteFactors"]

FloatArray = NDArray[np.float64]

# Right-hand sides are of order one and get at least so much in every entry. Sweeps carry what
# stands in one state through all others, smaller and smaller, and numbers below the smallest normal
# one take the processor many times as long.
FLOOR = 1e-30


class IncompleteFactors:
    """The incomplete factors of a matrix, with as many blocks as threads were asked for."""

    def __init__(self, pattern: SystemPattern, entries: FloatArray) -> None:
        """Factorise the matrix with the entries `[E]`."""
        self.blocks, self.order, structure, mirrors = pattern.sweeps(threads_for(entries.size))
        self.inverse = np.empty(len(self.order))
        self.system = *structure, np.empty_like(entries)
        parts = pattern.indptr, self.order, mirrors, entries, self.system, self.inverse
        together(gather(self.threads), lambda rank: dilu.factorise(*parts, self._block(rank)))

    def _block(self, rank: int) -> tuple[int, int]:
        """Return the range of the rows that are a thread's."""
        return int(self.blocks[rank]), int(self.blocks[rank + 1])

    @property
    def threads(self) -> int:
        """How many threads work on it."""
        return len(self.blocks) - 1

    @cached_property
    def transposed(self) -> tuple[Any, ...]:
        """The system of the transposed matrix."""
        indptr, _, places, _, indices, scaled = self.system
        # NumPy asks for large pages; what is allocated in compiled code has small ones.
        rows, columns, diagonal, values = map(np.empty_like, (indptr, indices, places, scaled))
        dilu.transpose(indptr, indices, scaled, rows, columns, diagonal, values)
        first, last = dilu.inner(rows, columns, self.blocks)
        return rows, first, diagonal, last, columns, values

    def solve(
        self, rhs: FloatArray, transpose: bool, reduction: float, most: int
    ) -> tuple[FloatArray, float]:
        """Return an approximate solution `[S]`, and the share of the right-hand side left."""
        room = tuple(np.empty_like(rhs) for _ in range(7))
        right = np.take(rhs, self.order, out=room[0], mode="clip")
        if not transpose:
            right *= self.inverse
        size = max(float(right.max()), -float(right.min()))
        right /= size  # squares neither overflow nor underflow
        right += FLOOR
        system = self.transposed if transpose else self.system
        team, sums, left = gather(self.threads), np.empty((5, self.threads)), [0.0] * self.threads

        def work(rank: int) -> None:
            parts = room, self._block(rank), sums, team, rank
            left[rank] = dilu.bicgstab(system, reduction, most, *parts)

        together(team, work)
        found = room[1]
        found *= size
        if transpose:
            found *= self.inverse
        solution = np.empty_like(rhs)
        solution[self.order] = found
        return solution, left[0]
