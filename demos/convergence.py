"""How fast the gradient vanishes: M-SoBiRL and SoBiRL beside the O(1/K) of their theory.

The theory bounds the least squared norm of the hyper-gradient within K steps by a constant over K,
where steps are a constant times the gradient. So are they here, without clipping: x moves along
what a method estimates, and the referee `game.evaluate`, which the method does not see, gives the
exact gradient at each x (projected on the box). A curve that falls at least as steeply as the 1/K
line agrees with the theory.

SoBiRL plays the same number of episodes at each x, so that its estimates stay noisy: the faint
curve is the gradient at x_K itself with the first seed. The batches of Stoc-SoBiRL grow (up to a
limit, to save time), and its follower is learnt from them too. Lines are medians over seeds, bands
their range.

    python demos/convergence.py --out convergence.png

Y. Yang, B. Gao, Y. Yuan, "Bilevel reinforcement learning via the development of hyper-gradient
without lower-level convexity", AISTATS 2025, arXiv 2405.19697.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pool
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.methods import ExactResponse
from bilevel_gym.optimizers import projected_ascent, projected_gradient_norm
from bilevel_gym.plotting import INK, MUTED, PALETTE, figure_path, new_figure, save_figure, tidy
from bilevel_gym.wrappers import LeaderObjective

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Line:
    """A method as it is run; `draws` says whether its runs are random."""

    label: str
    method: str
    options: Mapping[str, Any]
    colour: str
    draws: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """A task and what is run on it: K evaluations, each a step of the rate times the gradient.

    Of the lines, `EXACT` is where the 1/K line is anchored.
    """

    task: str
    learning_rate: float
    evaluations: int
    lines: Sequence[Line]


EXACT = Line("exact gradient", "exact", {}, INK)
DEFAULT = Line("M-SoBiRL, paper's options", "m-sobirl", {}, PALETTE[0])
# The published single adjoint step is made for short horizons; Four-Rooms has gamma = .99.
LONGER = {"sweeps": 100, "adjoint_steps": 100}
GROWING = {"most_episodes": 512}

PANELS = (
    Panel(
        "BilevelRandomMDP-v0",
        8e-3,
        3000,
        (
            DEFAULT,
            Line("SoBiRL, 64 episodes", "sobirl", {"episodes": 64}, PALETTE[1], draws=True),
            EXACT,
        ),
    ),
    Panel(
        "BilevelFourRooms-v0",
        1.0,
        1000,
        (
            DEFAULT,
            Line("M-SoBiRL, 100 sweeps and adjoint steps", "m-sobirl", LONGER, PALETTE[2]),
            Line("SoBiRL, 256 episodes", "sobirl", {"episodes": 256}, PALETTE[1], draws=True),
            Line("Stoc-SoBiRL, up to 512 episodes", "stoc-sobirl", GROWING, PALETTE[3], draws=True),
            EXACT,
        ),
    ),
)
QUICK = (200, 8)  # evaluations of each task


@dataclass(frozen=True, eq=False)
class Run:
    """The squared norm of the exact gradient and the exact F at each x of one run, `[K]`."""

    squares: FloatArray
    objectives: FloatArray

    @property
    def least(self) -> FloatArray:
        """The least of the squares within the first 1, 2, ..., K steps, `[K]`."""
        return np.minimum.accumulate(self.squares)


def main(args: argparse.Namespace) -> None:
    """Run everything, draw it, and print what the curves say."""
    from rich.progress import Progress

    panels = [
        replace(panel, evaluations=quick) if args.quick else panel
        for panel, quick in zip(PANELS, QUICK, strict=True)
    ]
    jobs = [
        (panel, line, seed)
        for panel in panels
        for line in panel.lines
        for seed in range(args.seeds if line.draws else 1)
    ]
    figure = new_figure(10.0, 4.6)
    axes = dict(zip(panels, figure.subplots(1, len(panels)), strict=True))
    header = f"{'K':>6}{'least |grad F|^2':>18}{'slope':>8}{'fitted on K':>14}{'last F':>10}"
    with (
        Progress(transient=True, disable=not sys.stderr.isatty()) as bar,
        Pool(initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool,
    ):
        results = bar.track(pool.imap(run, jobs), total=len(jobs), description="ascents")
        found: dict[tuple[Panel, Line], list[Run]] = {}
        for (panel, line, _), result in zip(jobs, results, strict=True):
            found.setdefault((panel, line), []).append(result)
    for panel in panels:
        print(f"{panel.task:<42}{header}")
        lines = [(line, found[panel, line]) for line in panel.lines]
        for line, runs in lines:
            for seed, result in enumerate(runs):
                name = f"{line.label}, seed {seed}" if line.draws else line.label
                print(f"{name:<42}{row(result)}")
        draw(axes[panel], panel, lines)
    save_figure(figure, args.out)
    print(f"written: {args.out}")


def run(job: tuple[Panel, Line, int]) -> Run:
    """Ascend along one method's hyper-gradient from a seed, scored by the referee."""
    panel, line, seed = job
    env = HyperGradient(
        gym.make(panel.task),
        method=line.method,
        outer_steps=panel.evaluations + 1,
        **line.options,
    )
    game, leader = env.game, LeaderObjective(env)
    assert isinstance(game, TabularBilevelEnv)
    env.reset(seed=seed)
    answers: list[ExactResponse] = []

    def estimate(x: FloatArray) -> tuple[float, FloatArray]:
        answers.append(game.evaluate(x, warm_start=answers[-1] if answers else None))
        return leader(x)

    low, high = leader.low, leader.high
    projected_ascent(
        estimate,
        game.initial_upper_params,
        low,
        high,
        steps=panel.evaluations - 1,
        learning_rate=panel.learning_rate,
        schedule="constant",
        max_gradient_norm=None,
        stop_at_zero=False,  # an estimate of zero need not be the gradient
    )
    norms = [projected_gradient_norm(a.upper_params, a.hyper_gradient, low, high) for a in answers]
    return Run(np.square(norms), np.array([answer.objective for answer in answers]))


