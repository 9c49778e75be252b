"""BilevelToll-v0: tolls that lead drivers around one node of a road network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from numbers import Real

import numpy as np

from ..core.checks import check_not_negative, check_positive, received
from ..core.mdp import FloatArray
from ..methods import TabularResponse
from ..model.costs import ExpectedCost
from ..rendering.canvas import pygame
from ..rendering.graph import GraphScene, Panel, draw_graph
from ..rendering.picture_charts import nice_limit
from .base import View, upper_box
from .networks import Network, checked_links, checked_nodes, is_node, nodes_of, sioux_falls
from .records import recorded
from .rows import checked_pairs
from .tabular import TabularBilevelEnv

__all__ = ["BilevelToll"]

# Most tolled links that are listed beside the picture.
LISTED_LINKS = 12


class BilevelToll(TabularBilevelEnv):
    """A leader tolls the roads at one node of a network, to earn and to keep traffic away.

    ## Description
    Drivers cross a road network from a random origin to a random destination, choosing the next
    link at every node by a logit route choice. The leader sets tolls on the links at one node, the
    zone. It collects them, and has a cost for each passage. Low tolls earn little and let everybody
    through; high ones send everybody round. Demand is fixed.

    ## Upper Level
    x in [0, max_toll]^(number of tolled links): the toll of each tolled link, in minutes of the
    driver's time, sorted by (from, to) unless `tolled_links` has another order. By default these
    are the 10 links that touch node 10. x starts at 0. The objective, to be maximised, is
    E[ sum_t gamma^t u_x(link_t) ] for one trip, with

        u_x(link) = toll_x(link) - zone_cost * 1[link touches the zone]

    The cost `tolls`, to be constrained, is what a driver is expected to pay for a trip, discounted.

    ## Lower Level
    An entropy-regularised MDP for each destination, r_x(link) = -(time(link) + toll_x(link)),
    discount `gamma` per link, temperature `temperature` (minutes), which is the dispersion of the
    route choice. All destinations form one MDP with a block of as many states as there are nodes
    each. Moves are deterministic, and there is no congestion. x enters the reward alone.

    ## Spaces and Episode
    * Observation: `Discrete(destinations * nodes)`, which is nodes * (index of the destination) +
      (index of the node), both in the order of `destinations` and of the sorted nodes: 23 * 24 by
      default.
    * Action: `Discrete(A)`, A the largest number of links out of a node (5 by default): the links
      out of the node, sorted by the node they lead to; `info["action_mask"]` tells which exist.
    * Episode: the destination is drawn uniformly, the origin uniformly from the origins other than
      it. The episode terminates on arrival: with the move that enters the destination. (The
      destination's own state is never seen; it has one action, which ends without reward.) It is
      truncated after 200 steps.

    ## Arguments
    * `network` (None): rows [from, to, minutes], one for each directed link between two different
      nodes; nodes are integers, minutes are not negative, a link leads out of every node. None is
      the network of Sioux Falls, 24 nodes and 76 links;
    * `tolled_links` (None): rows [from, to], links of the network; None tolls those that touch the
      zone;
    * `zone` (10): a node of the network;
    * `zone_cost` (2): cost of a passage of a link that touches the zone, not negative;
    * `max_toll` (10): the largest toll, positive;
    * `temperature` (.5): dispersion of the route choice in minutes, positive. Entropy adds up
      to temperature * log A for each link, .8 minutes by default, where links take 2 to 10 minutes.
      At x = 0 trips have 3.25 links (discounted sums) at .5, 3.37 at 1 and 4.68 at 2; from about
      2.9 on drivers circle for the entropy (75.3 links at 3; 100, all that `gamma` counts, at 4);
    * `gamma` (.99), `entropy` ("plain") and `render_mode`: see `BilevelEnv`. For relative entropy
      nobody circles: 3.20 links at .5, 3.42 at 3 and 3.60 at 4;
    * `origins` (None): nodes where trips start; None takes all nodes other than the zone;
    * `destinations` (None): nodes where trips end, each of which can be reached from wherever an
      origin leads; None takes all nodes other than the zone.

    ## Ground Truth
    Objective and hyper-gradient are exact. With the default arguments F = -.443814 at x = 0, the
    norm of dF/dx is .158023 and that of its direct part .081506. From there:

    | run | ends at | why |
    |---|---|---|
    | L-BFGS-B on the hyper-gradient | .110297 | tolls of 1.8 to 6.6 minutes |
    | 200 steps of length 1 along the hyper-gradient | .104921 | too few |
    | 1000 of them | .110297 | |
    | the largest tolls, no steps | .000000 | nobody comes |
    | steps of length 1 along the direct gradient | .000000 | the same: 10 on every link |
    | L-BFGS-B on the direct gradient | .081270 | its values do not fit its gradient |

    The direct gradient never lowers a toll, since it does not see drivers leave. The best value
    known is .110297 (`best_known`). L-BFGS-B on 1000 F (its stopping rule is absolute, and
    gradients here are small) comes to it from 30 of 30 starts uniform in [0, 5] and from 93 of 100
    uniform in the box (`numpy.random.default_rng(0)`); six others end between .1102 and .11029, one
    at .061. It is not proven optimal, and the tolls are not unique: adding d to the toll of every
    link into the zone and taking d / gamma from every link out of it changes nothing.

    As the temperature goes to 0, the follower takes the cheapest way in discounted minutes and
    tolls; at x = 0 that is a shortest way for each of the 529 pairs of nodes.

    ## References
    Network: L. J. LeBlanc, E. K. Morlok, W. P. Pierskalla, "An efficient approach to solving the
    road network equilibrium traffic assignment problem", Transportation Research 9, 1975. Its
    link capacities play no part here. Route choice as a soft MDP: J.-B. Baillon, R. Cominetti,
    "Markovian traffic equilibrium", Mathematical Programming 111, 2008.
    """

    leader_does, follower_does = "sets tolls", "drives"
    leader_wants = "income from tolls, and few drivers through the zone"
    follower_wants = "to arrive soon and to pay little"

    def __init__(
        self,
        network: Sequence[Sequence[float]] | None = None,
        *,
        tolled_links: Sequence[Sequence[int]] | None = None,
        zone: int = 10,
        zone_cost: float = 2.0,
        max_toll: float = 10.0,
        temperature: float = 0.5,
        entropy: str = "plain",
        gamma: float = 0.99,
        origins: Sequence[int] | None = None,
        destinations: Sequence[int] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        times = _sioux_falls() if network is None else _checked_network(network)
        zone_cost = check_not_negative("zone_cost", zone_cost)
        self._max_toll = check_positive("max_toll", max_toll)
        self.nodes = nodes_of([*times])
        if not is_node(zone) or zone not in self.nodes:
            known = received(self.nodes)
            raise ValueError(f"`zone` must be a node of the network {known}, got {received(zone)}")
        self.zone = int(zone)
        elsewhere = tuple(node for node in self.nodes if node != self.zone)
        self.origins, self.destinations = (
            elsewhere if given is None else checked_nodes(name, given, self.nodes)
            for name, given in (("origins", origins), ("destinations", destinations))
        )
        self.network = Network([*times], self.destinations)
        self.links = self.network.links
        if tolled_links is None:
            self.tolled_links = tuple(link for link in self.links if self.zone in link)
        else:
            self.tolled_links = checked_pairs(
                "tolled_links",
                tolled_links,
                self.links,
                "[from, to] rows",
                "link",
                "be links of the network",
                kind=Real,
            )
        starts = np.array([self.nodes.index(node) for node in self.origins])
        goals = self.network.goals
        for goal, node in zip(goals, self.destinations, strict=True):
            if (starts == goal).all():
                raise ValueError(
                    f"`origins` must hold a node other than each destination, got only {node}"
                )
        self.network.check_ways(starts)
        self._time = np.array([times[link] for link in self.links])
        self._zone_cost = np.array([zone_cost * (self.zone in link) for link in self.links])
        self._tolled = np.array([self.links.index(link) for link in self.tolled_links])
        start = np.zeros((goals.size, len(self.nodes)))
        start[:, starts] = 1.0
        start[np.arange(goals.size), goals] = 0.0
        start /= start.sum(axis=1, keepdims=True) * goals.size
        super().__init__(
            kernel=self.network.kernel(),
            initial_distribution=start.ravel(),
            upper_space=upper_box(0.0, self._max_toll, (self._tolled.size,)),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            action_mask=self.network.mask,
            render_mode=render_mode,
        )
        self.model.costs = {"tolls": ExpectedCost(self.tolls, self.upper_reward_vjp)}
        tables = ("network", "tolled_links", "origins", "destinations")
        same = (
            times == _sioux_falls()
            and self.tolled_links == tuple(link for link in self.links if 10 in link)
            and set(self.origins) == set(self.destinations) == set(elsewhere)
        )
        self.best_known = recorded(BilevelToll, locals(), tables if same else ())

    def trip_of(self, state: int) -> tuple[int, int]:
        """Return (node, destination) of a state, as the network names them."""
        return self.network.trip_of(state)

    def state_at(self, node: int, destination: int) -> int:
        """Return the state of a driver at a node on the way to a destination.

        Raises:
            ValueError: If there is no such node or destination.
        """
        return self.network.state_at(node, destination)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x = -(time + toll_x) of the link, `[S, A]`."""
        return self.network.per_action(-(self._time + self._tolls(upper_params)))

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, shape of x."""
        return -self.upper_reward_vjp(upper_params, cotangent)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return u_x = toll_x - zone_cost 1[touches the zone] of the link, `[S, A]`."""
        return self.network.per_action(self._tolls(upper_params) - self._zone_cost)

    def tolls(self, upper_params: FloatArray) -> FloatArray:
        """Return toll_x of the link, `[S, A]`."""
        return self.network.per_action(self._tolls(upper_params))

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, shape of x."""
        return self.network.per_link(cotangent)[self._tolled]

    def _tolls(self, values: FloatArray, others: float = 0.0) -> FloatArray:
        """Return numbers per tolled link for every link `[E]`, `others` where there is no toll."""
        per_link = np.full(len(self.links), others)
        per_link[self._tolled] = values
        return per_link

    def draw(self, view: View) -> pygame.Surface:
        """Draw the network with tolls, traffic and hyper-gradient."""
        return draw_graph(self.scene(view))

    def scene(self, view: View) -> GraphScene:
        """Return a view as a graph, for `bilevel_gym.rendering.draw_graph`.

        In the follower's seat traffic is that to the destination of the follower's trip.
        """
        answer, x, gradient = view.tabular, view.upper_params, self.slopes(view)
        trip = None if view.state is None else self.trip_of(view.state)
        traffic = flow = None
        if answer is not None:
            traffic = flow = 100.0 * self.traffic(answer)
            if trip is not None:
                flow = 100.0 * self.traffic(answer, destination=trip[1])
        panels: tuple[Panel, ...] = ()
        if len(self.tolled_links) <= LISTED_LINKS:
            names = self.knob_names()
            panels = (Panel("toll, minutes", names, x, self._max_toll, gradient),)
            if traffic is not None:
                passages = traffic[self._tolled]
                most = self._most_passages
                panels += (Panel("passages, per 100 trips", names, passages, most),)
        marks = {self.zone: "H"} | ({} if trip is None else {trip[1]: "G"})
        tolls = self._tolls(x, np.nan)
        return GraphScene(
            places=self.network.places,
            names=tuple(str(node) for node in self.nodes),
            edges=self.network.ends,
            flow=flow,
            values=tolls,
            value_limit=self._max_toll,
            signed=False,
            edge_labels=tuple("" if np.isnan(toll) else f"{toll:.1f}" for toll in tolls),
            gradient=None if gradient is None else self._tolls(gradient, np.nan),
            marks=tuple(marks.get(node, "") for node in self.nodes),
            follower=None if trip is None else self.nodes.index(trip[0]),
            title=view.title,
            status=view.status if trip is None else (*view.status, ("going to", str(trip[1]))),
            value_name="toll, minutes",
            flow_name=f"traffic per 100 {'trips' if trip is None else f'to {trip[1]}'}",
            params_name="toll",
            mark_names={"H": "zone: leader pays", "G": "destination of the trip"},
            panels=panels,
        )

    @cached_property
    def _most_passages(self) -> float:
        """End of the scale of passages of tolled links, per 100 trips: those at no tolls."""
        passages = 100.0 * self.traffic(self.evaluate(np.zeros(self.upper_space.shape)))
        return max(1.0, nice_limit(float(passages[self._tolled].max())))

    def knob_names(self) -> tuple[str, ...]:
        """Return the tolled links, "10-11" for that from node 10 to node 11."""
        return tuple(f"{start}-{end}" for start, end in self.tolled_links)

    def traffic(self, response: TabularResponse, *, destination: int | None = None) -> FloatArray:
        """Return the expected discounted passages of each link per trip, in the order of `links`.

        Args:
            response: An answer of this game.
            destination: Take only the trips to this node; None takes all.

        Raises:
            ValueError: If trips do not end there.
        """
        passages = (response.occupancy / (1.0 - self.gamma))[:, None] * response.policy
        if destination is not None:
            first = self.state_at(self.nodes[0], destination)
            others = np.ones(len(passages), dtype=bool)
            others[first : first + len(self.nodes)] = False
            passages[others] = 0.0
            passages *= len(self.destinations)  # which are equally likely
        return self.network.per_link(passages)


def _sioux_falls() -> dict[tuple[int, int], float]:
    """Return the minutes of each link of Sioux Falls."""
    return {link: minutes for link, (_, minutes) in sioux_falls().items()}


def _checked_network(network: object) -> dict[tuple[int, int], float]:
    """Return the minutes of each link (from, to), after checking the rows one by one."""
    rows = checked_links(network, "[from, to, minutes]", {"minutes": 0.0})
    return {link: minutes for link, (minutes,) in rows.items()}
