"""Thousands of copies of the follower's seat, stepped together."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_choice
from ..core.mdp import FloatArray
from .copies import SeatCopies, reported
from .lower_level import LowerLevel, time_limit

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
        game: The game.
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
        """Make the copies; `SeatCopies` has what is not said here.

        Args:
            id: Gymnasium id of a tabular game.
            num_envs: Number of copies N.
            upper_params: The leader's x, held fixed, shape of the game's `upper_space`.
            autoreset_mode: When ended copies start again.
            **kwargs: Arguments of `gymnasium.make`.
        """
        env, mode = self._tabular(id, num_envs, autoreset_mode, **kwargs)
        seat = LowerLevel(env, upper_params)
        super().__init__(seat, num_envs, mode)
        self.upper_params = seat.upper_params
        self._time_limit = time_limit(seat)
        self._transitions = self.game.transition_arrays(seat.upper_params)
        assert isinstance(seat.action_space, spaces.Discrete)
        self._num_actions = int(seat.action_space.n)
        mask = self.game.action_mask
        self._action_mask = None if mask is None else mask.astype(np.int8)
        self._states = np.zeros(self.num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Start an episode of every copy, or of some.

        Args:
            seed: Seed of everything random that follows, in all copies.
            options: `{"reset_mask": mask}` starts the marked copies only.

        Returns:
            The states of all copies `[N]`, and `action_mask` where actions vary.
        """
        options = options or {}
        for option in options:
            check_choice("reset option", option, ["reset_mask"])
        mask = self._reset_mask(options)
        super().reset(seed=seed)
        copies = np.flatnonzero(mask)
        self._begin(copies, self.np_random.random(copies.size))
        self._started = True
        return self._states.copy(), self._state_infos(mask)

    def step(
        self, actions: ArrayLike
    ) -> tuple[NDArray[np.int64], FloatArray, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Make one transition of each copy.

        Args:
            actions: Integers in 0..A-1, `[N]`; those of copies that only start again are ignored.

        Returns:
            States, rewards, terminations, truncations, `[N]` each, and infos.
        """
        moves = self._checked_actions(actions)
        self._check_under_way()
        uniforms = self.np_random.random(self.num_envs)
        states, terminations, rewards, upper_rewards = self._transitions.sample(
            self._states, moves, uniforms
        )
        stepped = ~self._over
        self._states = states
        self._elapsed = self._elapsed + 1
        if self._over.any():  # next-step mode: these start again instead
            begun = np.flatnonzero(self._over)
            self._begin(begun, uniforms[begun])
            terminations[begun] = False
            rewards[begun] = upper_rewards[begun] = 0.0
        truncations = self._elapsed >= self._time_limit
        over = terminations | truncations
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP and over.any():
            ended = np.flatnonzero(over)
            final_info = self._state_infos(over) | reported("upper_reward", upper_rewards, over)
            infos = self._final(self._states.tolist(), over, final_info)
            stepped = ~over
            upper_rewards = np.where(over, 0.0, upper_rewards)
            self._begin(ended, self.np_random.random(ended.size))
        else:
            self._over = over
        infos.update(self._state_infos(np.ones(self.num_envs, dtype=bool)))
        infos.update(reported("upper_reward", upper_rewards, stepped))
        return self._states.copy(), rewards, terminations, truncations, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the states of the copies, bool `[N, A]`."""
        if self._action_mask is None or not self._started:
            return np.ones((self.num_envs, self._num_actions), dtype=bool)
        return self._action_mask[self._states].astype(bool)

    def _begin(self, copies: NDArray[np.int64], uniforms: FloatArray) -> None:
        """Start an episode of some copies, in the first states that uniform numbers select."""
        self._states[copies] = self.game.first_states(uniforms)
        self._elapsed[copies] = 0
        self._over[copies] = False

    def _state_infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Return what the marked copies tell of their states."""
        if self._action_mask is None:
            return {}
        return reported("action_mask", self._action_mask[self._states], mask)

    def _checked_actions(self, actions: ArrayLike) -> NDArray[np.int64]:
        accepted = f"integers in 0..{self._num_actions - 1} of shape ({self.num_envs},)"
        try:
            given = np.asarray(actions)
        except ValueError:
            raise ValueError(
                f"`actions` must be {accepted}, got rows of different lengths"
            ) from None
        if given.dtype.kind not in "iu" or given.shape != (self.num_envs,):
            raise ValueError(
                f"`actions` must be {accepted}, got dtype {given.dtype} and shape {given.shape}"
            )
        if given.min() < 0 or given.max() >= self._num_actions:
            copy = int(np.argmax((given < 0) | (given >= self._num_actions)))
            raise ValueError(f"`actions` must be {accepted}, got {given[copy]} for copy {copy}")
        return given.astype(np.int64, copy=False)
