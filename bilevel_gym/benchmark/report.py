"""The report of a benchmark: figures, tables and one Markdown page that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..core.files import replacing
from . import charts
from .runs import HELD_OUT_EPISODES
from .tables import THRESHOLDS, Aggregate, Tables, aggregated, as_files, scored, summarise

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")


PAGE = "report.md"
WITHIN = "best - start is within two standard errors"
AGGREGATE_HEAD = ("method", "tasks", "runs", "IQM of scores", "optimality gap")
# Runs whose objectives agree to this, relative to their size, are the same.
SAME = 1e-9


def write_report(frame: DataFrame, folder: Path) -> Tables:
    """Write the report of a benchmark.

    Args:
        frame: A row for each step of each run, with `COLUMNS`.
        folder: Where to write `report.md`, its figures (PNG) and its tables (CSV); files of these
            names are replaced. The same table gives the same page and the same tables.

    Raises:
        ValueError: If the table lacks a column, has no row that counts, or has two for one step.
    """
    tables = summarise(frame)
    folder.mkdir(parents=True, exist_ok=True)
    figures = _draw(tables.rows, tables, folder)
    for name, table in as_files(tables).items():
        with replacing(folder / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(_page(tables.rows, tables, figures), encoding="utf-8")
    return tables


# Figures ----------------------------------------------------------------------------------------

OBJECTIVE, ENV_STEPS, COSINE = "objective.png", "env_steps.png", "cosine.png"
STATIONARITY = "stationarity.png"
PROFILES, AGGREGATE = "profiles.png", "aggregate.png"


def _draw(frame: DataFrame, tables: Tables, folder: Path) -> dict[str, str]:
    """Draw the figures; return the file of each task's own, and of each of the others that is."""
    styles = charts.make_styles(frame["label"].unique())
    order = {a.label: place for place, a in enumerate(tables.aggregates)}
    cells = {cell: rows for cell, rows in frame.groupby(["task", "label"])}
    ranked = sorted(cells, key=lambda cell: (cell[0], order.get(cell[1], 0)))
    curves = {cell: charts.learning_curve(cells[cell]) for cell in ranked}
    by_task = _by_task(curves)
    figures = _task_files(by_task)
    for task in tables.tasks.itertuples():
        charts.draw_task(task, by_task[task.task], styles, folder / figures[task.task])
    charts.draw_objectives(tables.tasks, by_task, styles, folder / OBJECTIVE, against="step")
    figures[OBJECTIVE] = OBJECTIVE
    measured = {c: cells[c] for c in ranked if (cells[c]["stationarity"] > 0.0).any()}
    if measured:
        charts.draw_stationarity(_by_task(measured), styles, folder / STATIONARITY)
        figures[STATIONARITY] = STATIONARITY
    directed = {c: cells[c] for c in ranked if np.isfinite(cells[c]["cosine"]).any()}
    if directed:
        charts.draw_cosines(_by_task(directed), styles, folder / COSINE)
        figures[COSINE] = COSINE
    sampled = _by_task({c: curve for c, curve in curves.items() if curve.env_steps[-1] > 0.0})
    if sampled:
        charts.draw_objectives(
            tables.tasks, sampled, styles, folder / ENV_STEPS, against="env_steps"
        )
        figures[ENV_STEPS] = ENV_STEPS
    if tables.aggregates:
        profiles = {a.label: a.profile for a in tables.aggregates}
        charts.draw_profiles(profiles, THRESHOLDS, styles, folder / PROFILES)
        of = scored(tables.runs)["task"].nunique()
        few = {
            a.label: f" ({len(a.tasks)}/{of} tasks)" for a in tables.aggregates if len(a.tasks) < of
        }
        charts.draw_aggregate(
            [a.label + few.get(a.label, "") for a in tables.aggregates],
            [a.score for a in tables.aggregates],
            [styles[a.label]["color"] for a in tables.aggregates],
            folder / AGGREGATE,
        )
        figures |= {PROFILES: PROFILES, AGGREGATE: AGGREGATE}
    return figures


