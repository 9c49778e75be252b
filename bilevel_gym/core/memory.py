"""How much memory there is, so that what cannot fit is refused before it is begun."""

from __future__ import annotations

import os

__all__ = ["available_memory", "check_memory"]

MEMINFO = "/proc/meminfo"


def available_memory() -> int | None:
    """Return the bytes that programs can have without swapping; None where nobody says."""
    try:
        with open(MEMINFO, encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    try:  # there: all that is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no `sysconf`
        return None


def check_memory(name: str, given: object, needed: float) -> None:
    """Raise a `ValueError` if an argument asks for more bytes than are available."""
    available = available_memory()
    if available is not None and needed > available:
        raise ValueError(
            f"`{name}` must fit into memory, got {given!r}: about {needed / 1e9:.3g} GB are needed "
            f"and {available / 1e9:.3g} GB are available"
        )
