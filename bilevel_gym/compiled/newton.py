"""Compiled solver of small soft MDPs on one structure, and of their linear systems.

What `bilevel_gym.soft` and `bilevel_gym.linear` do, without calls in between. LU factors of
I - discount * P_pi need no pivoting, since the matrix is a row-diagonally-dominant M-matrix. After
the reverse Cuthill-McKee reordering, row i of both factors is stored from its first entry to the
last one that elimination can fill (a skyline, taken to be symmetric), entry (i, j) at
`offset[i] + j`; the diagonal of U is stored inverted.

All indices are unsigned: for signed ones numba adds Python's treatment of negative indices, which
takes as long as the rest.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..mdp import FloatArray, Kernel, action_major
from ..pattern import SystemPattern
from . import compiled

__all__ = ["Factors", "Layout", "adjoint", "layout_of", "newton", "size_of", "transitions_of"]

EPS = float(np.finfo(np.float64).eps)
ZERO, ONE = np.uint64(0), np.uint64(1)

IndexArray = NDArray[np.uint64]
IntArray = NDArray[np.int32]

# First transition of each row a * S + s `[A*S + 1]`, next states `[K]` and probabilities `[K]`.
Transitions = tuple[IntArray, IntArray, FloatArray]


# Where factors are, `[4, S]`: place of each state after the reordering, then for each row its first
# and its last column, and where it would begin if it began at column zero.
Layout = NDArray[np.uint64]

_LAYOUTS: WeakKeyDictionary[SystemPattern, Layout] = WeakKeyDictionary()


def layout_of(pattern: SystemPattern) -> Layout:
    """Return the layout of a pattern's factors, made once."""
    layout = _LAYOUTS.get(pattern)
    if layout is None:
        layout = np.tile(np.arange(pattern.num_states, dtype=np.uint64), (4, 1))
        layout[0] = np.argsort(pattern.band.order)
        _find_skyline(layout, pattern.indptr, pattern.indices)
        _LAYOUTS[pattern] = layout
    return layout


def size_of(layout: Layout) -> int:
    """Return how many entries the factors have."""
    return int(layout[3, -1]) + layout.shape[1]


def transitions_of(kernel: Kernel) -> Transitions:
    """Return the transitions of a kernel as compiled functions take them."""
    probabilities = kernel.matrix.data.view()
    # Numba compiles once more for arrays that may be written, and copies of kernels forget.
    probabilities.flags.writeable = False
    return kernel.matrix.indptr, kernel.matrix.indices, probabilities


class Factors:
    """LU factors of a matrix, an approximate inverse of nearby ones.

    Attributes:
        layout: Where they are.
        values: L and U, `[size_of(layout)]`.
    """

    def __init__(self, layout: Layout, values: FloatArray) -> None:
        """Store factors."""
        self.layout, self.values = layout, values

    @classmethod
    def of(cls, pattern: SystemPattern, entries: FloatArray) -> Factors:
        """Factorise the matrix with the entries `[E]`."""
        layout = layout_of(pattern)
        factors = cls(layout, np.empty(size_of(layout)))
        _place(layout, pattern.indptr, pattern.indices, entries, factors.values)
        _eliminate(layout, factors.values)
        return factors

    def solve(
        self, rhs: FloatArray, *, transpose: bool = False, reduction: float = 0.0
    ) -> FloatArray:
        """Solve for `rhs` `[S]`; see `bilevel_gym.linear.ApproximateInverse`."""
        solution, position = np.empty(rhs.size), self.layout[0]
        solution[position] = rhs
        _solve(self.layout, self.values, transpose, solution)
        return solution[position]

    def refine(
        self,
        kernel: Kernel,
        policy: FloatArray,
        discount: float,
        rhs: FloatArray,
        transpose: bool,
        contraction: float,
    ) -> tuple[FloatArray, float, bool]:
        """Solve the system of a nearby policy down to rounding.

        Args:
            kernel: Transition kernel.
            policy: Action probabilities `[S, A]`.
            discount: In [0, 1).
            rhs: Right-hand side `[S]`.
            transpose: Whether to use the transposed matrix.
            contraction: Refinement goes on while each round leaves at most this share.

        Returns:
            Solution `[S]`, norm of its residual, and whether that is at rounding.
        """
        solution, matrix = np.empty(rhs.size), np.empty(self.values.size)
        _assemble(self.layout, transitions_of(kernel), discount * action_major(policy), matrix)
        arguments = (self.values, matrix, np.array(rhs), transpose, contraction, solution)
        residual, settled = _refine(self.layout, *arguments)
        return solution, residual, settled


