"""Many episodes at once under a fixed policy of a finite MDP, with their discounted sums.

One random number selects action and successor together, through an alias table per state (see
`alias`), so that a step costs one multiplication and a few look-ups, whatever the number of
outcomes; outcomes of probability zero never occur, and a full row of the kernel never ends.

All random numbers are drawn by NumPy from the caller's generator, in an order that neither the
compiled kernels of the extra `fast` nor the size of any buffer has an influence on: the same
generator gives the same episodes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core import fast
from ..core.checks import check_at_least, check_in_box, check_probability, real_numbers
from ..core.mdp import FloatArray, IntArray, Kernel, action_major
from ..core.reprs import Described
from .alias import HALF, LOW, AliasTable, alias_table, random_words
from .transitions import FULL_ROW_TOLERANCE

__all__ = ["Simulator", "Trajectories"]

# Probabilities may miss one by the rounding of a float32 network; they are normalised.
SUM_TOLERANCE = 1e-6

# Episodes are played in blocks of this many, one block after the other.
BLOCK = 2048

# Where episodes can end, those that have are dropped from their block every so many steps: with n
# still going, after PERIOD_NUMBERS / n steps within these limits. Larger means fewer but longer
# array operations, and more random numbers drawn for nothing.
PERIOD = (16, 64)
PERIOD_NUMBERS = 1 << 14

# Entries of a buffer (random numbers, or terms of a sum): half the second cache. The constants
# above are part of the order in which random numbers are drawn, this one is not.
BUFFER = 1 << 18

# Entries of the path that are allocated at first where episodes can end.
FIRST_PATH = 1 << 22


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories(Described):
    """Episodes that were played, time-major: T steps of N episodes.

    T is the length of the longest episode, at most the horizon.

    Attributes:
        pairs: State and action at each step, int32 `[T, N]`, as `a * S + s` (the row of an
            expanded kernel); A*S after the end of an episode.
        final_states: State after the last step where the horizon cut an episode, -1 where it
            ended by itself, int32 `[N]`.
        num_states: S.
        num_actions: A.
    """

    pairs: IntArray
    final_states: IntArray
    num_states: int
    num_actions: int

    @property
    def num_episodes(self) -> int:
        """N."""
        return self.pairs.shape[1]

    @property
    def num_steps(self) -> int:
        """Environment steps that were played, over all episodes."""
        return int(self.lengths.sum())

    @cached_property
    def lengths(self) -> IntArray:
        """Steps of each episode, `[N]`; the action that ends an episode is its last step."""
        return np.count_nonzero(self.pairs != self._end, axis=0).astype(np.int32)

    @cached_property
    def states(self) -> IntArray:
        """State at each step, int32 `[T, N]`; -1 after the end of an episode."""
        return self._expand(np.arange(self._end, dtype=np.int32) % np.int32(self.num_states))

    @cached_property
    def actions(self) -> IntArray:
        """Action at each step, int32 `[T, N]`; -1 after the end of an episode."""
        return self._expand(np.arange(self._end, dtype=np.int32) // np.int32(self.num_states))

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Whether an episode was under way at each step, `[T, N]`."""
        return self.states >= 0

    @cached_property
    def next_states(self) -> IntArray:
        """State after each step, `[T, N]`; -1 where the episode ended, and after it."""
        after = np.concatenate([self.states[1:], self.final_states[None]])
        return np.where(self.alive, after, -1)

    def along(self, values: ArrayLike) -> FloatArray:
        """Return `values(s_t, a_t)` at each step, `[T, N]`; zero after the end of an episode.

        Raises:
            ValueError: If the shape of the values is not `[S, A]`.
        """
        table, shape = np.asarray(values, np.float64), (self.num_states, self.num_actions)
        if table.shape != shape:
            raise ValueError(f"`values` must have shape [S, A] = {shape}, got {table.shape}")
        return np.append(action_major(table), 0.0).take(self.pairs)

    def discounted_sum(self, values: ArrayLike, gamma: float) -> FloatArray:
        """Return `sum_t gamma^t values(s_t, a_t)` of each episode, `[N]`.

        Raises:
            ValueError: If the shape of the values is not `[S, A]` or gamma is not in [0, 1].
        """
        discounts = self._discounts(gamma)
        sums: FloatArray = discounts @ self.along(values)
        return sums

    def discounted_visits(self, gamma: float) -> FloatArray:
        """Return `sum_t gamma^t 1[(s_t, a_t) = (s, a)]`, averaged over episodes, `[S, A]`.

        With it, a task's `reward_vjp(x, visits)` is the average of the episodes' sums of dr/dx,
        without any array `[N, D]`.

        Raises:
            ValueError: If gamma is not in [0, 1].
        """
        discounts = self._discounts(gamma)
        sums = np.zeros(self._end)
        kernels = _compiled()
        if kernels is not None:
            kernels.add_visits(self.pairs.view(np.uint32), discounts, sums)
        else:
            size = max(1, BUFFER // self.num_episodes)
            for low in range(0, len(self.pairs), size):
                pairs = self.pairs[low : low + size]
                terms = np.repeat(discounts[low : low + size], self.num_episodes)
                sums += np.bincount(pairs.ravel(), terms, self._end + 1)[:-1]
        return (sums / self.num_episodes).reshape(self.num_actions, self.num_states).T

    @property
    def _end(self) -> int:
        """Entry of `pairs` after the end of an episode."""
        return self.num_states * self.num_actions

    def _expand(self, values: IntArray) -> IntArray:
        return np.append(values, np.int32(-1)).take(self.pairs)

    def _discounts(self, gamma: float) -> FloatArray:
        discount = check_probability("gamma", gamma)
        return np.power(discount, np.arange(len(self.pairs)), dtype=np.float64)


class Simulator:
    """Plays episodes of one kernel under one policy.

    Building it costs a few operations per stored transition; a step then costs the same whatever
    the kernel.

    Example:
        >>> import numpy as np
        >>> from bilevel_gym.core.mdp import Kernel
        >>> from bilevel_gym.episodes.simulator import Simulator
        >>> kernel = Kernel.from_dense([[[0.5, 0.5]], [[0.0, 0.9]]])
        >>> simulator = Simulator(kernel, policy=[[1.0], [1.0]])
        >>> episodes = simulator.simulate(
        ...     [1.0, 0.0], num_episodes=10_000, horizon=500, rng=np.random.default_rng(0)
        ... )
        >>> round(float(episodes.lengths.mean()))  # 2 steps in state 0, then 10 in state 1
        12
    """

    def __init__(self, kernel: Kernel, policy: ArrayLike) -> None:
        """Build the alias tables for a policy `[S, A]`, zero for actions that do not exist.

        Raises:
            ValueError: If the policy has another shape, or a row is not a distribution.
        """
        kernel = kernel.expanded()  # outcomes are pairs of action and next state
        size = kernel.num_states
        checked = _checked_distribution("policy", policy, (size, kernel.num_actions))
        rows, successors, probabilities = _outcomes(kernel.matrix)
        weights = probabilities * action_major(checked).ravel()[rows]
        states = rows % np.int32(size)
        order = np.argsort(states, kind="stable")
        order = order[weights[order] > 0.0]
        # One more state, S, has no outcome but itself: there episodes are that have ended.
        table = alias_table(
            np.append(weights[order], 1.0), np.append(states[order], size), size + 1
        )
        self._kernel = kernel
        self._end = size * kernel.num_actions  # stands for no step, after the end of an episode
        self._rows = table.rows
        self._thresholds = table.thresholds
        self._pairs = np.append(rows[order], self._end).astype(np.uint32)[table.outcomes]
        self._successors = table.rows[np.append(successors[order], size)[table.outcomes]]
        self._can_end = bool((successors[order] == size).any())

    def simulate(
        self,
        initial_distribution: ArrayLike | None = None,
        *,
        num_episodes: int | None = None,
        start_pairs: tuple[ArrayLike, ArrayLike] | None = None,
        horizon: int,
        rng: np.random.Generator,
    ) -> Trajectories:
        """Play episodes and keep their paths.

        Episodes start from a distribution or from given pairs (s, a), one episode each. They take
        four bytes per episode and step up to the longest episode, and buffers of a fixed size.
        Where that is too much, play them in several calls with the same generator: as long as all
        calls but the last play multiples of 2048 episodes, they are the same episodes.

        Args:
            initial_distribution: Distribution of the first state `[S]`.
            num_episodes: N, at least 1; given if and only if `initial_distribution` is.
            start_pairs: First states `[N]` and first actions `[N]`, instead.
            horizon: Number of steps after which an episode is cut, at least 1.
            rng: Where random numbers come from.

        Raises:
            ValueError: If an argument has another shape or is out of range.
            TypeError: If `rng` is no NumPy generator.
        """
        start = self._start(initial_distribution, num_episodes, start_pairs, horizon, rng)
        can_end = self._can_end or bool((start.reached == self._rows[-1]).any())
        kernels = _compiled()
        function = _advance if kernels is None else kernels.advance
        advance = partial(function, self._thresholds, self._pairs, self._successors)
        rows = np.empty(start.row.size, dtype=np.uint64)
        shape = (min(horizon, max(PERIOD[1], FIRST_PATH // rows.size)), rows.size)
        path = np.empty(shape if can_end else (horizon, rows.size), dtype=np.uint32)
        longest = 0
        for low in range(0, rows.size, BLOCK):
            block = slice(low, min(low + BLOCK, rows.size))
            row, stop = start.row[block], 0
            numbers = random_words(rng, 1, row.size)[0, : row.size]
            rows[block] = start.reached[start.table.draw(row, numbers)]
            if start.pairs is not None:
                path[0, block], stop = start.pairs[block], 1
            for t, uniforms, episodes, state in self._play(
                rows[block], stop, horizon, can_end, rng
            ):
                stop = t + len(uniforms)
                if stop > len(path):
                    more = np.empty((min(stop, horizon - len(path)), rows.size), dtype=np.uint32)
                    path = np.concatenate([path, more])
                if episodes.size < block.stop - block.start:
                    path[t:stop, block] = self._end
                advance(uniforms, episodes + np.uint64(block.start), state, path[t:stop])
            path[stop:longest, block] = self._end
            path[longest:stop, : block.start] = self._end
            longest = max(longest, stop)
        path = path[:longest]
        while len(path) > 1 and (path[-1] == self._end).all():
            path = path[:-1]
        final_states = np.searchsorted(self._rows, rows).astype(np.int32)
        final_states[final_states == self._kernel.num_states] = -1
        return Trajectories(
            path.view(np.int32), final_states, self._kernel.num_states, self._kernel.num_actions
        )

    def _start(
        self,
        initial_distribution: ArrayLike | None,
        num_episodes: int | None,
        start_pairs: tuple[ArrayLike, ArrayLike] | None,
        horizon: int,
        rng: np.random.Generator,
    ) -> _Start:
        """Check the arguments of `simulate`, and set up the first draw."""
        check_at_least("horizon", horizon, 1)
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"`rng` must be a numpy.random.Generator, got {type(rng).__name__}")
        size = self._kernel.num_states
        if start_pairs is None:
            if initial_distribution is None or num_episodes is None:
                raise ValueError(
                    "episodes need `initial_distribution` and `num_episodes`, or `start_pairs`"
                )
            check_at_least("num_episodes", num_episodes, 1)
            initial = _checked_distribution("initial_distribution", initial_distribution, (size,))
            support = np.flatnonzero(initial)
            table = alias_table(initial[support], np.zeros_like(support), 1)
            row = np.zeros(num_episodes, dtype=np.int64)
            return _Start(table, row, self._rows[support[table.outcomes]], None)
        if initial_distribution is not None or num_episodes is not None:
            raise ValueError(
                "`start_pairs` says where each episode starts and how many there are: give neither "
                "`initial_distribution` nor `num_episodes` with it"
            )
        pairs = _checked_pairs(start_pairs, size, self._kernel.num_actions)
        distinct, row = np.unique(pairs, return_inverse=True)
        rows, successors, probabilities = _outcomes(self._kernel.matrix[distinct])
        order = np.argsort(rows, kind="stable")
        order = order[probabilities[order] > 0.0]
        table = alias_table(probabilities[order], rows[order], distinct.size)
        reached = self._rows[successors[order][table.outcomes]]
        return _Start(table, row, reached, pairs.astype(np.uint32))

    def _play(
        self,
        rows: NDArray[np.uint64],
        t: int,
        horizon: int,
        can_end: bool,
        rng: np.random.Generator,
    ) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]]:
        """Yield what is needed to play a block of episodes, piece by piece.

        Each piece has its first step, random numbers `[L, >= m]` for its L steps and m episodes,
        which episodes `[m]`, and the row where each is `[m]`, which the caller advances. `rows`
        `[n]`, where each episode is, holds the last ones in the end.
        """
        episodes = np.flatnonzero(rows != self._rows[-1]).astype(np.uint64)
        while t < horizon and episodes.size:
            period = min(max(PERIOD[0], PERIOD_NUMBERS // episodes.size), PERIOD[1])
            stop = min(horizon, t + period) if can_end else horizon
            state = rows[episodes]
            while t < stop:
                steps = min(stop - t, max(1, BUFFER // episodes.size))
                yield t, random_words(rng, steps, episodes.size), episodes, state
                t += steps
            rows[episodes] = state
            episodes = episodes[state != self._rows[-1]]


class _Start(NamedTuple):
    """How episodes start.

    Attributes:
        table: Distributions of the first random draw.
        row: The one that each episode draws from, `[N]`.
        reached: Row of the simulator's table to which each of the draw's outcomes leads.
        pairs: What precedes that draw, `[N]`; None where it is the first state.
    """

    table: AliasTable
    row: NDArray[np.int64]
    reached: NDArray[np.uint64]
    pairs: NDArray[np.uint32] | None


def _outcomes(matrix: Any) -> tuple[IntArray, IntArray, FloatArray]:
    """Return rows, successors (S for the end) and probabilities of all outcomes, `[K']` each."""
    num_rows, num_states = matrix.shape
    missing = 1.0 - matrix @ np.ones(num_states)
    ending = np.flatnonzero(missing > FULL_ROW_TOLERANCE).astype(np.int32)
    rows = np.repeat(np.arange(num_rows, dtype=np.int32), np.diff(matrix.indptr))
    ends = np.full_like(ending, num_states)
    return (
        np.concatenate([rows, ending]),
        np.concatenate([matrix.indices, ends]),
        np.concatenate([matrix.data, missing[ending]]),
    )


def _advance(
    thresholds: NDArray[np.uint32],
    pairs: NDArray[np.uint32],
    successors: NDArray[np.uint64],
    uniforms: NDArray[np.uint32],
    episodes: NDArray[np.uint64],
    state: NDArray[np.uint64],
    path: NDArray[np.uint32],
) -> None:
    """Play some steps; see `advance` in `bilevel_gym.core.compiled.trajectories`."""
    count = state.size
    numbers = uniforms[:, :count].astype(np.uint64)
    x, cells = np.empty_like(state), np.empty_like(state)
    slots = cells.view(np.int64)
    rest, limits = np.empty((2, count), dtype=np.uint32)
    second = np.empty(count, dtype=bool)
    columns: Any = slice(int(episodes[0]), int(episodes[-1]) + 1)
    if columns.stop - columns.start > count:  # some have ended; a slice takes half the time
        columns = episodes
    # Look-ups in range need no check: "clip" writes to `out` without a buffer.
    for t in range(len(numbers)):
        np.bitwise_and(state, LOW, out=x)
        np.multiply(x, numbers[t], out=x)
        np.copyto(rest, x, casting="unsafe")  # the lower half
        np.right_shift(x, HALF, out=x)
        np.right_shift(state, HALF, out=cells)
        np.add(cells, x, out=cells)
        thresholds.take(slots, out=limits, mode="clip")
        np.greater_equal(rest, limits, out=second)
        np.add(cells, cells, out=cells)
        np.add(cells, second, out=cells)
        path[t, columns] = pairs.take(slots, mode="clip")
        successors.take(slots, out=state, mode="clip")


def _compiled() -> Any:
    """Return the compiled inner loops, None where they are not to be used."""
    if not fast.enabled():
        return None
    from ..core.compiled import trajectories

    return trajectories


def _checked_distribution(name: str, values: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """Return values as float64 whose last axis holds probability distributions."""
    array = check_in_box(name, real_numbers(name, values), np.zeros(shape), np.full(shape, np.inf))
    sums = array.sum(axis=-1)
    off = np.abs(sums - 1.0) > SUM_TOLERANCE
    if off.any():
        where = "" if sums.ndim == 0 else f" in state {int(np.argmax(off))}"
        raise ValueError(f"`{name}` must sum to one, got {sums[off][0]}{where}")
    return array


def _checked_pairs(
    given: tuple[ArrayLike, ArrayLike], num_states: int, num_actions: int
) -> NDArray[np.int64]:
    """Return first states and actions as `a * S + s`, `[N]`."""
    parts = [real_numbers("start_pairs", part) for part in given]
    if len(parts) != 2 or parts[0].ndim != 1 or parts[0].shape != parts[1].shape:
        raise ValueError(
            "`start_pairs` must be states [N] and actions [N], got shapes "
            f"{', '.join(str(part.shape) for part in parts)}"
        )
    for name, part, bound in zip(
        ("states", "actions"), parts, (num_states, num_actions), strict=True
    ):
        if part.size == 0 or part.dtype.kind not in "iu" or part.min() < 0 or part.max() >= bound:
            span = f"{part.min()}..{part.max()}" if part.size else "none"
            raise ValueError(
                f"{name} of `start_pairs` must be integers in 0..{bound - 1}, at least one, got "
                f"{span} of dtype {part.dtype}"
            )
    return parts[1].astype(np.int64) * num_states + parts[0]
