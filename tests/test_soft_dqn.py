"""Soft learners of Stable-Baselines3: what they find, and that they go on where they were."""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from scipy.sparse import dok_array
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from bilevel_gym import LowerLevel, LowerLevelVectorEnv
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.sb3 import SoftDQN, SoftSAC, as_vec_env
from bilevel_gym.sb3.soft_dqn import SoftQPolicy

from .helpers import Env, array_game, assert_identical

Patch = pytest.MonkeyPatch


def chain(**options: Any) -> TabularBilevelEnv:
    """Return the game of three states, with a follower who has a use for both actions."""
    return array_game(features=np.eye(6).reshape(3, 2, 6), **options)


def seat(game: TabularBilevelEnv | None = None, episode: int = 20) -> Env:
    """Return the follower's seat of the chain, in episodes that are cut."""
    game = chain() if game is None else game
    return LowerLevel(TimeLimit(game, episode), game.initial_upper_params)


# Copied for each learner, as the library adds to what it is given.
DEFAULTS: dict[str, Any] = {"policy_kwargs": {"net_arch": [32]}, "seed": 3, "learning_starts": 20}
DEFAULTS |= {"batch_size": 64, "buffer_size": 5000, "device": "cpu"}


def small_dqn(env: Any = None, **options: Any) -> SoftDQN:
    """Return a learner with a small network that has not learnt yet."""
    options = {**deepcopy(DEFAULTS), "schedule_steps": 400, **options}
    return SoftDQN("MlpPolicy", seat() if env is None else env, **options)


class Aim(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One step to each episode, with an action in [-2, 4] that should be `target`."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Box(np.array([-2.0], np.float32), np.array([4.0], np.float32))
    target = 2.5

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> Any:
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return observation, -((float(action[0]) - self.target) ** 2), True, False, {}


def small_sac(env: Any = None, **options: Any) -> SoftSAC:
    """Return a learner with a small network that has not learnt yet."""
    options = {**deepcopy(DEFAULTS), "temperature": 0.1, "gamma": 0.9, "train_freq": 4, **options}
    return SoftSAC("MlpPolicy", Aim() if env is None else env, **options)


every_learner = pytest.mark.parametrize("make", [small_dqn, small_sac], ids=["SoftDQN", "SoftSAC"])


def state_of(model: Any) -> dict[str, Any]:
    """Return what a learner has learnt and seen, as arrays and numbers."""

    def arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): arrays(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [arrays(entry) for entry in value]
        return value.detach().numpy().copy() if hasattr(value, "detach") else value

    return {
        "parameters": arrays(model.get_parameters()),
        "buffer": {name: array.copy() for name, array in model.replay_buffer.state_dict().items()},
        "actions": model.action_space.np_random.bit_generator.state["state"]["state"],
        "steps": model.num_timesteps,
    }


def divergence(game: TabularBilevelEnv, x: FloatArray, model: SoftDQN) -> float:
    """Return KL(pi* || pi), weighted by the occupancy of pi*."""
    exact = game.evaluate(x)
    policy = model.action_probabilities(np.arange(game.num_states))
    return float(exact.occupancy @ (exact.policy * np.log(exact.policy / policy)).sum(axis=1))


# What is found ----------------------------------------------------------------------------------


def test_it_finds_the_soft_optimal_policy_and_its_value() -> None:
    game = chain()
    x = game.initial_upper_params
    uniform = small_dqn(seat(game))
    before = divergence(game, x, uniform)
    model = small_dqn(seat(game), schedule_steps=1000, tau=0.05).learn(1000)
    assert divergence(game, x, model) < 0.005 < 0.05 < before
    soft_value = game.evaluate(x).soft_value
    np.testing.assert_allclose(model.soft_values(np.arange(3)), soft_value, atol=0.1)


def test_it_follows_another_x_with_the_transitions_it_has() -> None:
    game = chain()
    here = game.initial_upper_params
    there = np.array([0.5, -0.5, -0.5, 0.5, 0.5, -0.5])

    def paid_at(x: FloatArray) -> Any:
        table = game.reward(x)
        return lambda states, actions: table[states, actions]

    # The environment itself pays for x = here throughout.
    model = small_dqn(seat(game), learning_rate=3e-3, tau=0.05, reward_fn=paid_at(here))
    model.learn(600)
    stored = state_of(model)["buffer"]
    assert divergence(game, here, model) < 0.02
    assert (far := divergence(game, there, model)) > 0.1
    model.reward_fn = paid_at(there)
    model.train(300, 64)
    assert divergence(game, there, model) < 0.1 * far
    assert_identical(state_of(model)["buffer"], stored)
    # The rewards stored are those of the environment.
    states, actions = (stored[name].reshape(-1) for name in ("observations", "actions"))
    rewards = game.reward(here)[states, actions].astype(np.float32)
    np.testing.assert_array_equal(stored["rewards"].reshape(-1), rewards)


def test_the_actor_critic_aims_and_follows_a_moving_target() -> None:
    model = small_sac(learning_rate=0.01, reward_fn=lambda o, a: -((a[:, 0] - 0.5) ** 2))
    model.learn(300)
    model.train(150, 64)
    observations = np.zeros((500, 2), np.float32)
    rng = np.random.default_rng(0)

    def aim() -> float:
        return float(model.sample_actions(observations, rng).mean())

    # The environment pays for 2.5, r_x for .5; both in the units of the box [-2, 4].
    assert aim() == pytest.approx(0.5, abs=0.4)
    model.reward_fn = None
    model.train(200, 64)
    assert aim() == pytest.approx(2.5, abs=0.4)
    assert model.ent_coef_tensor.item() == pytest.approx(0.1)


def test_actions_are_drawn_from_the_boltzmann_policy_and_explore_only_in_training() -> None:
    model = small_dqn(exploration_final_eps=1.0).learn(100)
    observations = np.arange(3)
    policy = model.action_probabilities(observations)
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, rtol=1e-12)
    draws = model.predict(np.tile(observations, 4000))[0].reshape(4000, 3)
    np.testing.assert_allclose(draws.mean(axis=0), policy[:, 1], atol=0.04)
    best, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(best, policy.argmax(axis=1))
    # The policy leaves no doubt, and training acts at random all the same.
    model.temperature = model.q_net.temperature = 1e-6
    assert {int(model.predict(np.array(0))[0]) for _ in range(50)} == {int(best[0])}
    assert strays_of(model, 400).mean() == pytest.approx(0.5, abs=0.1)


