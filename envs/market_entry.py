"""BilevelMarketEntry-v0: fees and subsidies that spread many firms over markets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ..core.checks import (
    check_discount,
    check_not_negative,
    check_positive,
    check_real,
    finite_array,
    received,
)
from ..core.mdp import FloatArray, Kernel
from ..model.mean_field import MeanFieldModel
from ..model.objectives import DiscountedReturn
from ..model.responses import CrowdResponse
from ..rendering.canvas import HEADER_HEIGHT, THEME, new_page, pygame
from ..rendering.key import draw_key, gradient_entries
from ..rendering.picture_charts import Axis, BarChart, draw_bars
from .base import View
from .mean_field import MeanFieldEnv
from .records import recorded
from .rows import checked_matrix

__all__ = ["BilevelMarketEntry", "MarketModel"]

# What a firm earns in each market where nobody else is, and what firms there are worth to the city.
PROFITS = (1.0, 0.8, 0.6, 0.4, 0.2)
NEEDS = (0.2, 0.9, 0.4, 1.1, 0.6)

PICTURE_SIZE = (1000, 740)
KEY_HEIGHT = 64


class MarketModel(MeanFieldModel):
    """Firms that choose between M markets, or stay outside; the crowd is the share in each market.

    State 0 is outside, state k market k; action a is where the firm wants to be.
    """

    def __init__(
        self,
        *,
        profits: FloatArray,
        needs: FloatArray,
        crowding: float,
        queue: float,
        mobility: float,
        moving_cost: float,
        saturation: float,
        **common: Any,
    ) -> None:
        """Set up the model; see `BilevelMarketEntry` for the arguments, profits and needs `[M]`."""
        places = len(profits) + 1
        self._profits, self._needs = np.append(0.0, profits), np.append(0.0, needs)
        self._crowding, self._queue, self._saturation = crowding, queue, saturation
        self._mobility = mobility
        self._moving = moving_cost * (1.0 - np.eye(places))
        # Stored transitions of each state and action: going there, and staying where both differ.
        state, action = np.nonzero(np.ones((places, places), dtype=bool))
        moves = state != action
        states, actions = np.append(state, state[moves]), np.append(action, action[moves])
        targets = np.append(action, state[moves])
        chances = np.where(moves, mobility, 1.0)
        kernel = Kernel.from_triplets(
            states,
            actions,
            targets,
            np.append(chances, np.full(int(moves.sum()), 1.0 - mobility)),
            num_states=places,
            num_actions=places,
        )
        start = np.zeros(places)
        start[0] = 1.0
        groups = np.repeat(np.arange(-1, places - 1)[:, None], places, axis=1)
        super().__init__(
            kernel=kernel,
            initial_distribution=start,
            objective=DiscountedReturn(),
            groups=groups,
            **common,
        )
        self.monotone = crowding >= 0.0 and queue == 0.0
        origin, self._wanted, self._reached = kernel.triplets
        # +1 where entering a market that one is not in succeeds, -1 where it fails, 0 elsewhere.
        enters = (origin != self._wanted) & (self._wanted > 0)
        self._enters = np.where(enters, np.where(self._reached == self._wanted, 1.0, -1.0), 0.0)

    def reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return the profit of the firm's market less its fee, and less what moving costs."""
        profit = self._profits.copy()
        profit[1:] -= self._crowding * crowd + upper_params
        return profit[:, None] - self._moving

    def reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr(s, a)/dx, `[M]`."""
        return -cotangent.sum(axis=1)[1:]

    def reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return dr/dz `[A*S, M]`."""
        return -self._crowding * self._members

    def upper_reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return what the firm is worth to the city, and its fee."""
        worth = self._needs.copy()
        worth[1:] += upper_params - 0.5 * self._saturation * crowd
        return np.repeat(worth[:, None], len(worth), axis=1)

    def upper_reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) du(s, a)/dx, `[M]`."""
        return cotangent.sum(axis=1)[1:]

    def upper_reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return du/dz `[A*S, M]`."""
        return -0.5 * self._saturation * self._members

    def kernel(self, upper_params: FloatArray, crowd: FloatArray) -> Kernel:
        """Return the kernel: entering a market takes longer the more firms are there."""
        if self._queue == 0.0:
            return self.initial_kernel
        slow = 1.0 / (1.0 + self._queue * np.append(0.0, crowd)[self._wanted])
        matrix = self.initial_kernel.matrix
        change = self._enters * self._mobility * (slow - 1.0)
        return self.initial_kernel.with_probabilities(matrix.data + change)

    def kernel_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return dP/dz, a row for each stored transition; None where the crowd does not move P."""
        if self._queue == 0.0:
            return None
        slow = 1.0 / (1.0 + self._queue * np.append(0.0, crowd)[self._wanted])
        slopes = -self._enters * self._mobility * self._queue * slow**2
        rows = np.flatnonzero(self._enters)
        shape = (slopes.size, self.num_groups)
        return csr_array((slopes[rows], (rows, self._wanted[rows] - 1)), shape=shape)


