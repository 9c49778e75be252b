"""Every demo runs on its own, films itself, and says clearly what it lacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DEMOS = Path(__file__).parent.parent / "demos"

# Options that make the demos short.
SMALL = {
    "leader_gradient.py": [],
    "play.py": ["--map-name", "4x4"],
    "sb3_leader.py": ["--timesteps", "512"],
    "sb3_follower.py": ["--timesteps", "2048", "--episodes", "20"],
    "pendulum_reward_design.py": ["--steps", "1", "--episodes", "8"],
    "preferences.py": ["--answers", "4", "--inner-steps", "8"],
}

# These draw a figure instead of a film, and have a test of their own, test_claims.py.
FIGURES = ("convergence.py", "exploitation_exploration.py")

every_demo = pytest.mark.parametrize("name", SMALL)


def run_demo(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a demo without a display, in an empty folder."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    }
    if sys.platform in ("darwin", "win32"):  # where there always is a display
        environment["SDL_VIDEODRIVER"] = "dummy"
    return subprocess.run(
        [sys.executable, str(DEMOS / name), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def film(name: str, folder: Path) -> str:
    """Run a demo headless, check its film, and return what it printed."""
    result = run_demo(name, *SMALL[name], "--headless", "film.gif", folder=folder)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["film.gif"]
    with Image.open(folder / "film.gif") as image:
        # Frames that look the same are merged, so these all differ.
        assert getattr(image, "n_frames", 1) >= 3
    assert (folder / "film.gif").stat().st_size < 1_000_000
    return result.stdout


def test_all_demos_are_tested() -> None:
    assert sorted(path.name for path in DEMOS.glob("*.py")) == sorted([*SMALL, *FIGURES])


def test_leader_gradient_reaches_the_best_known_value(tmp_path: Path) -> None:
    said = film("leader_gradient.py", tmp_path)
    values = [float(number) for number in re.findall(r": (-?\d\.\d+)", said)]
    # The climb ends within 1e-4 of the best known value, .460703.
    assert values == [-1.1986, pytest.approx(0.4607, abs=1.01e-4), 0.4607]


def test_play_films_itself(tmp_path: Path) -> None:
    film("play.py", tmp_path)


def test_sb3_leader_compares_both_leaders(tmp_path: Path) -> None:
    said = film("sb3_leader.py", tmp_path)
    rows = [line.split() for line in said.splitlines()[1:]]
    assert [row[-2] for row in rows] == ["1", "201", "512", "512"]
    start, climb, mean, best = (float(row[-1]) for row in rows)
    assert start == -1.1986
    assert climb == pytest.approx(0.4607, abs=1.01e-4)
    # F is at most 1, and here PPO has only begun.
    assert -2.0 < mean < 1.0 and -2.0 < best < 1.0


def test_sb3_follower_measures_both_followers_under_both_shapings(tmp_path: Path) -> None:
    said = film("sb3_follower.py", tmp_path)
    rows = {line[:40].strip(): line[40:].split() for line in said.splitlines()[1:]}
    assert len(rows) == 6
    share = {name: float(row[0].rstrip("%")) for name, row in rows.items() if "%" in row[0]}
    assert share["exact, no shaping"] > 40.0
    assert share["exact, best known shaping"] < 5.0
    assert rows["exact, no shaping, computed"] == ["-1.199"]
    assert rows["exact, best known shaping, computed"] == ["0.461"]


def test_pendulum_reward_design_measures_the_leaders_pay(tmp_path: Path) -> None:
    said = film("pendulum_reward_design.py", tmp_path)
    rows = [line.split(maxsplit=2) for line in said.splitlines()[1:-1]]
    # First 2200 steps of learning and then 1000, and 24 episodes of 100 steps for each x.
    assert [int(row[0]) for row in rows] == [4600, 8000]
    assert all(-1.0 < float(row[1]) < 1.0 for row in rows)
    assert rows[0][2] == str([0.0] * 6)
    # Adam's first step.
    assert {abs(value) for value in json.loads(rows[1][2])} == {0.4}
    assert said.splitlines()[-1].startswith("mean cos(theta): ")


@pytest.mark.parametrize("name", ["pendulum_reward_design.py", "preferences.py"])
def test_numbers_of_nothing_are_refused(name: str, tmp_path: Path) -> None:
    option = SMALL[name][0]
    result = run_demo(name, option, "0", "--headless", "film.gif", folder=tmp_path)
    assert result.returncode == 2
    assert f"{option}: an integer of at least 1 is needed, got '0'" in result.stderr
    assert not list(tmp_path.iterdir())


@every_demo
def test_without_a_display_every_demo_points_out_the_film(name: str, tmp_path: Path) -> None:
    result = run_demo(name, folder=tmp_path)
    assert result.returncode == 1
    assert "no display was found" in result.stderr and "--headless OUT.gif" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["sb3_leader.py", "sb3_follower.py", "pendulum_reward_design.py"])
def test_without_stable_baselines3_the_extra_is_named(name: str, tmp_path: Path) -> None:
    hide = f"""
import runpy, sys
sys.modules["stable_baselines3"] = None
sys.argv = [{name!r}, "--headless", "film.gif"]
runpy.run_path({str(DEMOS / name)!r}, run_name="__main__")
"""
    result = subprocess.run(
        [sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert 'pip install -e ".[sb3]"' in result.stderr
    assert not list(tmp_path.iterdir())
