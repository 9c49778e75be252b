"""Optimizers by name, and climbs along a sequence of objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from numpy.typing import ArrayLike

from ..core.checks import check_choice, check_in_box, check_options, checked_bounds
from .ascent import along
from .base import Evaluation, FloatArray, Iterate, Optimizer, Optimum, Stopped
from .climb import climb
from .constrained import slsqp, trust_constr
from .constraints import KnowsCosts
from .libraries import cobyqa, lbfgsb, restarted_lbfgsb
from .rules import RULES
from .safe import safe

__all__ = ["OPTIMIZERS", "check_optimizer", "continuation", "make_optimizer", "options_for"]

# Adding an optimizer is a function and one row. (An update rule is a row of `RULES`.)
OPTIMIZERS: dict[str, Optimizer] = {
    **{rule: along(rule) for rule in RULES},
    "climb": climb,
    "cobyqa": cobyqa,
    "lbfgsb": lbfgsb,
    "restarted-lbfgsb": restarted_lbfgsb,
    "safe": safe,
    "slsqp": slsqp,
    "trust-constr": trust_constr,
}

# Parameters that are functions, no options.
RESERVED = ("callback", "between")


def make_optimizer(optimizer: str | Optimizer, **options: Any) -> Optimizer:
    """Return an optimizer with its options set: (objective, start, low, high, *, callback).

    It is a key of `OPTIMIZERS`, or a function like them; options are of JSON types.

    Raises:
        ValueError: If the name is unknown. (Values are checked when the optimizer is called.)
        TypeError: If the optimizer does not take an option.

    Example:
        >>> make_optimizer("adma")
        Traceback (most recent call last):
            ...
        ValueError: unknown optimizer 'adma'. Did you mean 'adam'? Accepted: 'adam', ...
    """
    if callable(optimizer):
        return partial(optimizer, **options)
    run = OPTIMIZERS[check_choice("optimizer", optimizer, OPTIMIZERS)]
    check_options(f"optimizer {optimizer!r}", run, options, reserved=RESERVED)
    return partial(run, **options)


class _Stops:
    """An objective that ends the optimizer at once; costs are those of another objective."""

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        raise Stopped


class _StopsWithCosts(_Stops):
    def __init__(self, objective: KnowsCosts) -> None:
        self.cost = objective.cost


def check_optimizer(
    optimizer: str | Optimizer,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    objective: object = None,
    **options: Any,
) -> None:
    """Raise what an optimizer raises for its arguments, without an evaluation of the objective.

    `start` and the bounds have the shape of x.
    """
    stops = _StopsWithCosts(objective) if isinstance(objective, KnowsCosts) else _Stops()
    try:
        make_optimizer(optimizer, **options)(stops, start, low, high)
    except Stopped:
        pass


def options_for(
    optimizer: str, given: Mapping[str, Any], *, steps: int, **others: Any
) -> dict[str, Any]:
    """Return the options of an optimizer for `steps` steps, or `steps` + 1 evaluations.

    Those given come first; the others, such as `seed`, are for the optimizers that take them.
    """
    if optimizer not in OPTIMIZERS:
        return dict(given)  # `make_optimizer` explains the error
    takes = signature(OPTIMIZERS[optimizer]).parameters
    options = {"steps": steps, "max_evaluations": steps + 1, **others}
    options = {name: value for name, value in options.items() if name in takes}
    if "restarts" in takes:  # half of the evaluations for the starts, the other for what follows
        restarts = given.get("restarts", takes["restarts"].default)
        if isinstance(restarts, int) and restarts > 0:
            options["steps"] = max(1, steps // (2 * restarts) - 1)
    return {**options, **given}


def continuation(
    objectives: Sequence[Evaluation],
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    optimizer: str | Optimizer = "normalized",
    callback: Callable[[int, Iterate], None] | None = None,
    **options: Any,
) -> tuple[Optimum, ...]:
    """Climb on a sequence of objectives, on each from the best x of the one before.

    A game at a high temperature is smooth and has few local optima, but others than at the low
    temperature that is wanted; in between they move little at a time. Values of different
    objectives need not be comparable. The callback gets the number of the objective and every
    iterate on it; for the other arguments see `make_optimizer`. Returns what was found on each; the
    last is the answer.

    Raises:
        ValueError: If an argument is out of range, or there is no objective.
        TypeError: If the optimizer does not take an option.

    Example:
        >>> import bilevel_gym, gymnasium as gym, numpy as np
        >>> from bilevel_gym.wrappers import exact_objective
        >>> games = [gym.make("BilevelGridWorld-v0", temperature=t) for t in (0.018, 0.013, 0.01)]
        >>> falling = [exact_objective(game.unwrapped.model) for game in games]
        >>> found = continuation(falling, np.zeros(52), -np.ones(52), np.ones(52), steps=9)
        >>> [optimum.evaluations for optimum in found]
        [10, 10, 10]
    """
    run = make_optimizer(optimizer, **options)
    if len(objectives) == 0:
        raise ValueError("`objectives` must hold at least one, got none")
    optima: list[Optimum] = []
    low, high = checked_bounds(low, high, bounded=False)
    x = check_in_box("start", start, low, high)
    for stage, objective in enumerate(objectives):
        optima.append(run(objective, x, low, high, callback=callback and partial(callback, stage)))
        x = optima[-1].best.upper_params
    return tuple(optima)
