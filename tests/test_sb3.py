"""Stable-Baselines3 in both seats, as they come; and what importing this package does not load."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from bilevel_gym import HyperGradient, LowerLevel, LowerLevelVectorEnv
from bilevel_gym.registration import Task
from bilevel_gym.sb3 import as_vec_env

from .helpers import (
    EXACT_TASKS,
    Env,
    array_game,
    assert_identical,
    follower_seat,
    game_below,
    interior_point,
    leader_seat,
)

every_task = pytest.mark.parametrize("task", EXACT_TASKS, ids=lambda task: task.id)


def learned(algorithm: str, env: Any, steps: int, **options: Any) -> Any:
    """Train an algorithm of Stable-Baselines3 by name, on a small network."""
    network = {"net_arch": [16]}
    model = getattr(stable_baselines3, algorithm)(
        "MlpPolicy", env, policy_kwargs=network, seed=0, device="cpu", **options
    )
    return model.learn(steps)


@every_task
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
        ("SAC", {"learning_starts": 50, "train_freq": 4, "buffer_size": 1000}),
    ],
)
def test_a_black_box_leader_trains_on_the_environment_exactly_as_it_is_made(
    task: Task, algorithm: str, options: dict[str, Any]
) -> None:
    env = leader_seat(task)
    model = learned(algorithm, env, 128, **options)
    assert model.num_timesteps >= 128
    # Episodes of a hundred steps each were seen by the Monitor that the library puts on top.
    assert {round(episode["l"]) for episode in model.ep_info_buffer} == {100}
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    # The action goes in as it comes out.
    assert np.isfinite(float(env.step(action)[1]))


@every_task
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"n_steps": 128, "batch_size": 64, "n_epochs": 2}),
        ("DQN", {"learning_starts": 50, "buffer_size": 1000}),
    ],
)
def test_a_follower_trains_on_the_environment_exactly_as_it_is_made(
    task: Task, algorithm: str, options: dict[str, Any]
) -> None:
    env = follower_seat(task)
    if algorithm == "DQN" and not isinstance(env.action_space, gym.spaces.Discrete):
        # The same, for actions that are vectors.
        algorithm, options = "SAC", {**options, "train_freq": 4}
    model = learned(algorithm, env, 256, **options)
    assert model.num_timesteps >= 256
    state, _ = env.reset(seed=0)
    for _ in range(5):
        action, _ = model.predict(state, deterministic=True)
        state, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break


@every_task
def test_followers_train_side_by_side(task: Task) -> None:
    x = interior_point(leader_seat(task))
    vector = make_vec_env(lambda: LowerLevel(leader_seat(task), x), n_envs=4, seed=0)
    model = learned("PPO", vector, 512, n_steps=32, batch_size=64, n_epochs=2)
    assert vector.num_envs == 4 and model.num_timesteps >= 512
    # Each was seeded by itself, and reports the leader's part of its steps.
    vector.seed(1)
    vector.reset()
    size = vector.action_space.shape or ()  # a number, or an array, for each
    vector.step(np.zeros((4, *size), int))
    _, _, _, infos = vector.step(np.ones((4, *size), int))
    assert all(type(info["upper_reward"]) is np.float64 for info in infos)


@every_task
def test_leaders_report_their_hyper_gradients_side_by_side(task: Task) -> None:
    vector = make_vec_env(task.id, n_envs=2, seed=0, env_kwargs=task.test_kwargs)
    single = leader_seat(task)
    single.reset(seed=0)
    vector.reset()
    x = interior_point(single)
    _, rewards, _, infos = vector.step(np.stack([x, np.zeros_like(x)]))
    _, reward, _, _, info = single.step(x)
    # The library keeps rewards in float32.
    assert rewards[0] == np.float32(float(reward))
    np.testing.assert_array_equal(infos[0]["hyper_gradient"], info["hyper_gradient"])
    assert infos[0]["hyper_gradient"].dtype == np.float64
    # At the end of an episode the vector begins the next one, and the answer at x0 is at hand.
    reset_info = vector.reset_infos[1]
    start = game_below(single).initial_upper_params
    np.testing.assert_array_equal(reset_info["upper_params"], start)


def test_a_black_box_leader_finds_the_optimum_of_a_small_game() -> None:
    # One state and two actions that end the episode. The follower is indifferent at x = 0 and the
    # leader wants the first action; a single feature pays for it, at no cost: the best x is 1.
    transition, rewards = np.zeros((1, 2, 1)), np.array([[1.0, -1.0]])
    env: Env = HyperGradient(
        array_game(
            transition=transition,
            reward=np.zeros((1, 2)),
            upper_reward=rewards,
            initial_distribution=[1.0],
            features=np.array([[[1.0], [0.0]]]),
            temperature=0.5,
        ),
        outer_steps=1,
    )
    model = learned(
        "PPO", env, 1280, n_steps=64, batch_size=64, n_epochs=10, learning_rate=0.02, gamma=0.0
    )
    observation, _ = env.reset(seed=0)
    x, _ = model.predict(observation, deterministic=True)
    _, reward, _, _, _ = env.step(x)
    # tanh(x / (2 * temperature)) is the leader's value, .7616 at its largest and 0 at the start.
    assert reward == pytest.approx(np.tanh(float(x[0])), abs=1e-6)
    assert float(reward) > 0.6


# Vector environments of arrays --------------------------------------------------------------------

DETERMINISTIC: dict[str, Any] = {"map_name": "4x4", "slip": 0.0, "max_episode_steps": 12}


def follower_vector(num_envs: int, **kwargs: Any) -> LowerLevelVectorEnv:
    options = {"autoreset_mode": "SameStep", **DETERMINISTIC, **kwargs}
    return LowerLevelVectorEnv("BilevelGridWorld-v0", num_envs, np.full(14, 0.25), **options)


def assert_like(adapted: Any, expected: Any, actions: Any) -> None:
    """Assert that two vector environments of Stable-Baselines3 report the same, types included."""
    assert adapted.num_envs == expected.num_envs
    assert adapted.observation_space == expected.observation_space
    assert adapted.action_space == expected.action_space
    adapted.seed(3), expected.seed(3)
    assert_identical(adapted.reset(), expected.reset())
    assert_identical(adapted.reset_infos, expected.reset_infos)
    for action in actions:
        assert_identical(adapted.step(action), expected.step(action))
        assert_identical(adapted.reset_infos, expected.reset_infos)


def test_copies_in_same_step_mode_look_like_single_ones_to_the_library() -> None:
    def follower() -> Env:
        x = np.full(14, 0.25)
        return gym.make("BilevelGridWorldFollower-v0", upper_params=x, **DETERMINISTIC)

    def leader() -> Env:
        return HyperGradient(gym.make("BilevelGridWorld-v0", map_name="4x4"), outer_steps=3)

    rng = np.random.default_rng(0)
    actions = rng.integers(4, size=(60, 5))
    assert_like(as_vec_env(follower_vector(5)), DummyVecEnv([follower] * 5), actions)
    vector: Any = SyncVectorEnv([leader] * 2, autoreset_mode="SameStep")
    moves = rng.uniform(-1.0, 1.0, size=(8, 2, 14))
    assert_like(as_vec_env(vector), DummyVecEnv([leader] * 2), moves)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"n_steps": 32, "batch_size": 64, "n_epochs": 2}),
        ("DQN", {"learning_starts": 50, "buffer_size": 1000}),
    ],
)
def test_a_follower_trains_on_many_copies_at_once(algorithm: str, options: dict[str, Any]) -> None:
    assert as_vec_env(follower_vector(2)).get_images() == [None, None]  # it has no picture
    vector = VecMonitor(as_vec_env(follower_vector(16)))
    model = learned(algorithm, vector, 512, **options)
    assert model.num_timesteps >= 512
    assert model.ep_info_buffer and {int(e["l"]) for e in model.ep_info_buffer} <= {*range(1, 13)}


def test_a_monitor_on_top_counts_what_was_played() -> None:
    vector = VecMonitor(as_vec_env(follower_vector(40, slip=0.3)))
    vector.seed(0)
    vector.reset()
    lengths, returns, episodes = np.zeros(40, int), np.zeros(40), 0
    for actions in np.random.default_rng(1).integers(4, size=(50, 40)):
        _, rewards, dones, infos = vector.step(actions)
        lengths += 1
        returns += rewards
        for copy, info in enumerate(infos):
            assert dones[copy] == ("episode" in info) == ("terminal_observation" in info)
            if dones[copy]:
                assert info["episode"]["l"] == lengths[copy] <= 12
                # The monitor adds up in float32.
                assert info["episode"]["r"] == pytest.approx(returns[copy], abs=1e-5)
                assert lengths[copy] == 12 or not info["TimeLimit.truncated"]
                lengths[copy], returns[copy], episodes = 0, 0.0, episodes + 1
    assert episodes > 100


def test_seeds_reach_the_copies_once() -> None:
    vectors = [as_vec_env(follower_vector(8, slip=0.5)) for _ in range(2)]
    actions = np.random.default_rng(2).integers(4, size=(30, 8))

    def states(vector: Any, seed: int | None = None) -> list[Any]:
        if seed is not None:
            assert vector.seed(seed) == [*range(seed, seed + 8)]
        return [vector.reset().tolist(), *(vector.step(action)[0].tolist() for action in actions)]

    first = states(vectors[0], 5)
    assert first == states(vectors[1], 5) == states(vectors[0], 5)
    assert states(vectors[0]) != first != states(vectors[1], 6)


def test_attributes_and_methods_are_those_of_the_vector() -> None:
    vector = follower_vector(3)
    adapted = as_vec_env(RecordEpisodeStatistics(vector))
    adapted.reset()
    assert adapted.get_attr("game", indices=[0, 2]) == [vector.game] * 2
    assert adapted.has_attr("action_masks") and not adapted.has_attr("no_such_thing")
    masks = adapted.env_method("action_masks", indices=1)
    np.testing.assert_array_equal(masks, np.ones((1, 4), bool))
    adapted.set_attr("label", "ours")
    assert adapted.get_attr("label") == ["ours"] * 3
    with pytest.raises(ValueError, match=r"`label`.*all copies together.*\[1\]"):
        adapted.set_attr("label", "mine", indices=[1])
    assert adapted.env_is_wrapped(Monitor) == [False] * 3
    adapted.set_options({"upper_params": 0})
    with pytest.raises(ValueError, match="unknown reset option 'upper_params'"):
        adapted.reset()
    adapted.set_options([{}, {}, {"reset_mask": 1}])
    with pytest.raises(ValueError, match="same for all copies"):
        adapted.reset()
    adapted.close()
    assert vector.closed


def test_a_mode_that_does_not_suit_the_library_is_refused_with_the_remedy() -> None:
    for mode in ("NextStep", "Disabled"):
        with pytest.raises(ValueError, match=f'{mode}.*autoreset_mode="SameStep"'):
            as_vec_env(follower_vector(2, autoreset_mode=mode))
    with pytest.raises(TypeError, match="VectorEnv.*LowerLevel"):
        as_vec_env(LowerLevel(array_game(), np.zeros(3)))  # type: ignore[arg-type]


def test_without_the_library_the_import_names_the_extra() -> None:
    script = """
        import sys
        sys.modules["stable_baselines3"] = None
        import bilevel_gym
        try:
            import bilevel_gym.sb3
        except ImportError as error:
            assert 'pip install -e ".[sb3]"' in str(error), error
        else:
            raise AssertionError("it was imported")
        """
    loaded_modules(script)


# What is not loaded -----------------------------------------------------------------------------


def loaded_modules(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the modules that it has loaded."""
    script = textwrap.dedent(code) + "\nimport sys; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.split())


