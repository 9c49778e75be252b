"""Linear-quadratic models, and the games that are played with them."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.lqr import Coefficients
from bilevel_gym.envs import LinearQuadraticEnv
from bilevel_gym.envs.linear_quadratic import EpisodeView
from bilevel_gym.methods import GaussianResponse, Response, make_method
from bilevel_gym.methods.direct import Direct
from bilevel_gym.methods.exact import Exact
from bilevel_gym.methods.zero_order import ZeroOrder
from bilevel_gym.model import evaluate
from bilevel_gym.model.linear_quadratic import LinearQuadraticModel
from bilevel_gym.optimizers import normalized_ascent
from bilevel_gym.testing import check_hyper_gradient
from bilevel_gym.wrappers import exact_objective

from .helpers import FloatArray, discounted_returns, interior_point, refusals

GAMES = ("BilevelThermal-v0", "BilevelLQR-v0")
every_game = pytest.mark.parametrize("env_id", GAMES)


def game_of(env_id: str, **kwargs: Any) -> LinearQuadraticEnv:
    """Return a game without its seats."""
    game = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(game, LinearQuadraticEnv)
    return game


@every_game
def test_returns_of_episodes_agree_with_the_closed_form(env_id: str) -> None:
    game = game_of(env_id, gamma=0.8)
    x = interior_point(game)
    answer = game.evaluate(x)
    seat = LowerLevel(game, x)
    rng = np.random.default_rng(0)
    seat.reset(seed=1)
    act = partial(answer.draw_action, rng=rng)
    mean, spread = (found[:2] for found in discounted_returns(seat, act, game.gamma, 400))
    # The soft value is the return and the discounted entropy, which is the same in all states.
    size = game.model.num_actions
    _, log_determinant = np.linalg.slogdet(answer.covariance)
    entropy = 0.5 * (size * math.log(2.0 * math.pi * math.e) + log_determinant)
    exact = np.array(
        [
            answer.lower_value - game.temperature * entropy / (1.0 - game.gamma),
            answer.objective + game.model.upper_cost * (x * x).sum() / (1.0 - game.gamma),
        ]
    )
    assert (np.abs(mean - exact) < 4.0 * spread + 1e-3).all(), (mean, exact, spread)
    assert (spread < 0.08 * np.abs(exact)).all()


@every_game
def test_a_step_is_the_model(env_id: str) -> None:
    game = game_of(env_id, noise_std=0.0)
    x = interior_point(game)
    problem = game.model.coefficients(x)
    state, info = game.reset(seed=0)
    assert info == {"upper_reward": 0.0} and state in game.observation_space
    for action in np.random.default_rng(0).normal(size=(20, game.model.num_actions)):
        expected = problem.dynamics @ state + problem.control @ action
        reward = game.model.reward(x, state, action)
        upper_reward = game.model.upper_reward(state, action)
        state, received, terminated, truncated, info = game.step({"upper": x, "lower": action})
        np.testing.assert_array_equal(state, expected)
        assert received == pytest.approx(float(reward), rel=1e-13)
        assert info == {"upper_reward": pytest.approx(float(upper_reward), rel=1e-13)}
        assert (terminated, truncated) == (False, False)


@every_game
def test_noise_and_first_states_have_the_spread_that_the_model_says(env_id: str) -> None:
    game = game_of(env_id, noise_std=0.5, start_std=3.0)
    x = interior_point(game)
    game.reset(seed=3)
    first = np.array([game.reset()[0] for _ in range(600)])
    problem, noise = game.model.coefficients(x), []
    state = game.reset()[0]
    still = np.zeros(game.model.num_actions)
    for _ in range(600):
        successor, *_ = game.step({"upper": x, "lower": still})
        noise.append(successor - problem.dynamics @ state)
        state = successor
    for drawn, spread in ((first, 3.0), (np.array(noise), 0.5)):
        covariance = drawn.T @ drawn / len(drawn) / spread**2
        # Five standard errors of entries of a sample covariance.
        assert np.abs(covariance - np.eye(game.model.num_states)).max() < 5.0 * math.sqrt(2.0 / 600)


@every_game
def test_the_leader_sees_how_much_states_and_actions_move(env_id: str) -> None:
    env = gym.make(env_id)
    game = game_of(env_id)
    observation, _ = env.reset(seed=0)
    answer = game.evaluate(game.initial_upper_params)
    states, actions = game.model.spread_over_time(answer, 800)
    discounts = (1.0 - game.gamma) * game.gamma ** np.arange(801)
    squares = np.concatenate([discounts @ states**2, discounts @ actions**2])
    np.testing.assert_allclose(observation, np.sqrt(squares), rtol=1e-6)
    assert observation.dtype == np.float32
    with pytest.raises(TypeError, match="GaussianResponse.*got Response"):
        game.observe(Response(upper_params=np.zeros(1), objective=0.0))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0, 1e9], r"`action\[1\]` must be finite and lie in \[-100.0, 100.0\]"),
        ([np.nan, 0.0], r"`action\[0\]` must be finite"),
        ([0.0], r"`action` must have shape \(2,\), got \(1,\)"),
        ("up", "`action` must be an array of real numbers"),
    ],
)
def test_an_action_out_of_range_is_refused_and_changes_nothing(action: Any, message: str) -> None:
    game, twin = game_of(GAMES[0]), game_of(GAMES[0])
    x = interior_point(game)
    for one in (game, twin):
        one.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        game.step({"upper": x, "lower": action})
    with pytest.raises(ValueError, match="upper_params"):
        game.step({"upper": x + 9.0, "lower": [0.0, 0.0]})
    assert game.elapsed_steps == 0
    ours, theirs = (one.step({"upper": x, "lower": [1.0, 2.0]}) for one in (game, twin))
    np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_step_before_the_first_reset_is_refused() -> None:
    game = game_of(GAMES[1])
    with pytest.raises(ResetNeeded, match="before its first `reset`"):
        game.step({"upper": game.initial_upper_params, "lower": [0.0, 0.0]})
    with pytest.raises(ValueError, match="unknown reset option 'x'; accepted: 'upper_params'"):
        game.reset(options={"x": 1})


def test_a_state_beyond_all_numbers_is_an_error_and_not_an_infinite_reward() -> None:
    game = game_of(GAMES[1], dynamics=[[5.0]], control=[[1.0]])
    game.reset(seed=0)
    x = game.initial_upper_params
    with pytest.raises(OverflowError, match="call `reset`"):
        for _ in range(1000):
            _, reward, *_ = game.step({"upper": x, "lower": [0.0]})
            assert np.isfinite(reward)
    elapsed = game.elapsed_steps
    with pytest.raises(OverflowError):
        game.step({"upper": x, "lower": [0.0]})
    assert game.elapsed_steps == elapsed
    game.reset()
    assert np.isfinite(game.step({"upper": x, "lower": [0.0]})[1])


@every_game
def test_options_and_methods_that_do_not_suit_are_named(env_id: str) -> None:
    game = game_of(env_id)
    assert HyperGradient(game, method="exact", tolerance=1e-3).reset(seed=0)[1]["inner_converged"]
    with pytest.raises(TypeError, match="unknown option for an exact Bilevel.*: 'solver'"):
        HyperGradient(game, solver="dense")
    said = "'m-sobirl' does not suit.*continuous; methods that do: 'annealed', 'direct', 'exact'"
    with pytest.raises(TypeError, match=said):
        make_method("m-sobirl", game)


@every_game
def test_bad_options_of_the_evaluation_are_named(env_id: str) -> None:
    game = game_of(env_id)
    x = game.initial_upper_params
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        game.evaluate(x, tolerance=0.0)
    with pytest.raises(ValueError, match="`max_iterations`"):
        game.evaluate(x, max_iterations=0)
    with pytest.raises(ValueError, match="`upper_params` must have shape"):
        game.evaluate(x[:-1])
    stranger = game_of("BilevelLQR-v0", num_states=2)
    with pytest.raises(ValueError, match="`warm_start` must be a response of a game with 4 states"):
        game.evaluate(x, warm_start=stranger.evaluate(stranger.initial_upper_params))


@pytest.mark.parametrize(
    ("env_id", "kwargs", "room"),
    [(GAMES[0], {}, 5.4), *((GAMES[1], {"enters": x}, 7.0) for x in ("reward", "dynamics"))],
)
def test_the_actions_of_the_exact_follower_fit_into_their_box(
    env_id: str, kwargs: dict[str, Any], room: float
) -> None:
    game, largest = game_of(env_id, **kwargs), 0.0
    low, high = game.model.low, game.model.high
    for corner in itertools.product((0.0, 1.0), repeat=low.size):
        answer = game.evaluate(low + np.array(corner) * (high - low))
        first = answer.gain @ game.model.start_covariance @ answer.gain.T + answer.covariance
        largest = max(largest, float(np.sqrt(np.diag(first)).max()))
    assert float(game.lower_space.high.min()) > room * largest  # type: ignore[attr-defined]


def test_a_picture_looks_back_on_the_episode() -> None:
    game = game_of(GAMES[0])
    seat = LowerLevel(game, game.initial_upper_params)
    view = game.view()
    assert isinstance(view, EpisodeView) and len(view.states) == 0
    states = [seat.reset(seed=0)[0]]
    states += [seat.step([0.1 * t, 0.0])[0] for t in range(130)]
    view = game.view()
    assert isinstance(view, EpisodeView)
    np.testing.assert_array_equal(view.states, states[-101:])
    assert view.actions.shape == (100, 2) and view.first_step == 30
    assert ("step", "130") in view.status
    game.draw(view)


ONE = np.ones((1, 1))


def scalar_coefficients(x: FloatArray) -> Coefficients:
    """Return the matrices of one state and one control, x added to the state's cost."""
    return Coefficients(ONE, ONE, ONE * (1.0 + x[0]), ONE)


