"""The sparse kernel of a finite Markov decision process.

Letters used in every shape of the numeric core: `S` states, `A` actions, `D` upper-level
parameters, `K` stored transitions.

The kernel is one CSR matrix whose row `a * S + s` holds `P(.|s, a)` (action-major rows): a
maximum or a sum over actions then runs over the leading axis, which vectorises, while a last
axis of length four does not. Arrays cross the public interface as `[S, A]`; inside, they are
transposed views of C-contiguous `[A, S]` memory, so that neither direction costs a copy.

Where many actions lead to the same next states (they differ in their rewards), the kernel stores
one row for each *move* `m`, at `m * S + s`, and says which move each action makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse, vstack

from . import fast
from .checks import (
    check_at_least,
    check_choice,
    check_sparse,
    real_numbers,
)
from .pattern import SystemPattern
from .threads import threads_for

__all__ = ["FloatArray", "IntArray", "Kernel", "action_major"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]

# Rounding that a row of probabilities may carry; anything above is an error of the caller.
ROW_SUM_TOLERANCE = 1e-9

# States, or actions, that indices of 32 bits can tell apart.
LARGEST = 2**31 - 1

# From so many states on, kernels in compiled code read the probabilities where they are: a copy in
# another order takes half as much memory again as the kernel.
COPIED_STATES = 100_000

# How the rows of a sparse matrix [A*S, S] may be ordered.
ORDERS = ("action-major", "state-major")


def action_major(values: FloatArray) -> FloatArray:
    """Return `[S, A]` values as a C-contiguous `[A, S]` array (no copy for our own views)."""
    return np.ascontiguousarray(values.T, dtype=np.result_type(values, np.float64))


@dataclass(frozen=True, eq=False)
class Kernel:
    """Transition kernel `P(s'|s, a)` of a finite MDP.

    A row may sum to less than one: the missing mass is the probability that the episode ends. Rows
    of single precision that sum to one but for its rounding are normalised.

    Attributes:
        matrix: CSR matrix `[M*S, S]` in canonical form, a copy of the SciPy sparse matrix given;
            row `m * S + s` holds where move m leads from state s. Unless `moves` says otherwise,
            M = A and actions are their own moves.
        num_states: S.
        num_actions: A.
        moves: Move that each action makes, `[A]`; None when each is its own.
    """

    matrix: Any
    num_states: int
    num_actions: int
    moves: IntArray | None = None

    def __post_init__(self) -> None:
        """Check the matrix, and store it in canonical form.

        Raises:
            ValueError: If a size or a shape is out of range, or a row is not a (sub-)distribution.
        """
        for name in ("num_states", "num_actions"):
            object.__setattr__(self, name, check_at_least(name, getattr(self, name), 1, LARGEST))
        count = self.num_actions
        if self.moves is not None:
            moves = _checked_moves(self.moves, None)
            if moves.size != self.num_actions:
                raise ValueError(
                    f"`moves` must have a move for each of {self.num_actions} actions, "
                    f"got {moves.size}"
                )
            count = int(moves.max()) + 1
            object.__setattr__(self, "moves", moves)
        shape = (count * self.num_states, self.num_states)
        object.__setattr__(self, "matrix", _canonical(self.matrix, shape))
        rows, data = self.rows, self.matrix.data
        _check_probabilities(rows, self.matrix.indices, data, self.num_states, self.moves)
        self._check_rows()

    @classmethod
    def of(cls, transition: Any) -> Kernel:
        """Return a kernel as it is, or made of an array `[S, A, S]` or of sparse matrices.

        The latter are a list of one `[S, S]` for each action.

        Raises:
            ValueError: If it is none of these, or a row is not a (sub-)distribution.
        """
        if isinstance(transition, Kernel):
            return transition
        several = isinstance(transition, Sequence) and any(map(issparse, transition))
        if several or issparse(transition):
            return cls.from_sparse(transition)
        return cls.from_dense(transition)

    @classmethod
    def from_sparse(cls, transition: Any, *, rows: str | None = None) -> Kernel:
        """Build a kernel from SciPy sparse matrices, or arrays, of any format.

        Args:
            transition: A list of one matrix `[S, S]` for each action, or one matrix `[A*S, S]`.
            rows: How the rows of one matrix are ordered: "action-major" where row `a * S + s` is
                that of (s, a), "state-major" where row `s * A + a` is.

        Raises:
            ValueError: If a shape is another one, the order of the rows is missing or unknown, or a
                row is not a (sub-)distribution.
        """
        if rows is not None:
            check_choice("rows", rows, ORDERS)
        parts = [*transition] if isinstance(transition, Sequence) else [transition]
        if not parts or not all(issparse(part) and part.ndim == 2 for part in parts):
            raise ValueError(
                "`transition` must be a SciPy sparse matrix [A*S, S], or a list of such matrices "
                f"[S, S], got {type(transition).__name__}"
            )
        size = parts[0].shape[1]
        if issparse(transition):
            if rows is None:
                raise ValueError(
                    "`rows` must say how the rows of one sparse `transition` are ordered: "
                    '"action-major" for row a * S + s, "state-major" for row s * A + a, got None; '
                    "see `Kernel.from_sparse`"
                )
            if size == 0 or transition.shape[0] == 0 or transition.shape[0] % size:
                raise ValueError(
                    f"`transition` must have shape [A*S, S], got {tuple(transition.shape)}"
                )
        elif any(part.shape != (size, size) for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise ValueError(f"`transition` must have one shape [S, S], got {shapes}")
        matrix = csr_array(vstack([check_sparse("transition", part) for part in parts]))
        count = matrix.shape[0] // max(1, size)
        if rows == "state-major":
            matrix = matrix[np.arange(size * count).reshape(size, count).T.ravel()]
        return cls(matrix, size, count)

    @classmethod
    def from_dense(cls, transition: ArrayLike) -> Kernel:
        """Build a kernel from dense probabilities `transition[s, a, s']`, `[S, A, S]`.

        Raises:
            ValueError: If the shape is not `[S, A, S]` or a row is not a (sub-)distribution.
        """
        if isinstance(transition, Mapping):
            raise ValueError(
                "`transition` must be an array [S, A, S], got a dict; a game of an environment "
                "with such a `P` is bilevel_gym.envs.BilevelToyText(env_id)"
            )
        dense = real_numbers("transition", transition)
        if dense.ndim != 3 or dense.shape[0] != dense.shape[2] or 0 in dense.shape:
            remedy = _other_order(dense)
            raise ValueError(f"`transition` must have shape [S, A, S], got {dense.shape}{remedy}")
        num_states, num_actions, _ = dense.shape
        states, actions, next_states = np.nonzero(dense)
        try:
            return cls.from_triplets(
                states,
                actions,
                next_states,
                dense[states, actions, next_states],
                num_states=num_states,
                num_actions=num_actions,
            )
        except ValueError as error:
            raise ValueError(f"{error}{_other_order(dense)}") from None

    @classmethod
    def from_triplets(
        cls,
        states: ArrayLike,
        actions: ArrayLike,
        next_states: ArrayLike,
        probabilities: ArrayLike,
        *,
        num_states: int,
        num_actions: int,
    ) -> Kernel:
        """Build a kernel from lists of transitions, `[K]` each; duplicates are summed.

        Raises:
            ValueError: If an index is out of range, or a row has a negative or non-finite entry
                or sums to more than one.
        """
        num_states = check_at_least("num_states", num_states, 1, LARGEST)
        num_actions = check_at_least("num_actions", num_actions, 1, LARGEST)
        data = real_numbers("probabilities", probabilities)
        given = {"states": states, "actions": actions, "next_states": next_states}
        indices = []
        for name, bound in zip(given, (num_states, num_actions, num_states), strict=True):
            index = real_numbers(name, given[name])
            if index.ndim != 1 or index.shape != data.shape:
                raise ValueError(
                    "`states`, `actions`, `next_states` and `probabilities` must be lists of one "
                    f"length [K], got shape {index.shape} of `{name}` with {data.shape}"
                )
            if index.dtype.kind not in "iu" and index.size:
                raise ValueError(f"`{name}` must be integers, got dtype {index.dtype}")
            if index.size and (index.min() < 0 or index.max() >= bound):
                raise ValueError(
                    f"`{name}` must lie in 0..{bound - 1}, got {index.min()}..{index.max()}"
                )
            indices.append(index.astype(np.int64))
        rows, columns = indices[1] * num_states + indices[0], indices[2]
        _check_probabilities(rows, columns, data, num_states)  # before both signs could cancel
        shape, data = (num_actions * num_states, num_states), _storable(data)
        return cls(csr_array((data, (rows, columns)), shape=shape), num_states, num_actions)

    def with_probabilities(self, probabilities: ArrayLike) -> Kernel:
        """Return a kernel with the same pattern and other probabilities `[K]`, as in `matrix.data`.

        Raises:
            ValueError: If the length differs or a row is not a (sub-)distribution.
        """
        given, shape = real_numbers("probabilities", probabilities), self.matrix.data.shape
        if given.shape != shape:
            raise ValueError(f"`probabilities` must have shape {shape}, got {given.shape}")
        data = np.array(given, dtype=np.float64)
        data.flags.writeable = False
        matrix = csr_array((data, self.matrix.indices, self.matrix.indptr), self.matrix.shape)
        _check_probabilities(self.rows, matrix.indices, data, self.num_states, self.moves)
        kernel = self._sharing_structure(matrix, self.num_actions, self.moves)
        kernel._check_rows()
        return kernel

    def with_moves(self, moves: ArrayLike) -> Kernel:
        """Return a kernel whose actions make the moves that are the actions of this one.

        `moves` has the move in 0..M-1 of each action, `[A]`, M being the actions here.

        Raises:
            ValueError: If they are not, or this kernel has moves already.
        """
        if self.moves is not None:
            raise ValueError("`with_moves` needs a kernel whose actions are their own moves")
        made = _checked_moves(moves, self.num_actions)
        return self._sharing_structure(self.matrix, made.size, made)

    @cached_property
    def by_move(self) -> Kernel:
        """The kernel of the moves alone: M actions; itself where actions are their own moves."""
        if self.moves is None:
            return self
        _ = self.pattern  # computed once, it is shared from here on
        return self._sharing_structure(self.matrix, self.num_moves, None)

    def expanded(self) -> Kernel:
        """Return the same kernel with a stored row for every action."""
        if self.moves is None:
            return self
        rows = self.moves[:, None].astype(np.int64) * self.num_states + np.arange(self.num_states)
        return _unchecked(self.matrix[rows.ravel()], self.num_states, self.num_actions, None)

    def _sharing_structure(self, matrix: Any, num_actions: int, moves: IntArray | None) -> Kernel:
        """Return a kernel on the same pattern, which every x and Newton step shares."""
        kernel = _unchecked(matrix, self.num_states, num_actions, moves)
        kernel.__dict__.update({k: v for k, v in self.__dict__.items() if k in _STRUCTURE})
        if moves is not self.moves:
            kernel.__dict__.pop("_actions_of_moves", None)
        return kernel

    def __getstate__(self) -> dict[str, Any]:
        """Leave what can be computed again behind when a kernel is copied or pickled."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def num_moves(self) -> int:
        """M, the stored rows of each state."""
        count: int = self.matrix.shape[0] // self.num_states
        return count

    @property
    def rows(self) -> IntArray:
        """Row `m * S + s` of each stored transition, `[K]`."""
        counts = np.diff(self.matrix.indptr)
        return np.repeat(np.arange(counts.size, dtype=np.int32), counts)

    @cached_property
    def longest_row(self) -> int:
        """Largest number of successors that an action has."""
        return int(np.diff(self.matrix.indptr).max())

    @property
    def triplets(self) -> tuple[IntArray, IntArray, IntArray]:
        """States, moves and successors of the stored transitions, `[K]` each."""
        moves, states = np.divmod(self.rows, np.int32(self.num_states))
        return states, moves, self.matrix.indices

    @cached_property
    def row_sums(self) -> FloatArray:
        """Probability that the episode goes on after `(s, a)`, `[S, A]`, in [0, 1]."""
        return self._per_action(self.matrix @ np.ones(self.num_states))

    @cached_property
    def largest_sum(self) -> float:
        """Largest of `row_sums`."""
        return float(self.row_sums.max())

    def row(self, state: int, action: int) -> tuple[IntArray, FloatArray]:
        """Return the successors of `(s, a)` and their probabilities, `[k]` each."""
        row = (action if self.moves is None else int(self.moves[action])) * self.num_states + state
        span = slice(self.matrix.indptr[row], self.matrix.indptr[row + 1])
        return self.matrix.indices[span], self.matrix.data[span]

    def expect(self, value: FloatArray) -> FloatArray:
        """Return the expectation `[S, A]` of a value `[S]` after each action, `(P value)(s, a)`."""
        return self._per_action(self.matrix @ value)

    def sum_transitions(self, weights: FloatArray) -> FloatArray:
        """Return the expectation `[S, A]` of weights `[K]` on the stored transitions."""
        sums = _scatter(self.rows, self.matrix.data * weights, self.matrix.shape[0])
        return self._per_action(sums)

    def flow(self, weights: FloatArray) -> FloatArray:
        """Return where weights `[S, A]` arrive, `sum_sa w(s, a) P(.|s, a)`, `[S]`."""
        arrived: FloatArray = self.transposed @ self.on_moves(weights).T.ravel()
        return arrived

    def on_transitions(self, weights: FloatArray, value: FloatArray) -> FloatArray:
        """Return `w(s, a) value(s')` for each stored transition, `[K]`, summed over its actions.

        The weights are `[S, A]`, the value `[S]`.
        """
        on_rows = np.repeat(self.on_moves(weights).T.ravel(), np.diff(self.matrix.indptr))
        on_rows *= value[self.matrix.indices]
        return on_rows

    def on_moves(self, weights: FloatArray) -> FloatArray:
        """Return weights `[S, A]` summed over the actions of each move, `[S, M]`."""
        if self.moves is None:
            return weights
        summed: FloatArray = self._actions_of_moves @ action_major(weights)
        return summed.T

    def policy_matrix(self, policy: FloatArray) -> Any:
        """Return P_pi of a policy `[S, A]`, sum_a pi(a|s) P(s'|s, a), as a CSR matrix `[S, S]`."""
        return self.pattern.matrix(self.system_entries(policy, -1.0, diagonal=0.0))

    def system_entries(
        self, policy: FloatArray, discount: float, *, diagonal: float = 1.0
    ) -> FloatArray:
        """Return the entries of `diagonal * I - discount * P_pi` in the order of `pattern`, `[E]`.

        The policy is `[S, A]`.
        """
        coefficients = np.empty(self.matrix.shape[0] + 1)
        np.multiply(self.on_moves(policy).T.ravel(), -discount, out=coefficients[:-1])
        coefficients[-1] = diagonal
        entries: FloatArray
        if self.num_states >= COPIED_STATES and fast.enabled():
            from .compiled.entries import gathered
            from .compiled.team import divided

            entries = np.empty_like(self.pattern.indices, dtype=np.float64)
            parts = *self.pattern.gathering, self.matrix.data, coefficients
            threads = threads_for(entries.size)
            divided(entries.size, threads, lambda i, j: gathered(*parts, i, j, entries))
        else:
            entries = self._gatherer @ coefficients
        return entries

    def to_dense(self) -> FloatArray:
        """Return the probabilities as a dense array `[S, A, S]`."""
        dense: FloatArray = self.matrix.toarray()
        by_move = dense.reshape(self.num_moves, self.num_states, -1)
        return (by_move if self.moves is None else by_move[self.moves]).transpose(1, 0, 2)

    @cached_property
    def pattern(self) -> SystemPattern:
        """Sparsity pattern of `I - discount * P_pi`, the same for all x, policies and discounts."""
        matrix = self.matrix
        return SystemPattern(matrix.indptr, matrix.indices, self.rows, self.num_states)

    @cached_property
    def transposed(self) -> Any:
        """`matrix` transposed, `[S, M*S]`."""
        return self.matrix.T  # shares memory

    @cached_property
    def _actions_of_moves(self) -> Any:
        """Which actions make each move, as a sparse matrix of ones `[M, A]`."""
        assert self.moves is not None
        ones, actions = np.ones(self.num_actions), np.arange(self.num_actions)
        return csr_array((ones, (self.moves, actions)), shape=(self.num_moves, self.num_actions))

    def _per_action(self, by_row: FloatArray) -> FloatArray:
        """Return numbers per stored row `[M*S]` as `[S, A]`."""
        by_move = by_row.reshape(-1, self.num_states)
        return (by_move if self.moves is None else by_move[self.moves]).T

    @cached_property
    def _gatherer(self) -> Any:
        return self.pattern.gatherer(self.matrix.data)

    def _check_rows(self) -> None:
        """Raise a `ValueError` if a row sums to more than one."""
        sums = self.row_sums
        if sums.max() > 1.0 + ROW_SUM_TOLERANCE:
            state, action = (int(i) for i in np.unravel_index(int(np.argmax(sums)), sums.shape))
            raise ValueError(
                "rows of `transition` must sum to at most 1 (missing mass ends the episode), got "
                f"{sums[state, action]} for state {state}, action {action}"
            )


