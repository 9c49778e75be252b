"""Hyper-gradients from episodes of a follower who learns, for games without a table.

The identities are those of `bilevel_gym.methods.trace` and `bilevel_gym.methods.sobirl`; sums over
states become sums over the steps of episodes, and the derivative of the reward is one product of
its Jacobian with a weight for each step. `trace` carries the leader's advantage along an episode,

    e_t = gamma e_{t-1} + gamma_u^t A_u(s_t, a_t) / tau,

with A_u from a critic that is fitted to the learner's replay. `hpgd` is the same with an A_u from
the episodes alone, a regression of what followed on what was seen and done. `sobirl` is what the
code of Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697) computes: of the advantage of dr/dx it
keeps the first term, so that it is biased, and zero where the reward's gradient does not depend on
the action.

Methods of games whose follower learns, `HyperGradient(game, method, **options)`: "trace" (the
default), "bc-hg", "hpgd" and "sobirl". Tabular games have them as "deep-trace" and so on, with
other defaults (`bilevel_gym.learnt.tables.DEFAULTS`). Tasks have their own, in `method_options`.

| option | default | what it is |
|---|---|---|
| `episodes` | 16 | episodes watched for each x |
| `inner_steps` | 1500 | environment steps that the follower learns for each x |
| `first_inner_steps` | as many | those for the first x |
| `inner` | that fits | "soft-dqn" for discrete actions, "soft-sac" for continuous ones |
| `inner_options` | {} | arguments of `bilevel_gym.sb3.SoftDQN` or `bilevel_gym.sb3.SoftSAC` |
| `critic_updates` | 200 (hpgd: 1000) | gradient steps of the leader's critic for each x |
| `first_critic_updates` | as many | those for the first x; trace and bc-hg |
| `truncation` | None | steps that an injection counts; sobirl has 1 |
| `discount_steps` | True | whether late steps count for less; not sobirl |
| `state_features` | up to 60 | features of the state that advantages are regressed on; not sobirl |
| `baseline` | True | sobirl: whether the mean return of the other episodes is subtracted |
"""

from __future__ import annotations

import copy
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch as th
from numpy.typing import NDArray

from ..core.checks import check_at_least, check_flag
from ..core.mdp import FloatArray
from ..episodes.recorded import LearntEpisodes
from ..methods.sampled import carried
from ..model.protocols import LearntGame
from ..model.responses import EpisodicResponse, Response
from ..rewards.images import is_image_space
from ..rewards.tensors import as_inputs
from .checkpoints import identity, opened, restored, write_state, written
from .critic import BATCH, LeaderCritic
from .followers import ANSWERED, MODEL, Follower

__all__ = ["Carrying", "Estimator", "LearntBCHG", "LearntHPGD", "LearntSoBiRL", "LearntTrace"]

# Steps whose rewards are differentiated at a time, for networks and images.
BLOCK = 1024

# Features that advantages are regressed on by default: so many at most, one for so many steps.
MOST_FEATURES, STEPS_PER_FEATURE = 60, 20

# What is in a file, but for what the follower writes.
CRITIC = "critic.pt"


