"""The command line, used as its users would, mistakes included; `solve` has tests of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from PIL import Image, ImageSequence

import bilevel_gym
from bilevel_gym.cli import main
from bilevel_gym.cli.arguments import make_leader, parse_value
from bilevel_gym.cli.galleries import file_name
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.registration import QUICK, TASKS
from bilevel_gym.rendering import Film, frame, new_surface
from bilevel_gym.rendering.sheet import contact_sheet
from bilevel_gym.wrappers import HyperGradient

from .commands import GRID, SMALL, Run, refused
from .helpers import LEARNT_TASKS

Patch = pytest.MonkeyPatch


# Help, version, list ---------------------------------------------------------------------------


def test_no_arguments_print_the_help_and_one_the_version(run: Run) -> None:
    result = run(exits=0)
    for command in ("list", "check", "solve", "play", "gallery"):
        assert command in result.stdout
    assert run("--version").stdout == f"bilevel-gym {bilevel_gym.__version__}\n"


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        (["solve"], "BilevelGr", [GRID]),
        (["solve", GRID, "--method"], "exa", ["exact"]),
        (["solve", GRID, "--optimizer"], "norm", ["normalized"]),
        (
            ["solve", GRID, "--method", "trace", "--method-set"],
            "inner=s",
            ["inner=sweeps", "inner=soft-q", "inner=soft-dqn", "inner=soft-sac"],
        ),
        (["solve", GRID, "--optimizer-set"], "schedule=con", ["schedule=constant"]),
        (["check-method"], "m-so", ["m-sobirl"]),
        (["check-method", "trace", "--task"], "BilevelGr", [GRID]),
        (["check-method", "trace", "--method-set"], "inner=c", ["inner=certainty-equivalence"]),
        (["gallery", "folder", GRID], "BilevelToll", ["BilevelToll-v0"]),
        (["show"], "BilevelTh", ["BilevelThermal-v0"]),
        (["methods"], "deep-s", ["deep-sobirl", "deep-score"]),
        (["solve", GRID, "--set"], "ma", ["map_name=", "map_seed="]),
        (["show", "BilevelToll-v0", "--set"], "zone", ["zone=", "zone_cost="]),
        (["check", GRID, "--set"], "sl", ["slip="]),
        (["play", GRID, "--set"], "sl", ["slip="]),
        (["solve", GRID, "--method-set"], "max", ["max_iterations="]),
        (
            ["solve", GRID, "--method", "trace", "--method-set"],
            "inner",
            ["inner=", "inner_options="],
        ),
        (
            ["solve", GRID, "--method", "trace", "--method-set"],
            "error_bars=",
            ["error_bars=", "error_bars=true", "error_bars=false"],
        ),
        (["solve", "BilevelPendulum-v0", "--method-set"], "gae", ["gae_lambda="]),
        (["check-method", "zero-order", "--method-set"], "ra", ["radius="]),
        (["solve", GRID, "--optimizer", "adam", "--optimizer-set"], "be", ["beta1=", "beta2="]),
        (["solve", GRID, "--optimizer", "lbfgsb", "--optimizer-set"], "be", []),
        (["solve", "--set"], "sl", []),
        (["solve", "no-such-task", "--set"], "sl", []),
        ([], "met", ["methods"]),
    ],
)
def test_names_are_completed_in_the_shell(
    words: list[str], incomplete: str, offered: list[str]
) -> None:
    shell = ShellComplete(main, {}, "bilevel-gym", "_BILEVEL_GYM_COMPLETE")
    assert [item.value for item in shell.get_completions(words, incomplete)] == offered


# What users give -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0.2", 0.2), (".2", 0.2), ("true", True), ("True", True), ("null", None), ("", "")),
        *(('["S.G"]', ["S.G"]), ("['S.G']", ["S.G"]), ("(3, 12)", [3, 12])),
        *(("16x16", "16x16"), ("{1, 2}", "{1, 2}")),
    ],
)
def test_values_are_json_or_literals_or_text(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BilevelGridWrld-v0"], ["'BilevelGridWrld-v0'", f"Did you mean '{GRID}'?"]),
        (["BilevelGridWorld"], [f"Did you mean '{GRID}'?"]),
        (["CartPole-v1"], ["CartPole-v1", "needs a bilevel game"]),
        (["no_such_module:Foo-v0"], ["cannot import 'no_such_module'"]),
        ([GRID, "--set", "slipp=1"], ["'slipp'. Did you mean 'slip'? Accepted: ", "'gamma'"]),
        ([GRID, "--set", "slip"], ["name=value", "'slip'"]),
        ([GRID, "--set", f"slip={'9' * 5000}"], ["`slip` must lie in [0, 1], got '999"]),
        ([GRID, "--set", f"slip={'[' * 20_000}"], ["`slip` must lie in [0, 1], got '[[["]),
        ([".x:Own-v0"], ["a task is an id or 'module:ID', got '.x:Own-v0'"]),
        ([GRID, "--set", "=2"], ["name=value", "'=2'"]),
        ([GRID, "--set", "slip=2"], ["`slip` must lie in [0, 1], got 2"]),
        ([GRID, "--set", "temperature=warm"], ["`temperature`", "'warm'"]),
        ([GRID, "--set", "map_name=9x9"], ["'9x9'", "'16x16'"]),
        ([GRID, "--set", "slip=.1", "--set", "slip=.2"], ["`--set slip` was given twice"]),
        ([GRID, "--set", "render_mode=human"], ["each command chooses its own"]),
    ],
)
@pytest.mark.parametrize("command", ["solve", "check", "play"])
def test_mistakes_about_the_task_get_one_clear_line(
    run: Run, tmp_path: Path, command: str, arguments: list[str], said: list[str]
) -> None:
    message = refused(run(command, *arguments))
    for words in said:
        assert words in message
    assert "environment creator" not in message
    assert not list(tmp_path.iterdir())


OWN_TASKS = """
import gymnasium as gym

