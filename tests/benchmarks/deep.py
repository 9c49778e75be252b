"""How good hyper-gradients of deep followers are, against exact ones.

Run it as `python -m tests.benchmarks.deep`; it prints tables and the bars, in some minutes.
`--out demos/gallery/deep.png` draws the figure, too.

Four rooms. The setting is that of `estimators`: 104 cells, noise .15, discount .95, temperature
.01, a goal that pays 1 and ends the episode; x[s, a] (416 entries) or x[s] (104) shapes the reward,
and the direct part is zero. SoftDQN is the follower, for as many steps as its schedules run over,
in episodes that are cut after 180 steps (.95^180 = 1e-4). Both x are answered by the same follower:
at the initial x their rewards are the same. KL is sum_s d(s) KL(pi*(. | s) || pi(. | s)) with the
discounted occupancy d of pi*, normalised.

LQR. BilevelLQR-v0 with 2 states and 1 control, discount .9, temperature .3, x the log-weights of
the follower's costs, in closed form; again there is no direct part. SoftSAC is the follower, in
episodes of 40 steps (.9^40 = .015). Its entropy is of actions scaled to [-1, 1], which shifts every
reward by the same number. Its policy is a squashed Gaussian, which approximates the Gaussian
optimum where the box has room: `action_limit` is 2, the optimum's standard deviation .35 about a
mean that rarely leaves [-1, 1]. A much wider box is harder to learn in: the critic would spend its
precision on actions that never happen. Of what the one-step estimate has three entries for, it sees
the cost of the control alone, so that its cosine is .69 or -.69.

Estimates are made from 256 episodes of the follower's policy (1024 in LQR, whose estimates are
noisier: at the exact policy, with the exact critic, the mean relative error of trace is .15 at 256)
with a critic that is fitted to the replay from nothing. All methods see the same follower, the same
episodes and the same critic. With `state_features`, 60 by default, the trace takes away what the
state explains of the advantages along an episode, which is noise. `hpgd` has no use for the replay:
its advantages are a regression of the returns of those 256 (1024) episodes. `score` learns how the
policy moves with x from the replay and those episodes, a number for each entry of x, and so is
there for LQR alone.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bilevel_gym import LowerLevel
from bilevel_gym.core.lqr import Coefficients
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelLQR, TabularBilevelEnv
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.learnt.tables import TableGame
from bilevel_gym.methods import LEARNT_METHODS, make_method
from bilevel_gym.model.protocols import LearntGame
from bilevel_gym.plotting import INK, MUTED, PALETTE, new_figure, save_figure, tidy
from bilevel_gym.rewards.models import FEW

from .estimators import PLACINGS, bar, cosine, four_rooms

# What estimates, with its options, and how it is drawn. The first one has to reach the bars.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "trace": ("trace", {}),
    "score": ("score", {}),
    "trace, no state features": ("trace", {"state_features": 0}),
    "bc-hg": ("bc-hg", {}),
    "hpgd": ("hpgd", {}),
    "sobirl, one step": ("sobirl", {}),
}
BEST, ONE_STEP = list(METHODS)[0], list(METHODS)[-1]
COLOURS = dict(
    zip(
        METHODS,
        (PALETTE[0], PALETTE[4], PALETTE[5], PALETTE[3], PALETTE[2], PALETTE[1]),
        strict=True,
    )
)

COSINE_BAR, ERROR_BAR, KL_BAR = 0.95, 0.3, 0.05

ROOMS_BUDGETS = (5_000, 10_000, 30_000)
# Episodes that an estimate is made from, and updates of the critic.
ROOMS_ESTIMATE = (256, 2000)
# Settings of x, and what they are called.
PER_ACTION, PER_STATE, COSTS = "x[s, a]", "x[s]", "LQR"

LQR_BUDGETS, LQR_LIMIT = (1_000, 4_000), 40
LQR_ESTIMATE = (1024, 4000)
LQR: dict[str, Any] = {"dynamics": [[0.9, 0.3], [-0.2, 0.9]], "control": [[0.2], [0.8]]}
LQR |= {"state_cost": [[1.0, 0.0], [0.0, 0.5]], "action_cost": [[0.5]]}
LQR |= {"upper_state_cost": [[0.2, 0.0], [0.0, 2.0]], "upper_action_cost": [[0.3]]}
LQR |= {"upper_cost": 0.0, "gamma": 0.9, "temperature": 0.3}
LQR |= {"noise_std": 0.2, "start_std": 0.6, "action_limit": 2.0}


@dataclass(frozen=True)
class Point:
    """How good an estimate of the exact hyper-gradient g was, after `budget` environment steps.

    `error` is |estimate - g| / |g|, `distance` the KL of the follower from its optimum or, in LQR,
    the error of its gain, `seconds` the time of the whole, for all methods of a follower.
    """

    setting: str
    budget: int
    seed: int
    method: str
    cosine: float
    error: float
    distance: float
    seconds: float


# Four rooms -------------------------------------------------------------------------------------


@cache
def rooms() -> TabularBilevelEnv:
    """Return the game of x[s, a]."""
    return four_rooms(per_action=True, goal=PLACINGS[1][0], target=PLACINGS[1][1])


def of_rooms(budget: int, seed: int) -> list[Point]:
    """Train a follower in four rooms, and estimate by each method, for both x."""
    table = rooms()
    game = TableGame(table.model)
    x = game.initial_upper_params
    answer = table.evaluate(x)
    schedule = {"learning_rate": None, "schedule_steps": budget, "device": "cpu"}
    began = time.perf_counter()
    estimates, follower = estimated(game, budget, ROOMS_ESTIMATE, schedule, seed)
    policy = follower.probabilities(np.arange(104))
    divergence = (answer.policy * np.log(answer.policy / policy)).sum(axis=1)
    kl, seconds = float(answer.occupancy @ divergence), time.perf_counter() - began
    points = []
    for method, estimate in estimates.items():
        # x[s] moves the rewards of all actions of a state together.
        pairs = {
            PER_ACTION: (estimate, answer.hyper_gradient),
            PER_STATE: tuple(
                g.reshape(104, 4).sum(axis=1) for g in (estimate, answer.hyper_gradient)
            ),
        }
        for setting, (found, exact) in pairs.items():
            points.append(Point(setting, budget, seed, method, *scored(found, exact), kl, seconds))
    return points


# LQR --------------------------------------------------------------------------------------------


@cache
def regulator() -> BilevelLQR:
    """Return the linear-quadratic game."""
    return BilevelLQR(**LQR)


def regulator_seat() -> LowerLevel:
    """Return the follower's seat at the initial x, in a game of its own."""
    game = BilevelLQR(**LQR)
    return LowerLevel(game, game.initial_upper_params)


