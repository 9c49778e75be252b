"""Tests of the viewer: its session, its events, its pictures and films."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

import bilevel_gym.rendering.window
from bilevel_gym import BilevelEnv, LowerLevel
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.rendering import frame, new_surface
from bilevel_gym.rendering.screen import NoDisplayError, Screen
from bilevel_gym.rendering.window import Window
from bilevel_gym.viewer import CONTROLS, Session, draw, handle, play, run
from bilevel_gym.viewer.climbing import FIRST_STEP
from bilevel_gym.viewer.picture import curves, view

Patch = pytest.MonkeyPatch

ENV_ID = "BilevelGridWorld-v0"
HAZARD, OTHER_HAZARD, WALL = (2, 1), (2, 2), (1, 1)  # of the 4x4 map


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return new_session(tmp_path)


def new_session(folder: Path, **kwargs: Any) -> Session:
    map_name = None if "desc" in kwargs else "4x4"
    env = gym.make(ENV_ID, **{"map_name": map_name, "slip": 0.0, **kwargs})
    return Session(env, folder=folder, seed=0)


def shaping(session: Session, cell: tuple[int, int]) -> float:
    index = session.game.state_of(cell)
    assert index is not None
    return float(session.x[index])


def press(session: Session, *names: str) -> None:
    for name in names:
        handle(session, pygame.event.Event(pygame.KEYDOWN, key=getattr(pygame, f"K_{name}")))


def release(session: Session, name: str) -> None:
    handle(session, pygame.event.Event(pygame.KEYUP, key=getattr(pygame, f"K_{name}")))


def drag(session: Session, button: int, *cells: tuple[int, int]) -> None:
    """Press a mouse button on the first cell, jump from one to the next, and let it go."""
    places = [session.cell_centre(*cell) for cell in cells]
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=button, pos=places[0]))
    for (x, y), place in zip(places, places[1:], strict=False):
        moved = (place[0] - x, place[1] - y)
        handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=place, rel=moved))
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONUP, button=button, pos=places[-1]))


def walker(session: Session) -> tuple[int, int]:
    assert session.episode is not None
    cell: tuple[int, int] = session.game.cell_of(session.episode.state)
    return cell


def wheel(session: Session, turns: int) -> None:
    handle(session, pygame.event.Event(pygame.MOUSEWHEEL, x=0, y=turns))


# Painting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("button", "sign"), [(1, 1.0), (3, -1.0)])
def test_a_stroke_changes_its_cells_once(session: Session, button: int, sign: float) -> None:
    drag(session, button, (3, 0), (3, 3), (3, 0))  # one jump each way
    assert [shaping(session, (3, c)) for c in range(4)] == [sign * session.brush] * 4
    assert np.count_nonzero(session.x) == 4
    drag(session, button, (3, 1))
    assert shaping(session, (3, 1)) == 2 * sign * session.brush


def test_painted_values_stay_in_the_box(session: Session) -> None:
    wheel(session, 1)
    for _ in range(12):
        drag(session, 1, HAZARD)
        drag(session, 3, OTHER_HAZARD)
    assert (shaping(session, HAZARD), shaping(session, OTHER_HAZARD)) == (1.0, -1.0)


def test_middle_and_shift_drags_erase(session: Session) -> None:
    drag(session, 1, HAZARD, OTHER_HAZARD)
    drag(session, 2, HAZARD)
    assert (shaping(session, HAZARD), shaping(session, OTHER_HAZARD)) == (0.0, session.brush)
    pygame.display.init()
    try:
        pygame.key.set_mods(pygame.KMOD_LSHIFT)
        drag(session, 1, OTHER_HAZARD)
    finally:
        pygame.key.set_mods(pygame.KMOD_NONE)
        pygame.display.quit()
    assert not session.x.any()


def test_walls_the_margin_and_moves_without_a_button_paint_nothing(session: Session) -> None:
    place = session.cell_centre(*HAZARD)
    handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=place, rel=(1, 1)))
    assert session.cursor == HAZARD
    marked = frame(draw(session))
    assert not session.x.any()
    handle(session, pygame.event.Event(pygame.WINDOWLEAVE))
    assert session.cursor is None and (frame(draw(session)) != marked).any()
    drag(session, 1, WALL)
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(0, 0)))
    assert session.cursor is None and not session.x.any()


def test_the_wheel_sets_the_brush_within_reason(session: Session) -> None:
    wheel(session, 1)
    assert session.brush == pytest.approx(0.15)
    for _ in range(10):
        wheel(session, -3)
    assert session.brush == pytest.approx(0.05)
    for _ in range(60):
        wheel(session, 1)
    assert session.brush == 2.0  # the width of the box
    wheel(session, 0)  # a touchpad that scrolls sideways
    assert session.brush == 2.0


# The follower's answer, and climbing -----------------------------------------------------------


def test_the_follower_answers_every_stroke_exactly(session: Session) -> None:
    game = session.env.unwrapped
    assert isinstance(game, BilevelGridWorld)
    assert session.response.objective == game.evaluate(np.zeros(14)).objective
    drag(session, 3, HAZARD, OTHER_HAZARD)
    alone = game.evaluate(session.x)
    # Warm and cold starts of the solver end within its tolerance, 1e-10, of the same answer.
    assert session.response.objective == pytest.approx(alone.objective, abs=1e-7)
    np.testing.assert_allclose(session.response.policy, alone.policy, atol=1e-6)
    np.testing.assert_allclose(session.response.hyper_gradient, alone.hyper_gradient, atol=1e-5)
    first = pytest.approx(game.evaluate(np.zeros(14)).objective)
    assert session.objectives == [first, session.response.objective]


def test_looking_again_solves_nothing_and_the_picture_keeps_its_size(session: Session) -> None:
    first = session.response
    drag(session, 1, WALL)
    draw(session)
    assert session.response is first
    assert len(session.objectives) == 1
    sizes = {draw(session).get_size()}
    drag(session, 1, HAZARD)
    for key in ("h", "g", "TAB", "UP", "h"):
        press(session, key)
        sizes.add(draw(session).get_size())
    assert sizes == {session.layout.size}


def test_a_step_along_the_hyper_gradient_climbs_while_the_key_is_held(session: Session) -> None:
    press(session, "g")
    first = FIRST_STEP * float(np.linalg.norm(session.high - session.low))
    assert 0.0 < np.linalg.norm(session.x) <= first * (1.0 + 1e-12)
    session.tick()
    session.tick()
    assert len(session.objectives) == 4
    assert (np.diff(session.objectives) > 0.0).all()
    assert "climbing along the hyper-gradient" in view(session).title
    release(session, "g")
    session.tick()
    assert len(session.objectives) == 4


@pytest.mark.filterwarnings("ignore:.*entropy alone")
def test_a_vanishing_hyper_gradient_is_said_and_moves_nothing(tmp_path: Path) -> None:
    session = new_session(tmp_path, desc=["SG"], gamma=0.0, temperature=1.0)
    press(session, "g")
    assert "no small change of x changes what the follower does" in session.stuck
    assert not session.x.any()
    drag(session, 1, (0, 0))
    assert not session.stuck


def test_undo_and_redo_go_by_strokes_and_climbs(session: Session) -> None:
    drag(session, 1, HAZARD, OTHER_HAZARD)
    painted = session.x.copy()
    drag(session, 1, WALL)  # nothing to undo
    press(session, "g")
    session.tick()
    release(session, "g")
    climbed = session.x.copy()
    press(session, "z")
    np.testing.assert_array_equal(session.x, painted)
    press(session, "z")
    assert not session.x.any()
    press(session, "z")
    assert session.message == "there is nothing to undo"
    press(session, "y", "y")
    np.testing.assert_array_equal(session.x, climbed)
    press(session, "y")
    assert session.message == "there is nothing to redo"
    objective = session.game.evaluate(climbed).objective
    assert session.response.objective == pytest.approx(objective, abs=1e-7)


def test_reset_returns_to_the_initial_x_and_can_be_undone(session: Session) -> None:
    drag(session, 1, HAZARD)
    draw(session)
    press(session, "r")
    assert not session.x.any()
    draw(session)
    assert len(session.objectives) == 1
    press(session, "z")
    assert shaping(session, HAZARD) == session.brush


# The follower's seat ---------------------------------------------------------------------------


def test_the_follower_walks_with_arrows_and_numbers_under_the_leaders_x(session: Session) -> None:
    drag(session, 3, HAZARD)
    press(session, "TAB")
    assert isinstance(session.env, LowerLevel)
    np.testing.assert_array_equal(session.env.upper_params, session.x)
    assert walker(session) == (2, 0)
    press(session, "UP")
    assert walker(session) == (1, 0)
    press(session, "2", "1")  # down, right
    assert walker(session) == HAZARD
    press(session, "KP3")  # left, out of the hazard
    assert walker(session) == (2, 0)
    assert session.episode is not None
    assert session.episode.lower_returns[-1] == pytest.approx(-session.brush)
    assert session.episode.upper_returns[-1] == pytest.approx(-0.5)
    assert [curve.label for curve in curves(session)] == ["your return", "leader's return"]


def test_after_the_end_of_an_episode_any_move_starts_another(session: Session) -> None:
    press(session, "TAB", "RIGHT", "RIGHT", "RIGHT", "UP")  # acting in the goal ends it
    assert session.episode is not None and session.episode.lower_returns[-1] == 1.0
    assert "episode is over" in view(session).title
    press(session, "UP")
    assert walker(session) == (2, 0)
    assert session.episode.lower_returns == [0.0]
    press(session, "UP", "r")
    assert walker(session) == (2, 0)


def test_time_limits_end_episodes_and_slips_happen(session: Session, tmp_path: Path) -> None:
    press(session, "TAB", *["LEFT"] * 200)
    assert "time is up" in view(session).title
    slippery = new_session(tmp_path, slip=1.0)
    press(slippery, "TAB", "UP")
    assert walker(slippery) != (1, 0)


def test_each_seat_refuses_the_moves_of_the_other(session: Session) -> None:
    press(session, "UP")
    assert session.message == "only the follower can do that; Tab changes seats"
    press(session, "TAB", "g")
    drag(session, 1, HAZARD)
    assert session.message == "only the leader can do that; Tab changes seats"
    assert not session.x.any()
    press(session, "TAB")
    assert (session.seat, session.message) == ("leader", "")
    assert session.episode is None and view(session).state is None


def test_changing_seats_ends_strokes_and_climbs(session: Session) -> None:
    press(session, "g")
    place = session.cell_centre(*HAZARD)
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=place))
    press(session, "TAB")
    painted = session.x.copy()
    session.tick()
    place = session.cell_centre(*OTHER_HAZARD)
    handle(session, pygame.event.Event(pygame.MOUSEMOTION, pos=place, rel=(90, 0)))
    np.testing.assert_array_equal(session.x, painted)


# Help, screenshots, leaving --------------------------------------------------------------------


def test_help_covers_the_picture_until_a_key_or_a_mere_click(session: Session) -> None:
    plain = frame(draw(session))
    press(session, "h")
    assert session.show_help
    assert not np.array_equal(frame(draw(session)), plain)
    press(session, "F1")
    np.testing.assert_array_equal(frame(draw(session)), plain)
    press(session, "h")
    drag(session, 1, HAZARD)
    assert not session.show_help
    assert not session.x.any()


def test_every_trigger_belongs_to_one_line_of_the_help_and_exists() -> None:
    triggers = [trigger for control in CONTROLS for trigger in control.actions]
    assert len(triggers) == len(set(triggers))
    mouse = ("button", "wheel", "close")
    keys = [t for t in triggers if not any(word in t for word in mouse)]
    known = {pygame.key.name(code) for name, code in vars(pygame).items() if name[:2] == "K_"}
    assert known.issuperset(keys)
    assert all(control.keys and control.meaning for control in CONTROLS)


def test_other_events_change_nothing(session: Session) -> None:
    before = frame(draw(session))
    press(session, "F5")
    handle(session, pygame.event.Event(pygame.WINDOWFOCUSGAINED))
    handle(session, pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=8, pos=(0, 0)))
    np.testing.assert_array_equal(frame(draw(session)), before)


def test_screenshots_never_overwrite_and_tell_failure(session: Session, tmp_path: Path) -> None:
    taken = tmp_path / f"{ENV_ID}-001.png"
    taken.write_text("mine")
    picture = frame(draw(session))
    press(session, "s", "s")
    assert taken.read_text() == "mine"
    names = [f"{ENV_ID}-{number:03d}.png" for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert session.message == f"saved {ENV_ID}-003.png"
    with Image.open(tmp_path / f"{ENV_ID}-002.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)
    session.folder = tmp_path / "missing"
    press(session, "s")
    assert session.message.startswith("no screenshot: ")
    assert session.running


@pytest.mark.parametrize("key", ["q", "ESCAPE"])
def test_keys_quit(session: Session, key: str) -> None:
    press(session, key)
    assert not session.running


# Windows and films -----------------------------------------------------------------------------


@pytest.fixture
def unseen_window(monkeypatch: Patch) -> Callable[[], Screen]:
    """Open windows although nobody will see them."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(bilevel_gym.rendering.window, "UNSEEN_DRIVERS", ())
    return lambda: Screen("test", fps=1000)


