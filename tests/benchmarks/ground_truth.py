"""Where the default run of BilevelGridWorld-v0 ends, from many starts and on many maps.

Run it as `python tests/benchmarks/ground_truth.py`; it prints the figures that the task's docstring
quotes and takes about a minute.
"""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import numpy as np

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.optimizers import lbfgsb, normalized_ascent
from bilevel_gym.wrappers import HyperGradient, LeaderObjective

STARTS, SPREADS = 60, (0.02, 0.1, 0.3, 1.0)
SIDES, MAP_SEEDS = (8, 10, 16, 30), range(5)


def end_of_run(game: BilevelGridWorld, start: FloatArray) -> float:
    """Return the objective at the end of the run that `bilevel-gym solve` makes from a start."""
    objective = LeaderObjective(HyperGradient(game))
    x, low, high = objective.reset(start, seed=0), objective.low, objective.high
    ascent = normalized_ascent(objective, x, low, high)
    return lbfgsb(objective, ascent.best.upper_params, low, high).best.value


def from_random_starts() -> None:
    """Print how often each value is reached on the default map, from uniform starts."""
    game, rng = BilevelGridWorld(), np.random.default_rng(0)
    ends: Counter[str] = Counter()
    for number in range(STARTS):
        spread = SPREADS[number % len(SPREADS)]
        ends[f"{end_of_run(game, rng.uniform(-spread, spread, 52)):.4f}"] += 1
    print(f"default map, {STARTS} starts uniform in [-s, s], s in {SPREADS}:")
    for value, count in sorted(ends.items(), reverse=True):
        print(f"  {value}: {count}")


def on_random_maps() -> None:
    """Print where the run from x = 0 ends on random maps."""
    print(f"random maps, map_seed {MAP_SEEDS.start} to {MAP_SEEDS.stop - 1}, from x = 0:")
    for side in SIDES:
        games = [BilevelGridWorld(size=side, map_seed=seed) for seed in MAP_SEEDS]
        ends = [end_of_run(game, game.initial_upper_params) for game in games]
        above = sum(end > 0.0 for end in ends)
        print(f"  side {side}: {above} of {len(ends)} above zero,", [f"{end:.4f}" for end in ends])


if __name__ == "__main__":
    gym.logger.min_level = gym.logger.ERROR
    from_random_starts()
    on_random_maps()
