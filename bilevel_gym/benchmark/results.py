"""Results of runs: one Parquet file for each, and the table of them all.

A file counts only if it is whole, of the present columns, and of the very run that is asked for:
pages carry checksums, and the metadata holds the run with a digest of everything that is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import check_regular, loaded_versions, replacing
from .config import Entry, Held, read_text, recalled_benchmark
from .errors import ConfigError, require_extra
from .runs import Row, Run, RunOutcome

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


# Files and folders of a benchmark's folder.
BENCHMARK, CHECKED, RUNS = "benchmark.toml", "checked.json", "runs"

# Columns of a file and their types, as Python writes them.
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("task", "method", "optimizer"), "str"),
    "seed": "int",
    **{field.name: field.type for field in fields(Row)},
}
# Files of before may lack these: null.
LATER = {"objective_error"}
KEY = b"bilevel_gym"
# Numbers of a run depend on their versions.
LIBRARIES = ("bilevel_gym", "numpy", "scipy", "torch", "stable_baselines3")


class DamagedFileError(ValueError):
    """A result file that cannot be trusted, and why."""


def path_of(folder: Path, run: Run) -> Path:
    """Return where the result of a run is kept."""
    return folder / RUNS / f"{run.name}.parquet"


def write_run(folder: Path, entry: Entry, outcome: RunOutcome) -> Path:
    """Write the rows of a run, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = {**entry.labels, "seed": entry.run.seed}
    rows = [{**labels, **asdict(row)} for row in outcome.rows]
    versions = loaded_versions(*LIBRARIES)
    run, known = entry.run.canonical, outcome.best_known
    about = {"run": run, "best_known": known, "versions": versions}
    table = pa.Table.from_pylist(rows, schema=_schema())
    held = {**about, "digest": _digest(rows, about)}
    table = table.replace_schema_metadata({KEY: json.dumps(held).encode()})
    path = path_of(folder, entry.run)
    with replacing(path) as part:
        pq.write_table(table, part, write_page_checksum=True)
    return path


# Bytes of a file that is read as a whole.
MOST = 1 << 26

# What is raised where a file holds something else than expected.
BROKEN = ValueError, LookupError, TypeError, MemoryError, RecursionError


def read_run(folder: Path, run: Run) -> tuple[pa.Table, float | None] | None:
    """Return the rows of a run and the best value known of its task, None if there is no file.

    A file that is not what `write_run` has written for this run is a `DamagedFileError`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path_of(folder, run)
    if not path.exists():
        return None
    try:
        check_regular(path)
        with path.open("rb") as file:
            # Before any of them is in memory.
            if (length := pq.read_metadata(file).num_rows) > run.steps + 1:
                raise DamagedFileError(f"{length} rows, and the run has {run.steps} steps")
            file.seek(0)
            table = pq.read_table(file, page_checksum_verification=True)
        schema = table.schema
        # What may be null is no matter: it was less, once.
        kinds = {field.name: field.type for field in schema}
        wanted = {field.name: field.type for field in _schema()}
        if not {name for name, _ in kinds.items() ^ wanted.items()} <= LATER - {*kinds}:
            raise DamagedFileError(f"other columns than {', '.join(COLUMNS)}")
        held = json.loads((schema.metadata or {})[KEY])
        about = {name: held[name] for name in ("run", "best_known", "versions")}
        rows, digest = table.to_pylist(), held["digest"]
    except DamagedFileError:
        raise
    except (OSError, pa.ArrowException, *BROKEN) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedFileError(f"it cannot be read ({reason})") from None
    if digest != _digest(rows, about):
        raise DamagedFileError("its numbers are not those that were written")
    if about["run"] != run.canonical:
        raise DamagedFileError("it is the result of another run")
    return table, about["best_known"]


def set_aside(path: Path) -> Path:
    """Rename a damaged file to the first free name, `NAME.damaged-1` and so on."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


def other_files(folder: Path, entries: Iterable[Entry]) -> list[Path]:
    """Return the result files in a folder that belong to none of some runs."""
    own = {path_of(folder, entry.run) for entry in entries}
    found = sorted((folder / RUNS).glob("*.parquet"))
    # Hidden ones are what a killed process has left half written.
    return [path for path in found if path not in own and not path.name.startswith(".")]


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return the results of the runs of a folder's benchmark, one row for each (run, step).

    Columns: task, method, optimizer (labels), seed, step, env_steps, wall_time,
    estimated_objective, objective, objective_error, gradient_norm, projected_gradient_norm, cosine,
    relative_error (see `bilevel_gym.benchmark.runs.Row`; null is NaN) and best_known (NaN where
    none is known). Labels are those of the folder's `benchmark.toml` as it is now. Nothing is
    imported or made that the folder names.

    `attrs` of the frame holds, as lists of names, `missing` (runs of the file that are not done),
    `damaged` (of these, the files that cannot be trusted, with the reason), `others` (result files
    of runs that the file does not have) and `left_out` (cells whose method does not suit the task).

    Raises:
        ImportError: If pyarrow or pandas is not installed.
        FileNotFoundError: If the folder holds no `benchmark.toml`.
        ConfigError: If that file is broken.
    """
    require_extra()
    import pandas as pd

    folder = Path(folder)
    benchmark = recalled_benchmark(_text(folder / BENCHMARK), _held(folder), BENCHMARK)
    missing: list[str] = []
    damaged: list[str] = []
    frames: list[pd.DataFrame] = []
    columns = [*COLUMNS, "best_known"]
    for entry in benchmark.entries:
        try:
            found = read_run(folder, entry.run)
        except DamagedFileError as error:
            damaged.append(f"{path_of(folder, entry.run).name}: {error}")
            found = None
        if found is None:
            missing.append(str(entry))
            continue
        table, best_known = found
        known = float("nan") if best_known is None else best_known
        rows = table.to_pandas().assign(**entry.labels, best_known=known)
        frames.append(rows.reindex(columns=columns))
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    frame.attrs = {
        "missing": missing,
        "damaged": damaged,
        "others": [path.name for path in other_files(folder, benchmark.entries)],
        "left_out": [str(cell) for cell in benchmark.left_out],
    }
    return frame


def _text(path: Path) -> str:
    """Return the text of a file in a folder of results; a `ConfigError` if it is no text."""
    try:
        check_regular(path, MOST)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return read_text(path)


def _held(folder: Path) -> Held:
    """Return what the check of a folder's benchmark has found out; nothing, if it is not there."""
    found: Any = None
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(_text(folder / CHECKED))
    parts = found if isinstance(found, dict) else {}
    targets, left_out = (parts.get(name) for name in ("targets", "left_out"))
    return {
        "targets": targets if isinstance(targets, dict) else {},
        "left_out": left_out if isinstance(left_out, dict) else {},
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    columns = ((name, *kind.partition(" | None")[:2]) for name, kind in COLUMNS.items())
    return pa.schema([pa.field(name, types[kind], nullable=bool(o)) for name, kind, o in columns])


def _digest(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return a digest of everything that is read from a file; floats are written exactly."""
    return hashlib.sha256(json.dumps([rows, about], sort_keys=True).encode()).hexdigest()
