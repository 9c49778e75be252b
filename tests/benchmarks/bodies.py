"""A body designed by the default climb, against CMA-ES at equal environment steps.

Run it as `python -m tests.benchmarks.bodies`; it prints a table, some minutes a seed.

The task is BilevelBodyDesign-v0 with its default arguments. Both begin with a follower who has
learnt for 3000 steps at x0, and use the same number of environment steps: all that the follower
learns in and all that is watched.

* The climb is what `bilevel-gym solve` does: `make_optimizer("safe", samples=...)` on the leader's
  seat with its default method, "zero-order". Its screen is a CMA-ES of its own.
* CMA-ES searches the box (library `cma`, 6 candidates a generation, from x0, standard deviation .4
  of the width). Every candidate's follower begins as the best one so far, learns for 250 steps in
  the new body, and is watched for 12 episodes, as in the climb's screen. In the end the best one
  learns on with what is left of the last tenth.

Scores are F of 128 fresh episodes that are charged to nobody, with the follower that each ends
with, and (standard errors): "retrained" is F of a new follower who has learnt in that body alone
for 10 000 steps, which tells the body from how long its own follower has learnt. "By hand" is F of
a controller that nobody has to learn, the best of nine pairs of gains: torques against the slope of
the distance, and a damping.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product
from typing import Any

import numpy as np

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelBodyDesign
from bilevel_gym.learnt.estimators import returns
from bilevel_gym.learnt.followers import Follower
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.wrappers import LeaderObjective

STEPS, SCORED, RETRAINED = 50_000, 128, 10_000
FIRST_STEPS, CANDIDATE_STEPS, EPISODES, POPULATION, WIDTH = 3000, 250, 12, 6, 0.4
LAST_SHARE = 0.1


def values(game: BilevelBodyDesign, follower: Any, x: FloatArray, count: int, seed: int) -> Any:
    """Return F in each of so many fresh episodes, `[N]`, and the environment steps."""
    played = follower.play(x, count, np.random.default_rng(seed))
    paid = returns(played.upper_rewards, game.upper_gamma) + game.price(x)[0]
    return paid, played.num_steps


def said(paid: FloatArray) -> str:
    """Return mean and standard error."""
    return f"{paid.mean():.2f} ({paid.std(ddof=1) / np.sqrt(len(paid)):.2f})"


def learner(game: BilevelBodyDesign, seed: int, first: int = FIRST_STEPS) -> Follower:
    """Return a follower who has learnt nothing."""
    follower = Follower(game, steps=CANDIDATE_STEPS, first_steps=first)
    follower.reset(np.random.default_rng(seed))
    return follower


def by_hand(game: BilevelBodyDesign, x: FloatArray, count: int = 48) -> float:
    """Return F at x of the best of some simple controllers."""
    env, found = game.make_environment(), []
    env.get_wrapper_attr("set_parameters")(x)
    for gain, damping in product((3.0, 10.0, 30.0), (0.3, 1.0, 3.0)):
        total = 0.0
        for seed in range(count):
            seen, _ = env.reset(seed=seed)
            over = False
            while not over:
                action = np.clip(-gain * seen[4:6] - damping * seen[6:8], -1.0, 1.0)
                seen, reward, _, over, _ = env.step(action)
                total += float(reward)
        found.append(total / count)
    return max(found) + game.price(x)[0]


def start(game: BilevelBodyDesign, seed: int, steps: int) -> tuple[FloatArray, Any]:
    """Return x0 and a follower who has learnt there."""
    follower, x = learner(game, seed), game.initial_upper_params
    follower.learn(x)
    return x, follower


def climb(game: BilevelBodyDesign, seed: int, steps: int) -> tuple[FloatArray, Any]:
    """Climb by the defaults."""
    leader = LeaderObjective(HyperGradient(game))
    leader.resume(seed=seed)
    box = game.initial_upper_params, leader.low, leader.high
    found = make_optimizer("safe", samples=steps, seed=seed)(leader, *box)
    method: Any = leader.seat.method
    return found.best.upper_params, method.follower


def search(game: BilevelBodyDesign, seed: int, steps: int) -> tuple[FloatArray, Any]:
    """Search by CMA-ES."""
    from cma import CMAEvolutionStrategy

    follower, x0 = learner(game, seed), game.initial_upper_params
    low, high = (end.astype(np.float64) for end in (game.upper_space.low, game.upper_space.high))
    used, wide = follower.learn(x0), high - low
    paid, spent = values(game, follower, x0, EPISODES, seed)
    used += spent
    best = float(paid.mean()), x0, follower.snapshot()
    options = {"popsize": POPULATION, "seed": seed + 1, "bounds": [0.0, 1.0], "verbose": -9}
    strategy, cost = CMAEvolutionStrategy((x0 - low) / wide, WIDTH, options), 0
    while used + cost <= (1.0 - LAST_SHARE) * steps:
        asked, told = strategy.ask(), list[float]()
        for units in asked:
            if used + cost > (1.0 - LAST_SHARE) * steps:
                break
            x, before = low + units * wide, used
            follower.restore(best[2])
            used += follower.learn(x, seed=seed + len(told) + used)
            paid, spent = values(game, follower, x, EPISODES, seed)
            used, cost = used + spent, used + spent - before
            told.append(-float(paid.mean()))
            if -told[-1] > best[0]:
                best = -told[-1], x, follower.snapshot()
        else:
            strategy.tell(asked, told)
    follower.restore(best[2])
    while used + CANDIDATE_STEPS <= steps:
        used += follower.learn(best[1])
    return best[1], follower


def main(seeds: list[int], steps: int, contenders: list[str]) -> None:
    """Print the table."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| seed | | F | retrained | by hand | lengths, cm | torques, N m | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        for name in contenders:
            game, began = BilevelBodyDesign(), time.process_time()
            x, follower = CONTENDERS[name](game, seed, steps)
            cpu = time.process_time() - began
            paid, _ = values(game, follower, x, SCORED, 10_000)
            again = learner(game, 1000 + seed, RETRAINED)
            again.learn(x)
            fresh, _ = values(game, again, x, SCORED, 10_000)
            lengths, torques = (100.0 * x[:2]).round(1).tolist(), x[2:].round(3).tolist()
            print(
                f"| {seed} | {name} | {said(paid)} | {said(fresh)} | {by_hand(game, x):.2f} | "
                f"{lengths} | {torques} | {cpu:.0f} |",
                flush=True,
            )


CONTENDERS = {"x0": start, "climb": climb, "CMA-ES": search}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--steps", type=int, default=STEPS, help="environment steps of a run")
    parser.add_argument("--contenders", nargs="+", default=[*CONTENDERS], choices=CONTENDERS)
    main(**vars(parser.parse_args()))
