"""BeamRider: screens, the network of the reward, copies, pictures and a few steps of training."""

from __future__ import annotations

import inspect
import io
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ale_py", reason='needs pip install -e ".[atari]"')
pytest.importorskip("cv2", reason='needs pip install -e ".[atari]"')
pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from gymnasium import spaces

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import BilevelBeamRider
from bilevel_gym.learnt.critics import LeaderCritic
from bilevel_gym.registration import TASKS
from bilevel_gym.rewards.convolutions import ConvolutionalReward
from bilevel_gym.sb3 import SoftDQN

from .helpers import assert_copy_continues, assert_identical, every_copier

(TASK,) = (task for task in TASKS if task.id == "BilevelBeamRider-v0")
SCREENS = spaces.Box(0, 255, (4, 84, 84), np.uint8)


@pytest.fixture(scope="module")
def played() -> Any:
    """Return a game, what was seen in an episode of it `[B, 4, 84, 84]`, and its rewards."""
    game = BilevelBeamRider(episode_steps=300, clipped=False)
    seen, rng = [game.reset(seed=0)[0]], np.random.default_rng(0)
    records = []
    for action in rng.integers(9, size=300).tolist():
        move = {"upper": game.initial_upper_params, "lower": action}
        records.append((action, *game.step(move)))
        seen.append(records[-1][1])
    return game, np.array(seen[:-1]), records


def test_screens_come_stacked_first_and_nothing_is_transposed(played: Any) -> None:
    game, seen, _ = played
    assert game.observation_space == SCREENS
    assert seen.dtype == np.uint8 and seen.shape == (300, 4, 84, 84)
    # The oldest screen of a stack is the second one of the stack before.
    np.testing.assert_array_equal(seen[1:, :3], seen[:-1, 1:])


def test_an_episode_is_cut_and_points_reach_the_leader(played: Any) -> None:
    _, _, records = played
    assert [record[4] for record in records] == [False] * 299 + [True]
    points = [record[5]["upper_reward"] for record in records]
    assert set(points) == {0.0, 44.0}  # what a saucer brings in the first sector
    assert all(set(record[5]) == {"upper_reward"} for record in records)


def test_clipped_points_are_signs() -> None:
    game = BilevelBeamRider(channels=1)
    points = np.array([0.0, 44.0, 500.0])
    np.testing.assert_array_equal(game.upper_reward(points, points, points), [0.0, 1.0, 1.0])


def test_the_reward_is_the_network_of_what_is_seen_and_done(played: Any) -> None:
    game, seen, records = played
    assert game.initial_upper_params.shape == (8753,)
    rewards = np.array([record[2] for record in records])
    actions = np.array([record[0] for record in records])
    batch = game.reward(game.initial_upper_params, seen, actions)  # more than goes in at once
    np.testing.assert_allclose(batch, rewards, atol=1e-6)
    assert np.ptp(rewards) > 0.01 and (np.abs(rewards) <= 1.0).all()
    assert np.ptp([game.reward(game.initial_upper_params, seen[:1], [[a]]) for a in (0, 5)]) > 0.0


def test_the_derivative_of_the_reward_is_right(played: Any) -> None:
    game, seen, records = played
    seen, actions = seen[::30], np.array([record[0] for record in records])[::30]
    rng = np.random.default_rng(1)
    weights, x = rng.normal(size=len(seen)), game.initial_upper_params
    gradient = game.reward_vjp(x, seen, actions, weights)
    direction = gradient / np.linalg.norm(gradient)
    # In single precision: a long step, and a loose bound.
    ends = [weights @ game.reward(x + h * direction, seen, actions) for h in (1e-2, -1e-2)]
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def test_a_long_batch_has_the_derivative_of_its_parts(played: Any) -> None:
    game, seen, records = played
    actions = np.array([record[0] for record in records])
    weights, x = np.random.default_rng(1).normal(size=len(seen)), game.initial_upper_params
    parts = [game.reward_vjp(x, seen[i::2], actions[i::2], weights[i::2]) for i in (0, 1)]
    whole = game.reward_vjp(x, seen, actions, weights)
    np.testing.assert_allclose(whole, parts[0] + parts[1], atol=1e-4 * np.abs(whole).max())


def test_the_network_starts_where_its_seed_says_and_leaves_other_random_numbers_alone() -> None:
    import torch as th

    before = th.get_rng_state()
    starts = [
        ConvolutionalReward(SCREENS, spaces.Discrete(9), channels=1, seed=seed).initial_params()
        for seed in (0, 0, 1)
    ]
    assert th.equal(th.get_rng_state(), before)
    np.testing.assert_array_equal(starts[0], starts[1])
    assert (starts[0] != starts[2]).any()


