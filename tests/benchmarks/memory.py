"""Peak memory of one large solve, in a process of its own.

Run as `python -m tests.benchmarks.memory GAMMA` (Linux); it prints three numbers of bytes: the
transition kernel, the process before the solve, and its peak during the solve. The peak is the
operating system's record of resident memory (VmHWM), set back before the solve, so that building
the problem does not count.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from bilevel_gym.core.soft import solve_soft_mdp
from tests.benchmarks.problems import grid, kernel_bytes


def resident(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(gamma: float) -> None:
    """Solve and print."""
    mdp = grid(1000, gamma=gamma)
    solve_soft_mdp(grid(50), solver="krylov")  # loads the libraries
    # What building has freed would serve the solve, and hide what it needs.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    solve_soft_mdp(mdp, tolerance=1e-8)
    print(kernel_bytes(mdp.kernel), before, resident("VmHWM"))


if __name__ == "__main__":
    main(float(sys.argv[1]))
