"""A window in which a person compares fragments of what a follower does, and a leader learns r_x.

Two fragments play side by side; the arrow keys tell which one is better. Meanwhile the leader
learns a reward that explains the answers, and the follower learns to earn it, so that what is shown
changes under way. It works for every game with `preferences` whose environment has a picture, goes
the same way twice by the same seed and actions, and is set up anew by `reset(seed=...)`: fragments
are played once more to be seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core.checks import check_at_least, check_positive
from ..core.mdp import FloatArray
from ..envs.parametric import ASKS, ParametricGame
from ..model.judges import Judge, Later
from ..optimizers.rules import AdamRule
from ..rendering import Screen, StepCurve
from ..rendering.canvas import HEADER_HEIGHT, THEME, draw_text, import_pygame, new_page, pygame
from ..rendering.curves import draw_curves
from ..wrappers import HyperGradient

if TYPE_CHECKING:
    from ..episodes.fragments import Pairs

__all__ = ["Clips", "Outcome", "compare"]

TITLE = "Which one do you like better?"

# Pairs offered from one time that episodes are played to the next, and the leader's steps between.
OFFERED, EVERY = 8, 25

# Steps of a fragment from one picture to the next: of one to look at, and of one for a film.
STRIDE, AUTO_STRIDE = 1, 8

# Sizes in the picture, in pixels.
CLIP, LINE, BAR, CURVES = 300, 30, 64, 130
WIDTH = 3 * CLIP + 4 * THEME.margin
HEIGHT = HEADER_HEIGHT + CLIP + BAR + CURVES + 2 * THEME.gap


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        answers: Pairs that were answered.
        upper_params: x.
        returns: Mean returns of the environment's own reward each time that it was asked, the
            first one before anything was answered.
        seat: The leader's seat, with the follower.
    """

    answers: int
    upper_params: FloatArray
    returns: list[float]
    seat: HyperGradient[Any]


class Clips:
    """Plays fragments once more, to be seen."""

    def __init__(self, game: ParametricGame) -> None:
        """Set up an environment of its own.

        Raises:
            RuntimeError: If it has no picture.
        """
        self._name = game.title
        self._env = game.make_environment("rgb_array")
        self._env.reset(seed=0)
        self._picture()

    def film(self, pair: Pairs, side: int) -> list[pygame.Surface]:
        """Return a picture of each step of a fragment, the first (`side` 0) or the second (1).

        Raises:
            RuntimeError: If the environment does not go the way that it went before.
        """
        assert pair.windows is not None and pair.played is not None
        assert pair.played.seeds is not None
        episode, start = (int(at[0, side]) for at in (pair.windows.episodes, pair.windows.starts))
        actions, length = pair.played.actions[:, episode], int(pair.alive[0, side].sum())
        seen, _ = self._env.reset(seed=int(pair.played.seeds[episode]))
        film = []
        for step in range(start + length):
            if step >= start:
                if not np.allclose(seen, pair.observations[0, side, step - start], 1e-4, 1e-4):
                    raise RuntimeError(
                        f"{self._name} does not go the same way twice, by the same seed and "
                        "actions, so that fragments cannot be played once more"
                    )
                film.append(self._picture())
            seen, *_ = self._env.step(actions[step])
        return film

    def _picture(self) -> pygame.Surface:
        found: Any = self._env.render()
        if not isinstance(found, np.ndarray):
            raise RuntimeError(f"{self._name} has no picture")
        shot = pygame.surfarray.make_surface(found.swapaxes(0, 1))
        scale = CLIP / max(shot.get_size())
        size = [max(1, round(scale * side)) for side in shot.get_size()]
        return pygame.transform.smoothscale(shot, size)


def compare(
    game: ParametricGame,
    *,
    answers: int = 120,
    auto: bool = False,
    headless: Path | None = None,
    seed: int = 0,
    learning_rate: float = 1e-3,
    inner_steps: int = 24,
    **options: Any,
) -> Outcome:
    """Show pairs of fragments in a window, take answers, and learn from them meanwhile.

    The left and the right arrow choose a fragment, the down arrow means that they cannot be told.

    Args:
        game: A game with `preferences`.
        answers: Pairs to answer, at least 1.
        auto: Whether the game's own judge answers.
        headless: A GIF to write in place of a window; the game's own judge answers.
        seed: Seed of everything random.
        learning_rate: Of Adam, by which x moves, positive.
        inner_steps: Environment steps that the follower learns for each picture, at least 1.
        **options: Other options of the method; see `bilevel_gym.learnt.preference_methods`.

    Raises:
        TypeError: If the game has no preferences.
        ValueError: If an argument is out of range.
        RuntimeError: If fragments of the environment cannot be shown.
        NoDisplayError: If there is no display, and no film is wanted.
    """
    if not isinstance(game, ParametricGame) or game.kind != ASKS:
        raise TypeError(f"`game` must be a ParametricGame with `preferences`, got {game}")
    check_at_least("answers", answers, 1)
    check_at_least("inner_steps", inner_steps, 1)
    check_positive("learning_rate", learning_rate)
    auto = auto or headless is not None
    with Screen("Preferences", headless=headless) as screen:
        comparison = _Comparison(game, seed, learning_rate, {"inner_steps": inner_steps, **options})
        while comparison.answered < answers and not screen.closed:
            comparison.learn()
            if not comparison.offered():  # nothing new to look at yet
                continue
            answer = comparison.own_answer(AUTO_STRIDE) if auto else _pressed(screen)
            screen.show(comparison.draw(answer, answers), frames=1)
            comparison.go_on(AUTO_STRIDE if auto else STRIDE)
            if answer is not None:
                comparison.take(answer)
        screen.linger()
    return comparison.outcome


