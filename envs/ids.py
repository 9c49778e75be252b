"""The two ids of a task, one for each seat."""

from __future__ import annotations

import re
import sys
from typing import Any

__all__ = ["follower_id", "leader_id", "place_of"]

_WORD = "Follower"


def follower_id(env_id: str) -> str:
    """Return the follower's id of a task, `NameFollower-vN` for `Name-vN`, from either of its ids.

    Example:
        >>> follower_id("BilevelToll-v0")
        'BilevelTollFollower-v0'
    """
    name, version = _parted(leader_id(env_id))
    return f"{name}{_WORD}{version}"


def leader_id(env_id: str) -> str:
    """Return the leader's id of a task, from either of its ids."""
    name, version = _parted(env_id)
    return f"{name.removesuffix(_WORD)}{version}"


def place_of(found: Any) -> Any:
    """Return "module:Class" for a class at the top of a module that can be imported again.

    Anything else is returned as it is.
    """
    if isinstance(found, type) and found.__module__ != "__main__":
        name = found.__qualname__
        if getattr(sys.modules.get(found.__module__), name, None) is found:
            return f"{found.__module__}:{name}"
    return found


def _parted(env_id: str) -> tuple[str, str]:
    version = re.search(r"(-v\d+)?$", env_id)
    assert version is not None  # it matches nothing, too
    return env_id[: version.start()], version[0]
