"""A page for each registered task, from the registry, its docstring and the game itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from bilevel_gym.cli.documents import arguments_of_task
from bilevel_gym.cli.galleries import file_name
from bilevel_gym.cli.listing import described, in_words, markdown_table, row
from bilevel_gym.cli.showing import EXAMPLE, fits, truth
from bilevel_gym.making import made_game, task_parameters
from bilevel_gym.methods.registry import registered_methods
from bilevel_gym.registration import TASKS, Task, task_ids

from .markdown import as_markdown, contents, table

GALLERY = Path(__file__).resolve().parent.parent / "demos" / "gallery"

# What methods that do not suit a game raise. Of texts longer than this a table shows the start.
LONGEST = 200

HEAD = """# Tasks

Every task is made by `gymnasium.make(ID)`, which returns the leader's seat, and by
`gymnasium.make(FOLLOWER_ID, upper_params=x)`, the follower's. Values are the best known, and only
those of BilevelRandomMDP-v0 are proven optimal; this build has [verified them](../scoreboard.md).
"""

TAIL = """## Arguments

The page of a task lists its arguments, which go to `gym.make`:

```python
import gymnasium as gym

import bilevel_gym

larger = gym.make("BilevelGridWorld-v0", map_name="16x16", slip=0.2)
drawn = gym.make("BilevelGridWorld-v0", size=10, map_seed=2)  # a random map
garnet = gym.make("BilevelRandomMDP-v0", num_states=10_000, branching=5, reward="linear")
```

The last goes up to a million states and more. x is in the units of its task; `RescaleUpper` maps
every box to [-1, 1]. The docstring of a class says the same as its page
(`help(bilevel_gym.envs.BilevelToll)`; for the toy-text tasks `BilevelToyText`).

## Pictures

![Stills of all tasks](../gallery/sheet.png)

*All tasks. Those that are solved exactly are shown at the best x known or found, those whose
follower learns in an episode under the best x of a short run of the optimizer,
BilevelBeamRider-v0 at x0, untrained. `bilevel-gym gallery FOLDER ID` draws such a still of a task,
and a film of the optimisation and of an episode after it.*
"""


def pages() -> dict[str, str]:
    """Return the pages of the tasks and their index, by path."""
    found = {f"tasks/{env_id}.md": page(row(env_id)) for env_id in task_ids()}
    listed = {task.id for task in TASKS}
    overview = markdown_table()
    for env_id in listed:
        overview = overview.replace(f"| `{env_id}` |", f"| [{env_id}]({env_id}.md) |")
    found["tasks/index.md"] = "\n\n".join([HEAD, contents(task_ids(), hidden=True), overview, TAIL])
    return found


def page(task: Task) -> str:
    """Return the page of a task."""
    game: Any = made_game(task.id, {}).unwrapped
    first, _, rest = as_markdown(inspect.getdoc(type(game)) or "").partition("\n\n")
    parts = [
        f"# {task.id}",
        first,
        picture(task.id),
        facts(task, game),
        "## Example",
        "```python\n" + inspect.cleandoc(EXAMPLE.format(env_id=task.id)) + "\n```",
        f"```sh\nbilevel-gym solve {task.id}\n```",
        rest,
        "## All arguments with their defaults",
        arguments(task, game),
        "## Methods that fit",
        methods(game),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(env_id: str) -> str:
    """Return the still of a task and a link to its film, empty where there is none."""
    name = file_name(env_id)
    if not (GALLERY / f"{name}.png").is_file():
        return ""
    still = f"![Still of {env_id}](../gallery/{name}.png)"
    film = GALLERY / f"{name}.gif"
    if not film.is_file():
        return still
    return f"{still}\n\n{{download}}`Film of the optimisation <../gallery/{name}.gif>`"


def facts(task: Task, game: Any) -> str:
    """Return what the registry and the spaces of the game say, as a table."""
    known = described(task)
    box = f"{in_words(known['low'])} .. {in_words(known['high'])}" if known["made"] else "?"
    rows = [
        ("class", f"`{type(game).__module__}.{type(game).__qualname__}`"),
        ("x", task.upper),
        ("x enters", task.enters),
        ("box, x0", f"{box}, {in_words(known['x0'])}"),
        ("source", task.source),
        ("the leader acts in", f"`{game.upper_space}`"),
        ("observes", f"`{game.leader_observation_space}`"),
        ("the follower acts in", f"`{game.lower_space}`"),
        ("observes", f"`{game.observation_space}`"),
        ("episode of the follower", f"at most {task.max_episode_steps} steps"),
        ("ground truth", truth(game)),
    ]
    return table(("", ""), rows)


def arguments(task: Task, game: Any) -> str:
    """Return the arguments of a task with their defaults."""
    said = arguments_of_task(game)
    rows = [
        (
            f"`{name}`",
            f"`{task.kwargs.get(name, parameter.default)!r}`",
            said.get(name, "").replace("$", r"\$"),
        )
        for name, parameter in task_parameters(task.id).items()
    ]
    return table(("argument", "default", "what it is"), rows)


def methods(game: Any) -> str:
    """Return which methods suit a game, and why others do not."""
    own = registered_methods()  # from elsewhere: they have no page
    found = [fit for fit in fits(game) if fit.name not in own]
    default = {game.default_method: " (default)"}
    suit = (
        f"[{fit.name}](../methods/{fit.name}.md){default.get(fit.name, '')}"
        for fit in found
        if fit.suits
    )
    lines = [", ".join(suit) + "."]
    refused = [(fit.name, shortened(fit.why_not)) for fit in found if not fit.suits]
    if refused:
        lines += ["These do not fit:", table(("method", "why"), refused)]
    return "\n\n".join(lines)


def shortened(text: str) -> str:
    """Return the start of a text that is too long for a table."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
