"""Deep methods on tabular games: what the exact answer says of them, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.learnt.baselines import returns_to_go
from bilevel_gym.learnt.critics import LeaderCritic
from bilevel_gym.learnt.traces import Judged
from bilevel_gym.methods import METHODS, TabularResponse, make_method
from bilevel_gym.methods.sampled import enough_steps
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LinearCost,
    LogLikelihood,
    Objective,
    Outcome,
    PolicyCost,
    QuadraticCost,
    Sum,
    TruncatedReturn,
    UpperValue,
)

from .helpers import array_game, assert_identical, refusals
from .learnt import JUDGED, TINY_LEARNER, ExactCritic, assert_goes_on_from_a_file, assert_mean

DEEP = [name for name in METHODS if name.startswith("deep-")]
every_method = pytest.mark.parametrize("method", DEEP)

TINY: dict[str, Any] = {
    "episodes": 4,
    "inner_steps": 24,
    "first_inner_steps": 40,
    "inner_options": TINY_LEARNER,
}


def tiny(method: str) -> dict[str, Any]:
    if method == "deep-sobirl":
        return TINY
    first = {"first_critic_updates": 2} if method in ("deep-trace", "deep-bc-hg") else {}
    return {**TINY, "critic_updates": 2, **first}


class Paid(ArrayModel):
    """x[s, a] moves the follower's reward, and the leader's; there is a cost of x as well."""

    def __init__(self, **options: Any) -> None:
        model = array_game()
        super().__init__(
            model.kernel(model.initial_upper_params),
            [[0.1, -0.3], [0.7, 0.2], [-0.4, 1.0]],
            **{
                "upper_reward": np.array([[1.0, -0.5], [0.25, 0.0], [-1.0, 2.0]]),
                "initial_distribution": [0.6, 0.4, 0.0],
                "gamma": 0.9,
                "temperature": 0.2,
                "features": np.eye(6).reshape(3, 2, 6),
                "upper_cost": 0.3,
                **options,
            },
        )

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        return super().upper_reward(upper_params) + 0.5 * np.sin(upper_params).reshape(3, 2)

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return 0.5 * np.cos(upper_params) * cotangent.ravel()


def paid(**options: Any) -> TabularBilevelEnv:
    return TabularBilevelEnv(Paid(**options))


X = np.array([-0.1, 0.04, -0.2, -0.1, -0.08, 0.4])


def with_terms(*terms: Objective) -> TabularBilevelEnv:
    """Return a game with another objective."""
    return paid(objective=Sum(terms))


class Crowding:
    """A user's objective, -sum_s d(s)^2 / 2 of the discounted occupancy d."""

    def evaluate(self, outcome: Outcome) -> UpperValue:
        answer = outcome.solution
        gamma, kernel = answer.mdp.gamma, answer.mdp.kernel
        occupancy = outcome.occupancy(gamma)
        ahead, _ = answer.discounted_system(gamma).solve(-occupancy)
        return UpperValue(
            value=-0.5 * float(occupancy @ occupancy),
            policy=gamma * occupancy[:, None] * kernel.expect(ahead),
        )


def perfected(
    method: str,
    game: TabularBilevelEnv,
    x: FloatArray = X,
    upper_gamma: float | None = None,
    **options: Any,
) -> Any:
    """Return a method whose follower is at its optimum, and whose critic is exact if it stays."""
    made: Any = make_method(method, game, **{**tiny(method), **options})
    made.follower.learn = lambda *_, **__: 0
    made.reset = None  # it would forget the follower
    return ExactCritic(game, x, upper_gamma).put_into(made)


# Exactness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("upper_gamma", [None, 0.8])
@pytest.mark.parametrize("method", ["deep-trace", "deep-bc-hg"])
def test_the_mean_is_the_exact_answer_direct_part_and_costs_included(
    method: str, upper_gamma: float | None
) -> None:
    game = paid(upper_gamma=upper_gamma)
    exact = game.evaluate(X)
    assert 0.2 < exact.response_share and np.linalg.norm(exact.direct_gradient) > 0.2
    made = perfected(method, game, upper_gamma=upper_gamma, episodes=20)
    found = [made.step(X) for _ in range(120)]
    assert_mean([r.hyper_gradient for r in found], exact.hyper_gradient)
    assert_mean([r.direct_gradient for r in found], exact.direct_gradient)
    assert_mean([r.objective for r in found], exact.objective)
    assert_mean([r.lower_value for r in found], exact.lower_value)
    assert_mean([r.occupancy for r in found], exact.occupancy)
    np.testing.assert_allclose(found[0].policy, exact.policy)


