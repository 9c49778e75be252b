"""Pictures of small games without a map: states as rows of a table, actions as its columns.

Two tables stand side by side, the follower's reward in colours and its policy in grey, with the
numbers in their cells where they fit; then the occupancy, in grey relative to its largest. On the
right stand x and the hyper-gradient as bars over the entries of x. Of large games only some rows
and columns are shown, around the follower where there is one, and the headings say which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import (
    HEADER_HEIGHT,
    THEME,
    ColourScale,
    Rectangle,
    contrast_ink,
    draw_centred,
    draw_colour_bar,
    draw_note,
    draw_scale,
    draw_text,
    fitting_size,
    new_page,
    pygame,
    text_size,
)
from .picture_charts import AXIS_WIDTH, Axis, BarChart, draw_bars, nice_limit
from .scene_checks import check_range
from .signs import FOLLOWER, pin_sprite

FloatArray = NDArray[np.float64]
Colours = NDArray[np.uint8]

MAX_STATES, MAX_ACTIONS = 28, 20
"""Rows and columns shown at most."""

# Sizes in pixels
SIZE = (1100, 740)
HEADING_HEIGHT = 72
"""Above the tables: what they are, and the actions."""
LABEL_WIDTH = 72
"""Left of the tables: the states' names and the follower's pin."""
TABLES_WIDTH, OCCUPANCY_WIDTH = 560, 104
MAX_ROW, PIN = 46, 22
BAR_HEIGHT = 70
"""Height of a colour scale."""
TEXT_SIZES = (20, THEME.small_size)
"""Of letters in cells; smaller ones are left out."""
MAX_BARS = 120
"""Entries of x get a bar each up to this many; more are put together."""
LEADS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
"""First digits of the numbers at the ends of scales."""


@dataclass(frozen=True, eq=False)
class TableScene:
    """Everything that one picture of a table shows.

    Attributes:
        reward: The follower's reward `[S, A]`; NaN where an action does not exist.
        params: x, of any shape.
        policy: The follower's probabilities `[S, A]`; of actions that do not exist, 0 or NaN.
        occupancy: Share of the follower's time `[S]` in [0, 1].
        gradient: Derivative of the leader's objective by x, shape of x.
        reward_limit: Value of the last colours of rewards; None for the largest shown.
        params_limit: End of the axis of x; None for the largest shown.
        gradient_limit: End of the axis of the gradient; None for the largest shown.
    """

    reward: FloatArray
    params: FloatArray
    policy: FloatArray | None = None
    occupancy: FloatArray | None = None
    gradient: FloatArray | None = None
    follower: int | None = None
    title: str = ""
    status: tuple[tuple[str, str], ...] = ()
    reward_limit: float | None = None
    params_limit: float | None = None
    gradient_limit: float | None = None

    def __post_init__(self) -> None:
        """Check shapes; values are checked where they are shown."""
        shape = np.shape(self.reward)
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"`reward` must have shape [S, A], got {shape}")
        shapes = {"policy": shape, "occupancy": shape[:1], "gradient": np.shape(self.params)}
        for name, expected in shapes.items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != expected:
                raise ValueError(f"`{name}` must have shape {expected}, got {np.shape(values)}")
        if self.follower is not None and not 0 <= self.follower < shape[0]:
            raise ValueError(f"`follower` must lie in 0..{shape[0] - 1}, got {self.follower}")


def draw_table(scene: TableScene) -> pygame.Surface:
    """Draw a scene on a new surface; needs no display."""
    surface = new_page(SIZE, scene.title, scene.status)
    margin, top = THEME.margin, HEADER_HEIGHT
    _draw_tables(surface, top, scene)
    left = margin + LABEL_WIDTH + TABLES_WIDTH + OCCUPANCY_WIDTH + 3 * margin
    width, half = SIZE[0] - margin - left, (SIZE[1] - 2 * margin - top) // 2
    entries = "one entry" if np.size(scene.params) == 1 else f"{np.size(scene.params):,} entries"
    place, caption = (left, top, width, half), f"the leader's x, {entries}"
    _draw_bars(surface, place, caption, np.ravel(scene.params), scene.params_limit)
    if scene.gradient is not None:
        place, caption = (
            (left, top + half + margin, width, half),
            "dF/dx: how F rises with x",
        )
        _draw_bars(surface, place, caption, np.ravel(scene.gradient), scene.gradient_limit)
    return surface


# The tables


def _draw_tables(surface: pygame.Surface, top: int, scene: TableScene) -> None:
    """Draw reward, policy and occupancy of the rows and columns that fit."""
    num_states, num_actions = scene.reward.shape
    rows = _window(num_states, MAX_STATES, scene.follower)
    columns = _window(num_actions, MAX_ACTIONS, None)
    part = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
    margin, body = THEME.margin, top + HEADING_HEIGHT
    scales = SIZE[1] - margin - BAR_HEIGHT
    height = min(MAX_ROW, (scales - margin - body) // len(rows))
    width = (TABLES_WIDTH - margin) // 2
    left = margin + LABEL_WIDTH
    second = left + width + margin
    heading = _heading(rows, num_states, "state")
    heading += "; " + _heading(columns, num_actions, "action")
    draw_note(surface, heading, (left, top), max_width=TABLES_WIDTH)
    caption_top = top + text_size(heading, THEME.small_size)[1] + 2

    def draw(
        x: int, width: int, name: str, names: Sequence[str], values: FloatArray, colours: Colours
    ) -> None:
        _draw_heat(surface, (x, body, width, height * len(rows)), names, values, colours)
        draw_text(surface, name, (x, caption_top), max_width=width)

    actions = [f"a{a}" for a in columns]
    reward, name = np.asarray(scene.reward[part]), "follower's reward r(s, a)"
    largest = float(np.abs(reward[np.isfinite(reward)]).max(initial=0.0))
    scale = ColourScale(scene.reward_limit or nice_limit(largest, LEADS), name, power=1.0)
    draw(left, width, name, actions, reward, scale.colours(reward))
    draw_colour_bar(surface, (left, scales, width, BAR_HEIGHT), scale)
    if scene.policy is not None:
        policy, name = np.asarray(scene.policy[part]), "follower's policy π(a|s)"
        check_range("policy", policy, 1.0)
        draw(second, width, name, actions, policy, _grey_colours(policy))
        greys = _grey_colours(np.linspace(0.0, 1.0, width))
        ticks = ((0.0, "0"), (1.0, "1"), (0.5, "0.5"))
        draw_scale(surface, (second, scales, width, BAR_HEIGHT), name, greys, ticks)
    if scene.occupancy is not None:
        occupancy = np.asarray(scene.occupancy[part[0]])[:, None]
        check_range("occupancy", occupancy, 1.0)
        x, largest = second + width + margin, float(occupancy.max(initial=0.0))
        greys = _grey_colours(occupancy / largest if largest > 0.0 else occupancy)
        draw(x, OCCUPANCY_WIDTH, "occupancy", ["share of time"], occupancy, greys)
        note = f"largest {largest:.2g}"
        draw_note(surface, note, (x, body + height * len(rows) + 4), max_width=OCCUPANCY_WIDTH)
    names = [f"s{s}" for s in rows]
    room = LABEL_WIDTH - PIN - THEME.gap
    size = fitting_size(names, (room, height + THEME.gap // 3), (10, THEME.small_size)) or 10
    for i, name in enumerate(names):
        place = (left - THEME.gap // 2, body + i * height + height // 2)
        draw_text(surface, name, place, size=size, anchor="midright", max_width=room)
    if scene.follower is not None:
        y = body + (scene.follower - rows.start) * height
        _mark_follower(surface, (left, y, second + width - left, height), scales)


def _mark_follower(surface: pygame.Surface, row: Rectangle, key_top: int) -> None:
    """Frame the row of the follower's state, and explain the pin beside it in the key."""
    left, top, width, height = row
    frame, pin = pygame.Rect(row).inflate(4, 4), pin_sprite(FOLLOWER, PIN)
    pygame.draw.rect(surface, THEME.light, frame.inflate(4, 4), 2)
    pygame.draw.rect(surface, THEME.accent, frame, 3)
    draw_centred(surface, pin, (THEME.margin + PIN / 2, top + height / 2))
    x, y = left + width + THEME.margin, key_top + BAR_HEIGHT // 2
    draw_centred(surface, pin, (x + PIN / 2, y))
    draw_text(surface, "follower", (x + PIN + 6, y), anchor="midleft")


