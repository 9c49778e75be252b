"""An exponential that vectorises: calls of the C library's take half the time of a backup.

With exp(x) = 2^k exp(r), |r| <= log(2) / 2, and a polynomial for exp(r), there is neither a call
nor a branch, so that the compiler works on several numbers at once. The reduction in two parts is
that of W. J. Cody and W. Waite, "Software Manual for the Elementary Functions" (1980).
"""

from __future__ import annotations

import math

import numpy as np

from . import compiled

__all__ = ["exp_of_gap"]

# log(2), and its upper 20 bits, of which products with k are exact, and the rest.
PER_LOG2 = 1.0 / math.log(2.0)
UPPER = float.fromhex("0x1.62e42p-1")
LOWER = float.fromhex("0x1.fdf473de6af28p-22")

# 1 / n!: the first that is left out is below a tenth of a rounding.
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13 = (1.0 / math.factorial(n) for n in range(2, 14))

# From here on exp is zero.
UNDERFLOW = -746.0


@compiled
def exp_of_gap(gap: float) -> float:
    """Return exp(gap) to a rounding, for a gap of at most zero (1 for 0, 0 for -inf) or NaN."""
    x = max(gap, UNDERFLOW)
    k = np.floor(x * PER_LOG2 + 0.5)
    r = (x - k * UPPER) - k * LOWER
    square = r * r
    tail = (C12 + C13 * r) * square + (C10 + C11 * r)
    tail = (tail * square + (C8 + C9 * r)) * square + (C6 + C7 * r)
    tail = (tail * square + (C4 + C5 * r)) * square + (C2 + C3 * r)
    # 2^k in two factors, the product of which may be subnormal, from the bits of their exponents.
    power = np.int64(k)
    half = power >> 1
    first = np.int64((half + 1023) << 52).view(np.float64)
    second = np.int64((power - half + 1023) << 52).view(np.float64)
    return (1.0 + (r + square * tail)) * first * second
