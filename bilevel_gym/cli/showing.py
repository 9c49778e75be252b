"""`bilevel-gym show`: the page of a task."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..envs.ids import follower_id
from ..making import made_game, task_parameters
from ..registration import TASKS
from .arguments import TASK_OF_MODULE, in_one_line, set_option
from .documents import arguments_of_task, say, say_option, section

if TYPE_CHECKING:
    from ..envs.base import BilevelEnv

# How a task is used, in Python.
EXAMPLE = """
  import gymnasium as gym, bilevel_gym
  env = gym.make("{env_id}")
  _, info = env.reset(seed=0)
  _, objective, _, _, info = env.step(info["upper_params"])
  print(objective, info["hyper_gradient"])"""


@click.command("show", short_help="Show the page of a task.")
@click.argument("env_id", metavar="ID", **TASK_OF_MODULE)
@set_option
@click.pass_context
def show(ctx: click.Context, env_id: str, env_kwargs: dict[str, Any]) -> None:
    """Show the page of a task: what it is, its arguments, its ground truth, its methods."""
    with in_one_line():
        game: Any = made_game(env_id, env_kwargs).unwrapped
    documentation = inspect.getdoc(type(game)) or ""
    row = next((task for task in TASKS if task.id == env_id), None)
    click.echo(f"{env_id}{f': {row.summary}' if row else ''}\n")
    say(documentation.partition("\n\n")[0])
    say(section(documentation, "Description").partition("\n\n")[0])
    for aim in game.headline("leader").splitlines()[1:]:
        say(aim)
    click.echo()
    if row is not None:
        say(row.upper, "x")
        say(row.enters, "enters")
        say(row.source, "source")
    say(f"{game.upper_space}", "leader acts")
    say(f"{game.leader_observation_space}", "observes")
    say(f"{game.lower_space}", "follower acts")
    say(f"{game.observation_space}", "observes")
    say(truth(game), "ground truth")
    click.echo("\narguments (--set NAME=VALUE, or gym.make(ID, NAME=VALUE)):")
    said = arguments_of_task(game)
    for name, parameter in task_parameters(env_id).items():
        given = {**(row.kwargs if row else {}), **env_kwargs}
        say_option(name, given.get(name, parameter.default), said.get(name, ""))
    click.echo()
    say_methods(game)
    say_seats(env_id)
    where = f"{ctx.meta['module']}:{env_id}" if ctx.meta["module"] else env_id
    click.echo("\nexample:\n")
    click.echo(f"  bilevel-gym solve {where}\n{EXAMPLE.format(env_id=where)}")


def truth(game: BilevelEnv) -> str:
    """Return what is known of the objective of a game."""
    from ..making import answers_exactly

    if not answers_exactly(game):
        return "none: the follower learns, and objectives are estimates from episodes"
    known = game.best_known
    if known is None:
        return "F and its hyper-gradient are exact; no best x is known for these arguments"
    return f"F and its hyper-gradient are exact; best known F {known.value:.6g} ({known.source})"


@dataclass(frozen=True)
class Fit:
    """Whether a method suits a game.

    Attributes:
        name: The method.
        suits: Whether it does.
        why_not: The error of a method that does not, in one line; empty where it does.
        missing: Whether what is lacking is an extra, which is not installed.
    """

    name: str
    suits: bool
    why_not: str = ""
    missing: bool = False


def fits(game: BilevelEnv) -> list[Fit]:
    """Return for each method that can be named for a game whether it suits it."""
    from ..methods.registry import make_method, method_names

    found = []
    for name in method_names(game):
        try:
            make_method(name, game)
        except (ImportError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())
            found.append(Fit(name, False, why, isinstance(error, ImportError)))
        else:
            found.append(Fit(name, True))
    return found


def say_methods(game: BilevelEnv) -> None:
    """Print the methods that suit a game, and those that do not."""
    found = fits(game)
    suit = (fit.name for fit in found if fit.suits)
    default = game.default_method
    say(", ".join(f"{name} (default)" if name == default else name for name in suit), "methods")
    refused = [fit.name for fit in found if not fit.suits and not fit.missing]
    missing = [fit.name for fit in found if fit.missing]
    if refused:
        say(", ".join(refused), "unsuitable")
    if missing:
        say(f"{', '.join(missing)} (an extra is not installed)", "missing")


def say_seats(env_id: str) -> None:
    """Print the ids of both seats, and their options."""
    from ..core.checks import accepted_options
    from ..wrappers import HyperGradient, LowerLevel

    for seat, label, name, more in (
        (
            HyperGradient,
            "leader's seat",
            env_id,
            "; and those of the method, `bilevel-gym methods NAME`",
        ),
        (LowerLevel, "follower's seat", follower_id(env_id), ""),
    ):
        options = (f"{option}={p.default!r}" for option, p in accepted_options(seat).items())
        say(f"{name}, options {', '.join(options)}{more}", label)
