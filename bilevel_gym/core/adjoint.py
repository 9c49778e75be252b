"""Implicit differentiation of the follower's answer: one transposed solve, whatever D is.

For an objective f(pi*) with f_pi = df/dpi, and f_log = df/d log pi for terms in log pi (Yang, Gao,
Yuan, AISTATS 2025, give the forward form of d pi*; this is its adjoint):

    u(s, a)   = (pi(a|s) f_pi(s, a) + f_log(s, a)) / tau
    u_c(s, a) = u(s, a) - pi(a|s) sum_b u(s, b)
    (I - gamma P_pi)^T v = gamma sum_sa P(.|s, a) u_c(s, a)
    q(s, a)   = u_c(s, a) + pi(a|s) v(s)

q is the derivative with respect to the follower's reward; that with respect to the kernel follows
from it without another solve.

Error bound, in the sum norm over states and actions: with kappa, m and C of
`bilevel_gym.core.bounds`, e the bound of sum_sa pi |f_pi - f_pi*| that the objective gives, f_pi
without its mean over the policy, and rho the residual of the system,

    |u - u*| <= E_u = (2 kappa sum m |f_pi| + 2 (1 + kappa) e + kappa sum m |sum_b f_log|) / tau
    |v - v*| <= E_v = C gamma (E_u + kappa sum m |v|)
                     + C (|rho| + |sum rho|) + |sum rho| / (1 - gamma)
    |q - q*| <= E_u + E_v + kappa sum m |v|

to which comes what rounding did to each of them, measured in extended precision. It holds since
subtracting a constant from f_pi in a state changes nothing, and what u_c and pi - pi* send on sums
to zero. Everything is compared with what a policy in extended precision makes of it, where one is
known that is better than the computed one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .bellman import EPS
from .bounds import ErrorBound, Uncertainty, bounded, extended, finer
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
    """

    reward: FloatArray
    adjoint: FloatArray
    residual: float
    _solution: SoftSolution = field(repr=False)
    _centred: FloatArray = field(repr=False)
    _slopes: tuple[FloatArray | None, FloatArray | None] = field(repr=False)
    _slope_error: ErrorBound = field(repr=False)

    @cached_property
    def error_bound(self) -> float:
        """Bound on the sum over states and actions of |reward - its exact value|."""
        known, mdp = Uncertainty(self._solution), self._solution.mdp
        kappa, gamma = known.kappa, mdp.gamma
        if not math.isfinite(known.total):
            return math.inf
        policy, (by_policy, by_log) = known.policy, self._slopes
        centred, off, size = np.zeros_like(policy), 0.0, 0.0
        if by_policy is not None:
            best = np.take_along_axis(by_policy, policy.argmax(axis=1)[:, None], axis=1)
            gain = extended(by_policy) - best
            gain -= (policy * gain).sum(axis=1, keepdims=True)
            centred += policy * gain
            exposed = float((known.moved * np.abs(gain)).sum())
            off += 2.0 * kappa * exposed
            off += 2.0 * (1.0 + known.total) ** 2 * bounded(self._slope_error, known)
            size += exposed + float(known.spread @ np.abs(gain).max(axis=1))
        if by_log is not None:
            total = extended(by_log).sum(axis=1)
            centred += by_log - policy * total[:, None]
            off += kappa * float(known.spread @ np.abs(total))
            size += 2.0 * float(np.abs(by_log).sum())
        # Times the temperature, nothing overflows where temperatures are tiny.
        tau = extended(mdp.temperature)
        actions = mdp.kernel.num_actions
        off += 2.0 * finer() * EPS * (actions + 4.0) * size
        off += known.apart(self._centred * tau, centred)
        weight = extended(self.adjoint) * tau
        length = float(np.abs(weight) @ known.spread)
        rhs = gamma * mdp.kernel.flow(extended(self._centred)) * tau
        of_adjoint = known.reach(gamma) * gamma * (off + kappa * length)
        of_adjoint += known.error_of_visits(weight, rhs, gamma)
        # Computed scores do not sum to zero, quite, and their sums are rounded too.
        scores = self._centred * tau
        sums = scores.sum(axis=1)
        rounding = finer() * EPS * (actions + 32.0) * float(np.abs(scores).sum())
        of_adjoint += 2.0 * known.reach(gamma) * (float(np.abs(sums).sum()) + rounding)
        of_adjoint += known.mass(gamma) * (float(abs(sums.sum())) + rounding)
        reward = self._centred * tau + policy * weight[:, None]
        total_error = off + of_adjoint + kappa * length + known.apart(self.reward * tau, reward)
        return total_error / mdp.temperature

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
    policy_gradient_error: ErrorBound = 0.0,
) -> ResponseGradient:
    """Differentiate f(pi*) with respect to all that makes the follower's problem.

    Args:
        solution: A converged solve of the follower's problem.
        policy_gradient: f_pi `[S, A]`; only its differences between the actions of a state matter.
            None for zero.
        log_policy_gradient: f_log `[S, A]`, None for zero.
        policy_gradient_error: Bound on sum_sa pi |f_pi - f_pi*|, for the error bound.
    """
    mdp, system = solution.mdp, solution.system
    slopes = policy_gradient, log_policy_gradient
    found = system.strategy.adjoint(system, mdp, solution.policy, *slopes)
    return ResponseGradient(
        reward=found.reward,
        adjoint=found.vector,
        residual=found.residual,
        _solution=solution,
        _centred=found.centred,
        _slopes=slopes,
        _slope_error=policy_gradient_error,
    )
