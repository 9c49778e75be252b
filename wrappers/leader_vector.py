"""Many copies of the leader's seat, answered together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_reset_options, real_numbers, received
from ..core.mdp import FloatArray
from ..envs.ids import leader_id
from ..model.responses import ExactResponse
from .copies import ANY, SeatCopies, game_for, reported
from .hyper_gradient import OUTER_STEPS, RESET_OPTIONS, HyperGradient, checked_keep
from .seats import NotThere

__all__ = ["LeaderVectorEnv"]


class LeaderVectorEnv(SeatCopies):
    """Copies of a tabular game's leader's seat, each at an x of its own, as arrays.

    What `SyncVectorEnv` makes of as many `HyperGradient(gym.make(id), outer_steps=...)` (method
    "exact"), with one game for all copies, whose `evaluate_batch` answers them together: actions
    are x `[N, ...]`, rewards F(x) float64 `[N]`, and infos those of `HyperGradient` stacked, with
    `hyper_gradient` float64 `[N, ...]`. Each copy keeps the warm start of its own last answer until
    it is reset. Nothing is random here, so seeds change nothing.

    Attributes:
        outer_steps: Steps of the leader's episode.

    Example:
        >>> import bilevel_gym, numpy as np
        >>> envs = bilevel_gym.LeaderVectorEnv("BilevelGridWorld-v0", 16)
        >>> observations, infos = envs.reset(seed=0)
        >>> x = np.random.default_rng(0).uniform(-1.0, 1.0, (16, 52))
        >>> observations, rewards, terminations, truncations, infos = envs.step(x)
        >>> observations.shape, rewards.shape, infos["hyper_gradient"].shape
        ((16, 52), (16,), (16, 52))
    """

    _reset_options = (*RESET_OPTIONS, "reset_mask")

    own_id = staticmethod(leader_id)

    def __init__(
        self,
        id: str | EnvSpec | gym.Env[Any, Any],
        num_envs: int,
        *,
        outer_steps: int = OUTER_STEPS,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        """Make the copies, in episodes of `outer_steps` steps of the leader, at least 1.

        `solver` is that of `TabularModel.respond_batch`, `tolerance` and `max_iterations`, Newton
        steps allowed for one answer, are those of `TabularModel.respond`; for the other arguments
        see `SeatCopies`.

        Raises:
            ImportError: If the solver needs compiled kernels that are not to be had.
            TypeError: If another method is asked for.
        """
        method = kwargs.pop("method", "exact")
        if method not in (None, "exact"):
            raise TypeError(
                f"`LeaderVectorEnv` answers by the method 'exact' alone, got {received(method)}; "
                'gymnasium.make_vec(id, num_envs, vectorization_mode="sync", method=...) takes any'
            )
        game = game_for(type(self), id, kwargs)
        self._options = {"solver": solver, "tolerance": tolerance, "max_iterations": max_iterations}
        defaults = {"solver": "auto", "tolerance": None, "max_iterations": 200}
        options: dict[str, Any] = {k: v for k, v in self._options.items() if v != defaults[k]}
        super().__init__(
            HyperGradient(game, outer_steps=outer_steps, **options), num_envs, autoreset_mode
        )
        self.outer_steps = self._limit = int(outer_steps)
        self._responses = np.full(self.num_envs, None, dtype=object)

    @property
    def responses(self) -> list[ExactResponse]:
        """The follower's last answers, one for each copy.

        Raises:
            ResetNeeded: Before the first `reset`.
        """
        if not self._started:
            raise NotThere("the copies have no answers yet; call `reset` first")
        return list(self._responses)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode of every copy, or of some.

        Args:
            seed: As of other vectors; nothing here draws numbers. None with `keep_learnt`.
            options: `{"upper_params": x}` starts at x instead of the game's initial one, with one x
                for all copies, or one for each, `[N, ...]`. `{"reset_mask": mask}` starts the
                marked copies only. `{"keep_learnt": True}` keeps the warm start of each copy.

        Raises:
            ResetNeeded: If `keep_learnt` is given before the first reset of all copies.
        """
        options = check_reset_options(options, self._reset_options)
        checked_keep(options, seed, self._started)
        return super().reset(seed=seed, options=options)

    def _begin(self, mask: NDArray[np.bool_], options: dict[str, Any]) -> None:
        kept = options.get("keep_learnt", False)
        start = options.get("upper_params", self.game.initial_upper_params)
        if (
            real_numbers("upper_params", start, kinds=ANY).ndim
            == len(self.game.upper_space.shape) + 1
        ):
            xs = self._checked_rows("upper_params", start, mask)
        else:
            # One answer does for copies that start at the same x, unless they are warm.
            xs = [self.game.validate_upper_params(start)] * (int(mask.sum()) if kept else 1)
        self._responses[mask] = self._answers(xs, self._responses[mask] if kept else None)

    def _move(self, actions: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        steps = ~self._over
        xs = self._checked_rows("actions", actions, steps)
        self._responses[steps] = self._answers(xs, self._responses[steps])
        if self._over.any():
            self._begin(self._over, {})
        rewards = np.where(steps, [response.objective for response in self._responses], 0.0)
        return rewards, np.zeros(self.num_envs, dtype=bool)

    def _answers(
        self, xs: Sequence[ArrayLike], warm_starts: NDArray[Any] | None = None
    ) -> list[ExactResponse]:
        starts = None if warm_starts is None else warm_starts.tolist()
        return self.game.evaluate_batch(xs, warm_starts=starts, **self._options)

    def _observations(self) -> Any:
        space = self.single_observation_space
        observed = [self.game.observe(response) for response in self._responses]
        out: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, observed, out)

    def _infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for key, name in ExactResponse.reported.items():
            values = [getattr(response, name) for response in self._responses]
            if values[0] is not None:
                infos |= reported(key, np.array(values), mask)
        return infos

    def _checked_rows(
        self, name: str, values: ArrayLike, mask: NDArray[np.bool_]
    ) -> list[FloatArray]:
        """Return the x of the marked copies, after checking them."""
        accepted = f"shape {(self.num_envs, *self.game.upper_space.shape)}"
        try:
            given = real_numbers(name, values, kinds=ANY)
        except ValueError as error:
            raise ValueError(f"`{name}` must have {accepted}: {error}") from None
        if given.shape != (self.num_envs, *self.game.upper_space.shape):
            raise ValueError(f"`{name}` must have {accepted}, got shape {given.shape}")
        rows = []
        for copy in np.flatnonzero(mask).tolist():
            try:
                rows.append(self.game.validate_upper_params(given[copy]))
            except ValueError as error:
                raise ValueError(f"copy {copy}: {error}") from None
        return rows
