"""`bilevel-gym check` and `check-method`: whether a task, or a method, keeps what it promises."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..making import answers_exactly
from ..registration import TASKS
from .arguments import (
    FAILED,
    METHOD,
    TASK,
    count_option,
    in_one_line,
    make_leader,
    method_set_option,
    positive,
    seed_option,
    set_option,
    task_argument,
)
from .console import show_table
from .progress import progress_bar, waiting
from .solving import optimize

if TYPE_CHECKING:
    from ..optimizers import Iterate
    from ..testing import HyperGradientReport
    from ..wrappers import HyperGradient

# The ascent path along which hyper-gradients are compared: short, so that the response term still
# counts.
PATH_STEPS, PATH_LEARNING_RATE = 20, 0.05

# Options for a follower who learns: the API is checked, not what is learnt, so a few steps do.
# Tasks of this package have their own.
SOON = {"episodes": 2, "first_inner_steps": 20, "inner_steps": 20}

# Response share below which a comparison says nothing about the response term.
MIN_RESPONSE_SHARE = 0.1


@click.command("check", short_help="Check a task: its interface and its hyper-gradient.")
@task_argument
@set_option
@count_option("--points", 3, "Points along a short ascent path at which gradients are compared.")
@count_option("--coordinates", 64, "Entries of x compared at each point, at most.")
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

    ID may be module:ID, a task of your own that this module registers. Where the follower learns,
    the hyper-gradient is an estimate, and is not compared.
    """
    with waiting(f"making {env_id}"):
        env = make_leader(env_id, env_kwargs)
    exact = answers_exactly(env.game)
    own = {task.id: task.test_options for task in TASKS}
    options = {} if exact else own.get(env_id, SOON)
    failed = failed_checks(lambda: make_leader(env_id, env_kwargs, method_options=options))
    if not exact:
        click.echo(
            "hyper-gradient: not compared; the follower learns, so that it is an estimate, and "
            "differences of an estimated objective say nothing about it"
        )
    elif not compare_gradients(env, points, coordinates, tolerance, seed):
        failed.append("hyper-gradient")
    if failed:
        click.echo(f"{env_id} failed: {', '.join(failed)}.")
        click.get_current_context().exit(FAILED)
    click.echo(f"{env_id} passed.")


def failed_checks(fresh: Callable[[], HyperGradient]) -> list[str]:
    """Run the checkers of the environment API on fresh seats; return the names of those failed."""
    from gymnasium.utils.env_checker import check_env

    from ..wrappers import LowerLevel

    check_sb3: Callable[[Any], object] | None
    try:
        from stable_baselines3.common.env_checker import check_env as check_sb3
    except ImportError:
        check_sb3 = None
    seats: dict[str, Callable[[], Any]] = {
        "game": lambda: fresh().unwrapped,
        "leader's seat": fresh,
        "follower's seat": lambda: LowerLevel(fresh(), fresh().game.initial_upper_params),
    }
    check_gymnasium = partial(check_env, skip_render_check=True)
    failed = []
    for library, checker in (("Gymnasium", check_gymnasium), ("Stable-Baselines3", check_sb3)):
        for seat, make in seats.items():
            name = f"{library}'s checker, {seat}"
            if (library, seat) != ("Stable-Baselines3", "game") and not passes(name, checker, make):
                failed.append(name)
    return failed


def passes(name: str, check: Callable[[Any], object] | None, seat: Callable[[], Any]) -> bool:
    """Run a checker, say how it went, and return whether it found nothing wrong."""
    if check is None:
        click.echo(f"{name}: skipped, needs the `sb3` extra")
        return True
    try:
        with warnings.catch_warnings():
            # The seat is a wrapper by design.
            warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
            with waiting(name):
                check(seat())
    except Exception as error:  # whatever a checker raises is its verdict
        click.echo(f"{name}: FAILED, {error or type(error).__name__}")
        return False
    click.echo(f"{name}: passed")
    return True


def compare_gradients(
    env: HyperGradient, points: int, coordinates: int, tolerance: float, seed: int
) -> bool:
    """Compare hyper-gradients with differences along an ascent path, and print the table."""
    from ..testing import HyperGradientError, LogDerivativeError, check_hyper_gradient

    rows: list[tuple[str, ...]] = []
    failures: list[HyperGradientReport] = []
    meaningful = False
    with progress_bar("compared", points) as show:
        for number, iterate in enumerate(ascent_path(env, points, seed)):
            try:
                report = check_hyper_gradient(
                    env,
                    iterate.upper_params,
                    coordinates=min(coordinates, iterate.upper_params.size),
                    tolerance=tolerance,
                    min_response_share=0.0,  # checked below, for the whole path
                    seed=seed,
                )
                verdict = "passed"
            except HyperGradientError as wrong:
                report = wrong.report
                failures.append(report)
                verdict = "FAILED"
            except LogDerivativeError as wrong:
                click.echo(f"point {number}: {wrong}")
                return False
            if report.response_share >= MIN_RESPONSE_SHARE:
                meaningful = True
            elif verdict == "passed":
                verdict = "passed, but the response term is too small to tell"
            share = f"{100.0 * report.response_share:.1f} %"
            error = f"{report.relative_error:.1e}"
            rows.append((str(number), f"{iterate.value:.6f}", error, share, verdict))
            show.step("compared", f"compared with differences: {verdict}")
    headings = ("point", "objective", "relative error", "response share", "verdict")
    show_table(headings, rows, words=("verdict",))
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
    from ..wrappers import LeaderObjective

    iterates: list[Iterate] = []
    leader = LeaderObjective(env)
    options = {"steps": max(PATH_STEPS, points - 1), "learning_rate": PATH_LEARNING_RATE}
    start = leader.reset(seed=seed)
    optimize(leader, start, "normalized", options, callback=lambda _, x: iterates.append(x))
    chosen = np.unique(np.linspace(0, len(iterates) - 1, points).astype(int))
    return [iterates[i] for i in chosen]


@click.command("check-method", short_help="Check a method: a name, or module:Class of your own.")
@click.argument("method", **METHOD)
@click.option(
    "--task",
    "env_id",
    metavar="ID",
    help="Check it on this task alone.  [default: seven small ones of different kinds]",
    **TASK,
)
@method_set_option
@count_option(
    "--estimates", 32, "Seeds from which a method that draws random numbers is measured.", least=2
)
@count_option("--seed", 0, "The first of them.", least=0)
def check_method(
    method: str, env_id: str | None, method_options: dict[str, Any], estimates: int, seed: int
) -> None:
    """Check a method, METHOD being a name or module:Class of your own.

    Its hyper-gradient is compared with the exact one on small tasks, which it may refuse; seeds,
    options, pickling and the seat's info are checked as well.
    """
    from .. import testing

    counts = {"estimates": estimates, "seed": seed}
    try:
        with in_one_line(), waiting(f"checking {method}"):
            report = testing.check_method(method, env_id, options=method_options, **counts)
    except testing.MethodError as error:
        click.echo(error.report)
        click.get_current_context().exit(FAILED)
    click.echo(report)
