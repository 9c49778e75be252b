"""BilevelGridWorld-v0: shaping rewards on a grid map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..checks import unknown_name
from ..mdp import FloatArray, Kernel
from ..objectives import DiscountedReturn, QuadraticCost, Sum
from .base import TabularBilevelEnv, View

if TYPE_CHECKING:
    import pygame

    from ..grid_rendering import GridScene

__all__ = ["MAPS", "BilevelGridWorld", "random_map"]

# Up, right, down, left, as (row, column) steps.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))

MAPS = {
    "4x4": (
        "....",
        ".##.",
        "SHHG",
        "....",
    ),
    "8x8": (
        "........",
        "..####..",
        "..#..#..",
        "S.HHHH.G",
        "..#..#..",
        "..####..",
        "........",
        "........",
    ),
    "16x16": (
        "................",
        "..####....####..",
        "..#..#....#..#..",
        "..#..HHHHHH..#..",
        "..#..#....#..#..",
        "..##.######.##..",
        "...#........#...",
        "S..HHHH..HHHH..G",
        "...#........#...",
        "..##.######.##..",
        "..#..#....#..#..",
        "..#..HHHHHH..#..",
        "..#..#....#..#..",
        "..####....####..",
        "................",
        "................",
    ),
}

# What each character of a map stands for.
LEGEND = {"S": "start", "G": "goal", "H": "hazard", "#": "wall", ".": "free cell"}

# Longest side of a random map, in cells.
MAX_SIDE = 1000


class BilevelGridWorld(TabularBilevelEnv):
    """PLACEHOLDER docstring, written below."""

    def __init__(
        self,
        desc: Sequence[str] | None = None,
        map_name: str = "8x8",
        *,
        size: int | Sequence[int] | None = None,
        map_seed: int = 0,
        slip: float = 0.1,
        gamma: float = 0.95,
        temperature: float = 0.01,
        hazard_cost: float = 0.5,
        shaping_cost: float = 0.05,
        render_mode: str | None = None,
    ) -> None:
        if desc is not None and size is not None:
            raise ValueError(f"give either `desc` or `size`, got desc={desc!r} and size={size!r}")
        if desc is None and size is None and map_name not in MAPS:
            raise ValueError(unknown_name("map_name", map_name, MAPS))
        if size is not None:
            desc = random_map(size, map_seed)
        self.desc = tuple(MAPS[map_name] if desc is None else desc)
        if not 0.0 <= slip <= 1.0:
            raise ValueError(f"`slip` must lie in [0, 1], got {slip}")
        if not 0.0 <= hazard_cost < math.inf:
            raise ValueError(f"`hazard_cost` must be finite and not negative, got {hazard_cost}")
        if not 0.0 <= shaping_cost < math.inf:
            raise ValueError(f"`shaping_cost` must be finite and not negative, got {shaping_cost}")

        cells = _parse(self.desc)
        self._cells = cells
        free = cells != "#"
        num_states = int(free.sum())
        states = np.full(cells.shape, -1)
        states[free] = np.arange(num_states)  # row by row
        self._free = free
        goal, hazard = (cells == "G")[free], (cells == "H")[free]
        # Every move from a cell pays the same, hence one column for all four.
        self._lower_base = np.where(goal, 1.0, 0.0)[:, None]
        leader = np.where(goal, 1.0, np.where(hazard, -float(hazard_cost), 0.0))
        self._upper_reward = np.asfortranarray(np.repeat(leader[:, None], len(MOVES), axis=1))
        super().__init__(
            kernel=_kernel(states, goal, slip),
            initial_distribution=(cells == "S")[free].astype(float),
            objective=Sum((DiscountedReturn(), QuadraticCost(shaping_cost))),
            upper_space=spaces.Box(-1.0, 1.0, (num_states,), np.float32),
            initial_upper_params=np.zeros(num_states),
            gamma=gamma,
            temperature=temperature,
            render_mode=render_mode,
        )
        idle = self.temperature * math.log(len(MOVES)) / (1.0 - self.gamma)
        if idle > 0.5:
            gym.logger.warn(
                f"entropy alone pays up to {idle:.3g} for never finishing (temperature * log 4 / "
                "(1 - gamma)), more than half of the goal's reward of 1; a smaller `temperature` "
                "or `gamma` keeps the goal worth reaching"
            )

    def draw(self, view: View) -> pygame.Surface:
        """Draw the map with the shaping, the follower's policy and the hyper-gradient."""
        from ..grid_rendering import draw_grid

        return draw_grid(self.scene(view))

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the map, for `bilevel_gym.grid_rendering.draw_grid`."""
        from ..grid_rendering import GridScene

        answer = view.response
        return GridScene(
            cells=self._cells,
            shaping=self._on_map(view.upper_params),
            shaping_limit=float(self.upper_space.high[0]),
            policy=None if answer is None else self._on_map(answer.policy),
            occupancy=None if answer is None else self._on_map(answer.occupancy),
            gradient=None if answer is None else self._on_map(answer.hyper_gradient),
            follower=None if view.state is None else self.cell_of(view.state),
            title=view.title,
            status=view.status,
        )

    def cell_of(self, state: int) -> tuple[int, int]:
        """Return (row, column) of a state."""
        row, column = np.argwhere(self._free)[state]
        return int(row), int(column)

    def state_of(self, cell: tuple[int, int]) -> int | None:
        """Return the state of a cell, which is also its index in x; None for a wall."""
        if not self._free[cell]:
            return None
        return int(self._free.ravel()[: np.ravel_multi_index(cell, self._free.shape)].sum())

    def _on_map(self, values: FloatArray) -> FloatArray:
        """Return numbers per state `[S, ...]` as an array over the map `[H, W, ...]`."""
        on_map = np.full(self._free.shape + values.shape[1:], np.nan)
        on_map[self._free] = values
        return on_map

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a) = 1[s = G] + x_s, `[S, A]`."""
        return np.asfortranarray(
            np.broadcast_to(self._lower_base + upper_params[:, None], self._upper_reward.shape)
        )

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_a cotangent(s, a), `[S]`."""
        return cotangent.sum(axis=1)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return u(s, a) = 1[s = G] - hazard_cost 1[s = H], `[S, A]`."""
        return self._upper_reward


