"""Tests of play with answers that take long: followers who learn, estimates, slow exact ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import pytest
from PIL import Image, ImageSequence

import bilevel_gym
from bilevel_gym.viewer import Session, draw, handle, play
from bilevel_gym.viewer.picture import text
from bilevel_gym.viewer.scripts import drag_slider, press, release, settle
from bilevel_gym.viewer.work import LATE, GivenUp, Work

TOLL = "BilevelToll-v0"

# Little is learnt, so that little is waited for.
BRIEF: dict[str, Any] = {
    "inner_steps": 60,
    "first_inner_steps": 120,
    "episodes": 4,
    "critic_updates": 50,
}


class Gate:
    """A seat whose follower answers when it is let to."""

    def __init__(self, session: Session) -> None:
        self.asked: list[float] = []
        self.open = threading.Event()
        self._step = session.leader.step
        session.leader.step = self  # type: ignore[method-assign, assignment]

    def __call__(self, x: Any) -> Any:
        self.asked.append(float(x[0]))
        assert self.open.wait(10.0)
        return self._step(x)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session(bilevel_gym.make(TOLL), seed=0, background=True)
    list(settle(session))
    assert session.answered
    yield session
    session.leave()


def set_slider(session: Session, share: float) -> None:
    session.hold_slider(0)
    session.move_slider(share)
    session.end_stroke()


def test_while_the_follower_answers_the_window_goes_on_with_the_last_answer(
    session: Session,
) -> None:
    gate, first, began = Gate(session), session.response, time.monotonic()
    set_slider(session, 0.3)
    assert not session.tick()
    time.sleep(LATE)
    assert session.waiting == "The follower is answering x."
    assert text(session)[0][0] == session.waiting
    draw(session)
    assert session.response is first and session.rows[0].share == pytest.approx(0.3)
    assert time.monotonic() - began < 5.0, "nothing has waited for the answer"
    gate.open.set()
    list(settle(session))
    assert not session.waiting
    np.testing.assert_array_equal(session.response.upper_params, session.x)
    assert len(session.objectives) == 2


def test_moves_meanwhile_are_answered_by_the_newest_alone(session: Session) -> None:
    gate, width = Gate(session), float(session.high[0])
    for share in (0.2, 0.3, 0.4, 0.5):
        set_slider(session, share)
        session.tick()
    gate.open.set()
    list(settle(session))
    assert gate.asked == pytest.approx([0.2 * width, 0.5 * width])
    assert session.answered


def test_a_step_of_the_climb_does_not_undo_what_the_user_does_meanwhile(session: Session) -> None:
    gate = Gate(session)
    press(session, "g")
    release(session, "g")
    set_slider(session, 0.5)
    wanted = session.x.copy()
    gate.open.set()
    list(settle(session))
    np.testing.assert_array_equal(session.x, wanted)
    assert session.answered


def test_an_error_of_the_follower_reaches_the_user(session: Session) -> None:
    def fail(x: Any) -> None:
        raise ValueError("of the follower")

    session.leader.step = fail  # type: ignore[method-assign, assignment]
    set_slider(session, 0.3)
    with pytest.raises(ValueError, match="of the follower"):
        list(settle(session))


def test_whoever_leaves_waits_no_two_seconds(session: Session) -> None:
    Gate(session)
    set_slider(session, 0.3)
    session.tick()
    began = time.monotonic()
    session.leave()
    assert time.monotonic() - began < 2.0


def test_work_that_is_given_up_stops_when_it_says_how_far_it_is() -> None:
    go_on = threading.Event()

    def do() -> None:
        go_on.wait(10.0)
        work.progress(1, 2, "learning")

    work = Work(do, background=True)
    work.give_up()
    go_on.set()
    assert work.wait(10.0)
    with pytest.raises(GivenUp):
        work.result()


def test_work_says_how_far_it_is() -> None:
    work = Work(lambda: None, background=False)
    work.progress(30, 120, "learning: -1 a step, leader 2")
    assert work.words == ""
    time.sleep(LATE)
    said = "30 of 120 environment steps; learning: -1 a step, leader 2."
    assert work.words == f"The follower is answering x: {said}"


@pytest.fixture(scope="module")
def learnt() -> Session:
    pytest.importorskip("stable_baselines3")
    seat = bilevel_gym.make("BilevelCartPole-v0", render_mode="rgb_array", **BRIEF)
    return Session(seat, seed=0, background=True)


@pytest.mark.filterwarnings("ignore:the hyper-gradient of")
def test_a_follower_who_learns_is_played_with_both_seats(learnt: Session) -> None:
    draw(learnt)  # before the first answer
    press(learnt, "TAB")
    assert learnt.seat == "leader" and learnt.message == "wait for the follower's answer"
    list(settle(learnt))
    answer = learnt.response
    said = " ".join(words for words, _ in text(learnt))
    assert "F is estimated" in said and "Trust in dF/dx" in said
    assert [row.name for row in learnt.rows][0] == "cart stands"
    direct, response, total = learnt.rows[0].slopes or (1.0, 1.0, 1.0)
    assert direct == 0.0 and response == total == answer.hyper_gradient[0]
    assert learnt.rows[0].error == answer.hyper_gradient_se[0]
    draw(learnt)

    press(learnt, "g")
    list(settle(learnt))
    release(learnt, "g")
    assert (learnt.x != answer.upper_params).any() and len(learnt.objectives) == 2

    press(learnt, "d")  # the direct part is zero
    list(settle(learnt))
    release(learnt, "d")
    assert "the direct part is zero" in learnt.stuck

    press(
        learnt,
        "TAB",
    )
    press(learnt, "SPACE")
    handle(learnt, pygame.event.Event(pygame.KEYDOWN, key=pygame.K_1))
    assert learnt.episode is not None and len(learnt.episode.lower_returns) == 3
    draw(learnt)
    press(learnt, "TAB")


@pytest.mark.filterwarnings("ignore:the hyper-gradient of")
def test_those_who_learn_answer_when_the_slider_is_let_go(learnt: Session) -> None:
    list(settle(learnt))
    asked = len(learnt.objectives)
    for _ in drag_slider(learnt, 0, 0.9):
        if learnt.dragged is not None:
            learnt.tick()
            assert not learnt.working
    assert len(learnt.objectives) == asked + 1 and learnt.answered


@pytest.mark.filterwarnings("ignore:the hyper-gradient of")
def test_a_follower_who_learns_is_filmed(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    path = tmp_path / "film.gif"
    play("BilevelCartPole-v0", headless=path, **BRIEF)
    with Image.open(path) as film:
        assert sum(1 for _ in ImageSequence.Iterator(film)) > 10


def test_the_window_answers_by_the_method_that_is_chosen(tmp_path: Path) -> None:
    seat = bilevel_gym.make("BilevelGridWorld-v0", method="hpgd", map_name="4x4", episodes=8)
    session = Session(seat, seed=0)
    assert not session.exact
    assert session.response.samples
    draw(session)
    with pytest.raises(TypeError, match="the lesson compares exact answers, got those of"):
        play(lesson=True, method="hpgd", headless=tmp_path / "film.gif")
    with pytest.raises(TypeError, match="`outer_steps` has no effect where a task is played"):
        play("BilevelGridWorld-v0", outer_steps=20)
    with pytest.raises(ValueError, match="Did you mean 'hpgd'"):
        play("BilevelGridWorld-v0", method="hpgdd")
