"""The climb from many starts in the hands of Stable-Baselines3: it can be saved and goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.mdp import FloatArray
from ..optimizers import Iterate, MultistartClimb

__all__ = ["Told"]


class Told(MultistartClimb):
    """A climb that remembers all that it was told.

    That is its state: told the same, it asks for the same. What was restored is told once it is
    asked for x, when there is an environment for the easier problems.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin as a `MultistartClimb` does."""
        super().__init__(*arguments, **options)
        self._told: list[tuple[float, FloatArray]] = []
        self._budgets: list[tuple[int, int]] = []  # evaluations before each budget, and how many

    @property
    def x(self) -> FloatArray:
        """What to evaluate next."""
        if self._advanced < len(self._told):
            self._begin()
            budgets = dict(self._budgets)
            for number, answer in enumerate(self._told):
                if number in budgets:
                    super().extend(budgets[number])
                self._advance(answer)
        return super().x

    def extend(self, evaluations: int) -> None:
        """Begin a new budget, of so many evaluations, at least 1."""
        _ = self.x
        self._budgets.append((len(self._told), evaluations))
        super().extend(evaluations)

    def move(self, value: float, gradient: FloatArray) -> None:
        """Go on from F(x) and its gradient; see `MultistartClimb.move`."""
        super().move(value, gradient)
        self._told.append((value, gradient))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the climb, as nested dicts of numbers and arrays."""
        values, gradients = zip(*self._told, strict=True) if self._told else ((), ())
        iterates = {name: getattr(self, name) for name in ("first", "best", "last")}
        return {
            "x": self._start.copy(),
            "values": np.array(values, dtype=np.float64),
            "gradients": np.array(gradients, dtype=np.float64).reshape(-1, *self._start.shape),
            "budgets": np.array(self._budgets, dtype=np.int64).reshape(-1, 2),
            "evaluations": self.evaluations,
            "iterates": {name: vars(each) for name, each in iterates.items() if each is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` has returned, of a climb with the same start and options."""
        values = state["values"].tolist()
        self._told = [*zip(values, state["gradients"], strict=True)]
        self._budgets = [(int(at), int(count)) for at, count in state["budgets"]]
        self.evaluations = int(state["evaluations"])
        for name, iterate in state["iterates"].items():
            setattr(self, name, Iterate(**iterate))
