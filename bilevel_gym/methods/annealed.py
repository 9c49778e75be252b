"""Any method at a temperature that is lowered from one leader step to the next.

The method is built on a model of its own, whose temperature is that of the step
(`bilevel_gym.methods.cooling`): it answers as it would at this temperature, and goes on from what
it has learnt at the one before. `objective` and `hyper_gradient` are F and the method's dF/dx at
the temperature of the step, so that values of different steps are not those of one function: the
last x of a climb, not the best, is what it leads to. Beside F the response has F without entropy
(`bilevel_gym.model.unregularised`), which says whether lowering the temperature has led anywhere.

    HyperGradient(env, method="annealed")                              # exact
    HyperGradient(env, method="annealed", inner_method="trace", inner_method_options={...})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..core.checks import received
from ..core.mdp import FloatArray
from ..core.reprs import MadeFor
from ..model.base import BilevelModel
from ..model.protocols import LearntMethod, Resumable
from ..model.responses import Response
from .cooling import Cooled
from .registry import make_method

__all__ = ["Annealed"]


class Annealed(MadeFor):
    """Answer as another method does, at temperatures that attenuate."""

    exact: ClassVar[bool] = False  # of one function F there are no two values
    unbiased: ClassVar[bool] = False

    def __init__(
        self,
        model: BilevelModel,
        *,
        inner_method: str = "exact",
        inner_method_options: dict[str, Any] | None = None,
        attenuation: float = 0.5,
        least_temperature: float | None = None,
        unregularised: bool = True,
    ) -> None:
        """Bind a method to a copy of a model.

        Args:
            model: A model whose follower's temperature may be set.
            inner_method: The method that answers, by any name that `make_method` takes.
            inner_method_options: Its options.
            attenuation: Power of k + 1 by which the temperature falls, not negative; 0 keeps it.
            least_temperature: Where it stays, positive; None takes a hundredth of the first one.
            unregularised: Whether F without entropy is reported beside F, where the objective is a
                return and costs of x.

        Raises:
            TypeError: If the model has no temperature that could be lowered, the method does not
                suit it, or learns by networks, which are made for one temperature.
            ValueError: If an option is out of range, or the method's name is unknown.
        """
        if not isinstance(model, BilevelModel):
            raise TypeError(
                "the temperature of a TabularModel or a LinearQuadraticModel can be lowered, not "
                f"that of {type(model).__name__}"
            )
        if not isinstance(inner_method_options, dict | None):
            raise TypeError(
                f"`inner_method_options` must be a dict, got {received(inner_method_options)}"
            )
        self._cooled = Cooled.of(model, attenuation, least_temperature, unregularised)
        try:
            self._method = make_method(
                inner_method, self._cooled.model, **(inner_method_options or {})
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"`inner_method` {received(inner_method)}: {error}") from error
        if isinstance(self._method, LearntMethod):
            raise TypeError(
                "the follower of a method that learns by networks keeps the temperature it was "
                f"made with, got `inner_method` {received(inner_method)}"
            )
        self._iteration = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Begin at the first temperature again, with nothing learnt; `rng` is the method's."""
        self._iteration = 0
        self._method.reset(rng)

    def step(self, upper_params: FloatArray) -> Response:
        """Return the method's answer to x at the temperature whose turn it is."""
        self._cooled.set(self._iteration)
        response = self._method.step(upper_params)
        self._iteration += 1
        answer: Response = self._cooled.reported(response.upper_params, response)
        return answer

    def state_dict(self) -> dict[str, Any]:
        """Return the step, and what the method goes on from.

        Raises:
            TypeError: If it has no such thing.
        """
        return {"iteration": self._iteration, "method": self._resumable.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned."""
        self._iteration = int(state["iteration"])
        self._resumable.load_state_dict(state["method"])

    @property
    def _resumable(self) -> Resumable:
        if not isinstance(self._method, Resumable):
            raise TypeError(f"the method {type(self._method).__name__} cannot be gone on with")
        return self._method
