"""Lists of rows of numbers that users give, such as goals of a map or links of a network."""

from __future__ import annotations

from collections.abc import Container, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..core.checks import real_numbers, received
from ..core.mdp import FloatArray

__all__ = ["check_known", "checked_matrix", "checked_pairs", "checked_rows", "is_number"]

Pair = tuple[int, int]


def check_known(name: str, values: Sequence[Any], known: Container[Any], rule: str) -> None:
    """Raise a `ValueError` unless all of some values are known, and none is there twice.

    `rule` says which ones are known.
    """
    for i, value in enumerate(values):
        if value not in known:
            raise ValueError(f"`{name}` must {rule}, got {received(value)}")
        if value in values[:i]:
            raise ValueError(f"`{name}` must differ from each other, got {value} twice")


def is_number(value: object, kind: type = Real) -> bool:
    """Return whether a value is a number of a kind; a bool is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def checked_rows(
    name: str, values: object, width: int, form: str, noun: str, kind: type = Real
) -> list[list[float]]:
    """Return rows of `width` numbers of a kind as lists; an array of rows is a list of them.

    `form` says for the message what the rows are, `noun` what one of them is.

    Raises:
        ValueError: If there is no row, or something else than rows of numbers was given.
    """
    rows = values
    if isinstance(values, np.ndarray) and values.shape[1:] == (width,):
        rows = values.tolist()
    if (
        isinstance(rows, str)
        or not isinstance(rows, Sequence)
        or not all(isinstance(row, Sequence) and len(row) == width for row in rows)
        or not all(is_number(value, kind) for row in rows for value in row)
    ):
        raise ValueError(f"`{name}` must be a list of {form}, got {received(values)}")
    if not rows:
        raise ValueError(f"`{name}` must have at least one {noun}, got none")
    return [list(row) for row in rows]


def checked_matrix(name: str, values: object, form: str, rows: int | None = None) -> FloatArray:
    """Return equally long rows of finite numbers as an array `[M, N]`; `form` is what they are.

    Raises:
        ValueError: If something else was given, or another number of rows than `rows`.
    """
    try:
        given = real_numbers(name, values)
    except ValueError:
        given = np.empty(0)
    if given.ndim != 2 or not given.size or rows not in (None, len(given)):
        raise ValueError(f"`{name}` must be {form}, got {received(values)}")
    if not np.isfinite(given).all():
        row, column = np.argwhere(~np.isfinite(given))[0].tolist()
        raise ValueError(f"`{name}` must be finite, got {given[row, column]} in {row=}, {column=}")
    return given.astype(np.float64)


def checked_pairs(
    name: str,
    values: object,
    known: Container[Pair],
    form: str,
    noun: str,
    rule: str,
    *,
    kind: type = Integral,
) -> tuple[Pair, ...]:
    """Return pairs of integers in the order given; see `checked_rows` and `check_known`."""
    pairs = [(row[0], row[1]) for row in checked_rows(name, values, 2, form, noun, kind)]
    check_known(name, pairs, known, rule)
    return tuple((int(first), int(second)) for first, second in pairs)
