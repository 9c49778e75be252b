"""Which other packages work with the tasks: `python -m tests.clients` prints a table.

    pip install -e ".[clients]" && python -m tests.clients

runs each client in a process of its own, on the seats that suit it, and prints client, seat,
verdict and version; what is not installed is said. It exits with 1 if a client fails. Tianshou and
RLlib ask for older versions of pandas and Gymnasium, and need an environment of their own,
`pip install -e ".[clients-pinned]"`. `--python` takes the interpreters of several environments, and
each client runs in the first one that has it:

    python -m tests.clients --python newest/bin/python --python pinned/bin/python

CleanRL is no package but files: `--cleanrl` takes a checkout of its repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

CLIENTS = (
    *("sb3", "contrib", "zoo", "sbx", "torchrl", "minari", "rllib", "tianshou", "cleanrl"),
    *("skrl", "petting", "optuna", "cmaes"),
)
"""Modules of this package; see `child` for what they define."""

TIME_LIMIT = 900.0
"""Seconds that a client may take."""

SHOWN = 3
"""Lines of an error that are shown."""


@dataclass(frozen=True)
class Row:
    """What became of a client in a seat."""

    client: str
    seat: str
    verdict: str  # "works", "fails" or "not installed"
    version: str
    note: str = ""
    seconds: float = 0.0


def run_client(module: str, pythons: Sequence[str], settings: dict[str, str]) -> list[Row]:
    """Return what became of a client in the first interpreter that has it."""
    rows: list[Row] = []
    for python in pythons:
        rows = _run_in(module, python, settings)
        if any(row.verdict != "not installed" for row in rows):
            break
    return rows


def _run_in(module: str, python: str, settings: dict[str, str]) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "rows.json"
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {
            **os.environ,
            **settings,
            "PYTHONPATH": paths,
            "SDL_VIDEODRIVER": "dummy",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        command = [python, "-m", "tests.clients.child", module, str(said)]
        began = time.monotonic()
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIME_LIMIT,
            )
            last = "\n".join(done.stdout.strip().splitlines()[-SHOWN:])
        except subprocess.TimeoutExpired:
            last = f"no end after {TIME_LIMIT:.0f} s"
        rows = [Row(**row) for row in _read(said)]
        # A process that dies has not come to its end, and says less than it should.
        if not rows or rows[-1].seat != "end":
            rows.append(Row(module, "-", "fails", "", last, time.monotonic() - began))
        return [row for row in rows if row.seat != "end"]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| client | seat | verdict | version | what ran |", "|---|---|---|---|---|"]
    for row in rows:
        note = row.note.replace("\n", " ").replace("|", "/")
        lines.append(f"| {row.client} | {row.seat} | {row.verdict} | {row.version} | {note} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the clients, print their table and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("clients", nargs="*", help=f"of {', '.join(CLIENTS)}; all by default")
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated")
    parser.add_argument("--cleanrl", default="", help="a checkout of CleanRL")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.clients) - set(CLIENTS))
    if unknown:
        parser.error(f"unknown clients {unknown}; accepted: {', '.join(CLIENTS)}")
    rows: list[Row] = []
    settings = {"CLEANRL": str(Path(args.cleanrl).resolve()) if args.cleanrl else ""}
    for module in args.clients or CLIENTS:
        found = run_client(module, args.python or [sys.executable], settings)
        for row in found:
            said = f"{row.client}, {row.seat}: {row.verdict} {row.version} ({row.seconds:.0f} s)"
            print(said, file=sys.stderr, flush=True)
        rows += found
    print(table(rows))
    return int(any(row.verdict == "fails" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
