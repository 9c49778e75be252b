"""What counts as an image: the rules of Stable-Baselines3, which is not needed here."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

__all__ = ["LEAST_SIDE", "channels_first", "is_image_space"]

# The smallest images that the convolutions of Stable-Baselines3 can read, in pixels.
LEAST_SIDE = 36


def is_image_space(space: Space[Any]) -> bool:
    """Return whether a space is one of images: three axes of 8 bits, 0..255."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def channels_first(space: Space[Any]) -> bool:
    """Return whether the smallest axis of an image space is its first, `[C, H, W]`."""
    return int(np.argmin(space.shape or (0,))) == 0
