"""Many runs: which are to be done, and doing them on many processes or on a cluster.

Workers compute; the process that started them alone writes. So a cluster needs no common disk, and
workers that outlive a killed benchmark cannot come between it and the next one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..core.files import replacing
from ..core.progress import Paced, Progress
from .config import Benchmark, Entry
from .errors import require_extra
from .results import (
    BENCHMARK,
    CHECKED,
    RUNS,
    DamagedFileError,
    other_files,
    path_of,
    read_run,
    set_aside,
    write_run,
)
from .runs import Run, RunOutcome, perform

if TYPE_CHECKING:
    from .schema import Engine


# Seconds from one reading of the notes of workers to the next, and from one note to the next; runs
# that are named at a time.
READ_EVERY, NOTED_EVERY, NAMED = 1.0, 1.0, 2


class EngineError(RuntimeError):
    """Why an engine has stopped, in one line; what is done is kept."""


@dataclass(frozen=True)
class Plan:
    """What is left to do in a folder: runs without a result, and how many have one.

    `damaged` says in one line each what was wrong with results that were set aside, and `others`
    how many results belong to runs that the file does not have.
    """

    folder: Path
    todo: tuple[Entry, ...]
    done: int
    damaged: tuple[str, ...]
    others: int


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other benchmarks out of a folder, which is made; the system lets go with the process.

    An `EngineError` says that another process is at work there.
    """
    require_extra()
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise EngineError(f"another benchmark is running in {folder}") from None
    try:
        yield
    finally:
        lock.release()


def plan(benchmark: Benchmark, folder: Path) -> Plan:
    """Make the folder of a benchmark, and find out what is left to do there.

    The file is copied into it, in place of an earlier one. A damaged result is renamed, and its
    run is to be done again.

    Raises:
        ImportError: If what benchmarks need is not installed.
        OSError: If the folder cannot be written.
    """
    require_extra()
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    with replacing(folder / BENCHMARK) as part:
        part.write_bytes(benchmark.text.encode())
    with replacing(folder / CHECKED) as part:
        part.write_text(json.dumps(benchmark.held, indent=2), encoding="utf-8")
    damaged: list[str] = []
    todo: list[Entry] = []
    # Two labels may stand for the same run.
    entries = {entry.run.name: entry for entry in reversed(benchmark.entries)}
    for entry in reversed(entries.values()):
        try:
            done = read_run(folder, entry.run) is not None
        except DamagedFileError as error:
            done, path = False, path_of(folder, entry.run)
            damaged.append(f"{path} is damaged: {error}; kept as {set_aside(path).name}")
        if not done:
            todo.append(entry)
    others = len(other_files(folder, benchmark.entries))
    return Plan(folder, tuple(todo), len(entries) - len(todo), tuple(damaged), others)


def execute(
    planned: Plan, engine: Engine, progress: Progress | None = None
) -> Iterator[tuple[Entry, RunOutcome]]:
    """Do what is left to do; yield each run once its result is written.

    Failed runs are yielded as well, and leave no file. Where the workers are processes of this
    machine, `progress` is told now and then, in a thread, how far the runs under way are.

    Raises:
        EngineError: If workers or the cluster are lost.
        OSError: If a result cannot be written.
    """
    entries = {entry.run.name: entry for entry in planned.todo}
    with contextlib.closing(
        perform_all([e.run for e in planned.todo], engine, progress)
    ) as outcomes:
        for outcome in outcomes:
            entry = entries[outcome.run.name]
            if outcome.error is None:
                write_run(planned.folder, entry, outcome)
            yield entry, outcome


def perform_all(
    runs: Sequence[Run], engine: Engine, progress: Progress | None = None
) -> Generator[RunOutcome, None, None]:
    """Do runs on an engine; yield their outcomes as they come. It raises what `execute` raises."""
    if not runs:
        return
    if engine.backend == "dask":
        yield from _on_dask(runs, engine)
        return
    with _read_aloud(progress) as notes:
        yield from _on_processes(runs, engine, notes)


@contextlib.contextmanager
def _read_aloud(progress: Progress | None) -> Iterator[Path | None]:
    """Yield a folder for notes of workers, and tell what they say; None where nobody listens."""
    if progress is None:
        yield None
        return
    over = threading.Event()
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:

        def read() -> None:
            while not over.wait(READ_EVERY):
                notes = [text for path in sorted(Path(name).iterdir()) if (text := _text(path))]
                if notes:
                    more = f" and {len(notes) - NAMED} more" if len(notes) > NAMED else ""
                    progress(0, 0, f"under way: {'; '.join(notes[:NAMED])}{more}")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield Path(name)
        finally:
            over.set()
            reader.join()


def _text(path: Path) -> str:
    """Return a note, empty where its run has just ended."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _on_processes(
    runs: Sequence[Run], engine: Engine, notes: Path | None
) -> Generator[RunOutcome, None, None]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    pool: Any = Parallel(
        n_jobs=engine.workers or -1,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,  # runs are long, and each is to be written as soon as it is there
    )
    try:
        with warnings.catch_warnings():
            # A worker that has loaded PyTorch meanwhile is replaced, as if it had leaked memory.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            yield from pool(delayed(_perform_below)(os.getpid(), run, notes) for run in runs)
    except TerminatedWorkerError:
        raise EngineError(
            "a worker process was killed (by hand, or by the system for want of memory)"
        ) from None


def _perform_below(parent: int, run: Run, notes: Path | None) -> RunOutcome:
    """Do a run in a process that does not outlive the one that started it, and take notes."""
    if os.getpid() != parent:  # joblib has no process of its own for a single worker
        _end_with(parent)
    if notes is None:
        return perform(run)
    note, pace = notes / run.name, Paced(NOTED_EVERY)

    def tell(evaluations: int) -> None:
        if pace.due():
            with contextlib.suppress(OSError):  # whoever started this may be gone
                said = f"{run.env_id}, {run.method}, seed {run.seed}"
                with replacing(note) as temporary:
                    temporary.write_text(f"{said}: {evaluations}/{run.steps + 1}", encoding="utf-8")

    try:
        return perform(run, tell)
    finally:
        with contextlib.suppress(OSError):
            note.unlink()


@cache
def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed before it can say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_dask(runs: Sequence[Run], engine: Engine) -> Generator[RunOutcome, None, None]:
    # Joblib's backend for Dask waits forever for a task whose workers were killed.
    try:
        import distributed
    except ImportError:
        raise EngineError(
            'the backend "dask" needs distributed: pip install -e ".[benchmark]"'
        ) from None

    dask: Any = distributed  # its classes are not typed
    with contextlib.ExitStack() as stack:
        address: Any = engine.address
        if address is None:
            address = stack.enter_context(
                dask.LocalCluster(
                    n_workers=engine.workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,  # a worker that ends is no news
                )
            )
        try:
            client = stack.enter_context(dask.Client(address, set_as_default=False))
        except (OSError, ValueError) as error:
            reason = str(error).partition(" after ")[0]
            raise EngineError(f"cannot reach the Dask scheduler {address}: {reason}") from None
        # Not pure: the cluster is to compute, not to recall the result of an earlier benchmark.
        futures = dict(zip(client.map(perform, runs, pure=False), runs, strict=True))
        done = dask.as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
        for future, result in done:
            if future.status == "finished":
                yield result
            elif future.status == "error":
                yield RunOutcome(futures[future], error=f"{type(result[1]).__name__}: {result[1]}")
            else:
                raise EngineError(f"the Dask cluster was lost (a run is {future.status!r})")