@compiled
def newton(
    layout: Layout,
    starts: IntArray,
    successors: IntArray,
    probabilities: FloatArray,
    rewards: FloatArray,
    gamma: float,
    temperature: float,
    tolerances: FloatArray,
    max_iterations: int,
    chord: float,
    values: FloatArray,
    policies: FloatArray,
    factors: FloatArray,
    residuals: FloatArray,
    iterations: NDArray[np.int64],
    converged: NDArray[np.bool_],
) -> None:
    """Solve soft Bellman equations in turn; see `bilevel_gym.soft` for the method.

    A residual that is not finite says that values overflowed.

    Args:
        layout: That of all systems.
        starts: First transition of each row a * S + s, `[A*S + 1]`.
        successors: Next state of each transition, `[K]`.
        probabilities: Those of each problem `[B, K]`, or `[1, K]` where all have the same.
        rewards: Action-major rewards `[B, A, S]`, -inf for actions that do not exist.
        gamma: Discount.
        temperature: Positive.
        tolerances: Residual to reach in each problem, `[B]`.
        max_iterations: Newton steps allowed for each problem.
        chord: Beyond the tolerance, chord steps go on while each leaves at most this share of the
            residual; zero stops at the tolerance.
        values: Starts, and then solutions, `[B, S]`.
        policies: Set to the action-major policies, `[B, A, S]`.
        factors: Set to the last factors of each problem, `[B, size_of(layout)]`.
        residuals: Set to the Bellman residuals, `[B]`.
        iterations: Set to the Newton steps taken, `[B]`; where that is zero there are no factors.
        converged: Set to whether the residual is at most the tolerance, or at rounding, `[B]`.
    """
    num_states, position = values.shape[1], layout[0]
    defect, step = np.empty(num_states), np.empty(num_states)
    moved, moved_defect = np.empty(num_states), np.empty(num_states)
    moved_policy = np.empty_like(policies[0])
    for b in range(len(values)):
        transitions = (starts, successors, probabilities[b if len(probabilities) > 1 else 0])
        value, policy = values[b], policies[b]
        residual = _backup(transitions, rewards[b], gamma, temperature, value, policy, defect)
        taken, fresh, contraction = 0, False, 0.0
        while np.isfinite(residual) and residual > _rounding(value):
            met = residual <= tolerances[b]
            if met and (chord == 0.0 or (fresh and contraction > 0.5)):
                break
            fresh = taken == 0 or not met or contraction > chord
            if fresh:
                if taken == max_iterations:
                    break
                _assemble(layout, transitions, gamma * policy, factors[b])
                _eliminate(layout, factors[b])
                taken += 1
            step[position] = defect
            _solve(layout, factors[b], False, step)
            moved[:] = value + step[position]
            moved_residual = _backup(
                transitions, rewards[b], gamma, temperature, moved, moved_policy, moved_defect
            )
            contraction = moved_residual / residual
            if not met or not moved_residual >= residual:
                value[:], policy[:], defect[:] = moved, moved_policy, moved_defect
                residual = moved_residual
        residuals[b], iterations[b] = residual, taken
        converged[b] = residual <= max(tolerances[b], _rounding(value))


