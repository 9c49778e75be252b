"""The follower's problem: the soft Bellman equation, solved by Newton's method.

With reward r, kernel P, discount gamma and temperature tau,

    Q(s, a)  = r(s, a) + gamma sum_s' P(s'|s, a) V(s')
    (T V)(s) = tau log sum_a exp(Q(s, a) / tau)
    pi(a|s)  = exp((Q(s, a) - (T V)(s)) / tau)

and the solution is the unique V with T V = V. T is a gamma-contraction in sup norm and convex;
Newton's step solves with I - gamma P_pi, hence *is* soft policy iteration: it converges from any
start, monotonically after the first step, and quadratically in the end.

Stopping rule: a residual ||T V - V|| <= eps bounds the error by ||V - V*|| <= eps / (1 - gamma).
A policy or a gradient magnifies that error by up to 1 / temperature, so a solve that has met its
tolerance goes on down to rounding, wherever it started, with chord steps (the last factorisation,
one backup each) while these contract well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .checks import check_at_least, check_positive
from .linear import DiscountedSystem, Factorisation, factorise
from .mdp import FloatArray, TabularMDP, action_major

__all__ = ["SoftSolution", "policy_entropy", "soft_backup", "solve_soft_mdp"]

# Chord steps go on while each leaves at most this share of the residual.
CHORD_CONTRACTION = 0.1


@dataclass(frozen=True, eq=False)
class SoftSolution:
    """Solution of the soft Bellman equation, with its accuracy.

    Attributes:
        mdp: The problem solved.
        soft_value: V `[S]`.
        soft_q: Q = r + gamma P V `[S, A]`; -inf for actions that do not exist.
        policy: Soft-optimal policy `[S, A]`; rows sum to one.
        residual: Sup norm of T V - V at `soft_value`.
        tolerance: The residual that was asked for.
        iterations: Newton steps taken, that is, factorisations made.
        converged: Whether the residual is at most `tolerance`, or at the rounding of the values
            where that is larger (rewards of 1e9 cannot meet 1e-10).
        factorisation: Factors of I - gamma P_pi at the last Newton step, None if none was needed.
    """

    mdp: TabularMDP
    soft_value: FloatArray
    soft_q: FloatArray
    policy: FloatArray
    residual: float
    tolerance: float
    iterations: int
    converged: bool
    factorisation: Factorisation | None

    @property
    def value_error_bound(self) -> float:
        """Bound on the sup norm of `soft_value - V*`: residual / (1 - gamma)."""
        return self.residual / (1.0 - self.mdp.gamma)

    @cached_property
    def system(self) -> DiscountedSystem:
        """Linear systems with I - gamma P_pi at the solution, on the last factorisation."""
        return DiscountedSystem(self.mdp.kernel, self.policy, self.mdp.gamma, self.factorisation)

    def discounted_system(self, discount: float) -> DiscountedSystem:
        """Return the systems with I - discount P_pi; `system` itself where discounts agree."""
        if discount == self.mdp.gamma:
            return self.system
        return DiscountedSystem(self.mdp.kernel, self.policy, discount)


def solve_soft_mdp(
    mdp: TabularMDP,
    *,
    initial_value: FloatArray | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> SoftSolution:
    """Solve the soft Bellman equation of an MDP.

    Args:
        mdp: The follower's problem.
        initial_value: Start of the iteration `[S]`, zeros when None.
        tolerance: Sup norm of the Bellman residual to reach, positive.
        max_iterations: Newton steps allowed; a solve that needs more returns what it has with
            `converged` False.

    Raises:
        ValueError: If an argument is out of range or of the wrong shape.
        ArithmeticError: If values overflow.
    """
    check_positive("tolerance", tolerance)
    check_at_least("max_iterations", max_iterations, 0)
    num_states = mdp.kernel.num_states
    value = np.zeros(num_states) if initial_value is None else np.array(initial_value, np.float64)
    if value.shape != (num_states,) or not np.isfinite(value).all():
        raise ValueError(
            f"`initial_value` must be finite with shape [S] = ({num_states},), "
            f"got shape {value.shape} with {np.isfinite(value).sum()} finite entries"
        )

    factors: Factorisation | None = None
    soft_q, backed_up, policy = _apply(mdp, value)
    residual = _residual(backed_up, value)
    iterations, contraction, fresh = 0, 0.0, False
    while residual > _rounding(value):
        met = residual <= tolerance
        if met and fresh and contraction > 0.5:
            break  # as far as rounding lets it
        # Once the tolerance is met the policy hardly moves: old factors do while they contract.
        fresh = factors is None or not met or contraction > CHORD_CONTRACTION
        if fresh:
            if iterations == max_iterations:
                break
            factors = factorise(mdp.kernel, policy, mdp.gamma)
            iterations += 1
        assert factors is not None
        candidate = value + factors.solve(backed_up - value)
        answer = _apply(mdp, candidate)
        remaining = _residual(answer[1], candidate)
        contraction = remaining / residual
        if not met or remaining < residual:
            value, residual = candidate, remaining
            soft_q, backed_up, policy = answer

    return SoftSolution(
        mdp=mdp,
        soft_value=value,
        soft_q=soft_q,
        policy=policy,
        residual=residual,
        tolerance=tolerance,
        iterations=iterations,
        converged=residual <= max(tolerance, _rounding(value)),
        factorisation=factors,
    )


def soft_backup(soft_q: FloatArray, temperature: float) -> tuple[FloatArray, FloatArray]:
    """Return the soft maximum over actions and its policy.

    The maximum is subtracted before exponentiating, so temperatures of 1e-4 and below are safe.

    Args:
        soft_q: Q `[S, A]`, -inf for actions that do not exist.
        temperature: Positive.

    Returns:
        tau log sum_a exp(Q / tau) `[S]` and the policy exp((Q - V) / tau) `[S, A]`.
    """
    shifted = action_major(soft_q)
    top = shifted.max(axis=0)
    weights = np.exp((shifted - top) / temperature)
    total = weights.sum(axis=0)
    return top + temperature * np.log(total), (weights / total).T


def policy_entropy(policy: FloatArray) -> FloatArray:
    """Return the entropy -sum_a pi log pi of each state's actions, `[S]`, in [0, log A].

    Args:
        policy: Action probabilities `[S, A]`.
    """
    from scipy.special import entr

    entropy: FloatArray = entr(policy).sum(axis=1)
    return entropy


def _apply(mdp: TabularMDP, value: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return Q, T V and the policy at V."""
    soft_q = mdp.reward + mdp.gamma * mdp.kernel.expect(value)
    if mdp.action_mask is not None:
        soft_q = np.where(mdp.action_mask, soft_q, -np.inf)
    return soft_q, *soft_backup(soft_q, mdp.temperature)


def _residual(backed_up: FloatArray, value: FloatArray) -> float:
    """Return the sup norm of T V - V.

    Raises:
        ArithmeticError: If it is not finite, as rewards near the end of float64 make it.
    """
    residual = float(np.abs(backed_up - value).max())
    if not np.isfinite(residual):
        raise ArithmeticError(
            f"the follower's values overflowed (Bellman residual {residual}): its rewards are too "
            "large for float64, or its temperature too small"
        )
    return residual


def _rounding(value: FloatArray) -> float:
    """Return the residual that rounding leaves on values of this size."""
    return 8.0 * float(np.finfo(np.float64).eps * max(1.0, np.abs(value).max()))
