"""What long work says of how far it is.

Whoever works far below tells it by `tell`, wherever it was that `told_to` said who listens.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["Lines", "Paced", "Progress", "duration", "tell", "told_to"]

# Steps so far, all steps, and what is being done. A follower who learns calls it with the
# environment steps for the present x; 0 of 0 where nobody knows how many there will be.
Progress = Callable[[int, int, str], None]

# Seconds after which work is long enough to be spoken of, and from one time to the next.
SILENT, EVERY = 1.0, 0.2

_listener: ContextVar[tuple[Progress, Paced] | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def told_to(progress: Progress | None) -> Iterator[None]:
    """Have what `tell` says within the block called back, if it takes long; None for nobody."""
    if progress is None:
        yield
        return
    pace = Paced(EVERY)
    pace.again(SILENT)
    token = _listener.set((progress, pace))
    try:
        yield
    finally:
        _listener.reset(token)


def tell(doing: Callable[[], str]) -> None:
    """Say what is being done, if anybody listens; for loops whose end nobody knows."""
    listener = _listener.get()
    if listener is not None and listener[1].due():
        listener[0](0, 0, doing())


class Paced:
    """A clock that says when something may be told again."""

    def __init__(self, seconds: float) -> None:
        """Be due now, and then after so many seconds each time."""
        self._seconds, self._due = seconds, -math.inf

    def again(self, seconds: float | None = None) -> None:
        """Be due after so many seconds from now, the usual ones by default."""
        self._due = time.monotonic() + (self._seconds if seconds is None else seconds)

    def due(self) -> bool:
        """Return whether it is due; then it is not until all seconds have passed."""
        if time.monotonic() < self._due:
            return False
        self.again()
        return True


class Lines:
    """Plain lines of how far a step is, now and then, and of each step that was made.

    It is a `Progress`.
    """

    def __init__(self, write: Callable[[str], None], seconds: float = 5.0) -> None:
        """Write lines; within a step one at once, and then every so many seconds."""
        self._write, self._pace = write, Paced(seconds)
        self._began, self._done, self._total = 0.0, 0, 0

    def __call__(self, done: int, total: int, doing: str) -> None:
        """Tell how far the step is, if it is time to."""
        now = time.monotonic()
        if done < self._done or total != self._total:
            self._began, self._done, self._total = now, done, total
        if self._pace.due():
            made = done - self._done
            left = (now - self._began) * (total - done) / made if made else 0.0
            where = f"{done}/{total} " if total else ""
            self._write(f"{where}{doing}{f', {duration(left)} left' if left else ''}")

    def say(self, text: str) -> None:
        """Tell that a step was made."""
        self._write(text)
        self._pace.again()
        self._total = 0


def duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds: "0:01:05"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
