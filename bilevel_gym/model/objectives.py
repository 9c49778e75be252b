"""Upper objectives: how the leader evaluates the follower's policy.

An objective is a function f(x, pi). It gives its value, its derivative with respect to the policy
(what the adjoint needs) and its direct derivatives: with respect to the leader's reward u, to the
kernel and to x itself. All objectives are maximised. Each declares its `scope`, that is what it
evaluates, by which methods that see only episodes know how to estimate it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from ..core.bellman import EPS
from ..core.bounds import ErrorBound, Uncertainty, bounded, extended, finer
from ..core.checks import (
    check_at_least,
    check_discount,
    check_not_negative,
    check_probability,
    finite_array,
    received,
)
from ..core.mdp import FloatArray
from ..core.soft import PolicyAnswer

# Up to so many states the matrix of a policy is dense where it is applied many times.
SMALL = 200

# Numbers held at a time for sums over steps and stored transitions.
BUFFER = 1 << 22

__all__ = [
    "DiscountedReturn",
    "LinearCost",
    "LogLikelihood",
    "Objective",
    "Outcome",
    "PolicyCost",
    "QuadraticCost",
    "Scope",
    "StepObjective",
    "Sum",
    "TruncatedReturn",
    "UpperValue",
    "check_objective",
    "flattened",
    "last_step_that_counts",
    "scope_of",
]


# What an objective evaluates: the leader's rewards along episodes, the policy (and all that
# follows from it, such as the occupancy), fragments of episodes, or x alone.
Scope = Literal["steps", "policy", "fragments", "params"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an objective evaluates: the leader's x and the follower's answer to it.

    Exact and sampled methods give the same type. Where only episodes are seen, kernel, start and
    leader's reward are the frequencies and rewards seen.

    Attributes:
        solution: The follower's answer.
        upper_params: x, in its own shape.
        upper_reward: The leader's reward u_x `[S, A]`.
        initial_distribution: Distribution of the first state `[S]`.
        by_kernel: Whether derivatives with respect to the kernel are asked for; where x does not
            move it, nobody needs them.
    """

    solution: PolicyAnswer
    upper_params: FloatArray
    upper_reward: FloatArray
    initial_distribution: FloatArray
    by_kernel: bool = True
    _occupancies: dict[float, tuple[FloatArray, float]] = field(
        default_factory=dict, init=False, repr=False
    )

    def occupancy(self, discount: float) -> FloatArray:
        """Return the discounted occupancy (I - discount P_pi)^-T rho `[S]`, solved for once."""
        if discount not in self._occupancies:
            system = self.solution.discounted_system(discount)
            rho = self.initial_distribution
            self._occupancies[discount] = system.solve(rho, transpose=True, name="occupancy")
        return self._occupancies[discount][0]

    def occupancy_residual(self, discount: float) -> float:
        """Return the sum norm of the residual of `occupancy(discount)`."""
        self.occupancy(discount)
        return self._occupancies[discount][1]


@dataclass(frozen=True, eq=False)
class UpperValue:
    """Value of an objective f(x, pi) and its derivatives at a fixed policy.

    None stands for a derivative that is identically zero, or not asked for.

    Attributes:
        value: f(x, pi).
        policy: df/dpi `[S, A]`.
        log_policy: df/d log pi `[S, A]`, for terms in log pi; adds to what `policy` says.
        policy_error: Bound on sum_sa pi |df/dpi - its value at the exact policy|, up to a constant
            in each state, from the residuals of what it was computed from; or what computes it.
        upper_reward: df/du, u being the leader's reward, `[S, A]`.
        lower_reward: Direct df/dr, r being the follower's reward, `[S, A]`, for terms that
            evaluate the reward which the leader has designed.
        kernel: Direct df/dP on the stored transitions `[K]`.
        params: Direct df/dx of terms in x alone `[D]`.
        initial_distribution: df/drho, rho being the distribution of the first state, `[S]`.
    """

    value: float
    policy: FloatArray | None = None
    log_policy: FloatArray | None = None
    policy_error: ErrorBound = 0.0
    upper_reward: FloatArray | None = None
    lower_reward: FloatArray | None = None
    kernel: FloatArray | None = None
    params: FloatArray | None = None
    initial_distribution: FloatArray | None = None

    @property
    def responds(self) -> bool:
        """Whether the value depends on the policy at all."""
        return self.policy is not None or self.log_policy is not None


