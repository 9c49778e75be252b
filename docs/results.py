"""Raw results of benchmarks, kept in `docs/results`: `python -m docs.results RUN` replaces them.

RUN is the folder of a `bilevel-gym benchmark` that has run to its end. What is kept of it needs no
pickle and no package of ours to be read:

* `benchmark.toml`: what was run;
* `runs.csv.xz`: a row for each x of each run, in so many digits as `DIGITS` says;
* `marl-eval.json.xz`: the same for marl-eval, as `bilevel-gym export` writes it;
* `manifest.json`: versions, seeds, best known values, and the SHA-256 of the other files.

The table of methods in `docs/pages/which-method.md` is made from the results called `default`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import re
import shutil
import sys
import tomllib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel_gym.benchmark import load_results
from bilevel_gym.benchmark.exports import marl_eval
from bilevel_gym.benchmark.report import (
    AGGREGATE_HEAD,
    aggregate_rows,
    cell_table,
    how_to_read,
    markdown,
)
from bilevel_gym.benchmark.results import BENCHMARK, KEY, RUNS
from bilevel_gym.benchmark.statistics import bootstrap_interval, mean, pooled
from bilevel_gym.benchmark.tables import Tables, scored, summarise
from bilevel_gym.methods.table import ROWS

from .markdown import table

if TYPE_CHECKING:
    from pandas import DataFrame

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MANIFEST, ROWS_FILE, MARL_EVAL = "manifest.json", "runs.csv.xz", "marl-eval.json.xz"

# Significant digits of the columns that are kept, 0 for integers and texts.
DIGITS = {
    **dict.fromkeys(("task", "method", "optimizer", "seed", "step", "env_steps"), 0),
    "wall_time": 4,
    **dict.fromkeys(("estimated_objective", "objective"), 6),
    **dict.fromkeys(("objective_error", "gradient_norm", "relative_error"), 3),
    **dict.fromkeys(("projected_gradient_norm", "cosine"), 4),
}

# The page with the table of methods, and where in it.
PAGE = HERE / "pages" / "which-method.md"
TABLE = re.compile(r"(?<=<!-- python -m docs.results -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)
# A task of which more is told, and F that its good optimum reaches.
TASK, REACHED = "BilevelGridWorld-v0", 0.45

HEAD = """# Results

