"""Pictures of a run: curves with matplotlib, films with Pillow, both imported at use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .cli.runs import Record, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

__all__ = ["Film", "plot_history"]

INK, MUTED, LINE = "#222222", "#767676", "#1f4e9c"

MAX_FRAMES = 64  # keeps the film of a small map below a megabyte
FRAME_SIDE = 960  # pixels, at most
FRAME_COLOURS = 128
PALETTE_FRAMES = 8  # frames, spread over the run, from which colours are taken
FRAME_MS, LAST_FRAME_MS = 60, 2000


def plot_history(history: Sequence[Record], path: Path, title: str) -> None:
    """Draw objective and gradient norm against evaluations.

    Args:
        history: Records of the run, at least one.
        path: The PNG to write.
        title: What the run is.
    """
    # The object interface alone: no global state, no display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.0, 5.6), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = np.array([record.step for record in history])
    objective = np.array([record.objective for record in history])
    # A gradient of zero has no place on a logarithmic axis.
    norms = np.array([record.projected_gradient_norm or np.nan for record in history])
    marker = "o" if len(history) == 1 else ""
    upper.plot(steps, objective, color=LINE, linewidth=1.6, marker=marker)
    lower.plot(steps, norms, color=LINE, linewidth=1.2, marker=marker)
    if np.isfinite(norms).any():
        lower.set_yscale("log")
    else:
        lower.set_yticks([])
        lower.text(0.5, 0.5, "zero", transform=lower.transAxes, ha="center", color=MUTED)
    upper.set_title(title, loc="left", fontsize=11, color=INK)
    upper.set_ylabel("objective F(x)")
    lower.set_ylabel("projected gradient norm")
    lower.set_xlabel("evaluations of the objective")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(history) == 1:
        lower.set_xticks([0])
    for axes in (upper, lower):
        _tidy(axes)
        _mark_phases(axes, history, label=axes is upper)
    best = int(np.argmax(objective))
    upper.annotate(
        f"best {objective[best]:.6g}".replace("-", "\N{MINUS SIGN}"),  # as on the axis
        (steps[best], objective[best]),
        xytext=(0, -8),
        textcoords="offset points",
        horizontalalignment="left" if 2 * best < len(history) else "right",
        verticalalignment="top",
        fontsize=9,
        color=LINE,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    with replacing(path) as temporary:
        figure.savefig(temporary)


class Film:
    """Frames spread evenly over a run whose length is not known beforehand.

    Every k-th frame offered is kept; when there are too many, every other one is dropped and k
    doubles.
    """

    def __init__(self) -> None:
        """Start without frames."""
        self._frames: list[Image.Image] = []
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

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Keep a frame, whatever its number."""
        from PIL import Image

        image = Image.fromarray(frame)
        # Boxes make no new colours in even areas; ringing filters would swell the file.
        image.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BOX)
        self._frames.append(image)

    def save(self, path: Path) -> None:
        """Write the frames as an animated GIF of one palette."""
        from PIL import Image

        # A common palette keeps colours from flickering. The octree keeps rare but telling ones,
        # which a median cut would drown in the background.
        width, height = self._frames[0].size
        samples = self._frames[:: max(1, len(self._frames) // PALETTE_FRAMES)]
        sheet = Image.new("RGB", (width, height * len(samples)))
        for i, sample in enumerate(samples):
            sheet.paste(sample, (0, i * height))
        palette = sheet.quantize(FRAME_COLOURS, method=Image.Quantize.FASTOCTREE)
        frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in self._frames]
        durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
        with replacing(path) as temporary:
            frames[0].save(
                temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0
            )


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)


def _mark_phases(axes: Axes, history: Sequence[Record], *, label: bool) -> None:
    for before, after in zip(history, history[1:], strict=False):
        if before.phase != after.phase:
            axes.axvline(after.step, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            if label:
                axes.annotate(
                    f"{after.phase} from here ",
                    (after.step, 0.04),
                    xycoords=("data", "axes fraction"),
                    horizontalalignment="right",
                    fontsize=9,
                    color=MUTED,
                )
