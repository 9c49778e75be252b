"""Leaders who judge pairs of fragments: exact by enumeration, and estimated from episodes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from bilevel_gym.core.mdp import Kernel
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.methods import ExactResponse, make_method
from bilevel_gym.methods.amd import AMD
from bilevel_gym.methods.m_sobirl import MSoBiRL
from bilevel_gym.model.objectives import DiscountedReturn, QuadraticCost, Sum
from bilevel_gym.model.preferences import MOST_FRAGMENTS, PreferenceLikelihood

from .benchmarks.preferences import (
    ESTIMATORS,
    HORIZON,
    preference_game,
    relative_variance,
    responses,
)
from .helpers import refusals
from .models import numeric_gradient, relative_error
from .small_games import (
    FEATURES,
    MASK,
    START,
    TRUE,
    Hidden,
    Moved,
    assert_unbiased,
    exact_parts,
    judged_game,
    replicates,
    small_game,
)

pytestmark = pytest.mark.kernels


CASES: dict[str, dict[str, Any]] = {
    "one step": {"horizon": 1},
    "two steps": {"horizon": 2},
    "three steps": {"horizon": 3},
    "cold": {"temperature": 0.3},
    "masked": {"action_mask": MASK},
    "moved": {"kind": Moved},
    "sum": {
        "objective": Sum((PreferenceLikelihood(TRUE, 2), DiscountedReturn(0.7), QuadraticCost(0.3)))
    },
}


class TestExact:
    """By enumeration of all fragments."""

    @pytest.mark.parametrize("name", CASES)
    def test_the_hyper_gradient_is_the_derivative(self, name: str) -> None:
        game = judged_game(**CASES[name])
        answer = game.evaluate(START)
        assert np.linalg.norm(answer.hyper_gradient - answer.direct_gradient) > 1e-4
        found = numeric_gradient(lambda x: game.evaluate(x).objective, START, 1e-4)
        np.testing.assert_allclose(found, answer.hyper_gradient, rtol=0.0, atol=1e-8)

    @pytest.mark.parametrize("mask", [None, MASK])
    def test_the_value_is_that_of_a_plain_loop(self, mask: Any) -> None:
        game = judged_game(2, action_mask=mask)
        answer, kernel = game.evaluate(START), game.kernel(START)
        dense, reward = kernel.to_dense(), game.reward(START)
        fragments = []
        for s, a in product(range(3), range(2)):
            first = game.initial_distribution[s] * answer.policy[s, a]
            fragments.append((first * (1.0 - dense[s, a].sum()), TRUE[s, a], reward[s, a]))
            for t, b in product(range(3), range(2)):
                chance = first * dense[s, a, t] * answer.policy[t, b]
                fragments.append((chance, TRUE[s, a] + TRUE[t, b], reward[s, a] + reward[t, b]))
        assert sum(chance for chance, _, _ in fragments) == pytest.approx(1.0)
        expected = 0.0
        for (p, true, designed), (q, other, against) in product(fragments, repeat=2):
            prefers = expit(true - other)
            expected += p * q * prefers * np.log(expit(designed - against))
            expected += p * q * (1.0 - prefers) * np.log(expit(against - designed))
        assert answer.objective == pytest.approx(expected, rel=1e-12)

    def test_actions_that_share_moves_are_actions(self) -> None:
        rng = np.random.default_rng(0)
        moves = Kernel.from_dense(0.9 * rng.dirichlet(np.ones(3), size=(3, 2)))
        made = moves.with_moves([1, 0, 1])
        answers: list[ExactResponse] = []
        for kernel in (made, made.expanded()):
            game = TabularBilevelEnv.from_arrays(
                kernel,
                np.arange(9.0).reshape(3, 3) / 9.0,
                upper_reward=np.zeros((3, 3)),
                initial_distribution=[0.2, 0.3, 0.5],
            )
            game.objective = PreferenceLikelihood(np.eye(3), 3)
            answers.append(game.evaluate([0.1, -0.2, 0.3]))
        assert answers[0].objective == pytest.approx(answers[1].objective, rel=1e-12)
        np.testing.assert_allclose(answers[0].hyper_gradient, answers[1].hyper_gradient, rtol=1e-10)

    @pytest.mark.parametrize("name", ["three steps", "cold"])
    def test_the_error_bound_holds(self, name: str) -> None:
        game = judged_game(**CASES[name])
        exact = game.evaluate(START)
        assert exact.gradient_error_bound < 1e-5
        for tolerance in (1e-3, 1e-5, 1e-7):
            answer = game.evaluate(START, tolerance=tolerance, max_iterations=200)
            through = [a.hyper_gradient - a.direct_gradient for a in (answer, exact)]
            error = np.abs(through[0] - through[1]).max()
            assert error <= answer.gradient_error_bound * np.abs(FEATURES).max() + 1e-12

    def test_methods_with_a_model_converge_to_it(self) -> None:
        game = judged_game(3)
        exact = game.evaluate(START)
        for method in (
            MSoBiRL(game.model, sweeps=200, adjoint_steps=2000),
            AMD(game.model, sweeps=200),
        ):
            method.reset(np.random.default_rng(0))
            for _ in range(8):
                found = method.step(START)
            assert relative_error(found.hyper_gradient, exact.hyper_gradient) <= 1e-8  # type: ignore[arg-type]
            assert found.objective == pytest.approx(exact.objective, rel=1e-10)


class TestSampled:
    """From pairs of fragments that were played."""

    def test_a_drawn_answer_is_for_one_fragment_and_an_expected_one_for_both(self) -> None:
        game = judged_game(2)
        reward, policy = game.reward(START), game.evaluate(START).policy
        (played,) = game.model.sampler(START, policy).episodes(41, 5, np.random.default_rng(0))
        true, designed = (
            played.along(table)[:2].sum(axis=0)[:40].reshape(20, 2) @ [1.0, -1.0]
            for table in (TRUE, reward)
        )
        drawn, expected = (
            PreferenceLikelihood(TRUE, 2, answers).compare(played, reward, np.random.default_rng(1))
            for answers in ("drawn", "expected")
        )
        np.testing.assert_allclose(expected.slopes, expit(true) - expit(designed), atol=1e-14)
        preferred = drawn.slopes + expit(designed)
        assert {*preferred.round(12)} == {0.0, 1.0}
        signs = 2.0 * preferred - 1.0
        np.testing.assert_allclose(drawn.likelihoods, np.log(expit(signs * designed)), atol=1e-12)

    @pytest.mark.parametrize("advantages", ["seen", "exact"])
    @pytest.mark.parametrize("answers", ["drawn", "expected"])
    def test_unbiased(self, answers: str, advantages: str) -> None:
        game = judged_game(3, objective=PreferenceLikelihood(TRUE, 3, answers))
        exact, response = exact_parts(game)
        values, found, direct = replicates(game, "sobirl", 20, episodes=4097, advantages=advantages)
        assert_unbiased(values, exact.objective, precision=0.005)
        assert_unbiased(direct, exact.direct_gradient, precision=0.02)
        bias = 0.02 if advantages == "seen" else 0.0
        assert_unbiased(found, response, precision=0.06, bias=bias)

    def test_unbiased_without_a_baseline(self) -> None:
        game = preference_game(0, 0.5)
        found = responses(game, 300, **ESTIMATORS["l dA, dA exact"])
        assert_unbiased(found, exact_parts(game)[1], precision=0.2)

    @pytest.mark.parametrize("answers", ["drawn", "expected"])
    @pytest.mark.parametrize("temperature", [0.5, 0.1])
    def test_the_baseline_cuts_the_variance_fivefold(
        self, temperature: float, answers: str
    ) -> None:
        ratios = []
        for seed in range(7):
            game = preference_game(seed, temperature, answers=answers)
            response = exact_parts(game)[1]
            raw, with_baseline = (
                relative_variance(responses(game, 20, **ESTIMATORS[label]), response)
                for label in ("l dA, dA exact", "(l - b) dA, dA exact")
            )
            ratios.append(raw / with_baseline)
        assert np.median(ratios) >= 5.0

    def test_the_model_is_hidden(self) -> None:
        game = small_game(kind=Hidden, masked=True)
        true = np.random.default_rng(0).normal(size=(5, 3))
        game.objective = Sum((PreferenceLikelihood(true, 4), DiscountedReturn()))
        method = make_method(
            "sobirl",
            game,
            episodes=17,
            inner="certainty-equivalence",
            inner_options={"episodes": 10},
        )
        method.reset(np.random.default_rng(0))
        response = method.step(game.initial_upper_params)
        assert np.isfinite(response.hyper_gradient).all()  # type: ignore[arg-type]

    def test_games_too_large_to_enumerate_can_be_sampled(self) -> None:
        game = small_game(objective=PreferenceLikelihood(np.ones((5, 3)), 30))
        with pytest.raises(ValueError, match=f"at most {MOST_FRAGMENTS} fragments.*got .* or more"):
            game.evaluate(game.initial_upper_params)
        response = make_method("sobirl", game, episodes=8).step(game.initial_upper_params)
        assert -20.0 < response.objective < 0.0

    def test_a_horizon_covers_fragments(self) -> None:
        game = small_game(gamma=0.1, objective=PreferenceLikelihood(np.ones((5, 3)), 30))
        response = make_method("sobirl", game, episodes=4, advantages="exact").step(
            game.initial_upper_params
        )
        assert response.samples == 4 * 30


@pytest.mark.parametrize("method", ["trace", "bc-hg", "hpgd"])
def test_methods_that_need_a_sum_over_steps_refuse(method: str) -> None:
    with pytest.raises(TypeError, match='ArrayModel evaluates pairs.*method "sobirl"'):
        make_method(method, judged_game(2))


test_bad_objectives_are_named = refusals(
    lambda **options: PreferenceLikelihood(**{"true_reward": TRUE, "horizon": 2, **options}),
    ({"horizon": 0}, "`horizon` must be an integer of at least 1, got 0"),
    ({"true_reward": np.full((3, 2), np.nan)}, "`true_reward` must be finite"),
    ({"true_reward": np.ones(3)}, "`true_reward` must have shape"),
    ({"answers": "drwn"}, "unknown answers 'drwn'.*Did you mean 'drawn'"),
    ({"answers": ["drawn"]}, "unknown answers"),
)


def test_a_reward_of_another_shape() -> None:
    game = judged_game(objective=PreferenceLikelihood(np.ones((2, 2)), 2))
    for judge in (game.evaluate, make_method("sobirl", game, episodes=4, inner="soft-q").step):
        with pytest.raises(ValueError, match=r"`true_reward`.*\(3, 2\), got \(2, 2\)"):
            judge(START)


test_bad_options_are_named = refusals(
    lambda **options: make_method("sobirl", preference_game(0, 0.5), **options),
    ({"episodes": 1}, "`episodes` must be an integer of at least 2, got 1"),
    ({"horizon": HORIZON - 1}, "`horizon` must be an integer of at least 4, got 3"),
    ({"advantages": "sen"}, "unknown advantages 'sen'.*Did you mean 'seen'"),
    ({"advantages": "exact", "truncation": 2}, "`truncation` must be None.*got 2"),
)
