"""BilevelMiniGrid-v0: its table is the world's own, its numbers, its picture, and mistakes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from bilevel_gym.envs import BilevelMiniGrid, View
from bilevel_gym.optimizers import normalized_ascent
from bilevel_gym.rendering import frame
from bilevel_gym.testing import check_hyper_gradient
from bilevel_gym.wrappers import HyperGradient, exact_objective

pytest.importorskip("minigrid", reason='needs pip install -e ".[minigrid]"')

DOOR = "MiniGrid-DoorKey-5x5-v0"


def door(**options: Any) -> BilevelMiniGrid:
    return BilevelMiniGrid(DOOR, seed=0, **options)


@pytest.mark.parametrize("make", [BilevelMiniGrid, door])
def test_the_game_is_the_world_itself(make: Any) -> None:
    game = make()
    world, rng = game.environment(), np.random.default_rng(0)
    table, reward = game.table_of_world, game.reward(game.initial_upper_params)
    over, state = True, 0
    ends = 0
    for _ in range(400):
        if over:
            world.reset(seed=game.seed)
            state = int(np.flatnonzero(game.initial_distribution)[0])
        action = int(rng.integers(game.num_actions))
        shown, own, over, _, info = world.step(action)
        assert own == reward[state, action]
        upper = game.upper_reward(game.initial_upper_params)[state, action]
        assert upper == info["goal"] - info["lava"]
        successors, _ = table.kernel.row(state, action)
        assert len(successors) == (0 if over else 1)
        if not over:
            state = int(successors[0])
            np.testing.assert_array_equal(table.observations[""][state], shown)
        ends += over
    assert ends > 5 or make is door


def test_anchors() -> None:
    game = BilevelMiniGrid()
    assert (game.num_states, game.num_actions, game.events) == (144, 3, ("goal", "lava"))
    answer = game.evaluate(game.initial_upper_params)
    assert answer.objective == pytest.approx(-0.785431, abs=1e-6)
    assert np.linalg.norm(answer.hyper_gradient) == pytest.approx(0.295623, abs=1e-6)
    x = game.initial_upper_params.copy()
    x[-1] = -0.95
    assert game.evaluate(x).objective == pytest.approx(-0.027068, abs=1e-6)
    box = game.model.low, game.model.high
    ascent = normalized_ascent(exact_objective(game.model), game.initial_upper_params, *box)
    assert ascent.best.value > 0.31


def test_keys_and_doors_are_events() -> None:
    game = door()
    assert (game.num_actions, game.events) == (6, ("goal", "pickup", "door"))
    names = game.knob_names()
    assert names[-3:] == ("goal", "pickup", "door") and names[0] == "1, 1"
    path = np.zeros(len(names))
    path[-3:] = 0.3
    seat = HyperGradient(door(temperature=0.05))
    assert check_hyper_gradient(seat, path, coordinates=6).relative_error < 1e-6
    assert game.coordinates() is None
    # With 36 states to a cell the picture is one of cells still.
    answer = game.evaluate(path)
    scene = game.scene(View("title", path, answer))
    assert scene.occupancy is not None and scene.policy is not None
    assert np.nansum(scene.occupancy) == pytest.approx(answer.occupancy.sum())
    assert frame(game.draw(View("title", path, answer))).ndim == 3


def test_the_picture_is_minigrids_and_shows_x() -> None:
    game = BilevelMiniGrid()
    best = game.best_known
    assert best is not None
    scenes = [game.scene(View("", x)) for x in (game.initial_upper_params, best.upper_params)]
    assert scenes[0].tiles is not None and scenes[0].policy is None
    np.testing.assert_array_equal(scenes[0].tiles, scenes[1].tiles)
    lava, goal = scenes[1].shaping[2, 2], scenes[1].shaping[7, 7]
    assert (lava, goal) == (best.upper_params[-1], best.upper_params[-2])
    assert game.state_of((2, 2)) == 37 and game.state_of((0, 0)) is None
    pictures = [
        frame(game.draw(View("", x))) for x in (game.initial_upper_params, best.upper_params)
    ]
    assert (pictures[0] != pictures[1]).any()


def test_without_minigrid_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ImportError, match=r'pip install -e ".\[minigrid\]"'):
        BilevelMiniGrid()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "FrozenLake-v1"}, "must be the id of a MiniGrid world"),
        ({"env_id": "MiniGrid-Nowhere-v0"}, "must make a MiniGrid world"),
        ({"env_id": 3}, "must be the id of a MiniGrid world"),
        ({"env_id": "MiniGrid-Dynamic-Obstacles-5x5-v0"}, "draw random numbers"),
        ({"env_kwargs": {"render_mode": "human"}}, "give it to the game"),
        ({"env_kwargs": {1: 2}}, "JSON types"),
        ({"seed": -1}, "`seed` must be"),
        ({"step_cost": -1.0}, "`step_cost`"),
        ({"lava_cost": np.inf}, "`lava_cost`"),
        ({"shaping_cost": -0.1}, "`shaping_cost`"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BilevelMiniGrid(**options)
