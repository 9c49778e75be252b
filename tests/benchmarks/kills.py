"""Kill every writer of the package at random moments, and look at what is on disk.

Run it as `python -m tests.benchmarks.kills`; it prints a table, a row for each writer, and ends
with 1 if a row has a fault. Each of six writers is killed so many times, by kill -9, SIGTERM and
SIGINT in turn:

* `solve`, `benchmark` and `gallery`, as commands, every other time with SIGINT ignored, as shells
  do for background jobs. SIGTERM and SIGINT end them with 130 and without temporary files. A killed
  benchmark is started again until it is done, and its results are then those of one that was never
  killed; so is a killed run of `solve`, by `solve --resume`, bit by bit.
* `HyperGradientAscent.save`, `method.save` and `PreferenceQueue.save`, in processes that save in a
  loop and leave the signals as Python has them: SIGTERM ends them as abruptly as kill -9.

Lost is what was reported as done before the signal, by a line or a row of the history, and is not
there, or is older, or goes on in another way. Damaged is what is there and cannot be read, or is
not what was written. A process that has no time to remove its temporary file leaves it: it has a
hidden name that nothing reads.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from bilevel_gym.cli.arguments import INTERRUPTED

from .marked import MARKED, Damaged, write_for_ever

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

# How long processes that save in a loop live, and how long a process may take to end, in seconds.
LIFE, PATIENCE = 0.4, 60.0

# What Python makes of signals that find it before or after the command, and the last words of the
# command.
BESIDE = {-signal.SIGTERM, -signal.SIGINT}
LAST = ("run: ", "gallery: ", "runs are in")

KINDS = ("lost", "damaged", "wrong exit", "left")
HEAD = (
    "| writer | kill -9, SIGTERM, SIGINT | while at work | lost | damaged | wrong exit | "
    "temporary files left when asked to end | by kill -9 | s |",
    "|---|---|---|---|---|---|---|---|---|",
)


class Tally:
    """What the trials of one writer have shown."""

    def __init__(self, name: str) -> None:
        """Count from zero."""
        self.name = name
        self.signals: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, text: object) -> None:
        """Count a fault, and say what it is."""
        self.counts[kind] += 1
        print(f"{self.name}: {kind}: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def whole(self, what: object) -> Iterator[None]:
        """Whatever is raised while a file is read is its damage."""
        try:
            yield
        except Exception as error:
            self.add("damaged", f"{what}: {type(error).__name__}: {error}")

    def look_for_parts(self, folder: Path, number: int, abrupt: bool) -> None:
        """Count temporary files, and remove them, so that each trial shows its own."""
        for part in folder.rglob(".*.*"):
            kind = "left by kill -9" if abrupt else "left"
            self.counts[kind] += 1
            if not abrupt:
                print(f"{self.name}: {signal.Signals(number).name} left {part}", file=sys.stderr)
            part.unlink()

    def row(self, seconds: float) -> str:
        """Return the row of the table."""
        signals = ", ".join(str(self.signals[number]) for number in SIGNALS)
        cells = (self.counts[kind] for kind in ("at work", *KINDS, "left by kill -9"))
        return f"| `{self.name}` | {signals} | {' | '.join(map(str, cells))} | {seconds:.0f} |"

    @property
    def fine(self) -> bool:
        """Whether there is no fault."""
        return not any(self.counts[kind] for kind in KINDS)


def moments(times: int, tally: Tally) -> Iterator[tuple[int, signal.Signals]]:
    """Yield trials and their signals, and count these."""
    for trial, number in zip(range(times), itertools.cycle(SIGNALS), strict=False):
        tally.signals[number] += 1
        yield trial, number


# Saves ------------------------------------------------------------------------------------------


def kill_saves(times: int, draw: random.Random, tally: Tally) -> None:
    """Kill processes that save to one path again and again.

    They are forked, which saves them seconds of imports. Each follows the last on the same path, as
    a job that is started again.
    """
    marked, context = MARKED[tally.name](), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        path, last = Path(folder) / f"saved{marked.suffix}", 0

        def work(pipe: int, first: int) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

            def tell(number: int) -> None:
                os.write(pipe, b"%d\n" % number)

            try:
                tell(0)  # from now on signals find the handlers of a process of its own
                write_for_ever(marked, path, tell, first)
            except KeyboardInterrupt:
                os._exit(INTERRUPTED)

        for trial, number in moments(times, tally):
            reading, writing = os.pipe()
            process = context.Process(target=work, args=(writing, last + 1))
            process.start()
            os.close(writing)
            with open(reading) as lines:
                # Every other one is not killed before it has saved once.
                heard = [lines.readline() for _ in range(1 + trial % 2)]
                time.sleep(draw.uniform(0.0, LIFE))
                os.kill(process.pid or 0, number)
                told = [int(line) for line in [*heard, *lines] if line.endswith("\n")]
            process.join()
            tally.counts["at work"] += max(told) > 0
            if process.exitcode != (INTERRUPTED if number == signal.SIGINT else -number):
                tally.add("wrong exit", f"{number.name}: {process.exitcode}")
            tally.look_for_parts(path.parent, number, abrupt=number != signal.SIGINT)
            last = max([last, *told])
            try:
                found = marked.number(path) if last or path.exists() else 0
            except Damaged as fault:
                tally.add("damaged", f"{number.name}: {fault}")
                continue
            if found < last:
                tally.add("lost", f"{number.name}: {found} is there, {last} was saved")
            last = max(last, found)


# Commands ---------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a command has ended: whether by the signal, its exit code, and what it said."""

    killed: bool
    code: int
    said: str


