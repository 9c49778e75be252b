"""What every optimizer keeps and returns: iterates, the best of them, and counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import received
from ..core.reprs import Described, brief, number

__all__ = [
    "BatchEvaluation",
    "Callback",
    "Evaluation",
    "FEASIBLE",
    "FloatArray",
    "Iterate",
    "Optimizer",
    "Optimum",
    "Recorder",
    "Restarts",
    "Stopped",
    "answer_of",
    "projected_gradient_norm",
]

# Not imported from `core.mdp`, which loads scipy's sparse matrices: the command line starts with
# the table of optimizers.
FloatArray = NDArray[np.float64]

Evaluation = Callable[[FloatArray], tuple[float, FloatArray]]

# Many x, stacked along the first axis, to their values `[B]` and gradients, stacked likewise.
BatchEvaluation = Callable[[FloatArray], tuple[ArrayLike, ArrayLike]]


# The largest violation of constraints that count as kept, in the units of their values.
FEASIBLE = 1e-6


class Stopped(Exception):
    """Raised by an objective to end the optimizer that evaluates it."""


@dataclass(frozen=True, eq=False, repr=False)
class Iterate(Described):
    """One evaluation of the objective.

    Attributes:
        number: Evaluations before this one.
        upper_params: x, shape of the box.
        value: F(x).
        gradient: dF/dx, shape of the box.
        projected_gradient_norm: See `projected_gradient_norm`.
        violation: By how much x violates a constraint, at most; 0 where all hold, or there is none.
    """

    number: int
    upper_params: FloatArray
    value: float
    gradient: FloatArray
    projected_gradient_norm: float
    violation: float = 0.0

    @property
    def merit(self) -> tuple[float, float]:
        """What iterates are compared by: the value, but first how nearly the constraints hold."""
        return (0.0 if self.violation <= FEASIBLE else -self.violation), self.value

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the number, the value, and how far it is from stationary."""
        yield "number", str(self.number)
        yield "value", number(self.value)
        yield "|projected gradient|", number(self.projected_gradient_norm, digits=3)
        if self.violation > 0.0:
            yield "violation", number(self.violation, digits=1)


@dataclass(frozen=True, eq=False, repr=False)
class Optimum(Described):
    """What an optimizer returns.

    Attributes:
        best: The iterate of the largest value; with constraints, see `ConstrainedOptimum`.
        first: The iterate at the start.
        evaluations: Evaluations of the objective.
        message: Why the optimizer stopped.
    """

    best: Iterate
    first: Iterate
    evaluations: int
    message: str

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the best value and the first, and how it ended."""
        yield "value", number(self.best.value)
        yield "first", number(self.first.value)
        if self.best.violation > 0.0:
            yield "violation", number(self.best.violation, digits=1)
        yield "evaluations", str(self.evaluations)
        yield "message", brief(self.message)


@dataclass(frozen=True, eq=False, repr=False)
class Restarts(Described):
    """What was found from several starts.

    Attributes:
        optima: What was found from each start.
        best: Number of the start that led to the largest value.
    """

    optima: tuple[Optimum, ...]
    best: int

    @classmethod
    def ranked(cls, optima: Iterable[Optimum]) -> Self:
        """Return restarts of which the best is known."""
        found = tuple(optima)
        return cls(found, max(range(len(found)), key=lambda number: found[number].best.value))

    @property
    def optimum(self) -> Optimum:
        """What was found from the best start."""
        return self.optima[self.best]

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the best value, and those of all starts."""
        yield "value", number(self.optimum.best.value)
        yield "starts", brief([float(number(found.best.value)) for found in self.optima])
        yield "best", str(self.best)


Callback = Callable[[Iterate], None]


