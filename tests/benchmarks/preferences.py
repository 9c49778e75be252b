"""What a baseline is worth where the leader judges pairs of fragments, on enumerated games.

Run it as `python -m tests.benchmarks.preferences`; it prints two tables and the bar.

The setting: three states, two actions, fragments of four steps (1296 of them, and 1.7 million
pairs), rows of the kernel uniform on the simplex, the judge's reward standard normal, the leader's
x[s, a] normal with deviation .3, discount .9. Games are drawn; medians over them are shown, with
quartiles where they differ much. trVar is N tr Cov / |g|^2 of the response, at N = 512 pairs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilevel_gym.core.bellman import centred_score
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.methods import make_method
from bilevel_gym.model.preferences import PreferenceLikelihood

from .estimators import cosine

NUM_STATES, NUM_ACTIONS, HORIZON, GAMMA = 3, 2, 4, 0.9
TEMPERATURES, PAIRS, GAMES, REPLICATES = (0.5, 0.1), 512, 10, 30
# With the advantages at hand episodes need not go on after the fragments.
ESTIMATORS: dict[str, dict[str, Any]] = {
    "l dA, dA exact": {"baseline": False, "advantages": "exact", "horizon": HORIZON},
    "(l - b) dA, dA exact": {"advantages": "exact", "horizon": HORIZON},
    "l dA, dA from as many episodes": {"baseline": False},
    "(l - b) dA, dA from as many episodes": {},
}


def preference_game(
    seed: int, temperature: float, *, answers: str = "drawn", size: float = 0.3
) -> TabularBilevelEnv:
    """Return a game whose leader judges pairs of fragments; x has the standard deviation `size`."""
    rng, pairs = np.random.default_rng(seed), NUM_STATES * NUM_ACTIONS
    shape = (NUM_STATES, NUM_ACTIONS)
    kernel, start = (rng.dirichlet(np.ones(NUM_STATES), size=s) for s in (shape, None))
    options: dict[str, Any] = {"gamma": GAMMA, "temperature": temperature}
    options |= {"upper_reward": np.zeros(shape), "initial_distribution": start}
    options |= {"features": np.eye(pairs).reshape(*shape, pairs)}
    options |= {"upper_low": -10.0, "upper_high": 10.0}
    options["initial_upper_params"] = size * rng.normal(size=pairs)
    game = TabularBilevelEnv.from_arrays(kernel, np.zeros(shape), **options)
    game.objective = PreferenceLikelihood(rng.normal(size=shape), HORIZON, answers)
    return game


def one_step(game: TabularBilevelEnv) -> FloatArray:
    """Return the response term with the first term of the advantage of dr/dx alone, exactly."""
    x = game.initial_upper_params
    solution = solve_soft_mdp(game.model.lower_mdp(x))
    upper = game.objective.evaluate(game.model.outcome(x, solution))
    score = centred_score(solution.policy, game.temperature, upper.policy, upper.log_policy)
    return game.reward_vjp(x, score)


def responses(game: TabularBilevelEnv, count: int, **options: Any) -> FloatArray:
    """Return estimates of the response term, `[R, D]`, from `PAIRS` pairs each."""
    method = make_method("sobirl", game, episodes=2 * PAIRS, **options)
    method.reset(np.random.default_rng(1))
    found = [method.step(game.initial_upper_params) for _ in range(count)]
    return np.stack([r.hyper_gradient - r.direct_gradient for r in found])  # type: ignore[operator]


def relative_variance(found: FloatArray, exact: FloatArray) -> float:
    """Return N tr Cov / |g|^2."""
    return PAIRS * float(found.var(axis=0, ddof=1).sum() / (exact @ exact))


def shown(values: Sequence[float], *, quartiles: bool = False) -> str:
    """Return a median, with quartiles on demand."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.3g} ({low:.2g} to {high:.2g})" if quartiles else f"{middle:.3g}"


def print_sizes(games: int) -> None:
    """Print how large the two parts of the hyper-gradient are, and what one alone is worth."""
    rows: dict[str, list[str]] = {}
    for temperature in TEMPERATURES:
        found: dict[str, list[float]] = {}
        for seed in range(games):
            game = preference_game(seed, temperature)
            answer = game.evaluate(game.initial_upper_params)
            direct, total = answer.direct_gradient, answer.hyper_gradient
            response, first = total - direct, one_step(game)
            error = np.linalg.norm(first - response) / np.linalg.norm(response)
            for name, value in (
                ("size of the direct part", np.linalg.norm(direct)),
                ("size of the response", np.linalg.norm(response)),
                ("direct part alone: cosine to the whole", cosine(direct, total)),
                ("one-step advantage: cosine to the response", cosine(first, response)),
                ("one-step advantage: error of the response", error),
                ("one-step advantage: cosine of the whole", cosine(direct + first, total)),
            ):
                found.setdefault(name, []).append(float(value))
        for name, values in found.items():
            rows.setdefault(name, []).append(shown(values, quartiles=True))
    print("| in expectation | " + " | ".join(f"temperature {t}" for t in TEMPERATURES) + " |")
    print("|---" * (1 + len(TEMPERATURES)) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_estimators(games: int) -> None:
    """Print cosines and variances of the estimators, and whether the bar is reached."""
    print("| answers | temperature | estimator | mean cosine of the response | trVar |")
    print("|---|---|---|---|---|")
    bars: list[str] = []
    for answers in ("expected", "drawn"):
        for temperature in TEMPERATURES:
            variances: dict[str, list[float]] = {}
            for label, options in ESTIMATORS.items():
                cosines = []
                for seed in range(games):
                    game = preference_game(seed, temperature, answers=answers)
                    answer = game.evaluate(game.initial_upper_params)
                    exact = answer.hyper_gradient - answer.direct_gradient
                    found = responses(game, REPLICATES, **options)
                    variances.setdefault(label, []).append(relative_variance(found, exact))
                    cosines.append(float(np.mean([cosine(row, exact) for row in found])))
                print(
                    f"| {answers} | {temperature} | {label} | {shown(cosines)} "
                    f"| {shown(variances[label], quartiles=True)} |",
                    flush=True,
                )
            for label in list(ESTIMATORS)[1::2]:
                raw = np.array(variances[label.replace("(l - b)", "l")])
                ratios = raw / np.array(variances[label])
                reached = "yes" if np.median(ratios) >= 5.0 else "NO"
                ratio = shown(ratios.tolist(), quartiles=True)
                share = f"{(ratios >= 5.0).sum()} of {games}"
                name = f"{answers}, {temperature}, {label}"
                bars.append(f"| {name} | {ratio} | {share} | {reached} |")
    print("\n| variance without a baseline / with it >= 5 | median | games | reached |")
    print("|---|---|---|---|")
    print("\n".join(bars))


def main(games: int) -> None:
    """Print both tables."""
    began = time.perf_counter()
    print_sizes(games)
    print()
    print_estimators(games)
    print(f"\n{games} games, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--games", type=int, default=GAMES, help="games drawn")
    main(parser.parse_args().games)
