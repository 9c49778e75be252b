"""Pictures in notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from .canvas import frame

if TYPE_CHECKING:
    import pygame

__all__ = ["notebook_picture"]


def notebook_picture(draw: Callable[[], pygame.Surface]) -> bytes | None:
    """Return what is drawn as a PNG, None where that fails: notebooks then show the `repr`."""
    file = io.BytesIO()
    try:
        from PIL import Image  # imported here, as pygame is

        Image.fromarray(frame(draw())).save(file, "PNG")
    except Exception:  # showing a thing must not fail, whatever its class draws
        return None
    return file.getvalue()
