"""BilevelMiniGrid-v0: shaping cells and events of a MiniGrid world, which is tabulated."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, hstack

from ..core.checks import check_at_least, check_not_negative, first_line, received
from ..core.mdp import FloatArray
from ..rendering import GridScene, grid_layout
from ..rendering.canvas import pygame
from ..rendering.key import KeyEntry
from ..rendering.signs import ICON_SIDE
from .base import View, shown
from .enumeration import DrawsError
from .grids import GridBilevelEnv
from .records import recorded
from .simulators import require
from .sources import json_options
from .tabulated import Tabulated
from .tabulation import tabulate

__all__ = ["BilevelMiniGrid", "MiniGridEvents"]

# What may happen in a step, by name; x has an entry for each that can happen in the world.
EVENTS = ("goal", "lava", "pickup", "door")

# MiniGrid's codes of what an observation shows, and those of cells in which episodes end.
AGENT, TERMINAL = 10, {"goal": 8, "lava": 9}

# What a picture shows, in words, by code.
SHOWN = {
    8: ("goal", "pays 1, and ends"),
    9: ("lava", "ends the walk"),
    5: ("key", ""),
    4: ("door", ""),
    6: ("ball", ""),
    7: ("box", ""),
    2: ("wall", ""),
}

AGENT_COLOUR = (255, 0, 0)

# Turn left, turn right, go forward; pick up, drop and toggle are of use where there are things.
FORWARD, WALKING, ALL = 2, 3, 6

# The most states that a world may have, and steps of the walk that is compared with its table.
MOST_STATES, CHECKED_STEPS = 50_000, 300

# Occupancy below which the states of a cell count alike in a picture.
LEAST_WEIGHT = 1e-12

# Which move of a picture (up, right, down, left) a step forward is, by the agent's direction, of
# right, down, left and up.
AS_MOVES = (1, 2, 3, 0)


class BilevelMiniGrid(GridBilevelEnv):
    """A leader shapes a MiniGrid world so that the follower walks to the goal, not into the lava.

    ## Description
    A world of MiniGrid as its package makes it, by default a crossing with two rivers of lava. The
    follower is paid for reaching the goal and pays for every step. The lava ends the walk, and so
    it ends the paying: from the start the follower turns, and walks into the lava at once. The
    leader wants the goal and never the lava. It may add a reward for arriving in each cell, and for
    each event: the goal, the lava, a thing picked up, a door opened.

    The world is not written down again here: `bilevel_gym.tabulate` steps copies of it, and finds
    the 144 states that can be reached (cell and direction, and what is carried and open where there
    are things). `environment()` is the world itself, whose steps are those of this game at x = 0,
    for learners whose answers are to be compared with the exact one. MiniGrid's own reward,
    1 - .9 t / T, depends on time, which is no state; instead of it the goal pays 1, and each step
    costs.

    ## Upper Level
    x in [-1, 1]^D, 0 at the start: the reward of arriving in each cell, row by row, then that of
    each event that can happen, of "goal", "lava", "pickup" and "door" (opened). D = 38 on the
    default world: 36 cells, goal and lava. The objective, to be maximised, is

        F(x) = E[ sum_t gamma^t (1[goal] - lava_cost 1[lava]) ] - shaping_cost * ||x||^2

    ## Lower Level
    An entropy-regularised MDP with r_x(s, a) = 1[goal] - step_cost + x_cell + sum of x_event, the
    cell being one that the step leads to from another cell, discount `gamma`, temperature
    `temperature`. Moves are certain. x enters the reward
    alone.

    ## Spaces and Episode
    * Observation: `Discrete(S)`, the number of the state in `table_of_world`.
    * Action: `Discrete(3)`: 0 turn left, 1 turn right, 2 forward; in worlds with things to pick up
      or to open `Discrete(6)`: 3 pick up, 4 drop, 5 toggle.
    * Episode: it starts where the world's own `reset(seed=seed)` does, terminates at the goal and
      in the lava, and is truncated after 100 steps; the world's own limit is ignored.

    ## Arguments
    * `env_id` ("MiniGrid-LavaCrossingS9N2-v0"): a world whose steps draw no random numbers, of at
      most 50000 states;
    * `env_kwargs` (None): its constructor arguments, a dictionary of JSON types;
    * `seed` (2): seed of its layout, not negative;
    * `step_cost` (.15): cost of each step to the follower, not negative;
    * `lava_cost` (1): cost to the leader of ending in the lava, not negative;
    * `shaping_cost` (.2): weight of ||x||^2, not negative;
    * `gamma` (.95), `temperature` (.1; the entropy of a step pays up to .11), `entropy` ("plain")
      and `render_mode`: see `BilevelEnv`. MiniGrid draws the picture; its floor has the colour of
      x, a patch on goal and lava that of the event, and arrows say which way the follower leaves a
      cell.

    MiniGrid is brought by the extra `minigrid`: `pip install -e ".[minigrid]"`.

    ## Ground Truth
    Objective and hyper-gradient are exact. At x = 0, F = -.785431 and the norm of dF/dx is
    .295623; the direct gradient, -2 shaping_cost x, is zero. From there:

    | run | ends at | why |
    |---|---|---|
    | normalised ascent on the hyper-gradient, then L-BFGS-B | .325737 | a path to the goal |
    | the climb from many starts, `bilevel-gym solve` | .327761 | another path |
    | no steps: x = -.95 on the lava, 0 elsewhere | -.027068 | the best x of one event alone |
    | any steps along the direct gradient | -.785431 | it is zero |

    The best value known, .327761 (`best_known`), is that of the climb, after 358 evaluations. The
    first run from 120 random starts, uniform in [-s, s] with s one of .02, .1, .3 and 1, ended
    there 18 times, 50 times between .3247 and .3258, and 53 times below zero: the follower fears
    the lava, and never walks to the goal (`tests/benchmarks/minigrid.py`). It is not proven
    optimal.

    ## References
    M. Chevalier-Boisvert et al., "Minigrid & Miniworld: modular & customizable reinforcement
    learning environments for goal-oriented tasks", NeurIPS 2023 Datasets and Benchmarks, arXiv
    2306.13831. The shaping task is this project's.
    """

    leader_does, follower_does = "shapes cells and events", "walks"
    moves = (FORWARD, 1, 1, 0)  # of the arrow keys: up goes ahead, the others turn

    def __init__(
        self,
        env_id: str = "MiniGrid-LavaCrossingS9N2-v0",
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 2,
        step_cost: float = 0.15,
        lava_cost: float = 1.0,
        shaping_cost: float = 0.2,
        gamma: float = 0.95,
        temperature: float = 0.1,
        entropy: str = "plain",
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        require("BilevelMiniGrid", "minigrid", "minigrid")
        seed = check_at_least("seed", seed, 0)
        step_cost = check_not_negative("step_cost", step_cost)
        lava_cost = check_not_negative("lava_cost", lava_cost)
        check_not_negative("shaping_cost", shaping_cost)
        if not isinstance(env_id, str):
            raise ValueError(f"`env_id` must be the id of a MiniGrid world, got {received(env_id)}")
        self.seed = seed
        self._world = env_id, json.dumps(json_options(env_kwargs), sort_keys=True), seed, step_cost
        table = self.table_of_world = _tabulated(*self._world)
        places, directions = _agents(table)
        cells, arrived = np.unique(places, axis=0, return_inverse=True)
        happens: NDArray[np.bool_] = np.asarray(table.terms.any(axis=(0, 1)))
        self.events = tuple(name for name, some in zip(EVENTS, happens, strict=True) if some)
        self._directions, self._num_cells = directions, len(cells)
        self._lay_out_world(places, arrived, table)
        goal, lava = (table.terms[..., EVENTS.index(name)] for name in ("goal", "lava"))
        self.leader_wants = "the goal reached soon" + (", never the lava" if lava.any() else "")
        self.leader_wants += ", and little shaping"
        self.follower_wants = "the goal, but each step costs" + (
            ": the lava is an end, too" if lava.any() and step_cost else ""
        )
        # Where a step forward leads to another cell, or to an end.
        ahead = np.repeat(arrived[:, None], table.num_actions, axis=1)
        states, actions, successors = table.kernel.triplets
        ahead[states, actions] = arrived[successors]
        ended = table.kernel.row_sums[:, FORWARD] == 0.0
        self._moves_on = ended | (ahead[:, FORWARD] != arrived)
        model = table.model(
            features=_features(table, arrived, happens),
            upper_reward=goal - lava_cost * lava,
            upper_cost=shaping_cost,
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            name=type(self).__name__,
        )
        super().__init__(model, render_mode=render_mode)
        self.best_known = recorded(
            BilevelMiniGrid, {**locals(), "env_kwargs": dict(env_kwargs or {}) or None}
        )

    def _lay_out_world(
        self, places: NDArray[np.int64], arrived: NDArray[np.int64], table: Tabulated
    ) -> None:
        """Say where the states are, and the goal and the lava, where nobody acts."""
        seen = table.observations[""][0].swapaxes(0, 1)  # [H, W, 3]
        picture = np.full(seen.shape[:2], "#")
        picture[tuple(places.T)] = "."
        picture[tuple(places[0])] = "S"
        marked, entries = [places], [arrived]
        for number, event in enumerate(self.events):
            found = np.argwhere((seen[..., 0] == TERMINAL.get(event, -1)) & (picture == "#"))
            picture[tuple(found.T)] = "*"
            marked.append(found)
            entries.append(np.full(len(found), self._num_cells + number))
        self._lay_out(picture, np.concatenate(marked), np.concatenate(entries))

    def environment(self) -> MiniGridEvents:
        """Return the world itself, which has the states and the rewards at x = 0 of this game.

        Its layout is that of `reset(seed=seed)`.
        """
        return _made(*self._world[:2], self._world[3])

    def knob_names(self) -> tuple[str, ...]:
        """Return the cell or the event of each entry of x."""
        return super().knob_names()[: self._num_cells] + self.events

    def coordinates(self) -> FloatArray | None:
        """Return row, column and direction of each state, `[S, 3]` in [0, 1].

        None where things can be moved, so that a state is more than that.
        """
        if self.num_actions != WALKING:
            return None
        places: FloatArray = self._places[: self.num_states] / (np.array(self._picture.shape) - 1)
        return np.column_stack([places, self._directions / 3.0])

    def draw(self, view: View) -> pygame.Surface:
        """Draw the world with x, the follower's policy, its occupancy and the hyper-gradient."""
        surface = super().draw(view)
        if view.state is not None:
            layout = grid_layout(self._picture.shape)
            agent = _agent(int(self._directions[view.state]), int(layout.cell))
            surface.blit(agent, layout.cell_corner(*self.cell_of(view.state)))
        return surface

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the world, which MiniGrid draws."""
        x, answer, gradient = view.upper_params, view.tabular, self.slopes(view)
        used = self._entries >= 0
        under_way = view.state is not None
        path: tuple[int, ...] = ()
        if view.state is not None:
            path = tuple(self.table_of_world.actions_to(view.state))
        side = int(grid_layout(self._picture.shape).cell)
        seen = self.table_of_world.observations[""][0, ..., 0].T
        events = zip(self.events, x[self._num_cells :], strict=True)
        return GridScene(
            cells=self._picture,
            shaping=np.where(used, x[self._entries], np.nan),
            shaping_limit=float(self.upper_space.high.max()),
            policy=None if answer is None else self._leaving(answer.policy, answer.occupancy),
            occupancy=None if answer is None else self._summed(answer.occupancy),
            gradient=None if gradient is None else np.where(used, gradient[self._entries], np.nan),
            title=view.title,
            status=(*view.status, *((f"x of {name}", shown(value)) for name, value in events)),
            entries=tuple(_signs(_drawn(*self._world, (), side), seen, under_way)),
            tiles=_drawn(*self._world, path, side),
        )

    def _summed(self, values: FloatArray) -> FloatArray:
        """Return numbers per state `[S, ...]`, summed in each cell, `[H, W, ...]`."""
        total = np.zeros(self._picture.shape + values.shape[1:])
        np.add.at(total, tuple(self._places[: self.num_states].T), values)
        return total

    def _leaving(self, policy: FloatArray, occupancy: FloatArray) -> FloatArray:
        """Return which way the follower leaves each cell, `[H, W, 4]`: up, right, down, left.

        A cell stands for states in four directions or more, which count by their occupancy.
        """
        ahead = np.zeros((self.num_states, 4))
        moved = policy[:, FORWARD] * self._moves_on
        directions = np.array(AS_MOVES)[self._directions]
        ahead[np.arange(self.num_states), directions] = np.maximum(occupancy, LEAST_WEIGHT) * moved
        summed = self._summed(ahead)
        total = summed.sum(axis=-1, keepdims=True)
        return np.where(total > 0.0, summed / np.where(total > 0.0, total, 1.0), 0.25)


class MiniGridEvents(gym.Wrapper[NDArray[np.uint8], int, Any, Any]):
    """A MiniGrid world that is seen whole, and tells what happens in it.

    Observation: the grid with the agent, three codes for each cell, `[W, H, 3]`, as
    `minigrid.wrappers.FullyObsWrapper` has it. Actions that can do nothing in a world are left out.
    `info` has 1.0 or 0.0 for each of the events "goal", "lava", "pickup" and "door" (opened). The
    reward is 1 at the goal, whenever it is reached, less `step_cost` in each step: MiniGrid's own,
    1 - .9 t/T, depends on time.
    """

    def __init__(self, env: gym.Env[Any, Any], step_cost: float = 0.0) -> None:
        """Wrap a world of MiniGrid."""
        super().__init__(env)
        world: Any = env.unwrapped
        self.step_cost = check_not_negative("step_cost", step_cost)
        shape = (world.width, world.height, 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        env.reset(seed=0)
        things = any(cell is not None and _is_thing(cell) for cell in world.grid.grid)
        acting: Any = spaces.Discrete(ALL if things else WALKING)
        self.action_space = acting

    def reset(self, **options: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`."""
        self.env.reset(**options)
        return self._seen(), dict.fromkeys(EVENTS, 0.0)

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Make a step; see `gymnasium.Env.step`."""
        world: Any = self.unwrapped
        carrying, ahead = world.carrying, world.grid.get(*world.front_pos)
        closed = ahead is not None and ahead.type == "door" and not ahead.is_open
        _, _, terminated, truncated, _ = self.env.step(action)
        here = world.grid.get(*world.agent_pos)
        # The world's own reward does not tell: it is negative long after its time limit.
        ended_at = here.type if terminated and here is not None else ""
        happened = {
            "goal": ended_at == "goal",
            "lava": ended_at == "lava",
            "pickup": carrying is None and world.carrying is not None,
            "door": bool(closed and ahead.is_open),
        }
        info = {event: float(value) for event, value in happened.items()}
        return self._seen(), info["goal"] - self.step_cost, bool(terminated), truncated, info

    def _seen(self) -> NDArray[np.uint8]:
        world: Any = self.unwrapped
        seen: NDArray[np.uint8] = world.grid.encode()
        seen[tuple(world.agent_pos)] = AGENT, 0, world.agent_dir
        return seen


def _is_thing(cell: Any) -> bool:
    return bool(cell.can_pickup() or cell.type in ("door", "box"))


def _key(env: gym.Env[Any, Any]) -> Hashable:
    """Return where the agent is and what it carries, and the grid."""
    world: Any = env.unwrapped
    carried = None if world.carrying is None else world.carrying.encode()
    return tuple(world.agent_pos), world.agent_dir, carried, world.grid.encode().tobytes()


def _made(env_id: str, env_kwargs: str, step_cost: float) -> MiniGridEvents:
    """Return a world; its arguments are JSON."""
    from minigrid.minigrid_env import MiniGridEnv

    try:
        env = gym.make(env_id, disable_env_checker=True, **json.loads(env_kwargs)).unwrapped
    except Exception as error:  # the constructor of any environment may raise anything
        raise ValueError(
            f"`env_id` and `env_kwargs` must make a MiniGrid world, got {received(env_id)} with "
            f"{env_kwargs}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(env, MiniGridEnv):
        raise ValueError(f"`env_id` must be the id of a MiniGrid world, got {received(env_id)}")
    return MiniGridEvents(env, step_cost)


@cache
def _tabulated(env_id: str, env_kwargs: str, seed: int, step_cost: float) -> Tabulated:
    """Return the table of a world, made once: games of one world share it."""
    world = _made(env_id, env_kwargs, step_cost)
    options: dict[str, Any] = {"max_states": MOST_STATES, "checked_steps": CHECKED_STEPS}
    try:
        return tabulate(world, seed=seed, key=_key, terms=EVENTS, **options)
    except DrawsError:
        raise ValueError(
            f"`env_id` must name a world without chance; steps of {env_id!r} draw random numbers"
        ) from None


def _agents(table: Tabulated) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column `[S, 2]` and direction `[S]` of the agent in each state."""
    seen = table.observations[""]
    state, column, row = np.argwhere(seen[..., 0] == AGENT).T
    return np.column_stack([row, column]), seen[state, column, row, 2].astype(np.int64)


