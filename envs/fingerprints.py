"""The identity of an environment's state: a digest of its attributes, or of a key that is given."""

from __future__ import annotations

import enum
import functools
import hashlib
import random
import re
import types
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence, Set
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from ..core.checks import first_line, received

__all__ = ["BOOKKEEPING", "Key", "attributes", "clocks_of", "differing", "fingerprint"]

# What tells states apart, of an environment.
Key = Callable[[gym.Env[Any, Any]], Hashable]

# Layers that keep count and change nothing else: episodes of a table have no limit.
BOOKKEEPING = (TimeLimit, OrderEnforcing, PassiveEnvChecker)

# Attributes that say how an environment is shown and how it was made, not where it is.
NO_STATE = {"env", "render_mode", "render_size", "spec", "_np_random", "_np_random_seed"}

# Values that are no part of a state: generators (a draw does not change where one is), spaces,
# code. What pygame holds is a picture.
NO_VALUES: tuple[type, ...] = (
    np.random.Generator,
    np.random.RandomState,
    random.Random,
    gym.Space,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
)

# Larger arrays are told by their bytes. Smaller ones equal lists of the same numbers: environments
# have either for one thing.
LISTED = 64

# Names of numbers that may count steps.
CLOCK = re.compile(r"_?t|.*(step|time|tick|elapsed|count|frame).*", re.IGNORECASE)


class CannotTellError(ValueError):
    """A value has no parts that could be compared."""