class BilevelMarketEntry(MeanFieldEnv):
    """A leader spreads many firms over markets by fees and subsidies.

    ## Description
    Many small firms each choose a market to be in, or stay outside. The more firms are in a market,
    the less each earns. The leader, a city, wants firms where they are needed, which is where there
    is little to earn; it charges a licence fee in each market, or pays a subsidy.

    ## Upper Level
    x in [-max_fee, max_fee]^M: the fee of each market for each step that a firm is there; negative
    ones are subsidies. x starts at 0. The objective, to be maximised, is that of one firm,

        F(x) = E[ sum_t gamma^t u_t ],   u = need_k - saturation z_k / 2 + x_k   in market k,

    and 0 outside; z_k is the share of firms in market k.

    ## Lower Level
    A mean-field game with discount `gamma` and temperature `temperature`. In market k a firm earns
    profit_k - crowding z_k - x_k in each step, and outside nothing. It pays `moving_cost` in each
    step in which it wants to be elsewhere, and gets there with probability `mobility`; into market
    k with mobility / (1 + queue z_k).

    The crowd z is the discounted share of firms in each market: of a population in which in each
    step a share 1 - `gamma` of the firms closes, as many new ones come, outside, and all others go
    on, it is the stationary one. x enters the reward; the crowd enters it too, and the kernel where
    `queue` is not 0.

    With `crowding` >= 0 and `queue` 0 the game is monotone: the equilibrium is unique. With
    `crowding` < 0 firms attract each other, and there may be several.

    ## Spaces and Episode
    * Observation: `Discrete(M + 1)`: 0 outside, k in market k.
    * Action: `Discrete(M + 1)`: where the firm wants to be.
    * Episode: the firm, which changes nobody's profit, starts outside. The episode never terminates
      and is truncated after 200 steps.
    * The leader observes z, `Box(0, 1, [M])`.

    ## Arguments
    * `profits` (1, .8, .6, .4, .2): of an empty market, M of them, at least one;
    * `needs` (.2, .9, .4, 1.1, .6): what the first firm in a market is worth to the leader, M;
    * `crowding` (2): what a firm earns less in a market where all firms are;
    * `queue` (0): how entry slows down there, not negative;
    * `mobility` (.5): chance to get to another place in a step, in (0, 1];
    * `moving_cost` (.1): of each step in which a firm tries to, not negative;
    * `saturation` (2): how the worth of firms falls with their share, not negative;
    * `max_fee` (2): bound of x, positive;
    * `gamma` (.9), `temperature` (.1), `entropy` ("plain") and `render_mode`: see `BilevelEnv`.

    ## Ground Truth
    Objective and hyper-gradient are exact at the equilibrium. With the default arguments F =
    2.490507 at x = 0, the norm of dF/dx is 6.845159 and that of its direct part, at a fixed crowd,
    4.304071. From there:

    | run | ends at |
    |---|---|
    | L-BFGS-B on the hyper-gradient | 5.924616 |
    | steps along the direct gradient: all fees 2, nobody comes | .001070 |
    | 60 steps along the gradient that takes the crowd for granted | 5.573 |

    L-BFGS-B comes to 5.924616 (`best_known`) from 99 of 100 starts uniform in the box; the other
    one ends at 3.679861. It is not proven optimal. With `crowding` -3 five equilibria are found
    from 20 starts at x = 0, of which F is -4.24 to 2.04: `equilibria(x)`.

    ## References
    S. Zeng, B. P. Evans, S. Bhatt, L. Ardon, S. Ganesh, A. Koppel, "Learning in Stackelberg mean
    field games: a non-asymptotic analysis", arXiv 2509.15392, 2025 (AC-SMFG), which has a market
    entrance game; this instance is of this project. Monotone games: J. Lasry, P. Lions, "Mean field
    games", Japanese Journal of Mathematics 2, 2007.
    """

    leader_does, follower_does = "sets fees", "chooses a market"
    leader_wants = "firms in the markets that need them, and income from fees"
    follower_wants = "high profits, and few others in its market"
    model: MarketModel

    def __init__(
        self,
        *,
        profits: Sequence[float] = PROFITS,
        needs: Sequence[float] = NEEDS,
        crowding: float = 2.0,
        queue: float = 0.0,
        mobility: float = 0.5,
        moving_cost: float = 0.1,
        saturation: float = 2.0,
        max_fee: float = 2.0,
        gamma: float = 0.9,
        temperature: float = 0.1,
        entropy: str = "plain",
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        values = _checked_list("profits", profits)
        needed = _checked_list("needs", needs)
        if len(needed) != len(values):
            raise ValueError(
                f"`needs` must be as many as `profits`, {len(values)}, got {len(needed)}"
            )
        if not 0.0 < check_real("mobility", mobility) <= 1.0:
            raise ValueError(f"`mobility` must lie in (0, 1], got {received(mobility)}")
        limit = check_positive("max_fee", max_fee)
        model = MarketModel(
            profits=values,
            needs=needed,
            crowding=float(finite_array("crowding", crowding, (), "()")),
            queue=check_not_negative("queue", queue),
            mobility=float(mobility),
            moving_cost=check_not_negative("moving_cost", moving_cost),
            saturation=check_not_negative("saturation", saturation),
            low=np.full(len(values), -limit),
            high=np.full(len(values), limit),
            initial_upper_params=np.zeros(len(values)),
            gamma=check_discount("gamma", gamma),  # firms go on for ever
            temperature=temperature,
            entropy=entropy,
            name=type(self).__name__,
        )
        super().__init__(model, render_mode=render_mode)
        self.best_known = recorded(BilevelMarketEntry, locals())

    def knob_names(self) -> tuple[str, ...]:
        """Return the markets."""
        return tuple(f"market {k + 1}" for k in range(self.model.num_groups))

    def draw(self, view: View) -> pygame.Surface:
        """Draw the share of firms in each market, and the fees below."""
        gradient, names = self.slopes(view), self.knob_names()
        shares, status = np.full(len(names), 0.0), view.status
        if isinstance(view.response, CrowdResponse):
            shares = view.response.crowd
        top = BarChart(Axis(0.0, 1.0, "share of all firms in each market"), names, shares, ".2f")
        limit = float(self.model.high[0])
        axis = Axis(-limit, limit, "the leader's x: fee in each market; below 0 a subsidy")
        bars = BarChart(axis, names, view.upper_params, "+.2f", gradient)
        entries = [*gradient_entries("fee", gradient)]
        if view.state is not None:
            here = "outside" if view.state == 0 else names[view.state - 1]
            status = (*status, ("the firm is", here))
        surface, margin = new_page(PICTURE_SIZE, view.title, status), THEME.margin
        width, height = PICTURE_SIZE
        room = width - 2 * margin
        half = (height - HEADER_HEIGHT - KEY_HEIGHT - 3 * margin) // 2
        draw_bars(surface, (margin, HEADER_HEIGHT, room, half), top)
        draw_bars(surface, (margin, HEADER_HEIGHT + half + margin, room, half), bars)
        draw_key(surface, (margin, height - margin - KEY_HEIGHT, room, KEY_HEIGHT), entries)
        return surface


def _checked_list(name: str, values: Sequence[float]) -> FloatArray:
    """Return numbers, at least one, as an array."""
    if isinstance(values, str) or not np.ndim(values) == 1:
        raise ValueError(f"`{name}` must be a list of numbers, got {received(values)}")
    return checked_matrix(name, [values], "a list of numbers")[0]
