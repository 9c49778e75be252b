"""Threads, the fixtures that make rows, and the table at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.table import ONE_THREAD, Compare, Row, Table

os.environ.update(ONE_THREAD)  # before anything that reads it is imported

from tests.conftest import backend as backend  # noqa: E402

_TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, metavar="FILE", help="write the table as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Compare:
    """Time two sides in turn and add their row."""
    return Compare(benchmark, request.config.stash[_TABLE])


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """Rows of the table, for figures that are not two times."""
    return request.config.stash[_TABLE].rows


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash[_TABLE]
    if not table.rows:
        return
    terminalreporter.section("ratios")
    terminalreporter.write_line(table.text())
    path: Path | None = config.getoption("--table")
    if path is not None:
        path.write_text(table.markdown())
        terminalreporter.write_line(f"written to {path}")
