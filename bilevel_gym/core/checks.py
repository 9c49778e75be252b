"""Checks of what users give, and the wording of their errors.

Every message says what was wrong, the value received and what is accepted.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "accepted_options",
    "check_at_least",
    "check_between",
    "check_choice",
    "check_discount",
    "check_entries",
    "check_flag",
    "check_horizon",
    "check_in_box",
    "check_keywords",
    "check_not_negative",
    "check_options",
    "check_positive",
    "check_probability",
    "check_real",
    "check_reset_options",
    "check_sparse",
    "check_temperature",
    "checked_bounds",
    "checked_distribution",
    "checked_mask",
    "checked_sides",
    "finite_array",
    "first_line",
    "optional",
    "real_numbers",
    "received",
    "unknown_name",
]

R = TypeVar("R")

# Of what was received, an error shows so many characters; of what is accepted, so many names.
LONGEST = 200
FEW_NAMES = 10


# That a horizon counts one by one; further ones are discounted to nothing.
MOST_STEPS = 100_000

# Probabilities of first states may miss one by this much.
DISTRIBUTION_TOLERANCE = 1e-9


def received(value: object) -> str:
    """Return how an error shows what was received: its `repr` in one line, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # Python does not write integers of many digits; others may raise anything
        text = f"an unprintable {type(value).__name__}"
        if isinstance(value, int):
            text = f"an integer of about {math.ceil(value.bit_length() * math.log10(2.0))} digits"
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def check_discount(name: str, value: float) -> float:
    """Return a discount as a float; raise a `ValueError` unless it is in [0, 1)."""
    return _number(name, value, lambda x: 0.0 <= x < 1.0, "lie in [0, 1)")


def check_between(name: str, value: float, low: float, high: float) -> float:
    """Return a number as a float; raise a `ValueError` unless it is in [low, high]."""
    return _number(name, value, lambda x: low <= x <= high, f"lie in [{low:g}, {high:g}]")


def check_probability(name: str, value: float) -> float:
    """Return a probability as a float; raise a `ValueError` unless it is in [0, 1]."""
    return check_between(name, value, 0.0, 1.0)


def check_positive(name: str, value: float) -> float:
    """Return a number as a float; raise a `ValueError` unless it is positive and finite."""
    return _number(name, value, lambda x: 0.0 < x < np.inf, "be positive and finite")


def check_temperature(value: float) -> float:
    """Return a temperature as a float; raise a `ValueError` unless it is positive and finite."""
    if isinstance(value, Real) and value == 0:
        raise ValueError(
            f"`temperature` must be positive and finite, got {received(value)}; F without entropy "
            "of a game with tables is game.evaluate_unregularised(x)"
        )
    return check_positive("temperature", value)


def check_not_negative(name: str, value: float) -> float:
    """Return a number as a float; raise a `ValueError` unless it is finite and at least 0."""
    return _number(name, value, lambda x: 0.0 <= x < np.inf, "be finite and not negative")


def check_real(name: str, value: float) -> float:
    """Return a number as a float; raise a `ValueError` unless it is one."""
    return _number(name, value, lambda x: True, "be a number")


def _number(name: str, value: object, accepts: Callable[[float], bool], rule: str) -> float:
    """Return a real number as a float; the range does not accept NaN, and a bool is no number."""
    number = value if type(value) is float else None
    if number is None and isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        with suppress(OverflowError):
            number = float(value)
    if number is None or not accepts(number):
        raise ValueError(f"`{name}` must {rule}, got {received(value)}")
    return number


def check_flag(name: str, value: bool) -> bool:
    """Return a flag as a bool; raise a `ValueError` unless it is one."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {received(value)}")
    return bool(value)


def check_at_least(name: str, value: int, least: int, most: int | None = None) -> int:
    """Return an integer as an int; raise a `ValueError` unless it is in `least`..`most`."""
    number = isinstance(value, Integral) and not isinstance(value, bool)
    if not number or value < least:
        rule = f"an integer of at least {received(least)}"
        raise ValueError(f"`{name}` must be {rule}, got {received(value)}")
    if most is not None and value > most:
        raise ValueError(f"`{name}` must be an integer of at most {most}, got {received(value)}")
    return int(value)


def optional(check: Callable[..., R], name: str, value: object, *accepted: Any) -> R | None:
    """Return what a check returns, or None for an option that is not given."""
    return None if value is None else check(name, value, *accepted)


def check_horizon(horizon: int | None) -> int | None:
    """Return a number of steps, None for all; raise a `ValueError` unless it is in 1..100 000."""
    if horizon is None:
        return None
    if isinstance(horizon, bool) or not isinstance(horizon, Integral) or int(horizon) < 1:
        raise ValueError(
            f"`horizon` must be None or an integer of at least 1, got {received(horizon)}"
        )
    if horizon > MOST_STEPS:
        raise ValueError(
            f"`horizon` must be at most {MOST_STEPS}, or None for all steps, "
            f"got {received(horizon)}"
        )
    return int(horizon)


def check_entries(name: str, entries: Any, count: int, owners: str) -> None:
    """Raise a `ValueError` unless a list, or an array, has an entry for each of its owners."""
    listed = isinstance(entries, Sequence) or (isinstance(entries, np.ndarray) and entries.ndim)
    if not listed or len(entries) != count:
        got = len(entries) if listed else received(entries)
        raise ValueError(f"`{name}` must have an entry for each of {count} {owners}, got {got}")


def check_choice(name: str, value: object, choices: Collection[str]) -> str:
    """Return `value`, one of some names; it is safe to look up in a table of them afterwards.

    Raises:
        ValueError: If `value` is not one of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(unknown_name(name, value, choices))
    return value


