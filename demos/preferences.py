"""You judge pairs of clips, and a pendulum learns what you like.

Two fragments of what the follower does play side by side. Press the left or the right arrow for
the one that you prefer, the down arrow if you cannot tell. Meanwhile the leader learns a reward r_x
that explains your answers, and the follower learns to earn it, so that the clips change under way.
The environment's own reward is measured, and no learner sees it.

    python demos/preferences.py
    python demos/preferences.py --auto
    python demos/preferences.py --env Acrobot-v1
    python demos/preferences.py --headless preferences.gif

With `--auto`, and in a film, a synthetic judge answers, by the environment's own reward. `--env` is
any other environment of Gymnasium, with a small network as reward; see
`bilevel_gym.viewer.comparing`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym.core.checks import check_at_least
from bilevel_gym.envs import ParametricGame
from bilevel_gym.rendering import NoDisplayError
from bilevel_gym.viewer.comparing import compare

ENV_ID = "BilevelPreferencePendulum-v0"


def main(args: argparse.Namespace) -> None:
    """Show pairs, take answers, and learn meanwhile."""
    check_at_least("--answers", args.answers, 1)
    check_at_least("--inner-steps", args.inner_steps, 1)
    import torch

    import bilevel_gym.learnt  # noqa: F401  (names the extra where it is missing)

    torch.set_num_threads(1)  # networks this small are slower on more
    if args.env == ENV_ID:
        game = gym.make(ENV_ID, seed=args.seed).unwrapped
    else:
        model = {"kind": "network", "seed": args.seed}
        game = ParametricGame(args.env, model, preferences={}, gamma=0.97, temperature=0.1)
    assert isinstance(game, ParametricGame)
    found = compare(
        game,
        answers=args.answers,
        auto=args.auto,
        headless=args.headless,
        seed=args.seed,
        inner_steps=args.inner_steps,
    )
    print(f"answers: {found.answers}")
    print(f"true return at the start: {found.returns[0]:.0f}")
    method: Any = found.seat.method
    rng = np.random.default_rng(args.seed)
    played = method.follower.play(found.upper_params, 10, rng)
    print(f"true return at the end: {played.upper_rewards.sum(axis=0).mean():.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default=ENV_ID, help="the environment")
    parser.add_argument("--answers", type=int, default=120, help="pairs to judge")
    parser.add_argument("--auto", action="store_true", help="let a synthetic judge answer")
    parser.add_argument(
        "--inner-steps",
        type=int,
        default=24,
        help="steps that the follower learns per picture",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    try:
        main(parser.parse_args())
    except KeyboardInterrupt:
        sys.exit(0)
    except (ImportError, NoDisplayError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
