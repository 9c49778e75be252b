"""What is to be run: a TOML file, checked as a whole before anything runs."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.checks import check_at_least, check_probability, unknown_name
from ..making import find_task, make_leader
from ..methods import METHODS, make_method
from ..optimizers import OPTIMIZERS, RULES
from .runs import Run, climb, make_referee, start_of

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..envs import BilevelEnv

__all__ = [
    "Benchmark",
    "ConfigError",
    "Engine",
    "Entry",
    "LeftOut",
    "SHIPPED",
    "parse_benchmark",
    "read_benchmark",
    "shipped_text",
]

BACKENDS = ("loky", "dask")

# Files that come with the package, by name.
SHIPPED = ("default", "deep")

# A larger number is rather a seed itself.
MOST_SEEDS = 1000

# Where something stands in the data of a TOML file: keys, and numbers of tables.
Place = tuple[str | int, ...]


class ConfigError(ValueError):
    """What is wrong with a benchmark's file, and in which line."""


@dataclass(frozen=True)
class Engine:
    """Where runs take place.

    Attributes:
        backend: "loky" for processes on this machine, "dask" for a cluster.
        workers: How many processes; None for all cores.
        address: Scheduler of a Dask cluster; None for one of our own on this machine.
    """

    backend: str = "loky"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Entry:
    """A run and what the file calls its parts."""

    task: str
    method: str
    optimizer: str
    run: Run

    def __str__(self) -> str:
        """Return its name for the user."""
        return f"{self.task} / {self.method} / {self.optimizer}, seed {self.run.seed}"


@dataclass(frozen=True)
class LeftOut:
    """A task and a method that does not suit it, and why."""

    task: str
    method: str
    reason: str

    def __str__(self) -> str:
        """Return it for the user."""
        return f"{self.task} / {self.method}: {self.reason}"


@dataclass(frozen=True)
class Benchmark:
    """A checked file.

    Attributes:
        text: The file.
        engine: Where runs take place.
        entries: All runs, the first seed of everything first.
        left_out: What is not run.
    """

    text: str
    engine: Engine
    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]


