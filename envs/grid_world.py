"""BilevelGridWorld-v0: shaping rewards on a grid map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.checks import (
    check_at_least,
    check_choice,
    check_not_negative,
    check_probability,
    checked_sides,
    optional,
    received,
)
from ..core.mdp import FloatArray
from ..core.memory import check_memory
from ..model.objectives import DiscountedReturn, QuadraticCost, Sum
from ..rendering import GridScene
from .base import View
from .grids import MOVES, GridBilevelEnv, parsed_map, per_move, slippery_kernel
from .records import recorded

__all__ = ["MAPS", "BilevelGridWorld", "random_map"]

OPEN = (16 * ".",)
MAPS = {
    "4x4": ("....", ".##.", "SHHG", "...."),
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
        *4 * OPEN,
        "....########....",
        "....#......#....",
        "....#......#....",
        "..S.HHHHHHHH.G..",
        "....#......#....",
        "....########....",
        *6 * OPEN,
    ),
}

# What each character of a map stands for.
LEGEND = {"S": "start", "G": "goal", "H": "hazard", "#": "wall", ".": "free cell"}

# Longest side of a random map, in cells.
MAX_SIDE = 5000

# Bytes for each cell of a map, which an evaluation with its hyper-gradient takes at most.
CELL_MEMORY = 1100


class BilevelGridWorld(GridBilevelEnv):
    """A leader shapes the rewards of a grid world to lead the follower around the hazards.

    ## Description
    A follower walks on a map of characters, as FrozenLake's: `S` start, `G` goal, `H` hazard,
    `#` wall, `.` free cell. It is rewarded for reaching the goal and ignores hazards, through which
    its shortest way leads. The leader wants the goal reached too, but pays for every action taken
    in a hazard. It can make cells more or less attractive, at a cost.

    ## Upper Level
    x in [-1, 1]^D: the shaping reward of each cell that is not a wall, row by row, `S`, `G` and `H`
    included (D = S = 52 on the default map). x starts at 0. The objective, to be maximised, is

        F(x) = E[ sum_t gamma^t u(s_t) ] - shaping_cost * ||x||^2

    with u = 1 for acting in `G` and -hazard_cost for acting in `H`; the cost of x counts once.

    ## Lower Level
    An entropy-regularised MDP with r_x(s, a) = 1[s = G] + x_s, discount `gamma`, temperature
    `temperature`. Moves go up, right, down, left; with probability `slip` the move is one of the
    three others. Walls and the rim of the map bounce. x enters the reward alone.

    ## Spaces and Episode
    * Observation: `Discrete(S)`, the cell, numbered as x is.
    * Action: `Discrete(4)`: 0 up, 1 right, 2 down, 3 left.
    * Episode: ends on acting in `G` (any action, rewarded), and by truncation after 200 steps.

    ## Arguments
    * `desc`: the map, a list of strings; or else
    * `map_name`: "4x4", "8x8" (default) or "16x16"; or else
    * `size`: side, or (rows, columns), of a random map, up to 5000, drawn with `map_seed` (0);
    * `slip` (.1): probability of another move than the intended one, in [0, 1];
    * `gamma` (.95), `temperature` (.01; a warning is given once where entropy may add up to more
      than half of the goal), `entropy` ("plain") and `render_mode`: see `BilevelEnv`;
    * `hazard_cost` (.5): cost of an action taken in a hazard, not negative;
    * `shaping_cost` (.05): weight of ||x||^2, not negative.

    ## Ground Truth
    Objective and hyper-gradient are exact. At x = 0 on the default map:

    | temperature | F | norm of dF/dx | norm of its direct part |
    |---|---|---|---|
    | .01 | -1.198591 | 2.366291 | 0 |
    | .001 | -1.161118 | 2.385927 | 0 |

    From x = 0 on the default map:

    | run | ends at | why |
    |---|---|---|
    | hyper-gradient steps of length .05 falling to 0, then L-BFGS-B | .460703 | the detour |
    | no steps: x = -.1 on the hazards, 0 elsewhere | .438532 | the obvious guess |
    | L-BFGS-B alone, on the hyper-gradient | -.00093 | a trap: the follower never finishes |
    | any steps along the direct gradient | -1.198591 | it is zero at x = 0 |

    The best value known, .460703 (`best_known`), is that of the first run. From 60 random starts,
    uniform in [-s, s] with s one of .02, .1, .3 and 1, it found nothing better: 16 ended there, 44
    in the trap (`tests/benchmarks/ground_truth.py`). It is not proven optimal. The trap grows with
    the distance to the goal: on random maps (`map_seed` 0 to 4) the first run ends above zero 5
    times of 5 at side 8, 4 at side 10, 1 at side 16 and never at side 30. The climb from many
    starts, which the command `bilevel-gym solve BilevelGridWorld-v0` makes, leaves the trap.

    Best values known on thirty random maps, `size`/`map_seed`: 5/100 .5781, 6/101 .5794, 7/102
    .5271, 8/103 .4374, 8/104 .5256, 9/105 .3962, 10/106 .3506, 10/107 .3133, 11/108 .3584, 12/109
    .2901, 4/200 .6965, 5/201 .5997, 6/202 .5200, 7/203 .5031, 8/204 .4477, 9/205 .4073, 10/206
    .4210, 11/207 .3980, 12/208 .3927, 13/209 .2490, 4/210 .6916, 5/211 .6307, 6/212 .5487, 7/213
    .4914, 8/214 .4579, 9/215 .4558, 10/216 .4013, 11/217 .2153, 12/218 .3184, 13/219 .3407.
    Each is the best end of L-BFGS-B from 110 random and structured starts; with 400 evaluations
    the climb comes within 1 % of all thirty (`tests/benchmarks/climb.py`).

    ## References
    The task is this project's. Hyper-gradient: see `HyperGradient`.
    """

    leader_does, follower_does = "shapes rewards", "walks"
    leader_wants = "the goal reached without a step on a hazard, and little shaping"
    follower_wants = "to reach the goal soon; it does not mind hazards"

    def __init__(
        self,
        desc: Sequence[str] | None = None,
        map_name: str | None = None,
        *,
        size: int | Sequence[int] | None = None,
        map_seed: int | None = None,
        slip: float = 0.1,
        gamma: float = 0.95,
        temperature: float = 0.01,
        entropy: str = "plain",
        hazard_cost: float = 0.5,
        shaping_cost: float = 0.05,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        cells = _checked_map(_chosen_map(desc, map_name, size, map_seed))
        slip = check_probability("slip", slip)
        hazard_cost = check_not_negative("hazard_cost", hazard_cost)
        check_not_negative("shaping_cost", shaping_cost)
        self.desc = tuple("".join(row) for row in cells)
        free = cells != "#"
        num_states = int(free.sum())
        self._lay_out(cells, np.argwhere(free), np.arange(num_states))  # row by row
        goal, hazard = (cells == "G")[free], (cells == "H")[free]
        self._at_goal = goal.astype(float)
        super().__init__(
            kernel=slippery_kernel(self._entries, goal[None], slip),
            initial_distribution=(cells == "S")[free].astype(float),
            objective=Sum((DiscountedReturn(), QuadraticCost(shaping_cost))),
            upper_reward=per_move(self._at_goal - hazard_cost * hazard),
            upper_space=spaces.Box(-1.0, 1.0, (num_states,), np.float32),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        of_map = ("desc", "map_name", "size", "map_seed")
        same = of_map if self.desc == MAPS["8x8"] else ()
        self.best_known = recorded(BilevelGridWorld, locals(), same)
        idle = self.temperature * math.log(len(MOVES)) / (1.0 - self.gamma)
        if idle > 0.5 and entropy == "plain":
            gym.logger.warn(
                f"entropy alone adds up to {idle:.3g} for a follower that never finishes "
                "(temperature * log 4 / (1 - gamma)), more than half of the goal's reward of 1; "
                'choose a smaller `temperature` or `gamma`, or `entropy="relative"`'
            )

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the map, for `bilevel_gym.rendering.draw_grid`."""
        limit = float(self.upper_space.high[0])
        return self._scene(view, shaping=view.upper_params, shaping_limit=limit)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a) = 1[s = G] + x_s, `[S, A]`."""
        return per_move(self._at_goal + upper_params)

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_a cotangent(s, a), `[S]`."""
        return cotangent.sum(axis=1)


