"""Lists of rows of numbers that users give, such as goals of a map or links of a network."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

__all__ = ["check_distinct", "checked_rows", "is_number"]


def check_distinct(name: str, values: Sequence[object]) -> None:
    """Raise a `ValueError` where one of some values is there twice."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"`{name}` must differ from each other, got {value} twice")


def is_number(value: object, kind: type = Real) -> bool:
    """Return whether a value is a number of a kind; a bool is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def checked_rows(
    name: str, values: object, width: int, form: str, noun: str, kind: type = Real
) -> list[list[float]]:
    """Return rows of numbers as lists.

    Args:
        name: Name of the argument.
        values: What was given; an array of rows is a list of them.
        width: Numbers in a row.
        form: What the rows are, for the message.
        noun: What one row is.
        kind: Kind of the numbers.

    Raises:
        ValueError: If there is no row, or something else than rows of numbers was given.
    """
    rows = values.tolist() if isinstance(values, np.ndarray) else values
    if (
        isinstance(rows, str)
        or not isinstance(rows, Sequence)
        or not all(isinstance(row, Sequence) and len(row) == width for row in rows)
        or not all(is_number(value, kind) for row in rows for value in row)
    ):
        raise ValueError(f"`{name}` must be a list of {form}, got {values!r}")
    if not rows:
        raise ValueError(f"`{name}` must have at least one {noun}, got none")
    return [list(row) for row in rows]