def test_each_environment_explores_by_itself() -> None:
    model = small_dqn(DummyVecEnv([seat] * 8), exploration_final_eps=0.5, train_freq=1)
    strays = strays_of(model.learn(400), 3200).sum(axis=1)
    # Half explore, and half of these end up elsewhere.
    assert np.mean(strays) == pytest.approx(2.0, abs=0.3)
    assert np.var(strays) == pytest.approx(1.5, abs=0.5)


def strays_of(model: SoftDQN, steps: int) -> NDArray[np.bool_]:
    """Return where a learner that is sure of itself, and learns no more, acts otherwise."""
    model.temperature = model.q_net.temperature = 1e-6
    model.gradient_steps = 0
    best, _ = model.predict(np.arange(3), deterministic=True)
    model.learn(steps, reset_num_timesteps=False)
    buffer = state_of(model)["buffer"]
    rows = slice(-(steps // model.n_envs), None)
    states, actions = buffer["observations"][rows, :, 0], buffer["actions"][rows, :, 0]
    return np.asarray(actions != best[states])


def test_a_game_tells_its_temperature_and_its_discount() -> None:
    game = chain(temperature=0.7, gamma=0.4)
    model = small_dqn(seat(game))
    assert (model.temperature, model.gamma) == (0.7, 0.4)
    model = small_dqn(seat(game), temperature=0.2, gamma=0.3)
    assert (model.temperature, model.gamma) == (0.2, 0.3)
    options: dict[str, Any] = {"autoreset_mode": "SameStep", "map_name": "4x4"}
    copies = LowerLevelVectorEnv("BilevelGridWorld-v0", 4, np.zeros(14), **options)
    model = small_dqn(as_vec_env(copies)).learn(40)
    assert (model.temperature, model.gamma) == (copies.game.temperature, copies.game.gamma)
    with pytest.raises(ValueError, match="`temperature` must be given.*not the follower's seat"):
        SoftDQN("MlpPolicy", "CartPole-v1", gamma=0.9)
    with pytest.raises(ValueError, match="`gamma` must be given.*not the follower's seat"):
        SoftSAC("MlpPolicy", "Pendulum-v1", temperature=0.1)
    with pytest.raises(ValueError, match="`temperature` must be given.*not the follower's seat"):
        SoftSAC("MlpPolicy", "BilevelGridWorld-v0")  # the leader's


def test_a_time_limit_is_no_end() -> None:
    # The only state pays 1 at every step, in episodes that are cut after two.
    ones: dict[str, Any] = {"reward": np.ones((1, 2)), "upper_reward": np.ones((1, 2))}
    ones |= {"transition": np.ones((1, 2, 1)), "initial_distribution": [1.0]}
    game = array_game(**ones, features=np.zeros((1, 2, 1)), gamma=0.5, temperature=0.01)
    for kwargs, value in ((None, 2.0), ({"handle_timeout_termination": False}, 1.33)):
        options = {"learning_rate": 5e-3, "tau": 0.2, "replay_buffer_kwargs": kwargs}
        model = small_dqn(seat(game, episode=2), **options).learn(400)
        # The half of the transitions that end an episode are worth 1 where cuts are ends.
        assert float(model.soft_values(np.zeros(1, int))[0]) == pytest.approx(value, abs=0.1)


# Going on ----------------------------------------------------------------------------------------


def in_chunks(model: Any, chunks: list[int], between: Any = None) -> Any:
    """Learn in several calls."""
    for chunk in chunks:
        model.learn(chunk, reset_num_timesteps=False)
        if between is not None:
            between(model)
    return model


def disturb(model: Any) -> None:
    """Do what leaders do between two calls: predict, and draw random numbers of their own."""
    model.predict(model.observation_space.sample())
    np.random.random(7)
    th.rand(5)
    model.env.action_space.sample()


@every_learner
@pytest.mark.parametrize("schedule", [None, "linear"])
def test_several_calls_are_one_bit_for_bit(make: Any, schedule: str | None) -> None:
    options: dict[str, Any] = {"schedule_steps": 160}
    if schedule is not None:
        options["learning_rate"] = LinearSchedule(3e-3, 1e-5, 0.9)
    whole = make(**options).learn(200)
    parts = in_chunks(make(**options), [40, 4, 76, 80], disturb)
    assert_identical(state_of(parts), state_of(whole))
    other = make(**{**options, "seed": 4}).learn(60)
    seen, expected = (state_of(each)["buffer"]["observations"] for each in (other, whole))
    assert not np.array_equal(seen, expected[:60])


@every_learner
def test_what_was_saved_goes_on_as_if_nothing_had_happened(make: Any, tmp_path: Path) -> None:
    def reward(observations: Any, actions: Any) -> Any:
        return np.linspace(0.0, 1.0, len(actions))

    model = make(reward_fn=reward, schedule_steps=160).learn(100)
    model.save(tmp_path / "deep" / "model")
    environment = deepcopy(model.get_env())
    expected = state_of(in_chunks(model, [100]))
    np.random.seed(99)
    untouched = np.random.get_state()
    loaded = type(model).load(
        tmp_path / "deep" / "model.zip", environment, "cpu", force_reset=False, reward_fn=reward
    )
    assert_identical(state_of(in_chunks(loaded, [100])), expected)
    # None of this is anybody else's random numbers.
    assert_identical(list(np.random.get_state()), list(untouched))
    assert loaded.seed == 3 and [p.name for p in (tmp_path / "deep").iterdir()] == ["model.zip"]


@pytest.mark.parametrize("steps", [1, 30])
def test_what_was_saved_acts_bit_for_bit(steps: int, tmp_path: Path) -> None:
    model = SoftSAC(
        "MlpPolicy",
        "Pendulum-v1",
        temperature=0.1,
        gamma=0.9,
        buffer_size=300,
        learning_starts=10,
        batch_size=16,
        policy_kwargs={"net_arch": [8]},
        seed=0,
    ).learn(steps)
    model.save(tmp_path / "model")
    loaded = SoftSAC.load(tmp_path / "model")
    for observation in np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32):
        ours, theirs = (one.predict(observation, deterministic=True)[0] for one in (model, loaded))
        np.testing.assert_array_equal(theirs, ours)


def test_by_default_a_new_episode_begins_that_is_no_repetition(tmp_path: Path) -> None:
    game = chain(transition=np.full((3, 2, 3), 1 / 3))  # where chance decides about everything
    model = small_dqn(seat(game)).learn(200)
    model.save(tmp_path / "model")
    tales = []
    for _ in range(2):
        loaded = SoftDQN.load(tmp_path / "model", seat(game), "cpu")
        assert loaded.num_timesteps == 200
        loaded.learn(100, reset_num_timesteps=False)
        tales.append(state_of(loaded)["buffer"]["observations"])
    np.testing.assert_array_equal(tales[0], tales[1])
    np.testing.assert_array_equal(tales[0][:200], state_of(model)["buffer"]["observations"])
    assert not np.array_equal(tales[0][200:], tales[0][:100])


def test_streams_are_written_and_read() -> None:
    model, stream = small_dqn().learn(100), io.BytesIO()
    model.save(stream)
    stream.seek(0)
    loaded = SoftDQN.load(stream, deepcopy(model.get_env()), device="cpu", force_reset=False)
    assert_identical(state_of(loaded), state_of(model))
    assert_identical(state_of(in_chunks(loaded, [40])), state_of(in_chunks(model, [40])))


@every_learner
def test_the_reward_must_be_set_again(make: Any, tmp_path: Path) -> None:
    model = make(reward_fn=lambda o, a: np.zeros(len(a))).learn(60)
    model.save(tmp_path / "whole")
    model.save(tmp_path / "light", exclude=["replay_buffer"])
    assert (tmp_path / "light.zip").stat().st_size < (tmp_path / "whole.zip").stat().st_size
    for name, size in (("whole", 60), ("light", 0)):
        loaded = type(model).load(tmp_path / name, deepcopy(model.env), "cpu")
        assert loaded.replay_buffer.size() == size and loaded.reward_fn is None
        with pytest.raises(RuntimeError, match="`reward_fn` is not set"):
            loaded.learn(10, reset_num_timesteps=False)
        assert loaded.num_timesteps == 60
        loaded.reward_fn = lambda o, a: np.ones(len(a))
        assert loaded.learn(10, reset_num_timesteps=False).num_timesteps >= 70


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: Patch) -> None:
    model = small_dqn().learn(60)
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    assert (tmp_path / "model.zip").read_bytes() == before


