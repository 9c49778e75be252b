"""Threads, the fixtures that make rows, and the table at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.table import ONE_THREAD, Compare, Row, as_text

os.environ.update(ONE_THREAD)  # before anything that reads it is imported

from bilevel_gym.core.files import replacing  # noqa: E402
from tests.conftest import backend as backend  # noqa: E402

_ROWS = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, metavar="FILE", help="write the table as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """Rows of the table, for figures that are not two times."""
    return request.config.stash[_ROWS]


@pytest.fixture
def compare(benchmark: Any, rows: list[Row]) -> Compare:
    """Time two sides in turn and add their row."""
    return Compare(benchmark, rows)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    if not rows:
        return
    table = as_text(rows)
    terminalreporter.section("ratios")
    terminalreporter.write_line(table)
    path: Path | None = config.getoption("--table")
    if path is not None:
        with replacing(path) as temporary:
            temporary.write_text(table)
        terminalreporter.write_line(f"written to {path}")
