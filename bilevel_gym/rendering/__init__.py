"""Pictures of the games, and where they are shown.

Everything is drawn on plain pygame surfaces, which need no display; `Window` opens one, `Film`
writes a GIF, `Screen` is either. Importing this package imports neither pygame nor Pillow.
"""

from .canvas import THEME, draw_help, frame, import_pygame, new_surface
from .curves import StepCurve
from .film import Film
from .graph import GraphScene, Panel, draw_graph
from .grid import GridLayout, GridScene, draw_grid, grid_layout
from .notebook import notebook_picture
from .screen import NoDisplayError, Screen
from .window import Window

__all__ = [
    "THEME",
    "StepCurve",
    "Film",
    "GraphScene",
    "GridLayout",
    "GridScene",
    "NoDisplayError",
    "Panel",
    "Screen",
    "Window",
    "draw_graph",
    "draw_grid",
    "draw_help",
    "frame",
    "grid_layout",
    "import_pygame",
    "new_surface",
    "notebook_picture",
]
