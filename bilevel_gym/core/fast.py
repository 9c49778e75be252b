"""The switch of the compiled kernels, which the extra `fast` (numba) brings.

Nothing here is imported before the first call that could profit. What has a compiled kernel also
runs without one and gives the same answer (sums to rounding); only the solvers "compiled" and
"krylov-ilu" have no other form. Kernels run on one thread, unless `bilevel_gym.core.threads` says
otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from .checks import check_choice

__all__ = ["ENVIRONMENT_VARIABLE", "available", "enabled", "require", "switched"]

# "0" turns the kernels off for a process, "1" demands them, "auto" (the default) uses them where
# numba is installed.
ENVIRONMENT_VARIABLE = "BILEVEL_GYM_FAST"

_SETTINGS: dict[str, bool | None] = {"0": False, "1": True, "auto": None}

_switch: ContextVar[bool | None] = ContextVar("switch", default=None)


@cache
def available() -> bool:
    """Return whether numba can be imported (the first call imports it)."""
    try:
        import numba  # noqa: F401
    except ImportError:  # missing, or too old for the NumPy that is installed
        return False
    return True


def enabled() -> bool:
    """Return whether compiled kernels are used at this point of the program.

    Raises:
        ImportError: If they are demanded and numba is missing.
        ValueError: If the environment variable has a value that it does not know.
    """
    wanted = _switch.get()
    if wanted is None:
        setting = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
        if setting not in _SETTINGS:
            check_choice(f"value of {ENVIRONMENT_VARIABLE},", setting, _SETTINGS)
        wanted = _SETTINGS[setting]
    if wanted is None:
        return available()
    if wanted:
        _require(f"{ENVIRONMENT_VARIABLE}=1")
    return wanted


def require(what: str) -> None:
    """Raise an `ImportError` for `what` unless compiled kernels are used at this point."""
    if not enabled():
        _require(what)
        raise ImportError(
            f"{what} needs compiled kernels, which the extra `fast` brings, and they are "
            f"switched off (environment variable {ENVIRONMENT_VARIABLE}, or `fast.switched`)"
        )


@contextmanager
def switched(on: bool | None) -> Iterator[None]:
    """Turn the compiled kernels on or off for a block; None leaves it to the environment variable.

    Raises:
        ImportError: If they are turned on and numba is missing.

    Example:
        >>> from bilevel_gym.core import fast
        >>> with fast.switched(False):
        ...     fast.enabled()
        False
    """
    if on:
        _require("`fast.switched(True)`")
    token = _switch.set(on)
    try:
        yield
    finally:
        _switch.reset(token)


def _require(what: str) -> None:
    if not available():
        raise ImportError(
            f"{what} needs compiled kernels, but numba cannot be imported; "
            'install it with: pip install -e ".[fast]"'
        )
