"""What installed packages declare for this one, by entry points."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

__all__ = ["declared"]


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
