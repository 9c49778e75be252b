"""Rewards learnt from preferences: the queue, the estimates, the game."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.envs.preference_pendulum import BilevelPreferencePendulum
from bilevel_gym.episodes.fragments import Pairs, Windows
from bilevel_gym.episodes.recorded import LearntEpisodes
from bilevel_gym.learnt.answers import PreferenceQueue
from bilevel_gym.learnt.followers import MEASURED
from bilevel_gym.learnt.preference_methods import (
    PreferenceMethod,
    PreferenceSoBiRL,
    PreferenceTrace,
)
from bilevel_gym.model.judges import BradleyTerry
from tests.benchmarks.preferences import HORIZON, one_step, preference_game

from .helpers import assert_identical, refusals
from .learnt import assert_broken_files_change_nothing, assert_goes_on_from_a_file

METHODS = ("direct", "sobirl", "trace")
SMALL: dict[str, Any] = {"hidden": [8], "episode_steps": 20, "fragment_steps": 5}
QUICK: dict[str, Any] = {"first_comparisons": 4, "comparisons": 3, "ask_every": 2}
QUICK |= {"inner_steps": 8, "inner_options": {"learning_starts": 8, "batch_size": 16}}

every_method = pytest.mark.parametrize("method", METHODS)


def small_game(**options: Any) -> BilevelPreferencePendulum:
    return BilevelPreferencePendulum(**{**SMALL, **options})


def seat(method: str = "direct", *, game: Any = None, **options: Any) -> Any:
    if method == "trace":
        options = {"critic_updates": 5, **options}
    return HyperGradient(game or small_game(), method=method, **{**QUICK, **options})


def some_pairs(count: int = 6, length: int = 5, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    angle, speed = rng.uniform(-np.pi, np.pi, (2, count, 2, length))
    seen = np.stack([np.cos(angle), np.sin(angle), speed], axis=3).astype(np.float32)
    return Pairs(seen, rng.integers(5, size=(count, 2, length)), -(angle**2))


# The queue ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["network", "linear"])
def test_the_gradient_of_the_likelihood_is_that_of_central_differences(model: str) -> None:
    game, queue = small_game(reward_model=model), PreferenceQueue()
    pairs = some_pairs()
    queue.add(pairs, [1.0, 0.0, 0.5, 1.0, 0.25, 0.0])
    rng = np.random.default_rng(1)
    x = game.initial_upper_params + 0.3 * rng.normal(size=game.upper_space.shape)
    likelihoods, gradient = queue.likelihood(game, x)
    # By hand: log sigmoid of the difference of sums, weighed by the share of answers.
    sums = game.reward(x, *pairs.as_batch).reshape(6, 2, 5).sum(axis=2)
    first = 1.0 / (1.0 + np.exp(sums[:, 1] - sums[:, 0]))
    by_hand = queue.answers * np.log(first) + (1.0 - queue.answers) * np.log(1.0 - first)
    np.testing.assert_allclose(likelihoods, by_hand, rtol=1e-10)
    for _ in range(3):
        direction = rng.normal(size=x.shape)
        values = [queue.likelihood(game, x + h * direction)[0].mean() for h in (1e-5, -1e-5)]
        assert gradient @ direction == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_the_queue_forgets_the_oldest_and_leaves_out_what_was_not_answered() -> None:
    queue, pairs = PreferenceQueue(capacity=4), some_pairs()
    queue.add(pairs, [1.0, np.nan, 0.0, np.nan, 0.5, np.nan])
    assert queue.answers.tolist() == [1.0, 0.0, 0.5]
    queue.add(pairs, [0.1, np.nan, np.nan, np.nan, np.nan, 0.2])
    assert queue.answers.tolist() == [0.0, 0.5, 0.1, 0.2] and queue.pairs is not None
    np.testing.assert_array_equal(queue.pairs.actions, pairs.actions[[2, 4, 0, 5]])
    game, queue = small_game(), PreferenceQueue()
    x = game.initial_upper_params
    assert not queue.likelihood(game, x)[1].any()
    queue.add(some_pairs(), np.full(6, np.nan))
    assert len(queue) == 0 and not queue.likelihood(game, x)[1].any()


def test_the_queue_comes_back_from_a_file(tmp_path: Path) -> None:
    queue = PreferenceQueue(capacity=5)
    queue.save(tmp_path / "empty.npz")
    assert len(PreferenceQueue.load(tmp_path / "empty.npz")) == 0
    queue.add(some_pairs(), np.linspace(0.0, 1.0, 6))
    queue.save(tmp_path / "queue.npz")
    again = PreferenceQueue.load(tmp_path / "queue.npz")
    assert again.capacity == 5
    assert again.pairs is not None and queue.pairs is not None
    assert_identical([again.answers, again.pairs.arrays], [queue.answers, queue.pairs.arrays])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([1.0], r"one answer for each pair, shape \(6,\), got \(1,\)"),
        ([0.0, 1.0, 2.0, 0.0, 0.0, 0.0], "from 0 .* to 1 .*, or NaN for no answer, got 2.0"),
    ],
)
def test_wrong_answers_are_refused_and_nothing_is_added(answers: Any, message: str) -> None:
    queue = PreferenceQueue()
    with pytest.raises(ValueError, match=message):
        queue.add(some_pairs(), answers)
    assert len(queue) == 0


def test_fragments_of_another_shape_are_refused() -> None:
    queue = PreferenceQueue()
    queue.add(some_pairs(length=5), np.ones(6))
    with pytest.raises(ValueError, match=r"shape \(2, 5, 3\) like those before, got \(2, 4, 3\)"):
        queue.add(some_pairs(length=4), np.ones(6))
    assert len(queue) == 6


# Judge and fragments -----------------------------------------------------------------------------


def test_the_judge_prefers_as_often_as_its_rewards_say() -> None:
    count = 20_000
    rewards = np.zeros((count, 2, 3))
    rewards[:, 0, 1] = 0.8
    pairs = Pairs(np.zeros((count, 2, 3, 1)), np.zeros((count, 2, 3)), rewards)
    answers = BradleyTerry(0.5)(pairs, np.random.default_rng(0))
    assert set(answers) == {0.0, 1.0}
    chance = 1.0 / (1.0 + np.exp(-0.4))
    assert answers.mean() == pytest.approx(chance, abs=4.0 * np.sqrt(0.25 / count))


def test_fragments_do_not_overlap_and_a_pair_is_of_two_episodes() -> None:
    four = np.full(4, 4)  # fragments of 5 steps in episodes of 23
    windows = Windows.drawn(7, four, 5, np.random.default_rng(0))
    steps, episodes = windows.steps
    assert steps.shape == (7, 2, 5) and steps.max() < 20
    taken = set(zip(steps.ravel(), episodes.ravel(), strict=True))
    assert len(taken) == steps.size
    assert (windows.episodes[:, 0] != windows.episodes[:, 1]).all()
    two = four[:2]
    starts = [Windows.drawn(4, two, 5, np.random.default_rng(s)).starts for s in range(200)]
    # Each of a pair begins anywhere, whatever the other does.
    together = np.zeros((4, 4))
    np.add.at(together, tuple((np.concatenate(starts) // 5).T), 1.0)
    assert together.min() > 20


# The estimates against the exact answer, of a game small enough to enumerate ---------------------


class Enumerated:
    """A tabular game and its exact follower, as the methods see them."""

    term_names = ()
    entropy_offset, discrete = 0.0, True

    def __init__(self, tabular: TabularBilevelEnv) -> None:
        self.tabular = tabular
        self.x = self.initial_upper_params = tabular.initial_upper_params
        self.answer = tabular.evaluate(self.x)
        self.gamma, self.temperature = tabular.gamma, tabular.temperature
        self.fragment_steps = HORIZON
        self.observation_space, self.lower_space = spaces.Discrete(3), spaces.Discrete(2)

    def make_environment(self) -> Any:
        return LowerLevel(TimeLimit(self.tabular, 20), self.x)

    def reward(self, x: FloatArray, states: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
        return x[2 * states + actions]

    def reward_vjp(
        self, x: FloatArray, states: NDArray[Any], actions: NDArray[Any], weights: FloatArray
    ) -> FloatArray:
        return np.bincount(2 * states + actions, weights, minlength=len(x)).astype(np.float64)

    def probabilities(self, states: NDArray[Any]) -> FloatArray:
        return self.answer.policy[states]

    def play(self, episodes: int, steps: int, rng: np.random.Generator) -> LearntEpisodes:
        kernel = self.tabular.kernel(self.x).to_dense()
        objective: Any = self.tabular.objective
        states, actions = np.zeros((2, steps, episodes), dtype=np.int64)
        state = drawn(np.tile(self.tabular.initial_distribution, (episodes, 1)), rng)
        for t in range(steps):
            states[t], actions[t] = state, drawn(self.answer.policy[state], rng)
            state = drawn(kernel[states[t], actions[t]], rng)
        paid = objective.true_reward[states, actions]
        alive = np.ones(states.shape, dtype=bool)
        unused = np.zeros(paid.shape)
        after = unused, states, np.zeros_like(alive)  # of no use for fragments
        return LearntEpisodes(states, actions, paid, unused, alive, *after)

    def first_fragments(self, pairs: int) -> Windows:
        episodes = np.arange(2 * pairs).reshape(-1, 2)
        return Windows(episodes, np.zeros_like(episodes), HORIZON)


def drawn(chances: FloatArray, rng: np.random.Generator) -> NDArray[np.int64]:
    below = chances.cumsum(axis=1)[:, :-1] <= rng.random((len(chances), 1))
    return below.sum(axis=1).astype(np.int64)


def estimated(
    method: type[PreferenceMethod], game: Any, pairs: int, steps: int, **options: Any
) -> FloatArray:
    """Return a method's response term from as many pairs, a baseline and a regression learnt."""
    made, rng, judge = method(game, **QUICK, **options), np.random.default_rng(0), BradleyTerry()
    made.follower, made.queue = game, PreferenceQueue(10**6)
    windows = game.first_fragments(pairs)
    earlier = windows.cut(game.play(2 * pairs, HORIZON, rng))
    made.queue.add(earlier, judge(earlier, rng))
    played = game.play(2 * pairs, steps, rng)
    fresh = windows.cut(played)
    response, _ = made.response_term(game.x, played, windows, judge(fresh, rng))
    assert isinstance(response, np.ndarray)
    return response


