"""Where an environment comes from: a registered id, a function that makes it, or one to copy."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from ..core.checks import check_at_least, first_line, optional, received

__all__ = ["EnvLike", "Source", "json_options", "time_limit"]

Env = gym.Env[Any, Any]

# An id, "module:Id", "module:function", a function that makes an environment, or an environment.
EnvLike = str | Callable[..., Env] | Env


# Arguments that `gymnasium.make` would take for itself.
RESERVED = ("render_mode", "max_episode_steps", "disable_env_checker")


class Source:
    """Makes copies of an environment, as many as learners and pictures need.

    Attributes:
        name: What messages and pictures call the environment.
        limit: Steps after which episodes are cut, None for the environment's own limit.
    """

    def __init__(
        self,
        env: EnvLike,
        env_kwargs: Mapping[str, Any] | None = None,
        episode_steps: int | None = None,
    ) -> None:
        """Bind the environment; see `ParametricGame` for the arguments.

        An instance is copied at once, and left alone from then on.

        Raises:
            TypeError: If `env` is none of these, or `env_kwargs` no mapping.
            ValueError: If an instance cannot be copied or has arguments beside it, or the number of
                steps is out of range.
            ImportError: If the module of a function cannot be imported.
        """
        if not isinstance(env_kwargs, Mapping | None):
            raise TypeError(
                "`env_kwargs` must be a dict of arguments of the environment, got "
                f"{received(env_kwargs)}"
            )
        self._given, self._kwargs = env, dict(env_kwargs or {})
        self.limit = optional(check_at_least, "episode_steps", episode_steps, 1)
        if isinstance(env, str):
            self.name = env.rpartition(":")[2]
            env = _named(env)
        elif isinstance(env, gym.Env):
            self.name = env.spec.id if env.spec else type(env.unwrapped).__name__
            if self._kwargs:
                raise ValueError(
                    f"`env_kwargs` are arguments of the function that makes an environment, and "
                    f"{self.name} is made already, got {received(self._kwargs)}"
                )
            env = _copied(env, None)
        elif callable(env):
            self.name = getattr(env, "__name__", type(env).__name__)
        else:
            raise TypeError(
                "`env_id` must be the id of a registered environment, a function that makes an "
                f"environment, or an environment, got {received(env)}"
            )
        self._env = env

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that the environment is made with by name, None for no number.

        They are those that are given, those of its registration and the constructor's defaults.
        """
        make: Any = self._env
        given = self._kwargs
        if isinstance(make, gym.Env):
            return {}
        if isinstance(make, str):
            spec = gym.spec(make)
            given = {**spec.kwargs, **given}
            make = spec.entry_point
            if isinstance(make, str):
                make = gym.envs.registration.load_env_creator(make)
        try:
            parameters = inspect.signature(make).parameters.values()
        except (TypeError, ValueError):  # of functions in C
            return dict(given)
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        defaults = {p.name: None if p.default is p.empty else p.default for p in named}
        return {n: v for n, v in {**defaults, **given}.items() if n != "render_mode"}

    def make(self, render_mode: str | None = None, changed: Mapping[str, Any] | None = None) -> Env:
        """Return a fresh copy, whose episodes are cut if there is a limit.

        `changed` are arguments in place of those given.

        Raises:
            ValueError: If none can be made, or a function returns something else.
            ImportError: If it needs what is not installed.
            gymnasium.error.Error: If there is no such environment.
        """
        try:
            return self._made(render_mode, {**self._kwargs, **(changed or {})})
        except gym.error.UnregisteredEnv as error:
            if ":" in str(self._given):
                raise
            hint = "one of your own is named by module:ID or module:Class"
            raise type(error)(f"{str(error).rstrip('.')}; {hint}") from error
        except (gym.error.Error, ImportError):
            raise
        except Exception as error:  # the constructor of any environment may raise anything
            raise ValueError(
                f"`env_id` and `env_kwargs` must make an environment, got {received(self._given)} "
                f"with {received(self._kwargs)}: {type(error).__name__}: {first_line(error)}"
            ) from error

    def _made(self, render_mode: str | None, kwargs: dict[str, Any]) -> Env:
        # Without a picture to draw, an environment need not know about render modes.
        drawing: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        if isinstance(self._env, str):
            return gym.make(self._env, self.limit, **drawing, **kwargs)
        if isinstance(self._env, gym.Env):
            made = _copied(self._env, render_mode)
        else:
            made = self._called(drawing, kwargs)
        # Without its wrappers an environment has no limit, but is registered with one.
        spec = gym.registry.get(made.spec.id) if made.spec else None
        limit = spec.max_episode_steps if spec and self.limit is None else self.limit
        return made if limit is None or time_limit(made) <= limit else TimeLimit(made, limit)

    def _called(self, drawing: dict[str, Any], kwargs: dict[str, Any]) -> Env:
        make: Any = self._env
        if drawing and not _takes(make, "render_mode"):
            raise ValueError(f"{self.name} must take `render_mode` for pictures, and does not")
        made = make(**drawing, **kwargs)
        if not isinstance(made, gym.Env):
            raise TypeError(
                f"{self.name} must return an environment of Gymnasium, got {received(made)}"
            )
        return made


