"""What can be wrong with a benchmark before anything runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Where something stands in the data of a TOML file: keys, and numbers of tables.
Place = tuple[str | int, ...]

# What the extra brings and every benchmark needs.
LIBRARIES = ("filelock", "joblib", "pandas", "pyarrow", "pydantic")


class ConfigError(ValueError):
    """What is wrong with a benchmark's file, and in which line."""


def require_extra() -> None:
    """Raise an `ImportError` unless what benchmarks need is installed."""
    for name in LIBRARIES:
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f'benchmarks need {error.name}: pip install "bilevel-gym[benchmark]"'
            ) from None


def holds(data: Any, place: Place) -> bool:
    """Return whether data has something at a place."""
    for key in place:
        if isinstance(data, list):
            if not isinstance(key, int) or key >= len(data):
                return False
        elif not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
