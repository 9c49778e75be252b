"""Drawing that every picture shares: palette, text, scales and the help overlay."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_positive

# How much larger than shown letters are set.
TEXT_OVERSAMPLING = 4

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True)
class Theme:
    """The colours, letter sizes and distances of every picture; sizes in pixels.

    Attributes:
        diverging: Colours of −limit, …, +limit at equal distances. Their luminance rises
            throughout, so that the sign survives printing in greyscale.
        positive: Colours of 0, …, limit where no value is negative, darker and darker.
        negative: The same where no value is positive.
        status_sizes: Letter sizes of label and value in the status line, in the order tried.
    """

    page: Colour = (250, 250, 247)
    ink: Colour = (27, 30, 38)
    muted: Colour = (108, 112, 122)
    rule: Colour = (214, 214, 208)
    missing: Colour = (44, 46, 54)
    light: Colour = (255, 255, 255)
    accent: Colour = (200, 40, 66)
    diverging: tuple[Colour, ...] = (
        (38, 72, 160),
        (101, 128, 186),
        (178, 181, 188),
        (226, 207, 142),
        (255, 226, 92),
    )
    positive: tuple[Colour, ...] = (
        (255, 250, 226),
        (255, 226, 92),
        (238, 160, 42),
        (178, 84, 22),
        (104, 38, 12),
    )
    negative: tuple[Colour, ...] = (
        (238, 240, 246),
        (186, 198, 226),
        (116, 140, 194),
        (38, 72, 160),
        (16, 34, 92),
    )
    curves: tuple[Colour, ...] = ((38, 72, 160), (200, 40, 66), (22, 122, 92), (176, 112, 0))
    title_size: int = 34
    text_size: int = 24
    small_size: int = 22
    status_sizes: tuple[tuple[int, int], ...] = ((22, 26), (22, 22), (17, 20), (14, 16), (11, 13))
    margin: int = 24
    gap: int = 12
    line: int = 2


THEME = Theme()
SUPERSAMPLING = 4
"""What has slanted edges is painted this many times larger, as pygame's polygons are jagged."""
SIGNED_TICKS, UNSIGNED_TICKS = (-1.0, 1.0, 0.0, -0.5, 0.5), (0.0, 1.0, 0.5)
"""Values of the numbers on a colour bar, as shares of its limit, those first that stay."""
COLOUR_POWER = 1 / 3
"""Colours of x follow its size to this power: scales end where the box of x ends, whatever x is,
and a leader often uses a hundredth of it."""
LEAST_TITLE_SIZE = 26
"""Size of the letters of a title that would not fit otherwise."""
LEAST_HELP_SIZE = 11
"""Size of the letters of a help card that would not fit otherwise."""

TITLE_HEIGHT, LINE_HEIGHT, LINE_SIZE, STATUS_HEIGHT = 32, 20, 23, 36
HEADER_HEIGHT = (
    THEME.margin + TITLE_HEIGHT + 2 * LINE_HEIGHT + THEME.gap + STATUS_HEIGHT + THEME.margin
)
"""Pixels above everything else in a picture: title, two lines of text and the status line."""


@cache
def _imported() -> ModuleType:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    return pygame


def import_pygame() -> ModuleType:
    """Import pygame without its banner and make its fonts ready; opens no display."""
    pygame = _imported()
    # Someone else may have called `pygame.quit()` since the last drawing.
    if not pygame.font.get_init():
        pygame.font.init()
    return pygame


