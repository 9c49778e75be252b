"""Network, trips, tolls, numbers and pictures of BilevelToll-v0."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient
from bilevel_gym.envs import View
from bilevel_gym.envs.toll import LISTED_LINKS, BilevelToll
from bilevel_gym.optimizers import lbfgsb
from bilevel_gym.rendering.placing import places_by_hops
from bilevel_gym.wrappers import exact_objective

from .helpers import RING, FloatArray

# Minutes of the links out of each node of Sioux Falls, as published.
ROADS = {
    1: {2: 6, 3: 4},
    2: {1: 6, 6: 5},
    3: {1: 4, 4: 4, 12: 4},
    4: {3: 4, 5: 2, 11: 6},
    5: {4: 2, 6: 4, 9: 5},
    6: {2: 5, 5: 4, 8: 2},
    7: {8: 3, 18: 2},
    8: {6: 2, 7: 3, 9: 10, 16: 5},
    9: {5: 5, 8: 10, 10: 3},
    10: {9: 3, 11: 5, 15: 6, 16: 4, 17: 8},
    11: {4: 6, 10: 5, 12: 6, 14: 4},
    12: {3: 4, 11: 6, 13: 3},
    13: {12: 3, 24: 4},
    14: {11: 4, 15: 5, 23: 4},
    15: {10: 6, 14: 5, 19: 3, 22: 3},
    16: {8: 5, 10: 4, 17: 2, 18: 3},
    17: {10: 8, 16: 2, 19: 2},
    18: {7: 2, 16: 3, 20: 4},
    19: {15: 3, 17: 2, 20: 4},
    20: {18: 4, 19: 4, 21: 6, 22: 5},
    21: {20: 6, 22: 2, 24: 3},
    22: {15: 3, 20: 5, 21: 2, 23: 4},
    23: {14: 4, 22: 4, 24: 2},
    24: {13: 4, 21: 3, 23: 2},
}
LINKS = [(start, end) for start, ends in ROADS.items() for end in ends]
AT_TEN = [link for link in LINKS if 10 in link]
OTHERS = [node for node in ROADS if node != 10]


LOW, HIGH = np.zeros(10), np.full(10, 10.0)


def some_tolls(seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).uniform(0.0, 10.0, 10)


def leader(**arguments: Any) -> gym.Env[Any, Any]:
    return HyperGradient(BilevelToll(**arguments))


# The model --------------------------------------------------------------------------------------


def test_the_default_is_sioux_falls_with_tolls_at_node_ten() -> None:
    game = BilevelToll()
    assert game.nodes == tuple(range(1, 25))
    assert game.links == tuple(LINKS) and len(LINKS) == 76
    assert game.tolled_links == tuple(AT_TEN) and len(AT_TEN) == 10
    assert game.origins == game.destinations == tuple(OTHERS)
    assert game.zone == 10


def test_states_are_numbered_by_destination_and_node() -> None:
    game = BilevelToll()
    states = [game.state_at(node, destination) for destination in OTHERS for node in ROADS]
    assert states == list(range(23 * 24))
    assert all(game.trip_of(game.state_at(n, d)) == (n, d) for d in OTHERS for n in ROADS)
    with pytest.raises(ValueError, match="`destination` must be one of .1, 2,.*got 10"):
        game.state_at(3, 10)
    with pytest.raises(ValueError, match="`node` must be one of .1, 2,.*got 25"):
        game.state_at(25, 3)


@pytest.mark.parametrize("tolled", [None, [(5, 7), (3, 7), (2, 5)]], ids=["default", "own"])
def test_the_choices_at_a_node_are_its_links_sorted_by_where_they_lead(tolled: Any) -> None:
    if tolled is None:
        roads: dict[int, Any] = ROADS
        game, x = BilevelToll(), some_tolls()
        tolls, zone, zone_cost = dict(zip(AT_TEN, x, strict=True)), 10, 2.0
    else:  # in an order of one's own
        game = BilevelToll(RING, zone=5, zone_cost=0.5, tolled_links=tolled, max_toll=3.0)
        roads = {2: {3: 4, 5: 1}, 3: {2: 2, 7: 2.5}, 5: {7: 0}, 7: {2: 1, 5: 3}}
        tolls, zone, zone_cost = dict(zip(tolled, (0.5, 3.0, 1.25), strict=True)), 5, 0.5
        x = np.array([*tolls.values()])
    others = tuple(node for node in roads if node != zone)
    assert game.nodes == tuple(roads) and game.origins == game.destinations == others
    assert game.action_mask is not None
    dense = game.kernel(x).to_dense()
    reward, upper = game.reward(x), game.upper_reward(x)
    for destination in others:
        for node, ends in roads.items():
            state = game.state_at(node, destination)
            if node == destination:
                assert game.action_mask[state].tolist() == [True] + [False] * (len(upper[0]) - 1)
                assert dense[state].sum() == 0.0 and reward[state, 0] == upper[state, 0] == 0.0
                continue
            assert game.action_mask[state].sum() == len(ends)
            for action, (there, minutes) in enumerate(ends.items()):
                assert game.action_mask[state, action]
                toll = tolls.get((node, there), 0.0)
                assert reward[state, action] == -(minutes + toll)
                assert upper[state, action] == toll - zone_cost * (zone in (node, there))
                expected = np.zeros(len(dense))
                if there != destination:
                    expected[game.state_at(there, destination)] = 1.0
                np.testing.assert_array_equal(dense[state, action], expected)


def test_trips_are_drawn_as_said() -> None:
    game = BilevelToll()
    expected = {
        game.state_at(origin, destination): 1.0 / 23 / 22
        for destination in OTHERS
        for origin in OTHERS
        if origin != destination
    }
    rho = game.initial_distribution
    assert np.flatnonzero(rho).tolist() == sorted(expected)
    np.testing.assert_allclose(rho[rho > 0.0], 1.0 / 23 / 22, rtol=1e-12)
    # Destinations are equally likely even where they leave different numbers of origins.
    game = BilevelToll(origins=[1, 2, 3], destinations=[20, 3])
    expected = {
        **{game.state_at(origin, 20): 1 / 6 for origin in (1, 2, 3)},
        **{game.state_at(origin, 3): 1 / 4 for origin in (1, 2)},
    }
    rho = game.initial_distribution
    assert {int(s): pytest.approx(rho[s]) for s in np.flatnonzero(rho)} == expected


def test_a_network_may_be_an_array_or_a_table_of_floats_in_any_order() -> None:
    first, x = BilevelToll(RING, zone=5), np.array([1.0, 2.0, 3.0])
    for network in (np.array(RING), [[float(n) for n in row] for row in RING[::-1]]):
        game = BilevelToll(network, zone=5)  # type: ignore[arg-type]
        assert game.links == first.links and all(type(node) is int for node in game.nodes)
        assert game.evaluate(x).objective == first.evaluate(x).objective


def test_a_link_that_does_not_exist_leads_nowhere_and_costs_the_longest_one() -> None:
    game = BilevelToll(origins=[9], destinations=[16])
    state, _ = game.reset(seed=0)
    again, reward, terminated, _, info = game.step({"upper": np.zeros(10), "lower": 4})
    assert (again, reward, terminated) == (state, -10.0, False)


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_found_from_random_starts(seed: int) -> None:
    start = np.random.default_rng(seed).uniform(0.0, 5.0, 10)
    objective = exact_objective(BilevelToll().model)
    optimum = lbfgsb(objective, start, LOW, HIGH, max_evaluations=300).best
    assert optimum.value == pytest.approx(0.110297, abs=6e-7)
    assert optimum.projected_gradient_norm < 1e-5


def test_hot_drivers_go_in_circles_and_their_values_stay_finite() -> None:
    lengths = []
    for temperature in (0.5, 2.0, 4.0):
        response = BilevelToll(temperature=temperature).evaluate(np.zeros(10))
        assert response.converged and np.isfinite(response.hyper_gradient).all()
        lengths.append(100.0 * response.occupancy.sum())
    assert lengths == pytest.approx([3.25, 4.68, 100.0], abs=5e-3)


# Pictures ---------------------------------------------------------------------------------------


def test_the_picture_shows_tolls_traffic_and_gradient_on_the_links() -> None:
    game, x = BilevelToll(), some_tolls(6)
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response))
    nodes = list(ROADS)
    assert [(nodes[i], nodes[j]) for i, j in scene.edges.tolist()] == LINKS
    assert scene.values is not None and scene.gradient is not None and scene.flow is not None
    for k, link in enumerate(LINKS):
        if link in AT_TEN:
            assert scene.values[k] == x[AT_TEN.index(link)]
            assert scene.gradient[k] == response.hyper_gradient[AT_TEN.index(link)]
            assert scene.edge_labels[k] == f"{x[AT_TEN.index(link)]:.1f}"
        else:
            assert np.isnan(scene.values[k]) and np.isnan(scene.gradient[k])
            assert scene.edge_labels[k] == ""
    # Where tolls are, the direct gradient is the expected number of passages.
    passages = scene.flow[[LINKS.index(link) for link in AT_TEN]]
    np.testing.assert_allclose(passages, 100.0 * response.direct_gradient, rtol=1e-9)
    assert {node: mark for node, mark in zip(nodes, scene.marks, strict=True) if mark} == {10: "H"}
    assert scene.follower is None


def test_the_follower_sees_the_traffic_to_its_own_destination() -> None:
    game, x = BilevelToll(), some_tolls(6)
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response, state=game.state_at(9, 13)))
    assert scene.follower == 8
    assert scene.marks[9] == "H" and scene.marks[12] == "G"
    assert scene.flow is not None
    alone = BilevelToll(destinations=[13])
    expected = 100.0 * alone.traffic(alone.evaluate(x))
    np.testing.assert_allclose(scene.flow, expected, atol=1e-9)
    # Nobody drives on from the destination.
    assert scene.flow[[k for k, link in enumerate(LINKS) if link[0] == 13]].max() == 0.0


@pytest.mark.parametrize("state", [None, 9])  # node 3 on the way to 7, one of three destinations
def test_the_panels_list_the_tolls_and_the_passages_of_all_trips(state: int | None) -> None:
    tolled = [(5, 7), (3, 7), (2, 5)]
    game, x = (
        BilevelToll(RING, zone=5, tolled_links=tolled, max_toll=3.0),
        np.array([0.5, 3.0, 1.0]),
    )
    response = game.evaluate(x)
    tolls, passages = game.scene(View("", x, response, state=state)).panels
    assert tolls.labels == passages.labels == ("5-7", "3-7", "2-5")
    np.testing.assert_array_equal(tolls.values, x)
    assert tolls.limit == 3.0 and tolls.gradient is not None and passages.gradient is None
    np.testing.assert_array_equal(tolls.gradient, response.hyper_gradient)
    traffic = dict(zip(game.links, game.traffic(response).tolist(), strict=True))
    np.testing.assert_allclose(passages.values, [100.0 * traffic[link] for link in tolled])
    # Where tolls are, the direct gradient is the expected number of passages.
    np.testing.assert_allclose(passages.values, 100.0 * response.direct_gradient, rtol=1e-9)
    (alone,) = game.scene(View("", x, state=state)).panels
    assert alone.gradient is None


@pytest.mark.parametrize(
    ("network", "toll", "limit"),
    [(None, 0.0, 5.0), (None, 1.0, 5.0), (None, 4.0, 5.0), (None, 10.0, 5.0), (RING, 0.0, 50.0)],
)
def test_the_axis_of_the_passages_is_that_of_no_tolls(
    network: Any, toll: float, limit: float
) -> None:
    game = BilevelToll(network, zone=10 if network is None else 5)
    x = np.full(game.upper_space.shape, toll)
    passages = game.scene(View("", x, game.evaluate(x))).panels[1]
    assert passages.limit == limit and passages.values.max() <= limit


def test_many_tolled_links_are_not_listed() -> None:
    assert LISTED_LINKS == 12
    for count, panels in ((12, 1), (13, 0)):
        game = BilevelToll(tolled_links=LINKS[:count])
        assert len(game.scene(View("", np.zeros(count))).panels) == panels


def crosses(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> bool:
    def side(p: FloatArray, q: FloatArray, r: FloatArray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0.0 and side(c, d, a) * side(c, d, b) < 0.0


def any_crosses(places: FloatArray, roads: list[tuple[int, int]]) -> bool:
    return any(
        crosses(*places[[a, b, c, d]]) for i, (a, b) in enumerate(roads) for c, d in roads[:i]
    )


def test_no_roads_of_sioux_falls_cross_in_the_picture() -> None:
    places = BilevelToll().scene(View("", np.zeros(10))).places
    assert places.min() == 0.0 and places.max() == 1.0
    assert not any_crosses(places, [(a - 1, b - 1) for a, b in LINKS if a < b])


def test_a_network_of_ones_own_is_spread_over_the_picture() -> None:
    side = 5
    pairs = [(i, i + 1) for i in range(side**2) if i % side < side - 1]
    pairs += [(i, i + side) for i in range(side * (side - 1))]
    game = BilevelToll([row for i, j in pairs for row in ([i, j, 1.0], [j, i, 1.0])], zone=7)
    places = game.scene(View("", game.initial_upper_params)).places
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(side**2)
    assert distances.min() > 0.1
    assert not any_crosses(places, pairs)


def test_parts_of_a_network_without_a_road_between_them_are_drawn_apart() -> None:
    island: list[list[float]] = [[20, 21, 1], [21, 22, 1], [22, 20, 1]]
    game = BilevelToll([*RING, *island], zone=5, origins=[2, 3], destinations=[7])
    places = game.scene(View("", game.initial_upper_params)).places
    assert np.isfinite(places).all() and places.min() >= 0.0 and places.max() <= 1.0
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    assert (distances + np.eye(7)).min() > 0.2
    # Nodes 2, 3, 5 and 7, then the island; no road joins nodes as far apart as these.
    assert distances[:4, 4:].min() > max(distances[:4, :4].mean(), distances[4:, 4:].max())
    # Two roads: farther apart than they are long.
    road = np.array([[0.0, 1.0], [1.0, 0.0]])
    ends = places_by_hops(
        np.block([[road, np.full((2, 2), np.inf)], [np.full((2, 2), np.inf), road]])
    )
    distances = np.linalg.norm(ends[:, None] - ends, axis=2)
    assert distances[:2, 2:].min() > 1.5 * max(distances[0, 1], distances[2, 3])


def test_a_road_is_drawn_as_a_line() -> None:
    rows = [row for i in range(5) for row in ([i, i + 1, 1.0], [i + 1, i, 1.0])]
    places = BilevelToll(rows, zone=2).scene(View("", np.zeros(4))).places
    assert np.ptp(places[:, 1]) < 0.1
    np.testing.assert_allclose(np.abs(np.diff(places[:, 0])), 0.2, atol=0.01)
