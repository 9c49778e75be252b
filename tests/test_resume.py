"""`bilevel-gym solve --resume`: what was ended early ends where it would have by itself."""

from __future__ import annotations

import json
import os
import shutil
import sys
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bilevel_gym.cli import main, recorded
from bilevel_gym.cli.arguments import CommandError
from bilevel_gym.wrappers import LeaderObjective

from .commands import GRID, LEARNT, SMALL, Run, method_set, refused

Patch = pytest.MonkeyPatch

STEPS = ("--steps", 12)

# Where even a few episodes see something.
RANDOM, TINY = "BilevelRandomMDP-v0", ("--set", "num_states=6")


def ended_after(
    monkeypatch: Patch, run: Run, evaluations: int, *arguments: object, every: int = 3
) -> None:
    """Make a run whose method's state is written at every third evaluation, and end it early."""
    made, offered = [0], [0]
    write = recorded.Memory.write

    def limited(evaluate: Any) -> Any:
        def counted(leader: LeaderObjective, x: Any) -> Any:
            made[0] += 1
            if made[0] > evaluations:
                raise KeyboardInterrupt
            return evaluate(leader, x)

        return counted

    together = LeaderObjective.together

    def one_by_one(leader: LeaderObjective, xs: Any) -> Any:
        for answer in together(leader, xs):
            yield limited(lambda leader, answer: answer)(leader, answer)

    def offer(memory: recorded.Memory, count: int) -> None:
        if offered[0] % every == 0:
            write(memory, count)
        offered[0] += 1

    with monkeypatch.context() as patch:
        for name in ("__call__", "measure"):
            patch.setattr(LeaderObjective, name, limited(getattr(LeaderObjective, name)))
        patch.setattr(LeaderObjective, "together", one_by_one)
        patch.setattr(recorded.Memory, "offer", offer)
        run(*arguments, exits=130)


