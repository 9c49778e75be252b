"""What `bilevel-gym solve --resume` takes from the folder of a run, and what it must be told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
from click.core import ParameterSource

from .. import making
from ..core.files import check_regular
from .arguments import INTERRUPTION, CommandError, in_one_line
from .recorded import EVALUATIONS
from .run_folder import CONFIG, PARAMS, PLOT, RESULT

# What may be said again beside `--resume`: what names code of the user's own.
REPEATABLE = {"id": "env_id", "kwargs": "env_kwargs", "method": "method"}
REPEATABLE["method_options"] = "method_options"
ELSE = {*REPEATABLE.values(), "resume", "trust", "gif"}

# The most bytes of a configuration; random parts of a task may be given as lists.
MOST = 1 << 28

# Entries of a configuration, and their types.
KINDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "kwargs": (dict,),
    "method": (str,),
    "method_options": (dict,),
    "steps": (int,),
    "learning_rate": (int, float, type(None)),
    "optimizer": (str,),
    "optimizer_options": (dict,),
    "polish": (bool,),
    "seed": (int,),
    "start": (str, type(None)),
    "versions": (dict,),
}


def load_config(
    ctx: click.Context, folder: Path, asked: Mapping[str, Any], *, trust: bool
) -> dict[str, Any]:
    """Return how a run was started.

    Nothing that only the folder names is imported, unless it is trusted.

    Args:
        ctx: The command, which knows what was given.
        folder: The folder of the run.
        asked: What was said on the command line.
        trust: Whether to import what the folder names.

    Raises:
        CommandError: If there is no run in the folder, something was said that the run itself
            says, or differently, or something must be named again.
    """
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name or "")
        if source is ParameterSource.COMMANDLINE and param.name not in ELSE:
            raise CommandError(
                f"`{param.opts[0]}` is taken from the run by `--resume`; omit it, or begin a new "
                f"run at the best x of this one by `--start {folder / PARAMS}`"
            )
    _check_own(folder)
    config = _read(folder / CONFIG)
    for entry in REPEATABLE:
        _compare(entry, config[entry], asked[entry])
    known = set(_names({entry: asked[entry] for entry in REPEATABLE if entry != "id"}))
    for name in () if trust else _names({**config, "start": None, "versions": None}):
        if ":" in name and name not in known:
            raise CommandError(
                f"the run in {folder} names {name!r}, which would be imported: give it again as "
                "before (by `--method`, `--set` or `--method-set`), or trust the folder by "
                "`--trust`"
            )
    if _over(folder):
        click.echo(f"the run in {folder} had come to its end already; nothing was left to do")
        ctx.exit()
    module, task = config.get("module"), config["id"]
    if task not in gym.registry:
        if module is not None and trust:
            with in_one_line():
                making.find_task(making.beside_user(f"{module}:{task}"))
        else:
            where = "MODULE" if module is None else module
            raise CommandError(
                f"the task {task!r} of the run in {folder} is of no installed package: name it "
                f"again, `bilevel-gym solve {where}:{task} --resume {folder}`, or trust the "
                "folder by `--trust`"
            )
    begun = (folder / EVALUATIONS).exists() and (folder / EVALUATIONS).stat().st_size > 0
    return {**config, "start": None if begun else config["start"]}


def check_versions(then: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Warn where a run was begun under other versions, as numbers may differ."""
    for library, version in now.items():
        if then.get(library, version) != version:
            click.echo(
                f"Warning: the run was begun under {library} {then[library]}, this is {version}; "
                "its numbers may differ",
                err=True,
            )


def _over(folder: Path) -> bool:
    """Return whether a run has come to its end by itself, its pictures included."""
    try:
        check_regular(folder / RESULT, MOST)
        stopped = json.loads((folder / RESULT).read_text(encoding="utf-8"))["stopped"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # the run ends anew, and writes it
    return (folder / PLOT).exists() and not str(stopped).startswith(INTERRUPTION)


def _check_own(folder: Path) -> None:
    """Raise a `CommandError` if something in a folder leads out of it: the run goes on writing."""
    for entry in folder.iterdir():
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise CommandError(f"`--resume`: {entry} is a link or no regular file; remove it")


def _read(path: Path) -> dict[str, Any]:
    try:
        check_regular(path, MOST)
        config = json.loads(path.read_text(encoding="utf-8"))
        for name, kinds in KINDS.items():
            value = config[name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ValueError(f"{name!r} is {value!r}")
        if not isinstance(config.get("module", ""), str):
            raise ValueError(f"'module' is {config['module']!r}")
    except FileNotFoundError:
        raise CommandError(
            f"`--resume`: there is no run in {path.parent}: no {path.name}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(f"`--resume`: {path} is damaged: {error}") from None
    return dict(config)


def _compare(entry: str, was: Any, said: Any) -> None:
    """Raise a `CommandError` unless what is said again, if anything, is what it was."""
    pairs = [(entry, was, said)]
    if isinstance(said, dict):
        pairs = [(name, was.get(name), value) for name, value in said.items()]
    for name, before, now in pairs:
        if now is not None and now != before:
            raise CommandError(f"`--resume`: {name} of the run is {before!r}, got {now!r}")


def _names(value: Any) -> Iterator[str]:
    """Yield all texts within nested dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _names(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _names(entry)
