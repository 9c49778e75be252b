"""Eleven games that no default was tuned to: environments of others, with knobs on their rewards.

The follower's reward is x . phi(s, a), x at 0 at first; the leader's reward is the environment's
own. The terms phi are what one would write down first, some of which help and some of which harm,
and were fixed before anything was run; units are such that each term is of order one. Three of the
games are tasks of this package, made as they come.

| environment | knobs | terms |
|---|---|---|
| `Acrobot-v1` | 4 | height of the tip; speed of either joint; torque along the first one's speed |
| `LunarLander-v3` | 6 | minus the distance to the middle, the height, the speed, the tilt; \
legs on the ground; minus the main engine |
| `MountainCarContinuous-v0` | 4 | position; speed; force along the speed; minus the force squared |
| `MiniGrid-Empty-Random-5x5-v0` | 4 | the goal is in view; it is ahead; a step ahead; a turn |
| `BilevelCartPole-v0` | 4 | see the task |
| `BilevelPendulum-v0` | 6 | see the task |
| `BilevelReacher-v0` | 6 | see the task |
| `MountainCar-v0` | 5 | height; speed; push along the speed; push to the right; nearness to the \
valley's bottom |
| `InvertedPendulum-v5` | 5 | uprightness; nearness to the middle; force under the lean; force \
along the cart's speed; minus the force squared |
| `CartPole-v1` | 5 | uprightness; nearness to the middle; minus the cart's speed; minus the \
pole's; push to the right |
| `Swimmer-v5` | 6 | speed ahead; speed sideways; minus the bends squared; speeds of the joints; \
torques along these; minus the torques squared |

The extra brings what they need: `pip install -e ".[worlds]"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelCartPole, BilevelPendulum, BilevelReacher, ParametricGame

Batch = NDArray[Any]


def make(name: str, **options: Any) -> ParametricGame:
    """Return a game by the id of its environment, a key of `WORLDS`.

    `options` are those of `ParametricGame`, or of the task.
    """
    return WORLDS[name].make(**options)


@dataclass(frozen=True)
class Shaped:
    """An environment, and the terms of the follower's reward.

    Attributes:
        env_id: The environment.
        num_params: How many terms there are.
        terms: phi: (observations `[B, ...]`, actions `[B, ...]`) -> `[B, num_params]`.
        needs: A package that it needs beside this one.
    """

    env_id: str
    num_params: int
    terms: Callable[[Batch, Batch], FloatArray]
    needs: str | None = None

    def make(self, **options: Any) -> ParametricGame:
        """Return the game."""
        model = {"kind": "linear", "features": self.terms, "num_params": self.num_params}
        return ParametricGame(self.env_id, model, **options)


@dataclass(frozen=True)
class Ready:
    """A task of this package.

    Attributes:
        make: Its class.
        needs: A package that it needs beside this one.
    """

    make: Callable[..., ParametricGame]
    needs: str | None = None


# Environments ------------------------------------------------------------------------------------

MINIGRID = "MiniGrid-Empty-Random-5x5-v0"
FLAT = "FlatMiniGrid-v0"

# The numbers of what stands in a cell of MiniGrid, and the size of what its agent sees.
GOAL, VIEW = 8, 7


class Flat(gym.ObservationWrapper[NDArray[np.float32], Any, Any]):
    """MiniGrid as a vector: three numbers for each cell in view, `[147]`."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0.0, 10.0, (3 * VIEW * VIEW,), np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Return what is in view, without direction and mission."""
        return observation["image"].astype(np.float32).ravel()


def flat_minigrid(**options: Any) -> gym.Env[Any, Any]:
    """Return the smallest MiniGrid; it registers itself when it is imported."""
    import minigrid  # noqa: F401

    return Flat(gym.make(MINIGRID, **options).unwrapped)


if FLAT not in gym.registry:  # learners make copies by the id
    gym.register(FLAT, flat_minigrid, max_episode_steps=100)


# Terms -------------------------------------------------------------------------------------------