def fingerprint(env: gym.Env[Any, Any], key: Key | None, clocks: Collection[str] = ()) -> str:
    """Return the digest of the state that an environment is in.

    By default it is one of all attributes of all its layers, but for generators, spaces, functions,
    pictures and `clocks`; of an environment with `P`, as Gymnasium's toy texts have it, that of its
    number `s`.

    Args:
        env: The environment.
        key: What tells states apart in place of the attributes.
        clocks: Names, as `attributes` has them, of what counts steps.

    Raises:
        ValueError: If an attribute cannot be compared, or `key` fails.
    """
    said: list[str] = []
    if key is None and hasattr(env.unwrapped, "P") and hasattr(env.unwrapped, "s"):
        key = _own_number
    if key is not None:
        try:
            value = key(env)
            _write(value, said, ())
        except Exception as error:  # of the user's function
            raise ValueError(
                f"`key` must return numbers, texts, arrays or tuples of them, got "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
    else:
        for name, value in attributes(env):
            if name not in clocks:
                said.append(name)
                try:
                    _write(value, said, ())
                except CannotTellError as error:
                    raise ValueError(
                        f"the state of {env.unwrapped} cannot be told by its attributes: `{name}` "
                        f"holds {error}; give `key`, a function of the environment that tells its "
                        "states apart"
                    ) from None
    return hashlib.blake2b("\x1f".join(said).encode(), digest_size=16).hexdigest()


def attributes(env: gym.Env[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Return what each layer of an environment holds, by "Layer.name", but for what is no state."""
    while True:
        held = {} if isinstance(env, BOOKKEEPING) else vars(env)
        for name, value in sorted(held.items()):
            if name not in NO_STATE:
                yield f"{type(env).__name__}.{name}", value
        if not isinstance(env, gym.Wrapper):
            return
        env = env.env


def clocks_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Return the attributes that may have counted a step between two looks at an environment."""
    return {
        name
        for name, value in after.items()
        if CLOCK.fullmatch(name.rpartition(".")[2])
        and isinstance(value, int | np.integer)
        and isinstance(before.get(name), int | np.integer)
        and value == before[name] + 1
    }


def differing(env: gym.Env[Any, Any], other: gym.Env[Any, Any]) -> list[str]:
    """Return the attributes that differ between two copies of an environment."""
    texts: list[dict[str, list[str]]] = []
    for each in (env, other):
        texts.append({})
        for name, value in attributes(each):
            _write(value, texts[-1].setdefault(name, []), ())
    return [name for name, said in texts[0].items() if texts[1].get(name) != said]


def _own_number(env: gym.Env[Any, Any]) -> Hashable:
    """Return the state of an environment that numbers its states."""
    state: Hashable = env.get_wrapper_attr("s")
    return state


def _write(value: Any, said: list[str], within: tuple[int, ...]) -> None:
    """Append texts for a value, the same for equal values, to `said`.

    `within` are the ids of the values that this one is in: one that contains itself says so.
    """
    of: Any = type(value)
    kind = _kind(of)
    if kind is Kind.ATOM:
        said.append(repr(value))
    elif kind is Kind.REAL:
        said.append(repr(value + 0.0))  # zero has two signs, which are equal
    elif kind is Kind.SCALAR:
        _write(value.item(), said, within)
    elif kind is Kind.NOTHING:
        said.append("None")
    elif id(value) in within:
        said.append(f"above {within[::-1].index(id(value))}")
    elif kind is Kind.ARRAY and value.dtype != object and value.size > LISTED:
        digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16)
        said.append(f"{value.dtype}{value.shape}{digest.hexdigest()}")
    else:
        if kind is Kind.ARRAY:
            # Environments have arrays and tuples of the same numbers for one thing.
            value_parts: Any = value.tolist()
        elif kind is Kind.MAPPING:
            value_parts = [part for pair in sorted(value.items(), key=repr) for part in pair]
        elif kind is Kind.SET:
            value_parts = sorted(value, key=repr)
        elif kind is Kind.OBJECT and hasattr(value, "__array__"):  # tensors
            value_parts = np.asarray(value).tolist()
            value_parts = value_parts if isinstance(value_parts, list) else [value_parts]
        elif kind is Kind.OBJECT:
            said.append(type(value).__qualname__)
            value_parts = _members(value)
        else:
            value_parts = value
        said.append("(")
        inside = (*within, id(value))
        for part in value_parts:
            if type(part) in ATOMS:  # most parts are: a grid of cells is read at every step
                said.append(repr(part))
            else:
                _write(part, said, inside)
        said.append(")")


class Kind(enum.Enum):
    """How values of a type are written."""

    ATOM = enum.auto()
    REAL = enum.auto()
    SCALAR = enum.auto()
    NOTHING = enum.auto()
    ARRAY = enum.auto()
    MAPPING = enum.auto()
    SEQUENCE = enum.auto()
    SET = enum.auto()
    OBJECT = enum.auto()


ATOMS = {type(None), bool, int, str, bytes}

# The first that fits.
KINDS: tuple[tuple[Kind, Any], ...] = (
    (Kind.REAL, float),
    (Kind.ATOM, type(None) | bool | int | complex | str | bytes | enum.Enum),
    (Kind.SCALAR, np.generic),
    (Kind.NOTHING, NO_VALUES),
    (Kind.ARRAY, np.ndarray),
    (Kind.MAPPING, Mapping),
    (Kind.SEQUENCE, Sequence),
    (Kind.SET, Set),
)

# Of a type that Python code defines; others may hold what no attribute shows.
HEAP_TYPE = 1 << 9


@functools.cache
def _kind(of: type) -> Kind:
    if of.__module__.partition(".")[0] == "pygame":
        return Kind.NOTHING
    if issubclass(of, np.generic):
        return Kind.SCALAR
    return next((kind for kind, known in KINDS if issubclass(of, known)), Kind.OBJECT)


@functools.cache
def _slots(of: type) -> tuple[str, ...]:
    found = []
    for kind in of.__mro__:
        slots = vars(kind).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else [*slots]
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


def _members(value: Any) -> list[Any]:
    """Return names and values of an object's attributes, one after the other."""
    of: Any = type(value)
    slots, held = _slots(of), getattr(value, "__dict__", None)
    written_in_c = any(base is not object and not base.__flags__ & HEAP_TYPE for base in of.__mro__)
    if not slots and (held is None or (not held and written_in_c)):
        raise CannotTellError(f"{received(value)} of type {type(value).__name__}")
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return [part for pair in sorted((found | (held or {})).items()) for part in pair]
