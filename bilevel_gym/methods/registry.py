"""Methods of the leader's seat by name: those of `table`, and those from outside.

A method is named in one of three ways, everywhere the same: by a row of this package's table, by
the name under which it was registered from outside (`register_method`, or an entry point of the
group `bilevel_gym.methods`), or by "module:Class" without any registration.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..core.checks import accepted_options, check_options, received, unknown_name
from ..core.plugins import declared
from ..model.responses import Method, Response
from .table import DYNAMICS_METHODS, LEARNT_METHODS, METHODS, PREFERENCE_METHODS

__all__ = [
    "DYNAMICS_METHODS",
    "ENTRY_POINTS",
    "LEARNT_METHODS",
    "METHODS",
    "MethodClass",
    "PREFERENCE_METHODS",
    "NamesMethods",
    "OffersMethods",
    "WrongAnswer",
    "checked_response",
    "make_method",
    "method_names",
    "methods_that_take",
    "method_target",
    "register_method",
    "registered_methods",
    "resolve_method",
]

# Group of the entry points by which a package declares methods: name = "module:Class".
ENTRY_POINTS = "bilevel_gym.methods"

# The command that lists methods, and with a name behind it the options of one.
LISTED_BY = "bilevel-gym methods"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EXPECTED = "a method is named by a row of the tables, a registered name or 'module:Class'"

# A method's class, or "module:Class".
MethodClass = type[Any]
Target = str | MethodClass

_registered: dict[str, Target] = {}


@runtime_checkable
class NamesMethods(Protocol):
    """A game, or its class: it says which methods it offers, and which of their options suit it.

    Attributes:
        kind: What kind of game it is, "a game whose ...", which says why other methods do not suit.
        methods: Methods of this package by name, "module:Class" each.
        default_method: The one that is taken unless one is named.
        method_options: Options for methods that take them.
    """

    kind: str
    methods: Mapping[str, str]
    default_method: str
    method_options: Mapping[str, Any]


@runtime_checkable
class OffersMethods(NamesMethods, Protocol):
    """A game that has been made: it has what methods are built on, its `model`."""

    model: Any


class WrongAnswer(ValueError):
    """An answer that no method may give: of a wrong type or shape, or not finite."""

    def __init__(self, method: Method, wanted: str, got: str) -> None:
        """Say whose answer it is, what was expected and what was received."""
        name = type(method).__name__
        super().__init__(f"`step` of the method {name} must return {wanted}, got {got}")


class NotFinite(WrongAnswer, ArithmeticError):
    """An answer with a number that is not finite."""


def register_method(name: str, target: Target) -> None:
    """Register a method, to be named like those of this package: in seats, files and commands.

    It is offered for every game; the class refuses games that it does not suit (TypeError).

    Args:
        name: Letters, digits, dots, hyphens and underscores.
        target: "module:Class", or the class. A class at the top of a module is remembered by its
            name, so that other processes find it.

    Raises:
        ValueError: If the name is malformed or taken, or there is no such class.
        TypeError: If `target` is no method.
        ImportError: If its module cannot be imported.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"`name` must be letters, digits, dots, hyphens and underscores, got {received(name)}"
        )
    target = method_target(resolve_method(target))
    known = {**registered_methods(), **METHODS, **LEARNT_METHODS}.get(name, target)
    # A class that is defined again, as by a cell of a notebook, replaces its former self.
    if _place_of(known) != _place_of(target):
        raise ValueError(f"`name` {name!r} is taken by {_place_of(known)}; choose another")
    _registered[name] = target


def registered_methods() -> Mapping[str, Target]:
    """Return the methods from outside: those registered, and those of installed packages."""
    taken = frozenset({*METHODS, *LEARNT_METHODS})
    return {**declared(ENTRY_POINTS, taken), **_registered}


def method_names(game: Any = None) -> list[str]:
    """Return the names of the methods that a game (None: any) offers, those from outside last."""
    own = game.methods if isinstance(game, NamesMethods) else METHODS
    rows = own if game is not None else {**METHODS, **LEARNT_METHODS}
    return [*{**rows, **registered_methods()}]


def method_target(name: Target, game: Any = None) -> Target:
    """Return where a method is found: "module:Class", or a class that no module holds.

    Args:
        name: A name that the game offers, a registered one, "module:Class" or a class.
        game: The game or its class; None or a bare model for the methods of this package.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor a class, or that of a method for other games.
    """
    if isinstance(name, type):
        place = _place_of(name)
        try:
            held = name.__module__ != "__main__" and _loaded(place) is name
        except (ImportError, ValueError):
            held = False
        return place if held else name
    if not isinstance(name, str):
        remedy = "a class with `reset` and `step` is accepted too"
        if hasattr(name, "step"):
            remedy = "give its class"
        raise TypeError(f"{EXPECTED}, got {received(name)}; {remedy}")
    table = game.methods if isinstance(game, NamesMethods) else METHODS
    if name in table:
        return table[name]
    if ":" in name:
        return name
    outside = registered_methods()
    if name in outside:
        return outside[name]
    if isinstance(game, NamesMethods) and name in {**METHODS, **LEARNT_METHODS}:
        whose = game.__name__ if isinstance(game, type) else type(game).__name__
        suits = ", ".join(repr(row) for row in sorted(table))
        raise TypeError(
            f"the method {name!r} does not suit {whose}, {game.kind}; methods that do: {suits}"
        )
    said = unknown_name("method", name, [*table, *outside], listed_by=LISTED_BY)
    raise ValueError(f"{said}; one of your own is named by module:Class")


