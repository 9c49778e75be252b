"""Statistics of few runs: robust aggregates with stratified bootstrap intervals.

They are those of rliable: Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice", NeurIPS 2021. A stratum holds the runs of one
task; the bootstrap draws runs anew within each, so that an interval speaks of other seeds on the
same tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.mdp import FloatArray

CONFIDENCE = 0.95
RESAMPLES = 2000
# Numbers that one round of resampling may hold; more are drawn in several rounds.
BATCH_NUMBERS = 4_000_000

# From samples `[..., N_k]` to the statistic `[...]`.
Statistic = Callable[..., FloatArray]


@dataclass(frozen=True)
class Interval:
    """A statistic and its 95 % interval, each `[...]`."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


def normalised_score(objective: FloatArray, start: FloatArray, best: FloatArray) -> FloatArray:
    """Return (F - start) / (best - start), `[...]`: 0 at the start, 1 at the best, NaN if equal."""
    span = np.asarray(best, np.float64) - start
    return (objective - start) / np.where(span > 0.0, span, np.nan)


def interquartile_mean(scores: FloatArray) -> FloatArray:
    """Return the mean of the middle half of the runs `[..., N]`, as `[...]`."""
    from scipy.stats import trim_mean

    return trim_mean(scores, 0.25, axis=-1)


def mean(scores: FloatArray) -> FloatArray:
    """Return the mean over the runs `[..., N]`, as `[...]`."""
    return np.mean(scores, axis=-1)


def optimality_gap(scores: FloatArray) -> FloatArray:
    """Return the mean shortfall from a score of 1 over the runs `[..., N]`, as `[...]`."""
    return np.mean(np.maximum(1.0 - scores, 0.0), axis=-1)


def pooled(statistic: Callable[[FloatArray], FloatArray]) -> Statistic:
    """Return a statistic of several strata as one of all their runs together."""
    return lambda *strata: statistic(np.concatenate(strata, axis=-1))


def bootstrap_interval(
    strata: Sequence[FloatArray], statistic: Statistic, *, seed: int = 0
) -> Interval:
    """Return a statistic with its stratified percentile-bootstrap interval.

    Args:
        strata: Runs of each stratum, `[..., N_k]` with N_k >= 1 finite numbers. All entries of the
            leading axes are resampled alike, which keeps the points of one curve together.
        statistic: Function of the strata, vectorised over leading axes.
        seed: Seed of the bootstrap.

    Returns:
        The statistic of the runs as they are and its interval, `[...]`; of zero width where no
        stratum has a second run.
    """
    from scipy.stats import bootstrap

    strata = [np.asarray(stratum, np.float64) for stratum in strata]
    value = np.asarray(statistic(*strata))
    several = [stratum for stratum in strata if stratum.shape[-1] > 1]
    if not several:
        return Interval(value, value, value)

    def redrawn(*samples: FloatArray, axis: int) -> FloatArray:
        # SciPy refuses samples of one. Such a run is drawn every time, so it joins here.
        rest = iter(samples)
        lead = samples[0].shape[:-1]
        return statistic(
            *(
                next(rest) if s.shape[-1] > 1 else np.broadcast_to(s[..., None, :], (*lead, 1))
                for s in strata
            )
        )

    numbers = sum(stratum.size for stratum in several)
    result = bootstrap(
        several,
        redrawn,
        axis=-1,
        paired=False,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, min(RESAMPLES, BATCH_NUMBERS // numbers)),
        random_state=np.random.default_rng(seed),  # the name that SciPy 1.14 knows as well
    )
    low, high = result.confidence_interval
    return Interval(value, np.asarray(low), np.asarray(high))


def performance_profile(strata: Sequence[FloatArray], thresholds: FloatArray) -> Interval:
    """Return the share of runs, `[N_k]` on each task, with a score above each threshold, `[T]`."""
    above = [(np.asarray(s) > thresholds[:, None]).astype(np.float64) for s in strata]
    return bootstrap_interval(above, pooled(mean))


def probability_of_improvement(
    first: Sequence[FloatArray], second: Sequence[FloatArray]
) -> Interval:
    """Return the probability that a run of one method scores above one of another, ties as half.

    It is the mean over the tasks, of scores `[N_k]` and `[M_k]`.
    """

    def statistic(*strata: FloatArray) -> FloatArray:
        pairs = zip(strata[: len(first)], strata[len(first) :], strict=True)
        wins = [np.heaviside(ours[..., None] - theirs[..., None, :], 0.5) for ours, theirs in pairs]
        return np.mean([np.mean(won, axis=(-2, -1)) for won in wins], axis=0)

    return bootstrap_interval([*first, *second], statistic)
