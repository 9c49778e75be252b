"""The state of the viewer and the moves of both players, without pygame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from ..core.mdp import FloatArray
from ..envs.base import BilevelEnv, View, inward
from ..making import answers_exactly
from ..model.protocols import LearntMethod
from ..model.responses import GaussianResponse, TabularResponse
from ..optimizers import projected_gradient_norm
from ..rendering import grid_layout
from ..rendering.canvas import Colour
from ..wrappers import HyperGradient, LowerLevel
from .climbing import PARTS, Climb, Part, Way, part, why_stuck
from .panel import ESTIMATE_LINES, LESSON_LINES, TEXT_LINES, Knob, lay_out
from .work import Work

Cell = tuple[int, int]
Seat = Literal["leader", "follower"]

# Games have sliders up to so many entries of x.
MAX_KNOBS = 30

# Pixels that the picture of a game may take.
ROOM = (1000, 840)

# Share of a slider's range that the wheel moves it by.
NOTCH = 0.02

# Seconds of a frame in which the follower may answer before the last answer is shown in its place.
MOMENT = 0.02

# Seconds that whoever leaves waits for work that is given up.
PATIENCE = 1.0

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


class _Move(NamedTuple):
    """What the follower answers where x goes, and how x came there.

    Attributes:
        start: x where it began.
        climb: What it climbed by, None where x was moved by hand.
        end: x where it ended, None where the climb has no step.
        answer: The answer there.
    """

    start: FloatArray
    climb: Climb | None
    end: FloatArray | None
    answer: Any


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
        leader: The leader's seat, where the follower answers by the seat's method.
        exact: Whether its answers are exact.
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
        background: bool = False,
    ) -> None:
        """Start in the leader's seat of a game, as `gymnasium.make` returns it.

        Screenshots go to the current folder by default. The seed is that of the follower's moves
        and of what it learns, drawn if None. In the background the follower answers in a thread of
        its own, which `tick` starts; otherwise it answers where it is asked. A game that cannot be
        played is a `TypeError`.
        """
        game: Any = env.unwrapped
        check_playable(game)
        self.env = env
        self.game = game
        self.leader = leaders_seat(env)
        self.exact = self.leader.method.exact
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
        self._background = background
        self._work: Work[_Move] | None = None
        self._asked: Any = None  # the seat's last answer
        self._answer: Any = None  # the last one shown
        self._undo: list[FloatArray] = []
        self._redo: list[FloatArray] = []
        self._touched: set[Cell] = set()
        game.reset(seed=seed)  # some pictures show an episode
        view = View(game.headline("leader"), self.x)
        self.cells = game.scene(view).cells if game.has_map else None
        size = game.draw(view).get_size()
        lines = TEXT_LINES if self.exact else ESTIMATE_LINES
        lines = lines if lesson is None else LESSON_LINES
        self.layout = lay_out(size, ROOM, len(self.knobs), lines=lines)
        if lesson is not None:
            lesson.begin(self)

    # The follower's answer

    @property
    def response(self) -> Any:
        """The follower's answer to x; in the background the last one, None before the first."""
        if not self._background and not self.answered:
            self._show(self.ask(self.x))
        return self._answer

    @property
    def answered(self) -> bool:
        """Whether the answer shown is the one to the present x."""
        return bool(self.objectives) and np.array_equal(self._answer.upper_params, self.x)

    def ask(self, x: FloatArray) -> Any:
        """Return the follower's answer to an x that need not be the present one."""
        for known in (self._answer, self._asked):
            if known is not None and np.array_equal(known.upper_params, x):
                return known
        if self._asked is None:
            self.leader.reset(seed=self._seed, options={"upper_params": x})
        else:
            self.leader.step(x)
        self._asked = self.leader.response
        return self._asked

    def _show(self, answer: Any) -> None:
        """Show an answer, and add it to the curves."""
        self._answer = answer
        self.objectives.append(answer.objective)
        gradient = part(answer, "hyper-gradient")
        norm = projected_gradient_norm(answer.upper_params, gradient, self.low, self.high)
        self.gradient_norms.append(norm)
        if answer.converged is False:
            self.message = f"the follower's answer is off by {answer.residual:.1e}"

    @property
    def working(self) -> bool:
        """Whether the follower is answering in the background."""
        return self._work is not None

    @property
    def waiting(self) -> str:
        """What is said while the follower answers, empty where there is nothing to wait for."""
        return "" if self._work is None else self._work.words

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the answer that is being made, so long at most; the next `tick` shows it."""
        if self._work is not None:
            self._work.wait(seconds)

    def _begin(self) -> None:
        """Begin what there is to do: the next step of the climb, or the answer to x."""
        x, answer = self.x, self.response
        climb = self.climb if self.answered and not self.stuck else None
        held = self.dragged is not None or self.stroke is not None
        # Those who learn answer when the slider is let go: each answer takes seconds.
        if climb is None and (self.answered or (held and not self.exact)):
            return

        def do() -> _Move:
            moved = x if climb is None else climb.step(answer, self.ask)
            return _Move(x, climb, moved, answer if moved is None else self.ask(moved))

        self._work = work = Work(do, background=self._background)
        self.leader.progress = work.progress

    def _finish(self, move: _Move) -> None:
        """Show what came of the work that is done."""
        stood = np.array_equal(self.x, move.start)  # nobody has moved x meanwhile
        if move.end is not None:
            self._show(move.answer)
            self.x = move.end if stood else self.x
        elif stood and move.climb is not None:
            best = self.game.best_known
            self.stuck = why_stuck(move.answer, move.climb, None if best is None else best.value)

    def leave(self) -> None:
        """Give up what is being done in the background, and wait a moment for its end."""
        if self._work is not None:
            self._work.give_up()
            self._work.wait(PATIENCE)

    @property
    def climbing(self) -> bool:
        """Whether x moves by itself."""
        return self.climb is not None

    @property
    def rows(self) -> list[Knob]:
        """The rows of the panel: the sliders, or the cell under the mouse."""
        index = None if self.cells is None or self.cursor is None else self.entry(self.cursor)
        numbers = range(len(self.knobs)) if self.knobs else [] if index is None else [index]
        names = self.knobs or (self.game.knob_names() if numbers else ())
        x, low, high = (values.ravel() for values in (self.x, self.low, self.high))
        rows, slopes, error, answer = [], None, None, self.response
        if self.seat == "leader" and answer is not None:
            slopes = np.stack([part(answer, name).ravel() for name in PARTS], axis=1)
            left = inward(answer.upper_params.ravel(), slopes[:, -1], low, high)
            error = answer.hyper_gradient_se
        for i in numbers:
            share = float((x[i] - low[i]) / (high[i] - low[i]))
            known = None if slopes is None else tuple(slopes[i].tolist())
            blocked = slopes is not None and left[i] == 0.0 and slopes[i, -1] != 0.0
            spread = None if error is None else float(error.flat[i])
            rows.append(Knob(names[i], float(x[i]), share, known, blocked, spread))
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
        answer = self.response
        if answer is not None and np.isnan(part(answer, way)).all():
            self.message = f"{type(self.leader.method).__name__} does not tell the {way}"
            return
        self._remember()
        self.climb, self.stuck = Climb(self.low, self.high, way, search=self.exact), ""
        self.tick()

    def stop_climb(self) -> None:
        """Stand still."""
        self.climb = None

    def tick(self) -> bool:
        """Go on: show an answer that is there, begin the next one or the next step of a climb.

        Return whether there is an answer that was not there before.
        """
        if self._work is None:
            self._begin()
        work = self._work
        done = False
        if work is not None and work.wait(MOMENT):
            self._work, done = None, True
            self._finish(work.result())
        if self.lesson is not None and self.answered:
            self.lesson.watch(self)
        return done

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
        state, answer = self.episode.state, self.response
        learner: Any = self.leader.method
        if isinstance(answer, TabularResponse | GaussianResponse):
            self.act(answer.draw_action(state, self._rng))
        elif isinstance(self.leader.method, LearntMethod):
            self.act(learner.follower.draw(np.asarray(state)[None], self._rng)[0])
        else:
            self.message = "of this answer no policy is known"

    # Moves of both

    def switch_seat(self) -> None:
        """Take the other seat; the follower starts an episode under the leader's x."""
        if self.seat == "leader" and (self.response is None or (self.working and not self.exact)):
            self.message = "wait for the follower's answer"
            return
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
        self.x, self.stuck = x, ""
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


def leaders_seat(env: gym.Env[Any, Any]) -> HyperGradient:
    """Return the leader's seat of a game: the one that it is in, or a new one."""
    layer = env
    while isinstance(layer, gym.Wrapper) and not isinstance(layer, HyperGradient):
        layer = layer.env
    return layer if isinstance(layer, HyperGradient) else HyperGradient(env)


def check_playable(game: Any) -> None:
    """Raise a `TypeError` unless a game can be played: it has a picture."""
    name = type(game).__name__
    if not isinstance(game, BilevelEnv):
        raise TypeError(f"only bilevel games can be played, got {name}")
    if type(game).draw is BilevelEnv.draw:
        raise TypeError(f"only games with a picture can be played, and {name} has none")
    if not answers_exactly(game) and game.render_mode != "rgb_array":
        raise TypeError(
            f"the picture of {name} is that of its environment: make it with "
            f'render_mode="rgb_array", got {game.render_mode!r}'
        )
