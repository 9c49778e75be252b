"""The report of a benchmark: its statistics, its tables and its figures."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bilevel_gym.benchmark import charts
from bilevel_gym.benchmark.charts import _spread, learning_curve, make_styles, windows
from bilevel_gym.benchmark.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    normalised_score,
    optimality_gap,
    performance_profile,
    pooled,
    probability_of_improvement,
)

Patch = pytest.MonkeyPatch

pd = pytest.importorskip("pandas")

from bilevel_gym.benchmark.report import PAGE, markdown, write_report  # noqa: E402
from bilevel_gym.benchmark.tables import COLUMNS, summarise  # noqa: E402
from bilevel_gym.cli import main  # noqa: E402
from bilevel_gym.cli.reporting import report as command  # noqa: E402

FINALS = {
    ("hills", "exact"): (2.0, 2.0, 2.0),
    ("hills", "noisy"): (1.0, 1.5, 0.5),
    ("hills", "bad"): (-3.0, 0.0, 0.25),
    ("lakes", "exact"): (30.0, 30.0, 30.0),
    ("lakes", "noisy"): (29.0, 20.0, 28.0),
}
EXACT_COLUMNS = ["objective_error", "projected_gradient_norm", "cosine"]
STARTS, KNOWN = {"hills": 0.0, "lakes": 20.0}, {"hills": 2.0, "lakes": np.nan}


def results(
    finals: Mapping[tuple[str, str], tuple[float, ...]] = FINALS,
    steps: int = 4,
    optimizers: tuple[str, ...] = ("adam",),
) -> Any:
    """Return runs that climb from the start to their final value in straight lines."""
    rows = [
        {
            "task": task,
            "method": method,
            "optimizer": optimizer,
            "seed": seed,
            "step": step,
            "env_steps": 100 * (step + 1) if method == "noisy" else 0,
            # The first evaluation takes long: it compiles.
            "wall_time": 9.0 + step * (0.5 if method == "noisy" else 0.25),
            "estimated_objective": float(step),  # the last is returned
            "objective": STARTS[task] + (final - STARTS[task]) * step / steps,
            "objective_error": np.nan,
            "projected_gradient_norm": 0.1 * 10.0 ** (seed - step),
            "cosine": 1.0 if method == "exact" else np.nan if method == "bad" else 0.05 * step**2,
            "best_known": KNOWN[task],
        }
        for (task, method), values in finals.items()
        for optimizer in optimizers
        for seed, final in enumerate(values)
        for step in range(steps + 1)
    ]
    return pd.DataFrame(rows)


def lifted(frame: Any, *heights: float) -> Any:
    """Return results in which all runs of a seed lie higher by that seed's number."""
    frame = frame.copy()
    frame["objective"] += frame["seed"].map(dict(enumerate(heights)))
    return frame


def held_out(frame: Any, *tasks: str) -> Any:
    """Return results in which some tasks have no exact answer, and were measured in episodes."""
    frame = frame.copy()
    frame.loc[frame["task"].isin(tasks), EXACT_COLUMNS] = (0.25, np.nan, np.nan)
    return frame


# Statistics -------------------------------------------------------------------------------------


def by_hand(
    strata: list[list[float]], statistic: Callable[[list[list[float]]], float], draws: int
) -> tuple[float, float]:
    """Return the stratified percentile interval, with loops and random numbers of their own."""
    rng = np.random.default_rng(123)
    found = [
        statistic([[s[rng.integers(len(s))] for _ in s] for s in strata]) for _ in range(draws)
    ]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def middle_half(strata: list[list[float]]) -> float:
    scores = sorted(score for stratum in strata for score in stratum)
    cut = len(scores) // 4
    kept = scores[cut : len(scores) - cut]
    return sum(kept) / len(kept)


