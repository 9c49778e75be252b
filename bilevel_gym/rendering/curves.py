"""Plots of numbers over the steps so far, beside the picture of a game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import THEME, Rectangle, pygame, short_number
from .picture_charts import Axis, Chart, Series, draw_column
from .strokes import LineStyle

MAX_POINTS = 1200
"""Longer curves are thinned to so many points."""


@dataclass(frozen=True, eq=False)
class StepCurve:
    """A line over the steps so far.

    Attributes:
        label: What is plotted.
        values: One number per step `[N]`, possibly none yet; NaN and, on a logarithmic axis,
            values that are not positive leave a gap.
        log_scale: Whether the vertical axis is logarithmic.
    """

    label: str
    values: Sequence[float] | NDArray[np.float64]
    log_scale: bool = False

    def __post_init__(self) -> None:
        """Check that the values form a line."""
        if np.ndim(self.values) != 1:
            raise ValueError(f"`values` must have shape [N], got shape {np.shape(self.values)}")


def draw_curves(surface: pygame.Surface, rectangle: Rectangle, curves: Sequence[StepCurve]) -> None:
    """Draw curves as charts of equal height one below the other."""
    styles = [LineStyle(THEME.curves[i % len(THEME.curves)]) for i in range(len(curves))]
    draw_column(surface, rectangle, list(map(_chart, curves, styles)))


def _chart(curve: StepCurve, style: LineStyle) -> Chart:
    """Return the chart of a curve, with the last value in its headline."""
    values = np.asarray(curve.values, dtype=np.float64)
    steps = np.flatnonzero(np.isfinite(values) & ((values > 0) | (not curve.log_scale)))
    heights = np.log10(values[steps]) if curve.log_scale else values[steps]
    low, high = (float(heights.min()), float(heights.max())) if len(heights) else (0.0, 1.0)
    if low / 2 == high / 2:
        low, high = low - 1.0 - 1e-3 * abs(low), high + 1.0 + 1e-3 * abs(high)
    label = curve.label
    if len(values) and np.isfinite(values[-1]):
        label += f": {short_number(values[-1])}"
    if curve.log_scale:
        label += ", as log10"
    series = []
    for run in np.split(np.arange(len(steps)), np.flatnonzero(np.diff(steps) > 1) + 1):
        if len(run):
            kept = run[np.unique(np.linspace(0, len(run) - 1, MAX_POINTS).astype(int))]
            series.append(Series(steps[kept].astype(np.float64), heights[kept], style))
    step_axis = Axis(0.0, max(1.0, len(values) - 1.0), "step")
    return Chart(step_axis, Axis(low, high, label), tuple(series))
