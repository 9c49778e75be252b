"""How lines and areas are drawn: with a round brush, in dashes, and as a sign for the key.

Lines differ by their dashes as well as by colour, and areas have an outline, so that they can be
read in greyscale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import SUPERSAMPLING, THEME, Colour, enlarged, pygame, shrunk
from .signs import ICON_SIDE

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


def draw_stroke(surface: pygame.Surface, points: NDArray[np.float64], style: LineStyle) -> None:
    """Draw a line through points `[N, 2]` with a round brush, broken into dashes."""
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
    along = lengths_along(points)
    if dashes is None or along[-1] == 0.0:
        return [points]
    on, off = (SUPERSAMPLING * length for length in dashes)
    starts = np.arange(0.0, along[-1], on + off)
    ends = np.minimum(starts + on, along[-1])
    first = np.searchsorted(along, starts, side="right")
    last = np.searchsorted(along, ends, side="left")
    spans = zip(starts, first, last, ends, strict=True)
    lengths = [np.array([start, *along[i:j], end]) for start, i, j, end in spans]
    together = points_along(points, np.concatenate(lengths))
    return np.split(together, np.cumsum([len(run) for run in lengths])[:-1])


def lengths_along(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lengths of a line up to each of its points `[N, 2]`."""
    return np.append(0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))


def points_along(points: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points of a line `[N, 2]` at lengths `[M]` from its start, `[M, 2]`."""
    along = lengths_along(points)
    return np.stack([np.interp(lengths, along, axis) for axis in points.T], axis=-1)


def style_sprite(style: LineStyle) -> pygame.Surface:
    """Return a piece of a line or an area for the key."""
    surface = enlarged(ICON_SIDE, ICON_SIDE, style.colour)
    side = surface.get_width()
    height = side // 4 if style.filled else side / 2
    if style.filled:
        pygame.draw.rect(surface, lightened(style.colour), (0, height, side, side // 2))
    draw_stroke(surface, np.array([[0.0, height], [side - 1.0, height]]), style)
    return shrunk(surface)
