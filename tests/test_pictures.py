"""Every task's picture, of both seats: what it says, and whether it can be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.envs.base import View, in_words
from bilevel_gym.envs.tasks import TASKS, Task
from bilevel_gym.making import answers_exactly
from bilevel_gym.rendering import canvas
from bilevel_gym.rendering.graph import Panel
from bilevel_gym.rendering.picture_charts import Axis
from bilevel_gym.wrappers import HyperGradient

from .helpers import array_game

README_WIDTH = 830
"""Pixels of a picture in a README, at most."""

# pygame sets letters of its own font at this share of the size that it is asked for.
FONT_SCALE = 0.6875

NEEDED = {"Reacher": "mujoco", "BeamRider": "ale_py", "Pendulum": "torch", "CartPole": "torch"}
NEEDED |= {"MiniGrid": "minigrid", "BodyDesign": "mujoco"}


@pytest.fixture(params=TASKS, ids=lambda task: task.id[7:-3])
def game(request: pytest.FixtureRequest) -> Iterator[Any]:
    task: Task = request.param
    for name, module in NEEDED.items():
        if name in task.id:
            pytest.importorskip(module)
    if "BeamRider" in task.id:
        pytest.importorskip("cv2")
    env = gym.make(task.id, render_mode="rgb_array")
    yield env.unwrapped
    env.close()


def views(game: Any) -> list[View]:
    """Return what both seats show."""
    x = game.initial_upper_params
    game.reset(seed=0)
    game.lower_space.seed(0)
    game.step({"upper": x, "lower": game.lower_space.sample()})
    if not answers_exactly(game):
        return [View(game.headline("leader"), x), game.view()]
    leader = HyperGradient(game)
    leader.reset(seed=0)
    return [leader.view(), game.view()]


def test_pictures_name_task_and_seat_and_say_what_both_players_want(game: Any) -> None:
    titles = [view.title.splitlines() for view in views(game)]
    for seat, lines in zip(("leader", "follower"), titles, strict=True):
        assert len(lines) == 3 and f": the {seat} " in lines[0] and "Bilevel" not in lines[0]
        assert lines[1] == f"The leader wants {game.leader_wants}."
        assert lines[2] == f"The follower wants {game.follower_wants}."
    assert titles[0][0] != f"{in_words(game.title)}: the leader sets x"  # its own words


def test_pictures_can_be_read_in_a_readme(game: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []
    set_text: Any = canvas._text_surface

    def noted(text: str, size: int, colour: canvas.Colour) -> Any:
        written.append((text, size))
        return set_text(text, size, colour)

    monkeypatch.setattr(canvas, "_text_surface", noted)
    for view in views(game):
        written.clear()
        surface = game.draw(view)
        shrunk = min(1.0, README_WIDTH / surface.get_width())
        small = {text for text, size in written if size * FONT_SCALE * shrunk < 11.0}
        assert not small, surface.get_width()
        cut = {text for text, _ in written if text.endswith("…")}
        assert not cut - {"the leader's x: reward of pushing the way in which the…"}
        width = surface.get_width() - 2 * canvas.THEME.margin
        for line in view.title.splitlines()[1:]:
            assert canvas.text_size(line, canvas.LINE_SIZE)[0] <= width


def test_scales_are_the_same_from_the_start_of_a_film_to_its_end(
    game: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not answers_exactly(game):
        return  # its charts are those of x, whose box is their scale
    ends: defaultdict[str, set[tuple[float, ...]]] = defaultdict(set)

    def noted(kind: type, label: str, *names: str) -> None:
        check: Any = vars(kind)["__post_init__"]

        def checked(self: Any) -> None:
            check(self)
            ends[getattr(self, label)].add(tuple(getattr(self, name) for name in names))

        monkeypatch.setattr(kind, "__post_init__", checked)

    noted(Axis, "label", "low", "high")
    noted(Panel, "title", "limit")
    rng, seat = np.random.default_rng(0), HyperGradient(game)
    start, low, high = game.initial_upper_params, game.model.low, game.model.high
    game.draw(View(game.headline("leader"), start))  # before the follower has answered
    for share in (0.0, 0.3, 1.0):
        x = start + share * (rng.uniform(low, high) - start)
        seat.reset(seed=0, options={"upper_params": x})
        game.draw(seat.view())
    leader = dict(ends)
    ends.clear()
    answer: Any = seat.response
    state, _ = game.reset(seed=0)
    for _ in range(4):
        game.draw(game.view())
        state, _, over, _, _ = game.step({"upper": x, "lower": answer.draw_action(state, rng)})
        if over:
            break
    ends.pop("step of the follower", None)  # time goes on
    for seen in (leader, ends):
        assert all(len(scales) == 1 for scales in seen.values()), seen


def test_games_of_users_say_by_default_what_their_objective_is() -> None:
    game = array_game()
    title, leader, follower = game.headline("leader").splitlines()
    assert title.endswith(": the leader sets x")
    assert leader == "The leader wants a high discounted return."
    costly = array_game(upper_cost=0.1).headline("leader").splitlines()[1]
    assert costly == "The leader wants a high discounted return and a small x."
    assert follower.startswith("The follower wants high rewards r_x, and some entropy")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BilevelGridWorld", "Grid world"),
        ("BilevelRandomMDP", "Random MDP"),
        ("Bilevel FrozenLake", "Frozen lake"),
        ("CartPole-v1", "Cart pole"),
        ("MyGame2", "My game2"),
        ("make_walk", "make walk"),
        ("LQR", "LQR"),
    ],
)
def test_names_in_words(name: str, words: str) -> None:
    assert in_words(name) == words


def test_derivatives_that_point_out_of_the_box_are_not_shown() -> None:
    game: Any = gym.make("BilevelThermal-v0").unwrapped
    seat = HyperGradient(game)
    seat.reset(options={"upper_params": game.best_known.upper_params})
    view = seat.view()
    slopes = game.slopes(view)
    assert view.hyper_gradient is not None and np.abs(view.hyper_gradient).max() > 50.0
    assert slopes is not None and np.abs(slopes).max() < 1e-3
    assert float(dict(view.status)["|projected gradient|"]) < 1e-3
