"""Optimizers of scipy, behind the interface of ours, and starts for them."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_at_least,
    check_in_box,
    check_not_negative,
    check_positive,
    checked_bounds,
)
from .ascent import ascent
from .base import Callback, Evaluation, FloatArray, Optimum, Recorder
from .rules import check_gradient

__all__ = ["BudgetSpent", "cobyqa", "finite_width", "lbfgsb", "restarted_lbfgsb", "starts_around"]


# All of them are held in memory.
MOST_STARTS = 1_000_000


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

    For arguments and their shapes see `ascent`. After `max_evaluations`, positive, no further line
    search begins; `tolerance`, positive, is the sup norm of the projected gradient to reach.

    Raises:
        ValueError: If an argument is out of range.
    """
    from scipy.optimize import Bounds, minimize

    check_at_least("max_evaluations", max_evaluations, 1)
    check_positive("tolerance", tolerance)
    low, high = checked_bounds(low, high, bounded=False)
    recorder = Recorder(low, high, callback)
    evaluate = recorder.watch(objective)
    first = check_in_box("start", start, low, high)

    def descend(flat: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = evaluate(flat.reshape(first.shape))
        check_gradient(first, gradient)
        return -value, -gradient.ravel()

    result = minimize(
        descend,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(low.ravel(), high.ravel()),
        # Stop on the gradient alone: values stall at rounding while the gradient still falls.
        options={"maxfun": max_evaluations, "gtol": tolerance, "ftol": 0.0},
    )
    return recorder.optimum(str(result.message))


def restarted_lbfgsb(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    restarts: int = 8,
    spread: float = 0.02,
    seed: int = 0,
    steps: int = 100,
    learning_rate: float = 0.05,
    polished: int = 2,
    max_evaluations: int = 200,
    tolerance: float = 1e-6,
    callback: Callback | None = None,
) -> Optimum:
    """Run a normalised `ascent` from starts around one, then `lbfgsb` from the best few ends.

    There are `restarts` starts, see `starts_around`, and `polished` of the ends that `lbfgsb` goes
    on from, both positive. `steps` and `learning_rate` are as in `ascent`, for each start;
    `max_evaluations` and `tolerance` as in `lbfgsb`, for each of these ends. Shapes are those of
    `ascent`.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_at_least("restarts", restarts, 1, MOST_STARTS)
    check_at_least("polished", polished, 1)
    check_at_least("max_evaluations", max_evaluations, 1)
    check_positive("tolerance", tolerance)
    low, high = checked_bounds(low, high, bounded=False)
    recorder = Recorder(low, high, callback)
    evaluate = recorder.watch(objective)
    ends = [
        ascent(evaluate, first, low, high, steps=steps, learning_rate=learning_rate)
        for first in starts_around(start, low, high, restarts, spread=spread, seed=seed)
    ]
    ends.sort(key=lambda end: -end.best.value)
    reached = [(end.best.value, end.message) for end in ends]
    for rank, end in enumerate(ends[:polished]):
        top = lbfgsb(
            evaluate,
            end.best.upper_params,
            low,
            high,
            max_evaluations=max_evaluations,
            tolerance=tolerance,
        )
        reached[rank] = max(end.best.value, top.best.value), f"{end.message}; {top.message}"
    message = max(reached, key=lambda run: run[0])[1]
    return recorder.optimum(f"the best of {restarts} starts: {message}")


def cobyqa(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    max_evaluations: int = 2000,
    radius: float = 0.5,
    tolerance: float = 1e-6,
    spread: float = 0.02,
    seed: int = 0,
    callback: Callback | None = None,
) -> Optimum:
    """Search with scipy's COBYQA, which looks at values alone: the control for the gradients.

    It fits a quadratic to the values seen and climbs on that within a trust region; two values for
    each entry of x come before the first step, and its own work grows steeply with their number. A
    run that has converged is followed by one from elsewhere, see `starts_around` for `spread` and
    `seed`, until `max_evaluations`, positive, are used up; all else is deterministic.

    `radius` is the first one of the trust region, as a share of the width of the box, which must be
    finite; a run has converged at `tolerance`, in the same unit. Both are positive, the latter at
    most the former. For the other arguments and their shapes see `ascent`; gradients are only
    recorded.

    Raises:
        ImportError: If scipy is older than 1.14, which brought COBYQA.
        ValueError: If an argument is out of range.

    Source: Ragonneau, Model-based derivative-free optimization methods and software, PhD thesis,
    The Hong Kong Polytechnic University, 2022.
    """
    import scipy
    from scipy.optimize import Bounds, minimize

    check_at_least("max_evaluations", max_evaluations, 1)
    check_positive("radius", radius)
    check_positive("tolerance", tolerance)
    if tolerance > radius:
        raise ValueError(f"`tolerance` must be at most `radius`, {radius}, got {tolerance}")
    check_not_negative("spread", spread)
    check_at_least("seed", seed, 0)
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 14):
        raise ImportError(f"`cobyqa` needs scipy 1.14 or newer, got {scipy.__version__}")
    low, high = checked_bounds(low, high, bounded=False)
    first, rng = check_in_box("start", start, low, high), np.random.default_rng(seed)
    finite_width(low, high)
    recorder = Recorder(low, high, callback)
    evaluate = recorder.watch(objective)
    if (low == high).all():
        evaluate(first)
        return recorder.optimum("the box is a point")

    def descend(flat: FloatArray) -> float:
        if recorder.evaluations >= max_evaluations:
            raise BudgetSpent
        # Scaling the box to a cube and back leaves it by rounding.
        return -evaluate(np.clip(flat.reshape(first.shape), low, high))[0]

    x, runs = first, 0
    try:
        while recorder.evaluations < max_evaluations:
            runs += 1
            minimize(
                descend,
                x.ravel(),
                method="COBYQA",
                bounds=Bounds(low.ravel(), high.ravel()),
                options={
                    "maxfev": sys.maxsize,  # the budget is for all runs together
                    "maxiter": sys.maxsize,
                    "scale": True,  # to the cube [-1, 1], in which radii are measured
                    "initial_tr_radius": 2.0 * radius,
                    "final_tr_radius": 2.0 * tolerance,
                },
            )
            x = starts_around(first, low, high, 2, spread=spread, seed=rng)[1]
    except BudgetSpent:
        pass
    return recorder.optimum(f"{recorder.evaluations} evaluations made in {runs} runs")


def starts_around(
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    count: int,
    *,
    spread: float = 0.02,
    seed: int | np.random.Generator = 0,
) -> FloatArray:
    """Return starts, `[count, ...]`: first the one given, the others Gaussian around it.

    `spread` is the standard deviation as a share of the width of the box, which must be finite;
    what falls outside is projected on the box.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_at_least("count", count, 1, MOST_STARTS)
    check_not_negative("spread", spread)
    if not isinstance(seed, np.random.Generator):
        check_at_least("seed", seed, 0)
    low, high = checked_bounds(low, high, bounded=False)
    first = check_in_box("start", start, low, high)
    width = finite_width(low, high)
    noise = np.random.default_rng(seed).standard_normal((count - 1, *first.shape))
    return np.concatenate([first[None], np.clip(first + spread * width * noise, low, high)])


def finite_width(low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the width of a box, shape of x; raise a `ValueError` if it is infinite."""
    width = high - low
    if not np.isfinite(width).all():
        entry = tuple(int(i) for i in np.argwhere(~np.isfinite(width))[0])
        raise ValueError(
            f"`low` and `high` must be finite, got {low[entry]} and {high[entry]} in entry {entry}"
        )
    return width


class BudgetSpent(Exception):
    """Ends a search in the midst of a run; an objective that ends it raises something else."""