def time_limit(env: Env) -> float:
    """Return the smallest number of steps that a `TimeLimit` in a stack allows, inf without one."""
    limit = math.inf
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            limit = min(limit, env._max_episode_steps)
        env = env.env
    return limit


def json_options(env_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return constructor arguments of an environment, which must be JSON types.

    Raises:
        ValueError: If they are not, or are ones that `gymnasium.make` would take for itself.
    """
    options = {} if env_kwargs is None else env_kwargs
    try:
        json.dumps({**options})
        if not all(isinstance(name, str) for name in options):
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(
            "`env_kwargs` must be a dictionary of constructor arguments in JSON types, got "
            f"{received(env_kwargs)}"
        ) from None
    for name in RESERVED:
        if name in options:
            raise ValueError(
                f"`env_kwargs` must hold arguments of the environment itself, got {name!r}; "
                "give it to the game"
            )
    return dict(options)


def _named(name: str) -> Callable[..., Env] | str:
    """Return what "module:name" names if that is no registered id; else the id."""
    module, colon, attribute = name.rpartition(":")
    if not colon or not all(part.isidentifier() for part in module.split(".")):
        return name
    found = getattr(import_module(module), attribute, None)
    # The module may register it while it is imported.
    return name if attribute in gym.registry or not callable(found) else found


def _copied(env: Env, render_mode: str | None) -> Env:
    """Return a copy of an environment, of a render mode if one is asked for.

    A copy keeps what has been changed by hand; where that cannot be had, as of simulators in C, a
    new one is made as this one was.
    """
    wanted = render_mode is None or env.render_mode == render_mode
    reason: Exception | None = None
    if wanted:
        try:
            return copy.deepcopy(env)
        except Exception as error:  # of whatever cannot be copied
            reason = error
    drawing: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    with suppress(Exception):  # of whatever cannot be made from its specification
        made = gym.make(env.spec, **drawing)  # type: ignore[arg-type]
        if _same_layers(made, env):
            return made
    why = f" ({type(reason).__name__}: {first_line(reason)})" if reason else ""
    raise ValueError(
        f"{env} cannot be copied{why}, and learners have copies of their own; give a function that "
        "makes it" + ("" if wanted else f", and takes render_mode={render_mode!r}")
    )


def _same_layers(one: Env, other: Env) -> bool:
    """Return whether two environments have the same wrappers and spaces."""
    spaces = one.observation_space == other.observation_space
    if not spaces or one.action_space != other.action_space:
        return False
    while isinstance(one, gym.Wrapper) and isinstance(other, gym.Wrapper):
        if type(one) is not type(other):
            return False
        one, other = one.env, other.env
    return type(one) is type(other)


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function takes an argument by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of functions in C
        return True
    return any(p.kind is p.VAR_KEYWORD or p.name == name for p in parameters)
