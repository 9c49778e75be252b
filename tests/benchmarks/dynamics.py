"""How good hyper-gradients are where x moves the dynamics, against the exact one.

Run it as `python -m tests.benchmarks.dynamics`; it prints a table, in some minutes.

The game is linear-quadratic, with 2 states and 1 control; x are the damping of both states and the
gain of the control, at (.2, .1, .1), see `tests.linear_gaussian`. The follower, `SoftSAC`, sees
nothing but the environment. `score` knows the derivative of the transitions' log-density, and
`zero-order` nothing. The exact answer is that of `BilevelLQR-v0`. Columns: the follower's steps
before, the environment steps of the estimate (learning at other x included), cosine and relative
error to the exact hyper-gradient, its length over that of the exact one, and the cosine that the
estimate claims itself.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np

from bilevel_gym.learnt.estimators import Estimator
from bilevel_gym.methods import make_method
from tests.linear_gaussian import START, exact_game, learnt_game

from .estimators import cosine

SMALL = {"train_freq": 1, "gradient_steps": 1, "device": "cpu"}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "score": ("score", {}),
    "zero-order": ("zero-order", {"directions": 3, "radius": 0.1, "probe_share": 1.0}),
    "zero-order, brief": ("zero-order", {"directions": 3, "radius": 0.1, "probe_share": 0.25}),
}


def main(seeds: list[int], methods: list[str], first: int, steps: int, episodes: int) -> None:
    """Print the table."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answer = exact_game().evaluate(START)
    exact, direct = answer.hyper_gradient, answer.direct_gradient
    print(f"exact: {exact.round(3)}, at a fixed policy: {direct.round(3)}")
    print("| method | seed | steps before | of the estimate | cosine | error | length | claimed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in methods:
        method, options = METHODS[name]
        for seed in seeds:
            given = {"inner_steps": steps, "first_inner_steps": first, "inner_options": SMALL}
            learnt = make_method(method, learnt_game(), episodes=episodes, **given, **options)
            assert isinstance(learnt, Estimator)
            learnt.reset(np.random.default_rng(seed))
            began = time.perf_counter()
            response = learnt.step(np.array(START))
            found = response.hyper_gradient
            assert found is not None and response.samples is not None
            error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
            length = float(np.linalg.norm(found) / np.linalg.norm(exact))
            claimed = response.hyper_gradient_cosine or 0.0
            print(
                f"| {name} | {seed} | {first} | {response.samples - first} | "
                f"{cosine(found, exact):.3f} | {error:.2f} | {length:.2f} | {claimed:.2f} |"
                f" {found.round(2)} {time.perf_counter() - began:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--first", type=int, default=4000, help="steps of the follower before")
    parser.add_argument("--steps", type=int, default=1000, help="steps for each x")
    parser.add_argument("--episodes", type=int, default=256, help="episodes watched")
    arguments = parser.parse_args()
    main(**vars(arguments))
