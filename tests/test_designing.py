"""`design_reward` and `bilevel-gym design`: from an environment to the weights of terms."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from gymnasium.wrappers import TimeLimit
from PIL import Image

import bilevel_gym
from bilevel_gym.cli import main
from bilevel_gym.designing import Design, Score
from bilevel_gym.designing.results import verdict_of
from bilevel_gym.designing.run import _direct
from bilevel_gym.envs import DesignGame
from bilevel_gym.sb3 import SoftDQN

from .commands import refused
from .helpers import assert_identical, refusals
from .learnt import TINY_LEARNER
from .strangers import CONTENTS, MARK, archived, members_of
from .walks import Walk, make_walk, shaping

HERE = "tests.walks"

# The least that a method can do.
TINY: dict[str, Any] = {
    "method_options": {
        "episodes": 4,
        "inner_steps": 20,
        "first_inner_steps": 30,
        "critic_updates": 20,
        "standardise": False,
        "inner_options": TINY_LEARNER,
    },
    "held_out": 4,
    "progress": False,
    "steps": 700,
}

pytestmark = pytest.mark.filterwarnings("ignore:the hyper-gradient of")


def designed(env: Any = make_walk, terms: Any = shaping, **changes: Any) -> Design:
    return bilevel_gym.design_reward(env, terms, **{**TINY, **changes})


def kept(design: Design) -> dict[str, Any]:
    """Return what two runs of the same must have in common."""
    names = ("weights", "upper_params", "objective", "start", "history", "environment_steps")
    return {name: getattr(design, name) for name in names}


def test_one_call_finds_weights_under_which_a_follower_reaches_what_is_wanted() -> None:
    def near(observation: Any, action: Any, following: Any, info: Any) -> dict[str, float]:
        return {"right": following[0], "away": following[1]}

    found = bilevel_gym.design_reward(
        make_walk,
        near,
        steps=6500,
        own_reward=False,
        progress=False,
        against_direct=True,
        method_options={"first_inner_steps": 500, "inner_steps": 250},
    )
    assert found.start.mean < 0.8 and found.objective.mean > 0.9, found.verdict
    assert found.weights["right"] > 0.0 and [*found.weights] == ["right", "away", "constant"]
    assert "better than the start" in found.verdict and "direct training" in found.verdict
    assert found.direct is not None and found.environment_steps < 7000
    assert not found.interrupted and found.folder is None
    # The follower acts, and is the one that was trained by these weights.
    env = found.game.make_environment()
    observation, _ = env.reset(seed=4)
    paid, over = 0.0, False
    while not over:
        action, _ = found.model.predict(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        paid, over = paid + float(reward), terminated or truncated
    assert paid == 1.0


def test_direct_training_takes_the_objective_as_its_reward_for_as_many_steps() -> None:
    game = DesignGame(make_walk, ["progress"], objective="place")
    told: list[tuple[int, int, str]] = []
    options = TINY["method_options"]
    follower = _direct(game, options, 64, 0, lambda *progress: told.append(progress))
    buffer = follower.model.replay_buffer
    assert told[0] == (0, 64, "learning") and follower.model.num_timesteps == 64
    assert buffer is not None and buffer.terms is not None
    seen = buffer.transitions(np.arange(64), np.random.default_rng(0))
    np.testing.assert_allclose(seen.rewards, seen.next_observations[:, 0], atol=1e-6)
    paid = buffer.rewards_of(seen.observations, seen.actions, seen.terms)
    np.testing.assert_allclose(paid, seen.rewards - game.temperature * np.log(2.0), atol=1e-6)


@pytest.mark.parametrize(
    "env",
    [f"{HERE}:make_walk", make_walk(), TimeLimit(Walk(), 20)],
    ids=["named function", "instance", "wrapped instance"],
)
def test_a_seed_determines_everything_wherever_the_environment_comes_from(env: Any) -> None:
    one, other = designed(), designed(env)
    assert_identical(kept(one), kept(other))
    phases = [entry["phase"] for entry in one.history]
    assert phases[0] == "climb" and len(phases) > 1 and {*phases} <= {"climb", "screen"}
    assert one.history[-1]["environment_steps"] <= one.environment_steps


@pytest.mark.parametrize(
    ("env", "terms", "changes"),
    [
        ("CartPole-v1", lambda o, a, n, i: {"upright": -abs(n[2])}, {"episode_steps": 20}),
        (make_walk, ["reward[1]"], {"env_kwargs": {"pays": "vector"}, "objective": "reward[0]"}),
        (make_walk, "place", {"env_kwargs": {"acts": "box"}, "objective": "goal"}),
        ("FrozenLake-v1", lambda o, a, n, i: {"row": n // 4}, {"episode_steps": 20}),
        ("InvertedPendulum-v5", "reward_survive", {"episode_steps": 20}),
    ],
    ids=["id", "vector reward", "names and continuous actions", "discrete", "MuJoCo"],
)
def test_terms_and_objectives_of_all_kinds(env: Any, terms: Any, changes: dict[str, Any]) -> None:
    if "Inverted" in str(env):
        pytest.importorskip("mujoco")
    found = designed(env, terms, **changes, steps=300)
    assert found.verdict and np.isfinite(found.objective.mean)
    vector = "pays" in changes.get("env_kwargs", {})
    assert ("own_reward" in found.weights) != vector


def test_a_budget_is_kept_or_refused_at_once() -> None:
    arguments = {**TINY, "steps": 300, "episode_steps": 900}
    with pytest.raises(ValueError, match="`steps` must be at least .* got 300") as refusal:
        bilevel_gym.design_reward("MountainCarContinuous-v0", "reward[0]", **arguments)
    least = int(re.findall(r"\d+", str(refusal.value))[0])
    assert 4 * 900 < least < 5 * 900
    for steps in (140, 250, 700):
        used = designed(steps=steps).environment_steps
        assert used <= steps + 2 * 20, (steps, used)


# Interrupts, and the folder ---------------------------------------------------------------------


class Interrupting:
    """Progress that ends in an interrupt where a text begins so for the nth time."""

    def __init__(self, at: str, times: int = 1) -> None:
        self.at, self.left, self.texts = at, times, list[str]()

    def __call__(self, done: int, total: int, text: str) -> None:
        self.texts.append(text)
        self.left -= text.startswith(self.at)
        if self.left == 0:
            self.left = -1
            raise KeyboardInterrupt


def test_an_interrupted_run_has_the_best_so_far_and_goes_on_to_the_same(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = designed(folder=whole)
    progress = Interrupting("objective", 4)
    found = designed(folder=cut, progress=progress)
    assert found.interrupted and found.verdict.startswith("Interrupted after")
    assert "measuring the terms" in progress.texts[0] and len(found.history) == 4
    going_on = designed(folder=cut)
    assert not going_on.interrupted
    assert_identical(kept(going_on), kept(expected))
    # It has come to its end: nothing is learnt once more.
    began = time.perf_counter()
    assert_identical(kept(designed(folder=cut)), kept(expected))
    assert time.perf_counter() - began < 5.0
    with pytest.raises(KeyboardInterrupt):
        designed(progress=Interrupting("the follower learns"))
    undirected = designed(progress=Interrupting("training directly"), against_direct=True)
    assert undirected.direct is None
    assert_identical(kept(undirected), kept(expected))


def test_a_folder_has_history_result_picture_and_follower(tmp_path: Path) -> None:
    found = designed(folder=tmp_path, against_direct=True)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.history)
    for row, entry in zip(rows, found.history, strict=True):
        assert {name: float(row[name]) for name in found.weights} == entry["weights"]
        assert float(row["objective"]) == entry["objective"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["weights"] == found.weights and result["verdict"] == found.verdict
    assert result["direct"]["episodes"] == 4
    assert Image.open(tmp_path / "progress.png").size == (1050, 900)
    seen, _ = make_walk().reset(seed=0)
    model = SoftDQN.load(tmp_path / "follower.zip", device="cpu")
    assert isinstance(found.model, SoftDQN)
    one, other = (each.action_probabilities(seen[None]) for each in (model, found.model))
    np.testing.assert_array_equal(one, other)


def test_another_call_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    designed(folder=run, steps=140)
    for changes, message in (
        ({"seed": 1}, "`seed` of the run in .* is 0, got 1; the same call goes on"),
        ({"terms": ["place"]}, r"`terms` of the run in .* is 'tests.walks:shaping', got \['place'"),
        ({"env_kwargs": {"pays": "vector"}}, "`env_kwargs` of the run.*vector"),
    ):
        with pytest.raises(ValueError, match=message):
            designed(folder=run, **{"steps": 140, **changes})
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be empty or of a run.*'notes.txt'"):
        designed(folder=other)
    (run / "climb.npz").write_bytes(b"no state")
    with pytest.raises(ValueError, match="climb.npz cannot be read"):
        designed(folder=run, steps=140)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_that_is_planted_in_a_folder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    designed(folder=folder, steps=140)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    (method,) = folder.glob("method-*.zip")
    members = members_of(method)
    for make in CONTENTS.values():
        planted = {folder / "config.json": make(), folder / "climb.npz": make(), method: make()}
        for name in ("learner.zip", "state.json", "critic.pt", "environment.json"):
            planted[folder / name] = archived({**members, name: make()})
        for path, content in planted.items():
            target = path if path in whole else method
            target.write_bytes(content)
            with suppress(ValueError):  # in one line, or it is not read at all
                designed(folder=folder, steps=140)
            assert not MARK.exists(), path
            target.write_bytes(whole[target])
    (folder / "climb.npz").write_bytes(CONTENTS["pickle"]())
    with pytest.raises(ValueError, match="climb.npz cannot be read"):
        designed(folder=folder, steps=140)


# Words ------------------------------------------------------------------------------------------


def test_verdicts_say_better_worse_and_not_to_be_told() -> None:
    def verdict(mean: float, direct: Score | None = None, **options: Any) -> str:
        start = Score(1.0, 0.1, 30)
        return verdict_of(500, Score(mean, 0.1, 30), start, direct, **{"seen": (0, 2), **options})

    assert "is 2 +- 0.1, better than the start, 1 +- 0.1 (difference 1," in verdict(2.0)
    assert "not distinguishable from the start" in verdict(1.2)
    assert "worse than the start" in verdict(0.5)
    assert "; worse than direct training" in verdict(2.0, Score(3.0, 0.1, 30))
    assert verdict(2.0, interrupted=True).startswith("Interrupted after 500")
    assert "is 0.5 in every episode watched" in verdict(2.0, seen=(0.5, 0.5))


def test_an_objective_that_is_always_the_same_is_told() -> None:
    found = designed(objective=lambda *_: 0.0, steps=140)
    assert "the objective is 0 in every episode watched" in found.verdict


# Bad input --------------------------------------------------------------------------------------

test_bad_input_is_refused_before_the_budget_is_spent = refusals(
    designed,
    ({"steps": 0}, "`steps`.*got 0"),
    ({"seed": -1}, "`seed`.*got -1"),
    ({"held_out": 1}, "`held_out`.*got 1"),
    ({"against_direct": 2}, "`against_direct`.*got 2"),
    ({"progress": 2}, "`progress`.*got 2"),
    ({"gamma": 1.0}, "`gamma`.*got 1.0"),
    ({"temperature": 0.0}, "`temperature`.*got 0.0"),
    ({"start": {"progess": 1.0}}, "unknown term 'progess'.*Did you mean 'progress'"),
    ({"start": {"progress": 1e9}}, "`upper_params"),
    ({"method": "scor"}, "'scor'.*Did you mean 'score'"),
    ({"method_options": {"episode": 1}}, TypeError, "'episode'.*Did you mean 'episodes'"),
    ({"terms": lambda *_: {"one": float("nan")}}, "term 'one' must be finite, got nan"),
    ({"terms": ["progres"]}, "Did you mean 'progress'"),
    ({"objective": "goall"}, "Did you mean 'goal'"),
)


# The command ------------------------------------------------------------------------------------

ARGUMENTS = [f"{HERE}:make_walk", "--terms", f"{HERE}:shaping", "--steps", "300", "--held-out", "3"]
OPTIONS = [
    part
    for name, value in TINY["method_options"].items()
    for part in ("--method-set", f"{name}={json.dumps(value)}")
]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["design", *map(str, arguments)])


def test_the_command_does_the_same_as_the_call(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = command(*ARGUMENTS, *OPTIONS, "--out", out, "--seed", 3, "--start", "progress=1")
    assert done.exit_code == 0, done.output
    found = designed(steps=300, held_out=3, seed=3, start={"progress": 1.0})
    result = json.loads((out / "result.json").read_text())
    assert result["weights"] == found.weights and found.verdict in done.stdout
    assert "[0/300] measuring the terms" in done.stdout and "progress" in done.stdout
    assert "history.csv, result.json, progress.png, follower.zip" in done.stdout.replace("\n", " ")
    # Code must be named again.
    assert "names 'tests.walks:make_walk', which would be" in refused(command("--resume", out))
    again = command(*ARGUMENTS[:3], "--resume", out, "--held-out", 3)
    assert again.exit_code == 0, again.output
    assert found.verdict in again.stdout
    assert command("--resume", out, "--trust", "--held-out", 3).exit_code == 0
    other = refused(command(*ARGUMENTS[:3], "--resume", out, "--seed", 4))
    assert "`seed` of the run in" in other


def test_the_command_names_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = ("--out", tmp_path / "out")
    missing = command()
    assert missing.exit_code == 2 and "ENV" in missing.stderr
    assert command("CartPole-v1").exit_code == 2
    assert "--terms" in command("CartPole-v1").stderr
    for arguments, message in (
        (("CartPole-v1", "--terms", "speed", *out), "unknown entry of `info` 'speed'"),
        (("CartPole-v1", "--terms", "no.where:f", *out), "No module named 'no'"),
        (("Cart-v1", "--terms", "speed", *out), "Cart"),
        ((*ARGUMENTS, "--trust"), "`--trust` is for a run"),
        (("--resume", tmp_path), "there is no run in"),
    ):
        done = command(*arguments)
        assert done.exit_code == 2 and message in done.stderr, done.output
        assert len(done.stderr.strip().splitlines()) == 1


def test_there_is_a_sign_of_life_before_anything_is_loaded_that_takes_long(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, *OPTIONS, "--out", str(tmp_path / "out")]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bilevel_gym.cli", "design", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "measuring the terms" in process.stdout.readline()
    # A second or two, up to three on a slow machine; more only where tests wait for each other.
    assert time.perf_counter() - began < 6.0
    process.kill()
    process.wait()
    script = "import bilevel_gym, sys; f = lambda *_: sys.exit('torch' in sys.modules)"
    call = "bilevel_gym.design_reward('CartPole-v1', 'speed', progress=f)"
    assert subprocess.run([sys.executable, "-c", f"{script}; {call}"]).returncode == 0