class QuadraticReward:
    """The game's r_x(s, a), as a function of batches."""

    num_params = 3

    def initial_params(self) -> FloatArray:
        """Return the x of the game."""
        return regulator().initial_upper_params

    def rewards(
        self, upper_params: FloatArray, observations: NDArray[Any], actions: NDArray[Any]
    ) -> FloatArray:
        """Return rewards, `[B]`."""
        return regulator().model.reward(upper_params, observations, actions.astype(np.float64))

    def vjp(
        self,
        upper_params: FloatArray,
        observations: NDArray[Any],
        actions: NDArray[Any],
        weights: FloatArray,
    ) -> FloatArray:
        """Return sum_b weights(b) dr/dx by the derivatives of Q and R: r = -s^T Q s - a^T R a."""
        states, controls = observations, actions.astype(np.float64)
        costs = -(states.T * weights) @ states, -(controls.T * weights) @ controls
        cotangent = Coefficients(np.zeros((2, 2)), np.zeros((2, 1)), *costs)
        return regulator().coefficients_vjp(upper_params, cotangent)


def upper_reward(seen: NDArray[Any], actions: NDArray[Any], rewards: FloatArray) -> FloatArray:
    """Return the leader's reward."""
    return regulator().model.upper_reward(seen, actions.astype(np.float64))


def of_lqr(budget: int, seed: int) -> list[Point]:
    """Train a follower of the linear-quadratic game, and estimate by each method."""
    exact = regulator()
    options: dict[str, Any] = {"gamma": exact.gamma, "temperature": exact.temperature}
    options |= {"upper_gamma": exact.gamma, "upper_reward": upper_reward, "upper_bound": 2.0}
    game = ParametricGame("DeepLQR-v0", QuadraticReward(), **options)
    answer = exact.evaluate(game.initial_upper_params)
    small = {"train_freq": 1, "gradient_steps": 1, "device": "cpu"}
    began = time.perf_counter()
    estimates, follower = estimated(game, budget, LQR_ESTIMATE, small, seed)
    # The follower's gain: least squares of what it does where the optimum would lead it.
    rng = np.random.default_rng(seed)
    states = rng.multivariate_normal(np.zeros(2), answer.state_moments, 4096)
    actions = follower.draw(states, rng)
    gain = -np.linalg.lstsq(states, actions.astype(np.float64), rcond=None)[0].T
    distance = float(np.linalg.norm(gain - answer.gain) / np.linalg.norm(answer.gain))
    seconds = time.perf_counter() - began
    scores = {method: scored(g, answer.hyper_gradient) for method, g in estimates.items()}
    return [
        Point(COSTS, budget, seed, method, *score, distance, seconds)
        for method, score in scores.items()
    ]


