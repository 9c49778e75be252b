"""Pictures of grid games: map, shaping, the follower's policy and occupancy, the hyper-gradient.

Left stands the map, right of it the colour scale and a key that names every sign in words, and
then, if there are any, plots of numbers over the steps. Shaping is the colour of a cell; the other
quantities are shapes, so that the picture can be read in greyscale. Details are given up one by
one as cells get smaller (the `..._CELL` constants), down to a plain image of the shaping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_positive
from . import signs
from .canvas import (
    COLOUR_POWER,
    HEADER_HEIGHT,
    THEME,
    ColourScale,
    Rectangle,
    new_page,
    pygame,
)
from .curves import StepCurve, draw_curves
from .key import (
    KEY_ROW,
    KEY_WIDTH,
    PLACE_NAMES,
    KeyEntry,
    draw_key,
    follower_entry,
    gradient_entries,
    occupancy_entry,
)
from .scene_checks import TOLERANCE, check_array, check_range

WALL, FREE, EVENT = "#", ".", "*"
SIGNS = (signs.START, signs.GOAL, signs.TARGET, signs.HAZARD, WALL, FREE, EVENT)

# Sizes in pixels
MAP_SIDE = 608
"""The longer side of the map is as near to this as whole pixels per cell allow."""
MAX_CELL = 112
MIN_MAP_WIDTH = 320
KEY_SLOTS = 11
"""Rows that the longest key needs, the colour scale included."""
CURVES_WIDTH, CURVES_HEIGHT = 300, 400

PIN_DIAMETER = 0.35
"""Share of a cell's side."""

# The smallest cells, in pixels, that show a detail
FULL_CELL = 32
"""Below it a cell shows only its most likely move, and pins stand in the middle of their cells."""
SIGN_CELL = 14
"""Below it there are neither arrows nor discs nor triangles, and walls have no bricks."""
LINES_CELL = 8
"""Below it there are no lines between cells, and hazards are tinted cells."""
MIN_PIN = 18
"""Pins do not shrink with the cells below this diameter; about half of `FULL_CELL`."""

MIN_PROBABILITY = 0.08
"""Less likely moves get no arrow."""

TILE_INK = 96.0
"""Brightness from which a pixel of a tile covers the colour of the shaping; darker ones let it
through."""
PATCH = 0.56
"""Share of a tile's side that the colour of an event covers."""