def run(
    arguments: list[str],
    folder: Path,
    *,
    number: signal.Signals | None = None,
    begun: Callable[[], bool] = lambda: True,
    delay: float = 0.0,
    ignored: bool = False,
) -> Ended:
    """Run a command in a folder, and send it a signal a while after it has begun its work.

    `ignored` is whether it inherits that SIGINT is ignored. Its children must end with it.
    """
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "bilevel_gym.cli", *arguments],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        )
    try:
        killed = False
        if number is not None:
            while process.poll() is None and not begun():
                time.sleep(0.005)
            time.sleep(delay)
            killed = process.poll() is None
            process.send_signal(number)
        code = process.wait(timeout=PATIENCE)
        deadline = time.monotonic() + 10.0
        while _lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _lives(process.pid), f"{arguments} has left processes behind"
    finally:
        if _lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(killed, code, (folder / "said.txt").read_text())


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def check_end(ended: Ended, number: signal.Signals, at_work: bool, tally: Tally) -> None:
    """Check the exit code of a command, and that it shows nobody a traceback."""
    tally.counts["at work"] += ended.killed and at_work
    if number == signal.SIGKILL and ended.code == -number:
        return
    fine = {0}
    if ended.killed:
        fine |= {INTERRUPTED}
        if "interrupted" in ended.said:  # Python makes it this where `exec` was interrupted
            fine |= {-signal.SIGINT}
        if not at_work or any(word in ended.said for word in LAST):
            fine |= BESIDE
    # Libraries that are interrupted while they are imported may say so by themselves.
    told = at_work and "Traceback" in ended.said and "Exception ignored in" not in ended.said
    if ended.code not in fine or told:
        tally.add("wrong exit", f"{number.name}: {ended.code}: {ended.said[-2000:]}")


GRID = ["BilevelGridWorld-v0", "--set", "size=6", "--set", "map_seed=1"]
SOLVES = [
    *(["--optimizer", name] for name in ("normalized", "adam", "lbfgsb", "restarted-lbfgsb")),
    ["--optimizer", "cobyqa", "--steps", "100"],
    ["--method", "trace", "--method-set", "episodes=32", "--steps", "40"],
]


