"""Pictures of the games, and where they are shown.

Everything is drawn on plain pygame surfaces, which need no display; `Window` opens one, `Film`
writes a GIF, `Screen` is either. Importing this package imports neither pygame nor Pillow.
"""

from .canvas import THEME, Curve, draw_help, frame, import_pygame, new_surface
from .film import Film
from .grid import GridLayout, GridScene, draw_grid, grid_layout
from .screen import NoDisplayError, Screen
from .window import Window

__all__ = [
    "THEME",
    "Curve",
    "Film",
    "GridLayout",
    "GridScene",
    "NoDisplayError",
    "Screen",
    "Window",
    "draw_grid",
    "draw_help",
    "frame",
    "grid_layout",
    "import_pygame",
    "new_surface",
]
