"""The games: one module per task, registered in `bilevel_gym.registration`."""

from .arrays import ArrayBilevelEnv
from .base import BestKnown, BilevelEnv, TabularBilevelEnv, View
from .grid_world import BilevelGridWorld, random_map

__all__ = [
    "ArrayBilevelEnv",
    "BestKnown",
    "BilevelEnv",
    "BilevelGridWorld",
    "TabularBilevelEnv",
    "View",
    "random_map",
]