HEAVY = {"torch", "stable_baselines3", "pygame", "matplotlib", "pandas", "rich", "click"}


def test_importing_the_package_loads_no_more_than_gymnasium() -> None:
    modules = loaded_modules("import bilevel_gym")
    assert "bilevel_gym.registration" in modules
    assert not modules & (HEAVY | {"scipy.sparse.linalg", "scipy.sparse", "scipy.optimize"})


def test_making_and_playing_a_task_loads_no_learning_and_no_drawing() -> None:
    # MiniGrid imports pygame itself.
    tasks = [(t.id, t.test_kwargs) for t in EXACT_TASKS if t.id != "BilevelMiniGrid-v0"]
    script = f"""
        import sys
        import gymnasium as gym, bilevel_gym
        for id, kwargs in {tasks!r}:
            env = gym.make(id, **kwargs)
            _, info = env.reset(seed=0)
            env.step(info["upper_params"])
            follower = bilevel_gym.LowerLevel(env, info["upper_params"])
            follower.reset(seed=0)
            follower.step(follower.action_space.sample())
            assert not {HEAVY!r} & {{*sys.modules}}, id
        """
    assert "bilevel_gym.envs" in loaded_modules(script)


def test_the_ids_are_registered_by_importing_the_package() -> None:
    code = "import gymnasium as gym; gym.make('bilevel_gym:BilevelGridWorld-v0').reset(seed=0)"
    assert "bilevel_gym" in loaded_modules(code)
    assert gym.spec("BilevelGridWorld-v0").id == "BilevelGridWorld-v0"
