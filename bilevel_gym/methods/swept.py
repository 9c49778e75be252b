"""What M-SoBiRL and AMD share: a follower's value that is swept a little for each x.

Something of the method's own is carried along with the value, from which it gets the response term.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from ..core.mdp import FloatArray
from ..core.soft import SoftSolution
from ..core.threads import single_threaded
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .learners import Sweeps
from .model_based import Evaluation, check_tabular, policy_score

__all__ = ["SweptMethod"]


class SweptMethod(ABC):
    """A method that takes some sweeps V <- T V for each x, and acts on the greedy policy of V."""

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def __init__(self, model: TabularModel, *, sweeps: int = 10, warm_start: bool = True) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            sweeps: Sweeps of soft value iteration for each x, at least 1.
            warm_start: Whether the value, and what is carried along with it, start from those of
                the last x, instead of from zeros.
        """
        check_tabular(model)
        self._learner = Sweeps(model, sweeps=sweeps, warm_start=warm_start)
        self._model, self._warm_start = model, warm_start
        self._carried: FloatArray | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Forget what was learnt; the method draws nothing from `rng`."""
        self._learner.reset(rng)
        self._carried = None

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return the answer after a few sweeps, with the hyper-gradient of what is carried along.

        Raises:
            ArithmeticError: If values overflow.
        """
        x = self._model.validate(upper_params)
        solution = self._learner.solve(x)
        evaluation = Evaluation.of(self._model, x, solution)
        total = evaluation.direct.copy()
        if evaluation.upper.responds:
            carried = self._carried if self._warm_start else None
            score = policy_score(solution, evaluation.upper)
            response, self._carried = self._response(x, solution, score, carried)
            total += response
        return evaluation.response(total)

    @abstractmethod
    def _response(
        self, x: FloatArray, solution: SoftSolution, score: FloatArray, carried: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Return the response term, shape of x, from u_c `[S, A]`, and what is carried on."""
