"""Environments whose state is held by a simulator in C, and the extras that bring them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle

__all__ = ["Restorable", "goes_on", "require"]


def require(task: str, extra: str, *modules: str) -> None:
    """Import what a task needs, or say which extra brings it.

    Raises:
        ImportError: If one of them is not installed.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ImportError(
                f"`{task}` needs `{module}`, which is not installed; "
                f'run: pip install -e ".[{extra}]"'
            ) from error


class Restorable(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of MuJoCo or of the Arcade Learning Environment that can be copied whole.

    Their environments are copied and pickled by building new ones, so that a copy made in the
    middle of an episode begins a new one. With this wrapper a copy goes on where the original is.
    `info` is empty: frame numbers and parts of rewards are of no use to a game, and the former are
    not the same for the same seed.
    """

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`."""
        return self.env.reset(**options)[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make a step; see `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, float(reward), terminated, truncated, {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the wrapper with the simulator's state and the generator."""
        raw: Any = self.unwrapped
        if hasattr(raw, "ale"):
            state: Any = raw.ale.cloneState(include_rng=True).serialize()
        else:
            import mujoco

            # What the solver starts from is included.
            kind = mujoco.mjtState.mjSTATE_INTEGRATION
            state = np.empty(mujoco.mj_stateSize(raw.model, kind))
            mujoco.mj_getState(raw.model, raw.data, state, kind)
        return {**self.__dict__, "_state": state, "_generator": raw.np_random}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Build a simulator and put it into the state."""
        others = {"_state", "_generator"}
        self.__dict__.update({k: v for k, v in attributes.items() if k not in others})
        for name in others & {*self.__dict__}:
            del self.__dict__[name]
        raw: Any = self.unwrapped
        raw.np_random = attributes["_generator"]
        if hasattr(raw, "ale"):
            from ale_py import ALEState

            raw.ale.restoreState(ALEState(attributes["_state"]))
        else:
            import mujoco

            kind = mujoco.mjtState.mjSTATE_INTEGRATION
            mujoco.mj_setState(raw.model, raw.data, attributes["_state"], kind)


def goes_on(env: gym.Env[Any, Any]) -> bool:
    """Return whether a copy of an environment goes on where it is, if it can be copied at all.

    The others are `gymnasium.utils.EzPickle`, whose copies are new ones made with the same
    arguments, and not within a `Restorable`.
    """
    restored, layer = False, env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, EzPickle):
            return False
        restored, layer = restored or isinstance(layer, Restorable), layer.env
    return restored or not isinstance(layer, EzPickle)
