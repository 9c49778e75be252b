"""Threads that work on the same vectors in turns: each has its share, and waits for the others.

Each of R threads runs the whole kernel, and they meet where one needs what another has written: too
often for starting threads each time, or for locks of the operating system. So they count: `team`
holds how often each has come to a meeting, and whoever comes first looks again and again until the
others are there. A single thread never waits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

from . import compiled

__all__ = ["divided", "gather", "meet", "size_of", "together"]

# Numbers to a thread: a cache line, and its neighbour, which processors fetch with it.
PAD = 16

# Looks at the others before the core is offered to whoever else wants it.
PATIENCE = 4096

# Where the count of a thread stands that will not come.
NEVER = 2**62


def _nothing() -> None:
    """Offer nothing: Windows has no such function."""


_WINDOWS = sys.platform == "win32"
_yield_core: Any = (
    compiled(_nothing) if _WINDOWS else types.ExternalFunction("sched_yield", types.int32())
)


def gather(count: int) -> Any:
    """Return a team of so many threads, before their first meeting."""
    return np.zeros((count, PAD), dtype=np.int64)


def together(team: Any, work: Callable[[int], None]) -> None:
    """Have each thread of a team call a kernel with its rank; kernels do not raise."""
    if len(team) == 1:
        work(0)
        return
    others = [Thread(target=work, args=(rank,), daemon=True) for rank in range(1, len(team))]
    try:
        for thread in others:
            thread.start()
        work(0)
    except BaseException:
        # Interrupted before all have begun: those that have must not wait for the rest.
        team[:, 1] = NEVER
        raise
    finally:
        for thread in others:
            if thread.ident is not None:
                thread.join()


def divided(length: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Have each of some threads call a kernel with its share of a range: first, and past last."""
    together(
        gather(threads),
        lambda rank: work(length * rank // threads, length * (rank + 1) // threads),
    )


def _reading(context: Any, array: Any, row: Any, column: Any) -> Any:
    """Read what another thread writes, and then all that it has written before is seen."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature, arguments)
        return builder.load_atomic(place, "acquire", 8)

    return array.dtype(array, row, column), code


def _writing(context: Any, array: Any, row: Any, column: Any, value: Any) -> Any:
    """Write what another thread reads, after all that has been written before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature, arguments)
        builder.store_atomic(arguments[3], place, "release", 8)
        return context.get_dummy_value()

    return types.void(array, row, column, array.dtype), code


_read: Any = intrinsic(_reading)
_write: Any = intrinsic(_writing)


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind, (row, column) = signature.args[0], arguments[1:3]
    array = context.make_array(kind)(context, builder, arguments[0])
    pointer: Any = cgutils.get_item_pointer  # it has no types
    return pointer(context, builder, kind, array, [row, column])


@compiled
def size_of(team: Any) -> int:
    """Return how many threads there are."""
    return len(team)


@compiled
def meet(team: Any, rank: int) -> None:
    """Wait until all threads have come here."""
    if len(team) == 1:
        return
    count = team[rank, 0] + 1
    _write(team, rank, 0, count)
    for other in range(len(team)):
        looks = 0
        while _read(team, other, 0) < count and _read(team, other, 1) != NEVER:
            looks += 1
            if looks % PATIENCE == 0:
                _yield_core()
