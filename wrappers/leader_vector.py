"""Many copies of the leader's seat, answered together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_choice
from ..core.mdp import FloatArray
from ..model.responses import ExactResponse
from .copies import SeatCopies, reported
from .hyper_gradient import NOTHING_LEARNT, RESET_OPTIONS, HyperGradient, checked_keep

__all__ = ["LeaderVectorEnv"]


class LeaderVectorEnv(SeatCopies):
    """Copies of a tabular game's leader's seat, each at an x of its own, as arrays.

    What `SyncVectorEnv` makes of as many `HyperGradient(gym.make(id), outer_steps=...)` (method
    "exact"), with one game for all copies, whose `evaluate_batch` answers them together: actions
    are x `[N, ...]`, rewards F(x) float64 `[N]`, and infos those of `HyperGradient` stacked, with
    `hyper_gradient` float64 `[N, ...]`. Each copy keeps the warm start of its own last answer until
    it is reset. Nothing is random here, so seeds change nothing.

    Attributes:
        game: The game.
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

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        outer_steps: int = 100,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        """Make the copies; `SeatCopies` has what is not said here.

        Args:
            id: Gymnasium id of a tabular game.
            num_envs: Number of copies N.
            outer_steps: Steps of the leader's episode, at least 1.
            solver: See `TabularModel.respond_batch`.
            tolerance: See `TabularModel.respond`.
            max_iterations: Newton steps allowed for one answer.
            autoreset_mode: When ended copies start again.
            **kwargs: Arguments of `gymnasium.make`.

        Raises:
            ImportError: If the solver needs compiled kernels that are not to be had.
            TypeError: If another method is asked for.
        """
        if "method" in kwargs:
            raise TypeError(
                f"`LeaderVectorEnv` answers by the method 'exact' alone, got {kwargs['method']!r}; "
                "gymnasium.vector.SyncVectorEnv takes seats of any method"
            )
        options: dict[str, Any] = {
            "solver": solver,
            "tolerance": tolerance,
            "max_iterations": max_iterations,
        }
        env, mode = self._tabular(id, num_envs, autoreset_mode, **kwargs)
        seat = HyperGradient(env, outer_steps=outer_steps, **options)
        super().__init__(seat, num_envs, mode)
        self.outer_steps, self._options = seat.outer_steps, options
        self._responses: list[ExactResponse] = []

    @property
    def responses(self) -> list[ExactResponse]:
        """The follower's last answers, one for each copy.

        Raises:
            ResetNeeded: Before the first `reset`.
        """
        if not self._responses:
            raise ResetNeeded("the copies have no answers yet; call `reset` first")
        return list(self._responses)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode of every copy, or of some.

        Args:
            seed: Seed of `np_random`, which nothing here draws from; none with `keep_learnt`.
            options: `{"upper_params": x}` starts at x instead of the game's initial one, with one x
                for all copies, or one for each, `[N, ...]`. `{"reset_mask": mask}` starts the
                marked copies only. `{"keep_learnt": True}` keeps the warm start of each copy.

        Returns:
            The observations of all copies, and the infos of those that start.

        Raises:
            ResetNeeded: If `keep_learnt` is given before the first reset of all copies.
        """
        options = options or {}
        accepted = (*RESET_OPTIONS, "reset_mask")
        for option in options:
            check_choice("reset option", option, accepted)
        kept = checked_keep(options, seed)
        if kept and not self._responses:
            raise ResetNeeded(NOTHING_LEARNT)
        mask = self._reset_mask(options)
        start = options.get("upper_params", self.game.initial_upper_params)
        marked = np.flatnonzero(mask).tolist()
        if _ndim(start) == len(self.game.upper_space.shape) + 1:
            xs, shared = self._checked_rows("upper_params", start, mask), False
        else:
            xs, shared = [self.game.validate_upper_params(start)] * len(marked), True
        if kept:
            answers = self._answers(xs, [self._responses[copy] for copy in marked])
        elif shared:
            answers = self._answers(xs[:1]) * len(marked)
        else:
            answers = self._answers(xs)
        super().reset(seed=seed)
        self._responses = _replaced(self._responses or answers, mask, answers)
        self._elapsed[mask], self._over[mask], self._started = 0, False, True
        return self._observations(), self._infos(self._responses, mask)

    def step(
        self, actions: ArrayLike
    ) -> tuple[Any, FloatArray, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Choose an x for each copy and let the follower answer all of them.

        Args:
            actions: x for each copy, `[N, ...]`; those of copies that only start again are ignored.

        Returns:
            Observations, rewards `[N]`, terminations `[N]` (all False), truncations `[N]`, infos.
        """
        self._check_under_way()
        begins, steps = self._over, ~self._over
        answers = self._answers(
            self._checked_rows("actions", actions, steps),
            [self._responses[copy] for copy in np.flatnonzero(steps).tolist()],
        )
        responses = _replaced(self._responses, steps, answers)
        elapsed = np.where(steps, self._elapsed + 1, 0)
        truncations = elapsed >= self.outer_steps
        rewards = np.where(steps, [response.objective for response in responses], 0.0)
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP and truncations.any():
            seen = [self.game.observe(response) for response in responses]
            infos = self._final(seen, truncations, self._infos(responses, truncations))
            begins = truncations
            elapsed[begins] = 0
        if begins.any():
            first = self._answers([self.game.initial_upper_params])
            responses = _replaced(responses, begins, first * int(begins.sum()))
        self._responses, self._elapsed = responses, elapsed
        if self._mode is not AutoresetMode.SAME_STEP:
            self._over = truncations.copy()
        infos.update(self._infos(responses, np.ones(self.num_envs, dtype=bool)))
        terminations = np.zeros(self.num_envs, dtype=bool)
        return self._observations(), rewards, terminations, truncations, infos

    def _answers(
        self, xs: Sequence[ArrayLike], warm_starts: Sequence[ExactResponse] | None = None
    ) -> list[ExactResponse]:
        return self.game.evaluate_batch(xs, warm_starts=warm_starts, **self._options)

    def _observations(self) -> Any:
        space = self.single_observation_space
        observed = [self.game.observe(response) for response in self._responses]
        out: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, observed, out)

    def _infos(self, responses: Sequence[ExactResponse], mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Return what marked copies report, with zeros for the others, as Gymnasium arranges it."""
        infos: dict[str, Any] = {}
        for key, name in ExactResponse.reported.items():
            values = [getattr(response, name) for response in responses]
            if values[0] is None:
                continue
            infos |= reported(key, np.array(values), mask)
        return infos

    def _checked_rows(
        self, name: str, values: ArrayLike, mask: NDArray[np.bool_]
    ) -> list[FloatArray]:
        """Return the x of the marked copies, after checking them."""
        accepted = f"shape {(self.num_envs, *self.game.upper_space.shape)}"
        try:
            given = np.asarray(values)
        except ValueError:
            raise ValueError(
                f"`{name}` must have {accepted}, got rows of different lengths"
            ) from None
        if given.shape != (self.num_envs, *self.game.upper_space.shape):
            raise ValueError(f"`{name}` must have {accepted}, got shape {given.shape}")
        rows = []
        for copy in np.flatnonzero(mask).tolist():
            try:
                rows.append(self.game.validate_upper_params(given[copy]))
            except ValueError as error:
                raise ValueError(f"copy {copy}: {error}") from None
        return rows


def _replaced(
    responses: Sequence[ExactResponse],
    mask: NDArray[np.bool_],
    answers: Sequence[ExactResponse],
) -> list[ExactResponse]:
    """Return the responses with the marked ones replaced, in order."""
    replaced = list(responses)
    for copy, answer in zip(np.flatnonzero(mask).tolist(), answers, strict=True):
        replaced[copy] = answer
    return replaced


def _ndim(values: ArrayLike) -> int:
    try:
        return np.ndim(values)
    except ValueError:  # rows of different lengths, to be refused as an x
        return 0
