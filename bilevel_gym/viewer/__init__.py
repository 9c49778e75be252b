"""Play a game in a window: set x as the leader, act as the follower, or take a lesson.

`session` holds the state and the moves, `climbing` the leader's steps, `picture` and `panel` draw,
`controls` turns events into moves, `lesson` has the stages, and `scripts` plays by itself for
headless films.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym

from ..making import find_task
from ..rendering import Screen
from .controls import CONTROLS, draw, handle
from .lesson import TASK, Lesson
from .scripts import demonstration
from .scripts import lesson as lesson_by_itself
from .session import Session

__all__ = ["CONTROLS", "Session", "draw", "handle", "play", "run"]

FPS = 30


def play(
    env_id: str | None = None,
    *,
    headless: Path | None = None,
    lesson: bool = False,
    **env_kwargs: Any,
) -> None:
    """Play a task in a window, or film a short demonstration into the GIF `headless`.

    With `lesson` it is that in five stages, in the task that it is made for.

    Raises:
        ValueError: If the task is unknown, or none is named, or the film cannot be written there.
        TypeError: If the task cannot be played.
        NoDisplayError: If there is no display, and no film is wanted.
    """
    if env_id is None and not lesson:
        raise ValueError("name a task, or take the lesson")
    if lesson and env_id not in (None, TASK):
        raise ValueError(f"the lesson is taken in {TASK}, got {env_id}")
    name = find_task(env_id or TASK)
    session = Session(
        gym.make(name, **env_kwargs),
        seed=None if headless is None else 0,
        lesson=Lesson() if lesson else None,
    )
    with Screen(name, headless=headless, fps=FPS) as screen:
        if headless is None:
            run(session, screen)
        else:
            script = lesson_by_itself if lesson else demonstration
            for frames in script(session):
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
