"""Outer optimizers on problems with known answers."""

from __future__ import annotations

import inspect
import json
import math
from functools import partial
from typing import Any

import numpy as np
import pytest

import bilevel_gym  # noqa: F401  (registers the tasks)
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.optimizers import (
    OPTIMIZERS,
    RULES,
    SCHEDULES,
    Climb,
    Iterate,
    NormalizedRule,
    adam,
    ascent,
    cobyqa,
    continuation,
    lbfgsb,
    make_optimizer,
    make_rule,
    make_schedule,
    multistart_ascent,
    normalized_ascent,
    projected_ascent,
    projected_gradient_norm,
    restarted_lbfgsb,
    starts_around,
)
from bilevel_gym.optimizers.ascent import along

from .helpers import refusals

LOW, HIGH = -np.ones(3), np.ones(3)
TARGET = np.array([0.5, 2.0, -0.25])
BEST = [0.5, 1.0, -0.25]
STARTS = np.array([[0.0, 0.0, 0.0], [-0.9, 0.3, 1.0], BEST, [1.0, -1.0, 0.1]])

every_rule = pytest.mark.parametrize("rule", RULES)


def quadratic(x: FloatArray) -> tuple[float, FloatArray]:
    """Peak at TARGET, whose second entry lies outside the box."""
    return -float((x - TARGET) @ (x - TARGET)), -2.0 * (x - TARGET)


def quadratics(xs: FloatArray) -> tuple[list[float], FloatArray]:
    """Evaluate `quadratic` for many x."""
    values, gradients = zip(*(quadratic(x) for x in xs), strict=True)
    return list(values), np.array(gradients)


def starts_of(start: Any = STARTS, low: Any = LOW, high: Any = HIGH, **options: Any) -> Any:
    """Climb `quadratics` from many starts."""
    return multistart_ascent(quadratics, start, low, high, **options)


def column(x: FloatArray) -> tuple[float, FloatArray]:
    """Evaluate `quadratic` for an x of shape (3, 1)."""
    assert x.shape == (3, 1)
    value, gradient = quadratic(x[:, 0])
    return value, gradient[:, None]


def path(optimizer: Any, objective: Any = quadratic, start: Any = None, **options: Any) -> Any:
    """Return every x that an optimizer evaluates, stacked."""
    seen: list[Iterate] = []
    start = np.array([-0.3, 0.1, 0.2]) if start is None else start
    optimizer(objective, start, LOW, HIGH, callback=seen.append, **options)
    assert [iterate.number for iterate in seen] == list(range(len(seen)))
    return np.array([iterate.upper_params for iterate in seen])


def assert_same(one: Iterate | None, other: Iterate | None) -> None:
    assert one is not None and other is not None
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, vars(other)[name], name)


# Ascent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (normalized_ascent, {"steps": 200, "learning_rate": 0.05}),
        (projected_ascent, {"max_gradient_norm": None, "learning_rate": 0.2}),
        (projected_ascent, {"steps": 400}),
        (adam, {"steps": 400, "learning_rate": 0.02}),
        (adam, {"steps": 400, "learning_rate": 0.05, "schedule": "inverse-sqrt"}),
    ],
)
def test_ascents_settle_at_the_constrained_optimum(optimizer: Any, options: dict[str, Any]) -> None:
    optimum = optimizer(quadratic, np.zeros(3), LOW, HIGH, **options)
    np.testing.assert_allclose(optimum.best.upper_params, BEST, atol=2e-3)
    assert optimum.evaluations <= options.get("steps", 200) + 1
    assert optimum.first.number == 0


def test_the_best_iterate_is_kept() -> None:
    values = iter([0.0, 5.0, 1.0, 2.0])
    optimum = ascent(lambda x: (next(values), np.ones(3)), np.zeros(3), LOW, HIGH, steps=3)
    assert optimum.best.value == 5.0 and optimum.best.number == 1
    assert optimum.message == "3 steps taken"


@pytest.mark.parametrize("answer", [(1.0, np.zeros(3)), (100.0, np.full(3, 1e-15))])
@every_rule
def test_a_vanishing_gradient_ends_the_ascent_and_says_so(rule: str, answer: Any) -> None:
    optimum = ascent(lambda x: answer, np.zeros(3), LOW, HIGH, rule=rule)
    assert optimum.evaluations == 1
    assert optimum.message == "the projected gradient is zero after 0 steps"


