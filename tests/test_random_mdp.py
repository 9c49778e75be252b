"""Kernels, rewards, optimum and pictures of BilevelRandomMDP-v0."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from bilevel_gym.envs import View
from bilevel_gym.envs.random_mdp import BilevelRandomMDP

from .helpers import FloatArray

FAMILIES: list[dict[str, Any]] = [
    {},
    {"branching": 3},
    {"reward": "linear", "upper_dim": 7},
    {"branching": 3, "reward": "linear", "upper_dim": 7, "active_features": 2},
]


# The model --------------------------------------------------------------------------------------


def test_the_first_x_is_drawn_and_the_first_state_uniform() -> None:
    game = BilevelRandomMDP()
    np.testing.assert_array_equal(game.initial_distribution, np.full(10, 0.1))
    # A draw of a hundred standard normal numbers.
    assert abs(game.initial_upper_params.mean()) < 0.4
    assert 0.7 < game.initial_upper_params.std() < 1.3


def test_every_pair_has_between_one_and_all_but_one_successors() -> None:
    counts = []
    for seed in range(60):
        kernel = BilevelRandomMDP(seed=seed, upper_dim=1).kernel(np.zeros(1))
        dense = kernel.to_dense()
        np.testing.assert_allclose(dense.sum(axis=2), 1.0, atol=1e-12)
        counts.append((dense > 0.0).sum(axis=2))
    drawn = np.bincount(np.ravel(counts), minlength=11)
    assert drawn[0] == drawn[10] == 0
    assert chisquare(drawn[1:10]).pvalue > 1e-3


@pytest.mark.parametrize(("size", "branching"), [(40, 3), (6, 5), (5, 5), (8, 1)])
def test_branching_is_the_number_of_different_successors(size: int, branching: int) -> None:
    game = BilevelRandomMDP(size, 3, branching=branching, upper_dim=1)
    dense = game.kernel(np.zeros(1)).to_dense()
    assert ((dense > 0.0).sum(axis=2) == branching).all()
    np.testing.assert_allclose(dense.sum(axis=2), 1.0, atol=1e-12)


@pytest.mark.parametrize(("size", "branching"), [(6, 2), (7, 3), (4, 4), (5, 4)])
def test_every_set_of_successors_is_equally_likely(size: int, branching: int) -> None:
    # (6, 2) and (7, 3) are drawn number by number, the others by sorting.
    sets = {chosen: i for i, chosen in enumerate(combinations(range(size), branching))}
    game = BilevelRandomMDP(size, 4000, branching=branching, upper_dim=1, seed=3)
    matrix = game.kernel(np.zeros(1)).matrix
    rows = np.sort(matrix.indices.reshape(-1, branching), axis=1).tolist()
    drawn = np.bincount([sets[tuple(row)] for row in rows], minlength=len(sets))
    assert len(sets) == 1 or chisquare(drawn).pvalue > 1e-3


def test_probabilities_are_normalised_uniform_draws() -> None:
    # Of two draws from U[0, 1] the share of the first is below q with probability q / (2 (1 - q))
    # for q up to a half.
    game = BilevelRandomMDP(50, 400, branching=2, upper_dim=1)
    shares = game.kernel(np.zeros(1)).matrix.data
    for share in (0.1, 0.25, 0.5):
        expected = share / (2.0 * (1.0 - share))
        assert (shares < share).mean() == pytest.approx(expected, abs=0.01)


def test_a_quadratic_reward_scales_one_form_by_products_of_uniform_draws() -> None:
    game = BilevelRandomMDP(60, 50, branching=2, upper_dim=6)
    rng = np.random.default_rng(0)
    scale = game.reward(np.eye(6)[0]) / game.reward(np.eye(6)[0]).max()
    values, points = [], rng.normal(size=(40, 6))
    for x in points:
        reward = game.reward(x)
        # All rewards change together.
        np.testing.assert_allclose(reward / reward.flat[0], scale / scale.flat[0], rtol=1e-12)
        values.append(reward.flat[0])
    # A form in six unknowns has 21 coefficients: 40 points leave nothing unexplained.
    products = np.array([np.outer(x, x)[np.triu_indices(6)] for x in points])
    assert np.linalg.norm(products @ np.linalg.lstsq(products, values)[0] - values) < 1e-9
    # The product of two uniform numbers is below q with probability q (1 - log q).
    for share in (0.05, 0.2, 0.5):
        expected = share * (1.0 - np.log(share))
        assert (scale < share * scale.max()).mean() == pytest.approx(expected, abs=0.03)


def test_a_linear_reward_has_few_active_features() -> None:
    game = BilevelRandomMDP(200, 3, branching=2, reward="linear", upper_dim=12, active_features=4)
    features = np.stack([game.reward(unit) for unit in np.eye(12)], axis=2)
    assert ((features != 0.0).sum(axis=2) == 4).all()
    active = features[features != 0.0]
    assert abs(active.mean()) < 0.1 and active.std() == pytest.approx(1.0, abs=0.05)
    # Every feature is as likely as another one.
    assert chisquare((features != 0.0).sum(axis=(0, 1))).pvalue > 1e-3
    x = np.random.default_rng(0).normal(size=12)
    np.testing.assert_allclose(game.reward(x), features @ x, atol=1e-13)


def test_the_instance_is_a_function_of_its_arguments() -> None:
    def arrays(**arguments: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
        game = BilevelRandomMDP(**arguments)
        x = game.initial_upper_params
        return game.kernel(x).to_dense(), game.reward(np.ones(100)), x

    np.random.seed(0)
    first = arrays()
    np.random.seed(1)
    for one, other in zip(first, arrays(seed=0), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(first, arrays(seed=1), strict=True):
        assert not np.array_equal(one, other)
    linear = arrays(reward="linear")
    np.testing.assert_array_equal(first[0], linear[0])
    np.testing.assert_array_equal(first[2], linear[2])


def test_the_leader_is_paid_nothing_for_single_steps() -> None:
    game = BilevelRandomMDP()
    assert not game.upper_reward(game.initial_upper_params).any()


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize(
    "arguments", [*FAMILIES, {"num_states": 30, "num_actions": 4, "branching": 3}]
)
def test_zero_is_the_optimum(arguments: dict[str, Any], temperature: float) -> None:
    game = BilevelRandomMDP(temperature=temperature, **arguments)
    best = game.best_known
    expected = -game.num_states / (2.0 * game.num_actions)
    assert best is not None and best.value == expected
    response = game.evaluate(best.upper_params)
    assert not best.upper_params.any()
    assert response.objective == pytest.approx(expected, abs=1e-12)
    assert np.linalg.norm(response.hyper_gradient) < 1e-12
    rng = np.random.default_rng(0)
    for spread in (1e-3, 0.1, 1.0, 5.0):
        x = np.clip(rng.normal(scale=spread, size=best.upper_params.shape), -10.0, 10.0)
        assert game.evaluate(x).objective < expected


@pytest.mark.parametrize("name", ["hyper_gradient", "direct_gradient"])
def test_the_problem_does_not_rank_methods(name: str) -> None:
    game = BilevelRandomMDP()
    x, response = game.initial_upper_params, None
    for _ in range(3000):
        response = game.evaluate(x, warm_start=response)
        x = x + 8e-3 * getattr(response, name)
    # The published norm at the end, which -x alone reaches too.
    assert np.linalg.norm(game.evaluate(x).hyper_gradient) < 1e-9


@pytest.mark.parametrize("reward", ["quadratic", "linear"])
def test_a_large_sparse_instance_is_no_trouble(reward: str) -> None:
    game = BilevelRandomMDP(20_000, 5, branching=5, reward=reward)
    assert game.kernel(game.initial_upper_params).matrix.nnz == 500_000
    response = game.evaluate(0.1 * game.initial_upper_params)
    assert response.converged and np.isfinite(response.hyper_gradient).all()
    at_best = game.evaluate(np.zeros(100))
    assert at_best.objective == pytest.approx(-2000.0, abs=1e-8)


# Pictures ---------------------------------------------------------------------------------------


def test_a_scene_holds_the_arrays_of_the_view() -> None:
    game = BilevelRandomMDP()
    x = 0.3 * game.initial_upper_params
    response = game.evaluate(x)
    scene = game.table(View("title", x, response, state=7, status=(("a", "b"),)))
    np.testing.assert_array_equal(scene.reward, game.reward(x))
    assert scene.policy is response.policy and scene.gradient is not None
    np.testing.assert_array_equal(scene.gradient, response.hyper_gradient)
    assert scene.occupancy is response.occupancy and scene.params is x
    assert (scene.follower, scene.title, scene.status) == (7, "title", (("a", "b"),))
