"""Hyper-gradients of followers who learn: exact in the mean, and everything around it."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.episodes.recorded import LearntEpisodes
from bilevel_gym.episodes.sampler import Episodes
from bilevel_gym.learnt.critics import LeaderCritic
from bilevel_gym.learnt.followers import MEASURED
from bilevel_gym.learnt.tables import TableGame
from bilevel_gym.methods import LEARNT_METHODS, make_method
from bilevel_gym.methods.episode_sums import Batch
from bilevel_gym.methods.sobirl import SoBiRL

from .benchmarks.estimators import cosine, truncated
from .helpers import array_game, assert_identical, refusals
from .learnt import (
    JUDGED,
    TINY_LEARNER,
    ExactCritic,
    assert_broken_files_change_nothing,
    assert_goes_on_from_a_file,
    assert_mean,
    walk,
)

# x[s, a]; with a terminal state, and without.
ENDING: dict[str, Any] = {"features": np.eye(6).reshape(3, 2, 6)}
MOVES = [[[0.2, 0.8, 0.0], [0.5, 0.0, 0.5]], [[0.0, 0.1, 0.9], [1.0, 0.0, 0.0]]]
MOVES.append([[0.6, 0.0, 0.4], [0.0, 1.0, 0.0]])
ENDLESS: dict[str, Any] = {**ENDING, "transition": np.array(MOVES), "gamma": 0.6}
ARGUMENTS = {"ending": ENDING, "endless": ENDLESS}
TABLES = {name: array_game(**arguments) for name, arguments in ARGUMENTS.items()}
X = np.zeros(6)  # the initial one of both
FAST: dict[str, Any] = {
    "inner_options": {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 100, "device": "cpu"}
}


def made(method: str, table: Any, upper_gamma: float | None = None, **options: Any) -> Any:
    """Return a method of learnt followers on a table."""
    game = TableGame(table.model)
    game.upper_gamma = game.upper_gamma if upper_gamma is None else upper_gamma
    return make_method(LEARNT_METHODS[method], game, **{**FAST, **options})


def perfected(method: str, table: Any, upper_gamma: float | None = None, **options: Any) -> Any:
    """Return a method with the exact follower and the exact critic in place of learnt ones."""
    table = TABLES[table] if isinstance(table, str) else table
    learnt = made(method, table, upper_gamma, **options)
    critic = ExactCritic(table, upper_gamma=None if upper_gamma == 1.0 else upper_gamma)
    return critic.put_into(learnt)


@cache
def played(name: str, episodes: int, seed: int = 0) -> LearntEpisodes:
    """Return episodes of the exact follower."""
    follower = perfected("trace", name).follower
    found: LearntEpisodes = follower.play(X, episodes, np.random.default_rng(seed))
    return found


def many(name: str) -> LearntEpisodes:
    """Return 4000 episodes, the same ones for all tests of a table."""
    return played(name, 4000)


def slices(batch: LearntEpisodes, size: int) -> list[LearntEpisodes]:
    """Return the episodes in groups of a size."""
    starts = range(0, batch.num_episodes - size + 1, size)
    return [batch.part(slice(i, i + size)) for i in starts]


def exactly(name: str) -> FloatArray:
    """Return the exact hyper-gradient of a table."""
    return np.asarray(TABLES[name].evaluate(X).hyper_gradient)


def estimates(
    learnt: Any, name: str, size: int = 20, count: int | None = None, x: FloatArray = X
) -> list[FloatArray]:
    """Return response terms at x from the episodes of a table, in groups of a size."""
    return [learnt.response_term(x, few)[0] for few in slices(many(name), size)[:count]]


# Exactness --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "size"), [("trace", 20), ("bc-hg", 20), ("trace", 3)])
def test_the_mean_is_the_exact_hyper_gradient_of_a_table_without_ends(
    method: str, size: int
) -> None:
    name = "endless"  # with an end: those of tests.test_deep_tables
    # Subtracting a mean that one's own episode is part of would leave two thirds of the trace.
    assert all(group.alive.all() for group in slices(many(name), size)[:3])
    assert_mean(estimates(perfected(method, name), name, size), exactly(name))


def test_centring_takes_variance_away_where_rewards_have_a_common_part() -> None:
    # d/dx of a reward that is the same everywhere: the response is zero, the trace's sum is not.
    learnt = perfected("trace", array_game(**{**ENDLESS, "features": np.ones((3, 2, 1))}))
    alone, together = (estimates(learnt, "endless", *cut, X[:1]) for cut in ((1, 600), (20, 30)))
    assert 20 * np.var(together) < 0.2 * np.var(alone)


def test_what_features_of_the_state_explain_is_not_missed() -> None:
    exact, learnt = exactly("ending"), perfected("trace", "ending", state_features=2)
    found = np.mean(estimates(learnt, "ending", 500), axis=0)
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def test_steps_that_are_not_discounted_weigh_as_under_a_discount_of_one() -> None:
    def estimate(upper_gamma: float, discount_steps: bool) -> FloatArray:
        learnt = made("trace", TABLES["ending"], upper_gamma, discount_steps=discount_steps)
        learnt = ExactCritic(TABLES["ending"]).put_into(learnt)
        return estimates(learnt, "ending", 200, 1)[0]

    np.testing.assert_array_equal(estimate(0.9, False), estimate(1.0, True))
    assert np.linalg.norm(estimate(0.9, False) - estimate(0.9, True)) > 1e-3


def test_one_step_takes_the_leaders_discount() -> None:
    group = slices(many("ending"), 200)[0]
    first = np.where(np.arange(len(group.alive))[:, None] == 0, group.upper_rewards, 0.0)
    alone = replace(group, upper_rewards=first)
    learnt = perfected("sobirl", "ending", upper_gamma=0.0, baseline=False)
    found, of_first = (learnt.response_term(X, each)[0] for each in (group, alone))
    np.testing.assert_array_equal(found, of_first)
    assert np.abs(found).max() > 0.0


@pytest.mark.parametrize("method", ["trace", "bc-hg"])
@pytest.mark.parametrize("terms", [1, 3])
def test_truncation_keeps_the_first_terms(method: str, terms: int) -> None:
    exact, whole = truncated(TABLES["ending"], terms), exactly("ending")
    assert np.linalg.norm(exact - whole) > 0.05 * np.linalg.norm(whole)
    assert_mean(estimates(perfected(method, "ending", truncation=terms), "ending"), exact)


def test_a_leader_with_another_discount_gets_its_own_hyper_gradient() -> None:
    # With `upper_gamma` 0 the leader sees the first step alone.
    table = TABLES["ending"]
    upper = table.model.upper_reward(X)
    learnt = perfected("trace", "ending", upper_gamma=0.0)

    def first(y: FloatArray) -> float:
        answer = table.evaluate(y).policy
        return float(table.initial_distribution @ (answer * upper).sum(axis=1))

    steps = 1e-5 * np.eye(6)
    numeric = np.array([(first(h) - first(-h)) / 2e-5 for h in steps])
    assert_mean(estimates(learnt, "ending"), numeric)


@pytest.mark.parametrize("baseline", [True, False])
def test_one_step_sobirl_is_the_tabular_one_on_the_same_episodes(baseline: bool) -> None:
    table, batch = TABLES["ending"], slices(many("ending"), 50)[0]
    policy = table.evaluate(X).policy
    learnt = perfected("sobirl", "ending", baseline=baseline)
    estimate = learnt.response_term(X, batch)
    found = estimate.gradient
    assert estimate.critic_loss is None
    pairs = np.where(batch.alive, batch.actions * 3 + batch.observations, 6).astype(np.int32)
    episodes = Episodes(pairs, np.full(50, -1, np.int32), 3, 2, batch.upper_rewards)
    tabular = SoBiRL(table.model, truncation=1, baseline=baseline)
    seen = Batch(
        upper_params=X,
        blocks=[episodes],
        policy=policy,
        gamma=table.gamma,
        temperature=table.temperature,
        upper_gamma=table.gamma,
        upper_horizon=None,
        sampler=table.model.sampler(X, policy),
        horizon=150,
    )
    expected = table.model.reward_vjp(X, tabular.signed_occupancy(seen))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_one_step_sees_nothing_of_a_reward_of_states_and_says_so_once() -> None:
    states = array_game()  # x[s]
    learnt = perfected("sobirl", states)
    batch, x = slices(many("ending"), 50)[0], states.initial_upper_params
    with pytest.warns(UserWarning, match="response term is zero for .*.*`trace`"):
        found = learnt.response_term(x, batch).gradient
    exact = states.evaluate(x).hyper_gradient
    assert np.linalg.norm(found) <= 1e-12 * np.linalg.norm(exact)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt.response_term(x, batch)
    trace = perfected("trace", states)
    assert cosine(trace.response_term(x, many("ending"))[0], exact) > 0.99
    batch = slices(many("ending"), 5)[0]
    paid_nothing = replace(batch, upper_rewards=np.zeros_like(batch.upper_rewards))
    learnt = perfected("sobirl", "ending")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not learnt.response_term(X, paid_nothing)[0].any()


def test_a_long_batch_in_blocks_gives_what_one_block_gives(monkeypatch: Any) -> None:
    batch = slices(many("ending"), 40)[0]
    for method in ("trace", "bc-hg", "hpgd", "sobirl"):
        options = {"critic_updates": 3} if method == "hpgd" else {}
        whole = perfected(method, "ending", **options).response_term(X, batch)[0]
        with monkeypatch.context() as patch:
            patch.setattr("bilevel_gym.learnt.estimators.BLOCK", 7)
            patch.setattr("bilevel_gym.learnt.traces.BLOCK", 7)
            patch.setattr("bilevel_gym.learnt.followers.BLOCK", 5)
            cut = perfected(method, "ending", **options).response_term(X, batch)[0]
        # Networks of single precision round differently in blocks of another size.
        rtol, atol = (1e-5, 1e-7) if method == "hpgd" else (1e-10, 1e-13)
        np.testing.assert_allclose(cut, whole, rtol=rtol, atol=atol)


# Episodes and critic ----------------------------------------------------------------------------


def test_episodes_are_those_of_the_policy_and_end_where_they_end() -> None:
    table, batch = TABLES["ending"], many("ending")
    policy, kernel = table.evaluate(X).policy, table.model.kernel(X).to_dense()
    seen, taken = batch.as_batch
    assert batch.num_episodes == 4000 and batch.num_steps == len(seen)
    # Alive from the start, never again after the end, and nothing is paid there.
    assert batch.alive[0].all() and not (batch.alive[1:] & ~batch.alive[:-1]).any()
    assert not batch.upper_rewards[~batch.alive].any()
    assert not batch.lower_rewards[~batch.alive].any()
    upper, lower = batch.upper_rewards[batch.alive], batch.lower_rewards[batch.alive]
    np.testing.assert_allclose(upper, table.model.upper_reward(X)[seen, taken], rtol=1e-12)
    np.testing.assert_allclose(lower, table.model.reward(X)[seen, taken], rtol=1e-12)
    counts = np.zeros((3, 2))
    np.add.at(counts, (seen, taken), 1.0)
    visits = counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(counts / visits, policy, atol=4 * (0.5 / np.sqrt(visits.min())))
    following = batch.alive[1:]
    moves = np.zeros((3, 2, 3))
    before, after = batch.observations[:-1][following], batch.observations[1:][following]
    np.add.at(moves, (before, batch.actions[:-1][following], after), 1.0)
    np.testing.assert_allclose(moves / counts[:, :, None], kernel, atol=0.05)


def test_a_followers_learning_rate_does_not_fall_unless_it_is_told_to() -> None:
    rates = []
    for options in ({}, {"learning_rate": None}):
        env = leader("CartPole-v1", inner_options={**TINY["inner_options"], **options})
        env.reset(seed=0)
        walk(env, 1)
        rates.append(env.method.follower.model.policy.optimizer.param_groups[0]["lr"])
    assert rates[0] == 1e-3 and rates[1] < 1e-3


def test_a_number_of_episodes_that_fills_no_block_is_played_exactly() -> None:
    assert played("ending", 45).num_episodes == 45
    assert played("ending", 1).num_episodes == 1
    first, second = played("ending", 45), played("ending", 45)
    assert_identical(first.observations, second.observations)
    assert not np.array_equal(played("ending", 45, seed=1).alive, first.alive)


@pytest.mark.parametrize(
    ("name", "gamma", "times", "more"),
    [
        *(("endless", 0.6, 1.0, 0.0), ("ending", 0.5, 1.0, 0.0), ("ending", 0.9, 1000.0, 0.0)),
        ("endless", 0.9, 1.0, -60.0),  # the same everywhere, which is nobody's merit
    ],
)
def test_the_critic_learns_the_leaders_advantages_from_the_replay(
    name: str, gamma: float, times: float, more: float
) -> None:
    upper = TABLES[name].model.upper_reward(X)
    changes = {"upper_reward": times * upper + more, "upper_gamma": gamma}
    table = array_game(**{**ARGUMENTS[name], **changes})
    options = {"learning_starts": 1000, "buffer_size": 1000, "device": "cpu"}
    learnt = made("trace", table, inner_steps=1000, inner_options=options)
    learnt.reset(np.random.default_rng(0))
    follower, exact = learnt.follower, ExactCritic(table, None, gamma)
    critic = LeaderCritic(learnt._game, 0)
    follower.learn(X)  # uniform actions only
    follower.probabilities, rng = exact.probabilities, np.random.default_rng(0)
    first = critic.fit(follower, 20, rng)
    last = critic.fit(follower, 700, rng)
    count, choices = exact.policy.shape
    states, actions = np.repeat(np.arange(count), choices), np.tile(np.arange(choices), count)
    taken, every = critic.advantages(states, actions, follower, rng)
    assert every is not None and last < first
    seen = np.unique(follower.model.replay_buffer.observations)  # an end is not seen from inside
    exactly = exact.table[seen.astype(int)]
    found = every[::choices][seen.astype(int)]
    np.testing.assert_allclose(found, exactly, atol=0.15 * np.abs(exactly).max())
    np.testing.assert_array_equal(taken, every[np.arange(len(every)), actions])


def test_the_first_estimate_does_not_mind_what_is_paid_everywhere_alike() -> None:
    upper, gradient = TABLES["endless"].model.upper_reward(X), exactly("endless")
    for more in (0.0, -60.0):
        table = array_game(**{**ENDLESS, "upper_reward": upper + more})
        options = {"learning_starts": 600, "buffer_size": 600, "device": "cpu"}
        method = made("trace", table, inner_steps=600, inner_options=options)
        method.follower.probabilities = ExactCritic(table).probabilities
        method.follower.learn(X)
        found = method.response_term(X, many("endless"))[0]
        assert found @ gradient > 0.9 * np.linalg.norm(found) * np.linalg.norm(gradient), more


def test_a_seat_leaves_global_random_numbers_and_options_alone() -> None:
    np.random.seed(7), random.seed(7), th.manual_seed(7)
    expected = (np.random.random(), random.random(), float(th.rand(())))
    np.random.seed(7), random.seed(7), th.manual_seed(7)
    method = made("trace", TABLES["endless"])
    method.reset(np.random.default_rng(3))
    assert (np.random.random(), random.random(), float(th.rand(()))) == expected
    options = copy.deepcopy(TINY["inner_options"])
    env = leader("Pendulum-v1", inner_options=options)
    env.reset(seed=0)
    assert options == TINY["inner_options"]


def test_a_critic_of_continuous_actions_has_mean_zero_advantages() -> None:
    game = ParametricGame("Pendulum-v1", {"kind": "network", "hidden": [4]}, episode_steps=20)
    method: Any = make_method("trace", game, **FAST)
    critic, rng = LeaderCritic(game, 0), np.random.default_rng(0)
    seen = np.repeat(np.array([[1.0, 0.0, 0.5]], np.float32), 4000, axis=0)
    taken = method.follower.draw(seen, rng)
    assert game.lower_space.contains(taken[0]) and taken.std() > 0.1
    advantages, every = critic.advantages(seen, taken, method.follower, rng)
    assert every is None
    assert abs(advantages.mean()) < 4 * advantages.std() / np.sqrt(len(advantages))
    # Offset and scale of the units that it speaks in.
    found = []
    for units in ((7.0, 5.0), (0.0, 1.0)):
        critic.load_state_dict({**critic.state_dict(), "units": units})
        found.append(critic.advantages(seen, taken, method.follower, np.random.default_rng(1))[0])
    np.testing.assert_allclose(found[0], 5.0 * found[1], atol=1e-12)


# The leader's seat ------------------------------------------------------------------------------

TINY: dict[str, Any] = {"episodes": 3, "inner_steps": 24, "inner_options": TINY_LEARNER}
GAME: dict[str, Any] = {"reward_model": {"kind": "network", "hidden": [4]}, "episode_steps": 15}
GAME["upper_gamma"] = 0.95
GAMES = ("CartPole-v1", "Pendulum-v1")
METHODS = ("trace", "bc-hg", "hpgd", "sobirl", "score")
every_game = pytest.mark.parametrize("env_id", GAMES)
every_method = pytest.mark.parametrize("method", METHODS)


def leader(env_id: str, method: str = "trace", **options: Any) -> Any:
    updates = {} if method == "sobirl" else {"critic_updates": 2}
    return HyperGradient(ParametricGame(env_id, **GAME), method, **{**TINY, **updates, **options})


def test_the_default_method_is_the_trace_and_how_often_it_learns_can_come_from_json() -> None:
    env = HyperGradient(ParametricGame("CartPole-v1", **GAME))
    assert type(env.method).__name__ == "LearntTrace"
    often = {"train_freq": [4, "step"], "gradient_steps": -1}
    env = leader("CartPole-v1", inner_options={**TINY["inner_options"], **often})
    model = env.method.follower.model
    assert model.train_freq.frequency == 4 and model.train_freq.unit.value == "step"
    assert model.gradient_steps == -1 and often["train_freq"] == [4, "step"]


@every_game
@every_method
def test_two_steps_of_the_leader_tell_what_the_contract_says(env_id: str, method: str) -> None:
    env = leader(env_id, method)
    _, info = env.reset(seed=0)
    x = env.game.initial_upper_params
    expected = {"objective", "hyper_gradient", "upper_params", "inner_samples"} | JUDGED
    expected |= set() if method == "sobirl" else {"critic_loss", "critic_explained"}
    expected |= {"kl_measured", "kl_predicted"} if method == "score" else {"kl_measured"}
    for number in range(2):
        assert set(info) == expected
        assert (info["kl_measured"] == 0.0) == (number == 0)  # at first nothing has moved
        gradient = info["hyper_gradient"]
        assert gradient.shape == x.shape and gradient.dtype == np.float64
        assert np.isfinite(gradient).all() and np.linalg.norm(gradient) > 0.0
        # The steps learnt from, three times as many at first, when others measure observations; and
        # those of the episodes that were watched.
        learnt = 24 if number else 72 + MEASURED
        assert learnt + 3 < info["inner_samples"] <= learnt + 3 * 15
        if method != "sobirl":
            assert info["critic_loss"] > 0.0
        x = np.clip(x + 0.1 * np.sign(gradient), -10, 10)
        observation, objective, _, _, info = env.step(x)
        np.testing.assert_array_equal(info["upper_params"], x)
        assert np.isfinite(float(objective)) and observation in env.observation_space
        assert observation[0] == np.float32(objective) and 0 < observation[2] <= 15


@every_game
def test_the_objective_is_the_mean_return_of_the_episodes(env_id: str) -> None:
    env = leader(env_id)
    env.reset(seed=0)
    method = env.method
    kept: list[LearntEpisodes] = []
    play = method.follower.play

    def keep(*given: Any, **options: Any) -> LearntEpisodes:
        kept.append(play(*given, **options))
        return kept[-1]

    method.follower.play = keep
    observation, objective, *_ = env.step(env.game.initial_upper_params)
    (batch,) = kept
    returns = [
        sum(0.95**t * batch.upper_rewards[t, i] for t in range(len(batch.alive))) for i in range(3)
    ]
    assert objective == pytest.approx(np.mean(returns), rel=1e-12)
    assert observation[2] == np.float32(batch.num_steps / 3)


@every_game
def test_a_follower_keeps_what_it_has_learnt_until_the_reset(env_id: str) -> None:
    env = leader(env_id, first_inner_steps=40)
    env.reset(seed=0)
    method = env.method
    model = method.follower.model
    watched = env.response.samples - MEASURED - 40
    assert model.num_timesteps == 40 and model.replay_buffer.size() == 40 + watched > 40
    network = method.critic.each[0].network
    env.step(env.game.initial_upper_params)
    assert method.follower.model is model and method.critic.each[0].network is network
    watched += env.response.samples - 24
    assert model.num_timesteps == 64 and model.replay_buffer.size() == 64 + watched
    env.reset(seed=1)
    assert method.follower.model is not model and method.critic.each[0].network is not network
    assert method.follower.model.num_timesteps == 40


@every_game
@every_method
def test_a_reset_with_a_seed_forgets_everything_learnt(env_id: str, method: str) -> None:
    used, fresh = leader(env_id, method), leader(env_id, method)
    used.reset(seed=7)
    x = used.game.initial_upper_params + 0.2
    used.step(x)
    assert_identical(used.reset(seed=3), fresh.reset(seed=3))
    # The random numbers of others change nothing.
    np.random.seed(99), th.manual_seed(99)
    assert_identical(used.step(x), fresh.step(x))


test_bad_options_are_refused_with_what_was_wrong = refusals(
    lambda method="trace", **options: HyperGradient(
        ParametricGame("CartPole-v1", **GAME), method, **options
    ),
    ({"episodes": 0}, "`episodes`.*got 0"),
    ({"inner_steps": 0}, "`inner_steps`.*got 0"),
    ({"first_inner_steps": 0}, "`first_inner_steps`.*got 0"),
    ({"critic_updates": 0}, "`critic_updates`.*got 0"),
    ({"method": "hpgd", "critic_updates": 0}, "`critic_updates`.*got 0"),
    ({"method": "hpgd", "episodes": 1}, "`episodes`.*at least 2, got 1"),
    ({"truncation": 0}, "`truncation`.*got 0"),
    ({"discount_steps": 1}, "`discount_steps`.*got 1"),
    ({"inner": "soft-dqm"}, "'soft-dqm'.*Did you mean 'soft-dqn'"),
    ({"inner": "soft-sac"}, "`inner` must be 'soft-dqn'.*'soft-sac'"),
    ({"inner": ["soft-dqn"]}, "unknown inner learner"),
    ({"inner_options": [1]}, TypeError, "`inner_options` must be a dict.*\\[1\\]"),
    ({"inner_options": {"lr": 1}}, TypeError, "inner learner 'soft-dqn': 'lr'"),
    ({"inner_options": {"gamma": 0.9}}, TypeError, "'soft-dqn': 'gamma'"),
    ({"inner_options": {"batch_size": 0}}, "`batch_size`"),
    ({"inner_options": {"train_freq": 0}}, "`train_freq`.*got 0"),
    ({"inner_options": {"train_freq": [0, "step"]}}, "`train_freq`.*0"),
    ({"inner_options": {"train_freq": [4]}}, "`train_freq`.*got \\[4"),
    ({"inner_options": {"gradient_steps": 0}}, "`gradient_steps`.*got 0"),
    ({"inner_options": {"gradient_steps": -2}}, "`gradient_steps`.*-2"),
    ({"episode": 3}, TypeError, "'episode'.*Did you mean 'episodes'"),
    ({"method": "sobirl", "truncation": 2}, "`truncation` must be 1.*got 2.*`trace`"),
    ({"method": "sobirl", "baseline": "no"}, "`baseline`.*'no'"),
    ({"method": "sobirl", "critic_updates": 2}, TypeError, "takes no `critic_updates`"),
)


# Files ------------------------------------------------------------------------------------------


@every_game
@every_method
def test_who_loads_goes_on_bitwise_as_who_saved(env_id: str, method: str, tmp_path: Path) -> None:
    assert_goes_on_from_a_file(lambda: leader(env_id, method), tmp_path)


def test_an_environment_that_cannot_be_copied_begins_a_new_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilevel_gym.learnt.followers.goes_on", lambda env: False)
    env = leader("Pendulum-v1")
    env.reset(seed=0)
    env.method.save(tmp_path / "file")
    records = []
    for _ in range(2):
        other = leader("Pendulum-v1")
        other.reset(seed=5)
        other.method.load(tmp_path / "file")
        assert other.method.follower.model.num_timesteps == 72
        records.append(walk(other, 2))
    assert_identical(records[0], records[1])


def test_a_file_of_another_method_or_game_is_refused(tmp_path: Path) -> None:
    leader("CartPole-v1").method.save(tmp_path / "file")

    def refused(game: ParametricGame, message: str, method: str = "trace") -> None:
        with pytest.raises(ValueError, match=message):
            HyperGradient(game, method, **TINY).method.load(tmp_path / "file")  # type: ignore[attr-defined]

    expected = "another method: expected 'LearntBCHG', got 'LearntTrace'"
    refused(ParametricGame("CartPole-v1", **GAME), expected, "bc-hg")
    expected = "another game: expected 'Pendulum-v1', got 'CartPole-v1'"
    refused(ParametricGame("Pendulum-v1", **GAME), expected)
    for name, value in {"gamma": 0.5, "temperature": 5.0, "upper_gamma": 0.5}.items():
        game = ParametricGame("CartPole-v1", **{**GAME, name: value})
        refused(game, f"is of another {name}: expected {value}, got 0.")


@every_method
def test_a_file_with_a_part_missing_or_damaged_or_of_code_changes_nothing(
    method: str, tmp_path: Path
) -> None:
    assert_broken_files_change_nothing(lambda: leader("Pendulum-v1", method), tmp_path)