def acrobot(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of Acrobot-v1, `[B, 4]`."""
    cos1, sin1, cos2, sin2, speed1, speed2 = columns(observations)
    torque = numbers(actions) - 1.0
    height = -cos1 - (cos1 * cos2 - sin1 * sin2)
    speeds = np.abs(speed1) / 12.6, np.abs(speed2) / 28.3  # their limits
    return np.stack([height, *speeds, torque * speed1 / 12.6], axis=1)


def lunar_lander(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of LunarLander-v3, `[B, 6]`."""
    x, y, speed_x, speed_y, angle, _, left, right = columns(observations)
    speed, main = np.hypot(speed_x, speed_y), numbers(actions) == 2
    costs = [-np.abs(x), -np.abs(y), -speed, -np.abs(angle)]
    return np.stack([*costs, left + right, -main.astype(np.float64)], axis=1)


def mountain_car_continuous(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of MountainCarContinuous-v0, `[B, 4]`."""
    position, speed = columns(observations)
    (force,) = columns(actions)
    along = np.tanh(speed / 0.03) * force
    return np.stack([position + 0.5, np.abs(speed) / 0.07, along, -(force**2)], axis=1)


def minigrid(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of MiniGrid, `[B, 4]`; the agent sees itself in the middle of an edge."""
    goal = observations.reshape(-1, VIEW, VIEW, 3)[..., 0] == GOAL
    action = numbers(actions)
    ahead = goal[:, VIEW // 2, : VIEW - 1].any(axis=1)
    found = [goal.any(axis=(1, 2)), ahead, action == 2, action < 2]
    return np.stack(found, axis=1).astype(np.float64)


def mountain_car(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of MountainCar-v0, `[B, 5]`."""
    position, speed = columns(observations)
    push = numbers(actions) - 1.0
    along, low = np.tanh(speed / 0.03) * push, -np.abs(position + 0.5)
    return np.stack([np.sin(3.0 * position), np.abs(speed) / 0.07, along, push, low], axis=1)


def inverted_pendulum(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of InvertedPendulum-v5, `[B, 5]`; it ends at an angle of .2."""
    position, angle, speed, _ = columns(observations)
    force = columns(actions)[0] / 3.0
    places = [1.0 - (angle / 0.2) ** 2, -np.abs(position)]
    pushes = [force * np.tanh(angle / 0.1), force * np.tanh(speed), -(force**2)]
    return np.stack([*places, *pushes], axis=1)


def cart_pole(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of CartPole-v1, `[B, 5]`; it ends at 2.4 and at an angle of .2095."""
    position, speed, angle, spin = columns(observations)
    places = [1.0 - (angle / 0.2095) ** 2, 1.0 - (position / 2.4) ** 2]
    speeds = [-np.tanh(np.abs(speed)), -np.tanh(np.abs(spin))]
    return np.stack([*places, *speeds, 2.0 * numbers(actions) - 1.0], axis=1)


def swimmer(observations: Batch, actions: Batch) -> FloatArray:
    """Return the terms of Swimmer-v5, `[B, 6]`."""
    _, bend1, bend2, ahead, sideways, _, spin1, spin2 = columns(observations)
    torque1, torque2 = columns(actions)
    wriggling = (np.abs(spin1) + np.abs(spin2)) / 5.0
    along = (torque1 * np.tanh(spin1) + torque2 * np.tanh(spin2)) / 2.0
    costs = -(bend1**2 + bend2**2), -(torque1**2 + torque2**2) / 2.0
    return np.stack([ahead, np.abs(sideways), costs[0], wriggling, along, costs[1]], axis=1)


def columns(batch: Batch) -> FloatArray:
    """Return the entries of vectors `[B, n]` one by one, `[n, B]`."""
    return np.asarray(batch, np.float64).T


def numbers(actions: Batch) -> FloatArray:
    """Return discrete actions as numbers, `[B]`."""
    return np.asarray(actions, np.float64).reshape(-1)


WORLDS: dict[str, Shaped | Ready] = {
    "Acrobot-v1": Shaped("Acrobot-v1", 4, acrobot),
    "LunarLander-v3": Shaped("LunarLander-v3", 6, lunar_lander, "Box2D"),
    "MountainCarContinuous-v0": Shaped("MountainCarContinuous-v0", 4, mountain_car_continuous),
    MINIGRID: Shaped(FLAT, 4, minigrid, "minigrid"),
    "BilevelCartPole-v0": Ready(BilevelCartPole),
    "BilevelPendulum-v0": Ready(BilevelPendulum),
    "BilevelReacher-v0": Ready(BilevelReacher, "mujoco"),
    "MountainCar-v0": Shaped("MountainCar-v0", 5, mountain_car),
    "InvertedPendulum-v5": Shaped("InvertedPendulum-v5", 5, inverted_pendulum, "mujoco"),
    "CartPole-v1": Shaped("CartPole-v1", 5, cart_pole),
    "Swimmer-v5": Shaped("Swimmer-v5", 6, swimmer, "mujoco"),
}
