"""Single transitions for actions of the caller's choice, one or many at a time.

Both ways invert the same cumulative sums of the kernel's rows, so one uniform number selects the
same transition. An action that does not exist in a state changes nothing and has the worst reward
available there.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray, TabularMDP, action_major

__all__ = ["TransitionArrays", "TransitionTables"]

# A row whose sum differs from one by no more than this is a full distribution.
FULL_ROW_TOLERANCE = 1e-12


class TransitionTables:
    """Rows of one model, turned into Python lists when they are first visited.

    Bisecting a list of a few floats takes a fraction of the time of any array operation, and
    building rows on demand keeps a game of a million states as cheap to enter as a small one.
    """

    def __init__(self, mdp: TabularMDP, upper_reward: FloatArray) -> None:
        """Store the follower's problem and the leader's reward `[S, A]`."""
        self._mdp = mdp
        self._upper_reward = upper_reward
        self._rows: dict[tuple[int, int], tuple[list[float], list[int], float, float]] = {}

    def sample(self, state: int, action: int, uniform: float) -> tuple[int, bool, float, float]:
        """Return the transition that a uniform number in [0, 1) selects.

        That is the next state (the same state where the episode ends), whether the episode ended,
        the follower's reward and the leader's.
        """
        try:
            cumulative, successors, reward, upper_reward = self._rows[state, action]
        except KeyError:
            self._rows[state, action] = self._build(state, action)
            return self.sample(state, action, uniform)
        slot = bisect_right(cumulative, uniform)
        if slot == len(successors):
            return state, True, reward, upper_reward
        return successors[slot], False, reward, upper_reward

    def _build(self, state: int, action: int) -> tuple[list[float], list[int], float, float]:
        kernel, mask = self._mdp.kernel, self._mdp.action_mask
        available = None if mask is None else mask[state]
        reward, upper_reward = (
            float(_worst_where_missing(values[state], available)[action])
            for values in (self._mdp.reward, self._upper_reward)
        )
        if available is not None and not available[action]:
            return [1.0], [state], reward, upper_reward
        successors, probabilities = kernel.row(state, action)
        cumulative = np.cumsum(probabilities).tolist()
        if cumulative and cumulative[-1] > 1.0 - FULL_ROW_TOLERANCE:
            cumulative[-1] = 1.0
        return cumulative, successors.tolist(), reward, upper_reward


class TransitionArrays:
    """All rows of one model end to end, for drawing many transitions at a time.

    What `TransitionTables` gives one by one. Memory is that of the kernel's stored transitions,
    however long a single row is.
    """

    def __init__(self, mdp: TabularMDP, upper_reward: FloatArray) -> None:
        """Lay out the rows of the follower's problem, and the leader's reward `[S, A]`."""
        if mdp.action_mask is not None:  # then actions of one move may differ in what they do
            mdp = replace(mdp, kernel=mdp.kernel.expanded())
        matrix, self._moves = mdp.kernel.matrix, mdp.kernel.moves
        self._num_states = mdp.kernel.num_states
        lengths = np.diff(matrix.indptr).astype(np.int64)
        states = np.arange(lengths.size) % self._num_states
        available = np.ones(lengths.size, dtype=bool)
        if mdp.action_mask is not None:
            available = np.ascontiguousarray(mdp.action_mask.T).ravel()
            lengths[~available] = 1
        # Each row, `m * S + s`, is followed by one more slot: the end of the episode.
        self._last = np.cumsum(lengths + 1) - 1
        self._first = self._last - lengths
        self._cumulative = np.full(self._last[-1] + 1, np.inf)
        self._successors = np.empty(self._last[-1] + 1, dtype=np.int64)
        self._successors[self._last] = states
        self._cumulative[self._first[~available]] = 1.0
        self._successors[self._first[~available]] = states[~available]
        # Rows of one length form a matrix; a running sum over everything would round otherwise.
        for length in np.unique(lengths[available & (lengths > 0)]):
            rows = np.flatnonzero(available & (lengths == length))
            given = matrix.indptr[rows, None] + np.arange(length)
            slots = self._first[rows, None] + np.arange(length)
            cumulative = np.cumsum(matrix.data[given], axis=1)
            cumulative[cumulative[:, -1] > 1.0 - FULL_ROW_TOLERANCE, -1] = 1.0
            self._cumulative[slots] = cumulative
            self._successors[slots] = matrix.indices[given]
        # A full row does not end the episode: its last transition needs no comparison.
        compared = lengths - (self._cumulative[self._last - 1] == 1.0)
        self._widths = [2**k for k in reversed(range(int(compared.max()).bit_length()))]
        self._reward, self._upper_reward = (
            action_major(_worst_where_missing(values, mdp.action_mask)).ravel()
            for values in (mdp.reward, upper_reward)
        )

    def sample(
        self, states: NDArray[np.int64], actions: NDArray[np.int64], uniforms: FloatArray
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], FloatArray, FloatArray]:
        """Return the transitions that uniform numbers select, as `TransitionTables`, `[N]` each."""
        pairs = actions * self._num_states + states
        rows = pairs
        if self._moves is not None:
            rows = self._moves.take(actions).astype(np.int64) * self._num_states + states
        low, last = self._first.take(rows), self._last.take(rows)
        # Bisection of all rows at once; the slot of the end is above every uniform number.
        for width in self._widths:
            middle = np.minimum(low + (width - 1), last)
            low += width * (self._cumulative.take(middle) <= uniforms)
        return (
            self._successors.take(low),
            low == last,
            self._reward.take(pairs),
            self._upper_reward.take(pairs),
        )


def _worst_where_missing(reward: FloatArray, mask: NDArray[np.bool_] | None) -> FloatArray:
    """Return rewards `[..., A]` with the worst of the rest for actions that do not exist."""
    if mask is None:
        return reward
    worst = np.where(mask, reward, np.inf).min(axis=-1, keepdims=True)
    return np.where(mask, reward, worst)
