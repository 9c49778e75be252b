"""The plug-in estimator and its standard errors, against the exact hyper-gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bilevel_gym import HyperGradient
from bilevel_gym.core.linear import DiscountedSystem
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.episodes.sampler import Sampler, TransitionCounts
from bilevel_gym.methods import make_method
from bilevel_gym.methods.error_bars import Changes
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LogLikelihood,
    Objective,
    Outcome,
    PolicyCost,
    QuadraticCost,
    Sum,
    TruncatedReturn,
    UpperValue,
)

from .helpers import refusals
from .models import random_mdp
from .small_games import COUNTS, GAMES, PaidByX, exact_parts, small_game

pytestmark = pytest.mark.kernels


def answers(game: Any, count: int, seed: int = 5, **options: Any) -> list[Any]:
    """Return answers to the initial x, each from new episodes."""
    method: Any = make_method("plug-in", game, **options)
    method.reset(np.random.default_rng(seed))
    return [method.step(game.initial_upper_params) for _ in range(count)]


# The estimate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        DiscountedReturn(),
        DiscountedReturn(0.6),
        TruncatedReturn(4, gamma=1.0),
        Sum((PolicyCost(0.2), TruncatedReturn(3), LogLikelihood(COUNTS), QuadraticCost(0.3))),
    ],
    ids=["return", "far-sighted", "truncated", "sum"],
)
def test_it_is_exact_where_what_was_seen_is_the_game(objective: Objective) -> None:
    # Every action has one successor, and there is one first state: frequencies are probabilities.
    rng = np.random.default_rng(3)
    transition = np.eye(5)[rng.integers(0, 5, size=(5, 3))]
    transition[2, 1] = 0.0  # the end
    transition[0] = np.eye(5)[[1, 2, 3]]
    transition[3, 0] = np.eye(5)[4]
    game = small_game(
        objective=objective,
        transition=transition,
        initial_distribution=np.eye(5)[0],
        temperature=3.0,
    )
    exact = game.evaluate(game.initial_upper_params)
    (found,) = answers(game, 1, episodes=4000)
    assert found.coverage == 1.0
    np.testing.assert_allclose(found.objective, exact.objective, rtol=1e-9)
    np.testing.assert_allclose(found.direct_gradient, exact.direct_gradient, atol=1e-9)
    np.testing.assert_allclose(found.hyper_gradient, exact.hyper_gradient, atol=1e-9)
    # It is not known to be exact: another try might have led elsewhere.
    assert found.hyper_gradient_se.any() and 0.99 < found.hyper_gradient_cosine < 1.0


def test_transitions_of_all_x_are_pooled() -> None:
    game = small_game()
    gradient: Any = game.evaluate(game.initial_upper_params).hyper_gradient

    def errors(**options: Any) -> FloatArray:
        found = answers(game, 40, episodes=16, **options)
        return np.array([np.linalg.norm(f.hyper_gradient - gradient) for f in found])

    pooled, fresh = errors(), errors(pooled=False)
    assert pooled[0] == fresh[0]
    assert pooled[30:].mean() < 0.3 * fresh[30:].mean()


def test_what_the_follower_has_learnt_from_counts() -> None:
    game = small_game()
    options = {"inner": "certainty-equivalence", "inner_options": {"episodes": 30, "horizon": 9}}
    method: Any = make_method("plug-in", game, episodes=20, horizon=9, **options)
    method.step(game.initial_upper_params)
    assert method.state_dict()["seen"]["starts"].sum() == 50
    method.reset(np.random.default_rng(0))
    assert method.state_dict()["seen"]["starts"].sum() == 0


def test_coverage_is_the_share_of_the_policy_that_was_seen() -> None:
    game = small_game(temperature=5.0)
    (found,) = answers(game, 1, episodes=1, horizon=1)
    exact = game.evaluate(game.initial_upper_params)
    assert found.coverage in [pytest.approx(p) for p in exact.policy.ravel()]


class MovesStart(PaidByX):
    """A game whose first state x moves."""

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Say that x moves it, and by nothing at this x."""
        return np.zeros(upper_params.shape)


