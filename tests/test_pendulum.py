"""The pendulum whose reward is designed: what is paid, what is seen, what is estimated."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import BilevelPendulum
from bilevel_gym.learnt.followers import MEASURED
from bilevel_gym.registration import QUICK
from bilevel_gym.rendering.canvas import HEADER_HEIGHT

TASK = "BilevelPendulum-v0"


def states(angles: Any) -> np.ndarray:
    """Return observations at some angles from upright, at rest, `[B, 3]`."""
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], axis=1)


def test_each_direction_is_paid_most_where_it_points() -> None:
    game = BilevelPendulum(reward_bound=100.0, effort_cost=0.0)
    angles = np.linspace(-np.pi, np.pi, 361)
    for index, x in enumerate(np.eye(6)):
        paid = game.reward_model.rewards(x, states(angles), np.zeros((361, 1)))
        best = angles[paid.argmax()]
        assert np.cos(best - index * np.pi / 3.0) == pytest.approx(1.0, abs=1e-3)
        assert paid.max() == pytest.approx(1.0, rel=1e-3)
        # Opposite of it, exp(-4) is left.
        assert paid.min() == pytest.approx(np.exp(-4.0), rel=1e-3)


def test_the_pay_is_bounded_and_torque_costs() -> None:
    game = BilevelPendulum(reward_bound=0.5, effort_cost=0.1)
    upright = states(np.zeros(3))
    torques = np.array([[0.0], [1.0], [-2.0]])
    paid = game.reward_model.rewards(np.full(6, 10.0), upright, torques)
    np.testing.assert_allclose(paid, 0.5 - 0.1 * torques[:, 0] ** 2, atol=1e-6)


def test_the_leader_is_paid_the_cosine_of_what_was_seen_before_the_step() -> None:
    env = LowerLevel(gym.make(TASK), np.zeros(6))
    state, _ = env.reset(seed=1)
    for _ in range(20):
        before = state
        state, reward, _, _, info = env.step(np.array([1.5]))
        assert info["upper_reward"] == pytest.approx(float(before[0]), abs=1e-7)
        # Entropy, weighed by .05, is relative to that of the uniform policy on [-1, 1].
        assert reward == pytest.approx(-0.05 * 1.5**2 - 0.05 * np.log(2.0))


def test_the_one_step_estimate_is_exactly_zero_and_says_why() -> None:
    game = gym.make(TASK, episode_steps=20)
    env = HyperGradient(game, method="sobirl", episodes=4, inner_steps=12, first_inner_steps=12)
    with pytest.warns(UserWarning, match="the one-step response term is zero for BilevelPendulum"):
        _, info = env.reset(seed=0)
    assert not info["hyper_gradient"].any()


def test_the_trace_is_not_zero_and_a_part_of_the_response_alone() -> None:
    env = HyperGradient(gym.make(TASK, episode_steps=20), "trace", **QUICK)
    _, info = env.reset(seed=0)
    assert info["hyper_gradient"].all()
    assert not np.asarray(env.response.direct_gradient).any()
    # 12 steps of learning, up to the next update after each 8 of them, those that measure
    # observations, and two episodes.
    assert info["inner_samples"] == 16 + MEASURED + 2 * 20


def test_options_that_suit_the_task_are_those_of_its_methods() -> None:
    class Watched(BilevelPendulum):
        method_options = {"episodes": 3, "truncation": 2}  # the latter is none of the method

    game = gym.make(TASK, episode_steps=20)
    env = HyperGradient(Watched(episode_steps=20), first_inner_steps=16, critic_updates=2)
    _, info = env.reset(seed=0)
    assert info["inner_samples"] == 16 + MEASURED + 3 * 20
    # They are not part of the specification, which has what was given.
    env = HyperGradient(game, first_inner_steps=16, critic_updates=2)
    assert env.spec is not None
    given = {"first_inner_steps": 16, "critic_updates": 2}
    assert env.spec.kwargs == {**gym.spec(TASK).kwargs, "episode_steps": 20, **given}


def test_regressing_advantages_on_the_state_takes_noise_away() -> None:
    def estimates(state_features: int) -> np.ndarray:
        options: dict[str, Any] = {"first_inner_steps": 200, "episodes": 8}
        options |= {"first_critic_updates": 100, "critic_updates": 1}
        env = HyperGradient(gym.make(TASK), "trace", **options, state_features=state_features)
        _, info = env.reset(seed=0)
        method: Any = env.method
        found = [info["hyper_gradient"]]
        for _ in range(7):
            played = method.follower.play(np.zeros(6), 8, env.game.np_random)
            found.append(method.response_term(np.zeros(6), played)[0])
        return np.array(found)

    raw, centred = estimates(0), estimates(20)
    assert centred.var(axis=0).sum() < 0.7 * raw.var(axis=0).sum()


def test_the_ring_has_the_colours_of_what_is_paid() -> None:
    env = gym.make(TASK, render_mode="rgb_array").unwrapped
    assert isinstance(env, BilevelPendulum)
    env.reset(seed=0, options={"upper_params": [5.0, 0.0, 0.0, -5.0, 0.0, 0.0]})
    picture: Any = env.render()
    top, pivot = HEADER_HEIGHT, (picture.shape[1] // 2, HEADER_HEIGHT + 250)
    assert picture.dtype == np.uint8 and picture.shape[0] > top + 500
    above, below = (picture[pivot[1] + side * 144, pivot[0]].astype(int) for side in (-1, 1))
    # Yellow for what is paid, blue for what costs.
    assert above[0] - above[2] > 80 and below[2] - below[0] > 80
