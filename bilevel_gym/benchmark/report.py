"""The report of a benchmark: figures, tables and one Markdown page that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..core.files import replacing
from ..core.mdp import FloatArray
from .charts import (
    Curve,
    Reference,
    decimals,
    draw_aggregate,
    draw_cosines,
    draw_curves,
    draw_profiles,
    draw_task,
    learning_curve,
    make_styles,
)
from .runs import HELD_OUT_EPISODES
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

T = TypeVar("T")

__all__ = ["COLUMNS", "PAGE", "Aggregate", "Tables", "summarise", "write_report"]

PAGE = "report.md"
# What a report reads; a table may have more.
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
    "cosine",
    "best_known",
)
WITHIN = "best - start is within two standard errors"
AGGREGATE_HEAD = ("method", "tasks", "runs", "IQM of scores", "optimality gap")
THRESHOLDS = np.linspace(0.0, 1.0, 201)
# A value this far above the best known one, in units of the climb, is more than rounding.
EXCESS = 1e-6
# A climb within so many standard errors of held-out episodes may be nothing but noise.
STANDARD_ERRORS = 2.0
# Runs whose objectives agree to this, relative to their size, are the same.
SAME = 1e-9

HOW_TO_READ = f"""\
* F is the exact objective, computed apart from the method, which does not see it and is not
  charged for it. Where the follower learns and no exact answer is known, it is the leader's
  discounted return, a mean over {HELD_OUT_EPISODES} held-out episodes of the follower that the
  method has by then: an estimate, which the method does not see either. All steps and methods of a
  seed are measured from the same first states. (Where the leader goes by preferences, F itself is a
  likelihood; shown is the return that the environment would have paid.)
* *F at the end* is that of the last x of a run, which may be a probe of a line search. *F returned*
  is that of the x which the method itself holds for its best, and which the optimizer returns;
  *best F* is the largest on the way, which only the referee can tell.
* The score of a run is (F returned - F at the start) / (best - F at the start): 0 where it began,
  1 at the best value. Each seed has a start of its own; shown is their mean. *Best* is the best
  known value of the task; where none is known or it is exceeded, the largest F of this benchmark,
  of all seeds. The largest of many estimates is somewhat too large, and as held-out episodes begin
  in other states with each seed, not every seed may reach it.
* IQM is the interquartile mean of the scores, the mean of the middle half of all runs on all tasks;
  the optimality gap is their mean shortfall from 1 (smaller is better); the profile is the share of
  runs above a score. [a, b] are 95 % intervals of the stratified bootstrap (2000 percentile
  resamples, runs drawn anew within each task). These are the statistics of rliable (Agarwal et al.,
  NeurIPS 2021). One run has no interval.
* `improvement.csv` holds, for each two methods, the probability that a run of the first scores
  above one of the second on the same task, where ties count half: the mean over the tasks that both
  ran on, with its interval.
* *Cosine* is the median, over steps and runs, of the cosine between the method's hyper-gradient and
  the exact one, where that is known. *Env steps* is what a run took from the environment in all,
  the mean over runs.
* *ms per step* is the median over runs, without the first evaluation, which may compile; *x exact*
  is its ratio to the method `exact` with the same optimizer on the same task and machine.
* A run that stopped early stays at its last value, dotted in the figures. Panels end half a climb
  below the start, curves and bands may go on below."""


@dataclass(frozen=True)
class Aggregate:
    """How a method did over the tasks it ran on.

    Attributes:
        label: The method.
        tasks: Tasks that it ran on.
        runs: Number of its runs on them.
        score: Interquartile mean of the normalised scores.
        gap: Optimality gap.
    """

    label: str
    tasks: tuple[str, ...]
    runs: int
    score: Interval
    gap: Interval


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
    """

    tasks: DataFrame
    runs: DataFrame
    cells: DataFrame
    aggregates: list[Aggregate]
    common: tuple[str, ...]
    missing: DataFrame
    dropped: int


