"""Ascent along an update rule: from one start, from many at once, or a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_in_box,
    check_options,
    check_positive,
    checked_bounds,
)
from .base import (
    BatchEvaluation,
    Callback,
    Evaluation,
    FloatArray,
    Iterate,
    Optimizer,
    Optimum,
    Recorder,
    Restarts,
    answer_of,
)
from .rules import (
    RULES,
    Schedule,
    UpdateRule,
    check_gradient,
    feasible_part,
    is_rounding,
    make_rule,
    make_schedule,
)

__all__ = [
    "Climb",
    "adam",
    "along",
    "ascent",
    "multistart_ascent",
    "normalized_ascent",
    "projected_ascent",
]


class Climb(Recorder):
    """A climb along an update rule that the caller evaluates.

    Example:
        >>> import numpy as np
        >>> low, high = -np.ones(2), np.ones(2)
        >>> climb = Climb(np.zeros(2), low, high, make_rule("adam", low, high))
        >>> for _ in range(100):
        ...     gap = climb.x - 0.5
        ...     climb.move(-float(gap @ gap), -2.0 * gap, rate=0.05)
        >>> climb.optimum("enough").best.upper_params.round(2)
        array([0.5, 0.5])

    Attributes:
        x: What to evaluate next.
        rule: What moves it.
    """

    def __init__(
        self,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        rule: UpdateRule,
        *,
        callback: Callback | None = None,
        name: str = "start",
    ) -> None:
        """Begin at a start in the box, which errors call `name`; the rule is for one climb.

        Raises:
            ValueError: If the start is not in the box.
        """
        low, high = checked_bounds(low, high, bounded=False)
        super().__init__(low, high, callback)
        self.x: FloatArray = check_in_box(name, start, low, high)
        self.rule = rule

    def move(self, value: float, gradient: FloatArray, rate: float) -> None:
        """Record F(x) and its gradient, which must not change afterwards, and step from there.

        Raises:
            ValueError: If the gradient has another shape or is not finite.
        """
        x = self.x
        following = self.rule.step(x, value, gradient, rate)
        self.note(x, value, gradient)
        self.x = following

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the climb, as nested dicts of numbers and arrays."""
        state: dict[str, Any] = {"x": np.array(self.x), "evaluations": self.evaluations}
        state["rule"] = self.rule.state_dict()
        for name in ("first", "best", "last"):
            iterate: Iterate | None = vars(self)[name]
            if iterate is not None:
                state[name] = deepcopy(vars(iterate))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` has returned.

        Raises:
            ValueError: If its x is not in the box.
        """
        self.x = check_in_box("x", state["x"], self._low, self._high)
        self.evaluations = int(state["evaluations"])
        self.rule.load_state_dict(state["rule"])
        self.first, self.best, self.last = (
            Iterate(**state[name]) if name in state else None for name in ("first", "best", "last")
        )


class _Run(Climb):
    """A climb with a schedule and an end: `message` says why it stopped, None until then."""

    def __init__(
        self,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        *,
        rule: str = "normalized",
        steps: int = 200,
        learning_rate: float | None = None,
        schedule: str | Schedule = "cosine",
        stop_at_zero: bool = True,
        callback: Callback | None = None,
        name: str = "start",
        **options: Any,
    ) -> None:
        self._steps = check_at_least("steps", steps, 1)
        check_options(f"ascent along {rule!r}", along(rule), options)
        moved_by = make_rule(rule, low, high, **options)
        rate = moved_by.learning_rate if learning_rate is None else learning_rate
        self._rate = check_positive("learning_rate", rate)
        super().__init__(start, low, high, moved_by, callback=callback, name=name)
        self.message: str | None = None
        self._schedule = make_schedule(schedule)
        self._stop_at_zero = check_flag("stop_at_zero", stop_at_zero)

    def proceed(self, value: float, gradient: FloatArray) -> None:
        """Record the evaluation of `x`, and step from there unless the run is over."""
        check_gradient(self.x, gradient)
        step = self.evaluations
        if step == self._steps:
            self.message = f"{step} steps taken"
        elif self._stop_at_zero:
            left = feasible_part(self.x, gradient, self._low, self._high)
            if is_rounding(float(np.linalg.norm(left)), value):
                self.message = f"the projected gradient is zero after {step} steps"
        if self.message is not None:
            self.note(self.x, value, gradient)
        else:
            self.move(value, gradient, self._rate * self._schedule(step, self._steps))


def ascent(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    rule: str = "normalized",
    steps: int = 200,
    learning_rate: float | None = None,
    schedule: str | Schedule = "cosine",
    stop_at_zero: bool = True,
    callback: Callback | None = None,
    **options: Any,
) -> Optimum:
    """Take steps along the gradient by an update rule, projected on the box.

    `OPTIMIZERS` has an entry for each rule: `normalized`, of steps of prescribed length, for one.

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        rule: What moves x, a key of `RULES`.
        steps: Steps to take, positive; one evaluation more than that.
        learning_rate: Learning rate of the first step, positive; None for that of the rule. It is
            the Euclidean length of the step (normalized), the factor of the gradient (projected),
            about how far an entry of x moves (adam).
        schedule: How the learning rate goes on, a key of `SCHEDULES` or a callable.
        stop_at_zero: Whether to stop where the projected gradient is zero up to rounding; say no
            where gradients are sampled, as the next sample may differ.
        callback: Called with every iterate.
        **options: Options of the rule.

    Raises:
        ValueError: If an argument is out of range, or a gradient is not finite.
        ArithmeticError: If a value is not finite.
        TypeError: If the rule does not take an option.
    """
    run = _Run(
        start,
        low,
        high,
        rule=rule,
        steps=steps,
        learning_rate=learning_rate,
        schedule=schedule,
        stop_at_zero=stop_at_zero,
        callback=callback,
        **options,
    )
    while run.message is None:
        run.proceed(*answer_of(objective, run.x))
    return run.optimum(run.message)


def multistart_ascent(
    objective: BatchEvaluation,
    starts: Sequence[ArrayLike] | FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    callback: Callable[[int, Iterate], None] | None = None,
    **options: Any,
) -> Restarts:
    """Run `ascent` from many starts, a step of all at a time.

    The objective takes x of all starts to (values, gradients), stacked along the first axis. Every
    start ends where it would end alone. All are evaluated until the last one stops, so that the
    copies of a vector environment can be the evaluation; what comes back for those that have
    stopped is ignored. The callback gets the number of the start and every iterate from it.

    Raises:
        ValueError: If an argument is out of range, there is no start, or the objective returns
            other shapes.
        TypeError: If the ascent does not take an option.
    """
    if len(starts) == 0:
        raise ValueError("`starts` must hold at least one x, got none")
    runs = [
        _Run(
            start,
            low,
            high,
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
    return Restarts.ranked(run.optimum(str(run.message)) for run in runs)


def along(rule: str) -> Optimizer:
    """Return `ascent` along a rule, with a signature that has the rule's own options."""
    factory = RULES[check_choice("update rule", rule, RULES)]
    parameters = dict(signature(ascent).parameters)
    for name in ("rule", "options"):
        del parameters[name]
    rate = parameters["learning_rate"].replace(default=factory.learning_rate)
    own = [p for p in signature(factory).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    run = partial(ascent, rule=rule)
    run.__doc__ = factory.__doc__
    run.__signature__ = signature(ascent).replace(  # type: ignore[attr-defined]
        parameters=[*{**parameters, "learning_rate": rate}.values(), *own]
    )
    return run


adam = along("adam")
normalized_ascent = along("normalized")
projected_ascent = along("projected")