def _other_order(dense: NDArray[Any]) -> str:
    """Return for a message which order of the axes would make a kernel of an array, "" for none."""
    if dense.ndim != 3 or 0 in dense.shape or not dense.min() >= 0.0:
        return ""
    for order in ((1, 0, 2), (2, 0, 1), (0, 2, 1), (1, 2, 0), (2, 1, 0)):
        other = dense.transpose(order)
        if other.shape[0] == other.shape[2] and np.isclose(other.sum(axis=2).max(), 1.0):
            return f"; its axes are in another order, give transition.transpose{order}"
    return ""


def _storable(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in a dtype that sparse matrices have; single precision stays what it is."""
    single = numbers.dtype.kind == "f" and numbers.dtype.itemsize < 8
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32 if single else np.float64)


def _unchecked(matrix: Any, num_states: int, num_actions: int, moves: IntArray | None) -> Kernel:
    """Return a kernel made of parts of one that has been checked."""
    kernel = object.__new__(Kernel)
    parts = {"num_states": num_states, "num_actions": num_actions, "moves": moves}
    kernel.__dict__.update(matrix=matrix, **parts)
    return kernel


def _canonical(matrix: Any, shape: tuple[int, int]) -> Any:
    """Return a sparse matrix as a new CSR array of float64, sorted and without duplicates."""
    if not issparse(matrix) or matrix.ndim != 2:
        raise ValueError(
            "`matrix` must be a SciPy sparse matrix [M*S, S], got "
            f"{type(matrix).__name__}; see `Kernel.from_dense`"
        )
    if matrix.shape != shape:
        raise ValueError(f"`matrix` must have shape [M*S, S] = {shape}, got {matrix.shape}")
    rows = csr_array(check_sparse("matrix", matrix), copy=True)
    data = real_numbers("matrix", rows.data)
    rows.data = data.astype(np.float64)
    rows.sum_duplicates()
    if rows.nnz + shape[1] > LARGEST:  # entries of the systems are counted in 32 bits
        raise ValueError(
            f"`matrix` must store at most {LARGEST - shape[1]} transitions, got {rows.nnz}"
        )
    if data.dtype.kind == "f" and data.dtype.itemsize < 8:
        sums, lengths = rows.sum(axis=1), np.diff(rows.indptr)
        near = np.abs(sums - 1.0) <= 4.0 * np.finfo(data.dtype).eps * np.maximum(1, lengths)
        rows.data /= np.repeat(np.where(near, sums, 1.0), lengths)
    rows.indices = rows.indices.astype(np.int32, copy=False)
    rows.indptr = rows.indptr.astype(np.int32, copy=False)
    for part in (rows.data, rows.indices, rows.indptr):
        part.flags.writeable = False
    return rows


def _checked_moves(moves: ArrayLike, count: int | None) -> IntArray:
    """Return the move of each action `[A]`, below `count` unless it is None."""
    made = real_numbers("moves", moves)
    if made.ndim != 1 or made.size == 0 or made.dtype.kind not in "iu":
        raise ValueError(
            f"`moves` must be integers [A], got shape {made.shape} of dtype {made.dtype}"
        )
    if made.min() < 0 or (count is not None and made.max() >= count):
        most = "" if count is None else count - 1
        raise ValueError(f"`moves` must lie in 0..{most}, got {made.min()}..{made.max()}")
    return made.astype(np.int32)


def _check_probabilities(
    rows: NDArray[Any],
    next_states: NDArray[Any],
    data: FloatArray,
    num_states: int,
    moves: IntArray | None = None,
) -> None:
    row_is = "a" if moves is None else "move"
    bad = ~np.isfinite(data) | (data < 0.0)
    if bad.any():
        k = int(np.argmax(bad))
        action, state = divmod(int(rows[k]), num_states)
        raise ValueError(
            "probabilities of `transition` must be finite and not negative, got "
            f"P({next_states[k]}|s={state}, {row_is}={action}) = {data[k]}"
        )


def _scatter(slots: NDArray[Any], weights: FloatArray, size: int) -> FloatArray:
    """Return the sum of the weights in each slot, `[size]`."""
    return np.bincount(slots, weights, minlength=size).astype(np.float64, copy=False)


# Cached properties of a kernel that depend on its stored rows alone, not on the numbers in them.
_STRUCTURE = ("longest_row", "pattern", "_actions_of_moves")
