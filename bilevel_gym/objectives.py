"""Upper objectives: how the leader judges the follower's policy.

An objective is a function f(x, pi). It gives its value, its derivative with respect to the policy
(what the adjoint needs) and its direct derivatives: with respect to the leader's reward u, to the
kernel and to x itself. All objectives are maximised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .checks import check_discount, check_not_negative
from .mdp import FloatArray
from .soft import SoftSolution

__all__ = ["DiscountedReturn", "Objective", "Outcome", "QuadraticCost", "Sum", "UpperValue"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What there is to judge: the leader's x and the follower's answer to it.

    Attributes:
        solution: The follower's answer.
        upper_params: x, in its own shape.
        upper_reward: The leader's reward u_x `[S, A]`.
        initial_distribution: Distribution of the first state `[S]`.
    """

    solution: SoftSolution
    upper_params: FloatArray
    upper_reward: FloatArray
    initial_distribution: FloatArray


@dataclass(frozen=True, eq=False)
class UpperValue:
    """Value of an objective f(x, pi) and its derivatives at a fixed policy.

    None stands for a derivative that is identically zero.

    Attributes:
        value: f(x, pi).
        policy: df/dpi `[S, A]`.
        upper_reward: df/du, u being the leader's reward, `[S, A]`.
        kernel: Direct df/dP on the stored transitions `[K]`.
        params: Direct df/dx of terms in x alone `[D]`.
        gamma: Direct derivative with respect to the leader's discount.
    """

    value: float
    policy: FloatArray | None = None
    upper_reward: FloatArray | None = None
    kernel: FloatArray | None = None
    params: FloatArray | None = None
    gamma: float = 0.0


class Objective(Protocol):
    """What every upper objective can do."""

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the objective and its derivatives."""
        ...


@dataclass(frozen=True)
class DiscountedReturn:
    """The leader's discounted return under the follower's policy.

    J = rho^T V_u with V_u = sum_a pi (u + gamma_u P V_u). With d = (I - gamma_u P_pi)^-T rho and
    Q_u = u + gamma_u P V_u: df/dpi = d Q_u, df/du = d pi, df/dP(s'|s,a) = gamma_u d pi V_u(s').

    Attributes:
        gamma: The leader's discount in [0, 1); None takes the follower's, and then value,
            occupancy and adjoint share one factorisation.
    """

    gamma: float | None = None

    def __post_init__(self) -> None:
        """Check the discount."""
        if self.gamma is not None:
            check_discount("gamma", self.gamma)

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the discounted return and its derivatives."""
        solution, upper_reward = outcome.solution, outcome.upper_reward
        kernel, policy = solution.mdp.kernel, solution.policy
        gamma = solution.mdp.gamma if self.gamma is None else self.gamma
        system = solution.discounted_system(gamma)
        value, _ = system.solve((policy * upper_reward).sum(axis=1))
        occupancy, _ = system.solve(outcome.initial_distribution, transpose=True)
        expected = kernel.expect(value)
        visits = occupancy[:, None] * policy
        return UpperValue(
            value=float(outcome.initial_distribution @ value),
            policy=occupancy[:, None] * (upper_reward + gamma * expected),
            upper_reward=visits,
            kernel=gamma * kernel.on_transitions(visits, value),
            gamma=float((visits * expected).sum()),
        )


@dataclass(frozen=True)
class QuadraticCost:
    """The cost -weight * ||x||^2 of the upper-level parameters, counted once.

    Attributes:
        weight: Not negative.
    """

    weight: float

    def __post_init__(self) -> None:
        """Check the weight."""
        check_not_negative("weight", self.weight)

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the cost and its derivative."""
        x = outcome.upper_params
        return UpperValue(value=-self.weight * float((x * x).sum()), params=-2.0 * self.weight * x)


@dataclass(frozen=True)
class Sum:
    """Sum of objectives.

    Attributes:
        terms: The objectives to add.
    """

    terms: Sequence[Objective]

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the sum of values and derivatives."""
        values = [term.evaluate(outcome) for term in self.terms]
        return UpperValue(
            value=sum(v.value for v in values),
            policy=_add(v.policy for v in values),
            upper_reward=_add(v.upper_reward for v in values),
            kernel=_add(v.kernel for v in values),
            params=_add(v.params for v in values),
            gamma=sum(v.gamma for v in values),
        )


def _add(arrays: Iterable[FloatArray | None]) -> FloatArray | None:
    """Return the sum of the arrays that are not None, None where all are."""
    present = [array for array in arrays if array is not None]
    return sum(present[1:], start=present[0]) if present else None
