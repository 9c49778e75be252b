"""What the vector environments of both seats share: copies of one game that start and end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_at_least, check_choice, check_reset_options, received
from ..core.mdp import FloatArray
from ..envs.base import check_seed
from ..envs.tabular import TabularBilevelEnv
from .seats import PointsToGame, Seat, plain

__all__ = ["SeatCopies", "check_no_picture", "game_for", "reported"]


# Kinds of dtypes: where rows are checked one by one, or the shape and the kind together.
ANY = "biufcmMOSUVT"


class SeatCopies(PointsToGame, VectorEnv[Any, Any, NDArray[Any]]):
    """Copies of one seat of a tabular game, stepped together.

    Constructors take the Gymnasium `id` of a tabular task, either of its two, or the game itself;
    the number `num_envs` of copies N, at least 1; arguments of `gymnasium.make` with those of the
    game, where an id is given; and `autoreset_mode`, when ended copies start again: "NextStep" as
    Gymnasium's own vector environments, "SameStep" with the last observation in
    `infos["final_obs"]` and the last info in `infos["final_info"]`, or "Disabled", where
    `reset(options={"reset_mask": ended})` does it. An id that is not registered raises
    `gymnasium.error.Error`, a game that is not tabular `TypeError`, an argument out of range or a
    render mode `ValueError`. `gymnasium.make_vec(id, num_envs)` makes them, too.

    A mask, bool `[N]`, starts the marked copies only; another type raises `TypeError`, another
    shape or no mark `ValueError`, and a mask before the first reset of all copies `ResetNeeded`.
    So does `step` before it, and in "Disabled" mode where a copy has ended. Values out of range
    raise a `ValueError` that names the copy, and nothing changes.

    Attributes:
        game: The game, one for all copies.
    """

    game: TabularBilevelEnv
    _limit: float  # steps of an episode
    _reset_options: ClassVar[tuple[str, ...]] = ("reset_mask",)

    def __init__(
        self,
        seat: Seat[Any],
        num_envs: int,
        autoreset_mode: str | AutoresetMode,
    ) -> None:
        """Make copies of a seat."""
        check_at_least("num_envs", num_envs, 1)
        if not isinstance(autoreset_mode, AutoresetMode):
            check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
        mode = AutoresetMode(autoreset_mode)
        self._seat: Any = seat
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
        self._every = np.ones(self.num_envs, dtype=bool)
        if seat.spec is not None:
            copies = {"num_envs": self.num_envs, "vectorization_mode": "vector_entry_point"}
            options = {**seat.spec.kwargs, **copies}
            if mode is not AutoresetMode.NEXT_STEP:
                options["autoreset_mode"] = mode.value
            self.spec = replace(seat.spec, kwargs=options)

    @staticmethod
    @abstractmethod
    def own_id(env_id: str) -> str:
        """Return the id of the seat that is copied, from either of a task's ids."""

    @property
    def spec(self) -> EnvSpec | None:
        """What `gymnasium.make_vec` makes this of, with options of JSON types; None without id."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            # `gymnasium.make_vec` puts the limit among the options, too.
            options = plain(spec.kwargs)
            limit = options.pop("max_episode_steps", spec.max_episode_steps)
            spec = replace(spec, kwargs=options, max_episode_steps=limit)
        self._spec = spec

    _spec: EnvSpec | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode of every copy, or of some.

        Args:
            seed: Seeds of everything random that follows: one for each copy, or the first of N that
                follow each other, as `SyncVectorEnv` takes them.
            options: `{"reset_mask": mask}` starts the marked copies only.

        Returns:
            The observations of all copies `[N, ...]`, and the infos of those that start.
        """
        options = check_reset_options(options, self._reset_options)
        mask = self._reset_mask(options)
        seeds = self._checked_seeds(seed)
        self._seed(seeds, mask)
        self._begin(mask, options)
        self._elapsed[mask], self._over[mask], self._started = 0, False, True
        return self._observations(), self._infos(mask)

    def _checked_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None or isinstance(seed, int | np.integer):
            check_seed(seed)
            return [None if seed is None else int(seed) + copy for copy in range(self.num_envs)]
        if isinstance(seed, str) or not isinstance(seed, Sequence) or len(seed) != self.num_envs:
            raise gym.error.Error(
                f"`seed` must be an integer, None or {self.num_envs} of these, got {received(seed)}"
            )
        for one in seed:
            if not isinstance(one, int | np.integer | None):
                raise gym.error.Error(f"`seed` must be integers or None, got {received(one)}")
            check_seed(one)
        return list(seed)

    def _seed(self, seeds: list[int | None], mask: NDArray[np.bool_]) -> None:
        """Seed the marked copies, where anything is random; None leaves a copy's own numbers."""

    def step(
        self, actions: ArrayLike
    ) -> tuple[Any, FloatArray, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Make one step of each copy.

        Args:
            actions: One for each copy, `[N, ...]`; those of copies that only start again are
                ignored.

        Returns:
            Observations, rewards, terminations and truncations, `[N, ...]` each, and infos.
        """
        self._check_under_way()
        begun = self._over  # in next-step mode; these start again instead
        rewards, terminations = self._move(actions)
        self._elapsed = np.where(begun, 0, self._elapsed + 1)
        truncations = self._elapsed >= self._limit
        over = terminations | truncations
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP and over.any():
            infos = self._final(over)
            self._elapsed[over] = 0
            self._begin(over, {})
        else:
            self._over = over
        infos |= self._infos(self._every)
        return self._observations(), rewards, terminations, truncations, infos

    @abstractmethod
    def _move(self, actions: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Step the copies, or start those that are over; return rewards and terminations.

        Actions are checked first, so that nothing changes where they are refused.
        """

    @abstractmethod
    def _begin(self, mask: NDArray[np.bool_], options: dict[str, Any]) -> None:
        """Put the marked copies at the start of an episode, as the options of a reset say."""

    @abstractmethod
    def _observations(self) -> Any:
        """Return the observations of all copies."""

    @abstractmethod
    def _infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Return what the marked copies report."""

    def _reset_mask(self, options: dict[str, Any]) -> NDArray[np.bool_]:
        """Return which copies a reset starts; all, unless the option `reset_mask` is given."""
        mask = options.get("reset_mask", self._every)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"`reset_mask` must be a NumPy array of bool, got {received(mask)}")
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

    def _final(self, over: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the last observations and infos of ended copies, as Gymnasium arranges them."""
        observations = self._observations()
        if self.single_observation_space.shape == ():
            observations = observations.tolist()  # Python numbers, as a seat reports them
        seen = list(iterate(self.observation_space, observations))
        final_obs = np.full(self.num_envs, None, dtype=object)
        for copy in np.flatnonzero(over).tolist():
            final_obs[copy] = seen[copy]
        return {
            "final_obs": final_obs,
            "_final_obs": over.copy(),
            "final_info": self._infos(over),
            "_final_info": over.copy(),
        }


def reported(key: str, values: NDArray[Any], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return values `[N, ...]` under a key with the mask `[N]` of the copies that report them.

    The others have zeros.
    """
    if not mask.all():
        values = values.copy()
        values[~mask] = 0
    return {key: values, f"_{key}": mask.copy()}


def check_no_picture(copies: type[SeatCopies], options: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if there is a render mode among the options of copies."""
    if options.get("render_mode") is not None:
        raise ValueError(
            f"`{copies.__name__}` has no picture, got render_mode="
            f"{received(options['render_mode'])}; look at a seat, HyperGradient(gym.make(id)) or "
            "LowerLevel(gym.make(id), x)"
        )


def game_for(
    copies: type[SeatCopies], task: str | EnvSpec | gym.Env[Any, Any], kwargs: dict[str, Any]
) -> gym.Env[Any, Any]:
    """Return a tabular game, given by an id of its task with options, or itself.

    Raises:
        TypeError: If something else is given, or the game is not tabular.
        ValueError: If there is a render mode.
    """
    name = copies.__name__
    check_no_picture(copies, kwargs)
    if isinstance(task, str):
        own = copies.own_id(task)
        env = gym.make(own if own in gym.registry else task, **kwargs)
    elif isinstance(task, EnvSpec):
        env = gym.make(task, **kwargs)
    elif not isinstance(task, gym.Env):
        raise TypeError(f"`id` must be the id of a task or a game, got {received(task)}")
    elif kwargs:
        raise TypeError(f"a game that is made has its arguments, got {received([*kwargs])} for it")
    else:
        env = task
    if not isinstance(env.unwrapped, TabularBilevelEnv):
        raise TypeError(
            f"`{name}` needs a tabular game, got {type(env.unwrapped).__name__}; "
            "gymnasium.vector.SyncVectorEnv takes a seat of any game"
        )
    return env
