"""Constraints on x and on costs of the leader: at_least <= values(x) <= at_most, entry by entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import check_options, finite_array, real_numbers, received
from .base import Evaluation, FloatArray

__all__ = [
    "Constraint",
    "Constraints",
    "CostConstraint",
    "KnowsCosts",
    "LinearConstraint",
    "NonlinearConstraint",
    "make_constraint",
]

# Values `[M]` and their Jacobian `[M, *shape of x]`; or a number and its gradient.
Values = Callable[[FloatArray], tuple[Any, Any]]


@runtime_checkable
class KnowsCosts(Protocol):
    """An objective that also evaluates costs, such as `bilevel_gym.wrappers.LeaderObjective`."""

    def cost(self, cost: Any) -> Evaluation:
        """Return a cost as a function x -> (value, gradient), by its name or as an objective."""
        ...


@dataclass(frozen=True, eq=False)
class Constraint(ABC):
    """What a constraint is made of.

    Attributes:
        at_least: Lower bounds, a number or `[M]`; -inf for none.
        at_most: Upper bounds, likewise; inf for none.
    """

    at_least: ArrayLike = -np.inf
    at_most: ArrayLike = np.inf

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: If none is given, or no value lies between them.
        """
        low, high = (
            real_numbers(name, getattr(self, name)).astype(np.float64)
            for name in ("at_least", "at_most")
        )
        given = np.isfinite(low).any() or np.isfinite(high).any()
        if not given or np.isnan(low).any() or np.isnan(high).any():
            raise ValueError(
                "a constraint needs numbers for `at_least` or `at_most`, got "
                f"{received(self.at_least)} and {received(self.at_most)}"
            )
        if low.ndim > 1 or high.ndim > 1 or (low.ndim and high.ndim and low.shape != high.shape):
            raise ValueError(
                "`at_least` and `at_most` must be numbers or of one shape [M], got shapes "
                f"{low.shape} and {high.shape}"
            )
        if not (low <= high).all() or (low == np.inf).any() or (high == -np.inf).any():
            raise ValueError(
                f"a constraint cannot hold with `at_least` = {received(self.at_least)} and "
                f"`at_most` = {received(self.at_most)}"
            )

    @abstractmethod
    def values(self, objective: object, shape: tuple[int, ...]) -> Values:
        """Return what is constrained, as a function of x.

        Args:
            objective: What is maximised.
            shape: Shape of x.

        Raises:
            TypeError: If the objective does not know the cost.
            ValueError: If the constraint does not suit x.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearConstraint(Constraint):
    """at_least <= A x <= at_most.

    Attributes:
        matrix: A, `[M, *shape of x]`.
    """

    matrix: ArrayLike

    def values(self, objective: object, shape: tuple[int, ...]) -> Values:
        """Return A x and A, as a function of x."""
        matrix = finite_array("matrix", self.matrix, (None, *shape), "[M, *shape of x]")
        rows = matrix.reshape(len(matrix), -1)
        return lambda x: (rows @ x.ravel(), matrix)


@dataclass(frozen=True, eq=False, kw_only=True)
class NonlinearConstraint(Constraint):
    """at_least <= g(x) <= at_most.

    Attributes:
        function: x to g(x) `[M]` and its Jacobian `[M, *shape of x]`, or a number and its gradient.
    """

    function: Values

    def values(self, objective: object, shape: tuple[int, ...]) -> Values:
        """Return g."""
        return self.function


@dataclass(frozen=True, eq=False, kw_only=True)
class CostConstraint(Constraint):
    """at_least <= g(x, pi*(x)) <= at_most, g being another objective of the game that is maximised.

    Attributes:
        cost: g, an objective such as `bilevel_gym.model.costs.ExpectedCost`; or the name of one in
            the model's `costs`. Its gradient has the shape of x.
    """

    cost: Any

    def values(self, objective: object, shape: tuple[int, ...]) -> Values:
        """Return g and its hyper-gradient, from the follower's answer that the objective knows."""
        if not isinstance(objective, KnowsCosts):
            raise TypeError(
                f"the cost {received(self.cost)} needs an objective that knows costs, such as a "
                "LeaderObjective or an exact_objective"
            )
        return objective.cost(self.cost)


# What tells a constraint that is given as JSON.
KINDS: dict[str, Callable[..., Constraint]] = {"matrix": LinearConstraint, "cost": CostConstraint}


def make_constraint(given: Constraint | Mapping[str, Any]) -> Constraint:
    """Return a constraint, or the one that a dict describes.

    A dict has the attributes of a `LinearConstraint`, {"matrix": [[1, 1]], "at_most": 1}, or of a
    `CostConstraint` with a cost by name, {"cost": "payments", "at_most": 0.5}.

    Raises:
        TypeError: If it is neither.
        ValueError: If its values are out of range.
    """
    if isinstance(given, Constraint):
        return given
    kinds = [kind for key, kind in KINDS.items() if isinstance(given, Mapping) and key in given]
    if len(kinds) != 1:
        raise TypeError(
            'a constraint must be a Constraint, or a dict with "matrix" or "cost", got '
            f"{received(given)}"
        )
    check_options("a constraint", kinds[0], given)
    return kinds[0](**given)


