"""Linear-quadratic problems: the closed forms against recursions, quadrature and simulation.

The reference is `recursion`: value iteration backward, moments forward, term by term, without a
Riccati or Lyapunov solver. It is analytic in its matrices, so that a complex step differentiates
it to rounding (the imaginary part of f(x + ih) is h f'(x) up to h^3).
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import bilevel_gym.core.lqr as lq
from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.lqr import Coefficients, Riccati, follow, solve_riccati
from bilevel_gym.envs import BilevelEnv, LinearQuadraticEnv
from bilevel_gym.envs.linear_quadratic import EpisodeView
from bilevel_gym.methods import GaussianResponse, Response, make_method
from bilevel_gym.model.linear_quadratic import LinearQuadraticModel
from bilevel_gym.optimizers import normalized_ascent
from bilevel_gym.testing import check_hyper_gradient

from .helpers import FloatArray

GAMES = ("BilevelThermal-v0", "BilevelLQR-v0")
every_game = pytest.mark.parametrize("env_id", GAMES)
GAMMA, TEMPERATURE = 0.9, 0.3


def game_of(env_id: str, **kwargs: Any) -> LinearQuadraticEnv:
    """Return a game without its seats."""
    game = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(game, LinearQuadraticEnv)
    return game


def some_x(game: BilevelEnv, seed: int = 0) -> FloatArray:
    """Return an x well inside the box."""
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    share: FloatArray = np.random.default_rng(seed).uniform(0.1, 0.9, low.shape)
    return low + share * (high - low)


def random_problem(num_states: int = 3, num_actions: int = 2, seed: int = 0) -> Coefficients:
    """Return matrices without any structure, the dynamics unstable where nothing is done."""
    rng = np.random.default_rng(seed)
    dynamics = rng.standard_normal((num_states, num_states))
    dynamics *= 1.1 / np.abs(np.linalg.eigvals(dynamics)).max()
    factors = (rng.standard_normal((n, n)) for n in (num_states, num_actions))
    costs = [factor @ factor.T + 0.1 * np.eye(len(factor)) for factor in factors]
    return Coefficients(dynamics, rng.standard_normal((num_states, num_actions)), *costs)


def other_costs(num_states: int = 3, num_actions: int = 2) -> dict[str, FloatArray]:
    """Return what the leader judges by, and where the follower starts, without structure."""
    rng = np.random.default_rng(9)
    sizes = {
        "cost_of_state": num_states,
        "cost_of_action": num_actions,
        "start": num_states,
        "noise": num_states,
    }
    factors = {name: rng.standard_normal((n, n)) for name, n in sizes.items()}
    return {name: factor @ factor.T for name, factor in factors.items()}


def recursion(
    problem: Coefficients,
    others: dict[str, FloatArray],
    *,
    gamma: float = GAMMA,
    temperature: float = TEMPERATURE,
    horizon: int | None = None,
    policy: tuple[Any, Any] | None = None,
) -> Any:
    """Return the cost of the follower's answer by brute force; complex matrices are welcome."""
    dynamics, control, state_cost, action_cost = problem
    if policy is None:
        value = np.zeros_like(state_cost)
        for _ in range(200 if len(state_cost) < 4 else 600):  # until rounding
            curvature = action_cost + gamma * control.T @ value @ control
            gain = np.linalg.solve(curvature, gamma * control.T @ value @ dynamics)
            loop = dynamics - control @ gain
            value = state_cost + gain.T @ action_cost @ gain + gamma * loop.T @ value @ loop
        policy = gain, 0.5 * temperature * np.linalg.inv(curvature)
    gain, covariance = policy
    loop = dynamics - control @ gain
    moment, total = others["start"], 0.0
    for t in range(600 if horizon is None else horizon):
        actions = gain @ moment @ gain.T + covariance
        per_step = (others["cost_of_state"] * moment).sum()
        total = total + gamma**t * (per_step + (others["cost_of_action"] * actions).sum())
        moment = loop @ moment @ loop.T + control @ covariance @ control.T + others["noise"]
    return total


def by_complex_step(function: Any, at: FloatArray) -> FloatArray:
    """Return the gradient of an analytic function, shape of its argument."""
    gradient = np.zeros(at.shape)
    for entry in np.ndindex(at.shape):
        moved = at.astype(complex)
        moved[entry] += 1e-30j
        gradient[entry] = np.imag(function(moved)) / 1e-30
    return gradient


