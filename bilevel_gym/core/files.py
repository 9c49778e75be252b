"""Files that are either whole or as they were, and what is known of those that are read."""

from __future__ import annotations

import errno
import io
import os
import platform
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = [
    "check_regular",
    "claim",
    "loaded_versions",
    "remove_abandoned",
    "replacing",
    "write_whole",
]


# A temporary file that nobody has written to for so long, in seconds, is of a process that was
# killed.
ABANDONED = 3600.0

# So much of a name goes into that of its temporary file: names have at most 255 bytes.
STEM = 50


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` once it is written whole.

    Its name is one of its own, in the same folder: two writers of one path do not meet in it, and
    no link that waits there is followed. The file exists, and is empty. Its name begins with a dot;
    a process that is killed leaves it behind, and a later writer of `path` removes it.
    """
    remove_abandoned(path)
    # The extension stays last: libraries choose the format by it.
    temporary = path.with_name(f".{path.stem[:STEM]}.{secrets.token_hex(8)}{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(path: Path, age: float = ABANDONED) -> None:
    """Remove the temporary files of a path that nobody has written to for so long, in seconds."""
    stem, suffix = re.escape(path.stem[:STEM]), re.escape(path.suffix)
    # More dots and more numbers are those of a temporary file's temporary file.
    pattern = re.compile(rf"\.+{stem}(\.[0-9a-f]{{16}})+{suffix}")
    with suppress(OSError):  # whatever else is wrong with the folder, writing says it
        for entry in os.scandir(path.parent):
            if pattern.fullmatch(entry.name):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                    os.unlink(entry)


def write_whole(target: Any, suffix: str, write: Callable[[Any], None]) -> None:
    """Write a file as a whole, in folders that are made if there are none.

    Args:
        target: A path, which gets the suffix unless it has one, or an open file.
        suffix: The suffix, with its dot.
        write: Writes to a path or to an open file that can be read and sought.
    """
    if not isinstance(target, str | os.PathLike):
        memory = io.BytesIO()
        write(memory)
        target.write(memory.getvalue())
        return
    path = Path(target)
    path = path if path.suffix else path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        write(temporary)


def claim(file: IO[Any]) -> bool:
    """Return whether an open file is this process's alone, until it is closed or the process ends.

    Where the system has no such locks (Windows), or the file system (some of clusters), it is taken
    to be.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def check_regular(path: str | os.PathLike[str], most: int | None = None) -> None:
    """Check what would be read, links followed: a pipe or a device may have no end.

    Args:
        path: A path.
        most: The most bytes that it may have; None for any number.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no regular file, or larger.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file")
    if most is not None and found.st_size > most:
        raise ValueError(f"{path} has {found.st_size} bytes, and at most {most} are read")


def loaded_versions(*libraries: str) -> dict[str, str]:
    """Return the versions of Python and of those libraries that are loaded, by name."""
    modules = {name: sys.modules.get(name) for name in libraries}
    versions = {name: str(module.__version__) for name, module in modules.items() if module}
    return {"python": platform.python_version(), **versions}