def kill_solve(times: int, draw: random.Random, tally: Tally) -> None:
    """Kill runs of `solve`; where the command can, go on with them to the end."""
    game: Any = gym.make(GRID[0], size=6, map_seed=1).unwrapped
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        resumes = "--resume" in run(["solve", "--help"], base).said
        references = []
        for i, options in enumerate(SOLVES):
            command = ["solve", *GRID, *options, "--out"]
            began = time.perf_counter()
            assert run([*command, f"whole-{i}"], base).code == 0
            references.append((command, base / f"whole-{i}", time.perf_counter() - began))
        for trial, number in moments(times, tally):
            command, whole, seconds = references[trial % len(SOLVES)]
            folder, exact = base / f"{trial}", "trace" not in command
            began_at = partial(_has_rows, folder)
            early = trial % 7 == 6
            kill = partial(run, folder=base, ignored=bool(trial % 2))
            ended = kill(
                [*command, folder.name],
                number=number,
                begun=(lambda: True) if early else began_at,
                delay=draw.uniform(0.0, seconds if early else seconds / 2.0),
            )
            check_solve(folder, number, ended, game if exact else None, tally)
            if not resumes or not (folder / "config.json").exists():
                continue
            again = ["solve", "--resume", folder.name]
            if trial % 2:  # killed once more
                ended = kill(again, number=number, delay=draw.uniform(0.5, seconds))
                check_solve(folder, number, ended, game if exact else None, tally)
            ended = run(again, base)
            if ended.code != 0:
                tally.add("wrong exit", f"--resume: {ended.code}: {ended.said[-2000:]}")
            if not _same_run(folder, whole):
                tally.add("lost", f"{' '.join(command)}: goes on otherwise than the whole run")


def _rows(folder: Path) -> list[dict[str, str]]:
    """Return the whole lines of a history, without what is measured in seconds."""
    path = folder / "history.csv"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [
        {name: cell for name, cell in row.items() if "time" not in name and "second" not in name}
        for row in csv.DictReader(lines, strict=True)
    ]


def _has_rows(folder: Path) -> bool:
    return bool(_rows(folder))


def _params(folder: Path) -> dict[str, Any]:
    with np.load(folder / "params.npz") as stored:
        return dict(stored)


def _same_run(folder: Path, whole: Path) -> bool:
    """Return whether two runs have the same history and parameters, bit by bit."""
    found, wanted = _params(folder), _params(whole)
    return _rows(folder) == _rows(whole) and (
        {name: array.tobytes() for name, array in found.items()}
        == {name: array.tobytes() for name, array in wanted.items()}
    )


def check_solve(
    folder: Path, number: signal.Signals, ended: Ended, game: Any, tally: Tally
) -> None:
    """Check what a run has left: its rows, and an x that is as good as they say."""
    rows, abrupt = [], number == signal.SIGKILL
    with tally.whole(folder / "history.csv"):
        rows = _rows(folder)
        objectives = [float(row["objective"]) for row in rows]
        assert [int(row["step"]) for row in rows] == [*range(len(rows))]
        assert all(None not in row and None not in row.values() for row in rows)
    check_end(ended, number, (folder / "config.json").exists(), tally)
    tally.look_for_parts(folder, number, abrupt)
    if abrupt and ended.killed:
        objectives = objectives[:-1]  # the row may have been written before its x
    elif rows and not (folder / "result.json").exists():
        tally.add("lost", f"{number.name}: no result.json: {ended.said[-300:]}")
    for path in folder.glob("*.json"):
        with tally.whole(path):
            json.loads(path.read_text())
    if not objectives:
        return
    if not (folder / "params.npz").exists():
        tally.add("lost", f"{number.name}: no params.npz after {len(rows)} rows")
        return
    with tally.whole(folder / "params.npz"):
        found = _params(folder)
        best = float(found["objective"])
        if best < max(objectives):
            tally.add("lost", f"{number.name}: x of {best}, {max(objectives)} was reached")
        if game is not None:
            there = game.evaluate(found["best_upper_params"]).objective
            assert abs(there - best) <= 1e-8 * max(1.0, abs(best)), (there, best)


BENCHMARK = """
steps = 60
seeds = 4
[engine]
workers = {workers}
[[tasks]]
id = "BilevelGridWorld-v0"
start_spread = 0.01
[[methods]]
name = "exact"
[[methods]]
name = "trace"
options = {{ episodes = 32 }}
[[optimizers]]
name = "normalized"
"""


