"""Play a game on a map in a window: shape it as the leader, walk in it as the follower.

`session` holds the state and the moves, `picture` draws it, `controls` turns events into moves. A
headless film makes moves of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..making import find_task
from ..rendering import Screen
from .controls import CONTROLS, draw, handle
from .session import Session

__all__ = ["CONTROLS", "Session", "draw", "handle", "play", "run"]

FPS = 30

# Length of the piece that a headless film shows.
PAINTED_CELLS, CLIMBING_TICKS, WALKING_STEPS = 8, 15, 30


def play(env_id: str, *, headless: Path | None = None, **env_kwargs: Any) -> None:
    """Play a task on a map in a window, or film a short demonstration into the GIF `headless`.

    Raises:
        ValueError: If the task is unknown, or the film cannot be written there.
        TypeError: If the task has no map.
        NoDisplayError: If there is no display, and no film is wanted.
    """
    session = Session(
        gym.make(find_task(env_id), **env_kwargs), seed=None if headless is None else 0
    )
    with Screen(env_id, headless=headless, fps=FPS) as screen:
        if headless is None:
            run(session, screen)
        else:
            for frames in piece(session):
                session.tick()
                screen.show(draw(session), frames=frames)


def run(session: Session, screen: Screen) -> None:
    """Show the session and pass events on until the user leaves."""
    surface = draw(session)
    while session.running:
        screen.show(surface)
        events = screen.events()
        for event in events:
            handle(session, event)
        session.tick()
        if events or session.climbing:
            surface = draw(session)


def piece(session: Session) -> Iterator[int]:
    """Play a short demonstration, and yield the frames for which its pictures are to be shown.

    The leader makes hazards costly by hand, shows the help and follows the hyper-gradient; then the
    follower walks to the goal by its best response.
    """
    yield 16
    for row, column in np.argwhere(session.cells == "H").tolist()[:PAINTED_CELLS]:
        session.move_cursor((row, column))
        session.start_stroke("lower")
        yield 8
        session.end_stroke()
        yield 2
    yield 16
    for frames in (32, 2):
        session.toggle_help()
        yield frames
    session.start_climb()
    for _ in range(CLIMBING_TICKS):
        yield 2
    session.stop_climb()
    yield 16
    session.switch_seat()
    yield 16
    for _ in range(WALKING_STEPS):
        episode = session.episode
        assert episode is not None
        if episode.ended:
            break
        session.act(int(session.response.policy[episode.state].argmax()))
        yield 4