gym.register("Mine-v0", "bilevel_gym.envs.grid_world:BilevelGridWorld")

class Fussy(gym.Env):
    def __init__(self, size: int = 3, other=None, render_mode=None):
        size + 1

gym.register("Fussy-v0", Fussy)
"""


def test_tasks_of_others_are_imported_first(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "my_tasks.py").write_text(OWN_TASKS)
    monkeypatch.setattr(sys, "path", [*sys.path])  # undone afterwards
    try:
        result = run("solve", "my_tasks:Mine-v0", *SMALL, "--steps", 2)
        wrong = ("--set", "size=big", "--set", "other=1")
        message = refused(run("solve", "my_tasks:Fussy-v0", *wrong))
    finally:
        for env_id in ("Mine-v0", "Fussy-v0"):
            gym.registry.pop(env_id, None)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "Mine-v0" / "001" / "params.npz").exists()
    # A value of the wrong type: the message says what the argument takes.
    assert message.startswith("Error: cannot make Fussy-v0: `size` takes int, got 'big'; ")
    assert "environment creator" not in message


# check -----------------------------------------------------------------------------------------


def test_check_compares_gradients_where_the_response_matters_but_no_estimates(run: Run) -> None:
    result = run("check", GRID, *SMALL, "--points", 4, exits=0)
    assert f"{GRID} passed." in result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if line.endswith("passed  ")]
    assert len(lines) == 4
    for _, _, error, share, _, _ in lines:
        assert float(error) <= 1e-6
        assert float(share) >= 10.0
    result = run("check", "BilevelCartPole-v0", "--set", "episode_steps=20", exits=0)
    assert "hyper-gradient: not compared" in result.stdout
    assert "BilevelCartPole-v0 passed." in result.stdout


def test_check_names_checkers_that_are_not_installed(run: Run, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.env_checker", None)
    result = run("check", GRID, *SMALL, "--points", 1, "--coordinates", 2, exits=0)
    assert "skipped, needs the `sb3` extra" in result.stdout


def wrong_gradient(patch: pytest.MonkeyPatch) -> None:
    vjp = BilevelGridWorld.reward_vjp
    patch.setattr(BilevelGridWorld, "reward_vjp", lambda *a: 1.001 * vjp(*a))


def wrong_observation(patch: pytest.MonkeyPatch) -> None:
    observe = BilevelGridWorld.observe
    patch.setattr(BilevelGridWorld, "observe", lambda *a: 2.0 + observe(*a))


def small_response(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("bilevel_gym.cli.checking.MIN_RESPONSE_SHARE", 1e6)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_gradient, ("FAILED", "analytic", f"{GRID} failed: hyper-gradient.")),
        (wrong_observation, ("leader's seat: FAILED, ", "observation")),
        (small_response, ("nothing was tested",)),
    ],
)
def test_check_fails_and_says_why(
    run: Run, monkeypatch: Patch, spoil: Any, words: tuple[str, ...]
) -> None:
    spoil(monkeypatch)
    result = run("check", GRID, *SMALL, "--points", 1, "--coordinates", 8, exits=1)
    assert all(word in result.stdout for word in words)


def test_tasks_say_how_to_climb_only_where_the_safe_climb_does_not() -> None:
    for task in TASKS:
        if task.climb:
            assert task in LEARNT_TASKS and set(task.climb) == {"steps", "learning_rate"}, task.id


# gallery ----------------------------------------------------------------------------------------


def test_gallery_draws_tasks_and_a_sheet(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("bilevel_gym.cli.galleries.TASKS", TASKS[:1])
    told = run("gallery", "pictures", exits=0).stdout
    assert "[41/41] " in told and "] polish: " in told and "[42/41]" not in told
    folder = tmp_path / "pictures"
    names = {path.name for path in folder.iterdir()}
    assert names == {"grid_world.png", "grid_world.gif", "sheet.png"}
    env = gym.make(GRID, render_mode="rgb_array")
    env.reset(seed=0)
    known = env.unwrapped.best_known  # type: ignore[attr-defined]
    env.step(known.upper_params)
    expected = np.asarray(env.render())
    with Image.open(folder / "grid_world.png") as image:
        still = np.asarray(image.convert("RGB")).astype(int)
    # The still shows the best x known, up to its palette and the number of the step.
    assert still.shape == expected.shape
    assert np.median(np.abs(still - expected)) <= 4
    assert (np.abs(still - expected) > 64).mean() < 0.01
    with Image.open(folder / "grid_world.gif") as film:
        durations = [picture.info["duration"] for picture in ImageSequence.Iterator(film)]
    # 20 pictures of the climb and an episode of 14 steps and more, each long enough to be seen.
    assert len(durations) > 30 and sum(durations) > 4000
    assert all(path.stat().st_size < 1_000_000 for path in folder.iterdir())


def test_gallery_films_learning_followers(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:

    def quick(env_id: str, env_kwargs: dict[str, Any], **options: Any) -> HyperGradient:
        return make_leader(env_id, {"episode_steps": 20}, method_options=QUICK, **options)

    monkeypatch.setattr("bilevel_gym.cli.galleries.make_leader", quick)
    once = ("adam", {"steps": 1, "learning_rate": 0.4})
    monkeypatch.setattr("bilevel_gym.cli.galleries.default_optimizer", lambda env_id, env: once)
    run("gallery", tmp_path, "BilevelPendulum-v0", exits=0)
    # One task does not replace a sheet of all.
    assert {path.name for path in tmp_path.iterdir()} == {"pendulum.png", "pendulum.gif"}
    with Image.open(tmp_path / "pendulum.gif") as film, Image.open(tmp_path / "pendulum.png") as im:
        assert getattr(film, "n_frames", 1) >= 40  # two episodes of twenty steps
        still = np.asarray(im.convert("RGB")).astype(int)
        film.seek(30)
        frame_before_the_end = np.asarray(film.convert("RGB")).astype(int)
    assert still.shape == frame_before_the_end.shape
    assert np.median(np.abs(still - frame_before_the_end)) <= 4


def test_ctrl_c_ends_a_gallery_with_one_line(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Film, "save", interrupted)
    result = run("gallery", "pictures", "BilevelIncentive-v0", exits=130)
    assert result.stderr == "interrupted\n"
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["incentive.png"]


def test_gallery_says_what_it_cannot_draw(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    assert "BilevelGridWorld-v0" in refused(run("gallery", "out", "BilevelGridWrld-v0"))
    assert f"`bilevel-gym gallery FOLDER {GRID}`" in refused(run("gallery", GRID))
    assert not (tmp_path / GRID).exists()
    (tmp_path / "file").touch()
    assert "file" in run("gallery", "file", GRID).stderr
    monkeypatch.setattr(BilevelGridWorld, "draw", bilevel_gym.BilevelEnv.draw)
    assert f"{GRID} has none" in refused(run("gallery", "out", GRID))


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("BilevelFourRooms-v0", "four_rooms"),
        ("BilevelRandomMDP-v0", "random_mdp"),
        ("BilevelInverseRL-v12", "inverse_rl"),
        ("module/Commute-v0", "commute"),
    ],
)
def test_gallery_names_files_after_tasks(env_id: str, name: str) -> None:
    assert file_name(env_id) == name


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_sheet_shows_every_picture_whole(count: int) -> None:
    colours = [(40 * i + 20, 0, 200) for i in range(count)]
    sizes = [(300 + 900 * (i % 2), 500) for i in range(count)]
    pictures = [new_surface(size) for size in sizes]
    for picture, colour in zip(pictures, colours, strict=True):
        picture.fill(colour)
    sheet = frame(contact_sheet(pictures)).reshape(-1, 3).astype(int)
    for size, colour in zip(sizes, colours, strict=True):
        scale = min(520 / size[0], 360 / size[1])
        area = int(size[0] * scale) * int(size[1] * scale)
        shown = (np.abs(sheet - colour) <= 6).all(axis=1).sum()
        assert shown == pytest.approx(area, rel=0.01)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


# play ------------------------------------------------------------------------------------------


def test_play_passes_all_on_and_ctrl_c_leaves_the_viewer(run: Run, monkeypatch: Patch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr("bilevel_gym.viewer.play_seat", lambda *a, **k: calls.append((a, k)))
    result = run("play", GRID, *SMALL, "--headless", "film.gif", exits=0)
    (((seat,), options),) = calls
    assert options == {"headless": Path("film.gif"), "lesson": False}
    assert seat.game.made_with["map_name"] == "4x4"
    run("play", GRID, "--method", "hpgd", "--method-set", "episodes=8", exits=0)
    ((seat,), _) = calls[-1]
    assert str(seat.method) == "HPGD(episodes=8)"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bilevel_gym.viewer.play_seat", interrupt)
    result = run("play", GRID, *SMALL, exits=130)
    assert result.output == ""


def test_play_says_what_it_cannot_do(run: Run, monkeypatch: Patch) -> None:
    assert ".gif" in refused(run("play", GRID, *SMALL, "--headless", "film.mp4"))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert "no display" in refused(run("play", GRID, *SMALL))
    assert "unknown method 'nope'" in refused(run("play", GRID, "--method", "nope"))
    for name in OPTIMIZERS:
        said = f"'{name}' is an optimizer, not a method: `bilevel-gym solve ID --optimizer {name}`"
        for command in (("methods", name), ("play", GRID, "--method", name)):
            assert said in refused(run(*command))
    assert "exact answers, got those of HPGD" in refused(
        run("play", "--lesson", "--method", "hpgd")
    )
    assert "`--lesson`" in run("play", exits=2).output
    assert "BilevelToll-v0: 'method'" in refused(run("play", "--lesson", "--set", "method=direct"))
