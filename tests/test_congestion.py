"""Tolls on congested roads: closed forms on small networks, and the equilibrium of Sioux Falls."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import BilevelCongestion
from bilevel_gym.envs.networks import sioux_falls, sioux_falls_demand, sioux_falls_equilibrium
from bilevel_gym.model.starts import suggested_starts
from bilevel_gym.rendering.graph import GraphScene
from bilevel_gym.testing import check_hyper_gradient

from .helpers import FloatArray, refusals

# Two ways from 1 to 2: a direct one of 1 + f minutes for a share f of the drivers, and one by node
# 3 of 2 minutes (Pigou, 1920).
WIDE = 1e6
PIGOU: Any = [[1, 2, 1, 1], [1, 3, WIDE, 1], [3, 2, WIDE, 1], [2, 1, WIDE, 10]]
# From 1 to 4, over narrow roads of f / 100 minutes and wide ones of 45, with a bridge from 2 to 3
# that takes no time (Braess, 1968).
NARROW, DRIVERS = 0.1, 4000.0
BRAESS: Any = [
    *([1, 2, NARROW, 1e-3], [3, 4, NARROW, 1e-3], [1, 3, WIDE, 45], [2, 4, WIDE, 45]),
    *([2, 3, WIDE, 1e-3], [4, 1, WIDE, 45]),
]


def pigou(temperature: float, **options: Any) -> BilevelCongestion:
    options = {"tolled_links": [[1, 2]], "max_toll": 3.0, **options}
    return BilevelCongestion(
        PIGOU, [[1, 2, 1]], delay=1.0, power=1.0, temperature=temperature, **options
    )


@cache
def falls(temperature: float, delay: float = 0.15) -> BilevelCongestion:
    return BilevelCongestion(temperature=temperature, delay=delay)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 0.7])
@pytest.mark.parametrize("toll", [0.0, 0.3, 1.2])
def test_two_ways_have_the_equilibrium_of_a_logit_choice(temperature: float, toll: float) -> None:
    game = pigou(temperature)
    answer = game.evaluate([toll])

    def excess(share: float) -> float:
        # Wide roads are a millionth slower with traffic.
        detour = 2.0 * (1.0 + (1.0 - share) / WIDE)
        return share - 1.0 / (1.0 + np.exp((1.0 + share + toll - detour) / temperature))

    share = brentq(excess, 0.0, 1.0, xtol=1e-15)
    assert answer.crowd[game.links.index((1, 2))] == pytest.approx(share, abs=1e-12)
    minutes = share * (1.0 + share) + 2.0 * (1.0 - share) * (1.0 + (1.0 - share) / WIDE)
    assert answer.objective == pytest.approx(-minutes, abs=1e-12)
    assert game.total_time(answer) == pytest.approx(minutes, abs=1e-12)
    spread = share * (1.0 - share) / temperature
    response = -spread / (1.0 + spread * (1.0 + 2.0 / WIDE))  # of the share to the toll
    slope = 1.0 + 2.0 * share - 2.0 - 4.0 * (1.0 - share) / WIDE
    assert answer.hyper_gradient[0] == pytest.approx(-slope * response, abs=1e-10)
    assert not answer.direct_gradient.any() and answer.unique


def test_the_best_toll_of_two_ways_is_the_marginal_cost() -> None:
    # Half of the drivers each way is the optimum, whatever the temperature, and the toll is f t'.
    for temperature in (0.05, 0.5):
        game = pigou(temperature)
        answer = game.evaluate([0.5])
        assert answer.objective == pytest.approx(-1.75, abs=1e-5)
        assert abs(answer.hyper_gradient[0]) < 1e-5
        direct = game.links.index((1, 2))
        assert game.marginal_cost_tolls(answer)[direct] == pytest.approx(0.5, abs=1e-5)
    assert pigou(0.001).evaluate([0.0]).objective == pytest.approx(-2.0, abs=0.01)


def test_revenue_is_the_toll_times_those_who_pay_it() -> None:
    game = pigou(0.3, objective="revenue")
    answer = game.evaluate([0.4])
    assert answer.objective == pytest.approx(0.4 * answer.crowd[0])
    assert answer.direct_gradient[0] == pytest.approx(answer.crowd[0])
    assert check_hyper_gradient(HyperGradient(game), [0.4]).relative_error <= 1e-6


def test_a_toll_on_the_bridge_of_braess_makes_everybody_faster() -> None:
    game = BilevelCongestion(
        BRAESS,
        [[1, 4, DRIVERS]],
        tolled_links=[[2, 3]],
        delay=1.0,
        power=1.0,
        temperature=0.05,
    )
    # All take the bridge: 80 minutes; nobody does: 65.
    assert game.evaluate([0.0]).objective == pytest.approx(-80.0, abs=0.2)
    assert game.evaluate([40.0]).objective == pytest.approx(-65.0, abs=0.3)
    # Where tolls begin to matter, dearer is better.
    assert game.evaluate([10.0]).hyper_gradient[0] > 0.1


# Sioux Falls --------------------------------------------------------------------------------------


def test_the_data_are_those_of_the_collection() -> None:
    links, trips = sioux_falls(), sioux_falls_demand()
    assert len(links) == 76 and sum(trips.values()) == 360_600 and len(trips) == 528
    flows = np.array([volume for volume, _ in sioux_falls_equilibrium().values()])
    minutes = np.array([minutes for _, minutes in sioux_falls_equilibrium().values()])
    assert [*sioux_falls_equilibrium()] == [*links]
    game = falls(0.5)
    np.testing.assert_allclose(game.model.minutes(flows / game.trips), minutes, rtol=1e-8)
    assert flows @ minutes == pytest.approx(7_480_225, abs=1.0)


def test_cold_drivers_are_in_the_user_equilibrium() -> None:
    flows = np.array([volume for volume, _ in sioux_falls_equilibrium().values()])
    off, short = [], []
    answer = None
    for temperature in (0.1, 0.03):
        game = falls(temperature)
        answer = game.evaluate(game.model.low, warm_start=answer)
        assert answer.converged and answer.residual < 1e-11
        off.append(np.abs(game.flows(answer) - flows).max())
        short.append(7_480_225 - game.total_time(answer))
    # In proportion to the temperature, of 23 193 trips on the fullest road.
    assert off[0] < 300.0 and off[1] < 0.5 * off[0]
    assert 0.0 < short[0] < 20_000.0 and 0.0 < short[1] < 0.5 * short[0]


def test_tolls_of_marginal_costs_lead_near_to_the_optimum_and_nothing_beyond_it() -> None:
    # The equilibrium under marginal costs is that of steeper roads: t + f t' has 5 times the delay.
    optimum = falls(0.03, 0.75).evaluate(np.zeros(76))
    game = falls(0.1)
    cost = game.total_time(optimum)
    assert cost == pytest.approx(7_194_256, abs=10.0)
    # The total is convex in the flows, so that shortest ways at marginal costs bound it from below.
    marginal = game.model.minutes(optimum.crowd) + game.marginal_cost_tolls(optimum)
    shortest = shortest_ways(game, marginal)
    bound = cost - (game.flows(optimum) @ marginal - shortest)
    assert 7_193_000 < bound < 7_194_257
    tolls = game.marginal_cost_tolls(optimum)
    assert tolls.max() < game.upper_space.high.max()
    tolled, free = (game.evaluate(x) for x in (tolls, np.zeros(76)))
    assert bound < game.total_time(tolled) < 7_195_500 < 7_461_000 < game.total_time(free)


def shortest_ways(game: BilevelCongestion, costs: FloatArray) -> float:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    away = shortest_path(csr_array((costs, tuple(game.network.ends.T)), shape=(24, 24)))
    return float(sum(n * away[o - 1, d - 1] for (o, d), n in sioux_falls_demand().items()))


def test_a_climb_may_start_at_shares_of_marginal_costs() -> None:
    game = falls(0.5)
    nothing = np.zeros(76)
    tolls = game.marginal_cost_tolls(game.evaluate(nothing)).clip(0.0, 60.0)
    starts = [start.x for start in suggested_starts(game.model, nothing, 5)]
    # The destination's own states have no link, and no part in the fit.
    np.testing.assert_allclose(starts, np.outer([0.05, 0.1, 0.2, 0.4, 0.8], tolls), atol=1e-3)
    best = max(game.evaluate(x).objective for x in starts)
    assert best > -20.03 > game.evaluate(nothing).objective


def test_the_anchors() -> None:
    game = falls(0.5)
    answer = game.evaluate(np.zeros(76))
    assert answer.objective == pytest.approx(-20.583799, abs=6e-7)
    assert np.linalg.norm(answer.hyper_gradient) == pytest.approx(0.122325, abs=6e-7)
    assert game.total_time(answer) == pytest.approx(7_422_518.03, abs=0.1)
    again = game.evaluate(np.zeros(76), warm_start=answer)
    assert again.iterations == 0 and again.objective == pytest.approx(answer.objective, rel=1e-13)


def test_flows_are_conserved() -> None:
    game = falls(0.5)
    x = np.random.default_rng(0).uniform(0.0, 20.0, 76)
    flows = game.flows(game.evaluate(x))
    balance = np.zeros(24)
    for (start, end), flow in zip(game.links, flows, strict=True):
        balance[start - 1] += flow
        balance[end - 1] -= flow
    for (origin, destination), trips in sioux_falls_demand().items():
        balance[origin - 1] -= trips
        balance[destination - 1] += trips
    np.testing.assert_allclose(balance, 0.0, atol=1e-5)


def test_the_hyper_gradient_of_sioux_falls_is_the_derivative() -> None:
    game, rng = falls(0.5), np.random.default_rng(1)
    x = rng.uniform(1.0, 10.0, 76)
    answer = game.evaluate(x)
    assert not answer.direct_gradient.any()  # all of it is the crowd's answer
    direction = rng.normal(size=76)
    ends = [game.evaluate(x + h * direction, warm_start=answer) for h in (1e-4, -1e-4)]
    change = (ends[0].objective - ends[1].objective) / 2e-4
    assert change == pytest.approx(answer.hyper_gradient @ direction, rel=1e-6)


def test_a_trip_is_one_drivers() -> None:
    game = pigou(0.3)
    seat = LowerLevel(game, [0.5])
    state, info = seat.reset(seed=0)
    assert game.trip_of(state) == (1, 2) and info["action_mask"].tolist() == [1, 1]
    state, reward, over, _, info = seat.step(1)  # by node 3
    assert game.trip_of(state) == (3, 2) and not over and reward == pytest.approx(-1.0, abs=1e-5)
    _, reward, over, _, info = seat.step(0)
    assert over and info["upper_reward"] == reward
    scene = game.scene(game.view())
    assert isinstance(scene, GraphScene) and scene.follower is not None
    assert scene.flow is not None and scene.flow.max() > 0.4


ROWS = [[1, 2, 5, 1], [2, 1, 5, 1]]
test_mistakes_are_refused_in_a_line = refusals(
    BilevelCongestion,
    ({"network": ROWS}, "`demand` must be given with `network`, got None"),
    ({"demand": [[1, 2, 3]]}, "`network` must be given with `demand`, got None"),
    (
        {"network": [*ROWS, [3, 4, 5, 1], [4, 3, 5, 1]], "demand": [[1, 2, 3]]},
        "must lead to every destination .*, got no way from node 3 to node 2",
    ),
    (
        {"network": [[1, 2, -5, 1], [2, 1, 5, 1]], "demand": [[1, 2, 3]]},
        r"must have capacities in \[0.001, 1e\+06\], got the link \[1, 2, -5, 1\]",
    ),
    ({"network": [[1, 2, 5, -1]], "demand": [[1, 2, 3]]}, "must have minutes in"),
    ({"network": [[1, 2, 5, 1]], "demand": [[1, 2, 3]]}, "none out of node 2"),
    ({"network": ROWS, "demand": [[1, 7, 3]]}, r"nodes of the network \(1, 2\), got the row"),
    ({"network": ROWS, "demand": [[1, 2, 0]]}, "positive, finite trips"),
    ({"network": ROWS, "demand": [[1, 2, 1], [1, 2, 1]]}, "each once"),
    ({"network": ROWS, "demand": [[1, 1, 1]]}, "pairs of different nodes"),
    ({"network": ROWS, "demand": []}, "at least one pair of nodes"),
    ({"network": [[1, 2, 5]], "demand": [[1, 2, 3]]}, "capacity, minutes"),
    ({"tolled_links": [[1, 24]]}, "be links of the network"),
    ({"objective": "speed"}, "objective"),
    ({"power": 0.5}, "`power` must be at least 1, got 0.5"),
    ({"delay": -1.0}, "`delay`"),
    ({"max_toll": 0.0}, "`max_toll`"),
    ({"temperature": 4.0}, "`temperature` does not suit the network: .* circles pays"),
)
