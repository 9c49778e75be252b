"""Results of benchmarks: tables, many runs, and what is left when they are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilevel_gym.benchmark import EngineError, Run, RunOutcome, execute, load_results, perform, plan
from bilevel_gym.benchmark import engine as engine_module
from bilevel_gym.benchmark import results as results_module
from bilevel_gym.benchmark.config import parse_benchmark
from bilevel_gym.benchmark.engine import locked, perform_all
from bilevel_gym.benchmark.results import DamagedFileError, path_of, read_run
from bilevel_gym.benchmark.schema import Engine
from bilevel_gym.methods import register_method

from .runs import EXACT, OPTIMIZER, SMALL, TASK, here, in_turn, invoke, invoke_small, small_run

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a benchmark that is done; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("finished")
    here(parse_benchmark(SMALL), folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


# Results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "[1]", '{"targets": 3, "left_out": [1]}', "[" * 100_000])
def test_results_are_read_whatever_stands_in_what_was_checked(copy: Path, content: str) -> None:
    (copy / "checked.json").write_text(content)
    assert len(load_results(copy)) == 2 * 2 * 4


def test_results_are_one_tidy_table_that_follows_its_file(finished: Path, copy: Path) -> None:
    frame = load_results(finished)
    assert len(frame) == 2 * 2 * 4
    assert [*frame.columns] == (
        "task method optimizer seed step env_steps wall_time estimated_objective objective "
        "objective_error gradient_norm projected_gradient_norm cosine relative_error best_known"
    ).split()
    assert {*frame["method"]} == {"exact", "traced"} and {*frame["task"]} == {"grid"}
    assert frame["best_known"].isna().all(), "nothing is recorded of this map"
    assert frame["objective_error"].isna().all() and frame["gradient_norm"].notna().all()
    assert not any(frame.attrs.values())
    assert (frame["env_steps"][frame["method"] == "exact"] == 0).all()
    run = parse_benchmark(SMALL).entries[0].run
    kept = frame[(frame["method"] == "exact") & (frame["seed"] == 0)]
    assert [*kept["objective"]] == [row.objective for row in perform(run).rows]
    text = SMALL.replace("seeds = 2", "seeds = [1, 2]").replace('"traced"', '"renamed"')
    (copy / "benchmark.toml").write_text(text)
    frame = load_results(copy)
    assert {*frame["seed"]} == {1} and {*frame["method"]} == {"exact", "renamed"}
    assert len(frame.attrs["missing"]) == 2 and len(frame.attrs["others"]) == 2


def test_results_from_before_there_were_held_out_episodes_are_read(copy: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    before = load_results(copy)
    for path in copy.glob("runs/*.parquet"):
        table = pq.read_table(path).drop_columns("objective_error")
        optional = ("cosine", "relative_error")
        strict = [field.with_nullable(field.name in optional) for field in table.schema]
        held = json.loads(table.schema.metadata[results_module.KEY])
        rows = table.to_pylist()
        about = {name: value for name, value in held.items() if name != "digest"}
        held["digest"] = results_module._digest(rows, about)
        old = pa.schema(strict, {results_module.KEY: json.dumps(held).encode()})
        pq.write_table(pa.Table.from_pylist(rows, old), path)
    after = load_results(copy)
    assert not any(after.attrs.values()) and len(after) == 16
    assert [*after.columns] == [*before.columns]
    kept = [name for name in before.columns if before[name].notna().any()]
    assert after[kept].equals(before[kept]) and after["objective_error"].isna().all()


def test_flipped_and_missing_bytes_are_noticed(finished: Path, tmp_path: Path) -> None:
    entry = parse_benchmark(SMALL).entries[0]
    whole = path_of(finished, entry.run).read_bytes()
    good = read_run(finished, entry.run)
    assert good is not None
    path = path_of(tmp_path, entry.run)
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.choice(len(whole), 300, replace=False):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            found = read_run(tmp_path, entry.run)
        except DamagedFileError:
            noticed += 1
        else:  # statistics and the like, which nobody reads
            assert found is not None and found[0].equals(good[0]) and found[1] == good[1]
    assert noticed > 100
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            read_run(tmp_path, entry.run)


def test_a_number_that_was_changed_by_a_whole_writer_is_noticed(copy: Path) -> None:
    """Checksums of pages are right then; the digest is not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = parse_benchmark(SMALL).entries[0].run
    path = path_of(copy, run)
    table = pq.read_table(path)
    place = table.schema.get_field_index("objective")
    better = pa.array([value + 1.0 for value in table["objective"].to_pylist()])
    pq.write_table(table.set_column(place, table.schema.field(place), better), path)
    with pytest.raises(DamagedFileError, match="not those that were written"):
        read_run(copy, run)


