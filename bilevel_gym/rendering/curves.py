"""Plots of numbers over the steps so far, beside the picture of a game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    THEME,
    Colour,
    Rectangle,
    draw_note,
    draw_text,
    pygame,
    short_number,
    text_size,
)

POINTS_PER_PIXEL = 4
"""Longer curves are thinned to this many points per pixel."""


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
    """Draw curves as plots of equal height one below the other."""
    left, top, width, height = rectangle
    pitch = (height + THEME.margin) // max(1, len(curves))
    for i, curve in enumerate(curves):
        plot = (left, top + i * pitch, width, pitch - THEME.margin)
        _draw_curve(surface, plot, curve, THEME.curves[i % len(THEME.curves)])


def _draw_curve(
    surface: pygame.Surface, rectangle: Rectangle, curve: StepCurve, colour: Colour
) -> None:
    """Draw one plot: label and last value above, axis, end values of both axes, line."""
    left, top, width, height = rectangle
    values = np.asarray(curve.values, dtype=np.float64)
    heights, (low, high) = _axis(values, curve.log_scale)
    last = short_number(values[-1]) if len(values) and np.isfinite(values[-1]) else ""
    last_width = draw_text(
        surface, last, (left + width, top), colour=colour, anchor="topright", max_width=width
    )
    label = f"{curve.label} (log)" if curve.log_scale else curve.label
    draw_text(surface, label, (left, top), max_width=width - last_width - THEME.gap)

    letter_height = text_size("0", THEME.small_size)[1]
    plot_top = top + text_size("0", THEME.text_size)[1] + THEME.gap // 2
    plot_height = max(1, top + height - letter_height - THEME.gap // 3 - plot_top)
    plot = pygame.Rect(left, plot_top, width, plot_height)
    pygame.draw.rect(surface, THEME.light, plot)
    pygame.draw.rect(surface, THEME.rule, plot, 1)
    inner = plot.inflate(-THEME.gap, -2 * letter_height - THEME.gap)
    for run in _runs(heights, inner):
        if len(run) > 1:
            pygame.draw.aalines(surface, colour, False, run)
            shifted = [(x, y + 1) for x, y in run]
            pygame.draw.aalines(surface, colour, False, shifted)
        pygame.draw.circle(surface, colour, run[-1], THEME.line + (run[-1][0] >= inner.right - 1))
    inset = THEME.gap // 3
    ends = (short_number(low), short_number(high)) if np.isfinite(heights).any() else ("", "")
    below = plot.bottom + inset
    for text, place, anchor in (
        (ends[1], (plot.left + inset, plot.top + inset), "topleft"),
        (ends[0], (plot.left + inset, plot.bottom - inset // 2), "bottomleft"),
        ("0", (plot.left, below), "topleft"),
        ("step", (plot.centerx, below), "midtop"),
        (str(max(0, len(values) - 1)), (plot.right, below), "topright"),
    ):
        draw_note(surface, text, place, anchor)


def _axis(
    values: NDArray[np.float64], log_scale: bool
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Map values `[N]` to heights 0..1 (NaN in gaps) and give the values at both ends."""
    shown = np.where(np.isfinite(values) & ((values > 0) | (not log_scale)), values, np.nan)
    if np.isnan(shown).all():
        return shown, (0.0, 1.0)
    ends = (float(np.nanmin(shown)), float(np.nanmax(shown)))
    scaled = np.log(shown) if log_scale else shown
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    if high == low:
        return np.where(np.isnan(scaled), np.nan, 0.5), ends
    # Halved first: the difference of two finite numbers may overflow.
    return (scaled / 2 - low / 2) / (high / 2 - low / 2), ends


def _runs(heights: NDArray[np.float64], inner: pygame.Rect) -> list[list[list[float]]]:
    """Turn heights 0..1 `[N]` into polylines within `inner`, broken at the gaps."""
    count = len(heights)
    keep = np.arange(count)
    if count > POINTS_PER_PIXEL * inner.width:
        keep = np.unique(np.linspace(0, count - 1, POINTS_PER_PIXEL * inner.width).astype(int))
    heights = heights[keep]
    x = inner.left + keep / max(1, count - 1) * (inner.width - 1)
    y = inner.bottom - 1 - heights * max(0, inner.height - 1)
    breaks = np.flatnonzero(np.diff(np.isnan(heights).astype(int))) + 1
    pieces = np.split(np.stack([x, y], axis=1), breaks)
    return [piece.tolist() for piece in pieces if np.isfinite(piece[:, 1]).any()]
