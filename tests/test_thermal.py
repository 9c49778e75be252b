"""BilevelThermal-v0: its published numbers, its matrices, and the box in which it has an answer."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import LowerLevel
from bilevel_gym.envs import BilevelThermal

ID = "BilevelThermal-v0"
BEST = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.7785, 1.0, 1.0])


def test_the_start_has_the_known_values() -> None:
    game, start = BilevelThermal(), np.full(8, 0.5)
    np.testing.assert_array_equal(game.initial_upper_params, start)
    answer = game.evaluate(start)
    assert answer.objective == pytest.approx(-261.963133, abs=6e-7)
    assert np.linalg.norm(answer.hyper_gradient) == pytest.approx(110.799, abs=6e-4)
    assert np.linalg.norm(answer.direct_gradient) == pytest.approx(97.007, abs=6e-4)
    objective = BilevelThermal(horizon=100).evaluate(start).objective
    assert objective == pytest.approx(-261.963014, abs=6e-7)


def test_the_best_known_building_has_the_known_value() -> None:
    game = BilevelThermal()
    assert game.evaluate(BEST).objective == pytest.approx(-162.503, abs=6e-4)
    assert game.best_known is not None
    np.testing.assert_allclose(game.best_known.upper_params, BEST, atol=6e-5)
    # At the best x known the gradient points out of the box, or is zero.
    gradient = game.evaluate(game.best_known.upper_params).hyper_gradient
    at_low, at_high = game.best_known.upper_params == 0.0, game.best_known.upper_params == 1.0
    assert (gradient[at_low] < 0.0).all() and (gradient[at_high] > 0.0).all()
    assert np.abs(gradient[~at_low & ~at_high]).max() < 1e-3
    assert BilevelThermal(upper_cost=0.2).best_known is None


def test_the_dynamics_are_the_published_ones() -> None:
    game = BilevelThermal()
    x = np.array([0.0, 0.25, 0.5, 1.0, 1.0, 0.5, 0.2, 0.1])
    expected = np.array(
        [
            [1.0 + 0.04 - 0.05 - 0.005, 0.05, 0.0, 0.005],
            [0.03, 1.0 + 0.0225 - 0.03 - 0.02, 0.02, 0.0],
            [0.0, 0.02, 1.0 + 0.03 - 0.02 - 0.012, 0.012],
            [0.005, 0.0, 0.006, 1.0 - 0.005 - 0.006],
        ]
    )
    np.testing.assert_allclose(game.coefficients(x).dynamics, expected, atol=1e-15)
    # Air that flows moves heat about, and makes none.
    rows = game.coefficients(x).dynamics.sum(axis=1)
    np.testing.assert_allclose(rows, 1.0 + np.array([0.04, 0.03, 0.06, 0.05]) * (1.0 - x[:4]))


def test_the_leader_pays_for_the_variance_over_zones_and_for_energy() -> None:
    game = BilevelThermal(energy_cost=0.25)
    states = np.random.default_rng(0).normal(size=(5, 4))
    actions = np.random.default_rng(1).normal(size=(5, 2))
    expected = -states.var(axis=1) - 0.25 * (actions**2).sum(axis=1)
    np.testing.assert_allclose(game.model.upper_reward(states, actions), expected, rtol=1e-13)


def test_another_discount_may_leave_the_follower_without_an_answer() -> None:
    game = BilevelThermal(gamma=0.999)
    # Zones 1 and 2 grow at the same pace: what their control cannot tell apart, it cannot stop.
    x = [0.25, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ArithmeticError, match=r"`upper_params` = \[0.25, .*value is infinite"):
        game.evaluate(x)
    assert BilevelThermal().evaluate(x).converged


def test_the_clipped_variant_never_gives_an_exact_answer() -> None:
    env = gym.make(ID, clipped=True)
    with pytest.raises(TypeError, match="no exact answer with clipped states .*30"):
        env.reset(seed=0)
    assert BilevelThermal(clipped=True).best_known is None
    states = []
    for seat in (LowerLevel(env, np.full(8, 0.5)), LowerLevel(gym.make(ID), np.full(8, 0.5))):
        seat.reset(seed=0)
        states.append(np.array([seat.step([100.0, -100.0])[0] for _ in range(20)]))
        assert all(state in seat.observation_space for state in states[-1])
    assert states[0].max() == 30.0 and states[0].min() == -30.0
    # The exact variant goes where the dynamics lead.
    assert np.abs(states[1]).max() > 30.0
