"""Places of the nodes of a graph in its picture, from how far apart they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

STEPS = 100
"""Steps of stress majorisation."""


def places_by_hops(hops: FloatArray) -> FloatArray:
    """Return places `[N, 2]` whose distances come close to the fewest links from node to node.

    Those are `hops`, in either direction, `[N, N]`; inf for no way.

    Stress majorisation (SMACOF, all weights equal) from classical scaling.
    """
    count = len(hops)
    finite = np.isfinite(hops)
    hops = np.where(finite, hops, 1.0 + hops[finite].max())
    centred = hops**2 - (hops**2).mean(axis=0)
    weights, vectors = np.linalg.eigh(-0.5 * (centred - centred.mean(axis=1, keepdims=True)))
    places = (vectors * np.sqrt(np.maximum(weights, 0.0)))[:, :-3:-1]  # the longer axis first
    # Nodes with the same neighbours have the same place so far; a spiral draws them apart.
    turns = 2.4 * np.arange(count)
    places = places + 0.01 * np.stack([np.sin(turns), np.cos(turns)], axis=1)
    for _ in range(STEPS):
        distances = np.linalg.norm(places[:, None] - places, axis=2)
        pull = -hops / np.maximum(distances, 1e-9)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        places = pull @ places / count
    return places


def within_unit(places: FloatArray) -> FloatArray:
    """Return places `[N, 2]` scaled to [0, 1] along both axes, but a line stays one."""
    extent = np.ptp(places, axis=0)
    scale = np.maximum(extent, 0.2 * extent.max())
    unit: FloatArray = 0.5 + (places - places.min(axis=0) - extent / 2.0) / scale
    return np.clip(unit, 0.0, 1.0)
