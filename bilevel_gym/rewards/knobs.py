"""What a reward may have beside its model: a price of each step, and the environment's own reward.

They are terms of the reward that hardly any model has, and that x can weigh: how soon an episode
should end, and how much of the reward that the environment has anyway is right.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from ..core.checks import received
from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, as_argument
from .models import RewardModel, jacobian

__all__ = ["KNOB", "WithKnobs", "checked_weight"]

# The environment's own reward is weighed by x.
KNOB = "knob"


class WithKnobs:
    """r_x = model - x_c + w r: a model's reward, less a constant, and the environment's reward r.

    x is the model's, followed by x_c and by w, where they are knobs; both start at 0. The constant
    is not within the model's bound. Where r is asked for, `terms` are `[B, 1]` and have it.
    """

    def __init__(
        self, model: RewardModel, *, constant: bool = False, own: float | str | None = None
    ) -> None:
        """Add to a model.

        Args:
            model: The model.
            constant: Whether there is x_c.
            own: w, "knob" for an entry of x, or None for no such term.
        """
        self._model, self._constant, self._own = model, constant, own
        self.num_params = model.num_params + constant + (own == KNOB)

    def initial_params(self) -> FloatArray:
        """Return those of the model, followed by zeros."""
        start = self._model.initial_params()
        return np.concatenate([start, np.zeros(self.num_params - len(start))])

    def rewards(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return r_x for each entry of a batch, `[B]`; see `RewardModel`."""
        count = self._model.num_params
        said = self._of_model(terms)
        rewards = self._model.rewards(upper_params[:count], observations, actions, **said)
        if np.shape(rewards) != (len(observations),):
            return rewards  # the caller's check names the shape
        rewards = rewards + self._added(len(observations), terms) @ upper_params[count:]
        if self._own not in (None, KNOB):
            assert terms is not None
            rewards = rewards + float(self._own) * terms[:, 0]
        return rewards

    def vjp(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        weights: FloatArray,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, `[D]`; see `RewardModel`."""
        x, said = upper_params[: self._model.num_params], self._of_model(terms)
        of_model = self._model.vjp(x, observations, actions, weights, **said)
        return np.concatenate([of_model, weights @ self._added(len(observations), terms)])

    def jacobian(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, D]`; see `WithJacobian`."""
        x, said = upper_params[: self._model.num_params], self._of_model(terms)
        of_model = jacobian(self._model, x, observations, actions, **said)
        return np.concatenate([of_model, self._added(len(observations), terms)], axis=1)

    def _of_model(self, terms: FloatArray | None) -> dict[str, FloatArray]:
        """Return the terms, as an argument, if they are the model's."""
        return as_argument(terms if self._own is None else None)

    def _added(self, count: int, terms: FloatArray | None) -> FloatArray:
        """Return what the knobs weigh in each entry of a batch, `[B, D - those of the model]`."""
        columns = [np.full(count, -1.0)] if self._constant else []
        if self._own == KNOB:
            assert terms is not None
            columns.append(np.asarray(terms[:, 0], np.float64))
        return np.stack(columns, axis=1) if columns else np.zeros((count, 0))


def checked_weight(weight: object) -> float | str | None:
    """Return `own_reward`, a finite number, "knob" or None.

    Raises:
        ValueError: If it is another value.
    """
    if weight is None or weight == KNOB:
        return KNOB if weight else None
    if isinstance(weight, Real) and not isinstance(weight, bool) and math.isfinite(weight):
        return float(weight)
    raise ValueError(
        f"`own_reward` must be a finite number, {KNOB!r} or None, got {received(weight)}"
    )
