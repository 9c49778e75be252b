"""Finite Markov decision processes: the follower's problem for one x."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .checks import (
    check_discount,
    check_positive,
    check_probability,
    checked_mask,
    real_numbers,
    received,
)
from .kernel import FloatArray, IntArray, Kernel, action_major

__all__ = ["FloatArray", "IntArray", "Kernel", "TabularMDP", "action_major"]


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """Entropy-regularised MDP of the follower for one value of the upper-level parameters.

    Attributes:
        kernel: Transition kernel.
        reward: Expected reward of each action, `[S, A]`.
        gamma: Discount, in [0, 1).
        temperature: Weight of the policy's entropy, positive.
        action_mask: Which actions exist, bool `[S, A]`; None when all do.
        undiscounted: Whether `gamma` may be 1, for solvers that know what to do then; see
            `bilevel_gym.core.ending`.

    Raises:
        ValueError: If a shape or a range is violated, or a state has no action.
    """

    undiscounted: ClassVar[bool] = False

    kernel: Kernel
    reward: FloatArray
    gamma: float
    temperature: float
    action_mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Check shapes and ranges once, so that solvers need not; store action-major memory."""
        if not isinstance(self.kernel, Kernel):
            raise TypeError(f"`kernel` must be a Kernel, got {received(self.kernel)}")
        reward = real_numbers("reward", self.reward)
        shape = (self.kernel.num_states, self.kernel.num_actions)
        check_gamma = check_probability if self.undiscounted else check_discount
        object.__setattr__(self, "gamma", check_gamma("gamma", self.gamma))
        object.__setattr__(self, "temperature", check_positive("temperature", self.temperature))
        if reward.shape != shape:
            raise ValueError(f"`reward` must have shape [S, A] = {shape}, got {reward.shape}")
        object.__setattr__(self, "reward", np.array(reward, dtype=np.float64, order="F"))
        if self.contraction >= 1.0 and not self.undiscounted:
            largest = float(self.kernel.row_sums.max())
            raise ValueError(
                "`gamma` times the largest sum of a row of `transition` must be below 1, got "
                f"{self.gamma!r} times {largest!r}; rows that sum to 1 make it so"
            )
        if self.action_mask is not None:
            object.__setattr__(self, "action_mask", checked_mask(self.action_mask, shape))
        finite = np.isfinite(self.reward)
        if not finite.all():
            # What stands behind a mask is nobody's reward; -inf is what many write there.
            absent = np.isneginf(self.reward) & ~self.mask
            if not (finite | absent).all():
                state, action = (int(i) for i in np.argwhere(~(finite | absent))[0])
                value = self.reward[state, action]
                raise ValueError(
                    f"`reward` must be finite, got {value} in state {state}, {action=}"
                )
            object.__setattr__(self, "reward", np.where(absent.T, 0.0, self.reward.T).T)

    @cached_property
    def contraction(self) -> float:
        """Modulus of the Bellman operator in sup norm: gamma times the largest row sum."""
        return self.gamma * self.kernel.largest_sum

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which actions exist `[S, A]`."""
        if self.action_mask is None:
            return np.ones(self.reward.shape, dtype=np.bool_)
        return self.action_mask
