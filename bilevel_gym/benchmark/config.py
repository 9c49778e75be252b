"""What is to be run: a TOML file, checked as a whole before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..core.checks import check_choice
from ..making import beside_user, find_task, make_leader
from ..methods import METHODS, make_method, method_names, registered_methods
from ..methods.registry import method_target, resolve_method
from ..optimizers import OPTIMIZERS, RULES, check_optimizer
from .errors import ConfigError, Place, require_extra
from .runs import Run, all_options, make_referee, start_of

if TYPE_CHECKING:
    from ..envs import BilevelEnv
    from .schema import Engine, File, Named, Source, TaskTable


# What a file has more than one of.
KINDS = ("tasks", "methods", "optimizers")

# Files that come with the package, by name.
SHIPPED = ("default", "deep")


class Held(TypedDict):
    """What the check of a file has found out: where methods are, and what suits no task."""

    targets: dict[str, str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Entry:
    """A run and what the file calls its parts."""

    task: str
    method: str
    optimizer: str
    run: Run

    @property
    def labels(self) -> dict[str, str]:
        """Its labels, by column of the table of results."""
        return {"task": self.task, "method": self.method, "optimizer": self.optimizer}

    def __str__(self) -> str:
        """Return its name for the user."""
        return f"{' / '.join(self.labels.values())}, seed {self.run.seed}"


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
    """A checked file: its text, all its runs, the first seed of everything first, and the rest.

    `held` is what is needed to read the file again without importing what it names.
    """

    text: str
    engine: Engine
    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]
    held: Held


def shipped_text(name: str = "default") -> str:
    """Return a file that comes with the package.

    "default" is for methods that know or watch a follower in a table, "deep" for followers who
    learn by networks; a `ValueError` names both.
    """
    check_choice("benchmark", name, SHIPPED)
    return files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def read_benchmark(path: str | Path) -> Benchmark:
    """Read and check a benchmark's file; see `parse_benchmark`.

    Raises:
        ImportError: If what benchmarks need is not installed.
        OSError: If the file cannot be read.
        ConfigError: If there is something wrong with it.
    """
    return parse_benchmark(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """Return the text of a benchmark's file; a `ConfigError` says where it is none."""
    raw = Path(path).read_bytes()
    try:
        # Line ends of other systems are for the parser; some editors put a mark in front.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: the file must be UTF-8") from None


def parse_benchmark(text: str, name: str = "benchmark.toml") -> Benchmark:
    """Check a benchmark's file, and return its runs.

    Every task is made and every method is bound to it, so that what would fail in each run fails
    here. A method that a task does not have, or that refuses it with or without its options, does
    not suit it, and is left out; one that refuses it only with them has been given wrong ones.

    Raises:
        ImportError: If what benchmarks need is not installed.
        ConfigError: If there is something wrong with it.
    """
    require_extra()
    from .schema import Source

    source = Source(name, text)
    file = _checked(source)
    labels = {kind: [item.label for item in getattr(file, kind)] for kind in KINDS}
    games = [_game(source, number, task) for number, task in enumerate(file.tasks)]
    known = {*METHODS, *(name for game in games for name in method_names(game))}
    targets = [_target(source, number, method, known) for number, method in enumerate(file.methods)]
    for number, task in enumerate(file.tasks):
        special = {"methods": task.method_options, "optimizers": task.optimizer_options}
        for kind, options_of in special.items():
            for label in options_of:
                at = ("tasks", number, f"{kind[:-1]}_options", label)
                source.known(at, f"label of {kind[:-1]}:", label, labels[kind])

    def refusal(number: int, k: int, options: dict[str, Any]) -> str | None:
        special = ("tasks", number, "method_options", file.methods[k].label)
        places = (special, ("methods", k, "options"))
        with source.explained(("methods", k, "name")):  # an extra that is missing
            return _refusal(source, places, games[number], file.methods[k].name, options)

    benchmark = _benchmark(source, file, targets, refusal)
    tried: set[tuple[str, str]] = set()
    for entry in benchmark.entries:
        if (entry.task, entry.optimizer) in tried:
            continue
        tried.add((entry.task, entry.optimizer))
        number, k = labels["tasks"].index(entry.task), labels["optimizers"].index(entry.optimizer)
        place: Place = ("tasks", number, "optimizer_options", entry.optimizer)
        places, chosen = (place, ("optimizers", k, "options")), entry.run.optimizer_options
        said = f"optimizer {entry.run.optimizer!r}: "
        with source.explained(*places, options=chosen, start=said):
            _try_optimizer(entry.run, games[number])
    return benchmark


def recalled_benchmark(text: str, held: Held, name: str = "benchmark.toml") -> Benchmark:
    """Return the runs of a file that was checked before, without importing what it names.

    Args:
        text: The file, whose labels may have changed since.
        held: What its check has found out; a cell that is not in it is taken to suit.
        name: What messages call the file.

    Raises:
        ImportError: If what benchmarks need is not installed.
        ConfigError: If there is something wrong with the file as such.
    """
    require_extra()
    from .schema import Source

    source = Source(name, text)
    file = _checked(source)
    targets = [held["targets"].get(method.name) for method in file.methods]

    def refusal(number: int, k: int, options: dict[str, Any]) -> str | None:
        return held["left_out"].get(_cell(file.tasks[number], file.methods[k], options))

    return _benchmark(source, file, targets, refusal)


