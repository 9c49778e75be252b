"""How far classic control on a grid is from finer grids.

Run it as `python -m tests.benchmarks.discretization`; it prints the table of docs/pages/tabulate.md
and takes some minutes. Both players have the environment's reward, x moves the parameters named,
and V is the follower's value, with its entropy, from the start distribution. Errors are those to
the finest grid.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from bilevel_gym import discretize
from bilevel_gym.core.mdp import FloatArray


@dataclass(frozen=True)
class Setting:
    """An environment, what x moves, and grids from the coarsest to the finest."""

    env_id: str
    moves: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]
    gamma: float
    temperature: float


SETTINGS = (
    Setting(
        "MountainCar-v0",
        ("force", "gravity"),
        ((35, 29), (69, 57), (137, 113), (273, 225), (545, 449)),
        0.99,
        0.05,
    ),
    Setting(
        "Pendulum-v1", ("g", "m"), ((24, 25), (48, 49), (96, 97), (192, 193), (384, 385)), 0.95, 0.1
    ),
)


@dataclass(frozen=True)
class Answer:
    """What the model on one grid says at x = 0."""

    states: int
    value: float
    objective: float
    gradient: FloatArray
    seconds: float


def answer(setting: Setting, bins: tuple[int, int]) -> Answer:
    """Solve one grid."""
    began = time.process_time()
    grid = discretize(setting.env_id, bins)
    model = grid.model(setting.moves, gamma=setting.gamma, temperature=setting.temperature)
    found = model.respond(model.initial_upper_params)
    seconds = time.process_time() - began
    return Answer(
        len(grid.states), found.lower_value, found.objective, found.hyper_gradient, seconds
    )


def main() -> None:
    """Print the table."""
    print("| environment | grid | states | V | error | F | error | dF/dx | error | seconds |")
    print("|---" * 10 + "|")
    for setting in SETTINGS:
        answers = [answer(setting, bins) for bins in setting.grids]
        last = answers[-1]
        for bins, found in zip(setting.grids, answers, strict=True):
            slopes = ", ".join(f"{slope:.2f}" for slope in found.gradient)
            errors = (
                f"{abs(found.value - last.value):.2f}",
                f"{abs(found.objective - last.objective):.2f}",
                f"{np.linalg.norm(found.gradient - last.gradient):.2f}",
            )
            shown = errors if found is not last else ("", "", "")
            print(
                f"| {setting.env_id} | {bins[0]} x {bins[1]} | {found.states} | {found.value:.2f} "
                f"| {shown[0]} | {found.objective:.2f} | {shown[1]} | {slopes} | {shown[2]} "
                f"| {found.seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
