"""M-SoBiRL, model-based soft bilevel reinforcement learning: approximate implicit differentiation.

Y. Yang, B. Gao, Y. Yuan, "Bilevel reinforcement learning via the development of hyper-gradient
without lower-level convexity", AISTATS 2025, arXiv 2405.19697 (algorithm M-SoBiRL).

The follower's value V and the adjoint vector w are kept while x moves, and each x improves both a
little. With u_c of `bilevel_gym.methods.model_based`, at each x:

    V <- T V, `sweeps` times;  pi the greedy policy of V;  u_c from f at pi
    A = (I - gamma P_pi)^T,   b = gamma sum_sa P(.|s, a) u_c(s, a)
    w <- w - xi A^T (A w - b), `adjoint_steps` times       (descent on |A w - b|^2 / 2)
    hyper-gradient = df/dx + sum_sa q dr/dx + gamma sum_sas' q V(s') dP/dx,   q = u_c + pi w

Where V and w have converged this is the exact hyper-gradient. The paper minimises; this maximises.
The paper's x enters the reward alone, and its f has no terms in log pi; both are covered here.

The descent diverges where xi >= 2 / |A|_2^2, which discounts near one and states that many lead to
can bring about: xi is then shortened to .95 of 2 / (|A|_1 |A|_inf), which is never too long. It
contracts with the square of A's condition number, which grows with 1 / (1 - gamma): where the
follower looks far ahead w lags many steps behind x, and what it lags behind can even point away
from the hyper-gradient. More `adjoint_steps` and smaller steps of x are what helps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.checks import check_at_least, check_positive
from ..core.mdp import FloatArray
from ..core.soft import SoftSolution
from ..model.tabular import TabularModel
from .model_based import SweptMethod

__all__ = ["MSoBiRL"]

# Share of the longest step for which the descent is known to converge.
SAFETY = 0.95


class MSoBiRL(SweptMethod):
    """Sweep the follower's value and step its adjoint a little for each x."""

    def __init__(
        self,
        model: TabularModel,
        *,
        adjoint_step: float = 0.5,
        adjoint_steps: int = 1,
        **options: Any,
    ) -> None:
        """Bind the method to a model; the defaults are the paper's.

        Args:
            model: A tabular model.
            adjoint_step: Length of the adjoint's gradient steps (xi), positive; shortened where it
                would make them diverge.
            adjoint_steps: Gradient steps of the adjoint for each x, at least 1.
            **options: See `SweptMethod`: sweeps (N), warm_start.
        """
        super().__init__(model, **options)
        self._step = check_positive("adjoint_step", adjoint_step)
        self._steps = check_at_least("adjoint_steps", adjoint_steps, 1)

    def _response(
        self, x: FloatArray, solution: SoftSolution, score: FloatArray, carried: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        kernel, gamma = solution.mdp.kernel, solution.mdp.gamma
        adjoint = descend(
            solution.system.matrix,
            gamma * kernel.flow(score),
            np.zeros(kernel.num_states) if carried is None else carried,
            self._step,
            self._steps,
        )
        reward = score + solution.policy * adjoint[:, None]
        response = self._model.through_model(
            x, reward, lambda: gamma * kernel.on_transitions(reward, solution.soft_value)
        )
        return response, adjoint


def descend(
    matrix: Any, target: FloatArray, start: FloatArray, length: float, steps: int
) -> FloatArray:
    """Take gradient steps on |A w - b|^2 / 2 from a first w, and return the last w `[S]`.

    The matrix is A^T `[S, S]`, dense or sparse, and the target b `[S]`. The length of steps is
    shortened where they could diverge.
    """
    size = abs(matrix)
    longest = 2.0 * SAFETY / float(size.sum(axis=0).max() * size.sum(axis=1).max())
    length = min(length, longest)
    transposed, adjoint = matrix.T, start
    for _ in range(steps):
        adjoint = adjoint - length * (matrix @ (transposed @ adjoint - target))
    return adjoint
