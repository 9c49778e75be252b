"""Implicit differentiation of the follower's answer: one transposed solve, whatever D is.

For an objective f(pi*) with f_pi = df/dpi (Yang, Gao, Yuan, AISTATS 2025, give the forward form
of d pi*; this is its adjoint):

    u(s, a)   = pi(a|s) f_pi(s, a) / tau
    u_c(s, a) = u(s, a) - pi(a|s) sum_b u(s, b)
    (I - gamma P_pi)^T v = gamma sum_sa P(.|s, a) u_c(s, a)
    q(s, a)   = u_c(s, a) + pi(a|s) v(s)

q is the derivative with respect to the follower's reward; the derivatives with respect to kernel,
discount and temperature follow from q and v without another solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .mdp import FloatArray
from .soft import SoftSolution, policy_entropy

__all__ = ["ResponseGradient", "response_gradient"]


@dataclass(frozen=True, eq=False)
class ResponseGradient:
    """Derivatives of f(pi*) through the follower's answer.

    Attributes:
        reward: dF/dr `[S, A]`, r being the follower's reward.
        kernel: dF/dP on the stored transitions `[K]`.
        gamma: dF/dgamma, gamma being the follower's discount.
        temperature: dF/dtau.
        residual: Sup norm of the residual of the adjoint system.
    """

    reward: FloatArray
    kernel: FloatArray
    gamma: float
    temperature: float
    residual: float


def response_gradient(solution: SoftSolution, policy_gradient: FloatArray) -> ResponseGradient:
    """Differentiate f(pi*) with respect to all that makes the follower's problem.

    Args:
        solution: A converged solve of the follower's problem.
        policy_gradient: f_pi `[S, A]`; only its differences between the actions of a state matter.
    """
    mdp, policy = solution.mdp, solution.policy
    kernel, gamma, tau = mdp.kernel, mdp.gamma, mdp.temperature

    # pi f_pi / tau, centred; subtracting the mean first keeps the large common part of f_pi from
    # cancelling after the division by a small temperature.
    mean = (policy * policy_gradient).sum(axis=1, keepdims=True)
    centred = policy * (policy_gradient - mean) / tau
    adjoint, residual = solution.system.solve(gamma * kernel.flow(centred), transpose=True)
    reward_gradient = centred + policy * adjoint[:, None]

    # log pi is -inf where pi underflows; those entries carry no weight.
    log_policy = np.log(policy, out=np.zeros_like(policy), where=policy > 0.0)
    return ResponseGradient(
        reward=reward_gradient,
        kernel=gamma * kernel.on_transitions(reward_gradient, solution.soft_value),
        gamma=float((reward_gradient * kernel.expect(solution.soft_value)).sum()),
        temperature=float(adjoint @ policy_entropy(policy) - (centred * log_policy).sum()),
        residual=residual,
    )
