"""Solves with and without a neighbour: another process that keeps one core busy.

Run as `python -m tests.benchmarks.neighbour`; it prints one line per problem: seconds undisturbed,
seconds disturbed, and what was solved. It is a program of its own because the other benchmarks set
the number of threads by hand, and the question here is what the package does when nobody does.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from functools import partial

from bilevel_gym.core.mdp import TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from tests.benchmarks.problems import four_rooms, garnet, grid
from tests.benchmarks.table import seconds

ROUNDS = 15


def main() -> None:
    """Measure and print."""
    problems = (
        ("50 solves, Four-Rooms", four_rooms(cycling=True), 50),
        ("solve, dense problem of 200 states", garnet(200, 4, 200), 5),
        ("solve, grid 100^2", grid(100), 1),
    )
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name, mdp, repeats in problems:
            times: dict[signal.Signals, list[float]] = {signal.SIGSTOP: [], signal.SIGCONT: []}
            for _ in range(ROUNDS):
                for state, record in times.items():
                    neighbour.send_signal(state)
                    time.sleep(0.02)  # until the scheduler has found it a core
                    solve(mdp, repeats)
                    record.append(seconds(partial(solve, mdp, repeats)))
            print(*(statistics.median(record) for record in times.values()), name)
    finally:
        neighbour.kill()
        neighbour.wait()


def solve(mdp: TabularMDP, repeats: int) -> None:
    """Solve a problem some times over."""
    for _ in range(repeats):
        solve_soft_mdp(mdp)


if __name__ == "__main__":
    main()
