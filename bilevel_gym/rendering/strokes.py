"""How lines and areas are drawn: with a round brush, in dashes, and as a sign for the key.

Lines differ by their dashes as well as by colour, and areas have an outline, so that they can be
read in greyscale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import SUPERSAMPLING, THEME, Colour, Sprite, import_pygame, make_sprite
from .signs import ICON_SIDE

if TYPE_CHECKING:
    from pygame import Surface

LINE_WIDTH = 2
"""In pixels."""
AREA_LIGHTENING = 0.62
"""Share of white in the inside of an area."""


@dataclass(frozen=True)
class LineStyle:
    """How a series is drawn.

    Attributes:
        colour: Colour of the line, and of the outline of an area.
        dashes: Pixels drawn and pixels left out, by turns; None for an unbroken line.
        filled: Whether the area below the line is filled.
    """

    colour: Colour = THEME.ink
    dashes: tuple[float, float] | None = None
    filled: bool = False


DASHES = (None, (9.0, 5.0), (2.0, 4.0), (12.0, 3.0))


def line_style(number: int) -> LineStyle:
    """Return how one of several lines is drawn; after four of them colours come again."""
    round_, colour = divmod(number, len(THEME.curves))
    return LineStyle(THEME.curves[colour], DASHES[(number + round_) % len(DASHES)])


def lightened(colour: Colour) -> Colour:
    """Return a colour mixed with white, as the inside of an area has it."""
    red, green, blue = (round(c + AREA_LIGHTENING * (255 - c)) for c in colour)
    return red, green, blue


def draw_stroke(surface: Surface, points: NDArray[np.float64], style: LineStyle) -> None:
    """Draw a line through points `[N, 2]` with a round brush, broken into dashes."""
    pygame = import_pygame()
    width = LINE_WIDTH * SUPERSAMPLING
    for run in _dashed(points, style.dashes):
        if len(run) > 1:
            pygame.draw.lines(surface, style.colour, False, run.tolist(), width)
        for point in run.tolist():
            pygame.draw.circle(surface, style.colour, point, width / 2)


def _dashed(
    points: NDArray[np.float64], dashes: tuple[float, float] | None
) -> list[NDArray[np.float64]]:
    """Cut a line through points `[N, 2]` of the larger surface into its dashes."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    if dashes is None or steps.sum() == 0.0:
        return [points]
    along = np.concatenate([[0.0], np.cumsum(steps)])
    on, off = (SUPERSAMPLING * length for length in dashes)
    starts = np.arange(0.0, along[-1], on + off)
    # `interp` wants places that rise; points on top of each other add nothing.
    kept = np.concatenate([[True], steps > 0.0])
    points, along = points[kept], along[kept]
    runs = []
    for start in starts.tolist():
        end = min(start + on, along[-1])
        inside = along[(along > start) & (along < end)]
        places = np.concatenate([[start], inside, [end]])
        runs.append(np.stack([np.interp(places, along, p) for p in points.T], axis=1))
    return runs


def style_sprite(style: LineStyle) -> Sprite:
    """Return a piece of a line or an area for the key."""

    def paint(surface: Surface) -> None:
        pygame = import_pygame()
        side = surface.get_width()
        if style.filled:
            box = pygame.Rect(0, side // 4, side, side // 2)
            pygame.draw.rect(surface, lightened(style.colour), box)
            line = np.array([[0.0, box.top], [side - 1.0, box.top]])
        else:
            line = np.array([[0.0, side / 2], [side - 1.0, side / 2]])
        draw_stroke(surface, line, style)

    return make_sprite(ICON_SIDE, style.colour, paint)
