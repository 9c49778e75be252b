"""Where each method leads on BilevelGridWorld-v0, and at what price.

Run it as `python -m tests.benchmarks.methods`: 200 normalised steps of .05 from x = 0 along each
method's hyper-gradient, scored by the exact objective, which the method does not see. It prints the
table that README quotes; methods that draw are run with three seeds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.mdp import FloatArray
from bilevel_gym.methods import make_method
from bilevel_gym.methods.base import ExactResponse
from bilevel_gym.optimizers import normalized_ascent

STEPS, LEARNING_RATE, SEEDS = 200, 0.05, 3

RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact", {}),
    ("direct", {}),
    ("m-sobirl", {}),
    ("m-sobirl", {"sweeps": 100, "adjoint_steps": 1000}),
    ("amd", {}),
    ("pbrl-value", {}),
    ("pbrl-bellman", {}),
    ("zero-order", {}),
    ("trace", {"episodes": 256}),
    ("trace", {"episodes": 2048}),
    ("bc-hg", {"episodes": 2048}),
    ("hpgd", {"episodes": 2048}),
    ("sobirl", {"episodes": 2048}),
    ("trace", {"episodes": 2048, "inner": "certainty-equivalence"}),
    ("sobirl", {"episodes": 2048, "inner": "certainty-equivalence"}),
    # About as many steps altogether, as long as the follower seeks the goal.
    ("stoc-sobirl", {"episodes": 1024, "most_episodes": 2048}),
    ("stoc-sobirl", {"episodes": 2048, "most_episodes": 4096}),
)
DRAWS = ("zero-order", "trace", "bc-hg", "hpgd", "sobirl", "stoc-sobirl")


def run(name: str, options: dict[str, Any], seed: int) -> tuple[float, float, float, float]:
    """Return the best exact F, the median cosine, seconds and environment steps per step."""
    game = BilevelGridWorld()
    method = make_method(name, game, **options)
    method.reset(np.random.default_rng(seed))
    best, seconds, samples, cosines = -np.inf, 0.0, 0, []
    last: ExactResponse | None = None

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        nonlocal best, seconds, samples, last
        began = time.perf_counter()
        response = method.step(game.validate_upper_params(x))
        seconds += time.perf_counter() - began
        samples += response.samples or 0
        last = game.evaluate(x, warm_start=last)
        best = max(best, last.objective)
        gradient = response.hyper_gradient
        assert gradient is not None
        size = float(np.linalg.norm(gradient) * np.linalg.norm(last.hyper_gradient))
        cosines.append(float(gradient @ last.hyper_gradient) / size if size else np.nan)
        return response.objective, gradient

    low, high = game.upper_space.low.astype(np.float64), game.upper_space.high.astype(np.float64)
    optimum = normalized_ascent(
        objective,
        game.initial_upper_params,
        low,
        high,
        steps=STEPS,
        learning_rate=LEARNING_RATE,
    )
    count = optimum.evaluations
    return best, float(np.nanmedian([*cosines, np.nan])), seconds / count, samples / count


def main() -> None:
    """Print the table."""
    print("| method | options | best F | median cosine | ms per step | env steps per step |")
    print("|---|---|---|---|---|---|")
    for name, options in RUNS:
        seeds = range(SEEDS if name in DRAWS else 1)
        rows = np.array([run(name, options, seed) for seed in seeds])
        values = ", ".join(f"{value:.4f}" for value in rows[:, 0])
        _, cosine, seconds, samples = rows.mean(axis=0)
        listed = ", ".join(f"{key}={value}" for key, value in options.items())
        print(
            f"| {name} | {listed} | {values} | {cosine:.2f} | {1e3 * seconds:.1f} "
            f"| {samples:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