class Estimator(ABC):
    """Train the follower, watch it, estimate.

    Attributes:
        follower: The follower, who goes on from one x to the next with what it has learnt.
        critic: The leader's critic, None for methods without one.
    """

    exact: ClassVar[bool] = False

    def __init__(
        self,
        game: LearntGame,
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
            inner: The learner, a key of `bilevel_gym.learnt.followers.ALGORITHMS`; None for the one
                that fits the actions.
            inner_steps: Environment steps that it learns for each x, at least 1.
            first_inner_steps: Those for the first x; None for as many.
            inner_options: Its arguments; see `bilevel_gym.learnt.followers.Follower`.

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

    def step(self, upper_params: FloatArray) -> Response:
        """Let the follower learn under x, watch it, and estimate objective and hyper-gradient."""
        samples = self.follower.learn(upper_params)
        played = self.follower.play(upper_params, self._num_episodes, self._rng)
        response, loss = self.response_term(upper_params, played)
        value, direct = self._game.direct_part(upper_params, played)
        discounts = np.power(self._game.upper_gamma, np.arange(len(played.alive)))
        upper = float((discounts @ played.upper_rewards).mean())
        return self.answer(
            played,
            upper,
            upper_params=upper_params,
            objective=upper + value,
            hyper_gradient=direct + response,
            direct_gradient=direct,
            samples=samples + played.num_steps,
            critic_loss=loss,
        )

    def answer(self, played: LearntEpisodes, upper: float, **common: Any) -> Response:
        """Return the response to x.

        Args:
            played: Episodes of the follower's answer.
            upper: The leader's mean return in them.
            **common: What every response has, and the loss of a critic.
        """
        discounts = np.power(self._game.gamma, np.arange(len(played.alive)))
        lower = float((discounts @ played.lower_rewards).mean())
        length = played.num_steps / played.num_episodes
        return EpisodicResponse(summary=(upper, lower, length), **common)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save all that has been learnt, and where the random numbers are, as one file.

        Whoever loads it goes on bit by bit as the one who saved it. The episode in which the
        follower learns is part of it where the environment can be copied, as those of the
        registered tasks can. Other environments of MuJoCo and Atari, and those of Box2D, cannot,
        unless `make_environment` puts them in a `bilevel_gym.envs.simulators.Restorable`; there the
        follower goes on in a new episode.

        Args:
            path: Where to, ".zip" being added to a path without an extension.
        """
        state = {"generator": self._rng.bit_generator.state}
        with written(path, identity(self, self._game), state) as archive:
            self.follower.save(archive)
            if self.critic is not None:
                write_state(archive, CRITIC, self.critic.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where the method that was saved is; this one must be made as that one was.

        Load only files that you trust: the library's have code in them.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is none of `save`, of another method or game, incomplete or damaged;
                nothing changes.
        """
        needed = [MODEL, ANSWERED, *([] if self.critic is None else [CRITIC])]
        with opened(path, identity(self, self._game), needed) as (archive, state):
            drawn = copy.deepcopy(self._rng.bit_generator)
            drawn.state = state["generator"]
            critic = None
            if self.critic is not None:
                critic = restored(self.critic, archive, CRITIC, self._game)
            follower = copy.copy(self.follower)
            follower.load(archive)
        self.follower = follower
        if critic is not None:
            self.critic = critic
        # The generator is the game's own: it is set, not replaced.
        self._rng.bit_generator.state = drawn.state

    def _differentiated(
        self,
        upper_params: FloatArray,
        observations: NDArray[Any],
        actions: NDArray[Any],
        weights: FloatArray,
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x; see `LearntGame.reward_vjp`.

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


class Carrying(Estimator):
    """The trace of the leader's advantage along episodes, wherever the advantage comes from."""

    averages_actions: ClassVar[bool] = True
    usual_updates: ClassVar[int] = 200

    def __init__(
        self,
        game: LearntGame,
        *,
        critic_updates: int | None = None,
        truncation: int | None = None,
        discount_steps: bool = True,
        state_features: int | None = None,
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            critic_updates: Gradient steps of the leader's critic for each x, at least 1; None for
                200, or 1000 where it is a new one each time (`LearntHPGD`).
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
        updates = self.usual_updates if critic_updates is None else critic_updates
        check_at_least("critic_updates", updates, 1)
        if truncation is not None:
            check_at_least("truncation", truncation, 1)
        check_flag("discount_steps", discount_steps)
        if state_features is not None:
            check_at_least("state_features", state_features, 0)
        self._state_features = state_features
        self._updates, self._truncation = int(updates), truncation
        self._discount_steps = bool(discount_steps)
        super().__init__(game, **options)
        self.reset(self._rng)

    @abstractmethod
    def leader_advantages(
        self, played: LearntEpisodes
    ) -> tuple[FloatArray, FloatArray | None, float]:
        """Estimate what the follower's actions bring the leader, beyond the mean in their states.

        Args:
            played: Episodes of the follower's answer, B steps in all.

        Returns:
            Advantages of the actions taken `[B]`, those of all actions `[B, A]` if they are
            discrete, and the loss of what was fitted.
        """

    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, float]:
        """Return the trace's estimate; see `Estimator`."""
        game, follower, alive = self._game, self.follower, played.alive
        seen, taken = played.as_batch
        advantages, every, loss = self.leader_advantages(played)
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
        if every is None or not self.averages_actions:
            weights = (carry + injections)[alive]
            estimate = self._differentiated(upper_params, seen, taken, weights)
        else:
            # The policy is known: the last action is averaged over.
            own = late[alive][:, None] * every / game.temperature
            weights = follower.probabilities(seen) * (carry[alive][:, None] + own)
            estimate = self._averaged(upper_params, seen, weights)
        return estimate / played.num_episodes, loss

    def _judged(
        self, critic: LeaderCritic, observations: NDArray[Any], actions: NDArray[Any]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return what `LeaderCritic.advantages` does, block by block."""
        found = [
            critic.advantages(observations[block], actions[block], self.follower, self._rng)
            for block in _blocks(len(observations))
        ]
        tables = [table for _, table in found if table is not None]
        taken = np.concatenate([of_taken for of_taken, _ in found])
        return taken, np.concatenate(tables) if tables else None

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
        states = as_inputs(observations, self._game.observation_space, th.zeros(())).flatten(1)
        inputs = states.double().numpy()
        inputs = (inputs - inputs.mean(axis=0)) / np.maximum(inputs.std(axis=0), 1e-8)
        fixed = np.random.default_rng(0)
        directions = fixed.standard_normal((inputs.shape[1], features))
        found = np.tanh(inputs @ directions + fixed.standard_normal(features))
        found = np.concatenate([found, np.ones((len(values), 1))], axis=1)
        return found @ np.linalg.lstsq(found, values, rcond=1e-8)[0]


class LearntTrace(Carrying):
    """The scalar trace of the leader's advantage; see `bilevel_gym.methods.trace`."""

    def __init__(
        self, game: LearntGame, *, first_critic_updates: int | None = None, **options: Any
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            first_critic_updates: Gradient steps of the critic for the first x, at least 1; None for
                as many as for others.
            **options: See `Carrying`.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range.
        """
        if first_critic_updates is not None:
            check_at_least("first_critic_updates", first_critic_updates, 1)
        self._first_updates = first_critic_updates
        super().__init__(game, **options)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        super().reset(rng)
        self.critic: LeaderCritic = LeaderCritic(
            self._game, int(rng.integers(2**31)), self.follower.model.device
        )

    def leader_advantages(
        self, played: LearntEpisodes
    ) -> tuple[FloatArray, FloatArray | None, float]:
        """Return what a critic says that goes on learning from the replay; see `Carrying`."""
        first = self.follower.answered <= 1
        updates = self._first_updates or self._updates if first else self._updates
        loss = self.critic.fit(self.follower, updates, self._rng)
        return *self._judged(self.critic, *played.as_batch), loss


class LearntBCHG(LearntTrace):
    """The covariance of Kudo et al. (BC-HG, ICAPS 2026): the trace of the actions taken.

    `LearntTrace` averages the last action over the policy where it can; where actions are
    continuous, or the reward does not depend on them, there is nothing to average, and the two are
    the same.
    """

    averages_actions: ClassVar[bool] = False


class LearntHPGD(Carrying):
    """Hyper policy gradient descent: the leader's advantage from returns of on-policy episodes.

    Thoma, Pasztor, Krause, Ramponi, Hu (NeurIPS 2024, arXiv 2406.01575) average what follows a
    state and an action over its visits; see `bilevel_gym.methods.hpgd`. Without a table, that mean
    is a regression, which is ours: a network, new for each x, is fitted to the leader's discounted
    returns from each step on. As in HPGD nothing is learnt from other policies, so that it is
    noisier than `LearntTrace` from as many steps.

    What is judged must not be what was learnt from, or estimates come out several times too long:
    a return and the trace of the same episode are correlated. So one half of the episodes is judged
    by a network that has seen the other half alone. Returns are cut short where an episode is cut;
    hence steps in the first half of the game's `episode_steps` alone are learnt from.
    """

    usual_updates: ClassVar[int] = 1000

    def __init__(self, game: LearntGame, **options: Any) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            **options: See `Carrying`; `critic_updates` is of each of the two networks, and
                `episodes` at least 2.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range.
        """
        super().__init__(game, **options)
        check_at_least("episodes", self._num_episodes, 2)

    def leader_advantages(
        self, played: LearntEpisodes
    ) -> tuple[FloatArray, FloatArray | None, float]:
        """Return what regressions of returns say, each of the other half; see `Carrying`."""
        seen, taken = played.as_batch
        steps, episodes = np.nonzero(played.alive)
        returns = returns_to_go(played.upper_rewards, self._game.upper_gamma)[played.alive]
        followed = steps < (self._game.episode_steps + 1) // 2
        first = episodes < (played.num_episodes + 1) // 2
        advantages, every, losses = np.zeros(len(seen)), None, []
        for judged in (first, ~first):
            learnt = followed & ~judged
            critic = ReturnCritic(
                self._game, int(self._rng.integers(2**31)), self.follower.model.device
            )
            losses.append(
                critic.regress(
                    seen[learnt], taken[learnt], returns[learnt], self._updates, self._rng
                )
            )
            advantages[judged], table = self._judged(critic, seen[judged], taken[judged])
            if table is not None:
                every = np.zeros((len(seen), table.shape[1])) if every is None else every
                every[judged] = table
        return advantages, every, float(np.mean(losses))


class ReturnCritic(LeaderCritic):
    """Q_u(s, a), fitted to returns that were seen; of advantages only their differences count."""

    def regress(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        returns: FloatArray,
        updates: int,
        rng: np.random.Generator,
    ) -> float:
        """Take gradient steps on returns; return the mean squared error of the last tenth.

        Args:
            observations: `[B, ...]`.
            actions: `[B, ...]`.
            returns: What the leader was paid from there on, `[B]`.
            updates: Gradient steps, at least 1.
            rng: Where the batches come from.
        """
        # A network that is new finds small numbers faster; their mean is no part of an advantage.
        offset, scale = self._units = float(returns.mean()), max(float(returns.std()), 1e-8)
        targets = th.as_tensor((returns - offset) / scale, dtype=th.float32, device=self._device)
        losses = []
        for _ in range(updates):
            drawn = rng.integers(len(returns), size=BATCH)
            predicted = self._values(self.network, observations[drawn], actions[drawn])
            loss = th.nn.functional.mse_loss(predicted, targets[drawn])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(float(loss.detach()))
        return scale**2 * float(np.mean(losses[-max(1, updates // 10) :]))


def returns_to_go(rewards: FloatArray, gamma: float) -> FloatArray:
    """Return what is paid from each step on, discounted from there, `[T, N]`; rewards likewise."""
    returns = rewards.copy()
    for t in range(len(rewards) - 2, -1, -1):
        returns[t] += gamma * returns[t + 1]
    return returns


class LearntSoBiRL(Estimator):
    """The return of an episode, times the first term of the advantages of dr/dx along it."""

    def __init__(
        self,
        game: LearntGame,
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
