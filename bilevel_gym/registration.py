"""Registration of tasks with Gymnasium: those of the table, of other packages and of users."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from .core.plugins import declared
from .envs.tasks import QUICK, TASKS, Task

__all__ = ["ENTRY_POINTS", "QUICK", "TASKS", "Task", "register", "register_tasks", "task_ids"]

# Group of the entry points by which a package declares tasks: id = "module:Class".
ENTRY_POINTS = "bilevel_gym.tasks"

LEADER = WrapperSpec(
    name="HyperGradient",
    entry_point="bilevel_gym.wrappers.hyper_gradient:HyperGradient",
    kwargs={"outer_steps": 100},
)


def register(
    id: str,
    entry_point: str | Callable[..., gym.Env[Any, Any]],
    *,
    max_episode_steps: int | None = None,
    kwargs: dict[str, Any] | None = None,
) -> None:
    """Register a game with Gymnasium, in the leader's seat.

    Args:
        id: Gymnasium id, such as "Commute-v0".
        entry_point: Class of the game, or "module:Class". A class at the top of a module is
            remembered by its name, so that the environment's spec survives the way through JSON.
        max_episode_steps: Time limit of the follower's episodes.
        kwargs: Constructor arguments of the game.
    """
    if isinstance(entry_point, type) and entry_point.__module__ != "__main__":
        name = entry_point.__qualname__
        if getattr(sys.modules.get(entry_point.__module__), name, None) is entry_point:
            entry_point = f"{entry_point.__module__}:{name}"
    gym.register(
        id=id,
        entry_point=entry_point,
        max_episode_steps=max_episode_steps,
        kwargs=dict(kwargs or {}),
        additional_wrappers=(LEADER,),
    )


def register_tasks() -> None:
    """Register every task of this package and those that installed packages declare.

    An id that is taken already stays as it is.
    """
    for task in TASKS:
        if task.id not in gym.registry:
            register(
                task.id,
                task.entry_point,
                max_episode_steps=task.max_episode_steps,
                kwargs=task.kwargs,
            )
    own = frozenset(task.id for task in TASKS)
    for env_id, entry_point in declared(ENTRY_POINTS, own).items():
        if env_id not in gym.registry:
            register(env_id, entry_point)


def task_ids() -> list[str]:
    """Return the ids of all registered games: this package's first, then those from outside."""
    own = [task.id for task in TASKS]
    games = [spec.id for spec in gym.registry.values() if LEADER in spec.additional_wrappers]
    return [*dict.fromkeys([*own, *games])]
