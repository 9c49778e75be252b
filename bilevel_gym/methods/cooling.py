"""Temperatures that attenuate from one leader step to the next, and what F is without any entropy.

At step k = 0, 1, ... the follower's temperature is

    tau_k = max(tau_0 (k + 1)^-attenuation, least)

with tau_0 that of the model. Whoever lowers it reports F at the temperature of the step, and F of
the follower's hard-optimal policy beside it (`bilevel_gym.model.unregularised`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..core.checks import check_between, check_flag, check_not_negative, check_positive, optional
from ..core.mdp import FloatArray
from ..model.base import BilevelModel
from ..model.responses import Response
from ..model.unregularised import evaluate_unregularised, is_control_problem

__all__ = ["Cooled"]

# Share of the first temperature at which it stays, unless another is given: the hyper-gradient
# grows with 1 / tau where the follower is about to change its mind, and vanishes elsewhere.
LEAST_SHARE = 1e-2


@dataclass(eq=False)
class Cooled:
    """A model of one's own whose temperature is lowered.

    Attributes:
        model: The copy, at the temperature that was last set.
        first: tau_0, the model's own temperature.
        attenuation: The power, not negative; 0 keeps the temperature.
        least: Where the temperature stays, in (0, tau_0].
        unregularised: Whether F without entropy is reported, where that is a control problem.
    """

    model: Any
    first: float
    attenuation: float
    least: float
    unregularised: bool

    @classmethod
    def of(
        cls,
        model: BilevelModel,
        attenuation: float,
        least_temperature: float | None,
        unregularised: bool,
    ) -> Cooled:
        """Copy a model, after checking the options.

        Raises:
            ValueError: If an option is out of range.
        """
        first = model.temperature
        least = optional(check_positive, "least_temperature", least_temperature)
        optional(check_between, "least_temperature", least, 0.0, first)
        return cls(
            model=model.at_temperature(first),
            first=first,
            attenuation=check_not_negative("attenuation", attenuation),
            least=LEAST_SHARE * first if least is None else least,
            unregularised=check_flag("unregularised", unregularised) and is_control_problem(model),
        )

    def set(self, step: int) -> float:
        """Lower the temperature to that of step k >= 0, and return it."""
        temperature = max(self.first * float(step + 1) ** -self.attenuation, self.least)
        self.model.temperature = temperature
        return temperature

    def reported(self, upper_params: FloatArray, response: Response) -> Any:
        """Return a response with the temperature and F without entropy."""
        more: dict[str, Any] = {"temperature": self.model.temperature}
        if self.unregularised:
            found = evaluate_unregularised(self.model, upper_params)
            more["unregularised_optimistic"] = found.optimistic
            more["unregularised_pessimistic"] = found.pessimistic
        return replace(response, **more)
