"""Compiled solver of small soft MDPs on one structure, and of their linear systems.

What `bilevel_gym.core.solvers` does, without calls in between. LU
factors of I - discount * P_pi need no pivoting, since the matrix is a row-diagonally-dominant
M-matrix; `bilevel_gym.core.skyline` says how they are stored.

All indices are unsigned: for signed ones numba adds Python's treatment of negative indices, which
takes as long as the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bellman import EPS
from ..mdp import FloatArray, IntArray
from ..solvers import CHORD_CONTRACTION
from . import compiled
from .backup import backup

__all__ = ["adjoint", "assemble", "eliminate", "newton", "refine", "solve"]

ONE = np.uint64(1)

IndexArray = NDArray[np.uint64]

# See `bilevel_gym.core.skyline`.
Transitions = tuple[IntArray, IntArray, IndexArray, FloatArray]


@compiled
def newton(
    position: IndexArray,
    skyline: IndexArray,
    transitions: Transitions,
    probabilities: FloatArray,
    rewards: FloatArray,
    gamma: float,
    temperature: float,
    tolerances: FloatArray,
    max_iterations: int,
    polish: bool,
    attainable: float,
    values: FloatArray,
    policies: FloatArray,
    factors: FloatArray,
    residuals: FloatArray,
    iterations: NDArray[np.int64],
    converged: NDArray[np.bool_],
) -> None:
    """Solve soft Bellman equations in turn; see `bilevel_gym.core.soft` for the method.

    Position and skyline are those of the layout. There are B problems: probabilities are `[B, K]`,
    or `[1, K]` where all have the same, rewards `[B, A, S]`, -inf for actions that do not exist.
    Values `[B, S]` are starts, and then solutions; policies `[B, A, S]`, the last factors of
    each (if a step was taken), Bellman residuals, Newton steps taken, and whether residuals are at
    most the tolerance, or at rounding, are set. A residual that is not finite says that values
    overflowed.

    Beyond the tolerance, with `polish`, chord steps go on while they contract. `attainable` is the
    residual that rounding lets them reach, in units of the largest |V|.
    """
    num_states = values.shape[1]
    defect, step = np.empty(num_states), np.empty(num_states)
    moved, moved_defect = np.empty(num_states), np.empty(num_states)
    moved_policy = np.empty_like(policies[0])
    for b in range(len(values)):
        chances = probabilities[b if len(probabilities) > 1 else 0]
        kernel = (transitions[0], transitions[1], transitions[2], chances)
        value, policy = values[b], policies[b]
        residual = _backup(kernel, rewards[b], gamma, temperature, value, policy, defect)
        taken, fresh, contraction = 0, False, 0.0
        while np.isfinite(residual) and residual > attainable * _norm(value, False):
            met = residual <= tolerances[b]
            if met and (not polish or (fresh and contraction > 0.5)):
                break
            fresh = taken == 0 or not met or contraction > CHORD_CONTRACTION
            if fresh:
                if taken == max_iterations:
                    break
                assemble(skyline, kernel, gamma * policy, factors[b])
                eliminate(skyline, factors[b])
                taken += 1
            for s in range(num_states):
                step[position[s]] = defect[s]
            solve(skyline, factors[b], False, step)
            for s in range(num_states):
                moved[s] = value[s] + step[position[s]]
            moved_residual = _backup(
                kernel, rewards[b], gamma, temperature, moved, moved_policy, moved_defect
            )
            contraction = moved_residual / residual
            if not met or not moved_residual >= residual:
                residual = moved_residual
                for s in range(num_states):
                    value[s], defect[s] = moved[s], moved_defect[s]
                    for a in range(len(policy)):
                        policy[a, s] = moved_policy[a, s]
        residuals[b], iterations[b] = residual, taken
        converged[b] = residual <= max(tolerances[b], attainable * _norm(value, False))


@compiled
def adjoint(
    position: IndexArray,
    skyline: IndexArray,
    transitions: Transitions,
    policy: FloatArray,
    gradient: FloatArray,
    gamma: float,
    temperature: float,
    contraction: float,
    centred: FloatArray,
    solution: FloatArray,
    reward: FloatArray,
) -> tuple[float, float, float]:
    """Solve the adjoint system of a response; see `bilevel_gym.core.adjoint`.

    Policy and gradient f_pi are `[A, S]`. Sets u_c `[A, S]`, v `[S]` and q `[A, S]`, in this order;
    returns the sum norms of the residual of v, of u_c and of v.
    """
    starts, successors, _, probabilities = transitions
    num_actions, num_states = np.uint64(policy.shape[0]), np.uint64(policy.shape[1])
    for s in range(num_states):
        mean = 0.0
        for a in range(num_actions):
            mean += policy[a, s] * gradient[a, s]
        for a in range(num_actions):
            centred[a, s] = policy[a, s] * (gradient[a, s] - mean) / temperature
        # What rounding leaves of the sum would be magnified by 1 / (1 - gamma).
        left = 0.0
        for a in range(num_actions):
            left += centred[a, s]
        for a in range(num_actions):
            centred[a, s] -= policy[a, s] * left
    rhs, found = np.zeros(solution.size), np.empty(solution.size)
    for a in range(num_actions):
        for s in range(num_states):
            row, weight = a * num_states + s, gamma * centred[a, s]
            for k in range(np.uint64(starts[row]), np.uint64(starts[row + ONE])):
                rhs[position[np.uint64(successors[k])]] += weight * probabilities[k]
    # Rounds of refinement on the factors of the last Newton step take longer than new factors.
    matrix = np.empty(skyline[2, -1] + num_states)
    assemble(skyline, transitions, gamma * policy, matrix)
    factors = matrix.copy()
    eliminate(skyline, factors)
    residual, _ = refine(skyline, factors, matrix, rhs, True, contraction, found)
    for s in range(num_states):
        solution[s] = found[position[s]]
        for a in range(num_actions):
            reward[a, s] = centred[a, s] + policy[a, s] * solution[s]
    return residual, _norm(centred.ravel(), True), _norm(found, True)


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
    starts, successors, _, probabilities = transitions
    kernel = starts, successors, probabilities
    backup(*kernel, reward, gamma, temperature, value, 0, len(value), policy, defect)
    for s in range(len(value)):
        defect[s] -= value[s]
    return _norm(defect, False)


@compiled
def assemble(
    skyline: IndexArray, transitions: Transitions, weights: FloatArray, matrix: FloatArray
) -> None:
    """Set I - sum_a weights(a, s) P(.|s, a), `weights` being `[A, S]`."""
    starts, _, places, probabilities = transitions
    num_actions, num_states = np.uint64(weights.shape[0]), np.uint64(weights.shape[1])
    matrix[:] = 0.0
    for i in range(num_states):
        matrix[skyline[2, i] + i] = 1.0
    for a in range(num_actions):
        for s in range(num_states):
            row, weight = a * num_states + s, weights[a, s]
            for k in range(np.uint64(starts[row]), np.uint64(starts[row + ONE])):
                matrix[places[k]] -= weight * probabilities[k]


@compiled
def eliminate(skyline: IndexArray, factors: FloatArray) -> None:
    """Replace a matrix by its factors."""
    first, last, offset = skyline
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
def solve(skyline: IndexArray, factors: FloatArray, transpose: bool, x: FloatArray) -> None:
    """Replace a reordered right-hand side `[S]` by the solution."""
    first, last, offset = skyline
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
def refine(
    skyline: IndexArray,
    factors: FloatArray,
    matrix: FloatArray,
    rhs: FloatArray,
    transpose: bool,
    contraction: float,
    solution: FloatArray,
) -> tuple[float, bool]:
    """Solve for a reordered right-hand side; return the residual, and whether it is at rounding."""
    first, last, offset = skyline
    defect, settled = rhs.copy(), True
    solution[:] = 0.0
    residual = _norm(defect, transpose)
    while settled and residual > 8.0 * EPS * _norm(solution, transpose):
        refined = defect.copy()
        solve(skyline, factors, transpose, refined)
        for i in range(rhs.size):
            refined[i] += solution[i]
            defect[i] = rhs[i]
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
            residual = remaining
            for i in range(rhs.size):
                solution[i] = refined[i]
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