def test_a_buffer_of_another_number_of_environments_does_not_fit(tmp_path: Path) -> None:
    model = small_dqn().learn(60)
    model.save(tmp_path / "whole")
    model.save(tmp_path / "light", exclude=["replay_buffer"])
    two = DummyVecEnv([seat] * 2)
    with pytest.raises(ValueError, match=r"does not fit.*\(60, 1, 1\).*\(2500, 2, 1\)"):
        SoftDQN.load(tmp_path / "whole", two, "cpu")
    loaded = SoftDQN.load(tmp_path / "light", two, "cpu")
    assert loaded.learn(80, reset_num_timesteps=False).num_timesteps == 140


def test_schedules_stand_where_all_steps_together_say() -> None:
    model = small_dqn(schedule_steps=400, exploration_fraction=0.5, exploration_final_eps=0.2)
    seen = []
    for _ in range(4):
        model.learn(120, reset_num_timesteps=False)
        rate = model.policy.optimizer.param_groups[0]["lr"]
        seen.append((rate, model.exploration_rate))
    rates, epsilons = (np.array(column) for column in zip(*seen, strict=True))
    np.testing.assert_allclose(rates, 1e-5 + np.array([0.7, 0.4, 0.1, 0.0]) * (3e-3 - 1e-5))
    # That of the last action, one step before.
    np.testing.assert_allclose(epsilons, [1.0 - 0.8 * 119 / 200, 0.2, 0.2, 0.2])
    model.learn(40)
    rate = model.policy.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-5 + 0.9 * (3e-3 - 1e-5))


