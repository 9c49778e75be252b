"""Docstrings as Markdown, and tables.

Docstrings of this project are plain text that Markdown reads as it is meant: paragraphs, code in
backticks, formulas as indented blocks. What is left to do are the sections of Google's style and
examples with a prompt.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence

# Sections with an entry for each name, and the headings they get; and those that are text.
LISTS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises", "Keys": "Keys"}
TEXTS = {"Returns": "Returns", "Yields": "Yields", "Example": "Example", "Examples": "Examples"}
HEADING = re.compile(rf"^({'|'.join({**LISTS, **TEXTS})}):$")
ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*):\s+(.*)")


def docstring(thing: object) -> str:
    """Return the docstring of an object as Markdown, empty without one."""
    return as_markdown(inspect.getdoc(thing) or "")


def as_markdown(text: str) -> str:
    """Return a docstring, already without indentation, as Markdown."""
    lines = list(_sections(text.replace("$", r"\$").splitlines()))
    return "\n".join(_fenced(lines)).strip()


def _sections(lines: Sequence[str]) -> Iterator[str]:
    """Replace sections of Google's style by bold words and lists."""
    number = 0
    while number < len(lines):
        found = HEADING.match(lines[number])
        number += 1
        if found is None:
            yield lines[number - 1]
            continue
        end = number
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
            end += 1
        body = inspect.cleandoc("\n" + "\n".join(lines[number:end])).splitlines()
        name = found.group(1)
        yield from ("", f"**{ {**LISTS, **TEXTS}[name] }**", "")
        yield from _entries(body) if name in LISTS else body
        yield ""
        number = end


def _entries(lines: Iterable[str]) -> Iterator[str]:
    """Return the entries `name: text` of a section as a list."""
    for line in lines:
        found = ENTRY.match(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found.group(1).split(", "))
            yield f"* {names}: {found.group(2)}"
        else:
            yield f"  {line.strip()}" if line.strip() else ""


def _fenced(lines: Iterable[str]) -> Iterator[str]:
    """Put examples with a prompt, which end at an empty line, between fences."""
    inside = False
    for line in lines:
        if line.lstrip().startswith(">>>") and not inside:
            inside = True
            yield from ("", "```pycon")
        elif inside and not line.strip():
            inside = False
            yield "```"
        yield line.strip() if inside else line
    if inside:
        yield "```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; what would end a cell is escaped."""

    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("|", r"\|") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(head), f"|{'---|' * len(head)}", *map(line, rows)])


def contents(names: Iterable[str], *, depth: int = 1, hidden: bool = False) -> str:
    """Return a table of contents of pages, in this order."""
    options = f":maxdepth: {depth}\n" + (":hidden:\n" if hidden else "")
    return f"```{{toctree}}\n{options}\n" + "\n".join(names) + "\n```"
