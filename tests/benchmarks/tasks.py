"""What every registered task costs, and how exact its hyper-gradient is.

Run it as `python -m tests.benchmarks.tasks`. For each id, made as it comes: seconds for
`gym.make`, for the first `reset` and the first `step`, and for a later `step` at another x; and the
largest error of the hyper-gradient against differences, relative to the response term, at five x
where that term matters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym.registration import TASKS
from bilevel_gym.testing import check_hyper_gradient

from ..helpers import game_of, telling_points
from .table import seconds

POINTS, COORDINATES = 5, 6


def row(env_id: str) -> str:
    """Return a task's row of the table."""
    made = seconds(partial(gym.make, env_id))
    env: gym.Env[Any, Any] = gym.make(env_id)
    reset = seconds(partial(env.reset, seed=0))
    points = telling_points(env, POINTS)
    env = gym.make(env_id)
    env.reset(seed=0)
    first, *later = (seconds(partial(env.step, x)) for x in points)
    size = int(np.prod(game_of(env).upper_space.shape))
    errors = [
        check_hyper_gradient(
            gym.make(env_id), x, coordinates=min(size, COORDINATES), seed=seed
        ).relative_error
        for seed, x in enumerate(points)
    ]
    cells = [f"{1e3 * took:.1f}" for took in (made, reset, first, float(np.median(later)))]
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
