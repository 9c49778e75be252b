"""Judges of preferences: who tells which of two fragments is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ..core.checks import (
    check_at_least,
    check_options,
    check_positive,
    real_numbers,
    received,
)
from ..core.mdp import FloatArray
from ..core.plugins import imported_function
from ..episodes.fragments import Fragment, Pairs

__all__ = ["BradleyTerry", "Judge", "Later", "OneByOne", "Preferences", "checked_answers"]

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


class OneByOne:
    """A judge made of a function of two fragments."""

    def __init__(self, compare: Callable[[Fragment, Fragment], float]) -> None:
        """Initialise the judge.

        Args:
            compare: (first, second) -> share of preferences for the first, in [0, 1]; .5 for
                equal, NaN for no answer.
        """
        self.compare = compare

    def __call__(self, pairs: Pairs, rng: np.random.Generator) -> ArrayLike:
        """Return the answers, `[M]`."""
        return [
            self.compare(pairs.fragment(pair, 0), pairs.fragment(pair, 1))
            for pair in range(len(pairs))
        ]


class Later:
    """A judge who answers later, as people do: it keeps what it is shown.

    What is answered goes into the `queue` of the method, with the pair.

    Attributes:
        waiting: The pairs shown last, one by one.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.waiting: list[Pairs] = []

    def __call__(self, pairs: Pairs, rng: np.random.Generator) -> FloatArray:
        """Keep the newest pairs, and answer nothing, `[M]`."""
        self.waiting = [pairs[pair : pair + 1] for pair in range(len(pairs))]
        return np.full(len(pairs), np.nan)


@dataclass(frozen=True, eq=False)
class Preferences:
    """How fragments of episodes are compared.

    Attributes:
        fragment_steps: H, the steps of a fragment.
        judge: Who compares them.
    """

    fragment_steps: int
    judge: Judge

    @classmethod
    def made(cls, options: Mapping[str, Any]) -> Preferences:
        """Return the preferences of some options; see `asked`.

        Raises:
            TypeError: If they are no mapping, one of them is unknown, or a judge no function.
            ValueError: If one is out of range, or there are two judges.
            ImportError: If the module of a judge cannot be imported.
        """
        if not isinstance(options, Mapping):
            raise TypeError(
                "`preferences` must be a dict of options, such as {'fragment_steps': 25}, or {} "
                f"for the default ones, got {received(options)}"
            )
        check_options("preferences", asked, options)
        return asked(**options)


def asked(
    *,
    fragment_steps: int = 25,
    judge: Judge | str | None = None,
    compare: Callable[[Fragment, Fragment], float] | str | None = None,
    rationality: float = 1.0,
) -> Preferences:
    """Return how fragments are compared.

    Args:
        fragment_steps: H, at least 1.
        judge: (pairs, rng) -> answers `[M]`, or "module:function"; None for a synthetic one.
        compare: Another way to give a judge, a function of two fragments, see `OneByOne`.
        rationality: That of the synthetic judge, see `BradleyTerry`.
    """
    if judge is not None and compare is not None:
        raise ValueError("`compare` must be None where there is a `judge`, got both")
    found: Judge = BradleyTerry(rationality)
    if judge is not None:
        found = imported_function("judge", judge)
    elif compare is not None:
        found = OneByOne(imported_function("compare", compare))
    return Preferences(check_at_least("fragment_steps", fragment_steps, 1), found)


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
