"""What things are called at the prompt: their class, and in one line what tells them apart."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import accepted_options, check_keywords, received

__all__ = ["Described", "Made", "MadeFor", "brief", "number"]


class _Brief(reprlib.Repr):
    """Cuts long texts and nested lists, and gives of a large array the shape alone."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlist = self.maxtuple = self.maxdict = 8

    def repr1(self, x: Any, level: int) -> str:
        try:
            return super().repr1(x, level)
        except ValueError:  # Python does not write integers of many digits
            return received(x)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, Described):
            return repr(x)
        if getattr(type(x), "__repr__", None) is object.__repr__:  # which says an address
            return f"{type(x).__name__}()"
        if inspect.isroutine(x):
            return x.__name__
        return super().repr_instance(x, level)

    def repr_ndarray(self, x: np.ndarray[Any, Any], level: int) -> str:
        if x.ndim > 1 or x.size > self.maxlist:
            return f"array{[*x.shape]}"
        return np.array2string(x, precision=5, separator=", ", max_line_width=10_000)


_brief = _Brief()


def brief(value: object) -> str:
    """Return the `repr` of a value, short in any case; of a large array "array[52]", its shape."""
    return _brief.repr(value.item() if isinstance(value, np.generic) else value)


def number(value: float, error: float | None = None, digits: int = 5) -> str:
    """Return a number in so many digits, and after "±" its standard error, where there is one."""
    return f"{value:.{digits}g}" + ("" if error is None else f"±{error:.2g}")


class Described:
    """Something whose `repr` is one line: its class, and the parts that `described` yields."""

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield names and values; of a dataclass the fields that differ from their defaults."""
        if is_dataclass(self):
            for entry in fields(self):
                value = getattr(self, entry.name)
                if entry.repr and (entry.default is MISSING or value is not entry.default):
                    short = number(value) if isinstance(value, float) else brief(value)
                    yield entry.name, short

    def __repr__(self) -> str:
        """Return the class and the parts."""
        parts = ", ".join(f"{name}={value}" for name, value in self.described())
        return f"{type(self).__name__}({parts})"


class Made(Described):
    """Something that is described by the arguments with which it was made, but for the defaults.

    What is kept of them is their text.
    """

    _made_with: tuple[list[str], Mapping[str, str]]

    if not TYPE_CHECKING:  # to type checkers and editors the constructor is `__init__` alone

        def __new__(cls, *args, **kwargs):
            """Keep the text of the arguments; raise a `TypeError` for one that is not known."""
            check_keywords(cls, kwargs)
            made = super().__new__(cls)
            made._made_with = [*map(brief, args)], {k: brief(v) for k, v in kwargs.items()}
            return made

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the arguments that differ from their defaults, by name."""
        given, named = self._made_with
        parameters = inspect.signature(type(self)).parameters
        options = accepted_options(type(self))
        for name, value in {**dict(zip(parameters, given, strict=False)), **named}.items():
            if name not in options or brief(options[name].default) != value:
                yield name, value


class MadeFor(Made):
    """Something that is made for a model or a game, its first argument, with options."""

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the options that differ from their defaults."""
        owner = next(iter(inspect.signature(type(self)).parameters), None)
        return ((name, value) for name, value in super().described() if name != owner)
