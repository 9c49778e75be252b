"""PBRL with the Bellman penalty; see `bilevel_gym.methods.pbrl` for the method and its source.

With g(x, y) = E_s [-sum_a pi_y Q*_x(s, a) + tau sum_a pi_y log pi_y] over uniform states s, whose
minimum over y is -E_s [V*_x(s)], attained at pi*,

    p(x, y) = g(x, y) - min_y g(x, y) = tau E_s KL(pi_y(s) || pi*(s)).

Unlike the value penalty it is strongly convex in the policy of every state, visited or not, and its
gradient holds the sensitivity of the follower's Q*: with c = E_s-weighted (pi_y - pi*),

    -dp/dx = sum_sa c dQ*/dx = sum_sa q dr/dx + gamma sum_sas' q V*(s') dP/dx,
    q = c + pi* z,   (I - gamma P_pi*)^T z = gamma sum_sa P(.|s, a) c(s, a),

and dL/dx = df/dx - lambda dp/dx. The target of the mirror step is log pi*.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.mdp import FloatArray
from ..core.soft import SoftSolution
from ..model.tabular import TabularModel
from .pbrl import PenaltyMethod, Point

__all__ = ["PBRLBellman"]


class PBRLBellman(PenaltyMethod):
    """Penalise how far the policy is from the follower's in each state alike."""

    def __init__(self, model: TabularModel, *, penalty: float = 1e5, **options: Any) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            penalty: lambda, positive. A state counts for 1 / S of it, however often the leader sees
                the follower there, so that it must be larger than for the value penalty.
            **options: See `PenaltyMethod`: policy_steps, tolerance.
        """
        super().__init__(model, penalty=penalty, **options)

    def _weight(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        size = solution.mdp.kernel.num_states
        return np.full(size, 1.0 / size)

    def _target(self, solution: SoftSolution, best: SoftSolution) -> FloatArray:
        return best.log_policy

    def _gradient(self, x: FloatArray, at: Point) -> FloatArray:
        best = at.best
        kernel, gamma = best.mdp.kernel, best.mdp.gamma
        moved = at.weight[:, None] * (at.solution.policy - best.policy)
        adjoint, _ = best.system.solve(gamma * kernel.flow(moved), transpose=True)
        reward = moved + best.policy * adjoint[:, None]
        return self._model.through_model(
            x, reward, lambda: gamma * kernel.on_transitions(reward, best.soft_value)
        )
