"""Two processes write one path while a third reads it: every read is of one write, and whole.

Run it as `python -m tests.benchmarks.writers`; it prints a table, and ends with 1 if a write or a
read fails, if a read mixes two writes, or if anything but the file is left behind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .marked import APART, MARKED, Damaged, Marked

HEAD = (
    "| writer | writes | failed | reads | of the first | mixed or damaged | left behind | s |",
    "|---|---|---|---|---|---|---|---|",
)


def write(marked: Marked, path: Path, first: int, count: int, failures: Any) -> None:
    """Write numbers, and put what fails into a queue."""
    for number in range(first, first + count):
        try:
            marked.write(path, number)
        except Exception as error:
            failures.put(f"{type(error).__name__}: {error}")
    failures.put(None)


def contend(name: str, writes: int) -> tuple[str, bool]:
    """Let two write and one read; return a row of the table, and whether all went well."""
    began, marked, context = (
        time.perf_counter(),
        MARKED[name](),
        multiprocessing.get_context("fork"),
    )
    failures: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"contended{marked.suffix}"
        marked.write(path, 1)
        writers = [
            context.Process(target=write, args=(marked, path, first, writes, failures))
            for first in (1, APART)
        ]
        for writer in writers:
            writer.start()
        seen, faults = [], []
        while any(writer.is_alive() for writer in writers):
            try:
                seen.append(marked.number(path))
            except Damaged as fault:
                faults.append(str(fault))
        failed = [failure for _ in writers for failure in iter(failures.get, None)]
        for writer in writers:
            writer.join()
        left = [found.name for found in Path(folder).iterdir() if found != path]
    for line in [*faults, *failed, *left][:5]:
        print(f"{name}: {line}", file=sys.stderr)
    share = sum(number < APART for number in seen) / max(1, len(seen))
    row = (
        f"| `{name}` | 2 x {writes} | {len(failed)} | {len(seen) + len(faults)} | {share:.0%} | "
        f"{len(faults)} | {len(left)} | {time.perf_counter() - began:.0f} |"
    )
    return row, not (faults or failed or left) and bool(seen)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--writes", type=int, default=1000, help="by each of the two processes")
    writes = parser.parse_args().writes
    print("\n".join(HEAD), flush=True)
    well = True
    for name in ("replacing", "write_whole", "PreferenceQueue.save", "HyperGradientAscent.save"):
        row, fine = contend(name, writes)
        print(row, flush=True)
        well &= fine
    sys.exit(not well)


if __name__ == "__main__":
    main()
