"""Benchmarks: what a file says, one run, many runs, and what is left when they are killed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bilevel_gym.benchmark import (
    ConfigError,
    EngineError,
    Run,
    RunOutcome,
    execute,
    load_results,
    perform,
    plan,
    read_benchmark,
    shipped_text,
)
from bilevel_gym.benchmark import config as config_module
from bilevel_gym.benchmark import engine as engine_module
from bilevel_gym.benchmark import results as results_module
from bilevel_gym.benchmark.config import SHIPPED, Benchmark, parse_benchmark
from bilevel_gym.benchmark.engine import locked, perform_all
from bilevel_gym.benchmark.results import DamagedFileError, path_of, read_run, write_run
from bilevel_gym.benchmark.runs import HELD_OUT_EPISODES, climb, make_referee, start_of
from bilevel_gym.benchmark.schema import Engine, Source
from bilevel_gym.cli import main
from bilevel_gym.methods import LEARNT_METHODS, METHODS, register_method
from bilevel_gym.model import TabularModel
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.registration import QUICK

Patch = pytest.MonkeyPatch

GRID = "BilevelGridWorld-v0"

TASK = f"""
[[tasks]]
id = "{GRID}"
label = "grid"
kwargs = {{ map_name = "4x4" }}
start_spread = 0.05
"""

OPTIMIZER = """
[[optimizers]]
name = "normalized"
"""

EXACT = """
[[methods]]
name = "exact"
"""

SMALL = f"""steps = 3
seeds = 2
[engine]
workers = 2
{TASK}
[[methods]]
name = "exact"
[[methods]]
name = "trace"
label = "traced"
options = {{ episodes = 8 }}
{OPTIMIZER}"""


def small_run(**changes: Any) -> Run:
    run = Run(GRID, {"map_name": "4x4"}, 0.05, "exact", {}, "normalized", {}, steps=3, seed=0)
    return replace(run, **changes)


def here(benchmark: Benchmark, folder: Path) -> None:
    """Do what is left of a benchmark, in this process."""
    planned = plan(benchmark, folder)
    for entry in planned.todo:
        write_run(folder, entry, perform(entry.run))


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


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


def invoke_small(out: Path) -> Result:
    """Run the small benchmark, written beside the folder of its results."""
    (out.parent / "small.toml").write_text(SMALL)
    return invoke(out.parent / "small.toml", "--out", out)


def in_turn(monkeypatch: Patch, work: Callable[[Run], RunOutcome]) -> list[Run]:
    """Let the command do its runs in this process; return the list of those it does."""
    seen: list[Run] = []

    def outcomes(runs: list[Run], _: Engine) -> Any:
        for run in runs:
            seen.append(run)
            yield work(run)

    monkeypatch.setattr(engine_module, "perform_all", outcomes)
    return seen


# What a file says -------------------------------------------------------------------------------


def test_the_default_file_names_methods_without_networks_and_leaves_nothing_out() -> None:
    benchmark = parse_benchmark(shipped_text())
    assert not benchmark.left_out
    named = {entry.run.method for entry in benchmark.entries}
    assert len(named) >= 12 and named <= {m for m in METHODS if not m.startswith("deep-")}
    assert len({entry.task for entry in benchmark.entries}) == 4
    assert {entry.run.seed for entry in benchmark.entries} == {*range(5)}
    assert [entry.run.seed for entry in parse_benchmark(SMALL).entries] == [0, 0, 1, 1]


def test_the_files_of_the_package_are_printed_as_they_are() -> None:
    assert invoke("--print-default").stdout == invoke("--print", "default").stdout
    for name in SHIPPED:
        result = invoke("--print", name)
        assert result.exit_code == 0 and result.stdout == shipped_text(name)
    unknown = invoke("--print", "dep")
    assert unknown.exit_code == 2 and "Did you mean 'deep'?" in unknown.stderr


def test_a_file_of_the_package_is_run_by_its_name_unless_there_is_one_of_the_users(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "shipped_text", lambda name: SMALL)
    done = in_turn(monkeypatch, perform)
    result = invoke("deep")
    assert result.exit_code == 0 and len(done) == 4, result.output
    assert (tmp_path / "benchmarks/deep/benchmark.toml").read_text() == SMALL
    (tmp_path / "deep").write_text(SMALL.replace("seeds = 2", "seeds = 3"))
    assert invoke("deep").exit_code == 0 and len(done) == 6
    missing = invoke("deeper.toml")
    assert missing.exit_code == 2
    assert "there is no file 'deeper.toml'; 'default' and 'deep' come with" in missing.stderr


def test_options_of_a_task_take_the_place_of_general_ones() -> None:
    text = SMALL.replace(
        "start_spread = 0.05",
        "optimizer_options.normalized.learning_rate = 0.5\nmethod_options.traced = {horizon = 7}",
    ).replace('name = "normalized"', 'name = "normalized"\noptions = {learning_rate = 0.1}')
    runs = [entry.run for entry in parse_benchmark(text).entries]
    assert all(run.optimizer_options == {"learning_rate": 0.5} for run in runs)
    assert {json.dumps(run.method_options) for run in runs if run.method == "trace"} == {
        '{"episodes": 8, "horizon": 7}'
    }


OWN = """
import gymnasium as gym
from bilevel_gym.envs import BilevelGridWorld
from tests.test_method_registry import Halved

