"""BilevelTaxDesign-v0: taxes on consumption and income for households that work, spend and save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.sparse import block_diag, csr_array, vstack
from scipy.special import ndtr

from ..core.checks import (
    check_at_least,
    check_between,
    check_not_negative,
    check_positive,
    received,
)
from ..core.mdp import FloatArray, Kernel
from ..rendering.canvas import pygame
from ..rendering.taxes import TaxScene, draw_taxes
from .base import View, shown, upper_box
from .records import recorded
from .rows import checked_matrix
from .tabular import TabularBilevelEnv

__all__ = ["BilevelTaxDesign"]

PREFERENCES = ((0.6, 0.3, 0.1), (0.1, 0.7, 0.2))

# Assets that raise the logarithm in their utility from log 1 to log 2.
UTILITY_SCALE = 20.0

# Largest exponent of a good in the utility.
MAX_PREFERENCE = 10.0

# The noise may have to bring a household back to the grid from so many standard deviations beyond
# its ends; from farther out the probabilities of the cells would underflow.
MAX_OVERSHOOT = 30.0

# The noise and the extent of the grid differ by no more than this factor, or one of them would be
# lost in the other.
NOISE_RANGE = 1e4


# Rewards of more pairs of a state and an action do not fit into the memory of most machines.
MOST_PAIRS = 100_000_000

# Ends of scales of pictures: taxes at this share of the most that anybody can pay, and shares of
# households at so many times those of assets that are all alike.
TAX_SHARE, CROWDING = 0.25, 20.0


class BilevelTaxDesign(TabularBilevelEnv):
    """A leader sets taxes on goods and on income for households that work, spend and save.

    ## Description
    A household has assets, in each period works some hours and spends money on three goods, and
    saves the rest. It likes assets and goods and dislikes work; two types of household like the
    goods differently. The leader sets the taxes. It wants consumption and tax revenue, but taxed
    households work less, spend on other goods or live on their assets: taxes change both the
    follower's reward and its transitions.

    ## Upper Level
    x in [0, 2]^4: the value-added tax on each of the three goods, then the income tax, as shares
    (.3 is 30 %). x starts at .3 in every entry. The objective, to be maximised, is

        F(x) = E[ sum_t gamma^t u_x(s_t, a_t) ]
        u_x(s, a) = consumption_weight * mean_j(c_j / (1 + vat_j)) + revenue_weight * log(1 + T)
        T = sum_j vat_j c_j / (1 + vat_j) + income_tax * wage * hours

    with c_j the money spent on good j, tax included, and T the tax revenue of the period; the
    expectation includes the type of household.

    ## Lower Level
    An entropy-regularised MDP with discount `gamma` and temperature `temperature`,

        r_x(s, a) = U(assets) - hours_cost * hours^2 + prod_j (c_j / (1 + vat_j))^preference_j

    where U(assets) is log(assets / 20 + 1) for positive assets and the (negative) assets themselves
    for debts. Assets lie on a grid of `num_assets` points on [-asset_limit, asset_limit]. With
    m = assets + (1 - income_tax) * wage * hours - sum_j c_j (not clipped), the next point is k with
    probability proportional to Phi((e_{k+1} - m) / noise) - Phi((e_k - m) / noise), where the edges
    e lie midway between points, the first and the last at -asset_limit and asset_limit, and Phi is
    the standard normal distribution function. The value-added taxes enter the reward, the income
    tax the kernel.

    The type of household never changes: it is a context, and the kernel has a block for each. All
    blocks are equal, and actions with equal hours and equal total spending share their row (130 of
    1250 are stored), so that the exact solve costs as much as with 130 actions.

    ## Spaces and Episode
    * Observation: `Discrete(202)`, which is 101 * (type of household) + (point of the grid).
    * Action: `Discrete(1250)`, which is 125 h + 25 i_1 + 5 i_2 + i_3 for h * hours_step hours and
      i_j * spending_step spent on good j.
    * Episode: the follower starts with assets N(0, start_variance), rounded to the cells of the
      grid (the outermost ones without end), and each type of household is equally likely. The
      episode never terminates and is truncated after 200 steps.

    ## Arguments
    * `num_assets` (101): points of the grid of assets, at least 2;
    * `asset_limit` (100): largest assets and largest debts, positive;
    * `hours_levels` (10): choices of hours, at least 1;
    * `hours_step` (.89): hours between two of them, positive;
    * `spending_levels` (5): choices of money spent on each good, at least 1;
    * `spending_step` (1.25): money between two of them, positive;
    * `preferences` ([[.6, .3, .1], [.1, .7, .2]]): exponents of the goods, positive, for each type
      of household; their numbers are the numbers of goods and types;
    * `hours_cost` (.1): weight of hours^2 in the follower's reward, not negative;
    * `wage` (1): pay for an hour, positive;
    * `noise` (5): standard deviation of the change in assets, positive and at least 1/30 of how far
      a household can be led beyond the grid;
    * `start_variance` (2): variance of the assets at the start, positive;
    * `consumption_weight` (3): weight of mean consumption in u_x, not negative (published: 15/5);
    * `revenue_weight` (5): weight of log(1 + T) in u_x, not negative;
    * `max_rate` (2): largest rate of every tax, positive;
    * `start_rate` (.3): every rate at the start, in [0, max_rate];
    * `gamma` (.9), `temperature` (.1; published are .1, .2 and .3), `entropy` ("plain") and
      `render_mode`: see `BilevelEnv`. The picture shows, over the assets, what each type of
      household does, what it pays, and where households are.

    There are hours_levels * spending_levels^(number of goods) actions. A small game, for tests:
    `num_assets=25, hours_levels=4, hours_step=2.67, spending_levels=3, spending_step=2.5`.

    ## Ground Truth
    Objective and hyper-gradient are exact. At x = (.3, .3, .3, .3) with the default arguments
    F = 32.601995 and dF/dx = (-2.975346, -4.746958, -1.208305, 43.398324). The norm of dF/dx is
    43.775, that of its direct part (.720, .921, .485, 62.798) is 62.811. With temperatures .2
    and .3 F is 35.602220 and 39.165541. From x0:

    | run | ends at | why |
    |---|---|---|
    | L-BFGS-B on the hyper-gradient | 54.784836 | tax income, leave goods alone |
    | 200 hyper-gradient steps of length .05 falling to 0 | 54.748215 | the valley is flat |
    | the same along the direct gradient | .174677 | all taxes at their limit: no work |
    | L-BFGS-B on the direct gradient | 54.296828 | its line search sees values, and gives up |

    The direct gradient is positive in every entry along its steps: it raises taxes until all are at
    their limit, passing 54.453 after ten steps. The best value known, 54.784836 (`best_known`) at
    (0, 0, .0620, .8053), is what the first run finds in 32 evaluations. L-BFGS-B from 24 more
    starts, uniform in the box (seed 0), ended there every time, within 1e-9. It is not proven
    optimal. Two rates rest at their lower bound.

    ## References
    Thoma et al., NeurIPS 2024, arXiv 2406.01575 (HPGD); see `BilevelFourRooms`.
    """

    leader_does, follower_does = "sets taxes", "works, spends and saves"
    leader_wants = "much consumption and much tax revenue"
    follower_wants = "goods and assets, and little work"

    def __init__(
        self,
        num_assets: int = 101,
        *,
        asset_limit: float = 100.0,
        hours_levels: int = 10,
        hours_step: float = 0.89,
        spending_levels: int = 5,
        spending_step: float = 1.25,
        preferences: Sequence[Sequence[float]] = PREFERENCES,
        hours_cost: float = 0.1,
        wage: float = 1.0,
        noise: float = 5.0,
        start_variance: float = 2.0,
        consumption_weight: float = 3.0,
        revenue_weight: float = 5.0,
        max_rate: float = 2.0,
        start_rate: float = 0.3,
        gamma: float = 0.9,
        temperature: float = 0.1,
        entropy: str = "plain",
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        num_assets = check_at_least("num_assets", num_assets, 2)
        hours_levels = check_at_least("hours_levels", hours_levels, 1)
        spending_levels = check_at_least("spending_levels", spending_levels, 1)
        asset_limit = check_positive("asset_limit", asset_limit)
        hours_step = check_positive("hours_step", hours_step)
        spending_step = check_positive("spending_step", spending_step)
        self._wage = check_positive("wage", wage)
        self._noise = check_positive("noise", noise)
        start_variance = check_positive("start_variance", start_variance)
        check_positive("max_rate", max_rate)
        self._hours_cost = check_not_negative("hours_cost", hours_cost)
        self._consumption_weight = check_not_negative("consumption_weight", consumption_weight)
        self._revenue_weight = check_not_negative("revenue_weight", revenue_weight)
        rate = check_between("start_rate", start_rate, 0.0, max_rate)
        if not asset_limit / NOISE_RANGE <= self._noise <= asset_limit * NOISE_RANGE:
            raise ValueError(
                f"`noise` must lie within a factor of {NOISE_RANGE:g} of `asset_limit`, "
                f"{asset_limit:g}, got {received(noise)}"
            )
        form = (
            "a list with an exponent for each good, equally many for each type of household, such "
            "as [[0.6, 0.4], [0.1, 0.9]]"
        )
        self.preferences = checked_matrix("preferences", preferences, form)
        if self.preferences.min() <= 0.0 or self.preferences.max() > MAX_PREFERENCE:
            raise ValueError(
                f"`preferences` must be positive and at most {MAX_PREFERENCE:g}, got "
                f"{received(preferences)}"
            )
        self.preferences.flags.writeable = False
        households, goods = self.preferences.shape
        pairs = households * num_assets * hours_levels * spending_levels**goods
        if pairs > MOST_PAIRS:
            raise ValueError(
                "`num_assets`, `hours_levels` and `spending_levels` must make at most "
                f"{MOST_PAIRS} pairs of a state and an action, got {received(pairs)}"
            )
        self.assets = np.linspace(-asset_limit, asset_limit, num_assets)
        # The joint actions, hours first, then the goods in order.
        levels = np.indices((hours_levels, *[spending_levels] * goods)).reshape(goods + 1, -1)
        self.hours = hours_step * levels[0]
        self.spending: FloatArray = spending_step * levels[1:].T.astype(np.float64)
        # What hours and total spending are the same for leads to the same place.
        totals = goods * (spending_levels - 1) + 1
        move_hours, move_total = np.divmod(np.arange(hours_levels * totals), totals)
        self._gross_wages = self._wage * hours_step * move_hours
        self._outlays = spending_step * move_total
        ends = np.multiply.outer([1.0, 1.0 - max_rate], self._gross_wages) - self._outlays
        overshoot = float(np.abs(ends).max())
        if overshoot > MAX_OVERSHOOT * self._noise:
            raise ValueError(
                f"`noise` must be at least {overshoot / MAX_OVERSHOOT:.3g}, 1/{MAX_OVERSHOOT:g} of "
                f"how far a household can be led beyond the grid, got {received(noise)}"
            )
        wealth = np.log1p(np.maximum(self.assets, 0.0) / UTILITY_SCALE)
        self._asset_utility = np.where(self.assets > 0.0, wealth, self.assets)
        rates = np.full(goods + 1, rate)
        blocks = _blocks(num_assets, households, len(self._gross_wages)).with_moves(
            levels[0] * totals + levels[1:].sum(axis=0)
        )
        super().__init__(
            kernel=blocks.with_probabilities(self._probabilities(rates)),
            initial_distribution=np.tile(
                start_probabilities(self.assets, start_variance) / households, households
            ),
            upper_space=upper_box(0.0, max_rate, (goods + 1,)),
            initial_upper_params=rates,
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self.best_known = recorded(BilevelTaxDesign, locals(), ("start_rate",))

    def draw(self, view: View) -> pygame.Surface:
        """Draw the taxes, and for each type of household what it does over its assets."""
        return draw_taxes(self.scene(view))

    def scene(self, view: View) -> TaxScene:
        """Return a view as numbers over the assets, for `bilevel_gym.rendering.taxes`."""
        answer, status, follower, schedules = view.tabular, view.status, None, None
        households, size = len(self.preferences), len(self.assets)
        revenue = self.revenue(view.upper_params)
        if answer is not None:
            taxes = answer.policy @ revenue
            # Each type of household is met equally often.
            share = households * answer.occupancy
            status += (("mean tax revenue", shown(float(answer.occupancy @ taxes))),)
            hours, spent = answer.policy @ self.hours, answer.policy @ self.spending
            schedules = (
                hours.reshape(households, size, 1),
                spent.reshape(households, size, -1),
                taxes.reshape(households, size, 1),
                share.reshape(households, size, 1),
            )
        if view.state is not None:
            follower = divmod(view.state, size)
            status += (("assets", f"{self.assets[follower[1]]:g}"),)
        return TaxScene(
            rates=view.upper_params,
            max_rate=float(self.upper_space.high[0]),
            preferences=self.preferences,
            assets=self.assets,
            limits=self._limits,
            schedules=schedules,
            gradient=self.slopes(view),
            follower=follower,
            title=view.title,
            status=status,
        )

    @cached_property
    def _limits(self) -> tuple[float, float, float, float]:
        """Ends of the scales of the charts, the same at every x: hours, spending, taxes, share."""
        highest = self.revenue(self.upper_space.high.astype(np.float64))
        taxes, share = TAX_SHARE * float(highest.max()), CROWDING / len(self.assets)
        return float(self.hours.max()), float(self.spending.max()), taxes, min(share, 1.0)

    def knob_names(self) -> tuple[str, ...]:
        """Return what is taxed."""
        goods = range(1, self.preferences.shape[1] + 1)
        return (*(f"good {good}" for good in goods), "income")

    def kernel(self, upper_params: FloatArray) -> Kernel:
        """Return the kernel under the income tax; households of every type share its rows."""
        _ = self.model.initial_kernel.pattern  # computed once, it is shared by the kernels of all x
        return self.model.initial_kernel.with_probabilities(self._probabilities(upper_params))

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, `[J + 1]`; only the income tax moves the kernel."""
        drift, size = self._drift(upper_params), len(self.assets)
        masses = cell_quantities(cell_masses, self.assets, drift, self._noise)
        # A cell's mass falls with the drift as the density falls from its lower to its upper edge.
        slopes = cell_quantities(cell_density_steps, self.assets, drift, self._noise)
        weights = cotangent.reshape(len(drift), -1, size, size).sum(axis=1)
        total = masses.sum(axis=2)
        # The quotient rule for mass / total.
        mean = np.einsum("msk,msk->ms", weights, masses) / total
        change = np.einsum("msk,msk->ms", weights, slopes) - mean * slopes.sum(axis=2)
        product = np.zeros(self.upper_space.shape)
        product[-1] = (self._gross_wages / self._noise) @ (change / total).sum(axis=1)
        return product

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a) = U(assets) - hours_cost hours^2 + utility of goods, `[S, A]`."""
        pleasure = goods_utility(self.spending, upper_params[:-1], self.preferences)
        per_action = pleasure - self._hours_cost * self.hours**2  # [C, A]
        return self._per_state(per_action.T[:, :, None] + self._asset_utility)

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, `[J + 1]`; the income tax is not in r."""
        pleasure = goods_utility(self.spending, upper_params[:-1], self.preferences)
        weights = cotangent.T.reshape(len(self.hours), -1, len(self.assets)).sum(axis=2).T  # [C, A]
        slopes = (weights * pleasure).sum(axis=1) @ self.preferences
        return np.append(-slopes / (1.0 + upper_params[:-1]), 0.0)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return u_x(s, a), which depends on the action alone, `[S, A]`."""
        consumed = self.spending / (1.0 + upper_params[:-1])
        per_action = self._consumption_weight * consumed.mean(axis=1)
        per_action += self._revenue_weight * np.log1p(self.revenue(upper_params))
        return self._per_state(per_action[:, None, None])

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, `[J + 1]`."""
        weights = cotangent.sum(axis=0)
        gross = 1.0 + upper_params[:-1]
        by_revenue = weights * self._revenue_weight / (1.0 + self.revenue(upper_params))
        by_good = by_revenue - weights * self._consumption_weight / len(gross)
        return np.append(by_good @ self.spending / gross**2, by_revenue @ self.hours * self._wage)

    def revenue(self, upper_params: FloatArray) -> FloatArray:
        """Return what the taxes bring in under each action, `[A]`."""
        vat, income_tax = upper_params[:-1], upper_params[-1]
        return self.spending @ (vat / (1.0 + vat)) + income_tax * self._wage * self.hours

    def _probabilities(self, upper_params: FloatArray) -> FloatArray:
        """Return the stored transitions `[K]`, by move, household, departure and arrival."""
        masses = cell_quantities(cell_masses, self.assets, self._drift(upper_params), self._noise)
        masses /= masses.sum(axis=2, keepdims=True)
        return np.repeat(masses[:, None], len(self.preferences), axis=1).ravel()

    def _drift(self, upper_params: FloatArray) -> FloatArray:
        """Return how each move changes the assets on average, `[M]`."""
        return (1.0 - upper_params[-1]) * self._gross_wages - self._outlays

    def _per_state(self, values: FloatArray) -> FloatArray:
        """Return numbers per action, household and assets `[A, C or 1, N or 1]` as `[S, A]`."""
        shape = (len(self.hours), len(self.preferences), len(self.assets))
        return np.broadcast_to(values, shape).reshape(len(self.hours), -1).T


