"""Zero-order estimates for followers who learn: differences of what they reach at x nearby.

Nothing is assumed of how x enters: reward, dynamics, arguments of the environment. With m
orthonormal directions u, in units of the width w of the box, and a radius mu,

    g = (D / m) sum_i (F(x + mu w u_i) - F(x - mu w u_i)) / (2 mu) u_i / w,

an unbiased estimate of the gradient of a smoothed F, see `bilevel_gym.methods.zero_order`. Each
value is what a follower reaches who begins as the one at x, learns on for a while under the other
x, and is then watched: what x does at once, and what the follower makes of it. Learning, starts of
episodes and actions have the same random numbers on both sides (common random numbers: Glasserman,
Yao, Management Science 38, 1992), so that what differs is mostly due to x. A follower who learns
for too short a time answers in part; `probe_share` says for how long. In the end the follower at x
is put back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_at_least, check_between, check_positive
from ..core.mdp import FloatArray
from ..episodes.recorded import LearntEpisodes
from ..model.protocols import LearntGame
from .estimators import Estimator, returns
from .trust import Estimate, group_of

__all__ = ["LearntZeroOrder"]


class LearntZeroOrder(Estimator):
    """Central differences along random directions, each side by a follower who learns on."""

    def __init__(
        self,
        game: LearntGame,
        *,
        directions: int = 2,
        radius: float = 0.1,
        probe_share: float = 0.25,
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: The game.
            directions: m, at least 1; orthogonal ones, as long as there are no more than D.
            radius: mu, as a share of the width of the box, positive, less than 1/2.
            probe_share: The share of `inner_steps` that the follower learns at each of the 2 m
                points, positive.
            **options: Those of all estimators, in the table of `estimators`.
        """
        self._directions = check_at_least("directions", directions, 1)
        self._radius = check_between("radius", check_positive("radius", radius), 0.0, 0.49)
        self._share = check_positive("probe_share", probe_share)
        super().__init__(game, **options)

    def response_term(self, upper_params: FloatArray, played: LearntEpisodes) -> Estimate:
        """Return the estimate, of what x does at once too; see `Estimator`."""
        follower, space = self.follower, self._game.upper_space
        low, high = (end.astype(np.float64) for end in (space.low, space.high))
        reach = self._radius * (high - low)
        centre = np.clip(upper_params, low + reach, high - reach)
        snapshot, size, used = follower.snapshot(), upper_params.size, 0
        count = played.num_episodes
        each = np.zeros((count, size))  # the gradient of each episode's return
        for unit in self._units(size):
            seed = int(self._rng.integers(2**31))
            move = reach * unit.reshape(upper_params.shape)
            ends = []
            for x in (centre + move, centre - move):
                paid, samples = self._probe(np.clip(x, low, high), snapshot, count, seed)
                ends.append(paid)
                used += samples
            slopes = (ends[0] - ends[1]) / (2.0 * self._radius)
            each += size / self._directions * slopes[:, None] * unit
        follower.restore(snapshot)
        follower.forget(upper_params)
        each /= (high - low).ravel()
        groups = group_of(np.arange(count), count)
        parts = np.stack([each[groups == group].mean(axis=0) for group in range(groups.max() + 1)])
        return Estimate(
            gradient=each.mean(axis=0).reshape(upper_params.shape),
            parts=parts.reshape(-1, *upper_params.shape),
            samples=used,
        )

    def _probe(
        self, upper_params: FloatArray, snapshot: NDArray[Any], count: int, seed: int
    ) -> tuple[FloatArray, int]:
        """Return the leader's returns `[N]` at an x, and the environment steps used."""
        follower = self.follower
        follower.restore(snapshot)
        samples = follower.learn(upper_params, self._share, seed=seed)
        rng = np.random.default_rng(seed)
        played = follower.play(upper_params, count, rng, seed=self._starts)
        return returns(played.upper_rewards, self._game.upper_gamma), samples + played.num_steps

    def _units(self, size: int) -> FloatArray:
        """Return directions of length one `[m, D]`, orthogonal in groups of D."""
        found: list[FloatArray] = []
        while len(found) < self._directions:
            basis, _ = np.linalg.qr(self._rng.standard_normal((size, size)))
            found.extend(basis.T)
        return np.stack(found[: self._directions])
