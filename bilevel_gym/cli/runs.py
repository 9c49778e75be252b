"""Runs of a leader: the climb, and the folder that keeps it.

One folder holds one run, and nothing in it is replaced without consent. The history is written as
it grows, every other file appears whole or not at all, so an interrupted run leaves behind what it
had reached.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..core.files import replacing
from ..core.mdp import FloatArray
from ..optimizers import Iterate, adam, lbfgsb, normalized_ascent

if TYPE_CHECKING:
    from ..wrappers import HyperGradient, LeaderInfo

__all__ = [
    "FILES",
    "Leader",
    "NotEmptyError",
    "Record",
    "RunRecorder",
    "climb",
    "load_start",
    "open_folder",
    "write_json",
]

CONFIG, HISTORY, PARAMS, RESULT = "config.json", "history.csv", "params.npz", "result.json"
PLOT, GIF = "progress.png", "run.gif"

# All that a run writes, and all that `overwrite` may replace.
FILES = (CONFIG, HISTORY, PARAMS, RESULT, PLOT, GIF)

# Evaluations after which the polish begins no further line search.
POLISH_EVALUATIONS = 200


class Leader:
    """The leader's seat as an objective, x -> (value, gradient).

    Attributes:
        env: The leader's seat.
        low: Lower bounds of x, float64.
        high: Upper bounds of x, float64.
        info: Info of the latest step.
    """

    def __init__(self, env: HyperGradient) -> None:
        """Take the seat; it must have been reset before the first evaluation."""
        space = env.game.upper_space
        self.low: FloatArray = space.low.astype(np.float64)
        self.high: FloatArray = space.high.astype(np.float64)
        self.info: LeaderInfo
        self.env = env
        self._answered = False

    def reset(self, x: FloatArray, seed: int) -> None:
        """Reset the seat at x; if that is what is evaluated next, the answer is already there."""
        _, self.info = self.env.reset(seed=seed, options={"upper_params": x})
        self._answered = True

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Announce x and return F(x) with the method's hyper-gradient."""
        # A second answer would cost thousands of steps more of a follower who learns.
        if not (self._answered and np.array_equal(x, self.info["upper_params"])):
            self.info = self.env.step(x)[-1]
        self._answered = False
        return self.env.response.objective, self.info["hyper_gradient"]


def climb(
    leader: Leader,
    start: FloatArray,
    *,
    steps: int,
    learning_rate: float,
    learns: bool = False,
    polish: bool,
    callback: Callable[[Iterate, str], None],
) -> str:
    """Ascend by steps of prescribed length, then go to the nearby stationary point.

    Where the follower learns, steps are Adam's at a constant rate, which averages the noise of the
    estimates and does not wait for x to stand still.

    Args:
        leader: The objective.
        start: First x.
        steps: Steps of the ascent.
        learning_rate: Length of its first step; about how far each entry of x moves in a step where
            the follower learns.
        learns: Whether the follower learns.
        polish: Whether L-BFGS-B follows, from the best x of the ascent. It trusts the gradient to
            be that of the objective, so it suits exact methods only.
        callback: Called with every iterate and the phase, "ascent" or "polish".

    Returns:
        Why the climb stopped.
    """
    ascent = (adam if learns else normalized_ascent)(
        leader,
        start,
        leader.low,
        leader.high,
        steps=steps,
        learning_rate=learning_rate,
        schedule="constant" if learns else "cosine",
        callback=lambda iterate: callback(iterate, "ascent"),
    )
    vanished = ascent.evaluations <= steps
    if vanished or not polish:
        return ascent.message
    result = lbfgsb(
        leader,
        ascent.best.upper_params,
        leader.low,
        leader.high,
        max_evaluations=POLISH_EVALUATIONS,
        callback=lambda iterate: callback(iterate, "polish"),
    )
    return f"{ascent.message}, then L-BFGS-B: {result.message}"


class NotEmptyError(FileExistsError):
    """The folder of a new run has something in it."""


@dataclass(frozen=True)
class Record:
    """One row of the history: one evaluation of the leader's objective.

    Attributes:
        step: Evaluations before this one.
        phase: The optimizer at work.
        objective: F(x), as the method gives it; an estimate where the method is one.
        gradient_norm: Euclidean norm of the method's hyper-gradient.
        projected_gradient_norm: The same after projection on the box; zero at stationary points.
        lower_value: The follower's soft value at the start.
        inner_iterations: Iterations of the inner learner.
        inner_residual: Sup norm of the follower's Bellman residual.
        inner_converged: Whether the inner learner met its tolerance.
        inner_samples: Environment steps that the method took.

    What the method does not say is None.
    """

    step: int
    phase: str
    objective: float
    gradient_norm: float
    projected_gradient_norm: float
    lower_value: float | None
    inner_iterations: int | None
    inner_residual: float | None
    inner_converged: bool | None
    inner_samples: int | None


