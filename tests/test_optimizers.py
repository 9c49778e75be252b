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