class Own(BilevelGridWorld):
    pass

class Mine(Halved):
    pass

gym.register("Own-v0", "own_things:Own")
"""


def test_tasks_and_methods_of_ones_own_are_named_with_their_module_and_reach_the_workers(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "own_things.py").write_text(OWN)
    file = tmp_path / "own.toml"
    method = '[[methods]]\nname = "own_things:Mine"\noptions = { share = 0.25 }\n'
    tasks = f'[[tasks]]\nid = "own_things:Own-v0"\n{EXACT}{method}{OPTIMIZER}'
    file.write_text("steps = 1\nseeds = 1\nengine.workers = 2\n" + tasks)
    command = [sys.executable, "-m", "bilevel_gym.cli", "benchmark", file.name, "--out", "results"]
    where = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "2 of 2 runs are in results" in done.stdout, done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    frame = load_results(tmp_path / "results")
    errors = frame[frame["step"] == 0].set_index("method")["relative_error"]
    assert errors["own_things:Mine"] == pytest.approx(0.75) and errors["exact"] < 1e-9
    for old, new, said in (
        ("own_things:Own", "other:Own", "line 5: cannot import 'other' of 'other:Own-v0'"),
        ("own_things:Mine", "other:Mine", "line 10: cannot import 'other'"),
        ("own_things:Mine", "own_things:Min", "line 10: unknown class .*Did you mean 'Mine'"),
        ("own_things:Mine", "own_things:Own", "line 10: own_things:Own is no method: "),
        ("share", "shar", "methods.1..options.shar, line 11: .*accepted: 'share'"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_benchmark(file.read_text().replace(old, new))


PLACE = 'address = "tcp://localhost:1"'
WRONG = [
    ("seeds = 2", "seeds = 2\nstep = 3", 3, "unknown key of the file: 'step'", "'steps'?"),
    ("seeds = 2", "seeds = [1, 1]", 2, "different ones", ""),
    ("seeds = 2", "seeds = 20240601", 2, "at most 1000 seeds, got 20240601", "[20240601]"),
    ("seeds = 2", "seeds = [9223372036854775808]", 2, "`seeds` must be below 2^63", ""),
    ("steps = 3", "steps = 0", 1, "`steps` must be greater than or equal to 1, got 0", ""),
    ("workers = 2", 'backend = "dusk"', 4, "unknown backend 'dusk'", "'dask'?"),
    ("workers = 2", "worker = 2", 4, "unknown key of [engine]: 'worker'", "'workers'?"),
    ("workers = 2", PLACE, 4, "`address` is for", ""),
    ("workers = 2", f'backend = "dask"\n{PLACE}\nworkers = 2', 6, "`workers` is for this", ""),
    (f'"{GRID}"', '"BilevelGridWord-v0"', 7, "unknown task 'BilevelGridWord-v0'", f"'{GRID}'?"),
    ("map_name =", "map_nam =", 9, "'map_nam'; accepted: ", "'map_name'?"),
    ('"4x4"', '"5x5"', 9, "5x5", ""),
    ("0.05", "1.5", 10, "`start_spread` must be less than or equal to 1, got 1.5", ""),
    ('"exact"', '"exacd"', 13, "unknown method 'exacd'", "'exact'?"),
    ("episodes = 8", "episode = 8", 17, "unknown option for method 'trace': 'episode'", "sodes'?"),
    ("episodes = 8", "episodes = 0", 17, "`episodes` must be an integer of at least 1", ""),
    ('label = "traced"', 'label = "exact"', 16, "`label` must be unique, got 'exact'", ""),
    ('label = "traced"', 'label = "a\\nb"', 16, "`label` must be a text of one line", ""),
    ('label = "traced"', 'lable = "traced"', 16, "unknown key of [methods]: 'lable'", "'label'?"),
    ('"normalized"', '"normalised"', 20, "unknown optimizer 'normalised'", "'normalized'?"),
    ('"normalized"', '"adam"\noptions.beta = 1', 21, "for optimizer 'adam': 'beta'", "mean 'beta"),
    ('"normalized"', '"adam"\noptions.beta1 = 1', 21, "`beta1` must lie in [0, 1)", ""),
    ('"normalized"', '"adam"\noptions.steps = 9', 21, "`steps` is the same for all optimizers", ""),
    ('"normalized"', '"adam"\noptions.day = 2020-01-01', 21, "`options` must hold texts", ""),
    ("[[optimizers]]\nname", "[[optimizers]]\nlabel", 19, "`name` is missing", ""),
    ("0.05", "0.05\nmethod_options.trace = {}", 11, "label of method: 'trace'", "'traced'?"),
    ("0.05", "0.05\noptimizer_options.normalized = {steep = 1}", 11, "'steep'", "'steps'?"),
    ("seeds = 2", "seeds = = 2", 2, "no valid TOML", ""),
]


@pytest.mark.parametrize(("old", "new", "line", "message", "hint"), WRONG)
def test_what_is_wrong_with_a_file_is_told_with_its_line(
    old: str, new: str, line: int, message: str, hint: str, tmp_path: Path
) -> None:
    assert old in SMALL
    file = tmp_path / "wrong.toml"
    file.write_text(SMALL.replace(old, new, 1))
    result = invoke(file, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr and hint in result.stderr
    assert f"line {line}" in result.stderr and str(file) in result.stderr
    assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists(), "refused before anything is written"


def test_a_line_is_found_behind_texts_and_lists_over_several_lines() -> None:
    text = 'a = """\n[[b]]\nc = 1\n"""\nd = [\n  1,\n]\n# c\n[[b]]\n[[b]]\nc.e = 1 # d\n'
    places = [("a",), ("d",), ("d", 0), ("b", 0), ("b", 1), ("b", 1, "c", "e"), ("b", 1, "f")]
    # A comment belongs to nothing, and what is not there is looked for where it should be.
    assert [Source("", text).line_of(place) for place in places] == [1, 5, 5, 9, 10, 11, 10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = " + "1" * 5000, "line 2: no valid TOML: a number of too many digits"),
        ("a = 1\nb = " + "[" * 1500 + "]" * 1500, "line 2: .* lists or tables nested too deeply"),
        ('a = """\n[\n"""\nb = ' + "[" * 1500, "line 4: .* lists or tables nested too deeply"),
        ("b = " + "{a = " * 1500 + "1" + "}" * 1500, "line 1: .* nested too deeply"),
        ("# comment\n" * 20_000 + "stepps = 3\n", "stepps, line 20001: unknown key .*'steps'"),
        ("tasks = [\n" + "  {id = 'a', step = 1},\n" * 3000 + "]", "tasks.0..step, line 1: "),
    ],
    ids=["digits", "brackets", "open brackets", "tables", "comments", "long list"],
)
def test_what_is_long_or_deep_is_told_in_one_line_and_in_no_time(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse_benchmark(text)
    assert "\n" not in str(caught.value) and time.process_time() - began < 2.0


def test_files_of_other_systems_are_read_and_must_be_text(tmp_path: Path) -> None:
    """Windows editors end lines in their own way, and put a byte-order mark in front."""
    file = tmp_path / "file.toml"
    file.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_benchmark(file).entries == parse_benchmark(SMALL).entries
    file.write_bytes(b"steps = 3\n# \xff\n")
    result = invoke(file)
    assert result.exit_code == 2 and "line 2: the file must be UTF-8" in result.stderr


def test_a_method_that_does_not_suit_a_task_is_left_out_once() -> None:
    market = '[[tasks]]\nid = "BilevelMarkovGame-v0"\n'
    benchmark = parse_benchmark(SMALL.replace("[[methods]]", market + "[[methods]]", 1))
    (cell,) = benchmark.left_out
    assert (cell.task, cell.method) == ("BilevelMarkovGame-v0", "traced")
    assert "x moves the kernel" in cell.reason
    assert len(benchmark.entries) == 6
    with pytest.raises(ConfigError, match="no method suits any task.*moves the kernel"):
        trace = '[[methods]]\nname = "trace"\noptions = {episodes = 8}'
        parse_benchmark(market + trace + OPTIMIZER)


# One run ----------------------------------------------------------------------------------------


def test_a_run_is_scored_by_the_exact_answer() -> None:
    """The rows are those of a climb of our own, and the method is not charged for the score."""
    run = small_run(method="trace", method_options={"episodes": 8})
    outcome = perform(run)
    assert outcome.error is None
    game: Any = gym.make(GRID, map_name="4x4").unwrapped
    x = start_of(run, game)
    first = game.evaluate(x)
    assert [row.step for row in outcome.rows] == [0, 1, 2, 3]
    assert outcome.rows[0].objective == pytest.approx(first.objective, rel=1e-12)
    norm = np.linalg.norm(first.hyper_gradient)
    assert outcome.rows[0].gradient_norm == pytest.approx(norm, rel=1e-9)
    assert outcome.rows[0].estimated_objective != outcome.rows[0].objective
    env_steps = [row.env_steps for row in outcome.rows]
    assert env_steps[0] > 0 and env_steps == sorted({*env_steps})
    times = [row.wall_time for row in outcome.rows]
    assert times[0] > 0.0 and times == sorted(times)
    for row in outcome.rows:
        assert row.cosine is not None and row.relative_error is not None
        # |g - G|^2 >= |G|^2 (1 - cos^2): the shortest way to the line through g.
        assert row.relative_error**2 >= 1.0 - row.cosine**2 - 1e-12
        assert row.objective_error is None
    # A run is determined by what describes it.
    again, other = perform(run), perform(replace(run, seed=1))
    assert timeless(outcome) == timeless(again) != timeless(other)


def test_the_referee_has_a_game_and_a_time_of_its_own(monkeypatch: Patch) -> None:
    """By a clock that moves when somebody works: the method takes 1 for each x, the referee 100."""
    clock = 0.0
    played: list[Any] = []
    judged: list[Any] = []

    def working(work: Callable[..., Any], seconds: float, seen: list[Any]) -> Callable[..., Any]:
        def worked(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal clock
            clock += seconds
            seen.append(self)
            return work(self, *args, **kwargs)

        return worked

    for name, seconds, seen in (("sampler", 1.0, played), ("respond", 100.0, judged)):
        work = working(getattr(TabularModel, name), seconds, seen)
        monkeypatch.setattr(TabularModel, name, work)
    monkeypatch.setattr("bilevel_gym.benchmark.runs.time.perf_counter", lambda: clock)
    options = {"episodes": 8, "inner": "certainty-equivalence", "inner_options": {"rounds": 1}}
    outcome = perform(small_run(method="trace", method_options=options))
    assert outcome.error is None
    times = np.array([row.wall_time for row in outcome.rows])
    assert len({*np.diff(times)}) == 1 and 0.0 < times[0] < 10.0 and times[-1] < 40.0
    assert len(judged) == 4 and len({id(one) for one in judged}) == 1
    assert judged[0] not in played


def test_every_row_is_of_the_x_of_its_step(monkeypatch: Patch) -> None:
    seen: list[tuple[Any, Any]] = []

    def watched(run: Run, objective: Any, *arguments: Any) -> None:
        def noted(x: Any) -> Any:
            value, estimate = objective(x)
            seen.append((x.copy(), estimate))
            return value, estimate

        climb(run, noted, *arguments)

    monkeypatch.setattr("bilevel_gym.benchmark.runs.climb", watched)
    # So large a step that x meets its bounds.
    options = {"learning_rate": 3.0}
    run = small_run(method="trace", method_options={"episodes": 8}, optimizer_options=options)
    rows = perform(run).rows
    game: Any = gym.make(GRID, map_name="4x4").unwrapped
    assert len(seen) == len(rows) == 4
    for (x, estimate), row in zip(seen, rows, strict=True):
        answer = game.evaluate(x)
        exact = answer.hyper_gradient
        assert row.objective == pytest.approx(answer.objective, abs=1e-10)
        norm, size = np.linalg.norm(estimate), np.linalg.norm(exact)
        assert row.cosine == pytest.approx(np.vdot(estimate, exact) / (norm * size), abs=1e-7)
        error = np.linalg.norm(estimate - exact) / size
        assert row.relative_error == pytest.approx(error, rel=1e-6)
        inside = np.minimum(np.maximum(x + exact, -1.0), 1.0) - x
        assert row.projected_gradient_norm == pytest.approx(np.linalg.norm(inside), rel=1e-6)
    norms = np.array([(row.projected_gradient_norm, row.gradient_norm) for row in rows], float)
    assert (norms[:, 0] < 0.99 * norms[:, 1]).any()


def test_the_exact_method_agrees_with_the_referee_and_uses_no_environment() -> None:
    for row in perform(small_run()).rows:
        assert row.cosine == pytest.approx(1.0)
        assert row.relative_error == pytest.approx(0.0, abs=1e-6)
        assert row.objective == pytest.approx(row.estimated_objective, abs=1e-12)
        assert row.env_steps == 0


def test_all_methods_of_a_seed_start_from_the_same_x() -> None:
    runs = [small_run(method=name, steps=1) for name in ("exact", "direct", "zero-order")]
    assert len({perform(run).rows[0].objective for run in runs}) == 1
    game: Any = gym.make(GRID, map_name="4x4").unwrapped
    starts = np.array([start_of(small_run(seed=seed), game) for seed in range(50)])
    assert np.abs(starts).max() <= 0.1 and np.abs(starts).max() > 0.09, "5 % of a width of 2"
    assert (start_of(small_run(start_spread=0.0), game) == game.initial_upper_params).all()


def test_a_vanishing_estimate_has_no_cosine_and_is_wrong_by_all() -> None:
    rows = perform(small_run(method="direct", start_spread=0.0)).rows
    assert len(rows) == 4, "nor does it end the run"
    row = rows[0]
    assert row.cosine is None and row.relative_error == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_no_optimizer_goes_beyond_its_steps(name: str) -> None:
    count = 0

    def objective(x: Any) -> tuple[float, Any]:
        nonlocal count
        count += 1
        return float(np.sin(40.0 * x).sum() - x @ x), 40.0 * np.cos(40.0 * x) - 2.0 * x

    box = np.ones(2)
    climb(small_run(optimizer=name, steps=40), objective, np.full(2, 0.3), -box, box)
    assert count == 41 if name in ("adam", "normalized", "projected") else 2 <= count <= 41


def test_errors_and_warnings_of_a_run_are_part_of_its_outcome(monkeypatch: Patch) -> None:
    outcome = perform(small_run(kwargs={"map_name": "nowhere"}))
    assert outcome.error is not None and "nowhere" in outcome.error and not outcome.rows

    def warn(*_: object) -> Any:
        for _count in range(3):
            warnings.warn("mind the gap", stacklevel=1)
        raise ValueError("fallen")

    monkeypatch.setattr("bilevel_gym.benchmark.runs._scored_climb", warn)
    outcome = perform(small_run())
    assert outcome.warnings == ("mind the gap",) and outcome.error == "ValueError: fallen"


def test_the_hash_tells_runs_apart_and_labels_do_not_count() -> None:
    runs = [
        small_run(),
        small_run(seed=1),
        small_run(steps=4),
        small_run(start_spread=0.0),
        small_run(kwargs={"map_name": "8x8"}),
        small_run(method_options={"max_iterations": 9}),
        small_run(optimizer_options={"learning_rate": 0.1}),
    ]
    assert len({run.name.rpartition("-")[2] for run in runs}) == len(runs)
    renamed = parse_benchmark(SMALL.replace('label = "traced"', 'label = "other"'))
    names = [entry.run.name for entry in parse_benchmark(SMALL).entries]
    assert names == [entry.run.name for entry in renamed.entries]


# Followers who learn ----------------------------------------------------------------------------

PENDULUM = "BilevelPendulum-v0"

# Benchmarks do without PyTorch; CI has it, so that these run there.
needs_learners = pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None,
    reason='needs pip install "bilevel-gym[sb3]"',
)


def learnt_run(**changes: Any) -> Run:
    run = Run(PENDULUM, {"episode_steps": 10}, 0.05, "trace", QUICK, "adam", {}, steps=1, seed=0)
    return replace(run, **changes)


def timeless(outcome: RunOutcome) -> list[Any]:
    assert outcome.error is None, outcome.error
    return [replace(row, wall_time=0.0) for row in outcome.rows]


@needs_learners
def test_followers_who_learn_are_scored_by_the_held_out_episodes_of_their_seed() -> None:
    first, second = perform(learnt_run()).rows
    for row in (first, second):
        assert row.gradient_norm is row.projected_gradient_norm is None
        assert row.cosine is row.relative_error is None
        assert row.objective_error is not None and row.objective_error > 0.0
        # |cos| <= 1, and ten steps at a discount of .95.
        assert abs(row.objective) <= (1.0 - 0.95**10) / 0.05 and np.isfinite(row.objective)
    # Twelve steps of learning and two episodes for each x: the 32 held-out ones are not charged.
    assert [first.env_steps, second.env_steps] == [32, 64]
    # The first x and the first steps of learning are the same, and so is all that is measured.
    quick = {name: value for name, value in QUICK.items() if name != "critic_updates"}
    by_sobirl = perform(learnt_run(method="sobirl", method_options=quick))
    assert by_sobirl.rows[0].objective == first.objective
    assert perform(learnt_run(seed=1)).rows[0].objective != first.objective


@needs_learners
def test_the_climb_is_the_same_whether_or_not_somebody_watches(monkeypatch: Patch) -> None:
    """Also where the method plays as many episodes, in as many copies, as the referee."""
    for run in (
        learnt_run(method_options={**QUICK, "episodes": HELD_OUT_EPISODES}),
        learnt_run(env_id="BilevelCartPole-v0", kwargs={"episode_steps": 10}),
    ):
        watched = perform(run)
        with monkeypatch.context() as patch:
            blank = {"objective": 0.0, "objective_error": 1.0}
            referee = "bilevel_gym.benchmark.runs.held_out_referee"
            patch.setattr(referee, lambda *_, blank=blank: lambda *_: blank)
            alone = perform(run)
        assert [row.objective for row in alone.rows] == [0.0, 0.0]
        blind = [[replace(r, objective=0.0, objective_error=1.0) for r in timeless(o)]
                 for o in (watched, alone)]  # fmt: skip
        assert blind[0] == blind[1]


@needs_learners
def test_held_out_episodes_are_discounted_as_the_objective_is() -> None:
    """Every step pays 1 on the cart-pole, so that lengths tell what the return is."""
    from bilevel_gym import HyperGradient

    run = learnt_run(env_id="BilevelCartPole-v0", kwargs={"episode_steps": 20})
    outcome = perform(run)
    game: Any = gym.make(run.env_id, **run.kwargs).unwrapped
    seat = HyperGradient(game, method="trace", **QUICK)
    x = start_of(run, game)
    seat.reset(seed=0, options={"upper_params": x})
    learnt: Any = seat.method
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(2,)))
    lengths = learnt.follower.play(x, HELD_OUT_EPISODES, rng).alive.sum(axis=0)
    returns = (1.0 - 0.99**lengths) / 0.01
    assert outcome.rows[0].objective == pytest.approx(returns.mean(), rel=1e-12)
    error = returns.std(ddof=1) / np.sqrt(HELD_OUT_EPISODES)
    assert outcome.rows[0].objective_error == pytest.approx(error, rel=1e-9)
    assert len({*lengths}) > 1


@needs_learners
def test_preferences_are_measured_by_what_the_environment_would_have_paid() -> None:
    quick: dict[str, Any] = {"inner_steps": 12, "comparisons": 1, "first_comparisons": 1}
    quick["inner_options"] = {**QUICK["inner_options"], "learning_starts": 4}
    kwargs = {"episode_steps": 10, "fragment_steps": 5, "reward_model": "linear"}
    run = learnt_run(env_id="BilevelPreferencePendulum-v0", kwargs=kwargs, method="direct")
    (row, _) = perform(replace(run, method_options=quick)).rows
    # A log-likelihood as the method has it; the pendulum pays -16.3 at worst for each step.
    assert -5.0 < row.estimated_objective < 0.0 and -163.0 < row.objective < -10.0


MIXED = f"""steps = 1
seeds = 1
[engine]
workers = 2
{TASK}
[[tasks]]
id = "{PENDULUM}"
label = "pendulum"
kwargs = {{ episode_steps = 10 }}
steps = 2
method_options.trace = {json.dumps(QUICK).replace('": ', '" = ')}
{EXACT}
[[methods]]
name = "trace"
{OPTIMIZER}"""


@needs_learners
def test_networks_have_one_thread_for_as_long_as_a_run_takes(monkeypatch: Patch) -> None:
    import torch

    from bilevel_gym.learnt.traces import LearntTrace

    threads: list[int] = []
    step = LearntTrace.step

    def counted(self: Any, upper_params: Any) -> Any:
        threads.append(torch.get_num_threads())
        return step(self, upper_params)

    monkeypatch.setattr(LearntTrace, "step", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        perform(learnt_run())
        perform(learnt_run(kwargs={"episode_step": 10}))
        assert torch.get_num_threads() == 2, "left as it was"
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1]


@needs_learners
def test_tabular_and_learnt_tasks_run_alike_in_one_process_and_in_two(tmp_path: Path) -> None:
    benchmark = parse_benchmark(MIXED)
    (left,) = benchmark.left_out
    assert str(left).startswith("pendulum / exact: the task has no such method, but trace, bc-hg")
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        for entry, outcome in execute(plan(benchmark, folder), Engine(workers=workers)):
            assert outcome.error is None, (entry, outcome.error)
    alone, both = (load_results(tmp_path / name).drop(columns="wall_time") for name in "12")
    assert alone.equals(both)
    assert not alone.attrs["missing"]
    measured = alone[alone["task"] == "pendulum"]
    assert [*measured["step"]] == [0, 1, 2] and measured["objective_error"].notna().all()
    assert measured["cosine"].isna().all() and measured["gradient_norm"].isna().all()
    assert alone[alone["task"] == "grid"]["cosine"].notna().any()


@needs_learners
def test_a_method_that_no_task_of_the_file_has_is_unknown() -> None:
    with pytest.raises(ConfigError, match="line .*unknown method 'directly'.*'direct'"):
        parse_benchmark(MIXED.replace('name = "exact"', 'name = "directly"'))
    only = MIXED.replace(TASK, "").replace('[[methods]]\nname = "trace"', "")
    with pytest.raises(ConfigError, match="no method suits any task .*no such method, but trace"):
        parse_benchmark(only.replace("method_options.trace", "#"))


def test_a_follower_who_cannot_be_watched_leaves_nothing_to_score_by() -> None:
    class Blind:
        def __init__(self, game: Any) -> None:
            pass

    class Own:
        model = None

    with pytest.raises(TypeError, match="Own has no exact answer.*Blind no `follower`"):
        make_referee(Own(), Blind(None), 0)  # type: ignore[arg-type]


def test_a_missing_extra_is_named_with_the_line(tmp_path: Path, monkeypatch: Patch) -> None:
    learning = ("bilevel_gym.sb3", "bilevel_gym.learnt")
    for name in [name for name in sys.modules if name.startswith(learning)]:
        monkeypatch.delitem(sys.modules, name)
    for name in learning:  # packages are found as attributes, too
        monkeypatch.delattr(name, raising=False)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    for text, line in (
        (SMALL.replace(GRID, PENDULUM).replace('kwargs = { map_name = "4x4" }', ""), 6),
        (SMALL.replace('name = "exact"', 'name = "deep-trace"'), 13),
    ):
        (tmp_path / "learnt.toml").write_text(text)
        result = invoke(tmp_path / "learnt.toml", "--out", tmp_path / "out")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
        assert f"line {line}: " in result.stderr
        assert 'pip install "bilevel_gym[sb3]"' in result.stderr


@needs_learners
def test_the_deep_file_runs_followers_who_learn_and_scores_them_exactly_where_that_can_be() -> None:
    benchmark = parse_benchmark(shipped_text("deep"))
    named = {entry.run.method for entry in benchmark.entries}
    assert {name for name in METHODS if name.startswith("deep-")} < named
    assert {*LEARNT_METHODS} < named
    assert len({entry.run.seed for entry in benchmark.entries}) == 3
    deep = {name for name in named if name.startswith("deep-")}
    assert {cell.method for cell in benchmark.left_out} == {"exact"} | deep
    assert {cell.task for cell in benchmark.left_out} == {"Pendulum", "CartPole"}


# Results ----------------------------------------------------------------------------------------


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
    assert result.exit_code == 2 and "another benchmark is running" in result.stderr
    (tmp_path / "file").write_text("")
    result = invoke(file, "--out", tmp_path / "file" / "out")
    assert result.exit_code == 2 and "cannot write the folder" in result.stderr


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
    assert process.returncode == 2, output
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


def test_libraries_of_benchmarks_are_not_imported_with_the_package() -> None:
    code = (
        "import sys, bilevel_gym, bilevel_gym.cli, bilevel_gym.benchmark; "
        "print({'pandas', 'pyarrow', 'pydantic', 'joblib', 'dask', 'distributed', 'filelock',"
        " 'matplotlib'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("library", ("filelock", "joblib", "pandas", "pyarrow", "pydantic"))
def test_a_missing_library_is_named(library: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = invoke_small(tmp_path / "out")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert f'benchmarks need {library}: pip install "bilevel-gym[benchmark]"' in result.stderr