def test_learning_leaves_the_random_numbers_of_others_alone() -> None:
    model = small_dqn()
    np.random.seed(5), th.manual_seed(5)
    numpys, torchs = np.random.get_state(), th.get_rng_state()
    model.learn(100)
    assert_identical(list(np.random.get_state()), list(numpys))
    assert th.equal(th.get_rng_state(), torchs)
    taken = []
    for _ in range(2):  # which differ by the numbers of learners without a seed alone
        th.manual_seed(5)
        model = small_dqn(seed=None)
        model.action_space.seed(0), model.get_env().seed(0)  # type: ignore[union-attr]
        taken.append(state_of(model.learn(100))["buffer"]["actions"])
    assert not np.array_equal(*taken)


# The library around it ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_callbacks_checkpoints_and_logs_of_the_library_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = small_dqn(tensorboard_log=str(tmp_path / "logs"))
    saves = CheckpointCallback(100, str(tmp_path / "saves"))
    options: dict[str, Any] = {"verbose": 0, "best_model_save_path": str(tmp_path / "best")}
    evaluates = EvalCallback(Monitor(seat()), eval_freq=100, **options)
    model.learn(300, callback=[saves, evaluates], log_interval=1, progress_bar=True)
    assert evaluates.evaluations_results == [] and np.isfinite(evaluates.best_mean_reward)
    seeds = set()
    for steps in (100, 200):
        loaded = SoftDQN.load(tmp_path / "saves" / f"rl_model_{steps}_steps", seat(), "cpu")
        assert loaded.num_timesteps == steps
        env: Any = loaded.get_env()
        env.reset()
        seeds.add(env.get_attr("np_random_seed")[0])
    # The generators are those of that moment, not of the beginning of the call.
    assert len(seeds) == 2
    SoftDQN.load(tmp_path / "best" / "best_model", device="cpu")
    (run,) = (tmp_path / "logs").iterdir()
    assert run.name == "SoftDQN_1"
    events = accumulator.EventAccumulator(str(run)).Reload()
    names = {"rollout/exploration_rate", "train/loss", "train/learning_rate", "eval/mean_reward"}
    assert names <= set(events.Tags()["scalars"])
    parameters: Any = model.get_parameters()
    assert set(parameters) == {"policy", "policy.optimizer"}
    model.set_parameters(parameters)


