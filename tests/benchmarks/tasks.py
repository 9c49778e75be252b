"""What every registered task costs, and how exact its hyper-gradient is.

Run it as `python -m tests.benchmarks.tasks`. For each id, made as it comes: seconds for
`gym.make`, for the first `reset` and the first `step`, and for a later `step` at another x; and the
largest error of the hyper-gradient against differences, relative to the response term, at five x
where that term matters.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym.registration import TASKS
from bilevel_gym.testing import check_hyper_gradient

from ..helpers import game_of, telling_points

POINTS, COORDINATES = 5, 6


def row(env_id: str) -> str:
    """Return a task's row of the table."""
    times = []
    began = time.perf_counter()
    env: gym.Env[Any, Any] = gym.make(env_id)
    times.append(time.perf_counter() - began)
    began = time.perf_counter()
    env.reset(seed=0)
    times.append(time.perf_counter() - began)
    points = telling_points(env, POINTS)
    env = gym.make(env_id)
    env.reset(seed=0)
    laps = []
    for x in points:
        began = time.perf_counter()
        env.step(x)
        laps.append(time.perf_counter() - began)
    size = int(np.prod(game_of(env).upper_space.shape))
    errors = [
        check_hyper_gradient(
            gym.make(env_id), x, coordinates=min(size, COORDINATES), seed=seed
        ).relative_error
        for seed, x in enumerate(points)
    ]
    cells = [f"{1e3 * seconds:.1f}" for seconds in (*times, laps[0], float(np.median(laps[1:])))]
    listed = ", ".join(f"{error:.1e}" for error in errors)
    return f"| `{env_id}` | {' | '.join(cells)} | {max(errors):.1e} | {listed} |"


def main() -> None:
    """Print the table."""
    gym.make(TASKS[0].id).reset(seed=0)  # imports are not a task's costs
    print(
        "| task | make, ms | first reset, ms | first step, ms | later step, ms | max error | all |"
    )
    print("|---|---|---|---|---|---|---|")
    for task in TASKS:
        print(row(task.id), flush=True)


if __name__ == "__main__":
    main()
