"""Temperatures that attenuate: of any method, and of the single-loop actor-critic."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import bilevel_gym
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.envs.markov_game import BilevelMarkovGame
from bilevel_gym.envs.random_mdp import BilevelRandomMDP
from bilevel_gym.methods import make_method
from bilevel_gym.methods.annealed import Annealed
from bilevel_gym.methods.slac import SLAC
from bilevel_gym.model import evaluate

from .helpers import refusals
from .models import relative_error
from .test_model_based import GAMES, RETURNS, estimate, near_start, repeated

# Any method ---------------------------------------------------------------------------------------


def test_each_step_is_exact_at_its_own_temperature() -> None:
    game = BilevelGridWorld(size=4)
    method: Any = make_method("annealed", game, attenuation=0.5, least_temperature=0.004)
    temperatures = [0.01, 0.01 / 2**0.5, 0.01 / 3**0.5, 0.005, 0.01 / 5**0.5, 0.01 / 6**0.5, 0.004]
    for attempt in range(2):  # a reset begins again
        method.reset(np.random.default_rng(attempt))
        for k, temperature in enumerate(temperatures):
            x = near_start(game, seed=k)
            found = method.step(x)
            wanted = evaluate(game.model.at_temperature(temperature), x)
            assert found.temperature == pytest.approx(temperature, rel=1e-15)
            assert found.objective == pytest.approx(wanted.objective, rel=1e-10)
            np.testing.assert_allclose(estimate(found), wanted.hyper_gradient, atol=1e-8)
            hard = game.evaluate_unregularised(x)
            assert found.unregularised_optimistic == hard.optimistic
            assert found.unregularised_pessimistic == hard.pessimistic
    assert game.model.temperature == game.temperature == 0.01


@pytest.mark.parametrize("name", ["trace", "m-sobirl", "pbrl-value", "zero-order", "direct"])
def test_other_methods_answer_at_the_temperature_of_the_step(name: str) -> None:
    game = BilevelGridWorld(size=4)
    options: dict[str, Any] = {"trace": {"episodes": 5000}, "m-sobirl": {"sweeps": 300}}
    options = options.get(name, {})
    method: Any = make_method("annealed", game, inner_method=name, inner_method_options=options)
    method.reset(np.random.default_rng(0))
    x = near_start(game)
    found = [method.step(x) for _ in range(4)]
    cold = evaluate(game.model.at_temperature(0.005), x)
    assert found[-1].temperature == pytest.approx(0.005)
    assert abs(found[-1].objective - cold.objective) < 0.2 * abs(
        cold.objective - game.evaluate(x).objective
    )


def test_the_seat_reports_the_temperature_and_f_without_entropy() -> None:
    seat = bilevel_gym.make("BilevelGridWorld-v0", method="annealed", map_name="4x4")
    _, info = seat.reset(seed=0)
    first = info["temperature"]
    _, _, _, _, info = seat.step(info["upper_params"])
    assert info["temperature"] == pytest.approx(first / 2**0.5)
    assert info["unregularised_pessimistic"] <= info["unregularised_optimistic"]
    for game in (BilevelRandomMDP(), BilevelGridWorld(size=4)):
        method: Any = make_method("annealed", game, unregularised=False)
        assert method.step(game.initial_upper_params).unregularised_optimistic is None
    # An objective that evaluates the policy otherwise has no such value.
    seat = bilevel_gym.HyperGradient(BilevelRandomMDP(), method="annealed")
    assert "unregularised_optimistic" not in seat.reset(seed=0)[1]
    # Other methods leave the temperature as it is, and say nothing of it.
    _, info = bilevel_gym.make("BilevelGridWorld-v0", map_name="4x4").reset(seed=0)
    assert not {"temperature", "unregularised_optimistic"} & set(info)


def test_a_follower_with_a_linear_policy_is_annealed_too() -> None:
    game: Any = gym.make("BilevelLQR-v0", num_states=2, num_actions=1).unwrapped
    method: Any = make_method("annealed", game, attenuation=1.0)
    x = game.initial_upper_params
    found = [method.step(x) for _ in range(3)][-1]
    wanted = evaluate(game.model.at_temperature(game.temperature / 3.0), x)
    assert found.objective == pytest.approx(wanted.objective, rel=1e-9)


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="`temperature` must be positive and finite, got 0"):
        BilevelGridWorld(size=4).model.at_temperature(0)


# The single-loop actor-critic ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"critic_step": 0.5}], ids=["whole", "half"])
@pytest.mark.parametrize("name", [*GAMES, "moved"])
def test_at_a_fixed_temperature_and_x_it_becomes_the_penalty_method(
    name: str, options: dict[str, Any]
) -> None:
    game = {**GAMES, **RETURNS}[name]()
    x = near_start(game, share=0.02)
    single = make_method("slac", game, attenuation=0.0, unregularised=False, **options)
    found = repeated(single, x, 800)
    wanted = repeated(make_method("pbrl-value", game, policy_steps=200), x, 3)
    assert relative_error(estimate(found), estimate(wanted)) < 1e-5
    assert found.objective == pytest.approx(wanted.objective, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", ["markov", "masked", "moved"])
def test_the_error_falls_like_one_over_the_penalty_at_the_least_temperature(name: str) -> None:
    game = RETURNS[name]()
    x = near_start(game, share=0.02)
    cold = 0.5 * game.temperature
    exact, errors = evaluate(game.model.at_temperature(cold), x), []
    for penalty in (1e3, 1e4, 1e5):
        method = SLAC(game.model, penalty=penalty, attenuation=1.0, least_temperature=cold)
        answer = repeated(method, x, 400)
        errors.append(relative_error(estimate(answer), exact.hyper_gradient))
        assert answer.temperature == cold
    assert errors[0] < 0.05
    assert errors[1] < 0.16 * errors[0] and errors[2] < 0.16 * errors[1]


def test_one_critic_step_and_one_policy_step_for_each_x() -> None:
    game = BilevelMarkovGame(gamma=0.8, horizon=None, temperature=0.3)
    method: Any = SLAC(game.model, critic_step=0.7, attenuation=0.5)
    method.reset(np.random.default_rng(0))
    first = near_start(game, share=0.0)
    method.step(first)
    value, log_policy = method._tracking_value.copy(), method._tracking.copy()
    x = near_start(game, share=0.05)
    method.step(x)
    tau, reward, transition = 0.3 / 2**0.5, game.reward(x), game.kernel(x).to_dense()
    policy = np.exp(log_policy)
    backed = (policy * (reward - tau * log_policy + 0.8 * transition @ value)).sum(axis=1)
    value = 0.3 * value + 0.7 * backed
    np.testing.assert_allclose(method._tracking_value, value, rtol=1e-12)
    q = (reward + 0.8 * transition @ value) / tau
    np.testing.assert_allclose(
        np.exp(method._tracking), np.exp(q) / np.exp(q).sum(axis=1, keepdims=True), rtol=1e-10
    )


def test_reset_begins_at_the_first_temperature() -> None:
    game = BilevelGridWorld(size=4)
    method, x = SLAC(game.model), near_start(game)
    first = repeated(method, x, 1)
    assert method.step(near_start(game, seed=2)).temperature == pytest.approx(0.01 / 2**0.5)
    again = repeated(method, x, 1)
    assert first.temperature == again.temperature == game.temperature == 0.01
    np.testing.assert_array_equal(estimate(first), estimate(again))


class NoModel:
    """Something that is no model."""


GRID = BilevelGridWorld(size=4).model
test_what_cannot_be_annealed_is_refused = refusals(
    lambda model=GRID, method=Annealed, **options: method(model, **options),
    ({"model": NoModel()}, TypeError, "TabularModel or a LinearQuadraticModel.*NoModel"),
    ({"model": NoModel(), "method": SLAC}, TypeError, "states and actions, got NoModel"),
    ({"attenuation": -1.0}, "`attenuation` must be finite and not negative, got -1.0"),
    ({"least_temperature": 0.02}, r"`least_temperature` must lie in \[0, 0.01\], got 0.02"),
    ({"least_temperature": 0.0}, "`least_temperature` must be positive and finite, got 0.0"),
    ({"unregularised": 1}, "`unregularised` must be True or False, got 1"),
    ({"inner_method": "exat"}, "unknown method 'exat'.*Did you mean 'exact'"),
    ({"inner_method_options": [1]}, TypeError, r"`inner_method_options` must be a dict.*\[1\]"),
    ({"inner_method_options": {"sweeps": 2}}, TypeError, "'exact' takes no `sweeps`.*'m-sobirl'"),
    ({"method": SLAC, "critic_step": 1.5}, r"`critic_step` must lie in \[0, 1\], got 1.5"),
    ({"method": SLAC, "critic_step": 0.0}, "`critic_step` must be positive and finite, got 0.0"),
    ({"method": SLAC, "penalty": 0.0}, "`penalty` must be positive and finite, got 0.0"),
)


def test_followers_who_learn_by_networks_keep_their_temperature() -> None:
    pytest.importorskip("stable_baselines3")
    with pytest.raises(TypeError, match="learns by networks.*'deep-trace'"):
        make_method("annealed", BilevelGridWorld(size=4), inner_method="deep-trace")