def _checked(source: Source) -> File:
    """Return what a file says, after the checks that need nothing but the file."""
    file = source.file()
    engine = file.engine
    if engine.address is not None and engine.backend != "dask":
        raise source.error(("engine", "address"), '`address` is for `backend = "dask"`')
    if engine.address is not None and engine.workers is not None:
        raise source.error(
            ("engine", "workers"), "`workers` is for this machine: the cluster has its own"
        )
    for kind in KINDS:
        taken: list[str] = []
        for number, item in enumerate(getattr(file, kind)):
            if item.label in taken:
                raise source.error(
                    (kind, number, "label"),
                    f"`label` must be unique, got {item.label!r} a second time in [[{kind}]]",
                )
            taken.append(item.label)
    for number, optimizer in enumerate(file.optimizers):
        source.known(("optimizers", number, "name"), "optimizer", optimizer.name, OPTIMIZERS)
        for label in optimizer.methods or ():
            known = [method.label for method in file.methods]
            source.known(("optimizers", number, "methods"), "label of method:", label, known)
        if optimizer.name in RULES and "steps" in optimizer.options:
            raise source.error(
                ("optimizers", number, "options", "steps"),
                "`steps` is the same for all optimizers: set it at the top of the file, or for a "
                "task",
            )
    return file


def _benchmark(
    source: Source,
    file: File,
    targets: Sequence[str | None],
    refusal: Callable[[int, int, dict[str, Any]], str | None],
) -> Benchmark:
    """Return all runs of a file.

    `targets` says where workers find each method, `refusal` why a method does not suit a task, None
    if it does: it takes the numbers of both, and the method's options.
    """
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    held: Held = {"targets": {}, "left_out": {}}
    for number, task in enumerate(file.tasks):
        for k, method in enumerate(file.methods):
            if (target := targets[k]) is not None:
                held["targets"][method.name] = target
            options = {**method.options, **task.method_options.get(method.label, {})}
            reason = refusal(number, k, options)
            if reason is not None:
                held["left_out"][_cell(task, method, options)] = reason
                left_out.append(LeftOut(task.label, method.label, reason))
                continue
            for optimizer in file.optimizers:
                if optimizer.methods is not None and method.label not in optimizer.methods:
                    continue
                chosen = {**optimizer.options, **task.optimizer_options.get(optimizer.label, {})}
                entries += [
                    Entry(
                        task.label,
                        method.label,
                        optimizer.label,
                        Run(
                            env_id=task.id,
                            kwargs=task.kwargs,
                            start_spread=task.start_spread,
                            method=method.name,
                            method_options=options,
                            optimizer=optimizer.name,
                            optimizer_options=chosen,
                            steps=task.steps or file.steps,
                            seed=seed,
                            target=targets[k],
                        ),
                    )
                    for seed in file.seeds
                ]
    if not entries:
        reasons = "; ".join(map(str, left_out))
        raise ConfigError(f"{source.name}: no method suits any task ({reasons})")
    # A benchmark that is stopped early is to have seen everything a few times.
    entries.sort(key=lambda entry: file.seeds.index(entry.run.seed))
    return Benchmark(source.text, file.engine, tuple(entries), tuple(left_out), held)


def _cell(task: TaskTable, method: Named, options: Mapping[str, Any]) -> str:
    """Return what decides whether a method suits a task, as JSON."""
    return json.dumps([task.id, task.kwargs, method.name, options], sort_keys=True)


def _target(source: Source, number: int, method: Named, known: Collection[str]) -> str | None:
    """Return where workers find a method from outside, None for one of this package."""
    place = ("methods", number, "name")
    outside = registered_methods()
    if method.name not in outside and ":" not in method.name:
        source.known(place, "method", method.name, known)
        return None
    with source.explained(place):
        target = method_target(resolve_method(beside_user(method.name)))
    if not isinstance(target, str):
        raise source.error(
            place,
            f"workers must find the class of {method.name!r} by its name, got {target!r}; define "
            "it at the top of a module that can be imported",
        )
    return target


def _game(source: Source, number: int, task: TaskTable) -> BilevelEnv:
    """Return the game of a task."""
    place: Place = ("tasks", number)
    with source.explained((*place, "id")):
        env_id = find_task(beside_user(task.id))  # workers inherit the path
    with source.explained((*place, "kwargs") if task.kwargs else place, options=task.kwargs):
        return make_leader(env_id, task.kwargs).game


def _refusal(
    source: Source, places: Sequence[Place], game: BilevelEnv, name: str, options: dict[str, Any]
) -> str | None:
    """Return why a method does not suit a game, None if it does; wrong options are an error."""
    names = method_names(game)
    if name not in names and ":" not in name:
        return f"the task has no such method, but {', '.join(names)}"

    def refused(**options: Any) -> TypeError | ValueError | None:
        try:
            make_referee(game, make_method(name, game, **options), 0)
        except (TypeError, ValueError) as error:
            return error
        return None

    reason = refused(**options)
    if reason is not None and str(reason) != str(refused()):
        with source.explained(*places, options=options):
            raise reason
    return None if reason is None else str(reason)


def _try_optimizer(run: Run, game: BilevelEnv) -> None:
    """Let the optimizer of a run come as far as its first evaluation; raise what it raises."""
    low, high = (bound.astype(float) for bound in (game.upper_space.low, game.upper_space.high))
    check_optimizer(run.optimizer, start_of(run, game), low, high, **all_options(run))
