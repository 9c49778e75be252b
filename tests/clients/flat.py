"""An id with options of its own, for clients that take an id and nothing else."""

from __future__ import annotations

import gymnasium as gym

from . import seats

FLAT = "FlatFollower-v0"

SPEC = gym.spec(seats.FOLLOWER)
gym.register(FLAT, SPEC.entry_point, kwargs={**SPEC.kwargs, **seats.ONE_HOT})  # no time limit
