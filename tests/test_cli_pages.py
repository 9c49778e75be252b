"""What the command line shows of tasks and methods: `list`, `show` and `methods`."""

from __future__ import annotations

import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import bilevel_gym
from bilevel_gym.cli import markdown_table
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.envs.records import registered_objectives
from bilevel_gym.making import task_parameters
from bilevel_gym.methods import LEARNT_METHODS, METHODS
from bilevel_gym.methods.learners import LEARNERS
from bilevel_gym.methods.table import PREFERENCE_METHODS, ROWS, SEES
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.registration import TASKS, task_ids

from .commands import GRID, Run, refused
from .helpers import LEARNT_TASKS

WIDTH = 80


def narrow(text: str) -> list[str]:
    """Return the lines of an output, none of which is wider than a terminal."""
    lines = text.splitlines()
    assert lines and max(map(len, lines)) <= WIDTH, max(lines, key=len)
    return lines


# list ------------------------------------------------------------------------------------------


def test_list_has_a_line_of_80_characters_for_every_task(run: Run) -> None:
    lines = {line.split()[0]: line for line in narrow(run("list").stdout)[1:] if line}
    for task in TASKS:
        line = lines[task.id]
        known = registered_objectives().get(task.id)
        assert task.summary in line and len(task.summary) <= 36
        assert line.split()[-1] == ("-" if known is None else f"{known:.4f}")
        assert (known is None) == (task in LEARNT_TASKS)


def test_list_makes_no_game(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object, **__: object) -> None:
        raise AssertionError("a game was made")

    monkeypatch.setattr("bilevel_gym.cli.listing.load_env_creator", made)
    run("list", exits=0)


def test_objectives_of_the_list_are_those_of_the_games() -> None:
    for env_id, value in registered_objectives().items():
        game: Any = gym.make(env_id).unwrapped
        assert game.best_known.value == value