# Both -------------------------------------------------------------------------------------------


def estimated(
    game: LearntGame,
    budget: int,
    size: tuple[int, int],
    options: dict[str, Any],
    seed: int,
    labels: Sequence[str] = tuple(METHODS),
) -> tuple[dict[str, FloatArray], Any]:
    """Train a follower at the initial x for `budget` steps; return estimates by method, and it.

    All are from the same episodes; `size` is how many, and the gradient steps of the critic.
    """
    x, (episodes, updates) = game.initial_upper_params, size
    rng = np.random.default_rng(seed)
    chosen = {"critic_updates": updates, "inner_steps": budget, "inner_options": options}
    learner: Any = make_method(LEARNT_METHODS["trace"], game, **chosen)
    learner.reset(rng)
    follower = learner.follower
    follower.learn(x)
    played = follower.play(x, episodes, rng)
    critics = learner.critic
    critics.fit(follower, played, updates, rng)
    fitted = SimpleNamespace(each=critics.each, explained=critics.explained, fit=lambda *_: 0.0)
    estimates = {}
    for label in labels:
        name, chosen = METHODS[label]
        if name == "score" and x.size > FEW:
            continue
        method: Any = make_method(LEARNT_METHODS[name], game, **chosen)
        method.follower = follower
        if name != "score":
            method.critic = fitted
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one step sees nothing of x[s] is what is shown
            estimates[label] = method.response_term(x, played)[0]
    return estimates, follower


def scored(found: FloatArray, exact: FloatArray) -> tuple[float, float]:
    """Return cosine and error of an estimate; `cosine` knows that rounding has no direction."""
    return cosine(found, exact), float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def register() -> None:
    """Register the environment of the regulator, in whatever process this is."""
    if "DeepLQR-v0" not in gym.registry:
        entry = f"{__name__}:{regulator_seat.__name__}"
        gym.register("DeepLQR-v0", entry, max_episode_steps=LQR_LIMIT)


def task(job: tuple[str, int, int]) -> list[Point]:
    """Do one job: which game, how many steps, which seed."""
    import torch as th

    th.set_num_threads(1)
    register()
    game, budget, seed = job
    return (of_lqr if game == COSTS else of_rooms)(budget, seed)


def spread(points: Sequence[Point], attribute: str) -> str:
    """Return the mean over seeds, with the smallest and the largest."""
    values = [getattr(point, attribute) for point in points]
    return f"{np.mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})"


