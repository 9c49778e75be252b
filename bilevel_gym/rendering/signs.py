"""The signs of pictures: arrows, discs, triangles, pins, walls and warning tape.

Each is a sprite for a square cell of a given side. It is painted once, smooth-edged, and kept, so
that a picture of a thousand cells takes milliseconds. All can be told apart without colour.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .canvas import (
    SUPERSAMPLING,
    THEME,
    Colour,
    draw_centred,
    enlarged,
    pygame,
    shrunk,
)

START, GOAL, TARGET, HAZARD = "S", "G", "T", "H"
"""The kinds of places that a picture marks; a hazard has no pin."""
FOLLOWER = "follower"
ICON_SIDE = 32
"""Side in pixels of a sign in the key."""

# Shares of a cell's side
ARROW_START, ARROW_REACH = 0.04, 0.42
ARROW_SHAFT, ARROW_HEAD, ARROW_HEAD_LENGTH = 0.085, 0.26, 0.20
LONG_ARROW_SCALE = 1.45
DISC_DIAMETER = 0.74
TRIANGLE_SIDE = 0.29
TAPE_WIDTH = 0.09
CORNER = 0.05

LEVELS = 32
"""Sizes are drawn in this many steps so that sprites can be kept."""
MIN_SIGN = 4
"""Discs and triangles that would have fewer pixels are left out."""

HAZARD_TINT = 0.55
HAZARD_COLOUR: Colour = (240, 130, 20)
GOAL_COLOUR: Colour = (20, 110, 74)
TAXI_COLOUR: Colour = (246, 190, 22)
MORTAR_COLOUR: Colour = (92, 96, 108)
DISC_OPACITY = 165

Point = tuple[float, float]


def size_levels(
    values: NDArray[np.float64], largest: float, diameter: float = math.inf
) -> NDArray[np.int64]:
    """Return signed sizes −`LEVELS`..`LEVELS`, `[...]`, whose squares are as the values; 0 for NaN.

    The magnitude `largest` has the largest size; if it is 0, all are 0. So are sizes of fewer than
    `MIN_SIGN` pixels, where the largest sign has a diameter of so many.
    """
    share = np.nan_to_num(values) / largest if largest > 0.0 else np.zeros(np.shape(values))
    levels = np.rint(np.sign(share) * np.sqrt(np.abs(share)) * LEVELS).astype(np.int64)
    least = math.ceil(MIN_SIGN / diameter * LEVELS)
    return np.where(np.abs(levels) >= least, levels, 0)


def _scaled(points: list[Point], centre: Point, unit: float) -> list[Point]:
    """Place a shape given in units around the origin."""
    return [(centre[0] + unit * x, centre[1] + unit * y) for x, y in points]


def _turned(points: list[Point], move: int) -> list[Point]:
    """Turn a shape that points up (y grows downward) towards one of the four moves."""
    for _ in range(move):
        points = [(-y, x) for x, y in points]
    return points


def paint_outlined(
    surface: pygame.Surface, points: list[Point], fill: Colour, outline: Colour, width: int
) -> None:
    """Paint a polygon with an outline around it whose corners are round."""
    for i, start in enumerate(points):
        pygame.draw.line(surface, outline, points[i - 1], start, 2 * width)
        pygame.draw.circle(surface, outline, start, width)
    pygame.draw.polygon(surface, fill, points)


@lru_cache(maxsize=1024)
def arrow_sprite(cell: int, move: int, level: int | None, outline: bool) -> pygame.Surface:
    """Return an arrow from the middle of a cell, as long as its probability `level` / `LEVELS`.

    Without a level it goes through the whole cell. Its light outline and its dark body are two
    sprites, chosen by `outline`.
    """
    if level is None:
        tail, tip, size = -ARROW_REACH, ARROW_REACH, LONG_ARROW_SCALE
    else:
        tail = ARROW_START
        tip = ARROW_START + level / LEVELS * (ARROW_REACH - ARROW_START)
        # Arrows too short for a shaft are smaller heads.
        size = min(1.0, (tip - ARROW_START) / ARROW_HEAD_LENGTH)
    neck = tip - ARROW_HEAD_LENGTH * size
    head, shaft = ARROW_HEAD * size / 2, ARROW_SHAFT * size / 2
    points: list[Point] = [(0.0, -tip), (head, -neck), (shaft, -neck), (shaft, -tail)]
    points += [(-shaft, -tail), (-shaft, -neck), (-head, -neck)]
    surface = enlarged(cell, cell, THEME.light if outline else THEME.ink)
    side = surface.get_width()
    shape = _scaled(_turned(points, move), (side / 2, side / 2), side)
    if outline:
        width = max(SUPERSAMPLING, side // 60)
        paint_outlined(surface, shape, THEME.light, THEME.light, width)
    else:
        pygame.draw.polygon(surface, THEME.ink, shape)
    return shrunk(surface)


@lru_cache(maxsize=256)
def disc_sprite(cell: int, level: int) -> pygame.Surface:
    """Return the disc of an occupancy; its diameter is `level` / `LEVELS` of the largest."""
    surface = enlarged(cell, cell, THEME.ink)
    side = surface.get_width()
    radius = side * DISC_DIAMETER / 2 * level / LEVELS
    centre = (side / 2, side / 2)
    pygame.draw.circle(surface, THEME.ink, centre, radius)
    inner = radius - 1.2 * SUPERSAMPLING
    if inner > 0:
        pygame.draw.circle(surface, (*THEME.light, DISC_OPACITY), centre, inner)
    return shrunk(surface)


def triangle_sprite(cell: int, level: int) -> pygame.Surface:
    """Return the triangle of a derivative: filled and up if positive, hollow and down if not."""
    half = TRIANGLE_SIDE / 2
    middle = 1 - CORNER - half
    return _triangle(cell, (middle, 1 - middle), half * abs(level) / LEVELS, level > 0)


def draw_triangle(surface: pygame.Surface, centre: tuple[int, int], side: int, level: int) -> None:
    """Draw the triangle of a derivative around a pixel, if it has a size; `side` is the most."""
    if level:
        picture = _triangle(2 * side, (0.5, 0.5), abs(level) / LEVELS / 4, level > 0)
        draw_centred(surface, picture, centre)


def key_triangle_sprite(sign: int) -> pygame.Surface:
    """Return the triangle of the key."""
    return _triangle(ICON_SIDE, (0.5, 0.5), 0.3, sign > 0)


@lru_cache(maxsize=512)
def _triangle(cell: int, centre: Point, half: float, positive: bool) -> pygame.Surface:
    """Return a triangle in a square of side 2 `half`, in units of the cell: dark or light."""
    fill, outline = (THEME.ink, THEME.light) if positive else (THEME.light, THEME.ink)
    surface = enlarged(cell, cell, outline)
    side = surface.get_width()
    up: list[Point] = [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)]
    middle = (side * centre[0], side * centre[1])
    points = _scaled(_turned(up, 0 if positive else 2), middle, side * half)
    paint_outlined(surface, points, fill, outline, SUPERSAMPLING)
    return shrunk(surface)


@lru_cache(maxsize=64)
def pin_sprite(kind: str, diameter: int) -> pygame.Surface:
    """Return the round sign of start (house), goal (flag), target (rings), follower (figure)."""
    plate, ink, paint_icon = {
        START: (THEME.light, THEME.ink, _paint_house),
        GOAL: (GOAL_COLOUR, THEME.light, _paint_flag),
        TARGET: (THEME.ink, THEME.ink, _paint_rings),
        FOLLOWER: (THEME.accent, THEME.light, _paint_figure),
    }[kind]
    surface = enlarged(diameter, diameter, ink)
    side = surface.get_width()
    centre = (side / 2, side / 2)
    pygame.draw.circle(surface, ink, centre, side / 2)
    pygame.draw.circle(surface, plate, centre, side / 2 - 1.5 * SUPERSAMPLING)
    paint_icon(surface, plate, ink)
    return shrunk(surface)


@lru_cache(maxsize=8)
def taxi_sprite(side: int, taken: bool) -> pygame.Surface:
    """Return a taxi from the side, in a square; somebody sits in it if it is `taken`."""
    surface = enlarged(side, side, THEME.ink)
    size = surface.get_width()

    def box(left: float, top: float, width: float, height: float) -> pygame.Rect:
        return pygame.Rect(*(round(size * share) for share in (left, top, width, height)))

    body = (((0.24, 0.22, 0.5, 0.34), 0.1), ((0.03, 0.44, 0.94, 0.32), 0.1))
    for grown, colour in ((0.03, THEME.ink), (0.0, TAXI_COLOUR)):
        for (left, top, width, height), corner in body:
            place = box(left - grown, top - grown, width + 2 * grown, height + 2 * grown)
            pygame.draw.rect(surface, colour, place, border_radius=round(size * corner))
    pygame.draw.rect(surface, THEME.accent if taken else THEME.light, box(0.32, 0.28, 0.34, 0.17))
    pygame.draw.rect(surface, THEME.ink, box(0.4, 0.12, 0.18, 0.08))
    for middle in (0.25, 0.75):
        centre = (round(size * middle), round(size * 0.77))
        pygame.draw.circle(surface, THEME.ink, centre, round(size * 0.13))
        pygame.draw.circle(surface, THEME.light, centre, round(size * 0.05))
    return shrunk(surface)


def _polygon_in_pin(surface: pygame.Surface, colour: Colour, points: list[Point]) -> None:
    """Paint a polygon in units of the pin's radius."""
    half = surface.get_width() / 2
    pygame.draw.polygon(surface, colour, _scaled(points, (half, half), half))


