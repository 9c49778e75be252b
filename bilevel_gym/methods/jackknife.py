"""Standard errors of any estimate from episodes, by leaving out groups of them in turn.

With theta_g the estimate without group g of G, made from the start, its critic included,

    Var theta ~ (G - 1) / G sum_g (theta_g - mean of theta_g)^2

(B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", SIAM 1982, for groups of
equal size). It costs as much time as G estimates and no episode more. What was learnt from earlier
x counts as known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.mdp import FloatArray
from ..episodes.sampler import Episodes, Plays

__all__ = ["GROUPS", "Recorder", "left_out", "standard_errors"]

# Groups of episodes: a standard error is then off by about a quarter.
GROUPS = 8


class Recorder:
    """A sampler that keeps what it has played, to play it again in part."""

    def __init__(self, sampler: Plays) -> None:
        """Begin with nothing played."""
        self._sampler = sampler
        self._played: list[list[Episodes]] = []

    def episodes(self, *arguments: Any) -> Iterator[Episodes]:
        """Play episodes, see `bilevel_gym.episodes.sampler.Sampler`."""
        return self._kept(self._sampler.episodes(*arguments))

    def episodes_from(self, *arguments: Any) -> Iterator[Episodes]:
        """Play an episode from each of some pairs, likewise."""
        return self._kept(self._sampler.episodes_from(*arguments))

    def without(self, group: int, groups: int) -> Plays:
        """Return what plays the same again, one time after another, without a group."""
        return _Replay(left_out(blocks, group, groups) for blocks in self._played)

    def _kept(self, blocks: Iterator[Episodes]) -> Iterator[Episodes]:
        self._played.append(list(blocks))
        return iter(self._played[-1])


class _Replay:
    def __init__(self, played: Iterator[list[Episodes]]) -> None:
        self._played = played

    def episodes(self, *arguments: Any) -> Iterator[Episodes]:
        return iter(next(self._played))

    episodes_from = episodes


def left_out(blocks: Sequence[Episodes], group: int, groups: int) -> list[Episodes]:
    """Return episodes without every one whose number, in its block, is `group` modulo `groups`."""
    return [block.part(np.arange(block.num_episodes) % groups != group) for block in blocks]


def standard_errors(estimates: Sequence[FloatArray]) -> FloatArray:
    """Return the standard errors of an estimate from those without each group, of its shape."""
    error: FloatArray = np.sqrt(len(estimates) - 1.0) * np.std(estimates, axis=0)
    return error
