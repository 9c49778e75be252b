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

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from ..core.bellman import centred_score
from ..core.mdp import FloatArray
from ..core.reprs import MadeFor
from ..core.soft import SoftSolution
from ..core.state import Remembers
from ..core.threads import single_threaded
from ..model.objectives import Outcome, UpperValue
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .learners import Sweeps

__all__ = ["Evaluation", "SweptMethod", "check_tabular"]


def check_tabular(model: object) -> None:
    """Raise a `TypeError` unless a model is a tabular one."""
    if not isinstance(model, TabularModel):
        raise TypeError(
            f"this method needs a model with states and actions, got {type(model).__name__}; a "
            "TabularModel, or a game that has one, does"
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
        """Return the response with a method's estimate, and fields `more` than the answer's."""
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


class SweptMethod(MadeFor, Remembers, ABC):
    """A method that takes some sweeps V <- T V for each x, and acts on the greedy policy of V.

    Something of the method's own is carried along with the value, from which it gets the response
    term.
    """

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    remembered = ("_learner", "_carried")

    def __init__(self, model: TabularModel, *, sweeps: int = 10, warm_start: bool = True) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            sweeps: Sweeps of soft value iteration for each x, at least 1.
            warm_start: Whether the value, and what is carried along with it, start from those of
                the last x, instead of from zeros.
        """
        check_tabular(model)
        self._learner = Sweeps(model, sweeps=sweeps, warm_start=warm_start)
        self._model, self._warm_start = model, warm_start
        self._carried: FloatArray | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Forget what was learnt; the method draws nothing from `rng`."""
        self._learner.reset(rng)
        self._carried = None

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return the answer after a few sweeps, with the hyper-gradient of what is carried along.

        Raises:
            ArithmeticError: If values overflow.
        """
        x = self._model.validate(upper_params)
        solution = self._learner.solve(x)
        evaluation = Evaluation.of(self._model, x, solution)
        total, upper = evaluation.direct.copy(), evaluation.upper
        if upper.responds:
            carried = self._carried if self._warm_start else None
            score = centred_score(
                solution.policy, self._model.temperature, upper.policy, upper.log_policy
            )
            response, self._carried = self._response(x, solution, score, carried)
            total += response
        return evaluation.response(total)

    @abstractmethod
    def _response(
        self, x: FloatArray, solution: SoftSolution, score: FloatArray, carried: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Return the response term, shape of x, from u_c `[S, A]`, and what is carried on."""
