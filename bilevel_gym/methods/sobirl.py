"""SoBiRL: the leader's loss of an episode, times the advantages of the reward's gradient along it.

Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697), the model-free algorithm. With l the leader's
return of an episode of I steps,

    response = (1/tau) E[ (l - b) sum_h (dQ - dV)(s_h, a_h) ],

where dQ - dV is the advantage of the vector-valued reward dr/dx under the follower's policy. The
baseline b (the mean return of the other episodes) leaves the expectation as it is. The advantages
come from a second, independent batch of episodes: taken from the same one they would be correlated
with l, and the product biased. There, each pair's gradient return is averaged over its visits in
the first half of the horizon (later ones are cut short); pairs without a visit count nothing. What
bias remains is of the order of 1 / episodes.

`truncation=K` keeps the first K terms of the advantage. K = 1 leaves dr/dx - E_pi dr/dx, which
needs no second batch; it is what the authors' code computes, it is biased, and it vanishes where
the reward's gradient does not depend on the action.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_at_least, check_flag
from ..mdp import FloatArray
from .sampled import Batch, Sampled, followed_visits, on_pairs, renormalised, spread

if TYPE_CHECKING:
    from ..envs.tabular import TabularBilevelEnv

__all__ = ["SoBiRL"]


class SoBiRL(Sampled):
    """Estimate the hyper-gradient from returns of episodes and advantages of dr/dx."""

    def __init__(
        self,
        game: TabularBilevelEnv,
        *,
        truncation: int | None = None,
        baseline: bool = True,
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A tabular game whose x enters the rewards alone.
            truncation: Terms of the advantage that are kept, at least 1; None for all.
            baseline: Whether to subtract the mean return of the other episodes.
            **options: See `Sampled`: episodes, horizon, inner, inner_options.

        Raises:
            TypeError: If the method does not suit the game, or an option is unknown.
            ValueError: If an option is out of range.
        """
        super().__init__(game, **options)
        if truncation is not None:
            check_at_least("truncation", truncation, 1)
        check_flag("baseline", baseline)
        self._truncation, self._baseline = truncation, bool(baseline)
        if truncation == 1 and _ignores_actions(game):
            warnings.warn(
                f"with truncation=1 the response term is zero for {type(game).__name__}: the "
                "gradient of its reward does not depend on the action",
                stacklevel=2,
            )

    def signed_occupancy(self, batch: Batch) -> tuple[FloatArray, int]:
        """Return the paper's estimate of dF/dr through pi*, `[S, A]`; see `Sampled`."""
        policy = batch.policy
        weights = self._return_weights(batch) / batch.temperature
        # The first term of the advantage is known: r is.
        signed = weights - policy * weights.sum(axis=1, keepdims=True)
        if self._truncation == 1:
            return signed, 0
        # dQ - dV after it: what follows a visit, averaged over visits of the pair, minus the same
        # over the pairs of the state.
        other = list(batch.sampler.episodes(batch.num_episodes, batch.horizon, self._rng))
        visits = followed_visits(other, batch)
        seen = visits > 0.0
        weights = np.where(seen, weights, 0.0)
        centred = weights - renormalised(policy, seen) * weights.sum(axis=1, keepdims=True)
        signed += spread(other, centred, visits, batch, self._truncation)
        return signed, sum(block.num_steps for block in other)

    def _return_weights(self, batch: Batch) -> FloatArray:
        """Return E[(l - b) sum_h 1[(s_h, a_h) = .]], estimated, `[S, A]`."""
        count = batch.num_episodes
        total = sum(float(returns.sum()) for _, returns in batch.returns())
        weights = np.zeros(batch.policy.shape)
        for block, returns in batch.returns():
            signal = returns
            if self._baseline and count > 1:
                signal = returns - (total - returns) / (count - 1)
            along = np.where(block.alive, signal, 0.0)
            if batch.upper_horizon is not None:  # later actions have no part in the return
                along[batch.upper_horizon :] = 0.0
            weights += on_pairs(block, along, batch.policy.shape)
        return weights / count


def _ignores_actions(game: TabularBilevelEnv) -> bool:
    """Whether dr/dx is the same for all actions of a state, seen by one random cotangent."""
    shape = (game.num_states, game.num_actions)
    x, mask = game.initial_upper_params, game.action_mask
    exists = np.ones(shape, dtype=bool) if mask is None else mask
    cotangent = np.where(exists, np.random.default_rng(0).standard_normal(shape), 0.0)
    mean = cotangent.sum(axis=1, keepdims=True) / exists.sum(axis=1, keepdims=True)
    whole = game.reward_vjp(x, cotangent)
    centred = game.reward_vjp(x, np.where(exists, cotangent - mean, 0.0))
    return bool(np.abs(centred).max() <= 1e-10 * np.abs(whole).max())
