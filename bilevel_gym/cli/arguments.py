"""What users give on the command line, and what is said when they got it wrong."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym
import numpy as np

from ..core.checks import unknown_name
from ..core.threads import one_torch_thread
from ..registration import TASKS

if TYPE_CHECKING:
    from ..envs.base import BilevelEnv
    from ..wrappers import HyperGradient


# What the shell reports for a command stopped by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130


class CommandError(click.ClickException):
    """What the user got wrong, in one line."""

    exit_code = 2


def known_task(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Return a registered id, after importing the module of `module:ID`."""
    module, _, env_id = value.rpartition(":")
    if module:
        # As with `python -m`, modules beside the user are found; the script alone has no such path.
        sys.path.insert(0, "")
        try:
            import_module(module)
        except ImportError as error:
            raise CommandError(f"cannot import {module!r} of {value!r}: {error}") from None
    if env_id not in gym.registry:
        raise CommandError(unknown_name("task", env_id, [task.id for task in TASKS]))
    return env_id


def complete_task(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the ids of this package in the shell."""
    return [task.id for task in TASKS if task.id.startswith(incomplete)]


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
    """Return a task in the leader's seat.

    Args:
        env_id: Registered id.
        env_kwargs: What the user set.
        method: Name of the method; None for the game's default.
        method_options: What the user set for it.
        **options: Further arguments: `render_mode` of the task, `outer_steps` of the seat.

    Raises:
        CommandError: If the task or the method refuses an argument.
    """
    from ..wrappers import HyperGradient

    parameters = check_names(env_id, env_kwargs)
    try:
        # Without a picture to draw, a task need not know about render modes.
        mode = options.pop("render_mode", None)
        drawing = {} if mode is None else {"render_mode": mode}
        game = gym.make(env_id, **drawing, **env_kwargs)
    except (ValueError, TypeError, ImportError, gym.error.Error) as error:
        # Gymnasium adds its own sentence to the constructor's.
        reason = str(error).partition(" was raised from the environment creator")[0]
        if isinstance(error, TypeError):
            reason = "; ".join([*mismatches(parameters, env_kwargs), reason])
        raise CommandError(f"cannot make {env_id}: {reason}") from None
    try:
        env = HyperGradient(game, method=method, **options, **(method_options or {}))
    except (ValueError, TypeError) as error:
        raise CommandError(f"cannot take the leader's seat of {env_id}: {error}") from None
    # Until the command ends. Followers' networks are so small that threads wait for each other
    # longer than they compute: a step of the leader took three times as long on two busy cores.
    context = click.get_current_context(silent=True)
    if context is not None:  # a library's call has no command to end
        context.with_resource(one_torch_thread())
    return env


def answers_exactly(game: BilevelEnv) -> bool:
    """Return whether a game knows its follower's exact answer; otherwise the follower learns."""
    return hasattr(game, "evaluate")


def check_names(env_id: str, env_kwargs: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a task's constructor, after comparing what the user set with them.

    Raises:
        CommandError: If the task has no such argument.
    """
    entry_point = gym.spec(env_id).entry_point
    assert entry_point is not None
    creator = (
        gym.envs.registration.load_env_creator(entry_point)
        if isinstance(entry_point, str)
        else entry_point
    )
    if "render_mode" in env_kwargs:
        raise CommandError("`--set` cannot set `render_mode`: each command chooses its own")
    parameters = dict(inspect.signature(creator).parameters)
    parameters.pop("render_mode", None)
    open_ended = [n for n, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
    for name in env_kwargs:
        if name not in parameters and not open_ended:
            raise CommandError(unknown_name(f"argument for {env_id}:", name, parameters))
    return parameters


def mismatches(
    parameters: dict[str, inspect.Parameter], env_kwargs: dict[str, Any]
) -> Iterator[str]:
    """Yield what each argument takes and what it got, where the constructor says."""
    for name, value in env_kwargs.items():
        takes = parameters[name].annotation if name in parameters else inspect.Parameter.empty
        if takes is not inspect.Parameter.empty:
            words = takes if isinstance(takes, str) else inspect.formatannotation(takes)
            yield f"`{name}` takes {words}, got {value!r}"