def assert_close(estimate: FloatArray, exact: FloatArray, error: float) -> None:
    assert np.linalg.norm(estimate - exact) <= error * np.linalg.norm(exact)


@pytest.fixture(scope="module")
def enumerated() -> Enumerated:
    return Enumerated(preference_game(0, 0.1))


def test_the_direct_term_is_that_of_enumeration(enumerated: Enumerated) -> None:
    rng, count = np.random.default_rng(0), 50_000
    pairs = enumerated.first_fragments(count).cut(enumerated.play(2 * count, HORIZON, rng))
    queue = PreferenceQueue(count)
    queue.add(pairs, BradleyTerry()(pairs, rng))
    likelihoods, gradient = queue.likelihood(enumerated, enumerated.x)  # type: ignore[arg-type]
    error = float(likelihoods.std()) / np.sqrt(count)
    assert likelihoods.mean() == pytest.approx(enumerated.answer.objective, abs=4.0 * error)
    assert_close(gradient, enumerated.answer.direct_gradient, 0.05)


def test_the_one_step_estimate_is_that_of_enumeration(enumerated: Enumerated) -> None:
    estimate = estimated(PreferenceSoBiRL, enumerated, 10_000, HORIZON)
    assert_close(estimate, one_step(enumerated.tabular), 0.12)


