"""The command line, used as its users would, mistakes included."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image, ImageSequence

import bilevel_gym
from bilevel_gym.cli import main, markdown_table
from bilevel_gym.cli.arguments import make_leader, parse_value
from bilevel_gym.cli.galleries import file_name
from bilevel_gym.cli.run_folder import FILES
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.methods.exact import Exact
from bilevel_gym.methods.learners import LEARNERS
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.registration import QUICK, TASKS
from bilevel_gym.rendering import frame, new_surface
from bilevel_gym.rendering.film import MAX_FRAMES, Film
from bilevel_gym.rendering.sheet import contact_sheet
from bilevel_gym.wrappers import HyperGradient

from .helpers import LEARNT_TASKS

Patch = pytest.MonkeyPatch

GRID = "BilevelGridWorld-v0"
SMALL = ("--set", "map_name=4x4")
TRACE = ("--method", "trace", "--method-set")


def method_set(options: dict[str, Any]) -> list[str]:
    """Return the arguments that give a method its options."""
    texts = (f"{name}={json.dumps(value)}" for name, value in options.items())
    return [part for text in texts for part in ("--method-set", text)]


# A task whose follower learns, and answers soon.
LEARNT = ("BilevelPendulum-v0", "--set", "episode_steps=20", *method_set(QUICK))

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: Patch) -> Run:
    """Return a function that runs the command in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object, exits: int | None = None) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert exits in (None, result.exit_code), result.output
        return result

    return invoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return the folder and the result of a short run."""
    out = tmp_path_factory.mktemp("runs") / "out"
    arguments = ("solve", GRID, *SMALL, "--set", "slip=.2", "--steps", "5", "--lr", "0.1")
    return out, CliRunner().invoke(main, [*arguments, "--seed", "3", "--out", str(out)])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def params(folder: Path) -> dict[str, Any]:
    with np.load(folder / "params.npz") as stored:
        return dict(stored)


def result_of(folder: Path, name: str = "config.json") -> Any:
    return json.loads((folder / name).read_text())


def projected_norm(game: Any, x: Any) -> float:
    low, high = game.upper_space.low, game.upper_space.high
    return float(np.linalg.norm(np.clip(x + game.evaluate(x).hyper_gradient, low, high) - x))


def refused(result: Result) -> str:
    """Return the one line of an error that is the user's."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert not result.stdout
    return lines[0]


# Help, version, list ---------------------------------------------------------------------------


def test_no_arguments_print_the_help_and_one_the_version(run: Run) -> None:
    result = run(exits=0)
    for command in ("list", "check", "solve", "play", "gallery"):
        assert command in result.stdout
    assert run("--version").stdout == f"bilevel-gym {bilevel_gym.__version__}\n"


def test_importing_the_command_line_loads_no_heavy_library() -> None:
    heavy = ("matplotlib", "pygame", "torch", "stable_baselines3", "scipy", "rich", "PIL")
    code = f"import sys, bilevel_gym.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        (["solve"], "BilevelGr", [GRID]),
        (["solve", GRID, "--method"], "exa", ["exact"]),
        (["solve", GRID, "--optimizer"], "norm", ["normalized"]),
        (
            ["solve", GRID, "--method-set"],
            "inner=s",
            ["inner=sweeps", "inner=soft-q", "inner=soft-dqn", "inner=soft-sac"],
        ),
        (["solve", GRID, "--optimizer-set"], "schedule=con", ["schedule=constant"]),
        (["check-method"], "m-so", ["m-sobirl"]),
        (["check-method", "trace", "--task"], "BilevelGr", [GRID]),
        (["check-method", "trace", "--method-set"], "inner=c", ["inner=certainty-equivalence"]),
        (["gallery", "folder", GRID], "BilevelToll", ["BilevelToll-v0"]),
    ],
)
def test_names_are_completed_in_the_shell(
    words: list[str], incomplete: str, offered: list[str]
) -> None:
    shell = ShellComplete(main, {}, "bilevel-gym", "_BILEVEL_GYM_COMPLETE")
    assert [item.value for item in shell.get_completions(words, incomplete)] == offered


