"""The command `bilevel-gym`: list, check, solve and play the tasks."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import gymnasium as gym
import numpy as np

from . import __version__
from .checks import unknown_name
from .registration import TASKS, Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from .mdp import FloatArray
    from .methods.base import Response, SupportsEvaluate
    from .optimizers import Iterate
    from .plots import Film
    from .runs import Leader, RunRecorder
    from .testing import HyperGradientReport
    from .wrappers import HyperGradient

__all__ = ["main", "markdown_table"]

# What the shell reports for a command stopped by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
INTERRUPTION = "interrupted; what it reached is kept"

# Width of tables where there is no terminal to ask, in characters.
PIPE_WIDTH = 160

# The ascent path along which `check` compares: short, so that the response term still counts.
PATH_STEPS, PATH_LEARNING_RATE = 20, 0.05

# Response share below which a comparison says nothing about the response term.
MIN_RESPONSE_SHARE = 0.1

# Response share above which the gradient is a small rest of two large parts, as at an optimum.
CANCELLING = 10.0


class CommandError(click.ClickException):
    """What the user got wrong, in one line."""

    exit_code = 2


# What users give -------------------------------------------------------------------------------


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
    """Return the arguments given as `--set name=value`."""
    kwargs: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise CommandError(f"`--set` takes name=value, got {setting!r}")
        if name in kwargs:
            raise CommandError(f"`--set {name}` was given twice")
        kwargs[name] = parse_value(text)
    return kwargs


def positive(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Return a positive finite number; click's own ranges let infinity and NaN pass."""
    if not 0.0 < value < np.inf:
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
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the run."
)


def make_leader(
    env_id: str, env_kwargs: dict[str, Any], method: str = "exact", **options: Any
) -> HyperGradient:
    """Return a task in the leader's seat.

    Args:
        env_id: Registered id.
        env_kwargs: What the user set.
        method: Name of the method.
        **options: Further arguments: `render_mode` of the task, `outer_steps` of the seat.

    Raises:
        CommandError: If the task or the method refuses an argument.
    """
    from .wrappers import HyperGradient

    parameters = check_names(env_id, env_kwargs)
    try:
        game = gym.make(env_id, render_mode=options.pop("render_mode", None), **env_kwargs)
    except (ValueError, TypeError, gym.error.Error) as error:
        # Gymnasium adds its own sentence to the constructor's.
        reason = str(error).partition(" was raised from the environment creator")[0]
        if isinstance(error, TypeError):
            reason = "; ".join([*mismatches(parameters, env_kwargs), reason])
        raise CommandError(f"cannot make {env_id}: {reason}") from None
    try:
        return HyperGradient(game, method=method, **options)
    except (ValueError, TypeError) as error:
        raise CommandError(f"cannot take the leader's seat of {env_id}: {error}") from None


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
            raise CommandError(unknown_name(f"argument of {env_id}", name, parameters))
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


# What users see --------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> Console:
    """Return a console: as wide as the terminal, or wide enough for every table elsewhere."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show each warning as one line, without the place in Gymnasium that passed it on."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = re.sub(r"\x1b\[\d+m", "", str(message)).removeprefix("WARN: ")
        click.echo(f"Warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bilevel-gym", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Bilevel reinforcement learning: a leader sets x, a follower learns under it."""
    ctx.with_resource(plain_warnings())
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# list ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskRow:
    """A row of the table of tasks, as text."""

    task: str
    upper: str
    dimension: str
    size: str
    enters: str
    best_known: str
    source: str


def describe(task: Task) -> TaskRow:
    """Return the row of a task, its sizes taken from the game itself."""
    game: Any = gym.make(task.id).unwrapped
    spaces = (game.observation_space, game.lower_space)
    discrete = all(isinstance(space, gym.spaces.Discrete) for space in spaces)
    best = getattr(game, "best_known", None)
    return TaskRow(
        task=task.id,
        upper=task.upper,
        dimension=str(int(np.prod(game.upper_space.shape))),
        size=" x ".join(str(space.n) for space in spaces) if discrete else "continuous",
        enters=task.enters,
        best_known="none" if best is None else f"{best.value:.4f}",
        source=task.source,
    )


