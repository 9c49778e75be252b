"""The design of an arm: what the body does, what both players are paid, copies and pictures."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco", reason='needs pip install -e ".[mujoco]"')
pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import BilevelBodyDesign
from bilevel_gym.envs.body_design import FARTHEST, NEAREST, PARTS, Arm, joints

from .helpers import assert_copy_continues, every_copier
from .learnt import TINY_LEARNER, assert_goes_on_from_a_file

X = np.array([0.12, 0.08, 0.1, 0.3])
QUICK: dict[str, Any] = {"episodes": 2, "inner_steps": 24, "directions": 1}
QUICK |= {"first_inner_steps": 24, "inner_options": TINY_LEARNER}


def arm(x: Any = X) -> Arm:
    made = Arm()
    for name, value in zip(PARTS, x, strict=True):
        setattr(made, name, float(value))
    return made


def test_the_bounds_are_those_of_the_page_and_x_is_the_body() -> None:
    game = BilevelBodyDesign()
    np.testing.assert_allclose(game.upper_space.low, [0.05, 0.05, 0.02, 0.02], rtol=1e-6)
    np.testing.assert_allclose(game.upper_space.high, [0.25, 0.25, 0.4, 0.4], rtol=1e-6)
    assert game.initial_upper_params.tolist() == [0.2, 0.2, 0.05, 0.05]
    game.reset(seed=0, options={"upper_params": X})
    body: Any = game.environment.unwrapped
    assert list(body.body.values()) == X.tolist()


def test_what_is_seen_is_where_the_tip_is() -> None:
    env = arm()
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        seen, reward, *_ = env.step(rng.uniform(-1.0, 1.0, 2))
    elbow, tip = joints(env.angles, 0.12, 0.08)
    offset = tip - env.target
    np.testing.assert_allclose(seen[:4], [*np.cos(env.angles), *np.sin(env.angles)], rtol=1e-5)
    np.testing.assert_allclose(seen[8:], offset / 0.2, rtol=1e-5)
    # How half the square of the distance changes as each joint turns.
    for joint, turn in enumerate(1e-6 * np.eye(2)):
        ends = [joints(env.angles + sign * turn, 0.12, 0.08)[1] - env.target for sign in (1, -1)]
        slope = (ends[0] @ ends[0] - ends[1] @ ends[1]) / 4e-6
        assert seen[4 + joint] == pytest.approx(slope / 0.2**2, rel=1e-4, abs=1e-6)
    assert reward < 0.0 and np.linalg.norm(elbow) == pytest.approx(0.12)


def test_targets_lie_where_the_page_says() -> None:
    env = arm()
    found = []
    for seed in range(200):
        env.reset(seed=seed)
        found.append(env.target)
    distances = np.linalg.norm(found, axis=1)
    assert distances.min() >= NEAREST and distances.max() <= FARTHEST
    assert np.ptp(distances) > 0.19 and np.min(found, axis=0)[0] >= 0.0


def test_long_links_are_heavy_and_strong_motors_turn_them() -> None:
    def turned(x: list[float]) -> float:
        env = arm(x)
        env.reset(seed=0)
        for _ in range(5):
            env.step(np.array([1.0, 0.0]))
        return float(env.angles[0])

    light, heavy, strong = (turned([*x, 0.1]) for x in ([0.1, 0.1, 0.1], [0.2, 0.2, 0.1],
                                                       [0.2, 0.2, 0.4]))  # fmt: skip
    assert 0.0 < heavy < 0.7 * light and strong > 2.0 * heavy


def test_both_players_are_paid_as_the_page_says() -> None:
    game = BilevelBodyDesign(effort_cost=0.3, material_price=7.0, motor_price=3.0)
    before, _ = game.reset(seed=1, options={"upper_params": X})
    torque = np.array([0.5, -0.25], np.float32)
    _, reward, _, _, info = game.step({"upper": X, "lower": torque})
    away = 0.2 * float(np.hypot(*before[8:]))
    paid = np.exp(-(away**2) / (2.0 * 0.05**2)) - away / 0.2 - 0.3 * (0.25 + 0.0625)
    assert reward == pytest.approx(paid - 0.05 * 2.0 * np.log(2.0), rel=1e-6)
    assert info["upper_reward"] == pytest.approx(-away)
    price, slope = game.price(X)
    assert price == pytest.approx(-7.0 * 0.2 - 3.0 * 0.4)
    assert slope.tolist() == [-7.0, -7.0, -3.0, -3.0]


@every_copier
def test_a_copy_goes_on_in_the_same_body(copier: Any) -> None:
    assert_copy_continues(LowerLevel(BilevelBodyDesign(), X), copier, 30, before=13)


def test_a_longer_arm_is_in_the_price_of_the_hyper_gradient(tmp_path: Any) -> None:
    def seat() -> HyperGradient[Any]:
        return HyperGradient(BilevelBodyDesign(episode_steps=12), **QUICK)

    env = seat()
    env.reset(seed=3)
    *_, info = env.step(X)
    assert info["hyper_gradient"].shape == (4,) and info["hyper_gradient"].any()
    assert env.response.direct_gradient is not None
    np.testing.assert_array_equal(env.response.direct_gradient, [-2.5, -2.5, -1.0, -1.0])
    assert_goes_on_from_a_file(seat, tmp_path)


def test_methods_that_take_the_body_as_given_refuse() -> None:
    with pytest.raises(TypeError, match="'score' does not suit .* changes the dynamics .*'zero-or"):
        HyperGradient(BilevelBodyDesign(), "score")


def test_the_picture_needs_no_opengl_and_follows_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    game = BilevelBodyDesign(render_mode="rgb_array")
    game.reset(seed=0)
    first = game.render()
    assert first.shape == (680, 1040, 3) and first.dtype == np.uint8
    game.step({"upper": game.initial_upper_params, "lower": np.ones(2)})
    moved = game.render()
    assert (first != moved).any()
    game.reset(seed=0, options={"upper_params": X})
    assert (game.render() != first).mean() > 0.01


def test_without_mujoco_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r'pip install -e ".\[mujoco\]"'):
        BilevelBodyDesign()
