"""What the README shows is what happens."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.cli import markdown_table
from bilevel_gym.methods import METHODS
from bilevel_gym.testing import check_hyper_gradient

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_code_runs_from_top_to_bottom_and_reaches_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some of it writes files
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS, start=1):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
        if number == 1:
            assert capsys.readouterr().out.strip() == "0.46"
    assert isinstance(names["agent"].predict(np.int64(0))[0], np.ndarray)
    assert "relative error" in capsys.readouterr().out
    check_hyper_gradient(gym.make("Commute-v0", fast_pay=-1.2))


def test_the_table_of_tasks_holds_what_the_command_prints() -> None:
    header, rule, *rows = markdown_table().strip().splitlines()
    table = README.partition(f"{header}\n{rule}\n")[2].partition("\n\n")[0]
    assert table and set(table.splitlines()) <= set(rows)


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


def test_every_module_and_name_of_the_package_exists() -> None:
    text = re.sub(r"^\| `bilevel_gym[^|]*\|", "", README, flags=re.MULTILINE)  # old names
    names = set(re.findall(r"`(?:help\(\"?)?(bilevel_gym(?:\.[A-Za-z]\w*)+)", text))
    assert len(names) >= 20
    for name in names - {"bilevel_gym.tasks"}:  # a group of entry points
        pkgutil.resolve_name(name)


def test_the_table_of_methods_names_methods() -> None:
    section = README.partition("## Methods")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {re.findall(r"`([a-z-]+)`", row)[0] for row in rows} <= set(METHODS)


def test_pictures_stay_below_a_megabyte() -> None:
    for picture in (ROOT / "demos" / "gallery").iterdir():
        assert picture.stat().st_size < 1_000_000, picture.name


@pytest.mark.parametrize(
    ("command", "said"), [("check", "Commute-v0 passed."), ("solve", "then L-BFGS-B: CONVERGENCE")]
)
def test_a_task_of_the_readers_own_passes_the_commands(
    tmp_path: Path, command: str, said: str
) -> None:
    (source,) = (block for block in BLOCKS if "class Commute" in block)
    (tmp_path / "commute.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bilevel_gym.cli", command, "commute:Commute-v0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