def goods_utility(spending: FloatArray, vat: FloatArray, preferences: FloatArray) -> FloatArray:
    """Return the utility of the goods together to each type of household, `[C, A]`.

    That is prod_j (spending_j / (1 + vat_j))^preference_j for money spent `[A, J]`, taxes `[J]` and
    exponents `[C, J]`. Its derivative by the tax on a good is -preference / (1 + vat) times itself,
    also where it is zero.
    """
    powers: FloatArray = (spending / (1.0 + vat)) ** preferences[:, None, :]
    return powers.prod(axis=2)


def cell_masses(low: FloatArray, high: FloatArray) -> FloatArray:
    """Return Phi(high) - Phi(low), to full relative precision in both tails.

    Edges are in standard deviations from the mean.
    """
    upper_tail = low + high > 0.0
    return ndtr(np.where(upper_tail, -low, high)) - ndtr(np.where(upper_tail, -high, low))


def cell_density_steps(low: FloatArray, high: FloatArray) -> FloatArray:
    """Return phi(high) - phi(low), the derivative of `cell_masses` when both edges move up."""
    return (np.exp(-0.5 * high**2) - np.exp(-0.5 * low**2)) / np.sqrt(2.0 * np.pi)


def cell_quantities(
    of: Callable[[FloatArray, FloatArray], FloatArray],
    assets: FloatArray,
    drift: FloatArray,
    noise: float,
) -> FloatArray:
    """Return a quantity by move, point of departure and cell of the grid, `[M, N, N]`.

    Cells meet midway between the points, `[N]` at equal distances; the outermost ones end at the
    first and the last point. The quantity is `of` edges (low, high), in standard deviations `noise`
    from where the move leads: as far from its departure as `drift`, `[M]`, says.
    """
    size = len(assets)
    step = assets[1] - assets[0]
    # Cells are equal, so all that counts is how many steps a cell lies above the departure.
    steps_up = np.arange(1 - size, size)
    centre = (step * steps_up - drift[:, None]) / noise
    half = 0.5 * step / noise
    inner = of(centre - half, centre + half)
    quantities = sliding_window_view(inner, size, axis=1)[:, ::-1].copy()
    below, above = centre[:, :size], centre[:, size - 1 :]
    quantities[:, :, 0] = of(below, below + half)[:, ::-1]
    quantities[:, :, -1] = of(above - half, above)[:, ::-1]
    return quantities


def start_probabilities(assets: FloatArray, variance: float) -> FloatArray:
    """Return the mass of N(0, variance) in each cell, the outermost ones without end, `[N]`."""
    middles = (assets[1:] + assets[:-1]) / 2.0
    edges = np.concatenate([[-np.inf], middles, [np.inf]]) / np.sqrt(variance)
    return cell_masses(edges[:-1], edges[1:])


def _blocks(size: int, count: int, num_moves: int) -> Kernel:
    """Return a kernel of one dense block `[size, size]` for each type of household and move.

    Far tails underflow, but stay stored: the pattern must be the same at every x.
    """
    of_move = block_diag([csr_array(np.full((size, size), 1.0 / size))] * count, format="csr")
    matrix = csr_array(vstack([of_move] * num_moves))
    return Kernel(matrix, num_states=count * size, num_actions=num_moves)
