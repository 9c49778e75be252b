"""Where ascents on BilevelMiniGrid-v0 end, from x = 0 and from random starts.

Run it as `python -m tests.benchmarks.minigrid`; it prints the figures that the task's docstring
quotes and takes about a minute.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelMiniGrid
from bilevel_gym.optimizers import lbfgsb, normalized_ascent
from bilevel_gym.wrappers import exact_objective

STARTS, SPREADS = 120, (0.02, 0.1, 0.3, 1.0)


def end_of_run(game: BilevelMiniGrid, start: FloatArray) -> tuple[float, FloatArray]:
    """Return F and x where normalised ascent from a start, and then L-BFGS-B, end."""
    objective, box = exact_objective(game.model), (game.model.low, game.model.high)
    ascent = normalized_ascent(objective, start, *box)
    best = lbfgsb(objective, ascent.best.upper_params, *box).best
    return best.value, best.upper_params


def best_known(game: BilevelMiniGrid) -> tuple[float, FloatArray, Counter[str]]:
    """Return the best end from x = 0 and random starts, and how often each value is reached."""
    rng, size = np.random.default_rng(0), game.model.low.size
    found = [end_of_run(game, np.zeros(size))]
    for number in range(STARTS):
        spread = SPREADS[number % len(SPREADS)]
        found.append(end_of_run(game, rng.uniform(-spread, spread, size)))
    value, x = max(found, key=lambda end: end[0])
    return value, x, Counter(f"{end[0]:.4f}" for end in found)


def few_knobs(game: BilevelMiniGrid) -> None:
    """Print the best F with one number for each event, and nothing on the cells."""
    events, size = len(game.events), game.model.low.size
    values = np.round(np.arange(-1.0, 1.01, 0.05), 2)
    for number, event in enumerate(game.events):
        scores = []
        for value in values:
            x = np.zeros(size)
            x[size - events + number] = value
            scores.append(game.evaluate(x).objective)
        best = int(np.argmax(scores))
        print(f"  {event} alone, {values[best]:+.2f}: {scores[best]:.6f}")


def main() -> None:
    """Print all figures."""
    game = BilevelMiniGrid()
    for name, x in (("x = 0", game.initial_upper_params),):
        answer = game.evaluate(x)
        norm = float(np.linalg.norm(answer.hyper_gradient))
        print(f"{name}: F {answer.objective:.6f}, |dF/dx| {norm:.6f}")
    print(f"from x = 0: {end_of_run(game, game.initial_upper_params)[0]:.6f}")
    few_knobs(game)
    value, x, ends = best_known(game)
    print(f"best of {STARTS} random starts and x = 0: {value:.9f}, |x|^2 = {x @ x:.6f}")
    for end, count in sorted(ends.items(), reverse=True):
        print(f"  {end}: {count}")
    print(x.tolist())


if __name__ == "__main__":
    main()
