"""`bilevel-gym report`: figures and tables of a benchmark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.checks import received
from .arguments import CommandError, in_one_line, out_option
from .console import explain_os_errors, show_table
from .progress import waiting

if TYPE_CHECKING:
    from pandas import DataFrame


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@out_option("Folder of the report.  [default: FOLDER/report]")
def report(folder: Path, out: Path | None) -> None:
    """Draw and tabulate the results of a benchmark.

    FOLDER is what `bilevel-gym benchmark` has written, finished or not. The report is report.md
    with its figures (PNG) and its tables (CSV); an earlier one in the same place is replaced.
    """
    from rich.markup import escape

    from ..benchmark.report import AGGREGATE_HEAD, PAGE, aggregate_rows, write_report

    results = read_results(folder)
    out = folder / "report" if out is None else out
    try:
        with explain_os_errors(out), waiting("drawing the report"):
            tables = write_report(results, out)
    except ValueError as error:
        raise CommandError(f"cannot report on {folder}: {error}") from None
    if tables.aggregates:
        rows = aggregate_rows(tables.aggregates)
        show_table(AGGREGATE_HEAD, ([escape(text) for text in row] for row in rows))
    missing = int(tables.missing["missing"].sum())
    if missing:
        runs = "1 run is" if missing == 1 else f"{missing} runs are"
        click.echo(f"Warning: {runs} not done, see {PAGE}", err=True)
    click.echo(f"report: {out / PAGE}")


def read_results(folder: Path) -> DataFrame:
    """Return the results in a folder."""
    from ..benchmark import load_results

    if not os.path.isdir(folder):  # of a Path it would be an error if the name is too long
        raise CommandError(f"there is no folder {received(str(folder))}")
    try:
        with in_one_line():
            results = load_results(folder)
    except FileNotFoundError as error:
        raise CommandError(
            f"{received(str(folder))} is no benchmark's folder: there is no "
            f"{Path(error.filename).name}"
        ) from None
    if results.empty:
        raise CommandError(
            f"{received(str(folder))} holds no finished run; `bilevel-gym benchmark` goes on"
        )
    return results