def _pressed(screen: Screen) -> float | None:
    """Return the answer of the last arrow key that was pressed, None if none was."""
    pygame, answer = import_pygame(), None
    answers = {pygame.K_LEFT: 1.0, pygame.K_RIGHT: 0.0, pygame.K_DOWN: 0.5}
    for event in screen.events():
        if event.type == pygame.KEYDOWN:
            answer = answers.get(event.key, answer)
    return answer


class _Comparison:
    """The leader, who learns from one step to the next, and the pair that is shown."""

    def __init__(
        self, game: ParametricGame, seed: int, learning_rate: float, options: dict[str, Any]
    ) -> None:
        self._game, self._rate, self._later = game, learning_rate, Later()
        self._judge: Judge = game.judge
        game.judge = self._later
        given = {"method": "direct", "max_comparisons": None, "ask_every": EVERY}
        given |= {"first_comparisons": OFFERED, "comparisons": OFFERED}
        self._seat = HyperGradient(game, **{**given, **options})
        self._method: Any = self._seat.method
        self._clips, self._rng = Clips(game), np.random.default_rng(seed)
        self._rule = AdamRule(game.upper_space.low, game.upper_space.high)
        observation, self._info = self._seat.reset(seed=seed)
        self._x: FloatArray = self._info["upper_params"]
        self._returns, self.answered = [float(observation[0])], 0
        self._pair: Pairs | None = None
        self._films: list[list[pygame.Surface]] = []
        self._step = 0

    @property
    def outcome(self) -> Outcome:
        self._game.judge = self._judge
        return Outcome(self.answered, self._info["upper_params"], self._returns, self._seat)

    def learn(self) -> None:
        """Take a step of the leader, once there is something to explain."""
        x: FloatArray = self._info["upper_params"]
        if len(self._method.queue):
            x = self._rule.step(x, 0.0, self._info["hyper_gradient"], self._rate)
        observation, *_, self._info = self._seat.step(x)
        self._x = x
        self._returns.append(float(observation[0]))

    def offered(self) -> bool:
        """Return whether there is a pair to show, the next one if one is needed."""
        if self._pair is None and self._later.waiting:
            pair = self._pair = self._later.waiting.pop()
            self._films, self._step = [self._clips.film(pair, side) for side in (0, 1)], 0
        return self._pair is not None

    def own_answer(self, stride: int) -> float | None:
        """Return what the game's own judge answers, after the last picture."""
        if self._step + stride < max(map(len, self._films)):
            return None
        return float(np.asarray(self._judge(self._shown, self._rng))[0])

    def go_on(self, stride: int) -> None:
        """Go to the next picture, from the last one back to the first."""
        self._step = (self._step + stride) % max(map(len, self._films))

    def take(self, answer: float) -> None:
        """Learn from an answer to the pair that is shown, if it is one."""
        self._method.queue.add(self._shown, [answer])
        self.answered, self._pair = self.answered + 1, None

    @property
    def _shown(self) -> Pairs:
        assert self._pair is not None
        return self._pair

    def draw(self, answer: float | None, wanted: int) -> pygame.Surface:
        """Draw both clips, the answer, r_x, and what has been reached so far."""
        status = (
            ("answers", f"{self.answered} of {wanted}"),
            ("log-likelihood", f"{self._seat.response.objective:.3f}"),
            ("true return", f"{self._returns[-1]:.4g}"),
        )
        surface = new_page((WIDTH, HEIGHT), TITLE, status)
        for side, caption in enumerate(("left arrow: this one", "right arrow: this one")):
            left = THEME.margin + side * (CLIP + THEME.margin)
            place = pygame.Rect(left, HEADER_HEIGHT, CLIP, CLIP)
            film = self._films[side]  # a short one waits at its end
            shot = film[min(self._step, len(film) - 1)]
            surface.blit(shot, shot.get_rect(center=place.center))
            chosen = answer is not None and answer != side and answer != 0.5
            colour = THEME.accent if chosen else THEME.rule
            pygame.draw.rect(surface, colour, place, width=6 if chosen else 1)
            below = (place.centerx, place.bottom + THEME.gap // 2)
            draw_text(surface, caption, below, size=THEME.small_size, anchor="midtop")
        middle = (THEME.margin + CLIP + THEME.margin // 2, HEADER_HEIGHT + CLIP + LINE)
        hint, at = "down arrow: I cannot tell", (middle[0], middle[1] + THEME.gap // 2)
        size, colour = THEME.small_size, THEME.muted
        draw_text(surface, hint, at, size=size, anchor="midtop", colour=colour)
        left = THEME.margin + 2 * (CLIP + THEME.margin)
        self._game.draw_reward(surface, (left, HEADER_HEIGHT, CLIP, CLIP + BAR), self._x)
        top = HEADER_HEIGHT + CLIP + BAR + THEME.gap
        rectangle = (THEME.margin, top, WIDTH - 2 * THEME.margin, CURVES)
        draw_curves(surface, rectangle, [StepCurve("true return of an episode", self._returns)])
        return surface
