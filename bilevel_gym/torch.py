"""A game's objective and its follower's policy as differentiable operations of PyTorch.

x may be the output of a network, and what comes out may go on into any loss: gradients flow through
the follower's optimal answer. They are exact, by implicit differentiation: one adjoint solve for
each x, whatever the size of x and the loss (see `bilevel_gym.core.adjoint`).

`pip install -e ".[torch]"` brings PyTorch.

Example:
    >>> import gymnasium as gym, torch
    >>> from bilevel_gym.torch import objective, soft_policy
    >>> game = gym.make("BilevelGridWorld-v0")
    >>> x = torch.zeros(52, dtype=torch.float64, requires_grad=True)
    >>> (objective(game)(x) + 0.1 * soft_policy(game)(x)[0, 0]).backward()
    >>> x.grad.shape
    torch.Size([52])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import torch as th
except ImportError as error:
    raise ImportError(
        'bilevel_gym.torch needs PyTorch, which is not installed; run: pip install -e ".[torch]"'
    ) from error

from .operations import ObjectiveOperation, Operation, SoftPolicyOperation

__all__ = ["objective", "soft_policy"]


def objective(game: object, **options: Any) -> Callable[[th.Tensor], th.Tensor]:
    """Return F as an operation: x to F(x), which the leader maximises, with its hyper-gradient.

    The operation takes x in the shape and the box of the game, or a batch of them with leading
    dimensions `[...]`, of any real dtype and on any device, and returns F `[...]`, float64 on that
    device; gradients come back in the dtype of x. An x out of the box is refused with the game's
    error: what comes out of a network is best squashed, as by `low + (high - low) * sigmoid(z)`.
    `torch.func.grad`, `vmap` and `jacrev` work; second derivatives and those of forward mode are
    refused. Where the follower's problem does not converge there is a `RuntimeWarning`.

    Args:
        game: A game with an exact answer, tabular or linear-quadratic, wrapped or not; or a model.
        **options: Options of `game.evaluate`, such as `tolerance`.

    Raises:
        TypeError: If there is no exact answer, or the game does not take an option.
    """
    return _differentiable(ObjectiveOperation(game, **options))


def soft_policy(game: object, **options: Any) -> Callable[[th.Tensor], th.Tensor]:
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


def _differentiable(operation: Operation) -> Callable[[th.Tensor], th.Tensor]:
    """Return an operation on tensors of any real dtype, on any device."""

    @th.compiler.disable  # a graph is broken here, instead of traced into NumPy
    def apply(x: th.Tensor) -> th.Tensor:
        if not isinstance(x, th.Tensor) or x.is_complex() or x.dtype == th.bool:
            kind = f"one of {x.dtype}" if isinstance(x, th.Tensor) else type(x).__name__
            raise TypeError(f"`x` must be a tensor of real numbers, got {kind}")
        value, _ = _Value.apply(x.to("cpu", th.float64), operation)
        return value.to(x.device)

    return apply


class _Value(th.autograd.Function):
    """An operation; its residual is an output, as `torch.func` asks for."""

    @staticmethod
    def forward(x: th.Tensor, operation: Operation) -> tuple[th.Tensor, th.Tensor]:
        value, residual = operation.value(x.numpy())
        return th.from_numpy(value), th.from_numpy(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (x, ctx.operation), (_, residual) = inputs, output
        ctx.mark_non_differentiable(residual)
        ctx.save_for_backward(x, residual)

    @staticmethod
    def backward(ctx: Any, cotangent: th.Tensor, _: Any) -> tuple[th.Tensor, None]:
        return _Derivative.apply(*ctx.saved_tensors, cotangent, ctx.operation), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: th.Tensor, operation: Operation) -> Any:
        return _Value.apply(x.movedim(in_dims[0], 0), operation), (0, 0)


class _Derivative(th.autograd.Function):
    """The vector-Jacobian product of an operation, an operation that has no derivative itself.

    Without it, the part of F in a second derivative would be zero, and nothing would say so.
    """

    @staticmethod
    def forward(
        x: th.Tensor, residual: th.Tensor, cotangent: th.Tensor, operation: Operation
    ) -> th.Tensor:
        return th.from_numpy(operation.vjp(x.numpy(), residual.numpy(), cotangent.numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: th.Tensor) -> Any:
        # It would take the derivative of an adjoint solve, which nothing here computes: refused
        # rather than wrong.
        raise NotImplementedError(
            "operations of bilevel_gym.torch can be differentiated once, got a second derivative"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        *tensors, operation = inputs
        batched = (
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims, strict=False)
        )
        return _Derivative.apply(*batched, operation), 0
