"""The shape of a benchmark's file, and where in the file something stands."""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from operator import getitem
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from ..core.checks import check_at_least, received, unknown_name
from .errors import ConfigError, Place

Backend = Literal["loky", "dask"]

# A larger number is rather a seed itself.
MOST_SEEDS = 1000

# The shape --------------------------------------------------------------------------------------


def _text(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError(f"must be a text of one line, got {received(value)}")
    return value


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        check_at_least("seeds", value, 1)
        if value > MOST_SEEDS:
            raise ValueError(
                f"must be a number of at most {MOST_SEEDS} seeds, got {value}; the seed {value} "
                f"alone is [{value}]"
            )
        return tuple(range(value))
    for seed in value:
        check_at_least("seeds", seed, 0)
        if seed >= 2**63:
            raise ValueError(f"must be below 2^63, got {seed}")
    if not value or len({*value}) != len(value):
        raise ValueError("must be a number of seeds or a list of different ones")
    return tuple(value)


def _options(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(
            "must hold texts, finite numbers, booleans, lists and tables only"
        ) from None
    return value


def _label(key: str) -> Any:
    """Return a field that takes the value of another one unless it is given."""
    return Field(default_factory=lambda data: data.get(key, ""))


Count = Annotated[int, Field(ge=1, lt=2**63)]
Text = Annotated[str, AfterValidator(_text)]
Options = Annotated[dict[str, Any], AfterValidator(_options)]


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Engine(Table):
    """Where runs take place: "loky" is processes on this machine, "dask" a cluster.

    Without a number of workers all cores are used. The address is that of the scheduler of a Dask
    cluster; without one, we start our own on this machine.
    """

    backend: Backend = "loky"
    workers: Count | None = None
    address: Text | None = None


class TaskTable(Table):
    """A task, with options of methods and optimizers for it alone, by label."""

    id: Text
    label: Text = _label("id")
    kwargs: Options = {}
    steps: Count | None = None
    start_spread: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    method_options: dict[str, Options] = {}
    optimizer_options: dict[str, Options] = {}


class Named(Table):
    """A method or an optimizer."""

    name: Text
    label: Text = _label("name")
    options: Options = {}


class OptimizerTable(Named):
    """An optimizer, for the methods of some labels or for all."""

    methods: list[Text] | None = None


class File(Table):
    """The whole file."""

    steps: Count = 100
    seeds: Annotated[tuple[int, ...], PlainValidator(_seeds)] = tuple(range(5))
    engine: Engine = Engine()
    tasks: Annotated[list[TaskTable], Field(min_length=1)]
    methods: Annotated[list[Named], Field(min_length=1)]
    optimizers: Annotated[list[OptimizerTable], Field(min_length=1)]


# What stands in each table, by its key at the top.
TABLES: dict[str, type[Table]] = {
    "engine": Engine,
    "tasks": TaskTable,
    "methods": Named,
    "optimizers": OptimizerTable,
}


# Where things stand -----------------------------------------------------------------------------

# What may hold a line end without ending a statement, and what opens and closes lists and tables.
TOKENS = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'|#[^\n]*|[\[\]{}\n]",
    re.DOTALL,
)


class Source:
    """The text of a file, for errors that name the key and its line."""

    def __init__(self, name: str, text: str) -> None:
        """Parse the text; what is no TOML, or beyond reading, is a `ConfigError`."""
        self.name, self.text = name, text
        self._statements = list(_statements(text))
        self._data_up_to = cache(lambda end: tomllib.loads(text[:end]))
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{name}: no valid TOML: {error}") from None
        except (ValueError, RecursionError) as error:
            line = self._first_line(lambda end: not _readable(text[:end]))
            reason = "a number of too many digits"
            if isinstance(error, RecursionError):
                reason = "lists or tables nested too deeply"
            raise ConfigError(f"{name}, line {line}: no valid TOML: {reason}") from None

    def file(self) -> File:
        """Return what the file says; an unknown, missing or wrong key is a `ConfigError`."""
        try:
            return File.model_validate(self.data)
        except ValidationError as caught:
            errors = [self._translated(error) for error in caught.errors(include_url=False)]
            raise min(errors, key=lambda found: found[0])[1] from None

    def error(self, place: Place, message: str) -> ConfigError:
        """Return an error about a place of the file."""
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
        where = f"{path.removeprefix('.')}, " if path else ""
        return ConfigError(f"{self.name}, {where}line {self.line_of(place)}: {message}")

    def known(self, place: Place, kind: str, name: str, known: Iterable[str]) -> None:
        """Raise a `ConfigError` unless a name is one of those known."""
        if name not in known:
            raise self.error(place, unknown_name(kind, name, known))

    @contextmanager
    def explained(
        self, *places: Place, options: Iterable[str] = (), start: str = ""
    ) -> Iterator[None]:
        """Raise what the package refuses as an error about a place.

        It is that of the option of which the refusal speaks, in one of the places, else the last.
        """
        try:
            yield
        except ConfigError:
            raise
        except (ImportError, TypeError, ValueError) as error:
            reason = str(error)
            named = [key for key in options if f"`{key}" in reason or f"{key!r}" in reason]
            found = ((*place, key) for place in places for key in named)
            place = next((place for place in found if _holds(self.data, place)), places[-1])
            raise self.error(place, f"{start}{reason}") from None

    def line_of(self, place: Place) -> int:
        """Return the line in which the statement begins that makes a place be there.

        Of what is nowhere it is that of the table where it should be.
        """
        while not _holds(self.data, place):
            place = place[:-1]
        return self._first_line(lambda end: _holds(self._data_up_to(end), place))

    def _first_line(self, test: Callable[[int], bool]) -> int:
        """Return the line of the first statement up to whose end the text passes a test."""
        number = bisect_left(self._statements, True, key=lambda statement: test(statement[1]))
        return self._statements[number][0]

    def _translated(self, error: Any) -> tuple[tuple[bool, int], ConfigError]:
        """Return an error of the validation library; the first in order is the one to tell."""
        place: Place = tuple(error["loc"])
        table = TABLES.get(str(place[0])) if len(place) > 1 else None
        where = "the file" if table is None else f"[{place[0]}]"
        key, value, kind = place[-1], error["input"], error["type"]
        if kind == "extra_forbidden":
            message = unknown_name(f"key of {where}:", key, (table or File).model_fields)
        elif kind == "missing":
            message, place = f"`{key}` is missing in {where}", place[:-1]
        elif kind == "literal_error":
            message = unknown_name(str(key), value, get_args(Backend))
        elif kind == "value_error":
            reason = str(error["ctx"]["error"])
            message = reason if reason.startswith("`") else f"`{key}` {reason}"
        else:
            rule = error["msg"].partition(" or instance of")[0]
            message = rule.replace("Input should", f"`{key}` must") + f", got {received(value)}"
        return (kind == "missing", self.line_of(place)), self.error(place, message)


def _statements(text: str) -> Iterator[tuple[int, int]]:
    """Yield the first line of each statement of a TOML file, and where in the text it ends."""
    depth, line, first = 0, 1, 1
    for token in TOKENS.finditer(text + "\n"):
        found = token.group()
        depth += (found in "[{") - (found in "]}")
        line += found.count("\n")
        if found == "\n" and depth <= 0:
            yield first, token.end()
            depth, first = 0, line
    yield first, len(text)


def _holds(data: Any, place: Place) -> bool:
    """Return whether data has something at a place."""
    try:
        reduce(getitem, place, data)
    except (LookupError, TypeError):
        return False
    return True


def _readable(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
