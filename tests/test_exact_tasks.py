"""What the tasks on maps, of taxes and of tolls are tested for alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import (
    BilevelFourRooms,
    BilevelGridWorld,
    BilevelInverseRL,
    BilevelTaxDesign,
    BilevelToll,
    TabularBilevelEnv,
)
from bilevel_gym.testing import check_hyper_gradient

from .helpers import FloatArray

TERRAIN = ["aab", "bSc", "Gca"]
HOUSEHOLDS: dict[str, Any] = {
    **{"num_assets": 25, "hours_levels": 4, "hours_step": 2.67},
    **{"spending_levels": 3, "spending_step": 2.5},
}
RING = [[2, 3, 4], [3, 7, 2.5], [7, 2, 1], [2, 5, 1], [5, 7, 0], [7, 5, 3], [3, 2, 2]]

# Arguments, and the length of a leader step.
CASES: dict[str, tuple[type[TabularBilevelEnv], dict[str, Any], float]] = {
    "grid world": (BilevelGridWorld, {}, 0.05),
    "four rooms": (BilevelFourRooms, {"payment_cost": 3.0}, 0.4),
    "terrain": (BilevelInverseRL, {"ridge": 0.1}, 0.08),
    "unlimited demonstrations": (BilevelInverseRL, {"num_demonstrations": None}, 0.08),
    "features": (
        BilevelInverseRL,
        {"desc": TERRAIN, "features": np.random.default_rng(0).normal(size=(9, 2)).tolist()},
        0.08,
    ),
    "taxes": (BilevelTaxDesign, HOUSEHOLDS, 0.05),
    "three types of household": (
        BilevelTaxDesign,
        {**HOUSEHOLDS, "preferences": [[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]], "wage": 1.5},
        0.05,
    ),
    "tolls": (BilevelToll, {}, 0.8),
    "tolls in an order of one's own": (
        BilevelToll,
        {"network": RING, "zone": 5, "tolled_links": [[5, 7], [3, 7], [2, 5]], "max_toll": 3.0},
        0.02,
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


def made(case: str, **arguments: Any) -> TabularBilevelEnv:
    kind, given, _ = CASES[case]
    make: Callable[..., TabularBilevelEnv] = kind
    return make(**given, **arguments)


def inside(game: TabularBilevelEnv, seed: int = 0) -> FloatArray:
    """Return an x between the initial one and a random one, away from the bounds."""
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    drawn = low + (high - low) * np.random.default_rng(seed).uniform(0.1, 0.9, low.shape)
    x: FloatArray = 0.5 * game.initial_upper_params + 0.5 * drawn
    return x


@every_case
def test_vector_jacobian_products_are_those_of_the_model(case: str) -> None:
    game, rng = made(case), np.random.default_rng(1)
    x = inside(game)
    for name in ["reward", "upper_reward"] + ["kernel"] * game.model.moves_kernel:

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
            assert 2.0 * product @ direction == pytest.approx((cotangent * change).sum(), abs=1e-10)


@every_case
def test_the_hyper_gradient_is_exact_along_an_ascent_path(case: str) -> None:
    game = made(case)
    env, x, step = HyperGradient(game), game.initial_upper_params, CASES[case][2]
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    env.reset(seed=0)
    for seed in range(3):
        report = check_hyper_gradient(env, x, coordinates=min(6, x.size), seed=seed)
        assert report.relative_error <= 1e-6
        assert report.response_share > 0.1 or CASES[case][0] is not BilevelTaxDesign
        for _ in range(2):
            gradient = env.step(x)[4]["hyper_gradient"]
            x = np.clip(x + step * gradient / np.linalg.norm(gradient), low, high)


@every_case
def test_the_corners_of_the_box_are_no_trouble(case: str) -> None:
    game = made(case)
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    for x in (low, high, np.where(np.arange(low.size) % 2, high, low)):
        response = game.evaluate(x)
        assert response.converged and np.isfinite(response.hyper_gradient).all()


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
def test_only_the_default_instance_has_a_best_known_x(
    kind: Callable[..., TabularBilevelEnv], same: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    assert kind(**same).best_known is not None
    for changed in others:
        assert kind(**changed).best_known is None


@every_case
def test_frames_keep_their_size_in_both_seats_and_follow_the_game(case: str) -> None:
    x = inside(made(case))
    leader = HyperGradient(made(case, render_mode="rgb_array"))
    follower = LowerLevel(made(case, render_mode="rgb_array"), x)
    leader.reset(seed=0)
    frames: list[Any] = [leader.render()]
    leader.step(x)
    frames.append(leader.render())
    again = leader.render()
    np.testing.assert_array_equal(again, frames[1])
    again[...] = 0  # an array of its own
    np.testing.assert_array_equal(leader.render(), frames[1])
    follower.reset(seed=0)
    frames.append(follower.render())
    while np.array_equal(frames[-1], frames[2]):
        follower.step(0)
        frames.append(follower.render())
    assert {picture.shape for picture in frames} == {frames[0].shape}
    assert frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[1], frames[2])
