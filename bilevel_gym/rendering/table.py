"""Pictures of small games without a map: states as rows of a table, actions as its columns.

Two tables stand side by side, the follower's reward in colours and its policy in grey, with the
numbers in their cells where they fit; then the occupancy as a bar for each state. On the right
stand x and the hyper-gradient as bars over the entries of x, and the scales. Of large games only
some rows and columns are shown, around the follower where there is one, and the headings say which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import (
    HEADER_HEIGHT,
    THEME,
    Colour,
    Rectangle,
    contrast_ink,
    diverging_colours,
    draw_colour_bar,
    draw_header,
    draw_scale,
    draw_text,
    import_pygame,
    new_surface,
    text_size,
)
from .scene_checks import check_range
from .signs import FOLLOWER, pin_sprite

if TYPE_CHECKING:
    from pygame import Surface

__all__ = ["MAX_ACTIONS", "MAX_STATES", "TableScene", "draw_table"]

MAX_STATES = 28
"""Rows shown at most."""
MAX_ACTIONS = 20
"""Columns shown at most."""

# Sizes in pixels
SIZE = (1100, 700)
HEADING_HEIGHT = 64
"""Above the tables: what they are, and the actions."""
LABEL_WIDTH = 84
"""Left of the tables: the states' names and the follower's pin."""
TABLES_WIDTH = 540
OCCUPANCY_WIDTH = 96
MAX_ROW = 46
PIN = 22
BAR_HEIGHT = 70
"""Height of a colour scale."""
MIN_TEXT = 13
"""Smaller letters in cells are left out."""
MAX_BARS = 120
"""Entries of x get a bar each up to this many; more are put together."""
LEADS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
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
        follower: The follower's state.
        title: Headline.
        status: Pairs of label and value below the headline.
        state_names: Names of the states; None numbers them.
        action_names: Names of the actions; None numbers them.
        reward_name: What `reward` is called.
        params_name: What x is called.
    """

    reward: NDArray[np.float64]
    params: NDArray[np.float64]
    policy: NDArray[np.float64] | None = None
    occupancy: NDArray[np.float64] | None = None
    gradient: NDArray[np.float64] | None = None
    follower: int | None = None
    title: str = ""
    status: tuple[tuple[str, str], ...] = ()
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    reward_name: str = "reward"
    params_name: str = "x"

    def __post_init__(self) -> None:
        """Check shapes; values are checked where they are shown."""
        shape = np.shape(self.reward)
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"`reward` must have shape [S, A], got {shape}")
        for name, expected in (
            ("policy", shape),
            ("occupancy", shape[:1]),
            ("gradient", np.shape(self.params)),
        ):
            values = getattr(self, name)
            if values is not None and np.shape(values) != expected:
                raise ValueError(f"`{name}` must have shape {expected}, got {np.shape(values)}")
        for name, count in (("state_names", shape[0]), ("action_names", shape[1])):
            names = getattr(self, name)
            if names is not None and len(names) != count:
                raise ValueError(f"`{name}` must be {count} names, got {len(names)}")
        if self.follower is not None and not 0 <= self.follower < shape[0]:
            raise ValueError(f"`follower` must lie in 0..{shape[0] - 1}, got {self.follower}")


def draw_table(scene: TableScene) -> Surface:
    """Draw a scene on a new surface; needs no display."""
    surface = new_surface(SIZE)
    draw_header(surface, scene.title, scene.status)
    margin, top = THEME.margin, HEADER_HEIGHT
    _draw_tables(surface, top, scene)
    left = margin + LABEL_WIDTH + TABLES_WIDTH + OCCUPANCY_WIDTH + 3 * margin
    _draw_params(surface, (left, top, SIZE[0] - margin - left, SIZE[1] - margin - top), scene)
    return surface


# The tables


