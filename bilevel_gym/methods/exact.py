"""The exact method: the follower's problem is solved, the hyper-gradient is its derivative.

Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697) give the hyper-gradient from first-order
information; models evaluate its adjoint form (see `bilevel_gym.core.adjoint` for tabular ones,
`bilevel_gym.core.lqr` for linear-quadratic ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..core.checks import check_at_least, check_positive, optional, unknown_name
from ..core.linear import check_solver
from ..core.mdp import FloatArray
from ..core.reprs import MadeFor
from ..model.base import BilevelModel
from ..model.responses import Response, response_from, response_state

__all__ = ["Exact", "check_exact"]


# States of all problems that are solved together: more would take memory, and no less time.
MOST_STATES = 200_000


class Exact(MadeFor):
    """Solve the follower's problem to a tolerance, warm-started from the previous answer."""

    exact: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def __init__(
        self,
        model: BilevelModel,
        *,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A model with an exact response.
            solver: How linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS`;
                "auto" chooses by the size and the shape of the kernel.
            tolerance: Sup norm of the follower's Bellman residual to reach; None takes what an
                accurate gradient needs (`bilevel_gym.core.soft.default_tolerance`).
            max_iterations: Newton steps allowed for one answer.

        Options left at their defaults are the model's to choose.

        Raises:
            TypeError: If there is no exact response, or the model does not take an option (only
                tabular ones have several solvers).
            ValueError: If an option is out of range.
        """
        check_exact(model)
        check_solver(solver)
        optional(check_positive, "tolerance", tolerance)
        check_at_least("max_iterations", max_iterations, 1)
        chosen = {"solver": solver, "tolerance": tolerance, "max_iterations": max_iterations}
        defaults = {"solver": "auto", "tolerance": None, "max_iterations": 200}
        self._options: dict[str, Any] = {
            name: chosen[name] for name in chosen if chosen[name] != defaults[name]
        }
        for name in self._options:
            if name not in model.solve_options:
                raise TypeError(
                    unknown_name(f"option for an exact {model.name}:", name, model.solve_options)
                )
        self._model = model
        self._at_once = max(1, MOST_STATES // getattr(model, "num_states", 1))
        self._last: Response | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the warm start; the method draws nothing from `rng`."""
        self._last = None

    def step(self, upper_params: FloatArray) -> Response:
        """Return the exact response to a validated x."""
        self._last = self._model.respond(upper_params, warm_start=self._last, **self._options)
        return self._last

    def step_together(self, upper_params: Sequence[FloatArray]) -> Sequence[Response]:
        """Return the exact responses to several x, without a warm start."""
        answers: list[Response] = []
        for first in range(0, len(upper_params), self._at_once):
            xs = upper_params[first : first + self._at_once]
            answers += self._model.respond_batch(xs, **self._options)
        self._last = answers[-1]
        return answers

    def state_dict(self) -> dict[str, Any]:
        """Return the warm start, as nested dicts of numbers and arrays."""
        return {"last": response_state(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned."""
        self._last = response_from(state["last"])


def check_exact(model: object) -> None:
    """Raise a `TypeError` unless a model has an exact response."""
    if not isinstance(model, BilevelModel):
        raise TypeError(
            "this method needs an exact response, which a TabularModel and a LinearQuadraticModel "
            f"have, got {type(model).__name__}"
        )
