"""`bilevel-gym solve`: maximise a task's objective, and keep the run in a folder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import numpy as np

from ..core.checks import accepted_options, check_choice
from ..core.files import loaded_versions
from ..making import answers_exactly
from ..optimizers import (
    OPTIMIZERS,
    RULES,
    SCHEDULES,
    ClimbOptimum,
    check_optimizer,
    make_optimizer,
    options_for,
    projected_gradient_norm,
)
from ..optimizers.named import RESERVED
from ..plotting import load as load_plotting
from ..registration import TASKS
from .arguments import (
    INTERRUPTED,
    INTERRUPTION,
    TASK_OF_MODULE,
    CommandError,
    Failure,
    in_one_line,
    make_leader,
    method_option,
    method_set_option,
    out_option,
    positive,
    seed_option,
    set_option,
    settings_of,
    settings_option,
    takes_names,
)
from .console import (
    explain_os_errors,
    listen_to_interrupts,
    show_table,
    uninterrupted,
)
from .progress import progress_bar, waiting

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..optimizers import Iterate, Optimum
    from ..optimizers.safe import SafeClimb
    from ..rendering import Film
    from ..wrappers import HyperGradient, LeaderObjective
    from .recorded import Replayed
    from .run_folder import History

ESTIMATES = "`climb` is for exact answers, and this method estimates; `safe` and `adam` bear noise"

# Steps of a run: of the climb from many starts; of any other where the follower's answer is known;
# where the follower learns, which is slow; and where a follower who learns cannot be put back: Adam
# averages the noise.
CLIMB_STEPS, EXACT_STEPS, LEARNT_STEPS, ADAM_STEPS = 399, 200, 20, 10

# Numbers of a run depend on their versions, on the latter where the follower learns.
LIBRARIES = ("bilevel_gym", "gymnasium", "numpy", "scipy")
LEARNT_LIBRARIES = ("torch", "stable_baselines3", "mujoco", "ale_py")

# Evaluations after which the polish begins no further line search.
POLISH_EVALUATIONS = 200


def settings_of_optimizer(ctx: click.Context) -> Iterator[str]:
    """Yield what `--optimizer-set` may say to the optimizer that is typed already, or to any."""
    chosen = ctx.params.get("optimizer")
    options = {
        name: parameter
        for optimizer in ([chosen] if chosen else OPTIMIZERS)
        for name, parameter in accepted_options(OPTIMIZERS[optimizer]).items()
        if name not in RESERVED
    }
    yield from settings_of(options.values())
    if "schedule" in options:
        yield from (f"schedule={name}" for name in SCHEDULES)


@click.command("solve")
@click.argument("env_id", metavar="ID", required=False, **TASK_OF_MODULE)
@set_option
@click.option(
    "--optimizer",
    metavar="NAME",
    help=f"What moves x: {', '.join(sorted(OPTIMIZERS))}.  [default: climb, which starts from many "
    "x, where the method is exact; safe where episodes are played, adam where no learner can go "
    "back, else, and with a learning rate, normalized]",
    **takes_names(lambda: OPTIMIZERS, lambda name: check_choice("optimizer", name, OPTIMIZERS)),
)
@settings_option(
    "--optimizer-set",
    "optimizer_options",
    "Option of the optimizer, e.g. schedule=constant",
    settings_of_optimizer,
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Steps of the optimizer; one evaluation more than that.  "
    f"[default: {CLIMB_STEPS} of climb, {EXACT_STEPS} of others; where the follower learns, as on "
    "the task's page]",
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
@click.option(
    "--gif", is_flag=True, help="Film the run as well; with --resume, what is left of it."
)
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a run to go on with, from where it was ended or killed.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="With --resume: import whatever the folder of the run names, and run code in its files.",
)
@click.pass_context
def solve(
    ctx: click.Context,
    /,
    *,
    env_id: str | None,
    env_kwargs: dict[str, Any],
    start: Path | None,
    out: Path | None,
    overwrite: bool,
    gif: bool,
    resume: Path | None,
    trust: bool,
    **options: Any,
) -> None:
    """Maximise a task's objective, and keep the run in a folder.

    The folder gets history.csv (one row for each evaluation), params.npz (best, final and initial
    x), result.json, progress.png, config.json and, with --gif, run.gif. Ctrl-C or SIGTERM ends the
    run early and keeps what it has reached; of a run that is killed, history.csv and params.npz are
    there.

    --resume RUN goes on with a run that was ended early, to the numbers that it would have reached
    by itself where the method is deterministic. For that there are evaluations.bin (each x with
    its objective and gradient) and method.npz or method.zip (what the method has learnt). All else
    is taken from the run; a task, a method or a function of your own must be named again, as its
    module is imported, or everything be trusted by --trust.

    The projected gradient norm is the length of P(x + g) - x, g being the exact hyper-gradient and
    P the projection on the box of x; it is zero at a stationary point, and at most that of g. Where
    the follower learns, nothing is exact: g and the objective are the method's estimates.
    """
    from .resuming import check_versions, load_config
    from .run_folder import open_folder

    asked = {
        "id": env_id,
        "kwargs": env_kwargs,
        **options,
        "start": start and str(start.absolute()),
    }
    if ctx.meta["module"]:
        asked["module"] = ctx.meta["module"]
    if resume is None:
        if env_id is None:
            raise click.MissingParameter(ctx=ctx, param=ctx.command.params[0])
        if trust:
            raise CommandError("`--trust` is for a run that is gone on with by `--resume`")
        plan = Plan.of(asked, gif=gif)
        folder = open_folder(out, env_id, overwrite=overwrite)
    else:
        folder, config = resume, load_config(ctx, resume, asked, trust=trust)
        plan = Plan.of(config, gif=gif)
        check_versions(config["versions"], plan.config["versions"])
    # An interrupt ends the ascent, or the drawing of pictures, but never what keeps them.
    with explain_os_errors(folder), uninterrupted():
        ended_early = climb(plan, folder, gif=gif, resumed=resume is not None, trust=trust)
    if ended_early:
        ctx.exit(INTERRUPTED)


@dataclass(frozen=True)
class Plan:
    """What is maximised, and how.

    Attributes:
        config: What was asked for, all defaults filled in, of JSON types.
        leader: The objective.
        options: Options of the optimizer.
        start: The first x.
    """

    config: dict[str, Any]
    leader: LeaderObjective
    options: dict[str, Any]
    start: FloatArray

    @classmethod
    def of(cls, config: dict[str, Any], *, gif: bool) -> Self:
        """Make the task, and check everything before there is a folder.

        Raises:
            CommandError: If something does not fit.
        """
        from ..wrappers import LeaderObjective
        from .films import check_picture
        from .run_folder import load_start

        with waiting(f"making {config['id']}"):  # PyTorch, where the follower learns
            load_plotting()
            env = make_leader(
                config["id"],
                config["kwargs"],
                config["method"],
                render_mode="rgb_array" if gif else None,
                method_options=config["method_options"],
            )
        if gif:
            check_picture("`--gif`", config["id"], env)
        leader, learns = LeaderObjective(env), not answers_exactly(env.game)
        chosen = config["optimizer"]
        if chosen is None and config["learning_rate"] is not None and answers_exactly(env.game):
            chosen = "normalized"  # a rate is one of plain steps
        optimizer, options = default_optimizer(config["id"], env, chosen)
        if optimizer == "climb" and not env.method.exact:
            click.echo(f"Warning: {ESTIMATES}", err=True)
        asked = {name: config[name] for name in ("steps", "learning_rate")}
        options |= {name: value for name, value in asked.items() if value is not None}
        steps, seed = options["steps"], config["seed"]
        options = options_for(optimizer, config["optimizer_options"], seed=seed, **options)
        if config["learning_rate"] is not None and "learning_rate" not in options:
            raise CommandError(f"`--learning-rate`: optimizer {optimizer!r} has none")
        start = config["start"]
        x = env.game.initial_upper_params if start is None else load_start(Path(start), env.game)
        with in_one_line():
            check_optimizer(optimizer, x, leader.low, leader.high, leader, **options)
        polish = config["polish"]
        if polish and options.get("constraints"):
            raise CommandError("`--polish`: L-BFGS-B does not keep constraints")
        takes = signature(OPTIMIZERS[optimizer]).parameters
        rate = {name: parameter.default for name, parameter in takes.items()} | options
        chosen = {
            "method": config["method"] or env.game.default_method,
            "steps": steps,
            "learning_rate": rate.get("learning_rate"),
            "optimizer": optimizer,
            "polish": env.method.exact and optimizer in RULES if polish is None else polish,
            "versions": loaded_versions(*LIBRARIES, *(LEARNT_LIBRARIES if learns else ())),
        }
        return cls({**config, **chosen}, leader, options, x)


def climb(plan: Plan, folder: Path, *, gif: bool, resumed: bool, trust: bool = False) -> bool:
    """Make a run, or what is left of it, and return whether it was ended early."""
    from ..methods.registry import WrongAnswer
    from ..rendering import Film
    from .recorded import Evaluations, Memory, Replayed
    from .run_folder import CONFIG, History, tidy_up, write_json

    config, leader, found = plan.config, plan.leader, None
    method, optimizer, seed = config["method"], config["optimizer"], config["seed"]
    env, film = leader.seat, Film() if gif else None
    with contextlib.ExitStack() as stack:
        evaluations = stack.enter_context(closing(Evaluations(folder, leader.low, leader.high)))
        constrained = bool(plan.options.get("constraints"))
        if constrained:  # costs are not recorded: the run is made again
            evaluations.keep(0)
        memory, recorded = Memory(folder, env), len(evaluations.recorded)
        made = memory.restore(recorded, trust=trust) if resumed and not constrained else 0
        if made is None:
            click.echo(f"Warning: method {method!r} keeps no state, and begins anew", err=True)
        if resumed:
            tidy_up(folder)
        else:
            write_json(folder / CONFIG, config)
        with in_one_line():
            x = env.game.validate_upper_params(evaluations.row(0)[0] if recorded else plan.start)
        # The safe climb goes on from a state of its own, others from what they are told again.
        safe = optimizer == "safe"
        opened = History(folder, leader.low, leader.high, evaluations, made, replayed=not safe)
        history = stack.enter_context(closing(opened))
        replayed = Replayed(leader, evaluations)
        objective = leader if safe else replayed
        try:
            with listen_to_interrupts(), progress_bar("ascent", config["steps"] + 1) as show:
                show.listen(env)

                def keep(phase: str, iterate: Iterate) -> None:
                    live = safe or replayed.live
                    phase = "screen" if np.isnan(iterate.gradient).any() else phase
                    history.add(iterate, leader.info if live else {}, phase)
                    if live and not safe:
                        memory.offer(len(history.records))
                    if live and film is not None:
                        film.offer(env.render)
                    # The steps of the screen are among those of the ascent.
                    bar = "ascent" if phase == "screen" else phase
                    show.answer(bar, env, history.best.value) if live else show.skip()

                def between(climb: SafeClimb) -> None:
                    memory.follow(climb)
                    if history.records:
                        memory.offer(len(history.records))

                leader.resume(seed=None if made else seed)
                hooks: dict[str, Any] = {"between": between} if safe else {}
                hooks |= {"polish": config["polish"], "callback": keep}
                outcome, found = optimize(objective, x, optimizer, plan.options, **hooks)
                if safe:
                    history.settle(found.best)
            if safe or replayed.live:
                memory.write(len(history.records))
            else:
                click.echo("the run had come to its end already; nothing was left to do")
        except KeyboardInterrupt:
            outcome = INTERRUPTION
        except WrongAnswer as error:
            raise Failure(str(error)) from error
        finally:  # an error, too, leaves behind what was reached
            of = "method" if env.method.exact else "estimates of method"
            drawn = save_results(leader, history, film, f"{config['id']}, {of} {method}", seed)
    # Between evaluations, too, the follower is watched.
    samples = memory.climb.used if memory.climb is not None else 0
    report(leader, history, method, optimizer, outcome, samples, memory.seconds, found)
    return outcome == INTERRUPTION or not drawn


def default_optimizer(
    env_id: str, env: HyperGradient, chosen: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the optimizer of a task, the default one unless it is chosen, and its defaults.

    They are for optimizers that take them.
    """
    own = next((task.climb for task in TASKS if task.id == env_id), {})
    if answers_exactly(env.game):
        optimizer = chosen or env.suited_optimizer or "normalized"
        return optimizer, {"steps": CLIMB_STEPS if optimizer == "climb" else EXACT_STEPS}
    if env.suited_optimizer is not None and not own:
        return chosen or env.suited_optimizer, {"steps": LEARNT_STEPS}
    space = env.game.upper_space
    rate = 0.02 * float((space.high - space.low).max())
    # At a constant rate: noisy estimates need not wait for x to stand still.
    options = {"steps": ADAM_STEPS, "learning_rate": rate, "schedule": "constant", **own}
    return chosen or "adam", options


