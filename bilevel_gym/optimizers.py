"""Outer optimizers: ascent on F over the box of x.

Each takes a callable x -> (value, gradient) and knows nothing of games; the leader's seat and the
referee `game.evaluate` are two such callables. The best iterate is kept, whatever the last one is.
`multistart_ascent` climbs from many starts at once, on a callable that evaluates them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_at_least, check_in_box, check_positive
from .mdp import FloatArray

__all__ = [
    "BatchEvaluation",
    "Iterate",
    "Evaluation",
    "Optimum",
    "Restarts",
    "lbfgsb",
    "multistart_ascent",
    "normalized_ascent",
    "projected_gradient_norm",
]

Evaluation = Callable[[FloatArray], tuple[float, FloatArray]]

# Many x, stacked along the first axis, to their values `[B]` and gradients, stacked likewise.
BatchEvaluation = Callable[[FloatArray], tuple[ArrayLike, ArrayLike]]


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


@dataclass(frozen=True, eq=False)
class Restarts:
    """What `multistart_ascent` returns.

    Attributes:
        optima: What was found from each start.
        best: Number of the start that led to the largest value.
    """

    optima: tuple[Optimum, ...]
    best: int

    @property
    def optimum(self) -> Optimum:
        """What was found from the best start."""
        return self.optima[self.best]


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
    run = _Ascent("start", start, low, high, steps, learning_rate, callback)
    while run.message is None:
        run.move(*objective(run.x))
    return run.optimum(run.message)


def multistart_ascent(
    objective: BatchEvaluation,
    starts: Sequence[ArrayLike] | FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    callback: Callable[[int, Iterate], None] | None = None,
) -> Restarts:
    """Run `normalized_ascent` from many starts, a step of all of them at a time.

    Every start ends where it would end alone. All are evaluated until the last one stops, so that
    the copies of a vector environment can be the evaluation; what comes back for those that have
    stopped is ignored.

    Args:
        objective: x of all starts -> (values, gradients), stacked along the first axis.
        starts: First x of each, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        steps: As in `normalized_ascent`.
        learning_rate: As in `normalized_ascent`.
        callback: Called with the number of the start and every iterate from it.

    Raises:
        ValueError: If an argument is out of range, there is no start, or the objective returns
            other shapes.
    """
    if len(starts) == 0:
        raise ValueError("`starts` must hold at least one x, got none")
    runs = [
        _Ascent(
            f"starts[{b}]",
            start,
            low,
            high,
            steps,
            learning_rate,
            None if callback is None else partial(callback, b),
        )
        for b, start in enumerate(starts)
    ]
    while any(run.message is None for run in runs):
        xs = np.stack([run.x for run in runs])
        values, gradients = (np.asarray(part, dtype=np.float64) for part in objective(xs))
        if values.shape != xs.shape[:1] or gradients.shape != xs.shape:
            raise ValueError(
                f"`objective` must return values and gradients of shapes {xs.shape[:1]} and "
                f"{xs.shape}, got {values.shape} and {gradients.shape}"
            )
        for run, value, gradient in zip(runs, values.tolist(), gradients, strict=True):
            if run.message is None:
                run.move(value, gradient.copy())
    optima = tuple(run.optimum(str(run.message)) for run in runs)
    best = max(range(len(optima)), key=lambda b: optima[b].best.value)
    return Restarts(optima, best)


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
    recorder = _Recorder(low, high, callback)
    first = check_in_box("start", start, low, high)

    def descend(flat: FloatArray) -> tuple[float, FloatArray]:
        x = flat.reshape(first.shape)
        value, gradient = objective(x)
        recorder.note(x, value, gradient)
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
    """Counts evaluations, remembers the first and the best iterate."""

    def __init__(self, low: FloatArray, high: FloatArray, callback: Callback | None) -> None:
        self._low, self._high, self._callback = low, high, callback
        self._count = 0
        self._first: Iterate | None = None
        self._best: Iterate | None = None

    def note(self, x: FloatArray, value: float, gradient: FloatArray) -> None:
        norm = projected_gradient_norm(x, gradient, self._low, self._high)
        iterate = Iterate(self._count, np.array(x), value, gradient, norm)
        self._count += 1
        self._first = self._first or iterate
        if self._best is None or value >= self._best.value:
            self._best = iterate
        if self._callback is not None:
            self._callback(iterate)

    def optimum(self, message: str) -> Optimum:
        assert self._first is not None and self._best is not None
        return Optimum(self._best, self._first, self._count, message)


class _Ascent(_Recorder):
    """A run of `normalized_ascent`, evaluated by somebody else.

    Attributes:
        x: What to evaluate next.
        message: Why the run has stopped, None as long as it goes on.
    """

    def __init__(
        self,
        name: str,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        steps: int,
        learning_rate: float,
        callback: Callback | None,
    ) -> None:
        check_at_least("steps", steps, 1)
        check_positive("learning_rate", learning_rate)
        super().__init__(low, high, callback)
        self.x: FloatArray = check_in_box(name, start, low, high)
        self.message: str | None = None
        self._steps, self._learning_rate = steps, learning_rate

    def move(self, value: float, gradient: FloatArray) -> None:
        """Take note of the evaluation of `x`, and step from there."""
        x, step = self.x, self._count
        self.note(x, value, gradient)
        if step == self._steps:
            self.message = f"{step} steps taken"
            return
        blocked = ((x <= self._low) & (gradient < 0.0)) | ((x >= self._high) & (gradient > 0.0))
        direction = np.where(blocked, 0.0, gradient)
        norm = float(np.linalg.norm(direction))
        # A direction made of rounding alone is none; normalising would make a full step of it.
        if norm <= 16.0 * np.finfo(np.float64).eps * max(1.0, abs(value)):
            self.message = f"the projected gradient is zero after {step} steps"
            return
        length = self._learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / self._steps))
        self.x = np.clip(x + length / norm * direction, self._low, self._high)
