"""Crowds in numbers: Sioux Falls under tolls, its adjoint and times, and finitely many followers.

Run it as `python -m tests.benchmarks.crowds`; it prints tables in Markdown, in some minutes.
`--out demos/gallery/crowds.png` draws the figure, too: what N followers with the policy of the
equilibrium make of it. Their crowd, and the leader's mean return in it, tend to the equilibrium's
as 1 / sqrt(N).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import bilevel_gym
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelCongestion, MeanFieldEnv
from bilevel_gym.plotting import INK, PALETTE, figure_path, new_figure, save_figure, tidy

FOLLOWERS = (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
REPEATS = 30
TASKS = ("BilevelMarketEntry-v0", "BilevelCongestion-v0")

POINTS, STEP = 10, 1e-5


def differences(game: Any, points: int = POINTS) -> list[dict[str, float]]:
    """Compare the hyper-gradient with central differences along random directions, at random x."""
    rng, rows = np.random.default_rng(0), []
    low, high = game.model.low, game.model.high
    for _ in range(points):
        x = low + (high - low) * rng.uniform(0.0, 0.3, low.shape)
        began = time.perf_counter()
        answer = game.evaluate(x)
        took = time.perf_counter() - began
        direction = rng.normal(size=x.shape)
        direction *= (high - low).max() / np.linalg.norm(direction)
        ends = [
            game.evaluate(np.clip(x + h * direction, low, high), warm_start=answer)
            for h in (STEP, -STEP)
        ]
        change = (ends[0].objective - ends[1].objective) / (2.0 * STEP)
        response = (answer.hyper_gradient - answer.direct_gradient) @ direction
        rows.append(
            {
                "error": abs(answer.hyper_gradient @ direction - change) / abs(response),
                "residual": answer.residual,
                "adjoint": answer.adjoint_residual,
                "steps": float(answer.iterations),
                "seconds": took,
            }
        )
    return rows


def totals() -> dict[str, float]:
    """Return total travel times of Sioux Falls: of tolls, and of what no toll can go below."""
    game = BilevelCongestion()
    nothing = np.zeros(game.upper_space.shape)
    # Roads with 5 times the delay have t + f t' for a travel time: their equilibrium is an optimum.
    colder, deterministic, logit = (
        BilevelCongestion(delay=0.15 * factor, temperature=temperature).evaluate(nothing)
        for factor, temperature in ((1.0, 0.003), (5.0, 0.003), (5.0, 0.5))
    )
    found = {
        "no tolls": game.total_time(game.evaluate(nothing)),
        "no tolls, temperature .003": game.total_time(colder),
        "marginal costs of the optimum": game.total_time(
            game.evaluate(game.marginal_cost_tolls(deterministic))
        ),
        "marginal costs of the equilibrium": game.total_time(
            game.evaluate(game.marginal_cost_tolls(logit))
        ),
        "optimum, of drivers who obey": game.total_time(deterministic),
    }
    if game.best_known is not None:
        best = game.total_time(game.evaluate(game.best_known.upper_params))
        found["best tolls known"] = best
    return found


def errors(game: MeanFieldEnv, followers: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return root mean squares of the errors of crowd and return, relative to the equilibrium's."""
    answer = game.evaluate(game.initial_upper_params)
    drawn = [game.model.sampled_crowd(answer, followers, rng) for _ in range(REPEATS)]
    size = np.linalg.norm(answer.crowd)
    crowds = [np.linalg.norm(crowd - answer.crowd) / size for crowd, _ in drawn]
    returns = [(value - answer.objective) / answer.objective for _, value in drawn]
    return _root_mean_square(crowds), _root_mean_square(returns)


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def draw(found: dict[str, FloatArray], path: Path) -> None:
    """Draw errors `[N, 2]` of each task against the number of followers."""
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for place, (name, rows) in zip(axes, found.items(), strict=True):
        for column, label in enumerate(("crowd", "leader's return")):
            style = {"color": PALETTE[column], "marker": "o", "markersize": 3.5}
            place.plot(FOLLOWERS, rows[:, column], label=label, **style)
            slope = rows[-1, column] * np.sqrt(FOLLOWERS[-1] / np.array(FOLLOWERS))
            line = {"color": INK, "linewidth": 0.9, "linestyle": ":"}
            place.plot(FOLLOWERS, slope, label="1 / sqrt(N)" if column else None, **line)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_title(name, color=INK)
        place.set_xlabel("followers N")
        tidy(place)
    axes[0].set_ylabel("error, relative to the mean field")
    axes[0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=figure_path, help="where the figure goes, a PNG")
    out = parser.parse_args().out
    games: dict[str, Any] = {name: bilevel_gym.make(name).unwrapped for name in TASKS}
    print("| task | worst difference | residual | adjoint | steps | seconds, cold |")
    print("|---|---|---|---|---|---|")
    for name, game in games.items():
        rows = differences(game)
        worst = {key: max(row[key] for row in rows) for key in rows[0]}
        steps, seconds = (np.median([row[key] for row in rows]) for key in ("steps", "seconds"))
        print(
            f"| {name} | {worst['error']:.1e} | {worst['residual']:.0e} | {worst['adjoint']:.0e} "
            f"| {steps:.0f} | {seconds:.3f} |",
            flush=True,
        )
    print("\n| Sioux Falls | total travel time | gap closed |\n|---|---|---|")
    times = totals()
    free, least = times["no tolls"], times["optimum, of drivers who obey"]
    for name, total in times.items():
        print(f"| {name} | {total:,.0f} | {(free - total) / (free - least):.2%} |", flush=True)
    found, rng = {}, np.random.default_rng(0)
    print("\n| task | followers | error of the crowd | of the leader's return |\n|---|---|---|---|")
    for name, game in games.items():
        found[name] = np.array([errors(game, followers, rng) for followers in FOLLOWERS])
        for followers, (crowd, value) in zip(FOLLOWERS, found[name], strict=True):
            print(f"| {name} | {followers:,} | {crowd:.4f} | {value:.4f} |", flush=True)
    if out is not None:
        draw(found, out)


if __name__ == "__main__":
    gym.logger.min_level = gym.logger.ERROR
    main()
