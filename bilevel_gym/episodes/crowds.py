"""Episodes of many followers at once: how often they take each action in each state."""

from __future__ import annotations

import numpy as np

from ..core.mdp import FloatArray, TabularMDP
from .transitions import TransitionArrays

__all__ = ["sampled_masses"]

# Steps after which followers who are still under way are taken for lost.
MOST_STEPS = 1_000_000


def sampled_masses(
    mdp: TabularMDP,
    policy: FloatArray,
    start: FloatArray,
    followers: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Return how often each action was taken in each state, per follower, `[S, A]`.

    Each follower plays one episode, which a discount ends at each step with probability 1 - gamma:
    so the expected masses are the discounted ones.

    Args:
        mdp: The follower's problem.
        policy: Action probabilities `[S, A]`.
        start: Distribution of the first state `[S]`.
        followers: How many there are.
        rng: What draws.

    Raises:
        ArithmeticError: If an episode does not end within a million steps.
    """
    transitions = TransitionArrays(mdp, np.zeros(policy.shape))
    cumulative = np.cumsum(policy, axis=1)
    cumulative /= cumulative[:, -1:]
    counts = np.zeros(policy.size)
    states = rng.choice(len(start), size=followers, p=start)
    for _ in range(MOST_STEPS):
        if not states.size:
            return counts.reshape(policy.shape) / followers
        choices, uniforms = rng.random((2, states.size))
        actions = (cumulative[states] <= choices[:, None]).sum(axis=1)
        counts += np.bincount(states * policy.shape[1] + actions, minlength=counts.size)
        states, ended, _, _ = transitions.sample(states, actions, uniforms)
        going = ~ended
        if mdp.gamma < 1.0:
            going &= rng.random(states.size) < mdp.gamma
        states = states[going]
    raise ArithmeticError(f"an episode must end within {MOST_STEPS} steps")