def markdown_table() -> str:
    """Return the README's table of tasks, from the registry."""
    lines = [
        "| task | what x is | dimension | states x actions | what enters "
        "| best known value | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        row = describe(task)
        lines.append(
            f"| `{row.task}` | {row.upper} | {row.dimension} | {row.size} | {row.enters} "
            f"| {row.best_known} | {row.source} |"
        )
    return "\n".join(lines)


@main.command("list")
@click.option("--markdown", is_flag=True, help="Print the table of the README.")
def list_tasks(markdown: bool) -> None:
    """List the tasks."""
    if markdown:
        click.echo(markdown_table())
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("what x is")
    table.add_column("dimension", justify="right")
    table.add_column("states x actions", justify="right")
    table.add_column("x enters")
    table.add_column("source")
    for task in TASKS:
        row = describe(task)
        table.add_row(row.task, row.upper, row.dimension, row.size, row.enters, row.source)
    console().print(table)


# check -----------------------------------------------------------------------------------------


@main.command("check")
@task_argument
@set_option
@click.option(
    "--points",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Points along a short ascent path at which gradients are compared.",
)
@click.option(
    "--coordinates",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Entries of x compared at each point, at most.",
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-6,
    show_default=True,
    callback=positive,
    help="Relative error allowed.",
)
@seed_option
def check(
    env_id: str,
    env_kwargs: dict[str, Any],
    points: int,
    coordinates: int,
    tolerance: float,
    seed: int,
) -> None:
    """Check a task: the environment API, and its hyper-gradient against differences.

    ID may be module:ID, to check a task of your own that this module registers.
    """
    env = make_leader(env_id, env_kwargs)
    failed = [
        name
        for name, run in api_checks(lambda: make_leader(env_id, env_kwargs))
        if not passes(name, run)
    ]
    if not compare_gradients(env, points, coordinates, tolerance, seed):
        failed.append("hyper-gradient")
    if failed:
        click.echo(f"{env_id} failed: {', '.join(failed)}.")
        click.get_current_context().exit(1)
    click.echo(f"{env_id} passed.")


def api_checks(
    fresh: Callable[[], HyperGradient],
) -> list[tuple[str, Callable[[], object] | None]]:
    """Return the checkers of the environment API by name, None where one is not installed."""
    from gymnasium.utils.env_checker import check_env

    checks: list[tuple[str, Callable[[], object] | None]] = [
        ("Gymnasium's checker, game", lambda: check_env(fresh().unwrapped, skip_render_check=True)),
        ("Gymnasium's checker, leader's seat", lambda: check_env(fresh(), skip_render_check=True)),
    ]
    try:
        from stable_baselines3.common.env_checker import check_env as check_sb3
    except ImportError:
        checks.append(("Stable-Baselines3's checker, leader's seat", None))
    else:
        checks.append(("Stable-Baselines3's checker, leader's seat", lambda: check_sb3(fresh())))
    return checks


def passes(name: str, run: Callable[[], object] | None) -> bool:
    """Run one checker, say how it went, and return whether it found nothing wrong."""
    if run is None:
        click.echo(f"{name}: skipped, needs the `sb3` extra")
        return True
    try:
        with warnings.catch_warnings():
            # The seat is a wrapper by design.
            warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
            run()
    except Exception as error:  # whatever a checker raises is its verdict
        click.echo(f"{name}: FAILED, {error or type(error).__name__}")
        return False
    click.echo(f"{name}: passed")
    return True


def compare_gradients(
    env: HyperGradient, points: int, coordinates: int, tolerance: float, seed: int
) -> bool:
    """Compare hyper-gradients with differences along an ascent path, and print the table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from .testing import HyperGradientError, check_hyper_gradient

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("point", "objective", "relative error", "response share", "verdict"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right")
    failures: list[HyperGradientReport] = []
    meaningful = False
    with console(stderr=True).status("comparing the hyper-gradient with differences"):
        for number, iterate in enumerate(ascent_path(env, points, seed)):
            try:
                report = check_hyper_gradient(
                    env,
                    iterate.upper_params,
                    coordinates=min(coordinates, iterate.upper_params.size),
                    tolerance=tolerance,
                    min_response_share=0.0,  # judged below, for the whole path
                    seed=seed,
                )
                verdict = "passed"
            except HyperGradientError as error:
                report = error.report
                failures.append(report)
                verdict = "FAILED"
            if report.response_share >= MIN_RESPONSE_SHARE:
                meaningful = True
            elif verdict == "passed":
                verdict = "passed, but the response term is too small to tell"
            table.add_row(
                str(number),
                f"{iterate.value:.6f}",
                f"{report.relative_error:.1e}",
                f"{100.0 * report.response_share:.1f} %",
                verdict,
            )
    console().print(table)
    for report in failures:
        click.echo(f"{report}\n")
    if not meaningful:
        click.echo(
            f"The response term is below {100.0 * MIN_RESPONSE_SHARE:.0f} % of the hyper-gradient "
            "at every point: nothing was tested."
        )
    return meaningful and not failures


def ascent_path(env: HyperGradient, points: int, seed: int) -> list[Iterate]:
    """Return iterates spread over a short normalised ascent from the initial x."""
    from .optimizers import normalized_ascent
    from .runs import Leader

    iterates: list[Iterate] = []
    leader = Leader(env)
    env.reset(seed=seed)
    normalized_ascent(
        leader,
        env.game.initial_upper_params,
        leader.low,
        leader.high,
        steps=max(PATH_STEPS, points - 1),
        learning_rate=PATH_LEARNING_RATE,
        callback=iterates.append,
    )
    chosen = np.unique(np.linspace(0, len(iterates) - 1, points).astype(int))
    return [iterates[i] for i in chosen]


# solve -----------------------------------------------------------------------------------------


@main.command("solve")
@task_argument
@set_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps of the ascent.",
)
@click.option(
    "--learning-rate",
    "--lr",
    type=float,
    default=0.05,
    show_default=True,
    callback=positive,
    help="Length of the first step; later ones fall to zero.",
)
@seed_option
@click.option(
    "--method",
    metavar="NAME",
    default="exact",
    show_default=True,
    help="Source of the hyper-gradient: exact, or an estimate such as direct.",
)
@click.option(
    "--polish/--no-polish",
    default=None,
    help="Follow the ascent with L-BFGS-B from the best x.  [default: if the method is exact]",
)
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="params.npz of an earlier run, to go on from its best x.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.  [default: the next free number under runs/ID]",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of a run that is in --out.")
@click.option("--gif", is_flag=True, help="Film the run as well.")
def solve(
    env_id: str,
    env_kwargs: dict[str, Any],
    steps: int,
    learning_rate: float,
    seed: int,
    method: str,
    polish: bool | None,
    start: Path | None,
    out: Path | None,
    overwrite: bool,
    gif: bool,
) -> None:
    """Climb a task's objective, and keep the run in a folder.

    The folder gets history.csv (one row for each evaluation), params.npz (best, final and initial
    x), progress.png, config.json and, with --gif, run.gif. Ctrl-C ends the run early and keeps what
    it has reached.
    """
    from .envs.base import BilevelEnv
    from .plots import Film
    from .runs import POLISH_EVALUATIONS, Leader, RunRecorder, climb, write_config

    polish_evaluations = 0 if polish is False else POLISH_EVALUATIONS
    env = make_leader(
        env_id,
        env_kwargs,
        method,
        render_mode="rgb_array" if gif else None,
        outer_steps=steps + 1 + polish_evaluations,
    )
    if gif and type(env.game).draw is BilevelEnv.draw:
        raise CommandError(f"`--gif` needs a task with a picture, and {env_id} has none")
    polish = env.method.exact if polish is None else polish
    x = first_point(env, start)
    folder = claim_folder(out, env_id, overwrite)
    config = {
        "id": env_id,
        "kwargs": env_kwargs,
        "method": method,
        "steps": steps,
        "learning_rate": learning_rate,
        "polish": polish,
        "seed": seed,
        "start": None if start is None else str(start),
        "versions": versions(),
    }
    leader, film = Leader(env), Film() if gif else None
    began = time.perf_counter()
    with explain_os_errors(folder), RunRecorder(folder) as recorder:
        write_config(folder, config)
        try:
            with progress_bar(steps + 1) as show:

                def keep(iterate: Iterate, phase: str) -> None:
                    recorder.add(iterate, leader.info, phase)
                    if film is not None:
                        film.offer(env.render)
                    show(phase, iterate.value)

                env.reset(seed=seed, options={"upper_params": x})
                outcome = climb(
                    leader,
                    x,
                    steps=steps,
                    learning_rate=learning_rate,
                    polish=polish,
                    callback=keep,
                )
        except KeyboardInterrupt:
            outcome = INTERRUPTION
        finally:  # an error, too, leaves behind what was reached
            seconds = time.perf_counter() - began
            save_results(leader, recorder, film, f"{env_id}, method {method}")
    report(leader, recorder, method, outcome, seconds)
    if outcome == INTERRUPTION:
        click.get_current_context().exit(INTERRUPTED)


def first_point(env: HyperGradient, start: Path | None) -> FloatArray:
    """Return the x to start from.

    Raises:
        CommandError: If the file holds no x of this task.
    """
    from .runs import load_start

    if start is None:
        return env.game.initial_upper_params
    try:
        return env.game.validate_upper_params(load_start(start))
    except (ValueError, OSError) as error:
        raise CommandError(f"`--start` {start}: {error}") from None


def claim_folder(out: Path | None, env_id: str, overwrite: bool) -> Path:
    """Return the folder of a new run, before any work is done.

    Raises:
        CommandError: If it holds something already or cannot be written.
    """
    from .runs import NotEmptyError, open_folder

    try:
        with explain_os_errors(out or Path("runs")):
            return open_folder(out, env_id, overwrite=overwrite)
    except NotEmptyError as error:
        raise CommandError(
            f"{error}; choose another `--out`, or give `--overwrite` to replace the run in it"
        ) from None


@contextlib.contextmanager
def explain_os_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        raise CommandError(
            f"cannot write the run's folder {folder}: {error.strerror}"
            + (f" ({error.filename})" if error.filename else "")
        ) from None


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    import scipy

    return {
        "python": platform.python_version(),
        "bilevel_gym": __version__,
        "gymnasium": gym.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


@contextlib.contextmanager
def progress_bar(evaluations: int) -> Iterator[Callable[[str, float], None]]:
    """Show a bar while the block runs, on a terminal only; yield what moves it on.

    Args:
        evaluations: Evaluations of the ascent; how many the polish takes is not known.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    terminal = console(stderr=True)
    columns = (
        TextColumn("{task.description:<7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("objective {task.fields[objective]:.6f}"),
    )
    with Progress(
        *columns, console=terminal, transient=True, disable=not terminal.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, objective: float) -> None:
            if phase not in tasks:
                total = evaluations if not tasks else None
                tasks[phase] = bar.add_task(phase, total=total, objective=objective)
            bar.update(tasks[phase], advance=1, objective=objective)

        yield show


def save_results(leader: Leader, recorder: RunRecorder, film: Film | None, title: str) -> None:
    """Write the parameters and the pictures of a run, as far as it went."""
    from .plots import plot_history
    from .runs import GIF, PLOT

    if recorder.best is None:
        return
    recorder.write_params(leader.low, leader.high)
    plot_history(recorder.history, recorder.folder / PLOT, title)
    if film is not None:
        leader(recorder.best.upper_params)
        film.add(leader.env.render())  # the film ends on the best x
        film.save(recorder.folder / GIF)


def report(
    leader: Leader, recorder: RunRecorder, method: str, outcome: str, seconds: float
) -> None:
    """Print what a run reached, in the game's own exact figures, and where its files are."""
    from .runs import FILES

    folder, last = recorder.folder, recorder.last
    if recorder.first is None or recorder.best is None or last is None:
        click.echo(f"Interrupted before the first evaluation; nothing to keep in {folder}.")
        return
    game = cast("SupportsEvaluate", leader.env.game)
    first = game.evaluate(recorder.first.upper_params)
    best = game.evaluate(recorder.best.upper_params)
    console().print(result_table(leader, first, best))
    if np.linalg.norm(last.gradient) == 0.0:
        where = "at the start" if last.number == 0 else f"after {last.number} steps"
        outcome = f"the gradient of method {method!r} vanishes {where}"
    click.echo(f"stopped: {outcome}")
    if not leader.env.method.exact:
        click.echo(
            f"Method {method!r} gives an estimate, not the hyper-gradient; the exact projected "
            f"gradient norm at the best x is {exact_norm(leader, best):.3g}."
        )
    failures = sum(not record.inner_converged for record in recorder.history)
    if failures:
        click.echo(f"Warning: {failures} inner solves did not converge, see history.csv", err=True)
    count = len(recorder.history)
    click.echo(f"evaluations: {count}, each an inner solve, in {seconds:.2f} s")
    written = ", ".join(name for name in FILES if (folder / name).exists())
    click.echo(f"run: {folder} ({written})")


def result_table(leader: Leader, first: Response, best: Response) -> Table:
    """Return start and end of a run side by side."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    ends = (first, best)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("start", justify="right")
    table.add_column("best", justify="right")
    table.add_row("objective", *(f"{end.objective:.6f}" for end in ends))
    table.add_row("projected gradient norm", *(f"{exact_norm(leader, end):.2e}" for end in ends))
    table.add_row("response share of the gradient", *(share_text(end) for end in ends))
    return table


def share_text(response: Response) -> str:
    """Return the response share, in words where the two parts of the gradient nearly cancel."""
    share = response.response_share
    return f"{100.0 * share:.1f} %" if share <= CANCELLING else "cancels the direct part"


def exact_norm(leader: Leader, response: Response) -> float:
    """Return the projected gradient norm of the game's own answer."""
    from .optimizers import projected_gradient_norm

    return projected_gradient_norm(
        response.upper_params, response.hyper_gradient, leader.low, leader.high
    )


# play ------------------------------------------------------------------------------------------


@main.command("play")
@task_argument
@set_option
@click.option(
    "--headless",
    metavar="OUT.gif",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Open no window; film the game into this file.",
)
def play(env_id: str, env_kwargs: dict[str, Any], headless: Path | None) -> None:
    """Play a task in a window, as leader and as follower."""
    make_leader(env_id, env_kwargs).close()  # says what is wrong with ID or NAME=VALUE

    from .play import play as play_game
    from .recording import NoDisplayError

    try:
        play_game(env_id, headless=headless, **env_kwargs)
    except (ValueError, TypeError, NoDisplayError) as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:  # as good a way to leave as closing the window
        click.get_current_context().exit(INTERRUPTED)


if __name__ == "__main__":
    main()
