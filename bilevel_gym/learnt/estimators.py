"""Hyper-gradients from episodes of a follower who learns, for games without a table.

The identities are those of `bilevel_gym.methods.trace` and `bilevel_gym.methods.sobirl`; sums over
states become sums over the steps of episodes, and the derivative of the reward is one product of
its Jacobian with a weight for each step. `trace` carries the leader's advantage along an episode,

    e_t = gamma e_{t-1} + gamma_u^t A_u(s_t, a_t) / tau,

with A_u from a critic that is fitted to the learner's replay buffer. `hpgd` is the same with an A_u
from the episodes alone, a regression of returns on observations and actions; both are in
`bilevel_gym.learnt.traces`. `sobirl` is what the code of Yang, Gao, Yuan (AISTATS 2025, arXiv
2405.19697) computes: of the advantage of dr/dx it keeps the first term, so that it is biased, and
zero where the reward's gradient does not depend on the action.

Methods of games whose follower learns, `HyperGradient(game, method, **options)`: "trace" (the
default), "bc-hg", "hpgd" and "sobirl". Tabular games have them as "deep-trace" and so on, with
other defaults (`bilevel_gym.learnt.tables`). Tasks have their own, in `method_options`.

| option | default | what it is |
|---|---|---|
| `episodes` | 16 | episodes played for each x |
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

import warnings
from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any

import numpy as np

from ..core.checks import check_at_least, check_flag, received
from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, LearntEpisodes
from ..model.protocols import LearntGame
from ..model.responses import EpisodicResponse, Response
from ..rewards.tensors import blocks
from .checkpoints import Checkpointed

__all__ = ["BLOCK", "Estimator", "LearntSoBiRL", "over_actions", "returns", "reward_gradient"]

# Steps whose rewards are differentiated at a time, for networks and images.
BLOCK = 1024


class Estimator(Checkpointed, ABC):
    """Train the follower, play its episodes, estimate."""

    def __init__(self, game: LearntGame, *, episodes: int = 16, **options: Any) -> None:
        """Bind the method to a game; the options are in the table of this module."""
        self._num_episodes = check_at_least("episodes", episodes, 1)
        super().__init__(game, **options)

    @abstractmethod
    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, float | None]:
        """Return an estimate of the response term, shape of x, and the loss of a critic if any."""

    def step(self, upper_params: FloatArray) -> Response:
        """Let the follower learn under x, and estimate objective and hyper-gradient."""
        samples = self.follower.learn(upper_params)
        played = self.follower.play(upper_params, self._num_episodes, self._rng)
        response, loss = self.response_term(upper_params, played)
        value, direct, others, extra = self.other_terms(upper_params, played)
        upper = float(returns(played.upper_rewards, self._game.upper_gamma).mean())
        return self.answer(
            played,
            upper,
            float(returns(played.lower_rewards, self._game.gamma).mean()),
            upper_params=upper_params,
            objective=upper + value,
            hyper_gradient=direct + (response + others),
            direct_gradient=direct,
            samples=samples + played.num_steps + extra,
            critic_loss=loss,
        )

    def other_terms(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray, FloatArray, int]:
        """Return what the objective has beside the leader's return, and the direct part.

        These are F less the leader's return, dF/dx at a fixed policy, its derivative through the
        policy (both shape of x), and the environment steps played for it.
        """
        value, direct = self._game.direct_part(upper_params, played)
        return value, direct, np.zeros(upper_params.shape), 0

    def answer(self, played: LearntEpisodes, upper: float, lower: float, **common: Any) -> Response:
        """Return the response to x, of both players' mean returns and fields that are given."""
        length = played.num_steps / played.num_episodes
        return EpisodicResponse(summary=(upper, lower, length), **common)


class LearntSoBiRL(Estimator):
    """The return of an episode, times the first term of the advantages of dr/dx along it."""

    def __init__(
        self, game: LearntGame, *, truncation: int = 1, baseline: bool = True, **options: Any
    ) -> None:
        """Bind the method to a game; the options are in the table of this module."""
        self._baseline, self._warned = check_flag("baseline", baseline), False
        if not isinstance(truncation, Integral) or truncation != 1:
            raise ValueError(
                "`truncation` must be 1 where the follower learns, as further terms of the same "
                f"episode are correlated with its return, got {received(truncation)}; `trace` has "
                "all terms"
            )
        super().__init__(game, **options)

    def response_term(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[FloatArray, float | None]:
        """Return the one-step estimate; see `Estimator`."""
        game, follower, x = self._game, self.follower, upper_params
        alive, count = played.alive, played.num_episodes
        paid = returns(played.upper_rewards, game.upper_gamma)
        if self._baseline and count > 1:
            paid = paid - (paid.sum() - paid) / (count - 1)
        weights = np.broadcast_to(paid / game.temperature, alive.shape)[alive]
        seen, taken = played.as_batch
        estimate = reward_gradient(game, x, seen, taken, weights)
        if follower.discrete:
            mean = over_actions(game, x, seen, follower.probabilities(seen) * weights[:, None])
        else:
            mean = reward_gradient(game, x, seen, follower.draw(seen, self._rng), weights)
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


def returns(rewards: FloatArray, gamma: float) -> FloatArray:
    """Return the discounted sum of the rewards of each episode, `[N]`, of rewards `[T, N]`."""
    return np.power(gamma, np.arange(len(rewards))) @ rewards


def reward_gradient(
    game: LearntGame,
    upper_params: FloatArray,
    observations: Batch,
    actions: Batch,
    weights: FloatArray,
) -> FloatArray:
    """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x, some steps at a time."""
    total = np.zeros(upper_params.shape)
    for at in blocks(len(weights), BLOCK):
        total += game.reward_vjp(upper_params, observations[at], actions[at], weights[at])
    return total


def over_actions(
    game: LearntGame, upper_params: FloatArray, observations: Batch, weights: FloatArray
) -> FloatArray:
    """Return sum_ba weights(b, a) dr_x(s_b, a)/dx over all discrete actions, shape of x."""
    total, count = np.zeros(upper_params.shape), weights.shape[1]
    for at in blocks(len(weights), max(1, BLOCK // count)):
        each = np.repeat(observations[at], count, axis=0)
        actions = np.tile(np.arange(count), len(weights[at]))
        total += game.reward_vjp(upper_params, each, actions, weights[at].ravel())
    return total
