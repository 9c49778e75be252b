"""What tasks on maps share: the map as characters, slippery moves, and the picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ..core.checks import received
from ..core.mdp import FloatArray, Kernel
from ..rendering import GridScene, draw_grid
from ..rendering.canvas import pygame
from .base import View
from .tabular import TabularBilevelEnv

__all__ = ["MOVES", "GridBilevelEnv", "parsed_map", "per_move", "slippery_kernel"]

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Up, right, down, left, as (row, column) steps."""


class GridBilevelEnv(TabularBilevelEnv):
    """A tabular game whose states are cells of a map; subclasses define `scene`."""

    has_map = True
    moves: tuple[int, ...] = (0, 1, 2, 3)

    def _lay_out(
        self, picture: NDArray[np.str_], places: NDArray[np.int64], entries: ArrayLike
    ) -> None:
        """Say where the states are: row and column of each in the picture, `[S, 2]`.

        The picture has characters as `GridScene` has them, `[H, W]`; `entries` are those of x that
        belong to each state's cell, -1 for none, `[S]`.
        """
        self._picture, self._places = picture, places
        self._entries = np.full(picture.shape, -1)
        self._entries[tuple(places.T)] = entries

    def draw(self, view: View) -> pygame.Surface:
        """Draw the map with x, the follower's policy and the hyper-gradient."""
        return draw_grid(self.scene(view))

    @abstractmethod
    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the picture, for `bilevel_gym.rendering.draw_grid`."""

    def cell_of(self, state: int) -> tuple[int, int]:
        """Return (row, column) of a state in the picture."""
        row, column = self._places[state].tolist()
        return row, column

    def state_of(self, cell: tuple[int, int]) -> int | None:
        """Return the entry of x that belongs to a cell of the picture; None where there is none."""
        entry = int(self._entries[cell])
        return entry if entry >= 0 else None

    def coordinates(self) -> FloatArray | None:
        """Return where each state is, `[S, K]` in [0, 1]; None where there is no map.

        They are row and column in the picture, from its top left corner.
        """
        return self._places[: self.num_states] / (np.array(self._picture.shape) - 1).clip(1)

    def knob_names(self) -> tuple[str, ...]:
        """Return the cell of each entry of x, if it has one."""
        names = list(super().knob_names())
        if self.has_map:
            for row, column in np.argwhere(self._entries >= 0).tolist():
                names[self._entries[row, column]] = f"{row}, {column}"
        return tuple(names)

    def _scene(self, view: View, *, shaping: FloatArray, **changes: Any) -> GridScene:
        """Return a scene of numbers per place `[S]`, in `changes` too; else those of the view."""
        answer = view.tabular
        values = {
            "policy": None if answer is None else answer.policy,
            "occupancy": None if answer is None else answer.occupancy,
            "gradient": self.slopes(view),
        }
        values |= {"shaping": shaping, **{k: changes.pop(k) for k in values if k in changes}}
        fields = {"title": view.title, "status": view.status, **changes}
        for name, numbers in values.items():
            fields[name] = None
            if numbers is not None:
                fields[name] = np.full(self._picture.shape + numbers.shape[1:], np.nan)
                fields[name][tuple(self._places.T)] = numbers
        follower = None if view.state is None else self.cell_of(view.state)
        return GridScene(cells=self._picture, follower=follower, **fields)


def per_move(values: FloatArray) -> FloatArray:
    """Return numbers per state `[S]` as rewards of every move, `[S, A]`."""
    return np.asfortranarray(np.repeat(values.reshape(-1, 1), len(MOVES), axis=1))


def parsed_map(desc: Sequence[str], known: Container[str], accepted: str) -> NDArray[np.str_]:
    """Return the rows of a map as characters `[H, W]`; `accepted` says what the known ones are.

    Raises:
        ValueError: If the map is no list of equally long rows of such characters.
    """
    if (
        isinstance(desc, str)
        or not (isinstance(desc, Sequence) or (isinstance(desc, np.ndarray) and desc.ndim == 1))
        or not all(isinstance(row, str) for row in desc)
    ):
        raise ValueError(f"`desc` must be a list of strings, one per row, got {received(desc)}")
    if len(desc) == 0 or not desc[0]:
        raise ValueError("`desc` must have at least one cell, got an empty map")
    for number, row in enumerate(desc):
        if len(row) != len(desc[0]):
            raise ValueError(
                f"rows of `desc` must have equal lengths, got {len(desc[0])} in row 0 and "
                f"{len(row)} in row {number}"
            )
        for column, cell in enumerate(row):
            if cell not in known:
                raise ValueError(
                    f"cells of `desc` must be one of {accepted}; got {received(cell)} in "
                    f"row {number}, column {column}"
                )
    return np.array([list(row) for row in desc])


def slippery_kernel(states: NDArray[np.int64], at_goal: NDArray[np.bool_], slip: float) -> Kernel:
    """Return the kernel of slippery moves, a block for each context; acting in the goal ends it.

    `states` are those of the cells, row by row, -1 for walls, `[H, W]`; walls and the rim bounce.
    `at_goal` is where the goal is in each context, `[C, S]`. With probability `slip` the move is
    one of the three others.
    """
    height, width = states.shape
    padded = np.pad(states, 1, constant_values=-1)
    here = states[states >= 0].astype(np.int32)
    moved = np.empty((here.size, len(MOVES)), dtype=np.int32)
    for number, (row, column) in enumerate(MOVES):
        there = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width][states >= 0]
        moved[:, number] = np.where(there >= 0, there, here)
    probabilities = np.full((len(MOVES), len(MOVES)), slip / 3.0)
    np.fill_diagonal(probabilities, 1.0 - slip)
    used = [np.flatnonzero(chances) for chances in probabilities]
    context, cell = np.nonzero(~at_goal)
    # Rows of the matrix, those of an action below those of the one before.
    acting, size = ~at_goal.ravel(), at_goal.size
    starts = np.zeros(len(MOVES) * size + 1, dtype=np.int32)
    np.cumsum(np.concatenate([acting * directions.size for directions in used]), out=starts[1:])
    successors, chances = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1])
    begin, first = 0, (context * at_goal.shape[1]).astype(np.int32)[:, None]
    for action, directions in enumerate(used):
        end = begin + cell.size * directions.size
        successors[begin:end] = (first + moved[:, directions][cell]).ravel()
        chances[begin:end] = np.tile(probabilities[action, directions], cell.size)
        begin = end
    matrix = csr_array((chances, successors, starts), shape=(len(MOVES) * size, size))
    return Kernel(matrix, size, len(MOVES))