def optimize(
    leader: LeaderObjective | Replayed,
    start: FloatArray,
    optimizer: str,
    options: dict[str, Any],
    *,
    polish: bool = False,
    callback: Callable[[str, Iterate], None] = lambda phase, iterate: None,
    **hooks: Any,
) -> tuple[str, Optimum]:
    """Run an optimizer, and then L-BFGS-B from the best x if that is wanted.

    L-BFGS-B trusts the gradient to be that of the objective, so it suits exact methods only. The
    callback gets the phase, "ascent" or "polish", and every iterate; `hooks` are other functions
    that the optimizer calls. Returns why it stopped, and what was found.
    """
    box = (leader.low, leader.high)
    ascend = make_optimizer(optimizer, **options)
    found = ascend(leader, start, *box, callback=partial(callback, "ascent"), **hooks)
    vanished = found.evaluations <= options.get("steps", 0)
    if vanished or not polish:
        return found.message, found
    climb = make_optimizer("lbfgsb", max_evaluations=POLISH_EVALUATIONS)
    best = found.best.upper_params
    top = climb(leader, best, *box, callback=partial(callback, "polish"))
    return f"{found.message}, then L-BFGS-B: {top.message}", top


def save_results(
    leader: LeaderObjective, history: History, film: Film | None, title: str, seed: int
) -> bool:
    """Write the parameters and the pictures of a run, as far as it went.

    Returns False if an interrupt came before the pictures were drawn.
    """
    if not history.records:
        return True
    history.write_params()
    try:
        with listen_to_interrupts():
            draw(leader, history, film, title, seed)
    except KeyboardInterrupt:
        click.echo("Warning: interrupted before the pictures were drawn", err=True)
        return False
    except Exception as error:  # whatever happens to a picture, the run is kept
        click.echo(
            f"Warning: the pictures are not drawn: {error or type(error).__name__}", err=True
        )
    return True


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
    leader: LeaderObjective,
    history: History,
    method: str,
    optimizer: str,
    outcome: str,
    samples: int,
    seconds: float,
    found: Optimum | None = None,
) -> None:
    """Print what a run reached, and where its files are.

    Objectives and norms are the exact ones, or the method's estimates where there are none.
    """
    from ..wrappers import exact_objective
    from .run_folder import FILES, RESULT, known, write_json

    folder = history.folder
    if not history.records:
        click.echo(f"Interrupted before the first evaluation; nothing to keep in {folder}.")
        return
    last, game, exact = history.last, leader.seat.game, answers_exactly(leader.seat.game)

    # Whoever interrupts does not wait for what an exact method has computed already.
    known_already = leader.seat.method.exact and outcome == INTERRUPTION

    def figures(iterate: Iterate) -> tuple[float, float]:
        if not exact or known_already:
            return iterate.value, iterate.projected_gradient_norm
        x = iterate.upper_params
        value, gradient = exact_objective(game.model)(x)
        return value, projected_gradient_norm(x, gradient, leader.low, leader.high)

    (first, first_norm), (best, best_norm) = figures(history.first), figures(history.best)
    best_known = "none" if game.best_known is None else f"{game.best_known.value:.6f}"
    # There is no gradient of what was evaluated briefly.
    norms = ["" if math.isnan(norm) else f"{norm:.2e}" for norm in (first_norm, best_norm)]
    rows = [
        ("objective", f"{first:.6f}", f"{best:.6f}", best_known),
        ("projected gradient norm", *norms, ""),
    ]
    show_table(("", "start", "best", "best known"), rows)
    if outcome != INTERRUPTION and np.linalg.norm(last.gradient) == 0.0:
        where = "at the start" if last.number == 0 else f"after {last.number} steps"
        outcome = f"the gradient of method {method!r} vanishes {where}"
    click.echo(f"stopped: {outcome}")
    if not exact:
        click.echo(
            "The follower learns: objectives and gradients are estimates from episodes"
            + (
                "; the best few were watched anew."
                if optimizer == "safe" and outcome != INTERRUPTION
                else ", and the best of noisy estimates is on average too high."
            )
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
    samples = max(samples, sum(record.inner_samples or 0 for record in history.records))
    work = f"{samples} environment steps" if samples else "each an inner solve"
    starts: dict[str, Any] = {}
    if isinstance(found, ClimbOptimum):
        starts = {
            "easier_evaluations": found.eased,
            "starts": [asdict(fate) for fate in found.fates],
        }
        followed = [fate for fate in found.fates if fate.evaluations > 1]
        best_start = max(found.fates, key=lambda fate: fate.best)
        click.echo(
            f"starts: {len(found.fates)}, {len(followed)} of them followed; the best was reached "
            f"from {best_start.name} ({best_start.value:.6g})"
        )
        work += f", and {found.eased} of easier problems"
    click.echo(f"evaluations: {count}, {work}, in {seconds:.2f} s")
    result = {
        "objective": {"start": first, "best": best},
        "projected_gradient_norm": {"start": known(first_norm), "best": known(best_norm)},
        "evaluations": count,
        "environment_steps": samples,
        "inner_solves_not_converged": failures,
        "stopped": outcome,
        "seconds": round(seconds, 3),
        **starts,
    }
    write_json(folder / RESULT, result)
    written = ", ".join(name for name in FILES if (folder / name).exists())
    click.echo(f"run: {folder} ({written})")
    if outcome.startswith(INTERRUPTION):
        click.echo(f"bilevel-gym solve --resume {folder} goes on with it")
