"""What docstrings say of arguments, and text in the width of the terminal."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import click

# Width of text where there is no terminal to ask, and the most that is easy to read.
WIDTH, MOST = 80, 100

# Width of the column of labels.
COLUMN = 16

# An argument in a section "Args:", with its indentation; a bullet of "## Arguments"; and a row of a
# table of options.
ARGUMENT = re.compile(r"^( *)(\w+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
BULLET = re.compile(r"^\* (.*(?:\n  .*)*)", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", re.MULTILINE)


def width() -> int:
    """Return how many characters a line of text may have."""
    found = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    return min(found, MOST)


def say(text: str, label: str = "") -> None:
    """Print a paragraph, broken anew, behind a label in a column of its own if there is one."""
    first = f"{label:<{COLUMN}}" if label else ""
    click.echo(_filled(plain(text), first, " " * len(first)))


def say_option(name: str, default: Any, text: str) -> None:
    """Print an option with its default, and below what it is."""
    required = default is inspect.Parameter.empty
    click.echo(f"  {name}" if required else f"  {name} = {default!r}")
    if text:
        click.echo(_filled(text, " " * 6, " " * 6))


def _filled(text: str, first: str, others: str) -> str:
    """Return text in lines of the terminal's width; names with hyphens stay whole."""
    return textwrap.fill(
        text, width(), initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )


def plain(text: str) -> str:
    """Return a paragraph of a docstring in one line, without the signs that set it."""
    return " ".join(text.replace("`", "").split())


def section(documentation: str, heading: str) -> str:
    """Return a section "## Heading" of a docstring, without the heading; empty if there is none."""
    _, _, after = documentation.partition(f"## {heading}\n")
    return after.partition("\n## ")[0].strip()


def options_of_class(cls: type) -> dict[str, str]:
    """Return what a class says of the arguments of constructors, by name, in one line each.

    Where it says no more than to see another class, that one has the words.
    """
    found: dict[str, str] = {}
    for base in cls.__mro__:
        for name, text in _said_by(base):
            if not text.startswith("See `"):
                found.setdefault(name, plain(text))
    return found


def _said_by(cls: type) -> Iterator[tuple[str, str]]:
    constructor = inspect.getdoc(vars(cls).get("__init__")) or ""
    arguments = constructor.partition("Args:\n")[2].partition("\n\n")[0]
    for _, name, text in ARGUMENT.findall(arguments):
        yield name, text
    module: Any = sys.modules.get(cls.__module__)
    yield from ROW.findall(inspect.getdoc(module) or "")


def arguments_of_task(game: Any) -> dict[str, str]:
    """Return what a game's docstring says of its arguments, by name, under "Arguments".

    What it has in common with others is documented by its base classes or its model.
    """
    found: dict[str, str] = {}
    inherited = options_of_class(type(game.model)) | options_of_class(type(game))
    for bullet in BULLET.findall(section(inspect.getdoc(game) or "", "Arguments")):
        names, _, text = re.sub(r"([`)]): ", r"\1\0", bullet, count=1).partition("\0")
        text = plain(text).rstrip(";.").removesuffix("; or else")
        for name in re.findall(r"`(\w+)`", names):
            found[name] = inherited.get(name, text) if text.startswith("see ") else text
    return {**inherited, **found}
