"""Fourth-order differences of a function of x, and how they compare with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from ..core.reprs import Described, number

__all__ = [
    "HyperGradientError",
    "HyperGradientReport",
    "REWARD_ROUNDING",
    "STEPS",
    "differences",
    "moved_inward",
]

# Half decades: long steps suffer from curvature (which grows with 1 / temperature), short ones
# from rounding; which is best differs between coordinates by orders of magnitude.
STEPS = (1e-4, 10**-4.5, 1e-5, 10**-5.5, 1e-6, 10**-6.5, 1e-7)

# Rounding of a difference, relative to the reward: some units in the last place, times the factor
# of the formula's weights.
REWARD_ROUNDING = 8.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False, repr=False)
class HyperGradientReport(Described):
    """Comparison of a hyper-gradient with differences of the leader's reward.

    Attributes:
        upper_params: The x of the comparison, after moving it inward at bounds, shape of x.
        coordinates: Flat indices of the entries compared `[C]`.
        analytic: Entries of `info["hyper_gradient"]` `[C]`.
        numeric: Fourth-order central differences of the reward `[C]`.
        steps: The step chosen for each entry `[C]`.
        relative_error: ||numeric - analytic|| / ||response term||, or relative to the whole
            hyper-gradient where the response term is too small to count; where only some entries
            were compared, the error is scaled up by sqrt(D / C).
        response_share: ||response term|| / ||hyper-gradient||, over all entries of x.
    """

    upper_params: FloatArray
    coordinates: NDArray[np.int64]
    analytic: FloatArray
    numeric: FloatArray
    steps: FloatArray
    relative_error: float
    response_share: float

    @property
    def worst_coordinate(self) -> int:
        """Flat index of the entry with the largest error."""
        return int(self.coordinates[np.argmax(np.abs(self.numeric - self.analytic))])

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the errors; the whole comparison is the `str`."""
        yield "relative_error", number(self.relative_error, digits=2)
        yield "worst_coordinate", str(self.worst_coordinate)
        yield "coordinates", str(self.coordinates.size)
        yield "response_share", number(self.response_share, digits=2)

    def __str__(self) -> str:
        """Return the comparison in words, its five worst entries in a table."""
        errors = np.abs(self.numeric - self.analytic)
        lines = [
            f"relative error {self.relative_error:.2e} over {self.coordinates.size} coordinates; "
            f"the response term is {100.0 * self.response_share:.1f} % of the hyper-gradient",
            f"{'coordinate':>12} {'analytic':>16} {'numeric':>16} {'error':>10} {'step':>8}",
        ]
        for i in np.argsort(-errors)[:5]:
            index = np.unravel_index(int(self.coordinates[i]), self.upper_params.shape)
            name = "[" + ", ".join(str(int(k)) for k in index) + "]"
            lines.append(
                f"{name:>12} {self.analytic[i]:16.9e} {self.numeric[i]:16.9e} {errors[i]:10.2e} "
                f"{self.steps[i]:8.1e}"
            )
        return "\n".join(lines)


class HyperGradientError(AssertionError):
    """The hyper-gradient is not the derivative of the leader's reward; `report` compares them."""

    def __init__(self, message: str, report: HyperGradientReport) -> None:
        """Keep the report beside the message."""
        super().__init__(f"{message}: {report}")
        self.report = report


def differences(
    value: Callable[[FloatArray], float],
    x: FloatArray,
    coordinates: Iterable[int],
    steps: Sequence[float],
) -> tuple[FloatArray, FloatArray]:
    """Return the derivatives of a function by C entries of x, and the step chosen for each, `[C]`.

    Each entry is differenced to fourth order on a ladder of steps; the step counts at which two
    neighbours of the ladder agree best.

    Args:
        value: The function.
        x: Where.
        coordinates: Flat indices of the entries.
        steps: The ladder, at least two positive steps.
    """

    def difference(coordinate: int, step: float) -> float:
        def at(offset: float) -> float:
            moved = x.copy()
            moved.flat[coordinate] += offset
            return value(moved)

        near, far = at(step) - at(-step), at(2.0 * step) - at(-2.0 * step)
        return (8.0 * near - far) / (12.0 * step)

    estimates = np.array([[difference(i, step) for step in steps] for i in coordinates])
    agree = np.argmin(np.abs(np.diff(estimates, axis=1)), axis=1)  # [C], of [C, steps]
    return estimates[np.arange(len(agree)), agree], np.asarray(steps, np.float64)[agree]


def moved_inward(x: FloatArray, low: FloatArray, high: FloatArray, reach: float) -> FloatArray:
    """Return the nearest x, of the shape of x, whose differences stay within the box."""
    narrow = high - low < 2.0 * reach
    if narrow.any():
        entry = int(np.argmax(narrow))
        raise ValueError(
            f"`steps` must fit into the box of x, got differences that reach {reach:g} to both "
            f"sides where entry {entry} is only {(high - low).flat[entry]:g} wide; give shorter "
            "`steps`, or check RescaleUpper(env)"
        )
    return np.clip(x, low + reach, high - reach)
