"""Stills as files, and many of them on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.files import replacing
from .canvas import THEME, draw_text, frame, new_surface, pygame

COLUMNS = 3
CELL = (520, 360)
"""Room for each picture, width and height in pixels; it is scaled to fit."""

STILL_COLOURS = 192


CAPTION, CAPTION_SIZE = 40, 44
"""Room for the name above each picture, and the size of its letters, which the sheet shrinks to
half of in a README."""


def contact_sheet(pictures: Sequence[pygame.Surface], names: Sequence[str] = ()) -> pygame.Surface:
    """Return pictures, at least one, in rows of three below their names, scaled to fit."""
    if not pictures:
        raise ValueError("`pictures` must hold at least one, got none")
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    pitch = CELL[0] + THEME.margin, CELL[1] + CAPTION + THEME.margin
    sheet = new_surface((columns * pitch[0] + THEME.margin, rows * pitch[1] + THEME.margin))
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        left, top = column * pitch[0] + THEME.margin, row * pitch[1] + THEME.margin
        room = pygame.Rect((left, top + CAPTION), CELL)
        if i < len(names):
            draw_text(sheet, names[i], (left, top - 4), size=CAPTION_SIZE, max_width=CELL[0])
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
