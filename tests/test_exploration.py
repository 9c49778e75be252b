"""Optimism of followers who count transitions: what they try, and what they answer."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.core.linear import DiscountedSystem
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.episodes.sampler import Sampler
from bilevel_gym.methods import make_method
from bilevel_gym.methods.exploration import (
    neutral_kernel,
    optimistic_kernel,
    optimistic_solution,
)
from bilevel_gym.methods.learners import make_learner

from .small_games import small_game
from .test_trace_variance import Noted

pytestmark = pytest.mark.kernels

COUNTING = "certainty-equivalence"
# How often each transition of four states and two actions was seen, the end as the last successor.
# Action 1 was never tried in state 1, nothing in state 3; in state 2 action 0 only ever ended.
TRANSITIONS = np.zeros((4, 2, 5))
TRANSITIONS[0, 0] = [1, 3, 0, 0, 0]
TRANSITIONS[0, 1] = [0, 0, 0, 2, 0]
TRANSITIONS[1, 0] = [2, 0, 1, 0, 1]
TRANSITIONS[2, 0] = [0, 0, 0, 0, 5]
TRANSITIONS[2, 1] = [0, 0, 7, 1, 0]
VISITS = TRANSITIONS.sum(axis=2)
FREQUENCIES = (TRANSITIONS / np.maximum(VISITS, 1.0)[:, :, None])[:, :, :4]


def policy_value(game: TabularBilevelEnv, x: FloatArray, policy: FloatArray) -> float:
    """Return the soft value of a policy in the true game, at its start."""
    entropy = -(policy * np.log(np.maximum(policy, 1e-300))).sum(axis=1)
    rewards = (policy * game.reward(x)).sum(axis=1) + game.temperature * entropy
    value, _ = DiscountedSystem(game.kernel(x), policy, game.gamma).solve(rewards)
    return float(game.initial_distribution @ value)


def loss(game: TabularBilevelEnv, policy: FloatArray) -> float:
    """Return what is lost by a policy, as a share of what one is better than another by chance."""
    x = game.initial_upper_params
    best = policy_value(game, x, game.evaluate(x).policy)
    chance = policy_value(game, x, np.full(policy.shape, 1.0 / policy.shape[1]))
    return (best - policy_value(game, x, policy)) / (best - chance)


def river_swim(states: int = 10) -> TabularBilevelEnv:
    """Return the chain of Strehl and Littman: left is easy and pays little, right is swept back."""
    kernel, reward = np.zeros((states, 2, states)), np.zeros((states, 2))
    for s in range(states):
        kernel[s, 0, max(s - 1, 0)] = 1.0
        kernel[s, 1, min(s + 1, states - 1)] += 0.35
        kernel[s, 1, s] += 0.6
        kernel[s, 1, max(s - 1, 0)] += 0.05
    reward[0, 0], reward[-1, 1] = 0.02, 1.0
    start = np.eye(states)[0]
    options: dict[str, Any] = {"gamma": 0.97, "temperature": 0.02, "initial_distribution": start}
    return TabularBilevelEnv.from_arrays(kernel, reward, upper_reward=reward, **options)


class TestKernels:
    """By loops over a few transitions."""

    def test_pairs_never_tried_lead_where_the_others_of_their_state_led(self) -> None:
        found = neutral_kernel(Kernel.from_dense(FREQUENCIES), VISITS).to_dense()
        expected = FREQUENCIES.copy()
        expected[1, 1] = [0.5, 0.0, 0.25, 0.0]  # and an end in one of four
        np.testing.assert_allclose(found, expected, atol=1e-15)

    def test_all_actions_of_a_state_count_together(self) -> None:
        visits = np.array([[1.0, 3.0, 0.0]])
        found = neutral_kernel(Kernel.from_dense(np.array([[[1.0], [0.0], [0.0]]])), visits)
        np.testing.assert_allclose(found.to_dense()[0, :, 0], [1.0, 0.0, 0.25])

    @pytest.mark.parametrize("errors", [0.0, 1.0, 2.0, 1e9])
    @pytest.mark.parametrize(
        "value", [[1.0, 3.0, 0.5, 2.0], [-1.0, -3.0, -0.5, -2.0], [0.0, 0.0, 0.0, 0.0]]
    )
    def test_weight_moves_to_the_best_successor(self, value: list[float], errors: float) -> None:
        v = np.array(value)
        kernel = Kernel.from_dense(FREQUENCIES)
        found = optimistic_kernel(kernel, VISITS, v, errors=errors).to_dense()
        highest = max(v.max(), 0.0)
        for s in range(4):
            for a in range(2):
                n = VISITS[s, a]
                if n == 0.0:
                    share = 1.0
                else:
                    after = np.append(v, 0.0)
                    mean = TRANSITIONS[s, a] @ after / n
                    spread = np.sqrt(TRANSITIONS[s, a] @ (after - mean) ** 2 / n)
                    share = 1.0 / (n + 1.0)
                    if highest > mean:
                        share += errors * spread / np.sqrt(n + 1.0) / (highest - mean)
                    share = min(1.0, share)
                expected = (1.0 - share) * FREQUENCIES[s, a]
                if v.max() >= 0.0:  # otherwise the best is that the episode ends
                    expected[v.argmax()] += share
                np.testing.assert_allclose(found[s, a], expected, atol=1e-12)

    def test_hopes_are_in_the_range_of_values_and_come_true(self) -> None:
        game = river_swim()
        x, model = np.zeros(10), game.model
        exact = solve_soft_mdp(model.lower_mdp(x))
        most = (1.0 + model.temperature * np.log(2.0)) / (1.0 - model.gamma)
        visits, gaps = np.ones((10, 2)), []
        hoped: FloatArray = np.zeros(10)
        for n in (0.0, 1.0, 1e2, 1e4, 1e8):
            for _ in range(5):
                plan = optimistic_solution(model, x, game.kernel(x), n * visits, hoped, errors=2.0)
                hoped = plan.soft_value
            assert exact.soft_value.max() - 1e-9 <= hoped.max() <= most + 1e-9
            gaps.append(float(np.abs(hoped - exact.soft_value).max()))
        assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.01 * gaps[0]


class TestFollower:
    """Certainty equivalence, as it plays."""

    def answers(self, game: TabularBilevelEnv, count: int, **options: Any) -> Any:
        made: Any = make_learner(COUNTING, game.model, options)
        made.reset(np.random.default_rng(0))
        for _ in range(count):
            answer = made.answer(game.initial_upper_params)
        return made, answer

    def test_a_reward_far_upstream_is_found(self) -> None:
        game = river_swim()
        by_chance = self.answers(game, 1, episodes=64, optimism=0.0, exploration=0.1)[1]
        found = self.answers(game, 1, episodes=64)[1]
        assert loss(game, found.policy) < 0.01 and loss(game, by_chance.policy) > 0.5
        assert found.samples <= by_chance.samples

    def test_a_frozen_lake_is_learnt(self) -> None:
        game: Any = gym.make("BilevelFrozenLake-v0", env_kwargs={"map_name": "8x8"}).unwrapped
        made, found = self.answers(game, 6)
        assert loss(game, found.policy) < 0.05
        assert made.state_dict()["samples"] < 100_000

    def test_what_is_answered_is_not_what_is_hoped_for(self) -> None:
        game = river_swim()
        made, answer = self.answers(game, 1, episodes=2, horizon=5)
        hoped = made.state_dict()["hoped"]
        assert (hoped > answer.soft_value).all()
        assert answer.soft_value.max() < 2.0 < hoped.max()  # the large reward was never seen
        assert (answer.policy > 0.0).all()  # of no action is it said that it cannot be

    def test_plans_are_renewed_as_more_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []

        class Watched(Sampler):
            def episodes(self, num_episodes: int, *others: Any) -> Any:
                asked.append(num_episodes)
                return super().episodes(num_episodes, *others)

        monkeypatch.setattr("bilevel_gym.model.tabular.Sampler", Watched)
        made, _ = self.answers(river_swim(), 1, episodes=24, horizon=3)
        assert asked == [1] * 8 + [2, 2, 3, 3, 4, 2]  # a quarter of those before, at least 1
        asked.clear()
        made.answer(np.full(10, 0.1))
        assert asked == [6, 7, 9, 2]
        made.reset(np.random.default_rng(0))
        asked.clear()
        made.answer(np.zeros(10))
        assert asked[:3] == [1, 1, 1]

    def test_every_step_is_charged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bilevel_gym.methods.learners.TransitionCounts", Noted)
        made, answer = self.answers(small_game(termination=0.2), 3, episodes=20)
        counted = sum(block.num_steps for block in answer.played)
        assert answer.samples == counted and counted > 0
        steps = Noted.made[-1].visits.sum()
        assert made.state_dict()["samples"] == steps > answer.samples

    def test_a_copy_goes_on_in_the_same_way(self) -> None:
        game = small_game(termination=0.2)
        made, _ = self.answers(game, 2, episodes=20, forget=0.3)
        copy: Any = make_learner(COUNTING, game.model, {"episodes": 20, "forget": 0.3})
        copy.load_state_dict(made.state_dict())
        x, found = game.initial_upper_params + 0.1, []
        for learner in (made, copy):
            learner._rng = np.random.default_rng(7)  # belongs to whoever seeds it
            found.append(learner.answer(x))
        np.testing.assert_array_equal(found[0].policy, found[1].policy)
        assert found[0].samples == found[1].samples


class TestMethods:
    """What a method watches is told to the follower."""

    @pytest.mark.parametrize("method", ["plug-in", "trace", "bc-hg", "sobirl"])
    def test_episodes_of_the_leader_count(self, method: str) -> None:
        game = small_game()
        made: Any = make_method(method, game, episodes=20, inner=COUNTING)
        made.reset(np.random.default_rng(0))
        samples = sum(made.step(game.initial_upper_params).samples for _ in range(2))
        assert made._learner._counts.visits.sum() == samples

    @pytest.mark.parametrize(("method", "revises"), [("plug-in", True), ("trace", False)])
    def test_off_policy_estimates_are_of_the_latest_answer(
        self, method: str, revises: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        played: list[FloatArray] = []
        game, sampler = small_game(), Sampler.__init__

        def noting(self: Any, kernel: Any, policy: FloatArray, *others: Any) -> None:
            played.append(policy)
            sampler(self, kernel, policy, *others)

        monkeypatch.setattr(Sampler, "__init__", noting)
        made: Any = make_method(method, game, episodes=20, inner=COUNTING)
        made.reset(np.random.default_rng(0))
        x = game.initial_upper_params
        response, counts = made.step(x), made._learner._counts
        watched, kernel = played[-1], neutral_kernel(counts.kernel(), counts.visits)
        latest = solve_soft_mdp(game.model.mdp_with(kernel, x)).policy
        np.testing.assert_allclose(response.policy, latest if revises else watched, atol=1e-9)
        assert np.abs(latest - watched).max() > 1e-3