@compiled
def adjoint(
    layout: Layout,
    transitions: Transitions,
    policy: FloatArray,
    gradient: FloatArray,
    gamma: float,
    temperature: float,
    factors: FloatArray,
    made: bool,
    contraction: float,
    centred: FloatArray,
    solution: FloatArray,
    reward: FloatArray,
) -> tuple[float, float, float]:
    """Solve the adjoint system of a response; see `bilevel_gym.adjoint`.

    Args:
        layout: Where the factors are.
        transitions: Those of the kernel.
        policy: Action-major policy `[A, S]`.
        gradient: Action-major f_pi `[A, S]`.
        gamma: Discount.
        temperature: Positive.
        factors: Factors of a nearby system, `[size_of(layout)]`; replaced if they are no good.
        made: Whether there are factors.
        contraction: Refinement goes on while each round leaves at most this share.
        centred: Set to u_c, `[A, S]`.
        solution: Set to v, `[S]`.
        reward: Set to q, `[A, S]`.

    Returns:
        Sum norms of the residual of v, of u_c and of v.
    """
    starts, successors, probabilities = transitions
    num_actions, num_states = np.uint64(policy.shape[0]), np.uint64(policy.shape[1])
    centred[:] = policy * (gradient - (policy * gradient).sum(axis=0)) / temperature
    rhs, matrix, weights = np.zeros(solution.size), np.empty_like(factors), gamma * policy
    for a in range(num_actions):
        for s in range(num_states):
            row, weight = a * num_states + s, gamma * centred[a, s]
            for k in range(np.uint64(starts[row]), np.uint64(starts[row + ONE])):
                rhs[np.uint64(successors[k])] += weight * probabilities[k]
    _assemble(layout, transitions, weights, matrix)
    residual, settled = 0.0, False
    if made:
        residual, settled = _refine(layout, factors, matrix, rhs, True, contraction, solution)
    if not settled:
        factors[:] = matrix
        _eliminate(layout, factors)
        residual, _ = _refine(layout, factors, matrix, rhs, True, contraction, solution)
    reward[:] = centred + policy * solution
    return residual, np.abs(centred).sum(), np.abs(solution).sum()


@compiled
def _backup(
    transitions: Transitions,
    reward: FloatArray,
    gamma: float,
    temperature: float,
    value: FloatArray,
    policy: FloatArray,
    defect: FloatArray,
) -> float:
    """Set policy `[A, S]` and defect T V - V `[S]` of a value; return the defect's sup norm."""
    starts, successors, probabilities = transitions
    num_actions, num_states = np.uint64(reward.shape[0]), np.uint64(reward.shape[1])
    sharpness = 1.0 / temperature
    for s in range(num_states):
        top = -np.inf
        for a in range(num_actions):
            row, expected = a * num_states + s, 0.0
            for k in range(np.uint64(starts[row]), np.uint64(starts[row + ONE])):
                expected += probabilities[k] * value[np.uint64(successors[k])]
            policy[a, s] = reward[a, s] + gamma * expected
            top = max(top, policy[a, s])
        total = 0.0
        for a in range(num_actions):
            # A call of exp is dear, and most are for the best action or for hopeless ones.
            gap = (policy[a, s] - top) * sharpness
            policy[a, s] = 1.0 if gap == 0.0 else (0.0 if gap < -746.0 else np.exp(gap))
            total += policy[a, s]
        share = 1.0 / total
        for a in range(num_actions):
            policy[a, s] *= share
        defect[s] = top + temperature * np.log(total) - value[s]
    return _norm(defect, False)


@compiled
def _assemble(
    layout: Layout, transitions: Transitions, weights: FloatArray, matrix: FloatArray
) -> None:
    """Set I - sum_a weights(a, s) P(.|s, a) where its factors will be, `weights` being `[A, S]`."""
    starts, successors, probabilities = transitions
    position, _, _, offset = layout
    num_actions, num_states = np.uint64(weights.shape[0]), np.uint64(weights.shape[1])
    matrix[:] = 0.0
    for i in range(num_states):
        matrix[offset[i] + i] = 1.0
    for a in range(num_actions):
        for s in range(num_states):
            row, here, weight = a * num_states + s, offset[position[s]], weights[a, s]
            for k in range(np.uint64(starts[row]), np.uint64(starts[row + ONE])):
                matrix[here + position[np.uint64(successors[k])]] -= weight * probabilities[k]


@compiled
def _place(
    layout: Layout, indptr: IntArray, indices: IntArray, entries: FloatArray, matrix: FloatArray
) -> None:
    """Set a CSR matrix where its factors will be."""
    position, _, _, offset = layout
    matrix[:] = 0.0
    for s in range(np.uint64(position.size)):
        for e in range(np.uint64(indptr[s]), np.uint64(indptr[s + ONE])):
            matrix[offset[position[s]] + position[np.uint64(indices[e])]] = entries[e]


