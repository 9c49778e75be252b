"""A bilevel game of the user's own arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import check_discount, check_not_negative
from ..core.mdp import FloatArray, Kernel
from ..model.jacobians import RewardJacobian
from ..model.objectives import DiscountedReturn, Objective, QuadraticCost, Sum
from .base import upper_box
from .tabular import TabularBilevelEnv

__all__ = ["ArrayBilevelEnv"]


class ArrayBilevelEnv(TabularBilevelEnv):
    """A game given by arrays, with a reward that is linear in x.

    ## Description
    A game of the user's own: whatever the arrays say.

    ## Upper Level
    x in R^D within `upper_low`..`upper_high`; it adds `features @ x` to the follower's reward.
    Without `features`, x is a shaping reward per state (D = S). The leader maximises its discounted
    return under `upper_reward`, minus `upper_cost` * ||x||^2.

    ## Lower Level
    The entropy-regularised MDP (`transition`, `reward` + `features @ x`, `gamma`, `temperature`).

    ## Observation Space
    Game and follower: `Discrete(S)`. Leader: the follower's discounted state occupancy times
    (1 - gamma), `Box(0, 1, [S])`.

    ## Action Space
    Leader: x. Follower: `Discrete(A)`. Game: both, `{"upper": x, "lower": a}`.

    ## Rewards
    Leader: F(x). Follower and game: r_x(s, a).

    ## Episode End
    With the mass that a row of `transition` lacks; there is no time limit.

    ## Info
    As in every game; `action_mask` where one is given.

    ## Arguments
    See `__init__`. The game has no picture (`render_mode` does not exist).
    """

    metadata = {"render_modes": [], "render_fps": 10}

    def __init__(
        self,
        transition: ArrayLike | Kernel,
        reward: ArrayLike,
        *,
        upper_reward: ArrayLike,
        initial_distribution: ArrayLike,
        gamma: float = 0.95,
        temperature: float = 0.1,
        features: Any = None,
        upper_low: float = -1.0,
        upper_high: float = 1.0,
        initial_upper_params: ArrayLike | None = None,
        upper_gamma: float | None = None,
        upper_cost: float = 0.0,
        action_mask: ArrayLike | None = None,
    ) -> None:
        """Build the game.

        Args:
            transition: Probabilities `[S, A, S]`, or a `Kernel`; rows may sum to less than one
                (the missing mass ends the episode).
            reward: The follower's reward at x = 0, `[S, A]`.
            upper_reward: The leader's reward `[S, A]`.
            initial_distribution: Distribution of the first state `[S]`.
            gamma: The follower's discount, in [0, 1).
            temperature: The weight of its policy's entropy, positive.
            features: d reward / dx, `[S, A, D]`; or a SciPy sparse matrix or `LinearOperator`
                `[A*S, D]` whose row `a * S + s` belongs to (s, a); None shapes each state.
            upper_low: Lower bound of every entry of x.
            upper_high: Upper bound of every entry of x.
            initial_upper_params: x at the start `[D]`; None takes the point of the box nearest 0.
            upper_gamma: The leader's discount, in [0, 1); None takes `gamma`.
            upper_cost: Weight of ||x||^2 in the leader's objective, not negative.
            action_mask: Which actions exist, `[S, A]`; None when all do.

        Raises:
            ValueError: If a shape or a range is violated.
        """
        kernel = transition if isinstance(transition, Kernel) else Kernel.from_dense(transition)
        shape = (kernel.num_states, kernel.num_actions)
        self._reward = _matrix("reward", reward, shape)
        self._upper_reward = _matrix("upper_reward", upper_reward, shape)
        if not upper_low < upper_high:
            raise ValueError(
                f"`upper_low` must be below `upper_high`, got {upper_low} and {upper_high}"
            )
        self._jacobian = None if features is None else RewardJacobian(features, *shape)
        size = shape[0] if self._jacobian is None else self._jacobian.num_params
        if upper_gamma is not None:
            upper_gamma = check_discount("upper_gamma", upper_gamma)
        check_not_negative("upper_cost", upper_cost)
        terms: Sequence[Objective] = (DiscountedReturn(upper_gamma), QuadraticCost(upper_cost))
        space = upper_box(upper_low, upper_high, (size,))
        start = np.clip(np.zeros(size), upper_low, upper_high)
        super().__init__(
            kernel=kernel,
            initial_distribution=initial_distribution,
            objective=Sum(terms),
            upper_space=space,
            initial_upper_params=start if initial_upper_params is None else initial_upper_params,
            gamma=gamma,
            temperature=temperature,
            action_mask=action_mask,
        )

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward r_x `[S, A]`."""
        if self._jacobian is None:
            return self._reward + upper_params[:, None]
        return self._reward + self._jacobian.product(upper_params)

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx `[D]`."""
        if self._jacobian is None:
            return cotangent.sum(axis=1)
        return self._jacobian.vjp(cotangent)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward `[S, A]`."""
        return self._upper_reward


def _matrix(name: str, values: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    matrix = np.array(values, dtype=np.float64, order="F")
    matrix.flags.writeable = False  # `upper_reward` hands it out
    if matrix.shape != shape:
        raise ValueError(f"`{name}` must have shape [S, A] = {shape}, got {matrix.shape}")
    _check_finite(name, matrix)
    return matrix


def _check_finite(name: str, values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite, got {values[~np.isfinite(values)][0]}")