class MovesKernel(PaidByX):
    """A game whose kernel x moves."""

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Say that x moves it, and by nothing at this x."""
        return np.zeros(upper_params.shape)


@pytest.mark.parametrize(("kind", "pooled"), [(MovesStart, True), (MovesKernel, False)])
def test_what_x_moves_is_not_pooled(kind: type[ArrayModel], pooled: bool) -> None:
    game = small_game(kind=kind)
    method: Any = make_method("plug-in", game, episodes=20, horizon=9, error_bars=False)
    for by in (0.0, 0.1):
        method.step(game.initial_upper_params + by)
    seen = method.state_dict()["seen"]
    assert seen["starts"].sum() == 20
    assert seen["counts"]["weights"].sum() == (2 if pooled else 1) * 20 * 9


def test_where_x_moves_the_kernel_groups_of_episodes_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unlike = np.full(15, 7.0)
    monkeypatch.setattr("bilevel_gym.methods.sampled.standard_errors", lambda _: unlike)
    (found,) = answers(small_game(kind=MovesKernel), 1, episodes=64)
    np.testing.assert_array_equal(found.hyper_gradient_se, unlike)


def test_actions_never_seen_have_their_share_of_what_follows() -> None:
    game = small_game(kind=ArrayModel, temperature=5.0)
    method: Any = make_method("plug-in", game, episodes=3, horizon=3, error_bars=False)
    method.reset(np.random.default_rng(5))
    found = method.step(game.initial_upper_params)
    response = (found.hyper_gradient - found.direct_gradient).reshape(5, 3)
    seen = method.seen_pairs([])
    unseen = seen.any(axis=1)[:, None] & ~seen
    assert unseen.any() and np.abs(response[unseen]).max() > 1e-6


# Its standard errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ending", "far-sighted leader", "leader's horizon, undiscounted", "masked"]
)
def test_standard_errors_are_true(name: str) -> None:
    game = small_game(**GAMES[name])
    exact, _ = exact_parts(game)
    found = answers(game, 80, episodes=512, pooled=False)
    errors = np.stack([f.hyper_gradient for f in found]) - exact.hyper_gradient
    bars: Any = np.stack([f.hyper_gradient_se for f in found])
    assert 0.8 < np.square(errors).sum() / np.square(bars).sum() < 1.25
    values = np.array([(f.objective - exact.objective) / (f.objective_se or 0.0) for f in found])
    assert 0.6 < np.square(values).mean() < 1.5
    moved = exact.hyper_gradient != 0.0
    large = moved & (bars.mean(axis=0) > 0.05 * np.linalg.norm(bars.mean(axis=0)))
    covered = (np.abs(errors) < 1.96 * bars)[:, large].mean()
    assert 0.88 < covered < 0.98
    predicted = np.mean([f.hyper_gradient_cosine for f in found])
    norms = np.linalg.norm(errors + exact.hyper_gradient, axis=1)
    cosines = (errors + exact.hyper_gradient) @ exact.hyper_gradient / norms
    assert predicted == pytest.approx(
        cosines.mean() / np.linalg.norm(exact.hyper_gradient), abs=0.01
    )


class PaidByOccupancy:
    """An objective that evaluates what follows from the kernel, in a way of its own."""

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the leader's return."""
        return DiscountedReturn().evaluate(outcome)


def test_where_a_term_varies_in_an_unknown_way_groups_of_episodes_are_left_out() -> None:
    own = small_game(kind=ArrayModel, objective=PaidByOccupancy())
    known = small_game(kind=ArrayModel)
    one, other = (answers(game, 30, episodes=512, pooled=False) for game in (own, known))
    for name in ("objective_se", "hyper_gradient_se"):
        jackknife, delta = (
            np.sqrt(np.mean([np.square(getattr(f, name)) for f in found], axis=0))
            for found in (one, other)
        )
        np.testing.assert_allclose(jackknife, delta, rtol=0.3, atol=0.1 * np.max(delta))


