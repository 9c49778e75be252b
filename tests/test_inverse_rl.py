"""Maps, demonstrations, truth, numbers and pictures of BilevelInverseRL-v0."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bilevel_gym import HyperGradient
from bilevel_gym.envs import View
from bilevel_gym.envs.inverse_rl import BilevelInverseRL, random_terrain
from bilevel_gym.optimizers import lbfgsb
from bilevel_gym.rendering import frame
from bilevel_gym.viewer.picture import view
from bilevel_gym.viewer.session import Session
from bilevel_gym.wrappers import exact_objective

from .helpers import TERRAIN, FloatArray
from .models import plain_kernel


def true_params(game: BilevelInverseRL) -> FloatArray:
    assert game.true_params is not None
    return game.true_params


def fitted(game: BilevelInverseRL, start: FloatArray | None = None) -> FloatArray:
    """Return where L-BFGS-B on the hyper-gradient ends."""
    bound = np.ones(len(game.kinds))
    first = game.initial_upper_params if start is None else start
    objective = exact_objective(game.model)
    return lbfgsb(objective, first, -bound, bound, tolerance=1e-9).best.upper_params


def soft_optimal(game: BilevelInverseRL, x: FloatArray) -> FloatArray:
    """Return the logarithm of the policy under x, by plain soft value iteration."""
    transition, value = game.kernel(x).to_dense(), np.zeros(len(game.features))
    reward, tau = game.reward(x), game.temperature
    for _ in range(800):
        soft_q = reward + game.gamma * transition @ value
        top = soft_q.max(axis=1)
        value = top + tau * np.log(np.exp((soft_q - top[:, None]) / tau).sum(axis=1))
    log_policy: FloatArray = (soft_q - value[:, None]) / tau
    return log_policy


# The model --------------------------------------------------------------------------------------


def test_the_default_is_an_eight_by_eight_map_of_five_kinds() -> None:
    game = BilevelInverseRL()
    assert [len(row) for row in game.desc] == 8 * [8]
    assert game.kinds == tuple("abcde")
    assert "".join(game.desc).count("G") == 1
    assert game.demonstrations is not None and len(game.demonstrations) == 50


def test_the_kernel_moves_over_the_map_and_ends_in_the_goal() -> None:
    game = BilevelInverseRL(TERRAIN, slip=0.3)
    expected = plain_kernel([*np.ndindex(3, 3)], (2, 0), 0.3)
    dense = game.kernel(game.initial_upper_params).to_dense()
    np.testing.assert_allclose(dense, expected, atol=1e-15)


def test_each_kind_of_terrain_has_a_weight_and_the_goal_pays_one() -> None:
    game = BilevelInverseRL(TERRAIN)
    weights = {"a": -0.3, "b": 0.2, "c": -0.7, "S": 0.0, "G": 1.0}
    expected = [[weights[cell]] * 4 for row in TERRAIN for cell in row]
    np.testing.assert_array_equal(game.reward(np.array([-0.3, 0.2, -0.7])), expected)
    assert not game.upper_reward(game.initial_upper_params).any()


def test_given_features_replace_the_terrain() -> None:
    rng = np.random.default_rng(0)
    features, x = rng.normal(size=(9, 2)), rng.uniform(-1.0, 1.0, 2)
    game = BilevelInverseRL(TERRAIN, features=features.tolist())
    reward = game.reward(x)
    assert game.upper_space.shape == (2,)
    for state in range(9):
        expected = 1.0 if state == 6 else features[state] @ x
        np.testing.assert_allclose(reward[state], expected, rtol=1e-14)


def test_episodes_start_in_s_or_anywhere_but_in_the_goal() -> None:
    expected = np.zeros(9)
    expected[4] = 1.0
    np.testing.assert_array_equal(BilevelInverseRL(TERRAIN).initial_distribution, expected)
    expected = np.full(4, 1 / 3)
    expected[3] = 0.0
    np.testing.assert_allclose(BilevelInverseRL(["ab", "cG"]).initial_distribution, expected)


def test_random_maps_hold_every_kind_and_one_goal() -> None:
    for seed in range(20):
        rows = random_terrain((5, 6), 7, seed)
        assert len(rows) == 5 and {len(row) for row in rows} == {6}
        assert sorted(set("".join(rows))) == sorted("abcdefgG")
        assert "".join(rows).count("G") == 1
    assert random_terrain(8, 5, 0) == BilevelInverseRL().desc == random_terrain([8, 8], 5, 0)
    assert random_terrain(8, 5, 1) != random_terrain(8, 5, 0)
    assert random_terrain((1, 2), 1) in (("aG",), ("Ga",))


def test_the_instance_is_a_function_of_its_arguments() -> None:
    np.random.seed(0)
    first = BilevelInverseRL()
    np.random.seed(1)
    again, more, other = BilevelInverseRL(), BilevelInverseRL(num_demonstrations=99), None
    np.testing.assert_array_equal(first.counts, again.counts)
    assert first.desc == more.desc
    np.testing.assert_array_equal(true_params(first), true_params(more))
    other = BilevelInverseRL(seed=1)
    assert other.desc != first.desc and (true_params(other) != true_params(first)).all()


# Demonstrations ---------------------------------------------------------------------------------


def test_counts_are_those_of_the_demonstrations() -> None:
    game = BilevelInverseRL()
    assert game.demonstrations is not None
    expected = np.zeros((64, 4))
    for episode in game.demonstrations:
        for state, action in episode.tolist():
            expected[state, action] += 1.0
    np.testing.assert_array_equal(game.counts, expected)


def test_demonstrations_are_episodes_of_the_game() -> None:
    game = BilevelInverseRL(num_demonstrations=200)
    dense, goal = game.kernel(game.initial_upper_params).to_dense(), "".join(game.desc).index("G")
    assert game.demonstrations is not None and len(game.demonstrations) == 200
    for episode in game.demonstrations:
        states, actions = episode.T
        assert 1 <= len(states) <= 200 and game.initial_distribution[states[0]] > 0.0
        # It goes on until it has acted in the goal, and never after.
        assert (states[:-1] != goal).all() and (states[-1] == goal or len(states) == 200)
        assert (dense[states[:-1], actions[:-1], states[1:]] > 0.0).all()


def test_an_episode_that_never_ends_is_cut() -> None:
    # A weight of one on the terrain keeps the walker away from the goal.
    arguments: dict[str, Any] = {"desc": ["aaaa", "aaaG"], "true_params": [1.0], "slip": 0.0}
    game = BilevelInverseRL(num_demonstrations=5, **arguments)
    assert game.demonstrations is not None
    assert [len(episode) for episode in game.demonstrations] == 5 * [200]
    unlimited = BilevelInverseRL(num_demonstrations=None, **arguments)
    assert unlimited.counts.sum() == pytest.approx(200.0, abs=1e-9)


def test_samples_approach_the_expected_visits() -> None:
    exact = BilevelInverseRL(num_demonstrations=None)
    sampled = BilevelInverseRL(num_demonstrations=20_000)
    mean = sampled.counts / 20_000
    assert mean.sum() == pytest.approx(exact.counts.sum(), rel=0.01)
    # A visit's count has a variance near its mean; five standard errors.
    error = np.abs(mean - exact.counts)
    assert (error < 5.0 * np.sqrt((exact.counts + 1e-3) / 20_000)).all()


def test_expected_visits_are_those_of_a_plain_simulation_of_probabilities() -> None:
    game = BilevelInverseRL(TERRAIN, num_demonstrations=None)
    policy = np.exp(soft_optimal(game, true_params(game)))
    chain = np.einsum("sa,sat->st", policy, game.kernel(true_params(game)).to_dense())
    # The episode ends surely, hence the sum over 200 steps is the one over all.
    visits = np.linalg.solve(np.eye(9) - chain.T, game.initial_distribution)
    np.testing.assert_allclose(game.counts, visits[:, None] * policy, atol=1e-10)


def test_own_demonstrations_count_as_the_same_generated_ones() -> None:
    game = BilevelInverseRL()
    assert game.demonstrations is not None
    episodes = json.loads(json.dumps([episode.tolist() for episode in game.demonstrations]))
    own = BilevelInverseRL(demonstrations=episodes)
    np.testing.assert_array_equal(own.counts, game.counts)
    x = np.full(5, -0.2)
    assert own.evaluate(x).objective == game.evaluate(x).objective
    # What has been handed in says nothing of the truth, unless the user knows it.
    assert own.true_params is None and own.true_policy is None and own.best_known is None
    known = BilevelInverseRL(demonstrations=episodes, true_params=[-0.1] * 5)
    np.testing.assert_array_equal(true_params(known), np.full(5, -0.1))
    as_arrays = BilevelInverseRL(demonstrations=game.demonstrations)  # type: ignore[arg-type]
    np.testing.assert_array_equal(as_arrays.counts, game.counts)


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_objective_is_the_mean_log_likelihood_less_the_ridge(ridge: float) -> None:
    game, x = BilevelInverseRL(TERRAIN, ridge=ridge), np.array([-0.3, 0.1, -0.2])
    log_policy = soft_optimal(game, x)
    assert game.demonstrations is not None
    decisions = [log_policy[s, a] for episode in game.demonstrations for s, a in episode]
    expected = np.mean(decisions) - ridge * (x @ x)
    assert game.evaluate(x).objective == pytest.approx(expected, abs=1e-10)


def test_the_documented_values() -> None:
    game, exact = BilevelInverseRL(), BilevelInverseRL(num_demonstrations=None)
    rounded = [-0.1228, -0.3735, -0.2111, -0.4498, -0.3308]
    np.testing.assert_allclose(true_params(game), rounded, atol=5e-5)
    assert game.counts.sum() == 397
    best = game.best_known
    assert best is not None
    for x, here, there in (
        (np.zeros(5), -2.079269, -2.042516),
        (true_params(game), -0.420225, -0.410223),
        (best.upper_params, -0.413562, -0.417168),
    ):
        assert game.evaluate(x).objective == pytest.approx(here, abs=6e-7)
        assert exact.evaluate(x).objective == pytest.approx(there, abs=6e-7)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"seed": 3, "size": (5, 4), "num_kinds": 3}, {"desc": TERRAIN}, {"temperature": 0.5}],
)
def test_unlimited_demonstrations_make_the_truth_the_maximum(arguments: dict[str, Any]) -> None:
    game = BilevelInverseRL(num_demonstrations=None, **arguments)
    best = game.best_known
    assert best is not None and "proven" in best.source
    np.testing.assert_array_equal(best.upper_params, true_params(game))
    response = game.evaluate(best.upper_params)
    assert response.objective == pytest.approx(best.value, abs=1e-12)
    assert np.linalg.norm(response.hyper_gradient) < 1e-9
    rng = np.random.default_rng(0)
    for spread in (1e-3, 0.03, 0.3):
        other = best.upper_params + rng.normal(scale=spread, size=best.upper_params.shape)
        assert game.evaluate(np.clip(other, -1.0, 1.0)).objective < best.value


def test_the_truth_is_identified_by_the_curvature() -> None:
    game, step = BilevelInverseRL(num_demonstrations=None), 1e-5
    truth = true_params(game)
    rows = [
        game.evaluate(truth + step * unit).hyper_gradient
        - game.evaluate(truth - step * unit).hyper_gradient
        for unit in np.eye(5)
    ]
    curvature = -np.linalg.eigvalsh(np.array(rows) / (2.0 * step))[::-1]
    np.testing.assert_allclose(curvature, [0.329, 1.52, 1.92, 7.48, 30.7], rtol=5e-3)


@pytest.mark.parametrize(("number", "within"), [(50, 6e-5), (None, 1e-6)])
def test_every_start_leads_to_the_best_known_x(number: int | None, within: float) -> None:
    game, rng = BilevelInverseRL(num_demonstrations=number), np.random.default_rng(2)
    best = game.best_known
    assert best is not None  # the truth, with unlimited demonstrations
    for start in (None, rng.uniform(-1.0, 1.0, 5), rng.uniform(-1.0, 1.0, 5)):
        found = fitted(game, start)
        np.testing.assert_allclose(found, best.upper_params, atol=within)
        assert game.evaluate(found).objective == pytest.approx(best.value, abs=6e-7)


def test_more_demonstrations_lead_nearer_to_the_truth() -> None:
    distances = []
    for number in (10, 200, 5000):
        game = BilevelInverseRL(num_demonstrations=number)
        distances.append(np.linalg.norm(fitted(game) - true_params(game)))
    assert distances == pytest.approx([0.69, 0.075, 0.005], rel=0.1)


# Pictures ---------------------------------------------------------------------------------------


def test_the_picture_shows_what_is_believed_beside_what_is_true() -> None:
    game = BilevelInverseRL()
    x = np.linspace(-0.4, 0.1, 5)
    response = game.evaluate(x)
    scene = game.scene(View("title", x, response, state=13))
    assert scene.cells.shape == (8, 17) and scene.follower == (1, 5)
    assert scene.policy is not None and scene.occupancy is not None
    assert game.true_policy is not None
    visits = game.counts.sum(axis=1) / 397
    for state, kind in enumerate("".join(game.desc)):
        row, column = divmod(state, 8)
        k = "abcde".find(kind)
        # Painting a cell is painting its terrain.
        entry = None if kind == "G" else k
        assert game.state_of((row, column)) == game.state_of((row, column + 9)) == entry
        assert scene.gradient is not None and response.hyper_gradient is not None
        assert scene.gradient[row, column] == (0.0 if kind == "G" else response.hyper_gradient[k])
        left, right = (row, column), (row, column + 9)
        assert scene.shaping[left] == (0.0 if kind == "G" else x[k])
        assert scene.shaping[right] == (0.0 if kind == "G" else true_params(game)[k])
        np.testing.assert_array_equal(scene.policy[left], response.policy[state])
        np.testing.assert_array_equal(scene.policy[right], game.true_policy[state])
        assert scene.occupancy[right] == pytest.approx(visits[state], abs=1e-15)
    assert game.state_of((0, 8)) is None
    assert dict(scene.status)["demonstrations"] == "50"


def test_without_the_truth_the_demonstrated_actions_are_shown() -> None:
    game = BilevelInverseRL(TERRAIN, demonstrations=[[[4, 2], [7, 3]], [[4, 3]]])
    scene = game.scene(View("", np.full(3, -0.2), game.evaluate(np.full(3, -0.2))))
    assert scene.policy is not None and "distance to true x" not in dict(scene.status)
    np.testing.assert_allclose(scene.policy[1, 5], [0.0, 0.0, 0.5, 0.5])
    np.testing.assert_allclose(scene.policy[2, 5], [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(scene.policy[0, 4], np.full(4, 0.25))
    assert not scene.shaping[:, 4:].any()


def test_own_features_are_not_to_be_painted() -> None:
    game = BilevelInverseRL(TERRAIN, features=np.ones((9, 2)).tolist())
    scene = game.scene(View("", np.zeros(2), game.evaluate(np.zeros(2))))
    assert scene.gradient is None
    assert {game.state_of((row, column)) for row in range(3) for column in range(7)} == {None}


@pytest.mark.parametrize(
    "arguments",
    [
        {"desc": ["aaaabbbbccccG", "SaaaccccaaaaS"]},
        {"size": (20, 4), "num_kinds": 15},
        {"size": 60},
        {"desc": ["aG"]},
        {"desc": TERRAIN, "features": [[1.0, 2.0]] * 9},
    ],
)
def test_maps_of_other_shapes_are_drawn(arguments: dict[str, Any]) -> None:
    game = BilevelInverseRL(**arguments)
    x = game.initial_upper_params
    empty = frame(game.draw(View("game", x)))
    full = frame(game.draw(View("game", true_params(game), game.evaluate(x), state=0)))
    assert empty.shape == full.shape and not np.array_equal(empty, full)


def test_the_map_can_be_played() -> None:
    session = Session(HyperGradient(BilevelInverseRL()), seed=0)
    row, column = divmod("".join(session.game.desc).index("c"), 8)
    session.move_cursor((row, column))
    session.start_stroke("lower")
    session.end_stroke()
    np.testing.assert_allclose(session.x, [0.0, 0.0, -0.1, 0.0, 0.0])
    before = session.response.objective
    session.start_climb()
    session.stop_climb()
    assert session.response.objective > before
    session.switch_seat()
    session.act(1)
    assert session.game.scene(view(session)).follower is not None