@every_rule
def test_a_sampled_zero_need_not_be_the_end(rule: str) -> None:
    values = iter([(0.0, np.zeros(3)), (100.0, np.full(3, 1e-15)), *[(1.0, np.ones(3))] * 2])
    seen = path(OPTIMIZERS[rule], lambda x: next(values), steps=3, stop_at_zero=False)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[3] > seen[2]).all()


def test_normalized_ascent_is_the_plain_loop_bit_for_bit() -> None:
    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        value = float(np.sin(3.0 * x).sum() + x[0] * x[1] + 4.0 * x[2])
        return value, 3.0 * np.cos(3.0 * x) + [x[1], x[0], 4.0]

    x, expected = np.array([-0.3, 0.1, 0.95]), []
    for k in range(60):
        expected.append(x)
        gradient = objective(x)[1]
        blocked = ((x <= LOW) & (gradient < 0.0)) | ((x >= HIGH) & (gradient > 0.0))
        direction = np.where(blocked, 0.0, gradient)
        length = 0.07 * 0.5 * (1.0 + math.cos(math.pi * k / 60))
        x = np.clip(x + length / float(np.linalg.norm(direction)) * direction, LOW, HIGH)
    found = path(normalized_ascent, objective, expected[0], steps=60, learning_rate=0.07)
    np.testing.assert_array_equal(found, [*expected, x])
    assert (found == HIGH).any()  # a bound was met on the way


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_projected_ascent_steps_along_the_clipped_gradient(max_norm: float | None) -> None:
    x, expected = np.array([-0.3, 0.1, 0.2]), []
    for k in range(9):
        expected.append(x)
        gradient = quadratic(x)[1]
        if max_norm is not None:
            gradient = gradient * min(1.0, max_norm / float(np.linalg.norm(gradient)))
        x = np.clip(x + 0.1 / np.sqrt(k + 1.0) * gradient, LOW, HIGH)
    options: dict[str, Any] = {"learning_rate": 0.1, "schedule": "inverse-sqrt"}
    found = path(projected_ascent, steps=9, max_gradient_norm=max_norm, **options)
    np.testing.assert_allclose(found, [*expected, x], rtol=1e-14)


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_adam_is_the_adam_of_another_library(max_norm: float | None) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([-0.3, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([x], lr=0.03, betas=(0.8, 0.99), eps=1e-3, maximize=True)
    expected: list[Any] = []
    for _ in range(30):
        expected.append(x.detach().numpy().copy())
        gradient = torch.tensor(quadratic(expected[-1])[1])
        if max_norm is not None:
            gradient = gradient * min(1.0, max_norm / float(gradient.norm()))
        x.grad = gradient
        reference.step()
    assert (abs(expected[-1]) < 1.0).all()  # the box is never met
    options = {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-3, "max_gradient_norm": max_norm}
    found = path(adam, steps=29, learning_rate=0.03, schedule="constant", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_schedules_start_at_one_and_do_not_rise() -> None:
    for name, schedule in SCHEDULES.items():
        factors = [schedule(step, 10) for step in range(15)]
        assert factors[0] == 1.0 and factors == sorted(factors, reverse=True), name
    assert SCHEDULES["cosine"](10, 10) == SCHEDULES["cosine"](14, 10) == 0.0
    assert SCHEDULES["cosine"](5, 10) == pytest.approx(0.5)
    assert SCHEDULES["inverse-sqrt"](3, 10) == 0.5
    seen = path(normalized_ascent, steps=4, schedule=lambda k, n: 1.0 / (n + k))
    lengths = np.linalg.norm(np.diff(seen, axis=0), axis=1)
    np.testing.assert_allclose(lengths, 0.05 / np.array([4.0, 5.0, 6.0, 7.0]))


@every_rule
def test_a_climb_goes_on_where_its_state_was_taken(rule: str) -> None:
    def climb() -> Climb:
        return Climb(np.zeros(3), LOW, HIGH, make_rule(rule, LOW, HIGH))

    def advance(climb: Climb, steps: int) -> None:
        for _ in range(steps):
            climb.move(*quadratic(climb.x), rate=0.3)

    whole, part, other = climb(), climb(), climb()
    advance(whole, 20)
    advance(part, 8)
    state = part.state_dict()
    advance(part, 3)  # the state is a copy
    advance(other, 2)
    other.load_state_dict(state)
    advance(other, 12)
    np.testing.assert_array_equal(other.x, whole.x)
    one, two = other.optimum(""), whole.optimum("")
    assert one.evaluations == two.evaluations == other.evaluations == 20
    for a, b in ((one.first, two.first), (one.best, two.best), (other.last, whole.last)):
        assert_same(a, b)
    assert climb().best is None and climb().last is None
    fresh = climb()
    fresh.load_state_dict(climb().state_dict())
    assert fresh.best is None and fresh.evaluations == 0


@every_rule
def test_a_gradient_that_is_none_changes_nothing(rule: str) -> None:
    climb = Climb(np.zeros(3), LOW, HIGH, make_rule(rule, LOW, HIGH))
    climb.move(0.0, np.ones(3), 0.1)
    before = climb.state_dict()
    with pytest.raises(ValueError, match=r"must be finite, got nan in entry \(1,\)"):
        climb.move(1.0, np.array([0.0, np.nan, np.inf]), 0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        climb.move(1.0, np.ones(2), 0.1)
    after = climb.state_dict()
    assert after["evaluations"] == before["evaluations"] == 1
    for name, value in before["rule"].items():
        np.testing.assert_array_equal(after["rule"][name], value)


# Many starts and many objectives -----------------------------------------------------------------


@every_rule
def test_every_start_ends_where_it_ends_alone(rule: str) -> None:
    seen: list[list[Iterate]] = [[] for _ in STARTS]
    options: dict[str, Any] = {"rule": rule, "steps": 15, "schedule": "inverse-sqrt"}
    restarts = multistart_ascent(
        quadratics, STARTS, LOW, HIGH, callback=lambda b, i: seen[b].append(i), **options
    )
    assert restarts.best == 2 and restarts.optimum is restarts.optima[2]
    for start, found, iterates in zip(STARTS, restarts.optima, seen, strict=True):
        alone: list[Iterate] = []
        wanted = ascent(quadratic, start, LOW, HIGH, callback=alone.append, **options)
        assert (found.message, found.evaluations) == (wanted.message, wanted.evaluations)
        for one, other in zip(
            [*iterates, found.best, found.first], [*alone, wanted.best, wanted.first], strict=True
        ):
            assert_same(one, other)


def test_a_start_that_stops_early_is_carried_along_and_no_longer_noted() -> None:
    shapes = []
    buffer = np.zeros((4, 3))

    def counted(xs: FloatArray) -> tuple[list[float], FloatArray]:
        shapes.append(xs.shape)
        values, gradients = quadratics(xs)
        buffer[: len(xs)] = gradients  # an objective may use its arrays again
        return values, buffer[: len(xs)]

    restarts = multistart_ascent(counted, list(STARTS), LOW, HIGH, steps=7)
    assert shapes == [(4, 3)] * 8
    # The third start is the constrained optimum itself.
    assert [o.evaluations for o in restarts.optima] == [8, 8, 1, 8]
    for start, optimum in zip(STARTS, restarts.optima, strict=True):
        np.testing.assert_array_equal(optimum.first.gradient, quadratic(start)[1])
    alone = multistart_ascent(counted, STARTS[2:3], LOW, HIGH)
    assert shapes[8:] == [(1, 3)] and "zero after 0 steps" in alone.optimum.message


def test_starts_keep_the_shape_of_x_and_objectives_must_be_of_many() -> None:
    def objective(xs: FloatArray) -> tuple[FloatArray, FloatArray]:
        values, gradients = zip(*(column(x) for x in xs), strict=True)
        return np.array(values), np.array(gradients)

    low, high = LOW.reshape(3, 1), HIGH.reshape(3, 1)
    for optimum in multistart_ascent(objective, STARTS[..., None], low, high, steps=100).optima:
        np.testing.assert_allclose(optimum.best.upper_params[:, 0], BEST, atol=0.02)
    with pytest.raises(ValueError, match=r"shapes \(4,\) and \(4, 3\), got \(\) and \(3,\)"):
        multistart_ascent(lambda xs: (0.0, np.ones(3)), STARTS, LOW, HIGH)
    with pytest.raises(ValueError, match=r"got \(4,\) and \(3, 4\)"):
        multistart_ascent(lambda xs: (np.ones(4), np.ones((3, 4))), STARTS, LOW, HIGH)


def peaks(x: FloatArray) -> tuple[float, FloatArray]:
    """A low peak at -.5 and a high one at .6, in each entry."""
    value, gradient = 0.0, np.zeros(x.shape)
    for height, centre in ((1.0, -0.5), (2.0, 0.6)):
        bump = height * np.exp(-((x - centre) ** 2) / 0.05)
        value += float(bump.sum())
        gradient += bump * -2.0 * (x - centre) / 0.05
    return value, gradient


def test_restarts_leave_the_nearest_peak_and_polish_the_best_ends() -> None:
    low, high = -np.ones(2), np.ones(2)
    start = np.full(2, -0.5)
    stuck = lbfgsb(peaks, start, low, high)
    assert stuck.best.value == pytest.approx(2.0, abs=1e-6)
    seen: list[Iterate] = []
    options: dict[str, Any] = {"restarts": 12, "spread": 0.4, "steps": 30, "seed": 0}
    found = restarted_lbfgsb(peaks, start, low, high, polished=3, callback=seen.append, **options)
    assert found.best.value == pytest.approx(4.0, abs=1e-9)
    assert [iterate.number for iterate in seen] == list(range(found.evaluations))
    assert found.best.value == max(iterate.value for iterate in seen)
    np.testing.assert_array_equal(found.first.upper_params, start)
    # The same by hand: an ascent from each start, L-BFGS-B from the best three ends.
    starts = starts_around(start, low, high, 12, spread=0.4, seed=0)
    ends = [normalized_ascent(peaks, x, low, high, steps=30) for x in starts]
    best = sorted(ends, key=lambda end: -end.best.value)[:3]
    tops = [lbfgsb(peaks, end.best.upper_params, low, high) for end in best]
    assert found.evaluations == sum(o.evaluations for o in [*ends, *tops])
    top = max(range(3), key=lambda rank: tops[rank].best.value)
    words = f"the best of 12 starts: {best[top].message}; {tops[top].message}"
    assert found.best.value == tops[top].best.value and found.message == words


def test_starts_surround_the_first_within_the_box() -> None:
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 100.0])
    starts = starts_around([0.9, 50.0], low, high, 2000, spread=0.1, seed=3)
    assert starts.shape == (2000, 2)
    np.testing.assert_array_equal(starts[0], [0.9, 50.0])
    assert (starts >= low).all() and (starts <= high).all()
    assert starts[1:, 1].std() == pytest.approx(10.0, rel=0.1)
    assert (starts[:, 0] == 1.0).mean() == pytest.approx(0.31, abs=0.05)  # half a deviation away
    np.testing.assert_array_equal(
        starts_around([0.9, 50.0], low, high, 9, spread=0.1, seed=3), starts[:9]
    )
    assert (starts_around([0.9, 50.0], low, high, 3, spread=0.0) == [0.9, 50.0]).all()


def test_continuation_arrives_where_a_direct_climb_does_not() -> None:
    low, high = -np.ones(1), np.ones(1)

    def objective(weight: float) -> Any:
        """A slope towards .8, with a bump at -.5 of some weight that holds the climber back."""

        def evaluate(x: FloatArray) -> tuple[float, FloatArray]:
            bump = weight * np.exp(-((x + 0.5) ** 2) / 0.02)
            gradient = -2.0 * (x - 0.8) - bump * 2.0 * (x + 0.5) / 0.02
            return float((bump - (x - 0.8) ** 2)[0]), gradient

        return evaluate

    start, family = np.array([-0.6]), [objective(weight) for weight in (0.0, 0.5, 1.0)]
    direct = adam(family[-1], start, low, high)
    assert direct.best.upper_params == pytest.approx(-0.5, abs=0.05)
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.03}
    options["callback"] = lambda stage, i: seen.append((stage, i.number))
    stages = continuation(family, start, low, high, **options)
    assert len(stages) == 3 and stages[-1].best.value > direct.best.value
    assert stages[-1].best.upper_params == pytest.approx(0.8, abs=1e-3)
    for one, other in zip(stages, stages[1:], strict=False):
        np.testing.assert_array_equal(one.best.upper_params, other.first.upper_params)
    assert seen == [(s, i) for s, o in enumerate(stages) for i in range(o.evaluations)]


# Libraries ---------------------------------------------------------------------------------------


def test_lbfgsb_reaches_the_constrained_optimum_and_keeps_the_shape_of_x() -> None:
    low, high = LOW.reshape(3, 1), HIGH.reshape(3, 1)
    optimum = lbfgsb(column, np.zeros((3, 1)), low, high)
    np.testing.assert_allclose(optimum.best.upper_params[:, 0], BEST, atol=1e-6)
    assert optimum.best.projected_gradient_norm <= 1e-6
    best = np.clip(TARGET, LOW, HIGH)
    assert projected_gradient_norm(best, quadratic(best)[1], LOW, HIGH) == 0.0
    assert projected_gradient_norm(np.zeros(3), np.array([0.3, 0.4, 0.0]), LOW, HIGH) == 0.5


def values_alone(x: FloatArray) -> tuple[float, FloatArray]:
    """`quadratic`, with a gradient that must not be looked at."""
    return quadratic(x.ravel())[0], np.full(x.shape, np.nan)


def test_cobyqa_reaches_the_constrained_optimum_from_values_alone() -> None:
    seen: list[Iterate] = []
    low, high = LOW.reshape(3, 1), HIGH.reshape(3, 1)
    options: dict[str, Any] = {"max_evaluations": 60, "callback": seen.append}
    optimum = cobyqa(values_alone, np.zeros((3, 1)), low, high, **options)
    np.testing.assert_allclose(optimum.best.upper_params[:, 0], BEST, atol=1e-4)
    xs = np.array([iterate.upper_params for iterate in seen])
    assert xs.shape == (60, 3, 1) and (xs >= low).all() and (xs <= high).all()
    np.testing.assert_array_equal(xs[0], np.zeros((3, 1)))
    assert optimum.evaluations == 60 and [i.number for i in seen] == list(range(60))


@pytest.mark.parametrize("budget", [1, 5, 7, 200])
def test_the_budget_is_used_up_and_a_seed_fixes_the_search(budget: int) -> None:
    options: dict[str, Any] = {"max_evaluations": budget, "spread": 0.3}
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    runs = [path(cobyqa, peaks, seed=seed, **options) for seed in (4, 4, 5)]
    assert [len(run) for run in runs] == [budget] * 3
    np.testing.assert_array_equal(runs[0], runs[1])
    if budget == 200:  # the first run has converged, and others have started elsewhere
        assert not np.array_equal(runs[0], runs[2])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]


