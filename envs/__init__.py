"""The games: one module per task, registered in `bilevel_gym.registration`."""

from .arrays import ArrayBilevelEnv
from .base import BestKnown, BilevelEnv, View
from .grid_world import BilevelGridWorld, random_map
from .tabular import TabularBilevelEnv

__all__ = [
    "ArrayBilevelEnv",
    "BestKnown",
    "BilevelEnv",
    "BilevelGridWorld",
    "TabularBilevelEnv",
    "View",
    "random_map",
]
