"""Tests of sliders, of the leader's steps, of why they end, and of the lesson."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest

from bilevel_gym.rendering import frame
from bilevel_gym.rendering.canvas import wrapped
from bilevel_gym.viewer import Session, draw, handle, play
from bilevel_gym.viewer.climbing import PARTS, Climb, part, why_stuck
from bilevel_gym.viewer.lesson import STAGES, Lesson
from bilevel_gym.viewer.panel import LESSON_LINES, LINE, TEXT_SIZE, WIDTH
from bilevel_gym.viewer.picture import text
from bilevel_gym.viewer.scripts import drag_slider, hold, lesson, press

from .helpers import array_game

SLIDERS = ("Toll", "MarkovGame", "LQR", "Thermal", "InverseRL", "FrozenLake")


def session_of(name: str, **options: Any) -> Session:
    return Session(gym.make(f"Bilevel{name}-v0", **options), seed=0)


def exhaust(script: Any) -> None:
    for _ in script:
        pass


# Sliders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SLIDERS)
def test_every_entry_of_x_has_a_slider_that_goes_from_end_to_end(name: str) -> None:
    session = session_of(name)
    assert len(session.knobs) == session.x.size == len(set(session.knobs))
    last = session.x.size - 1
    low, high, before = session.low.ravel(), session.high.ravel(), session.x.ravel()
    for share, expected in ((1.0, high[last]), (0.0, low[last])):
        exhaust(drag_slider(session, last, share))
        assert session.x.ravel()[last] == pytest.approx(expected)
        np.testing.assert_array_equal(session.x.ravel()[:last], before[:last])
    assert session.dragged is None
    press(session, "z")
    assert session.x.ravel()[last] == pytest.approx(high[last])


def test_sliders_move_together_with_shift_and_by_notches_of_the_wheel() -> None:
    session = session_of("Toll")
    pygame.display.init()
    try:
        pygame.key.set_mods(pygame.KMOD_LSHIFT)
        exhaust(drag_slider(session, 3, 0.5))
    finally:
        pygame.key.set_mods(pygame.KMOD_NONE)
        pygame.display.quit()
    np.testing.assert_allclose(session.x, 5.0)
    place = session.layout.place_of(2, 0.5)
    handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=place, rel=(0, 0)))
    handle(session, pygame.event.Event(pygame.MOUSEWHEEL, x=0, y=1))
    assert session.x[2] == pytest.approx(5.2) and session.x[1] == pytest.approx(5.0)


def test_the_follower_cannot_move_sliders_and_acts_by_its_answer() -> None:
    for name in ("Toll", "LQR"):
        session = session_of(name)
        press(session, "TAB")
        exhaust(drag_slider(session, 0, 1.0))
        np.testing.assert_array_equal(session.x, session.game.initial_upper_params)
        press(session, "SPACE")
        assert session.episode is not None and len(session.episode.lower_returns) == 2
    press(session, "1")  # its actions are real numbers
    assert "no action 1" in session.message


def test_rows_show_the_parts_of_each_derivative_and_what_a_bound_stops() -> None:
    session = session_of("Toll")
    exhaust(drag_slider(session, 0, 1.0))
    answer = session.response
    direct, response, total = (part(answer, name) for name in PARTS)
    np.testing.assert_allclose(direct + response, total, atol=1e-15)
    for i, row in enumerate(session.rows):
        assert row.slopes == (direct[i], response[i], total[i])
        assert row.share == pytest.approx(session.x[i] / 10.0)
        assert row.blocked == (total[i] < 0.0 if session.x[i] == 0.0 else i == 0 and total[i] > 0)


def test_on_a_map_the_row_is_that_of_the_cell_under_the_mouse() -> None:
    session = session_of("GridWorld")
    assert session.rows == [] and session.knobs == ()
    place = session.cell_centre(3, 2)
    handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=place, rel=(0, 0)))
    (row,) = session.rows
    index = session.game.state_of((3, 2))
    assert row.name == "3, 2" and row.slopes is not None
    assert row.slopes[2] == session.response.hyper_gradient[index]


def test_the_picture_shows_each_part_in_turn() -> None:
    session = session_of("Toll")
    pictures = []
    for name in ("hyper-gradient", "direct part", "response part", "hyper-gradient"):
        assert session.shown == name
        pictures.append(frame(draw(session)))
        press(session, "p")
    assert (pictures[0] != pictures[1]).any() and (pictures[1] != pictures[2]).any()
    np.testing.assert_array_equal(pictures[0], pictures[3])


def test_games_of_arrays_are_played_with_a_table() -> None:
    session = Session(array_game(), seed=0)
    assert len(session.knobs) == session.x.size
    exhaust(drag_slider(session, 1, 0.9))
    assert session.x.any()
    before = frame(draw(session))
    press(session, "TAB")
    press(session, "SPACE")
    assert (frame(draw(session)) != before).any()


@pytest.mark.parametrize("name", ["Incentive", "RandomMDP", "Taxi"])
def test_games_of_many_entries_are_played_without_sliders(name: str) -> None:
    session = session_of(name)
    assert session.knobs == () and "too many for sliders" in text(session)[0][0]
    exhaust(hold(session, "g", 3))
    assert session.objectives[-1] > session.objectives[0]
    press(session, "TAB")
    press(session, "0")
    assert session.episode is not None and len(session.episode.lower_returns) == 2
    assert draw(session).get_size() == session.layout.size


def test_arrows_go_where_they_point_to_whatever_the_numbers_of_actions() -> None:
    session = session_of("FrozenLake", env_kwargs={"is_slippery": False})
    press(session, "TAB")
    for key, cell in (("RIGHT", (0, 1)), ("RIGHT", (0, 2)), ("DOWN", (1, 2)), ("UP", (0, 2))):
        press(session, key)
        assert session.episode is not None
        assert session.game.cell_of(session.episode.state) == cell
    press(session, "LEFT")
    assert session.episode is not None
    assert session.game.cell_of(session.episode.state) == (0, 1)


# Steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("Thermal", 40), ("LQR", 40), ("CliffWalking", 80)])
def test_climbing_never_falls_and_ends_at_the_best_known(name: str, steps: int) -> None:
    session = session_of(name)
    exhaust(hold(session, "g", steps))
    best = session.game.best_known.value
    assert (np.diff(session.objectives) > 0.0).all()
    assert session.objectives[-1] == pytest.approx(best, rel=1e-6)
    assert session.stuck.endswith("F is the best known")
    assert ("is zero" if name == "LQR" else "is at its bound") in session.stuck
    assert session.climb is None  # the key is released


def test_the_greedy_leader_passes_the_best_and_ends_where_nobody_comes() -> None:
    session = session_of("Toll")
    exhaust(hold(session, "d", 60))
    assert max(session.objectives) > 0.05 and abs(session.objectives[-1]) < 1e-6
    assert "direct part is zero" in session.stuck and "0.1103" in session.stuck


def test_why_there_is_no_step() -> None:
    def reason(name: str, x: Any, way: Any, **options: Any) -> str:
        session = session_of(name, **options)
        session.x = np.asarray(x, dtype=np.float64)
        climb = Climb(session.low, session.high, way)
        assert climb.step(session.response, session.ask) is None
        best = session.game.best_known
        return why_stuck(session.response, climb, None if best is None else best.value)

    thermal = session_of("Thermal").game.best_known.upper_params
    bound = "all that the hyper-gradient would move is at its bound; F is the best known"
    assert reason("Thermal", thermal, "hyper-gradient") == bound
    zero = "the direct part is zero; the best F known is -27.0718"
    assert reason("LQR", np.zeros(6), "direct part") == zero
    lost = reason("CliffWalking", np.zeros(48), "hyper-gradient", temperature=1.0)
    assert lost.startswith("no small change of x changes what the follower does")


# The lesson ------------------------------------------------------------------------------------


def test_the_lesson_can_be_taken_and_no_task_is_done_before() -> None:
    session = Session(gym.make("BilevelToll-v0"), seed=0, lesson=Lesson())
    assert isinstance(session.lesson, Lesson)
    done = []
    for frames in lesson(session):
        session.tick()
        if frames >= 30:  # the text is to be read: the task, and then what was learnt
            done.append((session.lesson.number, session.lesson.finished))
            assert draw(session).get_size() == session.layout.size
    assert done == [(stage, finished) for stage in range(5) for finished in (False, True)]
    assert session.lesson.over and session.objectives[-1] > 0.109
    assert "lesson is over" in text(session)[0][0]


def test_stages_can_be_skipped_and_tried_again() -> None:
    session = Session(gym.make("BilevelToll-v0"), seed=0, lesson=Lesson())
    assert isinstance(session.lesson, Lesson)
    for _ in range(3):
        press(session, "RETURN")
    assert session.lesson.stage is STAGES[3] and (session.x == 3.0).all()
    session.tick()
    assert not session.lesson.finished


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.title)
def test_what_the_lesson_says_has_room(stage: Any) -> None:
    stuck = "Stuck here, because the direct part is zero; the best F known is 0.1103."
    for paragraphs in (
        [stage.title, stage.told, f"Your task: {stage.task}", stuck],
        [stage.title, stage.learnt, "Done. Press Enter to end the lesson.", stuck],
    ):
        lines = [line for each in paragraphs for line in wrapped(each, TEXT_SIZE, WIDTH)]
        room = LINE * LESSON_LINES - (len(paragraphs) - 1) * (LINE // 4)
        assert len(lines) * LINE <= room


def test_films_of_lesson_and_sliders_are_small_and_repeat(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("lesson.gif", "one.gif", "two.gif")]
    play(headless=paths[0], lesson=True)
    for path in paths[1:]:
        play("BilevelMarkovGame-v0", headless=path)
    assert all(path.stat().st_size < 1_000_000 for path in paths)
    assert paths[1].read_bytes() == paths[2].read_bytes()