def scalar_vjp(x: FloatArray, cotangent: Coefficients) -> FloatArray:
    """Return the derivative by x."""
    return cotangent.state_cost.ravel()


def scalar_model(of: Any = None, **options: Any) -> LinearQuadraticModel:
    """Return a model made without any environment, or of the methods of a game."""
    functions = (scalar_coefficients, scalar_vjp)
    if of is not None:
        functions = of.coefficients, of.coefficients_vjp
    chosen: dict[str, Any] = {
        "low": [-0.5],
        "high": [0.5],
        "initial_upper_params": [0.0],
        "gamma": 0.9,
        "temperature": 0.1,
        "upper_state_cost": [[1.0]],
        "upper_action_cost": [[0.5]],
        "upper_cost": 0.1,
        "noise_std": 0.1,
    }
    return LinearQuadraticModel(*functions, **{**chosen, **options})


class Scalar(LinearQuadraticEnv):
    """A task of the user's own: two methods, bound to its model."""

    def __init__(self) -> None:
        super().__init__(scalar_model(of=self), action_limit=5.0)

    def coefficients(self, upper_params: FloatArray) -> Coefficients:
        return scalar_coefficients(upper_params)

    def coefficients_vjp(self, upper_params: FloatArray, cotangent: Coefficients) -> FloatArray:
        return scalar_vjp(upper_params, cotangent)


