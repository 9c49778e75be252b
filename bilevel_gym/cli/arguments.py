"""What users give on the command line, and what is said when they got it wrong."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import making
from ..core.checks import accepted_options, check_positive, received
from ..core.threads import one_torch_thread
from ..registration import task_ids

if TYPE_CHECKING:
    from ..wrappers import HyperGradient


# Exit codes: something failed or a check found something wrong, what the user gave is refused, and
# what the shell reports for a command stopped by Ctrl-C, 128 + SIGINT.
FAILED, USAGE, INTERRUPTED = 1, 2, 130

# How a run that was interrupted stopped.
INTERRUPTION = "interrupted; what it reached is kept"

# Inner learners with networks, which would take seconds to load.
LEARNT_INNER = ("soft-dqn", "soft-sac")


class CommandError(click.ClickException):
    """What the user got wrong, in one line."""

    exit_code = USAGE


class Failure(click.ClickException):
    """What went wrong although the user did not, in one line."""

    exit_code = FAILED


@contextlib.contextmanager
def in_one_line(
    refusals: tuple[type[Exception], ...] = (ImportError, TypeError, ValueError),
) -> Iterator[None]:
    """Turn what the package refuses into a line for the user."""
    try:
        yield
    except refusals as error:
        raise CommandError(str(error)) from None


def takes_names(known: Callable[[], Iterable[str]], check: Callable[[str], str]) -> dict[str, Any]:
    """Return how a parameter takes names: each is checked, and completed in the shell."""

    def checked(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        with in_one_line():
            if isinstance(value, tuple):
                return tuple(map(check, value))
            return None if value is None else check(value)

    return {"callback": checked, "shell_complete": completed(lambda ctx: known())}


def completed(known: Callable[[click.Context], Iterable[str]]) -> Callable[..., list[str]]:
    """Return how the shell completes one of some names, and values behind `name=`."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        try:
            names = [name for name in known(ctx) if name.startswith(incomplete)]
        except Exception:  # of what is typed so far nothing need be right
            return []
        return [name for name in names if "=" in incomplete or not name.partition("=")[2]]

    return complete


def typed(ctx: click.Context, name: str) -> Any:
    """Return what is typed already for a parameter, None if nothing is.

    An option that still lacks its value leaves arguments unparsed, in `ctx.args`.
    """
    found = ctx.params.get(name)
    positional = [param for param in ctx.command.params if isinstance(param, click.Argument)]
    if found is None and ctx.args and positional and positional[0].name == name:
        found = positional[0].process_value(ctx, ctx.args[0])
    return found


