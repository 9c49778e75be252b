"""CMA-ES, of the package cma, as a leader: it asks for rewards of the leader's seat alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import seats

NAME, NEEDS = "cma", ("cma", "cma")


def leader() -> str:
    """Look for tolls."""
    import cma

    env = seats.make(seats.TOLL)
    _, info = env.reset(seed=0)
    first = float(info["objective"])
    space: Any = env.action_space
    x = info["upper_params"]
    options = {"bounds": [space.low, space.high], "seed": 1, "maxfevals": 200, "verbose": -9}
    found = cma.fmin2(lambda x: -float(env.step(np.array(x))[1]), x, 2.0, options)
    best = -float(found[1].result.fbest)
    if not best > first:
        raise AssertionError(f"200 evaluations have not improved on {first}: {best}")
    return f"200 evaluations on Toll: from {first:.3f} to {best:.3f}"


CHECKS = {"leader": leader}
