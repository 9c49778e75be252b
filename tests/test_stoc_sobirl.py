"""Stochastic SoBiRL: its schedule, what it counts, and where it converges to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.episodes.sampler import Sampler
from bilevel_gym.methods import Method, make_method
from bilevel_gym.model.objectives import DiscountedReturn, Objective, PolicyCost, Sum
from bilevel_gym.model.preferences import PreferenceLikelihood

from .small_games import SHAPE, exact_parts, replicates, small_game
from .test_trace_variance import Noted

pytestmark = pytest.mark.kernels


def errors(count: int, iterations: int, **options: Any) -> FloatArray:
    """Return the root mean square of relative errors over replicates, at a fixed x, `[K]`."""
    game = small_game(termination=0.2)
    exact, found = exact_parts(game)[0].hyper_gradient, []
    for seed in range(count):
        _, response, direct = replicates(game, "stoc-sobirl", iterations, seed, **options)
        found.append(np.linalg.norm(response + direct - exact, axis=1))
    return np.asarray(np.sqrt(np.mean(np.square(found), axis=0)) / np.linalg.norm(exact))


def slope(values: FloatArray, first: int = 2) -> float:
    """Return the slope of values against iterations in double logarithmic scale."""
    iterations = np.arange(1, len(values) + 1)
    return float(np.polyfit(np.log(iterations[first:]), np.log(values[first:]), 1)[0])


class TestConvergence:
    """At a fixed x the estimates become exact, at the rate of the schedule."""

    @pytest.mark.parametrize(
        ("options", "rate"),
        [({}, -2.0 / 3.0), ({"growth": 1.0}, -0.5), ({"growth": 0.0}, 0.0)],
        ids=["4/3", "1", "0"],
    )
    def test_the_error_falls_as_the_batch_grows(self, options: dict[str, Any], rate: float) -> None:
        found = errors(8, 12, episodes=16, **options)
        assert slope(found) == pytest.approx(rate, abs=0.25)

    def test_it_arrives(self) -> None:
        found = errors(3, 6, episodes=512, growth=2.0)
        assert found[-1] < 0.07 < found[0]

    def test_a_follower_learnt_by_soft_q_learning(self) -> None:
        found = errors(2, 5, episodes=64, growth=2.0, inner="soft-q")
        assert found[-1] < 0.5 * found[0]

    @pytest.mark.parametrize("on_preferences", [True, False])
    def test_one_large_batch(self, on_preferences: bool) -> None:
        objective: Objective = Sum((DiscountedReturn(), PolicyCost(0.3)))
        if on_preferences:
            true = np.random.default_rng(0).normal(size=SHAPE)
            objective = PreferenceLikelihood(true, 2, "expected")
        game = small_game(objective=objective, temperature=1.0 if on_preferences else 0.5)
        exact, response = exact_parts(game)
        # A learner that has seen this much leaves its mark on neither.
        for name, cap in (("stoc-sobirl", {"most_episodes": 20_000}), ("sobirl", {})):
            values, found, direct = replicates(game, name, 1, 0, episodes=20_000, **cap)
            assert values[0] == pytest.approx(exact.objective, rel=0.02)
            error = np.linalg.norm(found[0] + direct[0] - exact.hyper_gradient)
            assert error <= (0.1 if on_preferences else 0.15) * np.linalg.norm(exact.hyper_gradient)


class Watched(Sampler):
    """A sampler that notes how many episodes were asked for."""

    asked: list[int] = []

    def episodes(self, num_episodes: int, *others: Any) -> Any:
        Watched.asked.append(num_episodes)
        return super().episodes(num_episodes, *others)


# A learner whose rounds follow one plan each.
ONE_PLAN: dict[str, Any] = {"inner_options": {"optimism": 0.0}}


class TestSchedule:
    """How many episodes are played, and when."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
        monkeypatch.setattr("bilevel_gym.model.tabular.Sampler", Watched)

        def asked(method: Method, iterations: int) -> list[list[int]]:
            """Return what some steps after a reset ask for."""
            method.reset(np.random.default_rng(0))
            found = []
            for _ in range(iterations):
                Watched.asked = []
                method.step(np.zeros(15))
                found.append(Watched.asked)
            return found

        return asked

    def test_batches(self, asked: Callable[..., list[list[int]]]) -> None:
        method = make_method("stoc-sobirl", small_game(), episodes=3, most_episodes=50, **ONE_PLAN)
        expected = [3, 8, 13, 20, 26, 33, 41, 48, 50, 50]  # 3 (k + 1)^(4/3), rounded up
        for count in (10, 2):
            assert asked(method, count) == [[number] * 3 for number in expected[:count]]
        # No second batch where no advantage goes beyond its first term.
        options = {"episodes": 3, "truncation": 1, "growth": 1, **ONE_PLAN}
        method = make_method("stoc-sobirl", small_game(), **options)
        assert asked(method, 3) == [[3] * 2, [6] * 2, [9] * 2]

    def test_a_cube_is_no_more_than_its_power(self, asked: Callable[..., list[list[int]]]) -> None:
        options = {"episodes": 1, "horizon": 1, "truncation": 1, **ONE_PLAN}
        method = make_method("stoc-sobirl", small_game(), **options)
        for k, (count, _) in enumerate(asked(method, 126), start=1):
            assert (count - 1) ** 3 < k**4 <= count**3

    def test_any_growth_ends_at_the_cap(self, asked: Callable[..., list[list[int]]]) -> None:
        options = {"growth": 1e6, "horizon": 1, "truncation": 1, **ONE_PLAN}
        method = make_method("stoc-sobirl", small_game(), **options)
        assert asked(method, 2) == [[64] * 2, [16_384] * 2]

    def test_the_learner_counts_what_the_estimator_played(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bilevel_gym.methods.learners.TransitionCounts", Noted)
        game = small_game()
        method = make_method("stoc-sobirl", game, episodes=50, growth=0)
        method.reset(np.random.default_rng(0))
        samples = sum(method.step(game.initial_upper_params).samples or 0 for _ in range(3))
        assert Noted.made[-1].visits.sum() == samples