def random_map(size: int | Sequence[int], seed: int = 0) -> tuple[str, ...]:
    """Return the rows of a map whose shortest way leads through hazards, with a safe way around.

    A fifth of the cells are walls; the start is in the left column, the goal in the right one, and
    the middle half of a shortest way between them is hazardous.

    Args:
        size: Side of a square map, or (rows, columns); each side in 2..5000.
        seed: Seed of the draw, not negative.

    Raises:
        ValueError: If an argument is out of range, or a game on the map would not fit into memory.
    """
    rows, columns = checked_sides(size, 2, MAX_SIDE)
    check_memory("size", size, CELL_MEMORY * rows * columns)
    rng = np.random.default_rng(check_at_least("seed", seed, 0))
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
            safe = _shortest_way((cells != "#") & (cells != "H"), start, goal)
            if safe is not None and len(safe) > len(way):
                return tuple("".join(row) for row in cells)
        # Another way may be as short, and small maps often leave no safe way; fewer walls make one
        # likelier, but a map two cells high may have none at all: then hazards give way.
        density *= 0.9
        if density < 1e-3:
            cells[cells == "H"] = "."
            return tuple("".join(row) for row in cells)


def _chosen_map(
    desc: Sequence[str] | None,
    map_name: str | None,
    size: int | Sequence[int] | None,
    map_seed: int | None,
) -> Sequence[str]:
    """Return the rows of the map that the arguments choose; they must choose one."""
    choices = {"desc": desc, "map_name": map_name, "size": size}
    given = [f"{name}={received(value)}" for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"give one of `desc`, `map_name` and `size` at most, got {' and '.join(given)}"
        )
    if map_seed is not None and size is None:
        raise ValueError(f"`map_seed` goes with `size`, got map_seed={received(map_seed)} alone")
    if size is not None:
        return random_map(size, optional(check_at_least, "map_seed", map_seed, 0) or 0)
    if desc is not None:
        return desc
    name = "8x8" if map_name is None else map_name
    return MAPS[check_choice("map_name", name, MAPS)]


def _checked_map(desc: Sequence[str]) -> NDArray[np.str_]:
    """Return the map as characters `[H, W]`, after checking that it is a playable one."""
    accepted = ", ".join(f"{sign!r} {name}" for sign, name in LEGEND.items())
    cells = parsed_map(desc, LEGEND, accepted)
    for sign in "SG":
        count = int((cells == sign).sum())
        if count != 1:
            raise ValueError(f"`desc` must have exactly one {LEGEND[sign]} ({sign!r}), got {count}")
    start, goal = (tuple(np.argwhere(cells == sign)[0].tolist()) for sign in "SG")
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
