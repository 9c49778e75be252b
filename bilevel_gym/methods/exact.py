"""The exact method: the follower's problem is solved, the hyper-gradient is its derivative.

Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697) give the hyper-gradient from first-order
information; the game evaluates its adjoint form (see `bilevel_gym.core.adjoint` for tabular games,
`bilevel_gym.core.lqr` for linear-quadratic ones).
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np

from ..core.checks import check_at_least, check_positive, unknown_name
from ..core.linear import check_solver
from ..core.mdp import FloatArray
from ..model.responses import Response, SupportsEvaluate

__all__ = ["Exact"]


class Exact:
    """Solve the follower's problem to a tolerance, warm-started from the previous answer."""

    exact: ClassVar[bool] = True

    def __init__(
        self,
        game: SupportsEvaluate,
        *,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game that can evaluate itself.
            solver: How linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS`;
                "auto" chooses by the size and the shape of the kernel.
            tolerance: Sup norm of the follower's Bellman residual to reach; None takes what an
                accurate gradient needs (`bilevel_gym.core.soft.default_tolerance`).
            max_iterations: Newton steps allowed for one answer.

        Options left at their defaults are the game's to choose.

        Raises:
            TypeError: If the game cannot give an exact response, or does not take an option (only
                tabular games have several solvers).
            ValueError: If an option is out of range.
        """
        if not hasattr(game, "evaluate"):
            raise TypeError(
                f"this method needs a game with an exact response, got {type(game).__name__} "
                "without `evaluate`"
            )
        check_solver(solver)
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        check_at_least("max_iterations", max_iterations, 1)
        chosen = {"solver": solver, "tolerance": tolerance, "max_iterations": max_iterations}
        self._game = game
        self._options = _changed(chosen, game)
        self._last: Response | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the warm start; the method draws nothing from `rng`."""
        self._last = None

    def step(self, upper_params: FloatArray) -> Response:
        """Return the exact response to x."""
        self._last = self._game.evaluate(upper_params, warm_start=self._last, **self._options)
        return self._last


def _changed(chosen: dict[str, Any], game: SupportsEvaluate) -> dict[str, Any]:
    """Return the options that are not left at their defaults.

    Raises:
        TypeError: If the game's evaluation does not take one of them.
    """
    defaults = inspect.signature(Exact).parameters
    changed = {name: value for name, value in chosen.items() if value != defaults[name].default}
    accepted = inspect.signature(game.evaluate).parameters
    if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        for name in changed:
            if name not in accepted:
                known = [option for option in chosen if option in accepted]
                raise TypeError(
                    unknown_name(f"option for an exact {type(game).__name__}:", name, known)
                )
    return changed
