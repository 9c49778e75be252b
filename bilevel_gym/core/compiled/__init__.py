"""Kernels that numba compiles, one module for each module of the numeric core that has some.

Import a module of this package only where `fast.enabled()` says so: numba is optional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function at its first call; later processes read it from the cache on disk.

    IEEE arithmetic: no `fastmath`. Nor `parallel`: threads share work as `team` has it. Python may
    go on meanwhile, so that they can.
    """
    from numba import njit

    decorated: Any = njit(cache=True, nogil=True)(function)
    return cast("F", decorated)
