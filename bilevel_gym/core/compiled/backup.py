"""The soft Bellman operator and its policy, in one pass over the kernel.

`bilevel_gym.core.bellman` does the same in NumPy, with a pass over `[A, S]` for each operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import compiled
from .exponential import exp_of_gap

__all__ = ["backup"]

ONE = np.uint64(1)

# States that are taken together: what is kept of them stays in the cache.
CHUNK = 1024


@compiled
def backup(
    starts: Any,
    successors: Any,
    probabilities: Any,
    reward: Any,
    gamma: float,
    temperature: float,
    value: Any,
    first: int,
    last: int,
    policy: Any,
    backed_up: Any,
) -> None:
    """Set the policy `[A, S]` and T V `[S]` of a value V `[S]`, for the states first..last - 1.

    The reward is `[A, S]`, -inf for actions that do not exist.
    """
    num_actions, num_states = np.uint64(reward.shape[0]), np.uint64(reward.shape[1])
    sharpness = 1.0 / temperature
    tops, totals = np.empty(min(CHUNK, last - first)), np.empty(min(CHUNK, last - first))
    for begin in range(first, last, CHUNK):
        end = min(begin + CHUNK, last)
        # Loops over states are innermost, so that all but the sums over transitions vectorise.
        top, total = tops[: end - begin], totals[: end - begin]
        top[:], total[:] = -np.inf, 0.0
        for a in range(num_actions):
            q, gain = policy[a, begin:end], reward[a, begin:end]
            offset = a * num_states + np.uint64(begin)
            for s in range(np.uint64(len(q))):
                row, expected = offset + s, 0.0
                for k in range(np.uint64(starts[row]), np.uint64(starts[row + ONE])):
                    expected += probabilities[k] * value[np.uint64(successors[k])]
                q[s] = gain[s] + gamma * expected
        for a in range(num_actions):
            q = policy[a, begin:end]
            for s in range(np.uint64(len(q))):
                top[s] = max(top[s], q[s])
        for a in range(num_actions):
            weight = policy[a, begin:end]
            for s in range(np.uint64(len(weight))):
                weight[s] = exp_of_gap((weight[s] - top[s]) * sharpness)
                total[s] += weight[s]
        made = backed_up[begin:end]
        for s in range(np.uint64(len(made))):
            made[s] = top[s] + temperature * np.log(total[s])
            total[s] = 1.0 / total[s]
        for a in range(num_actions):
            weight = policy[a, begin:end]
            for s in range(np.uint64(len(weight))):
                weight[s] *= total[s]
