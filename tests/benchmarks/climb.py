"""How far climbs get with 400 evaluations, against the best values known.

    python -m tests.benchmarks.climb find [GROUP ...]      # the best values known, slow
    python -m tests.benchmarks.climb measure [GROUP ...]   # the table, for all optimizers compared

`find` runs SciPy's L-BFGS-B from 110 starts for each instance: x0, shares of the way to the x of
the leader's own reward, single entries, and random ones of five spreads, dense and sparse. A better
value that anything else has found counts as well. They are kept in `climb.json`, with the number of
starts that reached them within 1 %. Four-Rooms is by the table of the task's docstring, for which
many more starts were made (`four_rooms.py`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import bilevel_gym  # noqa: F401  # registers the tasks
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.model import BilevelModel
from bilevel_gym.model.starts import suggested_starts
from bilevel_gym.optimizers import Iterate, make_optimizer, options_for
from bilevel_gym.wrappers import exact_objective

from .climb_instances import INSTANCES, Instance

FILE = Path(__file__).with_name("climb.json")

# Evaluations of each climb, starts of `find` and evaluations from each, and what counts as reached.
BUDGET, STARTS, EACH, REACHED = 400, 110, 300, 0.01

SPREADS = (0.005, 0.015, 0.05, 0.15, 0.5)

OPTIMIZERS = ("climb", "restarted-lbfgsb", "adam", "cobyqa", "lbfgsb", "normalized")

# COBYQA's own work grows steeply with the entries of x.
MOST_ENTRIES = {"cobyqa": 30}


def model_of(instance: Instance) -> BilevelModel:
    """Return the model of an instance."""
    game: Any = gym.make(instance.task, **instance.arguments).unwrapped
    return game.model


def starts_of(model: BilevelModel) -> Iterator[FloatArray]:
    """Yield the starts of `find`, without an end."""
    x, width, rng = model.initial_upper_params, model.high - model.low, np.random.default_rng(7)
    yield x
    yield from (start.x for start in suggested_starts(model, x, STARTS // 2))
    number = 0
    while True:
        noise = rng.standard_normal(x.shape)
        if number // len(SPREADS) % 2:
            noise = noise * (rng.random(x.shape) < 2.0 / np.sqrt(x.size))
        moved = x + SPREADS[number % len(SPREADS)] * width * noise
        yield np.clip(moved, model.low, model.high)
        number += 1


def find(instance: Instance) -> dict[str, Any]:
    """Return the best value from many starts, and how many reached it."""
    from scipy.optimize import Bounds, minimize

    model = model_of(instance)
    objective, shape = exact_objective(model), model.low.shape
    first = objective(model.initial_upper_params)[1]
    # The stopping rule is absolute: gradients of order one.
    scale = 10.0 / max(1e-3, float(np.abs(first * (model.high - model.low)).max()))

    def descend(flat: FloatArray) -> tuple[float, FloatArray]:
        x = np.clip(flat.reshape(shape), model.low, model.high)
        value, gradient = objective(x)
        return -scale * value, -scale * gradient.ravel()

    ends = []
    for _, start in zip(range(STARTS), starts_of(model), strict=False):
        found = minimize(
            descend,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(model.low.ravel(), model.high.ravel()),
            options={"maxfun": EACH, "gtol": 1e-7, "ftol": 1e-13},
        )
        ends.append(-float(found.fun) / scale)
    best = max(ends)
    near = sum(end >= best - REACHED * abs(best) for end in ends)
    return {"objective": best, "starts": len(ends), "reached": near}


@dataclass(frozen=True)
class Climbed:
    """What a climb has found: its best value, evaluations until 1 % of the best known, seconds."""

    value: float
    reached_after: int | None
    evaluations: int
    seconds: float


def climbed(instance: Instance, optimizer: str, known: float, seed: int = 0) -> Climbed:
    """Return what an optimizer finds from x0 by its defaults, in so many evaluations."""
    model = model_of(instance)
    objective = exact_objective(model)
    values: list[float] = []

    def note(iterate: Iterate) -> None:
        if len(values) < BUDGET:
            values.append(iterate.value)

    options = options_for(optimizer, {}, steps=BUDGET - 1, seed=seed)
    run: Callable[..., Any] = make_optimizer(optimizer, **options)
    objective(model.initial_upper_params)  # what a process does once is not counted
    began = time.perf_counter()
    found = run(objective, model.initial_upper_params, model.low, model.high, callback=note)
    seconds = time.perf_counter() - began
    eased = getattr(found, "eased", 0)
    best = np.maximum.accumulate(values)
    near = np.flatnonzero(best >= known - REACHED * abs(known))
    after = int(near[0]) + 1 + eased if near.size else None
    return Climbed(float(best[-1]), after, len(values) + eased, seconds)


def known_values() -> dict[str, Any]:
    """Return what `climb.json` says of each instance."""
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.exists() else {}


def chosen(groups: list[str]) -> list[Instance]:
    """Return the instances of groups, all if none is given."""
    return [each for each in INSTANCES.values() if not groups or each.group in groups]


def find_all(groups: list[str]) -> None:
    """Write the best values into the file, keeping better ones that are there."""
    for instance in chosen(groups):
        found, known = find(instance), known_values()
        before = known.get(instance.name)
        if before is not None and before["objective"] > found["objective"]:
            found |= {"objective": before["objective"], "reached": before["reached"]}
        known[instance.name] = found
        FILE.write_text(json.dumps(known, indent=0) + "\n", encoding="utf-8")
        print(instance.name, found, flush=True)


def measure(groups: list[str], optimizers: list[str], seeds: int) -> None:
    """Print the reach of each optimizer in each group, with evaluations and time."""
    known = known_values()
    print("| instances | optimizer | reached | evaluations until then | all | seconds each |")
    print("|---|---|---|---|---|---|")
    names = [name for name in INSTANCES if name in known]
    for group in dict.fromkeys(each.group for each in chosen(groups)):
        members = [INSTANCES[name] for name in names if INSTANCES[name].group == group]
        for optimizer in optimizers:
            runs, missed = [], []
            for instance in members:
                size = model_of(instance).low.size
                if size > MOST_ENTRIES.get(optimizer, size):
                    continue
                for seed in range(seeds):
                    goal = known[instance.name]["objective"]
                    run = climbed(instance, optimizer, goal, seed)
                    runs.append(run)
                    if run.reached_after is None:
                        missed.append(f"{instance.name}: {run.value:.4f} of {goal:.4f}")
            if not runs:
                continue
            after = [run.reached_after for run in runs if run.reached_after is not None]
            until = f"{np.median(after):.0f}" if after else "-"
            used = np.mean([run.evaluations for run in runs])
            seconds = np.mean([run.seconds for run in runs])
            print(
                f"| {group} | {optimizer} | {len(after)} of {len(runs)} | {until} | {used:.0f} | "
                f"{seconds:.2f} |",
                flush=True,
            )
            if optimizer == "climb" and missed:
                print("  missed:", "; ".join(missed), flush=True)


if __name__ == "__main__":
    gym.logger.min_level = gym.logger.ERROR
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("find", "measure"))
    parser.add_argument("groups", nargs="*", help="all by default")
    parser.add_argument("--optimizers", nargs="*", default=OPTIMIZERS)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    if given.command == "find":
        find_all(given.groups)
    else:
        measure(given.groups, list(given.optimizers), given.seeds)
