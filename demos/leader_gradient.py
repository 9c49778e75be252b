"""A leader follows the hyper-gradient, and the follower responds to every step.

The leader starts without shaping, where the follower walks straight through the hazards. Each step
of the environment evaluates an x, and returns the objective F(x) and its exact derivative, the
hyper-gradient, which accounts for the change of the follower's best response. Steps along it have a
prescribed length, falling to zero, as the size of the gradient says little about how far it can be
trusted.

    python demos/leader_gradient.py
    python demos/leader_gradient.py --headless climb.gif
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym

from bilevel_gym import HyperGradient
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.optimizers import Iterate, normalized_ascent
from bilevel_gym.rendering import NoDisplayError, Screen, StepCurve, draw_grid
from bilevel_gym.wrappers import LeaderObjective

# Steps of which each is shown, and pictures of all the later ones together.
FIRST, PICTURES = 12, 33


def main(args: argparse.Namespace) -> None:
    """Ascend, and show every step."""
    # `make` returns the leader's seat; wrapping again only makes its episode longer.
    env = HyperGradient(gym.make("BilevelGridWorld-v0"), outer_steps=args.steps + 1)
    game = env.game
    assert isinstance(game, BilevelGridWorld)
    # To an optimizer, the leader's seat is a function that returns a value and a gradient.
    leader = LeaderObjective(env)

    with Screen("A leader follows the hyper-gradient", headless=args.headless, fps=10) as screen:
        objectives: list[float] = []
        gradient_norms: list[float] = []

        def show(iterate: Iterate) -> None:
            objectives.append(iterate.value)
            gradient_norms.append(iterate.projected_gradient_norm)
            # The first steps change nearly everything, the later ones refine it.
            if iterate.number > FIRST and iterate.number % max(1, args.steps // PICTURES):
                return
            curves = (
                StepCurve("objective", objectives),
                StepCurve("|projected gradient|", gradient_norms, log_scale=True),
            )
            screen.show(draw_grid(replace(game.scene(env.view()), curves=curves)))

        optimum = normalized_ascent(
            leader,
            leader.reset(seed=0),
            leader.low,
            leader.high,
            steps=args.steps,
            learning_rate=args.learning_rate,
            callback=show,
        )
        leader(optimum.best.upper_params)
        show(replace(optimum.best, number=0))  # the film ends on the best x, whatever its number
        print(f"objective at the start: {optimum.first.value:.4f}")
        print(f"objective at the best of {optimum.evaluations} x: {optimum.best.value:.4f}")
        if game.best_known is not None:
            print(f"best known: {game.best_known.value:.4f}")
        screen.linger()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="steps of the ascent")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="length of the first one")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    try:
        main(parser.parse_args())
    except (NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
