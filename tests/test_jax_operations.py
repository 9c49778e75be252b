"""Operations of JAX, tested in a process of their own: its threads would be in the way of forks."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")
def test_the_operations_of_jax() -> None:
    tests = Path(__file__).with_name("jax_operations.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cov", str(tests)]
    done = subprocess.run(
        command,
        cwd=tests.parents[1],
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
