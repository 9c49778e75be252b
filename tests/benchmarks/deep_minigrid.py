"""How good hyper-gradients of a deep follower in MiniGrid are, against the exact one.

Run it as `python -m tests.benchmarks.deep_minigrid`; it prints a table, in about twenty minutes.
`--out demos/gallery/deep_minigrid.png` draws the figure, too.

The world is that of BilevelMiniGrid-v0, stepped as MiniGrid steps it: `environment()` of the game,
whose table gives the exact hyper-gradient. SoftDQN sees where the agent is and which way it looks,
85 numbers of 0 or 1, and never the table. x has 38 entries. At x = 0 the exact follower walks into
the lava at once; half-way to the best x known it ends in the lava and at the goal, and the norm of
the hyper-gradient is twenty times as large. Estimates are made from 256 episodes of the follower's
policy, cut after 100 steps (.95^100 = .006). KL is that of `deep`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelMiniGrid, ParametricGame
from bilevel_gym.envs.minigrid import AGENT
from bilevel_gym.plotting import INK, MUTED, new_figure, save_figure, tidy

from .deep import BEST, COLOURS, ONE_STEP, estimated, scored

BUDGETS, ESTIMATE, LIMIT = (2_000, 8_000, 32_000), (256, 2000), 100

# Shares of the best x known, and what they are called.
PLACES = {0.0: "x = 0", 0.5: "half-way to the best x"}

SHOWN = (BEST, "bc-hg", "hpgd", ONE_STEP)


class Seen(gym.ObservationWrapper[NDArray[np.float32], Any, Any]):
    """Where the agent is, a number for each cell, and its direction, `[W * H + 4]`."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        width, height, _ = env.observation_space.shape or ()
        self.observation_space = gym.spaces.Box(0.0, 1.0, (width * height + 4,), np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Return what the network sees of a grid `[W, H, 3]`."""
        return seen(observation[None])[0]


def seen(grids: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the network sees of grids `[B, W, H, 3]`, `[B, W * H + 4]`."""
    here = grids[..., 0] == AGENT
    directions = (grids[..., 2] * here).sum(axis=(1, 2))
    flat = here.reshape(len(grids), -1)
    return np.concatenate([flat, np.eye(4)[directions]], axis=1).astype(np.float32)


@cache
def exact() -> BilevelMiniGrid:
    """Return the game with its table."""
    return BilevelMiniGrid()


def world() -> gym.Env[Any, Any]:
    """Return the world itself, as learners step it: its layout is that of the game."""
    return Fixed(Seen(exact().environment()), seed=exact().seed)


class Fixed(gym.Wrapper[Any, Any, Any, Any]):
    """Every episode has the layout of one seed."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._seed = seed

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        return self.env.reset(seed=self._seed)


@cache
def numbers() -> NDArray[np.int64]:
    """Return the number of the state in each cell and direction, -1 for none, `[W * H, 4]`."""
    shown = seen(exact().table_of_world.observations[""])
    known = np.full((shown.shape[1] - 4, 4), -1)
    known[shown[:, :-4].argmax(axis=1), shown[:, -4:].argmax(axis=1)] = np.arange(len(shown))
    return known


def states_of(observations: NDArray[Any]) -> NDArray[np.int64]:
    """Return the numbers of states that were seen, `[B]`."""
    cells, directions = observations[:, :-4].argmax(axis=1), observations[:, -4:].argmax(axis=1)
    return numbers()[cells, directions]


@cache
def features() -> FloatArray:
    """Return dr/dx, `[S, A, D]`."""
    model = exact().model
    zero, eye = model.reward(np.zeros(model.low.size)), np.eye(model.low.size)
    return np.stack([model.reward(one) - zero for one in eye], axis=-1)


def place(share: float) -> FloatArray:
    """Return a share of the best x known."""
    best = exact().best_known
    assert best is not None
    return share * best.upper_params


class ShapedReward:
    """The game's r_x(s, a), as a function of batches of what the network sees."""

    num_params = exact().model.low.size

    def __init__(self, share: float) -> None:
        self._share = share

    def initial_params(self) -> FloatArray:
        """Return the x that is answered."""
        return place(self._share)

    def rewards(
        self, upper_params: FloatArray, observations: NDArray[Any], actions: NDArray[Any]
    ) -> FloatArray:
        """Return rewards, `[B]`."""
        taken = states_of(observations), np.asarray(actions, np.int64).reshape(-1)
        reward: FloatArray = exact().model.reward(upper_params)[taken]
        return reward

    def vjp(
        self,
        upper_params: FloatArray,
        observations: NDArray[Any],
        actions: NDArray[Any],
        weights: FloatArray,
    ) -> FloatArray:
        """Return sum_b weights(b) dr/dx, `[D]`."""
        taken = states_of(observations), np.asarray(actions, np.int64).reshape(-1)
        return weights @ features()[taken]


def upper_reward(
    observations: NDArray[Any], actions: NDArray[Any], rewards: FloatArray
) -> FloatArray:
    """Return the leader's reward of a batch, `[B]`."""
    reward = exact().model.upper_reward(exact().initial_upper_params)
    return reward[states_of(observations), np.asarray(actions, np.int64).reshape(-1)]


@dataclass(frozen=True)
class Point:
    """How good an estimate of the exact hyper-gradient was, after `budget` environment steps."""

    share: float
    budget: int
    seed: int
    method: str
    cosine: float
    error: float
    distance: float
    seconds: float


def points(share: float, budget: int, seed: int) -> list[Point]:
    """Train a follower, and estimate by each method."""
    x = place(share)
    options: dict[str, Any] = {"gamma": exact().gamma, "upper_gamma": exact().gamma}
    options |= {"temperature": exact().temperature, "entropy": "plain"}
    options |= {"upper_reward": upper_reward, "upper_bound": 1.0}
    game = ParametricGame(world, ShapedReward(share), episode_steps=LIMIT, **options)
    answer = exact().evaluate(x)
    # The response term: the cost of x is no part of what is estimated.
    true = answer.hyper_gradient - answer.direct_gradient
    schedule = {"learning_rate": None, "schedule_steps": budget, "device": "cpu"}
    began = time.perf_counter()
    estimates, follower = estimated(game, budget, ESTIMATE, schedule, seed, SHOWN)
    policy = follower.probabilities(seen(exact().table_of_world.observations[""]))
    divergence = (answer.policy * np.log(answer.policy / policy)).sum(axis=1)
    kl = float(answer.occupancy @ divergence / answer.occupancy.sum())
    seconds = time.perf_counter() - began
    return [
        Point(share, budget, seed, method, *scored(found, true), kl, seconds)
        for method, found in estimates.items()
    ]


def draw(found: Sequence[Point], path: Path) -> None:
    """Draw cosines above and relative errors below, by training steps, a column for each x."""
    figure = new_figure(7.2, 5.2)
    axes = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(1.3, 1.0))
    budgets = sorted({point.budget for point in found})
    for column, (share, title) in enumerate(PLACES.items()):
        here = [point for point in found if point.share == share]
        for panel, attribute in zip(axes[:, column], ("cosine", "error"), strict=True):
            for method in SHOWN:
                mine = [point for point in here if point.method == method]
                values = np.array(
                    [[getattr(p, attribute) for p in mine if p.budget == b] for b in budgets]
                )
                line = {"color": COLOURS[method], "zorder": 3 if method == BEST else 2}
                low, high = values.min(axis=1), values.max(axis=1)
                panel.fill_between(budgets, low, high, alpha=0.15, linewidth=0, **line)
                width = 2.4 if method == BEST else 1.5
                marked = {"marker": "o", "markersize": 3.5, "label": method}
                panel.plot(budgets, values.mean(axis=1), linewidth=width, **marked, **line)
            panel.set_xscale("log")
            far = [np.mean([p.distance for p in here if p.budget == b]) for b in budgets]
            labels = [f"{b:,}\nKL {kl:.2g}" for b, kl in zip(budgets, far, strict=True)]
            panel.set_xticks(budgets, labels, fontsize=8)
            panel.minorticks_off()
            panel.axhline(float(attribute == "cosine"), color=MUTED, linewidth=0.9, linestyle=":")
            tidy(panel)
        axes[0, column].set_title(title, color=INK, fontsize=10)
        axes[1, column].set_xlabel("environment steps of SoftDQN")
    axes[0, 0].set_ylabel("cosine to the exact one")
    axes[1, 0].set_ylabel("relative error")
    axes[0, 0].set_ylim(0.35, 1.03)
    where = {"loc": "outside lower center", "ncols": 5, "frameon": False, "fontsize": 9}
    figure.legend(*axes[0, 0].get_legend_handles_labels(), **where)
    save_figure(figure, path)