def test_a_damaged_result_is_set_aside_and_its_run_done_again(
    copy: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    entries = parse_benchmark(SMALL).entries
    cut, foreign, odd, _ = (path_of(copy, entry.run) for entry in entries)
    foreign.write_bytes(path_of(copy, entries[2].run).read_bytes())
    cut.write_bytes(cut.read_bytes()[:-7])
    pq.write_table(pa.table({"a": [1]}), odd)
    bad = {path: path.read_bytes() for path in (cut, foreign, odd)}
    earlier = cut.with_name(f"{cut.name}.damaged-1")
    earlier.write_bytes(b"from an earlier time")
    assert len(load_results(copy).attrs["damaged"]) == 3
    done = in_turn(monkeypatch, perform)
    result = invoke_small(copy)
    assert result.exit_code == 0, result.output
    assert [run.name for run in done] == [entry.run.name for entry in entries[:3]]
    for path, reason in ((cut, "cannot be read"), (foreign, "another run"), (odd, "other columns")):
        (line,) = [line for line in result.stderr.splitlines() if str(path) in line]
        assert reason in line
    aside = {path.name: path.read_bytes() for path in copy.glob("runs/*damaged*")}
    assert aside == {
        earlier.name: b"from an earlier time",
        f"{cut.name}.damaged-2": bad[cut],
        f"{foreign.name}.damaged-1": bad[foreign],
        f"{odd.name}.damaged-1": bad[odd],
    }
    assert len(load_results(copy)) == 16 and not load_results(copy).attrs["missing"]


# Many runs --------------------------------------------------------------------------------------


def test_a_benchmark_is_extended_by_seeds_and_never_repeats_a_run(
    copy: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    file = tmp_path / "more.toml"
    file.write_text(SMALL.replace("seeds = 2", "seeds = 3"))
    done = in_turn(monkeypatch, perform)
    result = invoke(file, "--out", copy)
    assert result.exit_code == 0 and [run.seed for run in done] == [2, 2]
    assert "6 runs, 4 done, 2 to do" in result.output
    assert (copy / "benchmark.toml").read_text() == file.read_text()
    assert invoke(file, "--out", copy).exit_code == 0 and len(done) == 2
    file.write_text(SMALL.replace("seeds = 2", "seeds = 1"))
    assert "4 results of other runs stay there" in invoke(file, "--out", copy).output


def test_two_labels_of_one_run_share_its_result(tmp_path: Path) -> None:
    again = '[[methods]]\nname = "exact"\nlabel = "same"\n[[methods]]'
    twice = SMALL.replace("[[methods]]", again, 1)
    benchmark = parse_benchmark(twice)
    assert len(benchmark.entries) == 6 and len(plan(benchmark, tmp_path).todo) == 4
    here(benchmark, tmp_path)
    frame = load_results(tmp_path)
    assert len(frame) == 24 and {*frame["method"]} == {"exact", "same", "traced"}


def test_a_failing_run_takes_no_other_with_it_and_each_warning_is_shown_once(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    def work(run: Run) -> RunOutcome:
        failing = run.method == "trace" and run.seed == 0
        outcome = RunOutcome(run, error="ArithmeticError: overflow") if failing else perform(run)
        return replace(outcome, warnings=("mind the gap",))

    done = in_turn(monkeypatch, work)
    result = invoke_small(tmp_path / "out")
    assert result.exit_code == 1 and len(done) == 4
    assert result.stderr.count("mind the gap") == 1
    assert "failed: grid / traced / normalized, seed 0: ArithmeticError: overflow" in result.stderr
    assert "3 of 4 runs are in" in result.output
    assert len([*tmp_path.glob("out/runs/*")]) == 3
    in_turn(monkeypatch, perform)
    assert invoke_small(tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_say_how_far_their_runs_are(monkeypatch: Patch, workers: int) -> None:
    monkeypatch.setattr("bilevel_gym.benchmark.engine.READ_EVERY", 0.01)
    monkeypatch.setattr("bilevel_gym.benchmark.engine.NOTED_EVERY", 0.0)  # in this process
    told: list[tuple[int, int, str]] = []
    runs = [small_run(seed=seed, steps=100) for seed in range(2)]
    engine = Engine(workers=workers)
    outcomes = [*perform_all(runs, engine, lambda *said: told.append(said))]
    assert [outcome.error for outcome in outcomes] == [None, None]
    (first, *_), run = told, runs[0]
    assert first[:2] == (0, 0)
    pattern = rf"under way: {run.env_id}, {run.method}, seed [01]: \d+/101"
    assert all(re.match(pattern, doing) for _, _, doing in told)


def test_one_worker_is_this_process_and_does_not_watch_for_its_own_end(monkeypatch: Patch) -> None:
    watched: list[int] = []
    monkeypatch.setattr(engine_module, "_end_with", watched.append)
    outcomes = [*perform_all([small_run(seed=seed) for seed in range(2)], Engine(workers=1))]
    assert [outcome.run.seed for outcome in outcomes] == [0, 1] and not watched
    assert all(len(outcome.rows) == 4 for outcome in outcomes)


def test_what_was_done_before_ctrl_c_is_kept(tmp_path: Path, monkeypatch: Patch) -> None:

    def work(run: Run) -> RunOutcome:
        if run.seed == 1:
            raise KeyboardInterrupt
        return perform(run)

    in_turn(monkeypatch, work)
    result = invoke_small(tmp_path / "out")
    assert result.exit_code == 130 and "what is done is kept" in result.output
    assert len([*tmp_path.glob("out/runs/*.parquet")]) == 2


def test_a_folder_in_use_and_one_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (file := tmp_path / "small.toml").write_text(SMALL)
    with locked(tmp_path):
        result = invoke(file, "--out", tmp_path)
    assert result.exit_code == 1 and "another benchmark is running" in result.stderr
    (tmp_path / "file").write_text("")
    result = invoke(file, "--out", tmp_path / "file" / "out")
    assert result.exit_code == 2 and "cannot write the folder" in result.stderr


def test_a_folder_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bilevel_gym.benchmark.engine import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        with pytest.raises(EngineError, match="another benchmark is running"), locked(tmp_path):
            pass
        other.communicate("go on\n")
    with locked(tmp_path):
        pass


# Killed -----------------------------------------------------------------------------------------

LONG = f"steps = 80\nseeds = 14\n[engine]\nworkers = 2\n{TASK}{EXACT}{OPTIMIZER}"


def start_command(file: Path, folder: Path, runs: int) -> subprocess.Popen[str]:
    """Start the command as a process group of its own, and wait until so many runs are done."""
    command = [sys.executable, "-c", "from bilevel_gym.cli import main; main()", "benchmark"]
    process = subprocess.Popen(
        [*command, str(file), "--out", str(folder)],
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 60.0
    while len(results(folder)) < runs and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def results(folder: Path) -> list[Path]:
    return [path for path in folder.glob("runs/*.parquet") if not path.name.startswith(".")]


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status[1]) == process.pid and b"LokyProcess" in command:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for workers in /proc")
def test_killed_at_any_time_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: Patch) -> None:
    """First a worker is killed on its own, then the command, and its workers follow it."""
    file, folder = tmp_path / "long.toml", tmp_path / "out"
    file.write_text(LONG)
    process = start_command(file, folder, runs=2)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    last = output.splitlines()[-1]
    assert last.startswith("Error: a worker process was killed") and "kept in" in last
    assert "Traceback" not in output
    first = {path: path.read_bytes() for path in results(folder)}
    assert 2 <= len(first) < 13

    process = start_command(file, folder, runs=len(first) + 1)
    workers = workers_of(process)
    os.kill(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)  # ends when the workers let go of it, too
    assert len(workers) == 2
    assert f"14 runs, {len(first)} done, {14 - len(first)} to do" in output
    second = {path: path.read_bytes() for path in results(folder)}
    assert len(first) < len(second) < 14

    done = in_turn(monkeypatch, perform)
    result = invoke(file, "--out", folder)
    assert result.exit_code == 0, result.output
    assert len(done) == 14 - len(second), "nothing lost, and nothing done twice"
    assert not {path_of(folder, run) for run in done} & {*second}
    for kept in (first, second):
        assert all(path.read_bytes() == content for path, content in kept.items())
    frame = load_results(folder)
    assert len(frame) == 14 * 81 and not any(frame.attrs.values())


# A cluster --------------------------------------------------------------------------------------


def test_the_same_file_runs_on_a_cluster(
    finished: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Two worker processes on this machine, reached by the address of their scheduler."""
    import distributed

    # The workers do not know the name: the class goes with the run.
    monkeypatch.setattr("bilevel_gym.methods.registry._registered", {})
    register_method("halved", "tests.test_method_registry:Halved")
    local_cluster: Any = distributed.LocalCluster  # untyped
    with local_cluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        workers = f'backend = "dask"\naddress = "{cluster.scheduler_address}"'
        registered = '[[methods]]\nname = "halved"\n'
        text = f"steps = 3\nseeds = 2\n[engine]\n{workers}\n{TASK}{EXACT}{registered}{OPTIMIZER}"
        benchmark = parse_benchmark(text)
        done = [*execute(plan(benchmark, tmp_path), benchmark.engine)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "perform", _tell_process)
            runs = [small_run(seed=seed) for seed in range(8)]
            outcomes = [*perform_all(runs, benchmark.engine)]
    assert sorted(outcome.run.seed for outcome in outcomes) == [*range(8)]
    processes = {outcome.error for outcome in outcomes}
    assert len(processes) == 2 and str(os.getpid()) not in processes
    assert len(done) == 4 and all(outcome.error is None for _, outcome in done)
    ours, theirs = load_results(finished), load_results(tmp_path)
    halved = theirs[theirs["method"] == "halved"]
    assert np.allclose(halved["relative_error"], 0.5, atol=1e-6) and len(halved) == 8
    ours, theirs = (f[f["method"] == "exact"].reset_index(drop=True) for f in (ours, theirs))
    assert ours.drop(columns="wall_time").equals(theirs.drop(columns="wall_time"))


def _tell_process(run: Run) -> RunOutcome:
    time.sleep(0.05)
    return RunOutcome(run, error=str(os.getpid()))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: Patch) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(EngineError, match="cannot reach the Dask scheduler tcp://127.0.0.1:1"):
            next(
                iter(
                    perform_all([small_run()], Engine(backend="dask", address="tcp://127.0.0.1:1"))
                )
            )


# The package ------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ("filelock", "joblib", "pandas", "pyarrow", "pydantic"))
def test_a_missing_library_is_named(library: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = invoke_small(tmp_path / "out")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert f'benchmarks need {library}: pip install -e ".[benchmark]"' in result.stderr
