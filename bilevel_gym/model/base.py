"""What every model of a bilevel problem has: the box of x, the follower's discount, its answer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from typing import Any, ClassVar, NotRequired, Protocol, Self, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_choice,
    check_discount,
    check_in_box,
    check_probability,
    check_temperature,
    checked_bounds,
    received,
    unknown_name,
)
from ..core.mdp import FloatArray
from ..core.reprs import Described, brief, number
from .responses import Response

__all__ = [
    "ENTROPIES",
    "BilevelModel",
    "CommonOptions",
    "check_finite",
    "check_warm_start",
    "evaluate",
    "evaluate_batch",
    "single_precision_bounds",
]

# Conventions of the follower's entropy: as it is, or less that of the uniform policy.
ENTROPIES = ("plain", "relative")

ResponseT = TypeVar("ResponseT", bound=Response)
ResponseT_co = TypeVar("ResponseT_co", bound=Response, covariant=True)


class CommonOptions(TypedDict):
    """What the constructor of every model takes; see `BilevelModel`."""

    low: ArrayLike
    high: ArrayLike
    initial_upper_params: ArrayLike
    gamma: float
    temperature: float
    entropy: NotRequired[str]
    name: NotRequired[str | None]


class BilevelModel(Described, ABC):
    """A leader's parameters x in a box, and the follower's exact answer to each of them.

    The arguments of the constructor are attributes; arrays are float64.

    Attributes:
        solve_options: Options of `respond`.
        undiscounted: Whether gamma may be 1, as every episode of the follower ends.
    """

    solve_options: ClassVar[tuple[str, ...]] = ()
    undiscounted: ClassVar[bool] = False

    def __init__(
        self,
        *,
        low: ArrayLike,
        high: ArrayLike,
        initial_upper_params: ArrayLike,
        gamma: float,
        temperature: float,
        entropy: str = "plain",
        name: str | None = None,
    ) -> None:
        """Set up the box and the discount.

        Args:
            low: Lower bounds of x, finite; their shape is that of x.
            high: Upper bounds of x, finite and above `low`, same shape.
            initial_upper_params: x at the start, in the box.
            gamma: The follower's discount, in [0, 1), or in [0, 1] of models that are
                `undiscounted`.
            temperature: Weight of its policy's entropy, positive.
            entropy: "plain", or "relative" to that of the uniform policy: in a state with A actions
                each step is worth temperature log A less, so that where episodes can end, entropy
                does not pay the follower for staying.
            name: What messages call the problem; None takes the name of the class.

        Raises:
            ValueError: If a shape or a range is violated.
        """
        self.name = type(self).__name__ if name is None else name
        self.low, self.high = checked_bounds(low, high)
        self.initial_upper_params = check_in_box(
            "initial_upper_params", initial_upper_params, self.low, self.high
        )
        self.gamma = (check_probability if self.undiscounted else check_discount)("gamma", gamma)
        self.temperature = check_temperature(temperature)
        self.entropy = check_choice("entropy", entropy, ENTROPIES)

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the name, the sizes, the discount and the temperature."""
        if self.name != type(self).__name__:
            yield "name", brief(self.name)
        for size in ("num_states", "num_actions"):
            if hasattr(self, size):
                yield size, str(getattr(self, size))
        yield "upper_params", brief(self.low.shape)
        yield "gamma", number(self.gamma, digits=9)
        yield "temperature", number(self.temperature)
        if self.entropy != "plain":
            yield "entropy", brief(self.entropy)

    def validate(self, upper_params: ArrayLike) -> FloatArray:
        """Return x as a read-only float64 copy, at the full precision it came with.

        Raises:
            ValueError: If x is not numeric, has another shape, or an entry is not finite or out of
                bounds; the message names the entry.
        """
        return check_in_box("upper_params", upper_params, self.low, self.high)

    def at_temperature(self, temperature: float) -> Self:
        """Return the same problem of a follower with another temperature; arrays are shared.

        Raises:
            ValueError: If the temperature is not positive and finite.
        """
        other = copy.copy(self)
        other.temperature = check_temperature(temperature)
        return other

    @abstractmethod
    def respond(self, upper_params: FloatArray, *, warm_start: Any = None) -> Any:
        """Return the exact objective, hyper-gradient and follower's answer at a validated x.

        Args:
            upper_params: x, as `validate` returns it.
            warm_start: An earlier response, at a nearby x, to start the solves from.
        """

    def respond_batch(
        self, upper_params: Sequence[FloatArray], *, warm_starts: Sequence[Any] | None = None
    ) -> Sequence[Response]:
        """Return what `respond` returns, for many x.

        Args:
            upper_params: B values of x, as `validate` returns them.
            warm_starts: For each x an earlier response, at a nearby x, or None.
        """
        starts = [None] * len(upper_params) if warm_starts is None else warm_starts
        return [
            self.respond(x, warm_start=start) for x, start in zip(upper_params, starts, strict=True)
        ]


