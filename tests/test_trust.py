"""What is said of estimates of followers who learn, and estimates by scores of the policy."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient, RescaleUpper
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.learnt.baselines import (
    Plateau,
    explained_variance,
    generalised_advantages,
    watched_sums,
)
from bilevel_gym.learnt.successors import SuccessorFeatures
from bilevel_gym.learnt.tables import TableGame
from bilevel_gym.learnt.trust import Estimate, assessed
from bilevel_gym.methods import LEARNT_METHODS, make_method
from bilevel_gym.methods.error_bars import expected_cosine
from bilevel_gym.model.responses import EpisodicResponse
from bilevel_gym.rewards.models import LinearReward, jacobian

from .benchmarks.estimators import cosine
from .helpers import array_game
from .learnt import TINY_LEARNER, ExactCritic

TABLE = array_game(features=np.eye(6).reshape(3, 2, 6))
X = np.zeros(6)
OPTIONS: dict[str, Any] = {"episodes": 4, "inner_steps": 24, "inner_options": TINY_LEARNER}


def terms(observations: Any, actions: Any) -> FloatArray:
    """Return features of CartPole or Pendulum."""
    moves = np.asarray(actions, np.float64).reshape(len(observations), -1)[:, :1]
    return np.concatenate([np.asarray(observations[:, :2], np.float64), moves], axis=1)


def leader(env_id: str = "CartPole-v1", method: str | None = "score", **options: Any) -> Any:
    game = ParametricGame(env_id, LinearReward(terms, 3), episode_steps=15)
    return HyperGradient(game, method, **{**OPTIONS, **options})


def optimal(method: str, **options: Any) -> Any:
    """Return a method on the table with transitions of uniform actions and the exact follower."""
    learner = {"learning_starts": 2000, "buffer_size": 3000, "device": "cpu"}
    chosen = {"inner_steps": 2000, "inner_options": learner, "learn_from_watched": False}
    made: Any = make_method(LEARNT_METHODS[method], TableGame(TABLE.model), **chosen, **options)
    made.reset(np.random.default_rng(0))
    made.follower.learn(X)
    made.follower.probabilities = ExactCritic(TABLE, X).probabilities
    made.follower.learn = lambda *_, **__: 0
    return made


# The score --------------------------------------------------------------------------------------


def test_successor_features_are_the_derivative_of_the_exact_soft_q() -> None:
    made = optimal("score")
    follower, rng = made.follower, np.random.default_rng(0)
    played = follower.play(X, 60, rng)
    made.critic.fit(follower, X, played, 800, rng)
    policy, kernel = TABLE.evaluate(X).policy, TABLE.model.kernel(X).to_dense()
    dense = np.einsum("sat,tb->satb", kernel, policy).reshape(6, 6)
    exact = np.linalg.inv(np.eye(6) - TABLE.gamma * dense)  # of each pair by each reward
    exact = exact.reshape(3, 2, 6)
    exact -= np.einsum("sa,sad->sd", policy, exact)[:, None]
    states, actions = np.repeat(np.arange(3), 2), np.tile(np.arange(2), 3)
    found = made.critic.scores(follower, states, actions, rng)
    for each in found.each:
        error = each * TABLE.temperature - exact.reshape(6, 6)
        assert np.linalg.norm(error) < 0.2 * np.linalg.norm(exact)
    assert made.critic.explained > 0.1
    # The information in the states, each of them once for every action.
    scores = exact / TABLE.temperature
    information = np.einsum("sa,sad,sae->de", policy, scores, scores) / 3.0
    assert np.linalg.norm(found.metric - information) < 0.3 * np.linalg.norm(information)


def test_the_policy_gradient_by_scores_is_near_the_exact_hyper_gradient() -> None:
    answer = optimal("score", episodes=600, critic_updates=600).step(X)
    exact = np.asarray(TABLE.evaluate(X).hyper_gradient)
    assert cosine(answer.hyper_gradient, exact) > 0.95
    assert answer.trust > 0.8 and answer.critic_explained > 0.1
    assert np.linalg.norm(answer.hyper_gradient - exact) < 4.0 * np.linalg.norm(
        answer.hyper_gradient_se
    )


def test_advantages_are_of_a_regression_that_the_episode_is_no_part_of() -> None:
    played = optimal("score").follower.play(X, 40, np.random.default_rng(1))
    space, discount = gym.spaces.Discrete(3), 0.9
    found = generalised_advantages(played, space, discount, 1.0)
    changed = copy.copy(played)
    object.__setattr__(changed, "upper_rewards", played.upper_rewards.copy())
    changed.upper_rewards[0, 0] += 1.0
    again = generalised_advantages(changed, space, discount, 1.0)
    assert again[0, 0] - found[0, 0] == pytest.approx(1.0)
    np.testing.assert_allclose(again[:, 4], found[:, 4], atol=1e-9)  # of the same fold
    assert not found[~played.alive].any()


def test_jacobians_are_those_of_the_products_with_weights() -> None:
    rng = np.random.default_rng(0)
    seen, taken, x = rng.standard_normal((5, 4)), rng.integers(2, size=5), np.array([1.0, 2.0, 3.0])
    for bound in (None, 0.7):
        model = LinearReward(terms, 3, bound=bound)
        rows = model.jacobian(x, seen, taken)
        np.testing.assert_allclose(model.vjp(x, seen, taken, np.arange(5.0)), np.arange(5.0) @ rows)

        class Plain:  # of the protocol, without a Jacobian
            num_params = 3
            initial_params, rewards, vjp = model.initial_params, model.rewards, model.vjp

        np.testing.assert_allclose(jacobian(Plain(), x, seen, taken), rows)
    game, pairs = TableGame(TABLE.model), (np.array([2, 0, 2]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(game.reward_jacobian(X, *pairs), np.eye(6)[[5, 0, 5]])


def test_many_parameters_and_images_are_refused() -> None:
    many = ParametricGame("CartPole-v1", LinearReward(lambda o, a: np.zeros((len(o), 65)), 65))
    with pytest.raises(TypeError, match='64 at most.*has 65 parameters; take "trace"'):
        HyperGradient(many, "score")
    assert many.default_method == "trace"
    few = HyperGradient(ParametricGame("CartPole-v1", LinearReward(terms, 3)))
    assert type(few.method).__name__ == "LearntScore"


# What is said of estimates ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["trace", "sobirl"])
def test_standard_errors_are_the_deviation_of_estimates(method: str) -> None:
    made = optimal(method, **({} if method == "sobirl" else {"state_features": 0}))
    ExactCritic(TABLE, X).put_into(made)
    played = made.follower.play(X, 4000, np.random.default_rng(0))
    found = [made.response_term(X, played.part(slice(k, k + 40))) for k in range(0, 4000, 40)]
    deviation = np.std([estimate.gradient for estimate in found], axis=0)
    errors = np.sqrt(np.mean([np.square(e.standard_error()) for e in found], axis=0))
    np.testing.assert_allclose(errors, deviation, rtol=0.3)


def test_errors_are_of_groups_and_of_critics_that_differ() -> None:
    parts = np.array([[1.0, 0.0], [3.0, 0.0]])
    alone: Any = Estimate(parts.mean(axis=0), parts=parts)
    np.testing.assert_allclose(alone.standard_error(), [1.0, 0.0])
    both: Any = alone._replace(critics=np.array([[2.0, 5.0], [2.0, 1.0]]))
    np.testing.assert_allclose(both.standard_error(), [1.0, 2.0])
    np.testing.assert_allclose(both.standard_error(np.array([[2.0, 0], [0, 0]])), [0.0, 2.0])
    # Where nothing varies, nothing is known; nor from a single group.
    assert alone._replace(parts=np.ones((2, 2))).standard_error() is None
    assert alone._replace(parts=parts[:1]).standard_error() is None
    assert expected_cosine(np.array([3.0]), np.array([1.0])) == pytest.approx(0.9)
    assert expected_cosine(np.zeros(2), np.ones(2)) == 0.0


def judged(**changes: Any) -> tuple[float, str]:
    said: dict[str, Any] = {"cosine": 0.9, "objective_se": 1.0, "explained": 0.5}
    return assessed(**{**said, "kl_predicted": 0.1, "kl_measured": 0.2, **changes})


def test_trust_is_the_cosine_lowered_by_what_else_is_wrong() -> None:
    assert judged()[0] == 0.9 and "expected cosine" in judged()[1]
    for wrong, reason in (
        ({"objective_se": 0.0}, "same value"),
        ({"objective_se": None}, "single episode"),
        ({"cosine": None}, "Nothing in the estimate varies"),
    ):
        trust, said = judged(**wrong)
        assert trust == 0.0 and reason in said
    for wrong, reason in (
        ({"explained": -0.5}, "explains 0%"),
        ({"kl_measured": 2.0}, "KL of 2 "),
        ({"kl_predicted": 1e-4}, "not settled"),
    ):
        trust, said = judged(**wrong)
        assert 0.0 < trust < 0.7 and reason in said
    # A policy that hardly moves is no unrest, whatever was predicted.
    assert judged(kl_predicted=0.0, kl_measured=0.04)[0] == 0.9


def test_low_trust_is_warned_of_once_and_info_has_what_is_known() -> None:
    env = leader("Pendulum-v1")
    with pytest.warns(UserWarning, match="hyper-gradient of Pendulum-v1 has a trust of 0"):
        _, info = env.reset(seed=2)
    assert isinstance(env.response, EpisodicResponse) and env.response.trust_reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        *_, again = env.step(info["upper_params"] + 0.1)
    assert {*again} == {*info}
    assert info["kl_measured"] == info["kl_predicted"] == 0.0
    assert again["kl_measured"] >= 0.0 and again["kl_predicted"] >= 0.0
    assert info["cut_share"] == 1.0 and info["hyper_gradient_se"].shape == (3,)
    response: Any = env.response
    assert np.mean(response.values) == pytest.approx(response.objective)
    assert response.metric.shape == (3, 3) and (response.spread >= 0.0).all()
    assert (np.linalg.eigvalsh(response.metric) > -1e-9).all()
    deviation = np.std(response.values, ddof=1) / 2.0
    assert again["objective_se"] == pytest.approx(deviation)


def test_a_predicted_kl_is_that_of_the_change_of_x() -> None:
    env = leader()
    env.reset(seed=0)
    metric, x = env.response.metric, env.response.upper_params
    moved = np.array([0.2, 0.0, -0.1])
    *_, info = env.step(x + moved)
    assert info["kl_predicted"] == pytest.approx(0.5 * moved @ metric @ moved)


def test_rescaling_converts_errors_as_it_does_gradients() -> None:
    plain, scaled = leader(), RescaleUpper(leader())
    info: Any = plain.reset(seed=0)[1]
    unit: Any = scaled.reset(seed=0)[1]
    for name in ("hyper_gradient", "hyper_gradient_se"):
        np.testing.assert_allclose(unit[name], 10.0 * info[name])
    response: Any = scaled.response
    np.testing.assert_allclose(response.hyper_gradient_se, unit["hyper_gradient_se"])
    np.testing.assert_allclose(response.spread, 10.0 * plain.response.spread)
    np.testing.assert_allclose(response.metric, 100.0 * plain.response.metric)


# Parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_divergence_is_the_kl_from_a_snapshot_and_changes_nothing(env_id: str) -> None:
    env = leader(env_id)
    env.reset(seed=0)
    follower = env.method.follower
    seen = follower.play(np.zeros(3), 2, np.random.default_rng(0)).as_batch[0]
    before, model = follower.snapshot(), follower.model
    assert follower.divergence(before, seen) == pytest.approx(0.0, abs=1e-6)
    if env_id == "CartPole-v1":
        old = follower.probabilities(seen)
    else:
        old_mean, old_std = (part.numpy() for part in model.gaussian(seen))
    follower.learn(np.array([3.0, -2.0, 5.0]))
    kept = follower.snapshot()
    if env_id == "CartPole-v1":
        new = follower.probabilities(seen)
        expected = (new * np.log(new / old)).sum(axis=1).mean()
    else:
        mean, std = (part.numpy() for part in model.gaussian(seen))
        ratio = (std**2 + (mean - old_mean) ** 2) / (2.0 * old_std**2)
        expected = (np.log(old_std / std) + ratio - 0.5).sum(axis=1).mean()
    assert expected > 0.0
    assert follower.divergence(before, seen) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    np.testing.assert_array_equal(follower.snapshot(), kept)


def test_what_is_watched_is_learnt_from_unless_it_is_not_to_be() -> None:
    sizes = []
    for learns in (True, False):
        env = leader(learn_from_watched=learns)
        env.reset(seed=0)
        model = env.method.follower.model
        sizes.append(model.replay_buffer.size() - model.num_timesteps)
    watched = round(4 * float(env.game.observe(env.response)[2]))
    assert sizes == [watched, 0]


def test_whole_sums_are_without_the_end_of_episodes_that_were_cut() -> None:
    follower = optimal("score").follower
    played = follower.play(X, 5, np.random.default_rng(0))
    ended = played.terminated.any(axis=0)
    sums, steps = watched_sums(played, np.ones(played.alive.shape), 0.5)
    episodes = np.nonzero(played.alive)[1][steps]
    lengths = played.alive.sum(axis=0)
    wanted = np.where(ended, lengths, np.maximum(1, lengths - 6))
    np.testing.assert_array_equal(np.bincount(episodes, minlength=5), wanted)
    longest = lengths.max()
    assert sums.max() <= 2.0 and sums[0] == pytest.approx(2.0 - 2.0 ** (1 - lengths[0]), abs=1e-3)
    assert longest > 6


def test_explained_variance_and_when_it_has_stopped_to_rise() -> None:
    sums = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    assert explained_variance(sums + 7.0, sums) == pytest.approx(1.0)  # a shift is no error of it
    assert explained_variance(np.zeros((3, 2)), sums) == pytest.approx(0.0)
    assert explained_variance(-9.0 * sums, sums) == -1.0
    assert explained_variance(sums[:, 1], sums[:, 1]) is None
    stop = Plateau(3)
    checks = [0.1, 0.3, 0.305, None, 0.2]
    assert [stop.reached(check) for check in checks] == [False] * 4 + [True]


def test_networks_learn_from_halves_and_come_back_from_a_file() -> None:
    made = optimal("score", critic_updates=5)
    made.step(X)
    critic, fresh = made.critic, SuccessorFeatures(TableGame(TABLE.model), 9)
    fresh.load_state_dict(critic.state_dict())
    seen, taken = np.arange(3), np.array([0, 1, 0])
    found, again = (
        c.scores(made.follower, seen, taken, np.random.default_rng(0)) for c in (critic, fresh)
    )
    np.testing.assert_array_equal(found.each, again.each)
    assert not np.allclose(found.each[0], found.each[1])
    assert all(not th.equal(w[0], w[1]) for w in critic.network.weights)
