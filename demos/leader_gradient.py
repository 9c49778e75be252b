"""A leader follows the hyper-gradient, and the follower answers every step.

The leader starts without shaping, where the follower walks straight through the hazards. Each step
of the environment announces x, and comes back with the objective F(x) and its exact derivative: the
hyper-gradient, which knows how the follower's best answer will change. Steps along it have a length
of their own, falling to zero, as the size of the gradient says little about how far to trust it.

    python demos/leader_gradient.py
    python demos/leader_gradient.py --headless climb.gif
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.optimizers import Iterate, normalized_ascent
from bilevel_gym.rendering import NoDisplayError, Screen, StepCurve, draw_grid

# Steps of which each is shown, and pictures of all the later ones together.
FIRST, PICTURES = 12, 33


def main(args: argparse.Namespace) -> None:
    """Climb, and show every step."""
    # The environment comes in the leader's seat; wrapping again only makes its episode longer.
    env = HyperGradient(gym.make("BilevelGridWorld-v0"), outer_steps=args.steps + 1)
    game = env.game
    assert isinstance(game, BilevelGridWorld)
    _, info = env.reset(seed=0)

    # To an optimizer, the leader's seat is a function that returns a value and a gradient.
    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        _, reward, _, _, info = env.step(x)
        return float(reward), info["hyper_gradient"]

    with Screen("A leader follows the hyper-gradient", headless=args.headless, fps=10) as screen:
        objectives: list[float] = []
        gradient_norms: list[float] = []

        def show(iterate: Iterate) -> None:
            objectives.append(iterate.value)
            gradient_norms.append(float(np.linalg.norm(iterate.gradient)))
            # The first steps change nearly everything, the later ones refine it.
            if iterate.number > FIRST and iterate.number % max(1, args.steps // PICTURES):
                return
            curves = (
                StepCurve("objective", objectives),
                StepCurve("|hyper-gradient|", gradient_norms, log_scale=True),
            )
            screen.show(draw_grid(replace(game.scene(env.view()), curves=curves)))

        optimum = normalized_ascent(
            objective,
            info["upper_params"],
            game.upper_space.low.astype(np.float64),
            game.upper_space.high.astype(np.float64),
            steps=args.steps,
            learning_rate=args.learning_rate,
            callback=show,
        )
        print(f"objective at the start: {optimum.first.value:.4f}")
        print(f"objective at the best of {optimum.evaluations} x: {optimum.best.value:.4f}")
        if game.best_known is not None:
            print(f"best known: {game.best_known.value:.4f}")
        screen.linger()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="steps of the climb")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="length of the first one")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    try:
        main(parser.parse_args())
    except (NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