@compiled
def _eliminate(layout: Layout, factors: FloatArray) -> None:
    """Replace a matrix by its factors."""
    _, first, last, offset = layout
    for k in range(np.uint64(first.size)):
        there = offset[k]
        factors[there + k] = 1.0 / factors[there + k]
        for i in range(k + ONE, last[k] + ONE):
            here = offset[i]
            if first[i] <= k and factors[here + k] != 0.0:
                factors[here + k] *= factors[there + k]
                multiplier = factors[here + k]
                for j in range(k + ONE, last[k] + ONE):
                    factors[here + j] -= multiplier * factors[there + j]


@compiled
def _solve(layout: Layout, factors: FloatArray, transpose: bool, x: FloatArray) -> None:
    """Replace a reordered right-hand side `[S]` by the reordered solution."""
    _, first, last, offset = layout
    num_states = np.uint64(x.size)
    if transpose:
        for i in range(num_states):
            here = offset[i]
            x[i] *= factors[here + i]
            for j in range(i + ONE, last[i] + ONE):
                x[j] -= factors[here + j] * x[i]
        for k in range(num_states):
            row = num_states - ONE - k
            here = offset[row]
            for j in range(first[row], row):
                x[j] -= factors[here + j] * x[row]
    else:
        for i in range(num_states):
            here, left = offset[i], x[i]
            for j in range(first[i], i):
                left -= factors[here + j] * x[j]
            x[i] = left
        for k in range(num_states):
            row = num_states - ONE - k
            here, left = offset[row], x[row]
            for j in range(row + ONE, last[row] + ONE):
                left -= factors[here + j] * x[j]
            x[row] = left * factors[here + row]


@compiled
def _refine(
    layout: Layout,
    factors: FloatArray,
    matrix: FloatArray,
    rhs: FloatArray,
    transpose: bool,
    contraction: float,
    solution: FloatArray,
) -> tuple[float, bool]:
    """Set the solution; return the norm of its residual, and whether that is at rounding."""
    position, first, last, offset = layout
    reordered, found, settled = np.empty_like(rhs), np.zeros_like(rhs), True
    for s in range(np.uint64(rhs.size)):
        reordered[position[s]] = rhs[s]
    defect = reordered.copy()
    residual = _norm(defect, transpose)
    while settled and residual > 8.0 * EPS * _norm(found, transpose):
        refined = defect.copy()
        _solve(layout, factors, transpose, refined)
        refined += found
        defect[:] = reordered
        for i in range(np.uint64(rhs.size)):
            here = offset[i]
            for j in range(first[i], last[i] + ONE):
                if transpose:
                    defect[j] -= matrix[here + j] * refined[i]
                else:
                    defect[i] -= matrix[here + j] * refined[j]
        remaining = _norm(defect, transpose)
        settled = remaining <= contraction * residual
        if remaining < residual:
            found, residual = refined, remaining
    for s in range(np.uint64(rhs.size)):
        solution[s] = found[position[s]]
    return residual, settled


@compiled
def _norm(vector: FloatArray, transpose: bool) -> float:
    """Return the sum norm for transposed systems, else the sup norm; NaN if an entry is."""
    norm = 0.0
    for entry in vector:
        if transpose:
            norm += abs(entry)
        elif abs(entry) > norm or entry != entry:
            norm = abs(entry)
    return norm


@compiled
def _rounding(value: FloatArray) -> float:
    """Return the residual that rounding leaves on values of this size."""
    return 8.0 * EPS * max(1.0, _norm(value, False))


@compiled
def _find_skyline(layout: Layout, indptr: IntArray, indices: IntArray) -> None:
    """Set `first`, `last` and `offset`; each row begins with its diagonal alone."""
    position, first, last, offset = layout
    num_states, size = np.uint64(position.size), ZERO
    for s in range(num_states):
        for e in range(np.uint64(indptr[s]), np.uint64(indptr[s + ONE])):
            i, j = position[s], position[np.uint64(indices[e])]
            first[max(i, j)] = min(first[max(i, j)], i, j)
    for i in range(num_states):
        for k in range(first[i], i):
            last[k] = i
    for i in range(num_states):
        offset[i] = size - first[i]
        size += last[i] + ONE - first[i]
