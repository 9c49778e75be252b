"""Thousands of copies of the follower's seat, stepped together."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from ..core.checks import real_numbers
from ..core.mdp import FloatArray
from ..envs.ids import follower_id
from .copies import ANY, SeatCopies, game_for, reported
from .generators import generators
from .lower_level import LowerLevel
from .observations import state_arrays

__all__ = ["LowerLevelVectorEnv"]

# Uniform numbers drawn ahead for each copy, and for all copies together at most.
AHEAD, AHEAD_TOGETHER = 128, 2**22


class LowerLevelVectorEnv(SeatCopies):
    """Copies of a tabular game's follower's seat, all under one x, as arrays.

    What `SyncVectorEnv` makes of as many `LowerLevel(gym.make(id), x)`, number by number and many
    times faster: observations int64 `[N]` (float32 `[N, K]` where `observation` is not "state"),
    rewards float64 `[N]`, and infos with `upper_reward` `[N]`, 0 where a copy has just started,
    and, where actions vary, `action_mask` int8 `[N, A]`. Next to each stands its mask,
    `_upper_reward` for one: which copies report it, all of them unless a reset starts some only.

    Each copy has a generator of its own, seeded by `reset(seed=...)` with `seed` plus its number,
    and takes from it, in turn, one uniform number for each first state and each step.

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

    own_id = staticmethod(follower_id)

    def __init__(
        self,
        id: str | EnvSpec | gym.Env[Any, Any],
        num_envs: int,
        upper_params: ArrayLike | None = None,
        *,
        observation: str = "state",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        """Make the copies under `upper_params`, an x of the shape of the game's `upper_space`.

        None is the game's initial x. For `observation` see `LowerLevel`, for the other arguments
        `SeatCopies`.
        """
        game = game_for(type(self), id, kwargs)
        seat = LowerLevel(game, upper_params, observation=observation)
        super().__init__(seat, num_envs, autoreset_mode)
        self._shown = state_arrays(self.game, observation)
        self._limit = seat.limit
        self.upper_params = self._seat.upper_params
        self._transitions = self.game.transition_arrays(self.upper_params)
        self._num_actions = self.game.num_actions
        mask = self.game.action_mask
        self._action_mask = None if mask is None else mask.astype(np.int8)
        self._states = np.zeros(self.num_envs, dtype=np.int64)
        self._upper_rewards = np.zeros(self.num_envs)
        self._generators = [np.random.default_rng() for _ in range(self.num_envs)]
        ahead = min(max(AHEAD_TOGETHER // self.num_envs, 1), AHEAD)
        # Numbers of one step lie next to each other: copies are mostly as far as each other.
        self._uniforms = np.zeros((ahead, self.num_envs))
        self._used = np.full(self.num_envs, ahead)

    def _seed(self, seeds: list[int | None], mask: NDArray[np.bool_]) -> None:
        given = [copy for copy in np.flatnonzero(mask).tolist() if seeds[copy] is not None]
        fresh = generators([seed for copy in given if (seed := seeds[copy]) is not None])
        for copy, generator in zip(given, fresh, strict=True):
            self._generators[copy] = generator
        self._used[given] = len(self._uniforms)

    def _drawn(self, mask: NDArray[np.bool_]) -> FloatArray:
        """Return the next uniform number of each marked copy."""
        if mask.all() and (row := self._used.min()) == self._used.max() < len(self._uniforms):
            self._used += 1
            return self._uniforms[row]  # several times faster
        copies, used = np.flatnonzero(mask), self._used[mask]
        spent = copies[used == len(self._uniforms)]
        if len(spent):
            self._draw_ahead(spent)
            used = self._used[mask]
        self._used[mask] = used + 1
        return self._uniforms[used, copies]

    def _draw_ahead(self, copies: NDArray[np.int64]) -> None:
        """Draw the next block of some copies."""
        drawn = np.empty((len(copies), len(self._uniforms)))
        for row, copy in zip(drawn, copies.tolist(), strict=True):
            self._generators[copy].random(out=row)
        place = slice(None) if len(copies) == self.num_envs else copies  # several times faster
        self._uniforms[:, place] = drawn.T
        self._used[copies] = 0

    def _move(self, actions: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        moves = self._checked_actions(actions)
        uniforms = self._drawn(self._every)
        self._states, terminations, rewards, self._upper_rewards = self._transitions.sample(
            self._states, moves, uniforms
        )
        begun = self._over  # in next-step mode; these start again instead
        if begun.any():
            self._states[begun] = self.game.first_states(uniforms[begun])
            terminations[begun], rewards[begun], self._upper_rewards[begun] = False, 0.0, 0.0
        return rewards, terminations

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the states of the copies, bool `[N, A]`."""
        if self._action_mask is None or not self._started:
            return np.ones((self.num_envs, self._num_actions), dtype=bool)
        return self._action_mask[self._states].astype(bool)

    def _begin(self, mask: NDArray[np.bool_], options: dict[str, Any]) -> None:
        self._states[mask] = self.game.first_states(self._drawn(mask))
        # A new array: the one before has been handed out.
        self._upper_rewards = np.where(mask, 0.0, self._upper_rewards)

    def _observations(self) -> NDArray[Any]:
        return self._states.copy() if self._shown is None else self._shown(self._states)

    def _infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        infos = reported("upper_reward", self._upper_rewards, mask)
        if self._action_mask is not None:
            infos |= reported("action_mask", self._action_mask[self._states], mask)
        return infos

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