def test_statistics_of_scores_are_those_of_their_definitions() -> None:
    scores = np.array([9.0, 1.0, 2.0, -50.0, 3.0, 4.0, 5.0, 100.0])
    assert interquartile_mean(scores) == (2.0 + 3.0 + 4.0 + 5.0) / 4
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0
    assert optimality_gap(np.array([0.5, 1.0, 3.0, -1.0])) == (0.5 + 0.0 + 0.0 + 2.0) / 4
    scores = normalised_score(np.array([1.0, 3.0, 0.0, 5.0]), np.array(1.0), np.array(3.0))
    np.testing.assert_array_equal(scores, [0.0, 1.0, -0.5, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(normalised_score(np.array([1.0]), np.array(1.0), np.array(1.0))).all()


def test_bootstrap_intervals_agree_with_loops() -> None:
    strata = [[0.1, 0.5, 0.9, 0.3, 0.2], [0.7, 0.75, 0.2], [0.95]]
    interval = bootstrap_interval([np.array(s) for s in strata], pooled(interquartile_mean))
    assert interval.value == pytest.approx(middle_half(strata))
    low, high = by_hand(strata, middle_half, 4000)
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)


def test_the_bootstrap_is_stratified_and_a_function_of_its_seed() -> None:
    """Runs of two tasks that agree within each task leave no uncertainty, far apart as they are."""
    interval = bootstrap_interval([np.zeros(4), np.ones(4)], pooled(mean))
    assert interval.low == interval.value == interval.high == 0.5
    opposite = np.arange(5.0)
    drawn_apart = bootstrap_interval([opposite, -opposite], pooled(mean))
    assert drawn_apart.low < -0.5 and drawn_apart.high > 0.5
    scores = [np.random.default_rng(0).random(7)]
    first, again, other = (bootstrap_interval(scores, pooled(mean), seed=s) for s in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)


@pytest.mark.parametrize("strata", ([[0.3]], [[0.3], [0.4]], [[0.1] * 3, [0.1] * 5]))
def test_without_spread_intervals_have_no_width_and_do_not_warn(strata: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistic in (interquartile_mean, mean, optimality_gap):
            interval = bootstrap_interval([np.array(s) for s in strata], pooled(statistic))
            np.testing.assert_allclose([interval.low, interval.high], interval.value, rtol=1e-14)


def test_all_points_of_a_curve_are_resampled_alike_and_in_any_number() -> None:
    """Resampled apart, the interval of a sum would not be that of its terms."""
    runs = np.random.default_rng(0).random(6)
    curve = bootstrap_interval([np.stack([runs, 2.0 * runs, -runs])], pooled(mean))
    np.testing.assert_allclose(curve.high[1], 2.0 * curve.high[0])
    np.testing.assert_allclose(curve.low[2], -curve.high[0])
    long = bootstrap_interval([np.tile(runs, (1000, 1))], pooled(mean))
    assert long.low.shape == (1000,) and np.ptp(long.low) == 0.0


def test_a_performance_profile_is_the_share_of_runs_above_each_score() -> None:
    strata = [np.array([0.0, 0.5, 1.0]), np.array([0.5])]
    thresholds = np.array([-1.0, 0.0, 0.25, 0.5, 1.0])
    profile = performance_profile(strata, thresholds)
    by_loop = [
        sum(score > t for s in strata for score in s) / sum(map(len, strata)) for t in thresholds
    ]
    np.testing.assert_allclose(profile.value, by_loop)
    assert (profile.low <= profile.value).all() and (profile.value <= profile.high).all()
    assert profile.low[0] == 1.0 and profile.high[-1] == 0.0
    # The single run of the second task is above .25 in every resample.
    assert profile.low[2] == 0.25


def test_the_probability_of_improvement_counts_pairs_on_each_task() -> None:
    first = [np.array([1.0, 2.0, 3.0]), np.array([5.0])]
    second = [np.array([2.0, 0.0]), np.array([5.0, 4.0])]
    wins = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs])
        for ours, theirs in zip(first, second, strict=True)
    ]
    found = probability_of_improvement(first, second)
    assert found.value == pytest.approx(np.mean(wins))
    reverse = probability_of_improvement(second, first)
    assert found.value + reverse.value == pytest.approx(1.0)
    assert found.low < found.value < found.high


