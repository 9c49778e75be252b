"""Costs that the leader may constrain beside its objective, such as what it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ..core.mdp import FloatArray
from .objectives import DiscountedReturn, Outcome, Scope, StepObjective, UpperValue

__all__ = ["ExpectedCost"]


@dataclass(frozen=True, eq=False)
class ExpectedCost:
    """The expected sum of a cost c_x(s, a) along the follower's episode.

    It is an objective like others, to be bounded by a constraint instead of maximised; see
    `bilevel_gym.optimizers.CostConstraint`. Name it in `costs` of a model to constrain it by name.

    Attributes:
        cost: x to c_x, `[S, A]`.
        cost_vjp: (x, cotangent `[S, A]`) to sum_sa cotangent(s, a) dc_x(s, a)/dx, shape of x; None
            where x does not move the cost.
        path: The steps that count and their discount, as of a return.
    """

    scope: ClassVar[Scope] = "policy"

    cost: Callable[[FloatArray], FloatArray]
    cost_vjp: Callable[[FloatArray, FloatArray], FloatArray] | None = None
    path: StepObjective = field(default_factory=DiscountedReturn)

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the expected cost and its derivatives.

        Raises:
            ValueError: If the cost has another shape than the leader's reward, or is not finite.
        """
        x, shape = outcome.upper_params, outcome.upper_reward.shape
        cost = np.asarray(self.cost(x), np.float64)
        if cost.shape != shape or not np.isfinite(cost).all():
            raise ValueError(
                f"`cost` must return finite numbers of shape [S, A] = {shape}, got shape "
                f"{cost.shape} with {np.isfinite(cost).sum()} finite entries"
            )
        found = self.path.evaluate(replace(outcome, upper_reward=cost))
        direct = None
        if self.cost_vjp is not None:
            assert found.upper_reward is not None
            direct = self.cost_vjp(x, found.upper_reward)
            if np.shape(direct) != x.shape:
                raise ValueError(
                    f"`cost_vjp` must return the shape of x, {x.shape}, got {np.shape(direct)}"
                )
        return replace(found, upper_reward=None, params=direct)
