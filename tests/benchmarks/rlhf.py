"""What a follower learns to do by a reward that is learnt from 200 preferences.

Run it as `python -m tests.benchmarks.rlhf`; it prints a table and the bars.

The setting is that of `BilevelPreferencePendulum-v0` with its default arguments and those of its
methods, x moved by Adam with a learning rate of 1e-3, until 25 thousand environment steps are used,
those of the fragments included. The seed is that of the first x and of everything random. Returns
are true ones, of 200 steps of the follower's policy without exploration: at the end, mean of 32
episodes that are charged to nobody; and mean of the last five times that the judge was asked, two
episodes each. That of random torques is -1203.

With `--env` it is another environment, whose reward is a network, in episodes of 200 steps: of
CartPole-v1, for example, which was tuned for in no way, and whose fragments end when the pole
falls. There are no bars for these.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel_gym import HyperGradient
from bilevel_gym.envs import BilevelPreferencePendulum, ParametricGame
from bilevel_gym.learnt.preference_methods import PreferenceMethod
from bilevel_gym.optimizers.rules import AdamRule

from .estimators import bar

STEPS, LEARNING_RATE, EPISODES, LAST = 25_000, 1e-3, 32, 5
METHODS = ("direct", "sobirl", "trace")
BAR, NO_HARM = -500.0, 150.0


@dataclass(frozen=True)
class Run:
    """What a seed gave: true returns at the end and late, as above, and costs.

    `trust` is the median of the trust ratio where there was a response term, NaN without.
    """

    end: float
    late: float
    preferences: int
    steps: int
    trust: float
    cpu: float


def make(name: str | None, seed: int) -> ParametricGame:
    """Return the game of an environment; None for the registered task."""
    if name is None:
        return BilevelPreferencePendulum(seed=seed)
    model = {"kind": "network", "seed": seed}
    task: dict[str, Any] = {"gamma": 0.97, "temperature": 0.1, "episode_steps": 200}
    return ParametricGame(name, model, preferences={}, **task)


def run(
    method: str,
    seed: int,
    steps: int = STEPS,
    kappa: float | None = 0.3,
    name: str | None = None,
) -> Run:
    """Learn once, and score the result."""
    options: dict[str, Any] = {} if method == "direct" else {"kappa": kappa}
    env = HyperGradient(make(name, seed), method=method, **options)
    began = time.process_time()
    observation, info = env.reset(seed=seed)
    learner = env.method
    assert isinstance(learner, PreferenceMethod)
    rule = AdamRule(env.game.upper_space.low, env.game.upper_space.high)
    x, used, shown = info["upper_params"], int(info["inner_samples"]), learner.shown
    returns, trust = [float(observation[0])], []
    while used < steps:
        x = rule.step(x, env.response.objective, info["hyper_gradient"], LEARNING_RATE)
        observation, _, _, _, info = env.step(x)
        used += int(info["inner_samples"])
        if learner.shown > shown:
            shown = learner.shown
            returns.append(float(observation[0]))
        if info.get("trust_ratio"):
            trust.append(info["trust_ratio"])
    cpu = time.process_time() - began
    played = learner.follower.play(x, EPISODES, np.random.default_rng(1))
    end, late = float(played.upper_rewards.sum(axis=0).mean()), float(np.mean(returns[-LAST:]))
    return Run(end, late, len(learner.queue), used, float(np.median(trust or [np.nan])), cpu)


def main(
    seeds: Sequence[int],
    methods: Sequence[str],
    steps: int,
    kappa: float | None,
    name: str | None,
) -> None:
    """Print a table and the bars."""
    import torch as th

    th.set_num_threads(1)
    print("| method | seed | true return, end | late | preferences | steps | trust | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    medians: dict[str, float] = {}
    for method in methods:
        runs = []
        for seed in seeds:
            one = run(method, seed, steps, kappa, name)
            runs.append(one)
            print(
                f"| {method} | {seed} | {one.end:.0f} | {one.late:.0f} | {one.preferences} | "
                f"{one.steps} | {one.trust:.3f} | {one.cpu:.0f} |",
                flush=True,
            )
        medians[method] = float(np.median([one.end for one in runs]))
    if name is not None:
        return
    print("\n| bar | value | reached |\n|---|---|---|")
    for method, median in medians.items():
        least = BAR if method == "direct" else medians.get("direct", BAR) - NO_HARM
        bar(f"{method}: median true return >= {least:.0f}", median, median >= least)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="methods")
    parser.add_argument("--steps", type=int, default=STEPS, help="environment steps of a run")
    parser.add_argument("--raw", action="store_true", help="do not shorten the response term")
    parser.add_argument("--env", help="another environment")
    arguments = parser.parse_args()
    kappa = None if arguments.raw else 0.3
    main(arguments.seeds, arguments.methods, arguments.steps, kappa, arguments.env)
