"""Checks of what pictures are given."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4
"""Probabilities may miss their bounds and sums by this much, which single precision needs."""


def check_array(
    name: str,
    values: NDArray[np.float64],
    shape: tuple[int, ...],
    *,
    missing: NDArray[np.bool_] | None = None,
    accepted: str = "finite",
) -> None:
    """Check the shape of an array, and that its values are finite but where they may be `missing`.

    `missing` can be broadcast to that shape; `accepted` is what the message asks for.
    """
    if np.shape(values) != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {np.shape(values)}")
    bad = ~np.isfinite(values) if missing is None else ~(np.isfinite(values) | missing)
    if bad.any():
        entry = tuple(np.argwhere(bad)[0].tolist())
        where = ", ".join(map(str, entry))
        raise ValueError(f"`{name}[{where}]` must be {accepted}, got {float(values[entry])}")


def check_range(name: str, values: NDArray[np.float64], high: float) -> None:
    """Check that values `[...]` lie in [0, high], apart from rounding; NaN passes."""
    outside = (values < -TOLERANCE) | (values > high + TOLERANCE)
    if outside.any():
        accepted = "not be negative" if high == math.inf else f"lie in [0, {high:g}]"
        raise ValueError(f"`{name}` must {accepted}, got {float(values[outside][0])}")
