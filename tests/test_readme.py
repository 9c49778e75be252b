"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from bilevel_gym.cli.galleries import file_name
from PIL import Image

from bilevel_gym.cli import markdown_table
from bilevel_gym.methods import METHODS
from bilevel_gym.registration import TASKS
from bilevel_gym.rendering import THEME
from bilevel_gym.rendering.sheet import CELL, COLUMNS
from bilevel_gym.testing import check_hyper_gradient

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs_from_top_to_bottom_and_reaches_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some of it writes files
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "README.md, quickstart", "exec"), names)
    assert capsys.readouterr().out.strip() == "0.46"
    for number, block in enumerate(blocks[1:], start=2):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert isinstance(names["agent"].predict(np.int64(0))[0], np.ndarray)
    assert "relative error" in capsys.readouterr().out
    check_hyper_gradient(gym.make("Commute-v0", fast_pay=-1.2))


def test_the_start_of_the_quickstart_is_what_the_comment_says() -> None:
    env = gym.make("BilevelGridWorld-v0")
    env.reset(seed=0)
    assert f"{env.get_wrapper_attr('response').objective:.2f}" == "-1.20"


def test_the_table_of_tasks_is_the_registry() -> None:
    assert markdown_table().strip() in README
    for task in TASKS:
        assert f"`{task.id}`" in README


def test_the_two_commands_stand_there_on_lines_of_their_own() -> None:
    for command in (
        "pip install -e . && bilevel-gym solve BilevelGridWorld-v0",
        'pip install -e ".[test]" && pytest',
    ):
        assert f"\n{command}\n" in README


def test_every_file_that_it_shows_or_runs_exists() -> None:
    paths = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README) + re.findall(r"demos/\w+\.py", README)
    assert len(paths) >= 5
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_every_method_has_a_row() -> None:
    section = README.partition("## Methods")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([a-z-]+)`", section)) >= set(METHODS)


def test_the_gallery_has_a_still_and_a_film_of_every_task() -> None:
    pictures = {path.name for path in (ROOT / "demos" / "gallery").iterdir()}
    names = [file_name(task.id) for task in TASKS]
    assert pictures == {f"{name}.{kind}" for name in names for kind in ("png", "gif")} | {
        "sheet.png",
        # What commands of their own draw.
        "benchmark_aggregate.png",
        "benchmark_grid_world.png",
        "benchmark_objective.png",
        "benchmark_profiles.png",
        "convergence.png",
        "deep.png",
        "estimators.png",
        "exploitation_exploration.png",
    }


def test_the_sheet_has_room_for_every_task() -> None:
    with Image.open(ROOT / "demos" / "gallery" / "sheet.png") as sheet:
        rows = -(-len(TASKS) // COLUMNS)
        assert sheet.size == tuple(
            count * (side + THEME.margin) + THEME.margin
            for count, side in zip((COLUMNS, rows), CELL, strict=True)
        )


def test_pictures_stay_below_a_megabyte() -> None:
    for picture in (ROOT / "demos" / "gallery").iterdir():
        assert picture.stat().st_size < 1_000_000, picture.name


@pytest.mark.parametrize(
    ("command", "said"), [("check", "Commute-v0 passed."), ("solve", "then L-BFGS-B: CONVERGENCE")]
)
def test_a_task_of_the_readers_own_passes_the_commands(
    tmp_path: Path, command: str, said: str
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    (source,) = (block for block in blocks if "class Commute" in block)
    (tmp_path / "commute.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bilevel_gym.cli", command, "commute:Commute-v0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
