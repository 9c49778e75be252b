"""The benchmark of eleven environments: what is counted in its records, and its jobs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient
from bilevel_gym.learnt.followers import MEASURED
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.wrappers import LeaderObjective

from .benchmarks.worlds import LeaderRewards, Search, Steps, run, setting
from .benchmarks.worlds_report import (
    Job,
    Record,
    Runs,
    Score,
    append,
    errors_better,
    pooled,
    print_report,
    read,
)
from .benchmarks.worlds_tasks import WORLDS, make

BUDGET = 100


def record(
    world: str, contender: str, mean: float, error: float, *, seed: int = 0, tag: str = ""
) -> Record:
    job = Job(tag, world, seed, contender, BUDGET)
    settings = {"x": 1} if tag else {}
    return Record(job, mean, error, 7.0, 90, 10, 1.5, [0.0, 1.0], settings)


# In a, the climb is harmful with seed 0 (by 4 errors) and good with seed 1, and so is direct
# training throughout; in b nothing helps, and the climb is a little worse (by 2.5 errors).
MADE_UP = [
    record("a", "start", 0.0, 0.0),
    record("a", "climb", -4.0, 1.0),
    record("a", "direct", 10.0, 1.0),
    record("a", "start", 0.0, 3.0, seed=1),
    record("a", "climb", 22.0, 4.0, seed=1),
    record("a", "direct", 10.0, 1.0, seed=1),
    record("b", "start", 5.0, 3.0),
    record("b", "climb", -7.5, 4.0),
    record("b", "direct", 6.0, 4.0),
]


def records(*more: Record) -> dict[Job, Record]:
    return {one.job: one for one in [*MADE_UP, *more]}


def test_a_difference_is_measured_in_its_standard_errors() -> None:
    assert errors_better(Score(7.0, 3.0), Score(2.0, 4.0)) == 1.0
    assert errors_better(Score(-500.0, 0.0), Score(-500.0, 0.0)) == 0.0
    assert errors_better(Score(-501.0, 0.0), Score(-500.0, 0.0)) == -math.inf


def test_the_error_of_a_mean_over_seeds_is_that_of_independent_means() -> None:
    assert pooled([Score(1.0, 3.0), Score(2.0, 4.0)]) == (1.5, 2.5)


def test_runs_that_are_worse_or_better_than_their_starts_are_counted() -> None:
    runs = Runs(records(), BUDGET)
    assert runs.gains("climb") == {("a", 0): -4.0, ("a", 1): 4.4, ("b", 0): -2.5}
    assert [runs.worse("climb", errors) for errors in (4.0, 3.0, 2.0)] == [0, 1, 2]
    assert runs.better("climb", 2.0) == {0: 0, 1: 1}
    assert runs.better("direct", 2.0) == {0: 1, 1: 1}


def test_the_share_is_of_worlds_where_direct_training_beats_the_start() -> None:
    assert Runs(records(), BUDGET).shares("climb") == {"a": 0.9}
    # A seed that direct training has not been run with yet is left out of all three.
    started = record("a", "start", 0.0, 1.0, seed=2), record("a", "climb", 99.0, 1.0, seed=2)
    assert Runs(records(*started), BUDGET).shares("climb") == {"a": 0.9}


def test_results_of_other_budgets_are_others() -> None:
    assert Runs(records(), BUDGET + 1).worlds == []


def test_an_ablation_is_compared_with_the_start_of_the_defaults() -> None:
    runs = Runs(records(record("b", "climb", 15.0, 4.0, tag="without")), BUDGET, "without")
    assert runs.worlds == ["b"] and runs.seeds == [0]
    assert runs.gains("climb") == {("b", 0): 2.0}
    # One that changes the game may have a start of its own.
    own = record("b", "start", 15.0, 0.0, tag="without")
    runs = Runs(records(record("b", "climb", 15.0, 4.0, tag="without"), own), BUDGET, "without")
    assert runs.gains("climb") == {("b", 0): 0.0}


def test_the_report_has_a_row_for_each_run_and_says_what_was_reached(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_report(records(record("b", "climb", 15.0, 4.0, tag="without")), BUDGET)
    lines = capsys.readouterr().out.splitlines()
    assert "| `a` | 1 | 0 (3) | 22 (4) | 10 (1) |  |  | 100, 90,  | 2, 2,  |" in lines
    assert "| `a` | all | 0 (1.5) | 9 (2.1) | 10 (0.71) |  | 0.90 |  |  |" in lines
    assert "| runs worse than the start by > 3 errors, <= 0 | 1 | NO |" in lines
    assert "| of 1 worlds, part with a share >= 0.8, >= 0.5 | 1 | yes |" in lines
    assert "3 runs of the climb in 2 worlds, of at most 1.00 times the steps" in lines
    assert "| `b` | 0 | 5 (3) | -7.5 (4) | 15 (4) | +4.0 |" in lines


def test_records_are_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "worlds.jsonl"
    assert read(path) == {}
    for one in MADE_UP:
        append(path, one)
    assert read(path) == records()


def test_options_of_an_ablation_are_json_or_text() -> None:
    given = ["rate=.1", "seat.method=hpgd", "game.flag=true"]
    assert dict(map(setting, given)) == {"rate": 0.1, "seat.method": "hpgd", "game.flag": True}


@pytest.mark.parametrize("name", WORLDS)
def test_terms_are_finite_and_one_for_each_knob(name: str) -> None:
    needed = WORLDS[name].needs
    if needed is not None:
        pytest.importorskip(needed, reason='needs pip install -e ".[worlds]"')
    game = make(name)
    env = game.make_environment()
    seen, _ = env.reset(seed=0)
    env.action_space.seed(0)
    before, taken = [], []
    for _ in range(5):
        before.append(seen)
        taken.append(env.action_space.sample())
        seen, *_ = env.step(taken[-1])
    size = len(game.initial_upper_params)
    assert 3 <= size <= 6
    paid = [game.reward(knob, np.stack(before), np.stack(taken)) for knob in 0.01 * np.eye(size)]
    assert np.isfinite(paid).all()


@pytest.mark.parametrize("contender", ["start", "direct"])
def test_steps_of_a_job_are_counted(contender: str) -> None:
    job = Job("", "CartPole-v1", 3, contender, 160)
    found = run(job, {})
    assert found.learnt == 160
    assert (found.watched > 0) == (contender == "direct")
    assert found.length == found.mean > 0.0  # a reward of 1 for each step
    assert run(job, {}).score == found.score


@pytest.mark.filterwarnings("ignore:the hyper-gradient of")
def test_steps_of_a_climb_are_those_that_the_seat_reports() -> None:
    brief: dict[str, Any] = {"inner_steps": 60, "episodes": 4, "critic_updates": 5}
    leader = LeaderObjective(HyperGradient(make("CartPole-v1"), **brief))
    leader.resume(seed=0)
    steps, x = Steps(), leader.seat.game.initial_upper_params
    with steps.counting():
        make_optimizer("safe", samples=1500)(leader, x, leader.low, leader.high)
    assert steps.learnt > 60 and steps.watched > 0
    # There are those that measure observations, too.
    assert steps.learnt + steps.watched + MEASURED == leader.samples


@pytest.mark.parametrize("optimizer", ["safe", "adam"])
def test_a_climb_ends_with_its_steps(optimizer: str) -> None:
    brief = {"inner_steps": 60, "episodes": 4, "critic_updates": 5}
    options = {f"seat.{name}": value for name, value in brief.items()}
    found = run(Job("", "CartPole-v1", 3, "climb", 1200), options | {"optimizer": optimizer})
    assert 300 <= found.learnt + found.watched <= 900
    assert len(found.x) == 5


def test_direct_training_is_on_the_leaders_reward() -> None:
    env = LeaderRewards(make("BilevelPendulum-v0"))
    seen, _ = env.reset(seed=0)
    following, first, *_ = env.step(np.array([1.0], np.float32))
    _, second, *_ = env.step(np.array([1.0], np.float32))
    # Up to a constant, by which entropy may be relative to that of the uniform policy.
    assert first - second == pytest.approx(float(seen[0] - following[0]), rel=1e-4)


def test_the_search_measures_the_spread_of_each_term() -> None:
    game = make("MountainCar-v0")
    search = Search(game, 0, 200)
    search.learn(game.initial_upper_params)
    assert search.used == 200 + MEASURED
    replay = search.follower.model.replay_buffer
    assert replay is not None
    steps = replay.transitions(np.arange(200), np.random.default_rng(0))
    pushes = steps.actions.astype(np.float64) - 1.0
    assert search.spread(game.initial_upper_params)[3] == pytest.approx(pushes.std())