def settings_of(parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    """Yield `name=` of parameters, and the values of flags."""
    for parameter in parameters:
        yield f"{parameter.name}="
        if isinstance(parameter.default, bool):
            yield from (f"{parameter.name}={value}" for value in ("true", "false"))


def settings_of_task(ctx: click.Context) -> Iterator[str]:
    """Yield what `--set` may say to the task that is typed already."""
    return settings_of(making.task_parameters(typed(ctx, "env_id")).values())


def settings_of_method(ctx: click.Context) -> Iterator[str]:
    """Yield what `--method-set` may say to the method that is typed already, or the task's own."""
    from ..methods.registry import NamesMethods, resolve_method
    from ..wrappers.entry_points import creator_of

    env_id, method = typed(ctx, "env_id"), typed(ctx, "method")
    creator = None if env_id is None else creator_of(env_id)
    default = creator.default_method if isinstance(creator, NamesMethods) else "exact"
    options = accepted_options(resolve_method(method or default, creator))
    yield from settings_of(options.values())
    if "inner" in options:
        yield from (f"inner={name}" for name in inner_learners())


def method_names() -> list[str]:
    """Return the names of the methods, loaded when they are asked for."""
    from ..methods.registry import method_names

    return method_names()


def inner_learners() -> list[str]:
    """Return the names of all inner learners; which of them fit is up to method and task."""
    from ..methods.learners import LEARNERS

    return [*LEARNERS, *LEARNT_INNER]


def parse_value(text: str) -> Any:
    """Return the value of `--set name=text`: JSON, else a Python literal, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # too many digits, or brackets in brackets, are no JSON
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
            raise CommandError(f"`{option}` takes name=value, got {received(setting)}")
        if name in kwargs:
            raise CommandError(f"`{option} {name}` was given twice")
        kwargs[name] = parse_value(text)
    return kwargs


def positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Return a positive finite number, if one is given; infinity passes the ranges of click."""
    with in_one_line():
        return None if value is None else check_positive(param.opts[0], value)


def count_option(flag: str, default: int, text: str, *, least: int = 1) -> Callable[[Any], Any]:
    """Return an option that takes an integer of at least `least`."""
    kind = click.IntRange(min=least)
    return click.option(flag, type=kind, default=default, show_default=True, help=text)


def out_option(text: str) -> Callable[[Any], Any]:
    """Return the option that takes the folder to write."""
    return click.option("--out", type=click.Path(file_okay=False, path_type=Path), help=text)


def settings_option(
    flag: str,
    name: str,
    text: str,
    known: Callable[[click.Context], Iterable[str]] = lambda ctx: (),
) -> Callable[[Any], Any]:
    """Return an option that takes NAME=VALUE, of which those known are completed in the shell."""
    return click.option(
        flag,
        name,
        metavar="NAME=VALUE",
        multiple=True,
        callback=parse_settings,
        shell_complete=completed(known),
        help=f"{text}; may be repeated.",
    )


# A registered task, after importing the module of `module:ID`.
TASK = takes_names(task_ids, lambda name: making.find_task(making.beside_user(name)))


def _checked_task(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return a registered id, and keep the module that registers it."""
    ctx.meta["module"] = (value or "").rpartition(":")[0]
    name: str | None = TASK["callback"](ctx, param, value)
    return name


# The same, whose module is then in `ctx.meta`.
TASK_OF_MODULE = {**TASK, "callback": _checked_task}


def _method(name: str) -> str:
    """Return the name of a method, of which the task says whether it has it."""
    from ..optimizers import OPTIMIZERS

    if name in OPTIMIZERS and name not in method_names():
        raise CommandError(
            f"{name!r} is an optimizer, not a method: `bilevel-gym solve ID --optimizer {name}` "
            "takes it; `bilevel-gym methods` lists methods"
        )
    return making.beside_user(name)


METHOD = takes_names(method_names, _method)

task_argument = click.argument("env_id", metavar="ID", **TASK)
method_option = click.option(
    "--method",
    metavar="NAME",
    help="Source of the hyper-gradient: a name that `bilevel-gym methods` lists, or module:Class "
    "of your own.  [default: exact; the task's own, mostly trace, for a follower who "
    "learns]",
    **METHOD,
)
set_option = settings_option(
    "--set",
    "env_kwargs",
    "Argument of the task, e.g. slip=0.2 or map_name=16x16; `bilevel-gym show ID` lists them",
    settings_of_task,
)
method_set_option = settings_option(
    "--method-set",
    "method_options",
    "Option of the method, e.g. episodes=2048 or inner=soft-q; `bilevel-gym methods NAME` lists "
    "them",
    settings_of_method,
)
seed_option = count_option(
    "--seed", 0, "Seed of whatever is drawn; the exact method draws nothing.", least=0
)


def make_leader(
    env_id: str,
    env_kwargs: dict[str, Any],
    method: str | None = None,
    method_options: dict[str, Any] | None = None,
    **options: Any,
) -> HyperGradient:
    """Return a task in the leader's seat; see `bilevel_gym.making.make_leader`."""
    with in_one_line():
        env = making.make_leader(env_id, env_kwargs, method, method_options, **options)
    # Until the command ends. Followers' networks are so small that threads wait for each other
    # longer than they compute: a step of the leader took three times as long on two busy cores.
    context = click.get_current_context(silent=True)
    if context is not None:  # a library's call has no command to end
        context.with_resource(one_torch_thread())
    return env
