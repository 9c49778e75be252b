"""Every demo runs on its own, films itself, and says clearly what it lacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

DEMOS = Path(__file__).parent.parent / "demos"
Demo = Callable[..., tuple[int, str, str]]

# Options that make the demos short.
SMALL = {
    "leader_gradient.py": [],
    "play.py": ["--map-name", "4x4"],
    "sb3_leader.py": ["--timesteps", "512"],
    "sb3_follower.py": ["--timesteps", "2048", "--episodes", "20"],
    "pendulum_reward_design.py": ["--steps", "1", "--episodes", "8", "--quick"],
    "preferences.py": ["--answers", "4", "--inner-steps", "8"],
}

# These draw a figure instead of a film, and have a test of their own, test_claims.py.
FIGURES = ("convergence.py", "exploitation_exploration.py")


def film(demo: Demo, name: str, folder: Path) -> str:
    """Run a demo headless, check its film, and return what it printed."""
    status, said, complained = demo(name, *SMALL[name], "--headless", "film.gif")
    assert status == 0, complained
    assert [path.name for path in folder.iterdir()] == ["film.gif"]
    with Image.open(folder / "film.gif") as image:
        # Frames that look the same are merged, so these all differ.
        assert getattr(image, "n_frames", 1) >= 3
    assert (folder / "film.gif").stat().st_size < 1_000_000
    return said


def test_all_demos_are_tested() -> None:
    assert sorted(path.name for path in DEMOS.glob("*.py")) == sorted([*SMALL, *FIGURES])


def test_leader_gradient_reaches_the_best_known_value(demo: Demo, tmp_path: Path) -> None:
    said = film(demo, "leader_gradient.py", tmp_path)
    values = [float(number) for number in re.findall(r": (-?\d\.\d+)", said)]
    # The ascent ends within 1e-4 of the best known value, .460703.
    assert values == [-1.1986, pytest.approx(0.4607, abs=1.01e-4), 0.4607]


def test_play_films_itself(demo: Demo, tmp_path: Path) -> None:
    film(demo, "play.py", tmp_path)


def test_sb3_leader_compares_both_leaders(demo: Demo, tmp_path: Path) -> None:
    said = film(demo, "sb3_leader.py", tmp_path)
    rows = [line.split() for line in said.splitlines()[1:]]
    assert [row[-2] for row in rows] == ["1", "201", "512", "512"]
    start, climb, mean, best = (float(row[-1]) for row in rows)
    assert start == -1.1986
    assert climb == pytest.approx(0.4607, abs=1.01e-4)
    # F is at most 1, and here PPO has only begun.
    assert -2.0 < mean < 1.0 and -2.0 < best < 1.0


def test_sb3_follower_measures_both_followers_under_both_shapings(
    demo: Demo, tmp_path: Path
) -> None:
    said = film(demo, "sb3_follower.py", tmp_path)
    rows = {line[:40].strip(): line[40:].split() for line in said.splitlines()[1:]}
    assert len(rows) == 6
    share = {name: float(row[0].rstrip("%")) for name, row in rows.items() if "%" in row[0]}
    assert share["exact, no shaping"] > 40.0
    assert share["exact, best known shaping"] < 5.0
    assert rows["exact, no shaping, computed"] == ["-1.199"]
    assert rows["exact, best known shaping, computed"] == ["0.461"]


def test_pendulum_reward_design_measures_the_leaders_pay(demo: Demo, tmp_path: Path) -> None:
    said = film(demo, "pendulum_reward_design.py", tmp_path)
    rows = [line.split(maxsplit=2) for line in said.splitlines()[1:-1]]
    # 500 steps that measure observations, then for each x 12 steps of learning, rounded up to
    # whole updates, and 2 episodes of 100 steps.
    assert [int(row[0]) for row in rows] == [716, 932]
    assert all(-1.0 < float(row[1]) < 1.0 for row in rows)
    assert rows[0][2] == str([0.0] * 6)
    assert any(json.loads(rows[1][2]))
    assert said.splitlines()[-1].startswith("mean cos(theta): ")


@pytest.mark.parametrize("name", ["pendulum_reward_design.py", "preferences.py"])
def test_numbers_of_nothing_are_refused(demo: Demo, name: str, tmp_path: Path) -> None:
    option = SMALL[name][0]
    status, _, complained = demo(name, option, "0", "--headless", "film.gif")
    assert status == 1
    assert f"`{option}` must be an integer of at least 1, got 0" in complained
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SMALL)
def test_without_a_display_every_demo_points_out_the_film(demo: Demo, name: str) -> None:
    status, _, complained = demo(name)
    assert status == 1
    assert "no display was found" in complained and "--headless OUT.gif" in complained


@pytest.mark.parametrize("name", ["sb3_leader.py", "sb3_follower.py", "pendulum_reward_design.py"])
def test_without_stable_baselines3_the_extra_is_named(
    demo: Demo, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "bilevel_gym.sb3", raising=False)
    status, _, complained = demo(name, "--headless", "film.gif")
    assert status == 1
    assert 'pip install -e ".[sb3]"' in complained
    assert not list(tmp_path.iterdir())


def test_a_demo_is_a_script_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMOS / "play.py"), "--map-name", "4x5", "--headless", "a.gif"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "'4x5'" in done.stderr
    assert done.stderr.count("\n") == 1
