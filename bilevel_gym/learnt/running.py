"""Episodes under way, in files that run no code.

A copy of an environment is as good as the environment: it goes on where that is. Its attributes are
written as plain data, see `bilevel_gym.core.plain`, with the names of its classes and functions.
Whoever reads it makes an environment of the same kind, which has these, and puts the parts together
as they were.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle

from ..core.plain import dumps, loads, vocabulary

__all__ = ["restored", "snapshot"]

Env = gym.Env[Any, Any]

FUNCTIONS = types.FunctionType, types.BuiltinFunctionType


def snapshot(env: Env, make: Callable[[], Env]) -> str | None:
    """Return an environment as JSON.

    It must be one that `bilevel_gym.envs.simulators.goes_on` where it is copied. None if it cannot
    be put together again: parts of it are no plain data, such as a stream, a tensor or a function
    with a closure, or `make` makes other ones.
    """
    try:
        text, fresh = _encoded(env), make()
        if {*map(id, _layers(env))} & {*map(id, _layers(fresh))}:
            return None  # it is the environment that is running
        # What is read must be what was written.
        return text if _encoded(_put_together(text, fresh)) == text else None
    except (TypeError, LookupError, ValueError, AttributeError):
        return None


def restored(text: str | bytes, make: Callable[[], Env], *, trust: bool) -> Env | None:
    """Return the environment of a `snapshot`, from the parts of one that `make` makes.

    None for a game of the Arcade Learning Environment that is not trusted: the library does not
    check what a state of its console says, so that a forged one overwrites memory.

    Raises:
        Exception: Of any kind, if the text is none of `snapshot`, or of another environment.
    """
    fresh = make()
    if hasattr(fresh.unwrapped, "ale") and not trust:
        return None
    return _put_together(text, fresh)


def _put_together(text: str | bytes, fresh: Env) -> Env:
    """Return the environment of a text, of the parts of a new one."""
    fresh.reset(seed=0)  # some of them are made where an episode begins
    env = loads(text, _parts(fresh))
    if [*map(type, _layers(env))] != [*map(type, _layers(fresh))]:
        raise ValueError(f"an environment must be {fresh}, got {env}")
    return env


def _layers(env: Any) -> list[Env]:
    """Return the wrappers of an environment, outermost first, and what they wrap."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _encoded(env: Env) -> str:
    return dumps(env, _parts(env))


def _parts(env: Env) -> dict[str, Any]:
    """Return the classes, functions and other constants that an environment consists of."""
    layers = _layers(env)
    raw, specifications = layers[-1], dict[int, int]()
    for number, layer in enumerate(layers):
        with suppress(Exception):
            # Wrappers make theirs when they are asked for it.
            specifications.setdefault(id(layer.spec), number)

    def constant(value: Any) -> str | None:
        if value is raw and isinstance(raw, EzPickle):
            return "the simulator"  # whose state is that of its `Restorable`
        if isinstance(value, EnvSpec) and id(value) in specifications:
            return f"the specification of layer {specifications[id(value)]}"
        if isinstance(value, types.ModuleType | np.ufunc):
            return f"{type(value).__name__} {value.__name__}"
        if isinstance(value, FUNCTIONS) and not _holds_values(value):
            return f"{value.__module__}.{value.__qualname__}"
        return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else None

    return vocabulary(env, constant)


def _holds_values(function: Any) -> bool:
    """Return whether a function has a closure, or is a method of an object."""
    owner = getattr(function, "__self__", None)
    held = getattr(function, "__closure__", None) is not None
    return held or not isinstance(owner, types.ModuleType | type(None))