def test_returns_of_episodes_in_the_place_of_a_critic_come_close() -> None:
    game = paid()
    exact = game.evaluate(X)
    made = perfected("deep-hpgd", game, episodes=400, critic_updates=100)

    def error() -> float:
        mean = np.mean([made.step(X).hyper_gradient for _ in range(4)], axis=0)
        response = exact.hyper_gradient - exact.direct_gradient
        return float(np.linalg.norm(mean - exact.hyper_gradient) / np.linalg.norm(response))

    assert error() < 0.15

    def own_returns(played: Any) -> Judged:
        returns = returns_to_go(played.upper_rewards, game.gamma)[played.alive]
        return Judged([(returns - returns.mean(), None)], 0.0)

    # Returns are correlated with what happens along the very episodes that they are of.
    made.leader_advantages = own_returns
    assert error() > 0.5


def test_what_is_evaluated_is_not_what_was_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    game = paid()
    made = perfected("deep-hpgd", game, episodes=5)
    played = made.follower.play(X, 5, np.random.default_rng(0))
    learnt: list[FloatArray] = []

    class Recorder:
        def __init__(self, *_: Any) -> None:
            pass

        def regress(self, seen: Any, taken: Any, returns: FloatArray, *_: Any) -> float:
            learnt.append(returns)
            return 1.0

        def advantages(self, seen: Any, taken: Any, *_: Any) -> tuple[FloatArray, None]:
            return np.full(len(seen), float(len(learnt))), None

        def q_values(self, seen: Any, taken: Any) -> FloatArray:
            return np.zeros(len(seen))

    monkeypatch.setattr("bilevel_gym.learnt.traces.ReturnCritic", Recorder)
    judged = made.leader_advantages(played)
    ((advantages, every),) = judged.each
    assert every is None and judged.loss == 1.0
    returns = returns_to_go(played.upper_rewards, 0.9)
    episode = np.nonzero(played.alive)[1]
    # The first three of five episodes are evaluated by what the last two taught, and the reverse.
    np.testing.assert_array_equal(advantages, np.where(episode < 3, 1.0, 2.0))
    half = (enough_steps(game.model) + 1) // 2
    for found, columns in zip(learnt, (slice(3, 5), slice(0, 3)), strict=True):
        np.testing.assert_array_equal(found, returns[:half, columns][played.alive[:half, columns]])


@pytest.mark.parametrize(
    "terms",
    [
        (PolicyCost(0.5),),
        (LogLikelihood(np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]])),),
        (Crowding(),),
        (DiscountedReturn(), Crowding(), QuadraticCost(0.2)),
    ],
    ids=lambda terms: "-".join(type(term).__name__ for term in terms),
)
def test_objectives_of_policy_and_occupancy_are_those_of_the_exact_answer(terms: Any) -> None:
    game = with_terms(*terms)
    exact = game.evaluate(X)
    made = perfected("deep-trace", game, episodes=200)
    found = [made.step(X) for _ in range(40)]
    mean, value, direct = (
        np.mean([getattr(response, name) for response in found], axis=0)
        for name in ("hyper_gradient", "objective", "direct_gradient")
    )
    # Frequencies take the place of probabilities: a bias of the order of 1 / episodes.
    error = np.linalg.norm(mean - exact.hyper_gradient)
    assert error < 0.05 * np.linalg.norm(exact.hyper_gradient)
    assert value == pytest.approx(exact.objective, rel=0.03)
    np.testing.assert_allclose(direct, exact.direct_gradient, atol=0.02)
    assert all(response.samples > 400 for response in found)


def test_returns_are_what_is_paid_from_there_on() -> None:
    rewards = np.array([[1.0, 0.0], [2.0, 3.0], [4.0, 0.0]])
    np.testing.assert_allclose(
        returns_to_go(rewards, 0.5), [[1 + 0.5 * (2 + 0.5 * 4), 1.5], [4.0, 3.0], [4.0, 0.0]]
    )
    assert rewards[0, 0] == 1.0


def test_a_game_keeps_its_own_episode_while_its_follower_learns() -> None:
    game, twin = paid(), paid()
    game.reset(seed=0), twin.reset(seed=0)
    made: Any = make_method("deep-trace", game, **tiny("deep-trace"))
    made.reset(np.random.default_rng(0))
    made.step(X)
    move = {"upper": X, "lower": 0}
    assert_identical(game.step(move), twin.step(move))


def test_x_of_any_shape_is_answered_in_its_shape() -> None:
    class Square(Paid):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = np.full((3, 2), -1.0), np.full((3, 2), 1.0)
            self.initial_upper_params = np.zeros((3, 2))

        def reward(self, upper_params: FloatArray) -> FloatArray:
            return super().reward(upper_params.ravel())

        def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
            return np.array(cotangent)

        def upper_reward(self, upper_params: FloatArray) -> FloatArray:
            return super().upper_reward(upper_params.ravel())

        def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
            return super().upper_reward_vjp(upper_params.ravel(), cotangent).reshape(3, 2)

    game = TabularBilevelEnv(Square())
    x = X.reshape(3, 2)
    flat, square = perfected("deep-trace", paid()), perfected("deep-trace", game, x)
    expected, found = flat.step(X), square.step(x)
    np.testing.assert_allclose(found.hyper_gradient, expected.hyper_gradient.reshape(3, 2))