@pytest.mark.parametrize("keys", ["g", "q"])
def test_the_loop_passes_events_on_until_the_user_leaves(
    session: Session, unseen_window: Callable[[], Screen], keys: str
) -> None:
    with unseen_window() as screen:
        screen.show(new_surface(session.layout.size))  # opens the window
        key = getattr(pygame, f"K_{keys}")
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
        pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))
        if keys == "g":
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        run(session, screen)
        assert screen.closed == (keys == "g")
        if screen.closed:
            screen.linger()
    assert not session.running
    assert session.x.any() == (keys == "g")
    assert not pygame.display.get_init()


def test_a_window_opens_at_the_first_frame_shows_it_and_closes_twice() -> None:
    window, surface = Window("title", 1000), new_surface((400, 300))
    surface.fill((9, 8, 7), (20, 30, 40, 50))
    assert not window.is_open and window.events() == []
    window.show(surface)
    screen = pygame.display.get_surface()
    assert window.is_open and screen is not None
    assert (frame(screen) == frame(surface)).all()
    assert pygame.display.get_caption()[0] == "title"
    window.close()
    window.close()
    assert not window.is_open and not pygame.display.get_init()


def test_a_window_shrinks_to_the_desktop_and_reports_places_of_the_picture() -> None:
    window, (width, height) = Window("title", 1000), (4000, 1000)
    window.show(new_surface((width, height)))
    screen = pygame.display.get_surface()
    assert screen is not None
    shrunk, room = screen.get_size(), pygame.display.get_desktop_sizes()[0]
    assert shrunk[0] < room[0] and shrunk[0] / width == pytest.approx(shrunk[1] / height, abs=1e-3)
    window.events()
    middle = (shrunk[0] // 2, shrunk[1] // 2)
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=middle))
    (event,) = window.events()
    assert event.pos == pytest.approx((width / 2, height / 2), abs=5) and event.button == 1
    window.close()


