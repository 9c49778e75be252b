"""Films: frames of a run as an animated GIF, with Pillow, imported at use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.files import replacing
from .canvas import THEME
from .signs import GOAL_COLOUR, HAZARD_COLOUR, TAXI_COLOUR

if TYPE_CHECKING:
    from PIL import Image

MAX_FRAMES = 64  # keeps the film of a small map below a megabyte
FRAME_SIDE = 960  # pixels, at most
FRAME_COLOURS = 96
PALETTE_FRAMES = 8  # frames, spread over the run, from which colours are taken
SWATCH = 8  # pixels for the colours of signs, for each of these frames
SIGN_COLOURS = (THEME.accent, GOAL_COLOUR, HAZARD_COLOUR, TAXI_COLOUR, THEME.missing)
FRAME_MS, LAST_FRAME_MS = 60, 2000


class Film:
    """Frames spread evenly over a run whose length is not known beforehand.

    Every k-th frame offered is kept; when there are too many, every other one is dropped and k
    doubles.
    """

    def __init__(self) -> None:
        """Start without frames."""
        self._frames: list[tuple[Image.Image, int]] = []  # and how many frames' time each lasts
        self._offered = 0
        self._every = 1

    def offer(self, draw: Callable[[], NDArray[np.uint8]]) -> None:
        """Keep a frame `uint8 [H, W, 3]` if it is one of the k-th; only then is it drawn."""
        if self._offered % self._every == 0:
            self.add(draw())
        self._offered += 1
        if len(self._frames) >= MAX_FRAMES:
            self._frames = self._frames[::2]
            self._every *= 2

    def add(self, frame: NDArray[np.uint8], times: int = 1) -> None:
        """Keep a frame, whatever its number, for the time of so many."""
        from PIL import Image

        image = Image.fromarray(frame)
        # Boxes make no new colours in even areas; ringing filters would swell the file.
        image.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BOX)
        self._frames.append((image, times))

    def save(self, path: Path) -> None:
        """Write the frames as an animated GIF of one palette."""
        from PIL import Image

        # A common palette keeps colours from flickering. The octree keeps rare but telling ones,
        # which a median cut would drown in the background.
        images = [image for image, _ in self._frames]
        width, height = images[0].size
        chosen = np.linspace(0, len(images) - 1, PALETTE_FRAMES).astype(int)
        sheet = Image.new("RGB", (width, (height + SWATCH) * len(chosen)))
        for i, number in enumerate(chosen.tolist()):
            sheet.paste(images[number], (0, i * height))
        # Signs are small, but their colours are to be kept.
        for i, colour in enumerate(SIGN_COLOURS):
            side = width // len(SIGN_COLOURS)
            sheet.paste(colour, (i * side, height * len(chosen), (i + 1) * side, sheet.height))
        palette = sheet.quantize(FRAME_COLOURS, method=Image.Quantize.FASTOCTREE)
        frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in images]
        durations = [FRAME_MS * times for _, times in self._frames[:-1]] + [LAST_FRAME_MS]
        with replacing(path) as temporary:
            frames[0].save(
                temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0
            )
