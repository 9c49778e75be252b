"""What the pieces cost, each as a ratio against a named peer in the same run.

Run it as `python tests/benchmarks/costs.py`; it prints one table and takes about half a minute.
Medians, one BLAS thread; the two sides of a ratio are timed in turn, so that a machine whose speed
drifts does not favour either.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402

import bilevel_gym  # noqa: E402
from bilevel_gym.soft import solve_soft_mdp  # noqa: E402

FOLLOWER_STEPS = 20_000


def in_turn(
    *sides: Callable[[], Any], rounds: int, prepare: Callable[[], Any] = lambda: None
) -> list[float]:
    """Return the median seconds of each side, timed in turn."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, record in zip(sides, times, strict=True):
            prepare()
            start = time.perf_counter()
            side()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def solves() -> None:
    """Forward solve, objective with hyper-gradient, and the leader's seat, from cold starts."""
    env = gym.make("BilevelGridWorld-v0")
    env.reset(seed=0)
    game = env.unwrapped
    assert isinstance(game, bilevel_gym.TabularBilevelEnv)
    method, x = env.get_wrapper_attr("method"), game.initial_upper_params
    solve, evaluate, seat = in_turn(
        lambda: solve_soft_mdp(game.lower_mdp(x)),
        lambda: game.evaluate(x),
        lambda: env.step(x),
        rounds=1000,
        prepare=lambda: method.reset(game.np_random),
    )
    print(f"forward solve, default map                {1e6 * solve:8.0f} us")
    print(
        f"objective and hyper-gradient on top       {1e6 * (evaluate - solve):8.0f} us"
        f"   {(evaluate - solve) / solve:.2f} of the forward solve"
    )
    print(
        f"leader's seat through gym.make on top     {1e6 * (seat - evaluate):8.0f} us"
        f"   {(seat - evaluate) / evaluate:.2f} of both"
    )


def follower() -> None:
    """Steps per second of the follower's seat against FrozenLake, both through gym.make."""
    game = bilevel_gym.LowerLevel(gym.make("BilevelGridWorld-v0"), np.zeros(52))
    lake = gym.make("FrozenLake-v1", map_name="8x8")

    def roll(env: gym.Env[Any, Any]) -> None:
        env.reset(seed=0)
        for step in range(FOLLOWER_STEPS):
            _, _, terminated, truncated, _ = env.step(step & 3)
            if terminated or truncated:
                env.reset()

    ours, peer = (
        FOLLOWER_STEPS / s for s in in_turn(lambda: roll(game), lambda: roll(lake), rounds=15)
    )
    print(
        f"follower's seat, steps per second         {ours:8.0f}"
        f"      {ours / peer:.2f} of FrozenLake-v1 8x8 ({peer:.0f})"
    )


def imports() -> None:
    """Time of `import bilevel_gym` in a fresh interpreter against `import gymnasium`."""

    def fresh(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    bare, peer, ours = in_turn(
        lambda: fresh("sys"), lambda: fresh("gymnasium"), lambda: fresh("bilevel_gym"), rounds=15
    )
    print(
        f"import bilevel_gym                        {1e3 * (ours - bare):8.0f} ms"
        f"   {(ours - bare) / (peer - bare):.2f} of import gymnasium"
    )


if __name__ == "__main__":
    solves()
    follower()
    imports()
