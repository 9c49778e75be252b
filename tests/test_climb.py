"""The climb from many starts, its quasi-Newton ascents, and where models say to start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import bilevel_gym  # noqa: F401  # registers the tasks
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.model import evaluate
from bilevel_gym.model.starts import easier_models, suggested_starts
from bilevel_gym.optimizers import ClimbOptimum, Iterate, Start, make_optimizer
from bilevel_gym.optimizers.climb import PATIENCE, Together, _Run, climb
from bilevel_gym.optimizers.quasi_newton import quasi_newton_ascent
from bilevel_gym.wrappers import exact_objective

LOW, HIGH = -np.ones(3), np.ones(3)
TOP = np.array([0.5, 2.0, -0.25])  # of the hill, out of the box in one entry


def hill(x: FloatArray) -> tuple[float, FloatArray]:
    gap = x - TOP
    return -float(gap @ gap), -2.0 * gap


def two_hills(x: FloatArray) -> tuple[float, FloatArray]:
    """Return a low hill at the origin and a high one that is nothing there."""
    far = np.array([0.7, -0.7, 0.7])
    value, gradient = 0.0, np.zeros(3)
    for height, width, top in ((1.0, 0.3, np.zeros(3)), (3.0, 0.25, far)):
        bump = height * float(np.exp(-((x - top) @ (x - top)) / (2.0 * width**2)))
        value, gradient = value + bump, gradient - bump * (x - top) / width**2
    return value, gradient


def model_of(task: str, **options: Any) -> Any:
    game: Any = gym.make(f"Bilevel{task}-v0", **options).unwrapped
    return game.model


def climbed(model: Any, **options: Any) -> ClimbOptimum:
    objective = exact_objective(model)
    return climb(objective, model.initial_upper_params, model.low, model.high, **options)


# Ascents ---------------------------------------------------------------------------------------


def followed(objective: Any, x: Any, low: FloatArray, high: FloatArray) -> tuple[Any, ...]:
    value, gradient = objective(x)
    ascent = quasi_newton_ascent(x, value, gradient, low, high, first_step=0.02, tolerance=1e-9)
    seen: list[tuple[float, FloatArray]] = [(value, x)]
    there = next(ascent)
    while True:
        assert ((low <= there) & (there <= high)).all()
        value, gradient = objective(there)
        seen.append((value, there))
        try:
            there = ascent.send((value, gradient))
        except StopIteration as stopped:
            return (*max(seen, key=lambda each: each[0]), len(seen), stopped.value)


def test_an_ascent_finds_the_top_in_the_box() -> None:
    value, x, count, message = followed(hill, np.zeros(3), LOW, HIGH)
    np.testing.assert_allclose(x, [0.5, 1.0, -0.25], atol=1e-8)
    assert value == pytest.approx(-1.0)
    assert count < 15
    assert message == "the projected gradient is zero"


def test_an_ascent_follows_a_curved_valley_as_fast_as_scipy() -> None:
    from scipy.optimize import minimize, rosen, rosen_der

    low, high = np.full(4, -2.0), np.full(4, 2.0)

    def valley(x: FloatArray) -> tuple[float, FloatArray]:
        return -float(rosen(x)), -np.asarray(rosen_der(x))

    start = np.array([-1.2, 1.0, -1.2, 1.0])
    value, x, count, _ = followed(valley, start, low, high)
    peer = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", bounds=[(-2, 2)] * 4)
    assert value > -1e-12 or value == pytest.approx(-float(peer.fun), abs=1e-6)
    assert count < 2 * peer.nfev


def test_an_ascent_says_where_no_step_brings_more() -> None:
    *_, message = followed(lambda x: (-float(np.abs(x).sum()), -np.ones(3)), np.zeros(3), LOW, HIGH)
    assert message == "no step brings more"


# The climb -------------------------------------------------------------------------------------


def test_a_climb_ends_when_enough_of_its_runs_agree() -> None:
    found = climb(hill, np.zeros(3), LOW, HIGH)
    np.testing.assert_allclose(found.best.upper_params, [0.5, 1.0, -0.25], atol=1e-7)
    assert "8 runs ended at the best value" in found.message
    assert found.evaluations < 200
    assert [fate.name for fate in found.fates][0] == "x0"
    assert sum(fate.evaluations for fate in found.fates) == found.evaluations


def test_a_seed_determines_a_climb() -> None:
    def path(seed: int) -> FloatArray:
        seen: list[FloatArray] = []

        def note(iterate: Iterate) -> None:
            seen.append(iterate.upper_params)

        climb(two_hills, np.zeros(3), LOW, HIGH, seed=seed, callback=note)
        return np.array(seen)

    assert np.array_equal(path(3), path(3))
    assert not np.array_equal(path(3), path(4))
    assert np.abs(path(3)).max() <= 1.0


def test_a_dead_end_is_left_for_a_better_start() -> None:
    # x0 is the top of the low hill, where the gradient is zero.
    given = climb(two_hills, np.zeros(3), LOW, HIGH, starts=[[0.6, -0.6, 0.6]])
    assert given.fates[0].dead_end and given.fates[0].best == pytest.approx(1.0, abs=1e-3)
    assert given.best.value == pytest.approx(3.0, abs=1e-3)
    assert max(given.fates, key=lambda fate: fate.best).name == "starts[0]"


def test_a_plateau_is_searched_with_random_starts_farther_and_farther_out() -> None:
    def flat(x: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = two_hills(x)
        return (value, gradient) if x[0] - x[1] > 0.5 else (0.0, np.zeros(3))

    found = climb(flat, np.zeros(3), LOW, HIGH)
    assert found.best.value == pytest.approx(3.0, abs=1e-3)
    assert found.fates[0].message == "the projected gradient is zero"


@pytest.mark.parametrize("budget", [1, 2, 13, 50, 101])
def test_the_budget_is_kept_easier_problems_included(budget: int) -> None:
    found = climbed(model_of("GridWorld", map_name="4x4"), max_evaluations=budget)
    assert found.evaluations + found.eased <= budget
    assert found.evaluations >= 1


def test_answers_together_lead_where_answers_one_by_one_do() -> None:
    class Both:
        def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
            return two_hills(x)

        def together(self, xs: Sequence[FloatArray]) -> Iterator[tuple[float, FloatArray]]:
            return map(two_hills, xs)

    one, other = (climb(each, np.zeros(3), LOW, HIGH) for each in (two_hills, Both()))
    assert one.best.value == other.best.value and one.evaluations == other.evaluations


def test_easier_objectives_lead_to_a_hill_that_nothing_else_shows() -> None:
    top = np.array([0.9, -0.9, 0.9])

    def hidden(width: float, x: FloatArray) -> tuple[float, FloatArray]:
        bump = float(np.exp(-((x - top) @ (x - top)) / (2.0 * width**2)))
        return bump, -bump * (x - top) / width**2

    class Informed:
        def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
            return hidden(0.02, x)

        def starts(self, x: FloatArray, most: int) -> list[Start]:
            assert 0 < most <= 80
            return [Start("far", -top)]

        def easier(self, x: FloatArray) -> list[Together]:
            def wider(width: float) -> Together:
                return lambda xs: [hidden(width, x) for x in xs]

            return [wider(width) for width in (1.0, 0.2, 0.05)]

    found = climb(Informed(), np.zeros(3), LOW, HIGH, seed=1)
    assert found.best.value == pytest.approx(1.0)
    assert 0 < found.eased <= 100
    assert max(found.fates, key=lambda fate: fate.best).name == "eased"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_evaluations": 0}, "`max_evaluations` must be an integer of at least 1, got 0"),
        ({"seed": -1}, "`seed` must be"),
        ({"starts": 3}, "`starts` must be a list of x, got 3"),
        ({"starts": [[0.0]]}, "starts[0]"),
        ({"starts": [[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]}, "starts[1]"),
    ],
)
def test_bad_options_are_refused_before_an_evaluation(options: dict[str, Any], said: str) -> None:
    def never(x: FloatArray) -> tuple[float, FloatArray]:
        raise AssertionError("evaluated")

    with pytest.raises((ValueError, TypeError)) as refusal:
        make_optimizer("climb", **options)(never, np.zeros(3), LOW, HIGH)
    assert said in str(refusal.value)


def test_a_box_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        climb(hill, np.zeros(3), LOW, np.full(3, np.inf))


# What models know ------------------------------------------------------------------------------


def test_starts_give_the_follower_shares_of_the_leader_s_reward() -> None:
    game: Any = gym.make("BilevelGridWorld-v0", hazard_cost=0.5).unwrapped
    x = game.initial_upper_params
    starts = {start.name: start.x for start in suggested_starts(game.model, x, 80)}
    hazards = game.model.upper_reward(x)[:, 0] < 0.0
    expected = np.where(hazards, 0.2 * -0.5, 0.0)
    np.testing.assert_allclose(starts["0.2 of the leader's reward"], expected, atol=1e-6)
    assert len(starts) == 5 + 52
    assert len(suggested_starts(game.model, x, 30)) == 5  # all single entries or none
    assert suggested_starts(game.model, x, 0) == []


def test_the_first_easier_problem_is_where_the_follower_is_indifferent() -> None:
    model = model_of("GridWorld")
    x = model.initial_upper_params
    easier = easier_models(model, x)
    own = evaluate(model, x).objective
    lent = [evaluate(each, x).objective for each in easier]
    # The more the follower is lent, the more it does for the leader.
    assert lent == sorted(lent, reverse=True) and lent[-1] > own
    assert [each.temperature / model.temperature for each in easier] == [3.0, 2.0, 1.0]
    # The hyper-gradient is that of the easier problem.
    rng = np.random.default_rng(0)
    point, way = 0.05 * rng.standard_normal(x.shape), rng.standard_normal(x.shape)
    ahead, behind = (evaluate(easier[1], point + h * way).objective for h in (1e-5, -1e-5))
    slope = float(evaluate(easier[1], point).hyper_gradient @ way)
    assert (ahead - behind) / 2e-5 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("task", ["InverseRL", "LQR", "RandomMDP"])
def test_without_a_reward_of_the_leader_s_nothing_is_suggested(task: str) -> None:
    model = model_of(task)
    x = model.initial_upper_params
    assert suggested_starts(model, x, 80) == [] and easier_models(model, x) == []


# BilevelTaxDesign-v0 takes a minute, see `tests/benchmarks/climb.py`.
FAST = """GridWorld FourRooms RandomMDP Incentive MarkovGame Toll InverseRL Thermal LQR FrozenLake
    CliffWalking Taxi""".split()


@pytest.mark.parametrize("task", FAST)
def test_every_registered_task_comes_within_a_hundredth_of_the_best_known(task: str) -> None:
    game: Any = gym.make(f"Bilevel{task}-v0").unwrapped
    known = game.best_known.value
    found = climbed(game.model)
    assert found.best.value >= known - 0.01 * abs(known)
    assert found.evaluations + found.eased <= 400


@pytest.mark.parametrize(
    ("size", "map_seed", "known"), [(9, 105, 0.396201), (10, 107, 0.313320), (11, 217, 0.215309)]
)
def test_maps_on_which_few_starts_lead_out_of_the_trap(
    size: int, map_seed: int, known: float
) -> None:
    found = climbed(model_of("GridWorld", size=size, map_seed=map_seed))
    assert found.best.value >= 0.99 * known


def test_a_run_rests_when_it_has_brought_little_for_long() -> None:
    box = -np.ones(2), np.ones(2)
    run = _Run("x0", np.zeros(2), (0.0, np.ones(2)), box)
    run.begin()
    for number in range(PATIENCE):
        assert not run.rests(gain=1.0)
        run.take((1e-7 * number, np.ones(2)))
    assert run.rests(gain=1.0) and not run.rests(gain=1e-3)
