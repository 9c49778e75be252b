"""First-order penalty: what its estimate means, its noise, and what both learners see."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs.markov_game import BilevelMarkovGame
from bilevel_gym.methods import make_method
from bilevel_gym.model.objectives import DiscountedReturn, PolicyCost, Sum, TruncatedReturn

from .helpers import refusals
from .small_games import Moved, assert_unbiased, exact_parts, judged_game, replicates, small_game

METHOD = "first-order-penalty"


def surrogate_response(game: Any, penalty: float) -> FloatArray:
    """Return lambda times the difference of the visits of both policies, times dr/dx, exactly."""
    model, x = game.model, game.initial_upper_params
    kernel, visits = model.kernel(x), []
    for extra in (1.0 / penalty, 0.0):
        mdp = model.mdp_with(kernel, x)
        reward = mdp.reward + extra * model.upper_reward(x)
        paid = type(mdp)(kernel, reward, mdp.gamma, mdp.temperature, mdp.action_mask)
        found = solve_soft_mdp(paid)
        occupancy, _ = found.system.solve(model.initial_distribution, transpose=True)
        visits.append(occupancy[:, None] * found.policy)
    return np.asarray(model.reward_vjp(x, penalty * (visits[0] - visits[1])))


@pytest.mark.parametrize("options", [{}, {"masked": True}, {"termination": 0.3}], ids=str)
@pytest.mark.parametrize("penalty", [20.0, 1e6])
def test_the_mean_is_the_gradient_of_the_surrogate(options: dict[str, Any], penalty: float) -> None:
    game = small_game(**options)
    _, response, direct = replicates(game, METHOD, 40, episodes=2000, penalty=penalty)
    wanted = surrogate_response(game, penalty)
    assert_unbiased(response, wanted, precision=0.02, bias=2e-3)
    answer, exact = exact_parts(game)
    if penalty == 1e6:
        assert np.linalg.norm(wanted - exact) < 1e-4 * np.linalg.norm(exact)
    assert_unbiased(direct, answer.direct_gradient, precision=0.02, bias=2e-3)


def test_the_error_of_the_surrogate_falls_like_one_over_the_penalty() -> None:
    game = small_game()
    exact = exact_parts(game)[1]
    errors = [np.linalg.norm(surrogate_response(game, p) - exact) for p in (1e2, 1e3, 1e4)]
    assert errors[1] < 0.12 * errors[0] and errors[2] < 0.12 * errors[1]


@pytest.mark.parametrize("name", ["markov", "moved"])
def test_x_may_move_the_kernel_and_the_start(name: str) -> None:
    games: dict[str, Callable[[], Any]] = {
        "markov": lambda: BilevelMarkovGame(gamma=0.8, horizon=None, temperature=0.3),
        "moved": lambda: judged_game(kind=Moved, objective=DiscountedReturn()),
    }
    game = games[name]()
    exact = game.evaluate(game.initial_upper_params)
    _, response, direct = replicates(game, METHOD, 30, episodes=4000, penalty=1e6)
    found = (response + direct).reshape(30, -1)
    assert_unbiased(found, exact.hyper_gradient.ravel(), precision=0.05, bias=0.01)


@pytest.mark.parametrize("inner", ["exact", "sweeps", "certainty-equivalence", "soft-q"])
def test_the_noise_does_not_grow_with_the_penalty(inner: str) -> None:
    game = small_game(termination=0.1)
    noise = []
    for penalty in (1e3, 1e7):
        _, response, _ = replicates(game, METHOD, 8, episodes=200, penalty=penalty, inner=inner)
        noise.append(float(np.sqrt(response[2:].var(axis=0).sum())))
    assert noise[1] < 1.3 * noise[0] and noise[0] < np.linalg.norm(exact_parts(game)[1])


@pytest.mark.parametrize("options", [{"episodes": 50}, {"episodes": "auto", "most_episodes": 64}])
def test_both_learners_see_the_episodes_of_the_follower_and_the_other_plays_none(
    options: dict[str, Any],
) -> None:
    game = small_game(termination=0.2)
    method: Any = make_method(METHOD, game, inner="certainty-equivalence", **options)
    method.reset(np.random.default_rng(0))
    samples = 0
    for number in range(1, 4):
        samples += method.step(game.initial_upper_params).samples
        counts, others = (learner._counts.visits for learner in (method._learner, method._paid))
        np.testing.assert_array_equal(counts, others)
        assert counts.sum() == samples > method._learner._samples
        assert method._paid._samples == 0 < number
    twin, third = copy.deepcopy(method), pickle.loads(pickle.dumps(method))
    answers = [m.step(game.initial_upper_params).hyper_gradient for m in (method, twin, third)]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


two = Sum((DiscountedReturn(), DiscountedReturn()))
test_what_does_not_suit_is_refused = refusals(
    lambda game=None, objective=None, **options: make_method(
        METHOD, game or small_game(objective=objective), **options
    ),
    ({"objective": TruncatedReturn(4)}, TypeError, "one return with the follower's discount"),
    ({"objective": DiscountedReturn(0.5)}, TypeError, "one return with the follower's discount"),
    ({"objective": Sum((DiscountedReturn(), PolicyCost(1.0)))}, TypeError, "one return"),
    ({"objective": two}, TypeError, "one return"),
    ({"penalty": 0.0}, "`penalty` must be positive and finite, got 0.0"),
    ({"inner": "exat"}, "unknown inner learner 'exat'"),
)
