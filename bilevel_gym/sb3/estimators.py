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

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..checks import check_at_least, check_flag
from ..mdp import FloatArray
from ..methods.base import EpisodicResponse
from ..methods.sampled import carried
from .critic import LeaderCritic
from .followers import Follower, LearntEpisodes

if TYPE_CHECKING:
    from ..envs.parametric import ParametricGame

__all__ = ["BCHG", "Estimator", "SoBiRL", "Trace"]


class Estimator(ABC):
    """Train the follower, watch it, estimate."""

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
            inner_options: Its arguments.

        Raises:
            TypeError: If the learner does not take an argument.
            ValueError: If an option is out of range.
        """
        check_at_least("episodes", episodes, 1)
        self._game, self._num_episodes = game, int(episodes)
        self._rng = np.random.default_rng(0)
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
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose follower learns.
            critic_updates: Gradient steps of the leader's critic for each x, at least 1.
            truncation: Steps that an injection counts, its own included; None for all.
            discount_steps: Whether what happens late counts for less, as the objective says; not
                to do so is biased, but loses nothing of long episodes.
            **options: See `Estimator`.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range.
        """
        check_at_least("critic_updates", critic_updates, 1)
        if truncation is not None:
            check_at_least("truncation", truncation, 1)
        check_flag("discount_steps", discount_steps)
        self._updates, self._truncation = int(critic_updates), truncation
        self._discount_steps = bool(discount_steps)
        super().__init__(game, **options)
        self.reset(self._rng)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        super().reset(rng)
        self._critic = LeaderCritic(self._game, int(rng.integers(2**31)))

    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, float]:
        """Return the trace's estimate; see `Estimator`."""
        game, follower, alive = self._game, self.follower, played.alive
        loss = self._critic.fit(follower, self._updates, self._rng)
        seen, taken = played.as_batch
        advantages, table = self._critic.advantages(seen, taken, follower, self._rng)
        steps = np.arange(len(alive))
        late = np.power(game.upper_gamma if self._discount_steps else 1.0, steps)[:, None]
        injections = np.zeros(alive.shape)
        injections[alive] = advantages / game.temperature
        injections *= late
        carry = carried(injections, game.gamma, self._truncation)
        if alive.all() and alive.shape[1] > 1:
            # Where every episode goes on, its mean is zero whatever the state: a sample's is not.
            carry -= carry.mean(axis=1, keepdims=True)
        if table is None or not self.averages_actions:
            weights = (carry + injections)[alive]
            return game.reward_vjp(upper_params, seen, taken, weights) / played.num_episodes, loss
        # The policy is known: the last action is averaged over.
        factors = np.broadcast_to(late, alive.shape)[alive][:, None] / game.temperature
        weights = follower.probabilities(seen) * (carry[alive][:, None] + factors * table)
        count = weights.shape[1]
        every = np.tile(np.arange(count), len(seen))
        each = np.repeat(seen, count, axis=0)
        estimate = game.reward_vjp(upper_params, each, every, weights.ravel())
        return estimate / played.num_episodes, loss


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
        game, alive, count = self._game, played.alive, played.num_episodes
        returns = np.power(game.upper_gamma, np.arange(len(alive))) @ played.upper_rewards
        if self._baseline and count > 1:
            returns = returns - (returns.sum() - returns) / (count - 1)
        weights = np.broadcast_to(returns / game.temperature, alive.shape)[alive]
        seen, taken = played.as_batch
        follower = self.follower
        estimate = game.reward_vjp(upper_params, seen, taken, weights)
        if follower.discrete:
            shares = follower.probabilities(seen) * weights[:, None]
            every = np.tile(np.arange(shares.shape[1]), len(seen))
            each = np.repeat(seen, shares.shape[1], axis=0)
            mean = game.reward_vjp(upper_params, each, every, shares.ravel())
        else:
            mean = game.reward_vjp(upper_params, seen, follower.draw(seen, self._rng), weights)
        size = float(np.linalg.norm(estimate))
        response = estimate - mean
        if not self._warned and np.linalg.norm(response) <= 1e-8 * size:
            self._warned = True
            warnings.warn(
                f"the one-step response term is zero for {game.title}: the gradient of its reward "
                "does not depend on the action; `trace` has all terms",
                stacklevel=2,
            )
        return response / count, None
