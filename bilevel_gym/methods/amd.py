"""AMD, adaptive model design: the follower's answer is differentiated forwards.

S. Chen, D. Yang, J. Li, S. Wang, Z. Yang, Z. Wang, "Adaptive model design for Markov decision
process", ICML 2022. The follower's value V and its sensitivity dV/dx `[S, D]` are kept while x
moves. With u_c of `bilevel_gym.methods.model_based`, at each x:

    V <- T V, `sweeps` times;  pi the greedy policy of V
    dV/dx <- sum_a pi (dr/dx + gamma P dV/dx + gamma dP/dx V), `sweeps` times
    dQ/dx = dr/dx + gamma P dV/dx + gamma dP/dx V,   dpi/dx = (pi / tau) (dQ/dx - sum_b pi dQ/dx)
    hyper-gradient = df/dx + sum_sa f_pi dpi/dx = df/dx + sum_sa u_c dQ/dx

Where both have converged this is the exact hyper-gradient. It costs D numbers per state and action,
where the adjoint costs one: with many parameters it is the slow way, and the Jacobian
takes one vector-Jacobian product for each state and action (cached for as long as x stays).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.mdp import FloatArray, Kernel, TabularMDP, action_major
from ..core.soft import SoftSolution
from ..model.tabular import TabularModel
from .model_based import SweptMethod

__all__ = ["AMD"]

# Largest number of state-action pairs, each a vector-Jacobian product; of entries of the Jacobian
# held (256 MiB); and of numbers in all the cotangents of the kernel.
MAX_PAIRS, MAX_ENTRIES, MAX_COTANGENTS = 50_000, 1 << 25, 1 << 31


class AMD(SweptMethod):
    """Sweep the follower's value and its derivative with respect to x."""

    def __init__(self, model: TabularModel, *, sweeps: int = 10, **options: Any) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model with at most 50,000 states times actions, and at most 2^25
                entries in the Jacobian of its reward.
            sweeps: Sweeps of the value, and of its sensitivity, for each x, at least 1.
            **options: See `SweptMethod`: warm_start.

        Raises:
            TypeError: If the model is not tabular, or an option is unknown.
            ValueError: If an option is out of range, or the model is too large.
        """
        super().__init__(model, sweeps=sweeps, **options)
        self._sweeps = int(sweeps)
        self._check_size(model.initial_kernel)
        self._jacobian: tuple[FloatArray, FloatArray] | None = None

    def _response(
        self, x: FloatArray, solution: SoftSolution, score: FloatArray, carried: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        mdp = solution.mdp
        source = self._reward_jacobian(x, mdp)
        if self._model.moves_kernel:
            source = source + mdp.gamma * self._kernel_jacobian(x, solution)
        sensitivity = np.zeros((mdp.kernel.num_states, x.size)) if carried is None else carried
        # dV/dx <- sum_a pi (source + gamma P dV/dx)
        fixed = np.einsum("as,asd->sd", action_major(solution.policy), source)
        steps = mdp.gamma * mdp.kernel.policy_matrix(solution.policy)
        for _ in range(self._sweeps):
            sensitivity = fixed + steps @ sensitivity
        # dQ/dx = source + gamma P dV/dx `[A, S, D]`
        ahead = (mdp.kernel.matrix @ sensitivity).reshape(-1, *sensitivity.shape)
        slopes = source + mdp.gamma * _by_action(mdp.kernel, ahead)
        response = action_major(score).ravel() @ slopes.reshape(score.size, -1)
        return response.reshape(x.shape), sensitivity

    def _reward_jacobian(self, x: FloatArray, mdp: TabularMDP) -> FloatArray:
        """Return dr/dx `[A, S, D]`, a product for each pair; zero where an action is missing."""
        if self._jacobian is None or not np.array_equal(self._jacobian[0], x):
            num_states, num_actions = mdp.reward.shape
            jacobian = np.zeros((num_actions, num_states, x.size))
            unit = np.zeros((num_actions, num_states)).T
            for state, action in np.ndindex(num_states, num_actions):
                if mdp.action_mask is not None and not mdp.action_mask[state, action]:
                    continue
                unit[state, action] = 1.0
                jacobian[action, state] = self._model.through_reward(x, unit).ravel()
                unit[state, action] = 0.0
            self._jacobian = x, jacobian
        return self._jacobian[1]

    def _kernel_jacobian(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        """Return (dP/dx V) `[A, S, D]`, a product for each stored row; V moves, so none is kept."""
        kernel = solution.mdp.kernel
        ahead = solution.soft_value[kernel.matrix.indices]
        jacobian = np.zeros((kernel.matrix.shape[0], x.size))
        cotangent = np.zeros(len(ahead))
        for row, (begin, end) in enumerate(
            zip(kernel.matrix.indptr[:-1], kernel.matrix.indptr[1:], strict=True)
        ):
            cotangent[begin:end] = ahead[begin:end]
            jacobian[row] = self._model.through_kernel(x, cotangent).ravel()
            cotangent[begin:end] = 0.0
        return _by_action(kernel, jacobian.reshape(-1, kernel.num_states, x.size))

    def _check_size(self, kernel: Kernel) -> None:
        """Raise a `ValueError` where the Jacobian would take too long or too much memory."""
        pairs = kernel.num_states * kernel.num_actions
        size = self._model.low.size
        if pairs > MAX_PAIRS or pairs * size > MAX_ENTRIES:
            raise ValueError(
                f"this method stores the Jacobian of all state-action pairs: it accepts at most "
                f"{MAX_PAIRS} pairs and {MAX_ENTRIES} entries, got {pairs} pairs and "
                f"{pairs * size} entries (pairs times parameters)"
            )
        moved = kernel.matrix.shape[0] * kernel.matrix.nnz
        if self._model.moves_kernel and moved > MAX_COTANGENTS:
            raise ValueError(
                f"this method differentiates each of the kernel's rows by itself: it accepts at "
                f"most {MAX_COTANGENTS} rows times transitions where x moves the kernel, got "
                f"{moved}"
            )


def _by_action(kernel: Kernel, by_move: FloatArray) -> FloatArray:
    """Return what each action has `[A, S, D]` from what each move has `[M, S, D]`."""
    return by_move if kernel.moves is None else by_move[kernel.moves]
