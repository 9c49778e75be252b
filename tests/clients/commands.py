"""Clients that are commands, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys


def run(*arguments: str) -> str:
    """Run Python with arguments, and return what it prints.

    Raises:
        RuntimeError: If it fails; with the last line that it prints.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"{' '.join(arguments[:3])} exits with {done.returncode}: {lines[-1:]}")
    return done.stdout
