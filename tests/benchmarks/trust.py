"""Whether `info["trust"]` predicts the cosine to the exact hyper-gradient.

Run it as `python -m tests.benchmarks.trust`; it prints every case, and the bars, in some minutes.
`--games rooms` is four rooms of `tests.benchmarks.deep`, which takes longer.

A case is a game, an x, a follower that has learnt for a budget of environment steps, and an
estimate by a method from a number of episodes; the truth is the exact hyper-gradient at that x,
of the exact follower, so that what a follower has not learnt yet counts as an error. The games are
random MDPs of 12 states and 3 actions (Garnet) with five linear features, x[s] or x[s, a], and the
LQR of `tests.benchmarks.deep`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.learnt.followers import Follower
from bilevel_gym.learnt.tables import TableGame
from bilevel_gym.methods import LEARNT_METHODS, make_method
from bilevel_gym.model.protocols import LearntGame
from bilevel_gym.rewards.models import FEW

from . import deep
from .estimators import bar, cosine

# Correlation of ranks, and what may not be: so much trust in an estimate with such a cosine.
CORRELATION_BAR, TRUSTED, WRONG = 0.7, 0.8, 0.7

GAMES = ("LQR", "features", "x[s]", "x[s, a]", "rooms")
STATES, ACTIONS, SUCCESSORS, FEATURES = 12, 3, 3, 5


@dataclass(frozen=True)
class Case:
    """An estimate and the truth."""

    game: str
    seed: int
    budget: int
    episodes: int
    method: str
    trust: float
    cosine: float
    predicted: float
    explained: float
    reason: str


def garnet(seed: int, kind: str) -> TabularBilevelEnv:
    """Return a random MDP of a kind; a leader pays three pairs of a state and an action."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((STATES, ACTIONS, STATES))
    for row in transition.reshape(-1, STATES):
        row[rng.choice(STATES, SUCCESSORS, replace=False)] = rng.dirichlet(np.ones(SUCCESSORS))
    upper = np.zeros(STATES * ACTIONS)
    upper[rng.choice(len(upper), 3, replace=False)] = 1.0
    pairs = STATES, ACTIONS
    features = {
        "features": rng.standard_normal((*pairs, FEATURES)),
        "x[s]": None,
        "x[s, a]": np.eye(STATES * ACTIONS).reshape(*pairs, -1),
    }[kind]
    return TabularBilevelEnv.from_arrays(
        transition,
        0.3 * rng.standard_normal(pairs),
        upper_reward=upper.reshape(pairs),
        initial_distribution=np.full(STATES, 1.0 / STATES),
        features=features,
        gamma=0.9,
        temperature=0.3,
    )


def assessed(
    name: str,
    game: LearntGame,
    truth: FloatArray,
    seed: int,
    budgets: Sequence[int],
    sizes: Sequence[int],
    options: dict[str, Any],
) -> Iterator[Case]:
    """Yield the cases of one follower, who learns for longer and longer at the initial x."""
    rng, x = np.random.default_rng(seed), game.initial_upper_params
    done = 0
    follower = Follower(game, steps=budgets[0], options=options)
    follower.reset(rng)
    for budget in budgets:
        follower.steps = budget - done  # it goes on from where it is
        follower.learn(x)
        done = budget
        for episodes in sizes:
            for method in ("trace", "score"):
                if method == "score" and x.size > FEW:
                    continue
                fresh = {"learn_from_watched": False, "episodes": episodes}
                made: Any = make_method(LEARNT_METHODS[method], game, **fresh)
                made.reset(rng)
                made.follower = Follower.__new__(Follower)
                vars(made.follower).update(vars(follower), learn=lambda _: 0, answered=1)
                answer = made.step(x)
                yield Case(
                    name,
                    seed,
                    budget,
                    episodes,
                    method,
                    answer.trust,
                    cosine(answer.hyper_gradient, truth),
                    answer.hyper_gradient_cosine or 0.0,
                    np.nan if answer.critic_explained is None else answer.critic_explained,
                    answer.trust_reason,
                )


def task(job: tuple[str, int]) -> list[Case]:
    """Return the cases of a game and a seed."""
    import torch as th

    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    kind, seed = job
    if kind == "LQR":
        deep.register()
        exact = deep.regulator()
        chosen: dict[str, Any] = {
            "gamma": exact.gamma,
            "temperature": exact.temperature,
            "upper_bound": 2.0,
        }
        chosen |= {"upper_gamma": exact.gamma, "upper_reward": deep.upper_reward}
        game: Any = ParametricGame("DeepLQR-v0", deep.QuadraticReward(), **chosen)
        truth = exact.evaluate(game.initial_upper_params).hyper_gradient
        small = {"policy_kwargs": {"net_arch": [64, 64]}, "tau": 0.02, "device": "cpu"}
        plan: Any = (500, 1500, 4000), (8, 32, 128), small
    else:
        rooms = kind == "rooms"
        table = deep.rooms() if rooms else garnet(seed, kind)
        game = TableGame(table.model)
        truth = table.evaluate(game.initial_upper_params).hyper_gradient
        chosen = {"learning_rate": 3e-3, "policy_kwargs": {"n_critics": 1}, "device": "cpu"}
        budgets, sizes = ((5000, 15_000), (16, 128)) if rooms else ((1000, 4000), (8, 64, 512))
        plan = budgets, sizes, chosen
    return list(assessed(kind, game, np.asarray(truth), seed, *plan))


def main(games: Sequence[str], seeds: int, workers: int) -> None:
    """Print cases and bars."""
    began = time.perf_counter()
    jobs = [(game, seed) for game in games for seed in range(seeds)]
    cases: list[Case] = []
    print("| game | seed | steps | episodes | method | trust | cosine | predicted | explained |")
    print("|---" * 9 + "|")
    with ProcessPoolExecutor(workers) as pool:
        for found in pool.map(task, jobs):
            cases += found
            for c in found:
                numbers = f"{c.trust:.2f} | {c.cosine:.2f} | {c.predicted:.2f} | {c.explained:.2f}"
                told = f"{c.game} | {c.seed} | {c.budget} | {c.episodes} | {c.method}"
                print(f"| {told} | {numbers} |", flush=True)
    for method in ("trace", "score", "both"):
        here = [c for c in cases if method in (c.method, "both")]
        trust, truth = (np.array([getattr(c, name) for c in here]) for name in ("trust", "cosine"))
        correlation = float(spearmanr(trust, truth).statistic)
        wrong = int(((trust >= TRUSTED) & (truth < WRONG)).sum())
        means = f"mean trust {trust.mean():.2f}, mean cosine {truth.mean():.2f}"
        print(f"\n{method}, {len(here)} cases, {means}")
        bar(f"rank correlation >= {CORRELATION_BAR:g}", correlation, correlation >= CORRELATION_BAR)
        bar(f"trust >= {TRUSTED:g} and cosine < {WRONG:g}", wrong, wrong == 0)
    print(f"\n{time.perf_counter() - began:.0f} s, {workers} processes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--games", nargs="+", default=GAMES[:-1], choices=GAMES, help="games")
    parser.add_argument("--seeds", type=int, default=4, help="games and followers of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    main(arguments.games, arguments.seeds, arguments.workers)
