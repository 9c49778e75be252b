"""The trace of the leader's advantage along episodes of a follower who learns.

See `bilevel_gym.learnt.estimators`; the methods differ in where the advantage comes from.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..core.checks import check_at_least, check_flag, optional
from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, LearntEpisodes, as_argument
from ..methods.episode_sums import carried
from ..model.protocols import LearntGame
from ..rewards.images import is_image_space
from ..rewards.tensors import blocks
from .baselines import explained_variance, random_features, returns_to_go, standardised
from .critics import LeaderCritic, LeaderCritics, ReturnCritic
from .estimators import BLOCK, Estimator, averaged, by_group, over_actions, reward_gradient
from .trust import Estimate

__all__ = ["LearntBCHG", "LearntHPGD", "LearntTrace", "TraceEstimator"]

# Features that advantages are regressed on by default: so many at most, one for so many steps.
MOST_FEATURES, STEPS_PER_FEATURE = 60, 20


class Judged(NamedTuple):
    """The leader's advantages of the follower's actions in B steps.

    Attributes:
        each: By each critic: those of the actions taken `[B]`, and of all actions `[B, A]` if they
            are discrete.
        loss: What the critics are left with.
        explained: Share of the variance of watched returns that they explain.
    """

    each: list[tuple[FloatArray, FloatArray | None]]
    loss: float
    explained: float | None = None


class TraceEstimator(Estimator):
    """The trace of the leader's advantage along episodes, from any critic."""

    averages_actions: ClassVar[bool] = True
    default_updates: ClassVar[int] = 200

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
        """Bind the method to a game; the options are in the table of `estimators`.

        With `discount_steps=False` long episodes are used to their end, which is biased. What the
        `state_features` explain of advantages is noise, as the mean of an advantage in a state is
        zero, and is subtracted. That helps the more, the less random an episode is, and shortens
        estimates where there are few steps for each feature. 0 is for none, None for one for 20
        steps, but 60 at most, and none of images.
        """
        updates = self.default_updates if critic_updates is None else critic_updates
        self._updates = check_at_least("critic_updates", updates, 1)
        self._truncation = optional(check_at_least, "truncation", truncation, 1)
        self._discount_steps = check_flag("discount_steps", discount_steps)
        self._state_features = optional(check_at_least, "state_features", state_features, 0)
        super().__init__(game, **options)

    @abstractmethod
    def leader_advantages(self, played: LearntEpisodes) -> Judged:
        """Estimate the leader's advantage of the follower's actions in the steps of episodes."""

    def response_term(self, upper_params: FloatArray, played: LearntEpisodes) -> Estimate:
        """Return the trace's estimate; see `Estimator`."""
        judged = self.leader_advantages(played)
        each = np.stack([self._traced(upper_params, played, *of) for of in judged.each])
        count = played.num_episodes
        return averaged(
            each.mean(axis=0),
            count,
            critic_loss=judged.loss,
            critics=each.sum(axis=1) / count if len(each) > 1 else None,
            explained=judged.explained,
        )

    def _traced(
        self,
        upper_params: FloatArray,
        played: LearntEpisodes,
        advantages: FloatArray,
        every: FloatArray | None,
    ) -> FloatArray:
        """Return the sum of the estimates of episodes in each group, `[G, *x]`."""
        game, follower, x = self._game, self.follower, upper_params
        alive = played.alive
        seen, taken = played.as_batch
        gamma = game.upper_gamma if self._discount_steps else 1.0
        late = np.broadcast_to(np.power(gamma, np.arange(len(alive)))[:, None], alive.shape)
        injections = np.zeros(alive.shape)
        injections[alive] = late[alive] * advantages / game.temperature
        features = self._features_for(len(seen))
        if features:
            injections[alive] -= self._explained(injections[alive], seen, features)
        carry = carried(injections, game.gamma, self._truncation)
        if alive.all() and alive.shape[1] > 1:
            # The mean of the other episodes: with its own share the estimate would be too short.
            carry -= (carry.sum(axis=1, keepdims=True) - carry) / (alive.shape[1] - 1)
        # Terms of actions that were not taken are not known.
        if every is None or not self.averages_actions or game.term_names:
            weights = (carry + injections)[alive]
            along = seen, taken, weights, *as_argument(played.terms_of_batch).values()
            return by_group(played, partial(reward_gradient, game, x), *along)
        # The policy is known: the last action is averaged over.
        own = late[alive][:, None] * every / game.temperature
        shares = follower.probabilities(seen) * (carry[alive][:, None] + own)
        return by_group(played, partial(over_actions, game, x), seen, shares)

    def _evaluated(
        self, critic: LeaderCritic, observations: Batch, actions: Batch
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return what `LeaderCritic.advantages` does, block by block."""
        found = [
            critic.advantages(observations[at], actions[at], self.follower, self._rng)
            for at in blocks(len(observations), BLOCK)
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

    def _explained(self, values: FloatArray, observations: Batch, features: int) -> FloatArray:
        """Return what so many random features of the state explain of some values, `[B]`."""
        found = random_features(standardised(observations, self._game.observation_space), features)
        return found @ np.linalg.lstsq(found, values, rcond=1e-8)[0]


class LearntTrace(TraceEstimator):
    """The scalar trace with a critic of the replay buffer; see `bilevel_gym.methods.trace`."""

    critic: LeaderCritics

    def __init__(
        self, game: LearntGame, *, first_critic_updates: int | None = None, **options: Any
    ) -> None:
        """Bind the method to a game; the options are in the table of `estimators`."""
        self._first_updates = optional(
            check_at_least, "first_critic_updates", first_critic_updates, 1
        )
        super().__init__(game, **options)

    def _forget(self) -> None:
        super()._forget()
        seed = int(self._rng.integers(2**31))
        self.critic = LeaderCritics(self._game, seed, self.follower.model.device)

    def leader_advantages(self, played: LearntEpisodes) -> Judged:
        """Return those of critics that go on learning from the replay; see `TraceEstimator`."""
        critics, first = self.critic, self.follower.answered <= 1
        updates = self._first_updates or self._updates if first else self._updates
        loss = critics.fit(self.follower, played, updates, self._rng)
        found = [self._evaluated(critic, *played.as_batch) for critic in critics.each]
        return Judged(found, loss, critics.explained)


class LearntBCHG(LearntTrace):
    """The covariance of Kudo et al. (BC-HG, ICAPS 2026): the trace of the actions taken.

    `LearntTrace` averages the last action over the policy where it can; where actions are
    continuous, or the reward does not depend on them, there is nothing to average, and the two are
    the same.
    """

    averages_actions: ClassVar[bool] = False


class LearntHPGD(TraceEstimator):
    """Hyper policy gradient descent: the leader's advantage from returns of on-policy episodes.

    Thoma, Pasztor, Krause, Ramponi, Hu (NeurIPS 2024, arXiv 2406.01575) average the returns that
    follow a state and an action over its visits; see `bilevel_gym.methods.hpgd`. Without a table
    that mean is a regression, which is ours: a network, new for each x, is fitted to the leader's
    discounted returns from each step on. As in HPGD nothing is learnt from other policies, so that
    it is noisier than `LearntTrace` from as many steps.

    A network must not be evaluated on the episodes that it has learnt from, or estimates come out
    several times too long: a return and the trace of the same episode are correlated. So each half
    of the episodes is evaluated by a network that has learnt from the other half. Returns are cut
    short where an episode is cut; hence only steps in the first half of the game's `episode_steps`
    are learnt from.
    """

    default_updates: ClassVar[int] = 1000

    def __init__(self, game: LearntGame, **options: Any) -> None:
        """Bind the method to a game; `critic_updates` is of each of the two networks."""
        super().__init__(game, **options)
        optional(check_at_least, "episodes", self._num_episodes, 2)

    def leader_advantages(self, played: LearntEpisodes) -> Judged:
        """Return those of two regressions of returns; see `TraceEstimator`."""
        seen, taken = played.as_batch
        steps, episodes = np.nonzero(played.alive)
        returns = returns_to_go(played.upper_rewards, self._game.upper_gamma)[played.alive]
        followed = steps < (self._game.episode_steps + 1) // 2
        first = episodes < (played.num_episodes + 1) // 2
        advantages, every, losses = np.zeros(len(seen)), None, []
        predicted = np.zeros(len(seen))
        for half in (first, ~first):
            learnt, seed = followed & ~half, int(self._rng.integers(2**31))
            critic = ReturnCritic(self._game, seed, self.follower.model.device)
            loss = critic.regress(
                seen[learnt], taken[learnt], returns[learnt], self._updates, self._rng
            )
            losses.append(loss)
            predicted[half] = critic.q_values(seen[half], taken[half])
            advantages[half], table = self._evaluated(critic, seen[half], taken[half])
            if table is not None:
                every = np.zeros((len(seen), table.shape[1])) if every is None else every
                every[half] = table
        explained = explained_variance(predicted[followed], returns[followed])
        return Judged([(advantages, every)], float(np.mean(losses)), explained)
