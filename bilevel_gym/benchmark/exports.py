"""Results in the formats of other tools.

marl-eval is the tool of R. Gorsane, O. Mahjoub, R. de Kock, R. Dubb, S. Singh, A. Pretorius,
"Towards a standardised performance evaluation protocol for cooperative MARL", NeurIPS 2022. Its
format is described in its README, "Data Structure for Raw Experiment data"
(https://github.com/instadeepai/marl-eval), and by its `JsonLogger`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .tables import prepared, returned_rows

if TYPE_CHECKING:
    from pandas import DataFrame

# What a file in marl-eval's format calls the environment of all tasks.
ENVIRONMENT = "bilevel_gym"


def marl_eval(frame: DataFrame) -> tuple[dict[str, Any], list[str]]:
    """Return results as marl-eval reads them, and what had to be left out, in words.

    The file is environment -> task -> algorithm -> "seed_N" -> "step_K" -> metrics, lists of one
    number, beside `step_count`, the leader's steps. `absolute_metrics` are those of the x returned,
    the best one as far as the method knows. Metrics are `objective`, `env_steps` and, where every
    task has an exact answer, `stationarity`: the squared norm of the projected hyper-gradient.

    marl-eval takes only tables without gaps, so that algorithms which did not run on every task are
    left out, and then seeds that some run lacks. A run that ended early is held at its last x until
    the longest run ends.

    Args:
        frame: A row for each step of each run, as `load_results` returns them.

    Raises:
        ValueError: If nothing is left, two names differ in nothing but upper and lower case, which
            marl-eval does not tell apart, or the table is none of results.
    """
    rows, _ = prepared(frame)
    # A comma would part two names of marl-eval's.
    rows["label"] = rows["label"].str.replace(",", ";")
    for kind in ("task", "label"):
        _check_distinct(kind, rows[kind].unique())
    rows, left_out = _without_gaps(rows)
    metrics = ["objective", "env_steps"]
    if np.isfinite(rows["stationarity"]).all():
        metrics.append("stationarity")
    last = int(rows["step"].max())
    runs = rows.groupby(["task", "label", "seed"])
    best = returned_rows(runs)
    tree: dict[str, Any] = {}
    for (task, label, seed), run in runs:
        held = run.set_index("step")[metrics].reindex(range(last + 1)).ffill().bfill()
        steps: dict[str, Any] = {
            f"step_{step}": {"step_count": step, **_lists(row)}
            for step, row in enumerate(held.to_dict("records"))
        }
        steps["absolute_metrics"] = _lists(rows.loc[best[task, label, seed], metrics].to_dict())
        tree.setdefault(task, {}).setdefault(label, {})[f"seed_{seed}"] = steps
    return {ENVIRONMENT: tree}, left_out


# Formats by name: from the table of results to what is written as JSON, and what is left out.
FORMATS: dict[str, Callable[[DataFrame], tuple[dict[str, Any], list[str]]]] = {
    "marl-eval": marl_eval
}


def _lists(metrics: dict[str, Any]) -> dict[str, list[float]]:
    """Return metrics as marl-eval has them: an entry for each evaluation, here one."""
    return {name: [float(value)] for name, value in metrics.items()}


def _check_distinct(kind: str, names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(
                f"marl-eval does not tell upper from lower case, got the {kind}s {other!r} and "
                f"{name!r}; rename one in benchmark.toml"
            )


def _without_gaps(rows: DataFrame) -> tuple[DataFrame, list[str]]:
    """Return the rows of methods and seeds that every task has, and what is left out."""
    tasks = rows["task"].nunique()
    of_label = rows.groupby("label")["task"].nunique()
    partial = sorted(of_label.index[of_label < tasks])
    rows = rows[~rows["label"].isin(partial)]
    runs = rows[["task", "label", "seed"]].drop_duplicates()
    of_seed = runs.groupby("seed").size()
    incomplete = sorted(of_seed.index[of_seed < tasks * rows["label"].nunique()])
    left_out = [f"{label}: it has no run on some task" for label in partial]
    left_out += [f"seed {seed}: a run of it is missing" for seed in incomplete]
    rows = rows[~rows["seed"].isin(incomplete)]
    if rows.empty:
        raise ValueError(f"nothing has run on every task alike ({'; '.join(left_out)})")
    return rows, left_out
