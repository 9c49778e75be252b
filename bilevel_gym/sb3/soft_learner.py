"""What soft learners of Stable-Baselines3 have in common.

Their temperature is fixed, their reward may change at any time, they go on exactly where they were,
and are saved whole.
"""

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from ..core.checks import (
    check_at_least,
    check_choice,
    check_discount,
    check_positive,
    check_probability,
    optional,
    received,
)
from ..core.files import write_whole
from ..core.plain import read_arrays, readable, write_arrays
from ..envs.base import BilevelEnv
from .archive import Archived, allow, opened
from .flat import hooked
from .replay import RelabellingReplayBuffer, RewardFn, refuse_n_steps, refuse_normalization
from .updates import FlatPolicy, features_of

__all__ = ["SoftLearner"]

# Folder of the replay buffer within the file.
BUFFER = "replay_buffer/"

Self = TypeVar("Self", bound="SoftLearner")


LARGEST_BUFFER, LARGEST_LAYER = 10**9, 2**16  # more than machines hold


class SoftLearner(Archived, OffPolicyAlgorithm):
    """An off-policy algorithm whose reward r_x may change while it learns.

    Schedules of the learning rate and of exploration run over `schedule_steps` environment steps,
    however many calls of `learn` take them, and stay at their ends from then on. While it learns,
    the random numbers of Stable-Baselines3 come from generators of the learner's own: what happens
    between two calls, `predict` included, does not disturb it. So several calls with
    `reset_num_timesteps=False` are, bit by bit, the same as one (as long as each takes a multiple
    of `train_freq` steps of all environments).

    `save` writes all of this into one file, but for `reward_fn` and the environment: networks,
    optimisers, replay buffer, generators and the position in the schedules. With "replay_buffer" in
    its `exclude` the file is small; a learner from it can predict, and learn from new steps alone.
    It is exact between two calls of `learn`; callbacks in the middle of
    one run before the step under way is stored.
    """

    # Classes of policies and networks that compute what updates on flat memory do.
    plain: ClassVar[frozenset[type]]

    # What makes the updates of such a policy, and which of its networks chooses actions.
    flat: ClassVar[type[FlatPolicy]]
    acting: ClassVar[str]

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
                episodes that end at a time limit for good, `num_terms` for rewards that read terms.
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
        optional(check_at_least, "seed", seed, 0, 2**32 - 1)  # what Stable-Baselines3 takes
        if not isinstance(policy_kwargs, dict | None) or not all(
            isinstance(name, str) for name in policy_kwargs or {}
        ):
            given = received(policy_kwargs)
            raise TypeError(f"`policy_kwargs` must be a dict of arguments by name, got {given}")
        layers = (policy_kwargs or {}).get("net_arch")
        if isinstance(layers, list):
            for units in layers:
                check_at_least("net_arch", units, 1, LARGEST_LAYER)
        # (Sparse arrays of scipy are dicts, too.)
        elif layers is not None and not (type(layers) is dict and {"pi", "qf"} <= {*layers}):
            raise TypeError(
                '`net_arch` must be a list of units, or a dict of one for "pi" and one for "qf", '
                f"got {received(layers)}"
            )
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
        self._flat: Any = None
        if not _init_setup_model:  # `load` fills in the rest
            return
        self.temperature = check_positive("temperature", self._of_game("temperature", temperature))
        self.gamma = check_discount("gamma", self._of_game("gamma", gamma))
        optional(check_at_least, "schedule_steps", schedule_steps, 1)
        if not callable(learning_rate):
            check_positive("learning_rate", learning_rate)
        check_at_least("buffer_size", buffer_size, 1, LARGEST_BUFFER)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("learning_starts", learning_starts, 0)
        self._setup_model()
        self.reward_fn = reward_fn

    @property
    def reward_fn(self) -> RewardFn | None:
        """The follower's reward r_x, None for the environment's own.

        A function of observations `[B, ...]` and actions `[B, ...]`, arrays in the shapes and units
        of the environment's spaces (numbers `[B]` for `Discrete`), that returns `[B]` numbers. With
        `replay_buffer_kwargs={"num_terms": K}` it also takes `terms` `[B, K]`, what the environment
        has reported of each step as `info["terms"]`. It
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
        # From the first step on, so that a learner that was loaded acts by the same arithmetic.
        self._flat_networks()
        with self._generators.in_use():
            return super().learn(total_timesteps, callback, log_interval, name, *options)  # type: ignore[arg-type]

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the learner's generators, the global ones, the action space and the environment.

        None seeds the learner's generators alone, by entropy of the system.
        """
        super().set_random_seed(seed)
        self._generators = _Generators(seed)

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
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a learner, which goes on as if it had never been interrupted.

        The environment's state is not saved. By default a new episode begins, seeded from the
        learner's own generators if it has a seed. With `force_reset=False` the episode goes on that
        was under way: exactly, if `env` is in the state that it was in, a copy for example. A
        learner that had a `reward_fn`, r_x, needs one in order to go on. The other arguments are
        those of `load` in Stable-Baselines3.

        Nothing in the file is run. Files of Stable-Baselines3 itself and of earlier versions, and
        attributes that `save` had to pickle, contain code: `custom_objects={name: value}` replaces
        an attribute of that name, and `trust=True` runs what the file says. Trust only files whose
        writer you trust.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged or none of `save`, contains code and is not trusted,
                or the environment does not fit.
        """
        options = custom_objects, print_system_info, force_reset
        model = super().load(path, env, device, *options, trust=trust, **kwargs)
        if reward_fn is not None:
            model.reward_fn = reward_fn
        if model.env is not None and force_reset and model.seed is not None:
            assert model._generators is not None
            with model._generators.in_use():
                model.env.seed(int(np.random.randint(2**31)))
        return model

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save the replay buffer alone, as arrays in an archive.

        ".pkl" is added to a path without an extension, as in Stable-Baselines3.
        """
        buffer = self.replay_buffer
        assert buffer is not None
        flags = "buffer_size", "n_envs", "optimize_memory_usage", "handle_timeout_termination"
        made = {name: np.asarray(getattr(buffer, name)) for name in (*flags, "num_terms")}

        def write(target: Any) -> None:
            with zipfile.ZipFile(target, "w") as archive:
                write_arrays(archive, BUFFER, {**made, **buffer.state_dict()})

        write_whole(path, ".pkl", write)

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
        *,
        trust: bool = False,
    ) -> None:
        """Replace the replay buffer by one of `save_replay_buffer`.

        Files of Stable-Baselines3 itself and of earlier versions are pickles, which can run code;
        `trust` is whether they may. The other arguments are those of Stable-Baselines3.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged or does not fit, or is a pickle and not trusted.
        """
        name = str(path) if isinstance(path, str | pathlib.Path) else "the file"
        with opened(path, "pkl") as file:
            begun = file.tell()
            if not zipfile.is_zipfile(file):
                if not trust:
                    raise ValueError(
                        f"{name} is no archive of `save_replay_buffer`, but perhaps a pickle, "
                        "which can run code; pass `trust=True` if you trust whoever wrote it"
                    )
                file.seek(begun)
                super().load_replay_buffer(file, truncate_last_traj)
                return
            with readable(name), zipfile.ZipFile(file) as archive:
                arrays = read_arrays(archive, BUFFER)
                size, copies = int(arrays["buffer_size"]), int(arrays["n_envs"])
                buffer = RelabellingReplayBuffer(
                    size * copies,
                    self.observation_space,
                    self.action_space,
                    self.device,
                    copies,
                    optimize_memory_usage=bool(arrays["optimize_memory_usage"]),
                    handle_timeout_termination=bool(arrays["handle_timeout_termination"]),
                    num_terms=int(arrays.get("num_terms", 0)),  # none in earlier versions
                )
        buffer.load_state_dict(arrays)
        self.replay_buffer = buffer

    def _write(self, archive: zipfile.ZipFile, exclude: set[str]) -> None:
        if self.replay_buffer is not None and "replay_buffer" not in exclude:
            write_arrays(archive, BUFFER, self.replay_buffer.state_dict())

    def _read(self, archive: zipfile.ZipFile) -> None:
        assert self.replay_buffer is not None
        if not isinstance(self._generators, _Generators):
            raise ValueError(f"no generators are saved, but {type(self._generators).__name__}")
        self._generators.check()
        self.replay_buffer.relabels = self._relabels
        arrays = read_arrays(archive, BUFFER)
        if arrays:
            self.replay_buffer.load_state_dict(arrays)
        if self.num_timesteps:  # it acts as the one that was saved does since it began to learn
            self._flat_networks()

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return actions; arguments are those of `predict` in Stable-Baselines3."""
        flat, shape = self._flat, self.observation_space.shape
        if flat is not None and isinstance(observation, np.ndarray) and self._acts_by(flat):
            one = observation.shape == shape
            if one or observation.shape[1:] == shape:
                batch = observation[None] if one else observation
                extractor = getattr(self.policy, self.acting).features_extractor
                features = features_of(batch, self.observation_space, extractor)
                if features is not None:
                    actions = flat.act(features, deterministic=deterministic)
                    actions = actions.reshape(-1, *(self.action_space.shape or ()))
                    if isinstance(self.action_space, spaces.Box):
                        actions = self.policy.unscale_action(actions)
                    return (actions.squeeze(axis=0) if one else actions), state
        return BaseAlgorithm.predict(self, observation, state, episode_start, deterministic)

    def _flat_networks(self) -> Any:
        """Return the policy's networks on flat memory, None where they are not plain.

        That is decided anew each time: policy, networks, weights and optimizers may be replaced.
        """
        self._flat = self.flat.of(self.policy, self._flat) if self._is_plain else None
        return self._flat

    def _acts_by(self, flat: FlatPolicy) -> bool:
        """Return whether flat memory holds the policy as it is now."""
        if self._generators is not None and self._generators.active:
            return flat.bound  # between updates, each of which looks at everything
        return self._is_plain and flat.holds(self.policy)

    @property
    def _is_plain(self) -> bool:
        parts = (self.policy, *self.policy.children())
        return {type(part) for part in parts} <= self.plain and not any(map(hooked, parts))

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
                f"bilevel game, got {received(value)}"
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

    @property
    def active(self) -> bool:
        """Whether they are in place of the global ones."""
        return self._active

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

    def check(self) -> None:
        """Raise an error of any kind if the states are none."""
        others = _global_states()
        try:
            _set_global_states(self._states)
        finally:
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


allow(RelabellingReplayBuffer, _Generators)