class Constraints:
    """All constraints together, M of them, on x in a box.

    Attributes:
        count: M.
        low: Lower bounds `[M]`.
        high: Upper bounds `[M]`.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint | Mapping[str, Any]],
        objective: object,
        start: FloatArray,
        low: FloatArray,
        high: FloatArray,
    ) -> None:
        """Evaluate all constraints at the start, which shows how many values they have.

        Raises:
            TypeError: If there is something else among them.
            ValueError: If a constraint does not suit x, or the linear ones cannot hold in the box.
        """
        if isinstance(constraints, Mapping) or not isinstance(constraints, Sequence):
            raise TypeError(f"`constraints` must be a list, got {received(constraints)}")
        self._shape = start.shape
        self._values: list[Values] = []
        self._sizes: list[int] = []
        bounds: list[tuple[FloatArray, FloatArray]] = []
        linear: list[tuple[FloatArray, FloatArray, FloatArray]] = []
        for number, given in enumerate(constraints):
            try:
                constraint = make_constraint(given)
                values = constraint.values(objective, start.shape)
                found, jacobian = self._checked(values(start))
                between = [
                    np.array(np.broadcast_to(np.asarray(bound, np.float64), found.shape))
                    for bound in (constraint.at_least, constraint.at_most)
                ]
            except (ValueError, TypeError) as error:
                raise type(error)(f"`constraints[{number}]`: {error}") from error
            self._values.append(values)
            self._sizes.append(len(found))
            bounds.append((between[0], between[1]))
            if isinstance(constraint, LinearConstraint):
                linear.append((jacobian, between[0], between[1]))
        none = np.zeros(0)
        self.low = np.concatenate([none, *(bound[0] for bound in bounds)])
        self.high = np.concatenate([none, *(bound[1] for bound in bounds)])
        self.count = len(self.low)
        if linear:
            matrix, at_least, at_most = map(np.concatenate, zip(*linear, strict=True))
            _check_possible(matrix, at_least, at_most, low, high)

    def at(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return values `[M]` and their Jacobian `[M, D]`, x raveled."""
        found = [self._checked(values(x)) for values in self._values]
        values = np.concatenate([np.zeros(0), *(value for value, _ in found)])
        if len(values) != self.count:
            raise ValueError(
                f"constraints must have as many values at every x, {self.count} at the start, got "
                f"{len(values)}"
            )
        none = np.zeros((0, x.size))
        return values, np.concatenate([none, *(jacobian for _, jacobian in found)])

    def violation(self, values: FloatArray) -> float:
        """Return by how much the values `[M]` are out of their bounds, at most; 0 if they hold."""
        return float(np.maximum(self.low - values, values - self.high).max(initial=0.0))

    def split(self, multipliers: FloatArray) -> tuple[FloatArray, ...]:
        """Return an array `[M]` in parts, one for each constraint."""
        return tuple(np.split(multipliers, np.cumsum(self._sizes)))[:-1]

    def _checked(self, found: Any) -> tuple[FloatArray, FloatArray]:
        """Return values `[M]` and Jacobian `[M, D]` that a constraint has returned."""
        values, jacobian = (np.asarray(part, np.float64) for part in found)
        if values.ndim > 1 or jacobian.shape != (*values.shape, *self._shape):
            raise ValueError(
                "what is constrained must return values [M] and a Jacobian [M, *shape of x] with "
                f"shape {(*values.shape, *self._shape)}, got {values.shape} and {jacobian.shape}"
            )
        if not (np.isfinite(values).all() and np.isfinite(jacobian).all()):
            raise ValueError(
                "what is constrained must have finite values and derivatives, got "
                f"{received(values)}"
            )
        size = values.size
        return values.reshape(size), jacobian.reshape(size, -1)


def _check_possible(
    matrix: FloatArray, at_least: FloatArray, at_most: FloatArray, low: FloatArray, high: FloatArray
) -> None:
    """Raise a `ValueError` unless linear constraints hold somewhere in a box."""
    from scipy.optimize import linprog

    above, below = np.isfinite(at_least), np.isfinite(at_most)
    found = linprog(
        np.zeros(matrix.shape[1]),
        A_ub=np.concatenate([matrix[below], -matrix[above]]),
        b_ub=np.concatenate([at_most[below], -at_least[above]]),
        bounds=np.stack([low.ravel(), high.ravel()], axis=1),
    )
    if found.status == 2:  # infeasible
        raise ValueError("`constraints` cannot hold: no x in the box satisfies all that are linear")