# Tables -----------------------------------------------------------------------------------------


def test_scores_are_measured_by_the_best_value_and_methods_ranked_by_their_middle_half() -> None:
    tables = summarise(results())
    tasks = tables.tasks.set_index("task")
    assert (tasks.loc["hills", "start"], tasks.loc["hills", "best"]) == (0.0, 2.0)
    assert (tasks.loc["lakes", "start"], tasks.loc["lakes", "best"]) == (20.0, 30.0)
    assert list(tasks["measured_by"]) == ["best known", "found here"]
    runs = tables.runs.set_index(["task", "label", "seed"])["score"]
    assert runs["hills", "noisy", 1] == 0.75
    assert runs["hills", "bad", 0] == -1.5
    assert runs["lakes", "noisy", 0] == pytest.approx(0.9)
    assert [a.label for a in tables.aggregates] == ["exact", "noisy", "bad"]
    second = tables.aggregates[1]
    scores = [[0.5, 0.75, 0.25], [0.9, 0.0, 0.8]]
    assert second.tasks == ("hills", "lakes") and second.runs == 6
    assert second.score.value == pytest.approx(middle_half(scores))
    assert tables.aggregates[2].tasks == ("hills",)
    assert tables.common == ("hills",)
    cells = tables.cells.set_index(["task", "label"])
    noisy = cells.loc[("hills", "noisy")]
    assert noisy["objective"] == 1.0
    assert 0.5 <= noisy["low"] < 1.0 < noisy["high"] <= 1.5
    assert noisy["best_objective"] == 1.5
    assert noisy["median_cosine"] == pytest.approx(0.2)
    assert noisy["env_steps"] == 500
    assert noisy["seconds_per_step"] == 0.5  # without the nine seconds of the first evaluation
    assert noisy["times_exact"] == 2.0
    assert np.isnan(cells.loc[("hills", "bad")]["median_cosine"])


def test_runs_are_scored_from_the_start_of_their_own_seed() -> None:
    """A run that never moves has a score of zero, however far the starts of seeds lie apart."""
    frame = lifted(results({("hills", "bad"): (0.0, 0.0), ("hills", "exact"): (1.0, 1.0)}), -8, 0)
    tables = summarise(frame)
    assert tables.tasks.loc[0, "start"] == -4.0
    runs = tables.runs.set_index(["label", "seed"])
    assert list(runs.loc["bad"]["start"]) == [-8.0, 0.0]
    assert list(runs.loc["bad"]["score"]) == [0.0, 0.0]
    assert list(runs.loc["exact"]["score"]) == [0.1, 0.5]
    assert tables.aggregates[1].score.high == 0.0
    # Nobody climbs a task whose best is the start of a lucky seed.
    finals = {("lakes", "bad"): (20.0, 20.0), ("lakes", "noisy"): (19.0, 18.0)}
    tables = summarise(lifted(results(finals), 0, 5))
    assert (tables.tasks.loc[0, "start"], tables.tasks.loc[0, "best"]) == (22.5, 25.0)
    assert tables.runs["score"].isna().all() and tables.aggregates == []


@pytest.mark.usefixtures("no_figures")
def test_a_seed_that_starts_at_the_best_value_gives_no_scores_and_is_named(tmp_path: Path) -> None:
    finals = {("lakes", "bad"): (20.0, 20.0), ("lakes", "noisy"): (24.0, 19.0)}
    frame = lifted(results({**finals, ("hills", "bad"): (1.0, 1.0)}), 0, 5)
    tables = write_report(frame, tmp_path)
    runs = tables.runs[tables.runs["task"] == "lakes"].set_index(["label", "seed"])["score"]
    assert (runs["bad", 0], runs["noisy", 0]) == (0.0, 0.8)
    assert runs.loc[:, 1].isna().all()
    assert [(a.label, a.runs) for a in tables.aggregates] == [("noisy", 1), ("bad", 3)]
    lines = (tmp_path / PAGE).read_text().splitlines()
    assert "* lakes, seed 1: nothing above its start, so it gives no scores" in lines
    common = lines[lines.index("## Learning curves") - 3 :]
    assert common[:2] == [  # on lakes, that both ran on
        "| noisy | 1 | 1 | 0.800 | 0.200 |",
        "| bad | 1 | 1 | 0.000 | 1.000 |",
    ]