def decay(least: FloatArray) -> tuple[int, int]:
    """Return the first and the last K of the decay of a curve `[K]`.

    It begins where the curve has fallen to half of its start, and ends where it falls for the last
    time. Both are the last K of the curve where it never falls so far.
    """
    below = np.flatnonzero(least <= least[0] / 2.0)
    if not below.size:
        return len(least), len(least)
    falls = np.flatnonzero(np.diff(least) < 0.0)
    return int(below[0]) + 1, int(falls[-1]) + 2


def fitted_slope(least: FloatArray) -> float:
    """Return the slope of log(least) against log(K) over the decay, nan if there is too little.

    Least squares, in which equal stretches of log(K) have equal weight.
    """
    first, last = decay(least)
    if last - first < 2:
        return float("nan")
    counts, values = np.arange(first, last + 1), least[first - 1 : last]
    return float(np.polyfit(np.log(counts), np.log(values), 1, w=1.0 / np.sqrt(counts))[0])


def row(result: Run) -> str:
    """Return the numbers of a run, under the header that `main` prints."""
    least = result.least
    first, last = decay(least)
    fitted = f"{first}..{last}"
    return (
        f"{len(least):>6}{least[-1]:>18.2e}{fitted_slope(least):>8.2f}"
        f"{fitted:>14}{result.objectives[-1]:>10.4f}"
    )


def draw(axes: Axes, panel: Panel, results: Sequence[tuple[Line, Sequence[Run]]]) -> None:
    """Draw the curves of a task beside the 1/K line."""
    counts = np.arange(1, panel.evaluations + 1)
    # The line starts at a dot, where the exact gradient has fallen to half: the rate shows later.
    (anchor,) = (runs[0].least for line, runs in results if line is EXACT)
    first = decay(anchor)[0]
    later = counts[first - 1 :]
    label = "1/K from the dot"
    axes.plot(later, anchor[first - 1] * first / later, "--", color=MUTED, linewidth=1, label=label)
    axes.plot(first, anchor[first - 1], "o", color=MUTED, markersize=5, zorder=4)
    for line, runs in results:
        curves = np.array([result.least for result in runs])
        dashes = (0, (1, 2)) if line is EXACT else "-"
        if line.draws:
            label = f"{line.label} ({len(runs)} seeds)"
            low, high = curves.min(axis=0), curves.max(axis=0)
            axes.fill_between(counts, low, high, color=line.colour, alpha=0.25, linewidth=0)
            if line.method == "sobirl":
                axes.plot(counts, runs[0].squares, color=line.colour, linewidth=0.4, alpha=0.35)
        else:
            label = line.label
        median = np.median(curves, axis=0)
        axes.plot(counts, median, color=line.colour, linestyle=dashes, linewidth=1.6, label=label)
    axes.set(xscale="log", yscale="log", xlabel="K, evaluations of x")
    axes.set_title(f"{panel.task}, steps of {panel.learning_rate:g} x gradient", fontsize=10)
    axes.set_ylabel(r"min over k $\leq$ K of $\|\nabla F(x_k)\|^2$")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    tidy(axes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=figure_path, default="convergence.png", metavar="FILE.png", help="the figure"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each random method")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {arguments.seeds}")
    try:
        main(arguments)
    except KeyboardInterrupt:
        sys.exit("stopped: nothing was written")
