"""Play a game on a map in a window: shape it as the leader, walk in it as the follower.

`session` is the state and what one can do to it, `picture` says what is seen of it, `controls`
turns events into calls. A headless film goes the same way with events of its own making.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from ..core.checks import unknown_name
from ..registration import TASKS
from ..rendering import Screen, import_pygame
from .controls import CONTROLS, MOVES, draw, handle
from .session import Session

if TYPE_CHECKING:
    from pygame.event import Event

__all__ = ["CONTROLS", "Session", "draw", "handle", "play", "run"]

FPS = 30

# Length of the piece that a headless film shows.
PAINTED_CELLS, CLIMBING_TICKS, WALKING_STEPS = 8, 14, 30


def play(env_id: str, *, headless: Path | None = None, **env_kwargs: Any) -> None:
    """Play a task in a window.

    Args:
        env_id: Gymnasium id of a task on a map.
        headless: Open no window; play a short piece by itself and film it into this GIF.
        **env_kwargs: Arguments of the task.

    Raises:
        ValueError: If the task is unknown, or the film cannot be written there.
        TypeError: If the task has no map.
        NoDisplayError: If there is no display, and no film is wanted.
    """
    if env_id not in gym.registry:
        raise ValueError(unknown_name("task", env_id, [task.id for task in TASKS]))
    session = Session(gym.make(env_id, **env_kwargs), seed=None if headless is None else 0)
    with Screen(env_id, headless=headless, fps=FPS) as screen:
        if headless is None:
            run(session, screen)
        else:
            rehearse(session, screen)


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


def rehearse(session: Session, screen: Screen) -> None:
    """Play the piece of `piece`, as if a user did."""
    for event, frames in piece(session):
        if event is not None:
            handle(session, event)
        session.tick()
        screen.show(draw(session), frames=frames)


def piece(session: Session) -> Iterator[tuple[Event | None, int]]:
    """Yield events, and for how many frames their effect is to be seen.

    The leader makes hazards costly by hand, asks for help, and climbs from there; then the follower
    walks to the goal along its best answer.
    """
    pygame = import_pygame()

    def press(key: int) -> Event:
        return pygame.event.Event(pygame.KEYDOWN, key=key)

    yield None, 16
    for row, column in np.argwhere(session.cells == "H").tolist()[:PAINTED_CELLS]:
        place = session.layout.cell_centre(row, column)
        yield pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=3, pos=place), 8
        yield pygame.event.Event(pygame.MOUSEBUTTONUP, button=3, pos=place), 2
    yield None, 16
    yield press(pygame.K_h), 32
    yield press(pygame.K_h), 2
    yield press(pygame.K_g), 2
    for _ in range(CLIMBING_TICKS):
        yield None, 2
    yield pygame.event.Event(pygame.KEYUP, key=pygame.K_g), 16
    yield press(pygame.K_TAB), 16
    arrows = [getattr(pygame, f"K_{name}") for name in MOVES]
    for _ in range(WALKING_STEPS):
        episode = session.episode
        assert episode is not None
        if episode.ended:
            break
        yield press(arrows[int(session.response.policy[episode.state].argmax())]), 4
