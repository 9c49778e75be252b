"""Steps of the leader, along the hyper-gradient or greedily, and why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.mdp import FloatArray
from ..envs.base import ROUNDING, inward

Way = Literal["hyper-gradient", "direct part"]
Part = Literal["direct part", "response part", "hyper-gradient"]
PARTS: tuple[Part, ...] = ("direct part", "response part", "hyper-gradient")

# Length of the first step, and of all greedy ones, as a share of the diagonal of the box.
FIRST_STEP = 0.02

# A step is taken if F rises by at least this share of what the gradient promises.
SUFFICIENT_RISE = 1e-4

# Halvings of a step before it is given up.
HALVINGS = 40

# Gradients of which no larger share is free to move x are held by bounds.
MOSTLY = 1e-3


@dataclass
class Climb:
    """Steps from x to x.

    Greedy ones follow the direct part, which leaves out that the follower reacts; they have one
    length, as F says nothing to who expects no reaction. Those along the hyper-gradient are a
    spectral projected gradient method: the first length tried is that of Barzilai and Borwein,
    which does not zigzag, and it is halved until F rises.

    Where F is an estimate, no search can compare two of them: steps along the hyper-gradient have
    the length of greedy ones too, times the trust in it.

    Source: E. Birgin, J. Martinez, M. Raydan, "Nonmonotone spectral projected gradient methods on
    convex sets", SIAM Journal on Optimization 10, 2000; here monotone.

    Attributes:
        way: What it follows.
        search: Whether F is exact, so that a search finds the length of a step.
        last: x and the gradient before the last step; None before the first.
    """

    low: FloatArray
    high: FloatArray
    way: Way
    search: bool = True
    last: tuple[FloatArray, FloatArray] | None = None

    def step(self, answer: Any, ask: Callable[[FloatArray], Any]) -> FloatArray | None:
        """Return the next x, None where there is no step; `ask` has the follower answer an x."""
        x, gradient = answer.upper_params, part(answer, self.way)
        slopes = inward(x, gradient, self.low, self.high)
        norm = float(np.linalg.norm(slopes))
        if is_nothing(slopes, answer.objective):
            return None
        first = FIRST_STEP * float(np.linalg.norm(self.high - self.low)) / norm
        if self.way == "direct part" or not self.search:
            first *= trust(answer)
            moved = np.clip(x + first * slopes, self.low, self.high)
            return None if np.array_equal(moved, x) else moved
        rate = self._spectral_rate(x, gradient, first)
        self.last = (x, gradient)
        for _ in range(HALVINGS):
            moved = np.clip(x + rate * slopes, self.low, self.high)
            promised = float(np.vdot(gradient, moved - x))
            rise = float(ask(moved).objective) - answer.objective
            if rise > 0.0 and rise >= SUFFICIENT_RISE * promised:
                return moved
            rate /= 2.0
        return None

    def _spectral_rate(self, x: FloatArray, gradient: FloatArray, first: float) -> float:
        if self.last is None:
            return first
        moved, bent = x - self.last[0], self.last[1] - gradient
        curvature = float(np.vdot(moved, bent))
        # Where F bends upwards any length may do; steps stay within a tenth of the box's diagonal.
        longest = 5.0 * first
        return (
            min(float(np.vdot(moved, moved)) / curvature, longest) if curvature > 0.0 else longest
        )


def trust(answer: Any) -> float:
    """Return how far a hyper-gradient can be trusted, in [0, 1]; 1 where nothing is said of it."""
    said = (getattr(answer, "trust", None), answer.hyper_gradient_cosine)
    return next((float(share) for share in said if share is not None), 1.0)


def part(answer: Any, name: Part) -> FloatArray:
    """Return a part of dF/dx of an answer, or all of it; shape of x, NaN where it is unknown."""
    unknown = np.full(answer.upper_params.shape, np.nan)
    direct, total = (
        unknown if known is None else known
        for known in (answer.direct_gradient, answer.hyper_gradient)
    )
    if name == "direct part":
        return np.asarray(direct)
    return np.asarray(total - direct if name == "response part" else total)


def is_nothing(gradient: FloatArray, value: float) -> bool:
    """Whether a gradient is zero up to the rounding of a value."""
    return float(np.linalg.norm(gradient)) <= ROUNDING * max(1.0, abs(value))


def why_stuck(answer: Any, climb: Climb, best: float | None) -> str:
    """Return why there is no step from an answer, the rest of "stuck here, because".

    `best` is the best F known, None where none is.
    """
    gradient, value = part(answer, climb.way), answer.objective
    slopes = inward(answer.upper_params, gradient, climb.low, climb.high)
    free, norm = (float(np.linalg.norm(each)) for each in (slopes, gradient))
    if is_nothing(part(answer, "response part"), value) and is_nothing(slopes, value):
        reason = "no small change of x changes what the follower does: it has given up its goal"
    elif norm > 0.0 and free <= MOSTLY * norm:
        reason = f"all that the {climb.way} would move is at its bound"
    elif is_nothing(slopes, value):
        reason = f"the {climb.way} is zero"
    else:
        reason = f"what is left of the {climb.way} is rounding"
    if best is None:
        return reason
    short = best - value
    if abs(short) <= 1e-4 * max(1.0, abs(best)):
        return f"{reason}; F is the best known"
    return f"{reason}; the best F known is {best:.4f}"
