"""Entropy relative to the uniform policy: each step is worth temperature log A(s) less."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.envs import (
    BilevelGridWorld,
    BilevelInverseRL,
    TabularBilevelEnv,
)
from bilevel_gym.learnt.tables import TableGame
from bilevel_gym.methods import make_method
from bilevel_gym.model import LinearQuadraticModel
from bilevel_gym.model.base import ENTROPIES
from bilevel_gym.testing import check_hyper_gradient

from .helpers import array_game, refusals
from .small_games import PaidByX, small_game

TEMPERATURE = 0.5


class Shaken(PaidByX):
    """A game whose x also moves the kernel: how soon episodes end, which depends on the state."""

    def kernel(self, upper_params: FloatArray) -> Kernel:
        kernel = self.initial_kernel
        going_on = 0.9 - 0.15 * kernel.triplets[0] + 0.1 * upper_params[0]
        return kernel.with_probabilities(kernel.matrix.data * going_on)

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        gradient = np.zeros(upper_params.shape)
        gradient[0] = 0.1 * float(cotangent @ self.initial_kernel.matrix.data)
        return gradient


def relative_and_by_hand(
    *, masked: bool = True, kind: type[PaidByX] = Shaken
) -> tuple[TabularBilevelEnv, TabularBilevelEnv]:
    """Return a game of relative entropy, and the plain one with other rewards."""

    class ByHand(kind):  # type: ignore[misc, valid-type]
        def reward(self, upper_params: FloatArray) -> FloatArray:
            count = 3 if self.action_mask is None else self.action_mask.sum(1, keepdims=True)
            reward: FloatArray = super().reward(upper_params) - TEMPERATURE * np.log(count)
            return reward

    common: dict[str, Any] = {"masked": masked, "termination": 0.3, "temperature": TEMPERATURE}
    return (
        small_game(kind=kind, entropy="relative", **common),
        small_game(kind=ByHand, **common),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_answer_and_hyper_gradient_are_those_of_the_rewards_by_hand(masked: bool) -> None:
    relative, by_hand = relative_and_by_hand(masked=masked)
    x = relative.initial_upper_params
    found, expected = relative.evaluate(x), by_hand.evaluate(x)
    (batched,) = relative.evaluate_batch([x])
    for answer in (found, batched):
        for name in ("objective", "soft_value", "policy", "hyper_gradient", "occupancy"):
            ours, theirs = getattr(answer, name), getattr(expected, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    plain = small_game(kind=Shaken, masked=masked, termination=0.3).evaluate(x)
    assert np.abs(plain.policy - found.policy).max() > 1e-3
    check_hyper_gradient(HyperGradient(relative), x, tolerance=1e-6)


def test_where_every_state_has_the_same_actions_and_no_end_only_values_move() -> None:
    answers = []
    for entropy in ("plain", "relative"):
        game = small_game(entropy=entropy)
        answers.append(game.evaluate(game.initial_upper_params))
    plain, relative = answers
    np.testing.assert_allclose(relative.policy, plain.policy, rtol=1e-10)
    np.testing.assert_allclose(relative.hyper_gradient, plain.hyper_gradient, rtol=1e-8, atol=1e-10)
    shift = TEMPERATURE * np.log(3.0) / (1.0 - 0.8)
    np.testing.assert_allclose(relative.soft_value, plain.soft_value - shift, rtol=1e-10)


def test_a_uniform_follower_has_the_value_0() -> None:
    game = array_game(reward=np.zeros((3, 2)), entropy="relative")
    answer = game.evaluate(np.zeros(3))
    np.testing.assert_allclose(answer.soft_value, 0.0, atol=1e-14)
    np.testing.assert_allclose(answer.policy, 0.5, rtol=1e-14)


def test_the_follower_is_paid_so_in_its_seat() -> None:
    relative, by_hand = relative_and_by_hand()
    x = relative.initial_upper_params
    seats = [LowerLevel(game, x) for game in (relative, by_hand)]
    for env in seats:
        env.reset(seed=1)
    for _ in range(20):
        action = int(np.flatnonzero(relative.action_masks())[0])
        (_, paid, over, *_), (_, expected, *_) = (env.step(action) for env in seats)
        assert paid == pytest.approx(float(expected), rel=1e-12)
        if over:
            for env in seats:
                env.reset()


@pytest.mark.parametrize(
    ("method", "inner"),
    [("trace", "soft-q"), ("sobirl", "certainty-equivalence"), ("hpgd", "exact"), ("amd", None)],
)
def test_methods_see_the_same_rewards(method: str, inner: str | None) -> None:
    options = {} if inner is None else {"inner": inner, "episodes": 8}
    gradients = []
    for game in relative_and_by_hand():
        learner: Any = make_method(method, game, **options)
        learner.reset(np.random.default_rng(2))
        gradients.append(learner.step(game.initial_upper_params).hyper_gradient)
    found, expected = gradients
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_followers_of_networks_learn_from_the_same_rewards() -> None:
    relative, by_hand = relative_and_by_hand(masked=False, kind=PaidByX)
    games = [TableGame(game.model) for game in (relative, by_hand)]
    x = relative.initial_upper_params
    pairs = np.repeat(np.arange(5), 3), np.tile(np.arange(3), 5)
    paid, expected = (game.reward(x, *pairs) for game in games)
    np.testing.assert_allclose(paid, expected, rtol=1e-12)
    np.testing.assert_allclose(paid, relative.model.lower_mdp(x).reward.ravel(), rtol=1e-12)


def test_a_demonstrator_has_the_entropy_of_its_imitator() -> None:
    games = [BilevelInverseRL(entropy=kind, num_demonstrations=None) for kind in ENTROPIES]
    policies: list[Any] = [game.true_policy for game in games]
    assert np.abs(policies[0] - policies[1]).max() > 1e-3
    for game, policy in zip(games, policies, strict=True):
        assert game.best_known is not None
        answer = game.evaluate(game.best_known.upper_params)
        np.testing.assert_allclose(answer.policy, policy, atol=1e-10)
        assert np.linalg.norm(answer.hyper_gradient) <= 1e-10


def test_a_task_of_another_entropy_has_no_best_known_and_no_warning_of_idling() -> None:
    for entropy, known in (("plain", True), ("relative", False)):
        for env_id in ("BilevelCliffWalking-v0", "BilevelFourRooms-v0"):
            game: Any = gym.make(env_id, entropy=entropy).unwrapped
            assert (game.best_known is not None) == known
    with pytest.warns(UserWarning, match="more than half of the goal's reward.*relative"):
        BilevelGridWorld(temperature=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BilevelGridWorld(temperature=0.1, entropy="relative")


test_bad_conventions_are_refused = refusals(
    lambda **options: array_game(**options),
    ({"entropy": "relativ"}, "entropy 'relativ'.*Did you mean 'relative'"),
    ({"entropy": None}, "entropy None; accepted: 'plain', 'relative'"),
)


def test_unbounded_actions_have_no_uniform_policy() -> None:
    with pytest.raises(ValueError, match="`entropy` must be 'plain'.*unbounded.*got 'relative'"):
        LinearQuadraticModel(
            lambda x: (np.eye(1),) * 4,  # type: ignore[arg-type, return-value]
            lambda x, cotangent: np.zeros(1),
            upper_state_cost=np.eye(1),
            upper_action_cost=np.eye(1),
            low=[0.0],
            high=[1.0],
            initial_upper_params=[0.5],
            gamma=0.9,
            temperature=0.1,
            entropy="relative",
        )
