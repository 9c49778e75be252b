"""Play a game on a map in a window: shape it as the leader, walk in it as the follower.

`Session` is the state of the viewer and everything one can do to it; it knows neither pygame nor
pixels. `CONTROLS` says which key does what, for the help overlay and for `handle`, which turns
events into calls. `play` draws the session and passes events on; a headless film does the same with
events of its own making.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .checks import unknown_name
from .envs.base import View
from .methods.base import Response
from .optimizers import normalized_ascent
from .registration import TASKS
from .rendering import (
    Curve,
    GridScene,
    Screen,
    draw_grid,
    draw_help,
    grid_layout,
    import_pygame,
)
from .wrappers import LowerLevel

if TYPE_CHECKING:
    from gymnasium import spaces
    from pygame import Surface
    from pygame.event import Event

__all__ = ["CONTROLS", "Control", "Session", "draw", "handle", "play", "run"]

FloatArray = NDArray[np.float64]
Cell = tuple[int, int]
Seat = Literal["leader", "follower"]

# Euclidean length of a step along the hyper-gradient.
STEP_LENGTH = 0.05

# Shaping that one stroke adds to a cell, at first, and the steps of the mouse wheel.
BRUSH, BRUSH_STEP = 0.1, 0.05

MAX_UNDO = 200
FPS = 30

# Length of the piece that a headless film shows.
PAINTED_CELLS, CLIMBING_TICKS, WALKING_STEPS = 8, 14, 30


class MapGame(Protocol):
    """What the viewer needs of a game: a tabular one whose states, and entries of x, are cells."""

    upper_space: spaces.Box
    initial_upper_params: FloatArray
    best_known: Any

    def evaluate(
        self, upper_params: ArrayLike, *, initial_value: FloatArray | None = None
    ) -> Response:
        """Return the exact response to x."""
        ...

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the map."""
        ...

    def state_of(self, cell: Cell) -> int | None:
        """Return the state of a cell, which is also its index in x; None for a wall."""
        ...


@dataclass
class Episode:
    """The follower's episode.

    Attributes:
        state: Where the follower stands.
        lower_returns: Its return after each step, undiscounted, zero at first.
        upper_returns: The leader's.
        ended: How the episode ended, empty while it goes on.
    """

    state: int
    lower_returns: list[float] = field(default_factory=lambda: [0.0])
    upper_returns: list[float] = field(default_factory=lambda: [0.0])
    ended: str = ""


# What one can do -------------------------------------------------------------------------------


