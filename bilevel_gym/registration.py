"""Registration of tasks with Gymnasium: those of the table, of other packages and of users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from .core.checks import received
from .core.plugins import declared
from .envs.ids import follower_id, leader_id, place_of
from .envs.tasks import QUICK, TASKS, Task

__all__ = [
    "ENTRY_POINTS",
    "FOLLOWER",
    "LEADER",
    "QUICK",
    "TASKS",
    "Task",
    "register",
    "register_tasks",
    "task_ids",
]

# Entry points of all ids of a seat. Which game it is stands in the spec's `kwargs` as `game`.
LEADER = "bilevel_gym.wrappers.entry_points:leader"
FOLLOWER = "bilevel_gym.wrappers.entry_points:follower"

# Group of the entry points by which a package declares tasks: id = "module:Class".
ENTRY_POINTS = "bilevel_gym.tasks"


def register(
    id: str,
    entry_point: str | Callable[..., gym.Env[Any, Any]],
    *,
    max_episode_steps: int | None = None,
    kwargs: dict[str, Any] | None = None,
    tabular: bool = False,
) -> None:
    """Register a game with Gymnasium, by one id for each seat.

    `gymnasium.make(id, ...)` takes the leader's seat, with the options of the game, of the seat
    and of its method; `gymnasium.make(follower_id, upper_params=x, ...)` the follower's.

    Args:
        id: Gymnasium id, such as "Commute-v0"; the follower's is then "CommuteFollower-v0".
        entry_point: Class of the game, or "module:Class". A class at the top of a module is
            remembered by its name, so that the environment's spec survives the way through JSON.
        max_episode_steps: Time limit of the follower's episodes.
        kwargs: Constructor arguments of the game.
        tabular: Whether the game is a `TabularBilevelEnv`, so that `gymnasium.make_vec` gives
            arrays, `LeaderVectorEnv` and `LowerLevelVectorEnv`.

    Raises:
        TypeError: If `entry_point` makes nothing.
        ValueError: If the id is the follower's of another task, or one of another environment.
    """
    named = isinstance(entry_point, str) and ":" in entry_point
    if not (named or callable(entry_point)):
        raise TypeError(
            "`entry_point` must be the class of a game, a function that makes one, or "
            f'"module:Class", got {received(entry_point)}'
        )
    if id != leader_id(id):
        raise ValueError(
            f"`id` must not end in 'Follower' before its version, as the ids of followers do, got "
            f"{id!r}; register {leader_id(id)!r}, which brings its follower's"
        )
    entry_point = place_of(entry_point)
    for name in (id, follower_id(id)):
        known = gym.registry.get(name)
        taken = None if known is None else _name_of(known.kwargs.get("game", known.entry_point))
        # A class that is defined again, as by a cell of a notebook, replaces its former self.
        if taken not in (None, _name_of(entry_point)):
            raise ValueError(f"`id` {name!r} is taken by {taken}; choose another")
    limits = {LEADER: None, FOLLOWER: max_episode_steps}
    for seat, limit in limits.items():
        gym.register(
            id=id if seat == LEADER else follower_id(id),
            entry_point=seat,
            vector_entry_point=f"{seat}_copies" if tabular else None,
            max_episode_steps=limit,
            # Seats check what they are given themselves, and outermost they can be asked.
            order_enforce=False,
            disable_env_checker=True,
            kwargs={"game": entry_point, **(kwargs or {})},
        )


def _name_of(creator: Any) -> str:
    """Return "module:name" of what makes an environment."""
    if isinstance(creator, str):
        return creator
    named = creator if hasattr(creator, "__qualname__") else type(creator)
    return f"{named.__module__}:{named.__qualname__}"


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
                tabular=task.tabular,
            )
    own = frozenset(task.id for task in TASKS)
    for env_id, entry_point in declared(ENTRY_POINTS, own).items():
        if env_id not in gym.registry:
            register(env_id, entry_point)


def task_ids() -> list[str]:
    """Return the ids of all registered tasks: this package's first, then those from outside."""
    own = [task.id for task in TASKS]
    games = [spec.id for spec in gym.registry.values() if spec.entry_point == LEADER]
    return [*dict.fromkeys([*own, *games])]