def kill_benchmark(times: int, draw: random.Random, tally: Tally) -> None:
    """Kill benchmarks, and start them again until they are done."""
    from bilevel_gym.benchmark import load_results

    def results(folder: Path) -> Any:
        return load_results(folder).drop(columns="wall_time")

    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for workers in (1, 2):
            (base / f"{workers}.toml").write_text(BENCHMARK.format(workers=workers))
        began = time.perf_counter()
        assert run(["benchmark", "1.toml", "--out", "whole"], base).code == 0
        seconds, wanted, number_of = time.perf_counter() - began, results(base / "whole"), 0
        done: set[str] = set()
        for trial, number in moments(times, tally):
            folder, workers = base / f"results-{number_of}", 1 + trial % 3 % 2
            ended = run(
                ["benchmark", f"{workers}.toml", "--out", folder.name],
                base,
                number=number,
                begun=lambda: "to do on" in (base / "said.txt").read_text(),
                delay=draw.uniform(0.0, seconds / 2.0),
                ignored=bool(trial % 2),
            )
            begun = "to do on" in ended.said
            check_end(ended, number, begun, tally)
            tally.look_for_parts(folder / "runs", number, number == signal.SIGKILL)
            if not begun:
                continue
            done |= {
                line.partition("] ")[2].partition(":")[0]
                for line in ended.said.splitlines()
                if line.startswith("[")
            }
            with tally.whole(folder):
                frame = results(folder)
                for damage in frame.attrs["damaged"]:
                    tally.add("damaged", damage)
                for lost in done & {*frame.attrs["missing"]}:
                    tally.add("lost", f"{number.name}: {lost} was done")
                if ended.code == 0:
                    if not frame.equals(wanted):
                        tally.add("lost", f"{folder.name}: other results than the whole benchmark")
                    number_of, done = number_of + 1, set()


GALLERY = {"BilevelIncentive-v0": "incentive", "BilevelFrozenLake-v0": "frozen_lake"}


def kill_gallery(times: int, draw: random.Random, tally: Tally) -> None:
    """Kill galleries, each in the folder of the last: pictures are whole, if they are there."""
    from PIL import Image, ImageSequence

    with tempfile.TemporaryDirectory() as name:
        base, folder = Path(name), Path(name) / "pictures"
        began = time.perf_counter()
        assert run(["gallery", folder.name, *GALLERY], base).code == 0
        seconds = time.perf_counter() - began
        for trial, number in moments(times, tally):
            if trial % 4 == 0:
                for path in folder.iterdir():
                    path.unlink()
            ended = run(
                ["gallery", folder.name, *GALLERY],
                base,
                number=number,
                delay=draw.uniform(0.3, seconds),
                ignored=bool(trial % 2),
            )
            check_end(ended, number, "incentive.png" in ended.said, tally)
            tally.look_for_parts(folder, number, number == signal.SIGKILL)
            for path in folder.iterdir():
                with tally.whole(path), Image.open(path) as image:
                    for picture in ImageSequence.Iterator(image):
                        picture.load()
            names = {path.name for path in folder.iterdir()}
            for env_id, stem in GALLERY.items():
                if env_id in ended.said and not {f"{stem}.png", f"{stem}.gif"} <= names:
                    tally.add("lost", f"{number.name}: a picture of {env_id}")


WRITERS: dict[str, Callable[[int, random.Random, Tally], None]] = {
    "solve": kill_solve,
    "benchmark": kill_benchmark,
    "gallery": kill_gallery,
    "HyperGradientAscent.save": kill_saves,
    "method.save": kill_saves,
    "PreferenceQueue.save": kill_saves,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=60, help="kills of each writer")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", choices=WRITERS, nargs="+", default=WRITERS, metavar="WRITER")
    args = parser.parse_args()
    print("\n".join(HEAD), flush=True)
    fine = True
    for name in args.only:
        tally, began = Tally(name), time.perf_counter()
        WRITERS[name](args.times, random.Random(f"{args.seed} {name}"), tally)
        print(tally.row(time.perf_counter() - began), flush=True)
        fine &= tally.fine
    sys.exit(not fine)


if __name__ == "__main__":
    main()
