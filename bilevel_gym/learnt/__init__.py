"""Followers who learn by networks, and methods that estimate from their episodes.

`pip install -e ".[sb3]"` brings PyTorch and Stable-Baselines3, which this package needs.
"""

from .. import sb3 as sb3  # names the extra where it is missing
