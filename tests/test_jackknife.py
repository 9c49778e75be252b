"""Standard errors by leaving out groups of episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bilevel_gym.episodes.sampler import Episodes
from bilevel_gym.methods import make_method
from bilevel_gym.methods.jackknife import GROUPS, Recorder, left_out, standard_errors
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.objectives import DiscountedReturn, PolicyCost, Sum

from .helpers import refusals
from .small_games import GAMES, exact_parts, small_game

pytestmark = pytest.mark.kernels


def blocks_of(count: int) -> list[Episodes]:
    """Return episodes of a small game."""
    game = small_game()
    x = game.initial_upper_params
    sampler = game.model.sampler(x, game.evaluate(x).policy)
    return list(sampler.episodes(count, 6, np.random.default_rng(0)))


@pytest.mark.parametrize("method", ["trace", "bc-hg", "hpgd", "sobirl"])
@pytest.mark.parametrize("name", ["ending", "leader's horizon"])
def test_standard_errors_are_true(method: str, name: str) -> None:
    game = small_game(**GAMES[name])
    exact, _ = exact_parts(game)
    learner: Any = make_method(method, game, episodes=512)
    found = []
    for seed in range(24):
        learner.reset(np.random.default_rng(seed))
        found.append(learner.step(game.initial_upper_params))
    errors = np.stack([f.hyper_gradient for f in found]) - exact.hyper_gradient
    bars = np.stack([f.hyper_gradient_se for f in found])
    assert 0.7 < np.square(errors).sum() / np.square(bars).sum() < 1.5
    values = np.array([(f.objective - exact.objective) / f.objective_se for f in found])
    assert 0.5 < np.square(values).mean() < 1.8


@pytest.mark.parametrize("method", ["trace", "bc-hg", "hpgd", "sobirl", "stoc-sobirl"])
def test_they_change_nothing_else(method: str) -> None:
    terms = DiscountedReturn(), DiscountedReturn(0.5), PolicyCost(0.3)
    game = small_game(termination=0.2, objective=Sum(terms))
    answers = []
    for error_bars in (True, False):
        learner: Any = make_method(
            method, game, episodes=20, inner="certainty-equivalence", error_bars=error_bars
        )
        learner.reset(np.random.default_rng(4))
        answers.append([learner.step(game.initial_upper_params + by) for by in (0.0, 0.1, 0.0)])
    for with_bars, without in zip(*answers, strict=True):
        np.testing.assert_array_equal(with_bars.hyper_gradient, without.hyper_gradient)
        assert with_bars.samples == without.samples
        assert with_bars.objective == without.objective
        assert with_bars.hyper_gradient_se.any() and without.hyper_gradient_se is None


def test_where_groups_do_not_tell_the_same_nothing_is_said() -> None:
    uniform: Any = make_method("hpgd", small_game(), episodes=20, starts="uniform")
    assert uniform.step(np.zeros(15)).hyper_gradient_se is None
    single: Any = make_method("trace", small_game(), episodes=1)
    answer = single.step(np.zeros(15))
    assert answer.objective_se is None
    assert answer.hyper_gradient_se is None and answer.hyper_gradient_cosine is None


def test_groups_are_as_even_as_can_be() -> None:
    (block,) = blocks_of(21)
    sizes = [left_out([block], group, GROUPS)[0].num_episodes for group in range(GROUPS)]
    assert sizes == [18] * 5 + [19] * 3
    (rest,) = left_out([block], 2, GROUPS)
    np.testing.assert_array_equal(rest.pairs[:, :3], block.pairs[:, [0, 1, 3]])
    np.testing.assert_array_equal(rest.upper_rewards[:, :3], block.upper_rewards[:, [0, 1, 3]])


def test_what_was_played_is_played_again() -> None:
    game = small_game()
    x = game.initial_upper_params
    recorder = Recorder(game.model.sampler(x, game.evaluate(x).policy))
    rng = np.random.default_rng(0)
    (first,) = recorder.episodes(9, 4, rng)
    (second,) = recorder.episodes_from(np.arange(5), np.zeros(5, int), 4, rng)
    again = recorder.without(0, 3)
    (found,) = again.episodes(9, 4, rng)
    np.testing.assert_array_equal(found.pairs, first.pairs[:, [1, 2, 4, 5, 7, 8]])
    (found,) = again.episodes_from(np.arange(5), np.zeros(5, int), 4, rng)
    np.testing.assert_array_equal(found.final_states, second.final_states[[1, 2, 4]])


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=(16, 3))
    estimates = [np.delete(values, group, axis=0).mean(axis=0) for group in range(16)]
    expected = values.std(axis=0, ddof=1) / 4.0
    np.testing.assert_allclose(standard_errors(estimates), expected)


def test_where_nothing_varies_the_error_is_unknown() -> None:
    rewards = np.full((5, 3), 0.3)
    dull = small_game(kind=ArrayModel, upper_reward=rewards, **GAMES["leader's horizon"])
    learner: Any = make_method("trace", dull, episodes=64)
    answer = learner.step(np.zeros(15))
    assert answer.objective_se is None
    # What is left of a hyper-gradient of zero is rounding, as is its error.
    np.testing.assert_allclose(answer.hyper_gradient, 0.0, atol=1e-14)
    assert answer.hyper_gradient_se is None or answer.hyper_gradient_se.max() < 1e-14


class TestAutomatic:
    """Episodes are played until the direction is significant."""

    def test_more_are_played_where_less_is_known(self) -> None:
        numbers = {}
        for temperature in (2.0, 0.1):
            game = small_game(temperature=temperature)
            learner: Any = make_method("bc-hg", game, episodes="auto", most_episodes=256, horizon=9)
            answers = []
            for seed in range(6):
                learner.reset(np.random.default_rng(seed))
                answers.append(learner.step(game.initial_upper_params))
            numbers[temperature] = [answer.samples // 9 for answer in answers]
            assert all(a.hyper_gradient_cosine >= 0.8 or a.samples == 256 * 9 for a in answers)
        assert {*numbers[2.0]} <= {32, 64} < {*numbers[0.1], 32}

    @pytest.mark.parametrize("method", ["plug-in", "trace"])
    def test_pooled_counts_need_fewer(self, method: str) -> None:
        game = small_game(temperature=0.05)
        learner: Any = make_method(method, game, episodes="auto")
        learner.reset(np.random.default_rng(2))
        found = [learner.step(game.initial_upper_params) for _ in range(8)]
        again: Any = make_method(method, game, episodes=64)
        again.reset(np.random.default_rng(2))
        again.step(game.initial_upper_params)
        assert all(f.hyper_gradient_cosine >= 0.8 for f in found)
        assert found[-1].samples <= found[0].samples

    def test_nothing_is_counted_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bilevel_gym.methods.sampled.SIGNIFICANT", 2.0)
        game = small_game()
        options = {"episodes": "auto", "most_episodes": 64, "horizon": 9}
        learner: Any = make_method("plug-in", game, **options)
        samples = learner.step(game.initial_upper_params).samples
        assert samples == 64 * 9
        assert learner.state_dict()["seen"]["counts"]["weights"].sum() == samples

    def test_what_is_played_at_once_or_in_turn_counts_the_same(self) -> None:
        game = small_game()
        one: Any = make_method("plug-in", game, episodes="auto", most_episodes=32)
        other: Any = make_method("plug-in", game, episodes=32)
        for learner in (one, other):
            learner.reset(np.random.default_rng(3))
        np.testing.assert_array_equal(*(m.step(np.zeros(15)).hyper_gradient for m in (one, other)))

    test_what_does_not_suit_is_refused = staticmethod(
        refusals(
            lambda method, **options: make_method(
                method, small_game(), **{"episodes": "auto", **options}
            ),
            ({"method": "trace", "error_bars": False}, "`episodes` must be a number.*got 'auto'"),
            ({"method": "hpgd", "starts": "uniform"}, "`episodes` must be a number.*got 'auto'"),
            ({"method": "trace", "most_episodes": 31}, "`most_episodes`.*at least 32, got 31"),
            ({"method": "stoc-sobirl"}, "`episodes` must be an integer.*got 'auto'"),
            ({"method": "trace", "episodes": "many"}, "`episodes` must be.*got 'many'"),
        )
    )
