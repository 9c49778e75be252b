"""Update rules and their schedules: the next x, one gradient at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_choice,
    check_discount,
    check_options,
    check_positive,
    checked_bounds,
    optional,
)
from .base import FloatArray

__all__ = [
    "AdamRule",
    "NormalizedRule",
    "ProjectedRule",
    "RULES",
    "SCHEDULES",
    "Schedule",
    "UpdateRule",
    "check_gradient",
    "feasible_part",
    "is_rounding",
    "make_rule",
    "make_schedule",
]


# (number of the step, steps of the run) -> factor of the learning rate, in [0, 1].
Schedule = Callable[[int, int], float]


# Of a gradient, so that the squares of entries add up to a float64.
LARGEST_ENTRY = 1e150

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda step, steps: 1.0,
    # From one to zero along half a cosine.
    "cosine": lambda step, steps: 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps)),
    # One over the root of the number of the step, counted from one.
    "inverse-sqrt": lambda step, steps: 1.0 / math.sqrt(1.0 + step),
}


def make_schedule(schedule: str | Schedule) -> Schedule:
    """Return a schedule by name, or the callable (step, steps) -> factor that is given.

    Raises:
        ValueError: If there is no schedule of that name.
    """
    if callable(schedule):
        return schedule
    return SCHEDULES[check_choice("`schedule`", schedule, SCHEDULES)]


def feasible_part(
    x: FloatArray, gradient: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Return the gradient, of the shape of x, without the entries that push against a bound."""
    blocked = ((x <= low) & (gradient < 0.0)) | ((x >= high) & (gradient > 0.0))
    return np.where(blocked, 0.0, gradient)


def check_gradient(x: FloatArray, gradient: FloatArray) -> None:
    """Raise a `ValueError` unless a gradient has the shape of x, and its squares are finite."""
    if gradient.shape != x.shape:
        raise ValueError(f"the gradient must have shape {x.shape}, got {gradient.shape}")
    right = np.abs(gradient) < LARGEST_ENTRY  # false for NaN as well
    if not right.all():
        entry = tuple(int(i) for i in np.argwhere(~right)[0])
        rule = f"below {LARGEST_ENTRY:g}" if np.isfinite(gradient[entry]) else "finite"
        raise ValueError(f"the gradient must be {rule}, got {gradient[entry]} in entry {entry}")


def is_rounding(norm: float, value: float) -> bool:
    """Whether a direction of this norm is made of the rounding of a value alone."""
    return norm <= 16.0 * float(np.finfo(np.float64).eps) * max(1.0, abs(value))


def _clipped(gradient: FloatArray, max_norm: float | None) -> FloatArray:
    """Return the gradient, shortened to `max_norm` where it is longer."""
    if max_norm is None:
        return gradient
    norm = float(np.linalg.norm(gradient))
    return gradient if norm <= max_norm else gradient * (max_norm / norm)


