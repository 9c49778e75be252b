"""How good methods that see only episodes are on ten games, and whether their error bars are true.

Run it as `python -m tests.benchmarks.sampled`: it prints tables and the bars, in about a quarter of
an hour on one core; `--part` runs one of them. `--out demos/gallery/error_bars.png` draws the
cosine that error bars predict against the true one.

The games are those of `ten_games.toml`, on which nothing was tuned; each at five x, the task's own
plus noise of a standard deviation of .02 min(width of the box, 2). Methods are new for each
estimate: nothing has been seen before.

* estimates: cosine and relative error of the response term at the follower's exact policy, by the
  number of episodes, and processor time; at 256 episodes from four estimates at each x.
* learnt: the same with a follower who learns, by certainty equivalence at its defaults.
* bars: |error|^2 / sum SE^2, and the share of entries of the hyper-gradient within 1.96 SE, over
  replicates at one x, for six games. Of each estimate the entries count whose SE is at least a
  hundredth of the largest: others belong to pairs that were seldom or never seen.
"""

from __future__ import annotations

import argparse
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym import make
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.methods import make_method
from bilevel_gym.plotting import INK, MUTED, PALETTE, new_figure, save_figure, tidy

from .estimators import bar, cosine

FILE = Path(__file__).with_name("ten_games.toml")
BUDGETS, AT, POINTS = (64, 256, 1024, 4096, 65_536), 256, 5
REPEATS = 4  # estimates at each x, where there are AT episodes
METHODS = ("plug-in", "trace", "bc-hg", "hpgd", "sobirl")
# Games whose error bars are looked at, by their place in the file; and replicates.
BARRED, REPLICATES, OTHERS = (1, 4, 5, 6, 7, 9), 200, 40


def games() -> dict[str, Any]:
    """Return the ten games by their labels."""
    tasks = tomllib.loads(FILE.read_text(encoding="utf-8"))["tasks"]
    return {task["label"]: make(task["id"], **task.get("kwargs", {})).unwrapped for task in tasks}


def point(game: Any, number: int) -> FloatArray:
    """Return one of the x at which a game is looked at."""
    rng, space = np.random.default_rng([0, number]), game.upper_space
    width = np.minimum(space.high - space.low, 2.0)
    x = game.initial_upper_params + 0.02 * width * rng.standard_normal(space.shape)
    return np.asarray(game.validate_upper_params(np.clip(x, space.low, space.high)))


@dataclass(frozen=True)
class Found:
    """An estimate: its cosine, that predicted, the response term's relative error, its time."""

    game: str
    cosine: float
    predicted: float | None
    error: float
    seconds: float
    samples: int


def estimated(
    name: str, game: Any, method: str, episodes: int, seed: int, **options: Any
) -> Iterator[Found]:
    """Yield an estimate at each of a game's points."""
    for number in range(1, POINTS + 1):
        x = point(game, number)
        exact = game.evaluate(x)
        response = exact.hyper_gradient - exact.direct_gradient
        learner: Any = make_method(method, game, episodes=episodes, **options)
        learner.reset(np.random.default_rng([seed, number]))
        begun = time.process_time()
        found = learner.step(x)
        seconds = time.process_time() - begun
        error = found.hyper_gradient - found.direct_gradient - response
        yield Found(
            game=name,
            cosine=cosine(found.hyper_gradient, exact.hyper_gradient),
            predicted=found.hyper_gradient_cosine,
            error=float(np.linalg.norm(error) / np.linalg.norm(response)),
            seconds=seconds,
            samples=found.samples,
        )


def print_estimates(found: dict[str, list[Found]], title: str) -> None:
    """Print a line for each method, and the errors by game."""
    print(title)
    names = list(dict.fromkeys(one.game for ones in found.values() for one in ones))
    for method, ones in found.items():
        cosines = np.array([one.cosine for one in ones])
        errors = [np.mean([o.error for o in ones if o.game == name]) for name in names]
        mean = 1e3 * np.mean([one.seconds for one in ones])
        print(
            f"  {method:8s} median cosine {np.median(cosines):.3f}, above .9 "
            f"{(cosines > 0.9).sum()} of {len(cosines)}; error by game "
            + " ".join(f"{error:.2f}" for error in errors)
            + f"; {mean:.0f} ms, {np.mean([one.samples for one in ones]):.0f} steps",
            flush=True,
        )


def errors_of(found: Sequence[Found]) -> FloatArray:
    """Return the mean relative error of each game."""
    names = dict.fromkeys(one.game for one in found)
    return np.array([np.mean([o.error for o in found if o.game == name]) for name in names])


def run_estimates(worlds: dict[str, Any], seed: int) -> list[Found]:
    """Print what methods reach at the exact policy; return those of the error bars' figure."""
    at: dict[str, list[Found]] = {}
    for episodes in BUDGETS:
        methods = METHODS if episodes == AT else ("plug-in", "trace")
        bars = episodes <= 1024
        found = {
            method: [
                one
                for name, game in worlds.items()
                for number in range(REPEATS if episodes == AT else 1)
                for one in estimated(name, game, method, episodes, seed + number, error_bars=bars)
            ]
            for method in methods
        }
        print_estimates(found, f"exact follower, {episodes} episodes")
        if episodes == AT:
            at = found
    plug_in, trace = at["plug-in"], at["trace"]
    cosines = np.array([one.cosine for one in plug_in])
    middle, above = float(np.median(cosines)), 50.0 * float((cosines > 0.9).mean())
    bar("plug-in, median cosine >= .97", middle, middle >= 0.97)
    bar("plug-in, above .9, of 50 >= 42", above, above >= 42)
    halved = float((errors_of(plug_in) <= 0.5 * errors_of(trace)).sum())
    bar("games where its error is at most half of trace's >= 7", halved, halved >= 7)
    quick = [
        [
            one.seconds
            for name, game in worlds.items()
            for one in estimated(name, game, method, AT, seed, error_bars=False)
        ]
        for method in ("plug-in", "trace")
    ]
    ratio = float(np.median(np.divide(quick[0], quick[1])))
    bar("its time, error bars left out, over trace's <= 1.0", ratio, ratio <= 1.0)
    return [one for ones in at.values() for one in ones]