def _draw_tables(surface: Surface, top: int, scene: TableScene) -> None:
    """Draw reward, policy and occupancy of the rows and columns that fit."""
    pygame = import_pygame()
    num_states, num_actions = scene.reward.shape
    rows = _window(num_states, MAX_STATES, scene.follower)
    columns = _window(num_actions, MAX_ACTIONS, None)
    margin, body = THEME.margin, top + HEADING_HEIGHT
    bottom = SIZE[1] - margin - BAR_HEIGHT - margin
    height = min(MAX_ROW, (bottom - body) // len(rows))
    width = (TABLES_WIDTH - margin) // 2
    reward = np.asarray(scene.reward[rows.start : rows.stop, columns.start : columns.stop])
    limit = _round_limit(reward)
    left = margin + LABEL_WIDTH
    table = (left, body, width, height * len(rows))
    heading = "; ".join(
        (
            _heading(rows, num_states, "state", scene.state_names),
            _heading(columns, num_actions, "action", scene.action_names),
        )
    )
    place = (left, top)
    draw_text(
        surface,
        heading,
        place,
        size=THEME.small_size,
        colour=THEME.muted,
        max_width=TABLES_WIDTH,
    )
    _draw_heat(surface, table, reward, diverging_colours(reward, limit), _signed)
    draw_colour_bar(
        surface, (left, bottom + margin, width, BAR_HEIGHT), limit, f"{scene.reward_name} r(s, a)"
    )
    second = (left + width + margin, body, width, height * len(rows))
    tables = [(table, f"{scene.reward_name} r(s, a)")]
    if scene.policy is not None:
        policy = np.asarray(scene.policy[rows.start : rows.stop, columns.start : columns.stop])
        check_range("policy", policy, 0.0, 1.0)
        _draw_heat(surface, second, policy, _grey_colours(policy), _probability)
        scale = (second[0], bottom + margin, width, BAR_HEIGHT)
        greys = _grey_colours(np.linspace(0.0, 1.0, width))
        ticks = ((0.0, "topleft", "0"), (1.0, "topright", "1"), (0.5, "midtop", "0.5"))
        draw_scale(surface, scale, "policy π(a|s)", greys, ticks)
        tables.append((second, "policy π(a|s)"))
    caption_top = top + text_size(heading, THEME.small_size)[1] + 2
    for (table_left, _, table_width, _), name in tables:
        draw_text(surface, name, (table_left, caption_top), max_width=table_width)
        _draw_names(surface, (table_left, body, table_width), columns, scene.action_names, "a")
    if scene.occupancy is not None:
        occupancy = np.asarray(scene.occupancy[rows.start : rows.stop])
        check_range("occupancy", occupancy, 0.0, 1.0)
        place_of_bars = (second[0] + width + margin, body, OCCUPANCY_WIDTH, height * len(rows))
        _draw_occupancy(surface, place_of_bars, occupancy)
        draw_text(surface, "occupancy", (place_of_bars[0], caption_top), max_width=OCCUPANCY_WIDTH)
    names = [f"s{s}" if scene.state_names is None else scene.state_names[s] for s in rows]
    room = LABEL_WIDTH - PIN - THEME.gap
    size = _fitting(names, (room, height + THEME.gap // 3), 10) or 10
    for i, name in enumerate(names):
        place = (left - THEME.gap // 2, body + i * height + height // 2)
        draw_text(surface, name, place, size=size, anchor="midright", max_width=room)
    if scene.follower is not None:
        y = body + (scene.follower - rows.start) * height
        stop = second[0] + width
        row = pygame.Rect(left, y, stop - left, height).inflate(4, 4)
        pygame.draw.rect(surface, THEME.light, row.inflate(4, 4), 2)
        pygame.draw.rect(surface, THEME.accent, row, 3)
        pin = pin_sprite(FOLLOWER, PIN)
        surface.blit(*pin.at(margin, y + (height - PIN) // 2))
        place = (stop + margin, bottom + margin + BAR_HEIGHT // 2)
        surface.blit(*pin.at(place[0], place[1] - PIN // 2))
        draw_text(surface, "follower", (place[0] + PIN + 6, place[1]), anchor="midleft")


def _fitting(texts: Sequence[str], room: tuple[float, float], least: int) -> int | None:
    """Return the largest size of letters in which all texts fit into `room`, None below `least`.

    Only the longest text is set to find out: setting each in every size would take seconds.
    """
    longest = max(texts, key=len)
    for size in range(THEME.small_size, least - 1, -1):
        width, height = text_size(longest, size)
        if width <= room[0] and height <= room[1]:
            return size
    return None


def _window(count: int, most: int, around: int | None) -> range:
    """Return the indices shown: the first `most`, or those around one of them."""
    first = 0 if around is None else max(0, min(around - most // 2, count - most))
    return range(first, min(count, first + most))


def _heading(shown: range, count: int, name: str, names: tuple[str, ...] | None) -> str:
    """Say which states or actions are shown, and of how many."""
    if len(shown) == count:
        return f"{count:,} {name}{'s' if count > 1 else ''}"
    first, last = (str(i) if names is None else names[i] for i in (shown[0], shown[-1]))
    return f"{name}s {first} to {last} of {count:,}"


def _round_limit(values: NDArray[np.float64]) -> float:
    """Return the end of a scale: the least of `LEADS` times a power of ten, nothing beyond it."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0.0))
    if largest < 1e-12:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return power * next((lead for lead in LEADS if largest <= lead * power), 10.0)


def _grey_colours(values: ArrayLike) -> NDArray[np.uint8]:
    """Colour probabilities: white for 0, the theme's ink for 1, NaN like a missing value."""
    share = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)
    missing = np.isnan(share)
    share = np.where(missing, 0.0, share)[..., None]
    mixed = (1.0 - share) * np.array(THEME.light) + share * np.array(THEME.ink)
    mixed[missing] = THEME.missing
    colours: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return colours


def _signed(value: float) -> str:
    """Write a reward with its sign, in few letters."""
    digits = 0 if abs(value) >= 100.0 else 1 if abs(value) >= 10.0 else 2
    text = f"{value:+.{digits}f}"
    return "0" if float(text) == 0.0 else text.replace("-", "−")


def _probability(value: float) -> str:
    return f"{value:.2f}"


def _draw_heat(
    surface: Surface,
    rectangle: Rectangle,
    values: NDArray[np.float64],
    colours: NDArray[np.uint8],
    write: Callable[[float], str],
) -> None:
    """Draw values `[rows, columns]` as coloured cells, with the numbers where they fit."""
    pygame = import_pygame()
    left, top, width, height = rectangle
    rows, columns = values.shape
    cell = (width / columns, height / rows)
    texts = [[write(float(v)) if np.isfinite(v) else "" for v in row] for row in values]
    size = _fitting([text for row in texts for text in row], (cell[0] - 6, cell[1] - 1), MIN_TEXT)
    for i in range(rows):
        for j in range(columns):
            x, y = left + round(j * cell[0]), top + round(i * cell[1])
            right, bottom = left + round((j + 1) * cell[0]), top + round((i + 1) * cell[1])
            red, green, blue = colours[i, j].tolist()
            colour: Colour = (red, green, blue)
            box = pygame.Rect(x, y, right - x, bottom - y)
            pygame.draw.rect(surface, colour, box)
            if cell[1] >= 8 and cell[0] >= 8:
                pygame.draw.rect(surface, THEME.page, box, 1)
            if size is not None:
                ink = contrast_ink(colour)
                draw_text(surface, texts[i][j], box.center, size=size, colour=ink, anchor="center")
    pygame.draw.rect(surface, THEME.ink, (left - 1, top - 1, width + 2, height + 2), 1)


def _draw_names(
    surface: Surface,
    place: tuple[int, int, int],
    columns: range,
    names: tuple[str, ...] | None,
    prefix: str,
) -> None:
    """Write the columns' names above a table, all of one size, or only the first and last."""
    left, bottom, width = place
    cell = width / len(columns)
    texts = [f"{prefix}{i}" if names is None else names[i] for i in columns]
    fits = max(text_size(text, THEME.small_size)[0] for text in texts) <= cell - 4
    for j, text in enumerate(texts):
        if fits or j in (0, len(texts) - 1):
            x = left + round((j + 0.5) * cell)
            draw_text(
                surface,
                text,
                (x, bottom - 4),
                size=THEME.small_size,
                anchor="midbottom",
                max_width=round(max(cell - 4, width / 2 - 8)),
            )


def _draw_occupancy(surface: Surface, rectangle: Rectangle, occupancy: NDArray[np.float64]) -> None:
    """Draw the occupancy of each row as a bar from the left, the largest as long as there is room.

    Its value stands on the scale below.
    """
    pygame = import_pygame()
    left, top, width, height = rectangle
    largest = float(occupancy.max(initial=0.0))
    row = height / len(occupancy)
    note = "share of time"
    draw_text(
        surface,
        note,
        (left, top - 4),
        size=_fitting([note], (width, height), 10) or 10,
        colour=THEME.muted,
        anchor="bottomleft",
    )
    thickness = max(1, round(0.6 * row))
    for i, share in enumerate(occupancy.tolist()):
        length = round(share / largest * width) if largest > 0.0 else 0
        y = top + round((i + 0.5) * row) - thickness // 2
        pygame.draw.rect(surface, THEME.muted, (left, y, length, thickness))
    pygame.draw.line(surface, THEME.ink, (left, top), (left, top + height))
    size = THEME.small_size
    place = (left + width, top + height + 4)
    draw_text(surface, f"{largest:.2g}", place, size=size, colour=THEME.muted, anchor="topright")
    draw_text(surface, "0", (left, place[1]), size=size, colour=THEME.muted)


# x and the hyper-gradient


def _draw_params(surface: Surface, rectangle: Rectangle, scene: TableScene) -> None:
    """Draw x and the hyper-gradient as bars over the same entries, and the key."""
    left, top, width, height = rectangle
    params = np.asarray(scene.params, dtype=np.float64).ravel()
    entries = "one entry" if params.size == 1 else f"{params.size:,} entries"
    half = (height - THEME.margin) // 2
    plots = [(f"{scene.params_name}, {entries}", params)]
    if scene.gradient is not None:
        gradient = np.asarray(scene.gradient, dtype=np.float64).ravel()
        plots.append((f"hyper-gradient dF/d{scene.params_name}", gradient))
    for i, (caption, values) in enumerate(plots):
        plot_top = top + i * (half + THEME.margin)
        _draw_bars(surface, (left, plot_top, width, half), caption, values)


def _draw_bars(
    surface: Surface, rectangle: Rectangle, caption: str, values: NDArray[np.float64]
) -> None:
    """Draw signed values as bars up (filled) and down (hollow) from a line, with their scale."""
    pygame = import_pygame()
    left, top, width, height = rectangle
    draw_text(surface, caption, (left, top), max_width=width)
    shown, per_bar = _binned(values)
    limit = _round_limit(shown)
    note_height = text_size("0", THEME.small_size)[1]
    plot_top = top + text_size(caption, THEME.text_size)[1] + THEME.gap // 2
    plot = pygame.Rect(left, plot_top, width, top + height - note_height - 6 - plot_top)
    pygame.draw.rect(surface, THEME.light, plot)
    middle, reach = plot.centery, plot.height / 2 - note_height - 2
    pitch = plot.width / len(shown)
    thickness = max(1, min(36, math.floor(0.8 * pitch)))
    for i, value in enumerate(shown.tolist()):
        x = plot.left + round((i + 0.5) * pitch - thickness / 2)
        length = round(min(1.0, abs(value) / limit) * reach)
        if length == 0:
            continue
        if value > 0.0:
            pygame.draw.rect(surface, THEME.ink, (x, middle - length, thickness, length))
        else:
            box = (x, middle + 1, thickness, length)
            pygame.draw.rect(surface, THEME.rule if thickness > 2 else THEME.muted, box)
            if thickness > 2:
                pygame.draw.rect(surface, THEME.muted, box, 1)
    pygame.draw.line(surface, THEME.ink, (plot.left, middle), (plot.right - 1, middle))
    pygame.draw.rect(surface, THEME.rule, plot, 1)
    ends = (
        (f"+{limit:g}", plot.top + 3, "topleft"),
        (f"−{limit:g}", plot.bottom - 2, "bottomleft"),
    )
    for text, y, anchor in ends:
        place = (plot.left + 4, y)
        draw_text(surface, text, place, size=THEME.small_size, colour=THEME.muted, anchor=anchor)
    norm = float(np.linalg.norm(values))
    notes = (
        ("largest of each " + f"{per_bar:,}" if per_bar > 1 else "a bar for each", "topleft", 0),
        (f"norm {norm:.3g}", "topright", plot.width),
    )
    for text, anchor, offset in notes:
        place = (plot.left + offset, plot.bottom + 4)
        draw_text(surface, text, place, size=THEME.small_size, colour=THEME.muted, anchor=anchor)


def _binned(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return at most `MAX_BARS` values, the largest in magnitude of each run, and its length."""
    per_bar = -(-values.size // MAX_BARS)
    padded = np.zeros(-(-values.size // per_bar) * per_bar)
    padded[: values.size] = values
    runs = padded.reshape(-1, per_bar)
    return runs[np.arange(len(runs)), np.abs(runs).argmax(axis=1)], per_bar