def without_absent(reward: ArrayLike, action_mask: ArrayLike | None) -> ArrayLike:
    """Return rewards with zero in place of the -inf that stands behind a mask."""
    if action_mask is None:
        return reward
    given, mask = real_numbers("reward", reward), real_numbers("action_mask", action_mask)
    if given.shape != mask.shape:
        return given
    return np.where(np.isneginf(given) & (mask == 0), 0.0, given)


def real_numbers(
    name: str, values: object, *, kinds: str = "fiub", shape: str = ""
) -> NDArray[Any]:
    """Return an array of real numbers as it is, with its own dtype; it may share memory.

    Args:
        name: Name of the argument.
        values: What was given.
        kinds: Accepted kinds of dtypes, in NumPy's letters.
        shape: The shape that is expected, for the message.

    Raises:
        ValueError: If it has masked entries, rows of different lengths, or entries that are no
            real numbers: strings, complex numbers, objects, or what is no array at all, such as a
            sparse matrix.
    """
    if type(values) is np.ndarray and values.dtype.kind in kinds:
        return values
    wanted = f"`{name}` must be an array of real numbers" + (shape and f" with shape {shape}")
    if getattr(values, "requires_grad", False) is True:
        raise ValueError(
            f"{wanted}, got a {type(values).__name__} that requires grad; give x.detach(), or "
            "differentiate F by `bilevel_gym.torch.objective`"
        )
    try:
        with warnings.catch_warnings():
            # What loses a mask, a gradient or the imaginary part only warns.
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)
            array = np.asarray(values)
        masked = _has_masked(values)
    except Exception as error:  # what converts itself to an array may raise anything
        ragged = isinstance(error, ValueError) and isinstance(values, Sequence)
        got = f"{type(values).__name__}: {first_line(error)}"
        raise ValueError(
            f"{wanted}, got {'rows of different lengths' if ragged else got}"
        ) from None
    if masked:
        raise ValueError(f"{wanted}, got one with masked entries; fill them first")
    if array.dtype.kind not in kinds:
        remedy = "; give values.toarray()" if hasattr(values, "toarray") else ""
        raise ValueError(f"{wanted}, got {type(values).__name__} of dtype {array.dtype}{remedy}")
    return array


def _has_masked(values: object) -> bool:
    """Return whether an array, or one in a list of arrays, has masked entries."""
    if isinstance(values, list | tuple):
        nested = (v for v in values if isinstance(v, list | tuple | np.ma.MaskedArray))
        return any(map(_has_masked, nested))
    return bool(np.ma.is_masked(values))


def first_line(error: Exception) -> str:
    """Return what an error of another library says, in one line."""
    return str(error).partition("\n")[0][:LONGEST]


def finite_array(
    name: str, values: object, shape: tuple[int | None, ...], letters: str
) -> NDArray[np.float64]:
    """Return finite numbers as a new float64 array.

    Args:
        name: Name of the argument.
        values: What was given.
        shape: Its shape; None where any length is accepted.
        letters: How the documentation writes the shape, such as "[S, A]".

    Raises:
        ValueError: If it is no array of real numbers (see `real_numbers`), has another shape, or an
            entry that is not finite; the message names the entry.
    """
    given = real_numbers(name, values, shape=letters)
    fits = given.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, given.shape, strict=True)
    )
    if not fits:  # and is not copied: it may be large
        wanted = "" if None in shape else f" = {shape}"
        remedy = "; transpose it" if given.ndim > 1 and given.shape == shape[::-1] else ""
        raise ValueError(f"`{name}` must have shape {letters}{wanted}, got {given.shape}{remedy}")
    array = _as_float64(name, given)
    if not np.isfinite(array).all():
        entry = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f" at [{', '.join(map(str, entry))}]" if entry else ""
        raise ValueError(f"`{name}` must be finite, got {array[entry]}{place}")
    return array


