"""What every tabular game promises to the tasks built on it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.envs import BilevelGridWorld, TabularBilevelEnv
from bilevel_gym.envs.base import shown, upper_box
from bilevel_gym.model.objectives import DiscountedReturn, UpperValue
from bilevel_gym.testing import check_hyper_gradient

from .helpers import answer_of, array_game, refusals
from .small_games import Moved, judged_game


class Fork(TabularBilevelEnv):
    """One state, two roads that end the episode; attributes are set last, products can be wrong."""

    def __init__(self, high: float = 1.0, **wrong: Any) -> None:
        super().__init__(
            kernel=Kernel.from_dense(np.zeros((1, 2, 1))),
            initial_distribution=[1.0],
            objective=DiscountedReturn(),
            upper_space=upper_box([-1.0, -1.0], [1.0, high], (2,)),
            initial_upper_params=[0.0, min(high, 0.0)],
            gamma=0.9,
            temperature=0.2,
        )
        self.wrong = wrong
        self.solved = 0

    def reward(self, upper_params: FloatArray) -> FloatArray:
        self.solved += 1
        return upper_params[None, :]

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return self.wrong.get("reward_vjp", cotangent[0])

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        return self.wrong.get("upper_reward", np.array([[-1.0, 0.0]]))

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return self.wrong.get("upper_reward_vjp", np.zeros(2))

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return self.wrong.get("kernel_vjp", np.zeros(2))

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        return self.wrong.get("start_distribution", super().start_distribution(upper_params))

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return self.wrong.get("start_distribution_vjp", np.zeros(2))


class Doors(TabularBilevelEnv):
    """Two doors to begin at, and x is the logit of the first; leaving it pays the leader."""

    def __init__(self) -> None:
        super().__init__(
            kernel=Kernel.from_dense(np.full((2, 2, 2), 0.25)),
            initial_distribution=[0.5, 0.5],
            objective=DiscountedReturn(),
            upper_space=gym.spaces.Box(-3.0, 3.0, (1,), np.float32),
            initial_upper_params=[0.0],
            gamma=0.9,
            temperature=0.2,
        )

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        first = 1.0 / (1.0 + np.exp(-upper_params[0]))
        return np.array([first, 1.0 - first])

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        first, second = self.start_distribution(upper_params)
        return np.array([first * second * (cotangent[0] - cotangent[1])])

    def reward(self, upper_params: FloatArray) -> FloatArray:
        return np.array([[1.0, 0.0], [0.0, 0.5]]) * upper_params

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.array([cotangent[0, 0] + 0.5 * cotangent[1, 1]])

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        return np.array([[1.0, -1.0], [0.0, 0.0]])


def test_x_may_move_the_distribution_of_the_first_state() -> None:
    env, x = HyperGradient(Doors()), np.array([0.7])
    check_hyper_gradient(env, x)
    game = Doors()
    answer = game.evaluate(x)
    rho = game.start_distribution(x)
    # Half of the mass goes on at each step: d = (I - .9 P_pi)^-1 rho, P_pi = 1/4 everywhere.
    visits = np.linalg.solve(np.eye(2) - 0.9 * np.full((2, 2), 0.25), rho)
    np.testing.assert_allclose(answer.occupancy, 0.1 * visits, rtol=1e-12)
    assert answer.lower_value == pytest.approx(float(rho @ answer.soft_value), rel=1e-12)
    assert (answer.direct_gradient != 0.0).all()  # what the start alone changes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("x", [[3.0], [-3.0]])
def test_a_reset_draws_the_first_state_under_its_own_x(x: list[float], seed: int) -> None:
    game = Doors()
    game.reset(options={"upper_params": [-x[0]]})  # the x in force before
    uniform = gym.utils.seeding.np_random(seed)[0].random()
    expected = int(uniform >= game.start_distribution(np.array(x))[0])
    assert game.reset(seed=seed, options={"upper_params": x})[0] == expected


def test_first_states_are_those_that_exist_and_are_likely() -> None:
    # The probabilities may miss one by rounding; every uniform number selects a state all the same.
    game = array_game(initial_distribution=[0.6, 0.4 - 5e-10, 0.0])
    uniforms = np.array([[0.0, 0.3, 0.5999], [0.6001, 0.9, 1.0 - 1e-12]])
    np.testing.assert_array_equal(game.first_states(uniforms), [[0, 0, 0], [1, 1, 1]])
    # What is impossible is not selected by 0 or by the end of another state's share either.
    game = array_game(initial_distribution=[0.0, 0.5, 0.5])
    np.testing.assert_array_equal(game.first_states([0.0, 0.25, 0.5, 0.75]), [1, 1, 2, 2])
    assert game.first_states(0.0) == 1


def test_a_task_may_set_its_attributes_after_the_base_class() -> None:
    game = Fork()
    response = game.evaluate(np.zeros(2))
    # Two equal roads are taken equally often.
    assert response.objective == pytest.approx(-0.5)
    np.testing.assert_allclose(response.hyper_gradient, [-1.25, 1.25])
    # The leader alone needs no sampling tables: each answer asks for the model once.
    HyperGradient(game).reset(seed=0)
    assert game.solved == 2


test_what_a_task_returns_wrongly_is_named = refusals(
    lambda **wrong: Fork(**wrong).evaluate(np.zeros(2)),
    ({"reward_vjp": np.zeros((1, 2))}, r"`reward_vjp` .* shape of x, \(2,\), got \(1, 2\)"),
    ({"reward_vjp": 1.0}, r"`reward_vjp` must return the shape of x, \(2,\), got \(\)"),
    ({"upper_reward_vjp": np.zeros(1)}, r"`upper_reward_vjp` must return the shape of x"),
    ({"kernel_vjp": np.zeros(3)}, r"`kernel_vjp` must return the shape of x"),
    ({"start_distribution_vjp": np.zeros(3)}, r"`start_distribution_vjp` must return the"),
    ({"start_distribution": np.array([0.9])}, r"`start_distribution\(x\)` .* sum 0.9"),
    ({"upper_reward": np.zeros(2)}, r"`upper_reward` .* \[S, A\] = \(1, 2\), got \(2,\)"),
    ({"upper_reward": np.array([[0.0, np.nan]])}, "got nan in state 0, action=1"),
)


def test_the_model_of_an_equal_x_is_built_once() -> None:
    game = Fork()
    env = LowerLevel(game, np.array([0.25, 0.5]))
    for _ in range(3):
        env.reset(seed=0)
        env.step(0)
    for _ in range(3):
        game.reset(options={"upper_params": [0.25, 0.5]})
        game.step({"upper": np.array([0.25, 0.5]), "lower": 1})
    assert game.solved == 1


def test_the_picture_answers_the_x_in_force() -> None:
    game = BilevelGridWorld()
    game.reset(seed=0)
    first = game.view()
    x = np.full(52, 0.1)
    game.step({"upper": x, "lower": 0})
    second = game.view()
    assert first.response is not None and second.response is not None
    np.testing.assert_array_equal(second.response.upper_params, x)
    assert second.response.objective != first.response.objective


def test_the_arrays_of_a_game_and_of_an_answer_are_read_only() -> None:
    game = BilevelGridWorld()
    env, x = HyperGradient(game), game.initial_upper_params
    env.reset(seed=0)
    answer = answer_of(env)
    answers = answer.policy, answer.soft_value, answer.occupancy, answer.hyper_gradient
    tables = game.upper_reward(x), game.initial_distribution, game.kernel(x).matrix.data
    for array in (*answers, *tables):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 5.0


@pytest.mark.parametrize("name", ["gamma", "temperature"])
def test_another_discount_or_temperature_makes_another_game(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(BilevelGridWorld(), name, 0.5)


def test_a_box_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="`upper_space` must be .* wider than a point"):
        Fork(high=-1.0)


def test_boxes_contain_the_bounds_they_were_made_from() -> None:
    box = upper_box([0.1, -0.3], [0.9, 1.0 / 3.0], (2,))
    assert (box.low.astype(float) <= [0.1, -0.3]).all()
    assert (box.high.astype(float) >= [0.9, 1.0 / 3.0]).all()
    np.testing.assert_allclose(box.low, [0.1, -0.3], rtol=1e-6)
    exact = upper_box(-1.0, 1.0, (3,))
    np.testing.assert_array_equal(exact.high, np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (0.46071, "0.4607"), (-1e-05, "-1.0e-05"), (-2.5, "-2.5000")],
)
def test_small_numbers_are_not_shown_as_zero(value: float, text: str) -> None:
    assert shown(value) == text


def test_derivatives_that_are_none_are_nothing_where_x_moves_everything() -> None:
    model = judged_game(kind=Moved).model
    assert model.moves_kernel and model.moves_start
    x = model.initial_upper_params
    np.testing.assert_array_equal(model.direct_part(x, UpperValue(1.0)), np.zeros(x.shape))
    assert not model.low.flags.writeable and not model.high.flags.writeable
