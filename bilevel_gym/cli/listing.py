"""`bilevel-gym list`: the tasks, for the terminal and for the README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from ..registration import TASKS, Task, task_ids
from .arguments import inner_learners, method_names
from .console import show_table

if TYPE_CHECKING:
    from ..core.mdp import FloatArray


# Headings of the columns, and which of them hold words.
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
WORDS = ("what x is", "what enters", "source")

# Entries of x that are listed one by one where they differ.
FEW = 4

# What stands where a task cannot be made, or does not say.
UNKNOWN = "?"

OWN = {task.id for task in TASKS}


def describe(task: Task) -> list[str]:
    """Return the row of a task, its sizes taken from the game itself.

    The game is made without a seat: taking one where the follower learns would load its learner.
    Sizes are unknown where the extra that a task needs is not installed.
    """
    shape = box = start = size = best_known = UNKNOWN
    try:
        place: Any = task.entry_point
        game: Any = (load_env_creator(place) if isinstance(place, str) else place)(**task.kwargs)
    except (ImportError, AttributeError, gym.error.Error):
        pass
    else:
        shape = " x ".join(map(str, game.upper_space.shape))
        box = f"{extent(game.upper_space.low)} .. {extent(game.upper_space.high)}"
        start = extent(game.initial_upper_params)
        spaces = (game.observation_space, game.lower_space)
        discrete = all(isinstance(space, gym.spaces.Discrete) for space in spaces)
        size = " x ".join(str(space.n) for space in spaces) if discrete else "continuous"
        best_known = "none" if game.best_known is None else f"{game.best_known.value:.4f}"
    return [task.id, task.upper, shape, box, start, size, task.enters, best_known, task.source]


def extent(values: FloatArray) -> str:
    """Return the number that all entries are, a few different ones, or "drawn" for more."""
    if np.ptp(values) == 0.0:
        return f"{values.flat[0]:g}"
    return ", ".join(f"{value:g}" for value in values.flat) if values.size <= FEW else "drawn"


def markdown_table() -> str:
    """Return the README's table of tasks, from the registry."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for task in TASKS:
        name, *rest = describe(task)
        lines.append(f"| `{name}` | {' | '.join(rest)} |")
    return "\n".join(lines)


@click.command("list")
@click.option("--markdown", is_flag=True, help="Print the table of the README.")
def list_tasks(markdown: bool) -> None:
    """List the tasks, and the names of methods, inner learners and optimizers."""
    from ..methods import registered_methods
    from ..optimizers import OPTIMIZERS

    if markdown:
        click.echo(markdown_table())
        return
    tasks = [*TASKS, *(outside(env_id) for env_id in task_ids() if env_id not in OWN)]
    show_table(HEADINGS, map(describe, tasks), words=WORDS)
    click.echo(f"methods: {', '.join(method_names())}")
    for name, target in registered_methods().items():
        click.echo(f"{name} is {target}")
    click.echo(f"inner learners: {', '.join(inner_learners())}")
    click.echo(f"optimizers: {', '.join(OPTIMIZERS)}")


def outside(env_id: str) -> Task:
    """Return the row of a registered task that is not in the table of this package."""
    kwargs = dict(gym.spec(env_id).kwargs)
    entry_point: Any = kwargs.pop("game")
    source = entry_point.partition(":")[0] if isinstance(entry_point, str) else UNKNOWN
    return Task(env_id, entry_point, UNKNOWN, source, UNKNOWN, 0, kwargs=kwargs)
