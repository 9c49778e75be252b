"""Pairs of fragments of episodes, as they are shown to a judge of preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from .recorded import LearntEpisodes

__all__ = ["Pairs", "Windows"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of fragments of H steps.

    Attributes:
        observations: What is observed before each step, `[M, 2, H, ...]`.
        actions: `[M, 2, H, ...]`.
        rewards: The environment's own reward, `[M, 2, H]`; nothing learns from it.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: FloatArray

    def __len__(self) -> int:
        """Return M."""
        return len(self.rewards)

    def __getitem__(self, which: slice | NDArray[Any]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.observations[which], self.actions[which], self.rewards[which])

    @property
    def as_batch(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Observations and actions of all steps, `[2 M H, ...]` each."""
        seen, taken = self.observations, self.actions
        return seen.reshape(-1, *seen.shape[3:]), taken.reshape(-1, *taken.shape[3:])


@dataclass(frozen=True, eq=False)
class Windows:
    """Where in some episodes the fragments of pairs are.

    Attributes:
        episodes: Which episode each fragment is of, `[M, 2]`.
        starts: Its first step, `[M, 2]`.
        length: H.
    """

    episodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    length: int

    @classmethod
    def drawn(
        cls, count: int, num_episodes: int, num_steps: int, length: int, rng: np.random.Generator
    ) -> Windows:
        """Draw fragments that do not overlap; the two of a pair are of different episodes.

        `count` is at most half of all the fragments there are, `num_episodes` even.
        """
        each = num_steps // length
        # Each episode's fragments in an order of their own; neighbours are compared one by one.
        orders = np.stack([rng.permutation(each) for _ in range(num_episodes)])
        chosen = np.sort(rng.permutation(num_episodes // 2 * each)[:count])
        couple, place = np.divmod(chosen, each)
        episodes = 2 * couple[:, None] + np.arange(2)
        return cls(episodes, length * orders[episodes, place[:, None]], length)

    @property
    def steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Steps and episodes of all fragments, as indices, `[M, 2, H]`."""
        times = self.starts[:, :, None] + np.arange(self.length)
        return times, np.broadcast_to(self.episodes[:, :, None], times.shape)

    def cut(self, played: LearntEpisodes) -> Pairs:
        """Return the fragments."""
        at = self.steps
        return Pairs(played.observations[at], played.actions[at], played.upper_rewards[at])

    def __getitem__(self, which: NDArray[np.bool_]) -> Windows:
        """Return those of some pairs."""
        return Windows(self.episodes[which], self.starts[which], self.length)
