"""The policy gradient in x, with the score of the follower's policy from successor features.

The leader's objective depends on x through the follower's policy, and

    dF/dx = E[ sum_t gamma_u^t A_u(s_t, a_t) dlog pi(a_t | s_t)/dx ],

the policy gradient theorem (Sutton, McAllester, Singh, Mansour, NeurIPS 1999) with x in the place
of a policy's parameters. The score dlog pi/dx comes from networks that learn dQ_x/dx from all that
was seen, see `bilevel_gym.learnt.successors`; the advantages A_u are generalised ones of the
watched episodes, over a regression that the episode itself is no part of. What is learnt is a
property of the follower, and dense where the leader's rewards may be sparse; one number for each
entry of x, so that there must be few of them.

Where x moves the dynamics, and the game knows dlog P(s'|s, a)/dx, that is added to the policy's
score: both are factors of the probability of an episode (the likelihood ratio of Glynn,
Communications of the ACM 33, 1990). What follows an action includes where it leads, so that the
same advantage is right for both.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..core.checks import check_at_least, check_probability
from ..core.mdp import FloatArray
from ..episodes.recorded import LearntEpisodes
from ..model.protocols import LearntGame
from ..rewards.images import is_image_space
from ..rewards.models import FEW
from .baselines import generalised_advantages
from .estimators import Estimator
from .successors import HALVES, SuccessorFeatures
from .trust import Estimate, group_of

__all__ = ["LearntScore"]


class LearntScore(Estimator):
    """The policy gradient in x, with scores from successor features of dr_x/dx."""

    critic: SuccessorFeatures

    def __init__(
        self,
        game: LearntGame,
        *,
        critic_updates: int = 2000,
        gae_lambda: float = 0.95,
        **options: Any,
    ) -> None:
        """Bind the method to a game; the options are in the table of `estimators`.

        Raises:
            TypeError: If observations are images, x has more than 64 entries, or it moves the
                dynamics and the game does not know the derivative.
        """
        self._updates = check_at_least("critic_updates", critic_updates, 1)
        self._gae_lambda = check_probability("gae_lambda", gae_lambda)
        size = game.initial_upper_params.size
        if size > FEW or is_image_space(game.observation_space):
            what = "images" if size <= FEW else f"{size} parameters"
            raise TypeError(
                f"`score` learns a number for each entry of x, {FEW} at most, from vectors or "
                f'discrete observations, and {game.title} has {what}; take "trace"'
            )
        if game.moves_dynamics:
            _try_score(game)
        super().__init__(game, **options)

    def _forget(self) -> None:
        super()._forget()
        seed = int(self._rng.integers(2**31))
        self.critic = SuccessorFeatures(self._game, seed, self.follower.model.device)

    def response_term(self, upper_params: FloatArray, played: LearntEpisodes) -> Estimate:
        """Return the policy gradient; see `Estimator`."""
        game, follower, critic, x = self._game, self.follower, self.critic, upper_params
        loss = critic.fit(follower, x, played, self._updates, self._rng)
        scores = critic.scores(follower, *played.as_batch, self._rng)
        advantages = generalised_advantages(
            played, game.observation_space, game.upper_gamma, self._gae_lambda
        )
        steps, episodes = np.nonzero(played.alive)
        weights = np.power(game.upper_gamma, steps) * advantages[played.alive]
        each, direct = weights[:, None] * scores.each, None
        if game.moves_dynamics:
            seen = *played.as_batch, played.next_observations[played.alive]
            moved = weights[:, None] * game.transition_score(x, *seen)
            each, direct = each + moved, moved.sum(axis=0).reshape(x.shape) / played.num_episodes
        # Each episode by the network that has not learnt from it.
        own = each[1 - episodes % HALVES, np.arange(len(steps))]
        count = played.num_episodes
        groups = group_of(np.arange(count), count)
        parts = np.zeros((groups.max() + 1, x.size))
        np.add.at(parts, groups[episodes], own)
        parts /= np.bincount(groups)[:, None]
        return Estimate(
            gradient=(own.sum(axis=0) / count).reshape(x.shape),
            critic_loss=loss,
            parts=parts.reshape(-1, *x.shape),
            critics=(each.sum(axis=1) / count).reshape(-1, *x.shape),
            explained=critic.explained,
            metric=scores.metric,
            direct=direct,
        )


def _try_score(game: LearntGame) -> None:
    """Ask for the score of a transition; raise a `TypeError` if the game does not know it."""
    environment = game.make_environment()
    before, _ = environment.reset(seed=0)
    before = np.array(before)
    actions = copy.deepcopy(game.lower_space)
    actions.seed(0)
    action = actions.sample()
    after = environment.step(action)[0]
    environment.close()
    parts = (np.asarray(part)[None] for part in (before, action, after))
    game.transition_score(game.initial_upper_params, *parts)