def test_all_inner_learners_are_listed(run: Run) -> None:
    learnt = pytest.importorskip("bilevel_gym.learnt.followers")
    (line,) = (line for line in run("list").stdout.splitlines() if "inner learners: " in line)
    assert line.partition(": ")[2].split(", ") == [*LEARNERS, *learnt.ALGORITHMS]


def test_list_has_a_row_for_every_task(run: Run, monkeypatch: Patch) -> None:
    output, table = run("list").stdout, run("list", "--markdown").stdout.splitlines()
    assert len(table) == 2 + len(TASKS) and {line.count("|") for line in table} == {10}
    for task, line in zip(TASKS, table[2:], strict=True):
        (row,) = (line for line in output.splitlines() if task.id in line)
        for text in (row, line):
            assert task.upper in text and task.enters in text and task.source in text
    game: Any = gym.make(GRID).unwrapped
    words = " ".join(next(line for line in output.splitlines() if GRID in line).split())
    assert f" {game.upper_space.shape[0]} -1 .. 1 0 " in words
    assert f" {game.observation_space.n} x {game.lower_space.n} " in words
    best = types.SimpleNamespace(value=0.46070307)
    monkeypatch.setattr(BilevelGridWorld, "best_known", best)
    assert "| 0.4607 |" in markdown_table()


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
        ([GRID, "--set", "slipp=1"], ["'slipp'", "'gamma'", "Did you mean 'slip'?"]),
        ([GRID, "--set", "slip"], ["name=value", "'slip'"]),
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", 0], "--steps"),
        (["--steps", "many"], "--steps"),
        (["--learning-rate", 0], "--learning-rate"),
        (["--lr", "nan"], "--learning-rate"),
        (["--learning-rate", "inf"], "--learning-rate"),
        (["--seed", -1], "--seed"),
        (["--method", "dirct"], "Did you mean 'direct'?"),
        (["--optimizer", "adma"], "unknown optimizer 'adma'; accepted: 'adam'"),
        (["--optimizer-set", "beta=1"], "unknown option for optimizer 'normalized': 'beta'"),
        (["--optimizer", "adam", "--optimizer-set", "beta1=2"], "`beta1` must lie in [0, 1)"),
        (["--optimizer", "lbfgsb", "--lr", 1], "`--learning-rate`: optimizer 'lbfgsb' has none"),
        (["--start", "nowhere.npz"], "nowhere.npz"),
        ([*TRACE, "episode=7"], "'episode'"),
        ([*TRACE, "episode=7"], "Did you mean 'episodes'"),
        ([*TRACE, "episodes=0"], "`episodes` must be an integer of at least 1, got 0"),
        ([*TRACE, "episodes"], "`--method-set` takes name=value"),
        ([*TRACE, "method=exact"], "method"),
    ],
)
def test_solve_refuses_bad_options_before_it_makes_a_folder(
    run: Run, tmp_path: Path, arguments: list[object], said: str
) -> None:
    result = run("solve", GRID, *arguments)
    assert result.exit_code == 2 and said in result.stderr
    if "--method-set" in arguments:
        refused(result)
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


# solve -----------------------------------------------------------------------------------------


def test_default_solve_reaches_the_optimum_of_the_grid_world(run: Run, tmp_path: Path) -> None:
    began = time.perf_counter()
    result = run("solve", GRID)
    assert time.perf_counter() - began < 10.0
    assert result.exit_code == 0, result.output
    found = params(tmp_path / "runs" / GRID / "001")
    best, initial, objective = (
        found[name] for name in ("best_upper_params", "initial_upper_params", "objective")
    )
    np.testing.assert_array_equal(initial, 0.0)
    game: Any = gym.make(GRID).unwrapped
    # The warm start of the run moves the value by the residual of the inner solve, 1e-10.
    assert objective == pytest.approx(game.evaluate(best).objective, abs=1e-8)
    assert objective >= 0.4600
    assert projected_norm(game, best) <= 1e-3 * projected_norm(game, initial)
    assert "-1.198591" in result.stdout
    assert f"{objective:.6f}" in result.stdout


