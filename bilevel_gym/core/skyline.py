"""The strategy "compiled": a skyline factorisation that does not leave compiled code.

After the reverse Cuthill-McKee reordering, row i of both LU factors is stored from its first entry
to the last one that elimination can fill (a skyline, taken to be symmetric), entry (i, j) at
`offset[i] + j`; the diagonal of U is stored inverted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .bellman import attainable, values_overflowed
from .mdp import FloatArray, IntArray, Kernel, TabularMDP, action_major
from .pattern import SystemPattern
from .solvers import Adjoint, DirectSolver, SoftProblem, Solved, System

__all__ = ["Compiled", "Layout", "layout_of"]

IndexArray = NDArray[np.uint64]

MOST_STEPS = int(np.iinfo(np.int64).max)

# First transition of each row a * S + s, `[A*S + 1]`; then for each transition its successor, its
# place in the skyline and its probability, `[K]`.
Transitions = tuple[IntArray, IntArray, IndexArray, FloatArray]


class Layout:
    """Where the matrices of a pattern are stored.

    Attributes:
        position: Place of each state after the reordering, `[S]`.
        skyline: First column, last column and `offset` of each row, `[3, S]`.
        entries: Place of each entry of the pattern, `[E]`.
        size: Stored entries.
    """

    def __init__(self, pattern: SystemPattern) -> None:
        """Lay out a pattern."""
        rows = np.repeat(np.arange(pattern.num_states), np.diff(pattern.indptr))
        self.position: IndexArray = np.argsort(pattern.band.order).astype(np.uint64)
        ends = np.sort(self.position[np.stack([rows, pattern.indices])].astype(np.intp), axis=0)
        first, last = np.arange(pattern.num_states), np.arange(pattern.num_states)
        np.minimum.at(first, ends[1], ends[0])
        np.maximum.at(last, first, np.arange(pattern.num_states))
        last = np.maximum.accumulate(last)
        begin = np.cumsum(last - first + 1) - (last - first + 1)
        self.skyline: IndexArray = np.stack([first, last, begin - first]).astype(np.uint64)
        self.size = int((last - first + 1).sum())
        self.entries = self.place(rows, pattern.indices)
        self._transitions: IndexArray | None = None

    def place(self, rows: NDArray[Any], columns: NDArray[Any]) -> IndexArray:
        """Return where entries are stored."""
        return self.skyline[2, self.position[rows]] + self.position[columns]

    def transitions(self, kernel: Kernel) -> Transitions:
        """Return the transitions of a kernel with this pattern, as compiled functions take them."""
        if self._transitions is None:
            states, _, successors = kernel.triplets
            self._transitions = self.place(states, successors)
        probabilities = kernel.matrix.data.view()
        # Numba compiles once more for arrays that may be written, and copies of kernels forget.
        probabilities.flags.writeable = False
        return kernel.matrix.indptr, kernel.matrix.indices, self._transitions, probabilities


_LAYOUTS: WeakKeyDictionary[SystemPattern, Layout] = WeakKeyDictionary()


def layout_of(pattern: SystemPattern) -> Layout:
    """Return the layout of a pattern, made once."""
    layout = _LAYOUTS.get(pattern)
    if layout is None:
        layout = _LAYOUTS[pattern] = Layout(pattern)
    return layout


class Compiled(DirectSolver):
    """The strategy. Systems are solved down to rounding, from zeros, in one call."""

    needs_kernels = True

    def init(self, pattern: SystemPattern, entries: FloatArray) -> Any:
        """Return the layout and the factors `[layout.size]`."""
        from .compiled.newton import eliminate

        layout = layout_of(pattern)
        factors = np.zeros(layout.size)
        factors[layout.entries] = entries
        eliminate(layout.skyline, factors)
        return layout, factors

    def solve(self, factors: Any, rhs: FloatArray, transpose: bool, reduction: float) -> FloatArray:
        """Solve with the factors."""
        from .compiled.newton import solve

        layout, values = factors
        solution = np.empty(rhs.size)
        solution[layout.position] = rhs
        solve(layout.skyline, values, transpose, solution)
        return solution[layout.position]

    def refine(
        self,
        system: System,
        factors: Any,
        rhs: FloatArray,
        solution: FloatArray,
        accuracy: float,
        transpose: bool,
    ) -> tuple[FloatArray, float, bool]:
        """Solve a system with the factors of a nearby matrix."""
        from .compiled.newton import assemble, refine

        layout, values = factors
        matrix, reordered, found = np.empty(layout.size), np.empty(rhs.size), np.empty(rhs.size)
        weights = system.discount * action_major(system.policy)
        assemble(layout.skyline, layout.transitions(system.kernel), weights, matrix)
        reordered[layout.position] = rhs
        arguments = values, matrix, reordered, transpose, self.contraction, found
        residual, settled = refine(layout.skyline, *arguments)
        return found[layout.position], residual, settled

    def soft_value(self, problem: SoftProblem) -> Solved:
        """Solve one problem as a batch of one."""
        return self.soft_values([problem])[0]

    def soft_values(self, problems: Sequence[SoftProblem]) -> list[Solved]:
        """Solve all problems in one call."""
        from .compiled.newton import newton

        mdps, starts, tolerances, limits, polish = zip(*problems, strict=True)
        count, first = len(mdps), mdps[0]
        layout = layout_of(first.kernel.pattern)
        transitions = layout.transitions(first.kernel)
        probabilities = transitions[-1][None]
        if any(mdp.kernel is not first.kernel for mdp in mdps):
            probabilities = np.array([mdp.kernel.matrix.data for mdp in mdps])
            probabilities.flags.writeable = False  # as those of one kernel
        rewards = np.array([mdp.reward.T for mdp in mdps])
        if first.action_mask is not None:
            rewards[:, ~first.action_mask.T] = -np.inf
        values, policies = np.array(starts), np.empty_like(rewards)
        factors = np.empty((count, layout.size))
        residuals, steps = np.empty(count), np.empty(count, dtype=np.int64)
        converged = np.empty(count, dtype=bool)
        newton(
            layout.position,
            layout.skyline,
            transitions,
            probabilities,
            rewards,
            float(first.gamma),
            float(first.temperature),
            np.array(tolerances, dtype=np.float64),
            min(int(limits[0]), MOST_STEPS),
            polish[0],
            attainable(first),
            values,
            policies,
            factors,
            residuals,
            steps,
            converged,
        )
        solved = []
        for b in range(count):
            residual, taken = float(residuals[b]), int(steps[b])
            if not math.isfinite(residual):
                raise values_overflowed(residual)
            # Copies, for a view keeps the arrays of all problems alive.
            value, policy = values[b].copy(), policies[b].copy().T
            last = (layout, factors[b]) if taken else None
            solved.append(Solved(value, policy, residual, bool(converged[b]), taken, 0, last))
        return solved

    def adjoint(
        self,
        system: System,
        mdp: TabularMDP,
        policy: FloatArray,
        policy_gradient: FloatArray | None,
        log_policy_gradient: FloatArray | None,
    ) -> Adjoint:
        """Solve in one call where there are neither moves nor terms in log pi."""
        simple = mdp.kernel.moves is None and log_policy_gradient is None
        if policy_gradient is None or not simple:
            return super().adjoint(system, mdp, policy, policy_gradient, log_policy_gradient)
        from .compiled.newton import adjoint

        layout, by_action = layout_of(mdp.kernel.pattern), np.array(policy.T)
        centred, reward = np.empty_like(by_action), np.empty_like(by_action)
        vector = np.empty(len(policy))
        residual, *norms = adjoint(
            layout.position,
            layout.skyline,
            layout.transitions(mdp.kernel),
            by_action,
            np.array(policy_gradient.T, dtype=np.float64, order="C"),
            float(mdp.gamma),
            float(mdp.temperature),
            self.contraction,
            centred,
            vector,
            reward,
        )
        system.note("adjoint", vector, residual)
        return Adjoint(centred.T, vector, reward.T, residual, *norms)
