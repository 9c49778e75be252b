"""Discrete observations as one-hot vectors and as coordinates, in the follower's seat."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import DQN

from bilevel_gym import LowerLevelVectorEnv
from bilevel_gym.envs.ids import follower_id

from .helpers import Env, assert_identical, game_of, interior_point

GRID, TAXI, TOLL = "BilevelGridWorld-v0", "BilevelTaxi-v0", "BilevelToll-v0"
EVERY = [GRID, "BilevelFourRooms-v0", "BilevelInverseRL-v0", "BilevelCliffWalking-v0", TAXI, TOLL]
MAPS = [name for name in EVERY if name != TOLL]


def seat(env_id: str, **options: Any) -> Any:
    return gym.make(follower_id(env_id), upper_params=interior_point(gym.make(env_id)), **options)


def walk(env: Env, steps: int = 40) -> list[Any]:
    """Return what a reset and random steps give; ended episodes start again."""
    rng = np.random.default_rng(0)
    records: list[Any] = [env.reset(seed=3)]
    for _ in range(steps):
        records.append(env.step(int(rng.integers(env.action_space.n))))  # type: ignore[attr-defined]
        if records[-1][2] or records[-1][3]:
            records.append(env.reset())
    return records


@pytest.mark.parametrize("env_id", EVERY)
def test_one_hot_is_what_gymnasium_flattens_in_single_precision(env_id: str) -> None:
    env, flat = seat(env_id, observation="one-hot"), FlattenObservation(seat(env_id))
    assert env.observation_space == gym.spaces.Box(0.0, 1.0, flat.observation_space.shape)
    for ours, theirs in zip(walk(env), walk(flat), strict=True):
        assert ours[0] in env.observation_space
        assert_identical(ours[0], theirs[0].astype(np.float32))
        assert_identical(ours[1:], theirs[1:])


@pytest.mark.parametrize("env_id", MAPS)
def test_coordinates_tell_the_states_apart_and_say_where_they_are(env_id: str) -> None:
    env, plain = seat(env_id, observation="coordinates"), seat(env_id)
    game: Any = game_of(plain)
    space = env.observation_space
    table = game.coordinates()
    assert table.min() >= 0.0 and table.max() <= 1.0
    assert len(np.unique(table.astype(np.float32), axis=0)) == game.num_states
    sizes = np.array(game._picture.shape)
    for ours, theirs in zip(walk(env), walk(plain), strict=True):
        assert ours[0] in space and ours[0].shape == ((3,) if env_id == TAXI else (2,))
        place = np.array(game.cell_of(theirs[0])) / (sizes - 1)
        np.testing.assert_array_equal(ours[0][:2], place.astype(np.float32))


def test_a_taxi_of_coordinates_tells_passenger_and_destination() -> None:
    """Gymnasium numbers the states ((row * 5 + column) * 5 + passenger) * 4 + destination."""
    state = ((3 * 5 + 1) * 5 + 4) * 4 + 2
    expected = [3 / 4, 1 / 4, (4 * 4 + 2) / 19]
    game: Any = game_of(seat(TAXI))
    np.testing.assert_allclose(game.coordinates()[state], expected)


@pytest.mark.parametrize("observation", ["one-hot", "coordinates"])
def test_seats_of_arrays_pass_the_checks_and_teach_a_deep_learner(observation: str) -> None:
    env = seat(GRID, observation=observation)
    check_env(env, skip_render_check=True)
    again = gym.make(env.spec)
    assert again.observation_space == env.observation_space and again.spec == env.spec
    assert_identical(walk(again), walk(seat(GRID, observation=observation)))
    model = DQN("MlpPolicy", env, learning_starts=16, buffer_size=100, seed=0, device="cpu")
    assert model.learn(64).num_timesteps == 64


@pytest.mark.parametrize("mode", [mode.value for mode in AutoresetMode])
@pytest.mark.parametrize("observation", ["one-hot", "coordinates"])
def test_vectors_show_what_gymnasiums_own_show(observation: str, mode: str) -> None:
    options: dict[str, Any] = {"slip": 0.0, "max_episode_steps": 5}
    options |= {"upper_params": interior_point(gym.make(GRID)), "observation": observation}
    ours: Any = gym.make_vec(follower_id(GRID), 4, autoreset_mode=mode, **options)
    theirs = SyncVectorEnv(
        [lambda: gym.make(follower_id(GRID), **options)] * 4,
        autoreset_mode=AutoresetMode(mode),
    )
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert_identical(ours.reset(seed=0), theirs.reset(seed=0))
    for actions in np.random.default_rng(0).integers(4, size=(30, 4)):
        record = ours.step(actions)
        assert_identical(record, theirs.step(actions))
        over = record[2] | record[3]
        if mode == "Disabled" and over.any():
            mask = {"reset_mask": over}
            assert_identical(ours.reset(options=mask), theirs.reset(options=mask))


@pytest.mark.parametrize(
    ("env_id", "observation", "message"),
    [
        (GRID, "onehot", "unknown observation 'onehot'.*one-hot"),
        (TOLL, "coordinates", "must be 'state' or 'one-hot' where there is no map.*BilevelToll"),
        ("BilevelThermal-v0", "one-hot", "must be 'state' where observations are not Discrete"),
    ],
)
def test_what_cannot_be_shown_is_refused(env_id: str, observation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seat(env_id, observation=observation)
    with pytest.raises(TypeError if "Thermal" in env_id else ValueError):
        LowerLevelVectorEnv(env_id, 2, interior_point(gym.make(env_id)), observation=observation)
