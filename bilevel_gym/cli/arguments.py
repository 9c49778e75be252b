"""What users give on the command line, and what is said when they got it wrong."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .. import making
from ..core.threads import one_torch_thread
from ..registration import task_ids

if TYPE_CHECKING:
    from ..wrappers import HyperGradient


# What the shell reports for a command stopped by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130


class CommandError(click.ClickException):
    """What the user got wrong, in one line."""

    exit_code = 2


def known_task(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Return a registered id, after importing the module of `module:ID`."""
    try:
        return making.find_task(making.beside_user(value))
    except (ImportError, ValueError) as error:
        raise CommandError(str(error)) from None


def complete_task(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the ids of tasks in the shell."""
    return [env_id for env_id in task_ids() if env_id.startswith(incomplete)]


def named_method(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return the name of a method; the task says whether it has it."""
    return None if value is None else making.beside_user(value)


def complete_method(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of methods in the shell."""
    from ..methods.registry import method_names

    return [name for name in method_names() if name.startswith(incomplete)]


def parse_value(text: str) -> Any:
    """Return the value of `--set name=text`: JSON, else a Python literal, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        # `.5`, `(3, 12)` and `['S.G']` are no JSON but mean something. The round trip keeps to what
        # JSON can say, so that the run's configuration can be written.
        return json.loads(json.dumps(ast.literal_eval(text)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def parse_settings(
    ctx: click.Context, param: click.Parameter, settings: Sequence[str]
) -> dict[str, Any]:
    """Return the arguments given as `--set name=value`, or by another such option."""
    option = param.opts[0]
    kwargs: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise CommandError(f"`{option}` takes name=value, got {setting!r}")
        if name in kwargs:
            raise CommandError(f"`{option} {name}` was given twice")
        kwargs[name] = parse_value(text)
    return kwargs


def positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Return a positive finite number, if one is given.

    Click's own ranges let infinity and NaN pass.
    """
    if value is not None and not 0.0 < value < np.inf:
        raise CommandError(f"`{param.opts[0]}` must be positive and finite, got {value}")
    return value


task_argument = click.argument(
    "env_id", metavar="ID", callback=known_task, shell_complete=complete_task
)
method_option = click.option(
    "--method",
    metavar="NAME",
    callback=named_method,
    shell_complete=complete_method,
    help="Source of the hyper-gradient: exact, an estimate such as trace, or module:Class of your "
    "own; see the README.  [default: exact; the task's own, mostly trace, for a follower who "
    "learns]",
)
set_option = click.option(
    "--set",
    "env_kwargs",
    metavar="NAME=VALUE",
    multiple=True,
    callback=parse_settings,
    help="Argument of the task, e.g. slip=0.2 or map_name=16x16; may be repeated.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of whatever is drawn; the exact method draws nothing.",
)


def make_leader(
    env_id: str,
    env_kwargs: dict[str, Any],
    method: str | None = None,
    method_options: dict[str, Any] | None = None,
    **options: Any,
) -> HyperGradient:
    """Return a task in the leader's seat; see `bilevel_gym.making.make_leader`."""
    try:
        env = making.make_leader(env_id, env_kwargs, method, method_options, **options)
    except (ImportError, TypeError, ValueError) as error:
        raise CommandError(str(error)) from None
    # Until the command ends. Followers' networks are so small that threads wait for each other
    # longer than they compute: a step of the leader took three times as long on two busy cores.
    context = click.get_current_context(silent=True)
    if context is not None:  # a library's call has no command to end
        context.with_resource(one_torch_thread())
    return env
