"""Small models with known answers, and numeric derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bilevel_gym.core.adjoint import ResponseGradient, response_gradient
from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.core.soft import SoftSolution
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
