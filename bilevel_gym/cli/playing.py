"""`bilevel-gym play`: a task in a window."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from .arguments import (
    INTERRUPTED,
    TASK,
    CommandError,
    in_one_line,
    make_leader,
    method_option,
    method_set_option,
    set_option,
)
from .progress import waiting


@click.command("play")
@click.argument("env_id", metavar="ID", required=False, **TASK)
@click.option(
    "--lesson",
    is_flag=True,
    help="Take a lesson in five stages: why the greedy leader fails. It needs no ID.",
)
@set_option
@method_option
@method_set_option
@click.option(
    "--headless",
    metavar="OUT.gif",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Open no window; film the game into this file.",
)
def play(
    env_id: str | None,
    lesson: bool,
    env_kwargs: dict[str, Any],
    method: str | None,
    method_options: dict[str, Any],
    headless: Path | None,
) -> None:
    """Play a task in a window, as leader and as follower, or take a lesson.

    Sliders move x, or the mouse paints it on a map. Bars show the direct part of the
    hyper-gradient, the response part and their sum; G climbs along the sum, D along the direct
    part. H lists all keys.

    A follower who learns answers in some seconds, while the window shows its last answer; fewer
    steps make it faster and worse: `--method-set inner_steps=500`.
    """
    if env_id is None and not lesson:
        raise click.UsageError("name a task, as in `bilevel-gym play ID`, or give `--lesson`")

    from ..rendering import NoDisplayError
    from ..viewer import play_seat
    from ..viewer.lesson import TASK as LESSON

    if lesson and env_id not in (None, LESSON):
        raise CommandError(f"the lesson is taken in {LESSON}, got {env_id}")
    with waiting(f"making {env_id or LESSON}"):
        seat = make_leader(
            env_id or LESSON, env_kwargs, method, method_options, render_mode="rgb_array"
        )
    # The window says it beside the picture.
    warnings.filterwarnings("ignore", message="the hyper-gradient of .* has a trust")
    try:
        with in_one_line((TypeError, ValueError, NoDisplayError)):
            play_seat(seat, headless=headless, lesson=lesson)
        if headless is not None:
            click.echo(f"film: {headless}")
    except KeyboardInterrupt:  # as good a way to leave as closing the window
        click.get_current_context().exit(INTERRUPTED)
