"""The follower's reward as a function of observations and actions, x being its parameters.

Linear models need NumPy alone. `networks` and `convolutions` need PyTorch, which the extra brings:
`pip install -e ".[sb3]"`.
"""

from .models import LinearReward, RewardModel, make_reward_model

__all__ = ["LinearReward", "RewardModel", "make_reward_model"]