def test_entries_may_be_fixed_and_an_older_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = np.array([-1.0, 0.5, -1.0]), np.array([1.0, 0.5, 1.0])
    start = np.array([0.0, 0.5, 0.0])
    found = cobyqa(values_alone, start, low, high, max_evaluations=80)
    np.testing.assert_allclose(found.best.upper_params, [0.5, 0.5, -0.25], atol=1e-4)
    point = cobyqa(values_alone, start, start, start)
    assert point.evaluations == 1 and point.message == "the box is a point"
    monkeypatch.setattr("scipy.__version__", "1.13.1")
    with pytest.raises(ImportError, match="`cobyqa` needs scipy 1.14 or newer, got 1.13.1"):
        cobyqa(quadratic, np.zeros(3), LOW, HIGH)


# By name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_the_same_and_returns_the_same(name: str) -> None:
    parameters = list(inspect.signature(OPTIMIZERS[name]).parameters.values())
    assert [p.name for p in parameters[:4]] == ["objective", "start", "low", "high"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])
    hooks = ("callback", "between")
    options = {p.name: p.default for p in parameters[4:] if p.name not in hooks}
    assert json.loads(json.dumps(options)) == options
    seen: list[Iterate] = []
    smaller = {"steps": 30, "max_evaluations": 30, "restarts": 3}
    options.update({key: value for key, value in smaller.items() if key in options})
    run = make_optimizer(name, **options)
    optimum = run(quadratic, np.zeros(3), LOW, HIGH, callback=seen.append)
    assert [iterate.number for iterate in seen] == list(range(optimum.evaluations))
    assert optimum.best.value == max(iterate.value for iterate in seen) > optimum.first.value
    np.testing.assert_array_equal(optimum.first.upper_params, np.zeros(3))
    for iterate in seen:
        value, gradient = quadratic(iterate.upper_params)
        assert iterate.value == value
        np.testing.assert_array_equal(iterate.gradient, gradient)


