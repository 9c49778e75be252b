"""SoBiRL: the leader's loss of an episode, times the advantages of the reward's gradient along it.

Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697), the model-free algorithm. With l the leader's
return of an episode of I steps,

    response = (1/tau) E[ (l - b) sum_h (dQ - dV)(s_h, a_h) ],

where dQ - dV is the advantage of the vector-valued reward dr/dx under the follower's policy. The
baseline b (the mean return of the other episodes) leaves the expectation as it is. The advantages
come from a second, independent batch of episodes: taken from the same one they would be correlated
with l, and the product biased. There, each pair's gradient return is averaged over its visits;
pairs without a visit count nothing.

`truncation=K` keeps the first K terms of the advantage. K = 1 leaves dr/dx - E_pi dr/dx, which
needs no second batch; it is what the authors' code computes, it is biased, and it vanishes where
the reward's gradient does not depend on the action.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_at_least
from ..mdp import FloatArray
from .sampled import Batch, Sampled, carried, on_pairs

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
        other, samples = [], 0
        for block in batch.sampler.episodes(batch.num_episodes, batch.horizon, self._rng):
            other.append(block)
            samples += block.num_steps
        visits = sum(
            (on_pairs(block, block.alive.astype(np.float64), policy.shape) for block in other),
            start=np.zeros(policy.shape),
        )
        seen = visits > 0.0
        known = np.where(seen, policy, 0.0)
        mass = known.sum(axis=1, keepdims=True)
        known = np.divide(known, mass, out=np.zeros_like(known), where=mass > 0.0)
        weights = np.where(seen, weights, 0.0)
        centred = weights - known * weights.sum(axis=1, keepdims=True)
        per_visit = np.divide(centred, visits, out=np.zeros_like(visits), where=seen)
        for block in other:
            injections = block.trajectories.along(per_visit)
            carry = carried(injections, batch.gamma, self._truncation)
            signed += on_pairs(block, carry, policy.shape)
        return signed, samples

    def _return_weights(self, batch: Batch) -> FloatArray:
        """Return E[(l - b) sum_h 1[(s_h, a_h) = .]], estimated, `[S, A]`."""
        count = batch.num_episodes
        total = sum(float(returns.sum()) for _, returns in batch.returns())
        weights = np.zeros(batch.policy.shape)
        for block, returns in batch.returns():
            signal = returns
            if self._baseline and count > 1:
                signal = returns - (total - returns) / (count - 1)
            steps = np.broadcast_to(signal, block.upper_rewards.shape)
            weights += on_pairs(block, np.where(block.alive, steps, 0.0), batch.policy.shape)
        return weights / count


def _ignores_actions(game: TabularBilevelEnv) -> bool:
    """Whether dr/dx is the same for all actions of a state, seen by one random cotangent."""
    shape = (game.num_states, game.num_actions)
    x = game.initial_upper_params
    cotangent = np.random.default_rng(0).standard_normal(shape)
    whole = game.reward_vjp(x, cotangent)
    centred = game.reward_vjp(x, cotangent - cotangent.mean(axis=1, keepdims=True))
    return bool(np.abs(centred).max() <= 1e-12 * max(1.0, float(np.abs(whole).max())))
