"""The raw results that are kept: whole, readable, and what the pages say of them."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import pytest

pd = pytest.importorskip("pandas")

from bilevel_gym.benchmark.config import parse_benchmark  # noqa: E402
from bilevel_gym.benchmark.results import RUNS, load_results  # noqa: E402
from bilevel_gym.benchmark.tables import summarise  # noqa: E402
from docs import results  # noqa: E402

from .runs import SMALL, here  # noqa: E402
from .test_export import check_marl_eval  # noqa: E402


@pytest.mark.parametrize("name", results.names())
def test_files_are_those_of_the_manifest_and_small(name: str) -> None:
    assert results.damaged(name) == []
    assert sum(path.stat().st_size for path in (results.RESULTS / name).iterdir()) < 1.5e6


def test_the_default_results_are_complete() -> None:
    about, rows = results.manifest(), pd.read_csv(results.RESULTS / "default" / results.ROWS_FILE)
    runs = rows.groupby(["task", "method", "optimizer", "seed"]).size()
    ways = rows[["method", "optimizer"]].drop_duplicates()
    assert len(runs) == about["runs"] == len(about["tasks"]) * len(ways) * 5
    assert {*ways.query("method == 'exact'")["optimizer"]} == {"normalized", "climb"}
    assert set(rows["task"]) == {*about["tasks"]} and set(rows["method"]) == {*about["methods"]}
    assert about["seeds"] == sorted(rows["seed"].unique()) and about["versions"]


def test_the_table_of_methods_is_that_of_the_results() -> None:
    (written,) = results.TABLE.findall(results.PAGE.read_text(encoding="utf-8"))
    assert written == results.method_table(), "python -m docs.results RUN writes it"


def test_the_file_for_marl_eval_returns_what_the_runs_return() -> None:
    text = lzma.decompress((results.RESULTS / "default" / results.MARL_EVAL).read_bytes())
    (tree,) = json.loads(text).values()
    for run in results.tables().runs.itertuples():
        kept = tree[run.task][run.label.replace(",", ";")][f"seed_{run.seed}"]
        assert kept["absolute_metrics"]["objective"] == [pytest.approx(run.returned_objective)]


def test_a_run_is_kept_in_few_digits_and_comes_to_the_same(tmp_path: Path) -> None:
    run = tmp_path / "run"
    here(parse_benchmark(SMALL), run)
    kept = results.keep(run, tmp_path / "kept", commit="0123abc")
    about = json.loads((kept / results.MANIFEST).read_text())
    assert about["commit"] == "0123abc" and about["runs"] == 4 and about["seeds"] == [0, 1]
    assert about["methods"] == {"exact": "exact", "traced": "trace"}
    assert about["versions"][0]["python"] and about["finished"]
    assert {*about["sha256"], results.MANIFEST} == {path.name for path in kept.iterdir()}
    check_marl_eval(json.loads(lzma.decompress((kept / results.MARL_EVAL).read_bytes())))
    rows = pd.read_csv(kept / results.ROWS_FILE)
    exact, rounded = (
        summarise(frame).runs["returned_objective"]
        for frame in (load_results(run), rows.assign(best_known=math.nan))
    )
    assert rounded.to_numpy() == pytest.approx(exact.to_numpy(), rel=1e-5)


def test_a_run_that_is_not_complete_is_not_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    here(parse_benchmark(SMALL), run)
    next((run / RUNS).glob("*.parquet")).unlink()
    with pytest.raises(ValueError, match="not done: grid"):
        results.keep(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_file_that_was_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    here(parse_benchmark(SMALL), run)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    kept = results.keep(run, tmp_path / "results" / "mine")
    assert results.names() == ["mine"] and results.damaged("mine") == []
    (kept / "benchmark.toml").write_text("steps = 4\n")
    (kept / results.MARL_EVAL).unlink()
    assert results.damaged("mine") == ["benchmark.toml", results.MARL_EVAL]
