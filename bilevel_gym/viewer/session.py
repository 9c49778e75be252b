"""The state of the viewer and the moves of both players, without pygame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np

from ..core.mdp import FloatArray
from ..envs.base import BilevelEnv, View, inward
from ..model.base import BilevelModel
from ..optimizers import projected_gradient_norm
from ..rendering import grid_layout
from ..rendering.canvas import Colour
from ..wrappers import LowerLevel
from .climbing import PARTS, Climb, Part, Way, part, why_stuck
from .panel import Knob, lay_out

Cell = tuple[int, int]
Seat = Literal["leader", "follower"]

# Games have sliders up to so many entries of x.
MAX_KNOBS = 30

# Pixels that the picture of a game may take.
ROOM = (1000, 840)

# Share of a slider's range that the wheel moves it by.
NOTCH = 0.02

# Shaping that one stroke adds to a cell, at first, and the steps of the mouse wheel.
BRUSH, BRUSH_STEP = 0.1, 0.05

MAX_UNDO = 200


@dataclass
class Episode:
    """The follower's episode.

    Attributes:
        state: The follower's state, an index or an array.
        lower_returns: Its return after each step, undiscounted, zero at first.
        upper_returns: The leader's.
        ended: How the episode ended, empty until then.
    """

    state: Any
    lower_returns: list[float] = field(default_factory=lambda: [0.0])
    upper_returns: list[float] = field(default_factory=lambda: [0.0])
    ended: str = ""


class Guide(Protocol):
    """Who leads through a session, as `bilevel_gym.viewer.lesson.Lesson` does."""

    @property
    def paragraphs(self) -> list[tuple[str, Colour]]:
        """What the panel says, with colours."""

    def begin(self, session: Session) -> None:
        """Put the leader where a stage starts."""

    def watch(self, session: Session) -> None:
        """Notice what has been done."""

    def go_on(self, session: Session) -> None:
        """Go to the next stage."""


class Session:
    """The state of the viewer, with a method for each thing that keys and mouse do.

    Attributes:
        env: The environment, in the follower's seat once that was taken.
        game: The game in it, whose states and entries of x are cells of a map.
        cells: The map, as in `GridScene`; None of a game without one.
        knobs: Names of the sliders, one for each entry of x; none where there are too many.
        layout: Places on the page.
        x: The leader's x, read-only.
        episode: The follower's episode, None in the leader's seat.
        brush: What one stroke adds to a cell; positive.
        stroke: What the pressed mouse button adds to each cell it touches, NaN to erase, None while
            no button is pressed.
        pointer: Where the mouse is on the page, in pixels.
        dragged: The slider that the mouse holds, None for none.
        climb: What x follows, a step at every tick; None while it stands.
        stuck: Why there is no step, empty while there is one.
        shown: The part of the hyper-gradient that the picture of the game shows.
        objectives: F of every x answered so far.
        gradient_norms: Norm of the projected gradient at the same points.
        lesson: The lesson that is taken, None for none.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        folder: Path | None = None,
        seed: int | None = None,
        lesson: Guide | None = None,
    ) -> None:
        """Start in the leader's seat of a game, as `gymnasium.make` returns it.

        Screenshots go to the current folder by default. The seed is that of the follower's moves,
        drawn if None. A game that cannot be played is a `TypeError`.
        """
        game: Any = env.unwrapped
        check_playable(game)
        self.env = env
        self.game = game
        self.low = game.upper_space.low.astype(np.float64)
        self.high = game.upper_space.high.astype(np.float64)
        self.x: FloatArray = game.initial_upper_params
        self.knobs = game.knob_names() if self.x.size <= MAX_KNOBS else ()
        self.seat: Seat = "leader"
        self.episode: Episode | None = None
        self.brush = BRUSH
        self.cursor: Cell | None = None
        self.stroke: float | None = None
        self.dragged: int | None = None
        self.pointer = (-1, -1)
        self.climb: Climb | None = None
        self.stuck = ""
        self.shown: Part = "hyper-gradient"
        self.objectives: list[float] = []
        self.gradient_norms: list[float] = []
        self.message = ""
        self.show_help = False
        self.running = True
        self.folder = folder or Path()
        self.lesson = lesson
        self._rng = np.random.default_rng(seed)
        self._seed = seed
        self._answer: Any = None
        self._undo: list[FloatArray] = []
        self._redo: list[FloatArray] = []
        self._touched: set[Cell] = set()
        view = View(game.headline("leader"), self.x)
        self.cells = game.scene(view).cells if game.has_map else None
        size = game.draw(view).get_size()
        self.layout = lay_out(size, ROOM, len(self.knobs), lesson=lesson is not None)
        if lesson is not None:
            lesson.begin(self)

    @property
    def response(self) -> Any:
        """The follower's exact answer to x, computed on first use."""
        answer = self._answer
        if answer is None or not np.array_equal(answer.upper_params, self.x):
            self._answer = answer = self.ask(self.x)
            self.objectives.append(answer.objective)
            gradient = answer.hyper_gradient
            norm = projected_gradient_norm(self.x, gradient, self.low, self.high)
            self.gradient_norms.append(norm)
            if not answer.converged:
                self.message = f"the follower's answer is off by {answer.residual:.1e}"
        return answer

    def ask(self, x: FloatArray) -> Any:
        """Return the follower's exact answer to an x that need not be the present one."""
        answer = self._answer
        if answer is not None and np.array_equal(answer.upper_params, x):
            return answer
        start = answer if answer is not None and answer.converged else None
        return self.game.evaluate(x, warm_start=start)

    @property
    def climbing(self) -> bool:
        """Whether x moves by itself."""
        return self.climb is not None

    @property
    def rows(self) -> list[Knob]:
        """The rows of the panel: the sliders, or the cell under the mouse."""
        index = None if self.cells is None or self.cursor is None else self.entry(self.cursor)
        numbers = range(len(self.knobs)) if self.knobs else [] if index is None else [index]
        names = self.knobs or self.game.knob_names()
        x, low, high = (values.ravel() for values in (self.x, self.low, self.high))
        rows, slopes = [], None
        if self.seat == "leader":
            slopes = np.stack([part(self.response, name).ravel() for name in PARTS], axis=1)
            left = inward(x, slopes[:, -1], low, high)
        for i in numbers:
            share = float((x[i] - low[i]) / (high[i] - low[i]))
            known = None if slopes is None else tuple(slopes[i].tolist())
            blocked = slopes is not None and left[i] == 0.0 and slopes[i, -1] != 0.0
            rows.append(Knob(names[i], float(x[i]), share, known, blocked))
        return rows

    # Places on the page

    def cell_at(self, position: tuple[int, int]) -> Cell | None:
        """Return the cell of the map under a pixel of the page, None for none."""
        if self.cells is None:
            return None
        x, y = (round(place / self.layout.scale) for place in position)
        return grid_layout(self.cells.shape).cell_at((x, y))

    def cell_centre(self, row: int, column: int) -> tuple[int, int]:
        """Return the pixel of the page in the middle of a cell of the map."""
        assert self.cells is not None, "there is no map"
        x, y = grid_layout(self.cells.shape).cell_centre(row, column)
        return round(x * self.layout.scale), round(y * self.layout.scale)

    def entry(self, cell: Cell) -> int | None:
        """Return the entry of x that belongs to a cell, None where there is none."""
        index: int | None = self.game.state_of(cell)
        return index

    # The leader's moves

    def start_stroke(self, kind: Literal["raise", "lower", "erase"]) -> None:
        """Begin a stroke; it paints each cell once, when the cursor enters it."""
        self._remember()
        self.stuck = ""
        self.stroke = {"raise": self.brush, "lower": -self.brush, "erase": math.nan}[kind]
        self.move_cursor(self.cursor)

    def end_stroke(self) -> None:
        """End the stroke, or let go of the slider."""
        self.stroke = self.dragged = None
        self._touched.clear()

    def move_cursor(self, cell: Cell | None) -> None:
        """Move to a cell, or off the map, and paint it during a stroke."""
        self.cursor = cell
        if cell is None or self.stroke is None or cell in self._touched:
            return
        index = self.entry(cell)
        if index is None:
            return
        self._touched.add(cell)
        x = self.x.copy()
        x[index] = 0.0 if math.isnan(self.stroke) else x[index] + self.stroke
        self.x = np.clip(x, self.low, self.high)

    def change_brush(self, steps: int) -> None:
        """Make the brush stronger or weaker."""
        largest = float((self.high - self.low).max())
        brush = round(self.brush / BRUSH_STEP + steps) * BRUSH_STEP
        self.brush = min(max(brush, BRUSH_STEP), largest)

    def hold_slider(self, number: int) -> None:
        """Take hold of a slider until `end_stroke`."""
        self._remember()
        self.dragged = number

    def move_slider(self, share: float, *, together: bool = False) -> None:
        """Move the slider that is held to a share of its range, or all `together`."""
        assert self.dragged is not None, "no slider is held"
        self._set(slice(None) if together else self.dragged, share)

    def nudge_slider(self, number: int, notches: int) -> None:
        """Move a slider by notches of the wheel."""
        self._remember()
        low, high = self.low.ravel()[number], self.high.ravel()[number]
        share = float((self.x.ravel()[number] - low) / (high - low)) + notches * NOTCH
        self._set(number, min(max(share, 0.0), 1.0))

    def _set(self, entries: int | slice, share: float) -> None:
        x, low, high = (values.ravel() for values in (self.x, self.low, self.high))
        moved = x.copy()
        moved[entries] = low[entries] + share * (high[entries] - low[entries])
        self.x, self.stuck = moved.reshape(self.x.shape), ""

    def start_climb(self, way: Way = "hyper-gradient") -> None:
        """Take a step along the hyper-gradient or its direct part, and one more every tick."""
        self._remember()
        self.climb, self.stuck = Climb(self.low, self.high, way), ""
        self.tick()

    def stop_climb(self) -> None:
        """Stand still."""
        self.climb = None

    def tick(self) -> None:
        """Take the next step, if x moves by itself, or say why there is none."""
        if self.climb is not None and not self.stuck:
            answer = self.response
            x = self.climb.step(answer, self.ask)
            if x is None:
                best = self.game.best_known
                known = None if best is None else best.value
                self.stuck = why_stuck(answer, self.climb, known)
            else:
                self.x = x
                _ = self.response  # the curves get a point for every step
        if self.lesson is not None:
            self.lesson.watch(self)

    def show_next_part(self) -> None:
        """Have the picture of the game show another part of the hyper-gradient."""
        self.shown = PARTS[(PARTS.index(self.shown) + 1) % len(PARTS)]

    def undo(self) -> None:
        """Undo the last stroke, climb or reset."""
        self._travel(self._undo, self._redo, "there is nothing to undo")

    def redo(self) -> None:
        """Redo what was undone."""
        self._travel(self._redo, self._undo, "there is nothing to redo")

    # The follower's moves

    def act(self, action: Any) -> None:
        """Take an action; after the end of an episode, start another instead."""
        episode = self.episode
        assert episode is not None, "only the follower acts"
        if episode.ended:
            self._start_episode()
            return
        try:
            state, reward, terminated, truncated, info = self.env.step(action)
        except ValueError:
            self.message = f"there is no action {action} here"
            return
        episode.state = state
        episode.lower_returns.append(episode.lower_returns[-1] + float(reward))
        episode.upper_returns.append(episode.upper_returns[-1] + info["upper_reward"])
        if terminated or truncated:
            reason = "the episode is over" if terminated else "time is up"
            episode.ended = f"{reason}; any move starts another"

    def move(self, direction: int) -> None:
        """Go up, right, down or left on a map, numbered from 0."""
        if self.game.moves:
            self.act(self.game.moves[direction])
        else:
            self.message = "actions have numbers here"

    def act_best(self) -> None:
        """Take an action of the follower's answer, drawn from its policy."""
        assert self.episode is not None, "only the follower acts"
        self.act(self.response.draw_action(self.episode.state, self._rng))

    # Moves of both

    def switch_seat(self) -> None:
        """Take the other seat; the follower starts an episode under the leader's x."""
        self.end_stroke()
        self.stop_climb()
        self.stuck = ""
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
        self.go_to(self.game.initial_upper_params)

    def go_to(self, x: FloatArray) -> None:
        """Go to an x, and forget the curves up to there."""
        self.stop_climb()
        self.x, self.stuck, self._answer = x, "", None
        self.objectives.clear()
        self.gradient_norms.clear()

    def toggle_help(self) -> None:
        """Show the help overlay, or hide it."""
        self.show_help = not self.show_help

    def quit(self) -> None:
        """Quit."""
        self.running = False

    def _remember(self) -> None:
        """Push x on the undo history."""
        self._undo.append(self.x)
        del self._undo[:-MAX_UNDO]
        self._redo.clear()

    def _travel(self, source: list[FloatArray], target: list[FloatArray], otherwise: str) -> None:
        """Swap x with the last one of a history that differs from it."""
        while source:
            x = source.pop()
            if not np.array_equal(x, self.x):
                target.append(self.x)
                self.x, self.stuck = x, ""
                return
        self.message = otherwise

    def _start_episode(self) -> None:
        self.env = LowerLevel(self.env, self.x)
        state, _ = self.env.reset(seed=self._seed)
        self._seed = None  # later episodes go on with the same random numbers
        self.episode = Episode(state)


def check_playable(game: Any) -> None:
    """Raise a `TypeError` unless a game can be played: it has a picture and an exact answer."""
    name = type(game).__name__
    if not isinstance(game, BilevelEnv):
        raise TypeError(f"only bilevel games can be played, got {name}")
    if not isinstance(game.model, BilevelModel):
        raise TypeError(
            f"only games with an exact answer can be played, and the follower of {name} learns"
        )
    if type(game).draw is BilevelEnv.draw:
        raise TypeError(f"only games with a picture can be played, and {name} has none")
