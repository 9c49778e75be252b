"""Optimizers of scipy, behind the interface of ours."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import check_at_least, check_in_box, check_not_negative, check_positive
from .base import Callback, Evaluation, FloatArray, Optimum, Recorder
from .starts import finite_width, starts_around

__all__ = ["cobyqa", "lbfgsb"]


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
    recorder = Recorder(low, high, callback)
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
    run that has converged is followed by one from elsewhere, see `starts_around`, until the budget
    is used up.

    Args:
        objective: x -> (value, gradient); the gradient is only recorded.
        start: First x, in the box.
        low: Lower bounds, shape of x, finite.
        high: Upper bounds, shape of x, finite.
        max_evaluations: Evaluations to make, positive.
        radius: First radius of the trust region, as a share of the width of the box, positive.
        tolerance: Radius at which a run has converged, in the same unit, positive and at most
            `radius`.
        spread: As in `starts_around`, for the runs after the first.
        seed: Seed of their starts; all else is deterministic.
        callback: Called with every iterate.

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
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    first, rng = check_in_box("start", start, low, high), np.random.default_rng(seed)
    finite_width(low, high)
    recorder = Recorder(low, high, callback)
    evaluate = recorder.watch(objective)
    if (low == high).all():
        evaluate(first)
        return recorder.optimum("the box is a point")

    def descend(flat: FloatArray) -> float:
        if recorder.evaluations >= max_evaluations:
            raise _BudgetSpent
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
    except _BudgetSpent:
        pass
    return recorder.optimum(f"{recorder.evaluations} evaluations made in {runs} runs")


class _BudgetSpent(Exception):
    """Ends a search in the midst of a run."""
