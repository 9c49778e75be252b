"""The control variate of the trace: whatever its model, the mean stays; the variance falls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.episodes.sampler import BLOCK, TransitionCounts
from bilevel_gym.methods import make_method

from .benchmarks.estimators import PLACINGS, cosine, four_rooms
from .models import random_mdp
from .small_games import GAMES, SHAPE, assert_unbiased, exact_parts, replicates, small_game

COUNTS = "bilevel_gym.methods.trace.TransitionCounts"


class Misled(TransitionCounts):
    """A model that learns nothing and is wrong."""

    def kernel(self) -> Kernel:
        states, actions = self.visits.shape
        return random_mdp(77, num_states=states, num_actions=actions).kernel


class Noted(TransitionCounts):
    """A model that is listed."""

    made: list[Noted] = []

    def __init__(self, *size: int) -> None:
        super().__init__(*size)
        Noted.made.append(self)


class Own(Noted):
    """A model that makes each half of the episodes correct itself."""

    def kernel(self) -> Kernel:
        return TransitionCounts.kernel(Noted.made[Noted.made.index(self) ^ 1])


def few_episodes(game: Any) -> FloatArray:
    """Return 400 response terms of four episodes `[R, D]`, nothing remembered between two."""
    method = make_method("trace", game, critic="exact", episodes=4, horizon=40)
    rng, found = np.random.default_rng(5), []
    for _ in range(400):
        method.reset(rng)
        answer: Any = method.step(game.initial_upper_params)
        found.append(answer.hyper_gradient - answer.direct_gradient)
    return np.stack(found)


@pytest.mark.parametrize("name", GAMES)
def test_a_wrong_model_leaves_the_mean_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    game = small_game(**GAMES[name])
    options: dict[str, Any] = {"critic": "exact", "episodes": 1024}
    _, right, _ = replicates(game, "trace", 2, **options)
    monkeypatch.setattr(COUNTS, Misled)
    _, found, _ = replicates(game, "trace", 15, **options)
    assert np.abs(found[0] - right[0]).max() > 1e-3 * np.abs(right[0]).max()  # it is used
    assert_unbiased(found, exact_parts(game)[1], precision=0.04, bias=5e-4)


def test_a_model_of_few_episodes_does_too_if_they_are_not_those_it_corrects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    game = small_game(termination=0.3)
    exact = exact_parts(game)[1]
    assert_unbiased(few_episodes(game), exact, precision=0.08, bias=5e-4)
    monkeypatch.setattr(Noted, "made", [])
    monkeypatch.setattr(COUNTS, Own)
    with pytest.raises(AssertionError):
        assert_unbiased(few_episodes(game), exact, precision=0.08, bias=5e-4)


def test_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    game = small_game(masked=True)  # with an entry of x for each pair: dF/dx is q
    model = random_mdp(77, num_states=SHAPE[0], num_actions=SHAPE[1]).kernel
    monkeypatch.setattr(COUNTS, Misled)
    _, found, _ = replicates(game, "trace", 1, episodes=9)
    _, averaged, _ = replicates(game, "trace", 1, episodes=9, control_variate=False)
    _, taken, _ = replicates(game, "bc-hg", 1, episodes=9)
    policy = game.evaluate(game.initial_upper_params).policy
    luck = (taken[0] - averaged[0]).reshape(SHAPE)
    system = np.eye(SHAPE[0]) - game.gamma * model.policy_matrix(policy).toarray()
    arrived = game.gamma * np.einsum("sa,sat->t", luck, model.to_dense())
    followed = policy * np.linalg.solve(system.T, arrived)[:, None]
    assert np.abs(followed).max() > 1e-3
    np.testing.assert_allclose(found[0], averaged[0] - followed.ravel(), atol=1e-9)


@pytest.mark.parametrize(("goal", "target"), PLACINGS)
@pytest.mark.parametrize("per_action", [True, False])
def test_what_it_is_for(per_action: bool, goal: tuple[int, int], target: tuple[int, int]) -> None:
    """256 episodes of four rooms, and nothing seen before them."""
    game = four_rooms(per_action=per_action, goal=goal, target=target)
    exact = game.evaluate(game.initial_upper_params).hyper_gradient
    found, variance = {}, {}
    for with_it in (True, False):
        method = make_method("trace", game, control_variate=with_it)
        estimates = []
        for replicate in range(20):
            method.reset(np.random.default_rng([256, replicate]))
            estimates.append(method.step(game.initial_upper_params).hyper_gradient)
        found[with_it] = np.stack(estimates)  # type: ignore[arg-type]
        variance[with_it] = found[with_it].var(axis=0).sum()
    assert variance[True] <= 0.7 * variance[False]
    assert np.mean([cosine(estimate, exact) for estimate in found[True]]) >= 0.98


@pytest.mark.parametrize("options", [{"truncation": 3}, {"all_actions": False}])
def test_other_forms_go_without(options: dict[str, Any]) -> None:
    game = small_game()
    with_it, without = (
        replicates(game, "trace", 2, episodes=9, control_variate=flag, **options)[1]
        for flag in (True, False)
    )
    np.testing.assert_array_equal(with_it, without)


@pytest.mark.parametrize("episodes", [1, 2, BLOCK + 1])
def test_any_number_of_episodes_has_two_halves(
    episodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(COUNTS, Noted)
    monkeypatch.setattr("bilevel_gym.methods.episode_sums.TransitionCounts", Noted)
    game = small_game(termination=0.3)
    method: Any = make_method("trace", game, episodes=episodes, horizon=3)  # which cuts some
    models = Noted.made[-3:]
    for _ in range(2):
        response = method.step(game.initial_upper_params)
        assert np.isfinite(response.hyper_gradient).all()
        together, *halves = (
            counts.visits[:, :, None] * counts.kernel().to_dense() for counts in models
        )
        np.testing.assert_allclose(halves[0] + halves[1], together, atol=1e-9)
        assert halves[0].any() == (episodes > 1) and halves[1].any()
