"""A game's objective and its follower's policy as functions with vector-Jacobian products.

They are what `bilevel_gym.torch` and `bilevel_gym.jax` make operations of. An `Operation` is a pure
function of arrays, of one x or of a batch with any leading dimensions `[...]`: what its derivative
needs beside x is an array too, so that frameworks can keep it, batch it and compile around it.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .core.adjoint import response_gradient
from .core.checks import finite_array, unknown_name
from .core.mdp import FloatArray
from .core.soft import SoftSolution, solve_soft_mdp
from .core.threads import single_threaded
from .envs.base import BilevelEnv
from .model import BilevelModel, TabularModel, evaluate, evaluate_batch

__all__ = ["ObjectiveOperation", "Operation", "SoftPolicyOperation"]


class Operation(ABC):
    """A function of x, for a framework of automatic differentiation.

    Attributes:
        model: The model of the game.
        options: Options of its `respond`.
        params_shape: Shape of x.
        shape: Shape of the value at one x.
        residual_shape: Shape of what the derivative at one x needs beside it.
    """

    shape: tuple[int, ...]
    residual_shape: tuple[int, ...]

    def __init__(self, game: object, **options: Any) -> None:
        """Bind a game, an environment around one, or a model.

        Raises:
            TypeError: If it has no exact answer, or does not take one of the options.
        """
        core = game.unwrapped if isinstance(game, gym.Env) else game
        model = core.model if isinstance(core, BilevelEnv) else core
        if not isinstance(model, BilevelModel):
            raise TypeError(
                "`game` must be a game or a model whose follower's answer is known exactly, got "
                f"{type(core).__name__}"
            )
        for name in options:
            if name not in model.solve_options:
                raise TypeError(
                    unknown_name(f"option for an exact {model.name}:", name, model.solve_options)
                )
        self.model, self.options = model, options
        self.params_shape = model.low.shape

    def leading(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the leading dimensions of a batch of x, () for one; refuse what is none."""
        batch = len(shape) - len(self.params_shape)
        if batch < 0 or shape[batch:] != self.params_shape:
            raise ValueError(
                f"`x` must have shape {self.params_shape}, after leading dimensions for a batch, "
                f"got {shape}"
            )
        return shape[:batch]

    @abstractmethod
    def value(self, xs: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Return the values `[..., *shape]` at xs, and the residuals `[..., *residual_shape]`.

        Raises:
            ValueError: If an x is out of the box of the game.
        """

    @abstractmethod
    def vjp(
        self, xs: NDArray[Any], residuals: NDArray[Any], cotangents: NDArray[Any]
    ) -> FloatArray:
        """Return the vector-Jacobian products, shape of xs, of cotangents `[..., *shape]`.

        Raises:
            ValueError: If a cotangent is not finite.
        """


class ObjectiveOperation(Operation):
    """F(x), a number; the residual is the hyper-gradient."""

    shape = ()

    def __init__(self, game: object, **options: Any) -> None:
        """Bind a game or a model."""
        super().__init__(game, **options)
        self.residual_shape = self.params_shape

    def value(self, xs: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Return F `[...]` and dF/dx, shape of xs."""
        leading = self.leading(xs.shape)
        if leading:
            rows = xs.reshape(-1, *self.params_shape)
            found = evaluate_batch(self.model, rows, **self.options)
        else:
            found = [evaluate(self.model, xs, **self.options)]
        for response in found:
            _report(response)
        values = np.array([response.objective for response in found], np.float64)
        gradients = np.array([response.hyper_gradient for response in found], np.float64)
        return values.reshape(leading), gradients.reshape(xs.shape)

    def vjp(
        self, xs: NDArray[Any], residuals: NDArray[Any], cotangents: NDArray[Any]
    ) -> FloatArray:
        """Return cotangent * dF/dx, shape of xs."""
        weights = finite_array("cotangent", cotangents, cotangents.shape, "[...]")
        return weights.reshape(weights.shape + (1,) * len(self.params_shape)) * residuals


class SoftPolicyOperation(Operation):
    """pi*(x) `[S, A]`; the residual is the soft value `[S]`, from which the derivative starts."""

    model: TabularModel

    def __init__(self, game: object, **options: Any) -> None:
        """Bind a tabular game or model."""
        super().__init__(game, **options)
        if not isinstance(self.model, TabularModel):
            raise TypeError(
                "`soft_policy` needs finitely many states and actions, which a TabularModel has, "
                f"got {type(self.model).__name__}"
            )
        self.shape = self.model.num_states, self.model.num_actions
        self.residual_shape = (self.model.num_states,)

    def value(self, xs: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Return pi* `[..., S, A]` and the soft values `[..., S]`."""
        leading = self.leading(xs.shape)
        found = [self._solve(x) for x in xs.reshape(-1, *self.params_shape)]
        for solution in found:
            _report(solution)
        policies = np.array([solution.policy for solution in found], np.float64)
        values = np.array([solution.soft_value for solution in found], np.float64)
        return (
            policies.reshape(*leading, *self.shape),
            values.reshape(*leading, *self.residual_shape),
        )

    @single_threaded
    def vjp(
        self, xs: NDArray[Any], residuals: NDArray[Any], cotangents: NDArray[Any]
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) dpi*(a|s)/dx, shape of xs: an adjoint solve for each x.

        A solve that starts from the solution has nothing left to do, so that the factors of the
        first one need not be kept. Cotangents where pi* is zero are ignored: actions that do not
        exist, or underflow, stay at zero, where the derivative of p log p is infinite.
        """
        model, products = self.model, np.empty(xs.shape)
        rows = products.reshape(-1, *self.params_shape)
        for row, x, start, cotangent in zip(
            rows,
            xs.reshape(rows.shape),
            residuals.reshape(-1, *self.residual_shape),
            cotangents.reshape(-1, *self.shape),
            strict=True,
        ):
            solution = self._solve(x, start)
            weights = np.where(solution.policy > 0.0, cotangent, 0.0)
            weights = finite_array("cotangent", weights, self.shape, "[S, A]")
            answer = response_gradient(solution, weights)
            row[...] = model.through_model(x, answer.reward, lambda: answer.kernel)  # noqa: B023
        return products

    def _solve(self, x: NDArray[Any], start: NDArray[Any] | None = None) -> SoftSolution:
        mdp = self.model.lower_mdp(self.model.validate(x))
        return solve_soft_mdp(mdp, initial_value=start, **self.options)


def _report(found: Any) -> None:
    """Warn of a response, or a solution, that has not converged."""
    if not found.converged:
        warnings.warn(
            f"the follower's problem is not solved to its tolerance, residual {found.residual:.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
