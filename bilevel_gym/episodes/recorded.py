"""Episodes of followers who have no table: observations, actions and both players' rewards."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray

__all__ = ["Batch", "LearntEpisodes", "as_argument"]

# Observations or actions of B steps, `[B, ...]`.
Batch = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LearntEpisodes:
    """Episodes of a follower, side by side from their first steps on.

    Attributes:
        observations: `[T, N, ...]`, what is seen before each step.
        actions: `[T, N, ...]`, in the units of the action space.
        upper_rewards: The leader's reward `[T, N]`, zero after the end.
        lower_rewards: The follower's `[T, N]`, zero after the end.
        alive: Which steps belong to an episode, bool `[T, N]`.
        own_rewards: The environment's own rewards `[T, N]`.
        next_observations: `[T, N, ...]`, what is seen after each step, the last one included.
        terminated: Which steps ended an episode, bool `[T, N]`; other last ones were cut.
        terms: What the environment has said of each step, `[T, N, K]`, for games whose rewards read
            it; None for the others.
        seeds: Seeds that the environments were reset with, `[N]`; None where they are not known.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    upper_rewards: FloatArray
    lower_rewards: FloatArray
    alive: NDArray[np.bool_]
    own_rewards: FloatArray
    next_observations: NDArray[Any]
    terminated: NDArray[np.bool_]
    terms: FloatArray | None = None
    seeds: NDArray[np.int64] | None = None

    @property
    def num_episodes(self) -> int:
        """N."""
        return self.alive.shape[1]

    @property
    def num_steps(self) -> int:
        """Environment steps, of all episodes together."""
        return int(self.alive.sum())

    def part(self, chosen: Any) -> LearntEpisodes:
        """Return some of the episodes; `chosen` indexes them."""
        names = [field.name for field in fields(self) if field.name != "seeds"]
        every = {name: getattr(self, name) for name in names}
        parts = {n: part[:, chosen] for n, part in every.items() if part is not None}
        seeds = None if self.seeds is None else self.seeds[chosen]
        return replace(self, **parts, seeds=seeds)

    @cached_property
    def as_batch(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Observations and actions of the steps that belong to an episode, `[B, ...]` each."""
        return self.observations[self.alive], self.actions[self.alive]

    @property
    def terms_of_batch(self) -> FloatArray | None:
        """Terms of the steps that belong to an episode, `[B, K]`, if there are any."""
        return None if self.terms is None else self.terms[self.alive]


def as_argument(terms: NDArray[Any] | None) -> dict[str, Any]:
    """Return the argument `terms` `[B, K]` of a follower's reward, empty where there are none."""
    return {} if terms is None else {"terms": terms}