def test_changes_may_be_drawn_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    game = small_game()
    (whole,) = answers(game, 1, episodes=512)
    monkeypatch.setattr("bilevel_gym.methods.plug_in.BUFFER", 15 * 3)
    (parts,) = answers(game, 1, episodes=512)
    np.testing.assert_array_equal(parts.hyper_gradient, whole.hyper_gradient)
    np.testing.assert_allclose(parts.hyper_gradient_se, whole.hyper_gradient_se, rtol=0.6)
    total = (np.linalg.norm(f.hyper_gradient_se) for f in (parts, whole))
    assert next(total) == pytest.approx(next(total), rel=0.25)


def test_the_leader_is_told() -> None:
    env = HyperGradient(small_game(), method="plug-in", episodes=64)
    for _, info in (env.reset(seed=1), env.step(env.game.initial_upper_params)[::4]):
        assert info["objective_se"] > 0.0
        assert info["hyper_gradient_se"].shape == info["upper_params"].shape
        assert 0.0 < info["hyper_gradient_cosine"] < 1.0
        assert 0.9 < info["coverage"] <= 1.0
    bare = HyperGradient(small_game(), method="plug-in", episodes=64, error_bars=False)
    assert "hyper_gradient_se" not in bare.reset(seed=1)[1]


def test_changes_are_as_large_as_chance_makes_them() -> None:
    model = random_mdp(4, num_states=4, num_actions=2, termination=0.2)
    policy = np.full((4, 2), 0.5)
    sampler = Sampler(model.kernel, policy, np.full(4, 0.25), np.zeros((4, 2)))
    counts, starts = TransitionCounts(4, 2), np.array([3.0, 0.0, 1.0, 0.0])
    for block in sampler.episodes(40, 20, np.random.default_rng(0)):
        counts.add(block)
    changes = Changes(counts, starts, np.random.default_rng(1), 40_000)
    value = np.array([0.5, -1.0, 2.0, 0.3])
    # Frequencies with one pretended try, which goes where the actions of the state have gone.
    visits = counts.visits[:, :, None]
    seen = counts.kernel().to_dense() * visits
    pooled = seen.sum(axis=1, keepdims=True) / visits.sum(axis=1, keepdims=True)
    kernel = (seen + pooled) / (visits + 1.0)
    variance = (kernel @ value**2 - (kernel @ value) ** 2) / counts.visits
    through = changes.expect(value)
    np.testing.assert_allclose(through.var(axis=1), variance.T.ravel(), rtol=0.05)
    weights = np.arange(8.0).reshape(4, 2)
    # One and the same change, from both sides.
    np.testing.assert_allclose(weights.T.ravel() @ through, value @ changes.flow(weights))
    share = starts / 4.0
    np.testing.assert_allclose(changes.starts.var(axis=1), share * (1 - share) / 4, rtol=0.05)
    np.testing.assert_allclose(changes.starts.sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize("solver", ["dense", "banded", "sparse", "krylov", "value-iteration"])
@pytest.mark.parametrize("transpose", [False, True])
def test_systems_are_solved_column_by_column(solver: str, transpose: bool) -> None:
    model = random_mdp(4, num_states=12, num_actions=2)
    system = DiscountedSystem(model.kernel, np.full((12, 2), 0.5), 0.9, solver=solver)
    rhs = np.random.default_rng(0).normal(size=(12, 3))
    found = system.solve_columns(rhs, transpose=transpose)
    np.testing.assert_allclose(system.matrices[transpose] @ found, rhs, atol=1e-8)


test_options_out_of_range_are_named = refusals(
    lambda **options: make_method("plug-in", small_game(kind=PaidByX), **options),
    ({"pooled": 1}, "`pooled` must be True or False, got 1"),
    ({"error_bars": "no"}, "`error_bars` must be True or False, got 'no'"),
)
