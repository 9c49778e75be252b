"""Drawing from many discrete distributions at once, one look-up each whatever their size.

In an alias table (Walker 1977) the outcomes of a distribution share as many cells, each cell
holding two of them at most. A number u has 32 bits: the integer part of `u * cells / 2^32` is the
cell, and the rest decides between its two outcomes. Weights are rounded once, to multiples of 2^-32
of a cell, and are integers from then on. So an outcome's probability is met to a few 2^-32, and an
outcome that is not listed has no cell and never occurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray

__all__ = ["HALF", "LOW", "AliasTable", "alias_table", "random_words"]

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
CELL = 1 << 32


@dataclass(frozen=True, eq=False)
class AliasTable:
    """Distributions to draw from, one per row, each over outcomes of its own.

    Attributes:
        rows: First cell of each row times 2^32, plus its number of cells, `[R]`.
        thresholds: Share of each cell that its first outcome has, in 2^-32, `[C]`. A full cell,
            for which 2^32 is out of range, has twice the same outcome.
        outcomes: The two outcomes of each cell, `[2C]`.
    """

    rows: NDArray[np.uint64]
    thresholds: NDArray[np.uint32]
    outcomes: NDArray[np.int64]

    def draw(self, rows: NDArray[np.int64], uniforms: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return where in `outcomes` a random number leads in each of some rows, `[n]`."""
        row = self.rows[rows]
        x = uniforms * (row & LOW)
        cells = (row >> HALF) + (x >> HALF)
        return (2 * cells + ((x & LOW) >= self.thresholds[cells])).astype(np.int64)


def alias_table(weights: FloatArray, rows: NDArray[Any], num_rows: int) -> AliasTable:
    """Build an alias table of positive weights `[C]`, with any sum in each of the ascending rows.

    Every outcome owns a cell. A light one, of less weight than a cell holds, leaves room in its
    own, for heavy ones to fill. Laid end to end, the rooms and the surpluses of the heavy outcomes
    cover the same stretch of integers, in each row and hence altogether; so one search tells for
    all rows at once, and without rounding, within whose surplus each room begins. That outcome
    fills the room. Where its surplus ends before the room does, it falls short in its own cell,
    which the next heavy outcome fills in turn.
    """
    counts = np.bincount(rows, minlength=num_rows)
    first = np.cumsum(counts) - counts
    cell = np.bincount(rows, weights, num_rows) / counts
    units = np.rint(weights * (CELL / cell)[rows]).astype(np.int64)
    # What rounding has left of a row's total goes to its largest weight.
    candidates = np.flatnonzero(units == np.maximum.reduceat(units, first)[rows])
    largest = candidates[np.searchsorted(rows[candidates], np.arange(num_rows))]
    units[largest] += counts * CELL - np.add.reduceat(units, first)

    light, heavy = np.flatnonzero(units < CELL), np.flatnonzero(units > CELL)
    deficits, surpluses = np.cumsum(CELL - units[light]), np.cumsum(units[heavy] - CELL)
    thresholds = np.full(units.size, CELL - 1, dtype=np.uint32)
    others = np.arange(units.size)
    thresholds[light] = units[light]
    filled_before = deficits - (CELL - units[light])
    others[light] = heavy[np.searchsorted(surpluses, filled_before, side="right")]
    kept = CELL - (deficits[np.searchsorted(deficits, surpluses)] - surpluses)
    short = np.flatnonzero(kept < CELL)
    thresholds[heavy[short]] = kept[short]
    others[heavy[short]] = heavy[short + 1]
    return AliasTable(
        rows=(first.astype(np.uint64) << HALF) | counts.astype(np.uint64),
        thresholds=thresholds,
        outcomes=np.stack([np.arange(units.size), others], axis=1).ravel(),
    )


def random_words(rng: np.random.Generator, steps: int, count: int) -> NDArray[np.uint32]:
    """Return random numbers of 32 bits, `[steps, count]`, or one more column if that is odd.

    Two of them are the halves of one number of 64 bits, which costs as much to draw as one of 32.
    """
    return rng.integers(0, CELL**2, size=(steps, -(-count // 2)), dtype=np.uint64).view(np.uint32)
