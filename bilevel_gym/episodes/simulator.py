"""Many episodes at once under a fixed policy of a finite MDP, with their discounted sums.

Sampled methods estimate a hyper-gradient from discounted sums along episodes: of rewards, of the
reward's gradient with respect to the upper-level parameters, of visits to state-action pairs
(e.g. HPGD, Thoma et al. 2024, and BC-HG, Kudo et al. 2026).

One random number selects action and successor together, through an alias table per state (see
`alias`), so that a step costs one multiplication and a few look-ups, whatever the number of
outcomes; outcomes of probability zero never occur, and a full row of the kernel never ends.

All random numbers are drawn by NumPy from the caller's generator, in an order that neither the
compiled kernels of the extra `fast` nor the size of any buffer has an influence on: the same
generator gives the same episodes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from ..core import fast
from ..core.checks import check_at_least, check_probability
from ..core.mdp import FloatArray, IntArray, Kernel, action_major
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


@dataclass(frozen=True, eq=False)
class Trajectories:
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

    def along(self, values: ArrayLike) -> FloatArray:
        """Return `values(s_t, a_t)` at each step, `[T, N]`; zero after the end of an episode.

        Args:
            values: A number per state and action, `[S, A]`.

        Raises:
            ValueError: If the shape is not `[S, A]`.
        """
        return self._table(values).take(self.pairs)

    def discounted_sum(self, values: ArrayLike, gamma: float) -> FloatArray:
        """Return `sum_t gamma^t values(s_t, a_t)` of each episode, `[N]`.

        Args:
            values: A number per state and action, `[S, A]`.
            gamma: Discount, in [0, 1].

        Raises:
            ValueError: If the shape is not `[S, A]` or the discount is out of range.
        """
        table, discounts = self._table(values), self._discounts(gamma)
        sums = np.zeros(self.num_episodes)
        kernels = _compiled()
        if kernels is not None:
            kernels.add_table(table, self.pairs.view(np.uint32), discounts, sums)
            return sums
        for part in _parts(len(self.pairs), self.num_episodes):
            sums += discounts[part] @ table.take(self.pairs[part])
        return sums

    def discounted_gradient(
        self, reward_gradient: Any, gamma: float, *, num_parameters: int | None = None
    ) -> FloatArray:
        """Return `sum_t gamma^t dr(s_t, a_t)/dx` of each episode, `[N, D]`.

        Args:
            reward_gradient: dr/dx in one of three forms. Integers `[S]` or `[S, A]`: the entry of
                x that is added to the reward there, -1 for none (a subsidy per state has
                `numpy.arange(S)`; of a toll, take the negative result). Dense `[S, A, D]`. SciPy
                sparse `[A*S, D]`, row `a * S + s` for (s, a), like the rows of a kernel's matrix.
            gamma: Discount, in [0, 1].
            num_parameters: D, with integers; None means one more than the largest.

        Raises:
            ValueError: If a shape, an integer or the discount is out of range.
        """
        gradient = _RewardGradient.of(
            reward_gradient, num_parameters, self.num_states, self.num_actions
        )
        discounts, path = self._discounts(gamma), self.pairs.view(np.uint32)
        result = np.empty((self.num_episodes, gradient.num_parameters))
        kernels = _compiled()
        if kernels is not None and gradient.columns is not None:
            kernels.add_gradients(gradient.columns, path, discounts, result)
            return result
        for part in _parts(self.num_episodes, len(path)):
            sums = gradient.zeros(part.stop - part.start)
            gradient.add(path[:, part], discounts, np.arange(len(sums)), sums)
            result[part] = sums[:, : gradient.num_parameters]
        return result

    def discounted_visits(self, gamma: float, weights: ArrayLike | None = None) -> FloatArray:
        """Return `sum_t gamma^t w_t 1[(s_t, a_t) = (s, a)]`, averaged over episodes, `[S, A]`.

        With it, a task's `reward_vjp(x, visits)` is the average of the episodes' weighted sums of
        dr/dx, without any array `[N, D]`.

        Args:
            gamma: Discount, in [0, 1].
            weights: A factor for each episode, `[N]`, or for each step, `[T, N]`; None for ones.

        Raises:
            ValueError: If a shape or the discount is out of range.
        """
        discounts = self._discounts(gamma)
        factors = np.ones(self.num_episodes) if weights is None else np.array(weights, np.float64)
        if factors.shape not in ((self.num_episodes,), self.pairs.shape):
            raise ValueError(
                f"`weights` must have shape [N] = ({self.num_episodes},) or "
                f"[T, N] = {self.pairs.shape}, got {factors.shape}"
            )
        sums = np.zeros(self._end)
        kernels = _compiled()
        if kernels is not None and factors.ndim == 1:
            kernels.add_visits(self.pairs.view(np.uint32), discounts, factors, sums)
        else:
            factors = np.broadcast_to(factors, self.pairs.shape)
            for part in _parts(len(self.pairs), self.num_episodes):
                terms = discounts[part, None] * factors[part]
                visits = np.bincount(self.pairs[part].ravel(), terms.ravel(), self._end + 1)
                sums += visits[:-1]
        return (sums / self.num_episodes).reshape(self.num_actions, self.num_states).T

    @property
    def _end(self) -> int:
        """Entry of `pairs` after the end of an episode."""
        return self.num_states * self.num_actions

    def _expand(self, values: IntArray) -> IntArray:
        return np.append(values, np.int32(-1)).take(self.pairs)

    def _table(self, values: ArrayLike) -> FloatArray:
        """Return a table by pair, with a zero for what has ended, `[A*S + 1]`."""
        table, shape = np.asarray(values, np.float64), (self.num_states, self.num_actions)
        if table.shape != shape:
            raise ValueError(f"`values` must have shape [S, A] = {shape}, got {table.shape}")
        return np.append(action_major(table), 0.0)

    def _discounts(self, gamma: float) -> FloatArray:
        check_probability("gamma", gamma)
        return _discounts(gamma, 0, len(self.pairs))


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
        """Build the alias tables.

        Args:
            kernel: Transition kernel.
            policy: Action probabilities `[S, A]`, zero for actions that do not exist.

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
        advance = self._advance_function()
        rows = np.empty(start.num_episodes, dtype=np.uint64)
        shape = (min(horizon, max(PERIOD[1], FIRST_PATH // rows.size)), rows.size)
        path = np.empty(shape if start.can_end else (horizon, rows.size), dtype=np.uint32)
        longest = 0
        for block in start.blocks(rows, rng):
            stop = start.first_step
            if start.pairs is not None:
                path[0, block] = start.pairs[block]
            for t, uniforms, episodes, state in self._play(rows[block], start, horizon, rng):
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

    def discounted_gradient(
        self,
        reward_gradient: Any,
        gamma: float,
        initial_distribution: ArrayLike | None = None,
        *,
        num_episodes: int | None = None,
        start_pairs: tuple[ArrayLike, ArrayLike] | None = None,
        horizon: int,
        rng: np.random.Generator,
        num_parameters: int | None = None,
    ) -> FloatArray:
        """Return what `simulate(...).discounted_gradient(...)` does, without keeping the paths.

        This is faster, and apart from the result, `[N, D]`, it takes a few bytes per episode and
        buffers of a fixed size, whatever the horizon. See these two methods for the arguments and
        the errors.
        """
        gradient = _RewardGradient.of(
            reward_gradient, num_parameters, self._kernel.num_states, self._kernel.num_actions
        )
        start = self._start(initial_distribution, num_episodes, start_pairs, horizon, rng)
        check_probability("gamma", gamma)
        advance, kernels = self._advance_function(), _compiled()
        columns = None if gradient.columns is None else gradient.columns[self._pairs]
        rows = np.empty(start.num_episodes, dtype=np.uint64)
        result = np.empty((rows.size, gradient.num_parameters))
        for block in start.blocks(rows, rng):
            # Sums that stay in the caches for a whole block: the result as a whole does not.
            sums = gradient.zeros(block.stop - block.start)
            if start.pairs is not None:
                first = start.pairs[None, block]
                gradient.add(first, np.ones(1), np.arange(len(sums)), sums)
            for t, uniforms, episodes, state in self._play(rows[block], start, horizon, rng):
                discounts = _discounts(gamma, t, t + len(uniforms))
                if kernels is not None and columns is not None:
                    kernels.advance_gradients(
                        self._thresholds,
                        columns,
                        self._successors,
                        uniforms,
                        episodes,
                        state,
                        discounts,
                        sums,
                    )
                    continue
                path = np.empty((discounts.size, episodes.size), dtype=np.uint32)
                advance(uniforms, np.arange(episodes.size, dtype=np.uint64), state, path)
                gradient.add(path, discounts, episodes, sums)
            result[block] = sums[:, : gradient.num_parameters]
        return result

    @property
    def _end(self) -> int:
        """Pair that stands for no step, after the end of an episode."""
        return self._kernel.num_states * self._kernel.num_actions

    def _start(
        self,
        initial_distribution: ArrayLike | None,
        num_episodes: int | None,
        start_pairs: tuple[ArrayLike, ArrayLike] | None,
        horizon: int,
        rng: np.random.Generator,
    ) -> _Start:
        """Check the arguments that both ways of playing have, and set up the first draw."""
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
            return _Start(table, row, self._rows[support[table.outcomes]], None, self._can_end)
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
        reached = successors[order][table.outcomes]
        can_end = self._can_end or bool((reached == size).any())
        return _Start(table, row, self._rows[reached], pairs.astype(np.uint32), can_end)

    def _play(
        self, rows: NDArray[np.uint64], start: _Start, horizon: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]]:
        """Yield what is needed to play a block of episodes, piece by piece.

        Args:
            rows: Row of the table where each episode is, `[n]`; holds the last one in the end.
            start: How episodes start.
            horizon: Step to stop at.
            rng: Where random numbers come from.

        Yields:
            First step of the piece, random numbers `[L, >= m]` for its L steps and m episodes,
            which episodes `[m]`, and the row where each is `[m]`, which the caller advances.
        """
        t = start.first_step
        episodes = np.flatnonzero(rows != self._rows[-1]).astype(np.uint64)
        while t < horizon and episodes.size:
            period = min(max(PERIOD[0], PERIOD_NUMBERS // episodes.size), PERIOD[1])
            stop = min(horizon, t + period) if start.can_end else horizon
            state = rows[episodes]
            while t < stop:
                steps = min(stop - t, max(1, BUFFER // episodes.size))
                yield t, random_words(rng, steps, episodes.size), episodes, state
                t += steps
            rows[episodes] = state
            episodes = episodes[state != self._rows[-1]]

    def _advance_function(self) -> Callable[..., None]:
        """Return the function that plays some steps, compiled if possible, with its tables."""
        kernels = _compiled()
        function = _advance if kernels is None else kernels.advance
        return partial(function, self._thresholds, self._pairs, self._successors)


@dataclass(frozen=True, eq=False)
class _Start:
    """How episodes start.

    Attributes:
        table: Distributions of the first random draw.
        row: The one that each episode draws from, `[N]`.
        reached: Row of the simulator's table to which each of the draw's outcomes leads.
        pairs: What precedes that draw, `[N]`; None where it is the first state.
        can_end: Whether an episode may end before the horizon.
    """

    table: AliasTable
    row: NDArray[np.int64]
    reached: NDArray[np.uint64]
    pairs: NDArray[np.uint32] | None
    can_end: bool

    @property
    def num_episodes(self) -> int:
        """N."""
        return self.row.size

    @property
    def first_step(self) -> int:
        """The first step whose pair is drawn."""
        return 0 if self.pairs is None else 1

    def blocks(self, rows: NDArray[np.uint64], rng: np.random.Generator) -> Iterator[slice]:
        """Yield blocks of episodes, each after its first draw has been written to `rows` `[N]`."""
        for low in range(0, self.num_episodes, BLOCK):
            block = slice(low, min(low + BLOCK, self.num_episodes))
            row = self.row[block]
            rows[block] = self.reached[
                self.table.draw(row, random_words(rng, 1, row.size)[0, : row.size])
            ]
            yield block


@dataclass(frozen=True, eq=False)
class _RewardGradient:
    """The gradient of a reward, in the form in which it is summed.

    Attributes:
        num_parameters: D.
        columns: Entry of x for each pair, D for none and after the end, `[A*S + 1]`; or None.
        matrix: Gradient for each pair, `[A*S, D]`, dense or CSR, where `columns` is None.
    """

    num_parameters: int
    columns: NDArray[np.uint32] | None
    matrix: Any

    @classmethod
    def of(
        cls, given: Any, num_parameters: int | None, num_states: int, num_actions: int
    ) -> _RewardGradient:
        """Check and convert a gradient that a user has given."""
        if num_parameters is not None:
            check_at_least("num_parameters", num_parameters, 1)
        end, shape = num_actions * num_states, (num_states, num_actions)
        array = given if issparse(given) else np.asarray(given)
        if issparse(given) and array.ndim == 2 and array.shape[0] == end:
            matrix = csr_array(array, dtype=np.float64)
        elif not issparse(given) and array.dtype.kind in "iu" and array.shape in (shape[:1], shape):
            smallest, largest = int(array.min()), int(array.max())
            size = largest + 1 if num_parameters is None else num_parameters
            if smallest < -1 or largest >= size:
                raise ValueError(
                    f"integers in `reward_gradient` must lie in -1..{size - 1}, "
                    f"got {smallest}..{largest}"
                )
            by_pair = np.broadcast_to(array.astype(np.int64).T, shape[::-1]).ravel()
            columns = np.append(np.where(by_pair < 0, size, by_pair), size).astype(np.uint32)
            return cls(size, columns, None)
        elif not issparse(given) and array.shape[:-1] == shape and array.dtype.kind in "fiu":
            matrix = np.asarray(array.transpose(1, 0, 2), np.float64).reshape(end, -1)
        else:
            raise ValueError(
                "`reward_gradient` must be integers [S] or [S, A], dense [S, A, D] or sparse "
                f"[A*S, D] with S, A = {shape}, got {array.shape} of dtype {array.dtype}"
            )
        if num_parameters not in (None, matrix.shape[1]):
            raise ValueError(
                f"`num_parameters` must be the last dimension of `reward_gradient`, "
                f"{matrix.shape[1]}, or None, got {num_parameters}"
            )
        return cls(matrix.shape[1], None, matrix)

    def zeros(self, num_episodes: int) -> FloatArray:
        """Return sums to add to, `[N, D]`, or `[N, D + 1]` with columns, the last for waste."""
        return np.zeros((num_episodes, self.num_parameters + (self.columns is not None)))

    def add(
        self,
        path: NDArray[np.uint32],
        discounts: FloatArray,
        episodes: NDArray[Any],
        sums: FloatArray,
    ) -> None:
        """Add the discounted gradients along a path `[L, n]` to the rows `episodes` `[n]`."""
        count = len(episodes)
        if self.columns is not None:
            offsets = episodes.astype(np.int64) * sums.shape[1]
            slots = self.columns.take(path) + offsets
            np.add.at(sums.reshape(-1), slots.ravel(), np.repeat(discounts, count))
            return
        num_pairs = self.matrix.shape[0]
        pairs, weights = path.T.flatten(), np.tile(discounts, count)
        over = pairs == num_pairs
        pairs[over], weights[over] = 0, 0.0
        starts = np.arange(count + 1) * discounts.size
        visits = csr_array((weights, pairs.view(np.int32), starts), shape=(count, num_pairs))
        product = visits @ self.matrix
        sums[episodes] += product.toarray() if issparse(product) else product


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


def _parts(total: int, width: int) -> Iterator[slice]:
    """Yield slices of a range that hold as many rows of some width as fit in a buffer."""
    size = max(1, BUFFER // width)
    for low in range(0, total, size):
        yield slice(low, min(low + size, total))


def _discounts(gamma: float, start: int, stop: int) -> FloatArray:
    return np.power(float(gamma), np.arange(start, stop), dtype=np.float64)


def _compiled() -> Any:
    """Return the compiled inner loops, None where they are not to be used."""
    if not fast.enabled():
        return None
    from ..core.compiled import trajectories

    return trajectories


def _checked_distribution(name: str, values: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """Return values as float64 whose last axis holds probability distributions.

    Raises:
        ValueError: If the shape is another one, or a row is no distribution.
    """
    array = np.asarray(values, dtype=np.float64)
    letters = "[S, A]" if len(shape) == 2 else "[S]"
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {letters} = {shape}, got {array.shape}")
    bad = ~(np.isfinite(array) & (array >= 0.0))
    if bad.any():
        entry = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"probabilities of `{name}` must be finite and not negative, got {array[entry]} in "
            f"entry [{', '.join(map(str, entry))}]"
        )
    sums = array.sum(axis=-1)
    off = np.abs(sums - 1.0) > SUM_TOLERANCE
    if off.any():
        where = "" if sums.ndim == 0 else f" in state {int(np.argmax(off))}"
        raise ValueError(f"`{name}` must sum to one, got {sums[off][0]}{where}")
    return array


def _checked_pairs(
    given: tuple[ArrayLike, ArrayLike], num_states: int, num_actions: int
) -> NDArray[np.int64]:
    """Return first states and actions as `a * S + s`, `[N]`.

    Raises:
        ValueError: If they are not two arrays of the same length, or out of range.
    """
    parts = [np.asarray(part) for part in given]
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
