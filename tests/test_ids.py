"""The ids of both seats: options of every side, specs, time limits, rendering."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

import bilevel_gym
from bilevel_gym import LowerLevel
from bilevel_gym.methods.trace import Trace
from bilevel_gym.model import evaluate

from .helpers import (
    array_game,
    assert_identical,
    game_of,
    interior_point,
    rollout,
    sampled_actions,
)
from .test_wrappers import BARE, FOLLOWER_ID, ID, layers, make


def test_options_of_both_sides_go_through_gymnasium_make() -> None:
    env: Any = gym.make(ID, method="trace", episodes=np.int64(8), outer_steps=2, slip=0.3)
    assert (type(env.method).__name__, env.outer_steps) == ("Trace", 2)
    assert env.spec.kwargs["slip"] == 0.3 and type(env.spec.kwargs["episodes"]) is int
    assert env.spec.max_episode_steps is None
    env.reset(seed=0)
    x = np.zeros(52)
    assert [env.step(x)[3] for _ in range(2)] == [False, True]
    both: list[dict[str, Any]] = [{"size": np.int64(6)}, {"method": "exact", "tolerance": 1e-8}]
    for options in both:
        made: Any = gym.make(ID, **options)
        again: Any = gym.make(EnvSpec.from_json(made.spec.to_json()))
        assert again.spec == made.spec
        assert_identical(again.reset(seed=0), made.reset(seed=0))


def test_the_follower_has_an_id_with_the_time_limit_of_its_episodes() -> None:
    x = interior_point(make())
    made: Any = gym.make(FOLLOWER_ID, map_name="4x4", upper_params=x, max_episode_steps=9)
    assert layers(made) == ["TimeLimit", "LowerLevel", *BARE]
    assert made.spec.max_episode_steps == 9
    by_hand = LowerLevel(TimeLimit(make().unwrapped, 9), x)
    assert by_hand.spec == made.spec
    actions = sampled_actions(made, 9)
    expected = rollout(by_hand, actions, seed=2)
    again = gym.make(EnvSpec.from_json(made.spec.to_json()))
    assert_identical(rollout(made, actions, seed=2), expected)
    assert_identical(rollout(again, actions, seed=2), expected)
    # By default the limit is that of the registration, x the initial one; a longer one is possible.
    for seat, limit in (
        (gym.make(FOLLOWER_ID, map_name="4x4"), 200),
        (LowerLevel(make()), 200),
        (gym.make(FOLLOWER_ID, map_name="4x4", max_episode_steps=300), 300),
        (LowerLevel(gym.make(FOLLOWER_ID, map_name="4x4", max_episode_steps=300)), 300),
    ):
        assert seat.spec is not None and seat.spec.max_episode_steps == limit
        np.testing.assert_array_equal(seat.get_wrapper_attr("upper_params"), np.zeros(14))
        stay: Any = seat
        rng = np.random.default_rng(0)
        lengths: list[int] = []
        stay.reset(seed=1)
        while len(lengths) < 20:
            record = stay.step(int(rng.integers(4)))
            assert record[3] == (game_of(stay).elapsed_steps == limit)
            if record[2] or record[3]:
                lengths.append(game_of(stay).elapsed_steps)
                stay.reset()


def test_a_time_limit_of_the_leader_does_not_pass_to_the_follower() -> None:
    with pytest.raises(TypeError, match=rf'TimeLimit in between.*gym.make\("{FOLLOWER_ID}"'):
        LowerLevel(make(max_episode_steps=7))


def test_another_tasks_follower_cannot_be_registered_as_a_leader() -> None:
    with pytest.raises(ValueError, match="'MazeFollower-v1'.*'Maze-v1'"):
        bilevel_gym.register("MazeFollower-v1", array_game)


def test_human_rendering_and_lists_of_frames_work_by_the_ids() -> None:
    for env_id in (ID, FOLLOWER_ID):
        shown = gym.make(env_id, map_name="4x4", render_mode="human")
        shown.reset(seed=0)
        assert shown.spec is not None
        assert EnvSpec.from_json(shown.spec.to_json()).kwargs["render_mode"] == "human"
        shown.close()
        frames: Any = gym.make(env_id, map_name="4x4", render_mode="rgb_array_list")
        frames.reset(seed=0)
        assert frames.render()[0].dtype == np.uint8


def test_what_no_id_takes_is_said() -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        (ID, {"sloop": 0.1}, "BilevelGridWorld or the method 'exact': 'sloop'.*'slip'"),
        (ID, {"upper_params": np.zeros(14)}, "'upper_params'"),
        (ID, {"method": "exact", "episodes": 4}, "'episodes'"),
        (FOLLOWER_ID, {"method": "exact"}, "`method` is an option of the leader's seat"),
    ]
    for env_id, options, message in cases:
        with pytest.raises(TypeError, match=message):
            gym.make(env_id, **options)


def test_classes_stand_in_specs_by_name() -> None:
    env: Any = gym.make(ID, map_name="4x4", method=Trace, episodes=8)
    assert env.spec.kwargs["method"] == "bilevel_gym.methods.trace:Trace"
    again: Any = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert_identical(again.reset(seed=1), env.reset(seed=1))


def test_who_has_what_was_asked_for_is_said() -> None:
    thermal: Any = gym.make("BilevelThermal-v0")
    with pytest.raises(TypeError, match="no table of states"):
        thermal.game.evaluate_unregularised(thermal.game.initial_upper_params)
    env: Any = make()
    with pytest.raises(TypeError, match="`model` must be a bilevel problem.*game.evaluate"):
        evaluate(env, np.zeros(14))
    with pytest.raises(ValueError, match=f"'{FOLLOWER_ID}'.*gymnasium.make takes.*'{ID}'"):
        bilevel_gym.make(FOLLOWER_ID)
