"""Benchmarks: tasks x methods x optimizers x seeds, from one TOML file to one table.

* `config`: what is to be run, read from TOML and checked before anything runs.
* `runs`: one run, scored by the exact answer that its method does not see, or by held-out episodes
  where the follower learns and there is none.
* `engine`: many runs on many processes or a cluster, resumed where they were stopped.
* `results`: one Parquet file for each run, and the table of them all.
"""

from __future__ import annotations

from .config import SHIPPED, Benchmark, read_benchmark, shipped_text
from .engine import EngineError, execute, plan
from .errors import ConfigError
from .results import load_results
from .runs import Run, RunOutcome, perform

__all__ = [
    "SHIPPED",
    "Benchmark",
    "ConfigError",
    "EngineError",
    "RunOutcome",
    "Run",
    "execute",
    "load_results",
    "perform",
    "plan",
    "read_benchmark",
    "shipped_text",
]
