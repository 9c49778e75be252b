"""What a benchmark came to: its runs, its cells of task and method, and methods over all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.mdp import FloatArray
from .statistics import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    mean,
    normalised_score,
    optimality_gap,
    performance_profile,
    pooled,
    probability_of_improvement,
)

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from pandas.core.groupby import DataFrameGroupBy


# What is read of the table of results; it may have more.
COLUMNS = (
    "task",
    "method",
    "optimizer",
    "seed",
    "step",
    "env_steps",
    "wall_time",
    "estimated_objective",
    "objective",
    "objective_error",
    "projected_gradient_norm",
    "cosine",
    "best_known",
)
# Columns of the table of tasks.
TASK_COLUMNS = "task start best best_known best_found measured_by climb standard_error".split()
THRESHOLDS = np.linspace(0.0, 1.0, 201)
# A value this far above the best known one, in units of the climb, is more than rounding.
EXCESS = 1e-6
# A climb within so many standard errors of held-out episodes may be nothing but noise.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Aggregate:
    """How a method did over the tasks it ran on.

    Attributes:
        tasks: Tasks that it ran on.
        runs: Number of its runs on them.
        score: Interquartile mean of the normalised scores.
        gap: Optimality gap.
        profile: Share of its runs above each of `THRESHOLDS`, `[T]`.
    """

    label: str
    tasks: tuple[str, ...]
    runs: int
    score: Interval
    gap: Interval
    profile: Interval


@dataclass(frozen=True)
class Tables:
    """What a benchmark came to.

    Attributes:
        tasks: A row for each task: what it is measured by.
        runs: A row for each run: where it began and ended, and what it took.
        cells: A row for each task and method.
        aggregates: Each method over its tasks, the best first.
        common: Tasks that every method ran on.
        missing: A row for each task, method and optimizer with runs that are not done.
        dropped: Rows without a finite objective, which count nowhere.
        rows: The others, in order, with a `label`, the method, with its optimizer if it has
            several, and `stationarity`, the square of the norm of the projected hyper-gradient.
    """

    tasks: DataFrame
    runs: DataFrame
    cells: DataFrame
    aggregates: list[Aggregate]
    common: tuple[str, ...]
    missing: DataFrame
    dropped: int
    rows: DataFrame


def summarise(frame: DataFrame) -> Tables:
    """Return what a benchmark came to, from the table that `write_report` takes."""
    missing = _missing(frame)
    frame, dropped = prepared(frame)
    starts = _starts(frame)
    tasks = _tasks(frame, starts)
    runs = _runs(frame, tasks, starts)
    counted = scored(runs)
    by_label = [set(cell["task"]) for _, cell in counted.groupby("label")]
    common = tuple(sorted(set.intersection(*by_label))) if by_label else ()
    cells, aggregates = _cells(frame, runs), aggregated(counted)
    return Tables(tasks, runs, cells, aggregates, common, missing, dropped, frame)


def as_files(tables: Tables) -> dict[str, DataFrame]:
    """Return the tables that are written beside the page, by file name."""
    import pandas as pd

    aggregates = pd.DataFrame(
        {
            "label": a.label,
            "tasks": len(a.tasks),
            "runs": a.runs,
            **_columns(a.score, "iqm", "iqm_low", "iqm_high"),
            **_columns(a.gap, "optimality_gap", "optimality_gap_low", "optimality_gap_high"),
        }
        for a in tables.aggregates
    )
    profiles = [
        pd.DataFrame({"label": a.label, "score": THRESHOLDS, **vars(a.profile)})
        for a in tables.aggregates
    ]
    profile = pd.concat(profiles) if profiles else pd.DataFrame()
    return {
        "tasks.csv": tables.tasks,
        "runs.csv": tables.runs,
        "final.csv": tables.cells,
        "missing.csv": tables.missing,
        "aggregate.csv": aggregates,
        "profiles.csv": profile.rename(columns={"value": "share"}),
        "improvement.csv": _improvements(tables),
    }


def scored(runs: DataFrame) -> DataFrame:
    """Return the runs that have a score."""
    return runs[np.isfinite(runs["score"])]


def prepared(frame: DataFrame) -> tuple[DataFrame, int]:
    """Return the rows that count, as `Tables.rows`, and the number of the others.

    Raises:
        ValueError: If the table lacks a column, has no row that counts, or has two for one step.
    """
    absent = [column for column in COLUMNS if column not in frame.columns]
    if absent:
        raise ValueError(f"the table of results lacks the columns {', '.join(absent)}")
    finite = np.isfinite(frame["objective"].to_numpy(np.float64))
    kept = frame[finite].copy()
    if kept.empty:
        raise ValueError(f"no row has a finite objective, of {len(frame)}")
    several = kept.groupby("method")["optimizer"].transform("nunique") > 1
    kept["stationarity"] = kept["projected_gradient_norm"].astype(float) ** 2
    kept["label"] = kept["method"].mask(several, kept["method"] + ", " + kept["optimizer"])
    run = ["task", "label", "seed"]
    twice = kept[kept.duplicated([*run, "step"])]
    if not twice.empty:
        raise ValueError(
            "a run has one row a step; there are more for "
            + ", ".join(f"{name} {twice.iloc[0][name]}" for name in [*run, "step"])
        )
    return kept.sort_values([*run, "step"], ignore_index=True), int((~finite).sum())


def _starts(frame: DataFrame) -> Series[float]:
    """Return F at the start of each (task, seed), where its methods start alike."""
    first = frame.groupby(["task", "seed", "label"])["objective"].first()
    return first.groupby(["task", "seed"]).median().rename("start")


def _tasks(frame: DataFrame, starts: Series[float]) -> DataFrame:
    """Return start, best value and where it is from, for each task."""
    import pandas as pd

    by_task = frame.groupby("task")
    tasks = pd.DataFrame(
        {
            # The mean of the seeds' own starts does not depend on which methods are missing.
            "start": starts.groupby("task").agg(pd.Series.mean),
            "best_known": by_task["best_known"].max().astype(float),
            "best_found": by_task["objective"].max(),
            # NaN where F is exact.
            "standard_error": frame["objective_error"]
            .astype(float)
            .groupby(frame["task"])
            .median(),
        }
    )
    start, known, found = tasks["start"], tasks["best_known"], tasks["best_found"]
    best = known.where(found <= known, found)
    found_here = known.isna() | (found - known > EXCESS * (known - start).abs())
    climbs = frame["objective"] - frame.join(starts, on=["task", "seed"])["start"]
    # What was found may be but the start of a lucky seed.
    highest = climbs.groupby(frame["task"]).max()
    return tasks.assign(
        best=best,
        measured_by=np.where(found_here, "found here", "best known"),
        climb=(best - start).where(~found_here, np.minimum(best - start, highest)),
    ).reset_index()[[*TASK_COLUMNS]]


def _runs(frame: DataFrame, tasks: DataFrame, starts: Series[float]) -> DataFrame:
    """Return where each run began and ended, and what it took."""
    groups = frame.groupby(["task", "label", "method", "optimizer", "seed"])
    first, last = groups.first(), groups.last()
    runs = last[["step", "objective"]].rename(columns={"step": "steps"})
    kept = returned_rows(groups)
    for name in ("objective", "stationarity"):
        runs[f"returned_{name}"] = frame[name].loc[kept].to_numpy()
    runs["best_objective"] = groups["objective"].max()
    runs["env_steps"] = last["env_steps"]
    steps = last["step"] - first["step"]
    runs["seconds_per_step"] = np.where(
        steps > 0, (last["wall_time"] - first["wall_time"]) / steps.clip(lower=1), last["wall_time"]
    )
    runs = runs.reset_index().join(starts, on=["task", "seed"])
    start, returned = runs["start"].to_numpy(), runs["returned_objective"].to_numpy()
    measured = runs[["task"]].merge(tasks, on="task")
    best = measured["best"].to_numpy()
    span = np.minimum(measured["climb"].to_numpy(), best - start)
    noise = STANDARD_ERRORS * measured["standard_error"].fillna(0.0).to_numpy()
    runs["score"] = np.where(span > noise, normalised_score(returned, start, best), np.nan)
    return runs


def returned_rows(runs: DataFrameGroupBy[Any, Any]) -> Series[int]:
    """Return the index of the row that each run, a group of prepared rows, returns.

    The optimizer keeps the iterate whose value, as far as the method knows it, is the largest.
    """
    return runs["estimated_objective"].agg(lambda values: values.fillna(-np.inf).idxmax())


def _cells(frame: DataFrame, runs: DataFrame) -> DataFrame:
    """Return a row for each task and method, in order of what they return."""
    import pandas as pd

    cosines = frame.groupby(["task", "label"])["cosine"].median()
    keys = ["task", "label", "method", "optimizer"]
    rows = []
    for key, cell in runs.groupby(keys):
        final, returned = (
            bootstrap_interval([cell[name].to_numpy()], pooled(mean))
            for name in ("objective", "returned_objective")
        )
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "runs": len(cell),
                "steps": int(cell["steps"].max()),
                **_columns(final, "objective", "low", "high"),
                **_columns(returned, "returned_objective", "returned_low", "returned_high"),
                "best_objective": float(cell["best_objective"].max()),
                # Over orders of magnitude, a mean would be that of the worst run.
                "returned_stationarity": float(cell["returned_stationarity"].median()),
                "median_cosine": float(cosines[key[:2]]),
                "env_steps": float(cell["env_steps"].mean()),
                "seconds_per_step": float(cell["seconds_per_step"].median()),
            }
        )
    cells = pd.DataFrame(rows)
    exact = cells[cells["method"] == "exact"].set_index(["task", "optimizer"])["seconds_per_step"]
    base = cells[["task", "optimizer"]].apply(tuple, axis=1).map(exact.to_dict()).astype(float)
    cells["times_exact"] = cells["seconds_per_step"] / base
    return cells.sort_values(
        ["task", "returned_objective", "label"], ascending=[True, False, True], ignore_index=True
    )


def aggregated(runs: DataFrame) -> list[Aggregate]:
    """Return each method over its tasks, the best interquartile mean first, of scored runs."""
    found = []
    for label in sorted(runs["label"].unique()):
        by_task = _scores(runs, label)
        scores = list(by_task.values())
        found.append(
            Aggregate(
                label,
                tuple(by_task),
                sum(map(len, scores)),
                bootstrap_interval(scores, pooled(interquartile_mean)),
                bootstrap_interval(scores, pooled(optimality_gap)),
                performance_profile(scores, THRESHOLDS),
            )
        )
    return sorted(found, key=lambda a: (-float(a.score.value), a.label))


def _scores(runs: DataFrame, label: str) -> dict[str, FloatArray]:
    """Return a method's scores on each task, of scored runs."""
    mine = runs[runs["label"] == label]
    return {str(task): rows["score"].to_numpy() for task, rows in mine.groupby("task")}


