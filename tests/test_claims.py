"""The demos of the two claims: figures, numbers, and what the numbers must obey."""

from __future__ import annotations

import argparse
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.methods import ExactResponse
from bilevel_gym.optimizers import normalized_ascent
from bilevel_gym.wrappers import exact_objective

DEMOS = Path(__file__).parent.parent / "demos"
CLAIMS = ("convergence.py", "exploitation_exploration.py")
every_claim = pytest.mark.parametrize("name", CLAIMS)


@pytest.fixture(scope="module")
def convergence() -> dict[str, Any]:
    return runpy.run_path(str(DEMOS / "convergence.py"))


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return runpy.run_path(str(DEMOS / "exploitation_exploration.py"))


def game_of(task: str) -> TabularBilevelEnv:
    game = gym.make(task).unwrapped
    assert isinstance(game, TabularBilevelEnv)
    return game


def drawn(name: str, folder: Path, *arguments: str) -> str:
    """Run a demo quickly, check its figure, and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(DEMOS / name), "--quick", "--out", "figure.png", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["figure.png"]
    with Image.open(folder / "figure.png") as image:
        assert image.width == 1500
    assert (folder / "figure.png").stat().st_size < 300_000
    return done.stdout


# Convergence ------------------------------------------------------------------------------------


def test_the_convergence_figure_is_one_command(tmp_path: Path) -> None:
    said = drawn("convergence.py", tmp_path, "--seeds", "1")
    pattern = r"^(.*?)\s+(\d+)\s+(\d\.\d\de[-+]\d\d)\s+(-\d+\.\d\d|nan)\s"
    rows = re.findall(pattern, said, flags=re.MULTILINE)
    assert [row[0].partition(",")[0] for row in rows] == [
        *("M-SoBiRL", "SoBiRL", "exact gradient"),
        *("M-SoBiRL", "M-SoBiRL", "SoBiRL", "Stoc-SoBiRL", "exact gradient"),
    ]
    # On the synthetic task all that have a slope are steeper than the theory asks.
    assert all(float(slope) <= -1.0 for _, count, _, slope in rows if count == "200")


def test_m_sobirl_falls_at_least_as_fast_as_the_theory_says(convergence: dict[str, Any]) -> None:
    panel = convergence["replace"](convergence["PANELS"][0], evaluations=300)
    result = convergence["run"]((panel, convergence["DEFAULT"], 0))
    least = result.least
    assert least.shape == (300,)
    assert (np.diff(least) <= 0.0).all() and (least <= result.squares).all()
    assert convergence["fitted_slope"](least) <= -1.0
    # The referee sees the true gradient, whose norm at the first x is on the task's page.
    assert np.sqrt(least[0]) == pytest.approx(11.041769, rel=1e-6)


def test_only_methods_that_draw_depend_on_the_seed(convergence: dict[str, Any]) -> None:
    panel = convergence["replace"](convergence["PANELS"][1], evaluations=4)
    for line in panel.lines:
        first, again, other = (convergence["run"]((panel, line, seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.squares, again.squares)
        assert (first.squares != other.squares).any() == line.draws, line.label


def test_steps_are_a_constant_times_the_gradient(convergence: dict[str, Any]) -> None:
    panel = convergence["replace"](convergence["PANELS"][1], evaluations=3)
    game = game_of(panel.task)
    x, norms = game.initial_upper_params, []
    for _ in range(3):
        gradient = game.evaluate(x).hyper_gradient
        norms.append(gradient @ gradient)
        x = x + panel.learning_rate * gradient  # no bound is near
    result = convergence["run"]((panel, convergence["EXACT"], 0))
    np.testing.assert_allclose(result.squares, norms, rtol=1e-8)


@pytest.mark.parametrize("power", [-0.8, -1.0, -3.0])
def test_the_slope_is_that_of_the_decay(convergence: dict[str, Any], power: float) -> None:
    counts = np.arange(1, 1001.0)
    curve = counts**power
    assert convergence["fitted_slope"](curve) == pytest.approx(power)
    # Neither a plateau before nor a floor after the decay counts.
    bent = np.concatenate([np.full(50, 1.0), np.minimum(1.0, 2.0 * (counts[50:] / 51.0) ** power)])
    floored = np.maximum(bent, bent[800])
    assert convergence["decay"](floored)[1] == 801
    assert convergence["fitted_slope"](floored) == pytest.approx(power, rel=1e-9)
    assert np.isnan(convergence["fitted_slope"](np.ones(100)))


# Exploitation and exploration -------------------------------------------------------------------


@pytest.mark.parametrize("task", ["BilevelToll-v0", "BilevelMarkovGame-v0", "BilevelIncentive-v0"])
def test_the_parts_add_up_to_what_moves_x(parts: dict[str, Any], task: str) -> None:
    game = game_of(task)
    low, high = game.model.low, game.model.high
    middle = np.clip((low + high) / 2.0, low, high)
    for x in (game.initial_upper_params, middle, low, high):
        response = game.evaluate(x)
        found = parts["parts_of"](game, response)
        np.testing.assert_allclose(found["direct"] + found["response"], found["whole"], atol=1e-12)
        # A short step along the whole stays in the box, and leaves out nothing that does.
        short = x + 1e-9 * found["whole"]
        assert ((short >= low) & (short <= high)).all()
        np.testing.assert_array_equal(short, np.clip(x + 1e-9 * response.hyper_gradient, low, high))


def test_at_a_bound_only_the_entries_that_move_count(parts: dict[str, Any]) -> None:
    game = game_of("BilevelIncentive-v0")
    response = game.evaluate(game.initial_upper_params)  # nothing is paid: the lower bound
    held = response.hyper_gradient < 0.0
    assert held.any() and not held.all()
    for part in parts["parts_of"](game, response).values():
        assert (part[held] == 0.0).all()


def test_angles_are_those_of_plane_geometry(parts: dict[str, Any]) -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    assert parts["angle"](east, north) == pytest.approx(90.0)
    assert parts["angle"](east, east + north / 2.0) == pytest.approx(45.0)
    assert parts["angle"](east, -3.0 * east) == pytest.approx(180.0)
    assert np.isnan(parts["angle"](east, 0.0 * east))


def test_the_follower_moves_by_the_total_variation_of_its_visits(parts: dict[str, Any]) -> None:
    game = game_of("BilevelGridWorld-v0")
    response = game.evaluate(game.initial_upper_params)
    direction = response.hyper_gradient
    share = parts["moved"](game, response, direction, 0.1)
    there = game.evaluate(0.1 * direction / np.linalg.norm(direction))
    # Wherever the follower is seen less by it, and nowhere else.
    before, after = (r.occupancy / r.occupancy.sum() for r in (response, there))
    assert share == pytest.approx(np.maximum(before - after, 0.0).sum(), rel=1e-9)
    assert 0.0 < share < 1.0
    assert parts["moved"](game, response, 0.0 * direction, 0.1) == 0.0


def test_the_ascent_along_the_whole_is_that_of_the_optimizer(parts: dict[str, Any]) -> None:
    game = game_of("BilevelToll-v0")
    model, start = game.model, game.initial_upper_params
    found = parts["ascend"](game, "whole", 30, 0.5)
    optimum = normalized_ascent(
        exact_objective(model), start, model.low, model.high, steps=30, learning_rate=0.5
    )
    assert max(answer.objective for answer in found) == pytest.approx(optimum.best.value, abs=1e-9)


def test_either_part_alone_goes_astray(parts: dict[str, Any]) -> None:
    game = game_of("BilevelToll-v0")

    def end(part: str, steps: int) -> ExactResponse:
        last: ExactResponse = parts["ascend"](game, part, steps, 0.25)[-1]
        return last

    assert end("whole", 120).objective > 0.104
    # Exploitation alone raises the tolls until nobody pays them; exploration alone stops where a
    # passage earns what it costs, two minutes.
    direct = end("direct", 200)
    assert direct.upper_params.min() > 2.5 and abs(direct.objective) < 1e-4
    response = end("response", 120)
    np.testing.assert_allclose(response.upper_params, 2.0, atol=0.1)
    assert abs(response.objective) < 1e-4


def test_the_parts_are_drawn_by_one_command(tmp_path: Path) -> None:
    printed = drawn("exploitation_exploration.py", tmp_path)
    assert printed.startswith("BilevelToll-v0") and "is zero at" not in printed
    row = r"^\w+ [\w: -]+ +\d+ +(-?\d\.\d+) +(-?\d\.\d+) +-?\d\.\d+$"
    climbs = re.findall(row, printed, flags=re.MULTILINE)
    assert len(climbs) == 3 and {first for first, _ in climbs} == {"-0.4438"}
    assert float(climbs[0][1]) > -0.4438


def test_a_part_that_vanishes_is_named(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figure.png"
    parts["main"](argparse.Namespace(task="BilevelInverseRL-v0", quick=True, out=out))
    said = capsys.readouterr().out
    assert "the direct part is zero at 9 of 9 points of the ascent" in said and out.is_file()


# Both -------------------------------------------------------------------------------------------


@every_claim
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/figure.png", "there is no folder 'missing'"),
        ("figure.gif", "the file must end in .png, got 'figure.gif'"),
    ],
)
def test_a_bad_path_is_refused_before_anything_is_computed(
    demo: Any, name: str, path: str, words: str
) -> None:
    status, _, complained = demo(name, "--out", path)
    assert status != 0 and words in complained


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@every_claim
def test_an_interrupt_leaves_the_old_figure(name: str, tmp_path: Path) -> None:
    (tmp_path / "figure.png").write_bytes(b"old")
    process = subprocess.Popen(
        [sys.executable, str(DEMOS / name), "--out", "figure.png"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A parent may ignore SIGINT, as shells do for background jobs, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)
    assert process.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").read_bytes() == b"old"
    if "stopped" in complained:  # a slow machine is still importing
        assert "Traceback" not in complained
