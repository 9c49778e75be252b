"""States, seconds and errors of tables of known environments.

Run it as `python -m tests.benchmarks.tabulation`; it prints the tables of docs/pages/tabulate.md.
"""

from __future__ import annotations

import time
from typing import Any

import minigrid  # noqa: F401  (registers its worlds)
import numpy as np

from bilevel_gym import Tabulated, tabulate

WORLDS = (
    "MiniGrid-Empty-8x8-v0",
    "MiniGrid-FourRooms-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-LavaCrossingS9N2-v0",
)
TEXTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("FrozenLake-v1", {"is_slippery": False}),
    ("CliffWalking-v1", {}),
    ("Taxi-v4", {}),
)
SAMPLES = (100, 1000)


def goal(observation: Any, action: Any, following: Any, info: Any) -> float:
    """Return a reward that does not depend on time."""
    return -1.0


def place(env: Any) -> Any:
    """Return what is a state of a MiniGrid world in which nothing can be moved."""
    return env.unwrapped.agent_pos, env.unwrapped.agent_dir


def timed(env_id: str, **options: Any) -> tuple[Tabulated, float]:
    """Return a table, and the seconds of computing that it took."""
    began = time.process_time()
    table = tabulate(env_id, **options)
    return table, time.process_time() - began


def main() -> None:
    """Print both tables."""
    print("| environment | states x actions | seconds | with a key of place and direction |")
    print("|---|---|---|---|")
    for env_id in WORLDS:
        table, seconds = timed(env_id, reward=goal)
        quick = ""
        if "Door" not in env_id:
            again, fast = timed(env_id, reward=goal, key=place)
            assert again.num_states == table.num_states
            quick = f"{fast:.1f}"
        shape = f"{table.num_states} x {table.num_actions}"
        print(f"| {env_id} | {shape} | {seconds:.1f} | {quick} |", flush=True)
    print(
        "\n| environment | states reached | seconds | largest difference to `P`, and of rewards |"
    )
    print("|---|---|---|---|")
    for env_id, options in TEXTS:
        own = tabulate(env_id, env_kwargs=options)
        seeds = list(range(200)) if "Taxi" in env_id else 0
        found, seconds = timed(env_id, env_kwargs=options, samples=1, seed=seeds)
        print(f"| {env_id} | {found.num_states} | {seconds:.1f} | {differences(own, found)} |")
    own = tabulate("FrozenLake-v1")
    for samples in SAMPLES:
        found, seconds = timed("FrozenLake-v1", samples=samples)
        assert found.probability_error is not None
        stated = f"(standard error up to {found.probability_error.max():.3f})"
        name = f"FrozenLake-v1, slippery, {samples} samples"
        print(
            f"| {name} | {found.num_states} | {seconds:.1f} | {differences(own, found)} {stated} |",
            flush=True,
        )


def differences(own: Tabulated, found: Tabulated) -> str:
    """Return the largest differences between two tables, in the states of the second."""
    states = found.observations[""]
    dense = own.kernel.to_dense()[states][:, :, states]
    kernel = np.abs(found.kernel.to_dense() - dense).max()
    reward = np.abs(found.reward - own.reward[states]).max()
    return f"{kernel:.2g}, {reward:.2g}"


if __name__ == "__main__":
    main()
