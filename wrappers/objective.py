"""The leader's seat and the referee as functions x -> (value, gradient), for optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_choice
from ..core.mdp import FloatArray
from ..model import BilevelModel, TabularModel, evaluate, evaluate_batch
from ..model.objectives import Objective, check_objective
from ..model.responses import ExactGaussianResponse, ExactResponse, Response
from ..model.starts import easier_models, suggested_starts
from ..optimizers.base import Evaluation
from ..optimizers.climb import Start, Together
from ..optimizers.revisable import Report
from .hyper_gradient import HyperGradient, LeaderInfo

__all__ = ["LeaderObjective", "exact_objective"]


class LeaderObjective:
    """The leader's seat as a function x -> (value, gradient).

    Value and gradient are those of the seat's method: estimates where the method is an estimator.

    Example:
        >>> import bilevel_gym, gymnasium as gym
        >>> from bilevel_gym.optimizers import make_optimizer
        >>> objective = LeaderObjective(gym.make("BilevelGridWorld-v0"))
        >>> x = objective.reset(seed=0)
        >>> optimize = make_optimizer("adam", steps=50, learning_rate=0.02)
        >>> optimum = optimize(objective, x, objective.low, objective.high)
        >>> optimum.evaluations
        51

    Attributes:
        seat: The leader's seat.
        low: Lower bounds of x, float64.
        high: Upper bounds of x, float64.
        info: Info of the latest evaluation.
    """

    def __init__(self, seat: HyperGradient) -> None:
        """Wrap a seat; the first evaluation needs a `reset`, of the seat or of this."""
        self.seat = seat
        space = seat.game.upper_space
        self.low: FloatArray = space.low.astype(np.float64)
        self.high: FloatArray = space.high.astype(np.float64)
        self.info: LeaderInfo
        self._fresh = False
        self._answer: Response | None = None
        self._begins: dict[str, Any] | None = None

    def reset(self, x: FloatArray | None = None, *, seed: int | None = None) -> FloatArray:
        """Reset the seat at x, and return x; evaluating this x next takes no second answer.

        Args:
            x: Shape of the upper space, None for the game's initial one.
            seed: Seed of everything random that follows.
        """
        options = None if x is None else {"upper_params": x}
        _, self.info = self.seat.reset(seed=seed, options=options)
        self._fresh = True
        start: FloatArray = self.info["upper_params"]
        return start

    def resume(self, *, seed: int | None = None) -> None:
        """Begin with the next x, wherever that is, instead of with a `reset`.

        Args:
            seed: As in `reset`; None for a method that has been restored and goes on, see
                `HyperGradient.load_state_dict`, and `seat.method.load` where the follower learns.
        """
        self._begins = {"seed": seed, "options": {"keep_learnt": seed is None}}

    def cost(self, cost: str | Objective) -> Evaluation:
        """Return a cost, exactly, as a function x -> (value, gradient); see `exact_cost`."""
        return exact_cost(self.seat.game.model, cost, lambda: self._answer)

    # As `bilevel_gym.optimizers.climb` asks for.

    def together(self, xs: Sequence[FloatArray]) -> Iterator[tuple[float, FloatArray]]:
        """Yield F and the hyper-gradient of several x; see `HyperGradient.answers`."""
        if self._begins is not None:
            self(xs[0])
        for info in self.seat.answers(xs):
            self.info, self._fresh, self._answer = info, False, self.seat.response
            yield self._answer.objective, info["hyper_gradient"]

    def starts(self, x: FloatArray, most: int) -> Sequence[Start]:
        """Return so many starts at most, for a climb that begins at x."""
        return self.seat.starts(x, most)

    def easier(self, x: FloatArray) -> Sequence[Together]:
        """Return easier objectives, the easiest first."""
        return [partial(self.seat.eased, number) for number in range(self.seat.ease(x))]

    # As `bilevel_gym.optimizers.revisable.Revisable`: the seat has all of it.

    @property
    def samples(self) -> int:
        """Environment steps used so far."""
        return self.seat.samples

    def measure(self, x: FloatArray) -> Report:
        """Let the follower answer x more briefly; see `HyperGradient.measure`."""
        report = self.seat.measure(x)
        self.info = self.seat.info
        return report

    def watch(self, x: FloatArray) -> FloatArray:
        """Return the values of fresh episodes, `[N]`; see `HyperGradient.watch`."""
        return self.seat.watch(x)

    def report(self) -> Report:
        """Return what is known of the last evaluation."""
        return self.seat.report()

    def snapshot(self) -> NDArray[Any] | None:
        """Return the follower's policy; see `HyperGradient.snapshot`."""
        return self.seat.snapshot()

    def restore(self, snapshot: NDArray[Any] | None) -> None:
        """Put the follower back to a policy of `snapshot`."""
        self.seat.restore(snapshot)

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Return F(x) and the hyper-gradient, as the method gives them."""
        if self._begins is not None:
            self._begins["options"]["upper_params"] = x
            _, self.info = self.seat.reset(**self._begins)
            self._begins = None
        # Another answer would cost a follower who learns thousands of steps.
        elif not (self._fresh and np.array_equal(x, self.info["upper_params"])):
            self.info = self.seat.step(x)[-1]
        self._fresh, self._answer = False, self.seat.response
        return self._answer.objective, self.info["hyper_gradient"]


class ExactObjective:
    """The exact objective and hyper-gradient of a model as a function x -> (value, gradient)."""

    def __init__(self, model: BilevelModel) -> None:
        """Bind a model."""
        self.model = model
        self._answer: ExactResponse | ExactGaussianResponse | None = None

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Return F(x) and the hyper-gradient."""
        self._answer = evaluate(self.model, x)
        return self._answer.objective, self._answer.hyper_gradient

    def together(self, xs: Sequence[FloatArray]) -> Iterator[tuple[float, FloatArray]]:
        """Yield F and the hyper-gradient of several x."""
        for answer in evaluate_batch(self.model, xs):
            self._answer = answer
            yield answer.objective, answer.hyper_gradient

    def starts(self, x: FloatArray, most: int) -> Sequence[Start]:
        """Return so many starts at most, for a climb that begins at x."""
        return suggested_starts(self.model, x, most)

    def easier(self, x: FloatArray) -> Sequence[Together]:
        """Return easier objectives, the easiest first."""
        return [ExactObjective(model).together for model in easier_models(self.model, x)]

    def cost(self, cost: str | Objective) -> Evaluation:
        """Return a cost as a function of x; see `exact_cost`."""
        return exact_cost(self.model, cost, lambda: self._answer)


