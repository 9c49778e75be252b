"""What lowering the temperature leads to: F without entropy at the end of climbs.

Run it as `python -m tests.benchmarks.annealing`; it prints a table in Markdown, in about a minute.

Each climb takes normalised steps of the lengths of the default benchmark from three starts near the
task's own, as that benchmark draws them. What is scored is the last x: its exact F at the task's
own temperature, and F without entropy (`game.evaluate_unregularised`), of which the optimistic and
the pessimistic value are both given where they differ.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np

import bilevel_gym
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.methods import make_method
from bilevel_gym.optimizers import make_optimizer

# Task, spread of the starts as a share of the box, length of the first step.
TASKS = (
    ("BilevelGridWorld-v0", 0.005, 0.05),
    ("BilevelFourRooms-v0", 0.02, 3.0),
    ("BilevelFrozenLake-v0", 0.02, 0.1),
)
EPISODES = {"episodes": 256}
SAMPLED = {"inner_method": "trace", "inner_method_options": EPISODES}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {}),
    "exact, annealed": ("annealed", {}),
    "slac, fixed temperature": ("slac", {"attenuation": 0.0}),
    "slac": ("slac", {}),
    "trace": ("trace", EPISODES),
    "trace, annealed": ("annealed", SAMPLED),
}
SEEDS = 3


def start_of(game: TabularBilevelEnv, spread: float, seed: int) -> FloatArray:
    """Return the x of a seed, as `bilevel_gym.benchmark.runs.start_of` draws it."""
    low, high = game.model.low, game.model.high
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    noise = rng.uniform(-1.0, 1.0, low.shape)
    return np.clip(game.initial_upper_params + spread * (high - low) * noise, low, high)


def last_of(game: TabularBilevelEnv, method: Any, x: FloatArray, steps: int, rate: float) -> Any:
    """Return the x of the last evaluation of a climb."""
    visited = [x]

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        visited.append(np.array(x))
        response = method.step(visited[-1])
        return response.objective, response.hyper_gradient

    climb = make_optimizer("normalized", steps=steps, learning_rate=rate)
    climb(objective, x, game.model.low, game.model.high)
    return visited[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="steps of the leader")
    steps = parser.parse_args().steps
    print("| task | method | F at the task's temperature | F without entropy |")
    print("|---|---|---|---|")
    for task, spread, rate in TASKS:
        game: Any = bilevel_gym.make(task).unwrapped
        for label, (name, options) in {"(the start)": ("exact", {}), **METHODS}.items():
            soft, hard = [], []
            for seed in range(SEEDS):
                method = make_method(name, game, **options)
                method.reset(np.random.default_rng(seed))
                x = start_of(game, spread, seed)
                if label != "(the start)":
                    x = last_of(game, method, x, steps, rate)
                soft.append(f"{game.evaluate(x).objective:.4f}")
                found = game.evaluate_unregularised(x)
                both = f"{found.optimistic:.4f}", f"{found.pessimistic:.4f}"
                hard.append(both[0] if both[0] == both[1] else " / ".join(both))
            print(f"| {task} | {label} | {', '.join(soft)} | {', '.join(hard)} |", flush=True)


if __name__ == "__main__":
    gym.logger.min_level = gym.logger.ERROR
    main()
