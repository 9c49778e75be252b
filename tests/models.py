"""Small models with known answers, and numeric derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from bilevel_gym.core.adjoint import ResponseGradient, response_gradient
from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.core.soft import SoftSolution
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.model.objectives import Objective, Outcome, UpperValue


def symmetric_mdp(*, bonus: float, gamma: float, temperature: float) -> TabularMDP:
    """Return two states with actions stay (reward `bonus`) and move (reward zero).

    Both states have the same value, so V = temperature log(1 + exp(bonus / temperature))
    / (1 - gamma), and staying has probability 1 / (1 + exp(-bonus / temperature)).
    """
    transition = np.zeros((2, 2, 2))
    for state in range(2):
        transition[state, 0, state] = 1.0
        transition[state, 1, 1 - state] = 1.0
    reward = np.array([[bonus, 0.0], [bonus, 0.0]])
    return TabularMDP(Kernel.from_dense(transition), reward, gamma, temperature)


def random_mdp(
    seed: int,
    *,
    num_states: int = 8,
    num_actions: int = 3,
    gamma: float = 0.9,
    temperature: float = 0.1,
    termination: float = 0.05,
    masked: bool = False,
) -> TabularMDP:
    """Return a dense random MDP whose rows sum to 1 - `termination`."""
    rng = np.random.default_rng(seed)
    transition = rng.random((num_states, num_actions, num_states))
    transition *= (1.0 - termination) / transition.sum(axis=2, keepdims=True)
    mask = None
    if masked:
        mask = rng.random((num_states, num_actions)) < 0.6
        mask[:, 0] = True
        transition[~mask] = 0.0
    return TabularMDP(
        Kernel.from_dense(transition),
        rng.normal(size=(num_states, num_actions)),
        gamma,
        temperature,
        mask,
    )


def corridor(length: int, *, gamma: float = 0.99) -> TabularMDP:
    """Return a line of cells, numbered at random, with a reward at one end."""
    rng = np.random.default_rng(0)
    label = rng.permutation(length)
    cells = np.arange(length)
    left, right = np.maximum(cells - 1, 0), np.minimum(cells + 1, length - 1)
    successors = label[np.concatenate([left, right, right, left])]
    chances = np.tile(np.repeat([0.875, 0.125], length), 2)
    triplets = (np.tile(label, 4), np.repeat([0, 1], 2 * length), successors, chances)
    kernel = Kernel.from_triplets(*triplets, num_states=length, num_actions=2)
    reward = np.zeros((length, 2))
    reward[label[-1]] = 1.0
    return TabularMDP(kernel, reward, gamma, 0.05)


def grid(side: int, **options: Any) -> TabularMDP:
    """Return the follower's problem on a random map of `BilevelGridWorld`."""
    game = BilevelGridWorld(size=side, map_seed=3, temperature=0.01, **options)
    x = 0.05 * np.random.default_rng(0).uniform(-1, 1, game.upper_space.shape)
    return game.model.lower_mdp(x)


MODELS = {
    "dense rows": random_mdp(1, num_states=30, temperature=0.05),
    "masked": random_mdp(2, num_states=30, masked=True, temperature=0.05),
    "corridor": corridor(40),
    "grid": grid(9),
    "no future": random_mdp(3, gamma=0.0),
}


def evaluated(
    objective: Objective, solution: SoftSolution, upper_reward: FloatArray, rho: FloatArray
) -> UpperValue:
    """Return an objective at an answer; x, which it does not look at, is zero."""
    return objective.evaluate(Outcome(solution, np.zeros(1), upper_reward, rho))


def answer_to(solution: SoftSolution, upper: UpperValue) -> ResponseGradient:
    """Return the gradient of an objective through an answer."""
    return response_gradient(
        solution,
        upper.policy,
        log_policy_gradient=upper.log_policy,
        policy_gradient_error=upper.policy_error,
    )


