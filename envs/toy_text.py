"""BilevelFrozenLake-v0, BilevelCliffWalking-v0, BilevelTaxi-v0: shaping Gymnasium's toy texts.

One constructor turns any environment that shows its model, as `env.unwrapped.P` and
`initial_state_distrib`, into a bilevel game.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import find_highest_version, parse_env_id
from numpy.typing import NDArray

from ..core.checks import check_not_negative, first_line, received
from ..core.mdp import FloatArray
from ..model import TabularModel
from ..rendering import THEME, GridScene, grid_layout
from ..rendering.canvas import draw_centred, draw_text, pygame
from ..rendering.key import KeyEntry
from ..rendering.signs import FOLLOWER, GOAL, ICON_SIDE, pin_sprite, taxi_sprite
from ..rendering.table import draw_table
from .base import View
from .grids import GridBilevelEnv
from .records import recorded
from .sources import json_options
from .tabulation import exposed_model

__all__ = ["BilevelToyText"]

# Occupancy below which the states of a cell count alike in a picture.
LEAST_WEIGHT = 1e-12

# Which of the environment's actions go up, right, down, left.
LAKE_MOVES = (3, 2, 1, 0)
CLIFF_MOVES = (0, 1, 2, 3)
TAXI_MOVES = (1, 2, 0, 3)

CLIFF_MAP = (*["." * 12] * 3, "S" + "H" * 10 + "G")

# What both players want, in words.
WANTS = {
    "FrozenLake": "the goal reached soon",
    "CliffWalking": "the goal reached soon",
    "Taxi": "each passenger delivered soon",
}

# Names of Taxi's landmarks, in the order of its `locs`.
LANDMARKS = "RGYB"
LANDMARK_COLOURS = ((190, 40, 40), (20, 120, 70), (214, 168, 0), (38, 72, 160))
IN_TAXI = 4


class BilevelToyText(GridBilevelEnv):
    """A leader shapes a toy-text environment of Gymnasium so that a distracted follower does well.

    ## Description
    Any environment with a model, `env.unwrapped.P` and `initial_state_distrib`, becomes a game.
    Leader and follower have the same reward, the environment's own, but the follower also maximises
    its entropy. At the registered temperatures that weighs so much that it wastes time. The leader
    cannot lower the temperature; it can reward the follower for being in one state rather than
    another, at a cost. With a temperature near zero there is nothing to gain: x = 0 is optimal up
    to rounding.

    | id | environment | temperature | the follower at x = 0, and at the best x known |
    |---|---|---|---|
    | `BilevelFrozenLake-v0` | FrozenLake, 4x4, slippery | .1 | acts 52.5 times, 35.0 times |
    | `BilevelCliffWalking-v0` | CliffWalking | .5 | acts 18.1 times, 12.5 times |
    | `BilevelTaxi-v0` | Taxi | .5 | acts 14.9 times, 13.0 times |

    Numbers of actions are discounted. Only time is wasted: at these temperatures the follower steps
    off the cliff, or drops a passenger at a wrong place, less than 1e-4 times.

    P is read once: entries with the same successor are added, r(s, a) = sum p r is the expected
    reward, and the mass of entries marked `done` ends the episode. Rows of states in which
    episodes have ended are kept as they are, though nothing leads there. The environment's own
    time limit is ignored.

    ## Upper Level
    x in [-1, 1]^D, 0 at the start: the shaping reward of each state (D = S: 16 on FrozenLake, 48 on
    CliffWalking, 500 on Taxi), or the weights of given `features`. The objective, to be maximised,
    is

        F(x) = E[ sum_t gamma^t r(s_t, a_t) ] - shaping_cost * ||x||^2

    with the environment's own reward r; the cost of x counts once. x of a state in which nobody
    acts (holes, cliff, goal) changes nothing but the cost.

    ## Lower Level
    An entropy-regularised MDP with r_x(s, a) = r(s, a) + x_s, or r(s, a) + features(s, a) x,
    discount `gamma`, temperature `temperature`, and the environment's transitions. x enters the
    reward alone.

    ## Spaces and Episode
    * Observation: `Discrete(S)`, the environment's own states.
    * Action: `Discrete(A)`, the environment's own actions.
    * Rewards: both levels have the expected reward r(s, a) where the environment's own reward
      depends on the successor (on FrozenLake 1/3, not 1 or 0, for trying to step on the goal).
    * Episode: it terminates where the environment's does, and is truncated after 100 (FrozenLake)
      or 200 steps.

    ## Arguments
    * `env_id`: Gymnasium id of the environment; without "-vN", the newest version registered;
    * `env_kwargs` (None): its constructor arguments, a dictionary of JSON types, such as
      {"map_name": "8x8"};
    * `features` (None): d reward / dx, `[S, A, D]`, or a SciPy sparse matrix or `LinearOperator`
      `[A*S, D]` whose row `a * S + s` belongs to (s, a); None shapes each state;
    * `shaping_cost` (.01): weight of ||x||^2, not negative;
    * `gamma` (.99), `temperature` (.1), `entropy` ("plain") and `render_mode`: see `BilevelEnv`.
      FrozenLake and CliffWalking show their map; Taxi shows its city with occupancy and
      hyper-gradient summed, and shaping and moves averaged by occupancy, over passengers and
      destinations; other environments show a table of states and actions.

    Taxi's `fickle_passenger` is refused, because its `step` departs from P, and so are random maps
    of FrozenLake, which would differ from one construction to the next.

    ## Ground Truth
    Objective and hyper-gradient are exact. The most that any policy earns is also what x = 0 earns
    at a temperature near zero (1e-4 on FrozenLake, .01 on the others).

    | id | most | F at x = 0 | norm of dF/dx there | best F known | without its cost of x |
    |---|---|---|---|---|---|
    | `BilevelFrozenLake-v0` | .542026 | .166104 | 2.061482 | .401520 | .415489 |
    | `BilevelCliffWalking-v0` | -12.247898 | -18.056124 | 7.543376 | -12.641884 | -12.454817 |
    | `BilevelTaxi-v0` | 6.327464 | 3.188041 | .795845 | 4.938095 | 5.410655 |

    The best single number for all states, in steps of .05, does well where only time counts:
    -12.8969 on CliffWalking (x = -.85) and 4.5461 on Taxi (x = -.3). On FrozenLake it is 0.

    The direct gradient is -2 shaping_cost x, which leads from any start to x = 0.

    The best values (`best_known`) are where normalised ascent and then L-BFGS-B on the
    hyper-gradient end, from x = 0 and from every one of 60 random starts (Taxi: 12), uniform in
    [-s, s] with s one of .02, .1, .3 and 1. They are not proven optimal. One entry of x is at its
    bound on FrozenLake, four on CliffWalking.

    Higher temperatures have plateaus: F of CliffWalking at temperature 1 is -100.000000 at x = 0,
    since the follower walks on for ever, and the hyper-gradient has norm 6e-12.

    ## References
    Gymnasium's toy-text environments: https://gymnasium.farama.org/environments/toy_text. Taxi: T.
    G. Dietterich, "Hierarchical reinforcement learning with the MAXQ value function decomposition",
    Journal of Artificial Intelligence Research 13, 2000. CliffWalking: R. Sutton, A. Barto,
    "Reinforcement Learning: An Introduction", example 6.6. The shaping tasks are this project's.
    """

    leader_does, follower_does = "shapes rewards", "acts"

    def __init__(
        self,
        env_id: str,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        features: Any = None,
        gamma: float = 0.99,
        temperature: float = 0.1,
        entropy: str = "plain",
        shaping_cost: float = 0.01,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        check_not_negative("shaping_cost", shaping_cost)
        env = _made(env_id, env_kwargs)
        kernel, reward = exposed_model(env, env_id)
        start = np.asarray(env.get_wrapper_attr("initial_state_distrib"), dtype=np.float64)
        if start.shape != (kernel.num_states,):
            raise ValueError(
                f"`initial_state_distrib` of {env_id!r} must have shape [S] = "
                f"({kernel.num_states},), got {start.shape}"
            )
        model = TabularModel.from_arrays(
            kernel,
            reward,
            upper_reward=reward,
            initial_distribution=start,
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            features=features,
            upper_cost=shaping_cost,
        )
        model.name = type(self).__name__
        wants = WANTS.get(env_id.partition("-v")[0].rpartition("/")[2], "a high return")
        self.leader_wants = f"{wants}, and little shaping"
        self.follower_wants = f"{wants}, but also to act at random"
        self._wrapped_id, self._map, self._has_features = env_id, _map_of(env), features is not None
        self.has_map = self._map is not None and self._map.contexts == 1 and features is None
        self.moves = () if self._map is None else self._map.moves
        if self._map is not None:
            cells = self._map.cells
            self._lay_out(cells, np.argwhere(cells != ""), np.arange(cells.size))
        super().__init__(model, render_mode=render_mode)
        name = "" if env.spec is None else env.spec.name
        arguments = {**locals(), "env_id": name, "env_kwargs": env_kwargs or None}
        self.best_known = recorded(BilevelToyText, arguments)
        env.close()

    @property
    def title(self) -> str:
        """The environment that is shaped."""
        return f"Bilevel {self._wrapped_id}"

    def draw(self, view: View) -> pygame.Surface:
        """Draw the map with the shaping, the follower's policy and the hyper-gradient.

        Other environments show a table.
        """
        if self._map is None:
            return draw_table(self.table(view))
        surface = super().draw(view)
        if self._map.landmarks:
            _draw_city(surface, self._map)
            if view.state is not None:
                _draw_trip(surface, self._map, self.cell_of(view.state), self._trip(view.state))
        return surface

    def cell_of(self, state: int) -> tuple[int, int]:
        """Return (row, column) of a state."""
        return super().cell_of(state // self._known_map().contexts)

    def state_of(self, cell: tuple[int, int]) -> int | None:
        """Return the state of a cell; None where there is no map, or a cell is many states."""
        known = self._map is not None and self._map.contexts == 1
        return super().state_of(cell) if known else None

    def coordinates(self) -> FloatArray | None:
        """Return where each state is, `[S, K]` in [0, 1]; None where there is no map.

        They are row and column and, where a cell stands for several states, which of them it is.
        """
        if self._map is None or (places := super().coordinates()) is None:
            return None
        contexts = self._map.contexts
        if contexts == 1:
            return places
        which = np.arange(self.num_states) % contexts / (contexts - 1)
        return np.column_stack([np.repeat(places, contexts, axis=0), which])

    def _trip(self, state: int) -> tuple[int, int]:
        """Return where Taxi's passenger is, a landmark or 4 for the taxi, and where to go."""
        return divmod(state % self._known_map().contexts, len(LANDMARKS))

    def _known_map(self) -> _Map:
        if self._map is None:
            raise RuntimeError(f"{self.title} has no map: it is not known where its states are")
        return self._map

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the map.

        A cell of Taxi stands for twenty states: with a trip under way those of this trip are shown,
        otherwise all of them together.
        """
        on_map = self._known_map()
        answer, x = view.tabular, view.upper_params
        weights = np.ones(self.num_states) if answer is None else answer.occupancy
        shown: Any = 1.0
        entries: tuple[KeyEntry, ...] = ()
        if view.state is not None and on_map.landmarks:
            context = view.state % on_map.contexts
            shown = np.arange(self.num_states) % on_map.contexts == context
            weights = shown * weights
            entries = _trip_entries(self._trip(view.state))
        bonus = (self.reward(x) - self.upper_reward(x)).mean(axis=1)
        shaping = on_map.averaged(bonus, weights)
        gradient = None if self._has_features else self.slopes(view)
        policy = None
        if answer is not None:
            moves = on_map.averaged(answer.policy, weights)[..., list(self.moves)]
            policy = moves / moves.sum(axis=-1, keepdims=True)
        scene = self._scene(
            view,
            shaping=shaping,
            shaping_limit=float(self.upper_space.high.max()),
            policy=policy,
            occupancy=None if answer is None else on_map.summed(shown * answer.occupancy),
            gradient=None if gradient is None else on_map.summed(shown * gradient),
            status=view.status,
            entries=entries,
        )
        return replace(scene, follower=None) if entries else scene


@dataclass(frozen=True, eq=False)
class _Map:
    """Where the states of an environment are in its picture."""

    cells: NDArray[np.str_]  # characters [H, W], as `GridScene` has them
    moves: tuple[int, ...]  # which actions go up, right, down, left
    contexts: int = 1  # states per cell; they are numbered cell by cell
    landmarks: tuple[tuple[int, int], ...] = ()  # cells of Taxi
    walls: tuple[tuple[int, int], ...] = ()  # cells of Taxi with a wall on their right

    def summed(self, values: FloatArray) -> FloatArray:
        """Return numbers per state `[S, ...]`, summed in each cell, `[H * W, ...]`."""
        return values.reshape(-1, self.contexts, *values.shape[1:]).sum(axis=1)

    def averaged(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        """Return numbers per state `[S, ...]`, averaged in each cell, weights `[S]`."""
        weights = np.maximum(weights, LEAST_WEIGHT).reshape(-1, *[1] * (values.ndim - 1))
        return self.summed(values * weights) / self.summed(weights)


def _map_of(env: gym.Env[Any, Any]) -> _Map | None:
    """Return the map of an environment that has one, None for any other."""
    from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
    from gymnasium.envs.toy_text.taxi import TaxiEnv

    if isinstance(env, FrozenLakeEnv):
        cells = np.array(env.desc).astype(str)
        return _Map(np.where(cells == "F", ".", cells), LAKE_MOVES)
    if isinstance(env, CliffWalkingEnv):
        return _Map(np.array([list(row) for row in CLIFF_MAP]), CLIFF_MOVES)
    if isinstance(env, TaxiEnv):
        walls = tuple(
            (row, column)
            for row in range(5)
            for column in range(4)
            if env.desc[1 + row, 2 * column + 2] == b"|"
        )
        places = tuple((int(row), int(column)) for row, column in env.locs)
        return _Map(np.full((5, 5), "."), TAXI_MOVES, 20, places, walls)
    return None


def _draw_city(surface: pygame.Surface, city: _Map) -> None:
    """Draw the walls and the landmarks of Taxi over its map."""
    rows, columns = city.cells.shape
    layout = grid_layout((rows, columns))
    side = int(layout.cell)
    thick = max(2, side // 14)
    for row, column in city.walls:
        x, y = layout.cell_corner(row, column)
        box = (x + side - thick // 2, y, thick, side)
        pygame.draw.rect(surface, THEME.missing, box)
    plate = max(12, side // 4)
    for name, colour, cell in zip(LANDMARKS, LANDMARK_COLOURS, city.landmarks, strict=True):
        x, y = layout.cell_corner(*cell)
        box = (x + side // 16, y + side // 16, plate, plate)
        pygame.draw.rect(surface, colour, box, border_radius=plate // 5)
        middle = (box[0] + plate // 2, box[1] + plate // 2)
        draw_text(surface, name, middle, anchor="center", colour=THEME.light)


def _draw_trip(
    surface: pygame.Surface, city: _Map, taxi: tuple[int, int], trip: tuple[int, int]
) -> None:
    """Draw the taxi, and the passenger and the destination unless they are in it or reached."""
    layout = grid_layout(city.cells.shape)
    side = int(layout.cell)
    size = 2 * side // 5
    passenger, destination = trip
    x, y = layout.cell_corner(*city.landmarks[destination])
    draw_centred(surface, pin_sprite(GOAL, 2 * side // 7), (x + 0.18 * side, y + 0.8 * side))
    if passenger != IN_TAXI:
        x, y = layout.cell_corner(*city.landmarks[passenger])
        place = (x + 0.5 * side, y + 0.8 * side)
        draw_centred(surface, pin_sprite(FOLLOWER, 2 * side // 7), place)
    x, y = layout.cell_corner(*taxi)
    sprite = taxi_sprite(size, passenger == IN_TAXI)
    draw_centred(surface, sprite, (x + 0.5 * side, y + 0.22 * side))


def _trip_entries(trip: tuple[int, int]) -> tuple[KeyEntry, ...]:
    """Name the signs of a trip, for the key."""
    passenger, destination = trip
    inside = passenger == IN_TAXI
    entries = [KeyEntry(taxi_sprite(ICON_SIDE, inside), "taxi", "the follower drives it")]
    place = "is in the taxi" if inside else f"waits at {LANDMARKS[passenger]}"
    entries.append(KeyEntry(pin_sprite(FOLLOWER, ICON_SIDE), "passenger", place))
    goal = f"at {LANDMARKS[destination]}"
    return (*entries, KeyEntry(pin_sprite(GOAL, ICON_SIDE), "destination", goal))


def _made(env_id: str, env_kwargs: Mapping[str, Any] | None) -> gym.Env[Any, Any]:
    """Return the environment that the arguments name, without its wrappers."""
    if not isinstance(env_id, str):
        raise ValueError(f"`env_id` must be the id of an environment, got {received(env_id)}")
    options = json_options(env_kwargs)
    try:
        env = gym.make(_versioned(env_id), disable_env_checker=True, **options).unwrapped
    except Exception as error:  # the constructor of any environment may raise anything
        raise ValueError(
            f"`env_id` and `env_kwargs` must make an environment, got {received(env_id)} with "
            f"{received(options)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    made = {} if env.spec is None else env.spec.kwargs
    if made.get("fickle_passenger"):
        raise ValueError(
            "`env_kwargs` must leave fickle_passenger off, got fickle_passenger=True: `step` of "
            "such a taxi departs from its model P"
        )
    if made.get("map_name", "") is None and made.get("desc") is None:
        raise ValueError(
            "`env_kwargs` must name a map or give `desc`, got map_name=None: a random map would "
            "be another one each time"
        )
    return env


def _versioned(env_id: str) -> str:
    """Return the id with the newest version that is registered, if it names none."""
    if ":" in env_id:
        return env_id
    namespace, name, version = parse_env_id(env_id)
    newest = find_highest_version(namespace, name) if version is None else None
    return env_id if newest is None else f"{env_id}-v{newest}"