def _features(
    table: Tabulated, arrived: NDArray[np.int64], happens: NDArray[np.bool_]
) -> csr_array:
    """Return dr/dx `[A*S, D]`: an entry for arriving in each cell, and one for each event."""
    states, actions, successors = table.kernel.triplets
    moved = arrived[states] != arrived[successors]
    rows = actions[moved].astype(np.int64) * table.num_states + states[moved]
    size, cells = table.num_states * table.num_actions, int(arrived.max()) + 1
    entries = (np.ones(rows.size), (rows, arrived[successors[moved]]))
    arrivals = csr_array(coo_array(entries, shape=(size, cells)))
    events = table.terms[..., happens].swapaxes(0, 1).reshape(size, -1)
    return csr_array(hstack([arrivals, csr_array(events)]))


@lru_cache(maxsize=256)
def _drawn(
    env_id: str,
    env_kwargs: str,
    seed: int,
    step_cost: float,
    path: tuple[int, ...],
    side: int,
) -> NDArray[np.uint8]:
    """Return MiniGrid's own picture after some actions, without the agent; `side` is a cell's."""
    world = _made(env_id, env_kwargs, step_cost)
    world.reset(seed=seed)
    for action in path:
        world.step(action)
    raw: Any = world.unwrapped
    picture: NDArray[np.uint8] = raw.grid.render(side, agent_pos=(-1, -1))
    return picture