class UpdateRule(ABC):
    """How a gradient at x moves x, with the state that this takes.

    Attributes:
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        learning_rate: The default learning rate.
    """

    learning_rate: ClassVar[float] = 0.05
    _state: ClassVar[tuple[str, ...]] = ()  # attributes that steps change

    def __init__(self, low: ArrayLike, high: ArrayLike) -> None:
        """Initialise the state for a box with the shape of x.

        Raises:
            ValueError: If the bounds are no numbers, of two shapes or out of order.
        """
        self.low, self.high = checked_bounds(low, high, bounded=False)

    def step(self, x: FloatArray, value: float, gradient: FloatArray, rate: float) -> FloatArray:
        """Return the next x, in the box; the gradient was taken at x.

        Raises:
            ValueError: If the gradient has another shape or is not finite; the state is unchanged.
        """
        check_gradient(x, gradient)
        return np.clip(x + self._move(x, value, gradient, rate), self.low, self.high)

    @abstractmethod
    def _move(self, x: FloatArray, value: float, gradient: FloatArray, rate: float) -> FloatArray:
        """Return what is added to x, before the projection on the box."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the rule: numbers, and arrays of the shape of x."""
        return {name.lstrip("_"): copy(getattr(self, name)) for name in self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` has returned."""
        for name in self._state:
            setattr(self, name, copy(state[name.lstrip("_")]))


class NormalizedRule(UpdateRule):
    """Steps of prescribed length along the gradient, projected: x <- P(x + rate g / ||g||).

    g leaves out the entries that push against a bound. On a soft MDP the size of the gradient grows
    with 1 / temperature and says little about how far it can be trusted, and long first steps carry
    the leader past nearby poor optima; a falling schedule lets the last steps settle.
    """

    def _move(self, x: FloatArray, value: float, gradient: FloatArray, rate: float) -> FloatArray:
        direction = feasible_part(x, gradient, self.low, self.high)
        norm = float(np.linalg.norm(direction))
        # A direction made of rounding alone is none; normalising would make a full step of it.
        return np.zeros_like(x) if is_rounding(norm, value) else rate / norm * direction


class ProjectedRule(UpdateRule):
    """Steps in proportion to the gradient, projected: x <- P(x + rate g).

    g is shortened to `max_gradient_norm`.
    """

    def __init__(
        self, low: ArrayLike, high: ArrayLike, *, max_gradient_norm: float | None = 1.0
    ) -> None:
        """Initialise the state.

        Args:
            low: Lower bounds of x, in its shape.
            high: Upper bounds of x, in its shape.
            max_gradient_norm: Euclidean norm to which longer gradients are shortened, positive;
                None leaves them as they are.

        Raises:
            ValueError: If `max_gradient_norm` is out of range.
        """
        self._max_gradient_norm = optional(check_positive, "max_gradient_norm", max_gradient_norm)
        super().__init__(low, high)

    def _move(self, x: FloatArray, value: float, gradient: FloatArray, rate: float) -> FloatArray:
        return rate * _clipped(gradient, self._max_gradient_norm)


class AdamRule(UpdateRule):
    """Adam, projected: x <- P(x + rate m / (sqrt(v) + epsilon)).

    m and v are the running means of g and of its squares, corrected for their start at zero.

    Source: Kingma, Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1.
    """

    # Every entry moves by about as much, so the whole moves by the root of their number times that.
    learning_rate: ClassVar[float] = 0.01
    _state = ("_count", "_mean", "_square")

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
    ) -> None:
        """Initialise the state.

        Args:
            low: Lower bounds of x, in its shape.
            high: Upper bounds of x, in its shape.
            beta1: Decay of the running mean of the gradients, in [0, 1).
            beta2: Decay of the running mean of their squares, in [0, 1).
            epsilon: Added to the root of the latter, positive.
            max_gradient_norm: As in `ProjectedRule`, before all this.

        Raises:
            ValueError: If an option is out of range.
        """
        self._beta1, self._beta2 = check_discount("beta1", beta1), check_discount("beta2", beta2)
        self._epsilon = check_positive("epsilon", epsilon)
        self._max_gradient_norm = optional(check_positive, "max_gradient_norm", max_gradient_norm)
        super().__init__(low, high)
        self._count = 0
        self._mean, self._square = np.zeros_like(self.low), np.zeros_like(self.low)

    def _move(self, x: FloatArray, value: float, gradient: FloatArray, rate: float) -> FloatArray:
        gradient = _clipped(gradient, self._max_gradient_norm)
        self._count += 1
        self._mean = self._beta1 * self._mean + (1.0 - self._beta1) * gradient
        self._square = self._beta2 * self._square + (1.0 - self._beta2) * gradient**2
        mean = self._mean / (1.0 - self._beta1**self._count)
        square = self._square / (1.0 - self._beta2**self._count)
        return rate * mean / (np.sqrt(square) + self._epsilon)


# Adding an update rule is a class and one row; `OPTIMIZERS` and everything else follows.
RULES: dict[str, type[UpdateRule]] = {
    "adam": AdamRule,
    "normalized": NormalizedRule,
    "projected": ProjectedRule,
}


def make_rule(name: str, low: ArrayLike, high: ArrayLike, **options: Any) -> UpdateRule:
    """Build an update rule by its key in `RULES`, with options of JSON types, for a box of x.

    The bounds have the shape of x.

    Raises:
        ValueError: If the name is unknown or an option is out of range.
        TypeError: If the rule does not take an option.
    """
    rule = RULES[check_choice("update rule", name, RULES)]
    check_options(f"update rule {name!r}", rule, options)
    return rule(low, high, **options)
