"""What leaders reach who design the reward of a follower who learns, and in how many steps.

Run it as `python -m tests.benchmarks.reward_design`; it prints a table, a row for each seed.

The setting: the methods' defaults of each task, from its initial x along Adam, at a constant rate.
At each x the leader's reward is measured anew, in episodes of the follower of that moment which
nobody learns from: the mean per step for BilevelPendulum-v0, which is cos(theta), the length of an
episode for BilevelCartPole-v0, F for BilevelReacher-v0. The best x of a run is the one with the
best such measurement. Environment steps are those of the learner and of the episodes that the
estimates are made of.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
import torch

from bilevel_gym import HyperGradient
from bilevel_gym.envs import ParametricGame
from bilevel_gym.episodes.recorded import LearntEpisodes
from bilevel_gym.learnt.estimators import Estimator
from bilevel_gym.optimizers import Iterate, adam

# Adam's rate, steps, and episodes of a measurement, for each task.
TASKS = {
    "BilevelPendulum-v0": (0.4, 6, 64),
    "BilevelCartPole-v0": (0.1, 12, 64),
    "BilevelReacher-v0": (0.3, 8, 64),
}


def run(env_id: str, seed: int, *, learning_rate: float, steps: int, episodes: int) -> str:
    """Climb once, and return a row of the table."""
    env = HyperGradient(gym.make(env_id), outer_steps=steps + 2)
    game, method = cast(ParametricGame, env.game), cast(Estimator, env.method)
    box = game.upper_space
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    rng, began = np.random.default_rng(seed), time.perf_counter()
    _, info = env.reset(seed=seed)
    measured: list[float] = []
    samples, seconds = [0], [0.0]
    answers: list[tuple[SupportsFloat, Any]] = [(env.response.objective, info)]

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        if answers:  # that of the reset, which was at the first x
            reward, info = answers.pop()
        else:
            _, reward, _, _, info = env.step(x)
        samples.append(samples[-1] + info["inner_samples"])
        seconds.append(time.perf_counter() - began)
        return float(reward), info["hyper_gradient"]

    def measure(iterate: Iterate) -> None:
        nonlocal began
        before = time.perf_counter()
        played = method.follower.play(iterate.upper_params, episodes, rng)
        measured.append(score(env_id, game.upper_gamma, played))
        began += time.perf_counter() - before
        print(f"  {measured[-1]:8.3f} after {samples[-1]:7d} steps, x =", end=" ", flush=True)
        print(np.array2string(iterate.upper_params, precision=2, suppress_small=True), flush=True)

    options: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    options |= {"schedule": "constant", "callback": measure}
    adam(objective, info["upper_params"], low, high, **options)
    best = int(np.argmax(measured))
    return (
        f"| `{env_id}` | {seed} | {measured[0]:.3f} | {measured[best]:.3f} | "
        f"{samples[best + 1]} | {seconds[best + 1]:.0f} | {measured[-1]:.3f} | {samples[-1]} |"
    )


def score(env_id: str, upper_gamma: float, played: LearntEpisodes) -> float:
    """Return what episodes bring the leader, in the unit of the task."""
    if "Reacher" in env_id:
        discounts = np.power(upper_gamma, np.arange(len(played.alive)))
        return float((discounts @ played.upper_rewards).mean())
    count = played.num_steps if "Pendulum" in env_id else played.num_episodes
    return float(played.upper_rewards.sum() / count)


def one_step(env_id: str) -> str:
    """Return what the one-step formula says at the initial x."""
    env = HyperGradient(gym.make(env_id), method="sobirl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, info = env.reset(seed=0)
    norm = np.linalg.norm(info["hyper_gradient"])
    return f"{env_id}: the one-step estimate at the initial x has norm {norm:g}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help="ids")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks this small are slower on more
    rows = []
    for env_id in args.tasks:
        rate, steps, episodes = TASKS[env_id]
        for seed in args.seeds:
            rows.append(run(env_id, seed, learning_rate=rate, steps=steps, episodes=episodes))
    print("| task | seed | first | best | environment steps | seconds | last | all steps |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    if "BilevelPendulum-v0" in args.tasks:
        print(one_step("BilevelPendulum-v0"))


if __name__ == "__main__":
    main()