def test_images_go_through_convolutions() -> None:
    class Frames(gym.Env[Any, Any]):
        observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros((36, 36, 1), np.uint8), {}

        def step(self, action: Any) -> Any:
            return np.full((36, 36, 1), 200, np.uint8), 1.0, bool(action), False, {}

    shapes = set()

    def reward(observations: Any, actions: Any) -> Any:
        shapes.add(observations.shape[1:])
        return observations.mean(axis=(1, 2, 3)) / 255

    options: dict[str, Any] = {"policy_kwargs": {}, "temperature": 0.1, "gamma": 0.9}
    options |= {"seed": 0, "batch_size": 8, "buffer_size": 100, "learning_starts": 4}
    model = SoftDQN("CnnPolicy", Frames(), device="cpu", reward_fn=reward, **options).learn(12)
    assert shapes == {(1, 36, 36)}
    assert model.policy.optimizer.state_dict()["state"][0]["step"] == 4


# What only followers of discrete actions take.
DQN_OPTIONS = {"exploration_final_eps", "exploration_fraction", "target_update_interval"}
DQN_OPTIONS |= {"policy_kwargs"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "`temperature` must be positive.*0.0"),
        ({"gamma": 1.0}, ValueError, r"`gamma` must lie in \[0, 1\)"),
        ({"n_steps": 3}, ValueError, "`n_steps` must be 1, got 3: sums over several steps"),
        ({"schedule_steps": 0}, ValueError, "`schedule_steps` must be an integer of at least 1"),
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be positive"),
        ({"tau": 0.0}, ValueError, "`tau` must be positive"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
        ({"reward_fn": 1}, TypeError, "`reward_fn` must be None or a function"),
        ({"replay_buffer_kwargs": {"n_steps": 2}}, ValueError, "`n_steps` must be 1, got 2"),
        ({"exploration_final_eps": 1.5}, ValueError, r"`exploration_final_eps` must lie in \[0, 1"),
        ({"exploration_fraction": 0.0}, ValueError, "`exploration_fraction` must be positive"),
        ({"policy_kwargs": {"n_critics": 0}}, ValueError, "`n_critics` must be an integer of at"),
        ({"target_update_interval": 2}, TypeError, "'target_update_interval'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], error: Any, message: str) -> None:
    for make in (small_dqn,) if {*options} & DQN_OPTIONS else (small_dqn, small_sac):
        with pytest.raises(error, match=message):
            make(**options)


@pytest.mark.parametrize(
    "policy_kwargs", [{1: 2}, ["net_arch"], {"net_arch": dok_array((2, 2))}, {"net_arch": 8}]
)
def test_arguments_of_the_policy_are_checked(policy_kwargs: Any) -> None:
    with pytest.raises(TypeError, match="`(policy_kwargs|net_arch)` must be"):
        SoftDQN("MlpPolicy", "CartPole-v1", 0.1, gamma=0.9, policy_kwargs=policy_kwargs)


def test_environments_that_do_not_suit_are_refused_with_a_reason() -> None:
    normalized = VecNormalize(DummyVecEnv([Aim]))
    with pytest.raises(ValueError, match="VecNormalize.*drift"):
        small_sac(normalized)
    model = small_sac()
    model.set_env(normalized)
    with pytest.raises(ValueError, match="VecNormalize.*drift"):
        model.learn(50)
    with pytest.raises(ValueError, match="unknown policy 'MlpPolicey'.*Did you mean 'MlpPolicy'"):
        SoftDQN("MlpPolicey", seat())
    with pytest.raises(ValueError, match="`total_timesteps`.*at least 1, got 0"):
        small_dqn().learn(0)


def test_continuous_actions_are_kept_and_drawn_in_the_units_of_the_environment() -> None:
    class Watched(Aim):
        taken: list[float] = []

        def step(self, action: Any) -> Any:
            self.taken.append(float(action[0]))
            return super().step(action)

    learner = small_sac(Watched(), learning_starts=50)
    learner.learn(50)
    buffer = learner.replay_buffer
    assert buffer is not None
    kept = buffer.transitions(np.arange(50), np.random.default_rng(0)).actions[:, 0]
    np.testing.assert_allclose(kept, Watched.taken[:50], rtol=1e-5, atol=1e-6)
    assert kept.max() > 1.5  # of [-2, 4]
    # As the library draws from the same policy.
    seen = np.zeros((4000, 2), np.float32)
    ours = learner.sample_actions(seen, np.random.default_rng(0))
    theirs, _ = learner.predict(seen, deterministic=False)
    assert abs(ours.mean() - theirs.mean()) < 5.0 * theirs.std() / np.sqrt(2000)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1)


def test_of_several_critics_the_least_counts_and_policies_are_saved(tmp_path: Path) -> None:
    learner = small_dqn(policy_kwargs={"net_arch": [8], "n_critics": 3})
    seen, _ = learner.policy.obs_to_tensor(np.array([0, 1, 2]))
    for network in (learner.q_net, learner.q_net_target):
        each = network.each(seen).detach().numpy()
        assert each.shape == (3, 3, 2) and np.ptp(each, axis=0).min() > 0.0
        np.testing.assert_array_equal(network(seen).detach().numpy(), each.min(axis=0))
    model = learner.learn(60)
    model.policy.save(str(tmp_path / "policy"))
    policy = SoftQPolicy.load(str(tmp_path / "policy"), device="cpu")
    assert policy.n_critics == 3 and policy.temperature == model.temperature
    observations = np.arange(3)
    ours, theirs = (m.predict(observations, deterministic=True)[0] for m in (policy, model))
    np.testing.assert_array_equal(ours, theirs)
