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

from typing import ClassVar

import numpy as np

from ..core.checks import check_at_least, check_flag
from ..core.mdp import FloatArray, Kernel, TabularMDP, action_major
from ..core.soft import SoftSolution
from ..core.threads import single_threaded
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .model_based import Evaluation, SoftSweeps, check_tabular, policy_score

__all__ = ["AMD"]

# Largest number of state-action pairs, each a vector-Jacobian product; of entries of the Jacobian
# held (256 MiB); and of numbers in all the cotangents of the kernel.
MAX_PAIRS, MAX_ENTRIES, MAX_COTANGENTS = 50_000, 1 << 25, 1 << 31


class AMD:
    """Sweep the follower's value and its derivative with respect to x."""

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def __init__(self, model: TabularModel, *, sweeps: int = 10, warm_start: bool = True) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model with at most 50,000 states times actions, and at most 2^25
                entries in the Jacobian of its reward.
            sweeps: Sweeps of the value, and of its sensitivity, for each x, at least 1.
            warm_start: Whether both start from those of the last x, instead of from zeros.

        Raises:
            TypeError: If the model is not tabular.
            ValueError: If an option is out of range, or the model is too large.
        """
        check_tabular(model)
        check_at_least("sweeps", sweeps, 1)
        check_flag("warm_start", warm_start)
        self._learner = SoftSweeps(sweeps, warm_start=warm_start)
        self._model = model
        self._sweeps, self._warm_start = int(sweeps), warm_start
        self._check_size(model.initial_kernel)
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """Forget value and sensitivity; the method draws nothing from `rng`."""
        self._learner.reset()
        self._sensitivity: FloatArray | None = None
        self._jacobian: tuple[FloatArray, FloatArray] | None = None

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return the answer after a few sweeps, with the hyper-gradient of its sensitivity.

        Raises:
            ArithmeticError: If values overflow.
        """
        x = self._model.validate(upper_params)
        solution = self._learner.answer(self._model.lower_mdp(x))
        evaluation = Evaluation.of(self._model, x, solution)
        total = evaluation.direct.copy()
        if evaluation.upper.responds:
            kernel = solution.mdp.kernel
            source = self._reward_jacobian(x, solution.mdp)
            if self._model.moves_kernel:
                source = source + solution.mdp.gamma * self._kernel_jacobian(x, solution)
            sensitivity = self._sensitivity
            if sensitivity is None or not self._warm_start:
                sensitivity = np.zeros((kernel.num_states, x.size))
            sensitivity = swept(solution, source, sensitivity, self._sweeps)
            score = action_major(policy_score(solution, evaluation.upper))
            response = score.ravel() @ slopes(solution, source, sensitivity).reshape(score.size, -1)
            total += response.reshape(x.shape)
            self._sensitivity = sensitivity
        return evaluation.response(total)

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
        by_move = jacobian.reshape(kernel.num_moves, kernel.num_states, x.size)
        return by_move if kernel.moves is None else by_move[kernel.moves]

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


def swept(
    solution: SoftSolution, source: FloatArray, sensitivity: FloatArray, sweeps: int
) -> FloatArray:
    """Return the sensitivity after sweeps dV/dx <- sum_a pi (source + gamma P dV/dx).

    Args:
        solution: The answer; its policy counts.
        source: dQ/dx at a fixed value `[A, S, D]`.
        sensitivity: dV/dx `[S, D]`.
        sweeps: How many.
    """
    mdp = solution.mdp
    fixed = np.einsum("as,asd->sd", action_major(solution.policy), source)
    steps = mdp.gamma * mdp.kernel.policy_matrix(solution.policy)
    for _ in range(sweeps):
        sensitivity = fixed + steps @ sensitivity
    return sensitivity


def slopes(solution: SoftSolution, source: FloatArray, sensitivity: FloatArray) -> FloatArray:
    """Return dQ/dx = source + gamma P dV/dx `[A, S, D]`.

    Args:
        solution: The answer.
        source: dQ/dx at a fixed value `[A, S, D]`.
        sensitivity: dV/dx `[S, D]`.
    """
    kernel = solution.mdp.kernel
    ahead: FloatArray = kernel.matrix @ sensitivity
    by_move = ahead.reshape(kernel.num_moves, *sensitivity.shape)
    future = by_move if kernel.moves is None else by_move[kernel.moves]
    total: FloatArray = source + solution.mdp.gamma * future
    return total
