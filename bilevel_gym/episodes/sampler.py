"""What a method without a model may use: episodes of the follower, and counts of transitions.

A `Sampler` plays episodes of a tabular game for a given x and policy. Methods that learn from
samples see a game through it alone: states, actions, where episodes end, and the leader's rewards.
Beside that they know what a leader knows: the reward it has designed, r_x and its derivative, the
sizes, the discount and the temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_at_least
from ..core.mdp import FloatArray, Kernel
from ..core.state import Remembers
from .simulator import Simulator, Trajectories

__all__ = ["Episodes", "Plays", "Sampler", "TransitionCounts"]

# Episodes played at a time: a multiple of what the simulator draws together.
BLOCK = 2048


@dataclass(frozen=True, eq=False, repr=False)
class Episodes(Trajectories):
    """Trajectories with the leader's rewards.

    Attributes:
        upper_rewards: The leader's reward at each step, `[T, N]`; zero after the end.
    """

    upper_rewards: FloatArray

    def part(self, chosen: Any) -> Episodes:
        """Return some of the episodes; `chosen` indexes them."""
        return replace(
            self,
            pairs=np.ascontiguousarray(self.pairs[:, chosen]),
            final_states=self.final_states[chosen],
            upper_rewards=self.upper_rewards[:, chosen],
        )


class Plays(Protocol):
    """What a method may ask for: episodes of one policy under one x; see `Sampler`."""

    def episodes(
        self, num_episodes: int, horizon: int, rng: np.random.Generator
    ) -> Iterator[Episodes]:
        """Play episodes from the game's first states, some at a time."""
        ...

    def episodes_from(
        self, states: NDArray[Any], actions: NDArray[Any], horizon: int, rng: np.random.Generator
    ) -> Iterator[Episodes]:
        """Play an episode from each of some pairs of states and actions, `[N]` each."""
        ...


class Sampler:
    """Plays episodes of one policy under one x.

    Attributes:
        samples: Environment steps played so far.
    """

    def __init__(
        self,
        kernel: Kernel,
        policy: ArrayLike,
        start_distribution: FloatArray,
        upper_reward: FloatArray,
    ) -> None:
        """Build the simulator; the policy and the leader's reward are `[S, A]`, the start `[S]`.

        Raises:
            ValueError: If the policy has another shape, or a row is not a distribution.
        """
        self.num_states, self.num_actions = kernel.num_states, kernel.num_actions
        self._simulator = Simulator(kernel, policy)
        self._start = start_distribution
        self._upper_reward = upper_reward
        self.samples = 0

    def episodes(
        self, num_episodes: int, horizon: int, rng: np.random.Generator
    ) -> Iterator[Episodes]:
        """Play episodes from the game's first states, some at a time.

        Episodes are cut after `horizon` steps; random numbers come from `rng`.
        """
        check_at_least("num_episodes", num_episodes, 1)
        for first in range(0, num_episodes, BLOCK):
            count = min(BLOCK, num_episodes - first)
            yield self._played(self._start, num_episodes=count, horizon=horizon, rng=rng)

    def episodes_from(
        self, states: NDArray[Any], actions: NDArray[Any], horizon: int, rng: np.random.Generator
    ) -> Iterator[Episodes]:
        """Play an episode from each of some pairs of states and actions, `[N]` each."""
        for first in range(0, len(states), BLOCK):
            part = slice(first, first + BLOCK)
            pairs = states[part], actions[part]
            yield self._played(start_pairs=pairs, horizon=horizon, rng=rng)

    def _played(self, *start: Any, **options: Any) -> Episodes:
        played = self._simulator.simulate(*start, **options)
        self.samples += played.num_steps
        rewards = played.along(self._upper_reward)
        return Episodes(
            played.pairs, played.final_states, self.num_states, self.num_actions, rewards
        )


class TransitionCounts(Remembers):
    """How often each transition was seen: a model of the game made of samples."""

    remembered = ("_codes", "_weights")

    def __init__(self, num_states: int, num_actions: int) -> None:
        """Start with nothing seen."""
        self.num_states, self.num_actions = num_states, num_actions
        self._codes = np.zeros(0, dtype=np.int64)
        self._weights: FloatArray = np.zeros(0)

    @property
    def visits(self) -> FloatArray:
        """How often each action was taken in each state, `[S, A]`."""
        size = self.num_states * self.num_actions
        per_pair = np.bincount(self._codes // (self.num_states + 1), self._weights, minlength=size)
        visits = per_pair.astype(np.float64, copy=False)
        return visits.reshape(self.num_actions, self.num_states).T

    def add(self, episodes: Episodes) -> None:
        """Count the transitions of episodes."""
        alive = episodes.alive
        pairs = episodes.pairs[alive].astype(np.int64)
        # The end is one more successor.
        following = episodes.next_states[alive].astype(np.int64)
        codes = pairs * (self.num_states + 1) + np.where(following < 0, self.num_states, following)
        seen, weights = np.unique(codes, return_counts=True)
        codes = np.concatenate([self._codes, seen])
        self._codes, place = np.unique(codes, return_inverse=True)
        merged = np.concatenate([self._weights, weights])
        self._weights = np.bincount(place, merged).astype(np.float64, copy=False)

    def fade(self, share: float) -> None:
        """Forget a share of everything seen, in [0, 1]."""
        weights = (1.0 - share) * self._weights
        kept = weights > 0.0
        self._codes, self._weights = self._codes[kept], weights[kept]

    def transitions(self) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, FloatArray]:
        """Return what was seen to follow: rows `a * S + s`, successors, tries, frequencies `[T]`.

        Sorted by row and successor, of which the end of the episode is the last, number S. The
        tries are those of the row, the frequencies the share of them that went to the successor.
        """
        rows, successors = np.divmod(self._codes, self.num_states + 1)
        tries = self.visits.T.ravel()[rows]
        return rows, successors, tries, self._weights / tries

    def kernel(self) -> Kernel:
        """Return the kernel of the frequencies seen; where nothing was, the episode ends."""
        rows, successors, _, shares = self.transitions()
        goes_on = successors < self.num_states
        actions, states = np.divmod(rows[goes_on], self.num_states)
        return Kernel.from_triplets(
            states,
            actions,
            successors[goes_on],
            shares[goes_on],
            num_states=self.num_states,
            num_actions=self.num_actions,
        )