@dataclass(frozen=True, eq=False)
class GridScene:
    """Everything that one picture of a grid game shows.

    `H` and `W` are the rows and columns of the map. Values on walls are ignored.

    Attributes:
        cells: One-character strings `[H, W]`: 'S' start, 'G' goal, 'T' the leader's target,
            'H' hazard, '#' wall, '.' free, '*' where an event is shaped and nobody acts.
        shaping: The leader's shaping reward `[H, W]`, NaN on walls.
        shaping_limit: Value of the last colour, as in `ColourScale`; larger values have it too.
        policy: The follower's probabilities of up, right, down, left `[H, W, 4]`; ignored at
            events.
        occupancy: Share of the follower's time `[H, W]` in [0, 1].
        gradient: Derivative of the leader's objective by the shaping, or by the parameters of it,
            `[H, W]`.
        follower: Row and column where the follower is now.
        status: Pairs of label and value below the headline.
        curves: Plots right of the map. Give them in every frame (without values at first) or
            never: they change the size of the picture.
        cursor: Row and column of a highlighted cell.
        shaping_name: What `shaping` is called in the key.
        params_name: What `gradient` is taken by, in the key.
        shaping_power: Colours follow |shaping| to this power; below 1 small values stand out.
        signed: Whether the shaping may have either sign.
        entries: Further signs of the key, which the caller draws.
        tiles: A picture of the map by somebody else, uint8 `[H * t, W * t, 3]` with t pixels for
            each cell, in place of walls and hazards; the shaping is the colour of its dark parts.
    """

    cells: NDArray[np.str_]
    shaping: NDArray[np.float64]
    shaping_limit: float
    policy: NDArray[np.float64] | None = None
    occupancy: NDArray[np.float64] | None = None
    gradient: NDArray[np.float64] | None = None
    follower: tuple[int, int] | None = None
    title: str = ""
    status: tuple[tuple[str, str], ...] = ()
    curves: tuple[StepCurve, ...] = ()
    cursor: tuple[int, int] | None = None
    shaping_name: str = "shaping reward"
    params_name: str = "shaping"
    shaping_power: float = COLOUR_POWER
    signed: bool = True
    entries: tuple[KeyEntry, ...] = ()
    tiles: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        shape = _map_shape(np.shape(self.cells))
        unknown = sorted(set(np.unique(self.cells).tolist()) - set(SIGNS))
        if unknown:
            raise ValueError(
                f"`cells` must be among 'S', 'G', 'T', 'H', '#', '.' and '*', got {unknown[0]!r}"
            )
        limit = self.shaping_limit if self.signed else abs(self.shaping_limit)
        check_positive("shaping_limit", limit)
        free = self.cells != WALL
        for name, tail in (("shaping", ()), ("policy", (4,)), ("occupancy", ()), ("gradient", ())):
            values = getattr(self, name)
            if values is None:
                continue
            shown = self.acting if name == "policy" else free
            walls = ~shown.reshape(shape + (1,) * len(tail))
            finite = "finite outside the walls"
            check_array(name, values, shape + tail, missing=walls, accepted=finite)
            if name in ("policy", "occupancy"):
                check_range(name, values[shown], 1.0)
        if self.policy is not None:
            sums = self.policy[self.acting].sum(axis=-1)
            bad = np.abs(sums - 1.0) > TOLERANCE
            if bad.any():
                total = float(sums[bad][0])
                raise ValueError(f"`policy` must sum to 1 over the moves, got {total}")
        for name in ("follower", "cursor"):
            place = getattr(self, name)
            if place is not None and not (0 <= place[0] < shape[0] and 0 <= place[1] < shape[1]):
                raise ValueError(f"`{name}` must lie within the {shape} map, got {place}")

    @property
    def acting(self) -> NDArray[np.bool_]:
        """Where the follower acts, `[H, W]`."""
        return (self.cells != WALL) & (self.cells != EVENT)

    @property
    def scale(self) -> ColourScale:
        """What the colours mean."""
        return ColourScale(self.shaping_limit, self.shaping_name, self.shaping_power, self.signed)


