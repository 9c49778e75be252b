"""Crowds: the occupancy of followers who all do the same, its derivatives, and its fixed points.

Each of many followers faces the same problem with reward r and kernel P, which depend on where all
of them are. From a start distribution rho a soft-optimal policy pi (see `bilevel_gym.core.soft`)
leads to the masses

    d = (I - gamma P_pi)^-T rho,   m(s, a) = d(s) pi(a|s).

With V, Q of the policy and changes dr `[S, A]`, dP (on stored transitions), masses change by

    dV = (I - gamma P_pi)^-1 sum_a pi (dr + gamma dP V)
    dQ = dr + gamma dP V + gamma P dV
    dpi = pi (dQ - dV) / tau
    dd = (I - gamma P_pi)^-T gamma sum_sa (d dpi P + m dP)
    dm = dd pi + d dpi

The adjoint of this map takes weights y `[S, A]` of masses to weights of r and of P. As sum y m is
the return of a reward y, it is the adjoint of `bilevel_gym.core.adjoint` of that return:

    V_y = (I - gamma P_pi)^-1 sum_a pi y,   f_pi = d (y + gamma P V_y)
    q = dF/dr of f_pi,   dF/dP(s'|s,a) = gamma (q(s,a) V(s') + m(s,a) V_y(s')).

What all of them are to one is told by a vector z, the crowd, such as the flow on each road. The
crowd that answers z by followers who take z for granted is Phi(z); a mean-field equilibrium is a
fixed point z = Phi(z). It is found by Newton's method, with (I - dPhi/dz) delta = Phi(z) - z solved
by GMRES to an accuracy that grows as the residual falls, and a line search on the residual. Where
no step along delta lowers it, damped steps z + (Phi(z) - z) / k lead elsewhere. Derivatives of the
equilibrium are those of the equation: one solve with (I - dPhi/dz)^T, whatever x is.

Sources: R. S. Dembo, S. C. Eisenstat, T. Steihaug, "Inexact Newton methods", SIAM J. Numer. Anal.
19, 1982; J. Lasry, P. Lions, "Mean field games", Japanese Journal of Mathematics 2, 2007; K. Cui,
H. Koeppl, "Approximately solving mean field games via entropy-regularized deep reinforcement
learning", AISTATS 2021 (regularised equilibria of finite games).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy.sparse import csr_array

from .ending import EndingSolution
from .mdp import FloatArray, action_major

__all__ = ["Crowd", "FixedPoint", "Followers", "Loaded", "crowd_adjoint", "solve_fixed_point"]

# A step of Newton's method is cut by half down to this share of it, and must lower the residual by
# this share of the step.
LEAST_STEP = 1.0 / 256.0
SUFFICIENT = 1e-4

# Residuals that GMRES leaves: of the first steps, and at the least; of adjoint systems.
FORCING = (0.3, 1e-9)
ADJOINT = 1e-13

# Share of the followers' visits that a solve may miss.
LOST = 1e-6

# Dimensions of Krylov spaces, and how often they are begun anew.
KRYLOV, RESTARTS = 120, 10

# The iteration goes on to this share of the tolerance as long as whole steps lead there: then
# differences of the leader's values are as clean as rounding lets them be.
BEYOND = 1e-3


class Followers:
    """Many followers with one policy: their masses, and how these change with reward and kernel.

    Rewards, masses and their weights are action-major here, `[A, S]`.

    Attributes:
        answer: The policy, soft-optimal.
        visits: d `[S]`.
        mass: m `[A, S]`.
    """

    def __init__(self, answer: EndingSolution, start: FloatArray) -> None:
        """Let followers start from rho `[S]`.

        Raises:
            ArithmeticError: If episodes do not end.
        """
        self.answer = answer
        self.visits, left = answer.system.solve(start, transpose=True)
        if not left <= LOST * float(self.visits.sum()):
            raise ArithmeticError("the followers' visits overflowed, as their episodes do not end")
        self._policy = action_major(answer.policy)
        self.mass = self.visits * self._policy
        kernel = answer.mdp.kernel.expanded()
        self._leads, self._arrives = kernel.matrix, kernel.transposed

    def tangent(self, reward: FloatArray, kernel: FloatArray | None = None) -> FloatArray:
        """Return dm `[A, S]` of dr `[A, S]` and dP `[K]`, None for zero."""
        mdp, policy = self.answer.mdp, self._policy
        arriving = np.zeros(len(self.visits))
        if kernel is not None:
            moved = csr_array((kernel, self._leads.indices, self._leads.indptr), self._leads.shape)
            gain = moved @ self.answer.soft_value
            reward = reward + mdp.gamma * gain.reshape(policy.shape)
            arriving = moved.T @ self.mass.ravel()
        value = self._solve((policy * reward).sum(axis=0), False)
        change = reward + mdp.gamma * (self._leads @ value).reshape(policy.shape) - value
        change *= self.mass / mdp.temperature
        visits = self._solve(mdp.gamma * (arriving + self._arrives @ change.ravel()), True)
        return change + visits * policy

    def cotangent(self, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return weights of r `[A, S]` that weights y of masses `[A, S]` amount to, and V_y."""
        mdp, policy = self.answer.mdp, self._policy
        value = self._solve((policy * mass).sum(axis=0), False)
        slopes = mass + mdp.gamma * (self._leads @ value).reshape(policy.shape) - value
        slopes *= self.mass / mdp.temperature
        slopes -= policy * slopes.sum(axis=0)
        adjoint = self._solve(mdp.gamma * (self._arrives @ slopes.ravel()), True)
        return slopes + policy * adjoint, value

    def through_policy(
        self, policy: FloatArray | None, log_policy: FloatArray | None
    ) -> FloatArray:
        """Return dF/dr `[A, S]` of f_pi and f_log `[S, A]`, through the policy."""
        system, mdp = self.answer.system, self.answer.mdp
        slopes = policy, log_policy
        found = system.strategy.adjoint(system, mdp, self.answer.policy, *slopes)
        return action_major(found.reward)

    def _solve(self, rhs: FloatArray, transpose: bool) -> FloatArray:
        """Solve with I - gamma P_pi or its transpose, without a look at the residual."""
        return self.answer.system.solve_columns(rhs[:, None], transpose=transpose)[:, 0]


