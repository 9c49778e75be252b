"""Optimizers of scipy that keep constraints, with exact gradients of objective and constraints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_at_least, check_in_box, check_positive, checked_bounds
from .base import FEASIBLE, Callback, Evaluation, FloatArray, Iterate, Optimum, Recorder, answer_of
from .constraints import Constraint, Constraints
from .libraries import BudgetSpent
from .rules import check_gradient

__all__ = ["ConstrainedOptimum", "slsqp", "trust_constr"]

Given = Sequence[Constraint | Mapping[str, Any]]


@dataclass(frozen=True, eq=False, repr=False)
class ConstrainedOptimum(Optimum):
    """What an optimizer returns that keeps constraints.

    With constraints `best` is where it has stopped, if they hold there; else the iterate of the
    largest value among those where they do, or the one that violates them least, by
    `best.violation`.

    Attributes:
        multipliers: For each constraint the multipliers of its values, `[M]`: what an increase of
            the bound by one adds to F, to first order, not negative for `at_most`, not positive for
            `at_least`. At a solution within the box dF/dx is their combination of the derivatives
            of the values. None where scipy gives none.
    """

    multipliers: tuple[FloatArray, ...] | None

    @property
    def feasible(self) -> bool:
        """Whether the constraints hold at `best`, up to `FEASIBLE`."""
        return self.best.violation <= FEASIBLE


def slsqp(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    constraints: Given | None = None,
    max_evaluations: int = 200,
    tolerance: float = 1e-10,
    callback: Callback | None = None,
) -> ConstrainedOptimum:
    """Climb to a nearby stationary point with scipy's SLSQP, keeping constraints.

    Each step solves a dense quadratic problem in x, so x should have no more than a few hundred
    entries. Iterates on the way may violate the constraints.

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box; constraints need not hold there.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        constraints: `LinearConstraint`, `NonlinearConstraint` and `CostConstraint`, or dicts for
            the first and the last, as `make_constraint` takes them; None for none.
        max_evaluations: Evaluations of the objective, positive; each one of all constraints too.
        tolerance: The change of F at which to stop, positive.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range, or the linear constraints cannot hold.
        TypeError: If a constraint is none, or the objective does not know a cost.

    Source: Kraft, A software package for sequential quadratic programming, DFVLR-FB 88-28, 1988.
    """
    from scipy.optimize import Bounds, minimize

    check_positive("tolerance", tolerance)
    problem = _Problem(objective, start, low, high, constraints, max_evaluations, callback)
    bounds = problem.constraints
    equal = bounds.low == bounds.high
    above = np.isfinite(bounds.low) & ~equal
    below = np.isfinite(bounds.high) & ~equal
    sides = [(equal, 1.0, bounds.low), (above, 1.0, bounds.low), (below, -1.0, bounds.high)]

    def kept(rows: NDArray[np.bool_], sign: float, bound: FloatArray) -> dict[str, Any]:
        """Return a dict of scipy: the values times the sign are at least the bound times it."""
        return {
            "type": "eq" if rows is equal else "ineq",
            "fun": lambda x: sign * (problem.at(x).values - bound)[rows],
            "jac": lambda x: sign * problem.at(x).jacobian[rows],
        }

    def run() -> Any:
        return minimize(
            problem.descend,
            problem.start.ravel(),
            jac=True,
            method="SLSQP",
            bounds=Bounds(problem.low.ravel(), problem.high.ravel()),
            constraints=[kept(*side) for side in sides if side[0].any()],
            options={"maxiter": max_evaluations, "ftol": tolerance},
        )

    def multipliers(result: Any) -> FloatArray | None:
        given = result.get("multipliers")
        if given is None:  # before scipy 1.16
            return None
        found, rest = np.zeros(bounds.count), np.asarray(given)
        for rows, sign, _ in sides:
            count = int(rows.sum())
            found[rows] -= sign * rest[:count]
            rest = rest[count:]
        return found

    return problem.solve(run, multipliers)


def trust_constr(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    constraints: Given | None = None,
    max_evaluations: int = 1000,
    tolerance: float = 1e-8,
    callback: Callback | None = None,
) -> ConstrainedOptimum:
    """Climb to a nearby stationary point with scipy's trust-region interior-point method.

    It takes more evaluations than `slsqp`, whose arguments these are (`start`, `low` and `high` of
    the shape of x), and is more robust where constraints curve. `tolerance`, positive, is for the
    gradient of the Lagrangian, the size of the trust region and the barrier.

    Raises:
        ValueError: If an argument is out of range, or the linear constraints cannot hold.
        TypeError: If a constraint is none, or the objective does not know a cost.

    Source: Byrd, Hribar, Nocedal, An interior point algorithm for large-scale nonlinear
    programming, SIAM Journal on Optimization 9, 1999.
    """
    from scipy.optimize import BFGS, Bounds, NonlinearConstraint, minimize

    check_positive("tolerance", tolerance)
    problem = _Problem(objective, start, low, high, constraints, max_evaluations, callback)
    bounds = problem.constraints
    kept = NonlinearConstraint(
        lambda x: problem.at(x).values,
        bounds.low,
        bounds.high,
        jac=lambda x: problem.at(x).jacobian,
        hess=BFGS(),
    )

    def run() -> Any:
        with warnings.catch_warnings():
            # It asks whether the function is linear where a difference of gradients vanishes.
            warnings.filterwarnings("ignore", "delta_grad == 0.0", UserWarning)
            return minimize(
                problem.descend,
                problem.start.ravel(),
                jac=True,
                method="trust-constr",
                bounds=Bounds(problem.low.ravel(), problem.high.ravel()),
                constraints=[kept] if bounds.count else [],
                options={
                    "maxiter": max_evaluations,
                    "gtol": tolerance,
                    "xtol": tolerance,
                    "barrier_tol": tolerance,
                },
            )

    return problem.solve(run, lambda result: result.v[0] if bounds.count else np.zeros(0))


class _Point(NamedTuple):
    """What is known at an x: F(x) with its gradient, values `[M]` and their Jacobian `[M, D]`."""

    iterate: Iterate
    values: FloatArray
    jacobian: FloatArray


class _Problem(Recorder):
    """Objective and constraints, evaluated together, once at each x."""

    def __init__(
        self,
        objective: Evaluation,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        constraints: Given | None,
        max_evaluations: int,
        callback: Callback | None,
    ) -> None:
        self._most = check_at_least("max_evaluations", max_evaluations, 1)
        self.low, self.high = checked_bounds(low, high, bounded=False)
        super().__init__(self.low, self.high, callback)
        self.start = check_in_box("start", start, self.low, self.high)
        given = [] if constraints is None else constraints
        self.constraints = Constraints(given, objective, self.start, self.low, self.high)
        self._objective = objective
        self._point: _Point | None = None
        self._iterates: dict[bytes, Iterate] = {}

    def at(self, flat: FloatArray) -> _Point:
        """Return what is known at an x, raveled."""
        x = self._inside(flat)
        if self._point is None or not np.array_equal(x, self._point.iterate.upper_params):
            if self.evaluations >= self._most:
                raise BudgetSpent
            value, gradient = answer_of(self._objective, x)
            check_gradient(x, gradient)
            # Costs come after the objective, whose answer of the follower they start from.
            values, jacobian = self.constraints.at(x)
            self.note(x, value, gradient, self.constraints.violation(values))
            assert self.last is not None
            self._point = _Point(self.last, values, jacobian)
            self._iterates[x.tobytes()] = self.last
        return self._point

    def descend(self, flat: FloatArray) -> tuple[float, FloatArray]:
        """Return -F and its gradient, raveled."""
        iterate = self.at(flat).iterate
        return -iterate.value, -iterate.gradient.ravel()

    def solve(
        self, run: Callable[[], Any], multipliers: Callable[[Any], FloatArray | None]
    ) -> ConstrainedOptimum:
        """Run an optimizer of scipy, and return what it found.

        Args:
            run: Calls it, and returns its result.
            multipliers: Takes the result to the multipliers `[M]`, or to None.
        """
        ended, found = None, None
        try:
            result = run()
        except BudgetSpent:
            message = f"{self.evaluations} evaluations made"
        else:
            message = str(result.message)
            ended = self._iterates.get(self._inside(result.x).tobytes())
        if ended is not None and ended.violation <= FEASIBLE:
            given = multipliers(result)
            found = None if given is None else self.constraints.split(given)
        if found is None or not self.constraints.count:
            ended = self.best
        assert self.first is not None and ended is not None
        if self.constraints.count:
            message += f"; largest violation of a constraint {ended.violation:.3g}"
            if ended.violation > FEASIBLE:
                message += ", as no x was found at which all hold"
            elif found is not None:
                shown = np.array2string(np.concatenate(found), precision=6, threshold=10)
                message += f", multipliers {shown}"
        return ConstrainedOptimum(ended, self.first, self.evaluations, message, found)

    def _inside(self, flat: FloatArray) -> FloatArray:
        """Return x in its shape; steps may leave the box by rounding."""
        return np.clip(flat.reshape(self.start.shape), self.low, self.high)
