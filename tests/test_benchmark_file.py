"""What a benchmark's file says, and what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bilevel_gym.benchmark import ConfigError, load_results, perform, read_benchmark, shipped_text
from bilevel_gym.benchmark import config as config_module
from bilevel_gym.benchmark.config import SHIPPED, parse_benchmark
from bilevel_gym.benchmark.schema import Source
from bilevel_gym.methods import METHODS
from bilevel_gym.methods.exact import Exact
from bilevel_gym.methods.registry import resolve_method
from bilevel_gym.methods.sampled import Sampled

from .runs import EXACT, GRID, OPTIMIZER, SMALL, in_turn, invoke

Patch = pytest.MonkeyPatch


def test_the_default_file_names_methods_without_networks_and_leaves_nothing_out() -> None:
    benchmark = parse_benchmark(shipped_text())
    assert not benchmark.left_out
    named = {entry.run.method for entry in benchmark.entries}
    assert len(named) >= 12 and named <= {m for m in METHODS if not m.startswith("deep-")}
    assert len({entry.task for entry in benchmark.entries}) == 4
    assert {entry.run.seed for entry in benchmark.entries} == {*range(5)}
    assert [entry.run.seed for entry in parse_benchmark(SMALL).entries] == [0, 0, 1, 1]


def test_the_file_of_ten_games_has_every_method_that_sees_only_episodes() -> None:
    benchmark = read_benchmark(Path(__file__).parent / "benchmarks" / "ten_games.toml")
    assert not benchmark.left_out and len({entry.task for entry in benchmark.entries}) == 10
    sampled = {
        name
        for name in METHODS
        if not name.startswith("deep-") and issubclass(resolve_method(name), Sampled)
    }
    assert {entry.run.method for entry in benchmark.entries} == {"exact", *sampled}
    last = [entry for entry in benchmark.entries if entry.task == "random, 6 features"]
    outcome = perform(replace(last[1].run, steps=1))
    assert outcome.error is None and len(outcome.rows) == 2
    assert all(row.cosine is not None and row.cosine > 0.5 for row in outcome.rows)


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
    # Reading results imports nothing that the folder names.
    (tmp_path / "own_things.py").write_text("raise SystemExit('this code was run')")
    frame = load_results(tmp_path / "results")
    assert not any(frame.attrs.values())
    (tmp_path / "own_things.py").write_text(OWN)
    errors = frame[frame["step"] == 0].set_index("method")["relative_error"]
    assert errors["own_things:Mine"] == pytest.approx(0.75) and errors["exact"] < 1e-9
    for old, new, said in (
        ("own_things:Own", "other:Own", "line 5: cannot import 'other' of 'other:Own-v0'"),
        ("own_things:Mine", "other:Mine", "line 10: cannot import 'other'"),
        ("own_things:Mine", "own_things:Min", "line 10: unknown class .*Did you mean 'Mine'"),
        ("own_things:Mine", "own_things:Own", "line 10: own_things:Own is no method: "),
        ("share", "shar", "methods.1..options.shar, line 11: .*Accepted: 'share'"),
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
    ("map_name =", "map_nam =", 9, "'map_nam'. Did you mean ", "'map_name'?"),
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
    ('"normalized"', '"climb"\nmethods = ["trace"]', 21, "label of method: 'trace'", "'traced'?"),
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


class ByRewards(Exact):
    """A method that needs an x in the rewards alone."""

    def __init__(self, model: Any) -> None:
        if model.moves_kernel:
            raise TypeError("x moves the kernel")
        super().__init__(model)


def test_a_method_that_does_not_suit_a_task_is_left_out_once() -> None:
    market = '[[tasks]]\nid = "BilevelMarkovGame-v0"\n'
    method = f'[[methods]]\nname = "{__name__}:ByRewards"\nlabel = "by rewards"\n'
    benchmark = parse_benchmark(SMALL.replace("[[methods]]", market + method + "[[methods]]", 1))
    (cell,) = benchmark.left_out
    assert (cell.task, cell.method) == ("BilevelMarkovGame-v0", "by rewards")
    assert "x moves the kernel" in cell.reason
    assert len(benchmark.entries) == 10
    with pytest.raises(ConfigError, match="no method suits any task.*moves the kernel"):
        parse_benchmark(market + method + OPTIMIZER)
