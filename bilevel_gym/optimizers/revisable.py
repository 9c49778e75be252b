"""Objectives whose follower can be put back where it was, as the safe climb needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from .base import FloatArray

__all__ = ["Report", "Revisable"]


@dataclass(frozen=True, eq=False)
class Report:
    """What is known of the last evaluation of an objective, beside value and gradient.

    Attributes:
        values: The leader's value of each episode watched, `[N]`; their mean is F(x). Those of all
            evaluations may begin alike, the n-th ones together.
        metric: Fisher information of the follower's policy in x, `[D, D]`, or its diagonal `[D]`,
            entries of x in their order: a step d is predicted to move the policy by a divergence
            of d' metric d / 2. None where nothing is known.
        units: A change of each entry of x that matters to the follower, `[D]`; None where nothing
            is known.
        cosine: The cosine to the true gradient that is expected of the gradient, in [0, 1].
        divergence: By how much the policy has moved since the evaluation before; None where
            nothing is known.
        watched: Environment steps of the episodes watched.
    """

    values: FloatArray
    metric: FloatArray | None = None
    units: FloatArray | None = None
    cosine: float = 1.0
    divergence: float | None = None
    watched: int = 0


@runtime_checkable
class Revisable(Protocol):
    """An objective x -> (value, gradient) whose follower can be put back where it was."""

    @property
    def samples(self) -> int:
        """Environment steps used so far."""
        ...

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Let the follower answer x; return F(x) and its gradient, shape of x."""
        ...

    def measure(self, x: FloatArray) -> Report:
        """Let the follower answer x more briefly, without a gradient."""
        ...

    def watch(self, x: FloatArray) -> FloatArray:
        """Return the values of fresh episodes of the follower as it is, `[N]`."""
        ...

    def report(self) -> Report:
        """Return what is known of the last evaluation."""
        ...

    def snapshot(self) -> NDArray[Any] | None:
        """Return the follower's policy as an array of any type; None where it has no memory."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Put the follower back to a policy of `snapshot`, as often as wanted."""
        ...
