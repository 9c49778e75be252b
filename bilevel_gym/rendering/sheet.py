"""Stills as files, and many of them on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.files import replacing
from .canvas import THEME, frame, new_surface, pygame

COLUMNS = 3
CELL = (520, 360)
"""Room for each picture, width and height in pixels; it is scaled to fit."""

STILL_COLOURS = 192


def contact_sheet(pictures: Sequence[pygame.Surface]) -> pygame.Surface:
    """Return pictures, at least one, in rows of three, scaled to the same room."""
    if not pictures:
        raise ValueError("`pictures` must hold at least one, got none")
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    pitch = tuple(side + THEME.margin for side in CELL)
    sheet = new_surface((columns * pitch[0] + THEME.margin, rows * pitch[1] + THEME.margin))
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        room = pygame.Rect((column * pitch[0] + THEME.margin, row * pitch[1] + THEME.margin), CELL)
        place = picture.get_rect().fit(room)
        sheet.blit(pygame.transform.smoothscale(picture, place.size), place)
        pygame.draw.rect(sheet, THEME.rule, room.inflate(THEME.gap, THEME.gap), 1)
    return sheet


def save_still(picture: pygame.Surface, path: Path) -> None:
    """Write a picture as a PNG of few colours, which takes a third of the room."""
    from PIL import Image

    image = Image.fromarray(frame(picture)).quantize(
        STILL_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
    with replacing(path) as temporary:
        image.save(temporary, optimize=True)
