"""Discrete observations as arrays of numbers, for learners that read nothing else."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_choice
from ..envs.base import BilevelEnv
from ..envs.grids import GridBilevelEnv

__all__ = ["OBSERVATIONS", "StateArrays", "state_arrays"]

OBSERVATIONS = ("state", "one-hot", "coordinates")
"""What the follower's seat shows of a discrete state."""


class StateArrays:
    """States as float32 arrays `[K]`: units of `[S]`, or rows of a table of coordinates.

    Attributes:
        space: `Box(0, 1, [K])`.
    """

    def __init__(self, num_states: int, table: NDArray[np.float32] | None = None) -> None:
        """Show states as rows of a table `[S, K]`, one-hot without one."""
        self._table = table
        length = num_states if table is None else table.shape[1]
        self.space = spaces.Box(0.0, 1.0, (length,), np.float32)

    def __call__(self, states: ArrayLike) -> NDArray[np.float32]:
        """Return what is seen of states of any shape, `[..., K]`."""
        at = np.asarray(states)
        if self._table is not None:
            return self._table[at].copy()
        units = np.zeros((*at.shape, *self.space.shape), np.float32)
        np.put_along_axis(units, at[..., None], 1.0, axis=-1)
        return units


def state_arrays(game: BilevelEnv, observation: str) -> StateArrays | None:
    """Return how a game's states are seen, `[S, ...]`, None where they are seen as they are.

    Args:
        game: A game.
        observation: One of `OBSERVATIONS`.

    Raises:
        ValueError: If there is no such choice, or the game does not suit it.
    """
    check_choice("observation", observation, OBSERVATIONS)
    if observation == "state":
        return None
    space = game.observation_space
    if not isinstance(space, spaces.Discrete) or space.start != 0:
        raise ValueError(
            f"`observation` must be 'state' where observations are not Discrete from 0 on, got "
            f"{observation!r} and {space} of {game.title}"
        )
    if observation == "one-hot":
        return StateArrays(int(space.n))
    table = game.coordinates() if isinstance(game, GridBilevelEnv) else None
    if table is None:
        raise ValueError(
            f"`observation` must be 'state' or 'one-hot' where there is no map, got "
            f"'coordinates' for {game.title}"
        )
    return StateArrays(int(space.n), table.astype(np.float32))