def _as_float64(name: str, numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Return a copy in float64, infinite where a longer type has gone further."""
    try:
        if numbers.dtype.itemsize <= 8:
            return np.array(numbers, dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.array(numbers, dtype=np.float64)
    except MemoryError:
        raise ValueError(f"`{name}` must fit into memory, got shape {numbers.shape}") from None


def check_sparse(name: str, matrix: Any) -> Any:
    """Return a sparse matrix as it is.

    Raises:
        ValueError: If it points out of itself, which SciPy follows.
    """
    try:
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
        elif matrix.format == "coo":
            type(matrix)((matrix.data, (matrix.row, matrix.col)), shape=matrix.shape)
    except ValueError as error:
        raise ValueError(f"`{name}` must be a valid sparse matrix, got one with {error}") from None
    return matrix


def check_in_box(
    name: str, values: ArrayLike, low: ArrayLike, high: ArrayLike
) -> NDArray[np.float64]:
    """Return `values` as a read-only float64 copy, at the full precision they came with.

    They must have the shape of the bounds. Those in float32 may miss a finite bound by rounding,
    `4 * eps * max(|low|, |high|)` with the eps of float32, and are then moved onto it.

    Raises:
        ValueError: If `values` is not numeric, has another shape, or an entry is not finite or out
            of bounds; the message names the entry.
    """
    low, high = np.asarray(low), np.asarray(high)
    raw = real_numbers(name, values, kinds="fiu", shape=str(low.shape))
    if raw.shape != low.shape:
        whose = "" if low.shape else ", as `low` and `high` have"
        raise ValueError(f"`{name}` must have shape {low.shape}{whose}, got {raw.shape}")
    checked = _as_float64(name, raw)
    if raw.dtype == np.float32:
        checked = _onto_bounds(checked, low, high)
    inside = (checked >= low) & (checked <= high) & np.isfinite(checked)
    if not inside.all():
        entry = tuple(int(i) for i in np.argwhere(~inside)[0])
        remedy = "; clip it to its bounds, x.clip(low, high)" if np.isfinite(checked).all() else ""
        raise ValueError(
            f"`{name}[{', '.join(map(str, entry))}]` must be finite and lie in "
            f"[{low[entry]}, {high[entry]}], got {checked[entry]}{remedy}"
        )
    checked.flags.writeable = False
    return checked


def _onto_bounds(
    values: NDArray[np.float64], low: NDArray[Any], high: NDArray[Any]
) -> NDArray[np.float64]:
    """Return values with those that miss a bound by single-precision rounding moved onto it."""
    # The affine map of [-1, 1] onto a box in float32, as in Gymnasium's `RescaleAction` and in the
    # heads of networks, is wrong by at most seven roundings of half an epsilon at its ends.
    reach = np.maximum(np.abs(low), np.abs(high), dtype=np.float64)
    slack = np.where(np.isfinite(reach), 4.0 * np.finfo(np.float32).eps * reach, 0.0)
    onto = np.clip(values, low, high)
    with np.errstate(invalid="ignore"):  # of infinite values
        return np.where(np.abs(values - onto) <= slack, onto, values)


def checked_bounds(
    low: object, high: object, *, bounded: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bounds of a box as read-only float64 copies.

    Args:
        low: Lower bounds, of any shape.
        high: Upper bounds, same shape.
        bounded: Whether the box must be finite and wider than a point in every entry.

    Raises:
        ValueError: If they are no real numbers, have different shapes or are out of order.
    """
    given = {"low": real_numbers("low", low), "high": real_numbers("high", high)}
    shapes = [bound.shape for bound in given.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(f"`low` and `high` must have one shape, got {shapes[0]} and {shapes[1]}")
    lower, upper = (_as_float64(name, bound) for name, bound in given.items())
    rule = "`low` must be at most `high`"
    right = (lower <= upper) & (lower < np.inf) & (upper > -np.inf)
    if bounded:
        rule = "`low` must be finite and below a finite `high`"
        right = (lower < upper) & np.isfinite(lower) & np.isfinite(upper)
    if not right.all():
        raise ValueError(f"{rule}, got {received(low)} and {received(high)}")
    lower.flags.writeable = upper.flags.writeable = False
    return lower, upper


def checked_distribution(name: str, probabilities: ArrayLike, size: int) -> NDArray[np.float64]:
    """Return a distribution of the first state `[S]` as a new array.

    Raises:
        ValueError: If it is none.
    """
    distribution = finite_array(name, probabilities, (size,), "[S]")
    total, smallest = distribution.sum(), distribution.min()
    if not (smallest >= 0.0 and abs(total - 1.0) <= DISTRIBUTION_TOLERANCE):
        raise ValueError(
            f"`{name}` must be probabilities that sum to 1, got sum "
            f"{total} and smallest entry {smallest}"
        )
    return distribution


def checked_mask(action_mask: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask of actions as a new bool array `[S, A]`.

    Raises:
        ValueError: If its shape is not `shape`, an entry is neither true nor false, or a state is
            left without an action.
    """
    given = real_numbers("action_mask", action_mask)
    if given.shape != shape:
        raise ValueError(f"`action_mask` must have shape [S, A] = {shape}, got {given.shape}")
    mask = given.astype(np.bool_)
    if (mask != given).any():
        value = given[mask != given][0]
        raise ValueError(f"`action_mask` must be True and False, or 1 and 0, got {value}")
    available = mask.any(axis=1)
    if not available.all():
        state = int(np.argmin(available))
        raise ValueError(f"`action_mask` must leave at least one action, got none in state {state}")
    return mask


def checked_sides(size: int | Sequence[int], least: int, most: int) -> tuple[int, int]:
    """Return the rows and columns of a map; raise a `ValueError` unless in `least`..`most`."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(
        isinstance(side, Integral) and not isinstance(side, bool) and least <= side <= most
        for side in sides
    ):
        raise ValueError(
            f"`size` must be a side or (rows, columns), each in {least}..{most}, "
            f"got {received(size)}"
        )
    return int(sides[0]), int(sides[1])


def accepted_options(factory: Any) -> dict[str, inspect.Parameter]:
    """Return the options of a class or function, those of base classes it passes others on to too.

    These are its parameters that are keyword-only or have a default, by name.
    """
    accepted: dict[str, inspect.Parameter] = {}
    functions = [factory]
    if isinstance(factory, type):
        functions = [vars(c)["__init__"] for c in factory.__mro__ if "__init__" in vars(c)]
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY or p.default is not p.empty:
                accepted.setdefault(p.name, p)
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return accepted


def check_options(
    owner: str,
    factory: Any,
    options: Iterable[str],
    *,
    reserved: Iterable[str] = (),
    listed_by: str | None = None,
) -> None:
    """Raise a `TypeError` unless `factory` takes each of some options; see `accepted_options`.

    `owner` is what the message calls it; `reserved` are parameters that are no options. For
    `listed_by` see `unknown_name`.
    """
    accepted = [name for name in accepted_options(factory) if name not in reserved]
    for option in options:
        if option not in accepted:
            kind = f"option for {owner}:"
            raise TypeError(unknown_name(kind, option, accepted, listed_by=listed_by))


def check_keywords(cls: type, given: Iterable[str]) -> None:
    """Raise a `TypeError` unless the constructor of a class takes what is given by keyword."""
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            raise TypeError(unknown_name(f"argument of {cls.__name__}:", name, parameters))


def check_reset_options(options: object, accepted: Collection[str]) -> dict[str, Any]:
    """Return the options of a reset as a new dict, an empty one for None.

    Raises:
        TypeError: If they are no dict.
        ValueError: If one of them is not accepted.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"`options` must be a dict, got {received(options)}")
    for option in options:
        check_choice("reset option", option, accepted)
    return dict(options)


def unknown_name(
    kind: str, name: object, known: Iterable[str], *, listed_by: str | None = None
) -> str:
    """Return the message for a name of some kind that is not known, the nearest that is first.

    Few names are listed; for more, `listed_by` is the command that lists them.
    """
    names = sorted(known)
    nearest = _nearest(name, names) if isinstance(name, str) else None
    said = f"unknown {kind} {received(name)}"
    if nearest is not None:
        said += f". Did you mean {nearest!r}?"
    if len(names) > FEW_NAMES and listed_by is not None:
        return f"{said}{';' if nearest is None else ''} `{listed_by}` lists all"
    if len(names) > FEW_NAMES and nearest is not None:
        return said
    listed = ", ".join(map(repr, names)) or "none"
    return f"{said}; accepted: {listed}" if nearest is None else f"{said} Accepted: {listed}"


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the name that another most likely stands for, whatever its case."""
    text = name[:LONGEST].casefold()
    folded = {known.casefold(): known for known in names}
    close = get_close_matches(text, folded, n=1)
    if not close and text:  # a part of one, of the shortest
        close = sorted((known for known in folded if text in known), key=len)
    return folded[close[0]] if close else None