def test_the_trace_has_all_terms_of_the_response(enumerated: Enumerated) -> None:
    exact = enumerated.answer.hyper_gradient - enumerated.answer.direct_gradient
    estimate = estimated(PreferenceTrace, enumerated, 10_000, 40, critic_updates=800)
    assert_close(estimate, exact, 0.2)
    # Which the first term alone is further from.
    assert np.linalg.norm(one_step(enumerated.tabular) - exact) > 0.4 * np.linalg.norm(exact)


# The leader's seat -------------------------------------------------------------------------------


@every_method
def test_the_leader_is_told_likelihood_gradient_and_costs(method: str) -> None:
    env = seat(method)
    observation, info = env.reset(seed=0)
    counts = [info["inner_samples"]]
    for _ in range(4):
        x = info["upper_params"] + 0.01 * info["hyper_gradient"]
        observation, objective, _, _, info = env.step(x)
        counts.append(info["inner_samples"])
        assert observation in env.observation_space
        assert float(objective) < 0.0 and np.isfinite(info["hyper_gradient"]).all()
        assert ("trust_ratio" in info) == (method != "direct")
        assert method == "trace" or "critic_loss" not in info
    # Two episodes of 20 steps, each time that the judge is asked; at first, observations are
    # measured.
    assert counts == [48 + MEASURED, 8, 48, 8, 48]
    assert env.method.shown == len(env.method.queue) == 4 + 3 + 3
    likelihoods, _ = env.method.queue.likelihood(env.game, x)
    assert objective == likelihoods.mean()


