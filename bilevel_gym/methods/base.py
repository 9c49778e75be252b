"""What every method of the leader's seat shares: the response and the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ..mdp import FloatArray

__all__ = [
    "ExactResponse",
    "Method",
    "Response",
    "Sensitivities",
    "SupportsEvaluate",
    "TabularResponse",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class Response:
    """The follower's answer to x and what it means for the leader.

    None stands for what a method does not compute. Arrays are read-only.

    Attributes:
        upper_params: The x answered.
        objective: F(x) = f(x, pi), maximised.
        hyper_gradient: The method's dF/dx, an ascent direction, shape of x.
        direct_gradient: Its part at a fixed policy, shape of x; the rest is the response term.
        lower_value: The follower's soft value at the start, averaged over first states.
        residual: Sup norm of the follower's Bellman residual.
        iterations: Iterations of the inner learner.
        converged: Whether the inner learner met its tolerance.
        samples: Environment steps that the method consumed.
    """

    upper_params: FloatArray
    objective: float
    hyper_gradient: FloatArray | None = None
    direct_gradient: FloatArray | None = None
    lower_value: float | None = None
    residual: float | None = None
    iterations: int | None = None
    converged: bool | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        """Protect the arrays: warm starts and pictures rely on them."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False


@dataclass(frozen=True, eq=False, kw_only=True)
class TabularResponse(Response):
    """An answer of a tabular game's follower, exact or not.

    Attributes:
        policy: The follower's policy `[S, A]`.
        occupancy: Its discounted state occupancy times (1 - gamma), `[S]`, sums to at most one;
            what was seen of it, where a method sees episodes alone.
        soft_value: What the inner learner takes for the soft value, `[S]`.
    """

    policy: FloatArray
    occupancy: FloatArray
    soft_value: FloatArray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ExactResponse(TabularResponse):
    """The exact answer of a tabular game, in full.

    Attributes:
        solver: How the linear systems were solved, a key of `bilevel_gym.linear.SOLVERS`.
        value_error_bound: Bound on the sup norm of the error of `soft_value`.
        adjoint_residual: Sum norm of the residual of the adjoint system, None where none is solved.
        gradient_error_bound: Bound on the sum norm of the error of dF/dr through the follower's
            answer; see `bilevel_gym.adjoint.ResponseGradient`.
        linear_solutions: Solutions of the linear systems behind objective and gradient, `[S]`
            each, in order: where iterative solves at a nearby x start.
    """

    hyper_gradient: FloatArray
    direct_gradient: FloatArray
    lower_value: float
    residual: float
    iterations: int
    converged: bool
    soft_value: FloatArray
    solver: str
    value_error_bound: float
    adjoint_residual: float | None = None
    gradient_error_bound: float = 0.0
    linear_solutions: tuple[FloatArray, ...] = ()

    @property
    def response_share(self) -> float:
        """Size of the response term relative to the whole hyper-gradient, 0 if both vanish."""
        norm = float(np.linalg.norm(self.hyper_gradient))
        response = float(np.linalg.norm(self.hyper_gradient - self.direct_gradient))
        return response / norm if norm > 0.0 else 0.0


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """Derivatives of F at an x, with respect to what is fixed in a game.

    Attributes:
        temperature: dF / d temperature.
        gamma: dF / d gamma, the follower's discount (and the leader's, where it follows).
        initial_distribution: dF / d rho, rho being the distribution of the first state, `[S]`.
    """

    temperature: float
    gamma: float
    initial_distribution: FloatArray


class SupportsEvaluate(Protocol):
    """A game that knows its follower's exact answer (tabular games do)."""

    def evaluate(
        self,
        upper_params: Any,
        *,
        warm_start: Any = None,
        solver: str = ...,
        tolerance: float | None = ...,
        max_iterations: int = ...,
    ) -> Response:
        """Return the exact response to x, the solve started from an earlier response if given."""
        ...


class Method(Protocol):
    """An inner learner together with an estimator of the hyper-gradient.

    A method is built as `Method(game, **options)`, with options of JSON types.

    Attributes:
        exact: Whether `hyper_gradient` is the derivative of `objective`, so that differences of
            the leader's reward must agree with it.
    """

    exact: ClassVar[bool]

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        ...

    def step(self, upper_params: FloatArray) -> Response:
        """Let the follower answer x, and return the answer with a hyper-gradient."""
        ...