def _paint_house(surface: pygame.Surface, plate: Colour, ink: Colour) -> None:
    _polygon_in_pin(surface, ink, [(-0.62, 0.02), (0.0, -0.58), (0.62, 0.02)])
    _polygon_in_pin(surface, ink, [(-0.42, 0.0), (0.42, 0.0), (0.42, 0.5), (-0.42, 0.5)])
    _polygon_in_pin(surface, plate, [(-0.13, 0.15), (0.13, 0.15), (0.13, 0.52), (-0.13, 0.52)])


def _paint_flag(surface: pygame.Surface, _plate: Colour, ink: Colour) -> None:
    _polygon_in_pin(surface, ink, [(-0.36, -0.6), (-0.22, -0.6), (-0.22, 0.6), (-0.36, 0.6)])
    _polygon_in_pin(surface, ink, [(-0.22, -0.56), (0.56, -0.24), (-0.22, 0.1)])


def _paint_rings(surface: pygame.Surface, _plate: Colour, ink: Colour) -> None:
    half = surface.get_width() / 2
    for share, colour in ((0.75, THEME.light), (0.5, ink), (0.25, THEME.light)):
        pygame.draw.circle(surface, colour, (half, half), share * half)


def _paint_figure(surface: pygame.Surface, _plate: Colour, ink: Colour) -> None:
    half = surface.get_width() / 2
    pygame.draw.circle(surface, ink, (half, half * 0.66), half * 0.27)
    turns = np.linspace(0.0, math.pi, 24).tolist()
    shoulders = [(0.5 * math.cos(turn), 0.56 - 0.52 * math.sin(turn)) for turn in turns]
    _polygon_in_pin(surface, ink, shoulders)


