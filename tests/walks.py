"""A small environment for tests of terms: a walk on a line, of a kind that may be chosen."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from .helpers import Env


class Walk(gym.Env[NDArray[np.float32], np.int64]):
    """Steps to the left or the right, from near 0; it ends at 1, or -1, and the right end pays."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, *, pays: str = "number", acts: str = "discrete", render_mode: str | None = None
    ) -> None:
        self.render_mode, self.pays = render_mode, pays
        self.observation_space = spaces.Box(-2.0, 2.0, (2,), np.float32)
        self.action_space: Any = spaces.Discrete(2)
        if acts == "box":
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.place, self.stride = 0.0, 0.25

    def _seen(self) -> NDArray[np.float32]:
        return np.array([self.place, abs(self.place)], np.float32)

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-0.1, 0.1))
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        push = float(np.ravel(action)[0])
        move = push if isinstance(self.action_space, spaces.Box) else 2.0 * push - 1.0
        self.place += self.stride * move
        goal = float(self.place >= 1.0)
        info = {"progress": self.stride * move, "place": self.place, "goal": goal, "word": "here"}
        reward: Any = goal
        if self.pays == "vector":
            reward = np.array([goal, -abs(move)])
        return self._seen(), reward, abs(self.place) >= 1.0, False, info

    def render(self) -> Any:
        return np.full((40, 60, 3), 128, np.uint8)


def make_walk(**arguments: Any) -> Env:
    """Return a walk that is cut after 20 steps."""
    return TimeLimit(Walk(**arguments), 20)


def shaping(observation: Any, action: Any, following: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Return progress, and what a step costs."""
    return {"progress": following[0] - observation[0], "high": following[1]}
