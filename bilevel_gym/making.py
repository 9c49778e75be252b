"""Tasks by name, in the leader's seat, with one clear error for whatever is refused."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from .core.checks import received, unknown_name
from .envs.ids import leader_id
from .registration import FOLLOWER, task_ids

if TYPE_CHECKING:
    from .envs.base import BilevelEnv
    from .wrappers import HyperGradient


def make(
    env_id: str,
    /,
    *,
    method: str | None = None,
    outer_steps: int = 100,
    keep_learnt: bool = False,
    render_mode: str | None = None,
    **options: Any,
) -> HyperGradient:
    """Make a task and take the leader's seat.

    Args:
        env_id: A registered id, or "module:ID" of a module that registers it.
        method: Name of the method or "module:Class"; None for the game's default.
        outer_steps: Steps of the leader's episode, at least 1.
        keep_learnt: Whether resets without a seed keep what was learnt.
        render_mode: None, "human" or "rgb_array".
        **options: Arguments of the game and options of the method, told apart by name.

    Raises:
        ImportError: If a module, or something that it needs, is not installed.
        TypeError: If neither game nor method takes an option, or both do, or the method does not
            suit the game.
        ValueError: If the id or the method is unknown, or a value is out of range.

    Example:
        >>> import bilevel_gym
        >>> env = bilevel_gym.make("BilevelGridWorld-v0", slip=0.2, method="trace", episodes=8)
        >>> type(env.method).__name__, env.game.title
        ('Trace', 'BilevelGridWorld')
    """
    from .wrappers import HyperGradient
    from .wrappers.entry_points import creator_of, told_apart

    env_id = find_task(env_id)
    env_kwargs, method_options = told_apart(
        creator_of(env_id), {"method": method, **options}, HyperGradient
    )
    del method_options["method"]
    return make_leader(
        env_id,
        env_kwargs,
        method,
        method_options,
        outer_steps=outer_steps,
        keep_learnt=keep_learnt,
        render_mode=render_mode,
    )


def make_leader(
    env_id: str,
    env_kwargs: dict[str, Any],
    method: str | None = None,
    method_options: dict[str, Any] | None = None,
    *,
    render_mode: str | None = None,
    **seat_options: Any,
) -> HyperGradient:
    """Return a task in the leader's seat, its arguments told apart already.

    It raises what `make` raises. `seat_options` are those of the seat itself.
    """
    from .wrappers import HyperGradient

    game = made_game(env_id, env_kwargs, render_mode=render_mode)
    try:
        return HyperGradient(game, method=method, **seat_options, **(method_options or {}))
    except (ValueError, TypeError, ImportError) as error:
        reason = f"cannot take the leader's seat of {env_id}: {error}"
        raise _of_same_kind(error, reason) from error


def made_game(
    env_id: str, env_kwargs: dict[str, Any], *, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Return the game of a task; raise what `make_leader` raises of it."""
    from .wrappers.entry_points import bare_game

    parameters = task_parameters(env_id)
    _check_names(env_id, env_kwargs, parameters)
    if not isinstance(render_mode, str | None):
        raise ValueError(f"`render_mode` must be a string or None, got {received(render_mode)}")
    try:
        # Without a picture to draw, a task need not know about render modes.
        drawing: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        return bare_game(env_id, **drawing, **env_kwargs)
    except (ValueError, TypeError, ImportError, gym.error.Error) as error:
        # Of other games than the package's, Gymnasium adds its own sentence to the constructor's.
        reason = str(error).partition(" was raised from the environment creator")[0]
        if isinstance(error, TypeError):
            reason = "; ".join([*_mismatches(parameters, env_kwargs), reason])
        raise _of_same_kind(error, f"cannot make {env_id}: {reason}") from error


def beside_user(name: str) -> str:
    """Return "module:Name"; modules beside the user are found from now on, as with `python -m`."""
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")
    return name


def names_of_code(value: Any) -> Iterator[str]:
    """Yield all "module:name" within nested dicts and lists."""
    if isinstance(value, str) and ":" in value:
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from names_of_code(entry)


def find_task(env_id: str) -> str:
    """Return a registered id, after importing the module of "module:ID".

    Raises:
        ImportError: If the module cannot be imported.
        ValueError: If no such task is registered.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"`env_id` must be an id or 'module:ID', got {received(env_id)}")
    module, _, name = env_id.rpartition(":")
    if module:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"a task is an id or 'module:ID', got {received(env_id)}")
        try:
            import_module(module)
        except ImportError as error:
            raise ImportError(f"cannot import {module!r} of {env_id!r}: {error}") from error
    if name not in gym.registry:
        raise ValueError(unknown_name("task", name, task_ids(), listed_by="bilevel-gym list"))
    if gym.spec(name).entry_point == FOLLOWER:
        raise ValueError(
            f"{name!r} is the id of the follower's seat, which gymnasium.make takes; the task has "
            f"the leader's, {leader_id(name)!r}"
        )
    return name


def task_parameters(env_id: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a task's constructor, without `render_mode`."""
    from .wrappers.entry_points import creator_of, game_parameters

    return game_parameters(creator_of(env_id))


def answers_exactly(game: BilevelEnv) -> bool:
    """Return whether a game knows its follower's exact answer; otherwise the follower learns."""
    from .model.base import BilevelModel  # loads scipy

    return isinstance(game.model, BilevelModel)


def _check_names(
    env_id: str, env_kwargs: dict[str, Any], parameters: dict[str, inspect.Parameter]
) -> None:
    """Raise a `TypeError` unless a task's constructor takes each of some names."""
    if "render_mode" in env_kwargs:
        raise TypeError("`render_mode` cannot be set here: each command chooses its own")
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in env_kwargs:
        if name not in parameters:
            kind, listed_by = f"argument for {env_id}:", f"bilevel-gym show {env_id}"
            raise TypeError(unknown_name(kind, name, parameters, listed_by=listed_by))


def _mismatches(
    parameters: dict[str, inspect.Parameter], env_kwargs: dict[str, Any]
) -> Iterator[str]:
    """Yield what each argument takes and what it got, where the constructor says."""
    for name, value in env_kwargs.items():
        takes = parameters[name].annotation if name in parameters else inspect.Parameter.empty
        if takes is not inspect.Parameter.empty:
            words = takes if isinstance(takes, str) else inspect.formatannotation(takes)
            yield f"`{name}` takes {words}, got {received(value)}"


def _of_same_kind(error: Exception, message: str) -> Exception:
    """Return an error of the built-in kind of another, with a message of its own."""
    kind = next((k for k in (TypeError, ImportError) if isinstance(error, k)), ValueError)
    return kind(message)
