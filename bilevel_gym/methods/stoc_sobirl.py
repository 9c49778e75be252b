"""Stochastic SoBiRL: the follower is learnt from episodes too, with batches that grow.

Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697) state for their stochastic variant an iteration
complexity of O~(eps^-1.5) and a sample complexity of O~(eps^-3.5). These rates are all of it that
we could verify; the algorithm below has the samples per iteration that they imply, and is ours in
the rest: the estimator is that of `bilevel_gym.methods.sobirl`, the inner learner one of
`bilevel_gym.methods.learners`, no momentum is used, and the steps on x are the optimizer's.

K = eps^-1.5 iterations of eps^-2 samples each are K^(4/3) samples per iteration. Iteration
k = 0, 1, ... plays

    n_k = min(episodes (k + 1)^(4/3), most_episodes)

episodes of each kind, rounded up: of the inner learner, of the estimator, and for the advantages of
dr/dx. So K need not be known beforehand, and the sum over K iterations grows as eps^-3.5. The error
of an estimate falls as n_k^-1/2, that is as (k + 1)^(-2/3), until `most_episodes` is reached.

The first steps on x are taken from the smallest batches. Where a wrong one leads away from all
slopes (a grid world whose follower gives up its goal), take a larger first batch or smaller steps.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from ..core.checks import check_at_least, check_not_negative, received
from ..core.mdp import FloatArray
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .learners import EpisodeLearner
from .sobirl import SoBiRL

__all__ = ["StocSoBiRL"]


class StocSoBiRL(SoBiRL):
    """Estimate the hyper-gradient as SoBiRL does, from batches that grow, without any model."""

    unbiased: ClassVar[bool] = False  # its policy is learnt
    remembered = (*SoBiRL.remembered, "_iteration")

    def __init__(
        self,
        model: TabularModel,
        *,
        episodes: int = 64,
        growth: float = 4.0 / 3.0,
        most_episodes: int = 16_384,
        inner: str = "certainty-equivalence",
        inner_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model; where its leader evaluates fragments, x enters the rewards
                alone.
            episodes: Episodes of each kind in the first iteration, at least 1.
            growth: Power of k + 1 that they grow with, not negative.
            most_episodes: Episodes of each kind from which on they do not grow, at least
                `episodes`.
            inner: Where the policy comes from: "certainty-equivalence" or "soft-q".
            inner_options: Options of the inner learner but its episodes, which the schedule sets.
            **options: See `SoBiRL` and `Sampled`: truncation, baseline, advantages, horizon.

        Raises:
            TypeError: If the method does not suit the model, or an option is unknown.
            ValueError: If an option is out of range, or the inner learner needs the model.
        """
        check_at_least("episodes", episodes, 1)  # its schedule goes by a number
        super().__init__(
            model, episodes=episodes, inner=inner, inner_options=inner_options, **options
        )
        learner = self._learner
        if not isinstance(learner, EpisodeLearner):
            raise ValueError(
                "`inner` must be a learner that sees episodes alone, 'certainty-equivalence' or "
                f"'soft-q', got {received(inner)}; method 'sobirl' takes any"
            )
        if "episodes" in (inner_options or {}):
            raise ValueError(
                "`inner_options` must leave the episodes to the schedule, got "
                f"{received(inner_options)}; `episodes` sets the first batch"
            )
        self._growth = check_not_negative("growth", growth)
        self._first = self._num_episodes
        self._most = check_at_least("most_episodes", most_episodes, self._first)
        self._watching = learner
        self._iteration = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt and begin the schedule again; draw from `rng` from now on."""
        super().reset(rng)
        self._iteration = 0

    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Let the follower learn and answer x, with the batch whose turn it is."""
        self._num_episodes = self._watching.episodes = self._batch(self._iteration)
        response = super().step(upper_params)
        self._iteration += 1
        return response

    def _batch(self, iteration: int) -> int:
        """Return how many episodes of each kind are played in an iteration."""
        larger = self._growth * math.log1p(iteration)  # log n_k / n_0, which may be huge
        larger = min(larger, math.log(self._most / self._first))
        return min(math.ceil(self._first * math.exp(larger) - 1e-9), self._most)