def answered(problem: Coefficients, gamma: float = GAMMA) -> tuple[Riccati, FloatArray]:
    """Return the follower's optimum, and the covariance of its policy."""
    riccati = solve_riccati(problem, gamma)
    return riccati, lq.policy_covariance(riccati, TEMPERATURE)


# The follower's problem --------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99])
def test_the_riccati_equation_is_solved_as_value_iteration_solves_it(gamma: float) -> None:
    problem = random_problem()
    riccati = solve_riccati(problem, gamma)
    value = np.zeros((3, 3))
    for _ in range(4000):
        value, _, gain = lq.riccati_step(problem, gamma, value)
    np.testing.assert_allclose(riccati.value_matrix, value, rtol=1e-11)
    np.testing.assert_allclose(riccati.gain, gain, atol=1e-11)
    assert riccati.converged and riccati.residual <= 1e-13 * np.abs(value).max()


def test_the_solution_is_exact_where_weights_differ_by_orders_of_magnitude() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(1, 13))
        problem = random_problem(size, int(rng.integers(1, 4)), seed)
        scale = np.diag(10.0 ** rng.uniform(-3.0, 3.0, size))
        problem = problem._replace(state_cost=scale @ problem.state_cost @ scale)
        riccati = solve_riccati(problem, 0.95)
        again = solve_riccati(problem, 0.95, initial=riccati.value_matrix)
        assert riccati.converged and again.converged and again.iterations == 0


def test_the_soft_bellman_equation_holds_by_quadrature() -> None:
    problem, noise = random_problem(), np.diag([0.2, 0.1, 0.4])
    riccati, covariance = answered(problem)
    constant = lq.soft_value_constant(riccati, GAMMA, TEMPERATURE, noise)

    def soft_value(states: FloatArray) -> FloatArray:
        value: FloatArray = constant - np.einsum(
            "...i,ij,...j", states, riccati.value_matrix, states
        )
        return value

    # Two points per direction integrate a quadratic over Gaussian noise; the trapezoidal rule
    # integrates a Gaussian to rounding.
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    shocks = signs @ np.linalg.cholesky(noise).T
    grid = np.linspace(-9.0, 9.0, 61)
    spread = np.linalg.cholesky(covariance)
    offsets = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2) @ spread.T
    cell = (grid[1] - grid[0]) ** 2 * np.linalg.det(spread)
    for state in np.random.default_rng(1).normal(scale=2.0, size=(5, 3)):
        actions = offsets - riccati.gain @ state
        means = problem.dynamics @ state + actions @ problem.control.T
        reward = -state @ problem.state_cost @ state - np.einsum(
            "ni,ij,nj->n", actions, problem.action_cost, actions
        )
        worth = reward + GAMMA * soft_value(means[:, None] + shocks).mean(axis=1)
        top = worth.max()
        total = np.exp((worth - top) / TEMPERATURE).sum() * cell
        assert soft_value(state) == pytest.approx(top + TEMPERATURE * math.log(total), rel=1e-10)
        # exp((Q - V) / tau) is the density of the Gaussian policy.
        density = np.exp((worth - soft_value(state)) / TEMPERATURE)
        exponent = -0.5 * (np.linalg.solve(spread, offsets.T) ** 2).sum(axis=0)
        normal = np.exp(exponent) / (2.0 * math.pi * np.linalg.det(spread))
        np.testing.assert_allclose(density, normal, atol=1e-9 * normal.max())


def test_a_warm_start_gives_the_same_answer_in_fewer_steps() -> None:
    problem = random_problem()
    cold = solve_riccati(problem, GAMMA)
    near = solve_riccati(problem._replace(dynamics=1.001 * problem.dynamics), GAMMA)
    warm = solve_riccati(problem, GAMMA, initial=near.value_matrix)
    np.testing.assert_allclose(warm.value_matrix, cold.value_matrix, rtol=1e-12)
    assert solve_riccati(problem, GAMMA, initial=cold.value_matrix).iterations == 0
    # A start whose policy lets costs grow without bound is left alone.
    hopeless = solve_riccati(
        problem._replace(dynamics=1.5 * problem.dynamics), GAMMA, initial=np.zeros((3, 3))
    )
    assert hopeless.converged


