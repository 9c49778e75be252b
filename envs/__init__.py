"""The games: one module per task, registered in `bilevel_gym.registration`."""

from .arrays import ArrayBilevelEnv
from .base import BestKnown, BilevelEnv, View
from .four_rooms import BilevelFourRooms
from .grid_world import BilevelGridWorld, random_map
from .tabular import TabularBilevelEnv
from .toy_text import BilevelToyText

__all__ = [
    "ArrayBilevelEnv",
    "BestKnown",
    "BilevelEnv",
    "BilevelFourRooms",
    "BilevelGridWorld",
    "BilevelToyText",
    "TabularBilevelEnv",
    "View",
    "random_map",
]
