"""Implicit differentiation of the follower's answer: one transposed solve, whatever D is.

For an objective f(pi*) with f_pi = df/dpi, and f_log = df/d log pi for terms in log pi (Yang, Gao,
Yuan, AISTATS 2025, give the forward form of d pi*; this is its adjoint):

    u(s, a)   = (pi(a|s) f_pi(s, a) + f_log(s, a)) / tau
    u_c(s, a) = u(s, a) - pi(a|s) sum_b u(s, b)
    (I - gamma P_pi)^T v = gamma sum_sa P(.|s, a) u_c(s, a)
    q(s, a)   = u_c(s, a) + pi(a|s) v(s)

q is the derivative with respect to the follower's reward; that with respect to the kernel follows
from it without another solve.

Error bound, in the sum norm over states and actions: with kappa >= |pi - pi*| / pi, e the bound of
sum_sa pi |f_pi - f_pi*| that the objective gives, and rho the residual of the system,

    |u_c - u_c*| <= E_u = 2 kappa |u_c| + (2 (1 + kappa) e + kappa |f_log|) / tau
    |v - v*|     <= E_v = (gamma E_u + |rho| + gamma kappa |v|) / (1 - gamma)
    |q - q*|     <= E_u + E_v + kappa |v|

to which comes the rounding of f_pi itself, 8 eps sum_sa pi |f_pi| / tau in E_u. It holds
since subtracting a constant from f_pi in a state changes nothing, P does not expand the sum norm of
a flow, and (I - gamma P_pi*)^-T expands it by at most 1 / (1 - gamma).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .bellman import EPS
from .mdp import FloatArray
from .soft import SoftSolution

__all__ = ["ResponseGradient", "response_gradient"]


@dataclass(frozen=True, eq=False)
class ResponseGradient:
    """Derivatives of f(pi*) through the follower's answer.

    Attributes:
        reward: dF/dr `[S, A]`, r being the follower's reward.
        adjoint: Solution v of the adjoint system `[S]`.
        residual: Sum norm of the residual of the adjoint system.
        error_bound: Bound on the sum over states and actions of |reward - its exact value|, from
            the Bellman residual and those of the linear systems; infinite where these are too large
            to say anything. Times the largest |dr/dx_i| it bounds the error of dF/dx_i.
    """

    reward: FloatArray
    adjoint: FloatArray
    residual: float
    error_bound: float
    _solution: SoftSolution = field(repr=False)

    @cached_property
    def kernel(self) -> FloatArray:
        """dF/dP on the stored transitions `[K]`."""
        mdp = self._solution.mdp
        return mdp.gamma * mdp.kernel.on_transitions(self.reward, self._solution.soft_value)


def response_gradient(
    solution: SoftSolution,
    policy_gradient: FloatArray | None,
    *,
    log_policy_gradient: FloatArray | None = None,
    policy_gradient_error: float = 0.0,
) -> ResponseGradient:
    """Differentiate f(pi*) with respect to all that makes the follower's problem.

    Args:
        solution: A converged solve of the follower's problem.
        policy_gradient: f_pi `[S, A]`; only its differences between the actions of a state matter.
            None for zero.
        log_policy_gradient: f_log `[S, A]`, None for zero.
        policy_gradient_error: Bound on sum_sa pi |f_pi - f_pi*|, for the error bound.
    """
    mdp, policy, system = solution.mdp, solution.policy, solution.system
    gamma, tau = mdp.gamma, mdp.temperature
    found = system.strategy.adjoint(system, mdp, policy, policy_gradient, log_policy_gradient)
    kappa, error_bound = solution.policy_error_bound, np.inf
    if math.isfinite(kappa):
        of_centred = 2.0 * kappa * found.centred_norm
        of_centred += 2.0 * (1.0 + kappa) * policy_gradient_error / tau
        if policy_gradient is not None:  # the rounding of f_pi - its mean
            of_centred += 8.0 * EPS * float((policy * np.abs(policy_gradient)).sum()) / tau
        if log_policy_gradient is not None:
            of_centred += kappa * float(np.abs(log_policy_gradient).sum()) / tau
        of_system = gamma * of_centred + found.residual + gamma * kappa * found.vector_norm
        error_bound = of_centred + of_system / (1.0 - gamma) + kappa * found.vector_norm
    return ResponseGradient(
        reward=found.reward,
        adjoint=found.vector,
        residual=found.residual,
        error_bound=error_bound,
        _solution=solution,
    )
