"""The soft Bellman equation of a follower whose every episode ends, so that gamma may be 1.

With deterministic moves, gamma = 1 and rewards -c this is the recursive logit of route choice: V is
the logarithm of a sum over all ways to the end, cycles included, of exp(-cost / temperature),

    V = tau log sum_ways exp(-c(way) / tau),

which is finite only where the entropy of going on in circles is worth less than what they cost: the
sum is a geometric series of the matrix exp(-c / tau), whose spectral radius must be below one.

Newton's method is soft policy iteration, as with a discount: it solves with I - gamma P_pi, of
which nothing is known but that every episode of pi ends. From the value of such a policy, the
values of later ones rise and stay below V, so that they converge if V is finite; quadratically in
the end, as T is convex. The uniform policy is one to start with. From the value of a nearby problem
Newton's first step leads to the value of a policy, which is as good, unless its episodes never end.

Sources: J.-B. Baillon, R. Cominetti, "Markovian traffic equilibrium", Mathematical Programming 111,
2008; M. Fosgerau, E. Frejinger, A. Karlstrom, "A link based network route choice model with
unrestricted choice set", Transportation Research B 56, 2013 (the recursive logit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .bellman import Backup, attainable
from .linear import DiscountedSystem
from .mdp import FloatArray, Kernel, TabularMDP
from .soft import PolicyAnswer

__all__ = ["EndingMDP", "EndingSolution", "solve_ending_mdp", "uniform_sum"]

# Newton steps from the uniform policy, which doubles its value about so often before it has
# diverged; and from the value of a nearby problem.
COLD_STEPS, WARM_STEPS = 100, 20

# Residual, relative to the largest value, that a solve which no longer improves may end at; and the
# largest one of any solve, rounding included, in units of the temperature: values beyond it have
# diverged.
ROUNDING, RELIABLE = 1e-11, 1e-4

CIRCLES = (
    "the sum over all ways to the end diverges: going in circles pays the follower, as its "
    "entropy is worth more than the circles cost; lower the temperature ({temperature:g}) or "
    "raise the costs"
)

TOO_LARGE = (
    "a follower's values, of up to {largest:.1e}, are too large for float64 at a temperature of "
    "{temperature:g}: differences of {needed:.0e} would count; lower the rewards or costs (such as "
    "trips beyond all capacities), or raise the temperature"
)


@dataclass(frozen=True, eq=False)
class EndingMDP(TabularMDP):
    """A follower's problem whose every episode ends, whatever it does; gamma is in [0, 1]."""

    undiscounted: ClassVar[bool] = True


@dataclass(frozen=True, eq=False, kw_only=True)
class EndingSolution(PolicyAnswer):
    """Solution of the soft Bellman equation without a discount.

    Attributes:
        soft_value: V `[S]`.
        residual: Sup norm of T V - V.
        iterations: Newton steps taken.
    """

    soft_value: FloatArray
    residual: float
    iterations: int


def solve_ending_mdp(mdp: TabularMDP, initial_value: FloatArray | None = None) -> EndingSolution:
    """Solve the soft Bellman equation where every episode ends.

    Args:
        mdp: The follower's problem; from every state, the uniform policy reaches the end, or gamma
            is below 1.
        initial_value: V of a nearby problem `[S]`; None starts from the uniform policy.

    Raises:
        ArithmeticError: If V is infinite, as the entropy of going on is worth more than it costs,
            or too large for float64 at the temperature.
        ValueError: If there is no discount, and from some state no episode ends.
    """
    found = None
    if initial_value is not None:
        found = _newton(mdp, initial_value, WARM_STEPS)
    if found is None:
        start = _uniform_value(mdp)
        found = _newton(mdp, start, COLD_STEPS)
    if found is None:
        largest, needed = float(np.abs(start).max()), RELIABLE * mdp.temperature
        told = {"largest": largest, "needed": needed, "temperature": mdp.temperature}
        unresolved = not attainable(mdp) * largest <= needed or mdp.gamma < 1.0
        raise ArithmeticError((TOO_LARGE if unresolved else CIRCLES).format(**told))
    at, steps = found
    return EndingSolution(
        mdp=mdp,
        policy=at.policy,
        soft_value=at.value,
        residual=at.residual,
        iterations=steps,
    )


def _newton(mdp: TabularMDP, value: FloatArray, most: int) -> tuple[Backup, int] | None:
    """Return where Newton's method ends and its steps; None where it does not converge."""
    try:
        at = Backup(mdp, value)
        for step in range(most):
            reliable = max(at.residual, at.rounding) <= RELIABLE * mdp.temperature
            if reliable and at.residual <= at.rounding:
                return at, step
            system = DiscountedSystem(mdp.kernel.by_move, mdp.kernel.on_moves(at.policy), mdp.gamma)
            after = Backup(mdp, at.value + system.solve(at.defect)[0])
            idle = after.residual >= at.residual
            if reliable and idle and at.residual <= ROUNDING * float(np.abs(at.value).max()):
                return at, step
            at = after
    except ArithmeticError:  # episodes of the policy do not end, or values overflow
        pass
    return None


def _uniform_value(mdp: TabularMDP) -> FloatArray:
    """Return the soft value of the uniform policy `[S]`."""
    count = mdp.mask.sum(axis=1)
    gain = (mdp.mask * mdp.reward).sum(axis=1) / count + mdp.temperature * np.log(count)
    return uniform_sum(mdp.kernel, mdp.action_mask, mdp.gamma, gain)


def uniform_sum(
    kernel: Kernel, mask: NDArray[np.bool_] | None, gamma: float, gain: FloatArray
) -> FloatArray:
    """Return the expected sum of a gain `[S]` along episodes of the uniform policy, `[S]`.

    Raises:
        ValueError: If there is no discount, and episodes do not end.
    """
    shape = (kernel.num_states, kernel.num_actions)
    policy = np.ones(shape) if mask is None else mask.astype(np.float64)
    policy /= policy.sum(axis=1, keepdims=True)
    try:
        system = DiscountedSystem(kernel.by_move, kernel.on_moves(policy), gamma)
        total, residual = system.solve(gain)
    except ArithmeticError:
        total, residual = gain, math.inf
    if not residual <= 1e-6 * (1.0 + float(np.abs(gain).max())):
        raise ValueError(
            f"`gamma` must be below 1 unless every episode ends, got {gamma} where from some state "
            "none does"
        )
    return total
