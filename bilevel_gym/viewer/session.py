"""The state of the viewer and the moves of both players, without pygame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from ..core.mdp import FloatArray
from ..envs.base import BilevelEnv, View
from ..methods import ExactResponse
from ..optimizers import NormalizedRule
from ..rendering import grid_layout
from ..wrappers import LowerLevel

Cell = tuple[int, int]
Seat = Literal["leader", "follower"]

# Euclidean length of a step along the hyper-gradient.
STEP_LENGTH = 0.05

# Shaping that one stroke adds to a cell, at first, and the steps of the mouse wheel.
BRUSH, BRUSH_STEP = 0.1, 0.05

MAX_UNDO = 200


@dataclass
class Episode:
    """The follower's episode.

    Attributes:
        state: The follower's state.
        lower_returns: Its return after each step, undiscounted, zero at first.
        upper_returns: The leader's.
        ended: How the episode ended, empty until then.
    """

    state: int
    lower_returns: list[float] = field(default_factory=lambda: [0.0])
    upper_returns: list[float] = field(default_factory=lambda: [0.0])
    ended: str = ""


class Session:
    """The state of the viewer, with a method for each thing that keys and mouse do.

    Attributes:
        env: The environment, in the follower's seat once that was taken.
        game: The game in it, whose states and entries of x are cells of a map.
        cells: The map, as in `GridScene`.
        layout: Places in the picture.
        x: The leader's x, read-only.
        episode: The follower's episode, None in the leader's seat.
        brush: What one stroke adds to a cell; positive.
        stroke: What the pressed mouse button adds to each cell it touches, NaN to erase, None while
            no button is pressed.
        climbing: Whether x follows the hyper-gradient, a step at every tick.
        objectives: F of every x answered so far.
        gradient_norms: Norm of the hyper-gradient at the same points.
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, folder: Path | None = None, seed: int | None = None
    ) -> None:
        """Start in the leader's seat of a game, as `gymnasium.make` returns it.

        Screenshots go to the current folder by default. The seed is that of the follower's moves,
        drawn if None. A game without a map is a `TypeError`.
        """
        game: Any = env.unwrapped
        playable = isinstance(game, BilevelEnv) and game.has_map
        if not playable:
            raise TypeError(
                f"only games on a map can be played, and {type(game).__name__} has none (see "
                "`BilevelEnv.has_map`)"
            )
        self.env = env
        self.game = game
        self.cells = game.scene(View("", game.initial_upper_params)).cells
        self.layout = grid_layout(self.cells.shape, with_curves=True)
        self.low = game.upper_space.low.astype(np.float64)
        self.high = game.upper_space.high.astype(np.float64)
        self.x: FloatArray = game.initial_upper_params
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
        self._answer: ExactResponse | None = None
        self._undo: list[FloatArray] = []
        self._redo: list[FloatArray] = []
        self._touched: set[Cell] = set()

    @property
    def response(self) -> ExactResponse:
        """The follower's exact answer to x, computed on first use."""
        answer = self._answer
        if answer is None or not np.array_equal(answer.upper_params, self.x):
            start = answer if answer is not None and answer.converged else None
            self._answer = answer = self.game.evaluate(self.x, warm_start=start)
            self.objectives.append(answer.objective)
            self.gradient_norms.append(float(np.linalg.norm(answer.hyper_gradient)))
            if not answer.converged:
                self.message = f"the follower's answer is off by {answer.residual:.1e}"
        return answer

    # The leader's moves

    def start_stroke(self, kind: Literal["raise", "lower", "erase"]) -> None:
        """Begin a stroke; it paints each cell once, when the cursor enters it."""
        self._remember()
        self.stroke = {"raise": self.brush, "lower": -self.brush, "erase": math.nan}[kind]
        self.move_cursor(self.cursor)

    def end_stroke(self) -> None:
        """End the stroke."""
        self.stroke = None
        self._touched.clear()

    def move_cursor(self, cell: Cell | None) -> None:
        """Move to a cell, or off the map, and paint it during a stroke."""
        self.cursor = cell
        if cell is None or self.stroke is None or cell in self._touched:
            return
        index = self.game.state_of(cell)
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

    def start_climb(self) -> None:
        """Take a step along the hyper-gradient, and one more with every tick."""
        self._remember()
        self.climbing = True
        self.tick()

    def stop_climb(self) -> None:
        """Stop following the hyper-gradient."""
        self.climbing = False

    def tick(self) -> None:
        """Take the next step along the hyper-gradient, if x follows it."""
        if not self.climbing:
            return
        response = self.response
        rule = NormalizedRule(self.low, self.high)
        x = rule.step(self.x, response.objective, response.hyper_gradient, STEP_LENGTH)
        if np.array_equal(x, self.x):
            self.message = "the hyper-gradient vanishes here"
        else:
            self.x = x
            _ = self.response  # the curves get a point for every step

    def undo(self) -> None:
        """Undo the last stroke, climb or reset."""
        self._travel(self._undo, self._redo, "there is nothing to undo")

    def redo(self) -> None:
        """Redo what was undone."""
        self._travel(self._redo, self._undo, "there is nothing to redo")

    # The follower's moves

    def act(self, action: int) -> None:
        """Take an action; after the end of an episode, start another instead."""
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

    # Moves of both

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
        self.x = self.game.initial_upper_params
        self.objectives.clear()
        self.gradient_norms.clear()
        self._answer = None

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
                self.x = x
                return
        self.message = otherwise

    def _start_episode(self) -> None:
        self.env = LowerLevel(self.env, self.x)
        state, _ = self.env.reset(seed=self._seed)
        self._seed = None  # later episodes go on with the same random numbers
        self.episode = Episode(int(state))
