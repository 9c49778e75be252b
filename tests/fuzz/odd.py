"""Odd values, by name: what users give by mistake, and what they may give."""

from __future__ import annotations

import datetime
import fractions
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

from .judge import Case

# `data.draw` of Hypothesis.
Draw = Callable[[Any], Any]

Table = Mapping[str, Callable[..., Any]]


class Unwilling:
    """What refuses everything."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        """Refuse to be an array."""
        raise RuntimeError("no array")

    def __float__(self) -> float:
        """Refuse to be a number."""
        raise RuntimeError("no float")

    def __len__(self) -> int:
        """Refuse to have a length."""
        raise RuntimeError("no length")

    def __iter__(self) -> Any:
        """Refuse to be a list."""
        raise RuntimeError("no iterator")

    def __bool__(self) -> bool:
        """Refuse to be true or false."""
        raise RuntimeError("neither true nor false")

    def __repr__(self) -> str:
        """Return what it is."""
        return "Unwilling()"


def nested(depth: int) -> Any:
    """Return a list in lists."""
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return value


def tensor(values: Any, *, grad: bool) -> Any:
    """Return a tensor of PyTorch."""
    import torch

    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def pandas_na() -> Any:
    import pandas

    return pandas.NA


def series(values: Any) -> Any:
    """Return a column of pandas in which the first entry is missing."""
    import pandas

    flat = [float(v) for v in np.ravel(values)]
    return pandas.Series([pandas.NA, *flat[1:]], dtype="Float64")


# In place of a number, or of anything else.
VALUES: Table = {
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "-0.0": lambda: -0.0,
    "0": lambda: 0,
    "0.0": lambda: 0.0,
    "1": lambda: 1,
    "1.0": lambda: 1.0,
    "2": lambda: 2,
    "3": lambda: 3,
    "0.5": lambda: 0.5,
    "-1": lambda: -1,
    "-1.5": lambda: -1.5,
    "1 - 1e-10": lambda: 1.0 - 1e-10,
    "1 - 1e-16": lambda: 1.0 - 1e-16,
    "1e308": lambda: 1e308,
    "-1e308": lambda: -1e308,
    "1e155": lambda: 1e155,
    "1e39": lambda: 1e39,
    "1e17": lambda: 1e17,
    "1e-17": lambda: 1e-17,
    "1e-155": lambda: 1e-155,
    "1e-310": lambda: 1e-310,
    "5e-324": lambda: 5e-324,
    "10**6": lambda: 10**6,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "10**30": lambda: 10**30,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "-10**5000": lambda: -(10**5000),
    "True": lambda: True,
    "np.True_": lambda: np.True_,
    "None": lambda: None,
    "np.float32(.5)": lambda: np.float32(0.5),
    "np.float16(.5)": lambda: np.float16(0.5),
    "np.int64(2)": lambda: np.int64(2),
    "np.uint8(2)": lambda: np.uint8(2),
    "np.longdouble('1e4000')": lambda: np.longdouble("1e4000"),
    "array(.5)": lambda: np.array(0.5),
    "array(2)": lambda: np.array(2),
    "array([.5])": lambda: np.array([0.5]),
    "array([])": lambda: np.array([]),
    "array of objects": lambda: np.array([None, 1], dtype=object),
    "zeros(10**12), a view": lambda: np.broadcast_to(np.float64(0.0), (10**12,)),
    "zeros((3, 2))": lambda: np.zeros((3, 2)),
    "np.ma.masked": lambda: np.ma.masked,
    "masked array": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    "1j": lambda: 1j,
    "Fraction(1, 2)": lambda: fractions.Fraction(1, 2),
    "Fraction(10**400, 3)": lambda: fractions.Fraction(10**400, 3),
    "datetime": lambda: datetime.datetime(2020, 1, 1),
    "datetime64": lambda: np.datetime64("2020-01-01"),
    "''": lambda: "",
    "'1'": lambda: "1",
    "'nan'": lambda: "nan",
    "'é' * 5000": lambda: "é" * 5000,
    "lines": lambda: "a\nb\r\nc\0",
    "surrogate": lambda: "\udc80",
    "b'1'": lambda: b"1",
    "[]": list,
    "{}": dict,
    "()": tuple,
    "set": lambda: {1, 2},
    "[1.0]": lambda: [1.0],
    "[1, [2, 3]]": lambda: [1, [2, 3]],
    "[None]": lambda: [None],
    "['a', 'b']": lambda: ["a", "b"],
    "{'a': 1}": lambda: {"a": 1},
    "{1: 2}": lambda: {1: 2},
    "range(3)": lambda: range(3),
    "generator": lambda: (i for i in range(3)),
    "list of 40 lists": lambda: nested(40),
    "list of 100 lists": lambda: nested(100),
    "list of 1500 lists": lambda: nested(1500),
    "list of 10000 numbers": lambda: [0.25] * 10000,
    "Unwilling": Unwilling,
    "object": object,
    "NotImplemented": lambda: NotImplemented,
    "pandas.NA": pandas_na,
    "tensor(.5)": lambda: tensor(0.5, grad=False),
    "tensor(.5, requires_grad)": lambda: tensor(0.5, grad=True),
    "csr_array": lambda: sparse.csr_array(np.eye(3)),
    "slice": lambda: slice(None),
}

# In place of an entry of an array.
ENTRIES: Mapping[str, float] = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "-0.0": -0.0,
    "1e308": 1e308,
    "-1e308": -1e308,
    "1e200": 1e200,
    "1e39": 1e39,
    "-1e15": -1e15,
    "1e-310": 1e-310,
    "-1": -1.0,
    "-1e-12": -1e-12,
    "1 + 1e-12": 1.0 + 1e-12,
    "2": 2.0,
    "0.5": 0.5,
    "1": 1.0,
    "0": 0.0,
}


def as_int(array: Any) -> Any:
    return np.nan_to_num(array).astype(np.int64)


def read_only(array: Any) -> Any:
    """Return a copy that cannot be written to."""
    copied = np.array(array)
    copied.flags.writeable = False
    return copied


def as_view(array: Any) -> Any:
    """Return the same numbers as every second entry of another array, in reverse."""
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    return wide[..., 0][::-1].copy()[::-1]


def masked_rows(array: Any) -> Any:
    """Return a list of masked arrays."""
    rows = list(np.atleast_1d(array))
    return [np.ma.masked_array(row, np.ones(np.shape(row), bool)) for row in rows]


def as_structured(array: Any) -> Any:
    return np.array(array).astype([("a", "f8")])


def as_table(array: Any) -> Any:
    import pandas

    return pandas.DataFrame(np.atleast_2d(array).reshape(len(np.atleast_2d(array)), -1))


def two_dimensional(array: Any) -> Any:
    return np.array(array, float).reshape(-1, np.shape(array)[-1] if np.ndim(array) else 1)


# In place of an array: made of it.
ARRAYS: Table = {
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int64": as_int,
    "bool": lambda a: a.astype(bool),
    "complex": lambda a: a.astype(complex),
    "strings": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S8"),
    "objects": lambda a: a.astype(object),
    "datetime64": lambda a: as_int(a).astype("M8[s]"),
    "timedelta64": lambda a: as_int(a).astype("m8[s]"),
    "structured": as_structured,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a)) if a.ndim > 1 else tuple(a.tolist()),
    "Fortran": np.asfortranarray,
    "read-only": read_only,
    "view": as_view,
    "big-endian": lambda a: a.astype(">f8"),
    "transposed": lambda a: a.T.copy(),
    "one axis more": lambda a: a[None],
    "one axis less": lambda a: a.ravel() if a.ndim > 1 else a.sum(),
    "one row less": lambda a: a[1:],
    "one row more": lambda a: np.concatenate([a, a[:1]]),
    "one column less": lambda a: a[..., 1:],
    "no rows": lambda a: a[:0],
    "no columns": lambda a: a[..., :0],
    "masked, no entry": lambda a: np.ma.masked_array(a, False),
    "masked, one entry": lambda a: np.ma.masked_equal(a, a.flat[0]),
    "masked, all": lambda a: np.ma.masked_array(a, True),
    "list of masked arrays": masked_rows,
    "list with np.ma.masked": lambda a: [np.ma.masked, *a.tolist()[1:]],
    "matrix": lambda a: np.matrix(two_dimensional(a)),
    "ragged": lambda a: [*a.tolist()[:-1], [0.0] * 7],
    "list with None": lambda a: [None, *a.tolist()[1:]],
    "list with pandas.NA": lambda a: [pandas_na(), *a.tolist()[1:]],
    "list with 10**400": lambda a: [10**400, *a.tolist()[1:]],
    "list with a string": lambda a: ["1", *a.tolist()[1:]],
    "list with tensors that require grad": lambda a: [
        tensor(v, grad=True) for v in np.atleast_1d(a)
    ],
    "Series with pandas.NA": series,
    "DataFrame": as_table,
    "tensor": lambda a: tensor(a.tolist(), grad=False),
    "tensor that requires grad": lambda a: tensor(a.tolist(), grad=True),
    "csr_array": lambda a: sparse.csr_array(two_dimensional(a)),
    "csr_matrix": lambda a: sparse.csr_matrix(two_dimensional(a)),
    "csc_array": lambda a: sparse.csc_array(two_dimensional(a)),
    "coo_array": lambda a: sparse.coo_array(two_dimensional(a)),
    "lil_matrix": lambda a: sparse.lil_matrix(two_dimensional(a)),
    "dok_array": lambda a: sparse.dok_array(two_dimensional(a)),
    "dia_array": lambda a: sparse.dia_array(two_dimensional(a)),
    "bsr_array": lambda a: sparse.bsr_array(two_dimensional(a)),
    "one-dimensional coo_array": lambda a: sparse.coo_array(np.array(a, float).ravel()),
    "csr_array of complex": lambda a: sparse.csr_array(two_dimensional(a) + 0j),
    "csr_array of int": lambda a: sparse.csr_array(as_int(two_dimensional(a))),
    "LinearOperator": lambda a: aslinearoperator(two_dimensional(a)),
    "a huge view": lambda a: np.broadcast_to(np.float64(0.5), (10**6, *a.shape[1:], 10**6)),
    "a dict of it": lambda a: {"values": a},
    "times 1e300": lambda a: a.astype(float) * 1e300,
    "times 1e-300": lambda a: a.astype(float) * 1e-300,
}


def odd_value(draw: Draw) -> tuple[str, Any]:
    """Draw an odd value with its name."""
    name = draw(st.sampled_from([*VALUES]))
    return name, VALUES[name]()


def odd_array(draw: Draw, good: Any) -> tuple[str, Any]:
    """Draw an array like a good one with its name: it, one made of it, or another value."""
    array = np.array(good)
    kind = draw(st.integers(0, 9))
    if kind == 0 or array.size == 0:
        return odd_value(draw)
    if kind <= 5:
        name = draw(st.sampled_from([*ARRAYS]))
        return name, ARRAYS[name](array)
    changed, entry = array.astype(float), draw(st.sampled_from([*ENTRIES]))
    place = draw(st.integers(0, array.size - 1))
    changed.flat[place] = ENTRIES[entry]
    return f"entry {place} is {entry}", changed


def odd_like(draw: Draw, good: Any) -> tuple[str, Any]:
    """Draw something odd in place of a good value."""
    if isinstance(good, np.ndarray) or (
        isinstance(good, list | tuple) and good and draw(st.booleans())
    ):
        try:
            array = np.array(good)
        except ValueError:
            return odd_value(draw)
        return odd_array(draw, array) if array.dtype.kind in "fiub" else odd_value(draw)
    if isinstance(good, list | tuple) and good and draw(st.booleans()):
        place = draw(st.integers(0, len(good) - 1))
        name, value = odd_like(draw, good[place])
        return f"[{place}] is {name}", type(good)([*good[:place], value, *good[place + 1 :]])
    if isinstance(good, dict) and good and draw(st.booleans()):
        key = draw(st.sampled_from([*good]))
        name, value = odd_like(draw, good[key])
        return f"[{key!r}] is {name}", {**good, key: value}
    if isinstance(good, str) and draw(st.integers(0, 3)) == 0:
        return "other text", draw(st.text(max_size=8))
    if isinstance(good, int) and not isinstance(good, bool) and draw(st.booleans()):
        value = draw(st.integers(-2, 12))
        return str(value), value
    if isinstance(good, float) and draw(st.booleans()):
        value = draw(st.floats(allow_nan=True))
        return repr(value), value
    return odd_value(draw)


def spoilt(draw: Draw, good: Mapping[str, Any], most: int = 2) -> tuple[dict[str, Any], list[str]]:
    """Draw arguments of which some are odd; return them and what is odd, "name: value" each."""
    chosen = draw(st.lists(st.sampled_from([*good]), min_size=1, max_size=most, unique=True))
    arguments, said = dict(good), []
    for name in chosen:
        label, arguments[name] = odd_like(draw, good[name])
        said.append(f"{name}: {label}")
    return arguments, said


def case_of(
    owner: str, said: list[str], call: Callable[[], Any], *names: str, named: bool = True
) -> Case:
    """Return the case of some odd arguments."""
    odd = [part.partition(":")[0] for part in said]
    return Case(f"{owner}: {'; '.join(said)}", call, [*odd, *names] if named else [])


def scribble(values: Any) -> None:
    """Change every array in some values where it lies."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            scribble(value)
    elif isinstance(values, np.ndarray):
        if values.flags.writeable and values.dtype.kind in "fiub":
            values[...] = 1
    elif sparse.issparse(values) and isinstance(getattr(values, "data", None), np.ndarray):
        scribble(values.data)
