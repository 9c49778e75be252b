"""PPO as a black-box leader, beside the hyper-gradient.

The leader's seat is a plain environment: the action of PPO is x, the reward F(x), the observation
the follower's occupancy. PPO does not see the hyper-gradient, so it finds out by trial in which of
52 directions F rises. Within a few thousand steps it reaches a local optimum near F = 0, where the
reward of some cell makes the follower stay there for ever: it enters no hazard, and never reaches
the goal. In 20480 steps PPO does not leave it (seeds 0, 1 and 2); the hyper-gradient needs 200
steps to find the detour.

    python demos/sb3_leader.py
    python demos/sb3_leader.py --headless ppo_leader.gif
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.envs.base import View
from bilevel_gym.methods import Response
from bilevel_gym.optimizers import Optimum, normalized_ascent
from bilevel_gym.rendering import NoDisplayError, Screen, StepCurve, draw_grid
from bilevel_gym.wrappers import exact_objective

# Steps of PPO between two evaluations of its policy, and steps of the ascent.
ROLLOUT, GRADIENT_STEPS = 256, 200


def main(args: argparse.Namespace) -> None:
    """Train both leaders, and compare them."""
    import bilevel_gym.sb3  # noqa: F401  (names the extra where it is missing)

    env = gym.make("BilevelGridWorld-v0")
    game = env.unwrapped
    assert isinstance(game, BilevelGridWorld)

    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)  # networks this small are slower on more
    with Screen("PPO as a black-box leader", headless=args.headless) as screen:
        gradient_objectives: list[float] = []
        ascent = normalized_ascent(
            exact_objective(game.model),
            game.initial_upper_params,
            game.model.low,
            game.model.high,
            steps=min(args.timesteps, GRADIENT_STEPS),
            callback=lambda iterate: gradient_objectives.append(iterate.value),
        )

        # A step's reward depends on its own x alone, hence gamma = 0. The first actions are close
        # to x = 0, where the ascent starts as well.
        model = PPO(
            "MlpPolicy",
            env,
            gamma=0.0,
            n_steps=ROLLOUT,
            batch_size=64,
            learning_rate=1e-3,
            policy_kwargs={"log_std_init": -3.0},
            seed=args.seed,
            device="cpu",
        )
        objectives: list[float] = []
        tried: list[float] = []

        def show(title: str, response: Response, frames: int = 3) -> None:
            status = (
                ("objective", f"{response.objective:.4f}"),
                ("lower value", f"{response.lower_value:.4f}"),
                ("|x|", f"{np.linalg.norm(response.upper_params):.3f}"),
            )
            view = View(
                game.headline("leader", title), response.upper_params, response, status=status
            )
            curves = (
                StepCurve("PPO", np.repeat(objectives, ROLLOUT)),  # a value for each step
                StepCurve("hyper-gradient", gradient_objectives),
            )
            screen.show(draw_grid(replace(game.scene(view), curves=curves)), frames=frames)

        def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
            tried.append(float(local["rewards"][0]))
            count = len(tried)
            if count % ROLLOUT == 0:
                x, _state = model.predict(local["new_obs"][0], deterministic=True)
                response = game.evaluate(x)
                objectives.append(response.objective)
                last = count + ROLLOUT > args.timesteps
                # Little changes after the first rollouts.
                if last or len(objectives) <= 12 or len(objectives) % 4 == 0:
                    show(f"PPO after {count} steps", response, 24 if last else 3)
            return not screen.closed

        model.learn(args.timesteps, callback=watch)
        report(game, ascent, tried, objectives)
        show("What the hyper-gradient found", game.evaluate(ascent.best.upper_params))
        screen.linger()


def report(
    game: BilevelGridWorld, ascent: Optimum, tried: list[float], objectives: list[float]
) -> None:
    """Print what both have reached."""
    rows = [
        ("start, x = 0", 1, ascent.first.value),
        ("hyper-gradient", ascent.evaluations, ascent.best.value),
        ("PPO, mean action at the end", len(tried), objectives[-1]),
        ("PPO, best single action", len(tried), max(tried)),
    ]
    print(f"{'leader':<36}{'leader steps':>13}{'objective':>12}")
    for name, count, value in rows:
        print(f"{name:<36}{count:>13}{value:>12.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--timesteps", type=int, default=20_480, help="steps of PPO")
    parser.add_argument("--seed", type=int, default=0, help="seed of PPO")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    try:
        main(parser.parse_args())
    except (ImportError, NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
