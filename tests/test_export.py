"""Results as other tools read them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bilevel_gym.cli import main
from bilevel_gym.cli.exporting import FORMATS

pd = pytest.importorskip("pandas")

from bilevel_gym.benchmark import exports  # noqa: E402
from bilevel_gym.benchmark.config import parse_benchmark  # noqa: E402
from bilevel_gym.benchmark.exports import ENVIRONMENT, marl_eval  # noqa: E402
from bilevel_gym.benchmark.results import load_results  # noqa: E402

from .runs import SMALL, here  # noqa: E402
from .test_report import held_out, results  # noqa: E402

WHOLE = {
    ("hills", "exact"): (2.0, 1.0),
    ("hills", "noisy"): (1.0, 1.5),
    ("lakes", "exact"): (30.0, 29.0),
    ("lakes", "noisy"): (29.0, 20.0),
}


def check_marl_eval(tree: dict[str, Any]) -> None:
    """Assert what the README of marl-eval 0.0.4 asks of a file, and what its `check_data` does.

    "It is required that all experiment trials should be done using the same algorithms, on the same
    tasks, for the same number of independent runs and for the same amount of evaluation steps."
    """
    for tasks in tree.values():
        shapes = set()
        for algorithms in tasks.values():
            assert not any("," in name for name in algorithms)
            for runs in algorithms.values():
                for steps in runs.values():
                    *counted, last = steps
                    assert last == "absolute_metrics" and "step_count" not in steps[last]
                    assert counted == [f"step_{k}" for k in range(len(counted))]
                    counts = [steps[step]["step_count"] for step in counted]
                    assert all(isinstance(count, int) for count in counts)
                    assert counts == sorted(set(counts))
                    names = {frozenset({*step} - {"step_count"}) for step in steps.values()}
                    for step in steps.values():
                        for name, values in step.items():
                            if name != "step_count":
                                assert isinstance(values, list) and len(values) == 1
                                assert math.isfinite(values[0])
                    assert len(names) == 1
                    shapes.add((*algorithms, *runs, len(steps), *names))
        assert len(shapes) == 1, shapes


def test_the_tree_has_the_schema_and_the_numbers_of_the_table() -> None:
    frame = results(WHOLE)
    # The x of step 1 is what the method takes for the best of one run.
    chosen = (frame["method"] == "noisy") & (frame["task"] == "lakes") & (frame["seed"] == 0)
    frame.loc[chosen & (frame["step"] == 1), "estimated_objective"] = 9.0
    tree, left_out = marl_eval(frame.sample(frac=1.0, random_state=0))
    check_marl_eval(tree)
    assert left_out == [] and {*tree} == {ENVIRONMENT}
    assert {task: [*algorithms] for task, algorithms in tree[ENVIRONMENT].items()} == {
        "hills": ["exact", "noisy"],
        "lakes": ["exact", "noisy"],
    }
    run = tree[ENVIRONMENT]["lakes"]["noisy"]["seed_0"]
    assert run["step_2"] == {
        "step_count": 2,
        "objective": [24.5],
        "env_steps": [300.0],
        "stationarity": [pytest.approx(1e-6)],
    }
    assert run["absolute_metrics"]["objective"] == [22.25]
    assert tree[ENVIRONMENT]["hills"]["exact"]["seed_1"]["absolute_metrics"]["objective"] == [1.0]
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree


def test_runs_that_end_early_are_held_at_their_last_x() -> None:
    frame = results(WHOLE)
    short = (frame["task"] == "lakes") & (frame["method"] == "exact") & (frame["seed"] == 1)
    tree, _ = marl_eval(frame[~short | (frame["step"] < 3)])
    check_marl_eval(tree)
    run = tree[ENVIRONMENT]["lakes"]["exact"]["seed_1"]
    for step in (3, 4):
        assert run[f"step_{step}"] == {**run["step_2"], "step_count": step}
    assert run["absolute_metrics"]["objective"] == run["step_2"]["objective"]


def test_what_would_leave_gaps_is_left_out_and_named() -> None:
    frame = results({**WHOLE, ("hills", "bad"): (0.0, 0.0)})
    lost = (frame["task"] == "lakes") & (frame["method"] == "noisy") & (frame["seed"] == 1)
    tree, left_out = marl_eval(frame[~lost])
    check_marl_eval(tree)
    assert left_out == ["bad: it has no run on some task", "seed 1: a run of it is missing"]
    assert {*tree[ENVIRONMENT]["hills"]} == {"exact", "noisy"}
    assert {*tree[ENVIRONMENT]["hills"]["exact"]} == {"seed_0"}
    apart = {("hills", "exact"): (1.0,), ("lakes", "noisy"): (21.0,)}
    with pytest.raises(ValueError, match="nothing has run on every task alike .exact: it has no"):
        marl_eval(results(apart))


def test_without_an_exact_answer_on_every_task_there_is_no_stationarity() -> None:
    tree, _ = marl_eval(held_out(results(WHOLE), "lakes"))
    check_marl_eval(tree)
    step = tree[ENVIRONMENT]["hills"]["exact"]["seed_0"]["step_0"]
    assert {*step} == {"step_count", "objective", "env_steps"}


def test_names_suit_the_tool() -> None:
    """It parts names at commas, and writes all of them in lower case."""
    tree, _ = marl_eval(results(WHOLE, optimizers=("adam", "sgd")))
    check_marl_eval(tree)
    assert "exact; adam" in tree[ENVIRONMENT]["hills"]
    twins = results({("hills", "exact"): (2.0,), ("hills", "Exact"): (2.0,)})
    with pytest.raises(ValueError, match="labels 'Exact' and 'exact'; rename one"):
        marl_eval(twins)


def test_marl_eval_itself_takes_the_tree() -> None:
    processing = pytest.importorskip("marl_eval.utils.data_processing_utils")
    diagnosis = pytest.importorskip("marl_eval.utils.diagnose_data_errors")
    tree, _ = marl_eval(results(WHOLE))
    assert all(diagnosis.DiagnoseData(tree).check_data()[ENVIRONMENT].values())
    data = processing.data_process_pipeline(tree, ["objective"])
    final, curves = processing.create_matrices_for_rliable(data, ENVIRONMENT, ["objective"])
    assert final["mean_norm_objective"]["exact"].shape == (2, 2)
    assert curves["mean_stationarity"]["noisy"].shape == (2, 2, 5)


# The command ------------------------------------------------------------------------------------


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_the_command_knows_the_formats_that_there_are() -> None:
    assert {*FORMATS} == {*exports.FORMATS}


def test_the_command_writes_results_and_replaces_its_own_file(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    here(parse_benchmark(SMALL), folder)
    done = invoke(folder)
    assert done.exit_code == 0, done.output
    tree = json.loads((folder / "marl-eval.json").read_text())
    check_marl_eval(tree)
    frame = load_results(folder)
    kept = frame[(frame["method"] == "traced") & (frame["seed"] == 1)]
    run = tree[ENVIRONMENT]["grid"]["traced"]["seed_1"]
    for row in kept.itertuples():
        step = run[f"step_{row.step}"]
        assert step["objective"] == [row.objective]
        assert step["stationarity"] == [row.projected_gradient_norm**2]
    best = kept["estimated_objective"].to_numpy().argmax()
    assert run["absolute_metrics"]["objective"] == [kept["objective"].to_numpy()[best]]
    out = tmp_path / "new" / "file.json"
    again = invoke(folder, "--format", "marl-eval", "--out", out)
    assert again.exit_code == 0 and json.loads(out.read_text()) == tree
    next(folder.glob("runs/*exact*seed1*")).unlink()
    partial = invoke(folder)
    assert partial.exit_code == 0 and "left out: seed 1: a run of it is missing" in partial.stderr
    assert np.array_equal([*json.loads((folder / "marl-eval.json").read_text())], [ENVIRONMENT])


def test_what_cannot_be_exported_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    for arguments, said in (
        ([tmp_path / "none"], "there is no folder"),
        ([tmp_path], "is no benchmark's folder"),
        ([tmp_path, "--format", "csv"], "'csv' is not"),
    ):
        refused = invoke(*arguments)
        assert refused.exit_code == 2 and said in refused.output
    assert not any(tmp_path.iterdir())
