"""Judges of preferences: who tells which of two fragments is better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ..core.checks import check_positive, real_numbers
from ..core.mdp import FloatArray
from ..episodes.fragments import Pairs

__all__ = ["BradleyTerry", "Judge", "checked_answers"]

# (pairs, rng) -> share of preferences for the first fragment of each pair, [M] in [0, 1], .5 for
# equal, NaN for no answer.
Judge = Callable[[Pairs, np.random.Generator], ArrayLike]


class BradleyTerry:
    """A judge who prefers the first with probability sigmoid(rationality (R_1 - R_2)).

    R is the sum of the environment's own rewards along a fragment (Bradley, Terry, Biometrika
    1952).
    """

    def __init__(self, rationality: float = 1.0) -> None:
        """Initialise the judge.

        Args:
            rationality: How reliably it tells fragments apart, positive.

        Raises:
            ValueError: If it is out of range.
        """
        self.rationality = check_positive("rationality", rationality)

    def __call__(self, pairs: Pairs, rng: np.random.Generator) -> FloatArray:
        """Return the answers, 1 or 0, `[M]`."""
        first, second = pairs.rewards.sum(axis=2).T
        chance = expit(self.rationality * (first - second))
        return (rng.random(len(pairs)) < chance).astype(np.float64)


def checked_answers(answers: ArrayLike, count: int) -> FloatArray:
    """Return a judge's answers, `[M]`.

    Raises:
        ValueError: If they are not M numbers in [0, 1] or NaN.
    """
    checked = np.asarray(real_numbers("answers", answers), dtype=np.float64)
    if checked.shape != (count,):
        raise ValueError(
            f"a judge must give one answer for each pair, shape ({count},), got {checked.shape}"
        )
    wrong = (checked < 0.0) | (checked > 1.0)
    if wrong.any():
        raise ValueError(
            "a judge must answer with numbers from 0 (the second is better) to 1 (the first is), "
            f"or NaN for no answer, got {checked[wrong][0]}"
        )
    return checked