def main(seeds: Sequence[int], path: Path | None) -> None:
    """Print a table, and draw the figure."""
    import torch as th

    th.set_num_threads(1)
    found: list[Point] = []
    for share, budget, seed in itertools.product(PLACES, BUDGETS, seeds):
        found += points(share, budget, seed)
        print(
            f"{PLACES[share]}, {budget} steps, seed {seed}: {found[-1].seconds:.0f} s", flush=True
        )
    print_table(found)
    if path is not None:
        draw(found, path)


def print_table(found: Sequence[Point]) -> None:
    """Print mean cosines and relative errors as Markdown."""
    print("\n| x | steps | KL | " + " | ".join(SHOWN) + " |\n" + "|---" * (len(SHOWN) + 3) + "|")
    for share, budget in itertools.product(PLACES, BUDGETS):
        here = [p for p in found if p.share == share and p.budget == budget]
        cells = []
        for method in SHOWN:
            mine = [p for p in here if p.method == method]
            scores = [np.mean([getattr(p, a) for p in mine]) for a in ("cosine", "error")]
            cells.append("{:.3f} / {:.2f}".format(*scores))
        kl = np.mean([p.distance for p in here])
        print(f"| {PLACES[share]} | {budget} | {kl:.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds")
    parser.add_argument("--out", type=Path, help="the PNG to draw")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.out)