def run_learnt(worlds: dict[str, Any], seed: int) -> None:
    """Print the same with followers who learn."""
    options = {"inner": "certainty-equivalence", "error_bars": False}
    found = {
        method: [
            one
            for name, game in worlds.items()
            for number in range(REPEATS)
            for one in estimated(name, game, method, AT, seed + number, **options)
        ]
        for method in ("plug-in", "trace")
    }
    print_estimates(found, f"learnt follower, {AT} episodes beside its own")
    good = 50.0 * float(np.mean([one.cosine > 0.9 for one in found["plug-in"]]))
    bar("plug-in with a learnt follower, above .9, of 50 >= 36", good, good >= 36)


def replicated(
    game: Any, method: str, episodes: int, count: int, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return estimates and standard errors `[R, *x]` at a game's first point, and the truth."""
    x = point(game, 1)
    learner: Any = make_method(method, game, episodes=episodes)
    estimates, errors = [], []
    for number in range(count):
        learner.reset(np.random.default_rng([seed, number]))
        found = learner.step(x)
        estimates.append(found.hyper_gradient)
        unknown = np.full(x.shape, np.nan)
        errors.append(unknown if found.hyper_gradient_se is None else found.hyper_gradient_se)
    return np.stack(estimates), np.stack(errors), game.evaluate(x).hyper_gradient


def covered_share(off: FloatArray, errors: FloatArray) -> float:
    """Return the share of entries of replicates `[R, *x]` that are off by at most 1.96 SE."""
    largest = errors.max(axis=tuple(range(1, errors.ndim)), keepdims=True)
    return float((np.abs(off) < 1.96 * errors)[errors >= 0.01 * largest].mean())


def run_bars(worlds: dict[str, Any], seed: int) -> None:
    """Print whether error bars are true."""
    chosen = [list(worlds.items())[place] for place in BARRED]
    for episodes in (64, AT, 1024):
        rows = []
        for name, game in chosen:
            estimates, errors, exact = replicated(game, "plug-in", episodes, REPLICATES, seed)
            off = estimates - exact
            ratio = float(np.nansum(off**2) / np.nansum(errors**2))
            covered = covered_share(off, errors)
            bias = float(np.linalg.norm(off.mean(axis=0)) / np.linalg.norm(exact))
            rows.append((ratio, covered))
            print(
                f"plug-in, {episodes} episodes, {name}: |error|^2 / sum SE^2 {ratio:.2f}, covered "
                f"{covered:.3f}, bias / |g| {bias:.4f}, times episodes {bias * episodes:.1f}",
                flush=True,
            )
        ratios, shares = np.array(rows).T
        print(f"plug-in, {episodes} episodes, medians: {np.median(ratios):.2f}, {shares}")
        if episodes == 1024:
            middle = float(np.median(ratios))
            bar("median of |error|^2 / sum SE^2 >= 0.8", middle, middle >= 0.8)
            bar("median of |error|^2 / sum SE^2 <= 1.3", middle, middle <= 1.3)
            least, most = float(shares.min()), float(shares.max())
            bar("least covered >= .92", least, least >= 0.92)
            bar("most covered <= .97", most, most <= 0.97)
    for method in METHODS[1:]:
        for name, game in chosen:
            estimates, errors, exact = replicated(game, method, AT, OTHERS, seed)
            off = estimates - exact
            covered = covered_share(off, errors)
            ratio = float(np.nansum(off**2) / np.nansum(errors**2))
            print(f"{method}, {AT} episodes, {name}: {ratio:.2f}, {covered:.3f}", flush=True)


def draw(found: Sequence[Found], path: Path) -> None:
    """Draw true against predicted cosines."""
    figure = new_figure(6.0, 5.4)
    axis = figure.add_subplot()
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
    for place, name in enumerate(dict.fromkeys(one.game for one in found)):
        ones = [one for one in found if one.game == name and one.predicted is not None]
        points = np.array([(one.predicted, one.cosine) for one in ones], dtype=np.float64)
        axis.scatter(
            points[:, 0],
            points[:, 1],
            s=14,
            color=PALETTE[place % len(PALETTE)],
            label=name,
        )
    axis.set_xlabel("cosine that the error bars predict", color=INK)
    axis.set_ylabel("cosine to the exact hyper-gradient", color=INK)
    axis.legend(fontsize=7, frameon=False)
    tidy(axis)
    save_figure(figure, path)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("estimates", "learnt", "bars"), help="one of them alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the figure goes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    gym.logger.min_level = gym.logger.ERROR
    worlds = games()
    if options.part in (None, "estimates"):
        found = run_estimates(worlds, options.seed)
        if options.out is not None:
            draw(found, options.out)
    if options.part in (None, "learnt"):
        run_learnt(worlds, options.seed)
    if options.part in (None, "bars"):
        run_bars(worlds, options.seed)


if __name__ == "__main__":
    main()
