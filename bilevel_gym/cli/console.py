"""What users see: the console, warnings and errors in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..core import fast
from .arguments import CommandError, Failure

if TYPE_CHECKING:
    from rich.console import Console

# Width of tables where there is no terminal to ask, in characters.
PIPE_WIDTH = 260


def console(*, stderr: bool = False) -> Console:
    """Return a console: as wide as the terminal, or wide enough for every table elsewhere."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found


def show_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[str] = ()
) -> None:
    """Print a table whose first column is never wrapped.

    It and the columns of the headings in `words` hold words: they are left-aligned.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        justify: Literal["left", "right"] = "left" if not number or heading in words else "right"
        table.add_column(heading, justify=justify, no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    console().print(table)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show each warning as one line, without the place in Gymnasium that passed it on."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = re.sub(r"\x1b\[\d+m", "", str(message)).removeprefix("WARN: ")
        click.echo(f"Warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def ignore_settings_here() -> None:
    """Keep libraries from reading settings in the current folder, which may be a stranger's.

    Those of matplotlib can have it run LaTeX, and code in older versions; those of numba can name a
    folder of pickles as its cache, so that there are no compiled kernels beside them, unless they
    are demanded.
    """
    if Path("matplotlibrc").exists():
        click.echo("Warning: matplotlibrc in this folder is not read", err=True)
        with contextlib.chdir(Path(__file__).parent):
            import matplotlib  # noqa: F401
    if Path(".numba_config.yaml").exists() and fast.ENVIRONMENT_VARIABLE not in os.environ:
        click.echo("Warning: compiled kernels are off beside .numba_config.yaml", err=True)
        os.environ[fast.ENVIRONMENT_VARIABLE] = "0"


# Both end a command, and what it has reached is kept.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def listen_to_interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt where the parent ignores it, as shells do for background jobs.

    A SIGTERM, as the systems of clusters send it before they kill, interrupts likewise.
    """
    with _handled_by(signal.default_int_handler):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put interrupts off until the block has ended."""
    waiting: list[tuple[int, Any]] = []
    with _handled_by(lambda *arguments: waiting.append(arguments)):
        yield
    if waiting:
        signal.default_int_handler(*waiting[0])


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let something else handle interrupts; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handler) for number in INTERRUPTS]
    try:
        yield
    finally:
        for number, former in zip(INTERRUPTS, before, strict=True):
            signal.signal(number, former)


# What the file system may say that is nobody's choice: full, or broken.
BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)


@contextlib.contextmanager
def explain_os_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        kind = Failure if error.errno in BROKEN else CommandError
        raise kind(
            f"cannot write the folder {folder}: {error.strerror}"
            + (f" ({error.filename})" if error.filename else "")
        ) from None
