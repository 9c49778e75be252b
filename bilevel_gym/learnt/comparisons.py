"""Pairs of fragments of episodes, the judge who compares them, and what was answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit

from ..core.checks import check_at_least, check_positive
from ..core.files import replacing
from ..core.mdp import FloatArray
from ..episodes.recorded import LearntEpisodes

if TYPE_CHECKING:
    from ..envs.preference_pendulum import BilevelPreferencePendulum

__all__ = [
    "BradleyTerry",
    "Judge",
    "Pairs",
    "PreferenceQueue",
    "Windows",
    "checked_answers",
    "compared",
]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of fragments of H steps.

    Attributes:
        observations: What is seen before each step, `[M, 2, H, ...]`.
        actions: `[M, 2, H, ...]`.
        rewards: What the environment itself paid, `[M, 2, H]`; nothing learns from it.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: FloatArray

    def __len__(self) -> int:
        """Return M."""
        return len(self.rewards)

    def __getitem__(self, which: slice | NDArray[Any]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.observations[which], self.actions[which], self.rewards[which])

    @property
    def as_batch(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Observations and actions of all steps, `[2 M H, ...]` each."""
        shape = (-1,)
        return (
            self.observations.reshape(*shape, *self.observations.shape[3:]),
            self.actions.reshape(*shape, *self.actions.shape[3:]),
        )


# Who compares: (pairs, rng) -> share of preferences for the first fragment of each, [M] in [0, 1],
# .5 for equal, NaN for no answer.
Judge = Callable[[Pairs, np.random.Generator], ArrayLike]


class BradleyTerry:
    """A judge who prefers the first with probability sigmoid(rationality (R_1 - R_2)).

    R is the sum of what the environment pays along a fragment (Bradley, Terry, Biometrika 1952).
    """

    def __init__(self, rationality: float = 1.0) -> None:
        """Set up the judge.

        Args:
            rationality: How surely it tells fragments apart, positive.

        Raises:
            ValueError: If it is out of range.
        """
        self.rationality = check_positive("rationality", rationality)

    def __call__(self, pairs: Pairs, rng: np.random.Generator) -> FloatArray:
        """Return the answers, 1 or 0, `[M]`."""
        first, second = pairs.rewards.sum(axis=2).T
        chance = expit(self.rationality * (first - second))
        return (rng.random(len(pairs)) < chance).astype(np.float64)