class RunRecorder:
    """Keeps a run: its history on disk and in memory, its first, best and last iterate.

    Attributes:
        folder: The run's folder.
        history: All records so far.
        first: The first iterate, None before it.
        best: The iterate of the largest objective so far.
        last: The latest iterate.
    """

    def __init__(self, folder: Path) -> None:
        """Open the history in a folder.

        Raises:
            OSError: If it cannot be written.
        """
        self.folder = folder
        self.history: list[Record] = []
        self.first: Iterate | None = None
        self.best: Iterate | None = None
        self.last: Iterate | None = None
        self._file = (folder / HISTORY).open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(field.name for field in fields(Record))
        self._file.flush()

    def __enter__(self) -> Self:
        """Return the recorder itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the history."""
        self._file.close()

    def add(self, iterate: Iterate, info: Mapping[str, Any], phase: str) -> None:
        """Keep an iterate.

        Args:
            iterate: What the optimizer evaluated.
            info: Info of the leader's step that answered it.
            phase: The optimizer at work.
        """
        record = Record(
            step=len(self.history),
            phase=phase,
            objective=iterate.value,
            gradient_norm=float(np.linalg.norm(iterate.gradient)),
            projected_gradient_norm=iterate.projected_gradient_norm,
            lower_value=info.get("lower_value"),
            inner_iterations=info.get("inner_iterations"),
            inner_residual=info.get("inner_residual"),
            inner_converged=info.get("inner_converged"),
            inner_samples=info.get("inner_samples"),
        )
        self.history.append(record)
        self.first = self.first or iterate
        if self.best is None or iterate.value >= self.best.value:
            self.best = iterate
        self.last = iterate
        self._writer.writerow(astuple(record))
        self._file.flush()

    def write_params(self, low: FloatArray, high: FloatArray) -> None:
        """Write the best, the last and the first x, if any was evaluated.

        Args:
            low: Lower bounds of x.
            high: Upper bounds of x.
        """
        if self.first is None or self.best is None or self.last is None:
            return
        with replacing(self.folder / PARAMS) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                best_upper_params=self.best.upper_params,
                final_upper_params=self.last.upper_params,
                initial_upper_params=self.first.upper_params,
                low=low,
                high=high,
                objective=np.float64(self.best.value),
            )


def open_folder(out: Path | None, env_id: str, *, overwrite: bool = False) -> Path:
    """Return an existing, writable folder for a run.

    Args:
        out: The folder, made if missing; None takes the next free number under `runs/ID`.
        env_id: Gymnasium id of the task.
        overwrite: Consent to replace the files of an earlier run; they are removed at once, so
            that no file of the old run can pass for one of the new. Other files are left alone.

    Raises:
        NotEmptyError: If the folder has something in it and there is no consent.
        OSError: If the folder cannot be made or written.
    """
    if out is None:
        return _next_folder(Path("runs") / env_id)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        if not overwrite:
            raise NotEmptyError(f"{out} is not empty")
        for name in FILES:
            (out / name).unlink(missing_ok=True)
    return out


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write how a run was started, or what it reached."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_start(path: Path) -> FloatArray:
    """Return the best x of an earlier run.

    Args:
        path: Its `params.npz`.

    Raises:
        ValueError: If the file is something else.
        OSError: If it cannot be read.
    """
    wrong = f"must be the {PARAMS} of a run, with `best_upper_params` in it"
    try:
        stored = np.load(path)
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(wrong) from None
    if not isinstance(stored, np.lib.npyio.NpzFile) or "best_upper_params" not in stored:
        raise ValueError(wrong)
    with stored:
        return stored["best_upper_params"]


def _next_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(entry.name) for entry in parent.iterdir() if entry.name.isdigit()]
    number = max(taken, default=0) + 1
    while True:
        folder = parent / f"{number:03d}"
        try:
            folder.mkdir()  # fails if a parallel run was faster: then the next number is tried
        except FileExistsError:
            number += 1
        else:
            return folder
