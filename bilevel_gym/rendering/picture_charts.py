"""Charts with labelled axes: lines, filled areas and bars.

Pictures of games whose states lie on a line, or are vectors, are put together from these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    SUPERSAMPLING,
    THEME,
    Colour,
    Rectangle,
    draw_centred,
    draw_note,
    new_surface,
    pygame,
    short_number,
    text_size,
)
from .signs import FOLLOWER, draw_triangle, pin_sprite, size_levels
from .strokes import LINE_WIDTH, LineStyle, draw_stroke, lightened

# Sizes in pixels
AXIS_WIDTH = 52
"""Room for the numbers left of a chart."""
TICK = 4
HEADLINE_GAP = 9
PIN = 20
TRIANGLE = 26
"""Side of the largest triangle of a derivative."""
SMALLEST = 1e-3
"""Derivatives below it are shown as zero; their digits would not fit."""

BAR_SHARE = 0.52
"""Width of a bar relative to its slot."""


@dataclass(frozen=True, eq=False)
class Series:
    """A line through points, or the area between it and zero.

    Attributes:
        x: Places of the points, in order, `[N]`.
        y: Their heights, finite, `[N]`.
        style: How it is drawn.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    style: LineStyle = LineStyle()

    def __post_init__(self) -> None:
        """Check the points."""
        x, y = np.shape(self.x), np.shape(self.y)
        if len(x) != 1 or x != y or x[0] == 0:
            raise ValueError(f"`x` and `y` must be of one shape [N], got {x} and {y}")
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise ValueError("`x` and `y` must be finite, got inf or NaN")