def same(folder: Path, other: Path) -> None:
    for name in ("history.csv", "evaluations.bin", "config.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    with np.load(folder / "params.npz") as one, np.load(other / "params.npz") as two:
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    first, second = (json.loads((f / "result.json").read_text()) for f in (folder, other))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was ended after six evaluations."""
    out = tmp_path_factory.mktemp("runs") / "out"
    with pytest.MonkeyPatch.context() as patch:

        def run(*arguments: object, exits: int) -> Result:
            result = CliRunner().invoke(main, [str(argument) for argument in arguments])
            assert result.exit_code == exits, result.output
            return result

        ended_after(patch, run, 6, "solve", GRID, *SMALL, *STEPS, "--out", out)
    return out


@pytest.fixture
def early(ended: Path, tmp_path: Path) -> Path:
    """Return a copy of that run."""
    return Path(shutil.copytree(ended, tmp_path / "out"))


EXACT = [(name, 7) for name in ("normalized", "adam", "projected", "lbfgsb", "cobyqa", "slsqp")]


@pytest.mark.parametrize(
    ("optimizer", "evaluations"), [*EXACT, ("restarted-lbfgsb", 30), ("normalized", 20)]
)
def test_every_optimizer_goes_on(
    run: Run, tmp_path: Path, monkeypatch: Patch, optimizer: str, evaluations: int
) -> None:
    command = ("solve", GRID, *SMALL, *STEPS, "--optimizer", optimizer)
    run(*command, "--out", "whole", exits=0)
    ended_after(monkeypatch, run, evaluations, *command, "--out", "out")
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize("evaluations", [1, 9, 40, 61])
def test_the_climb_from_many_starts_goes_on(
    run: Run, tmp_path: Path, monkeypatch: Patch, evaluations: int
) -> None:
    command = ("solve", GRID, *SMALL, "--steps", 190, "--seed", 1)
    run(*command, "--out", "whole", exits=0)
    ended_after(monkeypatch, run, evaluations, *command, "--out", "out")
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")
    found = json.loads((tmp_path / "whole/result.json").read_text())
    assert found["easier_evaluations"] > 0
    assert len(found["starts"]) > 20


def test_a_run_with_a_constraint_on_a_cost_is_made_again(
    run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    budget = 'constraints=[{"cost": "payments", "at_most": 0.1}]'
    game = ("BilevelIncentive-v0", "--set", "payment_weight=0", "--set", "temperature=0.1")
    command = ("solve", *game, "--optimizer", "slsqp", "--optimizer-set", budget, "--steps", 40)
    whole = run(*command, "--out", "whole", exits=0)
    assert "largest violation of a constraint" in whole.stdout and "multipliers" in whole.stdout
    ended_after(monkeypatch, run, 7, *command, "--out", "out")
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")
    # The first steps are beyond the budget, and their objectives larger.
    with np.load(tmp_path / "whole" / "params.npz") as params:
        best, found = params["objective"], json.loads((tmp_path / "whole/result.json").read_text())
    assert found["objective"]["best"] == pytest.approx(best)
    history = np.genfromtxt(tmp_path / "whole/history.csv", delimiter=",", names=True)
    assert history["objective"].max() > best


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("exact", {"solver": "krylov"}),
    ("zero-order", {"points": 1, "baseline": "previous"}),
    ("m-sobirl", {}),
    ("amd", {}),
    ("pbrl-value", {}),
    ("pbrl-bellman", {}),
    ("pbrl-sl-value", {}),
    ("pbrl-sl-bellman", {}),
    ("slac", {"attenuation": 0.1}),
    ("annealed", {}),
    ("annealed", {"inner_method": "trace", "inner_method_options": {"episodes": 8}}),
    ("hpgd", {"episodes": 8, "inner": "exact"}),
    ("trace", {"episodes": 8, "inner": "soft-q"}),
    ("plug-in", {"episodes": 8, "inner": "certainty-equivalence"}),
    ("trace", {"episodes": 8, "inner": "sweeps"}),
    ("bc-hg", {"episodes": 8, "inner": "certainty-equivalence"}),
    ("aho", {"episodes": 8}),
    ("sobirl", {"episodes": 8}),
    ("stoc-sobirl", {"episodes": 8, "inner_options": {"forget": 0.1}}),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_every_method_goes_on_from_what_it_has_learnt(
    run: Run, tmp_path: Path, monkeypatch: Patch, method: str, options: dict[str, Any]
) -> None:
    command = ("solve", RANDOM, *TINY, *STEPS, "--method", method, *method_set(options))
    run(*command, "--seed", 5, "--out", "whole", exits=0)
    ended_after(monkeypatch, run, 6, *command, "--seed", 5, "--out", "out")
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")


def test_two_learners_go_on(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    options = {"episodes": 8, "inner": "certainty-equivalence"}
    method = ("--method", "first-order-penalty", *method_set(options))
    command = ("solve", GRID, *SMALL, *STEPS, *method, "--seed", 5)
    run(*command, "--out", "whole", exits=0)
    ended_after(monkeypatch, run, 6, *command, "--out", "out")
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize(
    "task",
    [
        ("BilevelLQR-v0",),
        ("BilevelToll-v0", "--method-set", "solver=krylov-ilu"),
        ("BilevelInverseRL-v0",),
    ],
)
def test_exact_answers_go_on_from_their_warm_starts(
    run: Run, tmp_path: Path, monkeypatch: Patch, task: tuple[str, ...]
) -> None:
    command = ("solve", *task, "--steps", 5, "--no-polish")
    run(*command, "--out", "whole", exits=0)
    ended_after(monkeypatch, run, 3, *command, "--out", "out", every=2)
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")


def test_a_follower_goes_on_learning(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    command = ("solve", *LEARNT, "--steps", 4)
    run(*command, "--out", "whole", exits=0)
    ended_after(monkeypatch, run, 3, *command, "--out", "out", every=2)
    assert not (tmp_path / "out" / "method.npz").exists()
    run("solve", "--resume", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")


# What the folder names, and what it holds ---------------------------------------------------------


OWN = """
from bilevel_gym.methods.exact import Exact

open("imported", "a").close()

class Mine(Exact):
    pass

class Forgetful:
    exact = True
    def __init__(self, model): self.method = Exact(model)
    def reset(self, rng): self.method.reset(rng)
    def step(self, x): return self.method.step(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: Patch) -> str:
    """Return the name of a module beside the user."""
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)
    return "own_methods"


