"""What must work with every version of Python and of the libraries, in about a minute.

`.ci/versions` runs this file alone, in environments with the lowest and the newest versions. It
needs pytest and what the package itself needs; with Stable-Baselines3 it trains a leader, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bilevel_gym
from bilevel_gym import HyperGradient, LeaderVectorEnv, LowerLevel, LowerLevelVectorEnv
from bilevel_gym.model import BilevelModel
from bilevel_gym.registration import TASKS, Task
from bilevel_gym.testing import check_hyper_gradient

ID = "BilevelGridWorld-v0"
EXACT = [task for task in TASKS if not task.test_options]  # where no follower learns
SAMPLED = ("plug-in", "trace", "bc-hg", "hpgd", "sobirl", "stoc-sobirl", "aho")


def leader(env_id: str = ID, **options: Any) -> HyperGradient:
    return bilevel_gym.make(env_id, **options)


@pytest.mark.parametrize("task", EXACT, ids=lambda task: task.id)
def test_the_exact_hyper_gradient_of_every_task_agrees_with_differences(task: Task) -> None:
    small = {n: v for n, v in task.test_kwargs.items() if n != "env_kwargs"}  # new in Gymnasium
    seat = leader(task.id, **small)
    assert isinstance(seat.game.model, BilevelModel)
    report = check_hyper_gradient(seat, coordinates=2)
    assert report.relative_error < 1e-5


@pytest.mark.parametrize("method", SAMPLED)
def test_methods_that_sample_point_along_the_exact_hyper_gradient(method: str) -> None:
    seat = leader(map_name="4x4", method=method, episodes=2000)
    _, info = seat.reset(seed=0)
    game: Any = seat.game
    exact, found = game.evaluate(info["upper_params"]).hyper_gradient, info["hyper_gradient"]
    assert exact @ found > 0.5 * np.linalg.norm(exact) * np.linalg.norm(found) > 0.0


@pytest.mark.parametrize("solver", ["dense", "banded", "sparse", "krylov", "krylov-ilu"])
def test_solvers_agree(solver: str) -> None:
    game: Any = gym.make("BilevelToll-v0").unwrapped
    x = game.initial_upper_params
    assert game.evaluate(x, solver=solver).objective == pytest.approx(game.evaluate(x).objective)


def test_the_compiled_kernels_agree() -> None:
    pytest.importorskip("numba")
    game: Any = gym.make(ID).unwrapped
    x = game.initial_upper_params
    compiled = game.evaluate(x, solver="compiled")
    assert compiled.objective == pytest.approx(game.evaluate(x, solver="dense").objective)


@pytest.mark.parametrize("env_id", [ID, "BilevelToll-v0", "BilevelLQR-v0", "BilevelCartPole-v0"])
@pytest.mark.filterwarnings("ignore")
def test_gymnasium_checks_both_seats(env_id: str) -> None:
    if env_id == "BilevelCartPole-v0":
        pytest.importorskip("stable_baselines3")
    seat = HyperGradient(gym.make(env_id), outer_steps=3)
    check_env(LowerLevel(gym.make(env_id), seat.game.initial_upper_params), skip_render_check=True)
    if env_id != "BilevelCartPole-v0":  # a follower who learns would take a while
        check_env(seat, skip_render_check=True)


def test_a_picture_is_drawn() -> None:
    seat = leader(render_mode="rgb_array")
    seat.reset(seed=0)
    assert seat.render().dtype == np.uint8


def test_vector_environments_answer_as_single_ones() -> None:
    seat, vector = leader(), LeaderVectorEnv(ID, 2)
    seat.reset(seed=0)
    vector.reset(seed=0)
    xs = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 52)).astype(np.float32)
    values = [seat.step(x)[1] for x in xs]
    np.testing.assert_allclose(vector.step(xs)[1], values, rtol=1e-6)
    followers = LowerLevelVectorEnv(ID, 3, np.zeros(52))
    followers.reset(seed=0)
    _, rewards, *_ = followers.step(followers.action_space.sample())
    assert rewards.shape == (3,)


def test_optimizers_climb() -> None:
    from bilevel_gym.optimizers import OPTIMIZERS, make_optimizer

    def parabola(x: Any) -> tuple[float, Any]:
        return -float((x - 0.25) @ (x - 0.25)), -2.0 * (x - 0.25)

    for name in OPTIMIZERS:
        if name != "safe":
            found = make_optimizer(name)(parabola, np.zeros(2), -np.ones(2), np.ones(2))
            assert found.best.value > -0.05, name


def command(folder: Path, *arguments: str) -> str:
    """Run the command line in a folder, and return what it prints."""
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "bilevel_gym.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_lists_and_solves(tmp_path: Path) -> None:
    assert "BilevelToll-v0" in command(tmp_path, "list")
    command(
        tmp_path,
        "solve",
        ID,
        "--steps",
        "2",
        "--optimizer",
        "adam",
    )
    assert (tmp_path / "runs" / ID / "001" / "result.json").exists()


def test_a_benchmark_runs_and_is_reported(tmp_path: Path) -> None:
    for library in ("pandas", "pyarrow", "pydantic", "joblib", "filelock"):
        pytest.importorskip(library)
    lines = (
        "steps = 2",
        "seeds = [0, 1]",
        f'[[tasks]]\nid = "{ID}"\nkwargs = {{ map_name = "4x4" }}',
        '[[methods]]\nname = "exact"',
        '[[optimizers]]\nname = "adam"',
    )
    (tmp_path / "small.toml").write_text("\n".join(lines), encoding="utf-8")
    command(tmp_path, "benchmark", "small.toml", "--out", "results")
    assert "exact" in command(tmp_path, "report", "results")


@pytest.mark.skipif(find_spec("stable_baselines3") is None, reason="needs Stable-Baselines3")
def test_stable_baselines_trains_both_seats() -> None:
    from stable_baselines3 import PPO

    from bilevel_gym.sb3 import HyperGradientAscent, SoftDQN

    HyperGradientAscent("UpperParamsPolicy", ID).learn(8)
    PPO("MlpPolicy", LowerLevel(gym.make(ID), np.zeros(52)), n_steps=64).learn(64)
    SoftDQN("MlpPolicy", LowerLevel(gym.make(ID), np.zeros(52)), learning_starts=10).learn(40)
