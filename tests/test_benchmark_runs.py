"""A single run of a benchmark: its score, its time, followers who learn."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.benchmark import (
    ConfigError,
    Run,
    execute,
    load_results,
    perform,
    plan,
    shipped_text,
)
from bilevel_gym.benchmark.config import parse_benchmark
from bilevel_gym.benchmark.runs import (
    HELD_OUT_EPISODES,
    _Limited,
    _LimitedRevisable,
    climb,
    make_referee,
    start_of,
)
from bilevel_gym.benchmark.schema import Engine
from bilevel_gym.methods import LEARNT_METHODS, METHODS
from bilevel_gym.model import TabularModel
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.optimizers.revisable import Revisable
from bilevel_gym.registration import QUICK

from .runs import (
    EXACT,
    GRID,
    OPTIMIZER,
    PENDULUM,
    SMALL,
    TASK,
    invoke,
    learnt_run,
    needs_learners,
    small_run,
    timeless,
)

Patch = pytest.MonkeyPatch

# One run ----------------------------------------------------------------------------------------


def test_a_run_is_scored_by_the_exact_answer() -> None:
    """The rows are those of a climb of our own, and the method is not charged for the score."""
    run = small_run(method="trace", method_options={"episodes": 8})
    outcome = perform(run)
    assert outcome.error is None
    assert [row.step for row in outcome.rows] == [0, 1, 2, 3]
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
    # One plan for each x, so that every step takes as long.
    inner = {"inner": "certainty-equivalence", "inner_options": {"optimism": 0.0}}
    options = {"episodes": 8, **inner}
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
    np.testing.assert_array_equal(seen[0][0], start_of(run, game))
    for (x, estimate), row in zip(seen, rows, strict=True):
        answer = game.evaluate(x)
        exact = answer.hyper_gradient
        assert row.objective == pytest.approx(answer.objective, abs=1e-10)
        assert row.gradient_norm == pytest.approx(np.linalg.norm(exact), rel=1e-6)
        norm, size = np.linalg.norm(estimate), np.linalg.norm(exact)
        assert row.cosine == pytest.approx(np.vdot(estimate, exact) / (norm * size), abs=1e-7)
        error = np.linalg.norm(estimate - exact) / size
        assert row.relative_error == pytest.approx(error, rel=1e-6)
        inside = np.minimum(np.maximum(x + exact, -1.0), 1.0) - x
        assert row.projected_gradient_norm == pytest.approx(np.linalg.norm(inside), rel=1e-6)
    norms = np.array([(row.projected_gradient_norm, row.gradient_norm) for row in rows], float)
    assert (norms[:, 0] < 0.99 * norms[:, 1]).any()


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


@needs_learners
def test_followers_who_learn_are_scored_by_the_held_out_episodes_of_their_seed() -> None:
    from bilevel_gym.learnt.followers import MEASURED  # needs PyTorch

    first, second = perform(learnt_run()).rows
    for row in (first, second):
        assert row.gradient_norm is row.projected_gradient_norm is None
        assert row.cosine is row.relative_error is None
        assert row.objective_error is not None and row.objective_error > 0.0
        # |cos| <= 1, and ten steps at a discount of .95.
        assert abs(row.objective) <= (1.0 - 0.95**10) / 0.05 and np.isfinite(row.objective)
    # Sixteen steps of learning, twelve up to the next update, and two episodes for each x: the 32
    # held-out ones are not charged. Before the first, observations are measured.
    assert [first.env_steps, second.env_steps] == [MEASURED + 36, MEASURED + 72]
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
    assert str(left).startswith(
        "pendulum / exact: the task has no such method, but zero-order, trace, sobirl"
    )
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
    with pytest.raises(
        ConfigError, match="no method suits any task .*no such method, but zero-order"
    ):
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
        assert 'pip install -e ".[sb3]"' in result.stderr


@needs_learners
def test_the_deep_file_runs_followers_who_learn_and_scores_them_exactly_where_that_can_be() -> None:
    benchmark = parse_benchmark(shipped_text("deep"))
    named = {entry.run.method for entry in benchmark.entries}
    assert {name for name in METHODS if name.startswith("deep-")} < named
    # Differences need several followers for an x.
    assert {*LEARNT_METHODS} - {"zero-order"} < named
    assert len({entry.run.seed for entry in benchmark.entries}) == 3
    deep = {name for name in named if name.startswith("deep-")}
    left_out: dict[str, set[str]] = {}
    for cell in benchmark.left_out:
        left_out.setdefault(cell.task, set()).add(cell.method)
    # Where there is a table, score is called deep-score.
    learnt, tabular = {"exact"} | deep, {"score"}
    assert left_out.pop("Pendulum") == left_out.pop("CartPole") == learnt
    assert left_out == {"GridWorld": tabular, "Incentive": tabular}


def test_what_limits_an_objective_leaves_a_revisable_one_revisable() -> None:
    # Python 3.12 looks for the members of a protocol in the class, not through `__getattr__`.
    members = [name for name in vars(Revisable) if not name.startswith("_")]
    assert len(members) == 6 and all(name in vars(_LimitedRevisable) for name in members)
    assert not isinstance(_Limited(lambda x: (0.0, x), 3), Revisable)
