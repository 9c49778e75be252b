"""Pairs of fragments of episodes, as they are shown to a judge of preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from .recorded import Batch, LearntEpisodes

__all__ = ["Fragment", "Pairs", "Windows", "num_fragments"]


@dataclass(frozen=True, eq=False)
class Fragment:
    """A part of an episode, h steps: H, or fewer if the episode ends.

    Attributes:
        observations: What is observed before each step, `[h, ...]`.
        actions: `[h, ...]`.
        rewards: The environment's own reward, or that of `upper_reward`, `[h]`; nothing learns
            from it.
    """

    observations: Batch
    actions: Batch
    rewards: FloatArray


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of fragments of H steps, or fewer where an episode ends.

    Attributes:
        observations: What is observed before each step, `[M, 2, H, ...]`.
        actions: `[M, 2, H, ...]`.
        rewards: The environment's own reward, or that of `upper_reward`, `[M, 2, H]`, zero after
            the end; nothing learns from it.
        alive: Which steps belong to the fragments, bool `[M, 2, H]`; all of them by default.
        windows: Where the fragments are in `played`, None where that is not known.
        played: The episodes that they are of, None where they are not kept.
    """

    observations: Batch
    actions: Batch
    rewards: FloatArray
    alive: NDArray[np.bool_] = None  # type: ignore[assignment]  # `__post_init__` fills it in
    windows: Windows | None = None
    played: LearntEpisodes | None = None

    def __post_init__(self) -> None:
        """Take all steps as alive where nothing is said."""
        if self.alive is None:
            object.__setattr__(self, "alive", np.ones(self.rewards.shape, dtype=np.bool_))

    def __len__(self) -> int:
        """Return M."""
        return len(self.rewards)

    def __getitem__(self, which: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Pairs:
        """Return some of the pairs."""
        parts: dict[str, Any] = {name: part[which] for name, part in self.arrays.items()}
        windows = None if self.windows is None else self.windows[which]
        return Pairs(**parts, windows=windows, played=self.played)

    @property
    def arrays(self) -> dict[str, Batch]:
        """What is kept of them in files and memories, by name."""
        names = ("observations", "actions", "rewards", "alive")
        return {name: getattr(self, name) for name in names}

    @property
    def as_batch(self) -> tuple[Batch, Batch]:
        """Observations and actions of all steps, those after an end included, `[2 M H, ...]`."""
        seen, taken = self.observations, self.actions
        return seen.reshape(-1, *seen.shape[3:]), taken.reshape(-1, *taken.shape[3:])

    def fragment(self, pair: int, side: int) -> Fragment:
        """Return a fragment of a pair, the first (`side` 0) or the second (1)."""
        alive = self.alive[pair, side]
        parts = (self.observations, self.actions, self.rewards)
        return Fragment(*(part[pair, side][alive] for part in parts))


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
        cls, count: int, fragments: NDArray[np.int64], length: int, rng: np.random.Generator
    ) -> Windows:
        """Draw fragments that do not overlap; the two of a pair are of different episodes.

        `count` is the most pairs that are drawn, `fragments` how many each episode has, `[N]` with
        N even; see `num_fragments`.
        """
        # Each episode's fragments in an order of their own; neighbours are compared one by one.
        orders = [rng.permutation(each) for each in fragments]
        couples = fragments.reshape(-1, 2).min(axis=1)
        begin = np.cumsum(couples) - couples
        chosen = np.sort(rng.permutation(couples.sum())[:count])
        couple = np.searchsorted(begin, chosen, side="right") - 1
        episodes = 2 * couple[:, None] + np.arange(2)
        place = chosen - begin[couple]
        starts = [[orders[e][k] for e in two] for two, k in zip(episodes, place, strict=True)]
        return cls(episodes, length * np.array(starts, np.int64).reshape(-1, 2), length)

    @property
    def steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Steps and episodes of all fragments, as indices, `[M, 2, H]`."""
        times = self.starts[:, :, None] + np.arange(self.length)
        return times, np.broadcast_to(self.episodes[:, :, None], times.shape)

    def cut(self, played: LearntEpisodes) -> Pairs:
        """Return the fragments; what is beyond the last step recorded repeats it, and is no part.

        Rewards are those of the leader.
        """
        times, episodes = self.steps
        last = len(played.alive) - 1
        at = np.minimum(times, last), episodes
        alive = played.alive[at] & (times <= last)
        rewards = np.where(alive, played.upper_rewards[at], 0.0)
        return Pairs(played.observations[at], played.actions[at], rewards, alive, self, played)

    def __getitem__(self, which: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Windows:
        """Return those of some pairs."""
        return Windows(self.episodes[which], self.starts[which], self.length)


def num_fragments(played: LearntEpisodes, length: int) -> NDArray[np.int64]:
    """Return the number of fragments of so many steps in each episode, at least 1, `[N]`.

    The last steps count as one, shorter than others, if the episode terminated, as the end is what
    tells it from others; if it was cut they are left out.
    """
    steps, ended = played.alive.sum(axis=0), played.terminated.any(axis=0)
    whole, rest = np.divmod(steps, length)
    return np.maximum(whole + (ended & (rest > 0)), 1).astype(np.int64)
