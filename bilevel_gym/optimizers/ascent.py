"""Climbs by update rules: evaluated by the climb itself, or by somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_at_least,
    check_in_box,
    check_positive,
)
from ..core.mdp import FloatArray
from .climbs import Callback, Evaluation, Iterate, Optimizer, Optimum, Recorder
from .rules import Schedule, UpdateRule, feasible_part, is_rounding, make_rule, make_schedule

__all__ = [
    "ASCENTS",
    "Ascent",
    "Climb",
    "adam",
    "normalized_ascent",
    "projected_ascent",
]


class Climb(Recorder):
    """A climb along an update rule, evaluated by somebody else.

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
        """Begin at the start.

        Args:
            start: First x, in the box.
            low: Lower bounds, shape of x.
            high: Upper bounds, shape of x.
            rule: What moves x; no other climb may use it.
            callback: Called with every iterate.
            name: What errors call the start.

        Raises:
            ValueError: If the start is not in the box.
        """
        super().__init__(low, high, callback)
        self.x: FloatArray = check_in_box(name, start, low, high)
        self.rule = rule

    @property
    def best(self) -> Iterate | None:
        """The iterate of the largest value so far, None before the first."""
        return self._best

    @property
    def last(self) -> Iterate | None:
        """The iterate noted last, None before the first."""
        return self._last

    def move(self, value: float, gradient: FloatArray, rate: float) -> None:
        """Take note of the evaluation of `x`, and step from there.

        Args:
            value: F(x).
            gradient: dF/dx, shape of x; it must not change afterwards.
            rate: Learning rate of the step.

        Raises:
            ValueError: If the gradient has another shape or is not finite.
        """
        x = self.x
        following = self.rule.step(x, value, gradient, rate)
        self.note(x, value, gradient)
        self.x = following

    def state_dict(self) -> dict[str, Any]:
        """Return all that the climb remembers, as nested dicts of numbers and arrays."""
        state: dict[str, Any] = {"x": np.array(self.x), "evaluations": self._count}
        state["rule"] = self.rule.state_dict()
        for name, iterate in self._kept().items():
            if iterate is not None:
                state[name] = {
                    key: np.array(value) if isinstance(value, np.ndarray) else value
                    for key, value in vars(iterate).items()
                }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` has returned.

        Raises:
            ValueError: If its x is not in the box.
        """
        self.x = check_in_box("x", state["x"], self._low, self._high)
        self._count = int(state["evaluations"])
        self.rule.load_state_dict(state["rule"])
        self._first, self._best, self._last = (
            Iterate(**state[name]) if name in state else None for name in self._kept()
        )

    def _kept(self) -> dict[str, Iterate | None]:
        return {"first": self._first, "best": self._best, "last": self._last}


class Ascent(Climb):
    """A run of one of the ascents, evaluated by somebody else.

    Attributes:
        message: Why the run has stopped, None as long as it goes on.
    """

    def __init__(
        self,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        *,
        rule: str,
        steps: int,
        learning_rate: float | None = None,
        schedule: str | Schedule = "cosine",
        stop_at_zero: bool = True,
        callback: Callback | None = None,
        name: str = "start",
        **options: Any,
    ) -> None:
        """Begin; see `normalized_ascent` and its likes."""
        check_at_least("steps", steps, 1)
        moved_by = make_rule(rule, low, high, **options)
        self._rate = moved_by.learning_rate if learning_rate is None else learning_rate
        check_positive("learning_rate", self._rate)
        super().__init__(start, low, high, moved_by, callback=callback, name=name)
        self.message: str | None = None
        self._steps, self._schedule = steps, make_schedule(schedule)
        self._stop_at_zero = stop_at_zero

    def proceed(self, value: float, gradient: FloatArray) -> None:
        """Take note of the evaluation of `x`, and step from there unless the run is over."""
        step = self._count
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

    def run(self, objective: Evaluation) -> Optimum:
        """Evaluate until the end."""
        while self.message is None:
            self.proceed(*objective(self.x))
        return self.optimum(self.message)


def normalized_ascent(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    schedule: str | Schedule = "cosine",
    stop_at_zero: bool = True,
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
        schedule: How the learning rate goes on, a key of `SCHEDULES` or a callable.
        stop_at_zero: Whether to stop where the projected gradient is zero up to rounding; say no
            where gradients are sampled, as the next sample may tell otherwise.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range, or a gradient is not finite.
    """
    return Ascent(
        start,
        low,
        high,
        rule="normalized",
        steps=steps,
        learning_rate=learning_rate,
        schedule=schedule,
        stop_at_zero=stop_at_zero,
        callback=callback,
    ).run(objective)


def projected_ascent(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    schedule: str | Schedule = "cosine",
    max_gradient_norm: float | None = 1.0,
    stop_at_zero: bool = True,
    callback: Callback | None = None,
) -> Optimum:
    """Take steps in proportion to the gradient, projected on the box: x <- P(x + lr_k g).

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        steps: Steps to take, positive; one evaluation more than that.
        learning_rate: Factor of the gradient, positive.
        schedule: How the learning rate goes on, a key of `SCHEDULES` or a callable.
        max_gradient_norm: Euclidean norm to which longer gradients are shortened, positive; None
            leaves them as they are.
        stop_at_zero: As in `normalized_ascent`.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range, or a gradient is not finite.
    """
    return Ascent(
        start,
        low,
        high,
        rule="projected",
        steps=steps,
        learning_rate=learning_rate,
        schedule=schedule,
        stop_at_zero=stop_at_zero,
        callback=callback,
        max_gradient_norm=max_gradient_norm,
    ).run(objective)


def adam(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    steps: int = 200,
    learning_rate: float = 0.01,
    schedule: str | Schedule = "cosine",
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    max_gradient_norm: float | None = None,
    stop_at_zero: bool = True,
    callback: Callback | None = None,
) -> Optimum:
    """Adam, projected on the box: each entry of x moves by about the learning rate.

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        steps: Steps to take, positive; one evaluation more than that.
        learning_rate: About how far an entry of x moves in the first step, positive.
        schedule: How the learning rate goes on, a key of `SCHEDULES` or a callable.
        beta1: Decay of the running mean of the gradients, in [0, 1).
        beta2: Decay of the running mean of their squares, in [0, 1).
        epsilon: Added to the root of the latter, positive.
        max_gradient_norm: As in `projected_ascent`, before all this.
        stop_at_zero: As in `normalized_ascent`.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range, or a gradient is not finite.

    Source: Kingma, Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1.
    """
    return Ascent(
        start,
        low,
        high,
        rule="adam",
        steps=steps,
        learning_rate=learning_rate,
        schedule=schedule,
        stop_at_zero=stop_at_zero,
        callback=callback,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        max_gradient_norm=max_gradient_norm,
    ).run(objective)


# The climb along each of the update rules, by the rule's name.
ASCENTS: dict[str, Optimizer] = {
    "adam": adam,
    "normalized": normalized_ascent,
    "projected": projected_ascent,
}