def test_a_warm_start_from_afar_is_as_good_although_its_first_step_raises_the_residual() -> None:
    game = game_of("BilevelThermal-v0")
    far = game.evaluate(game.initial_upper_params)
    x = np.full(8, 1e-3)
    problem = game.model.coefficients(x)
    first, last = (
        solve_riccati(problem, 0.9, initial=far.value_matrix, max_iterations=n) for n in (1, 200)
    )
    start = np.abs(lq.riccati_step(problem, 0.9, far.value_matrix)[0] - far.value_matrix).max()
    assert first.residual > start and last.converged
    cold = solve_riccati(problem, 0.9)
    np.testing.assert_allclose(last.value_matrix, cold.value_matrix, rtol=1e-9)


def test_newton_steps_stop_at_the_tolerance_or_at_the_limit() -> None:
    problem = random_problem()
    exact = solve_riccati(problem, GAMMA).value_matrix
    start = exact + 0.05 * np.eye(3)
    loose = solve_riccati(problem, GAMMA, initial=start, tolerance=1e-3)
    tight = solve_riccati(problem, GAMMA, initial=start)
    assert 0 < loose.iterations < tight.iterations and loose.residual <= 1e-3
    stopped = solve_riccati(problem, GAMMA, initial=start, tolerance=1e-14, max_iterations=1)
    assert stopped.iterations == 1 and not stopped.converged


@pytest.mark.parametrize("pole", [1.06, 1.5])
def test_no_finite_value_is_an_error_that_says_so(pole: float) -> None:
    # The second state is out of reach, and 0.9 * 1.06^2 > 1.
    problem = Coefficients(
        np.diag([0.5, pole]), np.array([[1.0], [0.0]]), np.eye(2), np.array([[1.0]])
    )
    with pytest.raises(ArithmeticError, match="value is infinite: no policy .* gamma = 0.9"):
        solve_riccati(problem, 0.9)
    # A discount that is low enough makes up for it.
    assert solve_riccati(problem, 0.9 / pole**2).converged


@pytest.mark.parametrize("size", [1, 3, 8, 9])
def test_discounted_sums_are_the_sums_that_they_stand_for(size: int) -> None:
    rng = np.random.default_rng(size)
    loop = rng.standard_normal((size, size))
    loop *= 1.04 / np.abs(np.linalg.eigvals(loop)).max()  # unstable, but for the discount
    factor = rng.standard_normal((size, size))
    term, total = factor @ factor.T, np.zeros((size, size))
    for _ in range(3000):
        total += term
        term = 0.9 * loop @ term @ loop.T
    found = lq.discounted_sum(loop, 0.9, factor @ factor.T)
    np.testing.assert_allclose(found, total, rtol=1e-10, atol=1e-10 * np.abs(total).max())


# Objective and derivatives -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "horizon"),
    [((3, 2), None), ((3, 2), 1), ((3, 2), 2), ((3, 2), 25), ((1, 1), None), ((9, 1), None)],
    ids=str,
)
def test_cost_and_all_derivatives_are_those_of_the_recursion(
    size: tuple[int, int], horizon: int | None
) -> None:
    problem, others = random_problem(*size), other_costs(*size)
    riccati, covariance = answered(problem)
    flow = follow(problem, riccati.gain, covariance, GAMMA, horizon=horizon, **others)
    actions = lq.action_moments(flow, riccati.gain, covariance)
    cost = (others["cost_of_state"] * flow.moments).sum()
    cost += (others["cost_of_action"] * actions).sum()
    assert cost == pytest.approx(recursion(problem, others, horizon=horizon), rel=1e-10)

    policy = riccati.gain, covariance
    fixed = lq.cost_gradient(problem, riccati.gain, covariance, flow)
    through = lq.response_gradient(
        problem, riccati, GAMMA, TEMPERATURE, flow, others["cost_of_action"]
    )
    for number, name in enumerate(Coefficients._fields):
        if problem[number].size > 9:
            continue  # of many states the small matrices are enough
        direct = by_complex_step(
            lambda matrix, name=name: recursion(
                problem._replace(**{name: matrix}), others, horizon=horizon, policy=policy
            ),
            problem[number],
        )
        known = fixed[number] if number < 2 else np.zeros_like(direct)
        scale = max(1.0, float(np.abs(direct).max()))
        np.testing.assert_allclose(known, direct, rtol=1e-9, atol=1e-10 * scale)
        total = by_complex_step(
            lambda matrix, name=name: recursion(
                problem._replace(**{name: matrix}), others, horizon=horizon
            ),
            problem[number],
        )
        response = through[number]
        if number >= 2:  # costs are symmetric: derivatives along symmetric changes count
            response, total = response + response.T, total + total.T
        scale = float(np.abs(total).max())
        np.testing.assert_allclose(response, total - direct, rtol=1e-8, atol=1e-9 * scale)


