"""Where climbs begin."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import check_at_least, check_in_box, check_not_negative
from .base import FloatArray

__all__ = ["finite_width", "starts_around"]


def starts_around(
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    count: int,
    *,
    spread: float = 0.02,
    seed: int | np.random.Generator = 0,
) -> FloatArray:
    """Return starts, stacked: first the one given, the others Gaussian around it.

    `spread` is the standard deviation as a share of the width of the box, which must be finite;
    what falls outside is projected on the box.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_at_least("count", count, 1)
    check_not_negative("spread", spread)
    if not isinstance(seed, np.random.Generator):
        check_at_least("seed", seed, 0)
    first = check_in_box("start", start, low, high)
    width = finite_width(np.asarray(low, np.float64), np.asarray(high, np.float64))
    noise = np.random.default_rng(seed).standard_normal((count - 1, *first.shape))
    return np.concatenate([first[None], np.clip(first + spread * width * noise, low, high)])


def finite_width(low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the width of a box, shape of x; raise a `ValueError` if it is infinite."""
    width = high - low
    if not np.isfinite(width).all():
        entry = tuple(int(i) for i in np.argwhere(~np.isfinite(width))[0])
        raise ValueError(
            f"`low` and `high` must be finite, got {low[entry]} and {high[entry]} in entry {entry}"
        )
    return width
