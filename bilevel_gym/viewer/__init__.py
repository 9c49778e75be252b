"""Play a game in a window: set x as the leader, act as the follower, or take a lesson.

`session` holds the state and the moves, `climbing` the leader's steps, `work` what takes longer
than a frame, `picture` and `panel` draw, `controls` turns events into moves, `lesson` has the
stages, and `scripts` plays by itself for headless films.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..making import find_task, make
from ..rendering import Screen
from .controls import CONTROLS, draw, handle
from .lesson import TASK, Lesson
from .scripts import demonstration
from .scripts import lesson as lesson_by_itself
from .session import Session

if TYPE_CHECKING:
    from ..wrappers import HyperGradient

__all__ = ["CONTROLS", "Session", "draw", "handle", "play", "play_seat", "run"]

FPS = 30

# Options of the leader's seat that mean nothing here: whoever plays ends the episode.
WITHOUT_EFFECT = ("outer_steps", "keep_learnt", "verbose", "render_mode")


def play(
    env_id: str | None = None,
    *,
    headless: Path | None = None,
    lesson: bool = False,
    **options: Any,
) -> None:
    """Play a task in a window, or film a short demonstration into the GIF `headless`.

    With `lesson` it is that in five stages, in the task that it is made for. The options are those
    of the game and of the method by which the follower answers, as in `bilevel_gym.make`.

    Raises:
        ValueError: If the task is unknown, or none is named, or the film cannot be written there.
        TypeError: If the task cannot be played, or an option is unknown or has no effect.
        NoDisplayError: If there is no display, and no film is wanted.
    """
    if env_id is None and not lesson:
        raise ValueError("name a task, or take the lesson")
    name = find_task(env_id or TASK)
    if lesson and name != TASK:
        raise ValueError(f"the lesson is taken in {TASK}, got {env_id}")
    for option in WITHOUT_EFFECT:
        if option in options:
            raise TypeError(f"`{option}` has no effect where a task is played; leave it out")
    play_seat(make(name, render_mode="rgb_array", **options), headless=headless, lesson=lesson)


def play_seat(seat: HyperGradient, *, headless: Path | None = None, lesson: bool = False) -> None:
    """Play a task that is in the leader's seat already, with the answers of the seat's method.

    It raises what `play` raises.
    """
    exact = seat.method.exact
    if lesson and not exact:
        raise TypeError(
            f"the lesson compares exact answers, got those of {type(seat.method).__name__}; "
            "leave the method out"
        )
    session = Session(
        seat,
        seed=None if headless is None else 0,
        lesson=Lesson() if lesson else None,
        background=headless is None or not exact,
    )
    title = seat.spec.id if seat.spec is not None else session.game.title
    with Screen(title, headless=headless, fps=FPS) as screen:
        if headless is None:
            run(session, screen)
        else:
            script = lesson_by_itself if lesson else demonstration
            for frames in script(session):
                screen.show(draw(session), frames=frames)


def run(session: Session, screen: Screen) -> None:
    """Show the session and pass events on until the user leaves."""
    session.tick()
    surface, waiting = draw(session), session.waiting
    try:
        while session.running:
            screen.show(surface)
            events = screen.events()
            for event in events:
                handle(session, event)
            if session.tick() or events or session.waiting != waiting:
                surface, waiting = draw(session), session.waiting
    finally:
        session.leave()
