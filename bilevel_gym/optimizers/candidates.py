"""An x with the follower who answered it, and how it compares with others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import FloatArray, Iterate
from .revisable import Report

__all__ = ["Candidate"]

# The expected cosine of a gradient that is certain.
CERTAIN = 0.8

# Standard errors by which a value may fall.
TOLERATED = 2.0


@dataclass(eq=False)
class Candidate:
    """An x with a follower who answered it.

    Attributes:
        iterate: x and its value, as it was noted.
        report: What was known then.
        values: Of all episodes watched with this follower, `[N]`.
        snapshot: The follower.
    """

    iterate: Iterate
    report: Report
    values: FloatArray
    snapshot: Any

    @property
    def x(self) -> FloatArray:
        """The x."""
        return self.iterate.upper_params

    @property
    def steps_on(self) -> bool:
        """Whether there is a gradient."""
        return bool(np.isfinite(self.iterate.gradient).all())

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(self.values.mean())

    @property
    def is_certain(self) -> bool:
        """Whether the direction of its gradient is."""
        known = self.steps_on and self.report.metric is not None
        return known and self.report.cosine >= CERTAIN

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return standard_error(self.values)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, as nested dicts of numbers and arrays."""
        return {**vars(self), "iterate": vars(self.iterate), "report": vars(self.report)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Candidate:
        """Return the candidate of a state."""
        known = {"iterate": Iterate(**state["iterate"]), "report": Report(**state["report"])}
        return cls(**{**state, **known})

    @property
    def rank(self) -> float:
        """A value that it has at least, by one standard error."""
        return self.mean - self.error

    def goes_on_from(self, other: Candidate) -> bool:
        """Whether a certain gradient has not lowered the value."""
        change, error = self._beside(other)
        return other.is_certain and change >= -error

    def exceeds(self, other: Candidate) -> bool:
        """Whether its value is higher than another one's by a standard error."""
        change, error = self._beside(other)
        return change > error

    def falls_below(self, other: Candidate) -> bool:
        """Whether its value is lower than another one's, beyond what chance explains."""
        change, error = self._beside(other)
        return self.mean < other.mean and change < -TOLERATED * error

    def _beside(self, other: Candidate) -> tuple[float, float]:
        """Return how much more the value is than another one's, and the standard error of that.

        What was watched in an evaluation is compared episode by episode, as they begin alike.
        """
        count = min(len(self.report.values), len(other.report.values))
        change = self.report.values[:count] - other.report.values[:count]
        return float(change.mean()), standard_error(change)


def standard_error(values: FloatArray) -> float:
    """Return the standard error of a mean of `[N]`, larger where few say little about it."""
    count = len(values)
    if count < 2:
        return 0.0
    # About the ratio of Student's quantiles to the normal one.
    few = (count + 1.0) / (count - 1.0)
    return float(few * values.std(ddof=1) / math.sqrt(count))
