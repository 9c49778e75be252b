"""The folder of one run of `bilevel-gym solve`.

Nothing in it is replaced without consent. The history is written as it grows, and so is all that a
run goes on from (see `recorded`); every other file appears whole or not at all. So a run that is
interrupted, or killed, leaves behind what it had reached.
"""

from __future__ import annotations

import csv
import json
import math
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ..core.files import check_regular, remove_abandoned, replacing
from ..core.mdp import FloatArray
from ..core.plain import read_arrays
from ..optimizers import Iterate, projected_gradient_norm
from ..plotting import INK, LINE, MUTED, new_figure, save_figure, tidy
from .arguments import CommandError
from .console import explain_os_errors, uninterrupted
from .recorded import EVALUATIONS, LEARNT, SECONDS, STATE, Evaluations, check_idle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..envs.base import BilevelEnv


CONFIG, HISTORY, PARAMS, RESULT = "config.json", "history.csv", "params.npz", "result.json"
PLOT, GIF = "progress.png", "run.gif"

# More bytes than a row of the history has.
ROW = 1024

# Evaluations up to which each is marked in the plot.
FEW = 20

# All that a run writes, and all that `--overwrite` may replace.
FILES = (CONFIG, HISTORY, PARAMS, EVALUATIONS, STATE, LEARNT, RESULT, PLOT, GIF)


@dataclass(frozen=True)
class RunRecord:
    """One row of the history: one evaluation of the leader's objective.

    Attributes:
        phase: "screen", "ascent" or "polish".
        objective: F(x), as the method gives it; an estimate where the method is one.
        gradient_norm: Euclidean norm of the method's hyper-gradient.
        projected_gradient_norm: The same after projection on the box; zero at stationary points.
        lower_value: The follower's soft value at the start.
        inner_iterations: Iterations of the inner learner.
        inner_residual: Sup norm of the follower's Bellman residual.
        inner_converged: Whether the inner learner met its tolerance.
        inner_samples: Environment steps that the method took.
        objective_se: Standard error of an estimated objective.
        hyper_gradient_cosine: Expected cosine of an estimated hyper-gradient to the true one.
        coverage: Share of a tabular follower's actions that were seen.
        trust: How far the estimate of a follower who learns by networks can be trusted.
        temperature: The follower's, where the method lowers it.
        unregularised_optimistic: F without entropy, beside it; ties in the leader's favour.
        unregularised_pessimistic: Likewise, to the leader's disadvantage.

    What the method does not report is None.
    """

    step: int
    phase: str
    objective: float
    gradient_norm: float | None
    projected_gradient_norm: float | None
    lower_value: float | None = None
    inner_iterations: int | None = None
    inner_residual: float | None = None
    inner_converged: bool | None = None
    inner_samples: int | None = None
    objective_se: float | None = None
    hyper_gradient_cosine: float | None = None
    coverage: float | None = None
    trust: float | None = None
    temperature: float | None = None
    unregularised_optimistic: float | None = None
    unregularised_pessimistic: float | None = None


