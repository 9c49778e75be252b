"""Thousands of copies of the follower's seat, stepped together."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from ..core.checks import real_numbers
from ..core.mdp import FloatArray
from ..envs.sources import time_limit
from .copies import ANY, SeatCopies, reported
from .lower_level import LowerLevel

__all__ = ["LowerLevelVectorEnv"]


class LowerLevelVectorEnv(SeatCopies):
    """Copies of a tabular game's follower's seat, all under one x, as arrays.

    What `SyncVectorEnv` makes of as many `LowerLevel(gym.make(id), x)`, a hundred times faster:
    observations int64 `[N]`, rewards float64 `[N]`, and infos with `upper_reward` `[N]` and, where
    actions vary, `action_mask` int8 `[N, A]`. Next to each stands its mask, `_upper_reward` for
    one: which copies report it; where none does (all have just started again), the key is absent.

    All copies share one generator, and `reset(seed=...)` determines everything that follows: a
    reset draws one uniform number for each copy that it starts, a step one for each copy, and an
    ended copy's first state takes that number (next-step mode) or another one drawn after those
    of the step (same-step mode); copies are always in order.

    Attributes:
        upper_params: The leader's x, held fixed, read-only.

    Example:
        >>> import bilevel_gym, numpy as np
        >>> envs = bilevel_gym.LowerLevelVectorEnv("BilevelGridWorld-v0", 4096, np.zeros(52))
        >>> states, infos = envs.reset(seed=0)
        >>> states, rewards, terminations, truncations, infos = envs.step(np.ones(4096, int))
        >>> states.shape, rewards.shape, infos["upper_reward"].shape
        ((4096,), (4096,), (4096,))
    """

    def __init__(
        self,
        id: str,
        num_envs: int,
        upper_params: ArrayLike,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        """Make the copies under `upper_params`, an x of the shape of the game's `upper_space`.

        For the other arguments see `SeatCopies`.
        """
        take_seat = partial(LowerLevel, upper_params=upper_params)
        super().__init__(id, num_envs, autoreset_mode, take_seat, **kwargs)
        self._limit = time_limit(self._seat)
        self.upper_params = self._seat.upper_params
        self._transitions = self.game.transition_arrays(self.upper_params)
        self._num_actions = self.game.num_actions
        mask = self.game.action_mask
        self._action_mask = None if mask is None else mask.astype(np.int8)
        self._states = np.zeros(self.num_envs, dtype=np.int64)
        self._upper_rewards = np.zeros(self.num_envs)

    def _move(self, actions: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        moves = self._checked_actions(actions)
        uniforms = self.np_random.random(self.num_envs)
        self._states, terminations, rewards, self._upper_rewards = self._transitions.sample(
            self._states, moves, uniforms
        )
        begun = self._over  # in next-step mode; these start again instead
        self._states[begun] = self.game.first_states(uniforms[begun])
        terminations[begun], rewards[begun] = False, 0.0
        return rewards, terminations

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the states of the copies, bool `[N, A]`."""
        if self._action_mask is None or not self._started:
            return np.ones((self.num_envs, self._num_actions), dtype=bool)
        return self._action_mask[self._states].astype(bool)

    def _begin(self, mask: NDArray[np.bool_], options: dict[str, Any]) -> None:
        self._states[mask] = self.game.first_states(self.np_random.random(int(mask.sum())))

    def _observations(self) -> NDArray[np.int64]:
        return self._states.copy()

    def _infos(self, mask: NDArray[np.bool_], stepped: NDArray[np.bool_]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        if self._action_mask is not None:
            infos = reported("action_mask", self._action_mask[self._states], mask)
        return infos | reported("upper_reward", self._upper_rewards, stepped)

    def _checked_actions(self, actions: ArrayLike) -> NDArray[np.int64]:
        accepted = f"integers in 0..{self._num_actions - 1} of shape ({self.num_envs},)"
        try:
            given = real_numbers("actions", actions, kinds=ANY)
        except ValueError as error:
            raise ValueError(f"`actions` must be {accepted}: {error}") from None
        if given.dtype.kind not in "iu" or given.shape != (self.num_envs,):
            raise ValueError(
                f"`actions` must be {accepted}, got dtype {given.dtype} and shape {given.shape}"
            )
        if given.min() < 0 or given.max() >= self._num_actions:
            copy = int(np.argmax((given < 0) | (given >= self._num_actions)))
            raise ValueError(f"`actions` must be {accepted}, got {given[copy]} for copy {copy}")
        return given.astype(np.int64, copy=False)
