"""What the vector environments of both seats share: copies of one game that start and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ..core.checks import check_at_least, unknown_name
from ..envs.tabular import TabularBilevelEnv
from .seats import Seat

__all__ = ["SeatCopies", "reported"]


class SeatCopies(VectorEnv[Any, Any, NDArray[Any]]):
    """Copies of one seat of a tabular game, stepped together.

    Attributes:
        game: The game, one for all copies.
    """

    game: TabularBilevelEnv

    def __init__(self, seat: Seat[Any], num_envs: int, mode: AutoresetMode) -> None:
        """Take the spaces from a seat.

        Args:
            seat: The seat.
            num_envs: Number of copies N, checked.
            mode: When ended copies start again.
        """
        self.game = seat.game
        self.num_envs = int(num_envs)
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        self.single_observation_space = seat.observation_space
        self.single_action_space = seat.action_space
        self.observation_space = batch_space(seat.observation_space, self.num_envs)
        self.action_space = batch_space(seat.action_space, self.num_envs)
        self._mode = mode
        self._started = False
        self._elapsed = np.zeros(self.num_envs, dtype=np.int64)
        self._over = np.zeros(self.num_envs, dtype=bool)

    @classmethod
    def _tabular(
        cls, id: str, num_envs: int, autoreset_mode: str | AutoresetMode, **kwargs: Any
    ) -> tuple[gym.Env[Any, Any], AutoresetMode]:
        """Make the game of an id, after checking what all copies need.

        Raises:
            gymnasium.error.Error: If the id is not registered.
            TypeError: If the game is not a tabular one.
            ValueError: If the number of copies or the mode is out of range, or a render mode is
                asked for.
        """
        check_at_least("num_envs", num_envs, 1)
        try:
            mode = AutoresetMode(autoreset_mode)
        except ValueError:
            known = [known.value for known in AutoresetMode]
            raise ValueError(unknown_name("autoreset_mode", autoreset_mode, known)) from None
        name = cls.__name__
        if kwargs.get("render_mode") is not None:
            raise ValueError(
                f"`{name}` has no picture, got render_mode={kwargs['render_mode']!r}; look at a "
                "seat, HyperGradient(gym.make(id)) or LowerLevel(gym.make(id), x)"
            )
        env = gym.make(id, **kwargs)
        if not isinstance(env.unwrapped, TabularBilevelEnv):
            raise TypeError(
                f"`{name}` needs a tabular game, got {type(env.unwrapped).__name__}; "
                "gymnasium.vector.SyncVectorEnv takes a seat of any game"
            )
        return env, mode

    def _reset_mask(self, options: dict[str, Any]) -> NDArray[np.bool_]:
        """Return which copies a reset starts; all, unless the option `reset_mask` is given.

        Raises:
            TypeError: If the mask is not an array of bool.
            ValueError: If it has another shape or marks no copy.
            ResetNeeded: If it leaves out a copy that was never reset.
        """
        mask = options.get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"`reset_mask` must be a NumPy array of bool, got {mask!r}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"`reset_mask` must have shape ({self.num_envs},), got {mask.shape}")
        if not mask.any():
            raise ValueError("`reset_mask` must mark at least one copy, got none")
        if not self._started and not mask.all():
            raise ResetNeeded("`reset_mask` needs a first `reset` of all copies")
        return mask

    def _check_under_way(self) -> None:
        """Raise `ResetNeeded` unless every copy can be stepped."""
        if not self._started:
            raise ResetNeeded("`step` needs episodes under way; call `reset` first")
        if self._mode is AutoresetMode.DISABLED and self._over.any():
            raise ResetNeeded(
                "`step` needs episodes under way, got ended ones in the copies "
                f"{np.flatnonzero(self._over).tolist()}; start these again with "
                '`reset(options={"reset_mask": terminations | truncations})`'
            )

    def _final(
        self, observations: Sequence[Any], over: NDArray[np.bool_], info: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the last observations and infos of ended copies, as Gymnasium arranges them.

        Args:
            observations: Those of all copies.
            over: Which copies have ended.
            info: What they report.
        """
        final_obs = np.full(self.num_envs, None, dtype=object)
        for copy in np.flatnonzero(over).tolist():
            final_obs[copy] = observations[copy]
        return {
            "final_obs": final_obs,
            "_final_obs": over.copy(),
            "final_info": info,
            "_final_info": over.copy(),
        }


def reported(key: str, values: NDArray[Any], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return an entry of infos with its mask: zeros, or no entry, where nothing is reported.

    Args:
        key: The key.
        values: What each copy reports, `[N, ...]`.
        mask: Which copies report it, bool `[N]`.
    """
    if not mask.any():
        return {}
    if not mask.all():
        values = values.copy()
        values[~mask] = 0
    return {key: values, f"_{key}": mask.copy()}