def test_a_method_from_outside_is_named_again_or_trusted(
    run: Run, tmp_path: Path, monkeypatch: Patch, own: str
) -> None:
    method = ("--method", f"{own}:Mine")
    command = ("solve", GRID, *SMALL, *STEPS, *method)
    run(*command, "--out", "whole", exits=0)
    for number, said in enumerate([method, ("--trust",)]):
        out = f"out{number}"
        ended_after(monkeypatch, run, 6, *command, "--out", out)
        (tmp_path / "imported").unlink()
        monkeypatch.delitem(sys.modules, own)
        result = run("solve", "--resume", out, exits=2)
        assert f"'{own}:Mine'" in result.stderr and "--trust" in result.stderr
        assert not (tmp_path / "imported").exists() and own not in sys.modules
        run("solve", "--resume", out, *said, exits=0)
        same(tmp_path / out, tmp_path / "whole")


def test_a_method_without_a_state_begins_anew(
    run: Run, tmp_path: Path, monkeypatch: Patch, own: str
) -> None:
    command = ("solve", GRID, *SMALL, *STEPS, "--method", f"{own}:Forgetful")
    ended_after(monkeypatch, run, 6, *command, "--out", "out")
    result = run("solve", "--resume", "out", "--trust", exits=0)
    assert "keeps no state, and begins anew" in result.stderr
    lines = (tmp_path / "out" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:14]] == [str(step) for step in range(13)]


def test_a_function_that_the_folder_names_is_not_imported(run: Run, early: Path, own: str) -> None:
    path = early / "config.json"
    config = json.loads(path.read_text())
    planted: list[dict[str, Any]] = [
        {"id": "Mine-v0", "module": own},
        {"id": f"{own}:Mine-v0"},
        {"kwargs": {"map_name": "4x4", "judge": f"{own}:judge"}},
        {"method_options": {"inner_options": [{"of": f"{own}:judge"}]}},
        {"optimizer_options": {"schedule": f"{own}:judge"}},
    ]
    for change in planted:
        path.write_text(json.dumps({**config, **change}))
        run("solve", "--resume", "out", exits=2)
        assert own not in sys.modules


@pytest.mark.parametrize("cut", [1, 30, 52 * 8])
def test_a_row_cut_short_is_made_again(run: Run, tmp_path: Path, early: Path, cut: int) -> None:
    run("solve", GRID, *SMALL, *STEPS, "--out", "whole", exits=0)
    for name in ("evaluations.bin", "history.csv"):  # the state is of four evaluations of six
        path = early / name
        path.write_bytes(path.read_bytes()[:-cut] if cut < 99 else path.read_bytes() + b"1" * 9)
    run("solve", "--resume", "out", exits=0)
    same(early, tmp_path / "whole")


@pytest.mark.parametrize("name", ["config.json", "evaluations.bin", "history.csv", "method.npz"])
@pytest.mark.parametrize("content", [b"", b"junk\n" * 9, b"PK\x03\x04", b"[" * 2000, b'{"id": 1}'])
def test_damaged_files_are_refused_in_one_line(
    run: Run, early: Path, name: str, content: bytes
) -> None:
    (early / name).write_bytes(content)
    best = (early / "params.npz").read_bytes()
    refused(run("solve", "--resume", early))
    assert (early / "params.npz").read_bytes() == best


def test_a_run_that_is_over_says_so(run: Run, early: Path) -> None:
    over = "nothing was left to do"
    assert over not in run("solve", "--resume", early, exits=0).stdout
    kept = {path.name: path.read_bytes() for path in early.iterdir()}
    # At once: neither the task nor the run is made again.
    said = run("solve", "--resume", early, exits=0).stdout
    assert over in said and len(said.splitlines()) == 1
    assert kept == {path.name: path.read_bytes() for path in early.iterdir()}
    # Where the end itself was not written any more, it is now.
    (early / "result.json").unlink()
    assert over in run("solve", "--resume", early, exits=0).stdout
    assert (early / "result.json").exists()