@lru_cache(maxsize=8)
def _agent(direction: int, side: int) -> pygame.Surface:
    """Return MiniGrid's red triangle without the tile around it."""
    from minigrid.core.grid import Grid

    tile = Grid.render_tile(None, direction, tile_size=side).swapaxes(0, 1)
    surface = pygame.Surface(tile.shape[:2], pygame.SRCALPHA)
    pygame.surfarray.blit_array(surface, tile)
    red = tile[..., 0].astype(np.int16) - tile[..., 1]
    pygame.surfarray.pixels_alpha(surface)[:] = red.clip(0, 255)
    surface.fill((*AGENT_COLOUR, 0), special_flags=pygame.BLEND_RGBA_ADD)
    return surface


def _signs(
    tiles: NDArray[np.uint8], seen: NDArray[np.uint8], with_agent: bool
) -> Iterator[KeyEntry]:
    """Name what a picture of MiniGrid's shows; `seen` are the codes of the cells, `[H, W]`."""
    side = tiles.shape[0] // len(seen)
    for code, (name, note) in SHOWN.items():
        for row, column in np.argwhere(seen == code)[:1].tolist():
            tile = tiles[row * side : (row + 1) * side, column * side : (column + 1) * side]
            yield KeyEntry(_icon(tile), name, note)
    if with_agent:
        agent = pygame.transform.smoothscale(_agent(0, side), (ICON_SIDE, ICON_SIDE))
        yield KeyEntry(agent, "follower", "looks ahead")


def _icon(tile: NDArray[np.uint8]) -> pygame.Surface:
    """Return a tile as a sign of the key."""
    surface = pygame.surfarray.make_surface(tile.swapaxes(0, 1))
    return pygame.transform.smoothscale(surface, (ICON_SIDE, ICON_SIDE))