@every_game
@pytest.mark.parametrize("horizon", [None, 12])
def test_the_hyper_gradient_is_that_of_the_recursion(env_id: str, horizon: int | None) -> None:
    game = game_of(env_id, horizon=horizon)
    x = some_x(game)
    answer = game.evaluate(x)
    others = {
        "cost_of_state": game.model.upper_state_cost,
        "cost_of_action": game.model.upper_action_cost,
        "start": game.model.start_covariance,
        "noise": game.model.noise_covariance,
    }
    weight = (1.0 - game.gamma ** (horizon or 10**6)) / (1.0 - game.gamma)

    def objective(y: Any, policy: Any = None) -> Any:
        cost = recursion(
            game.model.coefficients(y),
            others,
            gamma=game.gamma,
            temperature=game.temperature,
            horizon=horizon,
            policy=policy,
        )
        return -cost - game.model.upper_cost * weight * (y * y).sum()

    assert answer.objective == pytest.approx(objective(x), rel=1e-10)
    total = by_complex_step(objective, x)
    norm = np.linalg.norm(total)
    assert np.linalg.norm(answer.hyper_gradient - total) <= 1e-10 * norm
    policy = answer.gain, answer.covariance
    direct = by_complex_step(lambda y: objective(y, policy), x)
    assert np.linalg.norm(answer.direct_gradient - direct) <= 1e-10 * norm


# The games ---------------------------------------------------------------------------------------


@every_game
def test_episodes_of_the_policy_are_worth_what_the_closed_form_says(env_id: str) -> None:
    game = game_of(env_id, gamma=0.8)
    x = some_x(game)
    answer = game.evaluate(x)
    seat = LowerLevel(game, x)
    rng, returns = np.random.default_rng(0), []
    seat.reset(seed=1)
    for _ in range(400):
        state, _ = seat.reset()
        total, discount = np.zeros(2), 1.0
        while discount > 1e-4:
            state, reward, _, _, info = seat.step(answer.draw_action(state, rng))
            total += discount * np.array([reward, info["upper_reward"]])
            discount *= game.gamma
        returns.append(total)
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
    error = np.abs(np.mean(returns, axis=0) - exact)
    spread = np.std(returns, axis=0) / math.sqrt(len(returns))
    assert (error < 4.0 * spread + 1e-3).all(), (error, spread)
    assert (spread < 0.08 * np.abs(exact)).all()


@every_game
def test_a_step_is_the_model(env_id: str) -> None:
    game = game_of(env_id, noise_std=0.0)
    x = some_x(game)
    problem = game.model.coefficients(x)
    state, info = game.reset(seed=0)
    assert info == {} and state in game.observation_space
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
    x = some_x(game)
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
    with pytest.raises(TypeError, match="GaussianResponse, got Response"):
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
    x = some_x(game)
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
def test_methods_ask_the_game_what_it_can_do(env_id: str) -> None:
    game = game_of(env_id)
    x = some_x(game)
    exact, direct, zero = (make_method(name, game) for name in ("exact", "direct", "zero-order"))
    for method in (exact, direct, zero):
        method.reset(np.random.default_rng(0))
    answer, control, estimate = (method.step(x) for method in (exact, direct, zero))
    np.testing.assert_array_equal(control.hyper_gradient, answer.direct_gradient)
    assert isinstance(estimate, GaussianResponse) and estimate.direct_gradient is None
    assert estimate.objective == answer.objective
    gradient = estimate.hyper_gradient
    assert gradient is not None and answer.hyper_gradient is not None
    sizes = np.linalg.norm(gradient) * np.linalg.norm(answer.hyper_gradient)
    assert gradient @ answer.hyper_gradient > 0.5 * sizes
    assert HyperGradient(game, method="exact", tolerance=1e-3).reset(seed=0)[1]["inner_converged"]
    with pytest.raises(TypeError, match="unknown option for an exact Bilevel.*: 'solver'"):
        HyperGradient(game, solver="dense")
    with pytest.raises(ValueError, match="'m-sobirl'; accepted: 'direct', 'exact', 'zero-order'"):
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
    with pytest.raises(
        ValueError, match="`warm_start` must be a response of a model with 4 states"
    ):
        game.evaluate(x, warm_start=stranger.evaluate(stranger.initial_upper_params))


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