def test_a_run_is_scored_by_the_x_that_its_method_holds_for_the_best() -> None:
    """Neither the last, which may be a probe, nor the best, which only the referee can tell."""
    frame = results({("hills", "noisy"): (2.0,)})
    frame["estimated_objective"] = [0.0, np.nan, 3.0, 3.0, 2.0]
    runs = summarise(frame).runs.iloc[0]
    assert (runs["returned_objective"], runs["score"]) == (1.0, 0.5)
    assert (runs["objective"], runs["best_objective"]) == (2.0, 2.0)


def test_a_best_known_value_that_is_exceeded_gives_way_to_what_was_found() -> None:
    above = {**FINALS, ("hills", "exact"): (2.5, 2.0, 2.0)}
    tables = summarise(results(above))
    assert tables.tasks.loc[0, "best"] == 2.5
    assert tables.tasks.loc[0, "measured_by"] == "found here"
    rounding = {**FINALS, ("hills", "exact"): (2.0 + 1e-12, 2.0, 2.0)}
    assert summarise(results(rounding)).tasks.loc[0, "measured_by"] == "best known"


@pytest.fixture
def no_figures(monkeypatch: Patch) -> None:
    """Leave out what takes long and is not looked at."""
    monkeypatch.setattr(
        "bilevel_gym.benchmark.report._draw",
        lambda frame, tables, folder: {task: "task.png" for task in tables.tasks["task"]},
    )


@pytest.mark.usefixtures("no_figures")
def test_rows_without_a_finite_objective_count_nowhere_and_are_reported(tmp_path: Path) -> None:
    frame = results({("hills", "noisy"): (1.0, 2.0, 0.5)})
    whole = summarise(frame)
    frame.loc[frame["step"] == 4, "objective"] = np.nan
    tables = write_report(frame, tmp_path)
    assert (whole.dropped, tables.dropped) == (0, 3)
    assert list(tables.runs["steps"]) == [3, 3, 3]
    assert "3 rows without a finite objective" in (tmp_path / PAGE).read_text()


def test_a_table_that_is_no_table_of_results_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the columns cosine"):
        summarise(results().drop(columns="cosine"))
    with pytest.raises(ValueError, match="no row has a finite objective, of 0"):
        summarise(pd.DataFrame(columns=COLUMNS))
    twice = pd.concat([results(), results()])
    with pytest.raises(ValueError, match="task hills, label exact, seed 0, step 0"):
        summarise(twice)


def test_curves_keep_their_ends_and_cosines_are_averaged_over_windows() -> None:
    frame = results({("hills", "noisy"): (1.0, 1.0)}, steps=3)
    frame.loc[frame["step"] == 3, "cosine"] = np.nan
    middles, cosines = windows(frame, "cosine", 2, "mean")
    np.testing.assert_allclose(middles, [0.5, 2.0])
    np.testing.assert_allclose(cosines, [0.025, 0.2])
    # Runs that stop early stay where they are.
    frame = results({("hills", "noisy"): (1.0, 2.0)})
    frame = frame[(frame["seed"] == 0) | (frame["step"] <= 2)]
    curve = learning_curve(frame)
    np.testing.assert_allclose(curve.objective.value, [0.0, 0.375, 0.75, 0.875, 1.0])
    np.testing.assert_allclose(curve.env_steps, [100, 200, 300, 350, 400])
    assert summarise(frame).cells.loc[0, "objective"] == 1.0
    curve = learning_curve(results({("hills", "noisy"): (1.0,)}, steps=1000))
    assert len(curve.steps) == 200 and curve.steps[0] == 0 and curve.steps[-1] == 1000
    np.testing.assert_allclose(curve.objective.value, curve.steps / 1000)


