"""Optimal control without entropy: the limit of the follower's problem as its temperature vanishes.

    Q(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) V(s'),   V(s) = max over allowed a of Q(s, a)

is solved by policy iteration (R. A. Howard, 1960; M. L. Puterman, "Markov decision processes",
section 6.4), which ends after finitely many exact evaluations; over finitely many steps, by
backward induction (Puterman, section 4.5). An action is replaced where another is better by more
than `IMPROVEMENT` of the largest value or reward, which rounding could feign: what is lost by it is
at most as much over 1 - gamma.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .linear import DiscountedSystem
from .mdp import FloatArray, Kernel
from .threads import single_threaded

__all__ = ["Control", "control", "finite_control", "one_hot", "optimal_actions"]

BoolArray = NDArray[np.bool_]

# Gain below which an action is not replaced, relative to the largest value or reward.
IMPROVEMENT = 1e-12

# Residual of iterative solves relative to their right-hand side.
ACCURACY = 1e-13

# Policies are finitely many, and far fewer are tried: more evaluations than this are a cycle.
MAX_EVALUATIONS = 10_000


@dataclass(frozen=True, eq=False)
class Control:
    """The solution of a control problem.

    Attributes:
        value: V `[S]`; with a horizon H, with all steps to go.
        policy: An optimal action of each state, `[S]`; with a horizon, of each step, `[H, S]`.
        q: Q `[S, A]` (of the first step), -inf for actions that are not allowed.
    """

    value: FloatArray
    policy: NDArray[np.int64]
    q: FloatArray


@single_threaded
def control(kernel: Kernel, reward: FloatArray, discount: float, allowed: BoolArray) -> Control:
    """Solve an infinite-horizon problem by policy iteration.

    Args:
        kernel: Transition kernel.
        reward: `[S, A]`, finite where allowed.
        discount: In [0, 1).
        allowed: Which actions may be taken, `[S, A]`, at least one in each state.

    Raises:
        ArithmeticError: If values overflow.
    """
    rewards = np.where(allowed, reward, -np.inf)
    states = np.arange(len(reward))
    largest = float(np.abs(reward[allowed]).max())
    policy = rewards.argmax(axis=1)
    for _ in range(MAX_EVALUATIONS):
        system = DiscountedSystem(
            kernel.by_move,
            kernel.on_moves(one_hot(policy, reward.shape[1])),
            discount,
            accuracy=ACCURACY,
        )
        value, _ = system.solve(rewards[states, policy])
        q = rewards + discount * kernel.expect(value)
        gain = q.max(axis=1) - q[states, policy]
        better = gain > IMPROVEMENT * max(largest, float(np.abs(value).max()))
        if not better.any():
            return Control(value, policy, q)
        policy = np.where(better, q.argmax(axis=1), policy)
    raise ArithmeticError(
        f"policy iteration did not end within {MAX_EVALUATIONS} evaluations: rewards differ by too "
        "many orders of magnitude"
    )


def finite_control(
    kernel: Kernel, reward: FloatArray, discount: float, allowed: BoolArray, horizon: int
) -> Control:
    """Solve a problem of `horizon` steps by backward induction; the discount may be 1.

    `reward` and `allowed`, the actions that exist, are `[S, A]`.
    """
    rewards = np.where(allowed, reward, -np.inf)
    value, policy = np.zeros(len(reward)), np.empty((horizon, len(reward)), dtype=np.int64)
    q = rewards
    for step in range(horizon - 1, -1, -1):
        q = rewards + discount * kernel.expect(value)
        policy[step] = q.argmax(axis=1)
        value = q.max(axis=1)
    return Control(value, policy, q)


def optimal_actions(solution: Control, tolerance: float) -> BoolArray:
    """Return which actions are optimal `[S, A]`: those whose Q is within a tolerance of V.

    The tolerance is relative to the largest absolute value, V being what is received by a follower
    who acts optimally: rewards that nobody collects do not widen it.
    """
    q = solution.q
    return q >= q.max(axis=1, keepdims=True) - tolerance * float(np.abs(solution.value).max())


def one_hot(policy: NDArray[np.int64], num_actions: int) -> FloatArray:
    """Return a deterministic policy `[S]` as probabilities `[S, A]`."""
    return np.asarray(policy[:, None] == np.arange(num_actions), dtype=np.float64)
