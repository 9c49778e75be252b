"""Entries of `I - discount * P_pi` without a copy of the probabilities in their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import compiled

__all__ = ["gathered"]


@compiled
def gathered(
    indptr: Any, rows: Any, sources: Any, probabilities: Any, coefficients: Any
) -> np.ndarray[Any, Any]:
    """Return the product of a `SystemPattern.gatherer` with coefficients `[M*S + 1]`, `[E]`."""
    entries, transitions = np.empty(len(indptr) - 1), len(probabilities)
    for entry in range(len(entries)):
        total = 0.0
        for k in range(indptr[entry], indptr[entry + 1]):
            probability = probabilities[sources[k]] if sources[k] < transitions else 1.0
            total += probability * coefficients[rows[k]]
        entries[entry] = total
    return entries
