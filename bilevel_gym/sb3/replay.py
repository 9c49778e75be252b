"""A replay buffer whose rewards are computed when a batch is sampled, under the present x."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from ..core.checks import check_at_least, received
from ..episodes.recorded import as_argument

__all__ = ["RelabellingReplayBuffer", "RewardFn", "Transitions", "terms_in"]

# r_x of a batch: (observations, actions) -> rewards [B], and with `terms` [B, K] by name.
RewardFn = Callable[..., NDArray[Any]]


class Transitions(NamedTuple):
    """A batch of transitions, in the shapes and units of the environment.

    Attributes:
        observations: `[B, ...]`.
        actions: `[B, ...]`.
        next_observations: `[B, ...]`.
        rewards: The environment's own, `[B]`.
        dones: 1 where the episode terminated, 0 where a time limit cut it, `[B]`.
        terms: What the environment has said of each, `[B, K]`; None where nothing is kept.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    next_observations: NDArray[Any]
    rewards: NDArray[np.float32]
    dones: NDArray[np.float32]
    terms: NDArray[np.float32] | None = None


class RelabellingReplayBuffer(ReplayBuffer):
    """A replay buffer whose rewards are r_x(s, a) at the time of sampling.

    When the leader moves x, transitions stay valid and rewards do not: with a `reward_fn`, stored
    rewards are not used, so that all transitions are of use under the new x. Without one this is
    the buffer of Stable-Baselines3.

    A reward may also read what only the environment knows of a step: with `num_terms` the entry
    "terms" of each step's `info`, `[K]`, is stored with the transition.

    Attributes:
        num_terms: K, 0 where no terms are stored.
        terms: Those stored, `[slots, environments, K]`; None where none are.
        relabels: Whether rewards are evaluated when sampled. It is kept in a copy or a file;
            `reward_fn` is not, and must be set again there.
    """

    # In pickles of earlier versions, too.
    num_terms: int = 0
    terms: NDArray[np.float32] | None = None

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        num_terms: int = 0,
        **kwargs: Any,
    ) -> None:
        """Set up an empty buffer; other arguments are those of `ReplayBuffer`.

        Raises:
            ValueError: If n-step returns are asked for, or the number of terms is out of range.
            TypeError: If observations are dicts.
        """
        refuse_n_steps(kwargs.pop("n_steps", 1))
        if isinstance(observation_space, spaces.Dict):
            raise TypeError(
                "observations must be one array, got a Dict space; flatten it, for example with "
                "gymnasium.wrappers.FlattenObservation"
            )
        super().__init__(buffer_size, observation_space, action_space, *args, **kwargs)
        self.num_terms = check_at_least("num_terms", num_terms, 0)
        shape = self.buffer_size, self.n_envs, self.num_terms
        self.terms = np.zeros(shape, dtype=np.float32) if num_terms else None
        self.relabels = False
        self._reward_fn: RewardFn | None = None

    @property
    def reward_fn(self) -> RewardFn | None:
        """Return r_x of a batch, None for the rewards that are stored.

        It takes observations and actions `[B, ...]` in the shapes and units of the environment's
        spaces: numbers `[B]` for `Discrete`, and for a `Box` of actions those that the environment
        was given, not the scaled ones that are stored. With `num_terms` it also takes `terms`,
        `[B, K]`, by that name. It returns `[B]` numbers.
        """
        return self._reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn: RewardFn | None) -> None:
        if reward_fn is not None and not callable(reward_fn):
            raise TypeError(
                "`reward_fn` must be None or a function (observations [B, ...], actions [B, ...]) "
                f"-> rewards [B], got {reward_fn!r}"
            )
        self._reward_fn, self.relabels = reward_fn, reward_fn is not None

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a transition of each environment.

        Raises:
            ValueError: If an environment does not report so many terms.
        """
        if self.terms is not None:
            self.terms[self.pos] = terms_in(infos, self.num_terms)
        super().add(obs, next_obs, action, reward, done, infos)

    def rewards_of(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        terms: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """Return r_x of observations, actions and terms as they are stored, `[B]`.

        Raises:
            RuntimeError: If `reward_fn` has not been set again.
            ValueError: If it returns anything but `[B]` finite numbers.
        """
        self.check_paid()
        assert self._reward_fn is not None
        count = len(actions)
        observations, actions = self._as_seen(observations), self._as_taken(actions)
        rewards = np.asarray(self._reward_fn(observations, actions, **as_argument(terms)))
        if rewards.shape != (count,) or rewards.dtype.kind not in "fiu":
            raise ValueError(
                f"`reward_fn` must return {count} numbers, shape ({count},), got shape "
                f"{rewards.shape} of dtype {rewards.dtype}"
            )
        if not np.isfinite(rewards).all():
            at = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(
                f"`reward_fn` must return finite numbers, got {rewards[at]} for observation "
                f"{observations[at]} and action {actions[at]}"
            )
        return rewards.astype(np.float32)

    def _get_samples(
        self, batch_inds: NDArray[Any], env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        """Return a batch with rewards r_x."""
        if env is not None:
            refuse_normalization(env)
        if not self.relabels:
            return super()._get_samples(batch_inds)
        # The same draw as there.
        at = batch_inds, np.random.randint(0, self.n_envs, size=len(batch_inds))
        observations, actions = self.observations[at], self.actions[at]
        terms = None if self.terms is None else self.terms[at]
        parts = (
            observations,
            actions,
            self._following(at),
            self._for_good(at).reshape(-1, 1),
            self.rewards_of(observations, actions, terms).reshape(-1, 1),
        )
        return ReplayBufferSamples(*map(self.to_torch, parts))

    def extend(
        self,
        observations: NDArray[Any],
        next_observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[np.bool_],
        timeouts: NDArray[np.bool_],
        terms: NDArray[Any] | None = None,
    ) -> None:
        """Store B transitions, in the shapes and units of the environment.

        As many as there are environments go side by side; what is left over is not stored.

        Args:
            observations: `[B, ...]`.
            next_observations: `[B, ...]`.
            actions: `[B, ...]`.
            rewards: The environment's own, `[B]`.
            dones: Which of them end an episode, `[B]`.
            timeouts: Which of them end it because it was cut, `[B]`.
            terms: What the environment has said of each, `[B, K]`, where terms are stored.

        Raises:
            ValueError: If observations are held once, so that the next one must be stored after it,
                or terms are missing.
        """
        if self.optimize_memory_usage:
            raise ValueError(
                "episodes cannot be added to a replay buffer with `optimize_memory_usage`"
            )
        if (terms is None) != (self.terms is None):
            raise ValueError(
                f"`terms` must be given where they are stored, and only there: {self.num_terms} of "
                f"each step are, got {received(terms)}"
            )
        space = self.action_space
        if isinstance(space, spaces.Box):
            actions = 2.0 * (actions - space.low) / (space.high - space.low) - 1.0
        # More than there is room for would only be overwritten.
        rows = min(len(rewards) // self.n_envs, self.buffer_size)
        at = (self.pos + np.arange(rows)) % self.buffer_size
        for name, values in {
            "observations": observations,
            "next_observations": next_observations,
            "actions": actions,
            "rewards": rewards,
            "dones": dones,
            "timeouts": timeouts,
            **as_argument(terms),
        }.items():
            stored = getattr(self, name)
            stored[at] = values[: rows * self.n_envs].reshape(rows, *stored.shape[1:])
        self.full = self.full or self.pos + rows >= self.buffer_size
        self.pos = (self.pos + rows) % self.buffer_size

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw slots whose transitions are whole, `[count]`."""
        if self.full and self.optimize_memory_usage:
            # The latest transition's next observation has replaced the oldest one's observation.
            return (rng.integers(1, self.buffer_size, size=count) + self.pos) % self.buffer_size
        return rng.integers(self.size(), size=count)

    def latest(self, most: int, rng: np.random.Generator) -> Transitions:
        """Return the transitions that were stored last, at most so many, oldest first.

        Where there are several environments, that of each is drawn.
        """
        count = min(most, self.size() - int(self.full and self.optimize_memory_usage))
        return self.transitions((self.pos - count + np.arange(count)) % self.buffer_size, rng)

    def transitions(self, indices: NDArray[Any], rng: np.random.Generator) -> Transitions:
        """Return the stored transitions of some slots `[B]`.

        The environment of each is drawn. They are in the shapes and units of the environment.
        """
        at = indices, rng.integers(self.n_envs, size=len(indices))
        return Transitions(
            observations=self._as_seen(self.observations[at]),
            actions=self._as_taken(self.actions[at]),
            next_observations=self._as_seen(self._following(at)),
            rewards=self.rewards[at],
            dones=self._for_good(at),
            terms=None if self.terms is None else self.terms[at],
        )

    def _following(self, at: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[Any]:
        """Return the observations after some transitions, as they are stored."""
        if self.optimize_memory_usage:
            return self.observations[(at[0] + 1) % self.buffer_size, at[1]]
        return self.next_observations[at]

    def _for_good(self, at: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[np.float32]:
        """Return 1 where a transition terminated its episode, `[B]`."""
        return self.dones[at] * (1.0 - self.timeouts[at])

    def _as_seen(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return stored observations `[B, ...]` in the shape of the space."""
        return observations.reshape(-1, *(self.observation_space.shape or ()))

    def _as_taken(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return stored actions `[B, n]` in the shape and the units of the space."""
        space = self.action_space
        actions = actions.reshape(-1, *(space.shape or ()))
        if isinstance(space, spaces.Box):  # stored in [-1, 1]
            actions = space.low + (0.5 * (actions + 1.0) * (space.high - space.low))
        return actions

    def check_paid(self) -> None:
        """Raise a `RuntimeError` if `reward_fn` has been lost on the way through a file."""
        if self.relabels and self._reward_fn is None:
            raise RuntimeError(
                "`reward_fn` is not set: the rewards of this learner are r_x, which is not saved; "
                "set `model.reward_fn` (None for the environment's own rewards) before it learns"
            )

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return what has been stored, without the empty slots."""
        # With `optimize_memory_usage`, the last next observation is in the slot after it.
        filled = self.buffer_size if self.full else self.pos + int(self.optimize_memory_usage)
        arrays = {name: getattr(self, name)[:filled] for name in self._arrays()}
        flags = {name: np.asarray(getattr(self, name)) for name in ("pos", "full", "relabels")}
        return {**arrays, **flags}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Store what `state_dict` has returned, of a buffer of the same size and spaces.

        Raises:
            ValueError: If it is of another size, or for another number of environments, or a part
                of it is missing.
        """
        missing = {*self._arrays(), "pos", "full", "relabels"} - {*state}
        if missing:
            raise ValueError(f"the replay buffer that was saved is damaged: no {sorted(missing)}")
        if not 0 <= int(state["pos"]) < self.buffer_size:
            raise ValueError(
                f"the replay buffer that was saved is damaged: it continues at slot {state['pos']} "
                f"of {self.buffer_size}"
            )
        for name in self._arrays():
            slots, expected = state[name].shape, getattr(self, name).shape
            if slots[1:] != expected[1:] or slots[0] > expected[0]:
                raise ValueError(
                    f"the replay buffer that was saved does not fit: `{name}` has shape {slots} "
                    f"(transitions of each environment, environments, ...), got room for "
                    f'{expected}; `exclude=["replay_buffer"]` of `save` leaves it out'
                )
        for name in self._arrays():
            getattr(self, name)[: len(state[name])] = state[name]
        self.pos, self.full = int(state["pos"]), bool(state["full"])
        self.relabels = bool(state["relabels"])

    def _arrays(self) -> list[str]:
        names = ["observations", "actions", "rewards", "dones", "timeouts"]
        if self.terms is not None:
            names.append("terms")
        return names if self.optimize_memory_usage else [*names, "next_observations"]

    def __getstate__(self) -> dict[str, Any]:
        """Leave `reward_fn` out: it belongs to an x, and need not be picklable."""
        return {**self.__dict__, "_reward_fn": None}


def terms_in(infos: Sequence[Mapping[str, Any]], count: int) -> NDArray[np.float64]:
    """Return the terms that environments report of a step, `[N, K]`.

    Raises:
        ValueError: If one of them does not report so many.
    """
    for info in infos:
        terms: Any = info.get("terms")
        if np.shape(terms) != (count,):
            raise ValueError(
                f'`info["terms"]` must have {count} numbers, got {received(terms)}; '
                "`bilevel_gym.envs.terms.RecordTerms` puts them there"
            )
    return np.array([info["terms"] for info in infos], dtype=np.float64)


def refuse_n_steps(n_steps: int) -> None:
    """Raise a `ValueError` unless `n_steps` is 1."""
    if n_steps != 1:
        raise ValueError(
            f"`n_steps` must be 1, got {n_steps!r}: sums over several steps would hold rewards of "
            "the x they were stored under, and of actions that are not the soft policy's"
        )


def refuse_normalization(env: VecNormalize) -> None:
    """Raise a `ValueError`: statistics that drift are no part of a game."""
    raise ValueError(
        f"a soft learner does not learn through `VecNormalize`, got {env}: its statistics drift, "
        "so r_x would be given other observations for the same state, and rewards of another scale "
        "are another temperature; scale observations by fixed numbers instead"
    )
