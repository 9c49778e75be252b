"""Quasi-Newton ascent in a box that the caller evaluates, so that several go side by side.

Directions are those of L-BFGS (J. Nocedal, "Updating quasi-Newton matrices with limited storage",
Mathematics of Computation 35, 1980) on the entries of x that no bound holds; steps are projected on
the box (D. Bertsekas, "Projected Newton methods for optimization problems with simple constraints",
SIAM Journal on Control and Optimization 20, 1982), of lengths that meet the weak Wolfe conditions,
or at least the first of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence

import numpy as np

from .base import FloatArray
from .rules import feasible_part

__all__ = ["Asking", "quasi_newton_ascent"]

# Yields x, is sent F(x) and its gradient, and returns why it stopped.
Asking = Generator[FloatArray, tuple[float, FloatArray], str]
Step = tuple[FloatArray, FloatArray]  # by how much x has moved, and the gradient has fallen

# Steps that are remembered, and numbers that they may have altogether.
MEMORY, MOST_NUMBERS = 20, 50_000_000

# Of the Wolfe conditions: the share of the predicted gain that a step must bring, and the share of
# the slope that may be left after it.
GAIN, SLOPE = 1e-4, 0.9

# Lengths tried in a line search, and longer ones that are tried where the slope goes on.
TRIALS, LONGER = 25, 6

# Cosine below which two directions say nothing of each other.
ORTHOGONAL = 1e-10

# Relative rounding of values.
ROUNDING = 1e-14


def quasi_newton_ascent(
    x: FloatArray,
    value: float,
    gradient: FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    first_step: float,
    tolerance: float,
) -> Asking:
    """Climb from an x that has been evaluated already.

    Args:
        x: The start, in the box.
        value: F there.
        gradient: And its gradient.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        first_step: How far an entry of x moves at most in the first trial of a step that nothing is
            remembered for, positive.
        tolerance: The sup norm of the projected gradient to reach.
    """
    steps: deque[Step] = deque(maxlen=int(np.clip(MOST_NUMBERS // (2 * x.size), 3, MEMORY)))
    while np.abs(np.clip(x + gradient, low, high) - x).max() > tolerance:
        slope = feasible_part(x, gradient, low, high)
        direction = _direction(steps, slope)
        length = 1.0
        if direction is None:
            steps.clear()
            direction, length = slope, first_step / float(np.abs(slope).max())
        found = yield from _search(x, value, gradient, direction, length, low, high)
        if found is not None:
            before, before_gradient = x, gradient
            x, value, gradient = found
            step = x - before, before_gradient - gradient
            if _agree(*step):
                steps.append(step)
        elif steps:
            steps.clear()
        else:
            return "no step brings more"
    return "the projected gradient is zero"


def _direction(steps: Sequence[Step], slope: FloatArray) -> FloatArray | None:
    """Return where to go, None where what is remembered says nothing of it.

    Only the entries that are free now count, of the steps too: those where the slope is not zero.
    """
    free = slope != 0.0
    known = [(moved * free, fallen * free) for moved, fallen in steps]
    known = [step for step in known if _agree(*step)]
    if not known:
        return None
    direction, shares = slope.copy(), []
    for moved, fallen in reversed(known):
        share = float(np.vdot(moved, direction) / np.vdot(moved, fallen))
        direction -= share * fallen
        shares.append(share)
    moved, fallen = known[-1]
    direction *= float(np.vdot(moved, fallen) / np.vdot(fallen, fallen))
    for (moved, fallen), share in zip(known, reversed(shares), strict=True):
        direction += (share - float(np.vdot(fallen, direction) / np.vdot(moved, fallen))) * moved
    direction *= free
    return direction if _agree(direction, slope) else None


def _search(
    x: FloatArray,
    value: float,
    gradient: FloatArray,
    direction: FloatArray,
    length: float,
    low: FloatArray,
    high: FloatArray,
) -> Generator[FloatArray, tuple[float, FloatArray], tuple[FloatArray, float, FloatArray] | None]:
    """Try steps along a direction, and return x, value and gradient of the best one.

    None says that no step brings what its length lets expect.
    """
    slope = float(np.vdot(gradient, direction))
    found: tuple[FloatArray, float, FloatArray] | None = None
    for trial in range(TRIALS):
        there = np.clip(x + length * direction, low, high)
        expected = float(np.vdot(gradient, there - x))
        if expected <= ROUNDING * abs(value):
            break
        there_value, there_gradient = yield there
        if there_value < value + GAIN * expected:
            if found is not None:
                break
            # The parabola through both values with the slope here has its top there.
            top = 0.5 * expected / (expected - (there_value - value))
            length *= float(np.clip(top, 0.1, 0.5))
            continue
        if found is None or there_value >= found[1]:
            found = there, there_value, there_gradient
        moving = np.where((low < there) & (there < high), direction, 0.0)
        if trial >= LONGER or float(np.vdot(there_gradient, moving)) <= SLOPE * slope:
            break
        length *= 2.0
    return found


def _agree(one: FloatArray, other: FloatArray) -> bool:
    """Whether two directions have an angle of less than ninety degrees, beyond rounding."""
    product = float(np.vdot(one, other))
    return product > ORTHOGONAL * float(np.linalg.norm(one)) * float(np.linalg.norm(other))
