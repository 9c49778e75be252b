"""`bilevel-gym list`: the tasks, for the terminal and for the README."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
import gymnasium as gym
import numpy as np

from ..registration import TASKS, Task
from .console import console


@dataclass(frozen=True)
class TaskRow:
    """A row of the table of tasks, as text."""

    task: str
    upper: str
    dimension: str
    size: str
    enters: str
    best_known: str
    source: str


def describe(task: Task) -> TaskRow:
    """Return the row of a task, its sizes taken from the game itself."""
    game: Any = gym.make(task.id).unwrapped
    spaces = (game.observation_space, game.lower_space)
    discrete = all(isinstance(space, gym.spaces.Discrete) for space in spaces)
    best = getattr(game, "best_known", None)
    return TaskRow(
        task=task.id,
        upper=task.upper,
        dimension=str(int(np.prod(game.upper_space.shape))),
        size=" x ".join(str(space.n) for space in spaces) if discrete else "continuous",
        enters=task.enters,
        best_known="none" if best is None else f"{best.value:.4f}",
        source=task.source,
    )


def markdown_table() -> str:
    """Return the README's table of tasks, from the registry."""
    lines = [
        "| task | what x is | dimension | states x actions | what enters "
        "| best known value | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        row = describe(task)
        lines.append(
            f"| `{row.task}` | {row.upper} | {row.dimension} | {row.size} | {row.enters} "
            f"| {row.best_known} | {row.source} |"
        )
    return "\n".join(lines)


@click.command("list")
@click.option("--markdown", is_flag=True, help="Print the table of the README.")
def list_tasks(markdown: bool) -> None:
    """List the tasks."""
    if markdown:
        click.echo(markdown_table())
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("what x is")
    table.add_column("dimension", justify="right")
    table.add_column("states x actions", justify="right")
    table.add_column("x enters")
    table.add_column("best known", justify="right")
    table.add_column("source")
    for task in TASKS:
        row = describe(task)
        table.add_row(
            row.task, row.upper, row.dimension, row.size, row.enters, row.best_known, row.source
        )
    console().print(table)
