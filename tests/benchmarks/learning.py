"""What learning costs for each environment step, against Stable-Baselines3's own learners.

Run it as `python -m tests.benchmarks.learning`; it prints a table, in some minutes. Learners take
turns on one thread, and processor time is counted, so that a busy machine favours none. Networks
have two layers of 64 units; two critics for SAC, one for DQN, whose soft variant also has two by
default. A step is that of the environment, with what is learnt from it: half an update of DQN
(batches of 256), a whole one of SAC.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from stable_baselines3 import DQN, SAC

import bilevel_gym
from bilevel_gym.sb3 import SoftDQN, SoftSAC

from .estimators import bar

BARS = {"SoftDQN, 1 critic": 0.65, "SoftSAC": 0.5}


def learner(kind: type[Any], env: str, *, critics: int = 2, **options: Any) -> Any:
    """Return a learner whose updates have begun."""
    policy_kwargs: dict[str, Any] = {"net_arch": [64, 64]}
    if kind is not DQN:
        policy_kwargs["n_critics"] = critics
    if issubclass(kind, DQN):
        options |= {"train_freq": 4, "gradient_steps": 2}
    if kind in (SoftDQN, SoftSAC):
        options["temperature"] = 0.1
    model = kind(
        "MlpPolicy",
        env,
        gamma=0.95,
        learning_rate=1e-3,
        learning_starts=100,
        buffer_size=20_000,
        batch_size=256,
        seed=0,
        device="cpu",
        policy_kwargs=policy_kwargs,
        **options,
    )
    return model.learn(200)


def in_turn(models: dict[str, Any], steps: int, rounds: int) -> dict[str, float]:
    """Print microseconds of an environment step, and return ratios against the first model."""
    medians: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds):
        for name in models if number % 2 else reversed(models):
            began = time.process_time()
            models[name].learn(steps, reset_num_timesteps=False, log_interval=None)
            times[name].append(1e6 * (time.process_time() - began) / steps)
    peer = np.array(next(iter(times.values())))
    for name, found in times.items():
        ratio = np.array(found) / peer
        print(
            f"| {name} | {np.median(found):.0f} | {np.median(ratio):.2f} "
            f"[{ratio.min():.2f}, {ratio.max():.2f}] |",
            flush=True,
        )
        medians[name] = float(np.median(ratio))
    return medians


def leader_step(rounds: int) -> float:
    """Return the seconds of processor time of a leader's step of BilevelPendulum, the median."""
    env = bilevel_gym.make("BilevelPendulum-v0")
    _, info = env.reset(seed=0)
    times = []
    for _ in range(rounds):
        began = time.process_time()
        info = env.step(info["upper_params"])[-1]
        times.append(time.process_time() - began)
    return float(np.median(times))


def main(rounds: int) -> None:
    """Print the table and the bars."""
    import torch as th

    th.set_num_threads(1)
    print("| learner | us per environment step | ratio |\n|---|---|---|")
    discrete = {
        "DQN of Stable-Baselines3": learner(DQN, "CartPole-v1"),
        "SoftDQN, 1 critic": learner(SoftDQN, "CartPole-v1", critics=1),
        "SoftDQN, 2 critics": learner(SoftDQN, "CartPole-v1"),
    }
    ratios = in_turn(discrete, 400, rounds)
    continuous = {
        "SAC of Stable-Baselines3": learner(SAC, "Pendulum-v1", ent_coef=0.1),
        "SoftSAC": learner(SoftSAC, "Pendulum-v1"),
    }
    ratios |= in_turn(continuous, 150, rounds)
    print(f"\na leader's step of BilevelPendulum-v0: {leader_step(rounds):.2f} s of the processor")
    print("\n| bar | value | reached |\n|---|---|---|")
    for name, most in BARS.items():
        bar(f"{name}: ratio <= {most:g}", ratios[name], ratios[name] <= most)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    main(parser.parse_args().rounds)