def exact_objective(model: BilevelModel) -> ExactObjective:
    """Return the exact objective and hyper-gradient of a model as a function of x."""
    return ExactObjective(model)


def exact_cost(
    model: object, cost: str | Objective, latest: Callable[[], Response | None]
) -> Evaluation:
    """Return another objective of a tabular model as a function x -> (value, gradient).

    Args:
        model: A tabular model.
        cost: An objective, or the name of one in the model's `costs`.
        latest: Returns the latest answer of the follower; at its x nothing is left to solve.

    Raises:
        TypeError: If the model is not tabular, or the cost no objective.
        ValueError: If there is no cost of that name.
    """
    if not isinstance(model, TabularModel):
        raise TypeError(f"costs need a tabular model, got {type(model).__name__}")
    tabular = model
    if isinstance(cost, str):
        cost = model.costs[check_choice("cost", cost, model.costs)]
    objective = check_objective("cost", cost)

    def evaluate_cost(x: FloatArray) -> tuple[float, FloatArray]:
        answer = latest()
        known = isinstance(answer, ExactResponse) and np.array_equal(answer.upper_params, x)
        start = answer if known else None
        found = evaluate(tabular, x, objective=objective, warm_start=start)
        return found.objective, found.hyper_gradient

    return evaluate_cost
