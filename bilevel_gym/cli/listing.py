"""`bilevel-gym list`: the tasks, for the terminal, for programs and for documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from ..registration import TASKS, Task, task_ids

if TYPE_CHECKING:
    from ..core.mdp import FloatArray


# Headings of the table in Markdown.
HEADINGS = (
    "task",
    "what x is",
    "shape of x",
    "box",
    "x0",
    "states x actions",
    "what enters",
    "best known value",
    "source",
)

# Those of the table in the README.
SHORT = ("task", "what x is", "states x actions", "best known value", "source")

# Entries of x that are listed one by one where they differ.
FEW = 4

# What stands where a task cannot be made, or does not say.
UNKNOWN = "?"

OWN = {task.id: task for task in TASKS}


def described(task: Task) -> dict[str, Any]:
    """Return what is known of a task, of JSON types; null where there is none, or it is not known.

    The game is made without a seat: taking one where the follower learns would load its learner.
    Much is unknown where the extra that a task needs is not installed.
    """
    facts: dict[str, Any] = {
        "id": task.id,
        "summary": task.summary,
        "x": task.upper,
        "shape": None,
        "low": None,
        "high": None,
        "x0": None,
        "states": None,
        "actions": None,
        "enters": task.enters.split(", "),
        "best_known": None,
        "source": task.source,
        "made": False,
    }
    try:
        place: Any = task.entry_point
        game: Any = (load_env_creator(place) if isinstance(place, str) else place)(**task.kwargs)
        space = game.upper_space
    except (ImportError, AttributeError, gym.error.Error):
        return facts
    numbers = {"states": game.observation_space, "actions": game.lower_space}
    for name, of in numbers.items():
        facts[name] = int(of.n) if isinstance(of, gym.spaces.Discrete) else None
    bounds = {"low": space.low, "high": space.high, "x0": game.initial_upper_params}
    facts |= {name: alike(values) for name, values in bounds.items()}
    known = game.best_known
    return facts | {
        "shape": list(space.shape),
        "best_known": None if known is None else known.value,
        "made": True,
    }


def alike(values: FloatArray) -> float | list[float] | None:
    """Return the number that all entries are, a few different ones, None for more."""
    if np.ptp(values) == 0.0:
        return float(values.flat[0])
    return [float(value) for value in values.flat] if values.size <= FEW else None


def row_of(task: Task) -> list[str]:
    """Return the row of a task in the table in Markdown."""
    facts = described(task)
    shape = box = start = size = best_known = UNKNOWN
    if facts["made"]:
        shape = " x ".join(map(str, facts["shape"]))
        low, high, start = (in_words(facts[name]) for name in ("low", "high", "x0"))
        box = f"{low} .. {high}"
        discrete = facts["states"] is not None and facts["actions"] is not None
        size = f"{facts['states']} x {facts['actions']}" if discrete else "continuous"
        best_known = "none" if facts["best_known"] is None else f"{facts['best_known']:.4f}"
    return [task.id, task.upper, shape, box, start, size, task.enters, best_known, task.source]


def in_words(numbers: float | list[float] | None) -> str:
    """Return what `alike` has found, as text."""
    if numbers is None:
        return "drawn"
    return ", ".join(f"{number:g}" for number in np.atleast_1d(numbers))


def markdown_table(headings: Sequence[str] = HEADINGS) -> str:
    """Return a table of the tasks, from the registry, with the columns that are named."""
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for task in TASKS:
        cells = dict(zip(HEADINGS, row_of(task), strict=True))
        cells["task"] = f"`{task.id}`"
        lines.append(f"| {' | '.join(cells[heading] for heading in headings)} |")
    return "\n".join(lines)


@click.command("list", short_help="List the tasks.")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known of them as JSON.")
@click.option("--markdown", is_flag=True, help="Print a table in Markdown.")
def list_tasks(as_json: bool, markdown: bool) -> None:
    """List the tasks: what the leader does, and the best objective known.

    `bilevel-gym show ID` shows one of them, `bilevel-gym methods` lists the methods.
    """
    if markdown:
        click.echo(markdown_table())
        return
    tasks = [row(env_id) for env_id in task_ids()]
    if as_json:
        click.echo(json.dumps([described(task) for task in tasks], indent=2))
        return
    from ..envs.records import registered_objectives

    known = registered_objectives()
    width = max(len(task.id) for task in tasks)
    click.echo(f"{'task':<{width}}  {'the leader is to':<36}  best known")
    for task in tasks:
        best = f"{known[task.id]:10.4f}" if task.id in known else f"{'-':>10}"
        click.echo(f"{task.id:<{width}}  {task.summary:<36}  {best}")
    click.echo("\n-: the follower learns, nothing is exact. `bilevel-gym show ID` has more of one")


def row(env_id: str) -> Task:
    """Return the row of a registered task, also of one from outside."""
    if env_id in OWN:
        return OWN[env_id]
    kwargs = dict(gym.spec(env_id).kwargs)
    entry_point: Any = kwargs.pop("game")
    source = entry_point.partition(":")[0] if isinstance(entry_point, str) else UNKNOWN
    return Task(
        id=env_id,
        summary=f"(of {source})"[:36],
        entry_point=entry_point,
        upper=UNKNOWN,
        source=source,
        enters=UNKNOWN,
        kwargs=kwargs,
    )