def write_report(frame: DataFrame, folder: Path) -> Tables:
    """Write the report of a benchmark.

    Args:
        frame: A row for each step of each run, with `COLUMNS`.
        folder: Where to write `report.md`, its figures (PNG) and its tables (CSV); files of these
            names are replaced. The same table gives the same page and the same tables.

    Raises:
        ValueError: If the table lacks a column, has no row that counts, or has two for one step.
    """
    tables, notes = summarise(frame), _notes(frame)
    frame, _ = _prepare(frame)
    folder.mkdir(parents=True, exist_ok=True)
    figures = _draw(frame, tables, folder)
    for name, table in _csv_tables(tables).items():
        with replacing(folder / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(_page(frame, tables, figures, notes), encoding="utf-8")
    return tables


def summarise(frame: DataFrame) -> Tables:
    """Return what a benchmark came to.

    Args:
        frame: A row for each step of each run, with `COLUMNS`.

    Raises:
        ValueError: If the table lacks a column, has no row that counts, or has two for one step.
    """
    missing = _missing(frame)
    frame, dropped = _prepare(frame)
    starts = _starts(frame)
    tasks = _tasks(frame, starts)
    runs = _runs(frame, tasks, starts)
    scored = _scored(runs)
    by_label = [set(cell["task"]) for _, cell in scored.groupby("label")]
    common = tuple(sorted(set.intersection(*by_label))) if by_label else ()
    return Tables(tasks, runs, _cells(frame, runs), _aggregate(scored), common, missing, dropped)


def _prepare(frame: DataFrame) -> tuple[DataFrame, int]:
    """Return the rows that count, in order and with a label, and the number of the others."""
    absent = [column for column in COLUMNS if column not in frame.columns]
    if absent:
        raise ValueError(f"the table of results lacks the columns {', '.join(absent)}")
    finite = np.isfinite(frame["objective"].to_numpy(np.float64))
    kept = frame[finite].copy()
    if kept.empty:
        raise ValueError(f"no row has a finite objective, of {len(frame)}")
    several = kept["optimizer"].nunique() > 1
    kept["label"] = kept["method"] + (", " + kept["optimizer"] if several else "")
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

    climbs = frame["objective"] - frame.join(starts, on=["task", "seed"])["start"]
    rows = []
    for task, rest in frame.groupby("task"):
        # The mean of the seeds' own starts does not depend on which methods are missing.
        start = float(starts[task].mean())
        found, known = float(rest["objective"].max()), float(rest["best_known"].max())
        exceeded = found - known > EXCESS * abs(known - start)
        best = known if found <= known else found
        found_here = np.isnan(known) or exceeded
        span = best - start
        rows.append(
            {
                "task": task,
                "start": start,
                "best": best,
                "best_known": known,
                "best_found": found,
                "measured_by": "found here" if found_here else "best known",
                # What was found may be but the start of a lucky seed.
                "climb": min(span, float(climbs[rest.index].max())) if found_here else span,
                # NaN where F is exact.
                "standard_error": float(rest["objective_error"].astype(float).median()),
            }
        )
    return pd.DataFrame(rows)


def _runs(frame: DataFrame, tasks: DataFrame, starts: Series[float]) -> DataFrame:
    """Return where each run began and ended, and what it took."""
    groups = frame.groupby(["task", "label", "method", "optimizer", "seed"])
    first, last = groups.first(), groups.last()
    runs = last[["step", "objective"]].rename(columns={"step": "steps"})
    # The optimizer keeps the iterate whose value, as far as the method knows it, is the largest.
    kept = groups["estimated_objective"].agg(lambda values: values.fillna(-np.inf).idxmax())
    runs["returned_objective"] = frame["objective"].loc[kept].to_numpy()
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


def _scored(runs: DataFrame) -> DataFrame:
    """Return the runs that have a score."""
    return runs[np.isfinite(runs["score"])]


def _cells(frame: DataFrame, runs: DataFrame) -> DataFrame:
    """Return a row for each task and method, in order of what they return."""
    import pandas as pd

    cosines = frame.groupby(["task", "label"])["cosine"].median()
    rows = []
    for (task, label, method, optimizer), cell in runs.groupby(
        ["task", "label", "method", "optimizer"]
    ):
        final, returned = (
            bootstrap_interval([cell[name].to_numpy()], pooled(mean))
            for name in ("objective", "returned_objective")
        )
        rows.append(
            {
                "task": task,
                "label": label,
                "method": method,
                "optimizer": optimizer,
                "runs": len(cell),
                "steps": int(cell["steps"].max()),
                "objective": float(final.value),
                "low": float(final.low),
                "high": float(final.high),
                "returned_objective": float(returned.value),
                "returned_low": float(returned.low),
                "returned_high": float(returned.high),
                "best_objective": float(cell["best_objective"].max()),
                "median_cosine": float(cosines[task, label]),
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


def _aggregate(scored: DataFrame) -> list[Aggregate]:
    """Return each method over its tasks, the best interquartile mean first."""
    found = []
    for label, cell in scored.groupby("label"):
        strata = {str(task): rows["score"].to_numpy() for task, rows in cell.groupby("task")}
        scores = list(strata.values())
        found.append(
            Aggregate(
                str(label),
                tuple(strata),
                len(cell),
                bootstrap_interval(scores, pooled(interquartile_mean)),
                bootstrap_interval(scores, pooled(optimality_gap)),
            )
        )
    return sorted(found, key=lambda a: (-float(a.score.value), a.label))


def _missing(frame: DataFrame) -> DataFrame:
    """Return the runs that are not done, a row for each task, method and optimizer."""
    import pandas as pd

    seeds: dict[str, list[str]] = {}
    for run in frame.attrs.get("missing", ()):
        cell, _, seed = run.rpartition(", seed ")
        seeds.setdefault(cell, []).append(seed)
    return pd.DataFrame(
        [(cell, len(absent), " ".join(absent)) for cell, absent in seeds.items()],
        columns=["cell", "missing", "seeds"],
    )


def _scores(runs: DataFrame, label: str) -> dict[str, FloatArray]:
    """Return a method's scores on each task."""
    mine = _scored(runs[runs["label"] == label])
    return {str(task): rows["score"].to_numpy() for task, rows in mine.groupby("task")}


def _csv_tables(tables: Tables) -> dict[str, DataFrame]:
    """Return the tables that are written beside the page, by file name."""
    import pandas as pd

    aggregates = pd.DataFrame(
        {
            "label": a.label,
            "tasks": len(a.tasks),
            "runs": a.runs,
            "iqm": float(a.score.value),
            "iqm_low": float(a.score.low),
            "iqm_high": float(a.score.high),
            "optimality_gap": float(a.gap.value),
            "optimality_gap_low": float(a.gap.low),
            "optimality_gap_high": float(a.gap.high),
        }
        for a in tables.aggregates
    )
    profiles = [
        pd.DataFrame(
            {"label": label, "score": THRESHOLDS, "share": p.value, "low": p.low, "high": p.high}
        )
        for label, p in _profiles(tables).items()
    ]
    return {
        "tasks.csv": tables.tasks,
        "runs.csv": tables.runs,
        "final.csv": tables.cells,
        "missing.csv": tables.missing,
        "aggregate.csv": aggregates,
        "profiles.csv": pd.concat(profiles) if profiles else pd.DataFrame(),
        "improvement.csv": _improvements(tables),
    }


def _profiles(tables: Tables) -> dict[str, Interval]:
    """Return each method's performance profile, in order of the aggregates."""
    return {
        a.label: performance_profile(list(_scores(tables.runs, a.label).values()), THRESHOLDS)
        for a in tables.aggregates
    }


def _improvements(tables: Tables) -> DataFrame:
    """Return the probability that one method's run scores above another's, for all pairs."""
    import pandas as pd

    scores = {a.label: _scores(tables.runs, a.label) for a in tables.aggregates}
    rows = []
    for first, ours in scores.items():
        for second, theirs in scores.items():
            shared = [task for task in ours if task in theirs]
            if first == second or not shared:
                continue
            p = probability_of_improvement(
                [ours[task] for task in shared], [theirs[task] for task in shared]
            )
            rows.append(
                {
                    "label": first,
                    "other": second,
                    "tasks": len(shared),
                    "probability": float(p.value),
                    "low": float(p.low),
                    "high": float(p.high),
                }
            )
    return pd.DataFrame(rows)


# Figures ----------------------------------------------------------------------------------------

OBJECTIVE, ENV_STEPS, COSINE = "objective.png", "env_steps.png", "cosine.png"
PROFILES, AGGREGATE = "profiles.png", "aggregate.png"


def _draw(frame: DataFrame, tables: Tables, folder: Path) -> dict[str, str]:
    """Draw the figures; return the file of each task's own, and of each of the others that is."""
    styles = make_styles(frame["label"].unique())
    order = {a.label: place for place, a in enumerate(tables.aggregates)}
    cells: dict[str, dict[str, DataFrame]] = {}
    for (task, label), cell in sorted(
        frame.groupby(["task", "label"]), key=lambda item: (item[0][0], order.get(item[0][1], 0))
    ):
        cells.setdefault(task, {})[label] = cell
    curves: dict[str, dict[str, Curve]] = {
        task: {label: learning_curve(cell) for label, cell in by_label.items()}
        for task, by_label in cells.items()
    }
    references = {
        row.task: Reference(row.start, row.best, row.best_known, np.isnan(row.standard_error))
        for row in tables.tasks.itertuples()
    }
    figures = _task_files(curves)
    for task, by_label in curves.items():
        draw_task(task, by_label, references[task], styles, folder / figures[task])
    draw_curves(curves, references, styles, folder / OBJECTIVE, against="step")
    figures[OBJECTIVE] = OBJECTIVE
    directed = _not_empty(cells, lambda cell: bool(np.isfinite(cell["cosine"]).any()))
    if directed:
        draw_cosines(directed, styles, folder / COSINE)
        figures[COSINE] = COSINE
    sampled = _not_empty(curves, lambda curve: bool(curve.env_steps[-1] > 0.0))
    if sampled:
        draw_curves(sampled, references, styles, folder / ENV_STEPS, against="env_steps")
        figures[ENV_STEPS] = ENV_STEPS
    if tables.aggregates:
        draw_profiles(_profiles(tables), THRESHOLDS, styles, folder / PROFILES)
        draw_aggregate(
            [_covered(a, tables) for a in tables.aggregates],
            [a.score for a in tables.aggregates],
            [styles[a.label].color for a in tables.aggregates],
            folder / AGGREGATE,
        )
        figures |= {PROFILES: PROFILES, AGGREGATE: AGGREGATE}
    return figures


def _not_empty(
    cells: Mapping[str, Mapping[str, T]], wanted: Callable[[T], bool]
) -> dict[str, dict[str, T]]:
    """Return the cells that are wanted, by task, without tasks that have none."""
    kept = {
        task: {label: cell for label, cell in by_label.items() if wanted(cell)}
        for task, by_label in cells.items()
    }
    return {task: by_label for task, by_label in kept.items() if by_label}


def _task_files(tasks: Iterable[str]) -> dict[str, str]:
    """Return a file name for the figure of each task, all different."""
    names: dict[str, str] = {}
    for task in tasks:
        name = "task-" + re.sub(r"[^A-Za-z0-9.-]+", "_", task)[:80]
        while f"{name}.png" in names.values():
            name += "_"
        names[task] = f"{name}.png"
    return names


def _covered(aggregate: Aggregate, tables: Tables) -> str:
    """Return a method's name, with the number of its tasks if there are others."""
    of = _scored(tables.runs)["task"].nunique()
    return aggregate.label + (
        "" if len(aggregate.tasks) == of else f" ({len(aggregate.tasks)}/{of} tasks)"
    )


# The page ---------------------------------------------------------------------------------------


def _page(
    frame: DataFrame, tables: Tables, figures: Mapping[str, str], notes: Sequence[str]
) -> str:
    """Return the page."""
    seeds = sorted(int(seed) for seed in frame["seed"].unique())
    optimizers = sorted(frame["optimizer"].unique())
    several = len(optimizers) > 1
    parts = [
        "# Benchmark report",
        f"{_count(len(tables.runs), 'run')}: {_count(len(tables.tasks), 'task')}, "
        f"{_count(frame['method'].nunique(), 'method')}"
        f"{f' with up to {len(optimizers)} optimizers each' if several else ''}, "
        f"up to {int(frame['step'].max())} steps of the leader, seeds {_ranges(seeds)}. "
        f"Optimizer{'s' if several else ''}: {', '.join(optimizers)}.",
        "Methods: " + ", ".join(f"`{name}`" for name in sorted(frame["method"].unique())) + ".",
        _task_table(tables),
        *_held_out_parts(tables),
        *_same_parts(frame),
        "## Over all tasks",
    ]
    if tables.aggregates:
        parts += [
            _aggregate_table(tables.aggregates),
            f"![Interquartile mean of each method]({AGGREGATE})",
            f"![Share of runs above each score]({PROFILES})",
        ]
        if any(len(a.tasks) > len(tables.common) for a in tables.aggregates):
            parts += _common_parts(tables)
    else:
        parts.append("No method moved from its start on any task, so there are no scores.")
    parts += [
        "## Learning curves",
        f"![Objective against steps, all tasks]({OBJECTIVE})",
    ]
    if ENV_STEPS in figures:
        parts.append(f"![Objective against environment steps]({ENV_STEPS})")
    if COSINE in figures:
        parts.append(f"![Cosine to the exact hyper-gradient]({COSINE})")
    for row in tables.tasks.itertuples():
        parts += [
            f"## {row.task}",
            _cell_table(tables.cells[tables.cells["task"] == row.task], row.best - row.start),
            f"![Every method on {row.task}]({figures[row.task]})",
        ]
    parts += [
        "## What is missing",
        *_missing_parts(tables, notes),
        "## How to read it",
        HOW_TO_READ,
    ]
    return "\n\n".join(parts) + "\n"


def _task_table(tables: Tables) -> str:
    rows = []
    for row in tables.tasks.itertuples():
        runs = tables.runs[tables.runs["task"] == row.task]
        number = decimals(row.best - row.start)
        if row.measured_by == "best known":
            source = "best known"
        elif np.isnan(row.best_known):
            source = "largest here, none known"
        else:
            source = f"largest here, above the best known {number(row.best_known)}"
        rows.append(
            (
                row.task,
                number(row.start),
                number(row.best),
                source,
                str(runs["label"].nunique()),
                str(len(runs)),
            )
        )
    return markdown(("task", "F at the start", "best", "which is", "methods", "runs"), rows)


def _held_out_parts(tables: Tables) -> list[str]:
    """Return which tasks are measured by held-out episodes, and how well."""
    measured = tables.tasks[tables.tasks["standard_error"].notna()]
    if measured.empty:
        return []
    names = ", ".join(
        f"{_escaped(row.task)} (median standard error {row.standard_error:.2g})"
        for row in measured.itertuples()
    )
    return [
        f"Not exact, but measured in {HELD_OUT_EPISODES} held-out episodes at each step: {names}. "
        "Intervals over seeds contain this error; there are no cosines.",
        *(f"{_escaped(where)}: {WITHIN}: its scores say nothing." for where in _lost(tables, True)),
    ]


def _lost(tables: Tables, held_out: bool) -> list[str]:
    """Return tasks, or their seeds, without scores: those of held-out episodes, or the others."""
    lost = []
    for row in tables.tasks.itertuples():
        runs = tables.runs[tables.runs["task"] == row.task]
        seeds = sorted(int(seed) for seed in runs[runs["score"].isna()]["seed"].unique())
        if not seeds or np.isfinite(row.standard_error) != held_out:
            continue
        whole = len(seeds) == runs["seed"].nunique()
        lost.append(row.task if whole else f"{row.task}, {_seeds(seeds)}")
    return lost


def _same_parts(frame: DataFrame) -> list[str]:
    """Return which methods are one on a task: those whose runs are the same, step by step."""
    parts = []
    for task, rest in frame.groupby("task"):
        runs = {
            str(label): cell.set_index(["seed", "step"])["objective"]
            for label, cell in rest.groupby("label")
            if cell["step"].nunique() > 1  # all start alike
        }
        alike: list[list[str]] = []
        for label, run in runs.items():
            for names in alike:
                other = runs[names[0]]
                if run.index.equals(other.index) and np.allclose(run, other, rtol=SAME, atol=0.0):
                    names.append(label)
                    break
            else:
                alike.append([label])
        parts += [
            f"On {_escaped(str(task))} the runs of {_listed(names)} are the same."
            for names in alike
            if len(names) > 1
        ]
    return parts


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def aggregate_rows(aggregates: Iterable[Aggregate]) -> list[tuple[str, ...]]:
    """Return name, tasks, runs, interquartile mean and optimality gap of each method, as text."""
    number = decimals(10.0)
    return [
        (
            a.label,
            str(len(a.tasks)),
            str(a.runs),
            _between(a.score, number),
            _between(a.gap, number),
        )
        for a in aggregates
    ]


def _aggregate_table(aggregates: Iterable[Aggregate]) -> str:
    return markdown(AGGREGATE_HEAD, aggregate_rows(aggregates))


def _common_parts(tables: Tables) -> list[str]:
    """Return the comparison on the tasks that all methods ran on, for not all ran on all."""
    if not tables.common:
        return ["Not all methods ran on all tasks, and there is no task that all ran on."]
    shared = _scored(tables.runs[tables.runs["task"].isin(tables.common)])
    return [
        "Not all methods ran on all tasks, so the rows above are not of the same tasks. On those "
        f"that all ran on ({', '.join(tables.common)}):",
        _aggregate_table(_aggregate(shared)),
    ]


def _cell_table(cells: DataFrame, span: float) -> str:
    number = decimals(span)
    rows = []
    for cell in cells.itertuples():
        final = Interval(*(np.asarray(v) for v in (cell.objective, cell.low, cell.high)))
        rows.append(
            (
                cell.label,
                _between(final, number),
                number(cell.returned_objective),
                number(cell.best_objective),
                "" if np.isnan(cell.median_cosine) else f"{cell.median_cosine:.2f}",
                f"{cell.env_steps:,.0f}" if cell.env_steps else "",
                _three_digits(1e3 * cell.seconds_per_step),
                "" if np.isnan(cell.times_exact) else _three_digits(cell.times_exact),
                str(cell.runs),
            )
        )
    head = ("method", "F at the end", "F returned", "best F", "cosine", "env steps", "ms per step")
    return markdown((*head, "x exact", "runs"), rows)


def _notes(frame: DataFrame) -> list[str]:
    """Return what the table of results says of runs that are not in it."""
    kinds = {
        "left_out": "Not run, the method does not suit the task: ",
        "damaged": "Damaged file: ",
        "others": "Not of this benchmark, ignored: ",
    }
    return [start + text for kind, start in kinds.items() for text in frame.attrs.get(kind, ())]


def _missing_parts(tables: Tables, notes: Sequence[str]) -> list[str]:
    notes = list(notes)
    if tables.dropped:
        notes.append(
            f"{_count(tables.dropped, 'row')} without a finite objective; they count nowhere"
        )
    for held_out, reason in ((False, "nothing above its start"), (True, WITHIN)):
        notes += [f"{w}: {reason}, so it gives no scores" for w in _lost(tables, held_out)]
    parts = []
    if len(tables.missing):
        rows = [(row.cell, str(row.missing), row.seeds) for row in tables.missing.itertuples()]
        parts.append(markdown(("not done (or failed)", "runs", "seeds"), rows, right=(1,)))
    if notes:
        parts.append("\n".join(f"* {_escaped(note)}" for note in notes))
    return parts or ["Nothing."]


def markdown(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] | None = None
) -> str:
    """Return a Markdown table; all columns but the first are aligned right, or those given."""
    right = range(1, len(head)) if right is None else right
    rule = ["--:" if k in right else "---" for k in range(len(head))]
    return "\n".join(
        f"| {' | '.join(_escaped(text) for text in row)} |" for row in (head, rule, *rows)
    )


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _between(interval: Interval, number: Callable[[float], str]) -> str:
    """Return a value and its interval, the value alone if the interval has no width."""
    value, low, high = (float(v) for v in (interval.value, interval.low, interval.high))
    if number(low) == number(high):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'' if len(numbers) == 1 else 's'} {_ranges(numbers)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending integers, consecutive ones as a range."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