class History:
    """What a run has evaluated: on disk as it grows, and in memory; the largest F(x) is best.

    The best, the last and the first x are written at each new best, and every few seconds. What was
    not kept stays on disk until there is something new.
    """

    def __init__(
        self,
        folder: Path,
        low: FloatArray,
        high: FloatArray,
        evaluations: Evaluations,
        kept: int | None = 0,
        *,
        replayed: bool = True,
    ) -> None:
        """Open the history in a folder, after the first `kept` evaluations (None: after all).

        They are told once more if they are `replayed`. The best x is not forgotten, whatever is.
        The box of x is written with the parameters.

        Raises:
            CommandError: If rows of the file are missing, or damaged.
        """
        self.folder, self._low, self._high = folder, low, high
        self._written = 0.0
        self.first: Iterate  # these three are there as soon as there is a record
        self.best: Iterate
        self.last: Iterate
        path = folder / HISTORY
        recorded = len(evaluations.recorded)
        lines = read_history(path, ROW * (recorded + 2)) if recorded else []
        kept = min(recorded, len(lines)) if kept is None else kept
        self.records = [read_record(path, line) for line in lines[:kept]]
        if len(self.records) < kept:
            raise CommandError(f"{path} has {len(lines)} of the {kept} rows that there were")
        if recorded:
            values = evaluations.recorded[:, low.size]
            best = len(values) - 1 - int(np.argmax(values[::-1]))  # the latest of equals
            self.best = self._recorded(evaluations, best)
        if kept:
            self.first = self._recorded(evaluations, 0)
            self.last = self._recorded(evaluations, kept - 1)
        evaluations.keep(kept)
        self._evaluations, self._lines = evaluations, lines[:kept]
        self._told = 0 if replayed else kept
        self._file: TextIO | None = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> TextIO:
        """Return the file, which has the rows that are kept, and grows line by line."""
        if self._file is None:
            path = self.folder / HISTORY
            with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
                names = (field.name for field in fields(RunRecord))
                file.writelines(f"{line}\n" for line in [",".join(names), *self._lines])
            self._file = path.open("a", buffering=1, newline="", encoding="utf-8")
        return self._file

    def add(self, iterate: Iterate, info: Mapping[str, Any], phase: str) -> None:
        """Append an iterate, unless it is one of those kept."""
        self._told += 1
        if self._told <= len(self.records):
            self._take(iterate)
            return
        reported = {field.name for field in fields(RunRecord) if field.default is None}
        record = RunRecord(
            step=len(self.records),
            phase=phase,
            objective=iterate.value,
            gradient_norm=known(float(np.linalg.norm(iterate.gradient))),
            projected_gradient_norm=known(iterate.projected_gradient_norm),
            **{key: value.item() for key, value in info.items() if key in reported},
        )
        with uninterrupted():
            file = self._opened()
            self._evaluations.add(iterate.upper_params, iterate.value, iterate.gradient)
            csv.writer(file, lineterminator="\n").writerow(astuple(record))
            self.records.append(record)
            self._take(iterate)
            if iterate is self.best or time.monotonic() - self._written > SECONDS:
                self.write_params()

    def _recorded(self, evaluations: Evaluations, number: int) -> Iterate:
        x, value, gradient = evaluations.row(number)
        norm = projected_gradient_norm(x, gradient, self._low, self._high)
        return Iterate(number, x, value, gradient, norm)

    def _take(self, iterate: Iterate) -> None:
        self.last = iterate
        if self._told == 1:
            self.first = iterate
        if not hasattr(self, "best") or iterate.merit >= self.best.merit:
            self.best = iterate

    def settle(self, best: Iterate) -> None:
        """Take the best iterate from an optimizer that has compared the best ones anew."""
        self.best = best

    def write_params(self) -> None:
        """Write the best, the last and the first x."""
        self._written = time.monotonic()
        with replacing(self.folder / PARAMS) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                best_upper_params=self.best.upper_params,
                final_upper_params=self.last.upper_params,
                initial_upper_params=self.first.upper_params,
                low=self._low,
                high=self._high,
                objective=np.float64(self.best.value),
            )

    def plot(self, title: str) -> None:
        """Draw objective and gradient norm against evaluations."""
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(7.0, 5.6)
        upper, lower = figure.subplots(2, 1, sharex=True)
        steps = np.array([record.step for record in self.records])
        objective = np.array([record.objective for record in self.records])
        # A gradient of zero has no place on a logarithmic axis.
        norms = np.array([record.projected_gradient_norm or np.nan for record in self.records])
        marker = "o" if len(self.records) <= FEW else ""
        upper.plot(steps, objective, color=LINE, linewidth=1.6, marker=marker)
        lower.plot(steps, norms, color=LINE, linewidth=1.2, marker=marker)
        if np.isfinite(norms).any():
            lower.set_yscale("log")
            lower.minorticks_off()  # a third of the time that the plot takes
        else:
            lower.set_yticks([])
            lower.text(0.5, 0.5, "zero", transform=lower.transAxes, ha="center", color=MUTED)
        upper.set_title(title, loc="left", fontsize=11, color=INK)
        upper.set_ylabel("objective F(x)")
        lower.set_ylabel("projected gradient norm")
        lower.set_xlabel("evaluations of the objective")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(self.records) == 1:
            lower.set_xticks([0])
        for axes in (upper, lower):
            tidy(axes)
            _mark_phases(axes, self.records, label=axes is upper)
        # It may be one that was reached earlier, and is told again later.
        told = [at for at, record in enumerate(self.records) if record.step == self.best.number]
        best = told[0] if told else int(np.argmax(objective))
        upper.annotate(
            f"best {objective[best]:.6g}".replace("-", "\N{MINUS SIGN}"),  # as on the axis
            (steps[best], objective[best]),
            xytext=(0, 6),  # above, where no curve is
            textcoords="offset points",
            horizontalalignment="left" if 2 * best < len(self.records) else "right",
            verticalalignment="bottom",
            fontsize=9,
            color=LINE,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
        upper.margins(y=0.12)
        save_figure(figure, self.folder / PLOT)


def known(number: float) -> float | None:
    """Return a number, None for NaN: there is no gradient of what was evaluated briefly."""
    return None if math.isnan(number) else number


def read_history(path: Path, most: int) -> list[str]:
    """Return the rows of a history, without those that are cut short and the names above them.

    Raises:
        CommandError: If the file has more than so many bytes.
    """
    try:
        check_regular(path, most)
    except ValueError as error:
        raise CommandError(f"{path} is damaged: {error}") from None
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    return whole.split("\n")[1:]


def read_record(path: Path, line: str) -> RunRecord:
    """Return what a row of a history says."""
    entries: list[Any] = []
    try:
        for field, text in zip(fields(RunRecord), line.split(","), strict=True):
            if field.name == "phase":
                entries.append(text)
            elif field.name == "inner_converged" or not text:
                entries.append({"True": True, "False": False, "": None}[text])
            else:
                entries.append(int(text) if field.type.startswith("int") else float(text))
    except (ValueError, KeyError):
        raise CommandError(f"{path}: no row of a history: {line[:80]!r}") from None
    return RunRecord(*entries)


def open_folder(out: Path | None, env_id: str, *, overwrite: bool = False) -> Path:
    """Return an existing, writable folder for a run: `out`, or the next number under `runs/ID`.

    With consent to `overwrite`, the files of an earlier run are removed at once, so that none can
    pass for one of the new; other files are left alone.
    """
    with explain_os_errors(out or Path("runs")):
        if out is None:
            return _next_folder(Path("runs") / env_id)
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            if not overwrite:
                raise CommandError(
                    f"{out} is not empty; choose another `--out`, or give `--overwrite` to replace "
                    "the run in it"
                )
            check_idle(out)
            for name in FILES:
                (out / name).unlink(missing_ok=True)
            tidy_up(out)
        return out


def tidy_up(folder: Path) -> None:
    """Remove what a run that was killed had half written; nobody else may be at it."""
    for name in FILES:
        remove_abandoned(folder / name, age=0.0)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write how a run was started, or what it reached."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_start(path: Path, game: BilevelEnv) -> FloatArray:
    """Return the best x of an earlier run of a game."""
    try:
        try:
            check_regular(path)
            with zipfile.ZipFile(path) as stored:
                x = read_arrays(stored)["best_upper_params"]
        except Exception as error:  # damaged files raise whatever the library stumbles on
            if isinstance(error, OSError) and error.strerror is not None:
                raise
            raise ValueError(
                f"must be the {PARAMS} of a run, with `best_upper_params` in it"
            ) from None
        return game.validate_upper_params(x)
    except (ValueError, OSError) as error:
        raise CommandError(f"`--start` {path}: {error}") from None


def _next_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal()]
    number = max(taken, default=0)
    while True:
        number += 1
        folder = parent / f"{number:03d}"
        with suppress(FileExistsError):  # a parallel run was faster: the next number is tried
            folder.mkdir()
            return folder


def _mark_phases(axes: Axes, records: Sequence[RunRecord], *, label: bool) -> None:
    for before, after in zip(records, records[1:], strict=False):
        if before.phase != after.phase:
            axes.axvline(after.step, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            if label:
                axes.annotate(
                    f"{after.phase} from here ",
                    (after.step, 0.04),
                    xycoords=("data", "axes fraction"),
                    horizontalalignment="right",
                    fontsize=9,
                    color=MUTED,
                )
