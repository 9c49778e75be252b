"""Objective and hyper-gradient on maps of up to millions of states: time and memory.

Run it as `python -m tests.benchmarks.giant --sides 110 350 1100 4400` (Linux). Each map has a
process of its own; seconds are of the clock, with the kernels loaded before, on one thread or on
`--threads`; memory is the operating system's peak (VmHWM) of the whole process, the making of the
map included.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from bilevel_gym.core.threads import threads
from bilevel_gym.envs import BilevelGridWorld
from tests.benchmarks.memory import resident


def of_side(side: int, gamma: float, count: int) -> dict[str, Any]:
    """Evaluate F and its hyper-gradient at x = 0 on the map of a side."""
    gym.logger.min_level = gym.logger.ERROR  # entropy pays on large maps; that is not the point
    small = BilevelGridWorld(size=60, gamma=gamma)
    small.evaluate(small.initial_upper_params)
    began = time.perf_counter()
    game = BilevelGridWorld(size=side, gamma=gamma)
    made = time.perf_counter()
    with threads(count):
        answer = game.evaluate(game.initial_upper_params)
    done = time.perf_counter()
    return {
        "side": side,
        "states": game.model.num_states,
        "making": made - began,
        "evaluating": done - made,
        "gigabytes": resident("VmHWM") / 1e9,
        "residual": answer.residual,
        "adjoint": answer.adjoint_residual,
        "steps": answer.iterations,
        "converged": bool(answer.converged),
    }


def main(sides: Sequence[int], gamma: float, count: int) -> None:
    """Print a line for each side, and the exponent with which the time grows."""
    print("| side | states | made, s | F and gradient, s | peak, GB | residual | Newton steps |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for side in sides:
        command = [sys.executable, "-m", "tests.benchmarks.giant", "--one", str(side)]
        command += ["--gamma", str(gamma), "--threads", str(count)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(answer)
        found.append(row)
        print(
            f"| {side} | {row['states']:.3g} | {row['making']:.2f} | {row['evaluating']:.3g} "
            f"| {row['gigabytes']:.2f} | {row['residual']:.0e} | {row['steps']} |",
            flush=True,
        )
    first, last = found[0], found[-1]
    if len(found) > 1:
        times = math.log(last["evaluating"] / first["evaluating"])
        print(f"\ntime grows as states^{times / math.log(last['states'] / first['states']):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[110, 350, 1100], help="sides")
    parser.add_argument("--gamma", type=float, default=0.99, help="discount")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(of_side(arguments.one, arguments.gamma, arguments.threads)))
    else:
        main(arguments.sides, arguments.gamma, arguments.threads)
