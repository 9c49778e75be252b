"""The keys: one table for the help overlay and for `handle`, which responds to events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from ..core.files import replacing
from ..rendering import draw_help, grid_layout
from ..rendering.canvas import pygame
from .picture import draw_page
from .session import BRUSH_STEP, Seat, Session


@dataclass(frozen=True)
class Control:
    """A line of the help overlay, and what it does.

    Attributes:
        actions: The function called for each trigger, by the trigger's name.
        seat: The seat that it belongs to, None for both.
    """

    keys: str
    meaning: str
    actions: Mapping[str, Callable[[Session], None]]
    seat: Seat | None = None


def save_screenshot(session: Session) -> None:
    """Write the picture into a new PNG file; nothing is ever overwritten."""
    name = session.env.spec.id if session.env.spec is not None else type(session.game).__name__
    paths = (session.folder / f"{name}-{number:03d}.png" for number in count(1))
    path = next(path for path in paths if not path.exists())
    try:
        with replacing(path) as temporary:
            pygame.image.save(draw(session), temporary)
    except OSError as error:
        session.message = f"no screenshot: {error.strerror}"
    else:
        session.message = f"saved {path.name}"


def next_stage(session: Session) -> None:
    """Go to the next stage of the lesson, if one is taken."""
    if session.lesson is not None:
        session.lesson.go_on(session)


MOVES = ("up", "right", "down", "left")

CONTROLS = (
    Control("Tab", "change seats: leader or follower", {"tab": Session.switch_seat}),
    Control(
        "left drag",
        "leader: move a slider (Shift: all); on a map raise x by the brush",
        {"left button": partial(Session.start_stroke, kind="raise")},
        "leader",
    ),
    Control(
        "right drag",
        "leader: on a map lower x by the brush",
        {"right button": partial(Session.start_stroke, kind="lower")},
        "leader",
    ),
    Control(
        "Shift or middle drag",
        "leader: on a map set x to 0",
        {
            name: partial(Session.start_stroke, kind="erase")
            for name in ("middle button", "shift left button", "shift right button")
        },
        "leader",
    ),
    Control(
        "wheel",
        f"leader: move the slider under the mouse, or the brush by {BRUSH_STEP}",
        {
            "wheel up": partial(Session.change_brush, steps=1),
            "wheel down": partial(Session.change_brush, steps=-1),
        },
        "leader",
    ),
    Control(
        "G (hold)", "leader: climb along the hyper-gradient", {"g": Session.start_climb}, "leader"
    ),
    Control(
        "D (hold)",
        "leader: be greedy, follow the direct part alone",
        {"d": partial(Session.start_climb, way="direct part")},
        "leader",
    ),
    Control("P", "leader: triangles show another part", {"p": Session.show_next_part}, "leader"),
    Control("Z, Y", "leader: undo, redo", {"z": Session.undo, "y": Session.redo}, "leader"),
    Control(
        "arrows or digits",
        "follower: move on a map, or take the action of a number",
        {arrow: partial(Session.move, direction=i) for i, arrow in enumerate(MOVES)}
        | {name: partial(Session.act, action=i) for i in range(10) for name in (f"{i}", f"[{i}]")},
        "follower",
    ),
    Control(
        "Space", "follower: a move of its best answer", {"space": Session.act_best}, "follower"
    ),
    Control("Enter", "lesson: go on", {"return": next_stage, "enter": next_stage}),
    Control("R", "start again: x or the episode", {"r": Session.reset}),
    Control("S", "save a screenshot", {"s": save_screenshot}),
    Control(
        "H or F1", "show or hide this help", {"h": Session.toggle_help, "f1": Session.toggle_help}
    ),
    Control("Q or Esc", "quit", {"q": Session.quit, "escape": Session.quit, "close": Session.quit}),
)

_BY_TRIGGER = {trigger: control for control in CONTROLS for trigger in control.actions}


def draw(session: Session) -> pygame.Surface:
    """Draw the session; no display is needed."""
    surface = draw_page(session)
    if session.show_help:
        draw_help(surface, [(control.keys, control.meaning) for control in CONTROLS])
    return surface


def handle(session: Session, event: pygame.event.Event) -> None:
    """Respond to an event of pygame."""
    if event.type == pygame.MOUSEMOTION:
        session.pointer = event.pos
        if session.dragged is not None:
            _drag(session, event.pos)
            return
        cell = grid_layout(session.cells.shape).cell if session.cells is not None else 1.0
        for position in _way(event, cell) if session.stroke else (event.pos,):
            session.move_cursor(session.cell_at(position))
    elif event.type == pygame.MOUSEBUTTONDOWN:
        if session.show_help:  # it covers the map
            session.toggle_help()
            return
        slider = _slider_at(session, event.pos)
        if slider is not None and event.button == 1:
            session.message = ""
            session.hold_slider(slider)
            _drag(session, event.pos)
            return
        session.move_cursor(session.cell_at(event.pos))
    elif event.type == pygame.MOUSEBUTTONUP:
        session.end_stroke()
    elif event.type == pygame.WINDOWLEAVE:
        session.move_cursor(None)
    elif event.type == pygame.KEYUP:
        session.stop_climb()
    elif event.type == pygame.MOUSEWHEEL and event.y:
        slider = _slider_at(session, session.pointer)
        if slider is not None:
            session.nudge_slider(slider, int(np.sign(event.y)))
            return
    control = _BY_TRIGGER.get(trigger := _trigger(event))
    if control is None:
        return
    if control.seat in (None, session.seat):
        session.message = ""
        control.actions[trigger](session)
    else:
        session.message = f"only the {control.seat} can do that; Tab changes seats"


def _slider_at(session: Session, position: tuple[int, int]) -> int | None:
    """Return the slider under a pixel, if the leader may move it."""
    if not session.knobs or session.seat != "leader":
        return None
    return session.layout.slider_at(position)


def _drag(session: Session, position: tuple[int, int]) -> None:
    """Move the slider that is held to a pixel; with Shift, all of them."""
    assert session.dragged is not None
    share = session.layout.share_at(position, session.dragged)
    session.move_slider(share, together=_shift())


def _shift() -> bool:
    # Without a display there is no keyboard to ask.
    return bool(pygame.display.get_init() and pygame.key.get_mods() & pygame.KMOD_SHIFT)


def _trigger(event: pygame.event.Event) -> str:
    """Return what `CONTROLS` calls an event, an empty string for all others."""
    if event.type == pygame.QUIT:
        return "close"
    if event.type == pygame.KEYDOWN:
        return str(pygame.key.name(event.key))
    if event.type == pygame.MOUSEWHEEL:
        return {1: "wheel up", -1: "wheel down"}.get(int(np.sign(event.y)), "")
    if event.type == pygame.MOUSEBUTTONDOWN:
        button = {1: "left button", 2: "middle button", 3: "right button"}.get(event.button, "")
        return f"shift {button}" if _shift() else button
    return ""


def _way(event: pygame.event.Event, cell: float) -> Iterator[tuple[int, int]]:
    """Yield points of a motion, close enough that a fast stroke leaves out no cell."""
    (x, y), (dx, dy) = event.pos, event.rel
    steps = max(1, math.ceil(2 * max(abs(dx), abs(dy)) / max(1.0, cell)))
    for i in range(steps - 1, -1, -1):
        yield round(x - dx * i / steps), round(y - dy * i / steps)