def _window(count: int, most: int, around: int | None) -> range:
    """Return the indices shown: the first `most`, or those around one of them."""
    first = 0 if around is None else max(0, min(around - most // 2, count - most))
    return range(first, min(count, first + most))


def _heading(shown: range, count: int, name: str) -> str:
    """Say which states or actions are shown, and of how many."""
    if len(shown) == count:
        return f"{count:,} {name}{'s' if count > 1 else ''}"
    return f"{name}s {shown[0]} to {shown[-1]} of {count:,}"


def _grey_colours(values: ArrayLike) -> Colours:
    """Colour probabilities: white for 0, the theme's ink for 1, NaN like a missing value."""
    share = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)[..., None]
    mixed = (1.0 - share) * np.array(THEME.light) + share * np.array(THEME.ink)
    mixed = np.where(np.isnan(share), THEME.missing, mixed)
    colours: Colours = np.rint(mixed).astype(np.uint8)
    return colours


def _written(value: float) -> str:
    """Write a number in few letters."""
    if not np.isfinite(value):
        return ""
    digits = 0 if abs(value) >= 100.0 else 1 if abs(value) >= 10.0 else 2
    return f"{value:z.{digits}f}".replace("-", "−")


def _draw_heat(
    surface: pygame.Surface,
    rectangle: Rectangle,
    names: Sequence[str],
    values: FloatArray,
    colours: Colours,
) -> None:
    """Draw values `[rows, columns]` as coloured cells, with the numbers where they fit.

    Above them stand the names of the columns, as many as there is room for.
    """
    left, top, width, height = rectangle
    rows, columns = values.shape
    cell = (width / columns, height / rows)
    texts = {place: _written(float(value)) for place, value in np.ndenumerate(values)}
    size = fitting_size(list(texts.values()), (cell[0] - 6, cell[1] - 1), TEXT_SIZES)
    for (i, j), text in texts.items():
        x, y = left + round(j * cell[0]), top + round(i * cell[1])
        right, bottom = left + round((j + 1) * cell[0]), top + round((i + 1) * cell[1])
        box, colour = pygame.Rect(x, y, right - x, bottom - y), colours[i, j].tolist()
        pygame.draw.rect(surface, colour, box)
        if min(cell) >= 8:
            pygame.draw.rect(surface, THEME.page, box, 1)
        if size is not None:
            ink = contrast_ink(colour)
            draw_text(surface, text, box.center, size=size, colour=ink, anchor="center")
    pygame.draw.rect(surface, THEME.ink, (left - 1, top - 1, width + 2, height + 2), 1)
    widest = max(text_size(name, THEME.small_size)[0] for name in names)
    for j in range(0, columns, math.ceil((widest + 4) / cell[0])):
        middle = (left + round((j + 0.5) * cell[0]), top - 4)
        draw_note(surface, names[j], middle, "midbottom", colour=THEME.ink)


# x and the hyper-gradient


def _draw_bars(
    surface: pygame.Surface,
    rectangle: Rectangle,
    caption: str,
    values: FloatArray,
    limit: float | None = None,
) -> None:
    """Draw values as bars, of many the largest in magnitude of each run."""
    left, top, width, height = rectangle
    per_bar = -(-values.size // MAX_BARS)
    runs = np.pad(values, (0, -values.size % per_bar)).reshape(-1, per_bar)
    shown = runs[np.arange(len(runs)), np.abs(runs).argmax(axis=1)]
    limit = limit or nice_limit(float(np.abs(shown).max()))
    chart = BarChart(Axis(-limit, limit, caption), ("",) * len(shown), shown)
    bottom = top + height - text_size("0", THEME.small_size)[1]
    draw_bars(surface, (left, top, width, bottom - 4 - top), chart)
    per = f"largest of {per_bar:,}" if per_bar > 1 else "a bar each"
    draw_note(surface, per, (left + AXIS_WIDTH, bottom))
    norm = f"norm {np.linalg.norm(values):.3g}"
    draw_note(surface, norm, (left + width, bottom), "topright")
