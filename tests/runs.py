"""Benchmarks that take no time: their files, runs and commands."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bilevel_gym.benchmark import Run, RunOutcome, perform, plan
from bilevel_gym.benchmark import engine as engine_module
from bilevel_gym.benchmark.config import Benchmark
from bilevel_gym.benchmark.results import write_run
from bilevel_gym.cli import main
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


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


def invoke_small(out: Path) -> Result:
    """Run the small benchmark, written beside the folder of its results."""
    (out.parent / "small.toml").write_text(SMALL)
    return invoke(out.parent / "small.toml", "--out", out)


def in_turn(monkeypatch: Patch, work: Callable[[Run], RunOutcome]) -> list[Run]:
    """Let the command do its runs in this process; return the list of those it does."""
    seen: list[Run] = []

    def outcomes(runs: list[Run], *_: Any) -> Any:
        for run in runs:
            seen.append(run)
            yield work(run)

    monkeypatch.setattr(engine_module, "perform_all", outcomes)
    return seen


PENDULUM = "BilevelPendulum-v0"

# Benchmarks do without PyTorch; CI has it, so that these run there.
needs_learners = pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None,
    reason='needs pip install -e ".[sb3]"',
)


def learnt_run(**changes: Any) -> Run:
    run = Run(PENDULUM, {"episode_steps": 10}, 0.05, "trace", QUICK, "adam", {}, steps=1, seed=0)
    return replace(run, **changes)


def timeless(outcome: RunOutcome) -> list[Any]:
    assert outcome.error is None, outcome.error
    return [replace(row, wall_time=0.0) for row in outcome.rows]
