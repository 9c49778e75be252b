"""Hyper-gradients from episodes of a follower who learns, for games without a table.

The identities are those of `bilevel_gym.methods.trace` and `bilevel_gym.methods.sobirl`; sums over
states become sums over the steps of episodes, and the derivative of the reward is one product of
its Jacobian with a weight for each step. `trace` carries the leader's advantage along an episode,

    e_t = gamma e_{t-1} + gamma_u^t A_u(s_t, a_t) / tau,

with A_u from a critic that is fitted to the learner's replay. `sobirl` is what the code of Yang,
Gao, Yuan (AISTATS 2025, arXiv 2405.19697) computes: of the advantage of dr/dx it keeps the first
term, so that it is biased, and zero where the reward's gradient does not depend on the action.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space

from ..checks import check_at_least, check_flag
from ..files import replacing
from ..mdp import FloatArray
from ..methods.base import EpisodicResponse
from ..methods.sampled import carried
from .critic import LeaderCritic
from .followers import Follower, LearntEpisodes
from .networks import numbers

if TYPE_CHECKING:
    from ..envs.parametric import ParametricGame

__all__ = ["BCHG", "Estimator", "SoBiRL", "Trace"]

# Steps whose rewards are differentiated at a time, for networks and images.
BLOCK = 1024

# Features that advantages are regressed on by default: so many at most, one for so many steps.
MOST_FEATURES, STEPS_PER_FEATURE = 60, 20

# What is in a file, but for what the follower writes.
ABOUT, CRITIC = "about.json", "critic.pt"


class Estimator(ABC):
    """Train the follower, watch it, estimate.

    Attributes:
        follower: The follower, who goes on from one x to the next with what it has learnt.
        critic: The leader's critic, None for methods without one.
    """

    exact: ClassVar[bool] = False

    def __init__(
        self,
        game: ParametricGame,
        *,
        episodes: int = 16,
        inner: str | None = None,
        inner_steps: int = 1500,
        first_inner_steps: int | None = None,
        inner_options: dict[str, Any] | None = None,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            episodes: Episodes played for each x, at least 1.
            inner: The learner, a key of `bilevel_gym.sb3.followers.ALGORITHMS`; None for the one
                that fits the actions.
            inner_steps: Environment steps that it learns for each x, at least 1.
            first_inner_steps: Those for the first x; None for as many.
            inner_options: Its arguments; see `bilevel_gym.sb3.followers.Follower`.

        Raises:
            TypeError: If the learner does not take an argument.
            ValueError: If an option is out of range.
        """
        check_at_least("episodes", episodes, 1)
        self._game, self._num_episodes = game, int(episodes)
        self._rng = np.random.default_rng(0)
        self.critic: LeaderCritic | None = None
        self.follower = Follower(
            game,
            algorithm=inner,
            steps=inner_steps,
            first_steps=first_inner_steps,
            options=inner_options,
        )

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        self._rng = rng
        self.follower.reset(rng)

    @abstractmethod
    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, float | None]:
        """Estimate the response term.

        Args:
            upper_params: x.
            played: Episodes of the follower's answer.

        Returns:
            The estimate, shape of x, and the loss of a critic if there is one.
        """

    def step(self, upper_params: FloatArray) -> EpisodicResponse:
        """Let the follower learn under x, watch it, and estimate objective and hyper-gradient."""
        samples = self.follower.learn(upper_params)
        played = self.follower.play(upper_params, self._num_episodes, self._rng)
        response, loss = self.response_term(upper_params, played)
        game, steps = self._game, np.arange(len(played.alive))
        upper = np.power(game.upper_gamma, steps) @ played.upper_rewards
        lower = np.power(game.gamma, steps) @ played.lower_rewards
        mean = (float(upper.mean()), float(lower.mean()), played.num_steps / played.num_episodes)
        return EpisodicResponse(
            upper_params=upper_params,
            objective=mean[0],
            hyper_gradient=response,
            direct_gradient=np.zeros(upper_params.shape),
            samples=samples + played.num_steps,
            summary=mean,
            critic_loss=loss,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save all that has been learnt, and where the random numbers are, as one file.

        Whoever loads it goes on bit by bit as the one who saved it. The episode in which the
        follower learns is part of it where the environment can be copied; those of MuJoCo and Atari
        cannot, and the follower goes on in a new episode there.

        Args:
            path: Where to, ".zip" being added to a path without an extension.
        """
        path = _zipped(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {**self._identity(), "generator": self._rng.bit_generator.state}
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(ABOUT, json.dumps(about))
            self.follower.save(archive)
            if self.critic is not None:
                memory = io.BytesIO()
                th.save(self.critic.state_dict(), memory)
                archive.writestr(CRITIC, memory.getvalue())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where the method that was saved is; this one must be made as that one was.

        Load only files that you trust: the library's have code in them.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is none of `save`, or of another method or game; nothing changes.
        """
        path = _zipped(path)
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError(f"{path} is no file of a method's `save`")
        with zipfile.ZipFile(path) as archive:
            if ABOUT not in archive.namelist():
                raise ValueError(f"{path} is no file of a method's `save`")
            about = json.loads(archive.read(ABOUT))
            generator = about.pop("generator")
            for name, value in self._identity().items():
                if about.get(name) != value:
                    raise ValueError(
                        f"{path} is of another {name}: expected {value!r}, got {about.get(name)!r}"
                    )
            critic = None
            if self.critic is not None:
                critic = th.load(io.BytesIO(archive.read(CRITIC)), weights_only=True)
            self.follower.load(archive)
        if self.critic is not None and critic is not None:
            self.critic.load_state_dict(critic)
        # The generator is the game's own: it is set, not replaced.
        self._rng.bit_generator.state = generator

    def _identity(self) -> dict[str, Any]:
        game = self._game
        return {
            "method": type(self).__name__,
            "game": type(game).__name__,
            "number of parameters": int(game.upper_space.shape[0]),
            "observation space": str(game.observation_space),
            "action space": str(game.lower_space),
        }

    def _differentiated(
        self,
        upper_params: FloatArray,
        observations: NDArray[Any],
        actions: NDArray[Any],
        weights: FloatArray,
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x; see `ParametricGame.reward_vjp`.

        Args:
            upper_params: x.
            observations: `[B, ...]`.
            actions: `[B, ...]`.
            weights: `[B]`.
        """
        total = np.zeros(upper_params.shape)
        for block in _blocks(len(weights)):
            total += self._game.reward_vjp(
                upper_params, observations[block], actions[block], weights[block]
            )
        return total

    def _averaged(
        self, upper_params: FloatArray, observations: NDArray[Any], weights: FloatArray
    ) -> FloatArray:
        """Return sum_ba weights(b, a) dr_x(s_b, a)/dx over all of the discrete actions.

        Args:
            upper_params: x.
            observations: `[B, ...]`.
            weights: `[B, A]`.
        """
        total, count = np.zeros(upper_params.shape), weights.shape[1]
        for block in _blocks(len(weights), BLOCK // count):
            each, every = weights[block], np.repeat(observations[block], count, axis=0)
            actions = np.tile(np.arange(count), len(each))
            total += self._game.reward_vjp(upper_params, every, actions, each.ravel())
        return total


class Trace(Estimator):
    """The scalar trace of the leader's advantage; see `bilevel_gym.methods.trace`."""

    averages_actions: ClassVar[bool] = True

    def __init__(
        self,
        game: ParametricGame,
        *,
        critic_updates: int = 200,
        truncation: int | None = None,
        discount_steps: bool = True,
        state_features: int | None = None,
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            critic_updates: Gradient steps of the leader's critic for each x, at least 1.
            truncation: Steps that an injection counts, its own included; None for all.
            discount_steps: Whether what happens late counts for less, as the objective says; not
                to do so is biased, but loses nothing of long episodes.
            state_features: Features of the state, random ones, on which advantages are regressed;
                what they explain is noise, as the mean of an advantage in a state is zero, and is
                taken away. That is worth the more the less chance there is in an episode; it
                shortens estimates where there are few steps for each feature. 0 for none, None for
                one for 20 steps, but 60 at most, and none of images.
            **options: See `Estimator`.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range.
        """
        check_at_least("critic_updates", critic_updates, 1)
        if truncation is not None:
            check_at_least("truncation", truncation, 1)
        check_flag("discount_steps", discount_steps)
        if state_features is not None:
            check_at_least("state_features", state_features, 0)
        self._state_features = state_features
        self._updates, self._truncation = int(critic_updates), truncation
        self._discount_steps = bool(discount_steps)
        super().__init__(game, **options)
        self.reset(self._rng)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        super().reset(rng)
        self.critic: LeaderCritic = LeaderCritic(self._game, int(rng.integers(2**31)))

    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, float]:
        """Return the trace's estimate; see `Estimator`."""
        game, follower, alive = self._game, self.follower, played.alive
        loss = self.critic.fit(follower, self._updates, self._rng)
        seen, taken = played.as_batch
        found = [
            self.critic.advantages(seen[block], taken[block], follower, self._rng)
            for block in _blocks(len(seen))
        ]
        advantages = np.concatenate([of_taken for of_taken, _ in found])
        gamma = game.upper_gamma if self._discount_steps else 1.0
        late = np.broadcast_to(np.power(gamma, np.arange(len(alive)))[:, None], alive.shape)
        injections = np.zeros(alive.shape)
        injections[alive] = late[alive] * advantages / game.temperature
        features = self._features_for(len(seen))
        if features:
            injections[alive] -= self._explained(injections[alive], seen, features)
        carry = carried(injections, game.gamma, self._truncation)
        if alive.all() and alive.shape[1] > 1:
            # The mean of the others: one's own share in it would shorten the estimate.
            carry -= (carry.sum(axis=1, keepdims=True) - carry) / (alive.shape[1] - 1)
        tables = [table for _, table in found if table is not None]
        if not tables or not self.averages_actions:
            weights = (carry + injections)[alive]
            estimate = self._differentiated(upper_params, seen, taken, weights)
        else:
            # The policy is known: the last action is averaged over.
            own = late[alive][:, None] * np.concatenate(tables) / game.temperature
            weights = follower.probabilities(seen) * (carry[alive][:, None] + own)
            estimate = self._averaged(upper_params, seen, weights)
        return estimate / played.num_episodes, loss

    def _features_for(self, steps: int) -> int:
        """Return the number of features to regress the advantages of so many steps on."""
        if self._state_features is not None:
            return self._state_features
        if is_image_space(self._game.observation_space):
            return 0
        return min(MOST_FEATURES, steps // STEPS_PER_FEATURE)

    def _explained(
        self, values: FloatArray, observations: NDArray[Any], features: int
    ) -> FloatArray:
        """Return what so many random features of the state explain of some values, `[B]`."""
        states = numbers(observations, self._game.observation_space, th.zeros(())).flatten(1)
        inputs = states.double().numpy()
        inputs = (inputs - inputs.mean(axis=0)) / np.maximum(inputs.std(axis=0), 1e-8)
        fixed = np.random.default_rng(0)
        directions = fixed.standard_normal((inputs.shape[1], features))
        found = np.tanh(inputs @ directions + fixed.standard_normal(features))
        found = np.concatenate([found, np.ones((len(values), 1))], axis=1)
        return found @ np.linalg.lstsq(found, values, rcond=1e-8)[0]


class BCHG(Trace):
    """The covariance of Kudo et al. (BC-HG, ICAPS 2026): the trace of the actions taken."""

    averages_actions: ClassVar[bool] = False


class SoBiRL(Estimator):
    """The return of an episode, times the first term of the advantages of dr/dx along it."""

    def __init__(
        self,
        game: ParametricGame,
        *,
        truncation: int = 1,
        baseline: bool = True,
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            truncation: Terms of the advantage that are kept; without a table, 1 is what there is.
            baseline: Whether to subtract the mean return of the other episodes.
            **options: See `Estimator`.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range.
        """
        if truncation != 1:
            raise ValueError(
                "`truncation` must be 1 where the follower learns, as further terms of the same "
                f"episode are correlated with its return, got {truncation!r}; `trace` has all terms"
            )
        check_flag("baseline", baseline)
        self._baseline, self._warned = bool(baseline), False
        super().__init__(game, **options)

    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, None]:
        """Return the one-step estimate; see `Estimator`."""
        game, follower = self._game, self.follower
        alive, count = played.alive, played.num_episodes
        returns = np.power(game.upper_gamma, np.arange(len(alive))) @ played.upper_rewards
        if self._baseline and count > 1:
            returns = returns - (returns.sum() - returns) / (count - 1)
        weights = np.broadcast_to(returns / game.temperature, alive.shape)[alive]
        seen, taken = played.as_batch
        estimate = self._differentiated(upper_params, seen, taken, weights)
        if follower.discrete:
            shares = follower.probabilities(seen) * weights[:, None]
            mean = self._averaged(upper_params, seen, shares)
        else:
            drawn = follower.draw(seen, self._rng)
            mean = self._differentiated(upper_params, seen, drawn, weights)
        size = float(np.linalg.norm(estimate))
        response = estimate - mean
        if not self._warned and 0.0 < size and np.linalg.norm(response) <= 1e-8 * size:
            self._warned = True
            warnings.warn(
                f"the one-step response term is zero for {game.title}: the gradient of its reward "
                "does not depend on the action; `trace` has all terms",
                stacklevel=2,
            )
        return response / count, None


def _blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    """Yield the parts of a batch that are dealt with at a time."""
    size = max(1, size)
    for first in range(0, count, size):
        yield slice(first, first + size)


def _zipped(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")