@dataclass(frozen=True)
class Axis:
    """The range of an axis and what is on it.

    Attributes:
        high: Value at its end, larger than `low`.
        label: What is measured, with its unit.
        unit: Written behind each number.
    """

    low: float
    high: float
    label: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the range."""
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"`low` must be less than `high`, got {self.low} and {self.high}")

    def place(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return where values lie on the axis, from 0 to 1 and clipped to it."""
        # Halved first: the difference of two finite numbers may overflow.
        values = np.asarray(values, dtype=np.float64) / 2
        share = (values - self.low / 2) / (self.high / 2 - self.low / 2)
        return np.clip(share, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Chart:
    """Series over a common axis.

    Attributes:
        x_axis: What is on the horizontal axis; its label stands below, if `with_x_numbers`.
        y_axis: What is on the vertical axis; its label is the headline of the chart.
        series: What is drawn, the first one at the bottom.
        mark: Place of a vertical line, None for none.
        pinned: Whether the follower's sign stands on that line.
        with_x_numbers: Whether numbers and label stand below the chart.
    """

    x_axis: Axis
    y_axis: Axis
    series: tuple[Series, ...] = ()
    mark: float | None = None
    pinned: bool = False
    with_x_numbers: bool = True


@dataclass(frozen=True, eq=False)
class BarChart:
    """A bar for each of a few numbers, and below it the derivative with respect to it.

    Attributes:
        axis: What is on the vertical axis; its label is the headline of the chart.
        names: Name of each bar, written below it, perhaps in several lines; empty for a chart
            without them.
        values: Height of each bar `[N]`.
        number_format: How the values are written above the bars; None for not at all.
        gradient: Derivatives `[N]`, drawn as triangles; None where not known.
        compared: Values to compare with `[N]`, as lines across the bars.
        colour: Colour of the bars.
    """

    axis: Axis
    names: Sequence[str]
    values: NDArray[np.float64]
    number_format: str | None = None
    gradient: NDArray[np.float64] | None = None
    compared: NDArray[np.float64] | None = None
    colour: Colour = THEME.curves[0]

    def __post_init__(self) -> None:
        """Check that there is one of each for every bar."""
        for name in ("values", "gradient", "compared"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.names):
                raise ValueError(
                    f"`{name}` must have an entry for each of {len(self.names)} bars, "
                    f"got {len(given)}"
                )


# Numbers on axes


def nice_limit(value: float, leads: Sequence[float] = (1.0, 2.0, 5.0, 10.0)) -> float:
    """Return the least number with one of some first digits that is at least `value`; 1 for 0."""
    if not value > 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * lead for lead in (*leads, 20.0) if power * lead >= value * (1.0 - 1e-9))


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round numbers at equal distances in [low, high]."""
    step = nice_limit(high / most - low / most)
    while True:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [i * step for i in range(first, last + 1)]
        step = nice_limit(step * 1.01)


# Lines and areas


def draw_chart(surface: pygame.Surface, rectangle: Rectangle, chart: Chart) -> None:
    """Draw a chart with its headline and the numbers on its axes within a rectangle."""
    letters = text_size("0", THEME.small_size)[1]
    below = 2 * letters + 2 * TICK if chart.with_x_numbers else 0
    plot = _plot(surface, rectangle, chart.y_axis.label, below)
    # Painted larger and shrunk, for smooth edges.
    large = new_surface((plot.width * SUPERSAMPLING, plot.height * SUPERSAMPLING))
    large.fill(THEME.light)
    _paint(large, chart)
    surface.blit(pygame.transform.smoothscale(large, plot.size), plot)
    pygame.draw.rect(surface, THEME.muted, plot, 1)
    _number_heights(surface, plot, chart.y_axis)

    def column(value: float) -> int:
        return plot.left + round(float(chart.x_axis.place(value)) * (plot.width - 1))

    if chart.with_x_numbers:
        for value in nice_ticks(chart.x_axis.low, chart.x_axis.high, 7):
            x, text = column(value), short_number(value) + chart.x_axis.unit
            pygame.draw.line(surface, THEME.muted, (x, plot.bottom), (x, plot.bottom + TICK - 1))
            half = text_size(text, THEME.small_size)[0] // 2 + 1
            middle = min(max(x, plot.left + half), plot.right - half)
            draw_note(surface, text, (middle, plot.bottom + TICK), "midtop")
        place = (plot.centerx, plot.bottom + TICK + letters)
        draw_note(surface, chart.x_axis.label, place, "midtop", colour=THEME.ink)
    if chart.mark is not None and chart.pinned:
        place = (column(chart.mark), plot.top + TICK + PIN // 2)
        draw_centred(surface, pin_sprite(FOLLOWER, PIN), place)


def _plot(surface: pygame.Surface, rectangle: Rectangle, headline: str, below: int) -> pygame.Rect:
    """Write the headline of a chart, and return the rectangle of its inside."""
    left, top, width, height = rectangle
    draw_note(surface, headline, (left, top), colour=THEME.ink, max_width=width)
    plot_top = top + text_size("0", THEME.small_size)[1] + HEADLINE_GAP
    size = (max(1, width - AXIS_WIDTH), max(1, top + height - below - plot_top))
    return pygame.Rect((left + AXIS_WIDTH, plot_top), size)


def _number_heights(surface: pygame.Surface, plot: pygame.Rect, axis: Axis) -> None:
    """Write the numbers of a vertical axis left of its plot."""
    for value in _heights(axis, plot.height):
        y = plot.top + round((1.0 - float(axis.place(value))) * (plot.height - 1))
        pygame.draw.line(surface, THEME.muted, (plot.left - TICK, y), (plot.left - 1, y))
        text = short_number(value) + axis.unit
        place, room = (plot.left - TICK - 2, y + 1), AXIS_WIDTH - TICK - 2
        draw_note(surface, text, place, "midright", max_width=room)


def _heights(axis: Axis, height: int) -> list[float]:
    """Return the numbers on a vertical axis, as many as there is room for."""
    return nice_ticks(axis.low, axis.high, max(2, height // 26))


def _paint(surface: pygame.Surface, chart: Chart) -> None:
    """Paint the inside of a chart: rules, areas, the mark, lines."""
    width, height = surface.get_size()
    x_axis, y_axis = chart.x_axis, chart.y_axis
    for value in _heights(y_axis, height // SUPERSAMPLING):
        y = (1.0 - float(y_axis.place(value))) * (height - 1)
        pygame.draw.line(surface, THEME.rule, (0, y), (width, y), SUPERSAMPLING)
    inset = LINE_WIDTH * SUPERSAMPLING / 2
    lines = []
    for series in chart.series:
        heights = (1.0 - y_axis.place(series.y)) * (height - 1)
        points = np.stack(
            # The line stays within the chart.
            [x_axis.place(series.x) * (width - 1), np.clip(heights, inset, height - 1 - inset)],
            axis=1,
        )
        lines.append((points, series.style))
        if series.style.filled:
            base = (1.0 - float(y_axis.place(0.0))) * (height - 1)
            ends = [[points[0, 0], base], *points.tolist(), [points[-1, 0], base]]
            pygame.draw.polygon(surface, lightened(series.style.colour), ends)
    if chart.mark is not None:
        x = float(x_axis.place(chart.mark)) * (width - 1)
        pygame.draw.line(surface, THEME.accent, (x, 0), (x, height), 2 * SUPERSAMPLING)
    for points, style in lines:
        draw_stroke(surface, points, style)


# Bars


def draw_bars(surface: pygame.Surface, rectangle: Rectangle, chart: BarChart) -> None:
    """Draw a chart of bars with its headline, names and derivatives within a rectangle."""
    letters = text_size("0", THEME.small_size)[1]
    lines = 1 + max((name.count("\n") for name in chart.names), default=0)
    # Charts with and without derivatives have the same bars.
    below = (lines + 1) * letters + 4 * TICK + TRIANGLE if any(chart.names) else 0
    plot = _plot(surface, rectangle, chart.axis.label, below)
    pygame.draw.rect(surface, THEME.light, plot)
    # The highest bar has its number above it, still within the plot.
    reach = max(1, plot.height - letters - 2 * TICK)

    def level(value: float) -> int:
        return plot.bottom - 1 - round(float(chart.axis.place(value)) * (reach - 1))

    for value in _heights(chart.axis, reach):
        ends = (plot.left, level(value)), (plot.right - 1, level(value))
        pygame.draw.line(surface, THEME.rule, *ends)
    scale = pygame.Rect(plot.left, plot.bottom - reach, plot.width, reach)
    _number_heights(surface, scale, chart.axis)
    slot, zero = plot.width / max(1, len(chart.names)), level(0.0)
    middles = [plot.left + round((i + 0.5) * slot) for i in range(len(chart.names))]
    for i, (middle, value) in enumerate(zip(middles, chart.values.tolist(), strict=True)):
        y = level(value)
        bar = pygame.Rect(0, min(y, zero), max(1, round(BAR_SHARE * slot)), max(1, abs(zero - y)))
        bar.centerx = middle
        pygame.draw.rect(surface, lightened(chart.colour), bar)
        pygame.draw.rect(surface, chart.colour, bar, min(2, bar.height))
        if chart.compared is not None:
            across = pygame.Rect(0, 0, bar.width + 4 * TICK, 3)
            across.center = (middle, level(float(chart.compared[i])))
            pygame.draw.rect(surface, THEME.accent, across)
        if chart.number_format is not None:
            written = format(value, chart.number_format).replace("-", "−") + chart.axis.unit
            # No line of the scale strikes the number through.
            room_of_number = pygame.Rect((0, 0), text_size(written, THEME.small_size))
            room_of_number.midbottom = place = (middle, bar.top - TICK // 2)
            pygame.draw.rect(surface, THEME.light, room_of_number)
            draw_note(surface, written, place, "midbottom", colour=THEME.ink)
        for row, line in enumerate(chart.names[i].split("\n")):
            place, room = (middle, plot.bottom + TICK + row * letters), round(slot) - 2
            draw_note(surface, line, place, "midtop", colour=THEME.ink, max_width=room)
    pygame.draw.rect(surface, THEME.muted, plot, 1)
    if chart.gradient is not None:
        top = plot.bottom + lines * letters + 2 * TICK
        _draw_gradient(surface, middles, top, chart.gradient)


def _draw_gradient(
    surface: pygame.Surface, middles: Sequence[int], top: int, gradient: NDArray[np.float64]
) -> None:
    """Draw a triangle for each derivative, its area as the size, and the number below it."""
    gradient = np.where(np.abs(gradient) < SMALLEST, 0.0, gradient)
    levels = size_levels(gradient, float(np.abs(gradient).max(initial=0.0))).tolist()
    for middle, value, level in zip(middles, gradient.tolist(), levels, strict=True):
        centre = (middle, top + TRIANGLE // 2)
        draw_triangle(surface, centre, TRIANGLE, level)
        text = ("+" if value > 0.0 else "") + short_number(value)
        draw_note(surface, text, (middle, top + TRIANGLE + TICK), "midtop")


def draw_column(
    surface: pygame.Surface, rectangle: Rectangle, charts: Sequence[Chart | BarChart]
) -> None:
    """Draw charts of equal height, one below the other, within a rectangle."""
    left, top, width, height = rectangle
    pitch = (height + THEME.gap) // len(charts)
    for row, chart in enumerate(charts):
        place = (left, top + row * pitch, width, pitch - THEME.gap)
        if isinstance(chart, Chart):
            draw_chart(surface, place, chart)
        else:
            draw_bars(surface, place, chart)
