"""`bilevel-gym design`: the weights of terms of a reward, for any environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym
from click.core import ParameterSource

from ..core.checks import received
from ..core.files import check_regular
from ..making import beside_user, names_of_code
from .arguments import (
    INTERRUPTED,
    METHOD,
    CommandError,
    count_option,
    in_one_line,
    out_option,
    positive,
    seed_option,
    settings_option,
)
from .console import explain_os_errors, show_table
from .progress import progress_bar

if TYPE_CHECKING:
    from ..designing import Design

# Options that are not those of the run itself.
OTHERS = ("out", "resume", "trust", "against_direct", "held_out")


def parsed_terms(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    """Return "module:function", or names that commas separate."""
    if text is None or ":" in text:
        return text
    return [name.strip() for name in text.split(",")]


@click.command("design", short_help="Find the weights of terms of a reward.")
@click.argument("env", metavar="ENV", required=False)
@click.option(
    "--terms",
    metavar="TERMS",
    callback=parsed_terms,
    help="module:function of (observation, action, next_observation, info) that returns numbers by "
    "name; or names of entries of info, and reward[i] of a vector reward, with commas between.",
)
@click.option(
    "--objective",
    metavar="NAME",
    help="What is wanted: module:function of the same arguments that returns a number, or such a "
    "name.  [default: the environment's reward]",
)
@count_option("--steps", 50_000, "Environment steps in all.")
@seed_option
@click.option(
    "--own-reward/--no-own-reward",
    default=True,
    show_default=True,
    help="Whether the environment's reward is one more term.",
)
@click.option(
    "--constant/--no-constant",
    default=True,
    show_default=True,
    help="Whether -1 in each step is one more term.",
)
@settings_option("--start", "start", "Weight to start from, e.g. speed=0.5")
@settings_option("--set", "env_kwargs", "Argument of the environment")
@click.option(
    "--episode-steps",
    type=click.IntRange(min=1),
    help="Steps after which episodes are cut.  [default: the environment's own limit]",
)
@click.option(
    "--gamma", type=float, default=0.95, show_default=True, help="Discount of the follower."
)
@click.option(
    "--temperature",
    type=float,
    default=0.05,
    show_default=True,
    callback=positive,
    help="Weight of its entropy, where terms have a spread of 1.",
)
@click.option("--method", metavar="NAME", help="Source of the hyper-gradient.", **METHOD)
@settings_option("--method-set", "method_options", "Option of the method, e.g. episodes=32")
@click.option(
    "--against-direct",
    is_flag=True,
    help="Train the same learner on the objective itself, too, and compare.",
)
@count_option("--held-out", 30, "Fresh episodes of each follower in the comparison.", least=2)
@out_option("Folder of the run.  [default: the next free number under runs/ENV]")
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a run to go on with, from where it was ended or killed.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="With --resume: import whatever the folder of the run names, and restore game consoles.",
)
@click.pass_context
def design(
    ctx: click.Context,
    /,
    *,
    env: str | None,
    out: Path | None,
    resume: Path | None,
    trust: bool,
    held_out: int,
    against_direct: bool,
    **options: Any,
) -> None:
    """Find the weights of terms of a reward under which a follower reaches an objective best.

    ENV is the id of an environment, module:ID, or module:function that makes one. The folder gets
    history.csv (what was evaluated, with the weight of each term by name), result.json,
    progress.png and follower.zip, the trained follower, which `SoftDQN.load` or `SoftSAC.load` of
    `bilevel_gym.sb3` read. Ctrl-C ends it early, with the best so far; --resume RUN goes on with
    it. What names code of your own must be named again then, or be trusted by --trust.
    """
    from ..designing import design_reward
    from .run_folder import open_folder

    asked = {"env": env, **options}
    if resume is not None:
        if out is not None:
            raise CommandError("`--out` is the folder of `--resume`; omit it")
        asked, folder = resumed(ctx, resume, asked, trust=trust), resume
    else:
        if trust:
            raise CommandError("`--trust` is for a run that is gone on with by `--resume`")
        for name in ("env", "terms"):
            if asked[name] is None:
                wanted = next(param for param in ctx.command.params if param.name == name)
                raise click.MissingParameter(ctx=ctx, param=wanted)
        folder = out or open_folder(None, str(env).rpartition(":")[2])
    for name in names_of_code(asked):
        beside_user(name)
    with (
        explain_os_errors(folder),
        in_one_line((ImportError, TypeError, ValueError, gym.error.Error)),
        progress_bar("design", asked["steps"]) as show,
    ):
        shown = 0

        def progress(done: int, total: int, text: str) -> None:
            nonlocal shown
            show.step("design", text, done - shown)
            shown = done

        found = design_reward(
            asked.pop("env"),
            asked.pop("terms"),
            **asked,
            against_direct=against_direct,
            held_out=held_out,
            folder=folder,
            trust=trust,
            progress=progress,
        )
    report(found, folder)
    if found.interrupted:
        click.echo(f"bilevel-gym design --resume {folder} goes on with it")
        ctx.exit(INTERRUPTED)


def report(found: Design, folder: Path) -> None:
    """Print what was found, and where it is."""
    from ..designing.run import FILES

    rows = [(name, f"{weight:.4g}") for name, weight in found.weights.items()]
    show_table(("term", "weight"), rows)
    click.echo(found.verdict)
    written = ", ".join(name for name in FILES if (folder / name).exists())
    click.echo(f"run: {folder} ({written})")


def resumed(
    ctx: click.Context, folder: Path, asked: dict[str, Any], *, trust: bool
) -> dict[str, Any]:
    """Return the arguments of a run, those that were not given again from its folder.

    Raises:
        CommandError: If there is no run, or it names code that was not named again.
    """
    from ..designing.reward import MOST_BYTES
    from ..designing.run import CONFIG

    path = folder / CONFIG
    try:
        check_regular(path, MOST_BYTES)
        config = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: config[name] for name in asked}
    except FileNotFoundError:
        raise CommandError(f"`--resume`: there is no run in {folder}: no {CONFIG}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(f"`--resume`: {path} is damaged: {error}") from None
    for name in asked:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            kept[name] = asked[name]
        elif not trust and (code := next(names_of_code({name: kept[name]}), None)):
            raise CommandError(
                f"the run in {folder} names {received(code)}, which would be imported: give "
                f"`{name}` again as before, or trust the folder by `--trust`"
            )
    return kept