class Session:
    """The state of the viewer, and what keys and mouse do to it.

    Attributes:
        env: The environment, in the follower's seat once that was taken.
        game: The game below it.
        cells: The map, as in `GridScene`.
        layout: Where things are in the picture.
        low: Lower bounds of x, float64.
        high: Upper bounds of x, float64.
        x: The leader's x, read-only.
        seat: Whose seat is taken.
        episode: The follower's episode, None in the leader's seat.
        brush: What one stroke adds to a cell; positive.
        cursor: The cell under the mouse.
        stroke: What the pressed mouse button adds to each cell it touches, NaN to erase, None while
            no button is pressed.
        climbing: Whether x follows the hyper-gradient, a step at every tick.
        objectives: F of every x answered so far.
        gradient_norms: Norm of the hyper-gradient at the same points.
        message: What happened last, if that needs words.
        show_help: Whether the help overlay is on.
        running: False once the user has had enough.
        folder: Where screenshots go.
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, folder: Path | None = None, seed: int | None = None
    ) -> None:
        """Sit down in the leader's seat.

        Args:
            env: A game in either seat, as `gymnasium.make` returns it.
            folder: Where screenshots go, the current folder by default.
            seed: Seed of the follower's moves; drawn if None.

        Raises:
            TypeError: If the game has no map.
        """
        if not hasattr(env.unwrapped, "scene"):
            raise TypeError(
                f"only games on a map can be played, and {type(env.unwrapped).__name__} has none "
                "(no `scene`)"
            )
        self.env = env
        self.game = cast(MapGame, env.unwrapped)
        empty = self.game.scene(View("", self.game.initial_upper_params))
        self.cells = empty.cells
        self.layout = grid_layout((len(self.cells), len(self.cells[0])), with_curves=True)
        self.low = self.game.upper_space.low.astype(np.float64)
        self.high = self.game.upper_space.high.astype(np.float64)
        self.x = self.game.initial_upper_params
        self.seat: Seat = "leader"
        self.episode: Episode | None = None
        self.brush = BRUSH
        self.cursor: Cell | None = None
        self.stroke: float | None = None
        self.climbing = False
        self.objectives: list[float] = []
        self.gradient_norms: list[float] = []
        self.message = ""
        self.show_help = False
        self.running = True
        self.folder = folder or Path()
        self._seed = seed
        self._answer: Response | None = None
        self._undo: list[FloatArray] = []
        self._redo: list[FloatArray] = []
        self._touched: set[Cell] = set()

    @property
    def response(self) -> Response:
        """The follower's exact answer to x, solved when it is first asked for."""
        answer = self._answer
        if answer is None or answer.upper_params is not self.x:
            start = None if answer is None or not answer.converged else answer.soft_value
            answer = self.game.evaluate(self.x, initial_value=start)
            # Validation copies x; from here on, the copy is x.
            self.x, self._answer = answer.upper_params, answer
            self.objectives.append(answer.objective)
            self.gradient_norms.append(float(np.linalg.norm(answer.hyper_gradient)))
            if not answer.converged:
                self.message = f"the follower's answer is off by {answer.residual:.1e}"
        return answer

    # The leader's moves

    def start_stroke(self, kind: Literal["raise", "lower", "erase"]) -> None:
        """Begin to paint; cells are painted once a stroke, when the cursor enters them."""
        self._remember()
        self.stroke = {"raise": self.brush, "lower": -self.brush, "erase": math.nan}[kind]
        self.move_cursor(self.cursor)

    def end_stroke(self) -> None:
        """Lift the brush."""
        self.stroke = None
        self._touched.clear()

    def move_cursor(self, cell: Cell | None) -> None:
        """Move to a cell, or off the map, and paint there while a stroke lasts."""
        self.cursor = cell
        if cell is None or self.stroke is None or cell in self._touched:
            return
        index = self.game.state_of(cell)
        if index is None:
            return
        self._touched.add(cell)
        x = self.x.copy()
        x[index] = 0.0 if math.isnan(self.stroke) else x[index] + self.stroke
        self._go(np.clip(x, self.low, self.high))

    def change_brush(self, steps: int) -> None:
        """Make the brush stronger or weaker."""
        largest = float((self.high - self.low).max())
        brush = round(self.brush / BRUSH_STEP + steps) * BRUSH_STEP
        self.brush = min(max(brush, BRUSH_STEP), largest)

    def start_climb(self) -> None:
        """Take a step along the hyper-gradient, and go on with every tick."""
        self._remember()
        self.climbing = True
        self._climb()

    def stop_climb(self) -> None:
        """Stand still."""
        self.climbing = False

    def tick(self) -> None:
        """Let time pass."""
        if self.climbing:
            self._climb()

    def undo(self) -> None:
        """Take back the last stroke, climb or reset."""
        self._travel(self._undo, self._redo, "there is nothing to undo")

    def redo(self) -> None:
        """Do again what was taken back."""
        self._travel(self._redo, self._undo, "there is nothing to redo")

    # The follower's moves

    def act(self, action: int) -> None:
        """Make a move; after the end of an episode, start another instead."""
        episode = self.episode
        assert episode is not None, "only the follower acts"
        if episode.ended:
            self._start_episode()
            return
        state, reward, terminated, truncated, info = self.env.step(action)
        episode.state = int(state)
        episode.lower_returns.append(episode.lower_returns[-1] + float(reward))
        episode.upper_returns.append(episode.upper_returns[-1] + info["upper_reward"])
        if terminated or truncated:
            reason = "the episode is over" if terminated else "time is up"
            episode.ended = f"{reason}; any move starts another"

    # Everybody's moves

    def switch_seat(self) -> None:
        """Take the other seat; the follower starts an episode under the leader's x."""
        self.end_stroke()
        self.stop_climb()
        if self.seat == "leader":
            self.seat = "follower"
            self._start_episode()
        else:
            self.seat, self.episode = "leader", None

    def reset(self) -> None:
        """Go back to the initial x, or to the start of an episode."""
        if self.seat == "follower":
            self._start_episode()
            return
        self._remember()
        self._go(self.game.initial_upper_params)
        self.objectives.clear()
        self.gradient_norms.clear()
        self._answer = None

    def toggle_help(self) -> None:
        """Show the help overlay, or hide it."""
        self.show_help = not self.show_help

    def save_screenshot(self) -> None:
        """Write the picture into a new PNG file; nothing is ever overwritten."""
        surface = draw(self)
        name = self.env.spec.id if self.env.spec is not None else type(self.game).__name__
        number = 1
        while True:
            path = self.folder / f"{name}-{number:03d}.png"
            try:
                with path.open("xb") as file:
                    import_pygame().image.save(surface, file, "png")
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                self.message = f"no screenshot: {error.strerror}"
            else:
                self.message = f"saved {path.name}"
            return

    def quit(self) -> None:
        """Leave."""
        self.running = False

    def _remember(self) -> None:
        """Make the present x one that `undo` returns to."""
        self._undo.append(self.x)
        del self._undo[:-MAX_UNDO]
        self._redo.clear()

    def _travel(self, source: list[FloatArray], target: list[FloatArray], otherwise: str) -> None:
        """Swap x with the last one of a history that differs from it."""
        while source:
            x = source.pop()
            if not np.array_equal(x, self.x):
                target.append(self.x)
                self._go(x)
                return
        self.message = otherwise

    def _go(self, x: FloatArray) -> None:
        if not np.array_equal(x, self.x):
            self.x = x

    def _climb(self) -> None:
        def objective(x: FloatArray) -> tuple[float, FloatArray]:
            self._go(x)
            return self.response.objective, self.response.hyper_gradient

        optimum = normalized_ascent(
            objective, self.x, self.low, self.high, steps=1, learning_rate=STEP_LENGTH
        )
        if optimum.evaluations == 1:
            self.message = "the hyper-gradient vanishes here"

    def _start_episode(self) -> None:
        self.env = LowerLevel(self.env, self.x)
        state, _ = self.env.reset(seed=self._seed)
        self._seed = None  # later episodes go on with the same random numbers
        self.episode = Episode(int(state))


