"""BilevelCongestion-v0: tolls on a road network whose travel times grow with traffic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_choice, check_not_negative, check_positive, received
from ..core.ending import solve_ending_mdp
from ..core.mdp import FloatArray
from ..model.mean_field import MeanFieldModel
from ..model.objectives import DiscountedReturn
from ..model.responses import CrowdResponse
from ..rendering.canvas import pygame
from ..rendering.graph import GraphScene, Panel, draw_graph
from ..rendering.picture_charts import nice_limit
from .base import View
from .mean_field import MeanFieldEnv
from .networks import Network, checked_links, is_node, nodes_of, sioux_falls, sioux_falls_demand
from .records import recorded
from .rows import checked_pairs, checked_rows

__all__ = ["BilevelCongestion", "CongestionModel"]

# What the leader may want, in words.
OBJECTIVES = {
    "time": "a short travel time of all drivers together",
    "revenue": "a high income from tolls",
}

# Fewer capacities than this, in trips, are taken for a mistake.
LEAST_CAPACITY = 1e-3


class CongestionModel(MeanFieldModel):
    """Drivers on a network whose links take longer the more drivers use them.

    The crowd z is the expected passages of each link by a driver, `[E]`; `trips` times that are on
    it, and a passage takes (the function of the Bureau of Public Roads)

        t(z) = free * (1 + delay * (trips * z / capacity)^power) minutes.

    Times grow with the flow of their own link alone, so the game is monotone, and the equilibrium
    unique in its flows.
    """

    monotone = True

    def __init__(
        self,
        network: Network,
        *,
        free: FloatArray,
        capacity: FloatArray,
        start: FloatArray,
        trips: float,
        delay: float,
        power: float,
        tolled: NDArray[np.int64],
        objective: str,
        **common: Any,
    ) -> None:
        """Set up the model.

        Args:
            network: Links and destinations.
            free: Minutes on each link without traffic, `[E]`.
            capacity: Trips, `[E]`.
            start: Share of drivers that start in each state `[S]`.
            trips: All of them.
            delay: See above.
            power: See above; at least 1.
            tolled: Links that x tolls, in its order.
            objective: A key of `OBJECTIVES`.
            **common: See `BilevelModel`.
        """
        self.network, self._free, self._tolled = network, free, tolled
        self._delay, self._power, self._objective = delay, power, objective
        self._load = trips / capacity
        links = len(network.links)
        super().__init__(
            kernel=network.kernel(),
            initial_distribution=start,
            objective=DiscountedReturn(),
            groups=np.where(network.link < links, network.link, -1),
            num_groups=links,
            action_mask=network.mask,
            **common,
        )

    def minutes(self, crowd: FloatArray) -> FloatArray:
        """Return the minutes of each link `[E]` in a crowd `[E]`."""
        minutes: FloatArray = self._free * (1.0 + self._delay * (self._load * crowd) ** self._power)
        return minutes

    def minutes_slope(self, crowd: FloatArray) -> FloatArray:
        """Return dt/dz of each link `[E]` in a crowd `[E]`."""
        rise = self._power * self._load * (self._load * crowd) ** (self._power - 1.0)
        slope: FloatArray = self._free * self._delay * rise
        return slope

    def tolls(self, upper_params: FloatArray) -> FloatArray:
        """Return the toll of each link `[E]` under x, 0 where there is none."""
        tolls = np.zeros(self._free.size)
        tolls[self._tolled] = upper_params
        return tolls

    def reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return -(minutes + toll) of the link, `[S, A]`."""
        return self.network.per_action(-self.minutes(crowd) - self.tolls(upper_params))

    def reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr(s, a)/dx, shape of x."""
        return -self.network.per_link(cotangent)[self._tolled]

    def reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return dr/dz `[A*S, E]`."""
        return self._by_link(-self.minutes_slope(crowd))

    def upper_reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return -minutes of the link, or its toll, `[S, A]`."""
        if self._objective == "time":
            return self.network.per_action(-self.minutes(crowd))
        return self.network.per_action(self.tolls(upper_params))

    def upper_reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) du(s, a)/dx, shape of x."""
        if self._objective == "time":
            return np.zeros(upper_params.shape)
        return self.network.per_link(cotangent)[self._tolled]

    def upper_reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return du/dz `[A*S, E]`, None for zero."""
        return self._by_link(-self.minutes_slope(crowd)) if self._objective == "time" else None

    def _by_link(self, slopes: FloatArray) -> Any:
        """Return the derivative by z of what each link adds, of its slope `[E]`."""
        rows = self._members.copy()
        rows.data = slopes[rows.indices]
        return rows


class BilevelCongestion(MeanFieldEnv):
    """A leader tolls roads that become slow where many drivers use them.

    ## Description
    Drivers cross a road network, each from its origin to its destination, choosing the next link at
    every node by a logit route choice. Links take longer the more drivers are on them, so that all
    drivers together, by looking after themselves, are slower than they could be. The leader sets
    tolls, to make all of them faster (or to earn). What a driver pays is no loss to the leader.

    ## Upper Level
    x in [0, max_toll]^(number of tolled links): the toll of each tolled link, in minutes of a
    driver's time, sorted by (from, to) unless `tolled_links` has another order: all 76 links by
    default. x starts at 0. The objective, to be maximised, is that of one driver on average, at the
    equilibrium flows:

    * "time": F = -E[ minutes of a trip ]. `total_time(response)` is the total, in trips times
      minutes;
    * "revenue": F = E[ tolls of a trip ].

    ## Lower Level
    A mean-field game (see `bilevel_gym.model.MeanFieldModel`): the logit stochastic user
    equilibrium. Each driver solves an entropy-regularised MDP, with a block of states for each
    destination, r = -(minutes + toll) of a link, no discount and temperature `temperature`
    (minutes), the dispersion of the route choice: this is the recursive logit. Followers of all
    destinations share the links, where with the flow f, in trips,

        minutes = free-flow minutes * (1 + delay * (f / capacity)^power)

    Minutes grow with the flow of their own link, so the game is monotone: the equilibrium is
    unique. x enters the reward alone; the crowd enters it too.

    ## Spaces and Episode
    * Observation: `Discrete(destinations * nodes)`, which is nodes * (index of the destination) +
      (index of the node), both in the order of the sorted nodes: 24 * 24 by default.
    * Action: `Discrete(A)`, A the largest number of links out of a node (5 by default): the links
      out of the node, sorted by the node they lead to; `info["action_mask"]` tells which exist.
    * Episode: origin and destination are drawn by `demand`. The follower is one driver, who changes
      nobody's travel time. The episode terminates on arrival: with the move that enters the
      destination. It is truncated after 200 steps.
    * The leader observes the expected passages of each link by a driver, `Box(0, inf, [E])`;
      `flows(response)` are the trips.

    ## Arguments
    * `network` (None): rows [from, to, capacity, minutes], one for each directed link between two
      different nodes; nodes are integers, capacities (trips) are positive, minutes without traffic
      not negative, every node leads to every destination. None is the network of Sioux Falls,
      24 nodes and 76 links;
    * `demand` (None): rows [origin, destination, trips], positive, one for each pair; None is that
      of Sioux Falls, 360 600 trips. It must be given with a network;
    * `tolled_links` (None): rows [from, to], links of the network; None tolls all of them;
    * `objective` ("time"): or "revenue". Demand is fixed, so where all links are tolled, the
      largest tolls earn most; toll some;
    * `max_toll` (60): the largest toll, positive; the tolls of marginal costs in the deterministic
      optimum are at most 58.05;
    * `delay` (.15) and `power` (4): see above; not negative, and at least 1;
    * `temperature` (.5): dispersion of the route choice in minutes, positive. Where going in
      circles on an empty network would pay, as entropy is worth more than the way, there is no
      equilibrium: temperatures from 3 on are refused, by default;
    * `entropy` ("plain") and `render_mode`: see `BilevelEnv`.

    ## Ground Truth
    Objective and hyper-gradient are exact at the equilibrium. With the default arguments F =
    -20.583799 at x = 0 and the norm of dF/dx is .122325, all of it by the crowd's answer: the
    direct part is zero at every x. Total travel times, and the share of the gap between no tolls
    and the optimum that is closed:

    | tolls | trips times minutes | gap closed |
    |---|---|---|
    | none | 7 422 518 | 0 |
    | marginal costs f t'(f) in the optimum | 7 202 931 | 96.2 % |
    | marginal costs in the equilibrium that they lead to | 7 195 044 | 99.65 % |
    | L-BFGS-B from the latter (`best_known`) | 7 194 256.06 | 100 % |
    | `bilevel-gym solve`, 400 evaluations from no tolls | 7 194 925 | 99.71 % |
    | drivers who obey, in the optimum | 7 194 256.05 | 100 % |

    No tolls can do better than the optimum of drivers who obey, 7 194 256.05, which is that of the
    literature; it is the equilibrium of drivers without dispersion (`temperature` to 0) on roads
    whose `delay` is power + 1 times as large, as t + f t' is the travel time there. Shortest ways
    at these marginal costs bound it by 7 194 246 from below. With a toll on every link the optimum
    is an equilibrium at any temperature: of all that drivers could do to make the optimal flows,
    what has the most entropy is a logit choice, and the multipliers of the flows are its tolls. Far
    from there F is rough: after 100 evaluations L-BFGS-B from 99 starts uniform in the box is at
    -21.25 in the median and -20.33 at best, and goes on slowly (no tolls: -20.58).

    As the temperature goes to 0 without tolls, the flows tend to the user equilibrium
    (`bilevel_gym.envs.networks.sioux_falls_equilibrium`; total 7 480 225): at .1 the total is
    7 461 691, at .01 it is 7 477 448, at .001 it is 7 479 910, and no flow is more than 259 trips
    off, 41 and 5.

    ## References
    Network: L. J. LeBlanc, E. K. Morlok, W. P. Pierskalla, "An efficient approach to solving the
    road network equilibrium traffic assignment problem", Transportation Research 9, 1975, as
    collected in the repository TransportationNetworks (github.com/bstabler/TransportationNetworks).
    Equilibrium: J.-B. Baillon, R. Cominetti, "Markovian traffic equilibrium", Mathematical
    Programming 111, 2008. Recursive logit: M. Fosgerau, E. Frejinger, A. Karlstrom, "A link based
    network route choice model with unrestricted choice set", Transportation Research B 56, 2013.
    """

    leader_does, follower_does = "sets tolls", "drives"
    follower_wants = "to arrive soon and to pay little"
    model: CongestionModel

    def __init__(
        self,
        network: Sequence[Sequence[float]] | None = None,
        demand: Sequence[Sequence[float]] | None = None,
        *,
        tolled_links: Sequence[Sequence[int]] | None = None,
        objective: str = "time",
        max_toll: float = 60.0,
        delay: float = 0.15,
        power: float = 4.0,
        temperature: float = 0.5,
        entropy: str = "plain",
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        if (network is None) != (demand is None):
            given, missing = ("network", "demand") if demand is None else ("demand", "network")
            raise ValueError(f"`{missing}` must be given with `{given}`, got None")
        links = sioux_falls() if network is None else _checked_network(network)
        nodes = nodes_of([*links])
        trips = sioux_falls_demand() if demand is None else _checked_demand(demand, nodes)
        self._max_toll = check_positive("max_toll", max_toll)
        check_not_negative("delay", delay)
        if check_positive("power", power) < 1.0:
            raise ValueError(f"`power` must be at least 1, got {received(power)}")
        self.goal = check_choice("objective", objective, OBJECTIVES)
        self.leader_wants = OBJECTIVES[self.goal]
        destinations = sorted({destination for _, destination in trips})
        self.network = Network([*links], destinations)
        self.network.check_ways(np.arange(len(nodes)))
        self.links, self.nodes = self.network.links, self.network.nodes
        if tolled_links is None:
            self.tolled_links = self.links
        else:
            rule = "be links of the network"
            self.tolled_links = checked_pairs(
                "tolled_links", tolled_links, self.links, "[from, to] rows", "link", rule, kind=Real
            )
        self._tolled = np.array([self.links.index(link) for link in self.tolled_links])
        self.trips = float(sum(trips.values()))
        start = np.zeros(len(self.network.mask))
        for (origin, destination), count in trips.items():
            start[self.network.state_at(origin, destination)] = count / self.trips
        model = CongestionModel(
            self.network,
            free=np.array([links[link][1] for link in self.links]),
            capacity=np.array([links[link][0] for link in self.links]),
            start=start,
            trips=self.trips,
            delay=float(delay),
            power=float(power),
            tolled=self._tolled,
            objective=self.goal,
            low=np.zeros(self._tolled.size),
            high=np.full(self._tolled.size, self._max_toll),
            initial_upper_params=np.zeros(self._tolled.size),
            gamma=1.0,
            temperature=temperature,
            entropy=entropy,
            name=type(self).__name__,
        )
        # Tolls and traffic make circles dearer than they are here.
        try:
            empty = np.zeros(len(self.links))
            solve_ending_mdp(model.member_mdp(model.initial_upper_params, empty))
        except ArithmeticError as error:
            raise ValueError(f"`temperature` does not suit the network: {error}") from error
        super().__init__(model, render_mode=render_mode)
        all_tolled = ("tolled_links",) if self.tolled_links == self.links else ()
        self.best_known = recorded(BilevelCongestion, locals(), all_tolled)

    def flows(self, response: CrowdResponse) -> FloatArray:
        """Return the trips on each link at an answer, `[E]` in the order of `links`."""
        return self.trips * response.crowd

    def total_time(self, response: CrowdResponse) -> float:
        """Return the travel time of all trips together at an answer, in trips times minutes."""
        return float(self.flows(response) @ self.model.minutes(response.crowd))

    def marginal_cost_tolls(self, response: CrowdResponse) -> FloatArray:
        """Return the minutes that a driver on each link costs all others at an answer, `[E]`."""
        slope: FloatArray = response.crowd * self.model.minutes_slope(response.crowd)
        return slope

    def trip_of(self, state: int) -> tuple[int, int]:
        """Return (node, destination) of a state, as the network names them."""
        return self.network.trip_of(state)

    def knob_names(self) -> tuple[str, ...]:
        """Return the tolled links, "10-11" for that from node 10 to node 11."""
        return tuple(f"{start}-{end}" for start, end in self.tolled_links)

    def draw(self, view: View) -> pygame.Surface:
        """Draw the network with tolls and traffic."""
        return draw_graph(self.scene(view))

    def scene(self, view: View) -> GraphScene:
        """Return a view as a graph, for `bilevel_gym.rendering.draw_graph`."""
        answer, x = view.response, view.upper_params
        trip = None if view.state is None else self.trip_of(view.state)
        values = np.full(len(self.links), np.nan)
        values[self._tolled] = x
        flow, status = None, view.status
        panels: tuple[Panel, ...] = ()
        if isinstance(answer, CrowdResponse):
            flow = self.flows(answer)
            minutes, free = self._minutes_of_trip(answer.crowd), self._untolled[1]
            names = ("now", "no tolls", "no traffic")
            bars = np.array([minutes, self._untolled[0], free])
            limit = nice_limit(1.5 * self._untolled[0])
            panels = (Panel("minutes of a trip", names, bars, limit),)
        if trip is not None:
            status = (*status, ("going to", str(trip[1])))
        return GraphScene(
            places=self.network.places,
            names=tuple(str(node) for node in self.nodes),
            edges=self.network.ends,
            flow=flow,
            values=values,
            value_limit=self._max_toll,
            signed=False,
            marks=() if trip is None else tuple("G" * (node == trip[1]) for node in self.nodes),
            follower=None if trip is None else self.nodes.index(trip[0]),
            title=view.title,
            status=status,
            value_name="toll, minutes",
            flow_name="trips on the road",
            params_name="toll",
            mark_names={"G": "destination of the trip"},
            panels=panels,
        )

    def _minutes_of_trip(self, crowd: FloatArray) -> float:
        return float(crowd @ self.model.minutes(crowd))

    @cached_property
    def _untolled(self) -> tuple[float, float]:
        """Minutes of a trip without tolls, and those on empty roads by the same ways."""
        crowd = self.evaluate(self.model.low).crowd
        return self._minutes_of_trip(crowd), float(crowd @ self.model.minutes(np.zeros_like(crowd)))


def _checked_network(network: object) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return capacity and minutes of each link (from, to), after checking the rows."""
    columns = {"capacities": LEAST_CAPACITY, "minutes": 0.0}
    return checked_links(network, "[from, to, capacity, minutes]", columns)


def _checked_demand(demand: object, nodes: tuple[int, ...]) -> dict[tuple[int, int], float]:
    """Return the trips of each pair (origin, destination), after checking the rows."""
    trips: dict[tuple[int, int], float] = {}
    rows = checked_rows("demand", demand, 3, "[origin, destination, trips] rows", "pair of nodes")
    for row in rows:
        for node in row[:2]:
            if not is_node(node) or int(node) not in nodes:
                raise ValueError(
                    f"`demand` must be between nodes of the network {received(nodes)}, got the "
                    f"row {row}"
                )
        pair = (int(row[0]), int(row[1]))
        if pair[0] == pair[1] or pair in trips:
            raise ValueError(
                f"`demand` must have pairs of different nodes, each once, got the row {row}"
            )
        if not 0.0 < row[2] < np.inf:
            raise ValueError(f"`demand` must have positive, finite trips, got the row {row}")
        trips[pair] = float(row[2])
    return trips