class _Pygame:
    """pygame, imported where something of it is first used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_pygame(), name)


if TYPE_CHECKING:
    import pygame as pygame
else:
    pygame = _Pygame()


# Surfaces and sprites


def new_surface(size: tuple[int, int]) -> pygame.Surface:
    """Return an empty page of `size` (width, height) in pixels; needs no display."""
    surface: pygame.Surface = pygame.Surface(size, depth=32)
    surface.fill(THEME.page)
    return surface


def frame(surface: pygame.Surface) -> NDArray[np.uint8]:
    """Return the pixels of `surface` as a fresh C-contiguous array, uint8 `[height, width, 3]`."""
    width, height = surface.get_size()
    # Several times faster than `surfarray.array3d`, whose axes would have to be swapped.
    pixels = bytearray(pygame.image.tobytes(surface, "RGB"))
    return np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)


def draw_centred(
    surface: pygame.Surface, picture: pygame.Surface, middle: tuple[float, float]
) -> None:
    """Draw a small picture with its middle at a pixel."""
    surface.blit(picture, picture.get_rect(center=(round(middle[0]), round(middle[1]))))


def enlarged(width: int, height: int, edge: Colour) -> pygame.Surface:
    """Return a transparent surface `SUPERSAMPLING` times as large as a picture, to be `shrunk`.

    The edge pixels of what is painted on it fade into the colour `edge`.
    """
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    surface: pygame.Surface = pygame.Surface(size, pygame.SRCALPHA)
    # `smoothscale` averages colour and opacity apart: transparent black would darken the edges.
    surface.fill((*edge, 0))
    return surface


def shrunk(surface: pygame.Surface) -> pygame.Surface:
    """Return an enlarged surface in its final size, with smooth edges."""
    return pygame.transform.smoothscale_by(surface, 1 / SUPERSAMPLING)


# Colours


def luminance(colour: ArrayLike) -> NDArray[np.float64]:
    """Return the grey value 0..255 that a greyscale copy shows for colours `[..., 3]`."""
    weights = np.array([0.299, 0.587, 0.114])
    grey: NDArray[np.float64] = np.asarray(colour, dtype=np.float64) @ weights
    return grey


def contrast_ink(colour: ArrayLike) -> Colour:
    """Return the theme's dark or light ink, whichever stands out more from `colour`."""
    middle = (luminance(THEME.ink) + luminance(THEME.light)) / 2
    return THEME.ink if luminance(colour) > middle else THEME.light


def diverging_colours(values: ArrayLike, limit: float, *, power: float = 1.0) -> NDArray[np.uint8]:
    """Colour signed values: blue and dark below zero, grey at zero, yellow and light above.

    Args:
        values: Array of any shape `[...]`; NaN gets `Theme.missing`, larger magnitudes than
            `limit` the colours of the ends.
        limit: Value of the last colour, positive.
        power: The place on the scale is |value / limit| to this power, with the value's sign;
            below 1 small values stand out more.

    Returns:
        Colours, uint8 `[..., 3]`.
    """
    check_positive("limit", limit)
    check_positive("power", power)
    values = np.asarray(values, dtype=np.float64)
    places = np.clip(values, -limit, limit) / limit
    places = np.sign(places) * np.abs(places) ** power
    return _mixed(places, THEME.diverging, -1.0)


def sequential_colours(values: ArrayLike, limit: float, *, power: float = 1.0) -> NDArray[np.uint8]:
    """Colour values of one sign: light at zero, dark at `limit`, which is not 0 and has that sign.

    The other arguments and the result are those of `diverging_colours`.
    """
    check_positive("limit", abs(limit))
    check_positive("power", power)
    values = np.clip(np.asarray(values, dtype=np.float64), min(limit, 0.0), max(limit, 0.0))
    places = (values / limit) ** power
    return _mixed(places, THEME.positive if limit > 0.0 else THEME.negative, 0.0)


def _mixed(
    places: NDArray[np.float64], palette: tuple[Colour, ...], low: float
) -> NDArray[np.uint8]:
    """Return the colours at places from `low` to 1 in a palette, `Theme.missing` for NaN."""
    anchors = np.linspace(low, 1.0, len(palette))
    places = np.rint(255 * places) / 255
    channels = [np.interp(places, anchors, channel) for channel in np.transpose(palette)]
    colours = np.where(np.isnan(places)[..., None], THEME.missing, np.stack(channels, axis=-1))
    return np.rint(colours).astype(np.uint8)


class ColourScale(NamedTuple):
    """What the colours of a picture mean.

    Attributes:
        limit: Value of the last colour, not 0; negative where no value is positive.
        name: What is measured.
        power: The place on the scale is the share of the limit to this power.
        signed: Whether values have either sign: the scale then runs from −limit to limit, and else
            from 0.
    """

    limit: float
    name: str
    power: float = COLOUR_POWER
    signed: bool = True

    def colours(self, values: ArrayLike) -> NDArray[np.uint8]:
        """Return the colours of values `[...]`, uint8 `[..., 3]`."""
        colour = diverging_colours if self.signed else sequential_colours
        return colour(values, self.limit, power=self.power)


# Text


@lru_cache(maxsize=16)
def _font(size: int) -> pygame.font.Font:
    """Return the font of a size; reading it takes longer than setting a word in it."""
    return pygame.font.Font(None, size)


