"""Tutorials: Markdown that is executed, and kept as notebooks with what came of it.

`python -m docs.notebooks [NAME]...` executes those whose source has changed, all with `--all`. The
site is built from the notebooks, which hold a digest of their source: a source that has changed
since is an error. A block "python" is a cell, a block "python solution" a cell that is folded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "tutorials"
ROOT = FOLDER.parent.parent

# In this order they are read.
NAMES = (
    "bilevel-problem",
    "own-problem",
    "reward-design",
    "own-method",
    "stable-baselines3",
    "figures-of-the-paper",
)

HEAD = """# Tutorials

Each takes some minutes to read, and ends with an exercise whose solution is folded below it, and
checked whenever the tutorial is executed. They are notebooks: download one and run it.
"""

CELL = re.compile(r"^```python( solution)?\n(.*?)^```\n?", flags=re.DOTALL | re.MULTILINE)


def source(name: str) -> str:
    """Return the source of a tutorial."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def kept(name: str) -> dict[str, Any]:
    """Return the notebook of a tutorial as it is kept, empty where there is none."""
    path = FOLDER / f"{name}.ipynb"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def digest(name: str) -> str:
    """Return the digest of a tutorial's source."""
    return hashlib.sha256(source(name).encode()).hexdigest()


def stale() -> list[str]:
    """Return the tutorials whose notebook was not made from their present source."""
    return [n for n in NAMES if kept(n).get("metadata", {}).get("source_sha256") != digest(n)]


def cells(text: str) -> list[tuple[str, str]]:
    """Return kind and text of the cells of a source: "markdown", "code" or "solution"."""
    found: list[tuple[str, str]] = []
    end = 0
    for match in CELL.finditer(text):
        found.append(("markdown", text[end : match.start()].strip()))
        found.append(("solution" if match[1] else "code", match[2].rstrip()))
        end = match.end()
    found.append(("markdown", text[end:].strip()))
    return [(kind, body) for kind, body in found if body]


def execute(name: str) -> None:
    """Execute a tutorial and keep its notebook.

    Raises:
        CellExecutionError: If a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    new = nbformat.v4
    notebook = new.new_notebook()
    for number, (kind, body) in enumerate(cells(source(name))):
        cell = new.new_markdown_cell(body) if kind == "markdown" else new.new_code_cell(body)
        cell["id"] = f"{name}-{number}"  # the same in every run
        if kind == "solution":
            cell["metadata"]["tags"] = ["hide-cell"]
        notebook["cells"].append(cell)
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(ROOT))
    notebook["metadata"] = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "source_sha256": digest(name),
    }
    text = nbformat.writes(notebook).replace(f"{ROOT}/", "")  # in warnings
    (FOLDER / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the notebooks as pages, and their index.

    Raises:
        ValueError: If one was not made from its present source.
    """
    if found := stale():
        raise ValueError(f"{', '.join(found)}: the source has changed; python -m docs.notebooks")
    listed = []
    for name in NAMES:
        title = source(name).partition("\n")[0].removeprefix("# ")
        listed.append(f"* [{title}]({name}.ipynb), {{download}}`as a notebook <{name}.ipynb>`")
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(NAMES) + "\n```"
    index = "\n\n".join([HEAD, "\n".join(listed), tree]) + "\n"
    texts = {f"tutorials/{n}.ipynb": (FOLDER / f"{n}.ipynb").read_text("utf-8") for n in NAMES}
    return {"tutorials/index.md": index, **texts}


def main() -> int:
    """Execute what is asked for, and say how long it took."""
    parser = argparse.ArgumentParser(prog="python -m docs.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="tutorials (those that changed)")
    parser.add_argument("--all", action="store_true", help="all of them")
    arguments = parser.parse_args()
    for name in NAMES if arguments.all else arguments.names or stale():
        begun = time.perf_counter()
        execute(name)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
