"""The panel beside the picture of the game: text, parts of the hyper-gradient, sliders, curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.mdp import FloatArray
from ..rendering.canvas import (
    THEME,
    Colour,
    Rectangle,
    draw_note,
    draw_text,
    pygame,
    short_number,
    wrapped,
)
from ..rendering.curves import StepCurve, draw_curves
from .climbing import PARTS

# Sizes in pixels
WIDTH = 420
LINE, TEXT_SIZE = 21, 22
TEXT_LINES, ESTIMATE_LINES, LESSON_LINES = 4, 9, 11
LEAST_HEIGHT = 820
"""Of the page."""
SUMMARY = 5 * LINE + 8
ROWS = (20, 36)
"""Heights of the row of a slider, the least and the largest."""
CURVES, CURVE = 250, 125
"""Heights of two curves, and of one."""
NAME, TRACK, VALUE = 86, 132, 58
"""Widths in the row of a slider; the bars of the parts take the rest."""
HANDLE = 7
"""Radius of the handle of a slider."""

PART_COLOURS: dict[str, Colour] = {
    "direct part": THEME.curves[0],
    "response part": THEME.accent,
    "hyper-gradient": THEME.ink,
}
PART_WORDS = {
    "direct part": "if the follower did not react",
    "response part": "because it reacts",
    "hyper-gradient": "the sum of both",
}


@dataclass(frozen=True)
class PanelLayout:
    """Where everything is on the page; rectangles are (left, top, width, height).

    Attributes:
        size: Width and height of the page, both even.
        scale: By what the picture of the game is shrunk.
        text: Room for text, for the summary of the parts, and for the curves.
        rows: Room for each slider with the parts of its derivative, or for one cell of a map.
    """

    size: tuple[int, int]
    scale: float
    text: Rectangle
    summary: Rectangle
    rows: tuple[Rectangle, ...]
    curves: Rectangle

    def slider_at(self, position: tuple[int, int]) -> int | None:
        """Return the number of the slider under a pixel, None for none."""
        for number, row in enumerate(self.rows):
            left, top, _, height = self.track(row)
            x, y = position[0] - left, position[1] - top
            if -HANDLE <= x <= TRACK + HANDLE and 0 <= y < height:
                return number
        return None

    def share_at(self, position: tuple[int, int], number: int) -> float:
        """Return where a pixel is on the track of a slider, from 0 to 1."""
        left = self.track(self.rows[number])[0]
        return min(max((position[0] - left) / TRACK, 0.0), 1.0)

    def place_of(self, number: int, share: float) -> tuple[int, int]:
        """Return the pixel of a place on the track of a slider."""
        left, top, width, height = self.track(self.rows[number])
        return round(left + share * width), top + height // 2

    @staticmethod
    def track(row: Rectangle) -> Rectangle:
        """Return the track of a slider in its row."""
        return row[0] + NAME, row[1], TRACK, row[3]


def lay_out(
    picture: tuple[int, int], room: tuple[int, int], knobs: int, *, lines: int
) -> PanelLayout:
    """Lay out a page: a picture of a size, shrunk to a room; lines of text and sliders beside."""
    scale = min(1.0, room[0] / picture[0], room[1] / picture[1])
    width, height = (round(side * scale) for side in picture)
    height = max(height, LEAST_HEIGHT)
    left, top, gap = width + THEME.gap, THEME.margin, THEME.gap
    text_height = LINE * lines
    rows_top = top + text_height + gap + SUMMARY + gap
    count = max(1, knobs)
    spare = height - THEME.margin - rows_top - gap
    row = min(max((spare - CURVE) // count, ROWS[0]), ROWS[1])
    curves_top = rows_top + count * row + gap
    height = max(height, curves_top + CURVE + THEME.margin)
    curves_height = min(CURVES, height - THEME.margin - curves_top)
    page = (left + WIDTH + THEME.margin, height)
    return PanelLayout(
        size=(page[0] + page[0] % 2, page[1] + page[1] % 2),
        scale=scale,
        text=(left, top, WIDTH, text_height),
        summary=(left, top + text_height + gap, WIDTH, SUMMARY),
        rows=tuple((left, rows_top + i * row, WIDTH, row) for i in range(count)),
        curves=(left, curves_top, WIDTH, curves_height),
    )


@dataclass(frozen=True)
class Knob:
    """A row of the panel.

    Attributes:
        value: The entry of x, and `share` where it is in its box, from 0 to 1.
        slopes: Its derivative's parts, in the order of `PARTS`, NaN for those that are not known;
            None in the follower's seat.
        blocked: Whether the derivative points out of the box.
        error: Standard error of the derivative, None where it is not known or there is none.
    """

    name: str
    value: float
    share: float
    slopes: tuple[float, float, float] | None
    blocked: bool = False
    error: float | None = None


def draw_lines(
    surface: pygame.Surface, rectangle: Rectangle, paragraphs: Sequence[tuple[str, Colour]]
) -> None:
    """Write paragraphs of their colours into a room, a line below the other, as many as fit."""
    left, top, width, height = rectangle
    bottom = top + height
    for text, colour in paragraphs:
        for line in wrapped(text, TEXT_SIZE, width):
            if top + LINE > bottom:
                return
            draw_text(surface, line, (left, top), size=TEXT_SIZE, colour=colour)
            top += LINE
        top += LINE // 4


def draw_summary(
    surface: pygame.Surface, rectangle: Rectangle, parts: Sequence[FloatArray]
) -> None:
    """Draw the norms of the parts as bars, the largest one over the whole width."""
    left, top, width, _ = rectangle
    norms = [float(np.linalg.norm(each)) for each in parts]
    largest = max(norm for norm in [0.0, *norms] if not np.isnan(norm)) or 1.0
    draw_text(surface, "dF/dx, how F changes with x", (left, top), size=TEXT_SIZE)
    top += LINE + 4
    for name, norm in zip(PARTS, norms, strict=True):
        words = PART_WORDS[name]
        if np.isnan(norm):
            words = "not told by this method"
        else:
            bar = pygame.Rect(left, top + 3, max(1, round(110 * norm / largest)), LINE - 8)
            pygame.draw.rect(surface, PART_COLOURS[name], bar)
        draw_note(surface, f"{name}: {words}", (left + 118, top), max_width=width - 118)
        top += LINE
    if np.isnan(norms).any():
        return
    cosine = float(np.vdot(parts[0], parts[2])) / ((norms[0] * norms[2]) or 1.0)
    note = (
        "the direct part is zero"
        if norms[0] == 0.0
        else f"cosine of direct part and sum {cosine:+.2f}"
    )
    draw_note(surface, note.replace("-", "−"), (left, top))


def draw_knobs(
    surface: pygame.Surface, rows: Sequence[Rectangle], knobs: Sequence[Knob], *, sliders: bool
) -> None:
    """Draw the rows of knobs; without sliders their values alone."""
    slopes = [knob.slopes for knob in knobs if knob.slopes is not None]
    errors = [knob.error for knob in knobs if knob.error is not None]
    sizes = np.abs(np.concatenate([np.ravel(slopes), errors]))
    largest = float(sizes.max(initial=0.0, where=~np.isnan(sizes))) or 1.0
    for row, knob in zip(rows, knobs, strict=False):
        left, top, width, height = row
        middle = top + height // 2
        size = min(THEME.small_size, height)
        place = (left, middle)
        draw_text(surface, knob.name, place, "midleft", size=size, max_width=NAME - 6)
        if sliders:
            x = left + NAME
            pygame.draw.line(surface, THEME.rule, (x, middle), (x + TRACK, middle), 4)
            handle = (round(x + knob.share * TRACK), middle)
            pygame.draw.circle(surface, THEME.ink, handle, HANDLE)
            pygame.draw.circle(surface, THEME.light, handle, HANDLE - 3)
        place = (left + NAME + TRACK + VALUE, middle)
        draw_text(surface, short_number(knob.value), place, "midright", size=size)
        if knob.slopes is not None:
            start = left + NAME + TRACK + VALUE + 10
            _draw_parts(surface, (start, top, left + width - start, height), knob, largest)


def _draw_parts(surface: pygame.Surface, rectangle: Rectangle, knob: Knob, largest: float) -> None:
    """Draw the parts of a derivative as bars from the middle, up to the right."""
    left, top, width, height = rectangle
    assert knob.slopes is not None
    middle, thick = left + width // 2, max(3, (height - 8) // 4)
    first = top + (height - 3 * (thick + 1)) // 2
    pygame.draw.line(surface, THEME.rule, (middle, top + 1), (middle, top + height - 2))
    for i, (name, slope) in enumerate(zip(PARTS, knob.slopes, strict=True)):
        if np.isnan(slope):
            continue
        length = round(abs(slope) / largest * (width // 2 - 2))
        bar = pygame.Rect(middle, first + i * (thick + 1), length, thick)
        if slope < 0.0:
            bar.right = middle
        # What points out of the box moves nothing.
        hollow = knob.blocked and name == "hyper-gradient"
        pygame.draw.rect(surface, PART_COLOURS[name], bar, 1 if hollow else 0)
    if knob.error is not None:
        # Two standard errors around the sum.
        ends = (knob.slopes[-1] + sign * 2.0 * knob.error for sign in (-1.0, 1.0))
        low, high = (
            round(middle + min(max(end / largest, -1.0), 1.0) * (width // 2 - 2)) for end in ends
        )
        y = first + 3 * (thick + 1) + 1
        pygame.draw.line(surface, THEME.muted, (low, y), (high, y), 1)
        for x in (low, high):
            pygame.draw.line(surface, THEME.muted, (x, y - 2), (x, y + 2), 1)


def draw_panel_curves(
    surface: pygame.Surface, rectangle: Rectangle, curves: Sequence[StepCurve]
) -> None:
    """Draw as many of the curves as there is room for."""
    draw_curves(surface, rectangle, curves[: max(1, rectangle[3] // CURVE)])
