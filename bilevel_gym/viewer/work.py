"""Work that takes longer than a frame: in a thread of its own, so that the window answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")

# Seconds of work after which it is said that it is under way.
LATE = 0.3


class GivenUp(Exception):
    """Nobody waits for the result any more."""


class Work(Generic[ResultT]):
    """One piece of work, done at once or in a thread.

    Attributes:
        told: How far it is, as it said itself: steps made, all steps, what is being done.
    """

    def __init__(self, do: Callable[[], ResultT], *, background: bool) -> None:
        """Do it now, or begin to do it in a thread that no process waits for where it ends."""
        self.told = (0, 0, "")
        self._do, self._began = do, time.monotonic()
        self._result: ResultT | None = None
        self._error: BaseException | None = None
        self._given_up, self._thread = False, threading.Thread(target=self._run, daemon=True)
        if background:
            self._thread.start()
        else:
            self._run()

    def progress(self, done: int, total: int, doing: str) -> None:
        """Remember how far it is, a `bilevel_gym.core.progress.Progress`; stop where given up."""
        if self._given_up:
            raise GivenUp
        self.told = done, total, doing

    def wait(self, seconds: float | None = None) -> bool:
        """Wait so long at most, None for as long as it takes; return whether it is done."""
        if self._thread.ident is not None:  # it was started
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> ResultT:
        """Return what came of it, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # None where that is the result

    def give_up(self) -> None:
        """Have it stop when it says next how far it is."""
        self._given_up = True

    @property
    def words(self) -> str:
        """How far it is in words, empty as long as it may be done in a moment."""
        if time.monotonic() < self._began + LATE:
            return ""
        done, total, doing = self.told
        if not total:
            return f"The follower is answering x{': ' if doing else ''}{doing}."
        return f"The follower is answering x: {done} of {total} environment steps; {doing}."

    def _run(self) -> None:
        try:
            self._result = self._do()
        except BaseException as error:  # it is raised where the result is asked for
            self._error = error
