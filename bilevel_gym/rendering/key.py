"""The key of a picture: its colour scale, and its signs with the words for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import THEME, ColourScale, Rectangle, draw_colour_bar, draw_text, pygame
from .signs import FOLLOWER, GOAL, ICON_SIDE, START, TARGET, key_triangle_sprite, pin_sprite
from .strokes import LineStyle, style_sprite

KEY_ROW = 42
"""Height in pixels of a row."""
NAME_SIZE, NOTE_SIZE = 23, 22
"""Sizes of the letters, in pixels."""
KEY_WIDTH = 220
"""Width in pixels of each column, where there are several."""
COLOUR_BAR_SLOTS = 2
"""Rows that the colour scale takes."""

PLACE_NAMES = {START: "start", GOAL: "goal", TARGET: "leader's target"}
"""The usual words for what has a pin."""


@dataclass(frozen=True)
class KeyEntry:
    """A sign and the words for it.

    Attributes:
        sign: A style, whose line or area is shown, or a sprite for a square of `ICON_SIDE`; or
            several of them, the first one at the bottom.
        name: What it stands for.
        note: A second line in small letters.
    """

    sign: LineStyle | pygame.Surface | tuple[pygame.Surface, ...]
    name: str
    note: str = ""


def draw_key(
    surface: pygame.Surface,
    rectangle: Rectangle,
    entries: Iterable[KeyEntry],
    scale: ColourScale | None = None,
) -> None:
    """Draw signs with their words, from top to bottom, as many as there is room for.

    A wide rectangle has columns of `KEY_WIDTH`. The scale comes first.
    """
    left, top, width, height = rectangle
    rows = height // KEY_ROW
    columns = max(1, (width + THEME.margin) // (KEY_WIDTH + THEME.margin))
    width = KEY_WIDTH if columns > 1 else width
    if scale is not None:
        bar = (left, top, width, COLOUR_BAR_SLOTS * KEY_ROW - THEME.gap)
        draw_colour_bar(surface, bar, scale)
    for slot, entry in enumerate(entries, start=0 if scale is None else COLOUR_BAR_SLOTS):
        if slot >= rows * columns:
            break
        column, row = divmod(slot, rows)
        x, y = left + column * (width + THEME.margin), top + row * KEY_ROW
        sign = style_sprite(entry.sign) if isinstance(entry.sign, LineStyle) else entry.sign
        for sprite in sign if isinstance(sign, tuple) else (sign,):
            surface.blit(sprite, (x, y + (KEY_ROW - ICON_SIDE) // 2))
        x, middle, room = x + ICON_SIDE + THEME.gap, y + KEY_ROW // 2, width - ICON_SIDE - THEME.gap
        place, anchor = ((x, middle + 1), "bottomleft") if entry.note else ((x, middle), "midleft")
        draw_text(surface, entry.name, place, anchor, size=NAME_SIZE, max_width=room)
        if entry.note:
            place, ink = (x, middle + 2), THEME.muted
            draw_text(surface, entry.note, place, size=NOTE_SIZE, colour=ink, max_width=room)


# Entries of several pictures


def follower_entry() -> KeyEntry:
    """Name the follower's pin."""
    return KeyEntry(pin_sprite(FOLLOWER, ICON_SIDE), "follower", "where it is now")


def occupancy_entry(sign: pygame.Surface, occupancy: NDArray[np.float64]) -> KeyEntry:
    """Name the disc of an occupancy and say how large the largest one is."""
    largest = float(occupancy.max(initial=0.0))
    return KeyEntry(sign, "occupancy", f"area; largest {largest:.2g}")


def gradient_entries(params_name: str, gradient: NDArray[np.float64] | None) -> Iterator[KeyEntry]:
    """Name the triangles of a hyper-gradient of any shape, and say how large the largest are."""
    if gradient is None:
        return
    ends = (float(gradient.max(initial=0.0)), float(gradient.min(initial=0.0)))
    for sign, word, way, end in ((1, "raise", "up", ends[0]), (-1, "lower", "down", ends[1])):
        note = f"dF/dx {way} to {end:+.2g}".replace("-", "−") if end else "no such dF/dx here"
        yield KeyEntry(key_triangle_sprite(sign), f"{word} {params_name}", note)
