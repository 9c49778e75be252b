"""How plots look: one ink, one palette, quiet axes. Matplotlib is imported at use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .core.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, MUTED, GRID, LINE = "#222222", "#767676", "#e4e4e4", "#1f4e9c"

# Colours of curves that are compared: apart in hue and in lightness, so that they survive print
# and colour blindness as far as so many can; dashes tell the rest.
PALETTE = (
    "#1f4e9c",
    "#d1603d",
    "#2a8c6a",
    "#8a5fb0",
    "#b8860b",
    "#3fa7c9",
    "#a63a6d",
    "#6b7d2a",
    "#555555",
    "#e08aa5",
    "#7a4a2b",
    "#8fb4e8",
    "#c44ec4",
    "#0b3d2e",
)


def load() -> None:
    """Import what draws figures now: whoever interrupts long work later does not wait for it."""
    import matplotlib.backends.backend_agg  # noqa: F401

    new_figure()


def new_figure(width: float = 7.0, height: float = 4.0) -> Figure:
    """Return an empty figure, sizes in inches.

    It is matplotlib's object interface: no global state, no display.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def figure_path(text: str) -> Path:
    """Return the path of a PNG that can be written, as a type of `argparse`."""
    from argparse import ArgumentTypeError

    path = Path(text)
    if path.suffix != ".png":
        raise ArgumentTypeError(f"the file must end in .png, got {text!r}")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the file is whole or as it was."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def tidy(axes: Axes) -> None:
    """Leave of the frame what carries numbers, with faint horizontal lines behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