# The leader's seat ------------------------------------------------------------------------------


@every_method
@pytest.mark.filterwarnings("ignore:the one-step response term is zero")
def test_a_registered_task_steps_and_draws_and_a_seed_says_it_all(method: str) -> None:
    records = []
    for _ in range(2):
        env = HyperGradient(
            gym.make("BilevelGridWorld-v0", map_name="4x4", render_mode="rgb_array"),
            method=method,
            **tiny(method),
        )
        observation, info = env.reset(seed=3)
        assert observation in env.observation_space
        expected = {*"objective hyper_gradient upper_params inner_samples lower_value".split()}
        expected |= JUDGED | (set() if method == "deep-sobirl" else {"critic_loss"})
        expected |= {"kl_measured"} | ({"kl_predicted"} if method == "deep-score" else set())
        assert set(info) - {"critic_explained"} == expected
        x = np.clip(info["upper_params"] + 0.1, -1, 1)
        observation, objective, _, _, again = env.step(x)
        assert observation in env.observation_space and np.isfinite(float(objective))
        assert again["hyper_gradient"].shape == x.shape and 24 < again["inner_samples"]
        assert isinstance(env.response, TabularResponse)
        np.testing.assert_allclose(env.response.policy.sum(axis=1), 1.0)
        records.append([info, observation, objective, again, env.render()])
    assert_identical(records[0], records[1])


@every_method
def test_a_saved_method_goes_on_as_it_would_have(method: str, tmp_path: Path) -> None:
    assert_goes_on_from_a_file(
        lambda: HyperGradient(paid(), method=method, **tiny(method)), tmp_path
    )


def test_the_critic_may_learn_longer_for_the_first_x(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    fit = LeaderCritic.fit

    def counted(self: LeaderCritic, follower: Any, count: int, rng: Any) -> float:
        updates.append(count)
        return fit(self, follower, count, rng)

    monkeypatch.setattr(LeaderCritic, "fit", counted)
    env = HyperGradient(
        paid(), method="deep-trace", **{**tiny("deep-trace"), "first_critic_updates": 3}
    )
    env.reset(seed=0)
    env.step(X)
    env.reset(seed=0)
    # Two critics, as long as they explain more, and at most twice as long as they are told to.
    assert updates == [3] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize(
    ("game", "message"),
    [
        (lambda: gym.make("BilevelTaxDesign-v0").unwrapped, "x moves the kernel of BilevelTax"),
        (lambda: gym.make("BilevelMarkovGame-v0").unwrapped, "x moves the .* of BilevelMarkovGame"),
        (lambda: gym.make("BilevelToll-v0").unwrapped, "actions of .*Toll.* vary with the state"),
        (lambda: with_terms(TruncatedReturn(3)), "has a TruncatedReturn"),
        (lambda: with_terms(DiscountedReturn(), DiscountedReturn(0.5)), "2 discounted returns"),
    ],
)
def test_games_that_do_not_suit_are_refused(game: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_method("deep-trace", game())


def test_costs_of_x_alone_are_counted() -> None:
    costs = LinearCost(0.7), Sum((QuadraticCost(0.2),))
    found, plain = (
        perfected("deep-trace", with_terms(DiscountedReturn(), *terms)).step(X)
        for terms in (costs, ())
    )
    value, direct = -0.7 * np.abs(X).sum() - 0.2 * X @ X, -0.7 * np.sign(X) - 0.4 * X
    assert found.objective - plain.objective == pytest.approx(value)
    np.testing.assert_allclose(found.direct_gradient - plain.direct_gradient, direct)
    np.testing.assert_allclose(found.hyper_gradient - plain.hyper_gradient, direct)


test_bad_options_are_refused_with_what_was_wrong = refusals(
    lambda method="deep-trace", **options: make_method(method, paid(), **options),
    ({"first_critic_updates": 0}, "`first_critic_updates`.*got 0"),
    ({"method": "deep-hpgd", "first_critic_updates": 3}, TypeError, "'first_critic_updates'"),
    ({"episode": 3}, TypeError, "'episode'.*Did you mean 'episodes'"),
    ({"horizon": 3}, TypeError, "`horizon`"),
    ({"inner": "exact"}, "'exact'.*accepted: 'soft-dqn'"),
)


def test_without_the_library_the_error_names_what_to_install() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "import gymnasium as gym, bilevel_gym\n"
        "game = gym.make('BilevelGridWorld-v0', map_name='4x4')\n"
        "bilevel_gym.HyperGradient(game, method='trace', episodes=4)\n"
        "bilevel_gym.HyperGradient(game, method='deep-trace')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install -e ".[sb3]"' in done.stderr.splitlines()[-1]
