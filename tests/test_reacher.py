"""The robot arm: what the leader is told, what the follower is paid, copies and pictures."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco", reason='needs pip install -e ".[mujoco]"')
pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import BilevelReacher
from bilevel_gym.envs.reacher import FEATURES, LINKS, features
from bilevel_gym.envs.simulators import Restorable, goes_on
from bilevel_gym.sb3 import SoftSAC

from .helpers import assert_copy_continues, assert_identical, every_copier
from .learnt import assert_goes_on_from_a_file

X = np.array([1.0, -0.5, 0.25, 0.75, -1.0, 0.5])
QUICK: dict[str, Any] = {
    "episodes": 2,
    "inner_steps": 24,
    "inner_options": {
        "policy_kwargs": {"net_arch": [16]},
        "learning_starts": 10,
        "batch_size": 16,
        "buffer_size": 500,
    },
}


def observations(count: int = 40, seed: int = 0) -> Any:
    """Return what is seen in an episode of random torques, `[B, 10]`, and the torques."""
    game = BilevelReacher(episode_steps=count)
    seen, rng = [game.reset(seed=seed)[0]], np.random.default_rng(seed)
    torques = rng.uniform(-1.0, 1.0, (count, 2)).astype(np.float32)
    for torque in torques[1:]:
        seen.append(game.step({"upper": X, "lower": torque})[0])
    return np.array(seen), torques


def test_what_is_seen_is_what_the_simulator_shows_in_units_of_order_one() -> None:
    import gymnasium as gym

    game, arm = BilevelReacher(), gym.make("Reacher-v5")
    game.reset(seed=0)
    arm.reset(seed=0)
    simulator: Any = game.environment.unwrapped
    data = arm.unwrapped.data  # type: ignore[attr-defined]
    simulator.set_state(data.qpos, data.qvel)
    torque = np.array([0.5, -0.5], np.float32)
    units = [1, 1, 1, 1, 0.2, 0.2, 10, 10, 0.2, 0.2]
    seen = game.step({"upper": X, "lower": torque})[0]
    np.testing.assert_allclose(seen * units, arm.step(torque)[0], atol=1e-6)


def test_features_are_those_of_the_page() -> None:
    seen, torques = observations()
    phi = features(seen, torques)
    assert phi.shape == (40, len(FEATURES))
    for row, (c1, c2, s1, _, tx, ty, w1, w2, dx, dy) in zip(phi, seen.tolist(), strict=True):
        square = 0.2**2 * (dx**2 + dy**2)
        near = [np.exp(-square / (2.0 * reach**2)) for reach in (0.05, 0.1, 0.2)]
        rest = np.exp(-(10.0**2) * (w1**2 + w2**2) / 50.0)
        heading = (c1 * tx + s1 * ty) / np.hypot(tx, ty)
        np.testing.assert_allclose(row, [*near, rest, c2, heading], rtol=1e-12)


def test_a_target_at_the_shoulder_has_no_direction_and_is_no_error() -> None:
    seen = np.zeros((1, 10))
    seen[0, :2] = 1.0
    assert features(seen, np.zeros((1, 2)))[0, -1] == 0.0


def test_the_follower_is_paid_for_features_and_pays_for_torques() -> None:
    game = BilevelReacher(reward_bound=2.0, effort_cost=0.3)
    before, _ = game.reset(seed=4)
    for torque in np.random.default_rng(1).uniform(-1.0, 1.0, (20, 2)).astype(np.float32):
        after, reward, terminated, truncated, info = game.step({"upper": X, "lower": torque})
        paid = 2.0 * np.tanh(features(before[None], torque[None])[0] @ X / 2.0)
        paid -= 0.3 * float(np.square(torque, dtype=float).sum())
        assert reward == pytest.approx(paid - 0.05 * 2.0 * np.log(2.0))  # entropy of two torques
        assert info == {"upper_reward": pytest.approx(-0.2 * float(np.hypot(*before[8:])))}
        assert not terminated and not truncated
        before = after


def test_the_derivative_of_the_reward_is_right() -> None:
    game = BilevelReacher()
    seen, torques = observations()
    weights = np.random.default_rng(2).normal(size=len(seen))
    gradient = game.reward_vjp(X, seen, torques, weights)
    for i in range(6):
        step = 1e-6 * np.eye(6)[i]
        ends = [weights @ game.reward(X + sign * step, seen, torques) for sign in (1.0, -1.0)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@every_copier
def test_a_copy_of_the_simulator_goes_on_where_it_is(copier: Any) -> None:
    assert_copy_continues(LowerLevel(BilevelReacher(), X), copier, 30, before=13)


def test_the_leader_is_told_a_hyper_gradient_that_a_seed_determines() -> None:
    answers: list[list[Any]] = []
    for _ in range(2):
        env = HyperGradient(BilevelReacher(episode_steps=20), critic_updates=5, **QUICK)
        env.reset(seed=3)
        assert isinstance(env.method.follower.model, SoftSAC)  # type: ignore[attr-defined]
        answers.append([env.step(X)])
    assert_identical(answers[0], answers[1])
    for observation, objective, _, _, info in answers[0]:
        assert info["hyper_gradient"].shape == (6,) and info["hyper_gradient"].any()
        assert observation[2] == 20.0 and objective == pytest.approx(observation[0], rel=1e-6)
        assert -0.42 * 20.0 < objective < 0.0  # nowhere is the tip farther than .41


def test_who_loads_goes_on_in_the_middle_of_a_movement(tmp_path: Any) -> None:
    def seat() -> HyperGradient:
        return HyperGradient(BilevelReacher(), critic_updates=2, **QUICK)

    assert_goes_on_from_a_file(seat, tmp_path)  # steps 48 to 96: over the end of an episode


def test_only_copies_that_go_on_are_told_to() -> None:
    import gymnasium as gym

    arm = gym.make("Reacher-v5")
    assert not goes_on(arm) and goes_on(Restorable(arm))
    assert goes_on(gym.wrappers.ClipAction(Restorable(arm)))
    assert goes_on(gym.make("Pendulum-v1"))


def test_the_one_step_formula_warns_that_it_is_zero_here() -> None:
    env = HyperGradient(BilevelReacher(), "sobirl", **QUICK)
    with pytest.warns(UserWarning, match="one-step response term is zero"):
        env.reset(seed=0)


def test_the_picture_needs_no_opengl_and_follows_the_arm_and_x(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    game = BilevelReacher(render_mode="rgb_array")
    game.reset(seed=0, options={"upper_params": X})
    first = game.render()
    assert first.shape == (680, 1040, 3) and first.dtype == np.uint8
    for _ in range(5):
        game.step({"upper": X, "lower": np.ones(2)})
    moved = game.render()
    assert (first != moved).any()
    game.commit(-X)
    assert (game.render() != moved).mean() > 0.1  # the arena has other colours


def test_what_the_picture_says_is_paid_is_paid_where_the_tip_is() -> None:
    game = BilevelReacher(effort_cost=0.0)
    seen, _ = game.reset(seed=2)
    field = game._field(X, seen)
    assert np.isnan(field[0, 0]) and np.isfinite(field).mean() > 0.5
    # The arm at rest, bent as it is: its tip by the angles, not as the simulator reports it.
    first, second = np.arctan2(seen[2:4], seen[:2])
    tip = LINKS[0] * np.array([np.cos(first), np.sin(first)])
    tip += LINKS[1] * np.array([np.cos(first + second), np.sin(first + second)])
    resting = np.concatenate([seen[:6], np.zeros(2), tip / 0.2 - seen[4:6]])
    paid = game.reward_model.rewards(X, resting[None], np.zeros((1, 2)))[0]
    column, row = np.rint((tip / 0.22 + 1.0) / 2.0 * (len(field) - 1)).astype(int)
    around = field[column - 1 : column + 2, row - 1 : row + 2]
    assert np.nanmin(around) - 0.02 < paid < np.nanmax(around) + 0.02


def test_without_mujoco_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r'pip install -e ".\[mujoco\]"'):
        BilevelReacher()