@every_method
def test_who_loads_goes_on_and_a_damaged_file_changes_nothing(method: str, tmp_path: Path) -> None:
    assert_goes_on_from_a_file(lambda: seat(method), tmp_path)
    assert_broken_files_change_nothing(lambda: seat(method), tmp_path)


def test_a_queue_without_answers_goes_into_a_file_and_others_are_refused(tmp_path: Path) -> None:
    def silent(pairs: Pairs, rng: np.random.Generator) -> FloatArray:
        return np.full(len(pairs), np.nan)

    env, fresh = (seat("trace", game=small_game(judge=silent)) for _ in range(2))
    env.reset(seed=0)
    env.method.save(tmp_path / "silent")
    fresh.method.load(tmp_path / "silent")
    seen, info = fresh.reset(options={"keep_learnt": True})
    expected, _, _, _, told = env.step(env.game.initial_upper_params)
    assert_identical((seen, info), (expected, told))
    others = {
        "method": seat("sobirl"),
        "number of parameters": seat("trace", game=small_game(hidden=[4])),
        "length of fragments": seat("trace", game=small_game(fragment_steps=4)),
    }
    for name, other in others.items():
        other.method.save(tmp_path / name)
        with pytest.raises(ValueError, match=f"is of another {name}: expected"):
            seat("trace").method.load(tmp_path / name)


@pytest.mark.parametrize("method", ["sobirl", "trace"])
def test_the_response_term_is_as_long_as_kappa_allows(method: str) -> None:
    def answer(kappa: float | None) -> Any:
        env = seat(method, kappa=kappa, ask_every=1)
        _, info = env.reset(seed=0)
        assert info["trust_ratio"] == 0.0  # nothing to compare the first fragments with
        env.step(info["upper_params"])
        return env.response

    raw, short, loose = answer(None), answer(0.01), answer(1e6)
    direct = raw.direct_gradient
    response = raw.hyper_gradient - direct
    assert raw.trust_ratio == loose.trust_ratio == 1.0
    np.testing.assert_array_equal(loose.hyper_gradient, raw.hyper_gradient)
    expected = 0.01 * np.linalg.norm(direct) / np.linalg.norm(response)
    assert short.trust_ratio == pytest.approx(expected) and expected < 1.0
    np.testing.assert_allclose(short.hyper_gradient, direct + expected * response, rtol=1e-9)


def test_the_judge_is_asked_no_more_than_it_is_willing_to_be() -> None:
    env = seat("sobirl", max_comparisons=6)
    _, info = env.reset(seed=0)
    shown = []
    for _ in range(6):
        *_, info = env.step(info["upper_params"])
        shown.append(env.method.shown)
    assert shown == [4, 6, 6, 6, 6, 6]
    # Old fragments say nothing about how the follower reacts today.
    assert info["trust_ratio"] == 0.0 and info["inner_samples"] == 8


def test_somebody_else_may_judge_and_take_their_time() -> None:
    seen: list[Pairs] = []

    def person(pairs: Pairs, rng: np.random.Generator) -> FloatArray:
        seen.append(pairs)
        return np.full(len(pairs), np.nan)

    env = seat("sobirl", game=small_game(judge=person))
    _, info = env.reset(seed=0)
    assert len(seen) == 1 and seen[0].observations.shape == (4, 2, 5, 3)
    _, objective, _, _, info = env.step(info["upper_params"])
    assert objective == -np.log(2.0) and not info["hyper_gradient"].any()
    env.method.queue.add(seen[0][:1], [1.0])
    _, objective, _, _, info = env.step(info["upper_params"])
    assert objective != -np.log(2.0) and info["hyper_gradient"].any()


