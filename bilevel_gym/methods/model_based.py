"""What methods that know the model share: a policy that is not quite the follower's.

They keep a value V [S] that is near the follower's, and act on its greedy policy

    Q = r_x + gamma P_x V,   pi = exp((Q - T V) / tau),   (T V)(s) = tau log sum_a exp(Q / tau).

The leader's objective f(x, pi) and its derivatives are exact at that pi; what is inexact is pi, and
what a method makes of the response term. With u_c the derivative of f with respect to Q / tau,

    u_c(s, a) = (pi f_pi + f_log)(s, a) / tau - pi(a|s) sum_b (pi f_pi + f_log)(s, b) / tau,

the response term is sum_sa u_c dQ/dx. Methods differ in how they get at dQ/dx = dr/dx + gamma P
dV/dx (+ gamma dP/dx V).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from ..core.bellman import Backup, centred_score
from ..core.linear import choose_solver
from ..core.mdp import FloatArray, TabularMDP
from ..core.soft import SoftSolution, default_tolerance
from ..model.objectives import Outcome, UpperValue
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel

__all__ = ["Evaluation", "check_tabular", "greedy_solution", "policy_score"]


def check_tabular(model: object) -> None:
    """Raise a `TypeError` unless a model is a tabular one."""
    if not isinstance(model, TabularModel):
        raise TypeError(
            f"this method needs a model with states and actions, got {type(model).__name__}; a "
            "TabularModel, or a game that has one, does"
        )


def greedy_solution(mdp: TabularMDP, value: FloatArray, *, sweeps: int = 0) -> SoftSolution:
    """Return the soft greedy policy of any value, as if the value solved the problem.

    Args:
        mdp: The follower's problem.
        value: V `[S]`.
        sweeps: Sweeps that led to it, for the record.

    Raises:
        ArithmeticError: If values overflow.
    """
    at, wanted = Backup(mdp, value), default_tolerance(mdp)
    return SoftSolution(
        mdp=mdp,
        soft_value=value,
        policy=at.policy,
        residual=at.residual,
        tolerance=wanted,
        iterations=sweeps,
        sweeps=sweeps,
        converged=at.residual <= wanted,
        solver=choose_solver(mdp.kernel.by_move.pattern),
    )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The leader's objective at an answer, and its derivative at a fixed policy.

    Attributes:
        model: The problem.
        outcome: The x and the answer.
        upper: f(x, pi) and its derivatives.
    """

    model: TabularModel
    outcome: Outcome
    upper: UpperValue

    @classmethod
    def of(cls, model: TabularModel, upper_params: FloatArray, solution: SoftSolution) -> Self:
        """Evaluate the leader's objective at a policy that has a value."""
        outcome = model.outcome(upper_params, solution)
        return cls(model, outcome, model.objective.evaluate(outcome))

    @cached_property
    def direct(self) -> FloatArray:
        """Derivative of f(x, pi) with respect to x at a fixed policy, shape of x."""
        return self.model.direct_part(self.outcome.upper_params, self.upper)

    def response(self, hyper_gradient: FloatArray, **more: Any) -> TabularResponse:
        """Return the response of a method whose answer was evaluated.

        Args:
            hyper_gradient: The method's estimate, shape of x.
            **more: Fields of the response other than the answer's.
        """
        outcome, gamma = self.outcome, self.model.gamma
        solution = outcome.solution
        assert isinstance(solution, SoftSolution)
        response = TabularResponse(
            upper_params=outcome.upper_params,
            objective=self.upper.value,
            hyper_gradient=hyper_gradient,
            direct_gradient=self.direct.copy(),
            policy=solution.policy,
            occupancy=(1.0 - gamma) * outcome.occupancy(gamma),
            soft_value=solution.soft_value.copy(),
            lower_value=float(outcome.initial_distribution @ solution.soft_value),
            residual=solution.residual,
            iterations=solution.iterations,
            converged=solution.converged,
        )
        return replace(response, **more)


def policy_score(solution: SoftSolution, upper: UpperValue) -> FloatArray:
    """Return u_c, the derivative of f with respect to Q `[S, A]` at an answer's policy."""
    return centred_score(solution.policy, solution.mdp.temperature, upper.policy, upper.log_policy)
