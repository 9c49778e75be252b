"""How good sampled hyper-gradients are, by the number of episodes, at the exact policy.

Run it as `python -m tests.benchmarks.estimators`; it prints tables and the bars, in some minutes.
`--out demos/gallery/estimators.png` draws the figure, too: means over the two placings.

The setting: four rooms of 104 cells, noise .15 (the intended move has probability .85), discount
.95, temperature .01. The follower walks from (4, 1) to its goal, which pays 1 and ends the episode;
the leader is paid for each step in a target cell. x shapes the reward of each state,
x[s] (104), or of each state and action, x[s, a] (416). The direct part is zero, so that the whole
hyper-gradient is the response. trVar is N tr Cov / |g|^2 at N = 256 episodes.

Methods are new for each replicate: nothing has been seen before. Stoc-sobirl is not among them: it
is sobirl here, but for its own schedule and inner learner.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelFourRooms, TabularBilevelEnv
from bilevel_gym.envs.four_rooms import PLACES, START
from bilevel_gym.methods import make_method
from bilevel_gym.plotting import INK, MUTED, PALETTE, new_figure, save_figure, tidy

GAMMA, TEMPERATURE, SLIP = 0.95, 0.01, 0.1125
# Goals and targets: half way to the goal, and closer to the start.
PLACINGS = (((11, 11), (10, 8)), ((11, 8), (8, 4)))

# Episodes, and how many replicates there are.
BUDGETS = {16: 60, 64: 40, 256: 60, 1024: 15, 4096: 6, 16_384: 3, 100_000: 2}
AT = 256


@dataclass(frozen=True)
class Estimator:
    """A method with its options, and how it is drawn: without a `colour`, not at all.

    `method` is a key of `bilevel_gym.methods.METHODS`, `largest` the most episodes it is given.
    """

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    largest: int = 100_000
    colour: str | None = None
    style: str = "-"


RAW, PLAIN = "sobirl, no baseline", "trace, no control variate"
# A hue for each method, dashes for what leaves something out of it.
ESTIMATORS = (
    Estimator("trace", "trace", colour=PALETTE[0]),
    Estimator(PLAIN, "trace", {"control_variate": False}, colour=PALETTE[5], style="--"),
    Estimator("trace, exact critic", "trace", {"critic": "exact"}, colour=PALETTE[11], style=":"),
    Estimator("trace, K = 1", "trace", {"truncation": 1}),
    Estimator("trace, K = 10", "trace", {"truncation": 10}),
    Estimator("trace, K = 40", "trace", {"truncation": 40}),
    Estimator("bc-hg", "bc-hg", colour=PALETTE[3]),
    Estimator("bc-hg, exact critic", "bc-hg", {"critic": "exact"}),
    Estimator("hpgd", "hpgd", colour=PALETTE[2]),
    Estimator(
        "hpgd, uniform starts", "hpgd", {"starts": "uniform"}, 16_384, colour=PALETTE[7], style="--"
    ),
    Estimator("sobirl", "sobirl", colour=PALETTE[1]),
    Estimator(RAW, "sobirl", {"baseline": False}, colour=PALETTE[6], style="--"),
    Estimator("sobirl, K = 40", "sobirl", {"truncation": 40}, colour=PALETTE[4], style=":"),
    Estimator("sobirl, K = 10", "sobirl", {"truncation": 10}, colour=PALETTE[10], style=":"),
    Estimator("sobirl, K = 1", "sobirl", {"truncation": 1}, colour=PALETTE[8], style=":"),
)


@dataclass(frozen=True)
class Row:
    """How good an estimator of the exact hyper-gradient g was at a number of episodes N.

    Means of steps, of cosines (zero for an estimate of zero) and of |estimate - g| / |g|;
    `bias` is |mean estimate - g| / |g|, noise of the mean included, `variance` N tr Cov / |g|^2,
    `size` the largest |estimate| / |g|.
    """

    episodes: int
    steps: float
    cosine: float
    error: float
    bias: float
    variance: float
    size: float


def four_rooms(
    *,
    per_action: bool,
    goal: tuple[int, int] = PLACINGS[0][0],
    target: tuple[int, int] = PLACINGS[0][1],
) -> TabularBilevelEnv:
    """Return the game, with x[s, a] or x[s]."""
    rooms = BilevelFourRooms(goals=[goal], slip=SLIP)
    reward, upper_reward, start = np.zeros((104, 4)), np.zeros((104, 4)), np.zeros(104)
    reward[PLACES.index(goal)] = 1.0
    upper_reward[PLACES.index(target)] = 1.0
    start[START] = 1.0
    leader: dict[str, Any] = {"upper_reward": upper_reward, "initial_distribution": start}
    features = np.eye(416).reshape(104, 4, 416) if per_action else None
    options: dict[str, Any] = {"gamma": GAMMA, "temperature": TEMPERATURE, "features": features}
    kernel = rooms.kernel(rooms.initial_upper_params)
    return TabularBilevelEnv.from_arrays(kernel, reward, **leader, **options)


def truncated(game: TabularBilevelEnv, terms: int | None) -> FloatArray:
    """Return the hyper-gradient of a discounted return with K terms of the advantage of dr/dx.

    All of them if `terms` is None; by matrices.
    """
    x = game.initial_upper_params
    kernel, policy = game.kernel(x), game.evaluate(x).policy
    dense, transition = kernel.policy_matrix(policy).toarray(), kernel.to_dense()
    upper_reward = game.upper_reward(x)
    system = np.eye(len(dense)) - game.gamma * dense
    occupancy = np.linalg.solve(system.T, game.initial_distribution)
    value = np.linalg.solve(system, (policy * upper_reward).sum(axis=1))
    q_value = upper_reward + game.gamma * transition @ value
    advantage = q_value - (policy * q_value).sum(axis=1, keepdims=True)
    injected = occupancy[:, None] * policy * advantage / game.temperature
    arrived = game.gamma * np.einsum("sa,sat->t", injected, transition)
    if terms is None:
        flow = np.linalg.solve(system.T, arrived)
    else:
        flow = np.zeros_like(arrived)
        for _ in range(terms - 1):
            flow, arrived = flow + arrived, game.gamma * dense.T @ arrived
    return game.reward_vjp(x, injected + policy * flow[:, None])


def cosine(first: FloatArray, second: FloatArray) -> float:
    """Return the cosine of two arrays; zero where one of them is zero but for rounding."""
    norms = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if norms[0] <= 1e-10 * norms[1] or norms[1] == 0.0:
        return 0.0
    return float((first * second).sum()) / (norms[0] * norms[1])


def measured(
    game: TabularBilevelEnv, exact: FloatArray, estimator: Estimator, episodes: int, replicates: int
) -> Row:
    """Return how good an estimator of g, `exact`, is with N episodes at the initial x."""
    options = dict(estimator.options, episodes=episodes)
    if options.get("starts") == "uniform":  # as many episodes as the other methods, or few
        options["rollouts"] = max(1, episodes // (2 * game.num_states * game.num_actions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that K = 1 sees nothing is what is shown
        method = make_method(estimator.method, game, **options)
    found, steps = np.empty((replicates, exact.size)), 0
    for replicate in range(replicates):
        method.reset(np.random.default_rng([episodes, replicate]))
        response = method.step(game.initial_upper_params)
        assert response.hyper_gradient is not None and response.samples is not None
        found[replicate] = response.hyper_gradient.ravel()
        steps += response.samples
    g, size = exact.ravel(), float(np.linalg.norm(exact))
    return Row(
        episodes,
        steps / replicates,
        float(np.mean([cosine(estimate, g) for estimate in found])),
        float(np.linalg.norm(found - g, axis=1).mean()) / size,
        float(np.linalg.norm(found.mean(axis=0) - g)) / size,
        episodes * float(found.var(axis=0, ddof=1).sum()) / size**2,
        float(np.linalg.norm(found, axis=1).max()) / size,
    )


def study(game: TabularBilevelEnv, largest: int) -> dict[str, list[Row]]:
    """Return the rows of each estimator."""
    exact = game.evaluate(game.initial_upper_params).hyper_gradient
    return {
        estimator.label: [
            measured(game, exact, estimator, episodes, replicates)
            for episodes, replicates in BUDGETS.items()
            if episodes <= min(largest, estimator.largest)
        ]
        for estimator in ESTIMATORS
    }


def print_study(rows: dict[str, list[Row]]) -> None:
    """Print cosines and errors by the number of episodes, as Markdown."""
    budgets = sorted({row.episodes for found in rows.values() for row in found})
    print("| estimator | " + " | ".join(f"{n}" for n in budgets) + " | trVar | steps at 256 |")
    print("|---" * (len(budgets) + 3) + "|")
    for label, found in rows.items():
        cells = {row.episodes: f"{row.cosine:.3f} / {row.error:.3f}" for row in found}
        values = " | ".join(cells.get(n, "") for n in budgets)
        print(f"| {label} | {values} | {at(found).variance:.1f} | {at(found).steps:.0f} |")


def print_truncation(game: TabularBilevelEnv, terms: Sequence[int]) -> None:
    """Print what K terms give in expectation."""
    exact = game.evaluate(game.initial_upper_params).hyper_gradient
    for number in terms:
        found = truncated(game, number)
        error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
        print(f"| {number} | {cosine(found, exact):.4f} | {error:.4f} |")


def bar(text: str, value: float, reached: bool) -> None:
    """Print what was asked for, and whether it was reached."""
    print(f"| {text} | {value:.4g} | {'yes' if reached else 'NO'} |")


def print_bars(rows: dict[str, list[Row]], game: TabularBilevelEnv, *, per_action: bool) -> None:
    """Print what was asked for, and whether it was reached."""
    exact = game.evaluate(game.initial_upper_params).hyper_gradient
    for label in ("trace", PLAIN, "trace, exact critic"):
        few, share = at(rows[label]), at(rows[label]).variance / at(rows[RAW]).variance
        bar(f"{label}: cosine at 256 >= .98", few.cosine, few.cosine >= 0.98)
        bar(f"{label}: variance / raw <= .5", share, share <= 0.5)
        for many in (row for row in rows[label] if row.episodes == 100_000):
            bar(f"{label}: cosine at 1e5 >= .999", many.cosine, many.cosine >= 0.999)
            bar(f"{label}: error at 1e5 <= .02", many.error, many.error <= 0.02)
    if not per_action:
        one = max(row.size for row in rows["sobirl, K = 1"])
        bar("K = 1 is zero (size / |g|)", one, one <= 1e-12)
    forty = cosine(truncated(game, 40), exact)
    bar("K = 40: cosine >= .999", forty, forty >= 0.999)


def draw(studies: dict[bool, list[dict[str, list[Row]]]], path: Path) -> None:
    """Draw cosines and variances of `studies`: by whether x has an entry for each action."""
    figure = new_figure(9.0, 7.4)
    axes = figure.subplots(2, 2, sharex="row", sharey="row", height_ratios=(1.5, 1.0))
    drawn = [estimator for estimator in ESTIMATORS if estimator.colour is not None]
    for column, (per_action, placings) in enumerate(studies.items()):
        curves, bars = axes[:, column]
        for estimator in drawn:
            rows = [placing[estimator.label] for placing in placings]
            curves.plot(
                [row.episodes for row in rows[0]],
                [1.0 - np.mean([row.cosine for row in same]) for same in zip(*rows, strict=True)],
                estimator.style,
                color=estimator.colour,
                linewidth=2.4 if estimator is drawn[0] else 1.5,
                marker="o",
                markersize=3.5,
                label=estimator.label,
                zorder=3 if estimator is drawn[0] else 2,
            )
        curves.set_title(f"{'x[s, a]: 416' if per_action else 'x[s]: 104'} parameters", color=INK)
        curves.axhline(0.02, color=INK, linewidth=0.9)
        curves.axvline(AT, color=MUTED, linewidth=0.9, linestyle=":")
        curves.set_xscale("log")
        curves.set_xticks(list(BUDGETS), [f"{episodes:,}" for episodes in BUDGETS])
        curves.set_xlabel("episodes from the start state")
        variances = [[at(rows[e.label]).variance for rows in placings] for e in drawn]
        raw = [at(rows[RAW]).variance for rows in placings]
        shares = [float(share) for share in np.divide(variances, raw).mean(axis=1)]
        places = np.arange(len(drawn))[::-1]
        bars.barh(places, shares, color=[str(e.colour) for e in drawn], height=0.7)
        for place, share in zip(places, shares, strict=True):
            beyond = share > 1.1  # off the scale
            bars.text(
                1.19 if beyond else share + 0.008,
                place,
                f"{share:.0f} \N{RIGHTWARDS ARROW}" if beyond else f"{share:.2f}",
                ha="right" if beyond else "left",
                va="center",
                fontsize=7,
                color="white" if beyond else INK,
            )
        bars.set_xlim(0.0, 1.2)
        bars.axvline(0.5, color=INK, linewidth=0.9, zorder=0)
        bars.set_yticks(places, [e.label for e in drawn], fontsize=8)
        bars.set_xlabel(f"variance at {AT} episodes / that of {RAW}")
        tidy(curves)
        tidy(bars)
        bars.grid(visible=False)
    # Distances to one, on a log scale, with the cosines they stand for.
    ticks = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4, 1e-5)
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_yticks(ticks, [f"{1.0 - tick:.5g}" for tick in ticks])
    for curves in axes[0]:
        curves.minorticks_off()
    axes[0, 0].set_ylim(1.3, 4e-6)
    axes[0, 0].set_ylabel("mean cosine to the exact hyper-gradient")
    place = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": 8}
    figure.legend(*axes[0, 0].get_legend_handles_labels(), **place)
    save_figure(figure, path)


def at(rows: list[Row]) -> Row:
    """Return the row of 256 episodes."""
    return next(row for row in rows if row.episodes == AT)


def main(largest: int, path: Path | None) -> None:
    """Print tables and bars, and draw the figure."""
    began = time.perf_counter()
    studies: dict[bool, list[dict[str, list[Row]]]] = {True: [], False: []}
    for goal, target in PLACINGS:
        for per_action in (True, False):
            game = four_rooms(per_action=per_action, goal=goal, target=target)
            title = f"{'x[s, a]' if per_action else 'x[s]'}, goal {goal}, target {target}"
            value = game.evaluate(game.initial_upper_params).objective
            rows = study(game, largest)
            studies[per_action].append(rows)
            print(f"\n## {title}: F = {value:.4f}; mean cosine / mean relative error\n")
            print_study(rows)
            print("\n| K | cosine in expectation | relative error |\n|---|---|---|")
            print_truncation(game, (1, 2, 5, 10, 20, 40))
            print("\n| bar | value | reached |\n|---|---|---|")
            print_bars(rows, game, per_action=per_action)
            print(f"\n{time.perf_counter() - began:.0f} s so far", flush=True)
    if path is not None:
        draw(studies, path)
        print(f"drawn: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--largest", type=int, default=100_000, help="most episodes of a point, at least 256"
    )
    parser.add_argument("--out", type=Path, help="the PNG to draw")
    arguments = parser.parse_args()
    if arguments.largest < AT:
        parser.error(f"--largest must be at least {AT}, got {arguments.largest}")
    main(arguments.largest, arguments.out)
