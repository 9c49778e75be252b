"""`bilevel-gym gallery`: a still and a film of every task, and a sheet of all stills."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..registration import TASKS
from .arguments import (
    CommandError,
    answers_exactly,
    complete_task,
    known_task,
    make_leader,
    seed_option,
)
from .solving import explain_os_errors

if TYPE_CHECKING:
    from gymnasium import Env
    from pygame import Surface

    from ..mdp import FloatArray
    from ..optimizers import Iterate
    from ..rendering import Film
    from ..wrappers import HyperGradient

SHEET = "sheet.png"

# Steps of the climb that a film shows, the first one as a share of half the width of the box.
STEPS, FIRST_STEP = 40, 0.05

# Pictures that a film shows of the climb, and of the follower's episode after it.
CLIMBING_PICTURES, EPISODE_PICTURES = 20, 24

# The same where the follower learns: fewer steps, as each takes seconds, and longer episodes.
LEARNT_STEPS, FIRST_LEARNT_STEP = 12, 0.1
LEARNT_PICTURES, LEARNT_FRAMES = 40, 2

# Frames that each picture lasts, and the best x before the follower sets out.
CLIMBING_FRAMES, EPISODE_FRAMES, PAUSE = 2, 4, 16


def known_tasks(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    """Return registered ids."""
    return tuple(known_task(ctx, param, value) for value in values)


@click.command("gallery")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument(
    "env_ids", metavar="[ID]...", nargs=-1, callback=known_tasks, shell_complete=complete_task
)
@seed_option
def gallery(folder: Path, env_ids: tuple[str, ...], seed: int) -> None:
    """Draw a still and a film of each task into a folder.

    Without an ID, these are all tasks of this package, and a sheet shows them together.

    The still shows the best x known, or the best one found on the way. The film climbs from the
    initial x and then follows an episode under the best x that it came by. Where the follower
    learns, which takes a minute or two, the film has an episode under the initial x and one under
    the best, and the still is the end of the latter.
    """
    from ..rendering.sheet import contact_sheet, save_still

    stills = []
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for env_id in env_ids or [task.id for task in TASKS]:
            stills.append(draw_task(env_id, folder, seed))
            click.echo(f"{env_id}: {file_name(env_id)}.png, {file_name(env_id)}.gif")
        if not env_ids:
            save_still(contact_sheet(stills), folder / SHEET)
            click.echo(f"all: {SHEET}")
    click.echo(f"gallery: {folder}")


def file_name(env_id: str) -> str:
    """Return what the files of a task are called: "grid_world" for "BilevelGridWorld-v0"."""
    name = env_id.rpartition("/")[2].removeprefix("Bilevel")
    name = re.sub(r"-v\d+$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def draw_task(env_id: str, folder: Path, seed: int) -> Surface:
    """Write the still and the film of a task, and return the still.

    Raises:
        CommandError: If the task has no picture.
    """
    from ..envs.base import BilevelEnv
    from ..rendering import Film
    from ..rendering.sheet import save_still

    env = make_leader(env_id, {}, render_mode="rgb_array")
    game = env.game
    if type(game).draw is BilevelEnv.draw:
        raise CommandError(f"a gallery needs tasks with pictures, and {env_id} has none")
    film = Film()
    if answers_exactly(game):
        best = film_climb(env, film, seed)
        known = getattr(game, "best_known", None)
        env.step(best if known is None else known.upper_params)
        still = game.draw(env.view())
        film_episode(env, best, film, seed)
    else:
        film_learning(env, film, seed)
        still = game.draw(game.view())
    save_still(still, folder / f"{file_name(env_id)}.png")
    film.save(folder / f"{file_name(env_id)}.gif")
    env.close()
    return still


def film_climb(env: HyperGradient, film: Film, seed: int) -> FloatArray:
    """Climb from the initial x, filmed, and return the best x on the way."""
    _, info = env.reset(seed=seed)
    every = STEPS // CLIMBING_PICTURES

    def show(iterate: Iterate, phase: str) -> None:
        if phase == "ascent" and iterate.number % every == 0:
            hold(film, env, CLIMBING_FRAMES)

    best = climbed(env, info["upper_params"], STEPS, FIRST_STEP, polish=True, callback=show)
    env.step(best)
    hold(film, env, PAUSE)
    return best


def film_learning(env: HyperGradient, film: Film, seed: int) -> None:
    """Film a learning follower's episode under the initial x, and under the best x of a climb."""
    _, info = env.reset(seed=seed)
    start = info["upper_params"]
    film_episode(env, start, film, seed)
    best = climbed(env, start, LEARNT_STEPS, FIRST_LEARNT_STEP, polish=False)
    film_episode(env, best, film, seed)


def climbed(
    env: HyperGradient,
    start: FloatArray,
    steps: int,
    first_step: float,
    *,
    polish: bool,
    callback: Callable[[Iterate, str], None] | None = None,
) -> FloatArray:
    """Climb from an x, and return the best one on the way."""
    from .runs import Leader, climb

    leader = Leader(env)
    found: list[tuple[float, FloatArray]] = []

    def keep(iterate: Iterate, phase: str) -> None:
        found.append((iterate.value, iterate.upper_params))
        if callback is not None:
            callback(iterate, phase)

    climb(
        leader,
        start,
        steps=steps,
        learning_rate=first_step * float(np.max(leader.high - leader.low)) / 2.0,
        polish=polish,
        callback=keep,
    )
    return max(found, key=lambda entry: entry[0])[1]


def film_episode(env: HyperGradient, x: FloatArray, film: Film, seed: int) -> None:
    """Film the beginning of an episode of the follower under x, by its own policy.

    Of a follower who learns it is most of the episode, not every step of it. Nothing is filmed
    where there is no policy to draw actions from.
    """
    from ..wrappers import LowerLevel

    env.step(x)
    answer: Any = env.response
    learner: Any = getattr(env.method, "follower", None)
    if not hasattr(answer, "draw_action") and learner is None:
        return
    follower: Any = LowerLevel(env, x)
    rng = np.random.default_rng(seed)
    state, _ = follower.reset(seed=seed)
    every, frames, pictures = 1, EPISODE_FRAMES, EPISODE_PICTURES
    if learner is not None:
        pictures, frames = LEARNT_PICTURES, LEARNT_FRAMES
        every = max(1, follower.game.episode_steps // pictures)
    hold(film, follower, frames)
    for step in range(1, every * pictures + 1):
        if learner is None:
            action = answer.draw_action(state, rng)
        else:
            action = learner.draw(np.asarray(state)[None], rng)[0]
        state, _, terminated, truncated, _ = follower.step(action)
        if step % every == 0:
            hold(film, follower, frames)
        if terminated or truncated:
            break


def hold(film: Film, env: Env[Any, Any], frames: int) -> None:
    """Film what an environment shows, for some frames; equal ones take no room in the file."""
    picture: Any = env.render()
    for _ in range(frames):
        film.add(picture)