@pytest.mark.parametrize(
    ("observed", "acted", "message"),
    [
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(9), "must be images"),
        (spaces.Box(0, 1, (4, 84, 84)), spaces.Discrete(9), "must be images"),
        (spaces.Box(0, 255, (4, 20, 84), np.uint8), spaces.Discrete(9), "36 pixels"),
        (SCREENS, spaces.Box(-1, 1, (2,)), "actions must be Discrete"),
    ],
)
def test_the_network_refuses_what_it_cannot_read(observed: Any, acted: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ConvolutionalReward(observed, acted)


@every_copier
def test_a_copy_of_the_console_goes_on_where_it_is(copier: Any) -> None:
    env = LowerLevel(BilevelBeamRider(channels=1, sticky=0.25), np.full(626, 0.01))
    assert_copy_continues(env, copier, 40, before=17)


def test_a_seed_determines_what_the_leader_is_told_while_the_follower_trains() -> None:
    answers: list[list[Any]] = []
    for _ in range(2):
        env = HyperGradient(BilevelBeamRider(**TASK.test_kwargs), **TASK.test_options)
        start = env.reset(seed=3)
        x = start[1]["upper_params"]
        answers.append([start, env.step(x + 0.01)])
        model: Any = env.method.follower.model  # type: ignore[attr-defined]
        assert type(model) is SoftDQN and model.observation_space == SCREENS
        assert model.num_timesteps > 8 and model.optimize_memory_usage
    assert_identical(answers[0], answers[1])
    for answer in answers[0]:
        gradient = answer[-1]["hyper_gradient"]
        assert np.isfinite(gradient).all() and gradient.any()
        assert answer[0][2] == TASK.test_kwargs["episode_steps"]


def test_the_leaders_critic_sees_images_by_convolutions_a_block_at_a_time(
    monkeypatch: pytest.MonkeyPatch, played: Any
) -> None:
    import torch as th
    from stable_baselines3.common.torch_layers import NatureCNN

    env = HyperGradient(BilevelBeamRider(**TASK.test_kwargs), **TASK.test_options)
    follower: Any = env.method.follower  # type: ignore[attr-defined]
    _, seen, records = played
    seen, actions = seen[:50], np.array([record[0] for record in records[:50]])
    critic, rng = LeaderCritic(env.game, 4), np.random.default_rng(0)  # type: ignore[arg-type]
    assert any(isinstance(part, NatureCNN) for part in critic.network.modules())
    whole, every = critic.advantages(seen, actions, follower, rng)
    assert every is not None
    mean = (follower.probabilities(seen) * every).sum(axis=1)
    np.testing.assert_allclose(mean, 0.0, atol=1e-7)
    lengths: list[int] = []
    critic.network.register_forward_hook(lambda _, given, out: lengths.append(len(out)))
    monkeypatch.setattr("bilevel_gym.learnt.critics.IMAGES", 16)
    parts = critic.advantages(seen, actions, follower, rng)
    assert lengths == [16, 16, 16, 2]
    np.testing.assert_allclose(parts[0], whole, atol=1e-6)
    # From a file, whatever device it was on.
    memory = io.BytesIO()
    th.save(critic.state_dict(), memory)
    memory.seek(0)
    other = LeaderCritic(env.game, 5, "cpu")  # type: ignore[arg-type]
    other.load_state_dict(th.load(memory, map_location="cpu", weights_only=True))
    assert_identical(other.advantages(seen, actions, follower, rng), parts)


def test_the_default_learner_keeps_within_its_memory() -> None:
    env = HyperGradient(BilevelBeamRider())
    buffer: Any = env.method.follower.model.replay_buffer  # type: ignore[attr-defined]
    assert buffer.observations.nbytes < 0.6e9 and buffer.optimize_memory_usage


def test_the_picture_is_the_screen_and_what_each_action_is_paid() -> None:
    game = BilevelBeamRider(render_mode="rgb_array")
    game.reset(seed=0)
    first = game.render()
    assert first.dtype == np.uint8 and first.ndim == 3
    for _ in range(40):
        game.step({"upper": 3.0 * game.initial_upper_params, "lower": 3})
    second = game.render()
    screen, bars = first[:, :500] != second[:, :500], first[:, 520:] != second[:, 520:]
    assert screen.any() and bars.any()


def test_the_recipe_on_the_page_works_and_goes_on_where_it_was_stopped(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = inspect.getdoc(BilevelBeamRider) or ""
    recipe = textwrap.dedent(page.partition("are what such games take.\n")[2].partition("\n##")[0])
    # The same with the small instance, and saved each time.
    for large, small in {
        'gym.make("BilevelBeamRider-v0")': "gym.make(TASK.id, **TASK.test_kwargs)",
        "episodes=32": "episodes=1",
        "critic_updates=1000": "critic_updates=1",
        "inner_steps=40_000": "inner_steps=8, first_inner_steps=16, first_critic_updates=1",
        '{**learner, "buffer_size": 100_000}': 'TASK.test_options["inner_options"]',
        "number >= 200": "number == LAST",
        "number % 10 == 0": "number == 0",
    }.items():
        assert recipe.count(large) == 1, large
        recipe = recipe.replace(large, small)
    code = compile(recipe, "recipe", "exec")

    def followed(folder: str, last: int) -> list[Any]:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        names: dict[str, Any] = {"TASK": TASK, "LAST": last}
        exec(code, names)
        return [names["climb"].state_dict(), names["info"]]

    whole, stopped = followed("whole", 1), followed("in parts", 0)
    assert [state["last"]["number"] for state, _ in (whole, stopped)] == [1, 0]
    # The console goes on too, in the middle of its game.
    assert_identical(followed("in parts", 1), whole)


@pytest.mark.parametrize(
    ("module", "extra"), [("ale_py", "atari"), ("cv2", "atari"), ("stable_baselines3", "sb3")]
)
def test_without_its_extras_they_are_named(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install -e ".\[{extra}\]"'):
        BilevelBeamRider()
