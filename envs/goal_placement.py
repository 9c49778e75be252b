"""BilevelGoalPlacement-v0: where to put a goal, so that who walks to it comes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_between, check_not_negative, check_probability
from ..core.mdp import FloatArray
from ..model.objectives import Objective
from ..rendering import GridScene, grid_layout
from ..rendering.canvas import SUPERSAMPLING, THEME, draw_centred, enlarged, pygame, shrunk
from ..rendering.graph_layout import arrow_shape
from ..rendering.key import KeyEntry
from ..rendering.picture_charts import nice_limit
from ..rendering.signs import GOAL, ICON_SIDE, paint_outlined, pin_sprite
from ..rendering.table import LEADS
from .base import View, upper_box
from .grids import GridBilevelEnv, parsed_map, per_move, slippery_kernel
from .records import recorded

__all__ = ["BilevelGoalPlacement"]

ROOMS = (
    "S...#...T.",
    "....#.....",
    "..........",
    "....#.....",
    "##.##.H###",
    "....#.....",
    "....#.....",
    "....H..T..",
    ".T..#.....",
    "....#.....",
)

# What each character of a map stands for.
LEGEND = {"S": "start", "T": "target", "H": "hazard", "#": "wall", ".": "free cell"}

# Narrower bumps are nothing between two cells, wider ones the same everywhere.
WIDTHS = (0.1, 100.0)

# Up to so many cells the picture shows F for the goal in each of them.
SCANNED = 200

# Colours have no sign where negative values are below this share of the largest one.
SMALL = 0.1

# The arrow of the hyper-gradient: its length in cells where its norm is 1 or more, the least share
# of that, and its width as a share of twice its length.
ARROW_LENGTH, LEAST_ARROW, ARROW_WIDTH = 1.3, 0.4, 0.05


class BilevelGoalPlacement(GridBilevelEnv):
    """A leader chooses where to place a goal, so that the follower spends its time near targets.

    ## Description
    A follower walks through rooms to a goal and stays around it. The leader places the goal,
    anywhere on the map, in the middle of a cell or not; it has targets of its own, and it pays for
    every step on a hazard, which the follower does not mind. A goal on a target need not be best:
    ways differ in length and in hazards, and the follower, which cannot stand still, is kept near a
    target better by a goal beside it. Every room has local optima.

    ## Upper Level
    x in [0, H - 1] x [0, W - 1]: row and column of the goal on a map of H x W cells, the middle of
    the first cell being (0, 0); x starts in the middle of the map. The goal may be in a wall. The
    objective, to be maximised, is

        F(x) = E[ sum_t gamma^t u(s_t) ]
        u(s) = sum_k exp(-||c(s) - target_k||^2 / (2 radius^2)) - hazard_cost * 1[s = H]

    with c(s) the row and column of a cell.

    ## Lower Level
    An entropy-regularised MDP with r_x(s, a) = exp(-||c(s) - x||^2 / (2 width^2)), a bump around
    the goal that is smooth in x; discount `gamma`, temperature `temperature`. Moves go up, right,
    down, left; with probability `slip` the move is one of the three others. Walls and the rim of
    the map bounce. x enters the reward alone.

    ## Spaces and Episode
    * Observation: `Discrete(S)`, the cell, those that are no walls numbered row by row.
    * Action: `Discrete(4)`: 0 up, 1 right, 2 down, 3 left.
    * Episode: begins in `S`, never terminates, and is truncated after 200 steps.

    ## Arguments
    * `desc` (None): the map, a list of strings of `S` start, one of them, `T` target, at least one,
      `H` hazard, `#` wall and `.` free cell; at least two rows and columns; None for four rooms of
      10 x 10 cells in all;
    * `width` (1): of the goal's bump, in cells, in [.1, 100];
    * `radius` (2): of what counts as near a target, in cells, in [.1, 100];
    * `hazard_cost` (.5): cost of an action taken in a hazard, not negative;
    * `slip` (.1): probability of another move than the intended one, in [0, 1];
    * `gamma` (.95), `temperature` (.05; entropy adds up to 1.4 by default, and the goal to 20 at
      most), `entropy` ("plain") and `render_mode`: see `BilevelEnv`. Colours of the picture are F
      with the goal in the middle of a cell, on maps of up to 200 cells; on larger ones, and on
      none of them before x is answered, the reward.

    ## Ground Truth
    Objective and hyper-gradient are exact. At the initial x, (4.5, 4.5), F is 4.425541 and the norm
    of dF/dx 7.034809; its direct part is 0 everywhere, as F depends on x through the follower
    alone.

    | run | ends at | the goal is at |
    |---|---|---|
    | best of 300 starts (`best_known`) | 11.923524 | (7.982, 1.436), beside the target (8, 1) |
    | L-BFGS-B, or the climb, from the initial x | 11.923524 | the same place |
    | best near the target (0, 8), of 95 of the starts | 11.734961 | (.168, 8.032) |
    | best near the target (7, 7), of 64 of the starts | 10.612452 | (7.004, 6.456) |
    | normalised steps of .05 from the initial x | 9.823256 | (7.599, 6.018) |
    | 400 steps of Adam from the initial x | 7.793917 | (5.247, 5.991), still on its way |

    F at 181 x 181 points with equal distances of .05 has twelve local maxima, the largest one
    11.923390 at (8, 1.45), next to the best x known, to which 114 of 300 random starts of L-BFGS-B
    came. Up to that resolution it is the global maximum; it is not proven. Colder followers
    know more local optima: at 61 x 61 points there are 8 at temperature .05, 23 at .02, 54 at .01
    and 67 at .005. The climb reaches the best of the scan at the first three; at .005 it ends at
    11.004, where 11.973 is to be had.

    ## References
    The leader who positions the goal of a grid world, 10 x 10 according to others: S. Zeng, S.
    Bhatt, S. Ganesh, A. Koppel, "A regularized actor-critic algorithm for bi-level reinforcement
    learning", AISTATS 2026, arXiv 2601.16399 (SLAC), of which the abstract is known. Map, bumps,
    targets and hazards are ours.
    """

    leader_does, follower_does = "places the goal", "walks"
    leader_wants = "the follower near its targets, and off hazards"
    follower_wants = "to be near the goal; it does not mind hazards"

    has_map = False  # x is not painted on the cells

    def __init__(
        self,
        desc: Sequence[str] | None = None,
        *,
        width: float = 1.0,
        radius: float = 2.0,
        hazard_cost: float = 0.5,
        slip: float = 0.1,
        gamma: float = 0.95,
        temperature: float = 0.05,
        entropy: str = "plain",
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        cells = _checked_map(ROOMS if desc is None else desc)
        self.desc = tuple("".join(row) for row in cells)
        self._width = check_between("width", width, *WIDTHS)
        radius = check_between("radius", radius, *WIDTHS)
        hazard_cost = check_not_negative("hazard_cost", hazard_cost)
        slip = check_probability("slip", slip)
        free = cells != "#"
        places = np.argwhere(free)
        self._lay_out(cells, places, np.arange(len(places)))
        near = [_bump(places, target, radius) for target in np.argwhere(cells == "T") * 1.0]
        hazard = (cells == "H")[free]
        far = np.array(cells.shape) - 1.0
        super().__init__(
            kernel=slippery_kernel(self._entries, np.zeros((1, len(places)), bool), slip),
            initial_distribution=(cells == "S")[free].astype(float),
            upper_reward=per_move(np.sum(near, axis=0) - hazard_cost * hazard),
            upper_space=upper_box(np.zeros(2), far, (2,)),
            initial_upper_params=far / 2.0,
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self._scanned: tuple[Objective, FloatArray] | None = None
        same = ("desc",) if self.desc == ROOMS else ()
        self.best_known = recorded(BilevelGoalPlacement, locals(), same)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a), the bump around the goal, `[S, A]`."""
        return per_move(_bump(self._places, upper_params, self._width))

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, `[2]`."""
        slopes = cotangent.sum(axis=1) * _bump(self._places, upper_params, self._width)
        return slopes @ (self._places - upper_params) / self._width**2

    def knob_names(self) -> tuple[str, ...]:
        """Return row and column."""
        return "row", "column"

    def draw(self, view: View) -> pygame.Surface:
        """Draw the map with the goal, the follower's policy and where F rises."""
        surface = super().draw(view)
        layout = grid_layout(self._picture.shape)
        scale = np.array(layout.map[2:]) / self._picture.shape[::-1]
        goal = np.array(layout.map[:2]) + (view.upper_params[::-1] + 0.5) * scale
        diameter = max(18, round(0.5 * layout.cell))
        slopes = self.slopes(view)
        # Flat ground has a short arrow, a summit none.
        steepness = 0.0 if slopes is None else min(1.0, float(np.linalg.norm(slopes)) ** 0.5)
        if slopes is not None and steepness > LEAST_ARROW:
            side = math.ceil(2 * ARROW_LENGTH * steepness * layout.cell)
            arrow = _arrow_sprite(side, math.atan2(slopes[0], slopes[1]), tail=0.0)
            draw_centred(surface, arrow, (int(goal[0]), int(goal[1])))
        draw_centred(surface, pin_sprite(GOAL, diameter), (int(goal[0]), int(goal[1])))
        return surface

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the map, for `bilevel_gym.rendering.draw_grid`."""
        slopes = self.slopes(view)
        place = ", ".join(f"{value:.2f}" for value in view.upper_params)
        entries = [KeyEntry(pin_sprite(GOAL, ICON_SIDE), "goal", f"x = ({place})")]
        if slopes is not None:
            size = f"dF/dx, of norm {np.linalg.norm(slopes):.2g}"
            entries.append(KeyEntry(_arrow_sprite(ICON_SIDE, 0.0), "where F rises", size))
        values, name = self.reward(view.upper_params)[:, 0], "follower's reward"
        if self.num_states <= SCANNED:
            values, name = self._landscape(), "F with the goal here"
        most = float(np.abs(values).max())
        return self._scene(
            view,
            shaping=values,
            shaping_limit=nice_limit(most, LEADS),
            shaping_name=name,
            shaping_power=1.0,
            signed=bool(values.min() < -SMALL * most),
            gradient=None,
            entries=tuple(entries),
        )

    def _landscape(self) -> FloatArray:
        """Return F with the goal in the middle of each cell, `[S]`."""
        objective = self.model.objective
        if self._scanned is None or self._scanned[0] is not objective:
            answers = self.evaluate_batch(self._places.astype(float))
            self._scanned = objective, np.array([answer.objective for answer in answers])
        return self._scanned[1]


def _bump(places: NDArray[np.int64], middle: FloatArray, width: float) -> FloatArray:
    """Return exp(-d^2 / (2 width^2)), d the distances of places `[S, 2]` from a middle `[2]`."""
    return np.exp(-((places - middle) ** 2).sum(axis=1) / (2.0 * width**2))


def _checked_map(desc: Sequence[str]) -> NDArray[np.str_]:
    """Return the map as characters `[H, W]`, after checking what is on it."""
    accepted = ", ".join(f"{sign!r} {name}" for sign, name in LEGEND.items())
    cells = parsed_map(desc, LEGEND, accepted)
    if min(cells.shape) < 2:
        raise ValueError(f"`desc` must have at least two rows and columns, got {cells.shape}")
    if (starts := int((cells == "S").sum())) != 1:
        raise ValueError(f"`desc` must have exactly one start ('S'), got {starts}")
    if not (cells == "T").any():
        raise ValueError("`desc` must have a target ('T'), got none")
    return cells


@lru_cache(maxsize=64)
def _arrow_sprite(side: int, angle: float, tail: float = -1.0) -> pygame.Surface:
    """Return an arrow to the edge of a square, clockwise from the right by an angle.

    It begins `tail` times half the side from the middle.
    """
    surface = enlarged(side, side, THEME.light)
    half = surface.get_width() / 2
    along = np.linspace(tail, 0.95, 9)[:, None] * half
    line = half + along * np.array([math.cos(angle), math.sin(angle)])
    shape = arrow_shape(line, ARROW_WIDTH * side * SUPERSAMPLING)
    paint_outlined(surface, shape.tolist(), THEME.accent, THEME.light, SUPERSAMPLING)
    return shrunk(surface)
