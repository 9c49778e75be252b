"""What soft learners of Stable-Baselines3 have in common.

Their temperature is fixed, their reward may change at any time, they go on exactly where they were,
and are saved whole.
"""

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from ..core.checks import (
    check_at_least,
    check_choice,
    check_discount,
    check_positive,
    check_probability,
    optional,
)
from ..core.files import write_whole
from ..envs.base import BilevelEnv
from .replay import RelabellingReplayBuffer, RewardFn, refuse_n_steps, refuse_normalization

__all__ = ["SoftLearner"]

# Folder of the replay buffer within the file.
BUFFER = "replay_buffer/"

Self = TypeVar("Self", bound="SoftLearner")


class SoftLearner(OffPolicyAlgorithm):
    """An off-policy algorithm whose reward r_x may change while it learns.

    Schedules of the learning rate and of exploration run over `schedule_steps` environment steps,
    however many calls of `learn` take them, and stay at their ends from then on. While it learns,
    the random numbers of Stable-Baselines3 come from generators of the learner's own: what happens
    between two calls, `predict` included, does not disturb it. So several calls with
    `reset_num_timesteps=False` are, bit by bit, the same as one (as long as each takes a multiple
    of `train_freq` steps of all environments).

    `save` writes all of this into one file: networks, optimisers, replay buffer, generators and the
    position in the schedules. It is exact between two calls of `learn`; callbacks in the middle of
    one run before the step under way is stored.
    """

    replay_buffer: RelabellingReplayBuffer | None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        *,
        temperature: float | None,
        learning_rate: float | Schedule,
        tau: float,
        own: dict[str, Any],
        gamma: float | None = None,
        reward_fn: RewardFn | None = None,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        schedule_steps: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        """Initialise what soft learners share.

        Args:
            policy: "MlpPolicy", or "CnnPolicy" for images; `Discrete` observations are one-hot.
            env: The environment, its id, or a vector environment of Stable-Baselines3.
            temperature: Weight of the policy's entropy, positive, fixed; None for the game's.
            learning_rate: Learning rate, or a schedule of Stable-Baselines3, a callable of the
                remaining progress.
            tau: Share of the critics that their targets take over at each update, in (0, 1].
            own: Arguments of the subclass's own, for Stable-Baselines3.
            gamma: Discount, in [0, 1); None for the game's.
            reward_fn: r_x, see the attribute; None for the environment's own reward.
            buffer_size: Transitions that the replay buffer holds.
            learning_starts: Steps with uniform actions before the first update.
            batch_size: Transitions of an update.
            replay_buffer_kwargs: Options of the buffer; `handle_timeout_termination=False` for
                episodes that end at a time limit for good.
            optimize_memory_usage: Whether the buffer holds each observation once; then timeouts are
                not told apart.
            n_steps: 1; more is refused.
            schedule_steps: Environment steps that schedules run over; None for those of the `learn`
                under way.
            stats_window_size: Episodes that reported means of episodes are taken over.
            tensorboard_log: Folder for TensorBoard, None for no such log.
            policy_kwargs: Arguments of the policy, `net_arch` and `n_critics` among them.
            verbose: 0 for silence, 1 for tables, 2 for debugging.
            seed: Seed of everything random.
            device: Where the networks are.
            _init_setup_model: Whether to build all this at once; `load` does it later.

        Raises:
            ValueError: If an option is unknown or out of range, `temperature` or `gamma` is missing
                and the environment is not the follower's seat of a game, or observations are
                normalised on the way.
        """
        if isinstance(policy, str):
            check_choice("policy", policy, self.policy_aliases)
        refuse_n_steps(n_steps)
        check_positive("tau", check_probability("tau", tau))
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            replay_buffer_class=RelabellingReplayBuffer,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            **{**own, "_init_setup_model": False},
        )
        self.policy_kwargs = dict(self.policy_kwargs)
        self.schedule_steps = schedule_steps
        self._relabels = False  # as in the buffer, which may be left out of a file
        self._generators: _Generators | None = None
        if not _init_setup_model:  # `load` fills in the rest
            return
        self.temperature = check_positive("temperature", self._of_game("temperature", temperature))
        self.gamma = check_discount("gamma", self._of_game("gamma", gamma))
        optional(check_at_least, "schedule_steps", schedule_steps, 1)
        if not callable(learning_rate):
            check_positive("learning_rate", learning_rate)
        check_at_least("buffer_size", buffer_size, 1)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("learning_starts", learning_starts, 0)
        self._setup_model()
        self.reward_fn = reward_fn

    @property
    def reward_fn(self) -> RewardFn | None:
        """The follower's reward r_x, None for the environment's own.

        A function of observations `[B, ...]` and actions `[B, ...]`, arrays in the shapes and units
        of the environment's spaces (numbers `[B]` for `Discrete`), that returns `[B]` numbers. It
        is evaluated on every batch that is sampled; set another one whenever x moves. It is not
        saved.
        """
        assert self.replay_buffer is not None
        return self.replay_buffer.reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn: RewardFn | None) -> None:
        assert self.replay_buffer is not None
        self.replay_buffer.reward_fn = reward_fn
        self._relabels = reward_fn is not None

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn; the arguments are those of `learn` in Stable-Baselines3.

        Where `reset_num_timesteps` counts steps and begins schedules anew, networks, buffer and
        generators go on all the same.

        Raises:
            RuntimeError: If it was loaded and `reward_fn` has not been set again.
        """
        check_at_least("total_timesteps", total_timesteps, 1)
        assert self.replay_buffer is not None and self._generators is not None
        self.replay_buffer.check_paid()
        name = tb_log_name or type(self).__name__
        options = reset_num_timesteps, progress_bar
        begun = 0 if reset_num_timesteps else self.num_timesteps
        self._update_current_progress_remaining(begun, begun + total_timesteps)
        with self._generators.in_use():
            return super().learn(total_timesteps, callback, log_interval, name, *options)  # type: ignore[arg-type]

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the learner's generators, the global ones, the action space and the environment.

        None seeds the learner's generators alone, by entropy of the system.
        """
        super().set_random_seed(seed)
        self._generators = _Generators(seed)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the learner whole, without `reward_fn` and the environment.

        ".zip" is added to a path without an extension. With "replay_buffer" in `exclude` the file
        is small; a learner from it can predict, and learn from new steps alone.
        """
        exclude = set(exclude or ())

        def write(target: Any) -> None:
            super(SoftLearner, self).save(target, exclude, include)
            if self.replay_buffer is not None and "replay_buffer" not in exclude:
                with zipfile.ZipFile(target, "a") as archive:
                    for name, array in self.replay_buffer.state_dict().items():
                        with archive.open(f"{BUFFER}{name}.npy", "w", force_zip64=True) as member:
                            np.save(member, array)

        write_whole(path, ".zip", write)

    @classmethod
    def load(
        cls: type[Self],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        reward_fn: RewardFn | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a learner, which goes on as if it had never been interrupted.

        The environment's state is not saved. By default a new episode begins, seeded from the
        learner's own generators if it has a seed. With `force_reset=False` the episode goes on that
        was under way: exactly, if `env` is in the state that it was in, a copy for example. A
        learner that had a `reward_fn`, r_x, needs one in order to go on. The other arguments are
        those of `load` in Stable-Baselines3.

        Raises:
            ValueError: If the file is none of Stable-Baselines3, or the environment does not fit.
        """
        model = super().load(
            path, env, device, custom_objects, print_system_info, force_reset, **kwargs
        )
        assert model.replay_buffer is not None and model._generators is not None
        model.replay_buffer.relabels = model._relabels
        file: Any = open_path(path, "r", suffix="zip")
        with zipfile.ZipFile(file) as archive:
            arrays = {
                pathlib.PurePath(name).stem: np.load(archive.open(name))
                for name in archive.namelist()
                if name.startswith(BUFFER)
            }
        if isinstance(path, str | pathlib.Path):
            file.close()
        if arrays:
            model.replay_buffer.load_state_dict(arrays)
        if reward_fn is not None:
            model.reward_fn = reward_fn
        if model.env is not None and force_reset and model.seed is not None:
            with model._generators.in_use():
                model.env.seed(int(np.random.randint(2**31)))
        return model

    def _setup_model(self) -> None:
        if self._vec_normalize_env is not None:
            refuse_normalization(self._vec_normalize_env)
        # The environment's space may be sampled by others; what explores is this learner's.
        self.action_space = deepcopy(self.action_space)
        # A learner that has been loaded has its generators, and goes on with them.
        seed, loaded = self.seed, self._generators
        self.seed = None if loaded else seed
        super()._setup_model()
        self.seed, self._generators = seed, loaded or self._generators

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        steps = self.schedule_steps or total_timesteps
        self._current_progress_remaining = max(0.0, 1.0 - num_timesteps / steps)

    def _of_game(self, name: str, value: float | None) -> float:
        """Return an option, or its value in the game whose follower's seat the environment is."""
        if value is not None:
            return value
        assert self.env is not None
        game = self.env.get_attr("game")[0] if self.env.has_attr("game") else None
        if not isinstance(game, BilevelEnv) or game.lower_space != self.action_space:
            raise ValueError(
                f"`{name}` must be given where the environment is not the follower's seat of a "
                f"bilevel game, got {value!r}"
            )
        return float(getattr(game, name))


