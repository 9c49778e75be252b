"""The leader's seat: answers, resets that keep what was learnt, and units of [-1, 1]."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RescaleAction
from stable_baselines3.common.vec_env import DummyVecEnv

from bilevel_gym import HyperGradient, LeaderVectorEnv, LowerLevel, RescaleUpper

from .helpers import (
    Env,
    FloatArray,
    answer_of,
    array_game,
    assert_identical,
    game_of,
    interior_point,
    spoil,
)

ID = "BilevelGridWorld-v0"


def make() -> Env:
    return gym.make(ID, map_name="4x4")


# The leader's seat ------------------------------------------------------------------------------


def test_the_reward_is_the_objective_and_the_response_is_at_hand() -> None:
    env = HyperGradient(make())
    x = interior_point(env)
    env.reset(seed=0)
    observation, reward, _, _, info = env.step(x)
    referee = game_of(env).evaluate(x)
    assert reward == pytest.approx(referee.objective, abs=1e-10)
    response = answer_of(env)
    assert response.objective == reward
    np.testing.assert_array_equal(response.upper_params, x)
    np.testing.assert_array_equal(response.hyper_gradient, info["hyper_gradient"])
    np.testing.assert_allclose(response.policy.sum(axis=1), 1.0, atol=1e-12)
    assert response.lower_value == info["lower_value"]
    assert response.samples is None and "inner_samples" not in info
    # What info hands out is not what the response reports.
    spoil([observation, info])
    np.testing.assert_array_equal(answer_of(env).hyper_gradient, response.hyper_gradient)
    np.testing.assert_array_equal(answer_of(env).upper_params, x)
    assert (answer_of(env).hyper_gradient != 77).all()


def test_before_a_reset_there_is_no_response_to_be_found() -> None:
    env, copies = HyperGradient(make()), LeaderVectorEnv(ID, 2)
    assert not hasattr(env, "response") and not hasattr(copies, "responses")
    assert "action_space" in dict(inspect.getmembers(env))
    with pytest.raises(ResetNeeded, match="call `reset` first"):
        _ = env.response


def test_the_direct_method_returns_the_direct_gradient() -> None:
    exact, direct = HyperGradient(make()), HyperGradient(make(), method="direct")
    x = interior_point(exact, share=0.02)  # where the follower still reacts
    exact.reset(seed=0), direct.reset(seed=0)
    _, reward, _, _, info = direct.step(x)
    assert exact.step(x)[1] == reward
    # Of this task only the cost of x is direct: -shaping_cost * ||x||^2.
    np.testing.assert_allclose(info["hyper_gradient"], -2 * 0.05 * x, atol=1e-14)
    np.testing.assert_array_equal(info["hyper_gradient"], answer_of(exact).direct_gradient)
    assert not np.allclose(info["hyper_gradient"], answer_of(exact).hyper_gradient, atol=0.01)


def test_options_of_the_method_reach_it() -> None:
    env = HyperGradient(make(), method="exact", outer_steps=5, tolerance=1e-4, max_iterations=1)
    _, info = env.reset(seed=0)
    assert info["inner_iterations"] == 1 and not info["inner_converged"]
    assert info["inner_residual"] > 1e-4


def test_a_failed_wrapping_leaves_the_environment_usable() -> None:
    env, twin = make(), make()
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError):
        HyperGradient(env, method="exatc")
    with pytest.raises(ValueError):
        LowerLevel(env, [2.0])
    x = interior_point(env)
    assert_identical(env.step(x), twin.step(x))


# A reset that keeps what has been learnt ------------------------------------------------------

LEARNERS: dict[str, dict[str, Any]] = {
    "exact": {"max_iterations": 1},  # far from converged, so that a warm start shows
    "m-sobirl": {},
    "zero-order": {},
    "trace": {"episodes": 4},
}
every_learner = pytest.mark.parametrize("method", LEARNERS)


def learning(method: str, **options: Any) -> HyperGradient:
    return HyperGradient(array_game(), method, **{**LEARNERS[method], **options})


def walk(count: int) -> list[FloatArray]:
    return list(0.1 * np.random.default_rng(0).uniform(-1.0, 1.0, (count, 3)))


@every_learner
def test_a_warm_reset_answers_as_a_step_would(method: str) -> None:
    env, twin = learning(method), learning(method)
    xs = walk(4)
    assert_identical(env.reset(seed=2), twin.reset(seed=2))
    for reset_at, x in zip((False, True, False, True), xs, strict=True):
        observation, *_, info = twin.step(x)
        if reset_at:
            given = {"upper_params": x, "keep_learnt": True}
            assert_identical(env.reset(options=given), (observation, info))
            assert set(given) == {"upper_params", "keep_learnt"}
        else:
            assert_identical(env.step(x)[-1], info)
    # An ordinary reset forgets.
    cold = env.reset(options={"upper_params": xs[-1]})[1]
    assert (cold["hyper_gradient"] != info["hyper_gradient"]).any()


def test_a_warm_reset_begins_an_episode_at_the_initial_x() -> None:
    env = learning("exact", outer_steps=2)
    env.reset(seed=0)
    x = walk(1)[0]
    assert [env.step(x)[3] for _ in range(2)] == [False, True]
    _, info = env.reset(options={"keep_learnt": True})
    np.testing.assert_array_equal(info["upper_params"], env.game.initial_upper_params)
    assert [env.step(x)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [
        (7, {"keep_learnt": True}, "`seed` must be None with `keep_learnt`.*got 7"),
        (None, {"keep_learnt": 1}, "`keep_learnt` must be True or False, got 1"),
        (
            None,
            {"keep_learned": True},
            "Did you mean 'keep_learnt'.*Accepted: 'keep_learnt', 'upper_params'",
        ),
        (None, {"keep_learnt": True, "upper_params": np.full(3, 9.0)}, "upper_params.*9.0"),
    ],
)
def test_a_warm_reset_that_cannot_be_changes_nothing(
    seed: int | None, options: dict[str, Any], message: str
) -> None:
    env, twin = learning("trace"), learning("trace")
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=seed, options=options)
    x = walk(1)[0]
    assert_identical(env.step(x), twin.step(x))


@every_learner
def test_there_is_nothing_to_keep_before_the_first_reset(method: str) -> None:
    with pytest.raises(ResetNeeded, match="`keep_learnt` needs something learnt.*without it"):
        learning(method).reset(options={"keep_learnt": True})
    learning(method).reset(seed=3, options={"keep_learnt": False})


def test_a_black_box_leader_goes_on_over_the_ends_of_its_episodes() -> None:
    env = DummyVecEnv([lambda: learning("m-sobirl", outer_steps=2, keep_learnt=True)])
    twin = learning("m-sobirl")
    env.seed(0)
    env.reset(), twin.reset(seed=0)
    for x in walk(4):
        _, rewards, dones, (info,) = env.step(np.array([x]))
        observation, reward, _, _, told = twin.step(x)
        assert rewards[0] == np.float32(float(reward))
        np.testing.assert_array_equal(info["hyper_gradient"], told["hyper_gradient"])
        if dones[0]:
            twin.step(twin.game.initial_upper_params)


def test_a_seat_that_keeps_what_was_learnt_forgets_it_with_a_seed() -> None:
    env, plain = learning("m-sobirl", keep_learnt=True), learning("m-sobirl")
    first = env.reset(seed=0)
    assert_identical(plain.reset(seed=0), first)
    env.step(walk(1)[0])
    assert_identical(env.reset(seed=0), first)
    env.step(walk(1)[0])
    assert_identical(env.reset(options={"keep_learnt": False}), first)


def test_a_rescaled_seat_hands_the_warm_start_on() -> None:
    env, plain = RescaleUpper(uneven_leader()), uneven_leader()
    env.reset(seed=0), plain.reset(seed=0)
    action = np.array([0.2, -0.4, 0.6])
    _, info = env.reset(options={"upper_params": action, "keep_learnt": True})
    plain.step(env.from_unit(action))
    assert info["inner_iterations"] == answer_of(plain).iterations
    np.testing.assert_allclose(info["upper_params"], action, atol=1e-15)


def test_a_vector_of_seats_keeps_the_warm_start_of_each() -> None:
    def copies(seats: bool) -> Any:
        if seats:
            return SyncVectorEnv([lambda: HyperGradient(make())] * 3)
        return LeaderVectorEnv(ID, 3, map_name="4x4")

    ours, theirs = copies(False), copies(True)
    rng = np.random.default_rng(0)
    xs = rng.uniform(-0.5, 0.5, (3, *ours.single_action_space.shape))
    for envs in (ours, theirs):
        with pytest.raises(ResetNeeded, match="`keep_learnt` needs"):
            envs.reset(options={"keep_learnt": True})
        envs.reset(seed=0)
        envs.step(xs)
        with pytest.raises(ValueError, match="`seed` must be None"):
            envs.reset(seed=1, options={"keep_learnt": True})
    mask = np.array([True, False, True])
    for options in ({}, {"upper_params": xs[0] + 1e-3}, {"reset_mask": mask}):
        (_, info), (_, expected) = (
            envs.reset(options={**options, "keep_learnt": True}) for envs in (ours, theirs)
        )
        np.testing.assert_array_equal(info["inner_iterations"], expected["inner_iterations"])
        np.testing.assert_allclose(info["hyper_gradient"], expected["hyper_gradient"], atol=1e-9)
    # One x for each.
    ours.step(xs)
    _, info = ours.reset(options={"upper_params": xs, "keep_learnt": True})
    assert info["inner_iterations"].max() <= 1


# Single precision -------------------------------------------------------------------------------


def test_the_corners_of_a_box_are_reached_by_rescaling_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    beyond = 0
    for centre, width in zip(rng.normal(size=300), rng.exponential(size=300), strict=True):
        game = array_game(upper_low=centre - width, upper_high=centre + width)
        corners: list[FloatArray] = []
        env = RescaleAction(HyperGradient(game), np.float32(-1.0), np.float32(1.0))
        box = game.upper_space
        for end in (-1.0, 1.0):
            given = env.func(np.full(3, end, np.float32))
            assert given.dtype == np.float32
            beyond += int(np.any((given < box.low) | (given > box.high)))
            corners.append(game.validate_upper_params(given))
        reach = max(abs(float(box.low[0])), abs(float(box.high[0])))
        np.testing.assert_allclose(corners, [box.low, box.high], rtol=0.0, atol=1e-6 * reach)
    assert beyond > 20  # of 600; they were moved onto the bounds


def test_only_single_precision_may_miss_a_bound_and_only_by_rounding() -> None:
    game = array_game(upper_low=-0.5, upper_high=2.0)
    eps = float(np.finfo(np.float32).eps)
    x = game.validate_upper_params(np.full(3, 2.0 + 8.0 * eps, np.float32))
    assert x.dtype == np.float64 and x.tolist() == [2.0] * 3
    inside = np.full(3, 2.0 - 1e-12)
    np.testing.assert_array_equal(game.validate_upper_params(inside), inside)
    for beyond in (
        np.full(3, 2.0 + 1e-12),
        np.full(3, 2.0 + 10.0 * eps, np.float32),
        np.full(3, np.nan, np.float32),
        np.full(3, np.inf, np.float32),
    ):
        with pytest.raises(ValueError, match=r"`upper_params\[0\]` must be finite and lie in"):
            game.validate_upper_params(beyond)


# RescaleUpper -----------------------------------------------------------------------------------


def uneven_leader() -> HyperGradient:
    """Return a leader whose box is neither symmetric nor of size two, nor exact in float32."""
    return HyperGradient(array_game(upper_low=-0.1, upper_high=2.3, upper_cost=0.1))


def test_rescaled_gradients_are_derivatives_with_respect_to_the_rescaled_action() -> None:
    seat = uneven_leader()
    env = RescaleUpper(seat)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    env.reset(seed=0)
    action = np.array([0.2, -0.4, 0.6])
    *_, info = env.step(action)
    np.testing.assert_allclose(info["upper_params"], action, atol=1e-15)
    box = seat.game.upper_space
    scale = (box.high.astype(float) - box.low.astype(float)) / 2.0
    response, plain = answer_of(env), answer_of(seat)
    np.testing.assert_array_equal(response.hyper_gradient, info["hyper_gradient"])
    np.testing.assert_allclose(response.hyper_gradient, scale * plain.hyper_gradient, rtol=1e-14)
    np.testing.assert_allclose(response.direct_gradient, scale * plain.direct_gradient, rtol=1e-14)
    np.testing.assert_allclose(response.upper_params, action, atol=1e-15)
    assert response.objective == plain.objective
    assert response.response_share == pytest.approx(plain.response_share)
    step, numeric = 1e-5, np.empty(3)
    for i, shift in enumerate(step * np.eye(3)):
        numeric[i] = (float(env.step(action + shift)[1]) - float(env.step(action - shift)[1])) / (
            2.0 * step
        )
    # Central differences: truncation of order step^2, rounding of order 1e-16 / step.
    np.testing.assert_allclose(info["hyper_gradient"], numeric, rtol=1e-7, atol=1e-9)
    assert np.abs(numeric).min() > 1e-3


def test_rescaled_reset_options_are_in_the_new_units() -> None:
    env, plain = RescaleUpper(uneven_leader()), uneven_leader()
    action = np.array([0.5, -1.0, 0.0])
    _, info = env.reset(seed=0, options={"upper_params": action})
    np.testing.assert_allclose(info["upper_params"], action, atol=1e-15)
    options = {"upper_params": action.copy()}
    env.reset(seed=0, options=options)
    np.testing.assert_array_equal(options["upper_params"], action)
    low, high = plain.action_space.low.astype(float), plain.action_space.high.astype(float)  # type: ignore[attr-defined]
    x = (low + high) / 2 + (high - low) / 2 * action
    _, expected = plain.reset(seed=0, options={"upper_params": x})
    assert info["lower_value"] == pytest.approx(expected["lower_value"], abs=1e-12)
    # Without options both start at the same point.
    _, info = env.reset(seed=0)
    np.testing.assert_allclose(
        low + (info["upper_params"] + 1) / 2 * (high - low), np.zeros(3), atol=1e-15
    )


def test_rescaled_bounds_are_reached_and_whatever_is_reported_can_be_handed_back() -> None:
    rng = np.random.default_rng(0)
    boxes = [(-0.1, 2.3), (0.1, 0.7), (-3.3, -1.1), (1e-3, 1e3)]
    boxes += [(low, low + rng.exponential()) for low in rng.normal(size=50).tolist()]
    for low, high in boxes:
        seat = HyperGradient(array_game(upper_low=low, upper_high=high))
        env, space = RescaleUpper(seat), seat.game.upper_space
        _, info = env.reset(seed=0)
        assert (np.abs(info["upper_params"]) <= 1.0).all(), (low, high, info["upper_params"])
        env.step(info["upper_params"])
        for end, bound in ((-1.0, space.low), (1.0, space.high)):
            *_, info = env.step(np.full(3, end))
            np.testing.assert_array_equal(answer_of(seat).upper_params, bound.astype(float))
            assert (np.abs(info["upper_params"]) <= 1.0).all()
            env.step(info["upper_params"])
            np.testing.assert_array_equal(answer_of(seat).upper_params, bound.astype(float))


# States -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "zero-order"])
def test_nothing_is_known_of_the_error_of_an_answer_from_a_state(method: str) -> None:
    env: Any = HyperGradient(make(), method=method)
    env.reset(seed=0)
    env.step(interior_point(env))
    other: Any = HyperGradient(make(), method=method)
    other.load_state_dict(env.state_dict())
    last = other.method._last
    assert last.objective == env.method._last.objective
    assert last.gradient_error_bound == np.inf


@pytest.mark.parametrize("method", ["exact", "zero-order", "pbrl-value", "sobirl", "m-sobirl"])
def test_states_of_something_else_are_refused(method: str) -> None:
    env: Any = HyperGradient(make(), method=method)
    env.reset(seed=0)
    env.step(interior_point(env))
    state = env.state_dict()
    for junk in (
        {},
        None,
        {**state, "generator": 1},
        {**state, "method": {}},
        {**state, "method": dict.fromkeys(state["method"], "text")},
    ):
        with pytest.raises(ValueError, match="state"):
            env.load_state_dict(junk)
