"""Single-loop penalty methods: one mirror step of each policy for each x, and no inner solve.

PBRL-SL (openreview.net, NRaWmVVltg) takes the surrogates L(x, y) = f(x, pi_y) - lambda p(x, y) of
`bilevel_gym.methods.pbrl`, and replaces the oracle that solves for the follower's answer pi* by a
tracking policy, which follows pi* with one step of mirror descent (or policy gradient) for each
step of x. The abstract states this, and that O~(lambda eps^-2) steps reach a stationary point of
the surrogate. Ours is the rest: both penalties, the length 1 / tau of mirror steps, and the order:

    tracking policy   pi_hat <- softmax(Q^pi_hat / tau), Q^pi_hat at the x at hand
    own policy        pi_y   <- the mirror step of L with pi_hat in place of pi*
    hyper-gradient    df/dx - lambda dp/dx with pi_hat in place of pi*

Policies are evaluated exactly, by linear solves with the model, and both start from the follower's
answer to the first x, which is solved for once. An error in pi_hat - pi* is multiplied by lambda
where pi_y does not share it. Here both policies take steps of the same kind from the same start, so
that the one is behind by what the other is, up to O(1 / lambda): lambda times their difference is,
to this order, the derivative of the tracking policy. At an x that stays, errors are those of
`pbrl-value` and `pbrl-bellman` after a few steps (mirror steps of this length are Newton's).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from ..core.bellman import soft_q
from ..core.mdp import FloatArray
from ..core.soft import solve_soft_mdp
from ..core.threads import single_threaded
from ..model.responses import TabularResponse
from .pbrl import BellmanPenalty, PenaltyMethod, ValuePenalty, at_policy

__all__ = ["PBRLSLBellman", "PBRLSLValue", "SingleLoop"]


class SingleLoop(PenaltyMethod):
    """Take one step of both policies for each x, and report the gradient of f - lambda p in x."""

    remembered: ClassVar[tuple[str, ...]] = ("_log_policy", "_tracking")

    def reset(self, rng: np.random.Generator) -> None:
        """Forget both policies: they start from the follower's answer to the first x.

        The method draws nothing from `rng`.
        """
        self._log_policy: FloatArray | None = None
        self._tracking: FloatArray | None = None

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return f at the method's own policy after its step, and the surrogate's gradient.

        `policy`, `occupancy`, `soft_value`, `lower_value` and `residual` are those of that policy
        too; there is no tolerance that it could meet.

        Raises:
            ArithmeticError: If values overflow.
        """
        x = self._model.validate(upper_params)
        mdp = self._model.lower_mdp(x)
        if self._tracking is None or self._log_policy is None:
            self._tracking = self._log_policy = solve_soft_mdp(mdp).log_policy
        before = at_policy(mdp, self._tracking, solver="auto")
        self._tracking = log_softmax(soft_q(mdp, before.soft_value) / mdp.temperature, axis=1)
        best = at_policy(mdp, self._tracking, solver="auto")
        self._log_policy = self._goal(self._point(x, best, self._log_policy))
        at = self._point(x, best, self._log_policy)
        total = at.evaluation.direct + self._penalty * self._gradient(x, at)
        return at.evaluation.response(total, iterations=1, converged=None)


class PBRLSLValue(SingleLoop, ValuePenalty):
    """Follow the surrogate of the value penalty, one step for each x."""


class PBRLSLBellman(SingleLoop, BellmanPenalty):
    """Follow the surrogate of the Bellman penalty, one step for each x."""
