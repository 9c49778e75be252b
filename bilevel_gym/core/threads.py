"""One thread by default: what the linear algebra of this package takes from the machine.

The systems solved here are small or sparse, and a second thread costs more than it brings; where
another process occupies a core it costs a multiple. BLAS libraries take every core unless told
otherwise, so the numeric functions tell them, for as long as they run, and leave the setting of the
rest of the program as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = ["one_torch_thread", "single_threaded"]

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
