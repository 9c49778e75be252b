"""`bilevel-gym benchmark`: tasks x methods x optimizers x seeds, in parallel and resumable."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.checks import received
from .arguments import FAILED, INTERRUPTED, CommandError, Failure, in_one_line, out_option
from .console import explain_os_errors
from .progress import progress_bar

if TYPE_CHECKING:
    from ..benchmark import Benchmark, RunOutcome
    from ..benchmark.engine import Plan

DEFAULT = "default"


def print_shipped(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:
    """Write a file of the package to the standard output, and end."""
    from ..benchmark.config import shipped_text

    if not value or ctx.resilient_parsing:
        return
    with in_one_line():
        click.echo(shipped_text(DEFAULT if value is True else str(value)), nl=False)
    ctx.exit()


@click.command("benchmark")
@click.argument("file", default=DEFAULT, metavar="[FILE]", type=click.Path(path_type=Path))
@out_option("Folder of the results.  [default: benchmarks/NAME, after NAME.toml]")
@click.option(
    "--print",
    metavar="NAME",
    is_eager=True,
    expose_value=False,
    callback=print_shipped,
    help="Print one of the files that come with the package, to start from, and exit.",
)
@click.option(
    "--print-default",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_shipped,
    help="The same as `--print default`.",
)
def benchmark(file: Path, out: Path | None) -> None:
    """Run tasks x methods x optimizers x seeds, as FILE.toml says.

    Two files come with the package: "default", which is run without FILE, and "deep", of followers
    who learn by networks (it needs the extra "sb3").

    Each run is kept in the folder as soon as it is done: Ctrl-C, or worse, costs the runs that were
    under way, and the same command goes on from there. Seeds, methods and tasks may be added to the
    file later; what is done is not done again.
    """
    from ..benchmark.engine import EngineError, execute, locked, plan

    try:
        with in_one_line():
            wanted = read(file)
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from None
    folder = out or Path("benchmarks") / file.stem
    failures: list[str] = []
    try:
        with (
            in_one_line((ImportError,)),
            explain_os_errors(folder),
            contextlib.ExitStack() as stack,
        ):
            stack.enter_context(locked(folder))
            planned = plan(wanted, folder)
            announce(wanted, planned)
            bar = progress_bar("runs", len(planned.todo), every_step=True)
            show = stack.enter_context(bar)
            warned: set[str] = set()
            for entry, outcome in execute(planned, wanted.engine, show.within):
                for warning in (w for w in outcome.warnings if w not in warned):
                    warned.add(warning)
                    click.echo(f"Warning: {warning} (first in {entry})", err=True)
                if outcome.error is not None:
                    failures.append(f"{entry}: {outcome.error}")
                show.step("runs", f"{entry}: {summary(outcome)}")
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is done is kept, and the same command goes on: {folder}")
        click.get_current_context().exit(INTERRUPTED)
    except EngineError as error:
        raise Failure(
            f"{error}; what is done is kept in {folder}, and the same command goes on"
        ) from None
    for failure in failures:
        click.echo(f"failed: {failure}", err=True)
    total = planned.done + len(planned.todo)
    click.echo(f"{total - len(failures)} of {total} runs are in {folder}")
    if failures:
        click.get_current_context().exit(FAILED)


def read(file: Path) -> Benchmark:
    """Return the benchmark of a file, or of one that comes with the package."""
    from ..benchmark.config import SHIPPED, parse_benchmark, read_benchmark, shipped_text

    if str(file) in SHIPPED and not os.path.isfile(file):
        return parse_benchmark(shipped_text(str(file)), f"{file}.toml")
    if not os.path.exists(file):  # of a Path it would be an error if the name is too long
        known = " and ".join(map(repr, SHIPPED))
        raise CommandError(f"there is no file {received(str(file))}; {known} come with the package")
    return read_benchmark(file)


def announce(wanted: Benchmark, planned: Plan) -> None:
    """Say what is left out, what was damaged, and what is to be done."""
    for cell in wanted.left_out:
        click.echo(f"left out: {cell}")
    for line in planned.damaged:
        click.echo(f"Warning: {line}", err=True)
    engine = wanted.engine
    where = f"{engine.workers or 'all'} processes" if engine.address is None else engine.address
    total = planned.done + len(planned.todo)
    others = f"; {planned.others} results of other runs stay there" if planned.others else ""
    click.echo(
        f"{total} runs, {planned.done} done, {len(planned.todo)} to do on {where} "
        f"({engine.backend}), in {planned.folder}{others}"
    )


def summary(outcome: RunOutcome) -> str:
    """Return what a run has reached, in a few words."""
    if outcome.error is not None:
        return "failed"
    best = max(row.objective for row in outcome.rows)
    return f"best {best:.6g}, {outcome.rows[-1].wall_time:.1f} s"
