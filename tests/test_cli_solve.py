"""`bilevel-gym solve`: where it ends, what it writes, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import bilevel_gym
from bilevel_gym.cli import main, solving
from bilevel_gym.cli.run_folder import FILES, History
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.learnt.scores import LearntScore
from bilevel_gym.methods.exact import Exact
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.rendering.film import MAX_FRAMES, Film

from .commands import GRID, LEARNT, SMALL, Run, method_set, refused

Patch = pytest.MonkeyPatch

TRACE = ("--method", "trace", "--method-set")


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
    assert optimizer in "".join(run("solve", "--help").stdout.split())  # lines break at hyphens


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
    assert (
        out / "run.gif"
    ).stat().st_size < 1_200_000  # letters of 11 pixels at the width of a page
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
    assert {path.name for path in out.iterdir()} == {*FILES, "thesis.txt"} - {
        "run.gif",
        "method.zip",
    }
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
    torn = bytearray(start.read_bytes())
    torn[100] ^= 255  # not what its check sum says
    (tmp_path / "torn.npz").write_bytes(torn)
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff")
    names = [tmp_path / name for name in ("other.npz", "torn.npz", "junk.npy")]
    for name in (*names, finished[0] / "config.json"):
        assert "best_upper_params" in refused(run("solve", GRID, "--start", name))
    assert not (tmp_path / "large").exists()


def test_a_vanishing_estimate_ends_at_once_and_says_what_it_is(run: Run, tmp_path: Path) -> None:
    result = run("solve", GRID, "--method", "direct", "--out", "out", exits=0)
    assert len(rows(tmp_path / "out")) == 1
    assert "the gradient of method 'direct' vanishes at the start" in result.stdout
    assert "an estimate, not the hyper-gradient" in result.stdout
    lines = map(str.strip, result.stdout.splitlines())
    objective = next(line for line in lines if line.startswith("objective"))
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


def test_the_climb_on_estimates_is_warned_of(run: Run) -> None:
    warned = "Warning: `climb` is for exact answers, and this method estimates"
    for method, optimizer in (("plug-in", "climb"), ("plug-in", "adam"), ("exact", "climb")):
        said = run(
            *("solve", GRID, *SMALL, "--steps", 2),
            *("--method", method, "--optimizer", optimizer),
            exits=0,
        )
        assert (warned in said.stderr) == (method == "plug-in" and optimizer == "climb")


# Interruption ----------------------------------------------------------------------------------


def test_an_error_keeps_what_the_run_reached(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    answer = Exact.step

    def fail(self: Exact, x: Any) -> Any:
        if np.any(x):
            raise RuntimeError("the learner broke")
        return answer(self, x)

    monkeypatch.setattr(Exact, "step", fail)
    monkeypatch.setattr(Exact, "step_together", lambda self, xs: [fail(self, x) for x in xs])
    result = run("solve", GRID, *SMALL, "--out", "out")
    assert isinstance(result.exception, RuntimeError)
    assert len(rows(tmp_path / "out")) == 1
    assert (tmp_path / "out" / "params.npz").exists()


def test_an_interrupt_of_the_pictures_costs_nothing_else(
    run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(History, "plot", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    result = run("solve", GRID, *SMALL, "--steps", 3, "--no-polish", "--out", "out", exits=130)
    assert "interrupted before the pictures" in result.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["evaluations"] == 4


def test_an_interrupt_waits_for_the_result(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    report = solving.report

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        report(*arguments)

    monkeypatch.setattr(solving, "report", interrupted)
    result = run("solve", GRID, *SMALL, "--steps", 3, "--no-polish", "--out", "out", exits=130)
    assert result.stderr.endswith("interrupted\n")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["evaluations"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_run_with_its_files(tmp_path: Path, number: signal.Signals) -> None:
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
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30.0)
    finally:
        process.kill()
    found = params(out)
    objectives = [float(row["objective"]) for row in rows(out)]
    if number == signal.SIGKILL:  # the last row may be there without its x
        assert found["objective"] in (max(objectives), max(objectives[:-1]))
    else:
        assert process.returncode == 130
        assert "interrupted" in stdout
        assert "Traceback" not in stderr
        assert {path.name for path in out.iterdir()} == set(FILES) - {
            "run.gif",
            "method.zip",
        }  # none temporary
        assert found["objective"] == max(objectives)
    game: Any = gym.make(GRID).unwrapped
    best = game.evaluate(found["best_upper_params"])
    assert best.objective == pytest.approx(found["objective"], abs=1e-8)


# Options and methods ----------------------------------------------------------------------------

CONSTRAINED = ["--optimizer", "slsqp", "--optimizer-set"]
ROW = [[1] * 52]  # the sum of x


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
        (["--optimizer", "adma"], "unknown optimizer 'adma'. Did you mean 'adam'? Accepted: "),
        (["--optimizer-set", "beta=1"], "unknown option for optimizer 'climb': 'beta'"),
        (["--optimizer", "adam", "--optimizer-set", "beta1=2"], "`beta1` must lie in [0, 1)"),
        (["--optimizer", "lbfgsb", "--lr", 1], "`--learning-rate`: optimizer 'lbfgsb' has none"),
        ([*CONSTRAINED, "constraints=3"], "`constraints` must be a list, got 3"),
        ([*CONSTRAINED, 'constraints=[{"cost": "x", "at_most": 1}]'], "unknown cost 'x'"),
        ([*CONSTRAINED, f'constraints=[{{"matrix": {ROW}, "at_most": -60}}]'], "cannot hold"),
        (
            [*CONSTRAINED, f'constraints=[{{"matrix": {ROW}, "at_most": 1}}]', "--polish"],
            "--polish",
        ),
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


@pytest.mark.parametrize("method", ["trace", "hpgd", "zero-order", "m-sobirl"])
def test_every_kind_of_method_climbs(run: Run, tmp_path: Path, method: str) -> None:
    result = run("solve", GRID, *SMALL, "--method", method, "--steps", 2, "--out", "out", exits=0)
    assert "gives an estimate" in result.stdout
    history = rows(tmp_path / "out")
    assert len(history) == 3
    # What a method does not say stays empty.
    assert all((row["inner_samples"] != "") == (method in ("trace", "hpgd")) for row in history)
    assert all(row["temperature"] == "" for row in history)


def test_the_history_of_an_annealed_run_has_its_temperatures(run: Run, tmp_path: Path) -> None:
    run("solve", GRID, *SMALL, "--method", "annealed", "--steps", 2, "--out", "out", exits=0)
    history = rows(tmp_path / "out")
    temperatures = [float(row["temperature"]) for row in history]
    assert temperatures == sorted(temperatures, reverse=True) and len({*temperatures}) > 1
    assert all(row["unregularised_optimistic"] for row in history)


def test_learners_are_solved_and_filmed(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    answered: list[Any] = []

    def counted(answer: Any) -> Any:
        def count(method: LearntScore, x: Any) -> Any:
            answered.append(x)
            return answer(method, x)

        return count

    for name in ("step", "measure"):
        monkeypatch.setattr(LearntScore, name, counted(getattr(LearntScore, name)))
    out = tmp_path / "out"
    result = run("solve", *LEARNT, "--steps", 2, "--gif", "--out", out, exits=0)
    assert "The follower learns: objectives and gradients are estimates" in result.stdout
    history = rows(out)
    # After a short evaluation the climb begins; estimates are not polished.
    assert [row["phase"] for row in history] == ["ascent", "screen", "ascent"]
    assert [bool(row["gradient_norm"]) for row in history] == [True, False, True]
    assert all(int(row["inner_samples"]) > 0 for row in history)
    config = result_of(out)
    assert config["method"] == "score"
    assert (config["optimizer"], config["learning_rate"]) == ("safe", None)
    assert {"torch", "stable_baselines3"} <= set(config["versions"])
    found = params(out)
    known = result_of(out, "result.json")
    # The best few are watched anew.
    steps = sum(int(row["inner_samples"]) for row in history)
    assert known["environment_steps"] >= steps
    assert f"evaluations: 3, {known['environment_steps']} environment steps, in " in result.stdout
    assert known["objective"]["best"] == found["objective"]
    # The first x is answered once, and so are all others; the film may answer the best x again.
    assert 3 <= len(answered) <= 4
    with Image.open(out / "run.gif") as image:
        # Three x, and an episode of twenty steps.
        assert getattr(image, "n_frames", 1) >= 20
