"""Plays for films and tests: events as a user would make them, and how long each picture is shown.

Each yields the frames of a film for which the picture of the session is to be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..rendering.canvas import pygame
from .controls import handle
from .lesson import STAGES, Lesson
from .session import Session
from .work import LATE

# Length of the piece that a headless film shows.
PAINTED_CELLS, CLIMBING_PICTURES, WALKING_STEPS = 8, 15, 30

# Steps of the climb there where answers are estimates, of which each takes seconds.
LEARNT_PICTURES = 3

# Frames of pictures that are to be read, of those that move, and between two moves.
READ, MOVE, PAUSE = 32, 2, 16

# Pictures of a slider's way.
SLIDING_PICTURES = 5


def press(session: Session, key: str) -> None:
    """Press a key of pygame's name, "g" or "RETURN", and hold it."""
    handle(session, pygame.event.Event(pygame.KEYDOWN, key=getattr(pygame, f"K_{key}")))


def release(session: Session, key: str) -> None:
    """Release a key."""
    handle(session, pygame.event.Event(pygame.KEYUP, key=getattr(pygame, f"K_{key}")))


def settle(session: Session) -> Iterator[int]:
    """Go on until the follower has answered, with a picture of the wait where it takes long."""
    done = session.tick()
    # Where x has moved while the follower answered, it answers once more.
    while session.working or (done and not session.answered):
        session.wait(LATE)
        if session.waiting:
            yield PAUSE
        session.wait()
        done = session.tick()


def drag_slider(session: Session, number: int, share: float) -> Iterator[int]:
    """Drag a slider to a share of its range with the mouse."""
    start, layout = session.rows[number].share, session.layout
    place = layout.place_of(number, start)
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=place))
    for way in np.linspace(start, share, SLIDING_PICTURES).tolist():
        moved = layout.place_of(number, way)
        rel = (moved[0] - place[0], moved[1] - place[1])
        handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=moved, rel=rel))
        place = moved
        yield MOVE
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONUP, button=1, pos=place))
    yield from settle(session)


def hold(session: Session, key: str, pictures: int, ticks: int = 1) -> Iterator[int]:
    """Hold a key, with a picture after every few ticks, until nothing moves any more."""
    press(session, key)
    for _ in range(pictures):
        for _ in range(ticks):
            yield from settle(session)
        yield MOVE
        if session.stuck:
            break
    release(session, key)


def demonstration(session: Session) -> Iterator[int]:
    """Play both seats: the leader by hand, then along the hyper-gradient; the follower's answer."""
    yield from settle(session)
    yield PAUSE
    if session.cells is not None:
        for cell in np.argwhere(session.cells == "H").tolist()[:PAINTED_CELLS]:
            place = session.cell_centre(*cell)
            handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=place, rel=(0, 0)))
            handle(session, pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=3, pos=place))
            yield 8
            handle(session, pygame.event.Event(pygame.MOUSEBUTTONUP, button=3, pos=place))
            yield MOVE
    elif session.knobs:
        yield from drag_slider(session, 0, 0.8)
    yield PAUSE
    for frames in (READ, MOVE):
        press(session, "h")
        yield frames
    yield from hold(session, "g", CLIMBING_PICTURES if session.exact else LEARNT_PICTURES)
    yield from settle(session)
    yield PAUSE
    press(session, "TAB")
    yield PAUSE
    for _ in range(WALKING_STEPS):
        assert session.episode is not None
        if session.episode.ended:
            break
        press(session, "SPACE")
        yield 4 if session.exact else MOVE


def lesson(session: Session) -> Iterator[int]:
    """Take the lesson, and do the task of each stage."""
    assert isinstance(session.lesson, Lesson), "there is no lesson"
    tasks: tuple[Callable[[], Iterator[int]], ...] = (
        lambda: drag_slider(session, 0, 0.55),
        lambda: _all_to(session, 0.35),
        lambda: hold(session, "d", 20, ticks=3),
        lambda: drag_slider(session, 2, 0.245),
        lambda: hold(session, "g", 24, ticks=8),
    )
    for stage, do in zip(STAGES, tasks, strict=True):
        assert session.lesson.stage is stage
        yield READ
        yield from do()
        yield READ
        press(session, "RETURN")


def _all_to(session: Session, share: float) -> Iterator[int]:
    """Drag one slider after the other to a share of its range."""
    for number in range(len(session.knobs)):
        for frames in drag_slider(session, number, share):
            if session.rows[number].share == share:
                yield frames
