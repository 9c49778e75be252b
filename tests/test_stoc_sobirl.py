"""Stochastic SoBiRL: its schedule, what it counts, and where it converges to."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.episodes.sampler import Sampler
from bilevel_gym.methods import Method, make_method
from bilevel_gym.model.objectives import DiscountedReturn, Objective, PolicyCost, Sum
from bilevel_gym.model.preferences import PreferenceLikelihood

from .test_sampled_methods import small_game

pytestmark = pytest.mark.kernels


def errors(count: int, iterations: int, **options: Any) -> FloatArray:
    """Return the root mean square of relative errors over replicates, at a fixed x, `[K]`."""
    game = small_game(termination=0.2)
    exact = game.evaluate(game.initial_upper_params).hyper_gradient
    found = np.empty((count, iterations))
    method = make_method("stoc-sobirl", game, **options)
    for seed in range(count):
        method.reset(np.random.default_rng(seed))
        for k in range(iterations):
            estimate = method.step(game.initial_upper_params).hyper_gradient
            found[seed, k] = np.linalg.norm(estimate - exact)  # type: ignore[operator]
    return np.asarray(np.sqrt((found**2).mean(axis=0)) / np.linalg.norm(exact))


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
        found = errors(10, 16, episodes=16, **options)
        assert slope(found) == pytest.approx(rate, abs=0.25)

    def test_it_arrives(self) -> None:
        found = errors(3, 6, episodes=512, growth=2.0)
        assert found[-1] < 0.06 < found[0]

    def test_a_follower_learnt_by_soft_q_learning(self) -> None:
        found = errors(2, 5, episodes=64, growth=2.0, inner="soft-q")
        assert found[-1] < 0.5 * found[0]

    def test_on_preferences(self) -> None:
        true = np.random.default_rng(0).normal(size=(5, 3))
        game = small_game(objective=PreferenceLikelihood(true, 2, "expected"), temperature=1.0)
        exact = game.evaluate(game.initial_upper_params)
        method = make_method("stoc-sobirl", game, episodes=20_000, most_episodes=20_000)
        method.reset(np.random.default_rng(0))
        response = method.step(game.initial_upper_params)
        assert response.objective == pytest.approx(exact.objective, rel=0.02)
        assert response.hyper_gradient is not None
        error = np.linalg.norm(response.hyper_gradient - exact.hyper_gradient)
        assert error <= 0.1 * np.linalg.norm(exact.hyper_gradient)


class Watched(Sampler):
    """A sampler that notes how many episodes were asked for."""

    asked: list[int] = []

    def episodes(self, num_episodes: int, *others: Any) -> Any:
        Watched.asked.append(num_episodes)
        return super().episodes(num_episodes, *others)


class TestSchedule:
    """How many episodes are played, and when."""

    def asked(self, method: Method, x: FloatArray, iterations: int) -> list[list[int]]:
        found = []
        for _ in range(iterations):
            Watched.asked = []
            method.step(x)
            found.append(Watched.asked)
        return found

    def test_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bilevel_gym.model.tabular.Sampler", Watched)
        game = small_game()
        x = game.initial_upper_params
        method = make_method("stoc-sobirl", game, episodes=3, most_episodes=50)
        method.reset(np.random.default_rng(0))
        expected = [3, 8, 13, 20, 26, 33, 41, 48, 50, 50]  # 3 (k + 1)^(4/3), rounded up
        assert self.asked(method, x, 10) == [[count] * 3 for count in expected]
        method.reset(np.random.default_rng(0))
        assert self.asked(method, x, 2) == [[3] * 3, [8] * 3]
        # No second batch where no advantage goes beyond its first term.
        method = make_method("stoc-sobirl", game, episodes=3, truncation=1, growth=1)
        assert self.asked(method, x, 3) == [[3] * 2, [6] * 2, [9] * 2]

    def test_a_cube_is_no_more_than_its_power(self) -> None:
        method = make_method("stoc-sobirl", small_game(), episodes=1)
        counts = [method._batch(k**3 - 1) for k in range(1, 20)]  # type: ignore[attr-defined]
        assert counts == [k**4 for k in range(1, 12)] + [16_384] * 8

    def test_any_growth_ends_at_the_cap(self) -> None:
        method = make_method("stoc-sobirl", small_game(), growth=1e6)
        assert method._batch(0) == 64  # type: ignore[attr-defined]
        assert method._batch(1000) == 16_384  # type: ignore[attr-defined]

    def test_reset_begins_again(self) -> None:
        game = small_game()
        x = game.initial_upper_params
        method = make_method("stoc-sobirl", game, episodes=5)

        def run(seed: int) -> list[Any]:
            method.reset(np.random.default_rng(seed))
            found = [method.step(y) for y in (x, 0.5 * x, x)]
            return [(r.samples, r.hyper_gradient.tobytes()) for r in found]  # type: ignore[union-attr]

        first = run(1)
        assert run(2) != first
        assert run(1) == first

    @pytest.mark.parametrize("inner", ["certainty-equivalence", "soft-q"])
    def test_samples_are_what_was_played(self, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
        played = 0

        class Counted(Sampler):
            def episodes(self, *arguments: Any) -> Any:
                nonlocal played
                for block in super().episodes(*arguments):
                    played += block.num_steps
                    yield block

        monkeypatch.setattr("bilevel_gym.model.tabular.Sampler", Counted)
        objective: Objective = Sum((DiscountedReturn(), DiscountedReturn(0.5)))
        game = small_game(termination=0.2, objective=objective)
        env = HyperGradient(game, method="stoc-sobirl", episodes=6, inner=inner)
        _, info = env.reset(seed=3)
        assert info["inner_samples"] == played > 0
        played = 0
        more = env.step(info["upper_params"] * 0.5)[-1]["inner_samples"]
        assert more == played > 1.5 * info["inner_samples"]

    def test_the_learner_counts_what_the_estimator_played(self) -> None:
        game = small_game()
        method = make_method("stoc-sobirl", game, episodes=50, growth=0)
        method.reset(np.random.default_rng(0))
        samples = sum(method.step(game.initial_upper_params).samples or 0 for _ in range(3))
        counts = method._learner._counts  # type: ignore[attr-defined]
        assert counts.visits.sum() == samples


def test_it_does_what_sobirl_does_with_the_same_policy_and_batch() -> None:
    # A learner that has seen this much leaves its mark on neither.
    game = small_game(objective=Sum((DiscountedReturn(), PolicyCost(0.3))))
    x, estimates = game.initial_upper_params, []
    exact = game.evaluate(x).hyper_gradient
    for name, options in (
        ("stoc-sobirl", {"episodes": 40_000, "most_episodes": 40_000}),
        ("sobirl", {"episodes": 40_000}),
    ):
        method = make_method(name, game, **options)
        method.reset(np.random.default_rng(0))
        found = method.step(x).hyper_gradient
        assert found is not None
        estimates.append(found)
    for estimate in estimates:
        assert np.linalg.norm(estimate - exact) <= 0.15 * np.linalg.norm(exact)


def test_options_are_json() -> None:
    options = {"episodes": 4, "growth": 1.5, "most_episodes": 100, "inner": "soft-q"}
    options |= {"inner_options": {"passes": 2}, "baseline": False, "truncation": 3}
    method = make_method("stoc-sobirl", small_game(), **json.loads(json.dumps(options)))
    method.reset(np.random.default_rng(0))
    response = method.step(small_game().initial_upper_params)
    assert np.isfinite(response.hyper_gradient).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"episodes": 0}, ValueError, "`episodes` must be an integer of at least 1, got 0"),
        ({"growth": -1.0}, ValueError, "`growth` must be finite and not negative, got -1.0"),
        ({"growth": "fast"}, ValueError, "`growth`.*got 'fast'"),
        ({"most_episodes": 63}, ValueError, "`most_episodes`.*at least 64, got 63"),
        ({"inner": "exact"}, ValueError, "`inner` must be.*'soft-q', got 'exact'.*'sobirl'"),
        ({"inner": "sweeps"}, ValueError, "`inner` must be.*got 'sweeps'"),
        ({"inner": "softq"}, ValueError, "unknown inner learner 'softq'.*'soft-q'"),
        ({"inner_options": {"episodes": 9}}, ValueError, "`inner_options` must leave.*9"),
        ({"inner_options": {"sweeps": 9}}, TypeError, "'certainty-equivalence'.*'sweeps'"),
        ({"grow": 1}, TypeError, "'grow'.*Did you mean 'growth'"),
        ({"truncation": 0}, ValueError, "`truncation`.*at least 1, got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_method("stoc-sobirl", small_game(), **options)
