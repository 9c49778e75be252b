"""Slowdown by a neighbour: another process that keeps one core busy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.benchmarks.table import ONE_THREAD, Row, duration


def bench_busy_neighbour(rows: list[Row]) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("a neighbour needs a core of its own")
    setting = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
    command = [sys.executable, "-m", "tests.benchmarks.neighbour"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=setting).stdout
    for line in answer.splitlines():
        quiet, busy, name = line.split(maxsplit=2)
        took, alone = float(busy), float(quiet)
        figures = duration(took), "the same, undisturbed", duration(alone), took / alone
        rows.append(Row(f"{name}, another process on one core", *figures, at_most=1.2))
