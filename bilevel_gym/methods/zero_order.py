"""Zero-order estimates: differences of F at random points near x, and no derivative at all.

F is the exact objective: the inner learner solves the follower's problem at every point. With m
directions u, a radius mu and a centre c near x,

    two points:              g = (k / m) sum_i (F(c + mu u_i) - F(c - mu u_i)) / (2 mu) u_i
    one point, "centre":     g = (k / m) sum_i (F(c + mu u_i) - F(c)) / mu u_i
    one point, "previous":   g = (k / m) sum_i (F(c + mu u_i) - F_{i-1}) / mu u_i

where F_{i-1} is the value found just before, at another random point and, for the first direction,
at the last x (residual feedback; the very first is F(x)). u is uniform on the unit sphere and
k = D, or u is standard normal and k = 1. Each is an unbiased estimate of the gradient at c of the
smoothed objective E F(c + mu v), v uniform in the unit ball, or standard normal: whatever is
subtracted does not depend on u_i (two points: by symmetry). What separates it from dF/dx is

* the smoothing, O(mu^2) where F is smooth: mu must be small against the x over which the follower
  changes its mind, which shrinks with the temperature;
* the box. Points outside of it cannot be evaluated, so the centre is x moved inwards, by mu (3 mu
  for normal directions) at most in each entry that is nearer to a bound: on the sphere all points
  then lie in the box. Normal points beyond are clipped, as .3 % of the entries next to a bound are.

The variance grows with D / m: with two points and a small radius the expected squared cosine to
dF/dx is about m / (m + D).

Sources: A. D. Flaxman, A. T. Kalai, H. B. McMahan, "Online convex optimization in the bandit
setting: gradient descent without a gradient", SODA 2005 (sphere, moving inwards); Y. Nesterov,
V. Spokoiny, "Random gradient-free minimization of convex functions", Foundations of Computational
Mathematics 17, 2017 (normal directions, one and two points); Y. Zhang, Y. Zhou, K. Ji,
M. M. Zavlanos, "A new one-point residual-feedback oracle for black-box learning and control",
Automatica 136, 2022, arXiv 2006.10820.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np

from ..core.checks import check_at_least, check_choice, check_positive, received
from ..core.mdp import FloatArray
from ..core.reprs import MadeFor
from ..model.base import BilevelModel
from ..model.responses import (
    CrowdResponse,
    GaussianResponse,
    Response,
    TabularResponse,
    response_from,
    response_state,
)
from .exact import check_exact

__all__ = ["ZeroOrder"]

# Largest normal deviation that is kept in the box, in radii.
DEVIATIONS = 3.0

SMOOTHINGS, BASELINES = ("sphere", "gaussian"), ("centre", "previous")


class ZeroOrder(MadeFor):
    """Estimate the gradient from differences of the exact objective."""

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False  # but for smoothing

    def __init__(
        self,
        model: BilevelModel,
        *,
        points: int = 2,
        directions: int = 20,
        radius: float = 1e-3,
        smoothing: str = "sphere",
        baseline: str = "centre",
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A model with an exact response.
            points: New points for each direction, 1 or 2.
            directions: Random directions for each x (m), at least 1.
            radius: mu, in units of x, positive.
            smoothing: "sphere" for directions of length one, "gaussian" for normal ones, whose
                length is about sqrt(D).
            baseline: What one-point estimates subtract: F at the "centre", or at the "previous"
                point. Two-point estimates subtract nothing.

        Raises:
            TypeError: If the model has no exact response.
            ValueError: If an option is out of range, or the box is narrower than the points need.
        """
        check_exact(model)
        if not isinstance(points, int | np.integer) or points is True or points not in (1, 2):
            raise ValueError(f"`points` must be 1 or 2, got {received(points)}")
        self._model, self._points = model, int(points)
        self._directions = check_at_least("directions", directions, 1)
        self._radius = check_positive("radius", radius)
        self._smoothing = check_choice("smoothing", smoothing, SMOOTHINGS)
        self._baseline = check_choice("baseline", baseline, BASELINES)
        reach = radius * (1.0 if smoothing == "sphere" else DEVIATIONS)
        self._low, self._high = model.low, model.high
        narrowest = float((self._high - self._low).min())
        if 2.0 * reach > narrowest:
            raise ValueError(
                f"`radius` must leave room in the box of x, whose narrowest side is {narrowest}: "
                f"at most {narrowest * radius / (2.0 * reach)} with {smoothing=}, "
                f"got {received(radius)}"
            )
        self._reach = reach
        self._rng = np.random.default_rng(0)
        self._last: Response | None = None
        self._previous: float | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the warm start and the previous value; draw directions from `rng` from now on."""
        self._rng = rng
        self._last, self._previous = None, None

    def step(self, upper_params: FloatArray) -> Response:
        """Return the exact answer to x, with the estimate from points near it.

        `iterations` counts the evaluations of F, the one at x included; `direct_gradient` is None.
        """
        x = self._model.validate(upper_params)
        at = self._last = self._model.respond(x, warm_start=self._last)
        radius = self._radius
        centre = np.clip(x, self._low + self._reach, self._high - self._reach)
        units = self._draw(self._rng, centre.shape)
        ahead = self._values(centre + radius * units)
        evaluations = 1 + len(units) * self._points
        if self._points == 2:
            differences = (ahead - self._values(centre - radius * units)) / (2.0 * radius)
        elif self._baseline == "previous":
            first = at.objective if self._previous is None else self._previous
            differences = np.diff(ahead, prepend=first) / radius
        else:
            moved = not np.array_equal(centre, x)
            middle = float(self._values(centre[None])[0]) if moved else at.objective
            evaluations += int(moved)
            differences = (ahead - middle) / radius
        self._previous = float(ahead[-1])
        scale = centre.size if self._smoothing == "sphere" else 1.0
        gradient = scale / len(units) * np.tensordot(differences, units, axes=1)
        return _with_estimate(at, np.asarray(gradient, dtype=np.float64), evaluations)

    def state_dict(self) -> dict[str, Any]:
        """Return the warm start and the previous value, as nested dicts of numbers and arrays."""
        return {"last": response_state(self._last), "previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned."""
        self._last, self._previous = response_from(state["last"]), state["previous"]

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Return directions `[m, ...]`, of the shape of x each."""
        normal = rng.standard_normal((self._directions, *shape))
        if self._smoothing == "gaussian":
            return normal
        norms = np.sqrt((normal * normal).sum(axis=tuple(range(1, normal.ndim)), keepdims=True))
        return normal / norms

    def _values(self, points: FloatArray) -> FloatArray:
        """Return F at points `[m, ...]`, clipped to the box, `[m]`."""
        inside = np.clip(points, self._low, self._high)
        answers = self._model.respond_batch([*inside], warm_starts=[self._last] * len(inside))
        return np.array([answer.objective for answer in answers])


def _with_estimate(at: Response, gradient: FloatArray, evaluations: int) -> Response:
    """Return an exact answer with an estimate in place of its derivatives."""
    # The class that has the policy, but no bounds of derivatives that are not there.
    kinds = CrowdResponse, TabularResponse, GaussianResponse, Response
    kind = next(kind for kind in kinds if isinstance(at, kind))
    kept = {field.name: getattr(at, field.name) for field in fields(kind)}
    estimate = {"hyper_gradient": gradient, "direct_gradient": None, "iterations": evaluations}
    return kind(**{**kept, **estimate})