def test_history_has_a_row_for_each_evaluation_and_a_plot(finished: tuple[Path, Result]) -> None:
    out, result = finished
    history = rows(out)
    assert f"evaluations: {len(history)}," in result.stdout
    assert [int(row["step"]) for row in history] == list(range(len(history)))
    assert [row["phase"] for row in history[:6]] == ["ascent"] * 6
    assert {row["phase"] for row in history[6:]} == {"polish"}
    assert {row["inner_converged"] for row in history} == {"True"}
    game: Any = gym.make(GRID, map_name="4x4", slip=0.2).unwrapped
    start = game.evaluate(np.zeros(game.upper_space.shape))
    names = ("objective", "lower_value", "gradient_norm")
    norm = float(np.linalg.norm(start.hyper_gradient))
    found = [float(history[0][name]) for name in names]
    expected = [start.objective, start.lower_value, norm]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert "\x1b" not in result.output and "\r" not in result.output and result.stderr == ""
    with Image.open(out / "progress.png") as image:
        assert image.format == "PNG"
        assert image.width >= 800
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10


def test_config_says_how_to_repeat_the_run_with_the_same_files(
    run: Run, tmp_path: Path, finished: tuple[Path, Result]
) -> None:
    config = result_of(finished[0])
    assert config["versions"].pop("bilevel_gym") == bilevel_gym.__version__
    assert set(config.pop("versions")) == {"python", "gymnasium", "numpy", "scipy"}
    expected = {"id": GRID, "kwargs": {"map_name": "4x4", "slip": 0.2}, "seed": 3, "start": None}
    expected |= {"method": "exact", "method_options": {}, "steps": 5, "learning_rate": 0.1}
    expected |= {"optimizer": "normalized", "optimizer_options": {}, "polish": True}
    assert config == expected
    options = ("--set", "slip=0.2", "--steps", 5, "--lr", 0.1, "--seed", 3)
    run("solve", GRID, *SMALL, *options, "--out", "again")
    for file in ("history.csv", "params.npz", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (finished[0] / file).read_bytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_of_the_table_solves(run: Run, tmp_path: Path, optimizer: str) -> None:
    extra = ("--optimizer-set", "restarts=2") if "restart" in optimizer else ()
    options = ("--optimizer", optimizer, "--steps", 12, "--no-polish", "--out", "out", *extra)
    run("solve", GRID, *SMALL, *options, exits=0)
    history = rows(tmp_path / "out")
    assert 2 <= len(history) <= 20 + 400 * bool(extra)
    assert {row["phase"] for row in history} == {"ascent"}
    assert max(float(row["objective"]) for row in history) > float(history[0]["objective"])
    config = result_of(tmp_path / "out")
    assert config["optimizer"] == optimizer
    rates = {"adam": 0.01, "cobyqa": None, "lbfgsb": None}
    if optimizer in rates:
        assert config["learning_rate"] == rates[optimizer]
    assert optimizer in run("solve", "--help").stdout


def test_options_of_the_optimizer_and_of_the_method_reach_them(run: Run, tmp_path: Path) -> None:
    options = ("--optimizer", "adam", "--optimizer-set", "schedule=constant", "--lr", 0.3)
    run("solve", GRID, *SMALL, *options, "--steps", 1, "--no-polish", "--out", "out")
    assert np.abs(params(tmp_path / "out")["final_upper_params"]).max() == pytest.approx(0.3)
    assert result_of(tmp_path / "out")["optimizer_options"] == {"schedule": "constant"}
    method = {"episodes": 7, "inner_options": {"sweeps": 50}, "inner": "sweeps", "horizon": 3}
    command = ("solve", GRID, *SMALL, "--method", "trace", "--steps", 1, "--out", "two")
    run(*command, *method_set(method), exits=0)
    assert result_of(tmp_path / "two")["method_options"] == method
    samples = [int(row["inner_samples"]) for row in rows(tmp_path / "two")]
    assert all(0 < number <= 7 * 3 for number in samples)


def test_the_best_x_is_kept_if_not_the_last_and_ends_the_film(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--steps", 35, "--lr", 3, "--optimizer-set", "schedule=constant", "--no-polish")
    run("solve", GRID, *options, "--gif", "--out", out, exits=0)
    history = rows(out)
    assert [row["phase"] for row in history] == ["ascent"] * 36
    objectives = [float(row["objective"]) for row in history]
    assert max(objectives) > objectives[-1]
    found = params(out)
    assert found["objective"] == max(objectives)
    env = gym.make(GRID, render_mode="rgb_array")
    env.reset()
    frames = {}
    for name, expected in (("best", max(objectives)), ("final", objectives[-1])):
        _, value, *_ = env.step(found[f"{name}_upper_params"])
        assert float(value) == pytest.approx(expected, abs=1e-8)
        frames[name] = np.asarray(env.render(), dtype=float)
    with Image.open(out / "run.gif") as image:
        count: int = getattr(image, "n_frames", 1)
        first = np.asarray(image.convert("RGB"), dtype=float)
        image.seek(count - 1)
        last = np.asarray(image.convert("RGB"), dtype=float)
    assert 30 <= count <= 120
    assert np.abs(last - first).mean() > 1.0
    assert (out / "run.gif").stat().st_size < 1_000_000
    # The film ends on the best x, up to its palette and the number of the step.
    assert np.abs(last - frames["best"]).mean() < 0.5 * np.abs(last - frames["final"]).mean()


def test_a_film_is_spread_evenly_whatever_the_length_of_the_run(tmp_path: Path) -> None:
    film, drawn = Film(), []
    for i in range(1000):

        def draw(i: int = i) -> NDArray[np.uint8]:
            drawn.append(i)
            # Frames that look alike would be joined in the file.
            return np.random.default_rng(i).integers(256, size=(8, 8, 3), dtype=np.uint8)

        film.offer(draw)
    film.save(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as image:
        frames = getattr(image, "n_frames", 1)
    assert MAX_FRAMES // 2 <= frames <= MAX_FRAMES
    assert len(drawn) < 4 * MAX_FRAMES  # the others were not even drawn
    assert set(np.diff(drawn[-10:])) == {16}


def test_runs_are_numbered_and_a_number_taken_meanwhile_is_skipped(
    run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    parent = tmp_path / "runs" / GRID
    (parent / "007").mkdir(parents=True)
    (parent / "001").mkdir()
    run("solve", GRID, *SMALL, "--steps", 1, exits=0)
    assert sorted(folder.name for folder in parent.iterdir()) == ["001", "007", "008"]
    assert not list((parent / "007").iterdir())
    # The listing of a parallel run that has seen none of them.
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))
    run("solve", GRID, *SMALL, "--steps", 1, exits=0)
    assert (parent / "002" / "params.npz").exists()


def test_a_folder_in_use_and_a_film_without_a_picture_are_refused_before_solving(
    run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    monkeypatch.setattr(Exact, "step", lambda *_: pytest.fail("solved before looking"))
    message = refused(run("solve", GRID, "--out", out))
    assert "is not empty" in message and "--overwrite" in message
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    monkeypatch.setattr(BilevelGridWorld, "draw", bilevel_gym.BilevelEnv.draw)
    assert "`--gif` needs a task with a picture" in refused(run("solve", GRID, "--gif"))
    assert [*tmp_path.iterdir()] == [out]


def test_overwrite_replaces_the_files_of_a_run_and_no_others(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    for name in FILES:
        (out / name).write_text("old")
    run("solve", GRID, *SMALL, "--steps", 1, "--out", out, "--overwrite", exits=0)
    assert (out / "thesis.txt").read_text() == "precious"
    # The film of the old run is gone: the new one was not filmed.
    assert {path.name for path in out.iterdir()} == {*FILES, "thesis.txt"} - {"run.gif"}
    assert not any(path.read_bytes() == b"old" for path in out.iterdir())


@pytest.mark.parametrize("out", ["file/run", "file", "/proc/run"])
def test_an_unwritable_folder_is_refused_before_solving(
    run: Run, tmp_path: Path, monkeypatch: Patch, out: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(Exact, "step", lambda *_: pytest.fail("solved before looking"))
    result = run("solve", GRID, "--out", out, exits=2)
    assert out in result.stderr
    assert "Traceback" not in result.output


def test_start_goes_on_from_the_best_x_and_others_are_refused(
    run: Run, tmp_path: Path, finished: tuple[Path, Result]
) -> None:
    start = finished[0] / "params.npz"
    run("solve", GRID, *SMALL, "--method", "direct", "--steps", 5, "--start", start, "--out", "two")
    one, two = params(finished[0]), params(tmp_path / "two")
    np.testing.assert_array_equal(one["best_upper_params"], two["initial_upper_params"])
    assert [row["phase"] for row in rows(tmp_path / "two")] == ["ascent"] * 6
    message = refused(run("solve", GRID, "--start", start, "--out", "large"))
    assert "must have shape (52,), got (14,)" in message
    np.savez(tmp_path / "other.npz", x=np.zeros(52))
    for name in (tmp_path / "other.npz", finished[0] / "config.json"):
        assert "best_upper_params" in refused(run("solve", GRID, "--start", name))
    assert not (tmp_path / "large").exists()


def test_a_vanishing_estimate_ends_at_once_and_says_what_it_is(run: Run, tmp_path: Path) -> None:
    result = run("solve", GRID, "--method", "direct", "--out", "out", exits=0)
    assert len(rows(tmp_path / "out")) == 1
    assert "the gradient of method 'direct' vanishes at the start" in result.stdout
    assert "an estimate, not the hyper-gradient" in result.stdout
    objective = next(line for line in result.stdout.splitlines() if "objective" in line)
    assert objective.count("-1.198591") == 2
    game: Any = gym.make(GRID).unwrapped
    norm = projected_norm(game, np.zeros(52))
    assert f"at the best x is {norm:.3g}." in result.stdout


def test_inner_solves_that_fail_are_reported(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    answer = Exact.step

    def fail(self: Exact, x: Any) -> Any:
        response = answer(self, x)
        object.__setattr__(response, "converged", False)
        return response

    monkeypatch.setattr(Exact, "step", fail)
    result = run("solve", GRID, *SMALL, "--steps", 2, "--no-polish", "--out", "out")
    assert "Warning: 3 inner solves did not converge" in result.stderr


def test_warnings_of_a_task_are_shown_in_one_line(run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("solve", GRID, *SMALL, "--set", "temperature=1", "--steps", 1)
    # Others may have something to say too, at "always".
    (line,) = (line for line in result.stderr.splitlines() if "entropy" in line)
    assert line.startswith("Warning: entropy alone")


# Interruption ----------------------------------------------------------------------------------


def test_an_error_keeps_what_the_run_reached(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    answer = Exact.step

    def fail(self: Exact, x: Any) -> Any:
        if np.any(x):
            raise RuntimeError("the learner broke")
        return answer(self, x)

    monkeypatch.setattr(Exact, "step", fail)
    result = run("solve", GRID, *SMALL, "--out", "out")
    assert isinstance(result.exception, RuntimeError)
    assert len(rows(tmp_path / "out")) == 1
    assert (tmp_path / "out" / "params.npz").exists()


def test_ctrl_c_ends_a_run_with_all_its_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bilevel_gym.cli", "solve", GRID, "--steps", "1000000"]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As shells do for background jobs; the command catches Ctrl-C all the same.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        history = out / "history.csv"
        deadline = time.monotonic() + 30.0
        while not (history.exists() and history.read_text().count("\n") > 20):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30.0)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in stdout
    assert "Traceback" not in stderr
    assert {path.name for path in out.iterdir()} == set(FILES) - {"run.gif"}  # none temporary
    found = params(out)
    assert found["objective"] == max(float(row["objective"]) for row in rows(out))
    game: Any = gym.make(GRID).unwrapped
    best = game.evaluate(found["best_upper_params"])
    assert best.objective == pytest.approx(found["objective"], abs=1e-8)


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


@pytest.mark.parametrize("method", ["trace", "hpgd", "zero-order", "m-sobirl"])
def test_every_kind_of_method_climbs(run: Run, tmp_path: Path, method: str) -> None:
    result = run("solve", GRID, *SMALL, "--method", method, "--steps", 2, "--out", "out", exits=0)
    assert "gives an estimate" in result.stdout
    history = rows(tmp_path / "out")
    assert len(history) == 3
    # What a method does not say stays empty.
    assert all((row["inner_samples"] != "") == (method in ("trace", "hpgd")) for row in history)


def test_learners_are_solved_and_filmed(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    answered: list[Any] = []
    answer = HyperGradient._answer

    def counted(seat: HyperGradient, x: Any, **options: Any) -> Any:
        answered.append(x)
        return answer(seat, x, **options)

    monkeypatch.setattr(HyperGradient, "_answer", counted)
    out = tmp_path / "out"
    result = run("solve", *LEARNT, "--steps", 2, "--gif", "--out", out, exits=0)
    assert "The follower learns: objectives and gradients are estimates" in result.stdout
    history = rows(out)
    assert [row["phase"] for row in history] == ["ascent"] * 3  # estimates are not polished
    assert all(int(row["inner_samples"]) > 0 for row in history)
    config = result_of(out)
    assert config["method"] == "trace"
    assert (config["optimizer"], config["learning_rate"]) == ("adam", 0.4)  # as its page has it
    assert {"torch", "stable_baselines3"} <= set(config["versions"])
    found = params(out)
    # Adam's steps, at a constant rate; the first is of that length in every entry.
    assert 0.4 <= np.abs(found["final_upper_params"]).max() <= 0.8
    known = result_of(out, "result.json")
    steps = sum(int(row["inner_samples"]) for row in history)
    assert known["environment_steps"] == steps
    assert f"evaluations: 3, {steps} environment steps, in " in result.stdout
    assert known["objective"]["best"] == max(float(row["objective"]) for row in history)
    # The first x is answered once, and so are all others; the film may answer the best x again.
    best_is_last = np.array_equal(found["best_upper_params"], found["final_upper_params"])
    assert len(answered) == 3 + (not best_is_last)
    with Image.open(out / "run.gif") as image:
        # Three x, and an episode of twenty steps.
        assert getattr(image, "n_frames", 1) >= 20


def test_every_task_whose_follower_learns_says_how_to_climb() -> None:
    for task in TASKS:
        learns = task in LEARNT_TASKS
        assert set(task.climb) == ({"steps", "learning_rate"} if learns else set()), task.id


# gallery ----------------------------------------------------------------------------------------


def test_gallery_draws_tasks_and_a_sheet(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("bilevel_gym.cli.galleries.TASKS", TASKS[:1])
    run("gallery", "pictures", exits=0)
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


def test_gallery_says_what_it_cannot_draw(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    assert "BilevelGridWorld-v0" in refused(run("gallery", "out", "BilevelGridWrld-v0"))
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
    monkeypatch.setattr("bilevel_gym.viewer.play", lambda *a, **k: calls.append((a, k)))
    result = run("play", GRID, *SMALL, "--headless", "film.gif", exits=0)
    assert calls == [((GRID,), {"headless": Path("film.gif"), "map_name": "4x4"})]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bilevel_gym.viewer.play", interrupt)
    result = run("play", GRID, *SMALL, exits=130)
    assert result.output == ""


def test_play_says_what_it_cannot_do(run: Run, monkeypatch: Patch) -> None:
    assert ".gif" in refused(run("play", GRID, *SMALL, "--headless", "film.mp4"))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert "no display" in refused(run("play", GRID, *SMALL))
    message = refused(run("play", "BilevelLQR-v0"))
    assert "only games on a map" in message and "`bilevel-gym gallery FOLDER" in message
