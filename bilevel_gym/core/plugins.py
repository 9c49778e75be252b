"""What comes from outside: functions named "module:function", and entry points of packages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .checks import received

__all__ = ["declared", "imported_function"]


@cache
def declared(group: str, taken: frozenset[str]) -> Mapping[str, str]:
    """Return the entry points of a group by name, without importing what they point to.

    Those with a name that is taken, by this package or by another entry point, are left out with a
    warning.
    """
    found: dict[str, str] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        if found.get(point.name) == point.value:  # one package, found at two places
            continue
        if point.name in taken or point.name in found:
            source = point.dist.name if point.dist else "a package"
            warnings.warn(
                f"the entry point {point.name!r} of {source} in the group {group!r} is ignored: "
                "its name is taken",
                stacklevel=2,
            )
            continue
        found[point.name] = point.value
    return found


def imported_function(name: str, function: Any) -> Any:
    """Return a function, imported if it is only named; `name` is that of the argument.

    A string must be "module:function".

    Raises:
        ValueError: If a string has no such form, or there is no such function in the module.
        ImportError: If there is no such module.
        TypeError: If it cannot be called.
    """
    found = function
    if isinstance(function, str):
        module, colon, attribute = function.partition(":")
        if not (module and colon and attribute):
            raise ValueError(f'`{name}` must be named "module:function", got {received(function)}')
        try:
            found = getattr(import_module(module), attribute, None)
        except ImportError as error:
            reason = f"cannot import {module!r} of `{name}` = {received(function)}: {error}"
            raise ImportError(reason) from error
        if found is None:
            raise ValueError(
                f"{module!r} has no function {attribute!r}, got `{name}` = {received(function)}"
            )
    if not callable(found):
        raise TypeError(
            f'`{name}` must be a function or "module:function", got {received(function)}'
        )
    return found