def projected_gradient_norm(
    x: FloatArray, gradient: FloatArray, low: FloatArray, high: FloatArray
) -> float:
    """Return the Euclidean norm of P(x + gradient) - x, P the projection on the box.

    All arguments have the shape of x.

    It vanishes exactly at the first-order stationary points of the constrained problem: what points
    out of the box at a bound does not count. It is the gradient mapping at a step of 1 (S. Ghadimi,
    G. Lan, H. Zhang, "Mini-batch stochastic approximation methods for nonconvex stochastic
    composite optimization", Mathematical Programming 155, 2016) and the "projected gradient" of
    L-BFGS-B (R. Byrd, P. Lu, J. Nocedal, C. Zhu, SIAM Journal on Scientific Computing 16, 1995).
    Unlike the projection on the tangent cone it is continuous: just inside a bound, an entry counts
    as far as it is from the bound. So it is at most the diagonal of the box.
    """
    return float(np.linalg.norm(np.clip(x + gradient, low, high) - x))


def answer_of(objective: Evaluation, x: FloatArray) -> tuple[float, FloatArray]:
    """Return (value, gradient) of an objective at x, the gradient in the shape of x.

    Raises:
        TypeError: If it is no function, or returns something else.
    """
    rule = "an objective must be a function x -> (value, gradient)"
    remedy = "`bilevel_gym.wrappers.LeaderObjective(seat)` and `exact_objective(model)` are such"
    if not callable(objective):
        raise TypeError(f"{rule}, got {received(objective)}; {remedy}")
    answer = objective(x)
    if not isinstance(answer, Sequence) or len(answer) != 2:
        raise TypeError(f"{rule}, got one that returns {received(answer)}; {remedy}")
    try:
        return float(answer[0]), np.asarray(answer[1], dtype=np.float64)
    except (TypeError, ValueError):
        parts = f"({received(answer[0])}, {received(answer[1])})"
        raise TypeError(f"{rule} of numbers, got one that returns {parts}; {remedy}") from None


class Recorder:
    """Counts evaluations, and keeps the first, the best and the last iterate.

    The bounds have the shape of x.

    Attributes:
        evaluations: Evaluations noted so far.
        first: The first iterate, None before it.
        best: The iterate of the largest value (`merit`) so far, the latest one of equals.
        last: The iterate noted last.
    """

    def __init__(self, low: FloatArray, high: FloatArray, callback: Callback | None) -> None:
        """Begin with nothing evaluated."""
        self._low, self._high, self._callback = low, high, callback
        self.evaluations = 0
        self.first: Iterate | None = None
        self.best: Iterate | None = None
        self.last: Iterate | None = None

    def note(
        self, x: FloatArray, value: float, gradient: FloatArray, violation: float = 0.0
    ) -> None:
        """Record an evaluation, and by how much a constraint is violated there.

        Raises:
            ArithmeticError: If the value is not finite: none could be said to be better.
        """
        if not math.isfinite(value):
            raise ArithmeticError(
                f"the objective must be finite, got {value} in evaluation {self.evaluations + 1}"
            )
        norm = projected_gradient_norm(x, gradient, self._low, self._high)
        iterate = Iterate(self.evaluations, np.array(x), value, gradient, norm, violation)
        self.evaluations += 1
        self.first, self.last = self.first or iterate, iterate
        if self.best is None or iterate.merit >= self.best.merit:
            self.best = iterate
        if self._callback is not None:
            self._callback(iterate)

    def watch(self, objective: Evaluation) -> Evaluation:
        """Return an objective whose evaluations are all recorded."""

        def evaluate(x: FloatArray) -> tuple[float, FloatArray]:
            value, gradient = answer_of(objective, x)
            self.note(x, value, gradient)
            return value, gradient

        return evaluate

    def optimum(self, message: str) -> Optimum:
        """Return what was found, with the reason for which the optimizer stopped."""
        assert self.first is not None and self.best is not None
        return Optimum(self.best, self.first, self.evaluations, message)


# (objective, start, low, high, *, callback, options of JSON types) -> what was found.
Optimizer = Callable[..., Optimum]
