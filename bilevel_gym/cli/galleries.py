"""`bilevel-gym gallery`: a still and a film of every task, and a sheet of all stills."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ..making import answers_exactly
from ..registration import TASKS, task_ids
from .arguments import TASK, CommandError, make_leader, seed_option
from .console import explain_os_errors
from .films import check_picture, film_episode, hold
from .progress import progress_bar, waiting
from .solving import default_optimizer, optimize

if TYPE_CHECKING:
    from pygame import Surface

    from ..optimizers import Iterate

SHEET = "sheet.png"

# Steps of the ascent that a film shows, the first one as a share of half the width of the box.
STEPS, FIRST_STEP = 40, 0.05

# Pictures that a film shows of the ascent, frames that each lasts, and frames of the best x before
# the follower's episode.
ASCENT_PICTURES, ASCENT_FRAMES, PAUSE = 20, 2, 16


@click.command("gallery")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("env_ids", metavar="[ID]...", nargs=-1, **TASK)
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    help="Steps of the ascent; with 0 the follower answers the first x alone.  [default: "
    f"{STEPS}; where the follower learns, those of `solve`]",
)
@seed_option
def gallery(folder: Path, env_ids: tuple[str, ...], steps: int | None, seed: int) -> None:
    """Draw a still and a film of each task into FOLDER.

    Without an ID, these are all tasks of this package, and a sheet shows them together.

    The still shows the best x known, or the best one found. The film shows an ascent from the
    initial x and then an episode under the best x of that ascent. Where the follower learns, which
    takes some minutes, the film has an episode under the initial x and one under the best, and the
    still is from the middle of the latter; both say how long the follower has learnt.
    """
    from ..envs.base import in_words
    from ..rendering.sheet import contact_sheet, save_still

    if str(folder) in task_ids():
        raise CommandError(
            f"FOLDER must be where the pictures go, got the id of a task; "
            f"`bilevel-gym gallery FOLDER {folder}` draws it into a folder"
        )
    stills = []
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for env_id in env_ids or [task.id for task in TASKS]:
            stills.append(save_pictures(env_id, folder, seed, steps))
            click.echo(f"{env_id}: {file_name(env_id)}.png, {file_name(env_id)}.gif")
        if not env_ids:
            names = [in_words(task.id) for task in TASKS]
            save_still(contact_sheet(stills, names), folder / SHEET)
            click.echo(f"all: {SHEET}")
    click.echo(f"gallery: {folder}")


def file_name(env_id: str) -> str:
    """Return what the files of a task are called: "grid_world" for "BilevelGridWorld-v0"."""
    name = env_id.rpartition("/")[2].removeprefix("Bilevel")
    name = re.sub(r"-v\d+$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def save_pictures(env_id: str, folder: Path, seed: int, steps: int | None = None) -> Surface:
    """Write the still and the film of a task, and return the still.

    None for the steps of the ascent stands for the default.
    """
    from ..rendering import Film, import_pygame
    from ..rendering.sheet import save_still
    from ..wrappers import LeaderObjective

    with waiting(f"making {env_id}"):
        env = make_leader(env_id, {}, render_mode="rgb_array")
    check_picture("a gallery", env_id, env)
    film, leader = Film(), LeaderObjective(env)
    exact = answers_exactly(env.game)
    optimizer, options = default_optimizer(env_id, env)
    if exact:
        rate = FIRST_STEP * float(np.max(leader.high - leader.low)) / 2.0
        optimizer, options = "normalized", {"steps": STEPS, "learning_rate": rate}
    options["steps"] = count = options["steps"] if steps is None else steps
    with progress_bar(file_name(env_id), count + 1) as bar:
        bar.listen(env)

        def show(phase: str, iterate: Iterate) -> None:
            every = max(1, count // ASCENT_PICTURES)
            if exact and phase == "ascent" and iterate.number % every == 0:
                hold(film, env.render(), ASCENT_FRAMES)
            bar.answer(file_name(env_id) if phase == "ascent" else phase, env)

        start = leader.reset(seed=seed)
        best, pictures = start, [] if exact else film_episode(env, start, film, seed)
        if count:
            _, found = optimize(leader, start, optimizer, options, polish=exact, callback=show)
            best = found.best.upper_params
    if exact:
        env.step(best)
        hold(film, env.render(), PAUSE)
        known = env.game.best_known
        env.step(best if known is None else known.upper_params)
        still: Surface = env.game.draw(env.view())
        film_episode(env, best, film, seed)
    else:
        pictures = film_episode(env, best, film, seed) if count else pictures
        middle = pictures[len(pictures) // 2].swapaxes(0, 1)
        still = import_pygame().surfarray.make_surface(middle)
    save_still(still, folder / f"{file_name(env_id)}.png")
    film.save(folder / f"{file_name(env_id)}.gif")
    env.close()
    return still