def shipped_text(name: str = "default") -> str:
    """Return a file that comes with the package.

    Args:
        name: One of `SHIPPED`: "default" for methods that know or watch a follower in a table,
            "deep" for followers who learn by networks.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in SHIPPED:
        raise ValueError(unknown_name("benchmark", name, SHIPPED))
    return files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def read_benchmark(path: str | Path) -> Benchmark:
    """Read and check a benchmark's file; see `parse_benchmark`.

    Raises:
        OSError: If the file cannot be read.
        ConfigError: If there is something wrong with it.
    """
    raw = Path(path).read_bytes()
    try:
        # Line ends of other systems are for the parser; some editors put a mark in front.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: the file must be UTF-8") from None
    return parse_benchmark(text, str(path))


def parse_benchmark(text: str, name: str = "benchmark.toml") -> Benchmark:
    """Check a benchmark's file, and return its runs.

    Every task is made and every method is bound to it, so that what would fail in each run fails
    here. A method that a task does not have, or that refuses it with or without its options, does
    not suit it, and is left out; one that refuses it only with them has been given wrong ones.

    Args:
        text: The file.
        name: What errors call it.

    Raises:
        ConfigError: If there is something wrong with it.
    """
    source = _Source(name, text)
    top = source.table((), source.data, TOP, required=("tasks", "methods", "optimizers"))
    engine = _engine(source, top.get("engine", {}))
    tasks = _items(source, top, "tasks", TASK, "id")
    methods = _items(source, top, "methods", METHOD, "name")
    optimizers = _items(source, top, "optimizers", OPTIMIZER, "name")
    for place, optimizer in optimizers:
        source.known((*place, "name"), "optimizer", optimizer["name"], OPTIMIZERS)
        if optimizer["name"] in RULES and "steps" in optimizer["options"]:
            raise source.error(
                (*place, "options", "steps"),
                "`steps` is the same for all optimizers: set it at the top of the file, or for a "
                "task",
            )
    games = [_game(source, place, task) for place, task in tasks]
    known = dict.fromkeys([*METHODS, *(name for game in games for name in _methods_of(game))])
    for place, method in methods:
        source.known((*place, "name"), "method", method["name"], known)
    seeds = top.get("seeds", tuple(range(5)))
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    for (place, task), game in zip(tasks, games, strict=True):
        steps = task.get("steps", top.get("steps", 100))
        for kind, items in (("method_options", methods), ("optimizer_options", optimizers)):
            labels = [item["label"] for _, item in items]
            for label in task[kind]:
                what = f"label of {kind.removesuffix('_options')}:"
                source.known((*place, kind, label), what, label, labels)
        suited = []
        for method_place, method in methods:
            options = {**method["options"], **task["method_options"].get(method["label"], {})}
            places = (
                (*place, "method_options", method["label"]),
                (*method_place, "options"),
            )
            try:
                reason = _refusal(source, places, game, method["name"], options)
            except ImportError as error:
                raise source.error((*method_place, "name"), str(error)) from None
            if reason is None:
                suited.append((method, options))
            else:
                left_out.append(LeftOut(task["label"], method["label"], reason))
        for optimizer_place, optimizer in optimizers:
            special = task["optimizer_options"].get(optimizer["label"], {})
            chosen = {**optimizer["options"], **special}
            places = (
                (*place, "optimizer_options", optimizer["label"]),
                (*optimizer_place, "options"),
            )
            for method, options in suited:
                runs = [
                    Run(
                        task["id"],
                        task["kwargs"],
                        task["start_spread"],
                        method["name"],
                        options,
                        optimizer["name"],
                        chosen,
                        steps,
                        seed,
                    )
                    for seed in seeds
                ]
                entries += [
                    Entry(task["label"], method["label"], optimizer["label"], run) for run in runs
                ]
            if suited:
                _try_optimizer(source, place, places, entries[-1].run, game)
    if not entries:
        reasons = "; ".join(map(str, left_out))
        raise ConfigError(f"{name}: no method suits any task ({reasons})")
    # A benchmark that is stopped early is to have seen everything a few times.
    entries.sort(key=lambda entry: seeds.index(entry.run.seed))
    return Benchmark(text, engine, tuple(entries), tuple(left_out))


# The shape of the file --------------------------------------------------------------------------


def _whole(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        check_at_least(name, value, least)
        return int(value)

    return check


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"`{name}` must be a text of one line, got {value!r}")
    return value


def _seeds(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        check_at_least(name, value, 1)
        if value > MOST_SEEDS:
            raise ValueError(
                f"`{name}` must be a number of at most {MOST_SEEDS} seeds, got {value}; the seed "
                f"{value} alone is [{value}]"
            )
        return tuple(range(value))
    for seed in value:
        check_at_least(name, seed, 0)
        if seed >= 2**63:
            raise ValueError(f"`{name}` must be below 2^63, got {seed}")
    if not value or len({*value}) != len(value):
        raise ValueError(f"`{name}` must be a number of seeds or a list of different ones")
    return tuple(value)


def _options(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a table, got {value!r}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must hold texts, finite numbers, booleans, lists and tables only"
        ) from None
    return value


def _options_by_label(name: str, value: Any) -> dict[str, dict[str, Any]]:
    return {label: _options(f"{name}.{label}", table) for label, table in _table(name, value)}


def _table(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a table, got {value!r}")
    yield from value.items()


def _tables(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(t, dict) for t in value):
        raise ValueError(f"`{name}` must be tables, [[{name}]] each")
    return value


def _as_table(name: str, value: Any) -> dict[str, Any]:
    return dict(_table(name, value))


def _backend(name: str, value: Any) -> str:
    if value not in [*BACKENDS]:
        raise ValueError(unknown_name(name, value, BACKENDS))
    return str(value)


Fields = Mapping[str, Callable[[str, Any], Any]]
TOP: Fields = {
    "steps": _whole(1),
    "seeds": _seeds,
    "engine": _as_table,
    "tasks": _tables,
    "methods": _tables,
    "optimizers": _tables,
}
ENGINE: Fields = {"backend": _backend, "workers": _whole(1), "address": _text}
TASK: Fields = {
    "id": _text,
    "label": _text,
    "kwargs": _options,
    "steps": _whole(1),
    "start_spread": check_probability,
    "method_options": _options_by_label,
    "optimizer_options": _options_by_label,
}
METHOD: Fields = {"name": _text, "label": _text, "options": _options}
OPTIMIZER: Fields = METHOD


@dataclass(frozen=True)
class _Source:
    """The text of a file, for errors that name the line."""

    name: str
    text: str
    data: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Parse the text.

        Raises:
            ConfigError: If it is no TOML.
        """
        try:
            object.__setattr__(self, "data", tomllib.loads(self.text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self.name}: no valid TOML: {error}") from None

    def error(self, place: Place, message: str) -> ConfigError:
        """Return an error about a place of the file."""
        return ConfigError(f"{self.name}, line {line_of(self.text, place)}: {message}")

    def known(self, place: Place, kind: str, name: str, known: Any) -> None:
        """Raise a `ConfigError` unless a name is one of those known."""
        if name not in known:
            raise self.error(place, unknown_name(kind, name, known))

    def table(
        self, place: Place, data: dict[str, Any], fields: Fields, required: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the checked values of a table.

        Raises:
            ConfigError: If a key is unknown or missing, or a value is not accepted.
        """
        where = f"[{place[0]}]" if place else "the file"
        checked = {}
        for key, value in data.items():
            self.known((*place, key), f"key of {where}:", key, fields)
            try:
                checked[key] = fields[key](key, value)
            except ValueError as error:
                raise self.error((*place, key), str(error)) from None
        for key in required:
            if key not in checked:
                raise self.error(place, f"`{key}` is missing in {where}")
        return checked


def line_of(text: str, place: Place) -> int:
    """Return the number of the line in which something of a TOML file begins.

    The parser does not tell, but it knows: the statement sought is the one that has to be read for
    the place to be there.

    Args:
        text: The file, valid TOML.
        place: What is sought; () is the first line.
    """
    if not place:
        return 1
    lines = text.split("\n")
    complete = 0  # lines up to the end of the last whole statement
    for count in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # in the midst of a statement
        if _holds(data, place):
            return complete + 1
        complete = count
    return line_of(text, place[:-1])


def _holds(data: Any, place: Place) -> bool:
    for key in place:
        if isinstance(data, list):
            if not isinstance(key, int) or key >= len(data):
                return False
        elif not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def _engine(source: _Source, data: dict[str, Any]) -> Engine:
    engine = Engine(**source.table(("engine",), data, ENGINE))
    if engine.address is not None and engine.backend != "dask":
        raise source.error(("engine", "address"), '`address` is for `backend = "dask"`')
    if engine.address is not None and engine.workers is not None:
        raise source.error(
            ("engine", "workers"), "`workers` is for this machine: the cluster has its own"
        )
    return engine


def _items(
    source: _Source, top: dict[str, Any], kind: str, fields: Fields, name: str
) -> list[tuple[Place, dict[str, Any]]]:
    """Return the tables of a kind with their places, defaults filled in."""
    items: list[tuple[Place, dict[str, Any]]] = []
    labels: set[str] = set()
    for number, data in enumerate(top[kind]):
        place = (kind, number)
        item = source.table(place, data, fields, required=(name,))
        item.setdefault("label", item[name])
        for key, check in fields.items():
            if check in (_options, _options_by_label):
                item.setdefault(key, {})
        if "start_spread" in fields:
            item.setdefault("start_spread", 0.0)
        if item["label"] in labels:
            at = (*place, "label" if "label" in data else name)
            raise source.error(
                at, f"`label` must be unique, got {item['label']!r} a second time in [[{kind}]]"
            )
        labels.add(item["label"])
        items.append((place, item))
    return items


# What the names and options mean ----------------------------------------------------------------


def _game(source: _Source, place: Place, task: dict[str, Any]) -> BilevelEnv:
    """Return the game of a task.

    Raises:
        ConfigError: If there is none of that name, it refuses an argument, or something is not
            installed that it needs.
    """
    if ":" in task["id"]:
        # As with `python -m`, modules beside the user are found; workers inherit the path.
        sys.path.insert(0, "")
    try:
        env_id = find_task(task["id"])
    except ImportError as error:
        reason = f"cannot import {task['id']!r}: {error.__cause__}"
        raise source.error((*place, "id"), reason) from None
    except ValueError as error:
        raise source.error((*place, "id"), str(error)) from None
    try:
        return make_leader(env_id, task["kwargs"]).game
    except (ImportError, TypeError, ValueError) as error:
        at = _culprit(((*place, "kwargs"),), task["kwargs"], str(error))
        raise source.error(at if task["kwargs"] else place, str(error)) from None


def _methods_of(game: BilevelEnv) -> Mapping[str, str]:
    """Return the methods that a game has."""
    return getattr(game, "methods", METHODS)


def _refusal(
    source: _Source, places: tuple[Place, ...], game: BilevelEnv, name: str, options: dict[str, Any]
) -> str | None:
    """Return why a method does not suit a game, None if it does.

    Raises:
        ConfigError: If it is the options that the method does not take.
    """
    names = _methods_of(game)
    if name not in names:
        return f"the task has no such method, but {', '.join(names)}"
    try:
        method = make_method(name, game, **options)
    except (TypeError, ValueError) as error:
        reason = str(error)
    else:
        try:
            make_referee(game, method, 0)
        except TypeError as error:
            return str(error)
        return None
    try:
        make_method(name, game)
    except (TypeError, ValueError) as error:
        if str(error) == reason:
            return reason
    raise source.error(_culprit(places, options, reason, source.data), reason)


def _try_optimizer(
    source: _Source, place: Place, places: tuple[Place, ...], run: Run, game: BilevelEnv
) -> None:
    """Raise a `ConfigError` unless the optimizer of a run comes as far as its first evaluation."""

    def stop(x: FloatArray) -> tuple[float, FloatArray]:
        raise _Reached

    try:
        start = start_of(run, game)
    except ValueError as error:
        raise source.error((*place, "start_spread"), str(error)) from None
    space = game.upper_space
    try:
        climb(run, stop, start, space.low.astype(float), space.high.astype(float))
    except _Reached:
        pass
    except (TypeError, ValueError) as error:
        at = _culprit(places, run.optimizer_options, str(error), source.data)
        raise source.error(at, f"optimizer {run.optimizer!r}: {error}") from None


class _Reached(Exception):
    """Ends a trial of an optimizer."""


def _culprit(
    places: tuple[Place, ...], options: dict[str, Any], reason: str, data: Any = None
) -> Place:
    """Return the place of the option that an error speaks of, else that of all options.

    Args:
        places: Where options stand, those that count more first.
        options: The options.
        reason: The error.
        data: The file, to find out in which of several places an option stands; None for the first.
    """
    named = [key for key in options if f"`{key}" in reason or f"{key!r}" in reason]
    for place in places if data is not None else places[:1]:
        for key in named:
            if data is None or _holds(data, (*place, key)):
                return (*place, key)
    return places[-1]
