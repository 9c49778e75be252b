"""Numerics of linear-quadratic control: closed forms against recursions and quadrature.

The reference is `recursion`: value iteration backward, moments forward, term by term, without a
Riccati or Lyapunov solver. It is analytic in its matrices, so that a complex step differentiates
it to rounding (the imaginary part of f(x + ih) is h f'(x) up to h^3).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import bilevel_gym.core.lqr as lq
from bilevel_gym.core.lqr import Coefficients, Riccati, follow, solve_riccati

from .helpers import FloatArray, game_below

GAMMA, TEMPERATURE = 0.9, 0.3


def random_problem(num_states: int = 3, num_actions: int = 2, seed: int = 0) -> Coefficients:
    """Return matrices without any structure, the dynamics unstable where nothing is done."""
    rng = np.random.default_rng(seed)
    dynamics = rng.standard_normal((num_states, num_states))
    dynamics *= 1.1 / np.abs(np.linalg.eigvals(dynamics)).max()
    factors = (rng.standard_normal((n, n)) for n in (num_states, num_actions))
    costs = [factor @ factor.T + 0.1 * np.eye(len(factor)) for factor in factors]
    return Coefficients(dynamics, rng.standard_normal((num_states, num_actions)), *costs)


def other_costs(num_states: int = 3, num_actions: int = 2) -> dict[str, FloatArray]:
    """Return the leader's costs, and covariances of first states and noise, without structure."""
    rng = np.random.default_rng(9)
    names = ("cost_of_state", "cost_of_action", "start", "noise")
    sizes = (num_states, num_actions, num_states, num_states)
    factors = [rng.standard_normal((size, size)) for size in sizes]
    return {name: factor @ factor.T for name, factor in zip(names, factors, strict=True)}


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
        return constant - np.einsum("...i,ij,...j", states, riccati.value_matrix, states)

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
        q = reward + GAMMA * soft_value(means[:, None] + shocks).mean(axis=1)
        top = q.max()
        total = np.exp((q - top) / TEMPERATURE).sum() * cell
        assert soft_value(state) == pytest.approx(top + TEMPERATURE * math.log(total), rel=1e-10)
        # exp((Q - V) / tau) is the density of the Gaussian policy.
        density = np.exp((q - soft_value(state)) / TEMPERATURE)
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
    # A start whose policy lets costs grow without bound is not used.
    hopeless = solve_riccati(
        problem._replace(dynamics=1.5 * problem.dynamics), GAMMA, initial=np.zeros((3, 3))
    )
    assert hopeless.converged


def test_a_warm_start_from_afar_is_as_good_although_its_first_step_raises_the_residual() -> None:
    game = game_below(gym.make("BilevelThermal-v0"))
    far = game.evaluate(game.initial_upper_params)
    problem = game.model.coefficients(np.full(8, 1e-3))
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

        def cost_at(matrix: Any, policy: Any, name: str = name) -> Any:
            moved = problem._replace(**{name: matrix})
            return recursion(moved, others, horizon=horizon, policy=policy)

        direct, total = (
            by_complex_step(partial(cost_at, policy=given), problem[number])
            for given in (policy, None)
        )
        scale = max(1.0, float(np.abs(direct).max()))
        np.testing.assert_allclose(fixed[number], direct, rtol=1e-9, atol=1e-10 * scale)
        response = through[number]
        if number >= 2:  # costs are symmetric: derivatives along symmetric changes count
            response, total = response + response.T, total + total.T
        scale = float(np.abs(total).max())
        np.testing.assert_allclose(response, total - direct, rtol=1e-8, atol=1e-9 * scale)


def test_costs_out_of_all_proportion_are_an_error_that_says_so() -> None:
    dynamics, control = np.array([[0.9, 0.3], [-0.2, 0.9]]), np.array([[0.2, 0.1], [0.8, 0.4]])
    problem = Coefficients(dynamics, control, np.diag([1e308, 0.5]), np.diag([0.5, 0.5]))
    with pytest.raises(ArithmeticError, match="the cost of the control is lost in rounding"):
        lq.riccati_step(problem, 0.9, np.diag([1e308, 1e308]))
