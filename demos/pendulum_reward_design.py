"""A leader designs the reward of a pendulum, whose follower learns from scratch while you watch.

The leader's reward is how upright the pole is, cos(theta), and it chooses the follower's rewards of
the pole's directions. Only episodes of the follower are seen, and all of the hyper-gradient is its
response. On the right you see an episode under each x, on the left the first one, under x = 0, and
the leader's mean reward so far.

    python demos/pendulum_reward_design.py
    python demos/pendulum_reward_design.py --headless reward_design.gif
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.checks import check_at_least
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.optimizers import Iterate
from bilevel_gym.optimizers.safe import safe
from bilevel_gym.registration import QUICK
from bilevel_gym.rendering import THEME, NoDisplayError, Screen, import_pygame, new_surface
from bilevel_gym.rendering.canvas import draw_text
from bilevel_gym.rendering.picture_charts import Axis, Chart, Series, draw_chart
from bilevel_gym.wrappers import LeaderObjective

if TYPE_CHECKING:
    from pygame import Surface

ENV_ID = "BilevelPendulum-v0"

# Steps of an episode from one picture to the next, in a film and in a window.
FILM_PACE, WINDOW_PACE = 5, 2


class Stage:
    """Shows the follower's episodes, beside the first one and the curve so far."""

    def __init__(self, env: HyperGradient, screen: Screen, pace: int, seed: int) -> None:
        """Set the stage, for a picture every `pace` steps of an episode.

        The seed is that of the episode, which starts in the same way each time.
        """
        self._env, self._screen, self._pace, self._seed = env, screen, pace, seed
        self._before: list[Surface] = []
        self._steps: list[int] = []
        self.means: list[float] = []

    def play(self, x: FloatArray, steps: int, mean: float) -> None:
        """Show an episode of the follower as it is, under x.

        The curve gets a point: environment steps so far, and the mean of cos(theta).
        """
        self._steps.append(steps)
        self.means.append(mean)
        learner: Any = self._env.method
        follower = LowerLevel(self._env, x)
        rng = np.random.default_rng(self._seed)
        state, _ = follower.reset(seed=self._seed)
        first, over, step = not self._before, False, 0
        while not (over or self._screen.closed):
            if step % self._pace == 0:
                self._show(step // self._pace, first)
            action = learner.follower.draw(np.asarray(state)[None], rng)[0]
            state, _, terminated, truncated, _ = follower.step(action)
            over, step = terminated or truncated, step + 1

    def _show(self, number: int, first: bool) -> None:
        game = self._env.game
        now = game.draw(game.view())
        if first:
            self._before.append(now)
        width, height = now.get_size()
        small, margin = (width // 2, height // 2), THEME.margin
        page = new_surface((small[0] + width, height))
        page.blit(now, (small[0], 0))
        then = self._before[min(number, len(self._before) - 1)]
        top = 2 * THEME.small_size
        draw_text(page, "at first, under x = 0:", (margin, margin // 2), size=THEME.small_size)
        page.blit(import_pygame().transform.smoothscale(then, small), (0, top))
        thousands = np.array(self._steps) / 1000.0
        chart = Chart(
            Axis(0.0, max(25.0, 1.05 * float(thousands[-1])), "thousand environment steps"),
            Axis(-1.0, 1.0, "mean cos(theta), the leader's reward"),
            (Series(thousands, np.array(self.means)),),
            mark=float(thousands[-1]),
        )
        top += small[1] + THEME.gap
        draw_chart(page, (margin, top, small[0] - margin, height - top - margin // 2), chart)
        self._screen.show(page, frames=3)


def main(args: argparse.Namespace) -> None:
    """Climb from x = 0, and show what becomes of the follower."""
    check_at_least("--steps", args.steps, 1)
    check_at_least("--episodes", args.episodes, 1)
    import torch

    import bilevel_gym.sb3  # noqa: F401  (names the extra where it is missing)

    torch.set_num_threads(1)  # networks this small are slower on more

    with Screen("A reward designed for a pendulum", headless=args.headless) as screen:
        options = QUICK if args.quick else {}
        game = gym.make(ENV_ID, render_mode="rgb_array")
        env = HyperGradient(game, outer_steps=args.steps + 2, **options)
        pace = WINDOW_PACE if args.headless is None else FILM_PACE
        stage = Stage(env, screen, pace, args.seed)
        method: Any = env.method
        objective, rng = LeaderObjective(env), np.random.default_rng(args.seed)
        samples = 0

        def show(iterate: Iterate) -> None:
            nonlocal samples
            if screen.closed:
                raise KeyboardInterrupt
            # Held-out episodes: the best of those that were learnt from would be too good.
            x = iterate.upper_params
            played = method.follower.play(x, args.episodes, rng)
            mean = float(played.upper_rewards[played.alive].mean())
            samples += int(objective.info["inner_samples"])
            print(f"{samples:>18}{mean:>18.3f}   {np.round(x, 2).tolist()}", flush=True)
            stage.play(x, samples, mean)

        print(f"{'environment steps':>18}{'mean cos(theta)':>18}   x")
        safe(
            objective,
            objective.reset(seed=args.seed),
            objective.low,
            objective.high,
            steps=args.steps,
            seed=args.seed,
            callback=show,
        )
        print(f"mean cos(theta): {stage.means[0]:.3f} at first, {max(stage.means):.3f} at best")
        screen.linger()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="steps of the leader")
    parser.add_argument("--episodes", type=int, default=64, help="episodes of each measurement")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--quick", action="store_true", help="hardly any learning, for a try")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    try:
        main(parser.parse_args())
    except KeyboardInterrupt:
        sys.exit(0)
    except (ImportError, NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
