"""What tasks with an exact answer are tested for alike: anchors, derivatives, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import (
    BilevelContract,
    BilevelFourRooms,
    BilevelGoalPlacement,
    BilevelGridWorld,
    BilevelIncentive,
    BilevelInverseRL,
    BilevelMarkovGame,
    BilevelRandomMDP,
    BilevelTaxDesign,
    BilevelToll,
    BilevelToyText,
    TabularBilevelEnv,
)
from bilevel_gym.rendering import frame
from bilevel_gym.testing import check_hyper_gradient

from .helpers import (
    DRAWN_TASKS,
    EXACT_TASKS,
    HOUSEHOLDS,
    RING,
    TERRAIN,
    FloatArray,
    raw_game,
    sampled_actions,
    telling_points,
)

SIX_PAIRS = [[7, 0], [9, 0], [9, 1], [6, 1], [2, 2], [0, 1]]

CASES: dict[str, tuple[type[TabularBilevelEnv], dict[str, Any]]] = {
    "grid world": (BilevelGridWorld, {}),
    "cold grid world": (BilevelGridWorld, {"temperature": 1e-3}),
    "large grid world": (BilevelGridWorld, {"map_name": "16x16", "slip": 0.2}),
    "four rooms": (BilevelFourRooms, {"payment_cost": 3.0}),
    "goal in a large room": (BilevelGoalPlacement, {"desc": ["S....T"] + 39 * ["......"]}),
    "narrow goal": (BilevelGoalPlacement, {"width": 0.7, "hazard_cost": 5.0}),
    "terrain": (BilevelInverseRL, {"ridge": 0.1}),
    "unlimited demonstrations": (BilevelInverseRL, {"num_demonstrations": None}),
    "features": (
        BilevelInverseRL,
        {"desc": TERRAIN, "features": np.random.default_rng(0).normal(size=(9, 2)).tolist()},
    ),
    "taxes": (BilevelTaxDesign, HOUSEHOLDS),
    "three types of household": (
        BilevelTaxDesign,
        {**HOUSEHOLDS, "preferences": [[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]], "wage": 1.5},
    ),
    "tolls": (BilevelToll, {}),
    "tolls in an order of one's own": (
        BilevelToll,
        {"network": RING, "zone": 5, "tolled_links": [[5, 7], [3, 7], [2, 5]], "max_toll": 3.0},
    ),
    "contract": (BilevelContract, {}),
    "contract of one period": (
        BilevelContract,
        {"outcomes": [[0.8, 0.2], [0.3, 0.7]], "costs": [0, 0.2], "revenues": [0, 2.0]},
    ),
    "payments": (BilevelIncentive, {}),
    "six payments": (BilevelIncentive, {"paid": SIX_PAIRS}),
    "endless strategies": (BilevelMarkovGame, {"horizon": None, "bonus": 0.5}),
    "five steps": (BilevelMarkovGame, {"horizon": 5}),
    "quadratic": (BilevelRandomMDP, {}),
    "sparse": (BilevelRandomMDP, {"branching": 3}),
    "linear": (BilevelRandomMDP, {"reward": "linear", "upper_dim": 7}),
    "few features": (
        BilevelRandomMDP,
        {"branching": 3, "reward": "linear", "upper_dim": 7, "active_features": 2},
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


def made(case: str, **arguments: Any) -> TabularBilevelEnv:
    kind, given = CASES[case]
    make: Callable[..., TabularBilevelEnv] = kind
    return make(**given, **arguments)


def inside(game: TabularBilevelEnv, seed: int = 0) -> FloatArray:
    """Return an x between the initial one and a random one, away from the bounds."""
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    drawn = low + (high - low) * np.random.default_rng(seed).uniform(0.1, 0.9, low.shape)
    x: FloatArray = 0.5 * game.initial_upper_params + 0.5 * drawn
    return x


# Published and documented numbers -----------------------------------------------------------------

# Discount, temperature, states, actions, initial x, and the box of x.
DEFAULTS: list[Any] = [
    (BilevelGridWorld, 0.95, 0.01, 52, 4, 0.0, (-1.0, 1.0, (52,))),
    (BilevelContract, 0.95, 0.005, 5, 3, None, (0.0, 4.0, (11,))),  # x is a linear contract
    (BilevelFourRooms, 0.99, 0.003, 208, 4, 0.0, (-10.0, 10.0, (105,))),
    (BilevelGoalPlacement, 0.95, 0.05, 86, 4, 4.5, (0.0, 9.0, (2,))),
    (BilevelIncentive, 0.95, 0.01, 13, 4, 0.0, (0.0, 2.0, (52,))),
    (BilevelInverseRL, 0.95, 0.05, 64, 4, 0.0, (-1.0, 1.0, (5,))),
    (BilevelMarkovGame, 0.99, 0.05, 6, 3, 0.0, (-10.0, 10.0, (3, 2))),
    (BilevelRandomMDP, 0.5, 1.0, 10, 5, None, (-10.0, 10.0, (100,))),  # x is drawn
    (BilevelTaxDesign, 0.9, 0.1, 202, 1250, 0.3, (0.0, 2.0, (4,))),
    (BilevelToll, 0.99, 0.5, 552, 5, 0.0, (0.0, 10.0, (10,))),
]


@pytest.mark.parametrize("row", DEFAULTS, ids=lambda row: row[0].__name__)
def test_the_default_is_the_published_instance(row: Any) -> None:
    kind, gamma, temperature, states, actions, start, box = row
    game = kind()
    assert (game.gamma, game.temperature) == (gamma, temperature)
    assert game.observation_space == gym.spaces.Discrete(states)
    assert game.lower_space == gym.spaces.Discrete(actions)
    assert game.upper_space == gym.spaces.Box(*box, dtype=np.float32)
    if start is not None:
        np.testing.assert_array_equal(game.initial_upper_params, np.full(box[2], start))


def rooms(goal: tuple[int, int], temperature: float, payment_cost: float) -> BilevelFourRooms:
    return BilevelFourRooms([goal], temperature=temperature, payment_cost=payment_cost)


@pytest.mark.parametrize(
    ("make", "share", "objective", "norm", "direct_norm"),
    [
        (BilevelGridWorld, 1.0, -1.198591, 2.366291, 0.0),
        (partial(BilevelGridWorld, temperature=0.001), 1.0, -1.161118, 2.385927, 0.0),
        (partial(rooms, (1, 9), 0.001, 5), 1.0, -0.740644, 0.007138, 0.007096),
        (partial(rooms, (1, 9), 0.003, 5), 1.0, -0.725819, 0.007222, 0.006956),
        (partial(rooms, (11, 11), 0.001, 1), 1.0, 0.723777, 0.219806, 0.001211),
        (partial(rooms, (11, 11), 0.003, 1), 1.0, 0.544285, 0.106267, 0.001172),
        (BilevelContract, 1.0, 0.316107, 16.354992, 13.440836),
        (BilevelGoalPlacement, 1.0, 4.425541, 7.034809, 0.0),
        (BilevelToll, 1.0, -0.443814, 0.158023, 0.081506),
        (BilevelRandomMDP, 1.0, -55.153152, 11.041769, 10.163137),
        (BilevelRandomMDP, 0.5, -14.782585, 8.787169, 5.081568),
        (BilevelRandomMDP, 0.1, -1.521220, 1.079672, 1.016314),
        (BilevelInverseRL, 1.0, -2.079269, 21.271865, 0.0),
    ],
)
def test_the_anchors_at_a_share_of_the_initial_x(
    make: Callable[[], Any], share: float, objective: float, norm: float, direct_norm: float
) -> None:
    game = make()
    response = game.evaluate(share * game.initial_upper_params)
    # Published with six decimals.
    assert response.objective == pytest.approx(objective, abs=6e-7)
    assert np.linalg.norm(response.hyper_gradient) == pytest.approx(norm, abs=6e-7)
    assert np.linalg.norm(response.direct_gradient) == pytest.approx(direct_norm, abs=6e-7)
    assert response.direct_gradient.any() == (direct_norm > 0.0)


# Derivatives -------------------------------------------------------------------------------------


@every_case
def test_vector_jacobian_products_are_those_of_the_model(case: str) -> None:
    game, rng = made(case), np.random.default_rng(1)
    x = inside(game)
    moved = ["kernel"] * game.model.moves_kernel + ["start_distribution"] * game.model.moves_start
    for name in ["reward", "upper_reward", *moved]:

        def values(x: FloatArray, name: str = name) -> FloatArray:
            found = getattr(game.model, name)(x)
            return found.matrix.data if name == "kernel" else found

        cotangent = rng.normal(size=values(x).shape)
        product = getattr(game.model, f"{name}_vjp")(x, cotangent)
        for _ in range(3):
            direction = rng.normal(size=x.shape)
            direction *= 1e-5 / np.linalg.norm(direction)
            change = values(x + direction) - values(x - direction)
            # Curvature and rounding.
            slope = 2.0 * (product * direction).sum()
            assert slope == pytest.approx((cotangent * change).sum(), abs=1e-10)


@every_case
def test_the_hyper_gradient_is_the_derivative(case: str) -> None:
    env = HyperGradient(made(case))
    for seed, x in enumerate(telling_points(env, 3)):
        report = check_hyper_gradient(env, x, coordinates=min(6, x.size), seed=seed)
        assert report.relative_error <= 1e-6


@every_case
def test_the_corners_of_the_box_are_no_trouble(case: str) -> None:
    game = made(case)
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    for x in (low, high, np.where(np.arange(low.size).reshape(low.shape) % 2, high, low)):
        response = game.evaluate(x)
        assert response.converged and np.isfinite(response.hyper_gradient).all()


PAIRS = [[state, action] for state in range(13) for action in range(4)]
OTHERS = [node for node in range(1, 25) if node != 10]
AT_TEN = [(a, b) for a, b in BilevelToll().links if 10 in (a, b)]
LINKS = [[2, 1, 3.0] if link == (2, 1) else [*link, 2.0] for link in BilevelToll().links]
PUBLISHED = [[0.6, 0.3, 0.1], [0.1, 0.7, 0.2]]


@pytest.mark.parametrize(
    ("kind", "same", "others"),
    [
        (BilevelGridWorld, {"map_name": "8x8"}, [{"slip": 0.2}, {"map_name": "4x4"}]),
        (
            BilevelFourRooms,
            {"goals": [[1, 9], [11, 11]], "temperature": 3e-3},
            [
                *({"goals": [(11, 11), (1, 9)]}, {"slip": 0.3}, {"gamma": 0.9}),
                *({"temperature": 0.001}, {"payment_cost": 3.0}, {"budget": 0.1}),
            ],
        ),
        (
            BilevelGoalPlacement,
            {"width": 1, "desc": list(BilevelGoalPlacement().desc)},
            [
                *({"desc": ["S.T", "..."]}, {"width": 1.5}, {"radius": 1.0}, {"slip": 0.2}),
                *({"hazard_cost": 1.0}, {"temperature": 0.1}, {"gamma": 0.9}),
            ],
        ),
        (
            BilevelInverseRL,
            {"num_demonstrations": 50, "seed": 0},
            [
                *({"size": 8}, {"num_demonstrations": 51}, {"seed": 1}, {"desc": TERRAIN}),
                *({"num_demonstrations": None, "ridge": 0.1}, {"slip": 0.2}, {"gamma": 0.9}),
                *({"temperature": 0.1}, {"ridge": 0.1}, {"true_params": [-0.1] * 5}),
            ],
        ),
        (
            BilevelTaxDesign,
            {"start_rate": 0.5, "preferences": PUBLISHED},
            [
                *({"num_assets": 21}, {"preferences": [PUBLISHED[0], [0.1, 0.6, 0.3]]}),
                *({"temperature": 0.2}, {"noise": 4.0}, {"start_variance": 3.0}),
                *({"consumption_weight": 2.0}, {"revenue_weight": 4.0}, {"max_rate": 1.0}),
            ],
        ),
        (
            BilevelContract,
            {"stages": 4, "costs": [0, 0.1, 0.15]},
            [
                *({"stages": 5}, {"revenue": 5.0}, {"costs": [0, 0.1, 0.2]}, {"gamma": 0.9}),
                *({"outcomes": np.eye(3)}, {"revenues": [0.0, 1.0, 2.0]}, {"max_payment": 3.0}),
            ],
        ),
        (
            BilevelIncentive,
            {"paid": PAIRS, "slip": 0.3, "max_payment": 2},
            [
                *({"paid": PAIRS[:-1]}, {"paid": PAIRS[::-1]}, {"slip": 0.2}, {"gamma": 0.9}),
                *({"temperature": 0.02}, {"payment_weight": 1.0}, {"max_payment": 1.0}),
            ],
        ),
        (
            BilevelMarkovGame,
            {"bonus": 1, "horizon": 150},
            [
                *({"bonus": 2.0}, {"horizon": 149}),
                *({"gamma": 0.9}, {"temperature": 0.1}),
            ],
        ),
        (
            partial(BilevelToyText, "FrozenLake"),
            {},
            [
                *({"temperature": 0.2}, {"env_kwargs": {"is_slippery": False}}),
                {"features": np.ones((16, 4, 16))},
            ],
        ),
        (
            BilevelToll,
            {"tolled_links": AT_TEN, "origins": OTHERS},
            [
                *({"tolled_links": AT_TEN[::-1]}, {"zone": 11, "tolled_links": AT_TEN}),
                *({"zone_cost": 1.0}, {"max_toll": 9.0}, {"temperature": 1.0}, {"gamma": 0.9}),
                *({"origins": [1, 2]}, {"destinations": [1, 2]}, {"network": LINKS}),
            ],
        ),
    ],
)
def test_other_instances_do_not_have_the_best_known_x_of_the_default_one(
    kind: Callable[..., TabularBilevelEnv], same: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    assert kind(**same).best_known is not None
    for changed in others:
        assert kind(**changed).best_known is None


# Pictures ----------------------------------------------------------------------------------------

DRAWN: dict[str, Callable[..., Any]] = {
    **{case: partial(made, case) for case in CASES},
    **{task.id: partial(raw_game, task) for task in EXACT_TASKS if task in DRAWN_TASKS},
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_keep_their_size_in_both_seats_and_show_what_changes(name: str) -> None:
    game = DRAWN[name](render_mode="rgb_array")
    x = inside(game)
    leader, follower = HyperGradient(game), LowerLevel(DRAWN[name](render_mode="rgb_array"), x)
    leader.reset(seed=0)
    pictures: list[Any] = [leader.render()]
    leader.step(x)
    again: Any = leader.render()
    pictures.append(again.copy())
    again[...] = 0  # an array of its own
    np.testing.assert_array_equal(leader.render(), pictures[1])
    follower.reset(seed=0)
    pictures.append(follower.render())
    for action in sampled_actions(follower, 20):
        follower.step(action)
        pictures.append(follower.render())
        if not np.array_equal(pictures[-1], pictures[-2]):
            break
    for first, second in ((0, 1), (1, 2), (2, -1)):
        assert not np.array_equal(pictures[first], pictures[second])
    pictures.append(frame(game.draw(replace(game.view(), response=None))))
    for picture in pictures:
        assert picture.dtype == np.uint8 and picture.shape == pictures[0].shape