class Objective(Protocol):
    """What every upper objective can do.

    It may declare `scope: ClassVar[Scope]`; one that does not is taken to evaluate the policy.
    """

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the objective and its derivatives."""
        ...


def check_objective(name: str, objective: Objective) -> Objective:
    """Return an objective; raise a `TypeError` unless it is one."""
    if not callable(getattr(objective, "evaluate", None)):
        raise TypeError(f"`{name}` must be an objective, got {received(objective)}")
    return objective


class StepObjective(Objective, Protocol):
    """A sum of the leader's rewards along an episode; its scope is "steps"."""

    @property
    def gamma(self) -> float | None:
        """The leader's discount; None takes the follower's."""
        ...

    @property
    def horizon(self) -> int | None:
        """Steps that count, None for all."""
        ...


def scope_of(objective: Objective) -> Scope:
    """Return what an objective evaluates: what it declares, else the policy."""
    scope: Scope = getattr(objective, "scope", "policy")
    return scope


def flattened(objective: Objective) -> list[Objective]:
    """Return the terms of an objective, sums of sums taken apart."""
    if isinstance(objective, Sum):
        return [term for part in objective.terms for term in flattened(part)]
    return [objective]


@dataclass(frozen=True)
class DiscountedReturn:
    """The leader's discounted return under the follower's policy.

    J = rho^T V_u with V_u = sum_a pi (u + gamma_u P V_u). With d = (I - gamma_u P_pi)^-T rho and
    Q_u = u + gamma_u P V_u: df/dpi = d Q_u, df/du = d pi, df/dP(s'|s,a) = gamma_u d pi V_u(s').

    Attributes:
        gamma: The leader's discount in [0, 1); None takes the follower's, and then value,
            occupancy and adjoint share one factorisation.
    """

    scope: ClassVar[Scope] = "steps"
    horizon: ClassVar[None] = None  # every step counts

    gamma: float | None = None

    def __post_init__(self) -> None:
        """Check the discount."""
        if self.gamma is not None:
            object.__setattr__(self, "gamma", check_discount("gamma", self.gamma))

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the discounted return and its derivatives."""
        solution, upper_reward = outcome.solution, outcome.upper_reward
        kernel, policy = solution.mdp.kernel, solution.policy
        gamma = solution.mdp.gamma if self.gamma is None else self.gamma
        system = solution.discounted_system(gamma)
        value, _ = system.solve((policy * upper_reward).sum(axis=1), name="value")
        occupancy = outcome.occupancy(gamma)
        expected = kernel.expect(value)
        returns = upper_reward + gamma * expected
        visits = occupancy[:, None] * policy
        return UpperValue(
            value=float(outcome.initial_distribution @ value),
            policy=occupancy[:, None] * returns,
            policy_error=partial(
                _error_of_return,
                outcome.initial_distribution,
                upper_reward,
                gamma,
                value,
                occupancy,
                returns,
            ),
            upper_reward=visits,
            kernel=gamma * kernel.on_transitions(visits, value) if outcome.by_kernel else None,
            initial_distribution=value,
        )


def _error_of_return(
    start: FloatArray,
    upper_reward: FloatArray,
    gamma: float,
    value: FloatArray,
    occupancy: FloatArray,
    returns: FloatArray,
    known: Uncertainty,
) -> float:
    """Return the bound on sum_sa pi |df/dpi - exact| of a return, constants in a state apart.

    With kappa, m and C of `bilevel_gym.core.bounds` and A = Q_u - V_u: in the sum norm |d - d*| <=
    C gamma kappa sum_sa d m + |residual| / (1 - gamma), the span of V_u - V_u* is at most 2 C
    (kappa max_s sum_a m |A| + residual), and d A - d* A* = (d - d*) A + d* (A - A*), where
    constants of a state have no part in A. To this comes what rounding did to d Q_u.
    """
    kernel, policy = known.solution.mdp.kernel, known.policy
    kappa, reach = known.kappa, known.reach(gamma)
    advantage = np.abs(returns - value[:, None])
    exposed = float(np.abs(occupancy) @ known.spread)
    of_visits = reach * gamma * kappa * exposed + known.error_of_visits(occupancy, start, gamma)
    of_reward = kappa * float((known.moved * advantage).sum(axis=1).max())
    rewards = (policy * upper_reward).sum(axis=1)
    span = 2.0 * reach * (of_reward + known.residual(value, rewards, gamma))
    of_returns = (0.5 * exposed + of_visits) * gamma * span
    exact = occupancy[:, None] * (upper_reward + gamma * kernel.expect(extended(value)))
    rounding = np.abs(exact - occupancy[:, None] * returns).max(axis=1)
    rounding += finer() * 16.0 * EPS * kernel.longest_row * occupancy * np.abs(returns).max(axis=1)
    largest = float((policy * advantage).sum(axis=1).max())
    return largest * of_visits + of_returns + float(known.spread @ rounding)


@dataclass(frozen=True)
class TruncatedReturn:
    """The leader's discounted return over the first `horizon` steps, from a stationary policy.

    With d_0 = rho, d_{t+1} = gamma P_pi^T d_t (visits, discounted) and V_k = sum_a pi u + gamma
    P_pi V_{k-1}, V_0 = 0 (value with k steps to go), J = rho^T V_H. Everything else follows
    from D = sum_t d_t and w(s, s') = sum_t d_t(s) V_{H-t-1}(s'), which is needed where
    transitions are stored:

        df/dpi = D u + gamma sum_s' P(s'|s,a) w(s, s'),  df/du = D pi,
        df/dP(s'|s,a) = gamma pi(a|s) w(s, s').

    Attributes:
        horizon: H, at least 1.
        gamma: The leader's discount in [0, 1]; None takes the follower's.
    """

    scope: ClassVar[Scope] = "steps"

    horizon: int
    gamma: float | None = None

    def __post_init__(self) -> None:
        """Check horizon and discount."""
        check_at_least("horizon", self.horizon, 1)
        if self.gamma is not None:
            object.__setattr__(self, "gamma", check_probability("gamma", self.gamma))

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the truncated return and its derivatives."""
        kernel, policy = outcome.solution.mdp.kernel, outcome.solution.policy
        gamma = outcome.solution.mdp.gamma if self.gamma is None else self.gamma
        upper_reward, rho = outcome.upper_reward, outcome.initial_distribution
        steps = kernel.policy_matrix(policy)
        if len(rho) <= SMALL:  # a sparse product has a fixed cost
            steps = steps.toarray()
        horizon = min(self.horizon, last_step_that_counts(gamma))
        # d_t and V_{H-t-1} in row t: they meet in w.
        present, ahead = np.empty((2, horizon, len(rho)))
        value, rewards = np.zeros(len(rho)), (policy * upper_reward).sum(axis=1)
        for t in range(horizon):
            present[t] = rho if t == 0 else gamma * (steps.T @ present[t - 1])
            ahead[-1 - t] = value
            value = rewards + gamma * (steps @ value)
        states, _, successors = kernel.triplets
        together = np.zeros(len(states))
        block = max(1, BUFFER // max(1, len(states)))
        for t in range(0, horizon, block):
            rows = slice(t, t + block)
            together += (present[rows, states] * ahead[rows, successors]).sum(axis=0)
        visits = present.sum(axis=0)
        expected = kernel.sum_transitions(together)
        return UpperValue(
            value=float(rho @ value),
            policy=visits[:, None] * upper_reward + gamma * expected,
            policy_error=partial(_error_of_truncated, gamma, upper_reward, ahead),
            upper_reward=visits[:, None] * policy,
            kernel=gamma * kernel.on_transitions(policy, np.ones(len(rho))) * together,
            initial_distribution=value,
        )


def _error_of_truncated(
    gamma: float, upper_reward: FloatArray, values: FloatArray, known: Uncertainty
) -> float:
    """Return the bound on sum_sa pi |df/dpi - exact| of a return, constants in a state apart.

    With e = kappa max_s sum_a m and a >= |A| at every step, V_k is off by at most e a times
    sum_{j < k} gamma^j (performance differences) and d_t by t e gamma^t in the sum norm, as no step
    of a policy expands it; d A - d* A* = (d - d*) A + d* (A - A*), and what differs by w between
    actions is in the mean no more than w sum_a m / 2 from its mean. Rounding works likewise, step
    by step.

    Args:
        gamma: The leader's discount.
        upper_reward: u `[S, A]`.
        values: V_{H-t-1} in row t, `[H, S]`.
        known: What is known of the exact policy.
    """
    kernel, part = known.solution.mdp.kernel, float(known.spread.max())
    moved = float(known.changes.sum(axis=1).max())
    # An advantage is no larger than the span of the Q-values.
    spread = float(np.ptp(upper_reward)) + gamma * float(np.ptp(values, axis=1).max())
    steps = np.arange(len(values))
    discounts = np.power(gamma, steps, dtype=np.float64)
    drift, total = float(discounts @ steps), float(discounts.sum())
    of_advantage = 2.0 * gamma * total * moved * spread
    largest = float(np.abs(upper_reward).max()) + float(np.abs(values).max())
    each = EPS * (known.column + kernel.longest_row + kernel.num_actions + 8.0)
    rounding = each * largest * (drift + total * (1.0 + gamma * total))
    of_policy = moved * drift * spread + (total + moved * drift) * of_advantage
    return 0.5 * part * of_policy + rounding


def last_step_that_counts(gamma: float) -> int:
    """Return after how many steps all that is still to come is lost in rounding."""
    if gamma == 0.0:
        return 1
    if gamma == 1.0:
        return sys.maxsize
    return max(1, math.ceil(math.log(1e-18 * (1.0 - gamma)) / math.log(gamma)))


@dataclass(frozen=True)
class _Weighted:
    """What every cost has.

    Attributes:
        weight: Not negative.
    """

    weight: float

    def __post_init__(self) -> None:
        """Check the weight."""
        object.__setattr__(self, "weight", check_not_negative("weight", self.weight))


@dataclass(frozen=True)
class PolicyCost(_Weighted):
    """The cost -weight * sum_sa pi(a|s)^2 of a policy that is not spread out."""

    scope: ClassVar[Scope] = "policy"

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the cost and its derivative."""
        policy = outcome.solution.policy
        squares = float((policy * policy).sum())
        return UpperValue(
            value=-self.weight * squares,
            policy=-2.0 * self.weight * policy,
            policy_error=self._policy_error,
        )

    def _policy_error(self, known: Uncertainty) -> float:
        policy = known.solution.policy
        off = known.changes + 4.0 * EPS * policy
        return 2.0 * self.weight * float((policy * off).sum())


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """The log-likelihood sum_sa n(s, a) log pi(a|s) of demonstrated actions.

    Attributes:
        counts: n `[S, A]`, how often each action was taken in each state, not negative.
    """

    scope: ClassVar[Scope] = "policy"

    counts: FloatArray

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ValueError: If they are not finite and non-negative.
        """
        counts = finite_array("counts", self.counts, (None, None), "[S, A]")
        if (counts < 0.0).any():
            raise ValueError(f"`counts` must not be negative, got {counts.min()}")
        object.__setattr__(self, "counts", counts)

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the log-likelihood and its derivative.

        Raises:
            ValueError: If an action was demonstrated that does not exist, or the counts have
                another shape than the policy.
        """
        log_policy = outcome.solution.log_policy
        if self.counts.shape != log_policy.shape:
            raise ValueError(
                f"`counts` must have shape [S, A] = {log_policy.shape}, got {self.counts.shape}"
            )
        taken = self.counts > 0.0
        value = float((self.counts[taken] * log_policy[taken]).sum())
        if not np.isfinite(value):
            state, action = (int(i) for i in np.argwhere(taken & ~np.isfinite(log_policy))[0])
            raise ValueError(f"demonstrated {action=} does not exist in state {state}")
        return UpperValue(value=value, log_policy=self.counts)


@dataclass(frozen=True)
class LinearCost(_Weighted):
    """The cost -weight * ||x||_1 of the upper-level parameters, counted once.

    Its derivative is that from the right at zero, where x may not be negative.
    """

    scope: ClassVar[Scope] = "params"

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the cost and its derivative."""
        x = outcome.upper_params
        signs = np.where(x < 0.0, -1.0, 1.0)
        return UpperValue(value=-self.weight * float(np.abs(x).sum()), params=-self.weight * signs)


@dataclass(frozen=True)
class QuadraticCost(_Weighted):
    """The cost -weight * ||x||^2 of the upper-level parameters, counted once."""

    scope: ClassVar[Scope] = "params"

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

    def __post_init__(self) -> None:
        """Check the terms.

        Raises:
            TypeError: If they are no objectives.
        """
        if not isinstance(self.terms, Sequence):
            raise TypeError(f"`terms` must be a list of objectives, got {received(self.terms)}")
        for term in self.terms:
            check_objective("terms", term)

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the sum of values and derivatives."""
        values = [term.evaluate(outcome) for term in self.terms]
        parts: dict[str, Any] = dict(vars(UpperValue(0.0)))
        del parts["policy_error"]
        for value in values:
            for name in parts:
                part = getattr(value, name)
                if part is not None:
                    parts[name] = part if parts[name] is None else parts[name] + part
        errors = [value.policy_error for value in values]
        return UpperValue(policy_error=partial(_total, errors), **parts)


def _total(errors: Sequence[ErrorBound], known: Uncertainty) -> float:
    return sum(bounded(error, known) for error in errors)