def print_tables(points: Sequence[Point], seeds: Sequence[int]) -> None:
    """Print everything as Markdown, seed by seed, and the bars."""
    for setting in (PER_ACTION, PER_STATE, COSTS):
        distance = "error of gain" if setting == COSTS else "KL"
        episodes, _ = LQR_ESTIMATE if setting == COSTS else ROOMS_ESTIMATE
        print(f"\n## {setting}: cosine / relative error, {episodes} episodes\n")
        print(f"| steps | method | {' | '.join(f'seed {s}' for s in seeds)} | mean cosine |")
        print("|---" * (len(seeds) + 3) + "|")
        here = [point for point in points if point.setting == setting]
        for budget in sorted({point.budget for point in here}):
            for method in METHODS:
                row = [p for p in here if p.budget == budget and p.method == method]
                if not row:  # it does not suit so many parameters
                    continue
                cells = " | ".join(f"{p.cosine:.3f} / {p.error:.3f}" for p in row)
                print(f"| {budget} | {method} | {cells} | {spread(row, 'cosine')} |")
            cells = " | ".join(f"{p.distance:.4f}" for p in row)
            print(f"| {budget} | ({distance}) | {cells} | |")
    print("\n| bar | worst seed | reached |\n|---|---|---|")
    for setting in (PER_ACTION, PER_STATE, COSTS):
        here = [p for p in points if p.setting == setting and p.method == BEST]
        last = [p for p in here if p.budget == max(point.budget for point in here)]
        worst = min(p.cosine for p in last)
        bar(f"{setting}: cosine of {BEST} >= {COSINE_BAR:g}", worst, worst >= COSINE_BAR)
        if setting != COSTS:
            worst = max(p.error for p in last)
            bar(f"{setting}: error of {BEST} <= {ERROR_BAR:g}", worst, worst <= ERROR_BAR)
            worst = max(p.distance for p in last)
            bar(f"{setting}: KL <= {KL_BAR:g}", worst, worst <= KL_BAR)


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw cosines above and relative errors below, by training steps, a column for each x."""
    figure = new_figure(9.6, 6.0)
    axes = figure.subplots(2, 3, sharex="col", sharey="row", height_ratios=(1.3, 1.0))
    titles = {
        PER_ACTION: "four rooms, x[s, a]: 416 parameters\nSoftDQN",
        PER_STATE: "four rooms, x[s]: 104 parameters\nSoftDQN",
        COSTS: "LQR, log-weights of costs: 3\nSoftSAC",
    }
    for column, (setting, title) in enumerate(titles.items()):
        here = [point for point in points if point.setting == setting]
        budgets = sorted({point.budget for point in here})
        for row, attribute in enumerate(("cosine", "error")):
            panel = axes[row, column]
            for method in METHODS:
                mine = [p for p in here if p.method == method]
                if not mine:
                    continue
                values = np.array(
                    [[getattr(p, attribute) for p in mine if p.budget == b] for b in budgets]
                )
                line = {"color": COLOURS[method], "zorder": 3 if method == BEST else 2}
                low, high = values.min(axis=1), values.max(axis=1)
                panel.fill_between(budgets, low, high, alpha=0.15, linewidth=0, **line)
                panel.plot(
                    budgets,
                    values.mean(axis=1),
                    "--" if method == ONE_STEP else "-",
                    linewidth=2.4 if method == BEST else 1.5,
                    marker="o",
                    markersize=3.5,
                    label=method,
                    **line,
                )
            panel.set_xscale("log")
            panel.set_xticks(budgets, [ticked(here, budget) for budget in budgets], fontsize=8)
            panel.minorticks_off()
            height = COSINE_BAR if attribute == "cosine" else ERROR_BAR
            panel.axhline(height, color=MUTED, linewidth=0.9, linestyle=":")
            tidy(panel)
        axes[0, column].set_title(title, color=INK, fontsize=10)
        axes[1, column].set_xlabel("environment steps of the follower")
    axes[0, 0].set_ylabel("cosine to the exact hyper-gradient")
    axes[1, 0].set_ylabel("relative error")
    axes[0, 0].set_ylim(-0.78, 1.03)
    axes[1, 0].set_ylim(0.0, 1.55)
    place = {"loc": "outside lower center", "ncols": 6, "frameon": False, "fontsize": 9}
    figure.legend(*axes[0, -1].get_legend_handles_labels(), **place)  # where all of them are
    save_figure(figure, path)


def ticked(points: Sequence[Point], budget: int) -> str:
    """Return the name of a budget, with how far the followers are from their optimum by then."""
    setting = points[0].setting
    distance = float(np.mean([point.distance for point in points if point.budget == budget]))
    far = f"gain {distance:+.0%}".replace("+", "±") if setting == COSTS else f"KL {distance:.2g}"
    return f"{budget:,}\n{far}"


def main(seeds: Sequence[int], path: Path | None, workers: int) -> None:
    """Print tables and bars, and draw the figure."""
    began = time.perf_counter()
    # The longest first.
    jobs = [("rooms", budget, seed) for budget in ROOMS_BUDGETS[::-1] for seed in seeds]
    jobs += [(COSTS, budget, seed) for budget in LQR_BUDGETS[::-1] for seed in seeds]
    points: list[Point] = []
    with ProcessPoolExecutor(workers) as pool:
        for job, found in zip(jobs, pool.map(task, jobs), strict=True):
            points += found
            print(f"{job}: {found[0].seconds:.0f} s", flush=True)
    print_tables(points, seeds)
    print(f"\n{time.perf_counter() - began:.0f} s in all, {workers} processes")
    if path is not None:
        draw(points, path)
        print(f"drawn: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="the PNG to draw")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.out, arguments.workers)
