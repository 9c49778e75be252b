"""Natural steps: as long as they are predicted to move a follower's policy."""

from __future__ import annotations

import math

import numpy as np

from .base import FloatArray
from .revisable import Report

__all__ = ["natural_step", "units_of"]

# The least factor of a step whose direction is uncertain.
LEAST_FACTOR = 0.25

# Added to the metric, relative to its mean diagonal entry.
RIDGE = 1e-3

# The part of the box's width that counts as a unit where nothing is known of the follower.
PART = 0.1


def natural_step(
    x: FloatArray,
    gradient: FloatArray,
    report: Report,
    length: float,
    low: FloatArray,
    high: FloatArray,
) -> tuple[FloatArray, float]:
    """Return the x to which a natural step leads, in the box, and its predicted divergence.

    The step is c F^-1 g, F the metric, so that of all steps of its divergence it gains the most to
    first order (Amari, Neural Computation 10, 1998). Entries that push against a bound are left
    out, and the others solved for anew. Where the gradient is uncertain the step is shorter.

    Args:
        x: Where the gradient was taken.
        gradient: dF/dx, shape of x.
        report: What is known of the follower there.
        length: The divergence of a step along a gradient that is certain, positive.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
    """
    metric = report.metric
    if metric is None or not metric.any():
        metric = units_of(report, low, high) ** -2.0
    at, least, most = x.ravel(), low.ravel(), high.ravel()
    largest = float(np.abs(gradient).max())
    slope = gradient.ravel() / (largest or 1.0)  # the step does not depend on its size
    free, step = np.ones(x.size, dtype=bool), np.zeros(x.size)
    while free.any():
        part = metric[free] if metric.ndim == 1 else metric[np.ix_(free, free)]
        direction = _solved(part, slope[free])
        gain = float(slope[free] @ direction)
        if not gain > 0.0:
            return x, 0.0
        step[:] = 0.0
        certain = max(LEAST_FACTOR, report.cosine)
        step[free] = certain * math.sqrt(2.0 * length / gain) * direction
        blocked = free & (((at <= least) & (step < 0.0)) | ((at >= most) & (step > 0.0)))
        if not blocked.any():
            break
        free &= ~blocked
    step = np.clip(at + step, least, most) - at
    moved = metric * step if metric.ndim == 1 else metric @ step
    return (at + step).reshape(x.shape).clip(low, high), float(step @ moved) / 2.0


def _solved(metric: FloatArray, slope: FloatArray) -> FloatArray:
    """Return F^-1 g of a metric `[D, D]` or its diagonal `[D]`, with a ridge."""
    if metric.ndim == 1:
        return slope / (metric + RIDGE * metric.mean())
    ridge = RIDGE * float(np.trace(metric)) / len(metric)
    solved = np.linalg.solve(metric + ridge * np.eye(len(metric)), slope)
    return np.asarray(solved, dtype=np.float64)


def units_of(report: Report, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return a change of each entry of x that matters, `[D]`; a part of the box at most."""
    width = np.where(np.isfinite(high - low), high - low, 1.0).ravel()
    units = np.full(width.size, np.inf) if report.units is None else report.units
    tiny = float(np.finfo(np.float64).tiny)
    return np.maximum(np.minimum(units, PART * width), tiny**0.25)
