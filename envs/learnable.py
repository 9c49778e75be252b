"""What followers can learn in, and what users' functions of rewards must return."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import flatdim

from ..core.checks import received
from ..core.mdp import FloatArray
from ..rewards.images import LEAST_SIDE, is_image_space

if TYPE_CHECKING:
    from ..episodes.recorded import Batch

__all__ = [
    "check_spaces",
    "checked_array",
    "checked_rewards",
    "torque_cost",
    "try_rewards",
    "uniform_entropy",
]

# Transitions of the batch that a game's reward functions are tried on.
TRIED = 3

FLATTEN = "; gymnasium.wrappers.FlattenObservation makes one array of it"


def checked_array(name: str, values: Any, shape: tuple[int, ...], letters: str) -> FloatArray:
    """Return what a function of the user's has returned, if it is finite and of a shape.

    Args:
        name: What messages call the function.
        values: What it returned.
        shape: The shape that it must have.
        letters: What messages call that shape, "[B]" for example.

    Raises:
        ValueError: If it is of another one, or not finite.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.shape != shape:
        raise ValueError(f"{name} must return shape {letters} = {shape}, got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must return finite numbers, got {found[~np.isfinite(found)][0]}")
    return found


def checked_rewards(name: str, values: Any, observations: Batch, actions: Batch) -> FloatArray:
    """Return a number for each step, `[B]`, if it is finite.

    Args:
        name: What messages call the function that returned the values.
        values: What it returned.
        observations: What it was given, `[B, ...]`.
        actions: What it was given, `[B, ...]`.

    Raises:
        ValueError: If there are more or fewer, or one is not finite, the first of which is named.
    """
    found = np.asarray(values)
    if found.shape == (len(observations),) and found.dtype.kind in "fiub":
        for at in np.flatnonzero(~np.isfinite(found))[:1]:
            raise ValueError(
                f"{name} must return finite numbers, got {found[at]} for observation "
                f"{received(observations[at])} and action {received(actions[at])}"
            )
    return checked_array(name, found, (len(observations),), "[B]")


def check_spaces(environment: gym.Env[Any, Any]) -> None:
    """Raise a `ValueError` unless followers can learn in an environment."""
    seen: Any = getattr(environment, "observation_space", None)
    acting: Any = getattr(environment, "action_space", None)
    name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
    discrete = [isinstance(space, spaces.Discrete) and space.start == 0 for space in (seen, acting)]
    if not (discrete[0] or isinstance(seen, spaces.Box) and seen.shape):
        raise ValueError(
            f"observations of {name} must be a Box with one axis at least, or Discrete from 0 on, "
            f"got {seen}{FLATTEN if isinstance(seen, spaces.Dict | spaces.Tuple) else ''}"
        )
    if is_image_space(seen) and sorted(seen.shape or ())[1] < LEAST_SIDE:
        raise ValueError(
            f"images must have {LEAST_SIDE} pixels a side at least, as convolutions read them, "
            f"got observations {seen} of {name}"
        )
    real = isinstance(acting, spaces.Box) and acting.is_bounded() and acting.dtype.kind == "f"
    if not (discrete[1] or real and acting.shape):
        raise ValueError(
            f"actions of {name} must be a finite Box of real numbers with one axis at least, or "
            f"Discrete from 0 on, got {acting}"
        )


def uniform_entropy(actions: spaces.Space[Any]) -> float:
    """Return the entropy of the uniform policy, in nats; of continuous actions as learners scale.

    They scale them to [-1, 1]^n, where the density of the uniform policy is 2^-n.
    """
    if isinstance(actions, spaces.Discrete):
        return float(np.log(int(actions.n)))
    return float(np.log(2.0)) * flatdim(actions)


def torque_cost(observations: Batch, actions: Batch, *, weight: float) -> FloatArray:
    """Return -weight |a|^2, `[B]`."""
    return -weight * np.square(np.asarray(actions, np.float64)).sum(axis=1)


def try_rewards(game: Any) -> None:
    """Compute rewards of a small batch: functions that return other shapes are found here."""
    observation, _ = game.environment.reset(seed=0)
    acting = copy.deepcopy(game.lower_space)
    acting.seed(0)
    observations = np.stack([np.asarray(observation)] * TRIED)
    actions = np.stack([np.asarray(acting.sample()) for _ in range(TRIED)])
    terms = np.zeros((TRIED, len(game.term_names))) if game.term_names else None
    game.reward(game.initial_upper_params, observations, actions, terms)
    game.upper_reward(observations, actions, np.zeros(TRIED))
