"""Stable-Baselines3: the hyper-gradient as an algorithm, and vector environments of arrays.

`HyperGradientAscent` trains the leader by the hyper-gradient, as the library's other algorithms do
by trial and error. `as_vec_env` hands the library a vector environment of Gymnasium.

`pip install "bilevel_gym[sb3]"` brings what this package needs; nothing else in `bilevel_gym` does.
"""

from __future__ import annotations

try:
    import stable_baselines3  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`bilevel_gym.sb3` needs Stable-Baselines3, which is not installed; "
        'run: pip install "bilevel_gym[sb3]"'
    ) from error

from .ascent import HyperGradientAscent, UpperParamsPolicy
from .vectors import as_vec_env

__all__ = ["HyperGradientAscent", "UpperParamsPolicy", "as_vec_env"]
