"""Charts of games whose states and actions are vectors: lines over time, and bars of x.

Every function takes arrays; which ones a picture shows is decided by the game.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .canvas import THEME, Rectangle, pygame
from .picture_charts import SMALLEST, Axis, BarChart, Chart, Series, draw_chart, nice_limit
from .strokes import line_style


def time_chart(
    values: NDArray[np.float64], label: str, *, first: int, length: int, signed: bool
) -> Chart:
    """Return a chart with a line over time for each entry of a vector.

    There is a row for each step from `first`, `[T, N]`; T may be zero.
    """
    limit = nice_limit(float(np.abs(values).max(initial=0.0)))
    times = np.arange(first, first + len(values), dtype=np.float64)
    lines = (Series(times, column, line_style(i)) for i, column in enumerate(values.T))
    return Chart(
        x_axis=Axis(float(first), float(first + length), "step of the follower"),
        y_axis=Axis(-limit if signed else 0.0, limit, label),
        series=tuple(lines) if len(values) else (),
    )


def draw_column(surface: pygame.Surface, rectangle: Rectangle, charts: Sequence[Chart]) -> None:
    """Draw charts of equal height, one below the other, within a rectangle."""
    left, top, width, height = rectangle
    pitch = (height + THEME.gap) // len(charts)
    for row, chart in enumerate(charts):
        draw_chart(surface, (left, top + row * pitch, width, pitch - THEME.gap), chart)


def params_chart(
    axis: Axis,
    names: Sequence[str],
    params: NDArray[np.float64],
    gradient: NDArray[np.float64] | None,
    *,
    number_format: str,
) -> BarChart:
    """Return the chart of x `[N]`, with derivatives that are written as zero being zero."""
    if gradient is not None:
        gradient = np.where(np.abs(gradient) < SMALLEST, 0.0, gradient)
    written = (format(value, number_format).replace("-", "−") for value in params.tolist())
    return BarChart(axis, tuple(names), params, tuple(written), gradient)
