"""Pictures of two maps side by side, what is believed and what is true, over a table of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    THEME,
    contrast_ink,
    diverging_colours,
    draw_note,
    draw_text,
    new_surface,
    pygame,
    text_size,
)
from .grid import FREE, GridLayout, GridScene, draw_grid, grid_layout
from .signs import draw_triangle, size_levels

FloatArray = NDArray[np.float64]

# In pixels: left column, row of text, bars, room for both.
GUTTER, TEXT_ROW, BARS, HEIGHT = 104, 18, 76, 168
MAX_WEIGHTS = 12
LETTER_CELL = 26
"""Smaller cells, in pixels, have no letter."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A table with a column for each entry of x.

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

    The scene has both maps; derivatives stand in the table instead. Of the headings of either map
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
    _draw_weights(surface, (THEME.margin, table, room), weights)
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
        red, green, blue = colours[row, column].tolist()
        x, y = layout.cell_corner(row, column)
        place, ink = (x + side - 3, y + side - 1), contrast_ink((red, green, blue))
        letter = str(letters[row, column % (letters.shape[1] + 1)])
        draw_text(surface, letter, place, size=size, colour=ink, anchor="bottomright")


def _draw_weights(surface: pygame.Surface, place: tuple[int, int, int], weights: Weights) -> None:
    """Draw the table at `place`, left, top and width: derivatives, bars, names and numbers."""
    left, top, width = place
    names, gradient, true = weights.names[:MAX_WEIGHTS], weights.gradient, weights.true
    pitch = (width - GUTTER) / len(names)
    bars = pygame.Rect(left + GUTTER, top + 26, width - GUTTER, BARS)
    pygame.draw.rect(surface, THEME.light, bars)
    columns = [weights.believed] if true is None else [weights.believed, true]
    lowest, highest = min(0.0, float(np.min(columns))), max(0.0, float(np.max(columns)))
    if highest == lowest:
        lowest, highest = -1.0, 1.0
    unit = (bars.height - 8) / (highest - lowest)
    zero = bars.top + 4 + round(highest * unit)
    largest = 0.0 if gradient is None else float(np.abs(gradient).max())
    levels = size_levels(np.zeros(len(names)) if gradient is None else gradient, largest).tolist()
    side = max(24, min(72, int(3.0 * pitch)))
    thickness = max(4, min(26, int(0.3 * pitch)))
    rows = bars.bottom + 6
    numbers = text_size(_signed(-1.0), THEME.small_size)[0] < pitch
    for i, name in enumerate(names):
        middle = bars.left + round((i + 0.5) * pitch)
        draw_triangle(surface, (middle, top + 12), side, levels[i])
        texts = [(name, THEME.ink)]
        # x left of the middle and filled, the truth right of it and hollow.
        pair = (
            (middle - thickness - 1, THEME.ink, THEME.ink),
            (middle + 1, THEME.page, THEME.muted),
        )
        for (x, fill, ink), column in zip(pair, columns, strict=False):
            value = float(column[i])
            length = max(1, round(abs(value) * unit))
            box = pygame.Rect(x, zero if value < 0.0 else zero - length, thickness, length)
            pygame.draw.rect(surface, fill, box)
            pygame.draw.rect(surface, THEME.ink, box, 1)
            texts += [(_signed(value), ink)] * numbers
        for row, (text, ink) in enumerate(texts):
            spot, room = (middle, rows + row * TEXT_ROW), int(pitch) - 2
            draw_note(surface, text, spot, "midtop", colour=ink, max_width=room)
    pygame.draw.line(surface, THEME.ink, (bars.left, zero), (bars.right - 1, zero))
    pygame.draw.rect(surface, THEME.rule, bars, 1)
    count = "" if len(names) == len(weights.names) else f"{len(names)} of {len(weights.names)}"
    for y, text in (
        (top - 3, "" if gradient is None else "raise, lower x"),
        (top + 11, "" if gradient is None else f"dF/dx {largest:.1g}"),
        (bars.centery - TEXT_ROW, "reward"),
        (bars.centery, count),
        (rows, weights.kind),
        (rows + TEXT_ROW, "x, filled"),
        (rows + 2 * TEXT_ROW, "" if true is None else "true, hollow"),
    ):
        draw_note(surface, text, (left, y), max_width=GUTTER - 4)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
