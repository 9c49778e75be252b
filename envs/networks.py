"""Road networks, as drivers see them who choose the next link at every node, and Sioux Falls.

The network of Sioux Falls has 24 nodes and 76 directed links, with 360 600 trips between 528 pairs
of nodes. Its numbers are those of L. J. LeBlanc, E. K. Morlok, W. P. Pierskalla, "An efficient
approach to solving the road network equilibrium traffic assignment problem", Transportation
Research 9, 1975, as collected in the repository TransportationNetworks
(github.com/bstabler/TransportationNetworks), with the flows of its user equilibrium.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache, cached_property
from importlib.resources import files
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from ..core.checks import received
from ..core.mdp import FloatArray, Kernel, action_major
from ..rendering.placing import places_by_hops, within_unit
from .rows import check_known, checked_rows, is_number

__all__ = [
    "Link",
    "Network",
    "checked_links",
    "checked_nodes",
    "is_node",
    "sioux_falls",
    "sioux_falls_demand",
    "sioux_falls_equilibrium",
]

Link = tuple[int, int]

# Where the 24 nodes are drawn, right and down: without crossings, with room around node 10.
SIOUX_FALLS_PLACES = {
    **{1: (0.0, 0.0), 2: (4.5, 0.0), 3: (0.0, 0.9), 4: (0.9, 0.9), 5: (2.6, 0.9), 6: (4.5, 0.9)},
    **{9: (2.6, 1.8), 8: (4.5, 1.8), 7: (5.4, 1.8)},
    **{12: (0.0, 3.4), 11: (0.9, 3.4), 10: (2.6, 3.4), 16: (4.5, 3.4), 18: (5.4, 3.4)},
    **{17: (4.5, 4.9), 14: (0.9, 6.0), 15: (2.6, 6.0), 19: (4.5, 6.0), 23: (0.9, 6.9)},
    **{22: (2.6, 6.9), 13: (0.0, 8.2), 24: (0.9, 8.2), 21: (2.6, 8.2), 20: (4.9, 8.2)},
}

# Larger numbers of a link are taken for a mistake.
LARGEST = 1e6


class Network:
    """Links between nodes, and the MDP of drivers to several destinations.

    There is a block of states for each destination, of a state for each node. Actions are the links
    out of a node, sorted by the node that they lead to. Entering the destination ends the trip; its
    own state, which is never seen, has one action, which ends without reward.

    Attributes:
        links: (from, to), sorted, E of them.
        nodes: Sorted, N of them.
        destinations: Nodes where trips end, in the order of their blocks.
        ends: Indices of the nodes of each link, `[E, 2]`.
        goals: Indices of the destinations.
        link: Link of each action in each state, `[S, A]` in the memory order of the solvers; E
            stands for none.
        mask: Which actions exist, bool `[S, A]`.
    """

    def __init__(self, links: Sequence[Link], destinations: Sequence[int]) -> None:
        """Lay out the states; destinations are nodes that links lead to."""
        self.links = tuple(sorted(links))
        self.nodes = nodes_of(self.links)
        self.destinations = tuple(destinations)
        number = {node: i for i, node in enumerate(self.nodes)}
        self.ends = np.array([[number[node] for node in link] for link in self.links])
        self.goals = np.array([number[node] for node in self.destinations])
        count, num_links = len(self.nodes), len(self.links)
        # Link of each action at each node, [N, A].
        order = np.arange(num_links) - np.searchsorted(self.ends[:, 0], self.ends[:, 0])
        links_out = np.full((count, int(order.max()) + 1), num_links)
        links_out[self.ends[:, 0], order] = np.arange(num_links)
        link = np.tile(links_out, (self.goals.size, 1, 1))
        context = np.arange(self.goals.size)
        link[context, self.goals] = num_links
        mask = link < num_links
        mask[context, self.goals, 0] = True
        self.link = np.asfortranarray(link.reshape(-1, link.shape[2]))
        self.mask = mask.reshape(self.link.shape)

    def trip_of(self, state: int) -> tuple[int, int]:
        """Return (node, destination) of a state, as the network names them."""
        context, place = divmod(state, len(self.nodes))
        return self.nodes[place], self.destinations[context]

    def state_at(self, node: int, destination: int) -> int:
        """Return the state of a driver at a node on the way to a destination.

        Raises:
            ValueError: If there is no such node or destination.
        """
        known = {"node": (node, self.nodes), "destination": (destination, self.destinations)}
        for name, (value, nodes) in known.items():
            if value not in nodes:
                raise ValueError(
                    f"`{name}` must be one of {received(nodes)}, got {received(value)}"
                )
        return self.destinations.index(destination) * len(self.nodes) + self.nodes.index(node)

    def kernel(self) -> Kernel:
        """Return where links lead; entering the destination ends the trip."""
        state, action = np.nonzero(self.link < len(self.links))
        context, node = np.divmod(state, len(self.nodes))
        there = self.ends[self.link[state, action], 1]
        goes_on = there != self.goals[context]
        num_states, num_actions = self.link.shape
        return Kernel.from_triplets(
            state[goes_on],
            action[goes_on],
            (state - node + there)[goes_on],
            np.ones(int(goes_on.sum())),
            num_states=num_states,
            num_actions=num_actions,
        )

    def per_action(self, values: FloatArray) -> FloatArray:
        """Return numbers per link `[E]` as rewards `[S, A]`, 0 where there is no link."""
        return np.append(values, 0.0)[self.link]

    def per_link(self, values: FloatArray) -> FloatArray:
        """Return the sum of numbers per state and action `[S, A]` over each link, `[E]`."""
        weights = action_major(values).ravel()
        sums = np.bincount(self.link.T.ravel(), weights, minlength=len(self.links) + 1)
        return sums[:-1].astype(np.float64, copy=False)

    def check_ways(self, starts: NDArray[np.int64]) -> None:
        """Raise a `ValueError` where drivers from some nodes, by their indices, may be stranded."""
        stuck = np.setdiff1d(np.arange(len(self.nodes)), self.ends[:, 0])
        if stuck.size:
            raise ValueError(
                f"`network` must have a link out of every node, got none out of node "
                f"{self.nodes[stuck[0]]}"
            )
        hops = self.hops(directed=True)
        reached = np.flatnonzero(np.isfinite(hops[starts]).any(axis=0))
        ways = np.isfinite(hops[np.ix_(reached, self.goals)])
        if not ways.all():
            i, j = np.argwhere(~ways)[0]
            raise ValueError(
                "`network` must lead to every destination from wherever drivers can come, got no "
                f"way from node {self.nodes[reached[i]]} to node {self.destinations[j]}"
            )

    def hops(self, *, directed: bool) -> FloatArray:
        """Return how many links the way from node to node has at least, `[N, N]`."""
        count = len(self.nodes)
        # One each: a link of zero minutes is a link.
        graph = csr_array((np.ones(len(self.links)), tuple(self.ends.T)), shape=(count, count))
        hops: FloatArray = shortest_path(graph, directed=directed, unweighted=True)
        return hops

    @cached_property
    def places(self) -> FloatArray:
        """Where the nodes are drawn, `[N, 2]` in [0, 1]: right, down."""
        if self.links == tuple(sioux_falls()):
            return within_unit(np.array([SIOUX_FALLS_PLACES[node] for node in self.nodes]))
        return within_unit(places_by_hops(self.hops(directed=False)))


def nodes_of(links: Sequence[Link]) -> tuple[int, ...]:
    """Return the nodes of links, sorted."""
    return tuple(sorted({node for link in links for node in link}))


@cache
def _table(name: str) -> dict[Link, tuple[float, ...]]:
    """Return a table beside this module: its first two columns, and the others."""
    with files(__package__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        rows = [*csv.reader(file)][1:]
    return {(int(a), int(b)): tuple(map(float, numbers)) for a, b, *numbers in rows}


def sioux_falls() -> dict[Link, tuple[float, float]]:
    """Return capacity (trips) and free-flow minutes of each link of Sioux Falls, sorted."""
    return {link: (row[0], row[1]) for link, row in sorted(_table("sioux_falls").items())}


def sioux_falls_demand() -> dict[Link, float]:
    """Return the trips of each pair (origin, destination) that has any."""
    return {pair: row[0] for pair, row in _table("sioux_falls_demand").items()}


def sioux_falls_equilibrium() -> dict[Link, tuple[float, float]]:
    """Return trips and minutes of each link in the user equilibrium of Sioux Falls, sorted.

    Nobody could be faster on another way; no tolls, no dispersion.
    """
    found = sorted(_table("sioux_falls_equilibrium").items())
    return {link: (row[0], row[1]) for link, row in found}


def is_node(value: object) -> bool:
    """Return whether a value is an integer; tables of links often hold them as floats."""
    return is_number(value) and (isinstance(value, Integral) or float(value).is_integer())  # type: ignore[arg-type]


def checked_links(
    network: object, form: str, columns: dict[str, float]
) -> dict[Link, tuple[float, ...]]:
    """Return the numbers of each link (from, to), after checking the rows one by one.

    Args:
        network: Rows [from, to, number, ...].
        form: What rows are, for messages.
        columns: Names of the numbers of a link, and the least of each; they are at most 1e6.
    """
    rows = checked_rows("network", network, 2 + len(columns), f"{form} rows", "link")
    links: dict[Link, tuple[float, ...]] = {}
    for row in rows:
        if not (is_node(row[0]) and is_node(row[1])):
            raise ValueError(f"`network` must join nodes that are integers, got the link {row}")
        link = (int(row[0]), int(row[1]))
        if link[0] == link[1]:
            raise ValueError(f"`network` must join different nodes, got the link {row}")
        if link in links:
            raise ValueError(
                f"`network` must have each link once, got {link[0]} to {link[1]} twice"
            )
        for (name, least), value in zip(columns.items(), row[2:], strict=True):
            if not least <= value <= LARGEST:
                raise ValueError(
                    f"`network` must have {name} in [{least:g}, {LARGEST:g}], got the link {row}"
                )
        links[link] = tuple(float(value) for value in row[2:])
    return links


def checked_nodes(name: str, values: object, known: tuple[int, ...]) -> tuple[int, ...]:
    """Return nodes in the order given, after checking that they are different known ones."""
    nodes = values
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.size <= len(known):
        nodes = values.tolist()
    if isinstance(nodes, str) or not isinstance(nodes, Sequence) or not all(map(is_node, nodes)):
        raise ValueError(f"`{name}` must be a list of nodes such as [1, 2], got {received(values)}")
    if not nodes:
        raise ValueError(f"`{name}` must have at least one node, got none")
    check_known(name, nodes, known, f"be nodes of the network {received(known)}")
    return tuple(int(node) for node in nodes)
