"""Climbs from many starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_at_least,
    check_in_box,
    check_options,
    check_positive,
    unknown_name,
)
from ..core.mdp import FloatArray
from .ascent import ASCENTS, Ascent, normalized_ascent
from .climbs import (
    BatchEvaluation,
    Callback,
    Evaluation,
    Iterate,
    Optimizer,
    Optimum,
    Recorder,
    Restarts,
)
from .libraries import lbfgsb
from .rules import RULES
from .starts import starts_around

__all__ = [
    "from_each",
    "multistart_ascent",
    "multistart_lbfgsb",
    "restarted_lbfgsb",
]


def multistart_ascent(
    objective: BatchEvaluation,
    starts: Sequence[ArrayLike] | FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    rule: str = "normalized",
    steps: int = 200,
    learning_rate: float | None = None,
    callback: Callable[[int, Iterate], None] | None = None,
    **options: Any,
) -> Restarts:
    """Run `normalized_ascent`, or another ascent, from many starts, a step of all at a time.

    Every start ends where it would end alone. All are evaluated until the last one stops, so that
    the copies of a vector environment can be the evaluation; what comes back for those that have
    stopped is ignored.

    Args:
        objective: x of all starts -> (values, gradients), stacked along the first axis.
        starts: First x of each, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        rule: What moves x, a key of `RULES`.
        steps: As in `normalized_ascent`.
        learning_rate: As in `normalized_ascent`; None for the default of the rule.
        callback: Called with the number of the start and every iterate from it.
        **options: Other options of the ascent along this rule.

    Raises:
        ValueError: If an argument is out of range, there is no start, or the objective returns
            other shapes.
        TypeError: If the ascent does not take an option.
    """
    _check_starts(starts)
    if rule not in RULES:
        raise ValueError(unknown_name("update rule", rule, RULES))
    check_options(f"the ascent along {rule!r}", ASCENTS[rule], options, reserved=["callback"])
    runs = [
        Ascent(
            start,
            low,
            high,
            rule=rule,
            steps=steps,
            learning_rate=learning_rate,
            callback=callback and partial(callback, b),
            name=f"starts[{b}]",
            **options,
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
                run.proceed(value, gradient.copy())
    return _ranked(run.optimum(str(run.message)) for run in runs)


def multistart_lbfgsb(
    objective: BatchEvaluation,
    starts: Sequence[ArrayLike] | FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    polished: int = 6,
    max_evaluations: int = 400,
    tolerance: float = 1e-6,
    single: Evaluation | None = None,
    callback: Callable[[int, Iterate], None] | None = None,
    **options: Any,
) -> Restarts:
    """Run an ascent from many starts at once, then climb to the top from the best few ends.

    Args:
        objective: As in `multistart_ascent`.
        starts: First x of each, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        polished: How many of the ends `lbfgsb` goes on from, positive.
        max_evaluations: As in `lbfgsb`, for each of these.
        tolerance: As in `lbfgsb`.
        single: x -> (value, gradient), for the second part; by default `objective` evaluates one x.
        callback: Called with the number of the start and every iterate from it.
        **options: Options of `multistart_ascent`.

    Returns:
        What was found from each start, both parts taken together.

    Raises:
        ValueError: As in `multistart_ascent` and `lbfgsb`.
        TypeError: If the ascent does not take an option.
    """
    check_at_least("polished", polished, 1)
    check_at_least("max_evaluations", max_evaluations, 1)
    check_positive("tolerance", tolerance)

    def alone(x: FloatArray) -> tuple[float, FloatArray]:
        values, gradients = objective(x[None])
        return float(np.asarray(values)[0]), np.array(np.asarray(gradients)[0], dtype=np.float64)

    climb = partial(lbfgsb, max_evaluations=max_evaluations, tolerance=tolerance)
    found = multistart_ascent(objective, starts, low, high, callback=callback, **options)
    return _polished(found, single or alone, low, high, climb, polished, callback)


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
    """Run `normalized_ascent` from starts around one, then `lbfgsb` from the best few ends.

    The same as `multistart_lbfgsb` from `starts_around`, one evaluation at a time.

    Args:
        objective: x -> (value, gradient).
        start: The first of the starts, in the box.
        low: Lower bounds, shape of x, finite.
        high: Upper bounds, shape of x, finite.
        restarts: Number of starts, positive.
        spread: As in `starts_around`.
        seed: Seed of the other starts.
        steps: As in `normalized_ascent`, from each start.
        learning_rate: As in `normalized_ascent`.
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
    found = from_each(
        partial(normalized_ascent, steps=steps, learning_rate=learning_rate),
        evaluate,
        starts_around(start, low, high, restarts, spread=spread, seed=seed),
        low,
        high,
    )
    climb = partial(lbfgsb, max_evaluations=max_evaluations, tolerance=tolerance)
    best = _polished(found, evaluate, low, high, climb, polished, None).optimum
    return recorder.optimum(f"the best of {restarts} starts: {best.message}")


def from_each(
    run: Optimizer,
    objective: Evaluation,
    starts: Sequence[ArrayLike] | FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    callback: Callable[[int, Iterate], None] | None = None,
) -> Restarts:
    """Run an optimizer from each start in turn.

    Args:
        run: The optimizer, its options set.
        objective: x -> (value, gradient).
        starts: First x of each run, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        callback: Called with the number of the start and every iterate from it.

    Raises:
        ValueError: If there is no start, or one is not in the box.
    """
    _check_starts(starts)
    first = [check_in_box(f"starts[{b}]", start, low, high) for b, start in enumerate(starts)]
    return _ranked(
        run(objective, start, low, high, callback=callback and partial(callback, b))
        for b, start in enumerate(first)
    )


def _check_starts(starts: Sequence[ArrayLike] | FloatArray) -> None:
    if len(starts) == 0:
        raise ValueError("`starts` must hold at least one x, got none")


def _ranked(found: Iterable[Optimum]) -> Restarts:
    optima = tuple(found)
    return Restarts(optima, max(range(len(optima)), key=lambda b: optima[b].best.value))


def _polished(
    restarts: Restarts,
    objective: Evaluation,
    low: FloatArray,
    high: FloatArray,
    climb: Optimizer,
    count: int,
    callback: Callable[[int, Iterate], None] | None,
) -> Restarts:
    """Return restarts whose best few runs were continued by another optimizer."""
    optima = list(restarts.optima)
    ranking = sorted(range(len(optima)), key=lambda b: -optima[b].best.value)
    for b in ranking[:count]:
        before = optima[b]

        def renumbered(iterate: Iterate, before: Optimum = before) -> Iterate:
            return replace(iterate, number=iterate.number + before.evaluations)

        def report(iterate: Iterate, b: int = b, before: Optimum = before) -> None:
            assert callback is not None
            callback(b, replace(iterate, number=iterate.number + before.evaluations))

        after = climb(
            objective,
            before.best.upper_params,
            low,
            high,
            callback=None if callback is None else report,
        )
        optima[b] = Optimum(
            max(before.best, renumbered(after.best), key=lambda iterate: iterate.value),
            before.first,
            before.evaluations + after.evaluations,
            f"{before.message}; {after.message}",
        )
    return _ranked(optima)