def _map_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns of a map after checking them."""
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"`shape` of the map must be two positive numbers, got {tuple(shape)}")
    return int(shape[0]), int(shape[1])


# Layout


@dataclass(frozen=True)
class GridLayout:
    """Where everything is in the picture of a map; depends on nothing but the arguments.

    Attributes:
        shape: Rows and columns of the map.
        size: Width and height of the frame, both even as video encoders want them.
        cell: Pixels per cell: a whole number, or a fraction below 1 on huge maps.
        map: Rectangle of the map; like the following, (left, top, width, height).
        key: Rectangle of the colour scale and the key.
        curves: Rectangle of the plots, or None.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    cell: float
    map: Rectangle
    key: Rectangle
    curves: Rectangle | None

    def cell_at(self, position: tuple[int, int]) -> tuple[int, int] | None:
        """Return the (row, column) under a pixel (x, y), or None outside the map."""
        left, top, width, height = self.map
        x, y = position[0] - left, position[1] - top
        if not (0 <= x < width and 0 <= y < height):
            return None
        return int(y * self.shape[0] // height), int(x * self.shape[1] // width)

    def cell_corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the top left pixel (x, y) of a cell."""
        left, top, width, height = self.map
        return left + column * width // self.shape[1], top + row * height // self.shape[0]

    def cell_centre(self, row: int, column: int) -> tuple[int, int]:
        """Return the pixel (x, y) in the middle of a cell."""
        x, y = self.cell_corner(row, column)
        return x + int(self.cell) // 2, y + int(self.cell) // 2


@lru_cache(maxsize=64)
def grid_layout(shape: tuple[int, int], *, with_curves: bool = False) -> GridLayout:
    """Lay out the picture of a map of (rows, columns), perhaps with room for plots on the right."""
    rows, columns = _map_shape(shape)
    cell: float = min(MAX_CELL, MAP_SIDE / max(rows, columns))
    cell = int(cell) if cell >= 1 else cell
    width, height = max(1, round(columns * cell)), max(1, round(rows * cell))
    margin = THEME.margin
    top = HEADER_HEIGHT
    area_width = max(width, MIN_MAP_WIDTH)
    key_columns = (area_width + margin) // (KEY_WIDTH + margin)
    # Beside a wide, low map the key would leave a void below it.
    if key_columns > 1 and 2 * height < KEY_SLOTS * KEY_ROW:
        key_height = -(-KEY_SLOTS // key_columns) * KEY_ROW
        key = (margin, top + height + margin, area_width, key_height)
    else:
        key = (margin + area_width + margin, top, KEY_WIDTH, KEY_SLOTS * KEY_ROW)
    area_bottom = max(top + height, key[1] + key[3])
    curves_left = max(margin + area_width, key[0] + key[2]) + margin
    right = curves_left + (CURVES_WIDTH + margin if with_curves else 0)
    bottom = area_bottom + margin
    curves = (curves_left, top, CURVES_WIDTH, min(CURVES_HEIGHT, area_bottom - top))
    return GridLayout(
        shape=(rows, columns),
        size=(right + right % 2, bottom + bottom % 2),
        cell=cell,
        map=(margin + (area_width - width) // 2, top, width, height),
        key=key,
        curves=curves if with_curves else None,
    )


# The picture


def draw_grid(scene: GridScene) -> pygame.Surface:
    """Draw a scene on a new surface; needs no display."""
    layout = grid_layout(_map_shape(scene.cells.shape), with_curves=bool(scene.curves))
    surface = new_page(layout.size, scene.title, scene.status)
    _draw_shaping(surface, layout, scene)
    _draw_terrain(surface, layout, scene)
    if layout.cell >= SIGN_CELL:
        if scene.occupancy is not None:
            # A disc in each visited cell, below the policy's arrows.
            occupancy = np.maximum(scene.occupancy, 0.0)
            _draw_sized(surface, layout, scene, occupancy, signs.DISC_DIAMETER, signs.disc_sprite)
        _draw_policy(surface, layout, scene)
        if scene.gradient is not None:
            # A triangle in the corner, up where the leader gains from more shaping.
            side, sprite = signs.TRIANGLE_SIDE, signs.triangle_sprite
            _draw_sized(surface, layout, scene, scene.gradient, side, sprite)
    _draw_pins(surface, layout, scene)
    if scene.cursor is not None:
        draw_cursor(surface, layout, scene.cursor)
    draw_key(surface, layout.key, _key_entries(layout, scene), scale=scene.scale)
    if layout.curves is not None:
        draw_curves(surface, layout.curves, scene.curves)
    return surface


def _draw_shaping(surface: pygame.Surface, layout: GridLayout, scene: GridScene) -> None:
    """Paint the map as an image, one colour per cell."""
    values = np.where(scene.cells == WALL, np.nan, scene.shaping)
    colours = scene.scale.colours(values)
    if layout.cell < LINES_CELL:
        hazards, tint = scene.cells == signs.HAZARD, signs.HAZARD_TINT
        colours[hazards] = (1 - tint) * colours[hazards] + tint * np.array(signs.HAZARD_COLOUR)
    if scene.tiles is not None:
        colours = _tiled(scene.tiles, colours, scene.cells)
    image = pygame.surfarray.make_surface(colours.swapaxes(0, 1))
    left, top, width, height = layout.map
    # Below one pixel per cell, neighbouring cells are averaged rather than dropped.
    coarse = layout.cell < 1 or scene.tiles is not None
    scale = pygame.transform.smoothscale if coarse else pygame.transform.scale
    if image.get_size() != (width, height):
        image = scale(image, (width, height))
    surface.blit(image, (left, top))


def _tiled(
    tiles: NDArray[np.uint8], colours: NDArray[np.uint8], cells: NDArray[np.str_]
) -> NDArray[np.uint8]:
    """Return tiles with the colours `[H, W, 3]` of their cells where they are dark.

    Events are painted as patches in the middle of their tiles, walls not at all.
    """
    ink = _ink(tiles.tobytes(), tiles.shape, cells.tobytes(), cells.shape)
    side = tiles.shape[0] // cells.shape[0]
    grown = colours.astype(np.float32).repeat(side, axis=0).repeat(side, axis=1)
    grown += ink * (tiles - grown)
    return grown.astype(np.uint8)


@lru_cache(maxsize=4)
def _ink(
    tiles: bytes, size: tuple[int, ...], cells: bytes, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return how much of each pixel of a picture covers the colours below, `[H * t, W * t, 1]`."""
    signs_of_cells = np.frombuffer(cells, dtype="<U1").reshape(shape)
    side = size[0] // shape[0]
    bright = np.frombuffer(tiles, dtype=np.uint8).reshape(size).max(axis=2) / TILE_INK
    middle = np.abs((np.arange(side) + 0.5) / side - 0.5) <= 0.5 * PATCH
    ink = np.maximum(
        np.minimum(bright, 1.0), np.kron(signs_of_cells == WALL, np.ones((side, side)))
    )
    ink[np.kron(signs_of_cells == EVENT, np.outer(middle, middle))] = 0.0
    return ink[..., None].astype(np.float32)


def _draw_terrain(surface: pygame.Surface, layout: GridLayout, scene: GridScene) -> None:
    """Draw lines between the cells, walls, hazards and the frame of the map."""
    left, top, width, height = layout.map
    cell = int(layout.cell)
    sprites = {}
    if cell >= LINES_CELL and scene.tiles is None:
        for x in range(left + cell, left + width, cell):
            pygame.draw.line(surface, THEME.page, (x, top), (x, top + height - 1))
        for y in range(top + cell, top + height, cell):
            pygame.draw.line(surface, THEME.page, (left, y), (left + width - 1, y))
        sprites[WALL] = signs.wall_sprite(cell, cell >= SIGN_CELL)
        sprites[signs.HAZARD] = signs.hazard_sprite(cell)
    for kind, sprite in sprites.items():
        places = np.argwhere(scene.cells == kind).tolist()
        surface.fblits([(sprite, layout.cell_corner(*place)) for place in places])
    pygame.draw.rect(surface, THEME.ink, (left - 1, top - 1, width + 2, height + 2), 1)


def _draw_policy(surface: pygame.Surface, layout: GridLayout, scene: GridScene) -> None:
    """Draw four arrows per cell as long as their probabilities, or one to the most likely move."""
    if scene.policy is None:
        return
    cell = int(layout.cell)
    policy = np.where(scene.acting[..., None], np.clip(scene.policy, 0.0, 1.0), 0.0)
    levels = np.rint(policy * signs.LEVELS).astype(np.int64)
    shown = policy >= MIN_PROBABILITY
    if cell < FULL_CELL:
        # A tie of all moves has no direction that an arrow could show.
        directed = np.ptp(policy, axis=-1) >= 1 / signs.LEVELS
        best = np.arange(policy.shape[-1]) == policy.argmax(axis=-1)[..., None]
        shown = directed[..., None] & best
    # All outlines first: those of one arrow must not cut into its neighbours.
    for outline in (True, False):
        for row, column, move in np.argwhere(shown).tolist():
            level = int(levels[row, column, move]) if cell >= FULL_CELL else None
            arrow = signs.arrow_sprite(cell, move, level, outline)
            surface.blit(arrow, layout.cell_corner(row, column))


def _draw_sized(
    surface: pygame.Surface,
    layout: GridLayout,
    scene: GridScene,
    values: NDArray[np.float64],
    share: float,
    sprite: Callable[[int, int], pygame.Surface],
) -> None:
    """Draw a sign in each free cell with its area as the value `[H, W]`.

    The largest one takes a `share` of the cell's side; `sprite` returns that of a side and a size.
    """
    cell = int(layout.cell)
    values = np.where(scene.cells == WALL, 0.0, values)
    levels = signs.size_levels(values, float(np.abs(values).max()), share * cell)
    for row, column in np.argwhere(levels != 0).tolist():
        sign = sprite(cell, int(levels[row, column]))
        surface.blit(sign, layout.cell_corner(row, column))


def _draw_pins(surface: pygame.Surface, layout: GridLayout, scene: GridScene) -> None:
    """Draw the pins of places and follower: in the cell's corner, or larger in its middle."""
    cell = int(layout.cell)
    corners = cell >= FULL_CELL
    diameter = max(MIN_PIN, round(cell * PIN_DIAMETER) if corners else cell)
    inset = max(1, round(cell * signs.CORNER)) if corners else (cell - diameter) // 2
    for place in np.argwhere(np.isin(scene.cells, list(PLACE_NAMES))).tolist():
        x, y = layout.cell_corner(*place)
        sprite = signs.pin_sprite(str(scene.cells[*place]), diameter)
        surface.blit(sprite, (x + inset, y + inset))
    if scene.follower is not None:
        x, y = layout.cell_corner(*scene.follower)
        pin = signs.pin_sprite(signs.FOLLOWER, diameter)
        surface.blit(pin, (x + inset, y + cell - diameter - inset))


def draw_cursor(surface: pygame.Surface, layout: GridLayout, cell: tuple[int, int]) -> None:
    """Draw a frame around a cell, dark in light so that it shows on any colour."""
    side = max(1, int(layout.cell))
    box = pygame.Rect(layout.cell_corner(*cell), (side, side))
    box = box.inflate(2 * THEME.line, 2 * THEME.line)
    pygame.draw.rect(surface, THEME.light, box.inflate(2, 2), THEME.line + 2)
    pygame.draw.rect(surface, THEME.accent, box, THEME.line)


# The key


def _key_entries(layout: GridLayout, scene: GridScene) -> Iterator[KeyEntry]:
    """Name the signs that this scene shows at this size of the cells."""
    cell, free, side = layout.cell, scene.cells != WALL, signs.ICON_SIDE
    for kind, name in PLACE_NAMES.items():
        if (scene.cells == kind).any():
            yield KeyEntry(signs.pin_sprite(kind, side), name)
    if (scene.cells == signs.HAZARD).any():
        yield KeyEntry(signs.hazard_sprite(side), "hazard")
    if (scene.cells == WALL).any() and scene.tiles is None:
        yield KeyEntry(signs.wall_sprite(side, cell >= SIGN_CELL), "wall")
    if scene.follower is not None:
        yield follower_entry()
    yield from scene.entries
    if scene.policy is not None and cell >= SIGN_CELL:
        arrow = tuple(signs.arrow_sprite(side, 1, None, outline) for outline in (True, False))
        note = "length: probability" if cell >= FULL_CELL else "likeliest move"
        yield KeyEntry(arrow, "follower's policy", note)
    if scene.occupancy is not None and cell >= SIGN_CELL:
        yield occupancy_entry(signs.disc_sprite(side, signs.LEVELS), scene.occupancy[free])
    if scene.gradient is not None and cell >= SIGN_CELL:
        yield from gradient_entries(scene.params_name, scene.gradient[free])
