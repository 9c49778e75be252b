"""What can be wrong with a benchmark before anything runs."""

from __future__ import annotations

from importlib import import_module

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
                f'benchmarks need {error.name}: pip install -e ".[benchmark]"'
            ) from None
