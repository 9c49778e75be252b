"""`bilevel-gym play`: a task in a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .arguments import INTERRUPTED, CommandError, make_leader, set_option, task_argument


@click.command("play")
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

    from ..rendering import NoDisplayError
    from ..viewer import play as play_game

    try:
        play_game(env_id, headless=headless, **env_kwargs)
        if headless is not None:
            click.echo(f"film: {headless}")
    except TypeError as error:
        hint = f"`bilevel-gym gallery FOLDER {env_id}` films it"
        raise CommandError(f"{error}; {hint}") from None
    except (ValueError, NoDisplayError) as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:  # as good a way to leave as closing the window
        click.get_current_context().exit(INTERRUPTED)
