"""Outer optimizers on problems with known answers."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import bilevel_gym  # noqa: F401  (registers the tasks)
from bilevel_gym.mdp import FloatArray
from bilevel_gym.optimizers import (
    Iterate,
    lbfgsb,
    multistart_ascent,
    normalized_ascent,
    projected_gradient_norm,
)

LOW, HIGH = -np.ones(3), np.ones(3)
TARGET = np.array([0.5, 2.0, -0.25])


def quadratic(x: FloatArray) -> tuple[float, FloatArray]:
    """Peak at TARGET, whose second entry lies outside the box."""
    return -float((x - TARGET) @ (x - TARGET)), -2.0 * (x - TARGET)


def test_the_projected_gradient_vanishes_exactly_at_the_constrained_optimum() -> None:
    best = np.clip(TARGET, LOW, HIGH)
    assert projected_gradient_norm(best, quadratic(best)[1], LOW, HIGH) == 0.0
    assert projected_gradient_norm(np.zeros(3), np.array([0.3, 0.4, 0.0]), LOW, HIGH) == 0.5


def test_normalized_ascent_settles_at_the_constrained_optimum() -> None:
    optimum = normalized_ascent(quadratic, np.zeros(3), LOW, HIGH, steps=200, learning_rate=0.05)
    np.testing.assert_allclose(optimum.best.upper_params, [0.5, 1.0, -0.25], atol=1e-3)
    assert optimum.evaluations == 201 and optimum.first.number == 0
    assert optimum.message == "200 steps taken"


def test_normalized_ascent_takes_steps_of_the_prescribed_length() -> None:
    seen: list[Iterate] = []
    normalized_ascent(
        lambda x: (float(x.sum()), np.ones(3)),
        np.full(3, -0.9),
        LOW,
        HIGH,
        steps=4,
        learning_rate=0.08,
        callback=seen.append,
    )
    lengths = [
        float(np.linalg.norm(b.upper_params - a.upper_params))
        for a, b in zip(seen, seen[1:], strict=False)
    ]
    expected = [0.04 * (1.0 + np.cos(np.pi * k / 4)) for k in range(4)]
    np.testing.assert_allclose(lengths, expected)
    assert [iterate.number for iterate in seen] == [0, 1, 2, 3, 4]


def test_a_vanishing_gradient_ends_the_ascent_and_says_so() -> None:
    optimum = normalized_ascent(lambda x: (1.0, np.zeros(3)), np.zeros(3), LOW, HIGH)
    assert (
        optimum.evaluations == 1 and "projected gradient is zero after 0 steps" in optimum.message
    )


def test_no_step_is_made_of_rounding_alone() -> None:
    optimum = normalized_ascent(lambda x: (100.0, np.full(3, 1e-15)), np.zeros(3), LOW, HIGH)
    assert optimum.evaluations == 1


def test_the_best_iterate_is_kept_not_the_last() -> None:
    values = iter([0.0, 5.0, 1.0, 2.0])
    optimum = normalized_ascent(
        lambda x: (next(values), np.ones(3)), np.zeros(3), LOW, HIGH, steps=3
    )
    assert optimum.best.value == 5.0 and optimum.best.number == 1


STARTS = np.array([[0.0, 0.0, 0.0], [-0.9, 0.3, 1.0], [0.5, 1.0, -0.25], [1.0, -1.0, 0.1]])


def quadratics(xs: FloatArray) -> tuple[list[float], FloatArray]:
    """Evaluate `quadratic` for many x."""
    values, gradients = zip(*(quadratic(x) for x in xs), strict=True)
    return list(values), np.array(gradients)


def test_every_start_ends_where_it_ends_alone() -> None:
    seen: list[list[Iterate]] = [[] for _ in STARTS]
    restarts = multistart_ascent(
        quadratics, STARTS, LOW, HIGH, steps=30, callback=lambda b, i: seen[b].append(i)
    )
    for start, found, iterates in zip(STARTS, restarts.optima, seen, strict=True):
        alone: list[Iterate] = []
        wanted = normalized_ascent(quadratic, start, LOW, HIGH, steps=30, callback=alone.append)
        assert (found.message, found.evaluations) == (wanted.message, wanted.evaluations)
        assert len(iterates) == len(alone) == found.evaluations
        for one, other in zip(
            [*iterates, found.best, found.first], [*alone, wanted.best, wanted.first], strict=True
        ):
            np.testing.assert_array_equal(one.upper_params, other.upper_params)
            np.testing.assert_array_equal(one.gradient, other.gradient)
            assert (one.number, one.value) == (other.number, other.value)
            assert one.projected_gradient_norm == other.projected_gradient_norm


def test_a_start_that_stops_early_is_carried_along_and_no_longer_noted() -> None:
    shapes = []

    def counted(xs: FloatArray) -> tuple[list[float], FloatArray]:
        shapes.append(xs.shape)
        return quadratics(xs)

    restarts = multistart_ascent(counted, list(STARTS), LOW, HIGH, steps=7)
    assert shapes == [(4, 3)] * 8
    # The third start is the constrained optimum itself, and the best by far after so few steps.
    assert [o.evaluations for o in restarts.optima] == [8, 8, 1, 8]
    assert restarts.best == 2 and restarts.optimum is restarts.optima[2]
    alone = multistart_ascent(counted, STARTS[2:3], LOW, HIGH)
    assert shapes[8:] == [(1, 3)] and "zero after 0 steps" in alone.optimum.message


def test_an_objective_may_use_its_arrays_again() -> None:
    buffer = np.zeros((4, 3))

    def objective(xs: FloatArray) -> tuple[list[float], FloatArray]:
        values, buffer[:] = quadratics(xs)
        return values, buffer

    for found, wanted in zip(
        multistart_ascent(objective, STARTS, LOW, HIGH, steps=5).optima,
        multistart_ascent(quadratics, STARTS, LOW, HIGH, steps=5).optima,
        strict=True,
    ):
        np.testing.assert_array_equal(found.first.gradient, wanted.first.gradient)


def test_starts_keep_the_shape_of_x() -> None:
    low, high = LOW.reshape(3, 1), HIGH.reshape(3, 1)

    def objective(xs: FloatArray) -> tuple[FloatArray, FloatArray]:
        assert xs.shape == (4, 3, 1)
        values, gradients = quadratics(xs[..., 0])
        return np.array(values), gradients[..., None]

    restarts = multistart_ascent(objective, STARTS[..., None], low, high, steps=100)
    for optimum in restarts.optima:
        best = optimum.best.upper_params
        np.testing.assert_allclose(best, [[0.5], [1.0], [-0.25]], atol=0.02)


@pytest.mark.parametrize(
    ("starts", "options", "message"),
    [
        ([], {}, "`starts` must hold at least one x, got none"),
        ([LOW, 2.0 * HIGH], {}, r"`starts\[1\]\[0\]` must be finite and lie in \[-1.0, 1.0\]"),
        ([LOW, LOW[:2]], {}, r"`starts\[1\]` must have shape \(3,\), got \(2,\)"),
        ([LOW], {"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        ([LOW], {"learning_rate": -1.0}, "`learning_rate` must be positive"),
    ],
)
def test_bad_starts_and_options_are_named(
    starts: list[FloatArray], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        multistart_ascent(quadratics, starts, LOW, HIGH, **options)  # type: ignore[arg-type]


def test_an_objective_of_one_x_is_no_objective_of_many() -> None:
    with pytest.raises(ValueError, match=r"shapes \(4,\) and \(4, 3\), got \(\) and \(3,\)"):
        multistart_ascent(lambda xs: (0.0, np.ones(3)), STARTS, LOW, HIGH)
    with pytest.raises(ValueError, match=r"got \(4,\) and \(3, 4\)"):
        multistart_ascent(lambda xs: (np.ones(4), np.ones((3, 4))), STARTS, LOW, HIGH)


def test_lbfgsb_reaches_the_constrained_optimum_and_keeps_the_shape_of_x() -> None:
    low, high, target = LOW.reshape(3, 1), HIGH.reshape(3, 1), TARGET.reshape(3, 1)

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        assert x.shape == (3, 1)
        return -float(((x - target) ** 2).sum()), -2.0 * (x - target)

    optimum = lbfgsb(objective, np.zeros((3, 1)), low, high)
    np.testing.assert_allclose(optimum.best.upper_params, [[0.5], [1.0], [-0.25]], atol=1e-6)
    assert optimum.best.projected_gradient_norm <= 1e-6


def test_long_first_steps_pass_the_trap_of_the_grid_world_and_polishing_converges() -> None:
    env = gym.make("BilevelGridWorld-v0")
    _, info = env.reset(seed=0)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        _, reward, _, _, info = env.step(x)
        return float(reward), info["hyper_gradient"]

    ascent = normalized_ascent(objective, info["upper_params"], space.low, space.high)
    polished = lbfgsb(objective, ascent.best.upper_params, space.low, space.high)
    # The local optimum near this path has the value .460703 (TASKS of the suite).
    assert polished.best.value == pytest.approx(0.460703, abs=5e-7)
    assert polished.best.projected_gradient_norm <= 1e-3 * ascent.first.projected_gradient_norm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive and finite, got 0.0"),
        ({"learning_rate": np.nan}, "got nan"),
    ],
)
def test_bad_ascent_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalized_ascent(quadratic, np.zeros(3), LOW, HIGH, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_evaluations": 0}, "`max_evaluations` must be an integer of at least 1, got 0"),
        ({"tolerance": -1.0}, "`tolerance` must be positive and finite, got -1.0"),
    ],
)
def test_bad_lbfgsb_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lbfgsb(quadratic, np.zeros(3), LOW, HIGH, **options)  # type: ignore[arg-type]


def test_a_start_outside_the_box_is_named() -> None:
    with pytest.raises(ValueError, match=r"`start\[1\]` must be finite and lie in \[-1.0, 1.0\]"):
        normalized_ascent(quadratic, np.array([0.0, 2.0, 0.0]), LOW, HIGH)