def first_always(pairs: Pairs, rng: np.random.Generator) -> FloatArray:
    return np.ones(len(pairs))


def test_a_judge_named_in_a_spec_is_the_one_that_judges() -> None:
    made = gym.make("BilevelPreferencePendulum-v0", **SMALL, judge=f"{__name__}:first_always")
    assert made.spec is not None
    json.loads(made.spec.to_json())
    game: Any = gym.make(made.spec).unwrapped
    assert game.judge is first_always and game.fragment_steps == 5
    env = seat(game=game)
    env.reset(seed=0)
    assert env.method.queue.answers.tolist() == [1.0] * 4


def test_adam_learns_to_explain_the_answers() -> None:
    env = seat(game=small_game(reward_model="linear", rationality=0.3), first_comparisons=8)
    _, info = env.reset(seed=0)
    queue, x = env.method.queue, info["upper_params"]
    for _ in range(60):
        x = x + 0.1 * queue.likelihood(env.game, x)[1]
    start = float(queue.likelihood(env.game, info["upper_params"])[0].mean())
    assert start == pytest.approx(-np.log(2.0))  # r_x = 0 at the start
    assert float(queue.likelihood(env.game, x)[0].mean()) > start + 0.05


test_games_that_cannot_be_are_refused = refusals(
    small_game,
    ({"reward_model": "linaer"}, "Did you mean 'linear'"),
    ({"fragment_steps": 21}, "`episode_steps` must be an integer of at least 21, got 20"),
    ({"judge": "somebody"}, "must be named \"module:function\", got 'somebody'"),
    ({"judge": 3}, TypeError, "`judge` must be a function .*, got 3"),
)

test_methods_that_cannot_be_are_refused = refusals(
    partial(seat, "sobirl"),
    ({"kappa": 0.0}, "`kappa` must be positive and finite, got 0.0"),
    ({"comparisons": 0}, "`comparisons` must be an integer of at least 1, got 0"),
    ({"ask_every": 1.5}, "`ask_every` must be an integer of at least 1, got 1.5"),
    ({"max_comparisons": 0}, "`max_comparisons` must be an integer of at least 1, got 0"),
    ({"capactiy": 3}, TypeError, "Did you mean 'capacity'"),
    ({"inner_steps": 0}, "`inner_steps` must be an integer of at least 1, got 0"),
)


def test_a_judge_who_answers_nonsense_is_told_so() -> None:
    env = seat(game=small_game(judge=lambda pairs, rng: np.full(len(pairs), 7.0)))
    with pytest.raises(ValueError, match="got 7.0"):
        env.reset(seed=0)


# The game ----------------------------------------------------------------------------------------


def test_the_follower_chooses_among_five_torques_and_the_chart_is_their_mean_reward() -> None:
    game = small_game()
    x = game.initial_upper_params
    chart = game.chart(x, 5)
    upright = np.array([[1.0, 0.0, 4.0]], dtype=np.float32)
    expected = np.mean([game.reward_model.rewards(x, upright, np.array([a]))[0] for a in range(5)])
    assert chart.shape == (5, 5) and chart[2, 3] == pytest.approx(expected)
    states = []
    for action in range(5):
        game.reset(seed=0)
        _, _, _, _, info = game.step({"upper": game.initial_upper_params, "lower": action})
        states.append(game.environment.unwrapped.state[1])  # type: ignore[attr-defined]
        assert info["upper_reward"] <= 0.0
    np.testing.assert_allclose(np.diff(states), 3.0 * 0.05, rtol=1e-6)  # 3 / (m l^2) dt


def test_the_picture_shows_pendulum_and_reward() -> None:
    env = seat(game=small_game(render_mode="rgb_array"))
    env.reset(seed=0)
    before = env.render()
    env.step(env.game.initial_upper_params + 0.5)
    after = env.render()
    assert before.shape == after.shape and (before != after).any()
