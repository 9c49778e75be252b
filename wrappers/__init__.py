"""The seats of a game, and what may sit on them: one module per wrapper."""

from .hyper_gradient import HyperGradient
from .leader_vector import LeaderVectorEnv
from .lower_level import LowerLevel
from .lower_level_vector import LowerLevelVectorEnv
from .objective import LeaderObjective, exact_objective
from .rescale_upper import RescaleUpper

__all__ = [
    "HyperGradient",
    "LeaderObjective",
    "LeaderVectorEnv",
    "LowerLevel",
    "LowerLevelVectorEnv",
    "RescaleUpper",
    "exact_objective",
]
