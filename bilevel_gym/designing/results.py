"""What the design of a reward has found, in numbers, words and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.reprs import Described, brief, number
from ..plotting import INK, LINE, PALETTE, new_figure, save_figure, tidy

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..envs.designed import DesignGame
    from ..sb3 import SoftDQN, SoftSAC

__all__ = ["Design", "Score", "plot_history", "verdict_of"]

# Differences of more standard errors than this are told from noise.
SIGNIFICANT = 2.0


@dataclass(frozen=True, repr=False)
class Score(Described):
    """The objective of a follower in fresh episodes; of an interrupted run in those watched.

    Attributes:
        mean: Mean over episodes.
        standard_error: Of the mean; NaN of a single episode.
        episodes: How many there were.
    """

    mean: float
    standard_error: float
    episodes: int

    @classmethod
    def of(cls, values: FloatArray) -> Score:
        """Return the score of episodes by their values, `[N]`."""
        count = len(values)
        error = float(values.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
        return cls(float(values.mean()), error, count)

    @property
    def as_json(self) -> dict[str, float | None]:
        """The score as JSON has it, null for an error that is not known."""
        return {name: None if value != value else value for name, value in vars(self).items()}

    def compared(self, other: Score, name: str) -> str:
        """Return in words how this compares with another score, which is called `name`."""
        gain = self.mean - other.mean
        error = float(np.hypot(self.standard_error, other.standard_error))
        if not abs(gain) > SIGNIFICANT * error:  # of single episodes there is no error
            word = "not distinguishable from"
        else:
            word = "better than" if gain > 0.0 else "worse than"
        return f"{word} {name}, {other} (difference {gain:.4g}, standard error {error:.2g})"

    def __str__(self) -> str:
        """Return mean and standard error."""
        return f"{self.mean:.4g} +- {self.standard_error:.2g}"


@dataclass(frozen=True, eq=False, repr=False)
class Design(Described):
    """What `design_reward` has found.

    Attributes:
        weights: The weight of each term, by name: the reward is the sum of their products.
        upper_params: The same as the game has it, in units of the terms' spreads, `[K]`.
        model: The follower trained with this reward, a learner of Stable-Baselines3:
            `model.predict(observation)` acts.
        objective: Its objective in fresh episodes.
        start: That of the follower at the start.
        direct: That of the same learner trained on the objective itself, for as many steps; None
            unless that was asked for.
        verdict: All this in words.
        history: For each x that was evaluated, its `weights`, the `objective` (the mean over the
            episodes watched) and what is known of the estimate, and `environment_steps` so far.
        environment_steps: Steps made, without the fresh episodes and direct training.
        interrupted: Whether it was ended early: this is the best so far.
        game: The game that was played; `game.make_environment()` is a copy of the environment.
        folder: Where the run is kept, None if it is not.
    """

    weights: dict[str, float]
    upper_params: FloatArray
    model: SoftDQN | SoftSAC
    objective: Score
    start: Score
    direct: Score | None
    verdict: str
    history: list[dict[str, Any]]
    environment_steps: int
    interrupted: bool
    game: DesignGame
    folder: Path | None

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the weights, the scores and the steps."""
        yield "weights", brief({name: float(number(w)) for name, w in self.weights.items()})
        for name in ("objective", "start", "direct"):
            score = getattr(self, name)
            if score is not None:
                yield name, number(score.mean, score.standard_error)
        yield "environment_steps", str(self.environment_steps)


def verdict_of(
    steps: int,
    objective: Score,
    start: Score,
    direct: Score | None = None,
    *,
    seen: tuple[float, float],
    interrupted: bool = False,
) -> str:
    """Return in words what was reached; `seen` are the least and the largest objective watched."""
    least, most = seen
    ended = f"{'Interrupted after' if interrupted else 'After'} {steps} environment steps"
    if least == most:
        return (
            f"{ended} the objective is {least:.4g} in every episode watched, whatever the weights: "
            "nothing can be learnt about them. Choose an objective that tells good episodes from "
            "bad ones, terms that lead to it, or more steps."
        )
    text = f"{ended} the objective is {objective}, {objective.compared(start, 'the start')}"
    if interrupted:
        text += ", both in the episodes watched while it learnt, not in fresh ones"
    if direct is not None:
        text += f"; {objective.compared(direct, 'direct training for as many steps')}"
    return f"{text}."


def plot_history(game: DesignGame, history: list[dict[str, Any]], path: Path) -> None:
    """Draw the objective and the weights, in units of the box, against environment steps."""
    figure = new_figure(7.0, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = [entry["environment_steps"] for entry in history]
    errors = [entry.get("objective_se", 0.0) for entry in history]
    values = [entry["objective"] for entry in history]
    style = {"markersize": 3, "linewidth": 1.2}
    upper.errorbar(steps, values, errors, color=LINE, fmt="o-", **style)
    for colour, (name, scale) in enumerate(zip(game.term_names, game.scales, strict=True)):
        scaled = [entry["weights"][name] * scale for entry in history]
        lower.plot(steps, scaled, "o-", color=PALETTE[colour % len(PALETTE)], label=name, **style)
    upper.set_title(game.title, loc="left", fontsize=11, color=INK)
    upper.set_ylabel("objective of episodes watched")
    lower.set_ylabel("weight x spread of the term")
    lower.set_xlabel("environment steps")
    figure.legend(
        *lower.get_legend_handles_labels(),
        loc="outside lower center",  # where no curve is
        fontsize=8,
        frameon=False,
        ncols=min(4, len(game.term_names)),
    )
    for axes in (upper, lower):
        tidy(axes)
    save_figure(figure, path)
