"""Classic control on a grid: formulas, interpolation, derivatives by what moves the dynamics."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, TabularBilevelEnv, discretize
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs.classic import CLASSIC, MountainCar
from bilevel_gym.envs.discretization import Discretized
from bilevel_gym.testing import check_hyper_gradient

BINS = {"MountainCar-v0": (19, 15), "Pendulum-v1": (12, 11)}

every_environment = pytest.mark.parametrize("env_id", BINS)


def grid(env_id: str) -> Discretized:
    return discretize(env_id, BINS[env_id], actions=3)


@every_environment
def test_formulas_are_the_environments_own_steps(env_id: str) -> None:
    control, rng = CLASSIC[env_id](), np.random.default_rng(1)
    env: Any = gym.make(env_id).unwrapped
    env.reset(seed=0)
    for _ in range(300):
        state = np.array([rng.uniform(axis.low, axis.high) for axis in control.axes])
        actions = control.actions(7)
        action = actions[rng.integers(len(actions))]
        params = {name: value * rng.uniform(0.5, 2.0) for name, value in control.params.items()}
        for name, value in params.items():
            setattr(env, name, value)
        env.state = state.copy()
        _, reward, ended, _, _ = env.step(action)
        step = state[None], np.array([float(np.ravel(action)[0])])
        reached = control.step(*step, params)
        # The pendulum's torque is of single precision.
        np.testing.assert_allclose(reached[0], env.state, rtol=0, atol=1e-7)
        assert control.reward(*step)[0] == pytest.approx(reward, abs=1e-6)
        assert control.ended(reached)[0] == ended


@every_environment
def test_derivatives_of_steps_are_those_of_differences(env_id: str) -> None:
    control, rng = CLASSIC[env_id](), np.random.default_rng(2)
    low, high = (np.array([getattr(axis, end) for axis in control.axes]) for end in ("low", "high"))
    states, actions = rng.uniform(low, high, (400, 2)), rng.uniform(0.0, 2.0, 400)
    for name, slope in control.derivatives(states, actions, control.params).items():
        step = 1e-6 * control.params[name]
        ends = [
            control.step(states, actions, {**control.params, name: control.params[name] + change})
            for change in (step, -step)
        ]
        differences = (ends[0] - ends[1]) / (2.0 * step)
        scale = np.abs(differences).max()
        # Where an end of the velocity or the wall lies between the two, there is none.
        wrong = np.abs(slope - differences).max(axis=1) > 1e-6 * scale
        assert wrong.mean() < 0.01


@every_environment
def test_interpolation_is_exact_for_linear_values_and_sums_to_one(env_id: str) -> None:
    made, rng = grid(env_id), np.random.default_rng(3)
    axes = made.dynamics.axes
    points = np.column_stack([rng.uniform(axis.low, axis.high, 100) for axis in axes])
    nodes, weights, slopes = made.weights(points)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(slopes.sum(axis=1), 0.0, rtol=0, atol=1e-9)
    for k, axis in enumerate(axes):
        if not axis.periodic:
            np.testing.assert_allclose(
                made.interpolated(made.states[:, k], points), points[:, k], rtol=0, atol=1e-12
            )
    np.testing.assert_allclose(made.weights(made.states)[1].max(axis=1), 1.0, rtol=0, atol=1e-9)
    np.testing.assert_allclose(made.initial_distribution.sum(), 1.0, rtol=0, atol=1e-12)


def test_the_derivative_of_the_kernel_is_that_of_differences() -> None:
    made, rng = grid("Pendulum-v1"), np.random.default_rng(4)
    params = made.params(g=9.3, m=1.1, l=0.9)
    kernel = made.kernel(params)
    weights = rng.normal(size=(made.states.shape[0], 3, made.states.shape[0]))
    states, actions, following = kernel.triplets
    found = made.kernel_vjp(params, kernel, weights[states, actions, following])
    for name, slope in found.items():
        ends = [
            float((made.kernel({**params, name: params[name] + h}).to_dense() * weights).sum())
            for h in (1e-7, -1e-7)
        ]
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-5)


@every_environment
def test_the_hyper_gradient_is_the_derivative_of_the_objective(env_id: str) -> None:
    made = grid(env_id)
    still: FloatArray = -np.abs(made.states[:, 1:]) @ np.ones((1, made.reward.shape[1]))
    model = made.model(
        tuple(made.dynamics.params), gamma=0.95, temperature=0.2, upper_reward=still, upper_cost=0.1
    )
    report = check_hyper_gradient(
        HyperGradient(TabularBilevelEnv(model)),
        np.full(model.low.size, 0.2337),
        min_response_share=0,
    )
    assert report.relative_error < 1e-5 and report.response_share > 0.01


def test_where_the_goal_is_the_episode_ends() -> None:
    made = discretize("MountainCar-v0", (18, 8))
    assert made.ended.sum() == 8 and (made.states[made.ended, 0] == 0.5).all()
    kernel = made.kernel(made.params())
    fast = np.argmin(np.abs(made.states - [0.4, 0.07]).sum(axis=1))
    reached = made.dynamics.step(made.states[[fast] * 3], np.arange(3.0), made.dynamics.params)
    # The share of the way from the last node to the goal is the probability of having reached it.
    np.testing.assert_allclose(kernel.row_sums[fast], (0.5 - reached[:, 0]) / 0.1, rtol=1e-9)
    answer = made.model(gamma=0.99, temperature=0.05, upper_cost=0.0).respond(
        np.zeros(len(made.states))
    )
    assert answer.converged


def test_a_table_of_it_is_saved_like_any_other(tmp_path: Any) -> None:
    from bilevel_gym import Tabulated

    made = grid("MountainCar-v0")
    made.table(force=0.002).save(tmp_path / "car.npz")
    loaded = Tabulated.load(tmp_path / "car.npz")
    np.testing.assert_array_equal(loaded.observations[""], made.states)
    strong = made.kernel(made.params(force=0.002))
    assert abs(loaded.kernel.matrix - strong.matrix).max() == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPole-v1", (3, 3)), "unknown environment 'CartPole-v1'.*ClassicControl of your own"),
        ((3, (3, 3)), "must be one of"),
        (("Pendulum-v1", (3,)), "`bins` must be 2 numbers, for angle, speed"),
        (("Pendulum-v1", (3, 1)), "`bins` must be"),
        (("Pendulum-v1", (3000, 3000)), "at most 1000000 nodes"),
        (("Pendulum-v1", (5, 5), 1), "`actions` must be"),
    ],
)
def test_other_grids_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    env_id, bins, *actions = arguments
    with pytest.raises(ValueError, match=message):
        discretize(env_id, bins, **({"actions": actions[0]} if actions else {}))


@pytest.mark.parametrize(
    ("moves", "options", "message"),
    [
        (("power",), {}, "unknown parameter 'power'"),
        (("force", "force"), {}, "different parameters"),
        (("force",), {"octaves": 0.0}, "`octaves` must be positive"),
        (("force",), {"octaves": 51.0}, "`octaves` must be at most 50, got 51"),
        ("force", {}, "`moves` must be a list of names, got 'force'"),
        (("force",), {"upper_cost": -1.0}, "`upper_cost`"),
    ],
)
def test_other_models_are_refused(moves: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid("MountainCar-v0").model(moves, **options)


def test_formulas_that_the_environment_departs_from_are_refused() -> None:
    class Wrong(MountainCar):
        def reward(self, states: FloatArray, actions: FloatArray) -> FloatArray:
            return np.zeros(len(states))

    with pytest.raises(ValueError, match="got reward"):
        discretize(Wrong(), (5, 5))
