"""One client, in the process of its own that `__main__` starts.

A client is a module of this package with

    NAME          what the table calls it
    NEEDS         the module to be imported, and the distribution that has it
    CHECKS        {seat: function}; a function returns in words what ran, or raises
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any


def installed(needs: tuple[str, str]) -> str | None:
    """Return the version of what a client needs, None where it is not installed."""
    module, distribution = needs
    try:
        importlib.import_module(module)
        return metadata.version(distribution)
    except ImportError:  # PackageNotFoundError is one
        return None


def run(name: str) -> list[dict[str, Any]]:
    """Return a row for each seat of a client."""
    client: Any = importlib.import_module(f"tests.clients.{name}")
    version = client.version() if hasattr(client, "version") else installed(client.NEEDS)
    rows = []
    for seat, check in client.CHECKS.items():
        row = {"client": client.NAME, "seat": seat, "version": version or ""}
        began = time.monotonic()
        if version is None:
            row["verdict"] = "not installed"
        else:
            try:
                row |= {"note": check(), "verdict": "works"}
            except Exception as error:
                traceback.print_exc()
                row |= {"note": f"{type(error).__name__}: {error}", "verdict": "fails"}
        rows.append({**row, "seconds": time.monotonic() - began})
    return rows


def main(name: str, path: str) -> None:
    """Write the rows of a client to a file, a line of JSON each, and a last one."""
    rows = run(name)
    end = {"client": name, "seat": "end", "verdict": "", "version": ""}
    lines = [json.dumps(row) for row in [*rows, end]]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
