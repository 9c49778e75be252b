"""BilevelThermal-v0: insulation and air flow of a building whose temperatures are controlled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_flag, check_not_negative
from ..core.lqr import Coefficients
from ..core.mdp import FloatArray
from ..methods import GaussianResponse
from ..model.linear_quadratic import LinearQuadraticModel
from ..rendering.canvas import (
    HEADER_HEIGHT,
    THEME,
    contrast_ink,
    diverging_colours,
    draw_note,
    draw_text,
    new_page,
    pygame,
    sequential_colours,
)
from ..rendering.key import KEY_ROW, KeyEntry, draw_key, gradient_entries
from ..rendering.picture_charts import Axis, BarChart, draw_column
from ..rendering.strokes import line_style
from .base import View
from .linear_quadratic import EpisodeView, LinearQuadraticEnv, root_mean_squares
from .records import recorded

__all__ = ["BilevelThermal"]

ZONES = 4

# How zones exchange heat with the air flow at one, and what a zone without insulation gains.
EXCHANGE = np.array(
    [[1.0, 0.05, 0.0, 0.05], [0.03, 1.0, 0.04, 0.0], [0.0, 0.04, 1.0, 0.06], [0.05, 0.0, 0.03, 1.0]]
)
INSULATION_EFFECT = np.array([0.04, 0.03, 0.06, 0.05])
CONTROL = np.array([[0.1, 0.0], [0.6, 0.0], [0.0, 0.55], [0.0, 0.3]])
STATE_COST = np.diag([8.0, 1.0, 5.0, 6.0])
ACTION_COST = 0.01 * np.eye(2)

# s^T VARIANCE s is the variance of the entries of s.
VARIANCE = (np.eye(ZONES) - 1.0 / ZONES) / ZONES

# Temperatures are clipped here in the clipped variant.
STATE_LIMIT = 30.0

# Sizes in the picture, in pixels.
PICTURE_SIZE = (1040, 836)
CHARTS_LEFT = 520
PLAN_SIDE = 384
KEY_ROWS = 4
THINNEST_WALL, THICKEST_WALL = 3, 22
INNER_WALL = 8

# Zones in the plan, clockwise from the top left: column and row.
PLACES = ((0, 0), (1, 0), (1, 1), (0, 1))

# Values of the last colours: of a deviation, and of a root mean square.
PLAN_LIMIT, SPREAD_LIMIT = 10.0, 20.0

WALL = (146, 116, 84)


class BilevelThermal(LinearQuadraticEnv):
    """A leader insulates and ventilates a building whose temperatures a follower controls.

    ## Description
    A building has four zones in a ring, zone 1 beside 2, 2 beside 3, 3 beside 4 and 4 beside 1. Two
    controls heat or cool them. The follower keeps each zone near its set temperature, at little
    cost of energy. The leader, who plans the building, wants little energy to be used and all zones
    to be equally warm, at whatever temperature. It chooses insulation and air flow: x enters the
    dynamics, not the reward.

    ## Upper Level
    x in [0, 1]^8: the insulation of each zone, then the air flow through each wall between zones
    (1-2, 2-3, 3-4, 4-1). x starts at .5 in every entry. The objective, to be maximised, is

        F(x) = -E[ sum_t gamma^t (Var(s_t) + energy_cost ||a_t||^2 + upper_cost ||x||^2) ]

    with Var(s) the variance over the four zones.

    ## Lower Level
    A linear-quadratic problem with discount `gamma` and, at weight `temperature`, the differential
    entropy of the policy,

        s' = A(x) s + B a + w,  w ~ N(0, noise_std^2 I),  r(s, a) = -(s^T Q s + a^T R a)

    where s holds the deviations of the temperatures, B has the rows (.1, 0), (.6, 0), (0, .55),
    (0, .3), Q = diag(8, 1, 5, 6) and R = .01 I. Zones i and j side by side, with air flow f through
    the wall between them, exchange heat: A_ij = f E_ij, and A_ii is

        A_ii = 1 + (1 - insulation_i) e_i - sum of A_ij over the two neighbours

    with e = (.04, .03, .06, .05), E_12 = E_14 = E_41 = .05, E_21 = E_43 = .03, E_23 = E_32 = .04
    and E_34 = .06: a deviation grows where a zone is not insulated. The follower's policy is
    N(-K s, (temperature / 2) S^-1); see `bilevel_gym.core.lqr`.

    Its value is finite for every x in the box and every gamma up to .9: each row of A sums up, in
    absolute values, to 1 + (1 - insulation_i) e_i, at most 1.06; with a_2 = -.012 s_3 the largest
    such sum of the closed loop is below 1.0537, and sqrt(.9) * 1.0537 < 1. The optimal closed loop
    may be unstable all the same (spectral radius up to 1.05). For larger gamma there may be x at
    which no policy keeps the discounted cost finite; such an x raises an `ArithmeticError`.

    ## Spaces and Episode
    * Observation: the deviations, `Box(-inf, inf, [4])` in float64.
    * Action: `Box(-action_limit, action_limit, [2])`. The exact follower is not clipped: at any x,
      fewer than one of ten million first actions exceeds 100. A larger action is refused.
    * Episode: the follower starts with s ~ N(0, start_std^2 I). The episode never terminates and is
      truncated after 100 steps.

    ## Arguments
    * `energy_cost` (.5): the leader's price of ||a||^2, not negative;
    * `upper_cost` (.1): its price of ||x||^2 in each step, not negative;
    * `noise_std` (.02): standard deviation of the noise, not negative;
    * `start_std` (5): standard deviation of each first deviation, not negative;
    * `action_limit` (100): largest control, positive; a learner does better with a smaller one,
      since an action at the limit costs thousands of times as much as those of the exact policy;
    * `horizon` (None): steps that count for the leader, at least 1; None for all of them. The
      follower's policy is stationary in either case;
    * `clipped` (False): whether the simulator clips deviations at -30 and 30, as published results
      have it. That is another game, without an exact answer: it has no leader's seat;
    * `gamma` (.9), `temperature` (.1) and `render_mode`: see `BilevelEnv`. The picture is a plan of
      the building, with walls as thick as they are insulated and doors as wide as the air flows,
      coloured by temperature.

    ## Ground Truth
    Objective and hyper-gradient are exact, to rounding. At x = .5 with the default arguments
    F = -261.963133 (with `horizon=100`, -261.963014), the norm of dF/dx is 110.799, and that of its
    direct part 97.007; the part through the follower's policy has norm 93.160. From x0:

    | run | ends at |
    |---|---|
    | L-BFGS-B on the hyper-gradient | -162.503452 |
    | 200 hyper-gradient steps of length .05 falling to 0 | -162.879400 |
    | the same along the direct gradient | -197.999757 |

    The direct gradient asks for more air flow between zones 1 and 2 (+80.47 at x0, the
    hyper-gradient +19.39), which at the best x known is zero. That x is (1, 0, 1, 1, 0, .7784, 1,
    1), with -162.503452 (`best_known`; -162.503255 with `horizon=100`). L-BFGS-B from 24 more
    starts, uniform in the box (seed 0), ended there every time. It is not proven optimal.

    Published returns of the leader with clipped states, after 2000 steps: BC-HG -196.7, the direct
    gradient alone -211.7, from about -265.

    ## References
    Kudo et al., ICAPS 2026, arXiv 2603.14867 (BC-HG); see `BilevelMarkovGame`.
    """

    leader_does, follower_does = "plans a building", "heats and cools"
    leader_wants = "all zones equally warm, with little energy"
    follower_wants = "each zone at its set temperature, with little energy"

    def __init__(
        self,
        *,
        energy_cost: float = 0.5,
        upper_cost: float = 0.1,
        noise_std: float = 0.02,
        start_std: float = 5.0,
        action_limit: float = 100.0,
        horizon: int | None = None,
        clipped: bool = False,
        gamma: float = 0.9,
        temperature: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        energy_cost = check_not_negative("energy_cost", energy_cost)
        check_flag("clipped", clipped)
        size = 2 * ZONES
        # A is affine in x: at x = 0 nothing is exchanged.
        self._closed = np.eye(ZONES) + np.diag(INSULATION_EFFECT)
        self._slopes = np.zeros((size, ZONES, ZONES))
        for zone in range(ZONES):
            self._slopes[zone, zone, zone] = -INSULATION_EFFECT[zone]
            for one, other in (_pair(zone), _pair(zone)[::-1]):
                self._slopes[ZONES + zone, one, other] += EXCHANGE[one, other]
                self._slopes[ZONES + zone, one, one] -= EXCHANGE[one, other]
        model = LinearQuadraticModel(
            self.coefficients,
            self.coefficients_vjp,
            low=np.zeros(size),
            high=np.ones(size),
            initial_upper_params=np.full(size, 0.5),
            gamma=gamma,
            temperature=temperature,
            upper_state_cost=VARIANCE,
            upper_action_cost=energy_cost * np.eye(2),
            upper_cost=upper_cost,
            start_std=start_std,
            noise_std=noise_std,
            horizon=horizon,
            name=type(self).__name__,
            state_limit=STATE_LIMIT if clipped else None,
        )
        super().__init__(model, action_limit=action_limit, render_mode=render_mode)
        self.best_known = recorded(BilevelThermal, locals())

    def coefficients(self, upper_params: FloatArray) -> Coefficients:
        """Return A(x), B, Q and R."""
        dynamics = self._closed + np.tensordot(upper_params, self._slopes, axes=1)
        return Coefficients(dynamics, CONTROL, STATE_COST, ACTION_COST)

    def coefficients_vjp(self, upper_params: FloatArray, cotangent: Coefficients) -> FloatArray:
        """Return sum_ij cotangent_ij dA_ij/dx, `[8]`; x is in nothing else."""
        return np.tensordot(self._slopes, cotangent.dynamics, axes=2)

    def knob_names(self) -> tuple[str, ...]:
        """Return the zones that x insulates, and the walls through which it lets air."""
        zones = [f"zone {zone + 1}" for zone in range(ZONES)]
        return (*zones, *(f"{one + 1}–{other + 1}" for one, other in map(_pair, range(ZONES))))

    def draw(self, view: View) -> pygame.Surface:
        """Draw the plan of the building, x, and temperatures and controls over time."""
        gradient = self.slopes(view)
        zones = self.knob_names()[:ZONES]
        axis = Axis(0.0, 1.0, "the leader's x: insulation of zones, air through walls")
        bars = BarChart(axis, self.knob_names(), view.upper_params, ".2g", gradient)
        entries = [KeyEntry(line_style(i), zone, "deviation") for i, zone in enumerate(zones)]
        entries += [
            KeyEntry(line_style(0), "control 1", "zones 1 and 2"),
            KeyEntry(line_style(1), "control 2", "zones 3 and 4"),
            *gradient_entries("this", gradient),
        ]
        captions = ["distance of each zone from its set temperature"]
        if isinstance(view, EpisodeView):
            captions = ["deviation of each zone from its set temperature now"]
        captions.append("thick outer walls insulate; wide doors let air through")

        surface, margin = new_page(PICTURE_SIZE, view.title, view.status), THEME.margin
        width, height = PICTURE_SIZE
        for line, caption in enumerate(captions):
            draw_note(surface, caption, (margin, HEADER_HEIGHT + 20 * line), colour=THEME.ink)
        _draw_plan(surface, (margin + THICKEST_WALL, HEADER_HEIGHT + 70), view)
        key_height = KEY_ROW * KEY_ROWS
        key = (margin, height - margin // 2 - key_height, CHARTS_LEFT - 2 * margin, key_height)
        draw_key(surface, key, entries)
        room = width - CHARTS_LEFT - margin
        column = (CHARTS_LEFT, HEADER_HEIGHT, room, height - margin - HEADER_HEIGHT)
        charts = self.time_charts(view, "deviations of zones", "controls")
        draw_column(surface, column, [bars, *charts])
        return surface


def _draw_plan(surface: pygame.Surface, corner: tuple[int, int], view: View) -> None:
    """Draw the zones with their walls and doors."""
    half = PLAN_SIDE // 2
    rooms = [
        pygame.Rect(corner[0] + column * half, corner[1] + row * half, half, half)
        for column, row in PLACES
    ]
    texts, colours = _shown_zones(view)
    insulation, flow = np.split(view.upper_params, 2)
    for room, (column, row), share in zip(rooms, PLACES, insulation.tolist(), strict=True):
        thick = round(THINNEST_WALL + share * (THICKEST_WALL - THINNEST_WALL))
        place = (room.x - (thick if column == 0 else 0), room.y - (thick if row == 0 else 0))
        pygame.draw.rect(surface, WALL, (*place, half + thick, half + thick))
    sizes = (THEME.text_size, THEME.title_size, THEME.small_size)
    for room, lines, colour in zip(rooms, texts, colours.tolist(), strict=True):
        pygame.draw.rect(surface, colour, room)
        ink = contrast_ink(colour)
        for text, size, down in zip(lines, sizes, (-12, 16, 42), strict=True):
            place = room.move(0, down).center
            draw_text(surface, text.replace("-", "−"), place, "center", size=size, colour=ink)
    for wall, share in enumerate(flow.tolist()):
        one, other = (rooms[zone] for zone in _pair(wall))
        edge = one.inflate(INNER_WALL, INNER_WALL).clip(other.inflate(INNER_WALL, INNER_WALL))
        edge = edge.clip(one.union(other))
        closed = round(half * (1.0 - 0.9 * share) / 2.0)  # on either side of the door
        upright = one.y == other.y
        part = pygame.Rect(edge.topleft, (INNER_WALL, closed) if upright else (closed, INNER_WALL))
        pygame.draw.rect(surface, THEME.ink, part)
        part.bottomright = edge.bottomright
        pygame.draw.rect(surface, THEME.ink, part)


def _shown_zones(view: View) -> tuple[list[tuple[str, str, str]], NDArray[np.uint8]]:
    """Return three lines of text, and the colour, of each zone.

    They show the deviations now and the last control, or, where no episode is played, the root mean
    squares of the deviations.
    """
    names = [f"zone {zone + 1}" for zone in range(ZONES)]
    values, controls = [""] * ZONES, [""] * ZONES
    colours = np.full((ZONES, 3), THEME.light, dtype=np.uint8)
    if isinstance(view, EpisodeView):
        if len(view.states):
            values = [f"{value:+.1f}" for value in view.states[-1]]
            colours = diverging_colours(view.states[-1], PLAN_LIMIT)
        if len(view.actions):
            controls = [f"control {heat:+.2f}" for heat in CONTROL @ view.actions[-1]]
    elif isinstance(view.response, GaussianResponse):
        spread = root_mean_squares(view.response)[:ZONES]
        values = [f"{value:.1f}" for value in spread]
        colours = sequential_colours(spread, SPREAD_LIMIT)
    return list(zip(names, values, controls, strict=True)), colours


def _pair(zone: int) -> tuple[int, int]:
    """Return a zone and the next one around the ring; the wall between them has its number."""
    return zone, (zone + 1) % ZONES
