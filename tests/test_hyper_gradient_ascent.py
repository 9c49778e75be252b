"""The hyper-gradient as an algorithm of Stable-Baselines3."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import bilevel_gym
from bilevel_gym import HyperGradient, LeaderVectorEnv, LowerLevel, RescaleUpper
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.optimizers import OPTIMIZERS, RULES, Climb, Iterate, starts_around
from bilevel_gym.registration import Task
from bilevel_gym.sb3 import HyperGradientAscent, UpperParamsPolicy, as_vec_env

from .helpers import EXACT_TASKS, game_below, leader_seat, refusals

TARGET = np.array([[0.5, 2.0, -0.25], [0.1, -0.3, 0.7]])
GRID = "BilevelGridWorld-v0"
SMALL: dict[str, Any] = {"map_name": "4x4"}


class Hill(gym.Env[Any, Any]):
    """What the leader's seat looks like, with a peak at `TARGET` and no memory at all."""

    action_space = gym.spaces.Box(-1.0, 1.0, TARGET.shape, np.float64)
    observation_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self, outer_steps: int = 7, gradients: bool = True) -> None:
        self.outer_steps, self.gradients = outer_steps, gradients
        self.announced: list[FloatArray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {
            "upper_params": np.array((options or {}).get("upper_params", np.zeros(TARGET.shape)))
        }

    def step(self, action: FloatArray) -> Any:
        assert action.dtype == np.float64 and self.action_space.contains(action)
        self.announced.append(action.copy())
        self.count += 1
        info = {"hyper_gradient": -2.0 * (action - TARGET)} if self.gradients else {}
        reward = -float(((action - TARGET) ** 2).sum())
        over = self.count >= self.outer_steps
        return self.observation_space.sample(), reward, False, over, info


def hill(x: FloatArray) -> tuple[float, FloatArray]:
    # The library keeps rewards in float32.
    return float(np.float32(-float(((x - TARGET) ** 2).sum()))), -2.0 * (x - TARGET)


def hills(count: int, **options: Any) -> Any:
    return DummyVecEnv([lambda: Hill(**options)] * count)


def leader(env: Any, **options: Any) -> HyperGradientAscent:
    return HyperGradientAscent("UpperParamsPolicy", env, seed=0, **options)


def predicted(model: Any) -> FloatArray:
    """Return what a model answers, after checking that it answers the same to many."""
    space = model.observation_space
    one, _ = model.predict(space.sample(), deterministic=True)
    many, _ = model.predict(np.stack([space.sample() for _ in range(3)]))
    assert many.shape == (3, *one.shape) and one.dtype == np.float64
    np.testing.assert_array_equal(many, [one] * 3)
    return one


LOW, HIGH = -np.ones(TARGET.shape), np.ones(TARGET.shape)


ADAM = {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-4, "max_gradient_norm": 0.3}


@pytest.mark.parametrize(
    ("rule", "common", "options"),
    [
        *((rule, {}, {}) for rule in RULES),
        ("adam", {"learning_rate": 0.02, "schedule": "inverse-sqrt"}, ADAM),
    ],
)
def test_it_climbs_as_the_optimizer_of_the_same_name_bit_for_bit(
    rule: str, common: dict[str, Any], options: dict[str, Any]
) -> None:
    env = Hill()
    model = leader(env, optimizer=rule, optimizer_options=options, **common).learn(41)
    seen: list[Iterate] = []
    run = partial(OPTIMIZERS[rule], steps=40, callback=seen.append, **common, **options)
    alone = run(hill, np.zeros(TARGET.shape), LOW, HIGH)
    # Episodes of seven steps have ended and begun on the way.
    np.testing.assert_array_equal(env.announced, [iterate.upper_params for iterate in seen])
    found = model.optimum
    assert (found.best.value, found.best.number) == (alone.best.value, alone.best.number)
    assert found.evaluations == alone.evaluations == model.num_timesteps == 41
    np.testing.assert_array_equal(found.best.gradient, alone.best.gradient)
    np.testing.assert_array_equal(predicted(model), alone.best.upper_params)


def test_the_library_s_schedules_are_taken() -> None:
    env = Hill(outer_steps=100)
    leader(env, learning_rate=lambda remaining: 0.1 * remaining, schedule="constant").learn(10)
    lengths = [np.linalg.norm(step) for step in np.diff(env.announced, axis=0)]
    np.testing.assert_allclose(lengths, 0.1 * (1.0 - np.arange(9) / 10))


def test_the_last_x_can_be_predicted_instead_of_the_best() -> None:
    options: dict[str, Any] = {"learning_rate": 3.0, "schedule": "constant"}  # to and fro
    best, last = (leader(Hill(), predicts=p, **options).learn(12) for p in ("best", "last"))
    np.testing.assert_array_equal(predicted(best), best.optimum.best.upper_params)
    np.testing.assert_array_equal(predicted(last), last.climbs.all[0].x)
    assert hill(predicted(last))[0] < hill(predicted(best))[0]


# Several environments ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_each_environment_is_a_climb_of_its_own(rule: str) -> None:
    envs = hills(3)
    model = leader(envs, optimizer=rule, spread=0.2).learn(3 * 31)
    starts = starts_around(np.zeros(TARGET.shape), LOW, HIGH, 3, spread=0.2, seed=0)
    alone = [OPTIMIZERS[rule](hill, start, LOW, HIGH, steps=30) for start in starts]
    best = max(alone, key=lambda optimum: optimum.best.value).best
    for one, other in zip(model.restarts.optima, alone, strict=True):
        assert (one.best.value, one.evaluations) == (other.best.value, 31)
        np.testing.assert_array_equal(one.first.upper_params, other.first.upper_params)
        np.testing.assert_array_equal(one.best.upper_params, other.best.upper_params)
    assert model.optimum.best.value == best.value
    np.testing.assert_array_equal(predicted(model), best.upper_params)


def test_environments_may_name_their_own_starts_and_be_wrapped() -> None:
    envs = hills(3)
    envs.set_options([{"upper_params": np.full(TARGET.shape, s)} for s in (0.0, 0.5, -1.0)])
    model = leader(envs).learn(3)
    for optimum, start in zip(model.restarts.optima, (0.0, 0.5, -1.0), strict=True):
        np.testing.assert_array_equal(optimum.first.upper_params, np.full(TARGET.shape, start))
    plain = leader(hills(2)).learn(40)
    wrapped = leader(VecNormalize(VecMonitor(hills(2)), gamma=0.9)).learn(40)
    for one, other in zip(plain.restarts.optima, wrapped.restarts.optima, strict=True):
        assert one.best.value == other.best.value
        np.testing.assert_array_equal(one.best.upper_params, other.best.upper_params)


def test_processes_climb_too() -> None:
    envs = SubprocVecEnv([Hill, Hill], start_method="fork")
    try:
        model = leader(envs).learn(40)
    finally:
        envs.close()
    # Values come back from processes at full precision.
    here = leader(hills(2)).learn(40)
    assert model.optimum.best.value == pytest.approx(here.optimum.best.value, rel=1e-6)
    for one, other in zip(model.climbs.all, here.climbs.all, strict=True):
        np.testing.assert_array_equal(one.x, other.x)


# Going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 3])
def test_what_was_saved_goes_on_as_if_not_stopped(rule: str, count: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": rule, "learning_rate": 0.1}
    saver = callbacks.CheckpointCallback(
        save_freq=10, save_path=str(tmp_path), name_prefix="leader"
    )
    whole = leader(hills(count), **options).learn(count * 30, callback=saver)
    path = tmp_path / f"leader_{count * 20}_steps.zip"
    part: Any = HyperGradientAscent.load(path, hills(count))
    assert part.num_timesteps == count * 20 and part.restarts.optima[0].evaluations == 20
    part.learn(count * 10, reset_num_timesteps=False)
    assert part.num_timesteps == whole.num_timesteps == count * 30
    for one, other in zip(part.climbs.all, whole.climbs.all, strict=True):
        assert isinstance(other, Climb)
        np.testing.assert_array_equal(one.x, other.x)
        for name, value in other.rule.state_dict().items():
            np.testing.assert_array_equal(one.rule.state_dict()[name], value)
    for found, wanted in zip(part.restarts.optima, whole.restarts.optima, strict=True):
        assert found.best.value == wanted.best.value and found.best.number == wanted.best.number
        assert found.first.value == wanted.first.value and found.evaluations == 30
        np.testing.assert_array_equal(found.best.upper_params, wanted.best.upper_params)
    np.testing.assert_array_equal(predicted(part), predicted(whole))


@pytest.mark.parametrize(
    "options", [{"schedule": "constant"}, {"schedule_steps": 40}, {"schedule": "inverse-sqrt"}]
)
def test_two_calls_are_one_where_the_schedule_says_so(options: dict[str, Any]) -> None:
    whole = leader(Hill(), optimizer="adam", **options).learn(41)
    parts = leader(Hill(), optimizer="adam", **options).learn(15)
    parts.learn(26, reset_num_timesteps=False)
    np.testing.assert_array_equal(parts.climbs.all[0].x, whole.climbs.all[0].x)
    assert parts.num_timesteps == 41


def test_learning_anew_counts_anew_but_climbs_on() -> None:
    model = leader(Hill()).learn(20)
    reached = model.climbs.all[0].x
    model.learn(20)
    assert model.num_timesteps == 20 and model.optimum.evaluations == 40
    env: Any = model.get_env()
    np.testing.assert_array_equal(env.envs[0].unwrapped.announced[20], reached)


def test_a_model_is_loaded_without_an_environment_or_with_more_or_fewer(tmp_path: Path) -> None:
    model = leader(hills(3), spread=0.2).learn(60)
    path = tmp_path / "model.zip"
    model.save(path)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("torch.save", Mock(side_effect=OSError("the disk is full")))
        model.save(path)  # fails when a part is written
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    alone: Any = HyperGradientAscent.load(path)
    np.testing.assert_array_equal(predicted(alone), predicted(model))
    assert alone.optimum.best.value == model.optimum.best.value
    fewer: Any = HyperGradientAscent.load(path, hills(1))
    fewer.learn(1, reset_num_timesteps=False)
    # The best climb goes on.
    best = model.climbs.all[model.restarts.best]
    (announced,) = fewer.get_env().envs[0].unwrapped.announced
    np.testing.assert_array_equal(announced, best.x)
    more: Any = HyperGradientAscent.load(path, hills(5))
    more.learn(5, reset_num_timesteps=False)
    assert [o.evaluations for o in more.restarts.optima] == [21, 21, 21, 1, 1]
    again: Any = leader(hills(3))
    again.set_parameters(path)
    np.testing.assert_array_equal(predicted(again), predicted(model))
    np.testing.assert_array_equal(again.climbs.all[1].x, model.climbs.all[1].x)
    policy = tmp_path / "policy"
    model.policy.save(str(policy))
    x, _ = UpperParamsPolicy.load(str(policy), device="cpu").predict(np.zeros(4, np.float32))
    np.testing.assert_array_equal(x, predicted(model))


# Around it ---------------------------------------------------------------------------------------


def test_callbacks_evaluate_save_and_stop(tmp_path: Path) -> None:
    seat = HyperGradient(gym.make(GRID, **SMALL), outer_steps=3)
    stop = callbacks.StopTrainingOnRewardThreshold(3 * 0.5, verbose=0)
    options: dict[str, Any] = {"n_eval_episodes": 1, "eval_freq": 20, "log_path": str(tmp_path)}
    options |= {"best_model_save_path": str(tmp_path), "callback_on_new_best": stop, "verbose": 0}
    evaluation = callbacks.EvalCallback(Monitor(seat), **options)
    steps: list[FloatArray] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        assert local["self"].num_timesteps == len(steps) + 1
        assert {"actions", "rewards", "dones", "infos", "new_obs"} <= set(local)
        steps.append(local["actions"][0])
        return True

    model = leader(gym.make(GRID, **SMALL))
    model.learn(201, callback=[callbacks.ConvertCallback(watch), evaluation])
    # Its value there is the mean of a constant x over the episode.
    value = float(evaluation.best_mean_reward)
    assert value > 1.5 and model.num_timesteps == len(steps) < 201
    assert value == pytest.approx(3 * model.optimum.best.value, rel=1e-5)
    best: Any = HyperGradientAscent.load(tmp_path / "best_model.zip")
    np.testing.assert_array_equal(predicted(best), predicted(model))


def test_it_reports_to_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    env = gym.make(GRID, **SMALL)
    options: dict[str, Any] = {"tensorboard_log": str(tmp_path), "stats_window_size": 1}
    options["optimizer"] = "normalized"  # under which the objective rises from step to step
    model = leader(HyperGradient(env, outer_steps=10), **options)
    model.learn(50, log_interval=10, tb_log_name="climb")
    events = accumulator.EventAccumulator(str(tmp_path / "climb_1"))
    events.Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    train = ("objective", "best_objective", "learning_rate", "hyper_gradient_norm")
    names = {f"train/{name}" for name in (*train, "projected_gradient_norm")}
    assert {*scalars} >= names | {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"}
    assert [event.step for event in scalars["train/objective"]] == [10, 20, 30, 40, 50]
    last = model.climbs.all[0].last
    assert last is not None
    assert scalars["train/objective"][-1].value == pytest.approx(last.value)
    assert scalars["train/best_objective"][-1].value == pytest.approx(model.optimum.best.value)
    norm = float(np.linalg.norm(last.gradient))
    assert scalars["train/hyper_gradient_norm"][-1].value == pytest.approx(norm)
    # An episode's reward is the sum of ten objectives, the last of which is the last reported.
    assert scalars["rollout/ep_len_mean"][-1].value == 10
    before = scalars["train/objective"][-2].value
    mean = scalars["rollout/ep_rew_mean"][-1].value / 10
    assert before < mean < last.value


def test_it_shows_its_progress_and_tables(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    leader(Hill(), verbose=1).learn(20, progress_bar=True)
    out = "".join(capfd.readouterr())
    assert "best_objective" in out and "20/20" in out


@pytest.mark.parametrize("task", EXACT_TASKS, ids=lambda task: task.id)
def test_it_improves_every_task_as_it_comes(task: Task) -> None:
    env = leader_seat(task)
    box = game_below(env).upper_space
    width = float(np.linalg.norm(box.high.astype(np.float64) - box.low))
    model = leader(env, learning_rate=0.01 * width).learn(15)
    found = model.optimum
    assert found.best.value > found.first.value
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(found.first.upper_params, info["upper_params"])
    x, _ = model.predict(observation)
    assert float(env.step(x)[1]) == pytest.approx(found.best.value, rel=1e-5, abs=1e-6)


def test_it_finds_the_detour_of_the_grid_world_in_every_kind_of_vector() -> None:
    single = leader(gym.make(GRID)).learn(201)
    assert single.optimum.best.value == pytest.approx(0.460703, abs=2e-6)
    options: dict[str, Any] = {"spread": 0.003}
    copies = leader(make_vec_env(GRID, n_envs=2, seed=0), **options).learn(402)
    arrays: Any = LeaderVectorEnv(GRID, 2, autoreset_mode="SameStep")
    together = leader(as_vec_env(arrays), **options).learn(402)
    for model in (copies, together):
        values = [optimum.best.value for optimum in model.restarts.optima]
        assert values == pytest.approx([0.460703] * 2, abs=2e-6)


def test_it_climbs_in_units_of_the_box() -> None:
    task = "BilevelFourRooms-v0"
    space: Any = bilevel_gym.HyperGradient(gym.make(task)).game.upper_space
    model = leader(RescaleUpper(gym.make(task))).learn(15)
    found = model.optimum
    assert found.best.value > found.first.value
    assert np.abs(found.best.upper_params).max() <= 1.0 < space.high.max()
    assert predicted(model).dtype == np.float64


def test_a_step_costs_little_beside_the_answer() -> None:
    # Against the plain loop on an environment that costs nothing; a generous bound.
    env = Hill(outer_steps=10**6)
    model = leader(env).learn(10)
    began = time.perf_counter()
    model.learn(500)
    assert (time.perf_counter() - began) / 500 < 5e-3


# Bad input ---------------------------------------------------------------------------------------


test_bad_options_are_named = refusals(
    lambda policy="UpperParamsPolicy", **options: HyperGradientAscent(policy, Hill(), **options),
    ({"policy": "MlpPolicy"}, "policy 'MlpPolicy'; accepted: 'UpperParamsPolicy'"),
    ({"optimizer": "adma"}, "`optimizer` 'adma'.*Did you mean 'adam'"),
    ({"optimizer_options": {"beta1": 0.5}}, TypeError, "'normalized': 'beta1'"),
    ({"optimizer": "adam", "optimizer_options": {"beta1": 2}}, "`beta1`.*got 2"),
    ({"learning_rate": 0.0}, "`learning_rate` must be positive.*got 0.0"),
    ({"schedule": "cosin"}, "`schedule` 'cosin'.*Did you mean 'cosine'"),
    ({"schedule_steps": 0}, "`schedule_steps`.*at least 1, got 0"),
    ({"spread": -1.0}, "`spread`.*not negative, got -1.0"),
    ({"predicts": "bets"}, "`predicts` 'bets'.*Did you mean 'best'"),
)


def test_other_environments_and_early_predictions_are_refused() -> None:
    with pytest.raises(TypeError, match=r"leader's seat, as gymnasium.make\(id\).*`reset`"):
        leader("Pendulum-v1").learn(1)
    with pytest.raises(TypeError, match=r'info\["hyper_gradient"\].*`step` reports none'):
        leader(Hill(gradients=False)).learn(1)
    with pytest.raises(AssertionError, match="Box"):
        leader(LowerLevel(gym.make(GRID, **SMALL), np.zeros(14)))
    model = leader(Hill())
    with pytest.raises(RuntimeError, match="call `learn` first"):
        model.predict(np.zeros(4, np.float32))
    with pytest.raises(RuntimeError, match="call `learn` first"):
        _ = model.optimum