@lru_cache(maxsize=32)
def wall_sprite(cell: int, bricks: bool) -> pygame.Surface:
    """Return a wall: a dark cell, with bricks where there is room for them."""
    surface = enlarged(cell, cell, THEME.missing)
    surface.fill(THEME.missing)
    side, courses = surface.get_width(), 4
    width = max(SUPERSAMPLING, side // 40)
    for i in range(courses if bricks else 0):
        y = side * i // courses
        pygame.draw.rect(surface, MORTAR_COLOUR, (0, y, side, width))
        x = side * (1 + 2 * (i % 2)) // 4
        pygame.draw.rect(surface, MORTAR_COLOUR, (x, y, width, side // courses))
    return shrunk(surface)


@lru_cache(maxsize=32)
def hazard_sprite(cell: int) -> pygame.Surface:
    """Return the warning tape along the edge of a hazard, whose middle stays visible."""
    surface = enlarged(cell, cell, THEME.ink)
    side = surface.get_width()
    width = max(2 * SUPERSAMPLING, round(side * TAPE_WIDTH))
    surface.fill(HAZARD_COLOUR)
    stripe = 2 * width
    for x in range(-side, side, 2 * stripe):
        corners = [(x, side), (x + stripe, side), (x + stripe + side, 0), (x + side, 0)]
        pygame.draw.polygon(surface, THEME.ink, corners)
    inner = surface.get_rect().inflate(-2 * width, -2 * width)
    surface.fill((*THEME.ink, 0), inner)
    return shrunk(surface)
