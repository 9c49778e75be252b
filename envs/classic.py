"""Classic control of Gymnasium as formulas on batches, with the derivatives by their parameters.

They are what the environments compute in `step`, for any number of states at once; `discretize`
compares them with the environments' own steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_at_least
from ..core.mdp import FloatArray

__all__ = ["CLASSIC", "Axis", "ClassicControl", "MountainCar", "Pendulum"]

# Points along each axis of a start distribution.
START_POINTS = 32


@dataclass(frozen=True)
class Axis:
    """A coordinate of the state.

    Attributes:
        name: What it is.
        low: Where its grid begins.
        high: Where it ends; states beyond either end are taken to be there.
        periodic: Whether `high` is the same as `low`.
    """

    name: str
    low: float
    high: float
    periodic: bool = False


class ClassicControl(ABC):
    """A deterministic environment with K real numbers for a state, as formulas on B of them.

    Attributes:
        env_id: The environment.
        axes: Its K coordinates.
        params: Attributes of the environment that x may move, with their values; all positive.
    """

    env_id: ClassVar[str]
    axes: ClassVar[tuple[Axis, ...]]
    params: ClassVar[Mapping[str, float]]

    @abstractmethod
    def actions(self, count: int) -> list[NDArray[np.float32] | int]:
        """Return the actions, `count` of them where the environment's are continuous."""

    @abstractmethod
    def step(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> FloatArray:
        """Return the next states `[B, K]` of states `[B, K]` and actions `[B]`."""

    @abstractmethod
    def derivatives(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> dict[str, FloatArray]:
        """Return the derivatives of the next states by each parameter, `[B, K]` each."""

    @abstractmethod
    def reward(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return the rewards `[B]`."""

    @abstractmethod
    def starts(self) -> FloatArray:
        """Return equally likely first states `[M, K]`, in place of a continuous distribution."""

    def ended(self, states: FloatArray) -> NDArray[np.bool_]:
        """Return where episodes end `[B]`; nowhere unless overridden."""
        return np.zeros(len(states), dtype=np.bool_)


class MountainCar(ClassicControl):
    """MountainCar-v0: position and velocity; `force` is the motor's power.

    v' = v + (a - 1) force - cos(3 p) gravity, within .07; p' = p + v'. The wall on the left stops
    the car, the goal at .5 ends the episode, and each step costs 1.
    """

    env_id = "MountainCar-v0"
    axes = (Axis("position", -1.2, 0.5), Axis("velocity", -0.07, 0.07))
    params: ClassVar[Mapping[str, float]] = {"force": 0.001, "gravity": 0.0025}

    def actions(self, count: int) -> list[NDArray[np.float32] | int]:
        """Return push left, none, push right."""
        return [0, 1, 2]

    def step(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> FloatArray:
        """Return position and velocity."""
        velocity = self._velocity(states, actions, params).clip(-0.07, 0.07)
        position = (states[:, 0] + velocity).clip(-1.2, 0.6)
        return np.column_stack(
            [position, np.where(position == -1.2, np.maximum(velocity, 0.0), velocity)]
        )

    def derivatives(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> dict[str, FloatArray]:
        """Return them for force and gravity: zero at the ends of the velocity, and at the wall."""
        velocity = self._velocity(states, actions, params)
        position = states[:, 0] + velocity
        free = (np.abs(velocity) < 0.07) & (position > -1.2)
        by = {"force": actions - 1.0, "gravity": -np.cos(3.0 * states[:, 0])}
        return {name: np.repeat((slope * free)[:, None], 2, axis=1) for name, slope in by.items()}

    def _velocity(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> FloatArray:
        slope = np.cos(3.0 * states[:, 0])
        moved: FloatArray = states[:, 1] + (actions - 1.0) * params["force"]
        return moved - slope * params["gravity"]

    def reward(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return -1 for each step."""
        return np.full(len(states), -1.0)

    def ended(self, states: FloatArray) -> NDArray[np.bool_]:
        """Return where the goal is."""
        at_goal: NDArray[np.bool_] = states[:, 0] >= 0.5
        return at_goal

    def starts(self) -> FloatArray:
        """Return positions from -.6 to -.4, at rest."""
        return np.column_stack([_middles(-0.6, -0.4, START_POINTS), np.zeros(START_POINTS)])


class Pendulum(ClassicControl):
    """Pendulum-v1: angle from upright and speed; g is gravity, m the mass, l the length.

    speed' = speed + (3 g / (2 l) sin angle + 3 u / (m l^2)) dt, within 8; angle' = angle + speed'
    dt, with dt = .05. The reward is -(angle^2 + .1 speed^2 + .001 u^2); nothing ends the episode.
    """

    env_id = "Pendulum-v1"
    axes = (Axis("angle", -np.pi, np.pi, periodic=True), Axis("speed", -8.0, 8.0))
    params: ClassVar[Mapping[str, float]] = {"g": 10.0, "m": 1.0, "l": 1.0}

    def actions(self, count: int) -> list[NDArray[np.float32] | int]:
        """Return torques from -2 to 2, at the same distances."""
        count = check_at_least("actions", count, 2)
        return [np.array([u], np.float32) for u in np.linspace(-2.0, 2.0, count)]

    def step(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> FloatArray:
        """Return angle and speed."""
        speed = self._speed(states, actions, params).clip(-8.0, 8.0)
        return np.column_stack([states[:, 0] + 0.05 * speed, speed])

    def derivatives(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> dict[str, FloatArray]:
        """Return them for g, m and l: zero at the ends of the speed."""
        g, m, l = (params[name] for name in ("g", "m", "l"))  # noqa: E741  (its name)
        free = 0.05 * (np.abs(self._speed(states, actions, params)) < 8.0)
        sine, turn = np.sin(states[:, 0]), 3.0 * actions / (m * l**2)
        by = {
            "g": 1.5 / l * sine,
            "m": -turn / m,
            "l": -1.5 * g / l**2 * sine - 2.0 * turn / l,
        }
        return {
            name: np.column_stack([0.05 * slope * free, slope * free]) for name, slope in by.items()
        }

    def _speed(
        self, states: FloatArray, actions: FloatArray, params: Mapping[str, float]
    ) -> FloatArray:
        g, m, l = (params[name] for name in ("g", "m", "l"))  # noqa: E741  (its name)
        pulled = 3.0 * g / (2.0 * l) * np.sin(states[:, 0]) + 3.0 / (m * l**2) * actions
        faster: FloatArray = states[:, 1] + pulled * 0.05
        return faster

    def reward(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return -(angle^2 + .1 speed^2 + .001 u^2), the angle within -pi..pi."""
        angle = (states[:, 0] + np.pi) % (2.0 * np.pi) - np.pi
        reward: FloatArray = -(angle**2 + 0.1 * states[:, 1] ** 2 + 0.001 * actions**2)
        return reward

    def starts(self) -> FloatArray:
        """Return all angles, with speeds from -1 to 1."""
        angles, speeds = _middles(-np.pi, np.pi, START_POINTS), _middles(-1.0, 1.0, START_POINTS)
        return np.array([(angle, speed) for angle in angles for speed in speeds])


def _middles(low: float, high: float, count: int) -> FloatArray:
    """Return the middles of equal parts of an interval, `[count]`."""
    middles: FloatArray = low + (high - low) * (np.arange(count) + 0.5) / count
    return middles


CLASSIC: Mapping[str, type[ClassicControl]] = {
    kind.env_id: kind for kind in (MountainCar, Pendulum)
}