def test_a_model_needs_no_environment() -> None:
    model, x, step = scalar_model(), np.array([0.2]), 1e-4
    answer = evaluate(model, x)
    ahead, behind = (evaluate(model, x + d).objective for d in (step, -step))
    assert answer.hyper_gradient[0] == pytest.approx((ahead - behind) / (2.0 * step), rel=1e-6)
    low, high = model.low, model.high
    end = normalized_ascent(exact_objective(model), [0.0], low, high, steps=60, learning_rate=0.05)
    grid = [evaluate(model, [x]).objective for x in np.linspace(-0.5, 0.5, 41)]
    assert end.best.value >= max(grid) - 1e-9 > evaluate(model, [0.0]).objective


def test_methods_take_a_model() -> None:
    model = scalar_model()
    x = model.validate([0.2])
    answer = model.respond(x)
    for method, gradient, error in (
        (Exact(model), answer.hyper_gradient, 0.0),
        (Direct(model), answer.direct_gradient, 0.0),
        (ZeroOrder(model, directions=2), answer.hyper_gradient, 1e-6),
    ):
        method.reset(np.random.default_rng(0))
        found = method.step(x)
        assert isinstance(found, GaussianResponse)
        assert found.objective == answer.objective and found.hyper_gradient is not None
        np.testing.assert_allclose(found.hyper_gradient, gradient, rtol=error)
    with pytest.raises(TypeError, match="LinearQuadraticModel: 'solver'; accepted: 'max_iter"):
        Exact(model, solver="dense")