# Which key does it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Control:
    """A line of the help overlay, and what it promises.

    Attributes:
        keys: How the keys are called on the overlay.
        meaning: What they do.
        actions: What each trigger, a name that `trigger` gives, calls.
        seat: The seat that it belongs to, None for both.
    """

    keys: str
    meaning: str
    actions: Mapping[str, Callable[[Session], None]]
    seat: Seat | None = None


MOVES = ("UP", "RIGHT", "DOWN", "LEFT")

CONTROLS = (
    Control("Tab", "change seats: leader or follower", {"TAB": Session.switch_seat}),
    Control(
        "left drag",
        "leader: raise the shaping by the brush",
        {"left button": partial(Session.start_stroke, kind="raise")},
        "leader",
    ),
    Control(
        "right drag",
        "leader: lower it by the brush",
        {"right button": partial(Session.start_stroke, kind="lower")},
        "leader",
    ),
    Control(
        "Shift or middle drag",
        "leader: erase it",
        {
            name: partial(Session.start_stroke, kind="erase")
            for name in ("middle button", "shift left button", "shift right button")
        },
        "leader",
    ),
    Control(
        "wheel",
        f"leader: brush up or down by {BRUSH_STEP}",
        {
            "wheel up": partial(Session.change_brush, steps=1),
            "wheel down": partial(Session.change_brush, steps=-1),
        },
        "leader",
    ),
    Control(
        "G (hold)",
        "leader: climb along the hyper-gradient",
        {"g": Session.start_climb},
        "leader",
    ),
    Control("Z, Y", "leader: undo, redo", {"z": Session.undo, "y": Session.redo}, "leader"),
    Control(
        "arrows or 0 1 2 3",
        "follower: move up, right, down, left",
        {
            name: partial(Session.act, action=i)
            for i, arrow in enumerate(MOVES)
            for name in (arrow, str(i), f"KP{i}")
        },
        "follower",
    ),
    Control("R", "start again: x or the episode", {"r": Session.reset}),
    Control("S", "save a screenshot", {"s": Session.save_screenshot}),
    Control(
        "H or F1", "show or hide this help", {"h": Session.toggle_help, "F1": Session.toggle_help}
    ),
    Control("Q or Esc", "quit", {"q": Session.quit, "ESCAPE": Session.quit, "close": Session.quit}),
)

_BY_TRIGGER = {trigger: control for control in CONTROLS for trigger in control.actions}


def handle(session: Session, event: Event) -> None:
    """Do what an event of pygame asks for."""
    pygame = import_pygame()
    if event.type == pygame.MOUSEMOTION:
        for position in _way(event, session.layout.cell) if session.stroke else (event.pos,):
            session.move_cursor(session.layout.cell_at(position))
    elif event.type == pygame.MOUSEBUTTONDOWN:
        if session.show_help:  # nobody paints what the help covers
            session.toggle_help()
            return
        session.move_cursor(session.layout.cell_at(event.pos))
    elif event.type == pygame.MOUSEBUTTONUP:
        session.end_stroke()
    elif event.type == pygame.WINDOWLEAVE:
        session.move_cursor(None)
    elif event.type == pygame.KEYUP:
        session.stop_climb()
    control = _BY_TRIGGER.get(trigger := _trigger(event))
    if control is None:
        return
    if control.seat in (None, session.seat):
        session.message = ""
        control.actions[trigger](session)
    else:
        session.message = f"only the {control.seat} can do that; Tab changes seats"


