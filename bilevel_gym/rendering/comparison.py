"""Pictures of two maps side by side, what is believed and what is true, over a chart of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    THEME,
    contrast_ink,
    draw_text,
    new_surface,
    pygame,
)
from .grid import FREE, GridScene, draw_grid, grid_layout
from .picture_charts import Axis, BarChart, draw_bars

FloatArray = NDArray[np.float64]

HEIGHT = 210
"""Of the chart of the weights, in pixels."""
MAX_WEIGHTS = 12
BEYOND = 0.25
"""Share of the range of the true weights by which the scale goes on at both ends."""
LETTER_CELL = 26
"""Smaller cells, in pixels, have no letter."""


def draw_comparison(
    scene: GridScene,
    headings: tuple[str, str],
    letters: NDArray[np.str_] | None,
    weights: BarChart,
) -> pygame.Surface:
    """Draw two maps with a column of walls between them, and the weights below.

    The scene has both maps; derivatives stand in the chart instead. Letters are those of the free
    cells `[H, W]`.
    """
    rows, columns = scene.cells.shape[0], scene.cells.shape[1] // 2
    layout = grid_layout((rows, 2 * columns + 1))
    surface = draw_grid(replace(scene, gradient=None))
    left, top, _, height = layout.map
    for column, heading in zip((0, columns + 1), headings, strict=True):
        place = (layout.cell_corner(0, column)[0], top - THEME.gap // 2)
        draw_text(surface, heading, place, "bottomleft", max_width=int(layout.cell * columns))
    if letters is not None and layout.cell >= LETTER_CELL:
        side = int(layout.cell)
        colours = scene.scale.colours(scene.shaping)
        for row, column in np.argwhere(scene.cells == FREE).tolist():
            x, y = layout.cell_corner(row, column)
            place, ink = (x + side - 3, y + side - 1), contrast_ink(colours[row, column])
            letter, size = str(letters[row, column % (columns + 1)]), max(18, side // 3)
            draw_text(surface, letter, place, "bottomright", size=size, colour=ink)
    # The key stands right of the map, or below one that is low and wide.
    key_left, key_top, _, key_height = layout.key
    margin, beside = THEME.margin, key_left > left
    table = (top + height if beside else key_top + key_height) + margin
    lowest = max(surface.get_height(), table + HEIGHT + margin)
    page = new_surface((surface.get_width(), lowest + lowest % 2))
    page.blit(surface, (0, 0))
    room = (key_left if beside else page.get_width()) - 2 * margin
    draw_bars(page, (margin, table, room, HEIGHT), weights)
    return page


def weights_chart(
    names: Sequence[str],
    kind: str,
    believed: FloatArray,
    true: FloatArray | None,
    gradient: FloatArray | None,
    bound: float,
) -> BarChart:
    """Return the chart of the weights of so many names of a kind, as many as there is room for.

    These are x, the true weights where they are known, and derivatives by x, each `[D]`. The scale
    is the same at every x: it reaches somewhat beyond the true weights, or to the bound of x where
    they are not known; longer bars are cut.
    """
    shown = slice(MAX_WEIGHTS)
    label = f"x: reward of each {kind}"
    if len(names) > MAX_WEIGHTS:
        label += f", {MAX_WEIGHTS} of {len(names)}"
    labels, believed = list(names[shown]), believed[shown]
    ends = np.array([-bound, bound])
    if true is not None:
        label += "; lines and second numbers: true"
        true = true[shown]
        numbers = (f"{value:+.3f}".replace("-", "−") for value in true.tolist())
        labels = [f"{name}\n{number}" for name, number in zip(labels, numbers, strict=True)]
        ends = np.append(true, 0.0)
        ends = np.array([ends.min(), ends.max()]) + BEYOND * np.ptp(ends) * np.array([-1.0, 1.0])
    if gradient is not None:
        gradient = gradient[shown]
        label += "; triangles: dF/dx"
    lowest, highest = ends.tolist()
    axis = Axis(lowest, highest if highest > lowest else lowest + 1.0, label)
    return BarChart(axis, labels, believed, "+.3f", gradient, true)