def resolve_method(name: Target, game: Any = None) -> MethodClass:
    """Return the class of a method; arguments are those of `method_target`.

    Raises:
        ValueError: If the name is unknown, or its module has no such class.
        TypeError: If what is found is no method.
        ImportError: If its module cannot be imported.
    """
    target = method_target(name, game)
    found = _loaded(target) if isinstance(target, str) else target
    missing = _missing_in(found)
    if missing:
        raise TypeError(
            f"{_place_of(target)} is no method: {missing}; see `bilevel_gym.methods.Method`"
        )
    return found


def make_method(name: Target, game: Any, /, **options: Any) -> Method:
    """Build a method for a game.

    Args:
        name: A name that the game offers, a registered one, "module:Class" or a class.
        game: The game whose follower it answers for, or a bare model.
        **options: Options of the method, of JSON types; those of the game's `method_options` that
            are not among them come from there.

    Raises:
        ValueError: If the name is unknown or an option is out of range.
        TypeError: If what is named is no method, does not take an option or does not suit the game.
        ImportError: If its module cannot be imported.
    """
    factory = resolve_method(name, game)
    place = _place_of(name)
    _check_whose(place, factory, game, options)
    check_options(f"method {place!r}", factory, options, listed_by=f"{LISTED_BY} {place}")
    model = game
    if isinstance(game, OffersMethods):
        accepted = accepted_options(factory)
        options = {**{k: v for k, v in game.method_options.items() if k in accepted}, **options}
        model = game.model
    return factory(model, **options)


def methods_that_take(option: str, game: Any = None) -> list[str]:
    """Return the names of a game's methods that take an option.

    Those that need PyTorch are left out beside others: importing it takes seconds.
    """
    names = []
    for name in method_names(game):
        with suppress(ImportError, ValueError, TypeError):
            quick = not name.startswith("deep-")
            if quick and option in accepted_options(resolve_method(name, game)):
                names.append(name)
    return names


def _check_whose(place: str, factory: MethodClass, game: Any, options: Mapping[str, Any]) -> None:
    """Raise a `TypeError` for an option of the game, or of other methods, and say whose it is."""
    for option in options:
        if option in accepted_options(factory):
            continue
        if isinstance(game, OffersMethods) and option in inspect.signature(type(game)).parameters:
            raise TypeError(
                f"`{option}` is an argument of the game {type(game).__name__}, no option of the "
                f"method {place!r}: make the game with it, gym.make(id, {option}=...)"
            )
        others = methods_that_take(option, game)
        if others:
            raise TypeError(
                f"the method {place!r} takes no `{option}`; methods that do: "
                f"{', '.join(map(repr, others))}"
            )


def checked_response(response: Response, upper_params: Any, method: Method) -> Response:
    """Return what a method answered when asked for x.

    Raises:
        WrongAnswer: If it is no `Response`, or its hyper-gradient no float64 array of the shape of
            x.
        NotFinite: If its objective or its hyper-gradient is not finite.
    """
    if not isinstance(response, Response):
        raise WrongAnswer(method, "a `Response`", f"{type(response).__name__}")
    gradient = response.hyper_gradient
    if gradient is not None:
        if not isinstance(gradient, np.ndarray) or gradient.dtype != np.float64:
            kind = getattr(gradient, "dtype", None)
            got = f"{type(gradient).__name__}{f' of {kind}' if kind else ''}"
            raise WrongAnswer(method, "a float64 array as `hyper_gradient`", got)
        if gradient.shape != upper_params.shape:
            wanted = f"a hyper-gradient of the shape of x, {upper_params.shape}"
            raise WrongAnswer(method, wanted, f"{gradient.shape}")
        if not np.isfinite(gradient).all():
            entry = tuple(int(i) for i in np.argwhere(~np.isfinite(gradient))[0])
            got = f"{gradient[entry]} at [{', '.join(map(str, entry))}]"
            raise NotFinite(method, "a finite hyper-gradient", got)
    if not np.isfinite(response.objective):
        raise NotFinite(method, "a finite objective", f"{response.objective}")
    return response


def _place_of(target: Target) -> str:
    """Return a name as it is, and "module:Class" of a class."""
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def _loaded(target: str) -> Any:
    """Return what "module:Class" names."""
    module_name, colon, qualname = target.partition(":")
    parts = [*module_name.split("."), *qualname.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(f"{EXPECTED}, got {received(target)}")
    try:
        module = import_module(module_name)
    except Exception as error:  # a module may raise anything while it is imported
        if parts[0] == __name__.partition(".")[0]:  # it says itself which extra is missing
            raise
        raise ImportError(
            f"cannot import {module_name!r} of the method {target!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        return attrgetter(qualname)(module)
    except AttributeError:
        members = vars(module).items()
        classes = [n for n, v in members if isinstance(v, type) and v.__module__ == module_name]
        raise ValueError(unknown_name(f"class of {module_name}:", qualname, classes)) from None


def _missing_in(found: Any) -> str | None:
    """Return what something lacks that a method's class has, None if it is one."""
    if not isinstance(found, type):
        return f"a class is expected, got {received(found)}"
    for name in ("reset", "step"):
        if not callable(getattr(found, name, None)):
            return f"it has no method `{name}`"
    if not isinstance(getattr(found, "exact", None), bool):
        return "it does not declare `exact`, True or False"
    try:
        inspect.signature(found).bind_partial(object())
    except (TypeError, ValueError):
        return f"{found.__name__}(model, **options) must be possible"
    return None
