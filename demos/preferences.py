"""You judge pairs of clips, and a pendulum learns what you like.

Two fragments of what the follower does play side by side. Press the left or the right arrow for
the one that you prefer, the down arrow if you cannot tell. Meanwhile the leader learns a reward r_x
that explains your answers, and the follower learns to earn it, so that the clips change under way.
The environment's own reward is measured, and no learner sees it.

    python demos/preferences.py
    python demos/preferences.py --auto
    python demos/preferences.py --headless preferences.gif

With `--auto`, and in a film, a synthetic judge answers, by the environment's own reward.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from bilevel_gym import HyperGradient
from bilevel_gym.core.checks import check_at_least
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs.preference_pendulum import TORQUES, BilevelPreferencePendulum
from bilevel_gym.model.judges import BradleyTerry
from bilevel_gym.optimizers.rules import AdamRule
from bilevel_gym.rendering import NoDisplayError, Screen, StepCurve
from bilevel_gym.rendering.canvas import (
    HEADER_HEIGHT,
    THEME,
    ColourScale,
    diverging_colours,
    draw_colour_bar,
    draw_text,
    import_pygame,
    new_page,
)
from bilevel_gym.rendering.curves import draw_curves

if TYPE_CHECKING:
    from pygame import Surface

    from bilevel_gym.episodes.fragments import Pairs

ENV_ID, TITLE = "BilevelPreferencePendulum-v0", "Which one do you like better?"

# Pairs of clips from one time that episodes are played to the next, and the leader's steps between.
OFFERED, EVERY = 8, 25

LEARNING_RATE = 1e-3

# Steps of a clip from one picture to the next: of one to look at, and of one for a film.
STRIDE, AUTO_STRIDE = 1, 8

# Sizes in the picture, in pixels.
CLIP, CHART_POINTS, LINE, BAR, CURVES = 300, 100, 30, 64, 130
WIDTH = 3 * CLIP + 4 * THEME.margin
HEIGHT = HEADER_HEIGHT + CLIP + BAR + CURVES + 2 * THEME.gap


class Offers:
    """A judge who answers later: it keeps what it is shown."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.waiting: list[Pairs] = []

    def __call__(self, pairs: Pairs, rng: np.random.Generator) -> FloatArray:
        """Keep the newest pairs, and answer nothing."""
        self.waiting = [pairs[i : i + 1] for i in range(len(pairs))]
        return np.full(len(pairs), np.nan)


class Clips:
    """Draws the pendulum in a state that it once was in."""

    def __init__(self, game: BilevelPreferencePendulum) -> None:
        """Set up a pendulum of its own."""
        env = game.make_environment("rgb_array")
        env.reset(seed=0)
        self._raw: Any = env.unwrapped

    def draw(self, observation: FloatArray, action: int) -> Surface:
        """Return the picture of a step."""
        pygame = import_pygame()
        cosine, sine, speed = observation
        self._raw.state = np.array([np.arctan2(sine, cosine), speed])
        self._raw.last_u = TORQUES[action]
        picture = pygame.surfarray.make_surface(self._raw.render().swapaxes(0, 1))
        clip: Surface = pygame.transform.smoothscale(picture, (CLIP, CLIP))
        return clip


