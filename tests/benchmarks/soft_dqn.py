"""How close soft Q-learning comes to the exact soft-optimal policy, and what relabelling costs.

Run it as `python -m tests.benchmarks.soft_dqn`; it prints tables and the bars.

The setting is that of `estimators`: four rooms of 104 cells, noise .15, discount .95, temperature
.01, a goal that pays 1 and ends the episode. Episodes are cut, not ended, after 300 steps. KL is
sum_s d(s) KL(pi*(. | s) || pi(. | s)) with the discounted occupancy d of pi*, normalised; the gap
is the soft value that pi loses at the start.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from scipy.special import entr

from bilevel_gym import LowerLevel
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.sb3 import SoftDQN

from .estimators import PLACINGS, bar, four_rooms

STEPS, EPISODE = 30_000, 300
KL_BAR, GAP_BAR, SECONDS_BAR, RELABELLING_BAR = 0.05, 0.005, 120.0, 1.15

# Blocks of updates that are timed in turn, and updates of each.
BLOCKS, UPDATES = 40, 25


@dataclass(frozen=True)
class Run:
    """What a seed gave: KL and gap as above, wall-clock and processor time."""

    kl: float
    gap: float
    seconds: float
    cpu: float


def distances(game: TabularBilevelEnv, policy: FloatArray) -> tuple[float, float]:
    """Return how far a policy `[S, A]`, positive, is from the soft-optimal one at the initial x.

    As KL weighted by occupancy, and as the soft value lost at the start.
    """
    x = game.initial_upper_params
    exact, kernel = game.evaluate(x), game.kernel(x)
    divergence = (exact.policy * np.log(exact.policy / policy)).sum(axis=1)
    reward = (policy * game.reward(x)).sum(axis=1) + game.temperature * entr(policy).sum(axis=1)
    transition = kernel.policy_matrix(policy).toarray()
    value = np.linalg.solve(np.eye(len(policy)) - game.gamma * transition, reward)
    lost = exact.lower_value - float(game.initial_distribution @ value)
    return float(exact.occupancy @ divergence), lost


def learner(game: TabularBilevelEnv, seed: int) -> SoftDQN:
    """Return a learner with its default options, before its first step."""
    seat: gym.Env[int, int] = LowerLevel(TimeLimit(game, EPISODE), game.initial_upper_params)
    return SoftDQN("MlpPolicy", seat, schedule_steps=STEPS, seed=seed, device="cpu")


def run(game: TabularBilevelEnv, seed: int) -> Run:
    """Train once, and score the result."""
    model = learner(game, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(STEPS)
    seconds, processor = time.perf_counter() - wall, time.process_time() - cpu
    kl, gap = distances(game, model.action_probabilities(np.arange(game.num_states)))
    return Run(kl, gap, seconds, processor)


def relabelling(game: TabularBilevelEnv) -> tuple[float, float]:
    """Return the milliseconds of an update without and with relabelling, medians of processor time.

    r_x is looked up in a table, so that what is measured is the buffer's own work.
    """
    model = learner(game, seed=0).learn(1000)
    table = game.reward(game.initial_upper_params)
    times: tuple[list[float], list[float]] = [], []
    for block in range(2 * BLOCKS):
        with_it = block % 2
        model.reward_fn = (lambda states, actions: table[states, actions]) if with_it else None
        began = time.process_time()
        model.train(UPDATES, model.batch_size)
        times[with_it].append(1e3 * (time.process_time() - began) / UPDATES)
    return float(np.median(times[0])), float(np.median(times[1]))


def main(seeds: Sequence[int]) -> None:
    """Print tables and bars."""
    import torch as th

    th.set_num_threads(1)
    bars: list[tuple[str, float, bool]] = []
    for goal, target in reversed(PLACINGS):
        game = four_rooms(per_action=False, goal=goal, target=target)
        print(f"\n## goal {goal}: {STEPS} steps\n")
        print("| seed | KL | gap | s | CPU s |\n|---|---|---|---|---|")
        runs = []
        for seed in seeds:
            runs.append(run(game, seed))
            kl, gap, seconds, cpu = vars(runs[-1]).values()
            print(f"| {seed} | {kl:.4f} | {gap:.5f} | {seconds:.0f} | {cpu:.0f} |", flush=True)
        for name, most in (("kl", KL_BAR), ("gap", GAP_BAR), ("seconds", SECONDS_BAR)):
            worst = max(getattr(each, name) for each in runs)
            bars.append((f"goal {goal}: largest {name} <= {most:g}", worst, worst <= most))
    without, with_it = relabelling(game)
    print(f"\nan update: {without:.2f} ms of the processor, {with_it:.2f} ms with relabelling")
    ratio = with_it / without
    bars.append((f"relabelling: ratio <= {RELABELLING_BAR:g}", ratio, ratio <= RELABELLING_BAR))
    print("\n| bar | value | reached |\n|---|---|---|")
    for each in bars:
        bar(*each)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    main(parser.parse_args().seeds)