def central_difference(function: Callable[[float], float], step: float) -> float:
    """Return the fourth-order central difference of a function of one number at zero."""
    near = function(step) - function(-step)
    far = function(2.0 * step) - function(-2.0 * step)
    return (8.0 * near - far) / (12.0 * step)


def relative_error(numeric: FloatArray, analytic: FloatArray) -> float:
    """Return ||numeric - analytic|| / ||analytic||."""
    return float(np.linalg.norm(numeric - analytic) / np.linalg.norm(analytic))


def direct_objective(game: Any) -> Callable[[FloatArray], tuple[float, FloatArray]]:
    """Return a game's objective with the direct part of its gradient as a function of x."""

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        response = game.evaluate(x)
        return response.objective, response.direct_gradient

    return objective


def assert_products(kernel: Kernel, dense: FloatArray) -> None:
    """Assert that all products of a kernel are those of a dense one, `[S, A, S]`."""
    num_states, num_actions, _ = dense.shape
    rng = np.random.default_rng(2)
    value: FloatArray = rng.normal(size=(num_states,))
    weights: FloatArray = rng.normal(size=(num_states, num_actions))
    policy = rng.dirichlet(np.ones(num_actions), size=num_states)
    p_pi = np.einsum("sa,sat->st", policy, dense)
    arrived = np.einsum("sa,sat->t", weights, dense)
    np.testing.assert_allclose(kernel.expect(value), dense @ value, atol=1e-14)
    np.testing.assert_allclose(kernel.flow(weights), arrived, atol=1e-14)
    np.testing.assert_allclose(kernel.row_sums, dense.sum(axis=2), atol=1e-15)
    np.testing.assert_allclose(kernel.policy_matrix(policy).toarray(), p_pi, atol=1e-15)
    system = kernel.pattern.dense(kernel.system_entries(policy, 0.9))
    np.testing.assert_allclose(system, np.eye(num_states) - 0.9 * p_pi, atol=1e-15)
    for state, action in ((0, 0), (3, num_actions - 2), (7, num_actions - 1)):
        successors, probabilities = kernel.row(state, action)
        np.testing.assert_array_equal(dense[state, action, successors], probabilities)
    # A stored transition belongs to a move; it collects from all actions that make it.
    moves = [*range(num_actions)] if kernel.moves is None else kernel.moves.tolist()
    collected = np.zeros((num_states, kernel.num_moves, num_states))
    for action, move in enumerate(moves):
        collected[:, move] += weights[:, [action]] * value
    found = kernel.on_transitions(weights, value)
    np.testing.assert_allclose(found, collected[kernel.triplets], atol=1e-14)
    by_move = kernel.by_move.to_dense()
    np.testing.assert_array_equal(by_move[:, moves], dense)
    np.testing.assert_array_equal(kernel.matrix.data, by_move[kernel.triplets])


def numeric_gradient(
    value: Callable[[FloatArray], float], point: FloatArray, step: float
) -> FloatArray:
    """Return the derivatives of a function by every entry of its argument."""
    numeric = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        bump = np.zeros_like(point)
        bump[index] = 1.0

        def shifted(h: float, bump: FloatArray = bump) -> float:
            return value(point + h * bump)

        numeric[index] = central_difference(shifted, step)
    return numeric


def plain_kernel(
    cells: Sequence[tuple[int, int]], goal: tuple[int, int], slip: float
) -> FloatArray:
    """Return the kernel of slippery moves over cells (row, column), by plain loops, `[S, 4, S]`.

    Moves go up, right, down and left; what is no cell bounces, and acting in the goal is the end.
    """
    index = {cell: state for state, cell in enumerate(cells)}
    kernel = np.zeros((len(cells), 4, len(cells)))
    for (row, column), here in index.items():
        for action, move in product(range(4), repeat=2):
            down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[move]
            there = index.get((row + down, column + right), here)
            likely = 1.0 - slip if move == action else slip / 3.0
            kernel[here, action, there] += likely * ((row, column) != goal)
    return kernel
