"""Outer optimizers: ascent on F over the box of x.

Each takes a callable x -> (value, gradient) and knows nothing of games; the leader's seat and the
referee `game.evaluate` are two such callables. The best iterate is kept, whatever the last one is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_at_least, check_in_box, check_positive
from .mdp import FloatArray

__all__ = [
    "Iterate",
    "Evaluation",
    "Optimum",
    "lbfgsb",
    "normalized_ascent",
    "projected_gradient_norm",
]

Evaluation = Callable[[FloatArray], tuple[float, FloatArray]]


@dataclass(frozen=True, eq=False)
class Iterate:
    """One evaluation of the objective.

    Attributes:
        number: Evaluations before this one.
        upper_params: x, shape of the box.
        value: F(x).
        gradient: dF/dx, shape of the box.
        projected_gradient_norm: See `projected_gradient_norm`.
    """

    number: int
    upper_params: FloatArray
    value: float
    gradient: FloatArray
    projected_gradient_norm: float


@dataclass(frozen=True, eq=False)
class Optimum:
    """What an optimizer returns.

    Attributes:
        best: The iterate of the largest value.
        first: The iterate at the start.
        evaluations: Evaluations of the objective.
        message: Why the optimizer stopped.
    """

    best: Iterate
    first: Iterate
    evaluations: int
    message: str


Callback = Callable[[Iterate], None]


def projected_gradient_norm(
    x: FloatArray, gradient: FloatArray, low: FloatArray, high: FloatArray
) -> float:
    """Return the Euclidean norm of P(x + gradient) - x, P the projection on the box.

    It vanishes exactly at the first-order stationary points of the constrained problem.

    Args:
        x: A point of the box.
        gradient: Ascent direction, shape of x.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
    """
    return float(np.linalg.norm(np.clip(x + gradient, low, high) - x))


def normalized_ascent(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    callback: Callback | None = None,
) -> Optimum:
    """Take steps of prescribed length along the gradient, projected on the box.

    x <- P(x + lr_k g / ||g||), where g leaves out the entries that push against a bound, and lr_k
    falls from `learning_rate` to zero along half a cosine. On a soft MDP the size of the gradient
    grows with 1 / temperature and says little about how far it is to be trusted, and long first
    steps carry the leader past nearby poor optima; the decay lets the last steps settle.

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        steps: Steps to take, positive; one evaluation more than that.
        learning_rate: Euclidean length of the first step, positive.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_at_least("steps", steps, 1)
    check_positive("learning_rate", learning_rate)
    recorder = _Recorder(objective, low, high, callback)
    x: FloatArray = check_in_box("start", start, low, high)
    message = f"{steps} steps taken"
    for step in range(steps):
        value, gradient = recorder(x)
        blocked = ((x <= low) & (gradient < 0.0)) | ((x >= high) & (gradient > 0.0))
        direction = np.where(blocked, 0.0, gradient)
        norm = float(np.linalg.norm(direction))
        # A direction made of rounding alone is none; normalising would make a full step of it.
        if norm <= 16.0 * np.finfo(np.float64).eps * max(1.0, abs(value)):
            message = f"the projected gradient is zero after {step} steps"
            return recorder.optimum(message)
        length = learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        x = np.clip(x + length / norm * direction, low, high)
    recorder(x)
    return recorder.optimum(message)


def lbfgsb(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    max_evaluations: int = 200,
    tolerance: float = 1e-6,
    callback: Callback | None = None,
) -> Optimum:
    """Climb to a nearby stationary point with scipy's L-BFGS-B.

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        max_evaluations: Evaluations after which no further line search begins, positive.
        tolerance: Sup norm of the projected gradient to reach, positive.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range.
    """
    from scipy.optimize import Bounds, minimize

    check_at_least("max_evaluations", max_evaluations, 1)
    check_positive("tolerance", tolerance)
    recorder = _Recorder(objective, low, high, callback)
    first = check_in_box("start", start, low, high)

    def descend(flat: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = recorder(flat.reshape(first.shape))
        return -value, -gradient.ravel()

    result = minimize(
        descend,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(np.ravel(low).astype(np.float64), np.ravel(high).astype(np.float64)),
        # Stop on the gradient alone: values stall at rounding while the gradient still falls.
        options={"maxfun": max_evaluations, "gtol": tolerance, "ftol": 0.0},
    )
    return recorder.optimum(str(result.message))


class _Recorder:
    """Evaluates, counts, remembers the first and the best iterate."""

    def __init__(
        self, objective: Evaluation, low: FloatArray, high: FloatArray, callback: Callback | None
    ) -> None:
        self._objective, self._low, self._high = objective, low, high
        self._callback = callback
        self._count = 0
        self._first: Iterate | None = None
        self._best: Iterate | None = None

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = self._objective(x)
        norm = projected_gradient_norm(x, gradient, self._low, self._high)
        iterate = Iterate(self._count, np.array(x), value, gradient, norm)
        self._count += 1
        self._first = self._first or iterate
        if self._best is None or value >= self._best.value:
            self._best = iterate
        if self._callback is not None:
            self._callback(iterate)
        return value, gradient

    def optimum(self, message: str) -> Optimum:
        assert self._first is not None and self._best is not None
        return Optimum(self._best, self._first, self._count, message)
