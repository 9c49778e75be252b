"""What the first answer of a follower who learns shows to be wrong with a game, as warnings.

Said before the rest of a budget is spent.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..core.mdp import FloatArray
from ..episodes.recorded import LearntEpisodes
from ..model.protocols import LearntGame

__all__ = ["warn_of_first_answer"]

# Differences of returns, relative to the returns, that are rounding.
ROUNDING = 1e-9

# Discounted by e^-4, what comes after so many horizons of the leader is next to nothing.
HORIZONS = 4.0

# Temperatures over the spread of the follower's rewards, between which both have an effect.
LEAST, MOST = 1e-4, 1e3


def warn_of_first_answer(game: LearntGame, played: LearntEpisodes, values: FloatArray) -> None:
    """Warn where all episodes are worth the same, or the temperature is far from the rewards.

    Args:
        game: The game.
        played: Episodes of the follower's first policy.
        values: The leader's return of each of them, `[N]`.
    """
    if len(values) > 1 and np.ptp(values) <= ROUNDING * np.abs(values).max():
        length, reason = played.num_steps / played.num_episodes, ""
        if game.upper_gamma < 1.0 and length > HORIZONS / (1.0 - game.upper_gamma):
            reason = (
                f": episodes last {length:.4g} steps and `upper_gamma` is {game.upper_gamma:g}, so "
                f"that only about the first {1.0 / (1.0 - game.upper_gamma):.4g} count; 1 counts "
                "all of them"
            )
        warnings.warn(
            f"the leader's return in {game.title} is the same, {values[0]:.6g}, in all "
            f"{len(values)} episodes of the follower's first policy, so that nothing can be "
            f"learnt from them{reason}",
            stacklevel=3,
        )
    # At x = 0 there may be no rewards at all.
    rewards = played.lower_rewards[played.alive]
    spread = float(rewards.std())
    if spread > ROUNDING * np.abs(rewards).max() and not LEAST <= game.temperature / spread <= MOST:
        effect = "choose at random" if game.temperature > spread else "hardly try other actions"
        warnings.warn(
            f"the temperature of {game.title} is {game.temperature:.3g} and the standard deviation "
            f"of the follower's rewards {spread:.3g}: it will {effect}; they should be within "
            "some orders of magnitude of each other",
            stacklevel=3,
        )
