"""PBRL with the value penalty; see `bilevel_gym.methods.pbrl` for the method and its source.

    p(x, y) = V*_x(rho) - V^{pi_y}_x(rho) = tau sum_s d_y(s) KL(pi_y(s) || pi*(s))

with both values entropy-regularised and d_y = (I - gamma P_{pi_y})^-T rho. By the envelope theorem
the policy pi* may be held fixed in dV*/dx, so that

    dL/dx = df/dx + lambda sum_sa (d_y pi_y - d_* pi*) dr/dx
            + lambda gamma sum_sas' (d_y pi_y V^{pi_y}(s') - d_* pi* V*(s')) dP/dx
            + lambda sum_s (V^{pi_y} - V*) d rho/dx.

The target of the mirror step is Q^{pi_y} / tau with Q^{pi_y} = r + gamma P V^{pi_y}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.bellman import soft_q
from ..core.checks import check_choice
from ..core.mdp import FloatArray
from ..core.soft import SoftSolution
from ..model.tabular import TabularModel
from .pbrl import PenaltyMethod, Point

__all__ = ["PBRLValue"]

STARTS = ("initial", "uniform")


class PBRLValue(PenaltyMethod):
    """Penalise what the policy loses of the follower's soft value."""

    def __init__(
        self,
        model: TabularModel,
        *,
        penalty: float = 1e3,
        start: str = "initial",
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            penalty: lambda, positive. Times the temperature it should be large against the leader's
                advantages.
            start: rho, "initial" for the game's first states, or "uniform". An objective that
                evaluates states which the follower hardly visits needs the latter: what is not
                visited is not penalised.
            **options: See `PenaltyMethod`: policy_steps, tolerance.
        """
        check_choice("start", start, STARTS)
        super().__init__(model, penalty=penalty, **options)
        self._start = start

    def _weight(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        return self._visits(x, solution)

    def _target(self, solution: SoftSolution, best: SoftSolution) -> FloatArray:
        return soft_q(solution.mdp, solution.soft_value) / solution.mdp.temperature

    def _gradient(self, x: FloatArray, at: Point) -> FloatArray:
        solution, best = at.solution, at.best
        mdp = best.mdp
        taken = at.weight[:, None] * solution.policy
        wanted = self._visits(x, best)[:, None] * best.policy

        def kernel() -> FloatArray:
            of_policy = mdp.kernel.on_transitions(taken, solution.soft_value)
            of_answer = mdp.kernel.on_transitions(wanted, best.soft_value)
            return mdp.gamma * (of_policy - of_answer)

        gradient = self._model.through_model(x, taken - wanted, kernel)
        if self._start == "initial":
            lost = solution.soft_value - best.soft_value
            gradient += self._model.through_start(x, lost)
        return gradient

    def _visits(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        """Return the discounted visits (I - gamma P_pi)^-T rho, `[S]`, not negative."""
        size = solution.mdp.kernel.num_states
        uniform = self._start == "uniform"
        start = np.full(size, 1.0 / size) if uniform else self._model.start_distribution(x)
        visits, _ = solution.system.solve(start, transpose=True)
        return np.maximum(visits, 0.0)
