"""BC-HG: the Boltzmann covariance of the Q-values of the leader and of the reward gradient.

Kudo, Tanabe, Wachi, Akimoto (ICAPS 2026, arXiv 2603.14867). The follower's policy is a Boltzmann
distribution, so that its derivative makes the response term a sum of covariances,

    (1/tau) E_pi[ sum_t gamma_u^t Cov_{a ~ pi(.|s_t)}( Q_u(s_t, a), dQ(s_t, a)/dx ) ].

The leader's advantage stands for the first factor, the discounted sum of dr/dx along the rest of
the same episode for the second one: neither states that are visited again nor an array of the size
of x are needed. Summed in another order this is a trace (`bilevel_gym.methods.trace`) over the
actions that were taken.
"""

from __future__ import annotations

from typing import Any

from ..model.tabular import TabularModel
from .trace import Trace

__all__ = ["BCHG"]


class BCHG(Trace):
    """Estimate the hyper-gradient by Boltzmann covariances along episodes."""

    def __init__(self, model: TabularModel, *, critic: str = "seen", **options: Any) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            critic: See `bilevel_gym.methods.trace.Trace`.
            **options: `truncation` of `Trace`, and those of
                `bilevel_gym.methods.sampled.Sampled`.
        """
        for option in ("all_actions", "control_variate"):
            if option in options:
                raise TypeError(
                    f"`{option}` is no option of method 'bc-hg', which sums over the actions "
                    "taken; method 'trace' has it"
                )
        super().__init__(model, critic=critic, all_actions=False, **options)
