"""A page for each method of the table: paper, equations, options, and what was measured."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from bilevel_gym.cli.methods import described, places
from bilevel_gym.methods.table import NETWORKS, ROWS, SEES, Row

from .markdown import as_markdown, contents, docstring, table

HERE = Path(__file__).resolve().parent

# Pages by hand with tables of measurements, whose rows begin with the name of a method.
MEASURED = ("which-method.md", "temperature.md")
LEARNT = "Followers who learn are compared with exact answers [on a page of their own]({})."

HEAD = """# Methods

A method computes or estimates the hyper-gradient: `HyperGradient(env, method="trace")` in Python,
`--method trace` on the command line. [Which one to take](../which-method.md) is a page of its own,
with the measurements; the [mathematics](../mathematics.md) derives what they have in common.
"""


def pages() -> dict[str, str]:
    """Return the pages of the methods and their index, by path."""
    found = {f"methods/{row.name}.md": page(row) for row in ROWS}
    parts = [HEAD, contents((row.name for row in ROWS), hidden=True)]
    for seen in SEES:
        rows = [
            (f"[{row.name}]({row.name}.md)", row.summary, row.source)
            for row in ROWS
            if row.sees == seen
        ]
        parts += [f"## From {seen}", table(("method", "how", "source"), rows)]
    found["methods/index.md"] = "\n\n".join(parts) + "\n"
    return found


def page(row: Row) -> str:
    """Return the page of a method."""
    facts = [("paper", row.source), ("sees", row.sees)]
    found = [described(games, place) for games, place in places(row.name).items()]
    facts += [(f"class for {of['games']}", f"`{of['class'].replace(':', '.')}`") for of in found]
    facts += [(f"exact there ({of['games']})", "yes" if of["exact"] else "no") for of in found]
    parts = [
        f"# {row.name}",
        f"*{row.summary[:1].upper()}{row.summary[1:]}.*",
        table(("", ""), facts),
    ]
    parts += equations(row.name)
    parts += ["## Use", example(row)]
    parts += measured(row.name)
    if row.learnt or row.sees == NETWORKS:
        parts += ["## With a follower who learns", LEARNT.format("../learnt-followers.md")]
    for of in found:
        parts += options(of, alone=len(found) == 1)
    for module in dict.fromkeys(of["class"].partition(":")[0] for of in found):
        parts += [f"## What `{module}` says", docstring(import_module(module))]
    return "\n\n".join(parts) + "\n"


def equations(name: str) -> list[str]:
    """Return the section with the method's equations, nothing where none are written."""
    path = HERE / "equations" / f"{name}.md"
    return ["## In equations", path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def example(row: Row) -> str:
    """Return how a method is chosen."""
    if row.model:
        made = f'env = gym.make("BilevelGridWorld-v0", method="{row.name}")'
    else:
        made = f'env = gym.make("BilevelPendulum-v0", method="{row.name}")'
    return (
        "```python\nimport gymnasium as gym\nimport bilevel_gym\n\n"
        f'{made}\n_, info = env.reset(seed=0)\nprint(info["hyper_gradient"])\n```'
    )


def options(of: dict[str, Any], *, alone: bool) -> list[str]:
    """Return the section of a method's options."""
    rows = [
        (f"`{name}`", f"`{option['default']!r}`", as_markdown(option["about"]))
        for name, option in of["options"].items()
    ]
    heading = "## Options" if alone else f"## Options for {of['games']}"
    return [
        heading,
        of["summary"],
        table(("option", "default", "what it is"), rows) if rows else "",
    ]


def measured(name: str) -> list[str]:
    """Return the rows on a method in the tables of the pages by hand, with links to them."""
    parts: list[str] = []
    for file in MEASURED:
        path = HERE / "pages" / file
        found = []
        for head, rows in tables(path.read_text(encoding="utf-8")) if path.is_file() else ():
            own = [row for row in rows if re.match(rf"(`[\w-]+`, )*`{re.escape(name)}`", row[0])]
            links = re.compile(r"\]\((?=[\w-]+\.md)")  # from the folder of methods
            found += [links.sub("](../", table(head, own))] if own else []
        if found:
            source = f"From [{_title(path)}](../{file}), which says how it was measured:"
            parts += [source, *found]
    return ["## Measured", *parts] if parts else []


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return head and rows of the tables of a page."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip()[1:-1].split(" |")] for line in block.splitlines()
        )
        found.append((head, rows))
    return found


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
