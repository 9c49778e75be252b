"""The rule: an input is refused in one clear line, or taken and answered with finite numbers."""

from __future__ import annotations

import dis
import math
import signal
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import bilevel_gym

PACKAGE = Path(bilevel_gym.__file__).parent

# What may refuse an input.
REFUSALS = (ValueError, TypeError, ArithmeticError, ImportError, gym.error.Error)

# Of them, what nothing raises on purpose.
RAW = (ZeroDivisionError, OverflowError, RecursionError, UnicodeError)

# A message is one line that a terminal can show.
LONGEST_MESSAGE = 1500

SECONDS = 10.0


class Wrong(AssertionError):
    """An input that was taken has led to an answer that it must not lead to."""


class Hang(BaseException):
    """An input has kept the package busy for too long; nothing in the package catches this."""


@dataclass(frozen=True)
class Case:
    """An input.

    Attributes:
        what: It, for people; a short text from which it can be made again.
        call: Gives it to the package.
        names: One of which a refusal must contain: arguments that are odd.
    """

    what: str
    call: Callable[[], Any]
    names: Collection[str] = ()


@dataclass(frozen=True)
class Finding:
    """What must not happen, and the input that led to it."""

    kind: str
    message: str
    place: str
    what: str


def judged(case: Case, seconds: float = SECONDS) -> Finding | None:
    """Give an input to the package; return what is wrong with what follows."""
    try:
        with warnings.catch_warnings(), _limited(seconds):
            warnings.simplefilter("ignore")
            for raw in (RuntimeWarning, np.exceptions.ComplexWarning, DeprecationWarning):
                warnings.simplefilter("error", raw)
            case.call()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        reason = _fault(error, case.names)
        if reason is None:
            return None
        text = f"{reason}: {_message(error)}"
        return Finding(type(error).__name__, text[:LONGEST_MESSAGE], _place(error), case.what)
    return None


def check_answer(response: Any) -> Any:
    """Return a response; raise `Wrong` if a number in it is not finite and it says it is good."""
    for name in ("objective", "hyper_gradient", "lower_value", "soft_value", "policy"):
        value = getattr(response, name, None)
        if value is not None and not np.isfinite(value).all():
            if getattr(response, "converged", None) is not False:
                raise Wrong(f"`{name}` is not finite and `converged` is not False")
    return response


def check_same(before: Any, after: Any, what: str) -> None:
    """Raise `Wrong` unless two responses agree in every bit."""
    for name in ("objective", "hyper_gradient"):
        if not np.array_equal(getattr(before, name), getattr(after, name)):
            raise Wrong(f"`{name}` changed with {what}")


def _fault(error: BaseException, names: Collection[str]) -> str | None:
    """Return what is wrong with an exception as a refusal, None if nothing is."""
    if isinstance(error, Wrong):
        return "a wrong answer"
    if isinstance(error, Hang):
        return f"no answer after {SECONDS:g} s"
    if not isinstance(error, REFUSALS) or isinstance(error, RAW):
        return "raw error"
    if not _raised_here(error) and not isinstance(error, gym.error.Error):
        return "not raised by a check"
    if isinstance(error, gym.error.Error) and not _raised_here(error):
        return None
    message = _message(error)
    if "\n" in message or len(message) > LONGEST_MESSAGE:
        return f"{len(message)} characters, {message.count(chr(10)) + 1} lines"
    if isinstance(error, ArithmeticError | ImportError | gym.error.Error):
        return None
    if names and not any(name in message for name in names):
        return f"names none of {', '.join(names)}"
    return None


def _raised_here(error: BaseException) -> bool:
    """Return whether a `raise` statement of this package raised an exception."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    inside = Path(code.co_filename).resolve().is_relative_to(PACKAGE) or any(
        Path(code.co_filename).resolve().is_relative_to((PACKAGE / link).resolve())
        for link in ("envs", "wrappers")
    )
    return inside and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def _place(error: BaseException) -> str:
    """Return the last line in this package, and the last of all, that an exception has passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "bilevel_gym" in f.filename or "/envs/" in f.filename]
    shown = [*ours[-1:], *frames[-1:]]
    if isinstance(error, Hang):
        shown = ours[-1:]
    return " -> ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in shown))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as raw:  # such as the digits of an integer that has too many
        return f"(no message: {type(raw).__name__})"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `Hang` in a block that takes longer."""

    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def finite(*values: Any) -> None:
    """Raise `Wrong` unless numbers are finite."""
    for value in values:
        if isinstance(value, np.ndarray | float) and not np.isfinite(value).all():
            raise Wrong(f"a number is not finite: {value}")
    assert math.isfinite(SECONDS)