def test_list_says_the_same_to_programs_and_to_the_readme(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {entry["id"]: entry for entry in json.loads(run("list", "--json").stdout)}
    table = run("list", "--markdown").stdout.splitlines()
    assert [*facts] == task_ids() and len(table) == 2 + len(TASKS)
    assert {line.count("|") for line in table} == {10}
    for task, line in zip(TASKS, table[2:], strict=True):
        entry = facts[task.id]
        assert task.upper in line and task.enters in line and task.source in line
        assert entry["summary"] == task.summary and entry["made"]
    game: Any = gym.make(GRID).unwrapped
    sizes = game.observation_space.n, game.lower_space.n
    grid = facts[GRID]
    assert (grid["states"], grid["actions"]) == sizes and f" {sizes[0]} x {sizes[1]} " in table[2]
    assert (grid["shape"], grid["low"], grid["x0"]) == ([sizes[0]], -1.0, 0.0)
    assert facts["BilevelCartPole-v0"]["x0"] == [0.5, 0.5, -0.5, -0.5]
    assert facts["BilevelPendulum-v0"]["states"] is None
    best = types.SimpleNamespace(value=0.46070307)
    monkeypatch.setattr(BilevelGridWorld, "best_known", best)
    assert "| 0.4607 |" in markdown_table()


def test_list_has_tasks_from_outside(run: Run) -> None:
    bilevel_gym.register("Elsewhere-v0", BilevelGridWorld)
    try:
        (line,) = (x for x in narrow(run("list").stdout) if x.startswith("Elsewhere-v0"))
        facts = json.loads(run("list", "--json").stdout)[-1]
    finally:
        gym.registry.pop("Elsewhere-v0")
    assert line.split() == ["Elsewhere-v0", "(of", "bilevel_gym.envs.grid_world)", "-"]
    assert (facts["id"], facts["states"]) == ("Elsewhere-v0", 52)


# show ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [task.id for task in TASKS])
def test_show_is_a_page_of_every_task(run: Run, env_id: str) -> None:
    page = "\n".join(narrow(run("show", env_id, exits=0).stdout))
    row = next(task for task in TASKS if task.id == env_id)
    assert page.startswith(f"{env_id}: {row.summary}")
    assert "\nThe leader wants " in page and "\nThe follower wants " in page
    for name, parameter in task_parameters(env_id).items():
        default = row.kwargs.get(name, parameter.default)
        assert f"\n  {name} = {default!r}\n" in page
    assert "See BilevelModel" not in page
    known = registered_objectives().get(env_id)
    assert ("the follower learns" if known is None else f"best known F {known:.6g}") in page
    game: Any = gym.make(env_id).unwrapped
    assert f"{game.default_method} (default)" in page and f'gym.make("{env_id}")' in page


def test_the_example_of_a_page_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, example = run("show", GRID).stdout.partition("  import gymnasium")
    exec(inspect.cleandoc(f"import gymnasium{example}"), {})
    assert capsys.readouterr().out.startswith("-1.19859")


def test_show_knows_methods_that_suit_and_those_that_do_not(run: Run) -> None:
    page = " ".join(run("show", "BilevelLQR-v0").stdout.split())
    assert "methods exact (default), direct, zero-order, annealed leader's seat" in page
    assert "seat BilevelLQRFollower-v0, options upper_params=None, observation='state'" in page
    page = " ".join(run("show", "BilevelToll-v0").stdout.split())
    suited, _, refused_ones = page.partition("methods exact")[2].partition("unsuitable ")
    assert "trace" in suited and "deep-trace" in refused_ones


def test_show_takes_arguments_and_refuses_wrong_ones(run: Run) -> None:
    page = run("show", GRID, "--set", "map_name=4x4", exits=0).stdout
    assert "observes        Discrete(14)" in page and "map_name = '4x4'" in page
    assert "Did you mean 'slip'?" in refused(run("show", GRID, "--set", "slipp=1"))
    assert f"Did you mean '{GRID}'?" in refused(run("show", "gridworld"))


def test_the_page_of_a_task_of_ones_own_names_its_module(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own_pages.py").write_text(
        "import bilevel_gym\nfrom bilevel_gym.envs import BilevelGridWorld\n"
        "bilevel_gym.register('Paged-v0', BilevelGridWorld)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        try:
            page = run("show", "own_pages:Paged-v0", exits=0).stdout
        finally:
            sys.modules.pop("own_pages", None)
            for env_id in ("Paged-v0", "PagedFollower-v0"):
                gym.registry.pop(env_id, None)
    assert page.startswith("Paged-v0\n") and "no best x is known" not in page
    assert "bilevel-gym solve own_pages:Paged-v0" in page
    assert 'gym.make("own_pages:Paged-v0")' in page


# methods ---------------------------------------------------------------------------------------


def test_methods_are_listed_by_what_they_see(run: Run) -> None:
    lines = narrow(run("methods").stdout)
    for row in ROWS:
        assert row.sees in SEES and len(row.summary) <= 31
        (line,) = (x for x in lines if x.split()[:1] == [row.name])
        assert row.summary in line and line.endswith(row.source)
    entries = json.loads(run("methods", "--json").stdout)
    assert [entry["name"] for entry in entries][: len(ROWS)] == [row.name for row in ROWS]
    assert {*METHODS, *LEARNT_METHODS, *PREFERENCE_METHODS} == {row.name for row in ROWS}


def test_all_inner_learners_and_optimizers_are_listed(run: Run) -> None:
    learnt = pytest.importorskip("bilevel_gym.learnt.followers")
    text = " ".join(run("methods").stdout.split())
    assert f"inner learners: {', '.join([*LEARNERS, *learnt.ALGORITHMS])} " in text
    assert f"optimizers: {', '.join(OPTIMIZERS)} " in text


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_every_method_has_a_page_with_its_options(run: Run, name: str) -> None:
    from bilevel_gym.core.checks import accepted_options
    from bilevel_gym.methods.registry import resolve_method

    page = "\n".join(narrow(run("methods", name, exits=0).stdout))
    for kind in json.loads(run("methods", name, "--json").stdout):
        accepted = accepted_options(resolve_method(kind["class"]))
        assert [*accepted] == [*kind["options"]]
        for option, of in kind["options"].items():
            assert f"\n  {option} = {of['default']!r}" in page
            assert of["about"] or kind["games"] != "games with a model", (name, option)


def test_unknown_methods_and_those_of_users_are_told_apart(run: Run) -> None:
    said = refused(run("methods", "trice"))
    assert "Did you mean 'trace'?" in said and "`bilevel-gym methods` lists all" in said
    page = run("methods", "bilevel_gym.methods.trace:Trace", exits=0).stdout
    assert "\n  control_variate = True\n" in page
