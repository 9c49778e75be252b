"""Observations in units of their own: the networks of a learner read numbers of order one.

The units are measured once, in steps of uniform actions, and stay: with units that drift, as those
of `VecNormalize`, the same state would be another input at every step. They are part of the
networks, so that replays, rewards and files have observations as the environment has them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import FlattenExtractor

from ..rewards.images import is_image_space
from .archive import allow

__all__ = ["StandardisedExtractor", "measured_units"]

# Standardised inputs are at most this large: what is rare at first may be common later.
FARTHEST = 10.0

# A unit is at least this share of half of an entry's range, where that is finite.
LEAST_SHARE = 0.1


class StandardisedExtractor(FlattenExtractor):
    """Observations, flattened, less a mean and over a scale, both fixed, within -10..10."""

    mean: th.Tensor
    scale: th.Tensor

    def __init__(
        self, observation_space: spaces.Box, *, mean: Sequence[float], scale: Sequence[float]
    ) -> None:
        """Set the units of a space's entries, `[F]` each; those of a file replace them."""
        super().__init__(observation_space)
        self.register_buffer("mean", th.tensor(mean, dtype=th.float32))
        self.register_buffer("scale", th.tensor(scale, dtype=th.float32))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return the features `[B, F]` of observations `[B, ...]`."""
        flat = super().forward(observations)
        return ((flat - self.mean) / self.scale).clamp(-FARTHEST, FARTHEST)

    def of_arrays(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features of flat observations `[B, F]`, both of them arrays: the same bits."""
        units = self.mean.numpy(), self.scale.numpy()
        return np.clip((flat - units[0]) / units[1], -FARTHEST, FARTHEST)


def measured_units(env: gym.Env[Any, Any], steps: int, seed: int) -> dict[str, list[float]] | None:
    """Return mean and scale of an environment's observations, `[F]` each, and close it.

    They are mean and standard deviation over so many steps of uniform actions, by a seed; a scale
    is at least a twentieth of the entry's range. None where observations are images or numbers of
    states.
    """
    space = env.observation_space
    if not isinstance(space, spaces.Box) or is_image_space(space):
        return None
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    found, over = [np.ravel(env.reset(seed=seed)[0])], False
    for _ in range(steps):
        if over:
            found.append(np.ravel(env.reset()[0]))
        observation, _, terminated, truncated, _ = env.step(actions.sample())
        over = bool(terminated or truncated)
        found.append(np.ravel(observation))
    env.close()
    seen = np.array(found, np.float64)
    low, high = (np.ravel(bound).astype(np.float64) for bound in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high)
    half = 0.5 * (np.where(bounded, high, 0.0) - np.where(bounded, low, 0.0))
    # Bounds that are but the largest numbers of a type say nothing.
    half = np.where(half < 1e6, half, 0.0)
    scale = np.maximum(seen.std(axis=0), LEAST_SHARE * half)
    scale = np.where(scale > 1e-6 * np.abs(seen).max(axis=0), scale, 1.0)
    return {"mean": seen.mean(axis=0).tolist(), "scale": scale.tolist()}


allow(StandardisedExtractor)