def random_map(size: int | Sequence[int], seed: int = 0) -> tuple[str, ...]:
    """Draw a map whose shortest way leads through hazards, with a safe way around them.

    A fifth of the cells are walls; the start is in the left column, the goal in the right one, and
    the middle half of a shortest way between them is hazardous.

    Args:
        size: Side of a square map, or (rows, columns); each side in 2..1000.
        seed: Seed of the draw, not negative.

    Returns:
        The rows of the map.

    Raises:
        ValueError: If an argument is out of range.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(
        isinstance(side, int) and 2 <= side <= MAX_SIDE for side in sides
    ):
        raise ValueError(
            f"`size` must be a side or (rows, columns), each in 2..{MAX_SIDE}, got {size!r}"
        )
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`map_seed` must be a non-negative integer, got {seed!r}")
    rows, columns = sides
    rng = np.random.default_rng(seed)
    density = 0.2
    while True:
        cells = np.where(rng.random((rows, columns)) < density, "#", ".")
        start = (int(rng.integers(rows)), 0)
        goal = (int(rng.integers(rows)), columns - 1)
        cells[start], cells[goal] = "S", "G"
        way = _shortest_way(cells != "#", start, goal)
        if way is not None:
            middle = way[len(way) // 4 : len(way) - len(way) // 4]
            for cell in middle:
                if cell not in (start, goal):
                    cells[cell] = "H"
            if _shortest_way((cells != "#") & (cells != "H"), start, goal) is not None:
                return tuple("".join(row) for row in cells)
        # Small maps often leave no safe way; fewer walls make one likelier, but a map two cells
        # high may have none at all: then hazards give way.
        density *= 0.9
        if density < 1e-3:
            cells[cells == "H"] = "."
            return tuple("".join(row) for row in cells)


def _parse(desc: Sequence[str]) -> NDArray[np.str_]:
    """Return the map as characters `[H, W]`, after checking that it is a playable one."""
    if isinstance(desc, str) or not all(isinstance(row, str) for row in desc):
        raise ValueError(f"`desc` must be a list of strings, one per row, got {desc!r}")
    if not desc or not desc[0]:
        raise ValueError("`desc` must have at least one cell, got an empty map")
    for number, row in enumerate(desc):
        if len(row) != len(desc[0]):
            raise ValueError(
                f"rows of `desc` must have equal lengths, got {len(desc[0])} in row 0 and "
                f"{len(row)} in row {number}"
            )
        for column, cell in enumerate(row):
            if cell not in LEGEND:
                accepted = ", ".join(f"{sign!r} {name}" for sign, name in LEGEND.items())
                raise ValueError(
                    f"cells of `desc` must be one of {accepted}; got {cell!r} in row {number}, "
                    f"column {column}"
                )
    cells = np.array([list(row) for row in desc])
    for sign in "SG":
        count = int((cells == sign).sum())
        if count != 1:
            raise ValueError(f"`desc` must have exactly one {LEGEND[sign]} ({sign!r}), got {count}")
    start, goal = (tuple(int(i) for i in np.argwhere(cells == sign)[0]) for sign in "SG")
    if _shortest_way(cells != "#", start, goal) is None:
        raise ValueError(
            f"the goal of `desc` must be reachable from the start, got walls between {start} and "
            f"{goal} (row, column)"
        )
    return cells


def _shortest_way(
    open_cells: NDArray[np.bool_], start: tuple[int, ...], goal: tuple[int, ...]
) -> list[tuple[int, int]] | None:
    """Return the cells of a shortest way from start to goal, None where there is none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    number = np.arange(open_cells.size).reshape(open_cells.shape)
    below = open_cells[:-1] & open_cells[1:]
    right = open_cells[:, :-1] & open_cells[:, 1:]
    ends = (
        np.concatenate([number[:-1][below], number[:, :-1][right]]),
        np.concatenate([number[1:][below], number[:, 1:][right]]),
    )
    graph = coo_array((np.ones(ends[0].size, np.int8), ends), shape=(number.size,) * 2).tocsr()
    _, previous = breadth_first_order(graph, number[start], directed=False)
    cell = int(number[goal])
    way = [cell]
    while cell != number[start]:
        cell = int(previous[cell])
        if cell < 0:
            return None
        way.append(cell)
    return [divmod(cell, open_cells.shape[1]) for cell in reversed(way)]


def _kernel(states: NDArray[np.int64], goal: NDArray[np.bool_], slip: float) -> Kernel:
    """Return the kernel of slippery moves; acting in the goal ends the episode.

    Args:
        states: State of each cell, -1 for walls, `[H, W]`.
        goal: Which states are the goal, `[S]`.
        slip: Probability that the move is another than the intended one.
    """
    padded = np.pad(states, 1, constant_values=-1)
    height, width = states.shape
    here = states[states >= 0]
    successors = []
    for row, column in MOVES:
        there = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        there = there[states >= 0]
        successors.append(np.where(there >= 0, there, here))  # walls bounce
    going = ~goal[here]
    here, moved = here[going], [there[going] for there in successors]
    triplets = [
        (here, np.full_like(here, action), moved[direction], np.full(here.size, probability))
        for action in range(len(MOVES))
        for direction in range(len(MOVES))
        if (probability := 1.0 - slip if direction == action else slip / 3.0) > 0.0
    ]
    s, a, t, p = (np.concatenate(parts) for parts in zip(*triplets, strict=True))
    return Kernel.from_triplets(s, a, t, p, num_states=goal.size, num_actions=len(MOVES))
