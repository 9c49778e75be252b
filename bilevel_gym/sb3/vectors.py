"""A vector environment of Gymnasium as one of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

__all__ = ["as_vec_env"]


def as_vec_env(vector_env: VectorEnv[Any, Any, Any]) -> VecEnv:
    """Return a vector environment of Gymnasium as one of Stable-Baselines3.

    Copies end and start again within a step there, so the same-step mode is needed. `VecMonitor`
    and the other wrappers of Stable-Baselines3 go on top. Attributes and methods, `action_masks`
    for one, are those of the vector environment as a whole; what has an entry for each copy is
    dealt out.

    Raises:
        TypeError: If it is no vector environment of Gymnasium.
        ValueError: If it is in another mode.

    Example:
        >>> import bilevel_gym, numpy as np
        >>> from bilevel_gym.sb3 import as_vec_env
        >>> envs = bilevel_gym.LowerLevelVectorEnv(
        ...     "BilevelGridWorld-v0", 16, np.zeros(52), autoreset_mode="SameStep"
        ... )
        >>> as_vec_env(envs).reset().shape
        (16,)
    """
    if not isinstance(vector_env, VectorEnv):
        raise TypeError(
            "`vector_env` must be a gymnasium.vector.VectorEnv, such as LowerLevelVectorEnv, got "
            f"{vector_env!r}"
        )
    mode = vector_env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(
            "`vector_env` must start ended copies again within the same step, as "
            f"Stable-Baselines3 does, got autoreset_mode {getattr(mode, 'value', mode)!r}; "
            f'make it with {type(vector_env).__name__}(..., autoreset_mode="SameStep")'
        )
    return _ArrayVecEnv(vector_env)


class _ArrayVecEnv(VecEnv):
    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        self.vector_env = vector_env
        super().__init__(
            vector_env.num_envs,
            vector_env.single_observation_space,
            vector_env.single_action_space,
        )
        self._actions: NDArray[Any] | None = None

    def reset(self) -> VecEnvObs:
        """Start an episode of every copy, with the seed and the options given before."""
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"reset options must be the same for all copies, got {self._options}")
        # One seed determines all copies: Gymnasium's own count up from it, as `seed` here does.
        observations, infos = self.vector_env.reset(
            seed=self._seeds[0], options=self._options[0] or None
        )
        self.reset_infos = _dealt_out(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Make one transition of each copy; ended ones have started again in what is returned."""
        observations, rewards, terminations, truncations, batched = self.vector_env.step(
            self._actions
        )
        infos = _dealt_out(batched, self.num_envs)
        dones = terminations | truncations
        for copy in np.flatnonzero(dones).tolist():
            last, final = infos[copy].pop("final_obs"), infos[copy].pop("final_info", {})
            self.reset_infos[copy] = infos[copy]
            infos[copy] = {**final, "terminal_observation": last}
        for info, truncated in zip(infos, (truncations & ~terminations).tolist(), strict=True):
            info["TimeLimit.truncated"] = truncated
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        self.vector_env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        if self.vector_env.render_mode is None:
            return [None] * self.num_envs
        return self.vector_env.render()  # type: ignore[return-value]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        value = self._attribute(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"`{attr_name}` is an attribute of all copies together, got indices {indices}"
            )
        setattr(self.vector_env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the vector environment, and deal out a result with N entries."""
        result = self._attribute(method_name)(*method_args, **method_kwargs)
        one_each = isinstance(result, np.ndarray | list | tuple) and len(result) == self.num_envs
        return [result[copy] if one_each else result for copy in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _attribute(self, name: str) -> Any:
        """Return an attribute of the vector environment, or of what its wrappers hold."""
        outer = self.vector_env
        return getattr(outer if hasattr(outer, name) else outer.unwrapped, name)


def _dealt_out(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Return the infos of a vector environment as one dict for each copy, without the masks."""
    dealt: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        copies = range(num_envs) if mask is None else np.flatnonzero(mask).tolist()
        if isinstance(values, dict):
            values = _dealt_out(values, num_envs)
        for copy in copies:
            value = values[copy]  # of an array of numbers a NumPy scalar, as a seat reports it
            dealt[copy][key] = np.array(value) if isinstance(value, np.bool_) else value
    return dealt