def test_an_update_rule_is_a_class_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(NormalizedRule):
        learning_rate = 0.1

        def __init__(self, low: Any, high: Any, *, share: float = 0.5) -> None:
            super().__init__(low, high)
            self.share = share

        def step(self, x: Any, value: float, gradient: Any, rate: float) -> Any:
            return super().step(x, value, gradient, self.share * rate)

    monkeypatch.setitem(RULES, "half", Half)
    takes = inspect.signature(along("half")).parameters
    assert takes["share"].default == 0.5 and takes["learning_rate"].default == 0.1
    seen = path(make_optimizer(along("half"), share=0.25), steps=2)
    assert np.linalg.norm(seen[1] - seen[0]) == pytest.approx(0.025)
    with pytest.raises(TypeError, match="along 'half'.*'beta1'.*'learning_rate'.*'share'"):
        ascent(quadratic, LOW, LOW, HIGH, rule="half", beta1=0.5)


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (ascent, {"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        (ascent, {"learning_rate": 0.0}, "`learning_rate` must be positive and finite, got 0.0"),
        (ascent, {"learning_rate": np.nan}, "got nan"),
        (ascent, {"start": 2.0 * HIGH}, r"`start\[0\]` must be finite and lie in \[-1.0, 1.0\]"),
        (ascent, {"rule": "adem"}, "update rule 'adem'.*mean 'adam'"),
        (adam, {"beta1": 1.0}, r"`beta1`.*\[0, 1\)"),
        (adam, {"beta2": -1}, "`beta2`.*got -1"),
        (adam, {"epsilon": 0}, "`epsilon`.*got 0"),
        (projected_ascent, {"max_gradient_norm": 0.0}, "`max_gradient_norm` must be positive"),
        (lbfgsb, {"max_evaluations": 0}, "`max_evaluations` must be .* of at least 1, got 0"),
        (lbfgsb, {"tolerance": -1.0}, "`tolerance` must be positive and finite, got -1.0"),
        (restarted_lbfgsb, {"restarts": 0}, "`restarts`.*got 0"),
        (restarted_lbfgsb, {"polished": 0}, "`polished`.*got 0"),
        (cobyqa, {"max_evaluations": 0}, "`max_evaluations`.*got 0"),
        (cobyqa, {"radius": 0.1, "tolerance": 0.2}, "must be at most `radius`, 0.1, got 0.2"),
        (cobyqa, {"low": np.full(3, -np.inf)}, "must be finite, got -inf"),
        (starts_of, {"start": []}, "`starts` must hold .* got none"),
        (starts_of, {"start": [LOW, 2.0 * HIGH]}, r"`starts\[1\]"),
        (starts_of, {"start": [LOW, LOW[:2]]}, r"got \(2,\)"),
        (starts_of, {"start": [LOW], "steps": 0}, "`steps`.*got 0"),
        (starts_around, {"count": 0}, "`count` must be an integer of at least 1, got 0"),
        (starts_around, {"spread": -0.1}, "`spread` must be finite and not negative"),
        (starts_around, {"seed": -1}, "`seed` must be an integer of at least 0"),
        (starts_around, {"high": [1.0, 1.0, np.inf]}, r"got -1.0 and inf in entry \(2,\)"),
        (starts_around, {"start": 2.0 * HIGH}, r"`start\[0\]`"),
        (continuation, {"objectives": []}, "`objectives` must hold at least one"),
    ],
)
def test_bad_arguments_are_named(call: Any, options: dict[str, Any], message: str) -> None:
    needs: dict[Any, Any] = {
        starts_around: {"count": 2},
        continuation: {"objectives": [quadratic]},
        starts_of: {},
    }
    options = {**needs.get(call, {"objective": quadratic}), **options}
    with pytest.raises(ValueError, match=message):
        call(**{"start": np.zeros(3), "low": LOW, "high": HIGH, **options})


test_bad_names_are_explained = refusals(
    None,
    (lambda: make_optimizer("adm"), ValueError, "unknown optimizer 'adm'.*mean 'adam'"),
    (lambda: make_optimizer("adam", beta=1), TypeError, "option for optimizer 'adam'.*'beta1'"),
    (lambda: make_optimizer("adam", callback=1), TypeError, "unknown option.*'callback'"),
    (lambda: make_optimizer("adam", rule="half"), TypeError, "unknown option.*'rule'"),
    (lambda: make_rule("adma", LOW, HIGH), ValueError, "update rule 'adma'.*mean 'adam'"),
    (lambda: make_rule("normalized", LOW, HIGH, beta1=1), TypeError, "'beta1'; accepted: none"),
    (lambda: make_schedule("cosin"), ValueError, "`schedule` 'cosin'.*mean 'cosine'"),
    (partial(starts_of, shedule=1), TypeError, "along 'normalized'.*'shedule'.*'schedule'"),
    (lambda: continuation([quadratic], LOW, LOW, HIGH, step=3), TypeError, "'step'.*'steps'"),
)