def _trigger(event: Event) -> str:
    """Return what `CONTROLS` calls an event, an empty string for all others."""
    pygame = import_pygame()
    if event.type == pygame.QUIT:
        return "close"
    if event.type == pygame.KEYDOWN:
        return _key_names().get(event.key, "")
    if event.type == pygame.MOUSEWHEEL:
        return {1: "wheel up", -1: "wheel down"}.get(int(np.sign(event.y)), "")
    if event.type == pygame.MOUSEBUTTONDOWN:
        button = {1: "left button", 2: "middle button", 3: "right button"}.get(event.button, "")
        # Without a display there is no keyboard to ask.
        shift = pygame.display.get_init() and pygame.key.get_mods() & pygame.KMOD_SHIFT
        return f"shift {button}" if shift else button
    return ""


@lru_cache(maxsize=1)
def _key_names() -> dict[int, str]:
    """Return the names of the keys in `CONTROLS` by pygame's numbers."""
    pygame = import_pygame()
    numbers = {name: getattr(pygame, f"K_{name}", None) for name in _BY_TRIGGER}
    return {number: name for name, number in numbers.items() if number is not None}


def _way(event: Event, cell: float) -> Iterator[tuple[int, int]]:
    """Yield points of a motion, close enough that a fast stroke leaves out no cell."""
    (x, y), (dx, dy) = event.pos, event.rel
    count = max(1, math.ceil(2 * max(abs(dx), abs(dy)) / max(1.0, cell)))
    for i in range(count - 1, -1, -1):
        yield round(x - dx * i / count), round(y - dy * i / count)


# What one sees ---------------------------------------------------------------------------------


def draw(session: Session) -> Surface:
    """Draw the session; no display is needed."""
    surface = draw_grid(scene(session))
    if session.show_help:
        draw_help(surface, [(control.keys, control.meaning) for control in CONTROLS])
    return surface


def scene(session: Session) -> GridScene:
    """Return what is to be drawn, the help apart."""
    response, episode = session.response, session.episode
    leads = episode is None
    hint = "paint with the mouse or hold G" if leads else "walk with the arrow keys"
    said = session.message or (episode.ended if episode else "") or f"{hint}; H for help"
    if session.climbing and not session.message:
        said = "climbing along the hyper-gradient"
    view = View(
        title=f"You are the {session.seat}: {said}",
        upper_params=session.x,
        response=response,
        state=None if episode is None else episode.state,
        status=_leader_status(session) if episode is None else _follower_status(session, episode),
    )
    return replace(
        session.game.scene(view),
        curves=_leader_curves(session) if episode is None else _follower_curves(episode),
        **({"cursor": session.cursor} if leads else {"gradient": None}),
    )


def _leader_status(session: Session) -> tuple[tuple[str, str], ...]:
    response, best = session.response, session.game.best_known
    index = None if session.cursor is None else session.game.state_of(session.cursor)
    return (
        ("objective", _number(response.objective)),
        ("best known", "none" if best is None else _number(best.value)),
        ("lower value", _number(response.lower_value)),
        ("|hyper-gradient|", f"{session.gradient_norms[-1]:.3g}"),
        ("brush", f"±{session.brush:.2f}"),
        ("x under the mouse", "none" if index is None else _number(session.x[index])),
        ("step", str(len(session.objectives) - 1)),
    )


def _follower_status(session: Session, episode: Episode) -> tuple[tuple[str, str], ...]:
    return (
        ("objective", _number(session.response.objective)),
        ("lower value", _number(session.response.lower_value)),
        ("your return", _number(episode.lower_returns[-1])),
        ("leader's return", _number(episode.upper_returns[-1])),
        ("step", str(len(episode.lower_returns) - 1)),
    )


def _leader_curves(session: Session) -> tuple[Curve, ...]:
    return (
        Curve("objective", session.objectives),
        Curve("|hyper-gradient|", session.gradient_norms, log_scale=True),
    )


def _follower_curves(episode: Episode) -> tuple[Curve, ...]:
    return (
        Curve("your return", episode.lower_returns),
        Curve("leader's return", episode.upper_returns),
    )


def _number(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


# Playing ---------------------------------------------------------------------------------------


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
