"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bilevel_gym.cli.listing import SHORT, markdown_table
from bilevel_gym.registration import TASKS

from .pasted import ROOT, blocks, run_alone

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = README.splitlines()
BLOCKS = blocks(README)

# What the first blocks print, a regular expression for each.
PRINTED = (r"0\.46\n", r"-?\d+\.\d+ -?\d+\.\d+\n")


def test_it_is_read_in_ten_minutes() -> None:
    assert len(LINES) <= 160 and len(README.split()) <= 1700


@pytest.mark.parametrize(("block", "printed"), [*zip(BLOCKS, PRINTED, strict=True)])
def test_a_block_runs_when_it_is_pasted_alone(block: str, printed: str, tmp_path: Path) -> None:
    said = run_alone("-c", block, folder=tmp_path)
    assert re.fullmatch(printed, said), said


def test_the_table_of_tasks_is_that_of_the_registry() -> None:
    assert f"\n\n{markdown_table(SHORT)}\n\n" in README
    assert f"{len(TASKS)} tasks" in README


def test_the_two_commands_stand_there_on_lines_of_their_own() -> None:
    for command in (
        "pip install -e . && bilevel-gym solve BilevelGridWorld-v0",
        'pip install -e ".[test]" && pytest',
    ):
        assert f"\n{command}\n" in README


def test_every_link_leads_somewhere_and_every_page_by_hand_is_linked() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    for link in links:
        assert (ROOT / link).exists(), link
    pages = {f"docs/pages/{path.name}" for path in (ROOT / "docs" / "pages").glob("*.md")}
    assert pages - {"docs/pages/index.md"} <= set(links)


def test_pictures_stay_below_a_megabyte() -> None:
    for picture in (ROOT / "demos" / "gallery").iterdir():
        assert picture.stat().st_size < 1_000_000, picture.name
