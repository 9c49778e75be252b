"""The check of hyper-gradients: it passes what is right and catches what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor

from bilevel_gym import HyperGradient, LowerLevel, RescaleUpper
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.envs import BilevelGridWorld, TabularBilevelEnv
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.objectives import DiscountedReturn, QuadraticCost, Sum
from bilevel_gym.testing import HyperGradientError, check_hyper_gradient

from .helpers import Env, array_game, refusals
from .models import random_mdp

GRID, BAR = "BilevelGridWorld-v0", 1e-6


def random_arrays() -> dict[str, Any]:
    """Return the arrays of a random game with eight shaped states."""
    mdp = random_mdp(0)
    return {
        "transition": mdp.kernel,
        "reward": mdp.reward,
        "upper_reward": np.random.default_rng(1).normal(size=(8, 3)),
        "initial_distribution": np.full(8, 0.125),
    }


def random_game(**options: Any) -> TabularBilevelEnv:
    """Return that game, through the constructor of the base class."""
    return TabularBilevelEnv.from_arrays(**random_arrays(), **options)


def test_the_rescaled_seat_passes_in_its_own_units() -> None:
    game = random_game(upper_low=-3.0, upper_high=1.0)
    env = RescaleUpper(HyperGradient(game))
    report = check_hyper_gradient(env)
    inner = check_hyper_gradient(HyperGradient(game))
    np.testing.assert_allclose(report.analytic, 2.0 * inner.analytic, rtol=1e-6)


class SlipperyCrossing(TabularBilevelEnv):
    """A game whose x, of shape [2, 2], moves reward, kernel and the leader's reward at once."""

    BASE = np.random.default_rng(3).dirichlet(np.ones(4), size=(4, 3))
    OTHER = np.random.default_rng(4).dirichlet(np.ones(4), size=(4, 3))

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self._features = rng.normal(size=(4, 3, 2, 2))
        self._upper_features = 0.1 * rng.normal(size=(4, 3, 2, 2))
        self._upper_base = rng.normal(size=(4, 3))
        base = Kernel.from_dense(self.BASE)
        states, actions, successors = base.triplets
        self._slope = (self.OTHER - self.BASE)[states, actions, successors]
        super().__init__(
            kernel=base,
            initial_distribution=np.full(4, 0.25),
            objective=Sum((DiscountedReturn(0.8), QuadraticCost(0.1))),
            upper_space=gym.spaces.Box(0.0, 1.0, (2, 2), np.float32),
            initial_upper_params=np.full((2, 2), 0.5),
            gamma=0.9,
            temperature=0.2,
        )

    def kernel(self, upper_params: FloatArray) -> Kernel:
        mix = upper_params.mean()
        return self.model.initial_kernel.with_probabilities(
            self.model.initial_kernel.matrix.data + mix * self._slope
        )

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.full((2, 2), 0.25 * float(cotangent @ self._slope))

    def reward(self, upper_params: FloatArray) -> FloatArray:
        return np.tensordot(self._features, upper_params, axes=2)

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.tensordot(cotangent, self._features, axes=2)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        return self._upper_base + np.tensordot(self._upper_features, upper_params**2, axes=2)

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return 2.0 * upper_params * np.tensordot(cotangent, self._upper_features, axes=2)


def test_a_game_whose_x_moves_kernel_and_both_rewards_passes() -> None:
    env = HyperGradient(SlipperyCrossing())
    for point in ([[0.5, 0.5], [0.5, 0.5]], [[0.1, 0.9], [0.3, 0.2]]):
        report = check_hyper_gradient(env, point, tolerance=BAR)
        assert report.response_share >= 0.1
    _, info = env.reset(seed=0)
    assert info["hyper_gradient"].shape == (2, 2)


@pytest.mark.parametrize("name", ["kernel_vjp", "upper_reward_vjp", "reward_vjp"])
def test_each_missing_product_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlipperyCrossing, name, lambda *_: np.zeros((2, 2)))
    with pytest.raises(HyperGradientError):
        check_hyper_gradient(HyperGradient(SlipperyCrossing()), min_response_share=0.0)


def test_a_point_at_the_bounds_is_moved_inward() -> None:
    env = HyperGradient(random_game())
    report = check_hyper_gradient(env, np.ones(8), min_response_share=0.0)
    assert (report.upper_params < 1.0).all() and (report.upper_params > 0.999).all()


class WrongAtOneCell(BilevelGridWorld):
    """A task whose author made a mistake in one entry of the vector-Jacobian product."""

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        gradient = super().reward_vjp(upper_params, cotangent)
        gradient[17] *= 1.0 + 1e-3
        return gradient


def test_a_mistake_of_a_thousandth_in_one_coordinate_is_caught_and_named() -> None:
    with pytest.raises(HyperGradientError) as caught:
        check_hyper_gradient(HyperGradient(WrongAtOneCell()))
    report = caught.value.report
    assert report.worst_coordinate == 17
    message = str(caught.value)
    index = int(np.flatnonzero(report.coordinates == 17)[0])
    for fragment in (
        "[17]",
        f"{report.analytic[index]:.9e}",
        f"{report.numeric[index]:.9e}",
        f"relative error {report.relative_error:.2e}",
        "the response term is 100.0 %",
    ):
        assert fragment in message