class PreferenceQueue:
    """Pairs of fragments and what was answered, the oldest forgotten first."""

    def __init__(self, capacity: int = 1000) -> None:
        """Begin empty.

        Args:
            capacity: Most pairs that are remembered, at least 1.

        Raises:
            ValueError: If it is out of range.
        """
        check_at_least("capacity", capacity, 1)
        self.capacity = int(capacity)
        self.pairs: Pairs | None = None
        self.answers: FloatArray = np.zeros(0)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.answers)

    def add(self, pairs: Pairs, answers: ArrayLike) -> None:
        """Remember pairs; those without an answer (NaN) are left out.

        Args:
            pairs: `[M]`.
            answers: Share of preferences for the first fragment of each, `[M]`.

        Raises:
            ValueError: If an answer is neither in [0, 1] nor NaN, or fragments have another shape
                than those before; nothing is added.
        """
        answers = checked_answers(answers, len(pairs))
        told = ~np.isnan(answers)
        pairs, answers = pairs[told], answers[told]
        if self.pairs is not None:
            old, new = self.pairs.observations.shape[1:], pairs.observations.shape[1:]
            if old != new:
                raise ValueError(f"fragments must have shape {old} like those before, got {new}")
            pairs = Pairs(
                np.concatenate([self.pairs.observations, pairs.observations]),
                np.concatenate([self.pairs.actions, pairs.actions]),
                np.concatenate([self.pairs.rewards, pairs.rewards]),
            )
            answers = np.concatenate([self.answers, answers])
        self.pairs = pairs[slice(-self.capacity, None)]
        self.answers = answers[-self.capacity :]

    def likelihood(
        self, game: BilevelPreferencePendulum, upper_params: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the log-likelihood of each answer under r_x, and the gradient of their mean.

        Args:
            game: Whose reward r_x it is.
            upper_params: x.

        Returns:
            Likelihoods `[M]`, and the gradient, shape of x: zero as long as nothing was answered.
        """
        if self.pairs is None or len(self) == 0:
            return np.zeros(0), np.zeros(upper_params.shape)
        likelihoods, slopes = compared(game, upper_params, self.pairs, self.answers)
        weights = np.stack([slopes, -slopes], axis=1) / len(self)
        each = np.broadcast_to(weights[:, :, None], self.pairs.rewards.shape).ravel()
        return likelihoods, game.reward_vjp(upper_params, *self.pairs.as_batch, each)

    def save(self, path: str | Path) -> None:
        """Write the queue to a file, an archive of NumPy arrays (.npz)."""
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            self.write(file)

    def write(self, file: IO[bytes]) -> None:
        """Write the same to a file that is open."""
        content: dict[str, Any] = {"capacity": np.asarray(self.capacity), "answers": self.answers}
        if self.pairs is not None:
            content.update(vars(self.pairs))
        np.savez_compressed(file, **content)

    @classmethod
    def load(cls, path: str | Path | IO[bytes]) -> PreferenceQueue:
        """Return the queue that `save` or `write` has written."""
        with np.load(path) as content:
            queue = cls(int(content["capacity"]))
            if "rewards" in content:
                queue.pairs = Pairs(content["observations"], content["actions"], content["rewards"])
                queue.answers = content["answers"]
        return queue


def checked_answers(answers: ArrayLike, count: int) -> FloatArray:
    """Return a judge's answers, `[M]`.

    Raises:
        ValueError: If they are not M numbers in [0, 1] or NaN.
    """
    checked = np.asarray(answers, dtype=np.float64)
    if checked.shape != (count,):
        raise ValueError(
            f"a judge must give one answer for each pair, shape ({count},), got {checked.shape}"
        )
    wrong = (checked < 0.0) | (checked > 1.0)
    if wrong.any():
        raise ValueError(
            "a judge must answer with numbers from 0 (the second is better) to 1 (the first is), "
            f"or NaN for no answer, got {checked[wrong][0]}"
        )
    return checked


def compared(
    game: BilevelPreferencePendulum,
    upper_params: FloatArray,
    pairs: Pairs,
    answers: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return log-likelihoods of answers, and their derivatives by R_x(first) - R_x(second), `[M]`.

    Args:
        game: Whose reward r_x it is.
        upper_params: x.
        pairs: `[M]`.
        answers: Share of preferences for the first, `[M]`.
    """
    rewards = game.reward(upper_params, *pairs.as_batch).reshape(pairs.rewards.shape)
    first, second = rewards.sum(axis=2).T
    ahead = first - second
    # log sigmoid(-z) = log sigmoid(z) - z
    return log_expit(ahead) - (1.0 - answers) * ahead, answers - expit(ahead)


@dataclass(frozen=True, eq=False)
class Windows:
    """Where in some episodes the fragments of pairs are.

    Attributes:
        episodes: Which episode each fragment is of, `[M, 2]`.
        starts: Its first step, `[M, 2]`.
        length: H.
    """

    episodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    length: int

    @classmethod
    def drawn(
        cls, count: int, num_episodes: int, num_steps: int, length: int, rng: np.random.Generator
    ) -> Windows:
        """Draw fragments that do not overlap; the two of a pair are of different episodes.

        Args:
            count: M, at most half of all the fragments there are.
            num_episodes: N, even.
            num_steps: T of each.
            length: H.
            rng: What is drawn from.
        """
        each = num_steps // length
        # Each episode's fragments in an order of their own; neighbours are compared one by one.
        orders = np.stack([rng.permutation(each) for _ in range(num_episodes)])
        chosen = np.sort(rng.permutation(num_episodes // 2 * each)[:count])
        couple, place = np.divmod(chosen, each)
        episodes = 2 * couple[:, None] + np.arange(2)
        return cls(episodes, length * orders[episodes, place[:, None]], length)

    @property
    def steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Steps and episodes of all fragments, as indices, `[M, 2, H]`."""
        times = self.starts[:, :, None] + np.arange(self.length)
        return times, np.broadcast_to(self.episodes[:, :, None], times.shape)

    def cut(self, played: LearntEpisodes) -> Pairs:
        """Return the fragments."""
        at = self.steps
        return Pairs(played.observations[at], played.actions[at], played.upper_rewards[at])

    def __getitem__(self, which: NDArray[np.bool_]) -> Windows:
        """Return those of some pairs."""
        return Windows(self.episodes[which], self.starts[which], self.length)
