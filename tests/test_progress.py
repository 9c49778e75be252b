"""What long work says of how far it is: seats in Python, a bar on a terminal, and plain lines."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

from bilevel_gym.cli import arguments, progress
from bilevel_gym.core.progress import Lines, Paced, duration, tell, told_to
from bilevel_gym.model.protocols import Tells
from bilevel_gym.registration import QUICK
from bilevel_gym.wrappers.reporting import answer_in_words

from .commands import GRID, LEARNT, SMALL, Run

Patch = pytest.MonkeyPatch

TASK = "BilevelPendulum-v0"


class Clock:
    """A clock that stands still until it is put on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: Patch) -> Clock:
    found = Clock()
    monkeypatch.setattr("bilevel_gym.core.progress.time", found)
    monkeypatch.setattr("bilevel_gym.cli.progress.time", found)
    return found


# Lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00:00"), (59.6, "0:01:00"), (3725.0, "1:02:05")]
)
def test_durations_have_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_something_paced_is_due_at_once_and_then_now_and_then(clock: Clock) -> None:
    pace = Paced(5.0)
    assert pace.due() and not pace.due()
    clock.now += 4.9
    assert not pace.due()
    clock.now += 0.2
    assert pace.due()
    pace.again()
    assert not pace.due()


def test_lines_tell_the_time_left_of_a_step_and_every_step(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, seconds=5.0)
    lines(0, 100, "learning")
    clock.now += 2.0
    lines(20, 100, "learning")  # too soon
    clock.now += 3.0
    lines(50, 100, "learning")
    lines.say("the step was made")
    clock.now += 1.0
    lines(0, 40, "learning")
    clock.now += 4.0
    lines(20, 40, "learning")
    assert said == [
        "0/100 learning",
        "50/100 learning, 0:00:05 left",
        "the step was made",
        "20/40 learning, 0:00:04 left",
    ]


def test_loops_tell_whoever_listens_once_they_take_long(clock: Clock) -> None:
    told: list[tuple[int, int, str]] = []
    tell(lambda: "nobody listens")
    with told_to(lambda *said: told.append(said)):
        tell(lambda: "too soon")
        clock.now += 1.1
        tell(lambda: "solving")
        tell(lambda: "too soon again")
        with told_to(None):
            clock.now += 1.0
            tell(lambda: "still solving")
    tell(lambda: "nobody listens any more")
    assert told == [(0, 0, "solving"), (0, 0, "still solving")]
    said: list[str] = []
    Lines(said.append)(0, 0, "solving")
    assert said == ["solving"]


@pytest.mark.parametrize("solver", ["dense", "sparse", "value-iteration", "krylov"])
def test_exact_answers_that_take_long_say_how_far_they_are(monkeypatch: Patch, solver: str) -> None:
    monkeypatch.setattr("bilevel_gym.core.progress.SILENT", -1.0)
    monkeypatch.setattr("bilevel_gym.core.progress.EVERY", 0.0)
    told: list[str] = []
    env: Any = gym.make(GRID, map_name="4x4", solver=solver)
    env.progress = lambda done, total, doing: told.append(doing)
    env.reset(seed=0)
    assert len(told) >= 2
    residuals = [float(words.split()[3]) for words in told]
    assert residuals[-1] < residuals[0]


# Seats -----------------------------------------------------------------------------------------


def answers(env: Any) -> list[Any]:
    _, info = env.reset(seed=0)
    found = [info]
    for _ in range(2):
        found.append(env.step(info["upper_params"])[-1])
    return found


def test_a_seat_tells_how_far_its_follower_is_and_learns_the_same(monkeypatch: Patch) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.setattr("bilevel_gym.learnt.followers.TOLD_EVERY", 0.0)
    told: list[tuple[int, int, str]] = []
    env: Any = gym.make(TASK, episode_steps=20, **QUICK)
    assert isinstance(env.method, Tells)
    expected = answers(env)
    env = gym.make(TASK, episode_steps=20, **QUICK)
    env.progress = lambda *said: told.append(said)
    for info, same in zip(answers(env), expected, strict=True):
        np.testing.assert_equal(info, same)
    steps = QUICK["inner_steps"]
    learning = [done for done, total, doing in told if doing.startswith("learning") and total]
    assert {total for _, total, _ in told} == {steps}
    assert learning[:3] == [0, 2, 3]  # after the first step there is no reward yet
    assert all(0 <= done <= steps for done, _, _ in told)
    doing = [re.sub(r"[-\d.]+", "n", text) for _, _, text in told]
    assert [*dict.fromkeys(doing)] == [
        "learning",
        "learning: n a step, leader n",
        "playing episodes, n of n",
        "fitting critics, n of n",
    ]


def test_a_verbose_seat_prints_a_line_for_each_answer(capsys: pytest.CaptureFixture[str]) -> None:
    env: Any = gym.make(GRID, map_name="4x4", outer_steps=7, verbose=1)
    _, info = env.reset(seed=0)
    env.step(info["upper_params"])
    words = answer_in_words(env.response, 0)
    assert capsys.readouterr().out == f"[0/7] {words}\n[1/7] {words}\n"
    assert f"objective {info['objective']:.6g}, follower" in words
    again = gym.make(type(env.spec).from_json(env.spec.to_json()))
    again.reset(seed=0)
    assert capsys.readouterr().out == f"[0/7] {words}\n"
    with pytest.raises(ValueError, match="`verbose` must be an integer of at most 1, got 2"):
        gym.make(GRID, verbose=2)


