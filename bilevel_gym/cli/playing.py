"""`bilevel-gym play`: a task in a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .arguments import INTERRUPTED, TASK, CommandError, make_leader, set_option


@click.command("play")
@click.argument("env_id", metavar="ID", required=False, **TASK)
@click.option(
    "--lesson",
    is_flag=True,
    help="Take a lesson in five stages: why the greedy leader fails. It needs no ID.",
)
@set_option
@click.option(
    "--headless",
    metavar="OUT.gif",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Open no window; film the game into this file.",
)
def play(
    env_id: str | None, lesson: bool, env_kwargs: dict[str, Any], headless: Path | None
) -> None:
    """Play a task in a window, as leader and as follower, or take a lesson.

    Sliders move x, or the mouse paints it on a map. Bars show the direct part of the
    hyper-gradient, the response part and their sum; G climbs along the sum, D along the direct
    part. H lists all keys.
    """
    if env_id is None and not lesson:
        raise click.UsageError("name a task, as in `bilevel-gym play ID`, or give `--lesson`")

    from ..rendering import NoDisplayError
    from ..viewer import play as play_game
    from ..viewer.lesson import TASK as LESSON

    make_leader(env_id or LESSON, env_kwargs).close()  # says what is wrong with ID or NAME=VALUE

    try:
        play_game(env_id, headless=headless, lesson=lesson, **env_kwargs)
        if headless is not None:
            click.echo(f"film: {headless}")
    except TypeError as error:
        hint = f"; `bilevel-gym gallery FOLDER {env_id}` films it" if env_id else ""
        raise CommandError(f"{error}{hint}") from None
    except (ValueError, NoDisplayError) as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:  # as good a way to leave as closing the window
        click.get_current_context().exit(INTERRUPTED)
