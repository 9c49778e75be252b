"""Bounds beside the true errors."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevel_gym.core.adjoint import ResponseGradient
from bilevel_gym.core.soft import SoftSolution
from bilevel_gym.model.objectives import DiscountedReturn

from .models import answer_to, evaluated
from .worlds import World

NAMES = ("value", "policy", "gradient")
ROUNDING = 2.0**-53


def errors(
    found: World, solution: SoftSolution, answer: ResponseGradient, *, exact: bool = False
) -> dict[str, Any]:
    """Return true error, bound, and one rounding of value, policy and gradient.

    With `exact`, the errors are those beside `World.exact_answers`.
    """
    truth = found.exact_answers if exact else found.answers
    possible = solution.policy > 1e-290
    off = np.abs(truth.policy - solution.policy)[possible] / solution.policy[possible]
    value = float(np.abs(truth.value - solution.soft_value).max())
    gradient = float(np.abs(truth.gradient - answer.reward).sum())
    return {
        "value": (value, solution.value_error_bound, ROUNDING * np.abs(truth.value).max()),
        "policy": (float(off.max()), solution.policy_error_bound, ROUNDING),
        "gradient": (gradient, answer.error_bound, ROUNDING * np.abs(truth.gradient).sum()),
    }


def objective_error(found: World, objective: float, *, exact: bool = False) -> float:
    """Return the error of the leader's return, relative to the largest return there could be."""
    truth = found.exact_answers if exact else found.answers
    largest = np.abs(found.upper_reward).max() / (1.0 - found.mdp.contraction)
    return float(abs(truth.objective - objective) / largest)


def answered(found: World, solution: SoftSolution) -> tuple[float, ResponseGradient]:
    """Return the leader's discounted return, and its gradient."""
    upper = evaluated(DiscountedReturn(), solution, found.upper_reward, found.start)
    return upper.value, answer_to(solution, upper)
