"""Stable-Baselines3: the hyper-gradient as an algorithm, soft followers, and vector environments.

`HyperGradientAscent` trains the leader by the hyper-gradient, as the library's other algorithms do
by trial and error. `SoftDQN` and `SoftSAC` train the follower to its entropy-regularised optimum,
and follow a leader who changes its reward. `as_vec_env` hands the library a vector environment of
Gymnasium.

`pip install -e ".[sb3]"` brings what this package needs; nothing else in `bilevel_gym` does.
"""

from __future__ import annotations

try:
    import stable_baselines3  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`bilevel_gym.sb3` needs Stable-Baselines3, which is not installed; "
        'run: pip install -e ".[sb3]"'
    ) from error

from .ascent import HyperGradientAscent, UpperParamsPolicy
from .replay import RelabellingReplayBuffer
from .soft_dqn import SoftDQN
from .soft_sac import SoftSAC
from .vectors import as_vec_env

__all__ = [
    "HyperGradientAscent",
    "RelabellingReplayBuffer",
    "SoftDQN",
    "SoftSAC",
    "UpperParamsPolicy",
    "as_vec_env",
]
