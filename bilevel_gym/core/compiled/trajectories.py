"""Compiled inner loops of `bilevel_gym.episodes.simulator`.

All indices are unsigned: for signed ones numba adds Python's treatment of negative indices, which
costs a third of the speed here. Episodes are taken in tiles, so that what a tile adds to stays in
the nearest caches for all its steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..mdp import FloatArray
from . import compiled

__all__ = ["add_gradients", "add_table", "add_visits", "advance", "advance_gradients"]

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
TWO = np.uint64(2)
ZERO = np.uint64(0)
TILE = np.uint64(256)


@compiled
def advance(
    thresholds: NDArray[np.uint32],
    pairs: NDArray[np.uint32],
    successors: NDArray[np.uint64],
    uniforms: NDArray[np.uint32],
    episodes: NDArray[np.uint64],
    state: NDArray[np.uint64],
    path: NDArray[np.uint32],
) -> None:
    """Play some steps and note the pairs visited.

    Args:
        thresholds: Share of each cell that its first outcome has, in 2^-32, `[C]`.
        pairs: Pair (s, a) of each cell's two outcomes, `[2C]`.
        successors: Row of the table of each cell's two outcomes, `[2C]`.
        uniforms: Random numbers `[L, >= n]`.
        episodes: Columns of `path`, `[n]`.
        state: Row of the table where each episode is, `[n]`; changed in place.
        path: Where to note the pairs, `[L, N]`.
    """
    steps, count = np.uint64(uniforms.shape[0]), np.uint64(state.size)
    width, total = np.uint64(uniforms.shape[1]), np.uint64(path.shape[1])
    drawn, visited = uniforms.reshape(-1), path.reshape(-1)
    for low in range(ZERO, count, TILE):
        high = min(low + TILE, count)
        for t in range(steps):
            for i in range(low, high):
                row = state[i]
                x = np.uint64(drawn[t * width + i]) * (row & LOW)
                cell = (row >> HALF) + (x >> HALF)
                slot = TWO * cell + np.uint64((x & LOW) >= np.uint64(thresholds[cell]))
                visited[t * total + episodes[i]] = pairs[slot]
                state[i] = successors[slot]


@compiled
def advance_gradients(
    thresholds: NDArray[np.uint32],
    parameters: NDArray[np.uint32],
    successors: NDArray[np.uint64],
    uniforms: NDArray[np.uint32],
    episodes: NDArray[np.uint64],
    state: NDArray[np.uint64],
    discounts: FloatArray,
    sums: FloatArray,
) -> None:
    """Play some steps and add each step's discount to the entry of the parameter it belongs to.

    Args:
        thresholds: As in `advance`.
        parameters: Column of `sums` of each cell's two outcomes, `[2C]`.
        successors: As in `advance`.
        uniforms: As in `advance`.
        episodes: Rows of `sums`, `[n]`.
        state: As in `advance`.
        discounts: What each step adds, `[L]`.
        sums: Where to add, `[N, D + 1]`, the last column for what belongs to no parameter.
    """
    steps, count = np.uint64(uniforms.shape[0]), np.uint64(state.size)
    width, total = np.uint64(uniforms.shape[1]), np.uint64(sums.shape[1])
    drawn, flat = uniforms.reshape(-1), sums.reshape(-1)
    for low in range(ZERO, count, TILE):
        high = min(low + TILE, count)
        for t in range(steps):
            discount = discounts[t]
            for i in range(low, high):
                row = state[i]
                x = np.uint64(drawn[t * width + i]) * (row & LOW)
                cell = (row >> HALF) + (x >> HALF)
                slot = TWO * cell + np.uint64((x & LOW) >= np.uint64(thresholds[cell]))
                flat[episodes[i] * total + np.uint64(parameters[slot])] += discount
                state[i] = successors[slot]


@compiled
def add_gradients(
    parameters: NDArray[np.uint32],
    path: NDArray[np.uint32],
    discounts: FloatArray,
    sums: FloatArray,
) -> None:
    """Write sums over all steps of `discounts[t]`, each for its parameter.

    Args:
        parameters: Column of `sums` for each pair, D for none, `[A*S + 1]`.
        path: Pairs visited, `[T, N]`.
        discounts: What each step adds, `[T]`.
        sums: Where to write, `[N, D]`.
    """
    steps, count = np.uint64(path.shape[0]), np.uint64(path.shape[1])
    width = np.uint64(sums.shape[1] + 1)
    visited = path.reshape(-1)
    tile = min(TILE, max(np.uint64(16), np.uint64(32768) // width))
    buffer = np.empty((tile, width))
    flat = buffer.reshape(-1)
    for low in range(ZERO, count, tile):
        high = min(low + tile, count)
        flat[:] = 0.0
        for t in range(steps):
            discount = discounts[t]
            for i in range(low, high):
                parameter = np.uint64(parameters[visited[t * count + i]])
                flat[(i - low) * width + parameter] += discount
        sums[low:high] = buffer[: high - low, :-1]


@compiled
def add_table(
    table: FloatArray, path: NDArray[np.uint32], discounts: FloatArray, sums: FloatArray
) -> None:
    """Add `discounts[t] * table[path[t, i]]` to `sums[i]` for all steps and episodes."""
    steps, count = np.uint64(path.shape[0]), np.uint64(path.shape[1])
    visited = path.reshape(-1)
    for low in range(ZERO, count, TILE):
        high = min(low + TILE, count)
        for t in range(steps):
            discount = discounts[t]
            for i in range(low, high):
                sums[i] += discount * table[np.uint64(visited[t * count + i])]


@compiled
def add_visits(
    path: NDArray[np.uint32], discounts: FloatArray, weights: FloatArray, sums: FloatArray
) -> None:
    """Add `discounts[t] * weights[i]` to `sums[path[t, i]]` for all steps that were played."""
    steps, count = np.uint64(path.shape[0]), np.uint64(path.shape[1])
    visited, end = path.reshape(-1), np.uint64(sums.size)
    for t in range(steps):
        discount = discounts[t]
        for i in range(count):
            pair = np.uint64(visited[t * count + i])
            # Adding to one cell over and over, for all that have ended, would be slow.
            if pair < end:
                sums[pair] += discount * weights[i]