@lru_cache(maxsize=1024)
def _text_surface(text: str, size: int, colour: Colour) -> pygame.Surface:
    # Letters put on whole pixels stand unevenly at these sizes, so they are set large and shrunk.
    try:
        large = _font(size * TEXT_OVERSAMPLING).render(text, True, colour)
    except pygame.error:  # a font dies with `pygame.quit()`
        _font.cache_clear()
        large = _font(size * TEXT_OVERSAMPLING).render(text, True, colour)
    width, height = (round(side / TEXT_OVERSAMPLING) for side in large.get_size())
    surface: pygame.Surface = pygame.transform.smoothscale(large, (width, height))
    return surface


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return width and height in pixels of one line of `text` in letters of `size`."""
    return _text_surface(text, size, THEME.ink).get_size()


def draw_text(
    surface: pygame.Surface,
    text: str,
    position: tuple[int, int],
    anchor: str = "topleft",
    *,
    size: int = THEME.text_size,
    colour: Colour = THEME.ink,
    max_width: int | None = None,
) -> int:
    """Draw one line of text, sizes in pixels, and return its width.

    Text wider than `max_width` is cut short with an ellipsis. Its `anchor`, a point of
    `pygame.Rect` ("topleft", "midtop", "midright", "center", …), is placed at the position.
    """
    if max_width is not None:
        text = _shortened(text, size, max_width)
    image = _text_surface(text, size, colour)
    surface.blit(image, image.get_rect(**{anchor: position}))
    return image.get_width()


draw_note = partial(draw_text, size=THEME.small_size, colour=THEME.muted)
"""Draw one line of text in small letters, and return its width, as `draw_text` does."""


def _shortened(text: str, size: int, max_width: int) -> str:
    """Cut `text` to at most `max_width` pixels, by bisection on the number of letters kept."""

    def width(letters: int) -> int:
        return text_size(text[:letters].rstrip() + "…", size)[0]

    if text_size(text, size)[0] <= max_width:
        return text
    kept = bisect_right(range(1, len(text)), max_width, key=width)
    return text[:kept].rstrip() + "…" if kept else ""


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Return the lines of a text that is broken between words, so that they have a width."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_size(longer, size)[0] <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def new_page(
    size: tuple[int, int], title: str, status: Sequence[tuple[str, str]]
) -> pygame.Surface:
    """Return a new surface with a title, the lines of text after its first one, and the status."""
    surface, margin = new_surface(size), THEME.margin
    width, (headline, *lines) = size[0] - 2 * margin, title.splitlines() or [""]
    sizes, room = (LEAST_TITLE_SIZE, THEME.title_size), (width, margin + TITLE_HEIGHT)
    letters = fitting_size([headline], room, sizes) or LEAST_TITLE_SIZE
    draw_text(surface, headline, (margin, margin - 6), size=letters, max_width=width)
    top = margin - 6 + TITLE_HEIGHT
    for line in lines[:2]:
        draw_text(surface, line, (margin, top), size=LINE_SIZE, max_width=width)
        top += LINE_HEIGHT
    draw_status(surface, (margin, top + THEME.gap, width, STATUS_HEIGHT), status)
    return surface


def draw_status(
    surface: pygame.Surface, rectangle: Rectangle, pairs: Sequence[tuple[str, str]]
) -> None:
    """Draw label/value pairs as tiles, in letters as large as lets them all fit in `rectangle`.

    Smaller letters leave room for several rows. What does not fit at the smallest size is cut.
    """
    left, top, width, height = rectangle
    for label_size, value_size in THEME.status_sizes:
        label_height = text_size("0", label_size)[1]
        tile_height = label_height + text_size("0", value_size)[1]
        tiles, x, y = [], 0, 0
        for label, value in pairs:
            # Letters of a changing number must not push the next tile about: room in steps.
            natural = max(text_size(label, label_size)[0], text_size(value, value_size)[0])
            tile_width = min(-(-natural // label_size) * label_size, max(natural, width))
            if x and x + tile_width > width:
                x, y = 0, y + tile_height + THEME.gap // 4
            tiles.append((x, y, tile_width))
            x += tile_width + label_size
        if all(x + w <= width and y + tile_height <= height for x, y, w in tiles):
            break
    for (label, value), (x, y, _) in zip(pairs, tiles, strict=True):
        if y + tile_height > height:
            break
        place, room = (left + x, top + y), width - x
        draw_text(surface, label, place, size=label_size, colour=THEME.muted, max_width=room)
        place = (place[0], place[1] + label_height)
        draw_text(surface, value, place, size=value_size, max_width=room)


def fitting_size(
    texts: Sequence[str], room: tuple[float, float], sizes: tuple[int, int]
) -> int | None:
    """Return the largest size of letters, of a least and a largest one, in which all texts fit.

    None if none does. Only the longest text is set to find out: setting each would take seconds.
    """
    longest = max(texts, key=len)
    for size in range(sizes[1], sizes[0] - 1, -1):
        width, height = text_size(longest, size)
        if width <= room[0] and height <= room[1]:
            return size
    return None


# Scales


def short_number(value: float) -> str:
    """Write a number with three significant digits and a real minus sign."""
    return f"{value:.3g}".replace("-", "−")


def draw_colour_bar(surface: pygame.Surface, rectangle: Rectangle, scale: ColourScale) -> None:
    """Draw a scale of colours with its name above and its numbers below it."""
    # The bar is linear in the colours; its numbers are what may be unevenly spaced.
    low, shares = (-1.0, SIGNED_TICKS) if scale.signed else (0.0, UNSIGNED_TICKS)
    along = np.linspace(low, 1.0, rectangle[2])
    colours = scale._replace(power=1.0).colours(along * scale.limit)
    ticks = []
    for share in shares:
        value = float(np.sign(share)) * scale.limit * abs(share) ** (1.0 / scale.power) + 0.0
        sign = "+" if value > 0.0 and scale.signed else ""
        ticks.append(((share - low) / (1.0 - low), sign + short_number(value)))
    draw_scale(surface, rectangle, scale.name, colours, ticks)


def draw_scale(
    surface: pygame.Surface,
    rectangle: Rectangle,
    caption: str,
    colours: NDArray[np.uint8],
    ticks: Sequence[tuple[float, str]],
) -> None:
    """Draw a bar of colours with its caption above and its numbers below it.

    There is a colour for each pixel, from left to right, uint8 `[width, 3]`. A tick is a place from
    0 to 1 and its text; later ones give way where there is no room.
    """
    left, top, width, height = rectangle
    draw_text(surface, caption, (left, top), max_width=width)
    bar_top = top + text_size(caption, THEME.text_size)[1] + THEME.gap // 2
    label_height, tick = text_size("0", THEME.small_size)[1], THEME.gap // 3
    bar_height = max(1, top + height - label_height - 2 * tick - bar_top)
    bar = pygame.Rect(left, bar_top, width, bar_height)
    strip = pygame.surfarray.make_surface(colours[:, None, :])
    surface.blit(pygame.transform.scale(strip, bar.size), bar)
    pygame.draw.rect(surface, THEME.ink, bar, 1)
    labels: list[pygame.Rect] = []
    for place, text in ticks:
        x = bar.left + round(place * (bar.width - 1))
        pygame.draw.line(surface, THEME.ink, (x, bar.bottom), (x, bar.bottom + tick - 1))
        box = pygame.Rect((0, bar.bottom + 2 * tick), text_size(text, THEME.small_size))
        box.left = min(max(x - box.width // 2, bar.left), bar.right - box.width)
        if box.inflate(THEME.gap // 2, 0).collidelist(labels) == -1:
            draw_note(surface, text, box.topleft, colour=THEME.ink)
            labels.append(box)


# Help overlay


def draw_help(surface: pygame.Surface, lines: Sequence[tuple[str, str]]) -> None:
    """Lay a help card over the middle of `surface`."""
    veil = pygame.Surface(surface.get_size(), pygame.SRCALPHA)
    veil.fill((*THEME.ink, 150))
    surface.blit(veil, (0, 0))
    room = surface.get_rect().inflate(-2 * THEME.margin, -2 * THEME.margin)
    for size in range(THEME.text_size, LEAST_HELP_SIZE - 1, -1):
        keys = size + max((text_size(key, size)[0] for key, _ in lines), default=0)
        meanings = max((text_size(meaning, size)[0] for _, meaning in lines), default=0)
        card = pygame.Rect(0, 0, keys + meanings + 3 * size, (2 * len(lines) + 2) * size)
        if card.width <= room.width and card.height <= room.height:
            break
    # Whatever is still too large is cut rather than drawn outside of the card.
    card.center = room.center
    card = card.clip(room)
    pygame.draw.rect(surface, THEME.page, card, border_radius=THEME.gap)
    for number, (key, meaning) in enumerate(lines):
        cap = pygame.Rect(0, 0, keys, size * 3 // 2)
        cap.midleft = (card.left + size, card.top + 2 * (number + 1) * size)
        if cap.bottom > card.bottom:
            break
        pygame.draw.rect(surface, THEME.light, cap, border_radius=size // 4)
        pygame.draw.rect(surface, THEME.muted, cap, 1, border_radius=size // 4)
        draw_text(surface, key, cap.center, "center", size=size, max_width=keys)
        place = (cap.right + size, cap.centery)
        draw_text(surface, meaning, place, "midleft", size=size, max_width=card.right - place[0])
