"""Sampling of single transitions from the very kernel that the solver uses."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from .mdp import FloatArray, TabularMDP

__all__ = ["TransitionTables"]

# A row whose sum differs from one by no more than this is a full distribution.
FULL_ROW_TOLERANCE = 1e-12


class TransitionTables:
    """Rows of one model, turned into Python lists when they are first visited.

    Bisecting a list of a few floats takes a fraction of the time of any array operation, and
    building rows on demand keeps a game of a million states as cheap to enter as a small one.
    """

    def __init__(self, mdp: TabularMDP, upper_reward: FloatArray) -> None:
        """Freeze a model.

        Args:
            mdp: The follower's problem; its reward is what a transition pays.
            upper_reward: The leader's reward `[S, A]`.
        """
        self._mdp = mdp
        self._upper_reward = upper_reward
        self._rows: dict[tuple[int, int], tuple[list[float], list[int], float, float]] = {}

    def sample(self, state: int, action: int, uniform: float) -> tuple[int, bool, float, float]:
        """Return the transition that a uniform number selects.

        An action that does not exist in the state changes nothing and pays the worst reward
        available there.

        Args:
            state: In 0..S-1.
            action: In 0..A-1.
            uniform: In [0, 1).

        Returns:
            Next state (the same state where the episode ends), whether the episode ended, the
            follower's reward and the leader's.
        """
        row = self._rows.get((state, action))
        if row is None:
            row = self._rows[state, action] = self._build(state, action)
        cumulative, successors, reward, upper_reward = row
        slot = bisect_right(cumulative, uniform)
        if slot == len(successors):
            return state, True, reward, upper_reward
        return successors[slot], False, reward, upper_reward

    def _build(self, state: int, action: int) -> tuple[list[float], list[int], float, float]:
        kernel, mask = self._mdp.kernel, self._mdp.action_mask
        reward, upper_reward = self._mdp.reward[state], self._upper_reward[state]
        if mask is not None and not mask[state, action]:
            available = mask[state]
            return (
                [1.0],
                [state],
                float(reward[available].min()),
                float(upper_reward[available].min()),
            )
        successors, probabilities = kernel.row(state, action)
        cumulative = np.cumsum(probabilities).tolist()
        if cumulative and cumulative[-1] > 1.0 - FULL_ROW_TOLERANCE:
            cumulative[-1] = 1.0
        return cumulative, successors.tolist(), float(reward[action]), float(upper_reward[action])
