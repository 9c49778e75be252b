"""Derivatives with respect to x: of a reward, in whichever form a task has it, and of a softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ..core.checks import check_sparse, finite_array, real_numbers
from ..core.mdp import FloatArray, action_major

__all__ = ["RewardJacobian", "softmax", "softmax_vjp"]


def softmax(logits: FloatArray) -> FloatArray:
    """Return the distributions `[..., D]` of logits, in a third of the time that SciPy takes."""
    weights: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def softmax_vjp(share: FloatArray, cotangent: FloatArray) -> FloatArray:
    """Return sum_i cotangent_i d share_i/d logits of softmax distributions `[..., D]`."""
    mean = (share * cotangent).sum(axis=-1, keepdims=True)
    product: FloatArray = share * (cotangent - mean)
    return product


class RewardJacobian:
    """J = d r / d x of a reward that is linear in x, as dense array, sparse matrix or operator.

    Attributes:
        num_params: D.
    """

    def __init__(self, jacobian: Any, num_states: int, num_actions: int) -> None:
        """Wrap a Jacobian.

        Args:
            jacobian: One of
                * an array `[S, A, D]`;
                * a SciPy sparse matrix `[A*S, D]` whose row `a * S + s` belongs to (s, a), as the
                  rows of `Kernel.matrix` do;
                * a `scipy.sparse.linalg.LinearOperator` of that shape with `matvec` and `rmatvec`,
                  for a Jacobian that is never stored.
            num_states: S.
            num_actions: A.

        Raises:
            ValueError: If the shape is another one, or a stored entry is not finite.
        """
        self._shape = (num_actions, num_states)
        rows = num_actions * num_states
        dense = not (hasattr(jacobian, "rmatvec") or hasattr(jacobian, "tocsr"))
        given = real_numbers("features", jacobian) if dense else jacobian
        if given.shape[:-1] != ((num_states, num_actions) if dense else (rows,)):
            raise ValueError(
                f"`features` must have shape [S, A, D] = {(num_states, num_actions)} + (D,), or "
                f"[A*S, D] = ({rows}, D) if sparse or matrix-free, got {given.shape}"
            )
        self._matrix = given
        if dense:
            stored = finite_array("features", given, (None, None, None), "[S, A, D]")
            self._matrix = np.ascontiguousarray(stored.transpose(1, 0, 2).reshape(rows, -1))
        elif hasattr(given, "tocsr"):
            self._matrix = csr_array(check_sparse("features", given), copy=True)
            self._matrix.data = finite_array("features", self._matrix.data, (None,), "[A*S, D]")
        self._transposed = self._matrix.T
        self.num_params = int(self._matrix.shape[1])

    def product(self, x: FloatArray) -> FloatArray:
        """Return J x `[S, A]` for x `[D]`."""
        values: FloatArray = self._matrix @ x
        return values.reshape(self._shape).T

    def vjp(self, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) d r(s, a) / d x `[D]` for a cotangent `[S, A]`."""
        gradient: FloatArray = self._transposed @ action_major(cotangent).ravel()
        return gradient
