"""The soft Bellman operator T at a value V, and the derivative of the policy that comes with it.

`bilevel_gym.core.soft` has the equations.
"""

from __future__ import annotations

import math

import numpy as np

from . import fast
from .mdp import FloatArray, TabularMDP, action_major
from .threads import threads_for

__all__ = [
    "EPS",
    "TINY",
    "Backup",
    "attainable",
    "centred_score",
    "expm1",
    "rounding_of",
    "soft_backup",
    "soft_q",
    "values_overflowed",
]

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).smallest_normal)
SMALLEST = float(np.finfo(np.float64).smallest_subnormal)

# From so many states on, memory is what a backup waits for, and one pass over it is faster.
LARGE = 100_000


def soft_q(mdp: TabularMDP, value: FloatArray) -> FloatArray:
    """Return Q `[S, A]` at V `[S]`, a view of new action-major memory; -inf for absent actions."""
    by_action = mdp.kernel.expect(value).T
    by_action *= mdp.gamma
    by_action += mdp.reward.T
    if mdp.action_mask is not None:
        np.copyto(by_action, -np.inf, where=~mdp.action_mask.T)
    return by_action.T


def soft_backup(
    soft_q: FloatArray, temperature: float, *, overwrite: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return the soft maximum tau log sum_a exp(Q / tau) `[S]` and its policy `[S, A]`.

    The maximum is subtracted before exponentiating, so temperatures of 1e-4 and below are safe. Q
    is `[S, A]`, -inf for actions that do not exist; with `overwrite` the policy may take its
    memory.
    """
    policy = np.ascontiguousarray(soft_q.T, dtype=np.float64)
    if not overwrite:
        policy = policy.copy()
    top = np.maximum.reduce(policy)  # as `policy.max(axis=0)`, without calls in between
    policy -= top
    policy /= temperature
    np.exp(policy, out=policy)
    total = np.add.reduce(policy)
    policy /= total
    np.log(total, out=total)
    total *= temperature
    total += top
    return total, policy.T


def centred_score(
    policy: FloatArray,
    temperature: float,
    policy_gradient: FloatArray | None,
    log_policy_gradient: FloatArray | None,
) -> FloatArray:
    """Return u_c, the derivative of f(pi) with respect to Q `[S, A]`, pi being softmax(Q / tau).

    Its rows sum to zero: adding a constant to the Q of a state changes nothing. The derivatives of
    f with respect to pi and to log pi are `[S, A]`, None for zero.
    """
    score = np.zeros_like(policy)
    if policy_gradient is not None:
        # Subtracting the mean first keeps the large common part of f_pi from cancelling after the
        # division by a small temperature.
        mean = (policy * policy_gradient).sum(axis=1, keepdims=True)
        score += policy * (policy_gradient - mean) / temperature
    if log_policy_gradient is not None:
        total = log_policy_gradient.sum(axis=1, keepdims=True)
        score += (log_policy_gradient - policy * total) / temperature
    # What rounding leaves of the rows' sums would be magnified by 1 / (1 - gamma).
    score -= policy * score.sum(axis=1, keepdims=True)
    return score


def attainable(mdp: TabularMDP) -> float:
    """Return the residual that iterations reach in spite of rounding, in units of the largest |V|.

    Errors of a sum grow with the root of its length, unless they conspire.
    """
    return EPS * (8.0 + 2.0 * math.sqrt(mdp.kernel.longest_row))


def rounding_of(mdp: TabularMDP, value: FloatArray) -> float:
    """Return a bound on the error that rounding makes in T V - V, for a V `[S]`, in every state.

    Only actions that are taken count: where pi is their policy at V, sum_a pi |Q| is at most |V|
    + tau log A, whatever stands in the reward of actions that nobody takes. The sum over a row of
    n probabilities is off by at most n roundings, that over the actions by A and those of its
    exponentials. (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", chapter 3.)
    """
    actions, row = mdp.kernel.num_actions, mdp.kernel.longest_row
    largest = float(np.abs(value).max())
    of_values = ((row + 4.0) * mdp.contraction + 5.0) * largest
    of_choice = 2.0 * (actions + 4.0 * math.log(actions) + 8.0) * mdp.temperature
    underflow = 8.0 * (row + actions) * SMALLEST
    return 0.5 * EPS * (of_values + (of_choice if actions > 1 else 0.0)) + underflow


def expm1(exponent: float) -> float:
    """Return e^exponent - 1, infinite where products with it might overflow."""
    return math.expm1(exponent) if exponent < 200.0 else math.inf


def values_overflowed(residual: float) -> ArithmeticError:
    """Return the error for values that are not finite; rewards near the end of float64 do that."""
    return ArithmeticError(
        f"the follower's values overflowed (Bellman residual {residual}): its rewards are too "
        "large for float64, or its temperature too small"
    )


def _in_one_pass(mdp: TabularMDP, value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return T V `[S]` and the policy at V `[S, A]`, made by as many threads as are asked for."""
    from .compiled.backup import backup
    from .compiled.team import divided

    matrix, reward = mdp.kernel.matrix, action_major(mdp.reward)
    if mdp.action_mask is not None:
        reward = np.where(mdp.action_mask.T, reward, -np.inf)
    backed_up, policy = np.empty_like(value), np.empty_like(reward)
    parts = matrix.indptr, matrix.indices, matrix.data, reward, mdp.gamma, mdp.temperature, value
    threads = threads_for(matrix.nnz)
    divided(len(value), threads, lambda i, j: backup(*parts, i, j, policy, backed_up))
    return backed_up, policy.T


class Backup:
    """A value, and what one backup makes of it.

    Attributes:
        mdp: The follower's problem.
        value: V `[S]`.
        backed_up: T V `[S]`.
        policy: pi at V `[S, A]`.
        defect: T V - V `[S]`.
        residual: Sup norm of the defect.
        rounding: The residual that can be reached in spite of rounding.
    """

    def __init__(self, mdp: TabularMDP, value: FloatArray) -> None:
        """Make the backup.

        Raises:
            ArithmeticError: If values overflow.
        """
        self.mdp, self.value = mdp, value
        if mdp.kernel.num_states >= LARGE and mdp.kernel.moves is None and fast.enabled():
            self.backed_up, self.policy = _in_one_pass(mdp, value)
        else:
            q = soft_q(mdp, value)
            self.backed_up, self.policy = soft_backup(q, mdp.temperature, overwrite=True)
        self.defect = self.backed_up - value
        self.residual = float(np.maximum.reduce(np.abs(self.defect)))
        self.rounding = attainable(mdp) * float(np.maximum.reduce(np.abs(value)))
        if not math.isfinite(self.residual):
            raise values_overflowed(self.residual)