def test_a_verbose_seat_prints_what_a_follower_does(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    gym.make(TASK, episode_steps=20, verbose=1, **QUICK).reset(seed=0)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"0/{QUICK['first_inner_steps']} learning"
    assert re.fullmatch(r"\[0/100\] objective \S+, follower \S+, \d+ environment steps", last)


# The command line ------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_line_for_every_slow_leader_step(
    run: Run, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(progress, "TOLD_EVERY", 0.0)
    output = run("solve", GRID, *SMALL, "--steps", 3, "--polish", exits=0).stdout
    lines = [line for line in output.splitlines() if re.match(r"\[.*objective", line)]
    assert [line.split()[0] for line in lines[:4]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert all(re.match(r"\[\d/4\] objective \S+, follower", line) for line in lines[:4])
    assert lines[4].startswith("[5] polish: objective")


def test_without_a_terminal_quick_steps_are_told_once_in_a_second_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress_bar("ascent", 201) as show:
        for number in range(1, 202):
            clock.now += 0.125
            show.step("ascent", f"objective {number}")
        for number in range(202, 205):
            clock.now += 0.0625
            show.step("polish", f"objective {number}")
    said = capsys.readouterr().out.splitlines()
    numbers = [int(line.split("/")[0].strip("[]").split("]")[0]) for line in said]
    assert numbers == [*range(1, 202, 8), 204]
    assert said[0] == "[1/201] objective 1, 0:00:25 left"
    assert said[-1] == "[204] polish: objective 204"


def test_an_answer_below_the_best_says_what_is_best(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("ascent", 2) as show:
        for objective in (3.0, 2.0):
            answer = SimpleNamespace(objective=objective, lower_value=None)
            show.answer("ascent", cast(Any, SimpleNamespace(response=answer, samples=0)), 3.0)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "[1/2] objective 3"
    assert last == "[2/2] objective 2, best 3"


def test_followers_who_learn_speak_at_once(run: Run) -> None:
    output = run("solve", *LEARNT, "--steps", 1, exits=0).stdout
    said = [line for line in output.splitlines() if "learning" in line or line.startswith("[")]
    assert said[0] == "0/12 learning" and said[1].startswith("[1/2] objective")


def test_what_is_made_for_long_is_named_meanwhile(run: Run, monkeypatch: Patch) -> None:
    made = arguments.make_leader

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return made(*args, **kwargs)

    monkeypatch.setattr("bilevel_gym.cli.solving.make_leader", slow)
    monkeypatch.setattr(progress, "LATE", 0.05)
    output = run("solve", GRID, *SMALL, "--steps", 1, exits=0).stdout
    assert output.startswith(f"making {GRID}\n")


def test_a_first_step_that_takes_long_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "LATE", 0.05)
        with progress.progress_bar("ascent", 2) as show:
            time.sleep(0.3)
            show.step("ascent", "done")
            time.sleep(0.1)
    assert capsys.readouterr().out.splitlines()[0] == "[0/2] the first step"
    with progress.progress_bar("ascent", 2) as show:
        show.step("ascent", "done")
    assert "first step" not in capsys.readouterr().out


def test_a_bar_of_80_characters_shows_what_is_done_and_the_time_left(
    clock: Clock, monkeypatch: Patch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "console", lambda **_: terminal)
    shown: Any
    with progress.progress_bar("ascent", 21) as shown:
        clock.now += 10.0
        shown.within(1200, 3000, "learning: -0.0571 a step, leader 0.62")
        assert line_of(shown).startswith("ascent  0/21")
        assert "0:08:35 left 1200/3000 learning: -0.0571 a step, leader" in line_of(shown)
        clock.now += 10.0
        shown.step("ascent", "objective 12.5, follower 3.1")
        assert " 1/21 " in line_of(shown) and "0:06:40 left objective 12.5" in line_of(shown)
        shown.skip()
        assert " 2/21 " in line_of(shown)
        shown.within(1, 2, "a" * 100)
        assert "ascent  2/21" in line_of(shown) and "left 1/2 aaa" in line_of(shown)
        assert line_of(shown).count("\n") == 1
        shown.step("polish", "objective 13")
        assert "polish" in line_of(shown) and "objective 12.5" not in line_of(shown)


def line_of(shown: Any) -> str:
    """Return what a bar shows at the moment, line by line."""
    console = Console(file=io.StringIO(), width=80)
    console.print(shown._bars.get_renderable())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    return str(text)


def test_a_gallery_says_how_far_it_is(run: Run, tmp_path: Path) -> None:
    output = run("gallery", "pictures", "BilevelIncentive-v0", exits=0).stdout
    assert "[1/41] objective" in output and "[41/41] objective" in output
    assert "BilevelIncentive-v0: incentive.png, incentive.gif" in output