@every_game
@pytest.mark.parametrize("steps", [None, 0, 1, 60])
def test_every_seat_can_be_drawn(env_id: str, steps: int | None) -> None:
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    if steps is not None:
        env = LowerLevel(env, env.unwrapped.initial_upper_params)  # type: ignore[attr-defined]
        env.reset(seed=0)
        for _ in range(steps):
            env.step(np.full(2, 0.5))
    picture: Any = env.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 10.0


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
    model = scalar_model()
    x = model.validate([0.2])
    answer = model.respond(x)
    step = 1e-4
    ahead, behind = (model.respond(model.validate(x + d)).objective for d in (step, -step))
    assert answer.hyper_gradient[0] == pytest.approx((ahead - behind) / (2.0 * step), rel=1e-6)

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        found = model.respond(model.validate(x))
        return found.objective, found.hyper_gradient

    end = normalized_ascent(
        objective, model.initial_upper_params, model.low, model.high, steps=60, learning_rate=0.05
    )
    grid = [
        model.respond(model.validate([share])).objective for share in np.linspace(-0.5, 0.5, 41)
    ]
    assert end.best.value >= max(grid) - 1e-9 > model.respond(model.initial_upper_params).objective


@pytest.mark.parametrize("make", [Scalar, lambda: LinearQuadraticEnv(scalar_model())])
def test_a_model_becomes_a_game_with_equal_answers(make: Callable[[], LinearQuadraticEnv]) -> None:
    game, model = make(), scalar_model()
    answer, expected = game.evaluate([0.2]), model.respond(model.validate([0.2]))
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(answer, name), value)
    assert check_hyper_gradient(HyperGradient(game)).relative_error < 1e-8
    state, _ = game.reset(seed=0, options={"upper_params": [0.2]})
    _, reward, *_ = game.step({"upper": [0.2], "lower": [0.5]})
    assert reward == pytest.approx(float(model.reward(np.array([0.2]), state, np.array([0.5]))))
    for copy in (pickle.loads(pickle.dumps(game)), deepcopy(game)):
        assert copy.model.respond(copy.model.initial_upper_params).objective == (
            model.respond(model.initial_upper_params).objective
        )
        with pytest.raises(ValueError, match="read-only"):
            copy.model.initial_upper_params[0] = 1.0
    with pytest.raises(RuntimeError, match="has no picture"):
        game.draw(game.view())


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
        ({"low": [0.5]}, r"`low` must be below `high` .* got \[0.5\] and \[0.5\]"),
        ({"high": [np.inf]}, "both finite"),
        ({"initial_upper_params": [0.6]}, r"`initial_upper_params\[0\]` must be finite and lie"),
        ({"upper_action_cost": np.eye(2)}, r"return `control` with shape \(1, 2\), .* \(1, 1\)"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scalar_model(**options)
    with pytest.raises(ValueError, match="`action_limit`"):
        LinearQuadraticEnv(scalar_model(), action_limit=0.0)


def test_clipped_states_are_another_game_without_an_exact_answer() -> None:
    game = LinearQuadraticEnv(scalar_model(state_limit=1.5))
    seat = LowerLevel(game, [0.0])
    states = [seat.reset(seed=0)[0]] + [seat.step([1.0])[0] for _ in range(20)]
    assert max(float(state[0]) for state in states) == 1.5
    assert all(state in seat.observation_space for state in states)
    assert game.view().response is None
    with pytest.raises(TypeError, match="no exact answer with clipped states"):
        game.evaluate([0.0])