# The page and the figures -----------------------------------------------------------------------


ABOUT = {
    "missing": ["lakes / bad / adam, seed 1", "lakes / bad / adam, seed 2"],
    "left_out": ["lakes / bad: its x moves the kernel"],
    "damaged": ["a.parquet: it cannot be read"],
    "others": ["b.parquet"],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("report")
    frame = results()
    frame.attrs = ABOUT
    write_report(frame, folder)
    return folder


def test_the_page_says_what_was_run_and_its_figures_exist_and_are_small(written: Path) -> None:
    page = (written / PAGE).read_text()
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert sorted(linked) == sorted(path.name for path in written.glob("*.png"))
    assert len(linked) == 6 + 2  # overviews, and one of each task
    for name in linked:
        assert (written / name).stat().st_size < 1_000_000
        with Image.open(written / name) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").resize((200, 200)).getcolors(40_000) or ()) > 10
    assert "15 runs: 2 tasks, 3 methods, up to 4 steps of the leader, seeds 0 to 2" in page
    assert (
        "| noisy | 1.0000 [0.5000, 1.5000] | 1.0000 | 1.5000 | 1.0e-08 | 0.20 | 500 | 500 | 2 | 3 |"
        in page
    )
    assert "| lakes | 20.000 | 30.000 | largest here, none known | 2 | 6 |" in page
    assert "| lakes / bad / adam | 2 | 1 2 |" in page
    for text in ("its x moves the kernel", "a.parquet: it cannot be read", "ignored: b.parquet"):
        assert text in page
    assert "On those that all ran on (hills):" in page
    table_lines = [line for line in page.splitlines() if line.startswith("|")]
    assert max(map(len, table_lines)) < 120


def test_reports_of_the_same_table_are_the_same_in_any_order(written: Path, tmp_path: Path) -> None:
    frame = results().sample(frac=1.0, random_state=0)
    frame.attrs = ABOUT
    write_report(frame, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in written.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_labels_name_the_optimizer_only_where_there_are_several() -> None:
    frame = results({("hills", "exact"): (1.0,)}, optimizers=("adam", "lbfgsb"))
    tables = summarise(frame)
    assert set(tables.runs["label"]) == {"exact, adam", "exact, lbfgsb"}
    assert set(tables.cells["times_exact"]) == {1.0}
    assert set(summarise(results()).runs["label"]) == {"exact", "noisy", "bad"}


def test_a_report_copes_with_runs_that_never_move(tmp_path: Path) -> None:
    """One evaluation, no gradient, no environment steps and a climb of zero."""
    frame = results({("lakes", "bad"): (20.0,)}, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = write_report(frame[frame["step"] == 0], tmp_path)
    assert tables.aggregates == []
    page = (tmp_path / PAGE).read_text()
    assert "lakes: nothing above its start, so it gives no scores" in page
    named = {"objective.png", "stationarity.png", "task-lakes.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == named


def test_a_report_copes_with_tasks_that_have_no_exact_answer(tmp_path: Path) -> None:
    """Alone there is nothing to compare a hyper-gradient with, nor `exact` to be slower than."""
    frame = results({("lakes", "noisy"): (29.0, 20.0), ("lakes", "bad"): (20.0, 21.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = write_report(held_out(frame, "lakes"), tmp_path)
    assert tables.tasks.loc[0, "standard_error"] == 0.25
    assert tables.cells[["median_cosine", "times_exact"]].isna().all(axis=None)
    assert not (tmp_path / "cosine.png").exists()
    assert not (tmp_path / "stationarity.png").exists()
    assert tables.cells["returned_stationarity"].isna().all()
    page = (tmp_path / PAGE).read_text()
    assert "held-out episodes at each step: lakes (median standard error 0.25)." in page
    assert "| noisy | 24.500 [20.000, 29.000] | 24.500 | 29.000 |  |  | 500 | 500 |  | 2 |" in page


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("top", "scored"), ((20.51, True), (20.49, False)))
def test_climbs_within_two_errors_give_no_scores(top: float, scored: bool, tmp_path: Path) -> None:
    """The standard error of held-out episodes is a quarter."""
    finals = {**FINALS, ("lakes", "exact"): (top,) * 3, ("lakes", "noisy"): (20.2, 20.1, 20.0)}
    tables = write_report(held_out(results(finals), "lakes"), tmp_path)
    runs = tables.runs[tables.runs["task"] == "lakes"]
    assert np.isfinite(runs["score"]).all() == scored and np.isfinite(runs["score"]).any() == scored
    both = ("hills", "lakes") if scored else ("hills",)
    assert [a.tasks for a in tables.aggregates] == [both, both, ("hills",)]
    page = (tmp_path / PAGE).read_text()
    within = "lakes: best - start is within two standard errors"
    assert (f"\n{within}: its scores say nothing.\n" in page) != scored
    assert (f"\n* {within}, so it gives no scores\n" in page) != scored
    assert summarise(results(finals)).aggregates[0].tasks == ("hills", "lakes")  # where F is exact


@pytest.mark.usefixtures("no_figures")
def test_a_seed_whose_climb_is_within_two_standard_errors_is_left_out(tmp_path: Path) -> None:
    frame = held_out(lifted(results({("lakes", "noisy"): (24.0, 19.5)}), 0, 3.75), "lakes")
    tables = write_report(frame, tmp_path)
    assert tables.aggregates[0].runs == 1 and tables.aggregates[0].score.value == 1.0
    assert "lakes, seed 1: best - start is within two" in (tmp_path / PAGE).read_text()


@pytest.mark.usefixtures("no_figures")
def test_methods_whose_runs_are_the_same_are_named(tmp_path: Path) -> None:
    one = {("hills", "exact"): (2.0, 1.0), ("lakes", "exact"): (30.0, 29.0)}
    frame = pd.concat(
        [results(one).assign(method=name) for name in ("exact", "twin", "cousin", "shorter")]
    ).reset_index(drop=True)
    rows = (frame["step"] == 2) & (frame["seed"] == 1)
    frame.loc[rows & (frame["method"] == "twin"), "objective"] *= 1.0 + 1e-12
    frame.loc[rows & (frame["method"] == "cousin"), "objective"] *= 1.0 + 1e-6
    frame = frame[(frame["method"] != "shorter") | (frame["step"] < 4) | (frame["task"] == "lakes")]
    write_report(frame, tmp_path)
    lines = [line for line in (tmp_path / PAGE).read_text().splitlines() if "the same." in line]
    assert lines == [
        "On hills the runs of `exact` and `twin` are the same.",
        "On lakes the runs of `exact`, `shorter` and `twin` are the same.",
    ]
    write_report(frame[frame["step"] == 0], tmp_path)
    assert "are the same." not in (tmp_path / PAGE).read_text()  # all start alike


def test_exact_and_held_out_tasks_are_told_apart(tmp_path: Path, monkeypatch: Patch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        charts, "save_figure", lambda figure, path: drawn.update({path.name: figure})
    )

    def said(name: str) -> tuple[list[str], list[str]]:
        axes = drawn[name].get_axes()
        return [a.get_ylabel() for a in axes], [a.get_title(loc="left") for a in axes]

    tables = write_report(held_out(results(), "lakes"), tmp_path)
    assert said("objective.png") == (["objective F(x)", ""], ["hills", "lakes, held-out episodes"])
    assert said("env_steps.png")[1] == ["hills", "lakes, held-out episodes"]
    assert said("cosine.png")[1] == ["hills"]
    assert said("task-hills.png")[0] == ["exact objective F(x)"]
    assert said("task-lakes.png")[0] == ["leader's return in held-out episodes"]
    page = (tmp_path / PAGE).read_text()
    assert "hills (median" not in page and "lakes (median standard error 0.25)" in page
    assert list(tables.tasks["standard_error"].notna()) == [False, True]
    write_report(results(), tmp_path)
    assert said("objective.png") == (["exact objective F(x)", ""], ["hills", "lakes"])
    assert "Not exact" not in (tmp_path / PAGE).read_text()


def test_task_names_of_all_kinds_become_different_files(tmp_path: Path) -> None:
    frame = results({("hills", "exact"): (1.0,)})
    names = ("a/b $x$", "a|b $x$")
    write_report(pd.concat([frame.assign(task=name) for name in names]), tmp_path)
    assert len(list(tmp_path.glob("task-*.png"))) == 2
    assert r"| a\|b $x$ |" in (tmp_path / PAGE).read_text()


def test_methods_look_different_labels_keep_their_distance_and_tables_hold_bars() -> None:
    styles = make_styles(f"method {k}" for k in range(48))
    assert len({(style["color"], style["linestyle"]) for style in styles.values()}) == 48
    first = list(styles.values())[:12]
    assert len({style["color"] for style in first}) == 12
    places = _spread([0.0, 0.99, 0.99, 1.0, 1.0], 0.1)
    assert np.diff(places).min() >= 0.1 - 1e-12
    assert places[0] == 0.0 and places[-1] == 1.0
    assert _spread([0.2, 0.6], 0.1) == [0.2, 0.6]
    assert markdown(("a", "b"), [("x|y\nz", "1")]) == "| a | b |\n| --- | --: |\n| x\\|y z | 1 |"


# The command ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
def test_the_command_prints_ranking_and_place(tmp_path: Path, monkeypatch: Patch) -> None:
    finals = {("hills", "bad"): (-1.0,), ("hills", "noisy"): (1.0,), ("hills", "exact"): (2.0,)}
    frame = results(finals)
    frame.attrs = {"missing": ["hills / bad / adam, seed 1"]}
    monkeypatch.setattr("bilevel_gym.benchmark.load_results", lambda folder: frame)
    elsewhere = tmp_path / "a" / "b"
    result = CliRunner().invoke(command, [str(tmp_path), "--out", str(elsewhere)])
    assert result.exit_code == 0, result.output
    assert f"report: {elsewhere / PAGE}" in result.output
    assert (elsewhere / PAGE).exists() and not (tmp_path / "report").exists()
    assert "1 run is not done" in result.output
    lines = [line.split() for line in result.output.splitlines() if line.strip()]
    ranking = ["exact", "noisy", "bad"]
    assert [line[0] for line in lines if line[0] in ranking] == ranking


def test_the_command_names_what_is_wrong_with_a_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    def fails(folder: object, *words: str, out: Any = tmp_path / "out") -> None:
        result = CliRunner().invoke(main, ["report", str(folder), "--out", str(out)])
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
        assert all(word in result.output for word in words)

    fails(tmp_path / "nowhere", "there is no folder", "nowhere")
    fails(tmp_path, "benchmark.toml")
    empty = pd.DataFrame(columns=COLUMNS)
    monkeypatch.setattr("bilevel_gym.benchmark.load_results", lambda folder: empty)
    fails(tmp_path, "no finished run")

    def without_extra(folder: object) -> None:
        raise ImportError('benchmarks need pandas: pip install -e ".[benchmark]"')

    monkeypatch.setattr("bilevel_gym.benchmark.load_results", without_extra)
    fails(tmp_path, 'pip install -e ".[benchmark]"')
    monkeypatch.setattr("bilevel_gym.benchmark.load_results", lambda folder: results())
    (tmp_path / "file").write_text("")
    fails(tmp_path, "cannot write the folder", out=tmp_path / "file/x")