def test_events_that_arrive_while_showing_are_kept_and_so_is_closing_by_the_user() -> None:
    window, surface = Window("title", 1000), new_surface((40, 30))
    window.show(surface)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_h))
    window.show(surface)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_s))
    keys = [event.key for event in window.events() if event.type == pygame.KEYDOWN]
    assert keys == [pygame.K_h, pygame.K_s]
    assert window.events() == []
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(surface)
    assert window.closed_by_user and not window.is_open
    assert [event.type for event in window.events()][-1] == pygame.QUIT
    window.show(surface)
    assert not window.is_open and not pygame.display.get_init()


def test_a_window_survives_what_others_close() -> None:
    window, surface = Window("title", 1000), new_surface((40, 30))
    window.show(surface)
    pygame.quit()
    assert not window.is_open
    window.events()
    window.show(surface)
    assert window.is_open and not window.closed_by_user
    window.close()
    first, second = Window("first", 1000), Window("second", 1000)
    first.show(new_surface((40, 30)))
    second.show(new_surface((50, 30)))
    first.close()
    assert second.is_open
    second.close()


def test_what_cannot_be_played_is_refused_with_a_reason(monkeypatch: Patch) -> None:
    # tests/conftest.py chooses the display that nobody sees.
    with pytest.raises(NoDisplayError, match="--headless OUT.gif"):
        play(ENV_ID, map_name="4x4")
    with pytest.raises(ValueError, match="Did you mean 'BilevelGridWorld-v0'"):
        play("BilevelGridWord-v0")
    monkeypatch.setattr(BilevelGridWorld, "draw", BilevelEnv.draw)
    with pytest.raises(TypeError, match="only games with a picture .* BilevelGridWorld has none"):
        Session(BilevelGridWorld())
    with pytest.raises(TypeError, match='BilevelPendulum .* render_mode="rgb_array", got None'):
        Session(gym.make("BilevelPendulum-v0"))
    with pytest.raises(ValueError, match="name a task, or take the lesson"):
        play()
    with pytest.raises(ValueError, match="the lesson is taken in BilevelToll-v0, got"):
        play(ENV_ID, lesson=True)
    with pytest.raises(TypeError, match="needs a bilevel game, got CartPoleEnv"):
        play("CartPole-v1")


@pytest.mark.parametrize("name", ["film.mp4", "film", "missing/film.gif"])
def test_a_film_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="`headless` must"):
        play(ENV_ID, headless=tmp_path / name, map_name="4x4")
    assert not list(tmp_path.iterdir())


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    with Image.open(path) as image:
        return [np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(image)]


def test_the_headless_film_shows_both_seats_and_is_small(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("play.gif", "again.gif")]
    for path in paths:
        play(ENV_ID, headless=path, map_name="4x4")
    frames = frames_of(paths[0])
    assert len(frames) > 30
    assert all((a != b).any() for a, b in zip(frames, frames[1:], strict=False))
    assert paths[0].stat().st_size < 1_000_000
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_film_that_breaks_off_with_ctrl_c_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    with pytest.raises(KeyboardInterrupt), Screen("test", headless=path) as screen:
        screen.show(new_surface((64, 32)))
        raise KeyboardInterrupt
    assert len(frames_of(path)) == 1
    broken = tmp_path / "broken.gif"
    with pytest.raises(RuntimeError), Screen("test", headless=broken) as screen:
        screen.show(new_surface((64, 32)))
        raise RuntimeError
    assert not broken.exists()
