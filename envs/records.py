"""The best x known for instances of the tasks, from `best_known.json` beside this module.

The file is one that `bilevel-gym rescore` reads: a list of entries, those of one instance in order
of their objective, the largest first. A better x for any instance of a task is one more entry.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from .tasks import TASKS

if TYPE_CHECKING:
    from .base import BestKnown

__all__ = ["FILE", "best_known_text", "recorded", "registered_objectives"]

FILE = "best_known.json"


def best_known_text() -> str:
    """Return the text of the file."""
    return files(__package__).joinpath(FILE).read_text(encoding="utf-8")


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(best_known_text()))


def registered_objectives() -> dict[str, float]:
    """Return the best objective known of each task as it is registered, without making one."""
    found: dict[str, float] = {}
    for entry in _entries():
        if not entry["arguments"]:
            found.setdefault(entry["task"], float(entry["objective"]))
    return found


def recorded(
    task: type, arguments: Mapping[str, Any], but: Collection[str] = ()
) -> BestKnown | None:
    """Return the best x known for an instance of a task, None where none is recorded.

    Args:
        task: Class of the game.
        arguments: Those of its constructor, its `locals()`.
        but: Arguments that make no difference here; entries that name one of them do not count.
    """
    from .base import BestKnown  # loads scipy, without which objectives can be listed

    rows = {row.id: row for row in TASKS}
    parameters = inspect.signature(task).parameters
    names = [name for name in parameters if name not in ("render_mode", *but)]
    for entry in _entries():
        row, given = rows[entry["task"]], entry["arguments"]
        if row.entry_point != f"{task.__module__}:{task.__qualname__}" or {*given} & {*but}:
            continue
        given = {**row.kwargs, **given}
        if all(
            np.array_equal(arguments[name], given.get(name, parameters[name].default))
            for name in names
        ):
            x = np.array(entry["x"], dtype=np.float64)
            x.flags.writeable = False
            return BestKnown(x, float(entry["objective"]), entry["source"])
    return None
