"""One thread by default: what the linear algebra of this package takes from the machine.

Most systems solved here are small, and a second thread costs more than it brings; where another
process occupies a core it costs a multiple. BLAS libraries take every core unless told otherwise,
so the numeric functions tell them, for as long as they run, and leave the setting of the rest of
the program as it was. Problems of 100 000 states and more take several threads where somebody asks
for them: `threads`, or the environment variable `BILEVEL_GYM_THREADS`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = ["ENVIRONMENT_VARIABLE", "one_torch_thread", "single_threaded", "threads", "threads_for"]

# How many threads large problems may take; one unless it is set.
ENVIRONMENT_VARIABLE = "BILEVEL_GYM_THREADS"

# From so many entries of the systems on, several threads pay.
LARGE = 500_000

_wanted: ContextVar[int | None] = ContextVar("wanted", default=None)

P = ParamSpec("P")
R = TypeVar("R")


def single_threaded(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function of linear algebra: BLAS on one thread, and overflow without a warning.

    What overflows is told by errors and by `converged`, not by NumPy.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        raised = []
        for library in _libraries():
            if (threads := library.get_num_threads()) != 1:
                raised.append((library, threads))
                library.set_num_threads(1)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return function(*args, **kwargs)
        finally:
            for library, threads in raised:
                library.set_num_threads(threads)

    return wrapper


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let large problems take so many threads in a block; None leaves it to the variable.

    They are those that "krylov-ilu" solves with compiled kernels, from about 100 000 states on.
    Answers depend on the number of threads by rounding.

    Raises:
        ValueError: If there are fewer processors.

    Example:
        >>> from bilevel_gym.core.threads import threads
        >>> with threads(1):
        ...     pass  # game.evaluate(x)
    """
    token = _wanted.set(None if count is None else _checked("count", count))
    try:
        yield
    finally:
        _wanted.reset(token)


def threads_for(entries: int) -> int:
    """Return how many threads a problem takes whose systems have so many entries.

    Raises:
        ValueError: If the environment variable is no number of threads that there can be.
    """
    if entries < LARGE:
        return 1
    wanted = _wanted.get()
    if wanted is None:
        wanted = _checked(ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE, "1"))
    return wanted


def _checked(name: str, count: int | str) -> int:
    # Threads wait for each other busily: more of them than processors would take forever.
    most = _processors()
    number = count if isinstance(count, int) else int(count) if count.isdecimal() else 0
    if not 1 <= number <= most:
        raise ValueError(f"`{name}` must be in 1..{most}, the processors there are, got {count!r}")
    return number


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep PyTorch, if it is loaded, on one thread for a while.

    Its numbers may depend on how many there are, and networks this small are slower on more.
    """
    torch = sys.modules.get("torch")  # imported by whoever needs it: that takes seconds
    before = 1 if torch is None else torch.get_num_threads()
    if torch is None or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries() -> tuple[Any, ...]:
    """Return the BLAS libraries that NumPy and SciPy have loaded."""
    import scipy.linalg  # noqa: F401  (loads the one of SciPy)
    from threadpoolctl import ThreadpoolController

    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)
