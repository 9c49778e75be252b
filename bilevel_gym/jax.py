"""A game's objective and its follower's policy as differentiable operations of JAX.

x may be the output of a network, and what comes out may go on into any loss: gradients flow through
the follower's optimal answer. They are exact, by implicit differentiation: one adjoint solve for
each x, whatever the size of x and the loss (see `bilevel_gym.core.adjoint`). The numbers are
computed on the host, in float64, and have JAX's own precision outside: float32 unless
`jax.config.update("jax_enable_x64", True)` comes first.

`pip install -e ".[jax]"` brings JAX.

    F, policy = objective(game), soft_policy(game)
    jax.jit(jax.grad(lambda x: F(x) + 0.1 * policy(x)[0, 0]))(x)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError(
        'bilevel_gym.jax needs JAX, which is not installed; run: pip install -e ".[jax]"'
    ) from error

from .operations import ObjectiveOperation, Operation, SoftPolicyOperation

__all__ = ["objective", "soft_policy"]


def objective(game: object, **options: Any) -> Callable[[Any], jax.Array]:
    """Return F as an operation: x to F(x), which the leader maximises, with its hyper-gradient.

    The operation takes x in the shape and the box of the game, or a batch of them with leading
    dimensions `[...]`, and returns F `[...]`. `jax.jit`, `grad`, `vmap` and `jacrev` work; second
    derivatives and those of forward mode are refused. An x out of the box is refused: the game's
    error is part of that of JAX; what comes out of a network is best squashed, as by
    `low + (high - low) * sigmoid(z)`. Where the follower's problem does not converge there is a
    `RuntimeWarning`.

    Args:
        game: A game with an exact answer, tabular or linear-quadratic, wrapped or not; or a model.
        **options: Options of `game.evaluate`, such as `tolerance`.

    Raises:
        TypeError: If there is no exact answer, or the game does not take an option.
    """
    return _differentiable(ObjectiveOperation(game, **options))


def soft_policy(game: object, **options: Any) -> Callable[[Any], jax.Array]:
    """Return the follower's answer as an operation: x to the soft-optimal policy pi*(x) `[S, A]`.

    The policy of a batch is `[..., S, A]`; for all else see `objective`. A cotangent must be finite
    where pi* is not zero.

    Args:
        game: A tabular game, wrapped or not; or a model.
        **options: Options of `game.evaluate`, such as `tolerance`.

    Raises:
        TypeError: If the game is not tabular, or does not take an option.
    """
    return _differentiable(SoftPolicyOperation(game, **options))


def _differentiable(operation: Operation) -> Callable[[Any], jax.Array]:
    """Return an operation on arrays of any real dtype."""

    def forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        leading = operation.leading(x.shape)
        shapes = (*leading, *operation.shape), (*leading, *operation.residual_shape)
        value, residual = _on_host(operation.value, shapes, x)
        return value, (x, residual)

    def backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        def vjp(*arrays: NDArray[Any]) -> tuple[NDArray[Any]]:
            return (operation.vjp(*arrays),)

        return _on_host(vjp, [kept[0].shape], *kept, cotangent)

    differentiable = jax.custom_vjp(lambda x: forward(x)[0])
    differentiable.defvjp(forward, backward)

    def apply(x: Any) -> jax.Array:
        given = jnp.asarray(x)
        if not (
            jnp.issubdtype(given.dtype, jnp.floating) or jnp.issubdtype(given.dtype, jnp.integer)
        ):
            raise TypeError(f"`x` must be an array of real numbers, got one of {given.dtype}")
        return differentiable(given.astype(float))

    return apply


def _on_host(
    function: Callable[..., Iterable[NDArray[Any]]],
    shapes: Iterable[tuple[int, ...]],
    *inputs: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return what a function of float64 arrays returns, in the precision of the inputs."""
    dtype = inputs[0].dtype

    def call(*arrays: Any) -> tuple[NDArray[Any], ...]:
        outputs = function(*(np.asarray(array, np.float64) for array in arrays))
        return tuple(np.asarray(output, dtype) for output in outputs)

    results = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
    found: tuple[jax.Array, ...] = jax.pure_callback(
        call, results, *inputs, vmap_method="broadcast_all"
    )
    return found
