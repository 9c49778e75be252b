"""Entries of `I - discount * P_pi` without a copy of the probabilities in their order."""

from __future__ import annotations

from typing import Any

from . import compiled

__all__ = ["gathered"]


@compiled
def gathered(
    indptr: Any,
    rows: Any,
    sources: Any,
    probabilities: Any,
    coefficients: Any,
    first: int,
    last: int,
    entries: Any,
) -> None:
    """Set entries first..last - 1 of a `SystemPattern.gatherer` times coefficients `[M*S + 1]`."""
    transitions = len(probabilities)
    for entry in range(first, last):
        total = 0.0
        for k in range(indptr[entry], indptr[entry + 1]):
            probability = probabilities[sources[k]] if sources[k] < transitions else 1.0
            total += probability * coefficients[rows[k]]
        entries[entry] = total
