"""Operations of JAX: derivatives, precision, transforms, and what is refused.

`test_jax_operations.py` runs these tests, in a process of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import gymnasium as gym
import jax
import jax.test_util
import numpy as np
import pytest

import bilevel_gym.jax
from bilevel_gym.jax import objective, soft_policy

from .operations import GAMES, inner_point, operations_of
from .small_games import small_game

# Central differences of this step are off by its square and by rounding / step, both about 1e-10.
EXACTLY = {"order": 1, "modes": ["rev"], "eps": 1e-5, "rtol": 1e-6, "atol": 1e-7}


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", GAMES)
def test_gradients_agree_with_differences(name: str) -> None:
    game = GAMES[name]()
    for operation in operations_of(name, game, bilevel_gym.jax):
        jax.test_util.check_grads(operation, (inner_point(game),), **EXACTLY)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", GAMES)
def test_a_batch_is_its_rows_and_vmap_is_a_batch(name: str) -> None:
    game = GAMES[name]()
    xs = jax.numpy.asarray(inner_point(game, 3))
    for operation in operations_of(name, game, bilevel_gym.jax):
        together = operation(xs)
        assert together.dtype == np.float64
        np.testing.assert_allclose(together, [operation(x) for x in xs], rtol=1e-12)
        np.testing.assert_array_equal(jax.vmap(operation)(xs), together)
        first = jax.jit(jax.vmap(jax.grad(lambda x, run=operation: run(x).sum())))
        rows = [jax.grad(lambda x, run=operation: run(x).sum())(x) for x in xs]
        np.testing.assert_allclose(first(xs), rows, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_value_and_gradient_are_those_of_the_referee() -> None:
    game = small_game()
    x = inner_point(game)
    answer = game.evaluate(x)
    value, gradient = jax.jit(jax.value_and_grad(objective(game)))(x)
    assert value == answer.objective
    assert (gradient == answer.hyper_gradient).all()
    assert (soft_policy(game.model)(x) == answer.policy).all()


@pytest.mark.usefixtures("double")
def test_the_jacobian_is_that_of_torch() -> None:
    th = pytest.importorskip("torch")
    from bilevel_gym.torch import soft_policy as torch_policy

    game = small_game(masked=True)
    x = inner_point(game)
    wanted = th.autograd.functional.jacobian(torch_policy(game), th.tensor(x))
    np.testing.assert_allclose(jax.jacrev(soft_policy(game))(x), wanted, rtol=1e-10, atol=1e-13)


def test_without_double_precision_outside_it_is_double_inside() -> None:
    game = small_game()
    x = inner_point(game).astype(np.float32)
    answer = game.evaluate(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, gradient = jax.value_and_grad(objective(game))(x)
        policy = soft_policy(game)(x)
    assert value.dtype == gradient.dtype == policy.dtype == np.float32
    assert value == np.float32(answer.objective)
    np.testing.assert_array_equal(policy, answer.policy.astype(np.float32))
    np.testing.assert_array_equal(gradient, answer.hyper_gradient.astype(np.float32))


@pytest.mark.usefixtures("double")
def test_single_precision_comes_back_in_single_precision() -> None:
    x = jax.numpy.asarray(inner_point(game := small_game()), np.float32)
    assert jax.grad(objective(game))(x).dtype == np.float32


def test_second_derivatives_are_refused() -> None:
    game = small_game()
    for operation in (objective(game), lambda x: soft_policy(game)(x)[0, 0]):
        with pytest.raises(ValueError, match="do not support JVP"):
            jax.grad(lambda x, run=operation: jax.grad(run)(x).sum())(inner_point(game))


def test_what_a_game_refuses_an_operation_refuses() -> None:
    game = small_game()
    x = jax.numpy.zeros(15)
    for run in (objective(game), jax.jit(objective(game))):
        with pytest.raises(Exception, match=r"`upper_params\[0\]` must be finite and lie in .* 2"):
            jax.block_until_ready(run(x + 2.0))
    with pytest.raises(ValueError, match=r"`x` must have shape \(15,\), after .* got \(15, 2\)"):
        soft_policy(game)(jax.numpy.zeros((15, 2)))
    for wrong in (x + 1j, x > 0.0):
        with pytest.raises(TypeError, match="`x` must be an array of real numbers, got one of"):
            objective(game)(wrong)
    with pytest.raises(TypeError, match="finitely many states .* got LinearQuadraticModel"):
        soft_policy(gym.make("BilevelLQR-v0"))
