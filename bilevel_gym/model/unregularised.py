"""The leader's objective where the follower's policy is optimal without any entropy.

As the temperature vanishes, the follower's policy becomes a distribution over the optimal actions
of its problem, and F becomes a function that may jump where an action overtakes another. Where
several actions are optimal, what the leader gets depends on the follower's choice between them:
between the *optimistic* value, of a follower who breaks ties in the leader's favour, and the
*pessimistic* one. Both are optimal control of the leader's own return over the follower's optimal
actions, and solved as such (`bilevel_gym.core.hard`); costs of x are added.

Every policy that chooses among the optimal actions, at random or not, lies between the two. With a
leader's horizon the choice may depend on the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_not_negative
from ..core.hard import Control, control, finite_control, one_hot, optimal_actions
from ..core.mdp import FloatArray, Kernel
from ..core.reprs import Described, number
from ..core.soft import PolicyAnswer
from .base import BilevelModel
from .objectives import Objective, StepObjective, flattened, last_step_that_counts, scope_of
from .tabular import TabularModel

__all__ = ["TIE_TOLERANCE", "Unregularised", "evaluate_unregularised", "is_control_problem"]

# Q-values this close to the best one, relative to the largest absolute value, count as tied: well
# above their rounding, and well below what a reward is designed with.
TIE_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Unregularised(Described):
    """What the leader gets of a follower without entropy.

    Attributes:
        upper_params: The x answered.
        optimistic: F where the follower breaks ties in the leader's favour.
        pessimistic: F where it breaks them to the leader's disadvantage.
        optimistic_policy: The action of each state, `[S]`; with a leader's horizon H, of each step,
            `[H, S]`, after which any optimal action will do.
        pessimistic_policy: Likewise.
        optimal_actions: Which actions are optimal for the follower, bool `[S, A]`.
        value: The follower's optimal value `[S]`.
        ties: Number of states with more than one optimal action.
    """

    upper_params: FloatArray
    optimistic: float
    pessimistic: float
    optimistic_policy: NDArray[np.int64]
    pessimistic_policy: NDArray[np.int64]
    optimal_actions: NDArray[np.bool_]
    value: FloatArray
    ties: int

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield both values, and the number of ties."""
        yield "optimistic", number(self.optimistic)
        yield "pessimistic", number(self.pessimistic)
        yield "ties", str(self.ties)


def evaluate_unregularised(
    model: TabularModel, upper_params: ArrayLike, *, tie_tolerance: float = TIE_TOLERANCE
) -> Unregularised:
    """Return F under the follower's hard-optimal policy, best and worst over ties.

    Args:
        model: A tabular model whose objective is a return of the leader, and costs of x.
        upper_params: x, shape of `model.low`.
        tie_tolerance: How far the Q-value of an optimal action may be from the best one, relative
            to the follower's largest absolute value; not negative.

    Raises:
        TypeError: If the objective evaluates the policy otherwise, or sums returns with different
            discounts or horizons: the best choice among ties is then no control problem.
        ValueError: If x or the tolerance is out of range.
        ArithmeticError: If values overflow.
    """
    x = model.validate(upper_params)
    tolerance = check_not_negative("tie_tolerance", tie_tolerance)
    returns, costs = _parts(model)
    mdp = model.lower_mdp(x)
    # Where entropy is relative, what it is relative to vanishes with it: the reward is r_x itself.
    lower = control(mdp.kernel, model.reward(x), mdp.gamma, mdp.mask)
    optimal = optimal_actions(lower, tolerance)
    reward, start = len(returns) * model.checked_upper_reward(x), model.checked_start(x)
    best = _leaders_choice(model, returns, mdp.kernel, reward, optimal)
    worst = _leaders_choice(model, returns, mdp.kernel, -reward, optimal)
    policy = one_hot(lower.policy, model.num_actions)
    outcome = model.outcome(x, PolicyAnswer(mdp=mdp, policy=policy))
    cost = sum(term.evaluate(outcome).value for term in costs)
    values = float(start @ best.value) + cost, cost - float(start @ worst.value)
    return Unregularised(
        upper_params=x,
        optimistic=max(values),  # where they are equal, rounding may have changed their order
        pessimistic=min(values),
        optimistic_policy=best.policy,
        pessimistic_policy=worst.policy,
        optimal_actions=optimal,
        value=lower.value,
        ties=int((optimal.sum(axis=1) > 1).sum()),
    )


def is_control_problem(model: BilevelModel) -> bool:
    """Return whether `evaluate_unregularised` takes a model."""
    try:
        return isinstance(model, TabularModel) and _parts(model) is not None
    except TypeError:
        return False


def _parts(model: TabularModel) -> tuple[list[StepObjective], list[Objective]]:
    """Return the returns of an objective, all of one kind, and its costs of x."""
    returns, costs = [], []
    for term in flattened(model.objective):
        scope = scope_of(term)
        if scope not in ("steps", "params"):
            raise TypeError(
                "without entropy an objective of the leader's return and costs of x can be "
                f"evaluated, best and worst over ties; that of {model.name} has "
                f"{type(term).__name__}, which evaluates the policy otherwise"
            )
        if scope == "params":
            costs.append(term)
        else:
            returns.append(cast("StepObjective", term))
    kinds = {(model.gamma if r.gamma is None else r.gamma, r.horizon) for r in returns}
    if len(kinds) > 1:
        raise TypeError(
            f"the objective of {model.name} must have returns of one discount and horizon, to be "
            f"evaluated without entropy, got {sorted(kinds, key=str)}"
        )
    return returns, costs


def _leaders_choice(
    model: TabularModel,
    returns: list[StepObjective],
    kernel: Kernel,
    reward: FloatArray,
    optimal: NDArray[np.bool_],
) -> Control:
    """Return the leader's optimal control over the follower's optimal actions."""
    gamma = model.gamma if not returns or returns[0].gamma is None else returns[0].gamma
    horizon = returns[0].horizon if returns else None
    if horizon is None:
        return control(kernel, reward, gamma, optimal)
    return finite_control(
        kernel, reward, gamma, optimal, min(horizon, last_step_that_counts(gamma))
    )