def _improvements(tables: Tables) -> DataFrame:
    """Return the probability that one method's run scores above another's, for all pairs."""
    import pandas as pd

    scores = {a.label: _scores(scored(tables.runs), a.label) for a in tables.aggregates}
    rows = []
    for first, second in permutations(scores, 2):
        shared = [task for task in scores[first] if task in scores[second]]
        if shared:
            p = probability_of_improvement(
                *([scores[label][task] for task in shared] for label in (first, second))
            )
            pair = {"label": first, "other": second, "tasks": len(shared)}
            rows.append({**pair, **_columns(p, "probability", "low", "high")})
    return pd.DataFrame(rows)


def _columns(interval: Interval, *names: str) -> dict[str, float]:
    """Return the value of a scalar and its bounds under three names."""
    values = (interval.value, interval.low, interval.high)
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _missing(frame: DataFrame) -> DataFrame:
    """Return the runs that are not done, a row for each task, method and optimizer."""
    import pandas as pd

    runs = [run.rpartition(", seed ")[::2] for run in frame.attrs.get("missing", ())]
    seeds = pd.DataFrame(runs, columns=["cell", "seed"]).groupby("cell", sort=False)["seed"]
    return pd.DataFrame({"missing": seeds.size(), "seeds": seeds.agg(" ".join)}).reset_index()