def check_finite(objective: float, gradient: FloatArray) -> None:
    """Raise an `ArithmeticError` unless an objective and its gradient, of any shape, are finite."""
    if not (np.isfinite(objective) and np.isfinite(gradient).all()):
        raise ArithmeticError(
            f"the leader's objective overflowed (its value is {objective}): its rewards, costs or "
            "weights are too large for float64, or the follower's temperature too small"
        )


def check_warm_start(warm_start: object, kind: type[Response], array: str, num_states: int) -> None:
    """Raise an error unless a warm start is None, or an answer of a model of the same size.

    Args:
        warm_start: What was given.
        kind: The class of the model's exact answers.
        array: An attribute of theirs with an entry, or a row, for each state.
        num_states: S.

    Raises:
        TypeError: If it is no such answer.
        ValueError: If its model has another number of states.
    """
    if warm_start is None:
        return
    if not isinstance(warm_start, kind):
        raise TypeError(
            "`warm_start` must be an earlier response, which `evaluate` returned "
            f"({kind.__name__}), got {type(warm_start).__name__}"
        )
    states = len(getattr(warm_start, array))
    if states != num_states:
        raise ValueError(
            f"`warm_start` must be a response of a game with {num_states} states, got one with "
            f"{states}"
        )


def _check_options(respond: Callable[..., Any], options: Iterable[str]) -> None:
    """Raise a `TypeError` unless the `respond` of a model takes each of some options."""
    for option in options:
        _, *known = parameters = signature(respond).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if option not in known and not takes_all:
            raise TypeError(unknown_name("option of `evaluate`:", option, known))


class Responds(Protocol[ResponseT_co]):
    """A model, for type checkers: the type of its responses is that of its `respond`."""

    @property
    def respond(self) -> Callable[..., ResponseT_co]: ...  # noqa: D102

    def validate(self, upper_params: ArrayLike, /) -> FloatArray: ...  # noqa: D102


def evaluate(model: Responds[ResponseT], upper_params: ArrayLike, **options: Any) -> ResponseT:
    """Return the exact objective, hyper-gradient and follower's answer at x.

    Args:
        model: A bilevel problem.
        upper_params: x, shape of `model.low`.
        **options: `warm_start`, an earlier response at a nearby x, and the model's
            `solve_options`; see its `respond`.

    Returns:
        An `ExactResponse` of a `TabularModel`, an `ExactGaussianResponse` of a
        `LinearQuadraticModel`, an `ExactCrowdResponse` of a `MeanFieldModel`.

    Raises:
        ValueError: If x or an option is out of range.
        TypeError: If the model does not take an option.
        ArithmeticError: If values overflow.

    Example:
        >>> import bilevel_gym, gymnasium as gym
        >>> game = gym.make("BilevelGridWorld-v0", slip=0.2).unwrapped
        >>> game
        BilevelGridWorld(slip=0.2)
        >>> evaluate(game.model, game.initial_upper_params)  # doctest: +ELLIPSIS
        ExactResponse(objective=-1.4144, |gradient|=3.4, residual=...)
    """
    if not hasattr(model, "respond"):
        raise TypeError(
            f"`model` must be a bilevel problem, such as game.model, got {received(model)}; a game "
            "has game.evaluate(x)"
        )
    _check_options(model.respond, options)
    return model.respond(model.validate(upper_params), **options)


def evaluate_batch(
    model: BilevelModel, upper_params: Sequence[ArrayLike] | FloatArray, **options: Any
) -> Any:
    """Return what `evaluate` returns, for many x, as a list.

    Args:
        model: A bilevel problem.
        upper_params: B values of x, `[B, ...]` with the shape of `model.low`.
        **options: `warm_starts`, for each x an earlier response or None, and the model's
            `solve_options`; see its `respond_batch`.

    Raises:
        ValueError: If an x or an option is out of range; the message names the row of the x.
        ArithmeticError: If values overflow.
    """
    _check_options(model.respond_batch, options)
    xs = []
    for row, x in enumerate(upper_params):
        try:
            xs.append(model.validate(x))
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None
    return model.respond_batch(xs, **options)


def single_precision_bounds(
    low: ArrayLike, high: ArrayLike, shape: tuple[int, ...]
) -> tuple[Any, Any]:
    """Return bounds rounded outwards to float32, so that they still contain the float64 ones.

    Args:
        low: Lower bounds, a number or an array of `shape`.
        high: Upper bounds, a number or an array of `shape`.
        shape: Shape of x.

    Raises:
        ValueError: If a bound is not finite in single precision.
    """
    lower, upper = (np.broadcast_to(np.asarray(b, np.float64), shape) for b in (low, high))
    for bound in (*lower.flat, *upper.flat):
        if np.finfo(np.float32).max < abs(bound) < np.inf:
            raise ValueError(f"bounds of x must be finite in single precision, got {bound}")
    low32, high32 = lower.astype(np.float32), upper.astype(np.float32)
    low32 = np.where(low32 > lower, np.nextafter(low32, np.float32(-np.inf)), low32)
    high32 = np.where(high32 < upper, np.nextafter(high32, np.float32(np.inf)), high32)
    return low32, high32
