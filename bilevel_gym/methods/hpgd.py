"""HPGD: tables of Q-values of the leader and of the reward gradient, averaged from episodes.

Thoma, Pasztor, Krause, Ramponi, Hu, "Contextual bilevel reinforcement learning for incentive
alignment" (NeurIPS 2024, arXiv 2406.01575), hyper policy gradient descent. The response term is

    (1/tau) E_{s ~ d, a ~ pi}[ A_u(s, a) dA(s, a) ],   dA the advantage of dr/dx,

d the leader's discounted occupancy, and both advantages are Monte Carlo averages:

* `starts="on-policy"`: over visits of a pair in the very episodes that also give d. Cheap, and
  biased, as both factors come from the same data: by the order of 1 / episodes. Pairs without a
  visit count nothing; what follows a visit is averaged over the first half of the horizon alone, as
  later on it is cut short.
* `starts="uniform"`: over episodes started from every state and action, `rollouts` for each of the
  two factors, which are independent then: unbiased, at a price that grows with states and actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.checks import check_at_least, check_choice
from ..core.mdp import FloatArray
from ..model.tabular import TabularModel
from .episode_sums import (
    Batch,
    carried,
    carried_from,
    followed_visits,
    on_pairs,
    renormalised,
    spread,
)
from .sampled import TermByTerm

__all__ = ["HPGD"]

STARTS = ("on-policy", "uniform")


class HPGD(TermByTerm):
    """Estimate the hyper-gradient by products of averaged advantages."""

    def __init__(
        self, model: TabularModel, *, starts: str = "on-policy", rollouts: int = 1, **options: Any
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            starts: "on-policy" or "uniform", see above.
            rollouts: Episodes from each state and action for each factor, at least 1; for
                `starts="uniform"`.
            **options: See `Sampled`: episodes, horizon, inner, inner_options, error_bars.
        """
        self._uniform = check_choice("starts", starts, STARTS) == "uniform"
        super().__init__(model, **options)
        self._rollouts = check_at_least("rollouts", rollouts, 1)

    @property
    def regroups(self) -> bool:
        """Whether some of the episodes tell the same; of uniform starts each pair needs its own."""
        return super().regroups and not self._uniform

    def signed_occupancy(self, batch: Batch) -> FloatArray:
        """Return HPGD's estimate of dF/dr through pi*, `[S, A]`; see `Sampled`."""
        if self._uniform:
            return self._from_uniform_starts(batch)
        visits, q_values = batch.visits(), np.zeros(batch.policy.shape)
        for block in batch.blocks:
            discounts = batch.discounts(len(block.upper_rewards))[:, None]
            returns = discounts * _returns_to_go(block.upper_rewards, batch)
            q_values += on_pairs(block, returns) / batch.num_episodes
        seen = visits > 0.0
        q_values = np.divide(q_values, visits, out=np.zeros_like(q_values), where=seen)
        q_values *= visits.sum(axis=1, keepdims=True)
        injected = _injected(renormalised(batch.policy, seen), q_values, batch.temperature)
        followed = followed_visits(batch.blocks, batch)
        return injected + spread(batch.blocks, injected, followed, batch)

    def _from_uniform_starts(self, batch: Batch) -> FloatArray:
        policy, mask = batch.policy, self._model.action_mask
        available = np.ones(policy.shape, bool) if mask is None else mask
        states, actions = (np.repeat(index, self._rollouts) for index in np.nonzero(available))
        q_values, presence = np.zeros(policy.shape), _presence(batch)
        for block in batch.sampler.episodes_from(states, actions, batch.horizon, self._rng):
            taken, left = np.divmod(block.pairs[0], len(policy))
            rewards = block.upper_rewards[: batch.upper_horizon]
            discounted = batch.discounts(len(rewards))[:, None] * rewards
            weights = presence[: len(rewards), left]
            sums = (weights * discounted).sum(axis=0) / self._rollouts
            np.add.at(q_values, (left, taken), sums)
        injected = _injected(policy, q_values, batch.temperature)
        signed, each = injected.copy(), injected / self._rollouts
        for block, carry in carried_from(
            batch.sampler, (states, actions), each, batch.gamma, batch.horizon, self._rng
        ):
            signed += on_pairs(block, carry)
        return signed


def _injected(policy: FloatArray, q_values: FloatArray, temperature: float) -> FloatArray:
    """Return d(s) pi(a|s) A_u(s, a) / tau from d(s) Q_u(s, a)."""
    return policy * (q_values - (policy * q_values).sum(axis=1, keepdims=True)) / temperature


def _presence(batch: Batch) -> FloatArray:
    """Return the leader's discounted visits of states that leave it j steps and more, `[J, S]`.

    J is the leader's horizon; without one, all visits do, and J = 1.
    """
    if batch.upper_horizon is None:
        return batch.visits().sum(axis=1)[None]
    size, steps = len(batch.policy), batch.upper_horizon
    present = np.zeros((steps, size))
    for block in batch.blocks:
        for t, states in enumerate(block.states[:steps]):
            present[t] += np.bincount(states[states >= 0], minlength=size)
    present *= batch.discounts(steps)[:, None] / batch.num_episodes
    return present.cumsum(axis=0)[::-1]


def _returns_to_go(rewards: FloatArray, batch: Batch) -> FloatArray:
    """Return the leader's return from each step on, discounted from there, `[T, N]`.

    With a leader's horizon, what comes after it counts nothing.
    """
    counted = rewards.copy()
    if batch.upper_horizon is not None:
        counted[batch.upper_horizon :] = 0.0
    return counted + carried(counted[::-1], batch.upper_gamma)[::-1]
