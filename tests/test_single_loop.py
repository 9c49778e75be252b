"""Single-loop methods: what they converge to at an x, what they follow while it moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.methods import TabularResponse, make_method

from .models import numeric_gradient, relative_error
from .test_model_based import GAMES, RETURNS, estimate, near_start, repeated

TWINS = {"pbrl-sl-value": "pbrl-value", "pbrl-sl-bellman": "pbrl-bellman"}


@pytest.mark.parametrize("name", [*GAMES, "moved"])
@pytest.mark.parametrize("method", TWINS)
def test_at_an_x_that_stays_it_becomes_what_the_double_loop_finds(method: str, name: str) -> None:
    game = {**GAMES, **RETURNS}[name]()
    x = near_start(game, share=0.02)
    single, double = make_method(method, game), make_method(TWINS[method], game, policy_steps=200)
    found, wanted = repeated(single, x, 60), repeated(double, x, 3)
    assert relative_error(estimate(found), estimate(wanted)) < 1e-5
    assert found.objective == pytest.approx(wanted.objective, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(found.policy, wanted.policy, atol=1e-9)


@pytest.mark.parametrize("name", ["markov", "masked", "moved"])
def test_the_error_falls_like_one_over_the_penalty(name: str) -> None:
    game = RETURNS[name]()
    x = near_start(game, share=0.02)
    exact, errors = game.evaluate(x), []
    for penalty in (1e3, 1e4, 1e5):
        answer = repeated(make_method("pbrl-sl-value", game, penalty=penalty), x, 30)
        errors.append(relative_error(estimate(answer), exact.hyper_gradient))
    assert errors[0] < 0.05
    assert errors[1] < 0.16 * errors[0] and errors[2] < 0.16 * errors[1]


@pytest.mark.parametrize("name", RETURNS)
def test_the_hyper_gradient_is_that_of_the_surrogate_of_both_policies(name: str) -> None:
    """It is that of f - lambda (V^pi_hat - V^pi_y) at the start, both policies fixed."""
    game, penalty = RETURNS[name](), 7.0
    method: Any = make_method("pbrl-sl-value", game, penalty=penalty)
    method.reset(np.random.default_rng(0))
    method.step(near_start(game, seed=4, share=0.1))
    x = near_start(game, share=0.02)
    answer = method.step(x)
    policies = np.exp(method._tracking), answer.policy

    def value(x: Any, policy: Any, reward: Any) -> float:
        transition = game.kernel(x).to_dense()
        flow = np.einsum("sa,sat->st", policy, transition)
        worth = np.linalg.solve(np.eye(len(flow)) - game.gamma * flow, (policy * reward).sum(1))
        return float(game.start_distribution(x) @ worth)

    def surrogate(x: Any) -> float:
        logs = [np.log(np.where(p > 0.0, p, 1.0)) for p in policies]
        soft = [value(x, p, game.reward(x) - game.temperature * log)
                for p, log in zip(policies, logs, strict=True)]  # fmt: skip
        return value(x, answer.policy, game.upper_reward(x)) - penalty * (soft[0] - soft[1])

    assert relative_error(numeric_gradient(surrogate, x, 1e-3), estimate(answer)) < 1e-7
    assert np.abs(policies[0] - policies[1]).max() > 1e-3


@pytest.mark.parametrize("method", TWINS)
def test_the_lag_of_the_policies_is_not_multiplied_by_the_penalty(method: str) -> None:
    game = BilevelGridWorld(size=4)
    errors = []
    for penalty in (1e4, 1e7):
        learner: Any = make_method(method, game, penalty=penalty)
        learner.reset(np.random.default_rng(0))
        learner.step(near_start(game, share=0.0))
        x = near_start(game, share=0.01)
        errors.append(relative_error(estimate(learner.step(x)), game.evaluate(x).hyper_gradient))
    assert errors[1] < 2.0 * errors[0] + 0.1 and errors[0] < 0.5


@pytest.mark.parametrize("method", TWINS)
def test_reset_forgets_both_policies(method: str) -> None:
    game = BilevelGridWorld(size=4)
    learner: Any = make_method(method, game)
    x = near_start(game)
    first = repeated(learner, x, 1)
    learner.step(near_start(game, seed=2))
    again: TabularResponse = learner.step(x)
    assert relative_error(estimate(again), estimate(first)) > 1e-9
    np.testing.assert_array_equal(estimate(repeated(learner, x, 1)), estimate(first))


def test_options_of_the_double_loop_are_refused() -> None:
    with pytest.raises(TypeError, match="takes no `policy_steps`.*'pbrl-value'"):
        make_method("pbrl-sl-value", BilevelGridWorld(size=4), policy_steps=3)
    with pytest.raises(ValueError, match="`penalty` must be positive and finite, got 0"):
        make_method("pbrl-sl-bellman", BilevelGridWorld(size=4), penalty=0)
