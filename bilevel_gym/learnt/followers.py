"""A follower who learns: an algorithm of Stable-Baselines3 with reward r_x, and its episodes."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from ..core.checks import (
    check_at_least,
    check_choice,
    check_flag,
    optional,
    received,
)
from ..core.mdp import FloatArray
from ..core.plain import Untrusted
from ..core.progress import Paced, Progress
from ..envs.simulators import goes_on
from ..episodes.recorded import LearntEpisodes, as_argument
from ..model.protocols import LearntGame
from ..rewards.images import channels_first, is_image_space
from ..rewards.tensors import IMAGES, blocks
from ..sb3.archive import tensors
from ..sb3.replay import terms_in
from ..sb3.soft_dqn import SoftDQN
from ..sb3.soft_sac import SoftSAC
from ..sb3.standardised import StandardisedExtractor, measured_units
from .algorithms import ALGORITHMS, checked_options
from .running import restored, snapshot

__all__ = ["Follower"]

# Steps for the first x, where they are not given, for each one of those for others.
FIRST = 3

# Observations whose probabilities are computed at a time.
BLOCK = 4096

# Members of an archive.
MODEL, ENVIRONMENT, ANSWERED = "learner.zip", "environment.json", "answered.txt"
PICKLED = "environment.pickle"  # in files of earlier versions

# What probabilities are raised by before their logarithms.
LEAST = 1e-12

# Steps of uniform actions in which the units of observations are measured.
MEASURED = 500

# Seconds from one time to the next at which it is said how far learning is, and the latest steps
# whose mean rewards are told.
TOLD_EVERY, LATEST = 0.5, 500

# Where x moves the dynamics, the replay begins with episodes under the new x: so many at least, and
# as long as this share of what the follower is about to learn.
REFILLED, LEAST_REFILLED = 0.5, 4

# Copies of the environment in which episodes are played side by side.
COPIES = 32


class Follower:
    """A learner that answers x, keeps what it has learnt, and plays episodes.

    Attributes:
        model: The algorithm, of Stable-Baselines3.
        answered: How many x it has learnt under since the last reset.
        progress: Called now and then with how far it is under the present x; None for nobody.
        steps: Environment steps that it learns for each x.
        first_steps: Those for the first x.
        measured_steps: Those made before the first one, to find the units of observations.
        discrete: Whether its actions are.
    """

    def __init__(
        self,
        game: LearntGame,
        *,
        algorithm: str | None = None,
        steps: int = 1500,
        first_steps: int | None = None,
        options: dict[str, Any] | None = None,
        standardise: bool = True,
    ) -> None:
        """Bind a learner to a game.

        `algorithm` is a key of `ALGORITHMS`; None for "soft-dqn" where actions are discrete and
        "soft-sac" where they are not. It learns `steps` environment steps for each x, at least 1,
        and `first_steps` for the first one; None for three times as many. `options` are arguments
        of the algorithm, of JSON types, in place of `DEFAULTS`. A learning rate of None is the
        algorithm's own, which may fall. With `standardise` its networks read observations in units
        of their own, which `MEASURED` steps of uniform actions are made for; they count as steps of
        the first answer. Images and `Discrete` observations have none.

        Raises:
            TypeError: If the algorithm does not take an argument, or it is the game that sets it.
            ValueError: If the algorithm is unknown or does not suit the actions, an option is out
                of range, or images have their channels last.
        """
        seen = game.observation_space
        if is_image_space(seen) and not channels_first(seen):
            raise ValueError(
                f"images must have their channels first, [C, H, W], got observations {seen}; "
                "wrap the environment where it is made, in `make_environment`"
            )
        discrete = isinstance(game.lower_space, spaces.Discrete)
        fitting = "soft-dqn" if discrete else "soft-sac"
        algorithm = check_choice(
            "inner learner", fitting if algorithm is None else algorithm, ALGORITHMS
        )
        if algorithm != fitting:
            raise ValueError(
                f"`inner` must be {fitting!r} for actions {game.lower_space}, "
                f"got {received(algorithm)}"
            )
        self.steps = check_at_least("inner_steps", steps, 1)
        first = optional(check_at_least, "first_inner_steps", first_steps, 1)
        self.first_steps = FIRST * self.steps if first is None else first
        self._game, self._class = game, ALGORITHMS[algorithm]
        self._options = checked_options(algorithm, options)
        self.measured_steps = 0
        own = self._options.get("policy_kwargs") or {}
        if check_flag("standardise", standardise) and "features_extractor_class" not in own:
            units = measured_units(game.make_environment(), MEASURED, seed=0)
            if units is not None:
                self.measured_steps = MEASURED
                reading = {
                    "features_extractor_class": StandardisedExtractor,
                    "features_extractor_kwargs": units,
                }
                self._options["policy_kwargs"] = {**own, **reading}
        self.answered = 0
        self.progress: Progress | None = None
        self._pace, self._steps_told = Paced(TOLD_EVERY), (0, 0)
        self.discrete, self._images = discrete, is_image_space(seen)
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt."""
        self.answered = 0
        options = copy.deepcopy(self._options)  # Stable-Baselines3 writes into some
        if self._game.term_names:
            stored = {"num_terms": len(self._game.term_names)}
            options["replay_buffer_kwargs"] = (options.get("replay_buffer_kwargs") or {}) | stored
        with kept_generators():
            self.model = self._class(
                "CnnPolicy" if self._images else "MlpPolicy",
                self._environments(1),
                gamma=self._game.gamma,
                temperature=self._game.temperature,
                seed=int(rng.integers(2**31)),
                **options,
            )
        self._watched: dict[int, DummyVecEnv] = {}  # by the number of copies
        self._x: FloatArray | None = None  # that the environments were set up for, if they were

    def learn(
        self, upper_params: FloatArray, share: float = 1.0, *, seed: int | None = None
    ) -> int:
        """Learn under x from where the last x left off, and return the environment steps used.

        It is a share of the usual steps, but for the first x. Where x moves the dynamics, steps
        under another x are forgotten, and a new episode begins. With a seed, a new episode begins,
        and seed and policy determine all that is random.
        """
        game = self._game
        used = self._enter(upper_params, share, seed)
        self.model.reward_fn = lambda observations, actions, **terms: game.reward(
            upper_params, observations, actions, **terms
        )
        first = self.answered == 0
        before = self.model.num_timesteps
        steps = self.first_steps if first else max(1, round(share * self.steps))
        self._steps_told = 0, steps
        self.tell("learning")
        self.model.learn(
            steps,
            callback=None if self.progress is None else partial(self._told, upper_params, before),
            reset_num_timesteps=first,
            log_interval=None,
        )
        self.answered += 1
        self._steps_told = steps, steps
        measured = self.measured_steps if first else 0
        return self.model.num_timesteps - before + measured + used

    def _enter(self, upper_params: FloatArray, share: float, seed: int | None) -> int:
        """Set the learner's environment up for x, and return the environment steps used."""
        if seed is not None:
            with kept_generators():
                self.model.set_random_seed(seed)
            self.model._last_obs = None  # a new episode begins
        if not self._configure(self.model.env, upper_params) or not self.answered:
            return 0
        self.forget(upper_params)
        rng = np.random.default_rng(self.model.num_timesteps if seed is None else seed)
        steps = round(REFILLED * share * self.steps)
        limits: dict[str, Any] = {"steps": steps, "most": max(LEAST_REFILLED, COPIES)}
        played = self.play(upper_params, LEAST_REFILLED, rng, keep=True, seed=seed, **limits)
        return played.num_steps

    def forget(self, upper_params: FloatArray) -> None:
        """Forget what was seen under another x, if x moves the dynamics, and go on under this."""
        if not self._game.moves_dynamics:
            return
        assert self.model.replay_buffer is not None
        self._configure(self.model.env, upper_params)
        self.model.replay_buffer.reset()
        self.model._last_obs = None

    def _configure(self, environments: Any, upper_params: FloatArray) -> bool:
        """Set up environments for x, and return whether that changes them."""
        if not self._game.moves_dynamics:
            return False
        self._x = np.array(upper_params)
        return any([self._game.configure(env, upper_params) for env in environments.envs])

    def tell(self, doing: str) -> None:
        """Say what is being done under the present x, if anybody wants to know."""
        if self.progress is not None:
            self.progress(*self._steps_told, doing)

    def _told(
        self, x: FloatArray, before: int, local: Mapping[str, Any], _: Mapping[str, Any]
    ) -> bool:
        """Say how far it is, as a callback of Stable-Baselines3, and go on."""
        game, buffer = self._game, self.model.replay_buffer
        if buffer is not None and buffer.size() and self._pace.due():
            steps = self._steps_told[1]  # of which some learners make a few more
            self._steps_told = min(self.model.num_timesteps - before, steps), steps
            seen = buffer.latest(LATEST, np.random.default_rng(0))
            said = as_argument(seen.terms)
            lower = game.reward(x, seen.observations, seen.actions, **said)
            upper = game.upper_reward(
                seen.observations, seen.actions, seen.rewards.astype(np.float64)
            )
            self.tell(f"learning: {lower.mean():.3g} a step, leader {upper.mean():.3g}")
        return True

    def probabilities(self, observations: NDArray[Any]) -> FloatArray:
        """Return the probabilities of discrete actions, `[B, A]`."""
        assert isinstance(self.model, SoftDQN)
        model, parts = self.model, blocks(len(observations), IMAGES if self._images else BLOCK)
        return np.concatenate([model.action_probabilities(observations[at]) for at in parts])

    def surprises(
        self,
        upper_params: FloatArray,
        observations: NDArray[Any],
        actions: NDArray[Any],
        next_observations: NDArray[Any],
        ends: NDArray[Any],
        rng: np.random.Generator,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return r_x + gamma V(s') - Q(s, a) of transitions, `[B]`, by the learner's own critics.

        V is the soft value, 0 after those that `ends` `[B]` says end an episode.
        """
        game, model = self._game, self.model
        rewards = game.reward(upper_params, observations, actions, **as_argument(terms))
        expected = model.q_values(observations, actions)
        later = game.gamma * (1.0 - ends) * model.soft_values(next_observations, rng)
        surprises: FloatArray = rewards + later - expected
        return surprises

    def draw(self, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw actions of the follower's policy, without exploration, `[B, ...]`."""
        if isinstance(self.model, SoftSAC):
            model, parts = self.model, blocks(len(observations), IMAGES if self._images else None)
            return np.concatenate([model.sample_actions(observations[at], rng) for at in parts])
        cumulative = self.probabilities(observations).cumsum(axis=1)
        uniform = rng.random((len(observations), 1)) * cumulative[:, -1:]
        return (cumulative[:, :-1] <= uniform).sum(axis=1).astype(np.int64)

    def divergence(self, snapshot: NDArray[np.uint8], observations: NDArray[Any]) -> float:
        """Return the mean KL of the present policy from that of a snapshot, in some states.

        That of continuous actions is of the Gaussians before squashing, which is the same.
        """
        present = self.snapshot()
        new = self._distribution(observations)
        self.restore(snapshot)
        old = self._distribution(observations)
        self.restore(present)
        return float(th.distributions.kl_divergence(new, old).mean())

    def _distribution(self, observations: NDArray[Any]) -> th.distributions.Distribution:
        """Return the policy in some states, of actions before they are squashed."""
        if not isinstance(self.model, SoftSAC):
            # Where a probability is rounded to zero, its logarithm is not infinite.
            probabilities = th.as_tensor(self.probabilities(observations) + LEAST)
            return th.distributions.Categorical(probabilities)
        model = self.model
        parts = blocks(len(observations), IMAGES if self._images else None)
        found = [model.gaussian(observations[at]) for at in parts]
        mean, deviation = (th.cat(parts) for parts in zip(*found, strict=True))
        return th.distributions.Independent(th.distributions.Normal(mean, deviation), 1)

    def spectator(self) -> Follower:
        """Return one who shares what is learnt, with environments of its own to play in."""
        other = copy.copy(self)
        other._watched = {}
        return other

    def snapshot(self) -> NDArray[np.uint8]:
        """Return networks and optimisers as bytes: the policy, but not what it learns from.

        `restore` goes back to it any number of times.
        """
        memory = io.BytesIO()
        th.save(self.model.get_parameters(), memory)
        return np.frombuffer(memory.getvalue(), np.uint8)

    def restore(self, snapshot: NDArray[np.uint8]) -> None:
        """Put networks and optimisers back where they were; the replay goes on."""
        self.model.set_parameters(tensors(snapshot.tobytes()))

    def play(
        self,
        upper_params: FloatArray,
        episodes: int,
        rng: np.random.Generator,
        *,
        keep: bool = False,
        steps: int = 0,
        wanted: int = 0,
        most: int | None = None,
        seed: int | None = None,
    ) -> LearntEpisodes:
        """Play whole episodes of the follower's policy, in environments of their own.

        Where `episodes` take fewer than `steps`, more of them are played, `most` in all, to about
        so many steps, or to twice as many if there were fewer than are `wanted`. With `keep` they
        go into the replay, and are learnt from. Environments are seeded by `seed`, one after the
        other, or by the generator, which draws the actions.
        """
        copies = min(COPIES, episodes)
        if copies not in self._watched:
            self._watched[copies] = self._environments(copies)
        stage, played, seeds, done = self._watched[copies], [], [], 0
        self._configure(stage, upper_params)
        while done < episodes:
            self.tell(f"playing episodes, {done} of {episodes}")
            count = min(copies, episodes - done)
            drawn = int(rng.integers(2**31)) if seed is None else (seed + done) % 2**31
            played.append(self._play_block(stage, count, rng, drawn))
            seeds.append(drawn + np.arange(count))  # as Stable-Baselines3 seeds copies
            done += played[-1]["alive"].shape[1]
            if done == episodes and most is not None:
                length = sum(block["alive"].sum() for block in played) / done
                enough = max(steps / length, min(wanted, 2.0 * steps / length))
                episodes, most = max(episodes, min(most, round(enough))), None
        longest = max(len(block["alive"]) for block in played)
        joined = {
            name: np.concatenate([_padded(block[name], longest) for block in played], axis=1)
            for name in played[0]
        }
        observations, actions, alive = joined["observations"], joined["actions"], joined["alive"]
        seen, taken = observations[alive], actions[alive]
        upper, lower = np.zeros(alive.shape), np.zeros(alive.shape)
        # The leader's rewards are those under the x of the last call of `reward`.
        terms = joined.get("terms")
        said = as_argument(None if terms is None else terms[alive])
        lower[alive] = self._game.reward(upper_params, seen, taken, **said)
        rewards = joined["rewards"][alive].astype(np.float64)
        upper[alive] = self._game.upper_reward(seen, taken, rewards)
        own = np.where(alive, joined["rewards"], 0.0).astype(np.float64)
        after = joined["next_observations"], joined["terminated"], terms
        begun = np.concatenate(seeds)
        recorded = LearntEpisodes(observations, actions, upper, lower, alive, own, *after, begun)
        if keep:
            self.keep(recorded)
        return recorded

    def keep(self, played: LearntEpisodes) -> None:
        """Add the steps of episodes to the replay, one after the other: they are learnt from.

        A replay that holds each observation once (`optimize_memory_usage`) has no room for them.
        """
        buffer = self.model.replay_buffer
        assert buffer is not None
        if buffer.optimize_memory_usage:
            return
        going_on = np.zeros_like(played.alive)
        going_on[:-1] = played.alive[1:]
        dones = played.alive & ~going_on
        parts = (
            played.observations,
            played.next_observations,
            played.actions,
            played.own_rewards,
            dones,
            dones & ~played.terminated,
            *as_argument(played.terms).values(),
        )
        # One episode after the other.
        alive = played.alive.T
        buffer.extend(*(np.swapaxes(part, 0, 1)[alive] for part in parts))

    def save(self, archive: zipfile.ZipFile) -> None:
        """Write what has been learnt, the episode under way included if it can be copied.

        That is so where the environment is plain data throughout (classic control, the grids of
        Gymnasium), and where its simulator, MuJoCo or the Arcade Learning Environment, is in a
        `bilevel_gym.envs.simulators.Restorable`.
        """
        with archive.open(MODEL, "w", force_zip64=True) as member:  # a replay can be large
            assert isinstance(member, io.BufferedIOBase)
            self.model.save(member)
        x = [] if self._x is None else [json.dumps(self._x.tolist())]
        archive.writestr(ANSWERED, " ".join([str(self.answered), *x]))
        running = self.model.env
        assert isinstance(running, DummyVecEnv)
        (env,) = running.envs
        if goes_on(env):
            with kept_generators():
                state = snapshot(env, self._game.make_environment)
            if state is not None:
                archive.writestr(ENVIRONMENT, state)

    def load(self, archive: zipfile.ZipFile, *, trust: bool = False) -> None:
        """Go on where the one that was saved is; nothing changes if the file does not fit.

        `trust` is whether code in the file may run, and the state of a game console be restored.
        """
        with kept_generators():
            going_on = self._running(archive, trust)
            self.model = self._class.load(
                io.BytesIO(archive.read(MODEL)),
                self._environments(1) if going_on is None else going_on,
                device=self._options.get("device", "auto"),
                force_reset=going_on is None,
                trust=trust,
            )
        answered, _, x = archive.read(ANSWERED).decode().partition(" ")
        self.answered = int(answered)
        if x:
            found = np.array(json.loads(x), dtype=np.float64)
            if found.shape != self._game.initial_upper_params.shape:
                raise ValueError(f"an x of shape {found.shape}")
            self._configure(self.model.env, found)

    def _running(self, archive: zipfile.ZipFile, trust: bool) -> DummyVecEnv | None:
        """Return the environment of the episode that was under way; None for a new episode."""
        if PICKLED in archive.namelist():
            if not trust:
                raise Untrusted(f"{PICKLED} can run code")
            # The user trusts the file.
            return pickle.loads(archive.read(PICKLED))  # nosec B301
        if ENVIRONMENT not in archive.namelist():
            return None
        state, make = archive.read(ENVIRONMENT), self._game.make_environment
        env = restored(state, make, trust=trust)
        if env is None:
            warnings.warn(
                "the follower begins a new episode: the state of a game console is restored only "
                "from a file that is trusted; pass `trust=True` to go on in the episode under way",
                stacklevel=2,
            )
            return None
        return DummyVecEnv([lambda: env])

    def _environments(self, copies: int) -> DummyVecEnv:
        return DummyVecEnv([self._game.make_environment] * copies)

    def _play_block(
        self, environments: DummyVecEnv, count: int, rng: np.random.Generator, seed: int
    ) -> dict[str, NDArray[Any]]:
        environments.seed(seed)
        seen: Any = environments.reset()
        alive = np.arange(environments.num_envs) < count
        record: dict[str, list[NDArray[Any]]] = defaultdict(list)
        while alive.any():
            actions = self.draw(seen, rng)
            step = {"observations": seen, "actions": actions, "alive": alive}
            seen, step["rewards"], dones, infos = environments.step(actions)
            following, terminated = np.array(seen), dones & alive
            for ended in np.flatnonzero(terminated):
                following[ended] = infos[ended]["terminal_observation"]
                terminated[ended] = not infos[ended]["TimeLimit.truncated"]
            step["next_observations"], step["terminated"] = following, terminated
            if self._game.term_names:
                step["terms"] = terms_in(infos, len(self._game.term_names))
            for name, values in step.items():
                record[name].append(values[:count])
            alive = alive & ~dones
        return {name: np.stack(values) for name, values in record.items()}


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the global random numbers, which Stable-Baselines3 seeds with its models."""
    python, arrays = random.getstate(), np.random.get_state()
    devices = list(range(th.cuda.device_count()))
    try:
        with th.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _padded(values: NDArray[Any], length: int) -> NDArray[Any]:
    """Return an array with zeros after its end, `[length, ...]`."""
    missing = length - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