class Loaded(Protocol):
    """What followers make of a crowd z that they take for granted.

    Attributes:
        image: Phi(z) `[K]`.
    """

    image: FloatArray

    def tangent(self, crowd: FloatArray) -> FloatArray:
        """Return dPhi/dz v `[K]`, for a v `[K]`."""
        ...

    def cotangent(self, crowd: FloatArray) -> FloatArray:
        """Return (dPhi/dz)^T w `[K]`, for a w `[K]`."""
        ...


LoadedT = TypeVar("LoadedT", bound=Loaded)
Crowd = FloatArray


@dataclass(frozen=True, eq=False)
class FixedPoint(Generic[LoadedT]):
    """A fixed point z = Phi(z).

    Attributes:
        crowd: z `[K]`.
        loaded: What followers make of it.
        residual: Sup norm of Phi(z) - z.
        iterations: Steps taken.
        damped: How many of them were damped steps to Phi(z).
        converged: Whether the residual is at most the tolerance.
    """

    crowd: Crowd
    loaded: LoadedT
    residual: float
    iterations: int
    damped: int
    converged: bool


def solve_fixed_point(
    load: Callable[[Crowd, LoadedT | None], LoadedT],
    start: Crowd,
    *,
    tolerance: float,
    max_iterations: int,
) -> FixedPoint[LoadedT]:
    """Find a fixed point of Phi, whose entries are not negative.

    Args:
        load: (z, what was made of a z nearby) to what followers make of z.
        start: The first z `[K]`.
        tolerance: Sup norm of Phi(z) - z to reach, relative to that of Phi(z).
        max_iterations: Steps allowed.
    """
    crowd, loaded = start, load(start, None)
    gap = loaded.image - crowd
    damped, steps = 0, 0
    for steps in range(max_iterations + 1):
        residual, size = float(np.abs(gap).max()), float(loaded.image.max())
        if residual <= BEYOND * tolerance * size or steps == max_iterations:
            break
        met = residual <= tolerance * size
        forcing = min(max(residual / size, FORCING[1]), FORCING[0])
        step, _ = _gmres(loaded.tangent, gap, forcing)
        share, norm = 1.0, float(np.linalg.norm(gap))
        while share >= (1.0 if met else LEAST_STEP):
            point = np.maximum(crowd + share * step, 0.0)
            # Far from where crowds can be, rewards may be too large to be solved for.
            with suppress(ArithmeticError):
                ahead = load(point, loaded)
                if np.linalg.norm(ahead.image - point) <= (1.0 - SUFFICIENT * share) * norm:
                    break
            share *= 0.5
        else:
            if met:  # rounding lets it no further
                break
            damped += 1
            point = crowd + gap / (damped + 1.0)
            ahead = load(point, loaded)
        crowd, loaded, gap = point, ahead, ahead.image - point
    residual = float(np.abs(gap).max())
    converged = residual <= tolerance * float(loaded.image.max())
    return FixedPoint(crowd, loaded, residual, steps, damped, converged)


def crowd_adjoint(loaded: Loaded, weights: Crowd) -> tuple[Crowd, float]:
    """Return (I - dPhi/dz)^-T w `[K]` and the sum norm of its residual, for a w `[K]`."""
    return _gmres(loaded.cotangent, weights, ADJOINT)


def _gmres(
    product: Callable[[FloatArray], FloatArray], rhs: FloatArray, accuracy: float
) -> tuple[FloatArray, float]:
    """Solve (I - J) y = rhs, J given by its products; return y and the residual's sum norm."""
    from scipy.sparse.linalg import LinearOperator, gmres

    size = float(np.abs(rhs).max())
    if size == 0.0:
        return np.zeros_like(rhs), 0.0

    def matvec(vector: FloatArray) -> FloatArray:
        return vector - product(vector)

    operator = LinearOperator((rhs.size, rhs.size), matvec=matvec, dtype=np.float64)
    solution, _ = gmres(
        operator,
        rhs / size,
        rtol=accuracy,
        restart=min(rhs.size, KRYLOV),
        maxiter=RESTARTS,
    )
    solution = size * solution
    return solution, float(np.abs(rhs - matvec(solution)).sum())
