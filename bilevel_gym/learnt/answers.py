"""What was answered to pairs of fragments, and how likely the answers are under a reward."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit

from ..core.checks import check_at_least
from ..core.files import replacing
from ..core.mdp import FloatArray
from ..core.plain import read_arrays, readable
from ..episodes.fragments import Pairs
from ..model.judges import checked_answers
from ..model.protocols import PreferenceGame

__all__ = ["PreferenceQueue", "compared"]


# Arrays of a file; those of earlier versions have no others.
REQUIRED = ("observations", "actions", "rewards")


class PreferenceQueue:
    """Pairs of fragments and what was answered, the oldest forgotten first."""

    def __init__(self, capacity: int = 1000) -> None:
        """Begin empty; `capacity` is the most pairs that are remembered, at least 1."""
        self.capacity = check_at_least("capacity", capacity, 1)
        self.pairs: Pairs | None = None
        self.answers: FloatArray = np.zeros(0)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.answers)

    def add(self, pairs: Pairs, answers: ArrayLike) -> None:
        """Remember pairs `[M]` and answers `[M]`, the shares of preferences for first fragments.

        Pairs without an answer (NaN) are left out.

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
            pairs = _joined(self.pairs, pairs)
            answers = np.concatenate([self.answers, answers])
        # Without the episodes that they are of.
        self.pairs = _joined(pairs)[slice(-self.capacity, None)]
        self.answers = answers[-self.capacity :]

    def likelihood(
        self, game: PreferenceGame, upper_params: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the log-likelihood of each answer under r_x `[M]`, and the gradient of their mean.

        The gradient has the shape of x; it is zero as long as nothing was answered.
        """
        if self.pairs is None or len(self) == 0:
            return np.zeros(0), np.zeros(upper_params.shape)
        likelihoods, slopes = compared(game, upper_params, self.pairs, self.answers)
        weights = np.stack([slopes, -slopes], axis=1) / len(self)
        each = np.where(self.pairs.alive, weights[:, :, None], 0.0).ravel()
        return likelihoods, game.reward_vjp(upper_params, *self.pairs.as_batch, each)

    def save(self, path: str | Path) -> None:
        """Write the queue to a file, an archive of NumPy arrays (.npz)."""
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            self.write(file)

    def write(self, file: IO[bytes]) -> None:
        """Write the same to a file that is open."""
        content: dict[str, Any] = {"capacity": np.asarray(self.capacity), "answers": self.answers}
        if self.pairs is not None:
            content.update(self.pairs.arrays)
        np.savez_compressed(file, **content)

    @classmethod
    def load(cls, path: str | Path | IO[bytes]) -> PreferenceQueue:
        """Return the queue that `save` or `write` has written.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or none of them.
        """
        name = path if isinstance(path, str | Path) else "the file"
        with readable(name), zipfile.ZipFile(path) as archive:
            content = read_arrays(archive)
            queue = cls(int(content["capacity"]))
            if "rewards" in content:
                parts: dict[str, Any] = {name: content[name] for name in REQUIRED}
                # In files of earlier versions all steps are alive.
                pairs = Pairs(**parts, alive=content.get("alive"))  # type: ignore[arg-type]
                steps = {part.shape[:3] for part in pairs.arrays.values()}
                if steps != {pairs.rewards.shape} or pairs.alive.dtype != np.bool_:
                    raise ValueError("fragments of different shapes")
                queue.add(pairs, content["answers"])
        return queue


def compared(
    game: PreferenceGame,
    upper_params: FloatArray,
    pairs: Pairs,
    answers: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return log-likelihoods of answers `[M]` and their derivatives by R_x(first) - R_x(second)."""
    rewards = game.reward(upper_params, *pairs.as_batch).reshape(pairs.rewards.shape)
    first, second = np.where(pairs.alive, rewards, 0.0).sum(axis=2).T
    # What entropy relative to the uniform policy takes off each step is no part of r_x.
    longer, shorter = pairs.alive.sum(axis=2).T
    ahead = first - second + game.entropy_offset * (longer - shorter)
    # log sigmoid(-z) = log sigmoid(z) - z
    return log_expit(ahead) - (1.0 - answers) * ahead, answers - expit(ahead)


def _joined(*several: Pairs) -> Pairs:
    """Return pairs one after the other, without the episodes that they are of."""
    every = [pairs.arrays for pairs in several]
    parts: dict[str, Any] = {n: np.concatenate([one[n] for one in every]) for n in every[0]}
    return Pairs(**parts)