def test_what_a_killed_run_had_half_written_is_removed(run: Run, early: Path) -> None:
    half, other = early / ".params.0123456789abcdef.npz", early / ".notes.0123456789abcdef.txt"
    for path in (half, other):
        path.write_bytes(b"half")
    run("solve", "--resume", early, exits=0)
    assert not half.exists() and other.exists()


def test_options_are_those_of_the_run(run: Run, early: Path, tmp_path: Path) -> None:
    for said, wrong in [
        (("--steps", 9), "`--steps` is taken from the run"),
        (("--out", "other"), "`--out` is taken from the run"),
        (("--set", "map_name=8x8"), "map_name of the run is '4x4', got '8x8'"),
        (("--method", "trace"), "method of the run is 'exact', got 'trace'"),
    ]:
        assert wrong in refused(run("solve", "--resume", early, *said))
    assert "no config.json" in refused(run("solve", "--resume", tmp_path))
    assert "`--trust` is for a run" in refused(run("solve", GRID, "--trust"))


def test_a_run_under_way_is_not_gone_on_with_twice(run: Run, early: Path) -> None:
    claimed = recorded.Evaluations(early, -np.ones(14), np.ones(14))
    overwrite = ("solve", GRID, "--out", early, "--overwrite")
    try:
        for again in (("solve", "--resume", early), overwrite):
            assert "still going on in another process" in run(*again, exits=1).stderr
    finally:
        claimed.close()
    run("solve", "--resume", early, exits=0)


def test_what_is_not_kept_stays_until_there_is_something_new(
    run: Run, early: Path, monkeypatch: Patch
) -> None:
    def other(*given: Any, **more: Any) -> Any:
        raise CommandError("another x")

    before = {name: (early / name).read_bytes() for name in ("evaluations.bin", "history.csv")}
    with np.load(early / "params.npz") as params:
        best = params["best_upper_params"]
    monkeypatch.setattr(recorded.Replayed, "__call__", other)
    for _ in range(2):
        refused(run("solve", "--resume", early))
        assert {name: (early / name).read_bytes() for name in before} == before
        with np.load(early / "params.npz") as params:
            np.testing.assert_array_equal(params["best_upper_params"], best)


def test_a_disk_that_takes_a_part_shifts_nothing(
    run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    class Partly(FileIO):
        def write(self, content: Any) -> int:
            return super().write(content[:100])

    command = ("solve", GRID, *SMALL, *STEPS)
    run(*command, "--out", "whole", exits=0)
    monkeypatch.setattr(recorded, "FileIO", Partly)
    run(*command, "--out", "out", exits=0)
    same(tmp_path / "out", tmp_path / "whole")


def test_forged_evaluations_are_refused_in_one_line(run: Run, early: Path) -> None:
    path = early / "evaluations.bin"
    rows = np.fromfile(path, dtype="<f8").reshape(-1, 29)
    rows[3, 5] = 1.5
    rows.tofile(path)
    assert "not every x in it is in the box" in refused(run("solve", "--resume", early))


@pytest.mark.parametrize("name", ["config.json", "history.csv"])
def test_files_without_end_are_refused_in_one_line(run: Run, early: Path, name: str) -> None:
    os.truncate(early / name, 1 << 34)  # takes no space
    assert "bytes, and at most" in refused(run("solve", "--resume", early))


def test_a_start_is_found_from_another_folder(
    run: Run, early: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = ("--start", "out/params.npz")
    ended_after(monkeypatch, run, 0, "solve", GRID, *SMALL, *STEPS, *start, "--out", "new")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    run("solve", "--resume", "../new", exits=0)
    params = [np.load(folder / "params.npz") for folder in (tmp_path / "new", early)]
    np.testing.assert_array_equal(params[0]["initial_upper_params"], params[1]["best_upper_params"])
