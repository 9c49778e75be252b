"""The leader's seat in units of [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike

from ..core.checks import check_in_box, check_reset_options
from ..core.mdp import FloatArray
from ..methods import Response
from ..optimizers.climb import Start
from ..optimizers.revisable import Report
from .hyper_gradient import RESET_OPTIONS, HyperGradient, LeaderInfo
from .seats import PointsToGame

__all__ = ["RescaleUpper"]

# What is in units of the objective by those of x, shape of x.
GRADIENTS = ("hyper_gradient", "hyper_gradient_se", "direct_gradient")


class RescaleUpper(PointsToGame, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Map x affinely to [-1, 1], and pull the hyper-gradient back.

    Action, `info["hyper_gradient"]`, `info["hyper_gradient_se"]`, `info["upper_params"]` and
    `options["upper_params"]` are all in the new units, so the hyper-gradient remains the derivative
    of the reward with respect to the action. The same fields of the response are too, and its
    `direct_gradient`, `metric` and `spread`.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap the leader's seat.

        Args:
            env: A game in the leader's seat, `HyperGradient`, outermost.

        Raises:
            TypeError: If `env` is anything else.
        """
        if not isinstance(env, HyperGradient):
            raise TypeError(
                f"`RescaleUpper` must sit on the leader's seat, got {type(env).__name__}; "
                "the right order is RescaleUpper(gym.make(id)), other wrappers above it"
            )
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._seat = env
        space = env.game.upper_space
        self._low, self._high = low, high = space.low.astype(float), space.high.astype(float)
        self._centre, self._scale = (low + high) / 2.0, (high - low) / 2.0
        self.action_space = spaces.Box(-1.0, 1.0, low.shape, np.float32)

    @property
    def response(self) -> Response:
        """The follower's last answer, x and gradients in the new units."""
        response, scale = self._seat.response, self._scale
        by_entry: dict[str, FloatArray] = {name: scale for name in GRADIENTS}
        flat = scale.ravel()
        by_entry |= {"spread": flat, "metric": np.outer(flat, flat)}
        found = {
            name: value * factor
            for name, factor in by_entry.items()
            if (value := getattr(response, name, None)) is not None
        }
        return replace(response, upper_params=self.to_unit(response.upper_params), **found)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, LeaderInfo]:
        """Start an episode; `options["upper_params"]` is in [-1, 1], the others are the seat's."""
        options = check_reset_options(options, RESET_OPTIONS)
        if "upper_params" in options:
            unit = self._check("upper_params", options["upper_params"])
            options = {**options, "upper_params": self._to_box(unit)}
        observation, info = self._seat.reset(seed=seed, options=options)
        return observation, self._convert(info)

    def step(  # type: ignore[override]
        self, action: Any
    ) -> tuple[Any, float, bool, bool, LeaderInfo]:
        """Choose x, given in [-1, 1]."""
        observation, reward, terminated, truncated, info = self._seat.step(self.from_unit(action))
        return observation, reward, terminated, truncated, self._convert(info)

    # For climbs from many starts; see `HyperGradient`.

    def starts(self, x: FloatArray, most: int) -> list[Start]:
        """Return where else to start than at x, in [-1, 1] both."""
        found = self._seat.starts(self.from_unit(x), most)
        return [Start(start.name, self.to_unit(start.x)) for start in found]

    def ease(self, x: FloatArray) -> int:
        """Return how many easier problems there are on the way from x in [-1, 1]."""
        return self._seat.ease(self.from_unit(x))

    def eased(self, number: int, xs: Sequence[FloatArray]) -> list[tuple[float, FloatArray]]:
        """Return objective and hyper-gradient of x in [-1, 1] in an easier problem."""
        answers = self._seat.eased(number, [self.from_unit(x) for x in xs])
        return [(value, gradient * self._scale) for value, gradient in answers]

    # As a `bilevel_gym.optimizers.revisable.Revisable`.

    def report(self) -> Report:
        """Return what is known of the last answer, in the new units; see `HyperGradient.report`."""
        known, flat = self._seat.report(), self._scale.ravel()
        metric, units = known.metric, known.units
        if metric is not None:
            metric = metric * (flat**2 if metric.ndim == 1 else np.outer(flat, flat))
        return replace(known, metric=metric, units=None if units is None else units / flat)

    def measure(self, x: FloatArray) -> Report:
        """Let the follower answer x in [-1, 1] briefly; see `HyperGradient.measure`."""
        self._seat.measure(self.from_unit(x))
        return self.report()

    def watch(self, x: FloatArray) -> FloatArray:
        """Return values of fresh episodes, `[N]`; see `HyperGradient.watch`."""
        return self._seat.watch(self.from_unit(x))

    def from_unit(self, action: ArrayLike) -> FloatArray:
        """Return x for an action in [-1, 1].

        Raises:
            ValueError: If the action is of the wrong shape, not finite or outside [-1, 1].
        """
        return self._to_box(self._check("action", action))

    def to_unit(self, upper_params: FloatArray) -> FloatArray:
        """Return the action in [-1, 1] for an x."""
        # Rounding must not carry it out of [-1, 1], or it could not be handed back.
        return np.clip((upper_params - self._centre) / self._scale, -1.0, 1.0)

    def _check(self, name: str, values: ArrayLike) -> FloatArray:
        return check_in_box(name, values, -np.ones_like(self._scale), np.ones_like(self._scale))

    def _to_box(self, unit: FloatArray) -> FloatArray:
        # Rounding must not carry the ends of the interval out of the box.
        return np.clip(self._centre + self._scale * unit, self._low, self._high)

    def _convert(self, info: LeaderInfo) -> LeaderInfo:
        info = info.copy()
        if "hyper_gradient" in info:
            info["hyper_gradient"] = info["hyper_gradient"] * self._scale
        if "hyper_gradient_se" in info:
            info["hyper_gradient_se"] = info["hyper_gradient_se"] * self._scale
        info["upper_params"] = self.to_unit(info["upper_params"])
        return info