@pytest.mark.parametrize("make", [Scalar, lambda: LinearQuadraticEnv(scalar_model())])
def test_a_model_becomes_a_game_with_equal_answers(make: Callable[[], LinearQuadraticEnv]) -> None:
    game, model = make(), scalar_model()
    answer, expected = game.evaluate([0.2]), evaluate(model, [0.2])
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(answer, name), value)
    assert check_hyper_gradient(HyperGradient(game)).relative_error < 1e-8
    state, _ = game.reset(seed=0, options={"upper_params": [0.2]})
    _, reward, *_ = game.step({"upper": [0.2], "lower": [0.5]})
    assert reward == pytest.approx(float(model.reward(np.array([0.2]), state, np.array([0.5]))))
    for copy in (pickle.loads(pickle.dumps(game)), deepcopy(game)):
        assert evaluate(copy.model, [0.2]).objective == expected.objective
        with pytest.raises(ValueError, match="read-only"):
            copy.model.initial_upper_params[0] = 1.0
    with pytest.raises(RuntimeError, match="has no picture"):
        game.draw(game.view())


test_arguments_out_of_range_are_named = refusals(
    scalar_model,
    ({"noise_std": -1.0}, "`noise_std`"),
    ({"start_std": np.nan}, "`start_std`"),
    ({"upper_cost": -0.1}, "`upper_cost`"),
    ({"horizon": 0}, "`horizon` must be None or an integer of at least 1, got 0"),
    ({"horizon": 2.5}, "`horizon`"),
    ({"horizon": True}, "`horizon`"),
    ({"state_limit": 0.0}, "`state_limit`"),
    ({"gamma": 1.0}, "`gamma`"),
    ({"temperature": 0.0}, "`temperature`"),
    ({"high": [0.5, 0.5]}, r"one shape, got \(1,\) and \(2,\)"),
    ({"low": [0.5]}, r"`low` must be finite and below a finite `high`, got \[0.5\]"),
    ({"high": [np.inf]}, "below a finite `high`"),
    ({"initial_upper_params": [0.6]}, r"`initial_upper_params\[0\]` must be finite and lie"),
    ({"upper_action_cost": np.eye(2)}, r"return `control` with shape \(1, 2\), .* \(1, 1\)"),
)


def test_clipped_states_are_another_game_without_an_exact_answer() -> None:
    game = LinearQuadraticEnv(scalar_model(state_limit=1.5))
    seat = LowerLevel(game, [0.0])
    states = [seat.reset(seed=0)[0]] + [seat.step([1.0])[0] for _ in range(20)]
    assert max(float(state[0]) for state in states) == 1.5
    assert all(state in seat.observation_space for state in states)
    assert game.view().response is None
    with pytest.raises(TypeError, match="no exact answer with clipped states"):
        game.evaluate([0.0])