class _Generators:
    """Generators of NumPy and torch in place of the global ones, which Stable-Baselines3 uses."""

    def __init__(self, seed: int | None) -> None:
        """Seed them; None for entropy of the system."""
        numpys, torchs = np.random.SeedSequence(seed).spawn(2)
        number = int(torchs.generate_state(1, np.uint64)[0] >> np.uint64(1))
        self._states: dict[str, Any] = {
            "numpy": np.random.RandomState(np.random.MT19937(numpys)).get_state(),
            "torch": th.Generator().manual_seed(number).get_state().numpy(),
        }
        if th.cuda.is_available():
            self._states["cuda"] = th.Generator("cuda").manual_seed(number).get_state().numpy()
        self._active = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put them in place of the global ones within the context."""
        if self._active:
            yield
            return
        others = _global_states()
        _set_global_states(self._states)
        self._active = True
        try:
            yield
        finally:
            self._states, self._active = _global_states(), False
            _set_global_states(others)

    def __getstate__(self) -> dict[str, Any]:
        """Return where the generators are now, also while they are in use."""
        states = _global_states() if self._active else self._states
        return {"_states": states, "_active": False}


def _global_states() -> dict[str, Any]:
    """Return the states of the global generators, as arrays."""
    states = {"numpy": np.random.get_state(), "torch": th.get_rng_state().numpy()}
    if th.cuda.is_available():
        states["cuda"] = th.cuda.get_rng_state().numpy()
    return states


def _set_global_states(states: dict[str, Any]) -> None:
    np.random.set_state(states["numpy"])
    th.set_rng_state(th.from_numpy(states["torch"].copy()))
    if "cuda" in states and th.cuda.is_available():
        th.cuda.set_rng_state(th.from_numpy(states["cuda"].copy()))
