"""BilevelLQR-v0: random and given matrices, x in the reward or in the dynamics."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from bilevel_gym.envs import BilevelLQR
from bilevel_gym.optimizers import normalized_ascent
from bilevel_gym.testing import check_hyper_gradient
from bilevel_gym.wrappers import exact_objective

ID = "BilevelLQR-v0"


@pytest.mark.parametrize(
    ("enters", "norm", "direct", "best"),
    [("reward", 8.076933, 0.0, -27.071829), ("dynamics", 54.426342, 79.773716, -18.079125)],
)
def test_the_documented_values_are_those_of_the_default_instance(
    enters: str, norm: float, direct: float, best: float
) -> None:
    game = BilevelLQR(enters=enters)
    answer = game.evaluate(np.zeros(6))
    assert answer.objective == pytest.approx(-35.561010, abs=6e-7)
    assert np.linalg.norm(answer.hyper_gradient) == pytest.approx(norm, abs=6e-7)
    assert np.linalg.norm(answer.direct_gradient) == pytest.approx(direct, abs=6e-7)

    end = normalized_ascent(
        exact_objective(game.model),
        np.zeros(6),
        game.model.low,
        game.model.high,
        steps=150,
        learning_rate=0.05,
    )
    assert end.best.value == pytest.approx(best, abs=2e-3)
    assert game.best_known is not None
    assert game.best_known.value == pytest.approx(best, abs=6e-7)
    x = game.best_known.upper_params
    assert np.abs(x).max() < 2.0  # well inside the box
    assert np.abs(game.evaluate(x).hyper_gradient).max() < 1e-5


@pytest.mark.parametrize("enters", ["reward", "dynamics"])
@pytest.mark.parametrize(
    "kwargs", [{}, {"num_states": 2, "num_actions": 3, "seed": 5}, {"horizon": 9}], ids=str
)
def test_the_hyper_gradient_is_the_derivative_to_eight_digits(
    enters: str, kwargs: dict[str, Any]
) -> None:
    report = check_hyper_gradient(gym.make(ID, enters=enters, **kwargs))
    assert report.relative_error < 1e-8 and report.response_share > 0.1


def test_weights_scale_rows_and_columns_of_the_costs_alone() -> None:
    cost = [[2.0, 0.5], [0.5, 1.0]]
    game = BilevelLQR(num_actions=1, state_cost=cost)
    x = np.array([0.4, -0.6, 0.2])
    at, start = game.coefficients(x), game.coefficients(np.zeros(3))
    roots = np.exp(0.5 * x)
    np.testing.assert_allclose(at.state_cost, np.array(cost) * np.outer(roots[:2], roots[:2]))
    np.testing.assert_allclose(at.action_cost, [[np.exp(0.2)]])
    np.testing.assert_array_equal(at.dynamics, start.dynamics)
    np.testing.assert_array_equal(at.control, start.control)


def test_dampings_shrink_rows_and_gains_scale_columns() -> None:
    game = BilevelLQR(enters="dynamics")
    x = np.array([0.0, 0.5, 1.0, 2.0, -1.0, 1.0])
    at, start = game.coefficients(x), game.coefficients(np.zeros(6))
    np.testing.assert_allclose(at.dynamics, np.exp(-x[:4])[:, None] * start.dynamics)
    np.testing.assert_allclose(at.control, start.control * np.exp(x[4:]))
    np.testing.assert_array_equal(at.state_cost, start.state_cost)
    assert game.upper_space.low.tolist() == [0.0] * 4 + [-2.0] * 2


def test_a_seed_draws_the_same_matrices_whatever_else_is_given() -> None:
    one, other = (
        BilevelLQR(seed=3),
        BilevelLQR(seed=3, state_cost=np.diag([1.0, 2.0, 3.0, 4.0]).tolist()),
    )
    zero = np.zeros(6)
    drawn = one.coefficients(zero).dynamics
    np.testing.assert_array_equal(other.coefficients(zero).dynamics, drawn)
    np.testing.assert_array_equal(one.model.upper_state_cost, other.model.upper_state_cost)
    assert not np.array_equal(one.model.upper_state_cost, BilevelLQR(seed=4).model.upper_state_cost)
    drawn = BilevelLQR(norm=0.7).coefficients(zero).dynamics
    np.testing.assert_allclose(drawn @ drawn.T, 0.49 * np.eye(4), atol=1e-14)


def test_given_matrices_decide_the_sizes_and_survive_json() -> None:
    given: dict[str, Any] = {
        "dynamics": [[1.0, 0.1, 0.0], [0.0, 1.0, 0.1], [0.0, 0.0, 1.0]],
        "control": [[0.0], [0.0], [0.1]],
        "upper_state_cost": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    }
    env = gym.make(ID, **given)
    game = env.unwrapped
    assert isinstance(game, BilevelLQR)
    assert (game.model.num_states, game.model.num_actions) == (3, 1) and game.best_known is None
    assert env.action_space.shape == (4,)
    assert check_hyper_gradient(env).relative_error < 1e-7
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    again.reset(seed=0)
    x = np.full(4, 0.3)
    env.reset(seed=0)
    assert again.step(x)[1] == env.step(x)[1]


def test_dynamics_that_no_policy_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="`dynamics` and `control` .* value is infinite"):
        BilevelLQR(dynamics=[[2.0, 0.0], [0.0, 0.5]], control=[[0.0], [1.0]])
