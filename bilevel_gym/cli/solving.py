"""`bilevel-gym solve`: climb a task's objective, and keep the run in a folder."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym
import numpy as np

from .. import __version__
from ..making import answers_exactly
from ..registration import TASKS
from .arguments import (
    INTERRUPTED,
    CommandError,
    make_leader,
    method_option,
    parse_settings,
    positive,
    seed_option,
    set_option,
    task_argument,
)
from .console import console, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..core.mdp import FloatArray
    from ..optimizers import Iterate
    from ..rendering import Film
    from ..wrappers import HyperGradient
    from .runs import Leader, RunRecorder

INTERRUPTION = "interrupted; what it reached is kept"


@click.command("solve")
@task_argument
@set_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Steps of the ascent.  [default: 200; fewer for a follower who learns]",
)
@click.option(
    "--learning-rate",
    "--lr",
    type=float,
    callback=positive,
    help="Length of the first step; later ones fall to zero.  [default: 0.05]  For a follower who "
    "learns, Adam's constant rate.  [default: that of the task's page, or a fiftieth of the width "
    "of the box]",
)
@seed_option
@method_option
@click.option(
    "--method-set",
    "method_options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=parse_settings,
    help="Option of the method, e.g. episodes=2048; may be repeated.",
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
    steps: int | None,
    learning_rate: float | None,
    seed: int,
    method: str | None,
    method_options: dict[str, Any],
    polish: bool | None,
    start: Path | None,
    out: Path | None,
    overwrite: bool,
    gif: bool,
) -> None:
    """Climb a task's objective, and keep the run in a folder.

    The folder gets history.csv (one row for each evaluation), params.npz (best, final and initial
    x), result.json, progress.png, config.json and, with --gif, run.gif. Ctrl-C ends the run early
    and keeps what it has reached.

    The projected gradient norm is the length of P(x + g) - x, g being the exact hyper-gradient and
    P the projection on the box of x; it is zero at a stationary point, and at most that of g. Where
    the follower learns nothing is exact: g, and the objective, are what the method estimates.
    """
    from ..envs.base import BilevelEnv
    from ..rendering import Film
    from .runs import CONFIG, Leader, RunRecorder, climb, write_json

    env = make_leader(
        env_id,
        env_kwargs,
        method,
        render_mode="rgb_array" if gif else None,
        method_options=method_options,
    )
    if gif and type(env.game).draw is BilevelEnv.draw:
        raise CommandError(f"`--gif` needs a task with a picture, and {env_id} has none")
    method = env.game.default_method if method is None else method
    polish = env.method.exact if polish is None else polish
    learns = not answers_exactly(env.game)
    by_default = climb_defaults(env_id, env)
    steps = by_default["steps"] if steps is None else steps
    learning_rate = by_default["learning_rate"] if learning_rate is None else learning_rate
    x = first_point(env, start)
    folder = claim_folder(out, env_id, overwrite)
    config = {
        "id": env_id,
        "kwargs": env_kwargs,
        "method": method,
        "method_options": method_options,
        "steps": steps,
        "learning_rate": learning_rate,
        "optimizer": "adam" if learns else "normalized",
        "polish": polish,
        "seed": seed,
        "start": None if start is None else str(start),
        "versions": versions(learns),
    }
    leader, film = Leader(env), Film() if gif else None
    began = time.perf_counter()
    with explain_os_errors(folder), RunRecorder(folder) as recorder:
        write_json(folder / CONFIG, config)
        try:
            with progress_bar(steps + 1) as show:

                def keep(iterate: Iterate, phase: str) -> None:
                    recorder.add(iterate, leader.info, phase)
                    if film is not None:
                        film.offer(env.render)
                    show(phase, iterate.value)

                leader.reset(x, seed)
                outcome = climb(
                    leader,
                    x,
                    steps=steps,
                    learning_rate=learning_rate,
                    learns=learns,
                    polish=polish,
                    callback=keep,
                )
        except KeyboardInterrupt:
            outcome = INTERRUPTION
        finally:  # an error, too, leaves behind what was reached
            seconds = time.perf_counter() - began
            of = "method" if env.method.exact else "estimates of method"
            save_results(leader, recorder, film, f"{env_id}, {of} {method}", seed)
    report(leader, recorder, method, outcome, seconds)
    if outcome == INTERRUPTION:
        click.get_current_context().exit(INTERRUPTED)


def climb_defaults(env_id: str, env: HyperGradient) -> dict[str, Any]:
    """Return `steps` and `learning_rate` of a climb unless the user says so.

    A follower who learns is slow, and its leader has steps for no more than the way.
    """
    if answers_exactly(env.game):
        return {"steps": 200, "learning_rate": 0.05}
    space = env.game.upper_space
    general = {"steps": 10, "learning_rate": 0.02 * float((space.high - space.low).max())}
    return {**general, **next((task.climb for task in TASKS if task.id == env_id), {})}


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
            f"cannot write the folder {folder}: {error.strerror}"
            + (f" ({error.filename})" if error.filename else "")
        ) from None


def versions(learns: bool) -> dict[str, str]:
    """Return the versions that a run's numbers depend on.

    Args:
        learns: Whether the follower learns: then its libraries, as far as they are in use, count.
    """
    import scipy

    libraries = ("torch", "stable_baselines3", "mujoco", "ale_py") if learns else ()
    loaded = [sys.modules.get(name) for name in libraries]
    return {
        "python": platform.python_version(),
        "bilevel_gym": __version__,
        "gymnasium": gym.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        **{module.__name__: str(module.__version__) for module in loaded if module is not None},
    }


def save_results(
    leader: Leader, recorder: RunRecorder, film: Film | None, title: str, seed: int
) -> None:
    """Write the parameters and the pictures of a run, as far as it went."""
    from .films import film_episode
    from .plots import plot_history
    from .runs import GIF, PLOT

    if recorder.best is None:
        return
    recorder.write_params(leader.low, leader.high)
    plot_history(recorder.history, recorder.folder / PLOT, title)
    if film is not None:
        if answers_exactly(leader.env.game):
            leader(recorder.best.upper_params)
            film.add(leader.env.render())  # the film ends on the best x
        else:
            film_episode(leader.env, recorder.best.upper_params, film, seed)
        film.save(recorder.folder / GIF)


def report(
    leader: Leader, recorder: RunRecorder, method: str, outcome: str, seconds: float
) -> None:
    """Print what a run reached, and where its files are.

    Figures are the game's own exact ones, or what the method estimates where there are none.
    """
    from .runs import FILES, RESULT, write_json

    folder, last = recorder.folder, recorder.last
    if recorder.first is None or recorder.best is None or last is None:
        click.echo(f"Interrupted before the first evaluation; nothing to keep in {folder}.")
        return
    exact = answers_exactly(leader.env.game)
    figures = exact_figures if exact else estimated_figures
    first, first_norm = figures(leader, recorder.first)
    best, best_norm = figures(leader, recorder.best)
    console().print(result_table(leader, (first, best), (first_norm, best_norm)))
    if np.linalg.norm(last.gradient) == 0.0:
        where = "at the start" if last.number == 0 else f"after {last.number} steps"
        outcome = f"the gradient of method {method!r} vanishes {where}"
    click.echo(f"stopped: {outcome}")
    if not exact:
        click.echo(
            "The follower learns: objectives and gradients are estimates from episodes, and the "
            "best of noisy estimates flatters itself."
        )
    elif not leader.env.method.exact:
        click.echo(
            f"Method {method!r} gives an estimate, not the hyper-gradient; the exact projected "
            f"gradient norm at the best x is {best_norm:.3g}."
        )
    failures = sum(record.inner_converged is False for record in recorder.history)
    if failures:
        click.echo(f"Warning: {failures} inner solves did not converge, see history.csv", err=True)
    count = len(recorder.history)
    samples = sum(record.inner_samples or 0 for record in recorder.history)
    work = f"{samples} environment steps" if samples else "each an inner solve"
    click.echo(f"evaluations: {count}, {work}, in {seconds:.2f} s")
    result = {
        "objective": {"start": first, "best": best},
        "projected_gradient_norm": {"start": first_norm, "best": best_norm},
        "evaluations": count,
        "environment_steps": samples,
        "inner_solves_not_converged": failures,
        "stopped": outcome,
        "seconds": round(seconds, 3),
    }
    write_json(folder / RESULT, result)
    written = ", ".join(name for name in FILES if (folder / name).exists())
    click.echo(f"run: {folder} ({written})")


def result_table(
    leader: Leader, objectives: tuple[float, float], norms: tuple[float, float]
) -> Table:
    """Return start and end of a run side by side, and the best value known of the task."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("start", justify="right")
    table.add_column("best", justify="right")
    table.add_column("best known", justify="right")
    known = leader.env.game.best_known
    table.add_row(
        "objective",
        *(f"{value:.6f}" for value in objectives),
        "none" if known is None else f"{known.value:.6f}",
    )
    table.add_row("projected gradient norm", *(f"{norm:.2e}" for norm in norms))
    return table


def exact_figures(leader: Leader, iterate: Iterate) -> tuple[float, float]:
    """Return objective and projected gradient norm of an x, by the game's own answer."""
    from ..model import evaluate
    from ..optimizers import projected_gradient_norm

    response = evaluate(leader.env.game.model, iterate.upper_params)
    assert response.hyper_gradient is not None, "an exact response has one"
    norm = projected_gradient_norm(
        response.upper_params, response.hyper_gradient, leader.low, leader.high
    )
    return response.objective, norm


def estimated_figures(leader: Leader, iterate: Iterate) -> tuple[float, float]:
    """Return objective and projected gradient norm of an x, as they were when it was evaluated."""
    return iterate.value, iterate.projected_gradient_norm