Raw results of benchmarks, to be compared with and to be drawn anew. `runs.csv.xz` is a table with a
row for each x of each run (`pandas.read_csv` reads it as it is), `marl-eval.json.xz` the same for
[marl-eval](https://github.com/instadeepai/marl-eval), `manifest.json` holds versions, seeds and the
SHA-256 of the files. `bilevel-gym benchmark benchmark.toml --out RUN` makes such runs, and
`python -m docs.results RUN` replaces these. [Benchmarks](benchmarks.md) says what is measured and
how, [Which method](which-method.md) what follows from it.
"""

TAIL = "## How to read the tables\n\n{}"


# Writing -----------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Keep the results of a run, and bring the table of methods up to date."""
    parser = argparse.ArgumentParser(prog="python -m docs.results", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a benchmark, complete")
    parser.add_argument("--name", default="default", help="what the results are called")
    parser.add_argument("--commit", help="commit of the code that ran, if it is known")
    given = parser.parse_args(arguments)
    folder = keep(given.run, RESULTS / given.name, given.commit)
    if given.name == "default":
        text, found = TABLE.subn(lambda _: method_table(), PAGE.read_text(encoding="utf-8"))
        assert found == 1, f"{PAGE} has no place for the table"
        PAGE.write_text(text, encoding="utf-8")
    print(f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB in {folder}")
    return 0


def keep(run: Path, folder: Path, commit: str | None = None) -> Path:
    """Write what is kept of a run into a folder, which is emptied first; return the folder.

    Raises:
        ValueError: If runs are missing or damaged.
    """
    frame = load_results(run)
    given = tomllib.loads((run / BENCHMARK).read_text(encoding="utf-8"))
    if lacking := frame.attrs["missing"]:
        raise ValueError(f"{len(lacking)} of the runs not done: {'; '.join(lacking[:3])}")
    best_known = frame.groupby("task")["best_known"].first().dropna().to_dict()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(run / BENCHMARK, folder / BENCHMARK)
    rows = frame[[*DIGITS]].copy()
    for column, digits in DIGITS.items():
        if digits:
            rows[column] = [shortened(value, digits) for value in rows[column]]
    _compress(folder / ROWS_FILE, rows.to_csv(index=False, lineterminator="\n"))
    content, _ = marl_eval(_read(folder / ROWS_FILE, best_known))
    _compress(folder / MARL_EVAL, json.dumps(_rounded(content), separators=(",", ":")))
    about = {
        **_versions(run),
        "commit": commit,
        "runs": len(frame[["task", "method", "optimizer", "seed"]].drop_duplicates()),
        "seeds": sorted(map(int, frame["seed"].unique())),
        "tasks": [*frame["task"].unique()],
        "methods": {of.get("label", of["name"]): of["name"] for of in given["methods"]},
        "best_known": best_known,
        "digits": {column: digits for column, digits in DIGITS.items() if digits},
        "sha256": {path.name: digest(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folder


def shortened(value: float, digits: int) -> str:
    """Return a number in so many significant digits, nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.{digits}g}"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _versions(run: Path) -> dict[str, Any]:
    """Return the versions that runs were made with, and the day on which the last one ended."""
    import pyarrow.parquet as pq

    files = sorted((run / RUNS).glob("*.parquet"))
    held = [json.loads(pq.read_schema(path).metadata[KEY])["versions"] for path in files]
    day = datetime.fromtimestamp(max(path.stat().st_mtime for path in files), UTC)
    several = [dict(texts) for texts in sorted({tuple(sorted(of.items())) for of in held})]
    return {"finished": f"{day:%Y-%m-%d}", "versions": several}


def _rounded(tree: Any) -> Any:
    """Return marl-eval's tree with numbers in as many digits as the rows have."""
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [float(f"{value:.6g}") for value in tree]
    return tree


def _compress(path: Path, text: str) -> None:
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


# Reading -----------------------------------------------------------------------------------------


def names() -> list[str]:
    """Return what results there are."""
    return sorted(path.parent.name for path in RESULTS.glob(f"*/{MANIFEST}"))


def manifest(name: str = "default") -> dict[str, Any]:
    """Return the manifest of results."""
    found: dict[str, Any] = json.loads((RESULTS / name / MANIFEST).read_text(encoding="utf-8"))
    return found


def damaged(name: str) -> list[str]:
    """Return the files of results that are not what the manifest says."""
    folder, said = RESULTS / name, manifest(name)["sha256"]
    there = {path.name: digest(path) for path in folder.iterdir() if path.name != MANIFEST}
    return sorted({file for file, _ in there.items() ^ said.items()})


@cache
def tables(name: str = "default") -> Tables:
    """Return what results come to."""
    return summarise(_read(RESULTS / name / ROWS_FILE, manifest(name)["best_known"]))


def _read(path: Path, best_known: dict[str, float]) -> DataFrame:
    """Return the rows of a file, with the best known value of each task."""
    import pandas as pd

    rows = pd.read_csv(io.BytesIO(path.read_bytes()), compression="xz")
    return rows.assign(best_known=rows["task"].map(best_known))


# The table of methods and the page of results ----------------------------------------------------


def method_table() -> str:
    """Return the table of methods, from the results called `default`, in the order of its file."""
    found, by_name = tables(), {row.name: row for row in ROWS}
    counted = scored(found.runs)
    order = {name: number for number, name in enumerate(by_name)}
    rows = []
    methods = manifest()["methods"]
    named = (
        found.cells[["label", "method"]]
        .drop_duplicates()
        .assign(name=lambda cells: cells["method"].map(methods))
    )
    named = named.assign(
        order=named["name"].map(order), given=named["method"].map([*methods].index)
    )
    for label, name in named.sort_values(["order", "given", "label"])[["label", "name"]].to_numpy():
        own = counted[counted["label"] == label]
        strata = [scores.to_numpy() for _, scores in own.groupby("task")["score"]]
        score = bootstrap_interval(strata, pooled(mean))
        here = found.runs.query("label == @label and task == @TASK")
        cell = found.cells.query("label == @label and task == @TASK").iloc[0]
        steps = cell["env_steps"] / (cell["steps"] + 1)
        good = int((here["returned_objective"] > REACHED).sum())
        rows.append(
            (
                f"`{name}`{label.removeprefix(name)}",
                by_name[name].source,
                by_name[name].sees.removeprefix("the "),
                f"{_decimal(score.value)} [{_decimal(score.low)}, {_decimal(score.high)}]",
                f"{good} of {len(here)}" if good else "none",
                _decimal(cell["median_cosine"], 2),
                f"{1e-3 * steps:.0f} thousand" if steps else "",
            )
        )
    head = ("mean score, four tasks", "GridWorld: seeds at .46", "cosine", "steps for each x")
    return table(("method", "source", "sees", *head), rows)


def _decimal(value: Any, digits: int = 3) -> str:
    """Return a number without the zero before its point."""
    return f"{float(value):.{digits}f}".replace("0.", ".", 1)


def pages() -> dict[str, str]:
    """Return the page of results, by path."""
    return {
        "results.md": "\n\n".join([HEAD, *map(part, names()), TAIL.format(how_to_read())]) + "\n"
    }


def part(name: str) -> str:
    """Return the part of the page on one benchmark."""
    about, found = manifest(name), tables(name)
    versions = "; ".join(
        ", ".join(f"{library} {version}" for library, version in of.items())
        for of in about["versions"]
    )
    files = [
        (f"{{download}}`{file} <results/{name}/{file}>`", f"`{said}`")
        for file, said in {**about["sha256"], MANIFEST: digest(RESULTS / name / MANIFEST)}.items()
    ]
    parts = [
        f"## Benchmark: {name}",
        f"{about['runs']} runs: {len(about['tasks'])} tasks, {len(about['methods'])} methods, "
        f"seeds {', '.join(map(str, about['seeds']))}. Finished {about['finished']}, with "
        f"{versions}.",
        table(("file", "SHA-256"), files),
        "### Over all tasks",
        markdown(AGGREGATE_HEAD, aggregate_rows(found.aggregates)),
    ]
    for task in found.tasks.itertuples():
        cells = found.cells[found.cells["task"] == task.task]
        parts += [f"### {task.task}", cell_table(cells, task.best - task.start)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
