"""The command `bilevel-gym`: one module per command."""

from __future__ import annotations

import atexit
import gc
from typing import Any

import click

from .. import __version__
from .arguments import INTERRUPTED, Failure
from .benchmarking import benchmark
from .checking import check, check_method
from .console import ignore_settings_here, listen_to_interrupts, plain_warnings
from .designing import design
from .exporting import export
from .galleries import gallery
from .listing import list_tasks, markdown_table
from .methods import methods
from .playing import play
from .reporting import report
from .rescoring import rescore
from .showing import show
from .solving import solve

__all__ = ["main", "markdown_table"]


class Commands(click.Group):
    """Commands that an interrupt ends with one line and one exit code, wherever it finds them.

    So do numbers that overflow and memory that is full.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one meets them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except (ArithmeticError, MemoryError) as error:  # of numbers that nobody could foresee
            raise Failure(f"{error or type(error).__name__}") from error


# Where a process ends nothing need be collected any more. With PyTorch loaded, that would be most
# of the time from Ctrl-C to the shell.
atexit.register(gc.freeze)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="bilevel-gym", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Bilevel reinforcement learning: a leader chooses x, and a follower best responds to it.

    Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C and SIGTERM.
    """
    ctx.with_resource(listen_to_interrupts())
    ctx.with_resource(plain_warnings())
    ignore_settings_here()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (
    list_tasks,
    show,
    methods,
    solve,
    play,
    gallery,
    design,
    check,
    check_method,
    benchmark,
    report,
    export,
    rescore,
):
    main.add_command(command)
