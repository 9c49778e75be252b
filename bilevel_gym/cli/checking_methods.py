"""`bilevel-gym check-method`: whether a method keeps what methods promise, with its card."""

from __future__ import annotations

from typing import Any

import click

from .arguments import CommandError, complete_method, known_task, named_method, parse_settings


@click.command("check-method")
@click.argument("method", callback=named_method, shell_complete=complete_method)
@click.option(
    "--task",
    "env_id",
    metavar="ID",
    callback=lambda ctx, param, value: None if value is None else known_task(ctx, param, value),
    help="Check it on this task alone.  [default: seven small ones of different kinds]",
)
@click.option(
    "--method-set",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=parse_settings,
    help="Option of the method, e.g. episodes=64; may be repeated.",
)
@click.option(
    "--estimates",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    help="Seeds from which a method that draws random numbers is measured.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The first of them.")
def check_method_command(
    method: str, env_id: str | None, options: dict[str, Any], estimates: int, seed: int
) -> None:
    """Check a method, METHOD being a name or module:Class of your own.

    Its hyper-gradient is compared with the exact one on small tasks, which it may refuse; seeds,
    options, pickling and the seat's info are checked as well.
    """
    from ..testing import MethodError, check_method

    try:
        report = check_method(method, env_id, options=options, estimates=estimates, seed=seed)
    except MethodError as error:
        click.echo(error.report)
        click.get_current_context().exit(1)
    except (ImportError, TypeError, ValueError) as error:
        raise CommandError(str(error)) from None
    click.echo(report)