def test_a_foreign_wrapper_that_scales_the_reward_is_caught() -> None:
    env = gym.wrappers.TransformReward(gym.make(GRID), lambda r: 10.0 * float(r))
    with pytest.raises(HyperGradientError):
        check_hyper_gradient(env, coordinates=5)


class SlightlyWrong(ArrayModel):
    """A game whose response term is too long by two parts in a hundred thousand."""

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return (1.0 + 2e-5) * super().reward_vjp(upper_params, cotangent)


def test_the_error_is_measured_against_the_response_term() -> None:
    # The direct part is so large that the same error is below 1e-6 of the whole.
    env = HyperGradient(TabularBilevelEnv(SlightlyWrong(**random_arrays(), upper_cost=0.05)))
    with pytest.raises(HyperGradientError) as caught:
        check_hyper_gradient(env, np.full(8, 0.9), min_response_share=0.0)
    report = caught.value.report
    assert report.response_share < 0.05
    assert report.relative_error == pytest.approx(2e-5, rel=0.2)


def test_an_error_in_a_few_entries_is_scaled_up_to_all() -> None:
    env = HyperGradient(WrongAtOneCell())

    def error(coordinates: list[int] | None) -> float:
        with pytest.raises(HyperGradientError) as caught:
            check_hyper_gradient(env, coordinates=coordinates)
        return caught.value.report.relative_error

    assert error([16, 17, 18]) == pytest.approx(error(None) * (52 / 3) ** 0.5, rel=1e-3)


class BrokenAtOneCell(BilevelGridWorld):
    """A task that returns a NaN."""

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        gradient = super().reward_vjp(upper_params, cotangent)
        gradient[0] = np.nan
        return gradient


def test_a_nan_in_the_gradient_fails() -> None:
    with pytest.raises(HyperGradientError):
        check_hyper_gradient(HyperGradient(BrokenAtOneCell()), coordinates=[0, 1])


def leader_with_a_reward_of(size: float) -> HyperGradient:
    arrays = random_arrays()
    arrays["upper_reward"] = arrays["upper_reward"] + size
    return HyperGradient(TabularBilevelEnv.from_arrays(**arrays))


def test_rounding_of_a_large_reward_is_no_error_of_the_gradient() -> None:
    report = check_hyper_gradient(
        leader_with_a_reward_of(10.0), steps=(1e-3, 3e-4, 1e-4), tolerance=1e-12
    )
    assert report.response_share == 1.0 and report.relative_error > 1e-12


def test_episodes_that_end_on_the_way_are_begun_again() -> None:
    env: gym.Env[Any, Any] = Monitor(gym.make(GRID))
    assert check_hyper_gradient(env, coordinates=5).relative_error <= BAR


def test_a_box_narrower_than_the_steps_is_named() -> None:
    env = HyperGradient(random_game(upper_low=0.0, upper_high=1e-4))
    with pytest.raises(ValueError, match="`steps` must fit into the box"):
        check_hyper_gradient(env)
    check_hyper_gradient(env, steps=(1e-5, 3e-6, 1e-6))


def checked(seat: Callable[[], Env] | None = None, **options: Any) -> None:
    """Check a seat, by default that of the random game."""
    check_hyper_gradient(HyperGradient(random_game()) if seat is None else seat(), **options)


# With a single action there is nothing to answer.
NO_CHOICE: dict[str, Any] = {"transition": np.ones((1, 1, 1)), "reward": np.zeros((1, 1))}
NO_CHOICE |= {"upper_reward": np.ones((1, 1)), "initial_distribution": [1.0], "upper_cost": 1.0}

test_what_cannot_be_checked_is_named = refusals(
    checked,
    ({"tolerance": 0.0}, "`tolerance` must be positive and finite, got 0.0"),
    ({"steps": (1e-5,)}, "`steps` must be at least two positive steps"),
    ({"coordinates": 99}, "`coordinates` must lie in 1..8, got 99"),
    ({"coordinates": [3, 8]}, r"flat indices in 0..7, got \[3, 8\]"),
    ({"coordinates": [3, 3]}, r"different flat indices in 0..7, got \[3, 3\]"),
    ({"coordinates": [1.5]}, r"flat indices in 0..7, got \[1.5\]"),
    ({"upper_params": np.zeros(3)}, r"`upper_params` must have shape \(8,\), got \(3,\)"),
    (
        {"seat": lambda: HyperGradient(array_game(**NO_CHOICE)), "upper_params": [0.5]},
        "response term must be at least 0.1",
    ),
    # Without a future, a reward per state changes no choice: the true gradient is zero.
    ({"seat": lambda: HyperGradient(random_game(gamma=0.0))}, "rounding|response term must be"),
    ({"seat": lambda: gym.make(GRID, slip=0.0, temperature=1e-4)}, "must stand out from rounding"),
    ({"seat": lambda: leader_with_a_reward_of(1e5)}, "must stand out from rounding"),
    ({"seat": lambda: HyperGradient(BilevelGridWorld(), "direct")}, "exact method, got Direct"),
    ({"seat": lambda: LowerLevel(BilevelGridWorld(), np.zeros(52))}, TypeError, "leader's seat"),
)
