"""Ascents from starts around one."""

from __future__ import annotations

from numpy.typing import ArrayLike

from ..core.checks import check_at_least, check_positive
from .ascent import ascent
from .base import Callback, Evaluation, FloatArray, Optimum, Recorder
from .libraries import lbfgsb
from .starts import starts_around

__all__ = ["restarted_lbfgsb"]


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

    Args:
        objective: x -> (value, gradient).
        start: The first of the starts, in the box.
        low: Lower bounds, shape of x, finite.
        high: Upper bounds, shape of x, finite.
        restarts: Number of starts, positive.
        spread: As in `starts_around`.
        seed: Seed of the other starts.
        steps: As in `ascent`, from each start.
        learning_rate: As in `ascent`.
        polished: How many of the ends `lbfgsb` goes on from, positive.
        max_evaluations: As in `lbfgsb`, for each of these.
        tolerance: As in `lbfgsb`.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_at_least("restarts", restarts, 1)
    check_at_least("polished", polished, 1)
    check_at_least("max_evaluations", max_evaluations, 1)
    check_positive("tolerance", tolerance)
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