def _by_task(cells: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    """Return what is known of cells of task and method, by task and then by method."""
    nested: dict[str, dict[str, T]] = {}
    for (task, label), cell in cells.items():
        nested.setdefault(task, {})[label] = cell
    return nested


def _task_files(tasks: Iterable[str]) -> dict[str, str]:
    """Return a file name for the figure of each task, all different."""
    names: dict[str, str] = {}
    for task in tasks:
        name = "task-" + re.sub(r"[^A-Za-z0-9.-]+", "_", task)[:80]
        while f"{name}.png" in names.values():
            name += "_"
        names[task] = f"{name}.png"
    return names


# The page ---------------------------------------------------------------------------------------


def _page(frame: DataFrame, tables: Tables, figures: Mapping[str, str]) -> str:
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
            markdown(AGGREGATE_HEAD, aggregate_rows(tables.aggregates)),
            f"![Interquartile mean of each method]({AGGREGATE})",
            f"![Share of runs above each score]({PROFILES})",
        ]
        if any(len(a.tasks) > len(tables.common) for a in tables.aggregates):
            parts += _common_parts(tables)
    else:
        parts.append("No method moved from its start on any task, so there are no scores.")
    parts += ["## Learning curves", f"![Objective against steps, all tasks]({OBJECTIVE})"]
    if ENV_STEPS in figures:
        parts.append(f"![Objective against environment steps]({ENV_STEPS})")
    if STATIONARITY in figures:
        parts.append(f"![Squared norm of the projected hyper-gradient]({STATIONARITY})")
    if COSINE in figures:
        parts.append(f"![Cosine to the exact hyper-gradient]({COSINE})")
    for row in tables.tasks.itertuples():
        parts += [
            f"## {row.task}",
            cell_table(tables.cells[tables.cells["task"] == row.task], row.best - row.start),
            f"![Every method on {row.task}]({figures[row.task]})",
        ]
    parts += [
        "## What is missing",
        *_missing_parts(tables),
        "## How to read it",
        how_to_read(),
    ]
    return "\n\n".join(parts) + "\n"


def how_to_read() -> str:
    """Return what the columns and figures of a report mean."""
    text = files(__package__).joinpath("how_to_read.md").read_text("utf-8")
    return text.format(episodes=HELD_OUT_EPISODES).strip()


def _task_table(tables: Tables) -> str:
    rows = []
    for row in tables.tasks.itertuples():
        runs = tables.runs[tables.runs["task"] == row.task]
        number = charts.decimals(row.best - row.start)
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
        whole, named = len(seeds) == runs["seed"].nunique(), "seed" if len(seeds) == 1 else "seeds"
        lost.append(row.task if whole else f"{row.task}, {named} {_ranges(seeds)}")
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
            f"On {_escaped(str(task))} the runs of `{'`, `'.join(names[:-1])}` and `{names[-1]}` "
            "are the same."
            for names in alike
            if len(names) > 1
        ]
    return parts


def aggregate_rows(aggregates: Iterable[Aggregate]) -> list[tuple[str, ...]]:
    """Return name, tasks, runs, interquartile mean and optimality gap of each method, as text."""
    rows = []
    for a in aggregates:
        texts = (
            _between(charts.decimals(10.0), float(i.value), float(i.low), float(i.high))
            for i in (a.score, a.gap)
        )
        rows.append((a.label, str(len(a.tasks)), str(a.runs), *texts))
    return rows


def _common_parts(tables: Tables) -> list[str]:
    """Return the comparison on the tasks that all methods ran on, for not all ran on all."""
    if not tables.common:
        return ["Not all methods ran on all tasks, and there is no task that all ran on."]
    shared = scored(tables.runs[tables.runs["task"].isin(tables.common)])
    return [
        "Not all methods ran on all tasks, so the rows above are not of the same tasks. On those "
        f"that all ran on ({', '.join(tables.common)}):",
        markdown(AGGREGATE_HEAD, aggregate_rows(aggregated(shared))),
    ]


def cell_table(cells: DataFrame, span: float) -> str:
    """Return what each method did on a task, whose objectives span so much, as a table."""
    number = charts.decimals(span)
    rows = []
    for cell in cells.itertuples():
        rows.append(
            (
                cell.label,
                _between(number, cell.objective, cell.low, cell.high),
                number(cell.returned_objective),
                number(cell.best_objective),
                _known(cell.returned_stationarity, ".1e"),
                _known(cell.median_cosine, ".2f"),
                f"{cell.env_steps:,.0f}" if cell.env_steps else "",
                _three_digits(1e3 * cell.seconds_per_step),
                "" if np.isnan(cell.times_exact) else _three_digits(cell.times_exact),
                str(cell.runs),
            )
        )
    head = ("method", "F at the end", "F returned", "best F", "stationarity", "cosine", "env steps")
    return markdown((*head, "ms per step", "x exact", "runs"), rows)


def _missing_parts(tables: Tables) -> list[str]:
    """Return what the table of results says of runs and rows that do not count."""
    kinds = {
        "left_out": "Not run, the method does not suit the task: ",
        "damaged": "Damaged file: ",
        "others": "Not of this benchmark, ignored: ",
    }
    about = tables.rows.attrs
    notes = [start + text for kind, start in kinds.items() for text in about.get(kind, ())]
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


def _between(number: Callable[[float], str], value: float, low: float, high: float) -> str:
    """Return a value and its interval, the value alone if the interval has no width."""
    if number(low) == number(high):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _known(value: float, form: str) -> str:
    """Return a number as text, nothing for NaN."""
    return "" if np.isnan(value) else f"{value:{form}}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending integers, consecutive ones as a range."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
