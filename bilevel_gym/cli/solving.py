"""`bilevel-gym solve`: maximise a task's objective, and keep the run in a folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..core.checks import check_choice
from ..core.files import loaded_versions
from ..making import answers_exactly
from ..optimizers import (
    OPTIMIZERS,
    RULES,
    SCHEDULES,
    check_optimizer,
    make_optimizer,
    options_for,
    projected_gradient_norm,
)
from ..registration import TASKS
from .arguments import (
    INTERRUPTED,
    CommandError,
    in_one_line,
    make_leader,
    method_option,
    method_set_option,
    out_option,
    positive,
    seed_option,
    set_option,
    settings_option,
    takes_names,
    task_argument,
)
from .console import explain_os_errors, progress_bar, show_table

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..optimizers import Iterate
    from ..rendering import Film
    from ..wrappers import HyperGradient, LeaderObjective
    from .run_folder import History

INTERRUPTION = "interrupted; what it reached is kept"

# Optimizer and steps of a run: where the follower's answer is exact, and where the follower learns,
# which is slow, and whose estimates are noisy: Adam averages them.
EXACT_DEFAULTS = ("normalized", 200)
LEARNT_DEFAULTS = ("adam", 10)

# Numbers of a run depend on their versions, on the latter where the follower learns.
LIBRARIES = ("bilevel_gym", "gymnasium", "numpy", "scipy")
LEARNT_LIBRARIES = ("torch", "stable_baselines3", "mujoco", "ale_py")

# Evaluations after which the polish begins no further line search.
POLISH_EVALUATIONS = 200


@click.command("solve")
@task_argument
@set_option
@click.option(
    "--optimizer",
    metavar="NAME",
    help=f"What moves x: {', '.join(sorted(OPTIMIZERS))}.  [default: {EXACT_DEFAULTS[0]}; "
    f"{LEARNT_DEFAULTS[0]} where the follower learns]",
    **takes_names(lambda: OPTIMIZERS, lambda name: check_choice("optimizer", name, OPTIMIZERS)),
)
@settings_option(
    "--optimizer-set",
    "optimizer_options",
    "Option of the optimizer, e.g. schedule=constant",
    lambda: (f"schedule={name}" for name in SCHEDULES),
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help=f"Steps of the optimizer; one evaluation more than that.  [default: {EXACT_DEFAULTS[1]}; "
    "where the follower learns, as on the task's page]",
)
@click.option(
    "--learning-rate",
    "--lr",
    type=float,
    callback=positive,
    help="Learning rate of the first step, which falls to zero; constant where the follower learns."
    "  [default: that of the optimizer; where the follower learns, as on the task's page, or a "
    "fiftieth of the width of the box]",
)
@seed_option
@method_option
@method_set_option
@click.option(
    "--polish/--no-polish",
    default=None,
    help="Continue with L-BFGS-B from the best x.  [default: if the method is exact and the "
    "optimizer takes plain steps]",
)
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="params.npz of an earlier run, to go on from its best x.",
)
@out_option("Folder of the run.  [default: the next free number under runs/ID]")
@click.option("--overwrite", is_flag=True, help="Replace the files of a run that is in --out.")
@click.option("--gif", is_flag=True, help="Film the run as well.")
def solve(
    env_id: str,
    env_kwargs: dict[str, Any],
    optimizer: str | None,
    optimizer_options: dict[str, Any],
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
    """Maximise a task's objective, and keep the run in a folder.

    The folder gets history.csv (one row for each evaluation), params.npz (best, final and initial
    x), result.json, progress.png, config.json and, with --gif, run.gif. Ctrl-C or SIGTERM ends the
    run early and keeps what it has reached; of a run that is killed, history.csv and params.npz are
    there.

    The projected gradient norm is the length of P(x + g) - x, g being the exact hyper-gradient and
    P the projection on the box of x; it is zero at a stationary point, and at most that of g. Where
    the follower learns, nothing is exact: g and the objective are the method's estimates.
    """
    from ..methods.registry import WrongAnswer
    from ..rendering import Film
    from ..wrappers import LeaderObjective
    from .films import check_picture
    from .run_folder import CONFIG, History, load_start, open_folder, write_json

    mode = "rgb_array" if gif else None
    env = make_leader(env_id, env_kwargs, method, render_mode=mode, method_options=method_options)
    if gif:
        check_picture("`--gif`", env_id, env)
    leader, learns = LeaderObjective(env), not answers_exactly(env.game)
    method = env.game.default_method if method is None else method
    by_default, options = default_optimizer(env_id, env)
    optimizer = by_default if optimizer is None else optimizer
    given = {"steps": steps, "learning_rate": learning_rate}
    options |= {name: value for name, value in given.items() if value is not None}
    steps = options["steps"]
    options = options_for(optimizer, optimizer_options, seed=seed, **options)
    if learning_rate is not None and "learning_rate" not in options:
        raise CommandError(f"`--learning-rate`: optimizer {optimizer!r} has none")
    x = env.game.initial_upper_params if start is None else load_start(start, env.game)
    with in_one_line():
        check_optimizer(optimizer, x, leader.low, leader.high, **options)
    polish = env.method.exact and optimizer in RULES if polish is None else polish
    folder = open_folder(out, env_id, overwrite=overwrite)
    takes = signature(OPTIMIZERS[optimizer]).parameters
    rate = {name: parameter.default for name, parameter in takes.items()} | options
    config = {
        "id": env_id,
        "kwargs": env_kwargs,
        "method": method,
        "method_options": method_options,
        "steps": steps,
        "learning_rate": rate.get("learning_rate"),
        "optimizer": optimizer,
        "optimizer_options": optimizer_options,
        "polish": polish,
        "seed": seed,
        "start": None if start is None else str(start),
        "versions": loaded_versions(*LIBRARIES, *(LEARNT_LIBRARIES if learns else ())),
    }
    film = Film() if gif else None
    began = time.perf_counter()
    with (
        explain_os_errors(folder),
        contextlib.closing(History(folder, leader.low, leader.high)) as history,
    ):
        write_json(folder / CONFIG, config)
        try:
            with progress_bar("ascent", steps + 1) as show:

                def keep(phase: str, iterate: Iterate) -> None:
                    history.add(iterate, leader.info, phase)
                    if film is not None:
                        film.offer(env.render)
                    show(phase, f"objective {iterate.value:.6f}")

                leader.reset(x, seed=seed)
                outcome, _ = optimize(leader, x, optimizer, options, polish=polish, callback=keep)
        except KeyboardInterrupt:
            outcome = INTERRUPTION
        except WrongAnswer as error:
            raise CommandError(str(error)) from error
        finally:  # an error, too, leaves behind what was reached
            seconds = time.perf_counter() - began
            of = "method" if env.method.exact else "estimates of method"
            save_results(leader, history, film, f"{env_id}, {of} {method}", seed)
    report(leader, history, method, outcome, seconds)
    if outcome == INTERRUPTION:
        click.get_current_context().exit(INTERRUPTED)


def default_optimizer(env_id: str, env: HyperGradient) -> tuple[str, dict[str, Any]]:
    """Return the default optimizer of a task, and options for those that take them."""
    if answers_exactly(env.game):
        optimizer, steps = EXACT_DEFAULTS
        return optimizer, {"steps": steps}
    optimizer, steps = LEARNT_DEFAULTS
    space = env.game.upper_space
    rate = 0.02 * float((space.high - space.low).max())
    own = next((task.climb for task in TASKS if task.id == env_id), {})
    # At a constant rate: noisy estimates need not wait for x to stand still.
    return optimizer, {"steps": steps, "learning_rate": rate, "schedule": "constant", **own}


def optimize(
    leader: LeaderObjective,
    start: FloatArray,
    optimizer: str,
    options: dict[str, Any],
    *,
    polish: bool = False,
    callback: Callable[[str, Iterate], None] = lambda phase, iterate: None,
) -> tuple[str, FloatArray]:
    """Run an optimizer, and then L-BFGS-B from the best x if that is wanted.

    L-BFGS-B trusts the gradient to be that of the objective, so it suits exact methods only. The
    callback gets the phase, "ascent" or "polish", and every iterate. Returns why it stopped, and
    the best x.
    """
    box = (leader.low, leader.high)
    ascend = make_optimizer(optimizer, **options)
    found = ascend(leader, start, *box, callback=partial(callback, "ascent"))
    best = found.best.upper_params
    vanished = found.evaluations <= options.get("steps", 0)
    if vanished or not polish:
        return found.message, best
    climb = make_optimizer("lbfgsb", max_evaluations=POLISH_EVALUATIONS)
    top = climb(leader, best, *box, callback=partial(callback, "polish"))
    return f"{found.message}, then L-BFGS-B: {top.message}", top.best.upper_params


def save_results(
    leader: LeaderObjective, history: History, film: Film | None, title: str, seed: int
) -> None:
    """Write the parameters and the pictures of a run, as far as it went."""
    if not history.records:
        return
    history.write_params()
    try:
        draw(leader, history, film, title, seed)
    except Exception as error:  # whatever happens to a picture, the run is kept
        click.echo(
            f"Warning: the pictures are not drawn: {error or type(error).__name__}", err=True
        )


def draw(
    leader: LeaderObjective, history: History, film: Film | None, title: str, seed: int
) -> None:
    """Draw the history of a run, and its film."""
    from .films import film_episode
    from .run_folder import GIF

    history.plot(title)
    if film is not None:
        if answers_exactly(leader.seat.game):
            leader(history.best.upper_params)
            film.add(leader.seat.render())  # the film ends on the best x
        else:
            film_episode(leader.seat, history.best.upper_params, film, seed)
        film.save(history.folder / GIF)


def report(
    leader: LeaderObjective, history: History, method: str, outcome: str, seconds: float
) -> None:
    """Print what a run reached, and where its files are.

    Objectives and norms are the exact ones, or the method's estimates where there are none.
    """
    from ..wrappers import exact_objective
    from .run_folder import FILES, RESULT, write_json

    folder = history.folder
    if not history.records:
        click.echo(f"Interrupted before the first evaluation; nothing to keep in {folder}.")
        return
    last, game, exact = history.last, leader.seat.game, answers_exactly(leader.seat.game)

    def figures(iterate: Iterate) -> tuple[float, float]:
        if not exact:
            return iterate.value, iterate.projected_gradient_norm
        x = iterate.upper_params
        value, gradient = exact_objective(game.model)(x)
        return value, projected_gradient_norm(x, gradient, leader.low, leader.high)

    (first, first_norm), (best, best_norm) = figures(history.first), figures(history.best)
    known = "none" if game.best_known is None else f"{game.best_known.value:.6f}"
    rows = [
        ("objective", f"{first:.6f}", f"{best:.6f}", known),
        ("projected gradient norm", f"{first_norm:.2e}", f"{best_norm:.2e}", ""),
    ]
    show_table(("", "start", "best", "best known"), rows)
    if np.linalg.norm(last.gradient) == 0.0:
        where = "at the start" if last.number == 0 else f"after {last.number} steps"
        outcome = f"the gradient of method {method!r} vanishes {where}"
    click.echo(f"stopped: {outcome}")
    if not exact:
        click.echo(
            "The follower learns: objectives and gradients are estimates from episodes, and the "
            "best of noisy estimates is on average too high."
        )
    elif not leader.seat.method.exact:
        click.echo(
            f"Method {method!r} gives an estimate, not the hyper-gradient; the exact projected "
            f"gradient norm at the best x is {best_norm:.3g}."
        )
    failures = sum(record.inner_converged is False for record in history.records)
    if failures:
        click.echo(f"Warning: {failures} inner solves did not converge, see history.csv", err=True)
    count = len(history.records)
    samples = sum(record.inner_samples or 0 for record in history.records)
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
