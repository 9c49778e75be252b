"""How far a command is: a bar on a terminal, and plain lines of its output elsewhere."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from ..core.progress import Lines, Paced, duration
from .console import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ..wrappers import HyperGradient

# Width of the bar; with it, there is room for 45 characters of text in a line of 80.
BAR = 8

# What stands for a time that nobody knows.
UNKNOWN = "-:--:--"

# Seconds after which something takes long.
LATE = 0.5

# Seconds in which one step is told where there is no terminal.
TOLD_EVERY = 1.0

# Seconds from one line on a step under way to the next, and where steps are many and long.
WITHIN, SELDOM = 5.0, 30.0


class Shown:
    """What is shown of long work in so many steps, of which later phases may have more.

    Attributes:
        made: Steps made so far.
    """

    def __init__(self, phase: str, total: int) -> None:
        """Begin with a phase of so many steps."""
        self.phase, self.total, self.made = phase, total, 0
        self._began, self._skipped = time.monotonic(), 0

    def within(self, done: int, total: int, doing: str) -> None:
        """Say how far the step under way is, a `bilevel_gym.core.progress.Progress`."""

    def step(self, phase: str, text: str, steps: int = 1) -> None:
        """Say that a step of a phase was made, or several."""
        self.made += steps

    def listen(self, seat: HyperGradient) -> None:
        """Show what a seat says of its answers while they are made."""
        seat.progress = self.within

    def answer(self, phase: str, seat: HyperGradient, best: float = -math.inf) -> None:
        """Say that a step of a phase was made, the latest answer of a seat, and F's best so far."""
        from ..wrappers.reporting import answer_in_words

        text = answer_in_words(seat.response, seat.samples)
        better = best > seat.response.objective
        self.step(phase, f"{text}, best {best:.6g}" if better else text)

    def skip(self) -> None:
        """Count a step that took no time."""
        self.made += 1
        self._began, self._skipped = time.monotonic(), self.made

    def left(self, share: float = 0.0) -> str:
        """Return the time left, with a share of the step under way; empty where nobody knows."""
        done = self.made + share
        if done <= self._skipped or done >= self.total:
            return ""
        spent = time.monotonic() - self._began
        left = spent * (self.total - done) / (done - self._skipped)
        return duration(left) if left >= 1.0 else ""


class Told(Shown):
    """Plain lines: one for each step, and others while a step lasts long.

    Of steps that follow each other quickly some are told, the last one among them.

    Attributes:
        silent: Whether nothing was said yet.
    """

    def __init__(
        self, phase: str, total: int, seconds: float = 0.0, within: float = WITHIN
    ) -> None:
        """Begin with a phase of so many steps, of which one is told in so many seconds.

        `within` are those from one line on a step under way to the next.
        """
        super().__init__(phase, total)
        self._lines, self.silent = Lines(click.echo, within), True
        self._pace, self._untold = Paced(seconds), ""

    def within(self, done: int, total: int, doing: str) -> None:
        """Say how far the step under way is, now and then."""
        self.silent = False
        self._lines(done, total, doing)

    def step(self, phase: str, text: str, steps: int = 1) -> None:
        """Say that a step of a phase was made, or several."""
        super().step(phase, text, steps)
        self.silent, left = False, self.left()
        known = phase == self.phase
        where = f"[{self.made}/{self.total}]" if known else f"[{self.made}] {phase}:"
        line = f"{where} {text}{f', {left} left' if left else ''}"
        last = known and self.made >= self.total
        due = self._pace.due()
        self._untold = "" if last or due else line
        if last or due:
            self._lines.say(line)

    def end(self) -> None:
        """Tell the last step, if it is not told yet."""
        if self._untold:
            self._lines.say(self._untold)


class Drawn(Shown):
    """A bar for each phase."""

    def __init__(self, bars: Bars, phase: str, total: int) -> None:
        """Begin with a phase of so many steps, whose bar is shown at once."""
        super().__init__(phase, total)
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._bar(phase)

    def _bar(self, phase: str) -> TaskID:
        """Return the bar of a phase, of which but for the first the number of steps is unknown."""
        if phase not in self._tasks:
            total = None if self._tasks else self.total
            self._tasks[phase] = self._bars.add_task(phase, total=total, text="", left=UNKNOWN)
        if phase != self.phase:
            self._bars.update(self._tasks[self.phase], text="", left=UNKNOWN)
        self.phase = phase
        return self._tasks[phase]

    def skip(self) -> None:
        """Count a step that took no time."""
        super().skip()
        self._bars.update(self._bar(self.phase), advance=1)

    def within(self, done: int, total: int, doing: str) -> None:
        """Show how far the step under way is."""
        share = done / max(total, 1)
        left = self.left(share) or UNKNOWN
        text = f"{done}/{total} {doing}" if total else doing
        self._bars.update(self._bar(self.phase), text=text, left=left)

    def step(self, phase: str, text: str, steps: int = 1) -> None:
        """Show that a step of a phase was made, or several."""
        super().step(phase, text, steps)
        self._bars.update(self._bar(phase), advance=steps, text=text, left=self.left() or UNKNOWN)


@contextlib.contextmanager
def progress_bar(phase: str, total: int, *, every_step: bool = False) -> Iterator[Shown]:
    """Show how far the block is, whose first phase has so many steps.

    Without a terminal a step is told in a second at most, unless every one is to be.
    """
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        paces = (0.0, SELDOM) if every_step else (TOLD_EVERY, WITHIN)
        told = Told(phase, total, *paces)
        try:
            with _told_late(f"[0/{total}] the first step", lambda: told.silent):
                yield told
        finally:
            told.end()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Rest(TextColumn):
        """Text in what room the other columns leave, cut at the end."""

        def render(self, task: Task) -> Text:
            text = super().render(task)
            text.no_wrap, text.overflow = True, "ellipsis"
            return text

    columns = (
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        BarColumn(BAR),
        TextColumn("{task.fields[left]} left", markup=False),
        Rest("{task.fields[text]}", markup=False, table_column=Column(no_wrap=False)),
    )
    with Progress(*columns, console=terminal, transient=True) as bars:
        yield Drawn(bars, phase, total)


@contextlib.contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Say what is being done while the block runs; without a terminal if that takes long."""
    terminal = console(stderr=True)
    if terminal.is_terminal:
        with terminal.status(doing):
            yield
        return
    with _told_late(doing):
        yield


@contextlib.contextmanager
def _told_late(text: str, still: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Print a line once the block has run for long, if that is still of interest."""

    def tell() -> None:
        if still():
            click.echo(text)

    late = threading.Timer(LATE, tell)
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
