"""The design of rewards: from an environment to the best weights of terms, in one call."""

from .results import Design, Score
from .reward import design_reward
from .run import Progress

__all__ = ["Design", "Progress", "Score", "design_reward"]
