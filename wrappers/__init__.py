"""The seats of a game, and wrappers of them: one module each."""

from .hyper_gradient import HyperGradient, LeaderInfo
from .leader_vector import LeaderVectorEnv
from .lower_level import LowerLevel
from .lower_level_vector import LowerLevelVectorEnv
from .objective import LeaderObjective, exact_objective
from .rescale_upper import RescaleUpper

__all__ = [
    "HyperGradient",
    "LeaderObjective",
    "LeaderInfo",
    "LeaderVectorEnv",
    "LowerLevel",
    "LowerLevelVectorEnv",
    "RescaleUpper",
    "exact_objective",
]
