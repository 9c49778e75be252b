"""Claimed best x: the file of the package, files from others, and what they are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bilevel_gym.benchmark.scoreboard import (
    Score,
    parse_claims,
    read_claims,
    verified,
)
from bilevel_gym.cli import main
from bilevel_gym.envs.grid_world import MAPS
from bilevel_gym.envs.records import FILE, best_known_text, recorded

from .helpers import EXACT_TASKS

Patch = pytest.MonkeyPatch

LQR: dict[str, Any] = {"task": "BilevelLQR-v0", "x": [0] * 6, "name": "me", "source": "a guess"}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["rescore", *map(str, arguments)])


def written(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


# The file of the package ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def best_known() -> list[Score]:
    """Return all of it, verified; it takes three seconds."""
    return verified(parse_claims(best_known_text(), FILE))


def test_every_best_known_x_is_worth_what_the_file_says(best_known: list[Score]) -> None:
    for score in best_known:
        claim = score.claim
        # Other processors round differently.
        assert score.objective == pytest.approx(claim.objective, rel=1e-9), claim.where
        assert score.projected_gradient_norm < 1e-5, claim.where
        assert claim.date and claim.source


def test_every_exact_task_has_a_best_known_x_the_first_of_its_entries(
    best_known: list[Score],
) -> None:
    entries = json.loads(best_known_text())
    first: dict[str, dict[str, Any]] = {}
    for entry in entries:
        first.setdefault(json.dumps([entry["task"], entry["arguments"]]), entry)
    assert {task.id for task in EXACT_TASKS} == {
        entry["task"] for entry in first.values() if not entry["arguments"]
    }
    for entry in first.values():
        game: Any = gym.make(entry["task"], **entry["arguments"]).unwrapped
        np.testing.assert_array_equal(game.best_known.upper_params, entry["x"])
        assert game.best_known.value == pytest.approx(entry["objective"], rel=1e-12)
        with pytest.raises(ValueError, match="read-only"):
            game.best_known.upper_params[...] = 0.0
    instances = [json.dumps([entry["task"], entry["arguments"]]) for entry in entries]
    assert instances == sorted(instances, key=[*first].index), "entries of one instance go together"
    for instance, best in first.items():
        values = [e["objective"] for e, i in zip(entries, instances, strict=True) if i == instance]
        assert values == sorted(values, reverse=True) and values[0] == best["objective"]
    known = {score.claim.where: score.best_known for score in best_known}
    assert None not in known.values()


@pytest.mark.parametrize(
    ("task", "arguments", "found"),
    [
        ("BilevelGridWorld-v0", {"map_name": "8x8"}, True),
        ("BilevelGridWorld-v0", {"desc": list(MAPS["8x8"])}, True),
        ("BilevelGridWorld-v0", {"size": 7, "map_seed": 11}, False),
        ("BilevelFrozenLake-v0", {"env_id": "FrozenLake-v1"}, True),
        ("BilevelFrozenLake-v0", {"env_kwargs": {}}, True),
        ("BilevelFrozenLake-v0", {"env_kwargs": {"map_name": "4x4"}}, False),
    ],
)
def test_a_best_known_x_is_that_of_the_same_instance(
    task: str, arguments: dict[str, Any], found: bool
) -> None:
    game: Any = gym.make(task, **arguments).unwrapped
    assert (game.best_known is not None) == found
    if found:
        default: Any = gym.make(task).unwrapped
        assert game.best_known.value == default.best_known.value


def test_entries_that_name_an_argument_which_makes_no_difference_do_not_count(
    monkeypatch: Patch,
) -> None:
    from bilevel_gym.envs import BilevelLQR, records

    entry = {**LQR, "arguments": {"seed": 3}, "objective": 1.0}
    monkeypatch.setattr(records, "_entries", lambda: (entry,))
    arguments = {"seed": 3}

    def constructor(**changes: Any) -> dict[str, Any]:
        import inspect

        parameters = inspect.signature(BilevelLQR).parameters
        return {**{name: p.default for name, p in parameters.items()}, **arguments, **changes}

    assert recorded(BilevelLQR, constructor()) is not None
    assert recorded(BilevelLQR, constructor(gamma=0.5)) is None
    assert recorded(BilevelLQR, constructor(), ("seed",)) is None


# Files from others ------------------------------------------------------------------------------


def test_the_scoreboard_is_by_task_and_then_by_value(tmp_path: Path) -> None:
    lake = {**LQR, "task": "BilevelFrozenLake-v0", "x": [0.0] * 16}
    path = written(
        tmp_path / "claims.json",
        {**LQR, "name": "poor", "x": [-2.0] * 6},
        {**LQR, "name": "claims too much", "objective": -35.0},
        {**lake, "name": "slow", "arguments": {"temperature": 0.5}},
        {**LQR, "name": "right", "x": [0.0, 0.0, 1.5, 0.0, 0.0, 0.0], "objective": -31.3},
        {**lake, "name": "rounded", "objective": 0.166104, "date": "2026-11-30"},
    )
    scores = verified(read_claims(path))
    names = [score.claim.name for score in scores]
    assert names[:2] == ["rounded", "slow"] and {*names[2:]} == {
        *("right", "claims too much", "poor")
    }
    values = [score.objective for score in scores[2:]]
    assert values == sorted(values, reverse=True)
    assert [score.confirmed for score in scores if score.claim.name == "rounded"] == [True]
    assert [score.confirmed for score in scores if score.claim.name == "poor"] == [None]
    for score in scores:
        game: Any = gym.make(score.claim.task, **score.claim.arguments).unwrapped
        answer = game.evaluate(np.array(score.claim.x, dtype=float))
        assert score.objective == answer.objective
        step = np.clip(answer.upper_params + answer.hyper_gradient, game.model.low, game.model.high)
        norm = np.linalg.norm(step - answer.upper_params)
        assert score.projected_gradient_norm == pytest.approx(norm, rel=1e-12)
    poor = next(score for score in scores if score.claim.name == "poor")
    assert (poor.at_bounds, poor.entries) == (6, 6)


def test_the_command_prints_it_and_warns_of_claims_that_are_wrong(tmp_path: Path) -> None:
    path = written(
        tmp_path / "claims.json",
        {**LQR, "objective": -35.0},
        {**LQR, "name": "[bold]odd\x1b[31m", "objective": -35.561010},
    )
    done = invoke(path)
    assert done.exit_code == 0, done.output
    assert "-35.000000 (wrong)" in done.stdout and "(wrong)" not in done.stdout.splitlines()[4]
    assert "[bold]odd?[31m" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "entry 1 ('me'): claims -35.0, and F(x) is -35.56100968" in done.stderr


@pytest.mark.parametrize("suffix", [".json", ".csv", ".md"])
def test_the_scoreboard_is_written_in_the_format_of_its_suffix(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / "a.json", {**LQR, "objective": 3, "arguments": {"gamma": 0.9}}, LQR)
    out = tmp_path / "new" / f"board{suffix}"
    assert invoke(path, written(tmp_path / "b.json", LQR), "--out", out).exit_code == 0
    text = out.read_text()
    assert text.count("a guess") == 3
    if suffix != ".json":
        assert len(text.splitlines()) == (4 if suffix == ".csv" else 5)
        return
    again = tmp_path / "again.json"
    assert invoke(out, "--out", again).exit_code == 0
    assert again.read_text() == text, "its own file is read, and is right"
    assert all(score.confirmed for score in verified(read_claims(again)))


def test_without_a_file_the_best_known_x_are_verified() -> None:
    done = invoke()
    assert done.exit_code == 0 and done.stderr == ""
    for task in EXACT_TASKS:
        assert task.id in done.stdout


def test_a_run_of_solve_can_be_verified(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["solve", "BilevelLQR-v0", "--set", "gamma=0.9", "--steps", "3", "--out", str(folder)]
    assert CliRunner().invoke(main, command).exit_code == 0
    done = invoke(folder, "--out", tmp_path / "board.json")
    assert done.exit_code == 0 and done.stderr == "", done.output
    (entry,) = json.loads((tmp_path / "board.json").read_text())
    best = json.loads((folder / "result.json").read_text())["objective"]["best"]
    assert entry["objective"] == pytest.approx(best, rel=1e-12)
    assert entry["arguments"] == {"gamma": 0.9} and entry["name"] == "run"
    config = json.loads((folder / "config.json").read_text())
    changed = {**config, "id": "Stranger-v0", "module": "stranger"}
    (folder / "config.json").write_text(json.dumps(changed))
    refused = invoke(folder)
    assert refused.exit_code == 2 and "'stranger:Stranger-v0' would be imported" in refused.stderr
    (folder / "params.npz").write_bytes(b"PK")
    damaged = invoke(folder)
    assert damaged.exit_code == 2 and "cannot be read: it is damaged" in damaged.stderr


ONE = json.dumps(LQR)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "must be JSON"),
        (b"\xff\xfe[", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"[" + ONE.replace("[0,", "[NaN,").encode() + b"]", "NaN is no number of JSON"),
        (ONE.encode(), "must be a list of entries"),
        (b"[]", "must be a list of entries, got []"),
        (b'["a"]', "entry 1 must be an object, got 'a'"),
        ({"name": None}, "entry 2: `name` must be a text, got None"),
        ({"source": None}, "entry 2: `source` must be a text"),
        ({"colour": 1}, "entry 2: unknown key 'colour'"),
        ({"objective": "high"}, "entry 2: `objective` must be a finite number, got 'high'"),
        ({"objective": True}, "entry 2: `objective` must be a finite number, got True"),
        ({"objective": 10**400}, "entry 2: `objective` must be a finite number"),
        ({"task": "BilevelLQQ-v0"}, "entry 2 ('me'): unknown task 'BilevelLQQ-v0'"),
        ({"task": "BilevelPendulum-v0"}, "entry 2 ('me'): BilevelPendulum-v0 has no exact answer"),
        (
            {"arguments": {"gama": 0.5}},
            "entry 2 ('me'): unknown argument for BilevelLQR-v0: 'gama'",
        ),
        ({"arguments": {"gamma": 2}}, "entry 2 ('me'): cannot make BilevelLQR-v0: `gamma` must"),
        ({"arguments": {"render_mode": "human"}}, "entry 2 ('me'): `render_mode` cannot be set"),
        ({"x": [0, 0]}, "entry 2 ('me'): `upper_params` must have shape (6,), got (2,)"),
        ({"x": [0, [0]]}, "entry 2 ('me'): `upper_params` must be an array of real numbers"),
        ({"x": ["0"] * 6}, "entry 2 ('me'): `upper_params` must be an array of real numbers"),
        ({"x": [0] * 5 + [10**400]}, "entry 2 ('me'): `upper_params` must be an array of real"),
        (
            {"x": [0] * 5 + [99]},
            "entry 2 ('me'): `upper_params[5]` must be finite and lie in [-2.0",
        ),
        ({"task": "stranger:LQR-v0"}, "'stranger:LQR-v0' would be imported; trust the file by"),
        (
            {"task": "BilevelFrozenLake-v0", "arguments": {"env_id": "stranger:Env"}},
            "'stranger:Env' would be imported",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_entry_and_nothing_is_written(
    tmp_path: Path, monkeypatch: Patch, content: bytes | dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stranger.py").write_text("raise SystemExit('imported')")
    path = Path("claims.json")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        written(path, LQR, {**LQR, **content})
    refused = invoke(path, "--out", "board.md")
    assert refused.exit_code == 2 and refused.stdout == ""
    assert refused.stderr.count("\n") == 1 and said in refused.stderr, refused.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["claims.json", "stranger.py"]


@pytest.mark.parametrize("key", ["task", "x", "name", "source"])
def test_an_entry_that_lacks_something_says_what(tmp_path: Path, key: str) -> None:
    entry = {name: value for name, value in LQR.items() if name != key}
    with pytest.raises(ValueError, match=f"entry 1 must have `{key}`, got "):
        read_claims(written(tmp_path / "claims.json", entry))


def test_other_files_and_suffixes_are_refused_before_anything_is_evaluated(tmp_path: Path) -> None:
    for arguments, said in (
        ([tmp_path / "none.json"], "cannot read"),
        ([tmp_path], "cannot read"),
        (["--out", tmp_path / "board.txt"], "must end in .json, .csv, .md, got 'board.txt'"),
    ):
        refused = invoke(*arguments)
        assert refused.exit_code == 2 and said in refused.stderr
        assert refused.stderr.count("\n") == 1 and not any(tmp_path.iterdir())


def test_a_task_of_a_trusted_file_is_imported(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("scored_task.py").write_text(
        "import bilevel_gym\n"
        "from bilevel_gym.envs import BilevelLQR\n"
        "class Lighter(BilevelLQR):\n"
        "    pass\n"
        "bilevel_gym.register('ScoredLQR-v0', Lighter, kwargs={'gamma': 0.5})\n"
    )
    path = written(tmp_path / "claims.json", {**LQR, "task": "scored_task:ScoredLQR-v0"})
    assert invoke(path).exit_code == 2
    done = invoke(path, "--trust")
    assert done.exit_code == 0 and "ScoredLQR-v0" in done.stdout, done.output
