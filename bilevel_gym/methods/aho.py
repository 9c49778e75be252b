"""AHO: values of discounted reward gradients at the follower's Boltzmann optimum, from rollouts.

arXiv 2607.28849 (2026). Of it we know what its abstract says: the hyper-gradient is free of
Hessians, as the optimum of the entropy-regularised follower is a Boltzmann distribution whose
derivative is made of values of discounted reward gradients; O(eps^-1) iterations and O~(eps^-2)
samples, that is of the order of eps^-1 rollouts in each iteration, of a length that grows with
log 1/eps. With dQ(s, a) = E sum_t gamma^t dr/dx from (s, a) on, dV its mean over the actions, and d
the leader's discounted visits,

    dpi(a|s) = (pi(a|s) / tau) (dQ(s, a) - dV(s)),
    response = sum_sa c(s, a) dQ(s, a),   c(s, a) = d(s) pi(a|s) A_u(s, a) / tau.

Ours is how it is estimated. The factor c is a table: d from the episodes played, the leader's
advantage A_u from a critic that is fitted to the transitions seen, as in
`bilevel_gym.methods.trace`. The values dQ come from rollouts, as many as episodes, that start from
pairs drawn in proportion to |c| and never enter the critic: pairs are looked at where they matter
to the leader, not where the follower goes. That needs a simulator that can be set to a state. As c
sums to zero in each state, dV needs no estimate of its own. The bias is the critic's, and falls as
1 / episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.mdp import FloatArray
from ..model.tabular import TabularModel
from .episode_sums import Batch, on_states
from .sampled import followed
from .trace import Trace

__all__ = ["AHO"]


class AHO(Trace):
    """Estimate the hyper-gradient by rollouts from the pairs that matter to the leader."""

    def __init__(self, model: TabularModel, *, critic: str = "seen", **options: Any) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            critic: See `bilevel_gym.methods.trace.Trace`.
            **options: Those of `bilevel_gym.methods.sampled.Sampled`.
        """
        for option in ("all_actions", "control_variate", "truncation"):
            if option in options:
                raise TypeError(
                    f"`{option}` is no option of method 'aho', whose rollouts are of another kind; "
                    "method 'trace' has it"
                )
        super().__init__(model, critic=critic, control_variate=False, **options)

    def signed_occupancy(self, batch: Batch) -> FloatArray:
        """Return AHO's estimate of dF/dr through pi*, `[S, A]`; see `Sampled`."""
        injected = np.zeros(batch.policy.shape)
        tables = self._advantages(batch, max(len(block.upper_rewards) for block in batch.blocks))
        for block in batch.blocks:
            weights = batch.discounts(len(block.upper_rewards))[:, None]
            along = np.broadcast_to(weights, block.upper_rewards.shape)
            if len(tables) == 1:
                injected += on_states(block, along)[:, None] * tables[0]
                continue
            for t, table in enumerate(tables[: len(along)]):
                present = block.states[t]
                number = np.bincount(present[present >= 0], minlength=len(injected))
                injected += weights[t] * number[:, None] * table
        injected *= batch.policy / (batch.temperature * batch.num_episodes)
        return followed(
            injected,
            batch.policy,
            batch.sampler,
            batch.gamma,
            batch.num_episodes,
            batch.horizon,
            self._rng,
        )
