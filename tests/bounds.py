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


def errors(found: World, solution: SoftSolution, answer: ResponseGradient) -> dict[str, Any]:
    """Return true error, bound, and one rounding of value, policy and gradient."""
    truth = found.truth
    exact = truth.response(truth.discounted_return(found.upper_reward, found.start)[1])
    possible = solution.policy > 1e-290
    off = np.abs(truth.policy - solution.policy)[possible] / solution.policy[possible]
    value = float(np.abs(truth.value - solution.soft_value).max())
    gradient = float(np.abs(exact - answer.reward).sum())
    return {
        "value": (value, solution.value_error_bound, ROUNDING * np.abs(truth.value).max()),
        "policy": (float(off.max()), solution.policy_error_bound, ROUNDING),
        "gradient": (gradient, answer.error_bound, ROUNDING * np.abs(exact).sum()),
    }


def answered(found: World, solution: SoftSolution) -> ResponseGradient:
    """Return the gradient of the leader's discounted return."""
    upper = evaluated(DiscountedReturn(), solution, found.upper_reward, found.start)
    return answer_to(solution, upper)
