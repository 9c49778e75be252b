"""Rows of the table: timing two sides in turn, and printing what came out."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import pytest

# Settings of the environment that keep every side on one thread.
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NPROC": "1",  # JAX's pool
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cpu",
}

# Seconds that the rounds of one row may take, where `MIN_ROUNDS` do not take longer.
BUDGET = 3.0
MIN_ROUNDS, MAX_ROUNDS = 5, 1000
# Rounds that take longer than this, in seconds, are made `FEW_ROUNDS` times only.
LONG_ROUND, FEW_ROUNDS = 10.0, 3
# Calls shorter than this, in seconds, would be measured with the other side's data in the caches,
# which no outer loop sees: they are timed right after a call in vain.
SHORT_CALL = 0.01

PACKAGES = ("numpy", "scipy", "numba", "gymnasium", "jax", "quantecon", "mdpsolver")
HEADER = ("row", "ours", "against", "theirs", "ratio", "bar", "reached")


@dataclass(frozen=True)
class Row:
    """One row of the table: figures with their units, and the `ratio` that a bar is about.

    `against` is empty and `ratio` None for a plain figure without a bar.
    """

    name: str
    ours: str
    against: str = ""
    theirs: str = ""
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of `HEADER`."""
        bar, reached = "", ""
        if self.ratio is not None and self.at_least is not None:
            bar = f">= {self.at_least:g}"
            reached = "yes" if self.ratio >= self.at_least else "NO"
        if self.ratio is not None and self.at_most is not None:
            bar = f"<= {self.at_most:g}"
            reached = "yes" if self.ratio <= self.at_most else "NO"
        ratio = ""
        if self.ratio is not None:
            ratio = f"{self.ratio:.3g}" if self.ratio < 1e3 else f"{self.ratio:.0f}"
        return self.name, self.ours, self.against, self.theirs, ratio, bar, reached


def as_text(rows: list[Row]) -> str:
    """Return the table of a run: Markdown in columns, for a terminal and for a file."""
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    ]
    return "\n".join([*table, "", circumstances(), ""])


class Compare:
    """Times our side and a peer in turn and adds the row; a fixture of the benchmarks.

    Our side's times are pytest-benchmark's, so that its options and files work; the peer is timed
    in the setup of each round.
    """

    def __init__(self, benchmark: Any, rows: list[Row]) -> None:
        """Store pytest-benchmark's fixture and the rows of the run."""
        self._benchmark = benchmark
        self._rows = rows

    def __call__(
        self,
        name: str,
        ours: Callable[[], Any],
        against: str,
        peer: Callable[[], Any],
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        before_ours: Callable[[], Any] = lambda: None,
        before_peer: Callable[[], Any] = lambda: None,
    ) -> Any:
        """Add the row of two sides, and return what our side returned last.

        A test compares their results before it calls this. The ratio is the peer's time over ours
        with `at_least` (how much faster we are), ours over the peer's otherwise (what we cost).
        `before_ours` and `before_peer` are called before each call of a side, outside the time.
        """
        if self._benchmark.disabled:
            return self._benchmark.pedantic(ours, setup=before_ours)
        per_peer, per_ours = settled(peer, before_peer), settled(ours, before_ours)
        # A peer that serves as a unit, a thousandth of our time, is worth more than five samples.
        repeats = min(max(int(0.1 * per_ours / per_peer), 1), 10)
        per_round = per_ours + repeats * per_peer  # and as much again where calls are short
        rounds = min(max(int(BUDGET / per_round), MIN_ROUNDS), MAX_ROUNDS)
        if per_round > LONG_ROUND:
            rounds = FEW_ROUNDS
        ready_peer = warmed(peer, before_peer) if per_peer < SHORT_CALL else before_peer
        ready_ours = warmed(ours, before_ours) if per_ours < SHORT_CALL else before_ours
        times: list[float] = []

        def setup() -> None:
            for _ in range(repeats):
                ready_peer()
                times.append(seconds(peer))
            ready_ours()

        result = self._benchmark.pedantic(ours, setup=setup, rounds=rounds)
        ours_median = self._benchmark.stats.stats.median
        peer_median = statistics.median(times)
        ratio = ours_median / peer_median if at_least is None else peer_median / ours_median
        figures = duration(ours_median), against, duration(peer_median)
        row = Row(name, *figures, ratio, at_least, at_most)
        self._benchmark.extra_info.update(asdict(row), rounds=rounds)
        self._rows.append(row)
        return result


def in_turn(
    *sides: Callable[[], Any], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the median seconds of each side, timed in turn."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, record in zip(sides, times, strict=True):
            record.append(seconds(side, clock))
    return [statistics.median(record) for record in times]


def settled(call: Callable[[], Any], before: Callable[[], Any]) -> float:
    """Return how long a call takes, by its second run unless that would cost too much."""
    before()
    first = seconds(call)
    if first > 1.0:
        return first
    before()
    return seconds(call)


def warmed(call: Callable[[], Any], before: Callable[[], Any]) -> Callable[[], None]:
    """Return a preparation that makes one call in vain, so that caches hold what it needs."""

    def prepare() -> None:
        before()
        call()
        before()

    return prepare


def seconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a call takes."""
    start = clock()
    call()
    return clock() - start


def duration(value: float) -> str:
    """Return seconds with three digits and the unit that suits them."""
    factor, unit = next(
        ((factor, unit) for factor, unit in ((1.0, "s"), (1e3, "ms")) if value * factor >= 1.0),
        (1e6, "us"),
    )
    return f"{value * factor:.3g} {unit}"


def circumstances() -> str:
    """Return date, machine and versions of a run."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{date.today().isoformat()}, {processor()}, one thread; {', '.join(versions)}. Medians; "
        "ratios of both sides timed in turn in this run: theirs / ours for bars >=, else "
        "ours / theirs."
    )


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model na"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def check_agreement(left: Any, right: Any, tolerance: float, what: str) -> None:
    """Fail if two results differ by more than `tolerance`, relative to the norm of `right`."""
    import numpy as np  # after the settings of threads

    difference = np.linalg.norm(np.asarray(left) - np.asarray(right)) / np.linalg.norm(right)
    if not difference <= tolerance:
        pytest.fail(f"both sides must agree on {what}: {difference:.2e} > {tolerance:g}")
