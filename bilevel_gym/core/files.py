"""Files that are either whole or as they were, and the versions that are kept in them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["loaded_versions", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` once it is written whole."""
    # The extension stays last: libraries choose the format by it.
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def loaded_versions(*libraries: str) -> dict[str, str]:
    """Return the versions of Python and of those libraries that are loaded, by name."""
    modules = {name: sys.modules.get(name) for name in libraries}
    versions = {name: str(module.__version__) for name, module in modules.items() if module}
    return {"python": platform.python_version(), **versions}
