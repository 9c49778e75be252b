"""Pictures of two maps side by side, what is believed and what is true, over a chart of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    THEME,
    contrast_ink,
    diverging_colours,
    draw_text,
    new_surface,
    pygame,
    text_size,
)
from .grid import FREE, GridLayout, GridScene, draw_grid, grid_layout
from .picture_charts import Axis, BarChart, draw_bars

FloatArray = NDArray[np.float64]

HEIGHT = 210
"""Of the chart of the weights, in pixels."""
MAX_WEIGHTS = 12
LETTER_CELL = 26
"""Smaller cells, in pixels, have no letter."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A chart with a bar for each entry of x.

    Attributes:
        kind: What a name is.
        believed: x, `[D]`.
        true: The true weights `[D]`, None where they are not known.
        gradient: Derivative of the leader's objective by x, `[D]`.
    """

    names: Sequence[str]
    kind: str
    believed: FloatArray
    true: FloatArray | None = None
    gradient: FloatArray | None = None


def draw_comparison(
    scene: GridScene,
    headings: tuple[Sequence[str], Sequence[str]],
    letters: NDArray[np.str_] | None,
    weights: Weights,
) -> pygame.Surface:
    """Draw two maps with a column of walls between them as two pictures, and the weights below.

    The scene has both maps; derivatives stand in the chart instead. Of the headings of either map
    the first that fits is written. Letters are those of the free cells `[H, W]`.
    """
    rows, columns = scene.cells.shape[0], scene.cells.shape[1] // 2
    layout = grid_layout((rows, 2 * columns + 1))
    surface = draw_grid(_without_walls(scene))
    # The column between the maps belongs to neither.
    left, top, width, height = layout.map
    between, right = (layout.cell_corner(0, columns + i)[0] for i in (0, 1))
    gap = pygame.Rect(between + 1, top - 1, max(0, right - between - 2), height + 2)
    surface.fill(THEME.page, gap)
    for x in (gap.left - 1, gap.right):
        pygame.draw.line(surface, THEME.ink, (x, gap.top), (x, gap.bottom - 1))
    rooms = ((left, between - left), (right, left + width - right))
    for (x, room), texts in zip(rooms, headings, strict=True):
        fitting = [text for text in texts if text_size(text, THEME.text_size)[0] <= room]
        place = (x, top - THEME.gap // 2)
        draw_text(surface, [*fitting, texts[-1]][0], place, anchor="bottomleft", max_width=room)
    if letters is not None and layout.cell >= LETTER_CELL:
        _write_letters(surface, scene, layout, letters)
    # The key stands right of the map, or below one that is low and wide.
    key_left, key_top, _, key_height = layout.key
    bottom, key_bottom = top + height, key_top + key_height
    beside = key_top < bottom and bottom + THEME.margin < key_bottom
    table = (bottom if beside else max(bottom, key_bottom)) + THEME.margin
    surface = _extended(surface, table + HEIGHT + THEME.margin)
    room = (key_left if beside else surface.get_width()) - 2 * THEME.margin
    draw_bars(surface, (THEME.margin, table, room, HEIGHT), _weights_chart(weights))
    return surface


def _without_walls(scene: GridScene) -> GridScene:
    """Return a scene that has empty cells in place of walls, to be painted over."""
    walls, changes = scene.cells == "#", {}
    blanks = {"cells": FREE, "shaping": 0.0, "policy": 0.25, "occupancy": 0.0}
    for name, blank in blanks.items():
        values = getattr(scene, name)
        if values is not None:
            changes[name] = values.copy()
            changes[name][walls] = blank
    return replace(scene, gradient=None, **changes)


def _extended(surface: pygame.Surface, height: int) -> pygame.Surface:
    """Return a picture with an empty page added below, where it is lower than `height`."""
    if surface.get_height() >= height:
        return surface
    larger = new_surface((surface.get_width(), height + height % 2))
    larger.blit(surface, (0, 0))
    return larger


def _write_letters(
    surface: pygame.Surface, scene: GridScene, layout: GridLayout, letters: NDArray[np.str_]
) -> None:
    """Write the letter of each free cell into its corner."""
    side = int(layout.cell)
    size = max(12, side // 3)
    colours = diverging_colours(scene.shaping, scene.shaping_limit, power=scene.shaping_power)
    for row, column in np.argwhere(scene.cells == FREE).tolist():
        x, y = layout.cell_corner(row, column)
        place, ink = (x + side - 3, y + side - 1), contrast_ink(colours[row, column])
        letter = str(letters[row, column % (letters.shape[1] + 1)])
        draw_text(surface, letter, place, size=size, colour=ink, anchor="bottomright")


def _weights_chart(weights: Weights) -> BarChart:
    """Return the chart of the weights, as many as there is room for."""
    names, believed = list(weights.names[:MAX_WEIGHTS]), weights.believed[:MAX_WEIGHTS]
    true = None if weights.true is None else weights.true[:MAX_WEIGHTS]
    label = f"x: reward of each {weights.kind}"
    if len(names) < len(weights.names):
        label += f", {len(names)} of {len(weights.names)}"
    if true is not None:
        label += "; lines and second numbers: true"
        numbers = (f"{value:+.3f}".replace("-", "−") for value in true.tolist())
        names = [f"{name}\n{number}" for name, number in zip(names, numbers, strict=True)]
    gradient = weights.gradient
    if gradient is not None:
        gradient = gradient[:MAX_WEIGHTS]
        label += "; triangles: dF/dx"
    shown = np.append(believed, [] if true is None else true)
    lowest, highest = min(0.0, float(shown.min())), max(0.0, float(shown.max()))
    axis = Axis(lowest, highest if highest > lowest else lowest + 1.0, label)
    return BarChart(axis, names, believed, "+.3f", gradient, true)