def main(args: argparse.Namespace) -> None:
    """Show pairs, take answers, and learn meanwhile."""
    check_at_least("--answers", args.answers, 1)
    check_at_least("--inner-steps", args.inner_steps, 1)
    import torch

    import bilevel_gym.learnt  # noqa: F401  (names the extra where it is missing)

    torch.set_num_threads(1)  # networks this small are slower on more

    auto, offers = args.auto or args.headless is not None, Offers()
    with Screen("Preferences", headless=args.headless) as screen:
        game = gym.make(ENV_ID, judge=offers, seed=args.seed).unwrapped
        assert isinstance(game, BilevelPreferencePendulum)
        env = HyperGradient(
            game,
            method="direct",
            first_comparisons=OFFERED,
            comparisons=OFFERED,
            max_comparisons=None,
            ask_every=EVERY,
            inner_steps=args.inner_steps,
        )
        method: Any = env.method
        judge, rng = BradleyTerry(), np.random.default_rng(args.seed)
        rule = AdamRule(game.upper_space.low, game.upper_space.high)
        observation, info = env.reset(seed=args.seed)
        clips, pygame = Clips(game), import_pygame()
        answers = {pygame.K_LEFT: 1.0, pygame.K_RIGHT: 0.0, pygame.K_DOWN: 0.5}
        returns, answered, pair, step = [float(observation[0])], 0, None, 0
        stride = AUTO_STRIDE if auto else STRIDE

        def learn() -> FloatArray:
            nonlocal info
            x: FloatArray = info["upper_params"]
            if len(method.queue):
                x = rule.step(x, 0.0, info["hyper_gradient"], LEARNING_RATE)
            observation, *_, info = env.step(x)
            returns.append(float(observation[0]))
            return x

        while answered < args.answers and not screen.closed:
            x = learn()
            if pair is None and offers.waiting:
                pair, step = offers.waiting.pop(), 0
            if pair is None:  # nothing new to look at yet
                continue
            answer = None
            if auto and step + stride >= game.fragment_steps:
                answer = float(judge(pair, rng)[0])
            for event in screen.events():
                if not auto and event.type == pygame.KEYDOWN:
                    answer = answers.get(event.key, answer)
            status = (
                ("answers", f"{answered} of {args.answers}"),
                ("log-likelihood", f"{env.response.objective:.3f}"),
                ("true return of 200 steps", f"{returns[-1]:.0f}"),
            )
            screen.show(draw(game, clips, pair, step, answer, x, returns, status), frames=1)
            step = (step + stride) % game.fragment_steps
            if answer is not None:
                method.queue.add(pair, [answer])
                answered, pair = answered + 1, None
        print(f"answers: {answered}")
        print(f"true return at the start: {returns[0]:.0f}")
        played = method.follower.play(info["upper_params"], 10, rng)
        print(f"true return at the end: {played.upper_rewards.sum(axis=0).mean():.0f}")
        screen.linger()


def draw(
    game: BilevelPreferencePendulum,
    clips: Clips,
    pair: Pairs,
    step: int,
    answer: float | None,
    x: FloatArray,
    returns: list[float],
    status: tuple[tuple[str, str], ...],
) -> Surface:
    """Draw both clips at a step, the answer, r_x, and what has been reached so far."""
    pygame = import_pygame()
    surface = new_page((WIDTH, HEIGHT), TITLE, status)
    captions = ("left arrow: this one", "right arrow: this one")
    for side, caption in enumerate(captions):
        left = THEME.margin + side * (CLIP + THEME.margin)
        place = pygame.Rect(left, HEADER_HEIGHT, CLIP, CLIP)
        shot = clips.draw(pair.observations[0, side, step], int(pair.actions[0, side, step]))
        surface.blit(shot, place)
        chosen = answer is not None and answer != side and answer != 0.5
        colour = THEME.accent if chosen else THEME.rule
        pygame.draw.rect(surface, colour, place, width=6 if chosen else 1)
        below = (place.centerx, place.bottom + THEME.gap // 2)
        draw_text(surface, caption, below, size=THEME.small_size, anchor="midtop")
    middle = (THEME.margin + CLIP + THEME.margin // 2, HEADER_HEIGHT + CLIP + THEME.gap // 2 + LINE)
    hint, size = "down arrow: I cannot tell", THEME.small_size
    draw_text(surface, hint, middle, size=size, anchor="midtop", colour=THEME.muted)

    left = THEME.margin + 2 * (CLIP + THEME.margin)
    pixels = pygame.surfarray.make_surface(
        diverging_colours(game.chart(x, CHART_POINTS), 1.0)[::-1, ::-1]
    )
    surface.blit(pygame.transform.scale(pixels, (CLIP, CLIP)), (left, HEADER_HEIGHT))
    bar = (left, HEADER_HEIGHT + CLIP + THEME.gap // 2, CLIP, BAR)
    draw_colour_bar(surface, bar, ColourScale(1.0, "r_x by angle and speed", power=1.0))
    top = HEADER_HEIGHT + CLIP + BAR + THEME.gap
    rectangle = (THEME.margin, top, WIDTH - 2 * THEME.margin, CURVES)
    draw_curves(surface, rectangle, [StepCurve("true return of 200 steps", returns)])
    return surface


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
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
    except (ImportError, NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
