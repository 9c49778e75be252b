"""BilevelReacher-v0: a reward for a robot arm, so that its tip comes to the target."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray

from ..core.checks import check_not_negative, check_positive
from ..core.mdp import FloatArray
from ..rendering.canvas import (
    HEADER_HEIGHT,
    SUPERSAMPLING,
    THEME,
    ColourScale,
    draw_centred,
    draw_note,
    enlarged,
    new_page,
    pygame,
    shrunk,
)
from ..rendering.key import KeyEntry, draw_key, gradient_entries
from ..rendering.picture_charts import draw_bars
from ..rendering.signs import ICON_SIDE, TARGET, pin_sprite
from ..rewards.models import LinearReward
from .base import View
from .learnable import torque_cost
from .parametric import ParametricGame
from .simulators import Restorable, require

__all__ = ["BilevelReacher"]

# Lengths of the two links, and the ranges of nearness, in metres.
LINKS = 0.1, 0.11
RANGES = 0.05, 0.1, 0.2

# Observations are measured in these, so that they are of order one: cosines and sines,
# metres for the target, radians per second, metres for the vector from the target to the tip.
LENGTH, SPEED = 0.2, 10.0
UNITS = np.array([1.0, 1.0, 1.0, 1.0, LENGTH, LENGTH, SPEED, SPEED, LENGTH, LENGTH])

# Speed of the joints, in those units, at which "at rest" has faded to 1/sqrt(e).
RESTING_SPEED = 0.5

FEATURES = ("near\n5 cm", "near\n10 cm", "near\n20 cm", "at rest", "stretched", "heading")

# The picture, in pixels, and the half-width of the arena, in metres.
PICTURE_SIZE = (1040, 680)
CAPTION_HEIGHT, ARENA_SIDE, BARS_HEIGHT, ARM_WIDTH = 28, 472, 290, 18
HALF_WIDTH = 0.22
FIELD_POINTS = 118


class BilevelReacher(ParametricGame):
    """A leader designs the reward of an arm; the only aim given is where its tip should be.

    ## Description
    The arm of MuJoCo's Reacher has two links and a torque at each of two joints; a target lies
    somewhere within its reach. The follower moves the arm; its reward depends on six features of
    what it observes, as the leader decides, less a cost of its torques. The leader's own reward is
    minus the distance from the tip to the target. At x = 0 no feature has a reward, and the
    follower has no reason to come near.

    ## Upper Level
    x in [-`upper_bound`, `upper_bound`]^6, the weights of the features; x starts at 0. The
    objective, to be maximised, is

        F(x) = -E[ sum_t upper_gamma^t |d_t| ]

    over the steps of an episode, with d the vector from the target to the tip, in metres.

    ## Lower Level
    An entropy-regularised problem with discount `gamma` and temperature `temperature` (of the
    entropy of actions, relative to that of the uniform policy, see `ParametricGame`) and the reward

        r_x(s, a) = reward_bound tanh(x . phi(s) / reward_bound) - effort_cost |a|^2.

    The features phi are, in order:

    * near: exp(-|d|^2 / (2 l^2)) for l = 5 cm, 10 cm and 20 cm;
    * at rest: exp(-|w|^2 / (2 * 5^2)), w being the speeds of the joints in radians per second;
    * stretched: the cosine of the angle of the second joint;
    * heading: the cosine of the angle between the first link and the direction of the target.

    Nothing but the effort depends on the action: the one-step formula of `sobirl` is zero here.

    ## Spaces and Episode
    * Observation: `Box(-inf, inf, [10])`, cosines of the two angles, their sines, the target's
      place, the joints' speeds, and d; lengths are in units of 20 cm and speeds in units of 10
      radians per second, so that all of it is of order one.
    * Action: `Box(-1, 1, [2])`, the torques.
    * Episode: the arm starts almost stretched out to the right, at rest, with a target drawn
      uniformly from a disc of 20 cm. The episode never terminates and is truncated after
      `episode_steps` (50), which are .02 seconds each.

    ## Arguments
    * `reward_bound` (1): bound on the reward of the features, positive;
    * `effort_cost` (.05): price of the square of the torques, not negative;
    * `episode_steps` (50), `gamma` (.95), `upper_gamma` (.95), `temperature` (.05), `upper_bound`
      (5) and `render_mode`: see `ParametricGame`. The picture shows the arm from above, the arena
      coloured by the reward of an arm at rest with its tip there, and x. It needs neither MuJoCo's
      renderer nor OpenGL.

    MuJoCo is brought by the extra `mujoco`: `pip install -e ".[mujoco,sb3]"`.

    ## Ground Truth
    There is none: the objective, the hyper-gradient and the best x are not known exactly. From x0
    by the safe climb with 50 000 environment steps, the sum of the leader's rewards over an
    episode, the mean of 30 held-out episodes and its standard error:

    | seed | x0 | best |
    |---|---|---|
    | 0 | -9.37 (.50) | -3.35 (.18) |
    | 1 | -9.30 (.52) | -2.95 (.14) |
    | 2 | -8.98 (.39) | -5.26 (.16) |

    (`python -m tests.benchmarks.worlds`; a minute each.) At x0 the arm moves at random.

    ## References
    Gymnasium's Reacher-v5, https://gymnasium.farama.org/environments/mujoco/reacher/; the simulator
    is that of E. Todorov, T. Erez, Y. Tassa, "MuJoCo: A physics engine for model-based control",
    IROS 2012. The rewards of both levels are this project's own.
    """

    leader_does, follower_does = "weighs features", "moves the arm"
    leader_wants = "the tip of the arm at the target"
    follower_wants = "poses of high reward, and little torque"

    default_method = "score"

    def __init__(
        self,
        *,
        reward_bound: float = 1.0,
        effort_cost: float = 0.05,
        episode_steps: int = 50,
        gamma: float = 0.95,
        upper_gamma: float = 0.95,
        temperature: float = 0.05,
        upper_bound: float = 5.0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; raise `ValueError` for an argument, `ImportError` without MuJoCo."""
        self._reward_bound = check_positive("reward_bound", reward_bound)
        check_not_negative("effort_cost", effort_cost)
        require("BilevelReacher", "mujoco", "mujoco", "imageio")
        super().__init__(
            "Reacher-v5",
            LinearReward(
                features,
                len(FEATURES),
                base=partial(torque_cost, weight=effort_cost),
                bound=reward_bound,
            ),
            episode_steps=episode_steps,
            upper_reward=closeness,
            gamma=gamma,
            upper_gamma=upper_gamma,
            temperature=temperature,
            upper_bound=upper_bound,
            render_mode=render_mode,
        )

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh copy of the environment, which need not draw itself."""
        arm = super().make_environment()
        seen = spaces.Box(-np.inf, np.inf, UNITS.shape)
        return Restorable(TransformObservation(arm, scaled, seen))

    def knob_names(self) -> tuple[str, ...]:
        """Return the names of the features."""
        return tuple(name.replace("\n", " ") for name in FEATURES)

    def draw(self, view: View) -> pygame.Surface:
        """Draw the arm in its arena, the rewards there, and x."""
        surface, margin = new_page(PICTURE_SIZE, view.title, view.status), THEME.margin
        caption = "the arm from above, and the reward of its tip at rest there"
        draw_note(surface, caption, (margin, HEADER_HEIGHT), colour=THEME.ink)
        seen = np.zeros(10) if self._observation is None else np.asarray(self._observation)
        rewards = self._field(view.upper_params, seen)
        scale = ColourScale(self._reward_bound, "reward of the features", power=1.0)
        colours = scale.colours(rewards)
        colours[np.isnan(rewards)] = THEME.page
        _draw_arena(surface, (margin, HEADER_HEIGHT + CAPTION_HEIGHT), colours, seen)

        left = margin + ARENA_SIDE + margin
        room = PICTURE_SIZE[0] - margin - left
        chart = self._bars(view, FEATURES, "the leader's x: weights of the features")
        draw_bars(surface, (left, HEADER_HEIGHT, room, BARS_HEIGHT), chart)
        top = HEADER_HEIGHT + BARS_HEIGHT + THEME.gap
        key = (left, top, room, PICTURE_SIZE[1] - margin - top)
        draw_key(surface, key, _key(self.slopes(view)), scale=scale)
        return surface

    def _field(self, upper_params: FloatArray, seen: FloatArray) -> FloatArray:
        """Return r_x for the tip at each point of the arena at rest, `[x, y]`, NaN out of reach."""
        axis = np.linspace(-HALF_WIDTH, HALF_WIDTH, FIELD_POINTS)
        tip = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        one, two = LINKS
        bend = (np.square(tip).sum(axis=1) - one**2 - two**2) / (2.0 * one * two)
        reachable = np.abs(bend) <= 1.0
        tip, bend = tip[reachable], bend[reachable]
        # There are two such arms; take the one that is bent as this one is.
        second = np.copysign(np.arccos(bend), seen[3])
        turn = np.arctan2(two * np.sin(second), one + two * bend)
        first = np.arctan2(tip[:, 1], tip[:, 0]) - turn
        target = np.broadcast_to(seen[4:6], tip.shape)
        offset = tip / LENGTH - target
        angles = np.stack([np.cos(first), bend, np.sin(first), np.sin(second)], axis=1)
        still = np.zeros(tip.shape)
        observations = np.concatenate([angles, target, still, offset], axis=1)
        rewards = np.full(len(reachable), np.nan)
        rewards[reachable] = self.reward_model.rewards(upper_params, observations, still)
        return rewards.reshape(FIELD_POINTS, FIELD_POINTS)


def scaled(observation: NDArray[Any]) -> NDArray[np.float32]:
    """Return what is seen in units that make it of order one, `[10]`."""
    return (observation / UNITS).astype(np.float32)


def features(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
    """Return phi(s), `[B, 6]`."""
    seen = np.asarray(observations, np.float64)
    target, speeds, offset = seen[:, 4:6], seen[:, 6:8], LENGTH * seen[:, 8:10]
    square = np.square(offset).sum(axis=1)
    near = [np.exp(-square / (2.0 * length**2)) for length in RANGES]
    rest = np.exp(-np.square(speeds).sum(axis=1) / (2.0 * RESTING_SPEED**2))
    away = np.maximum(np.linalg.norm(target, axis=1), np.finfo(np.float64).tiny)
    heading = (seen[:, 0] * target[:, 0] + seen[:, 2] * target[:, 1]) / away
    return np.stack([*near, rest, seen[:, 1], heading], axis=1)


def closeness(observations: NDArray[Any], actions: NDArray[Any], rewards: FloatArray) -> FloatArray:
    """Return minus the distance from the tip to the target, `[B]`."""
    return -LENGTH * np.linalg.norm(np.asarray(observations[:, 8:10], np.float64), axis=1)


def _draw_arena(
    surface: pygame.Surface,
    corner: tuple[int, int],
    colours: NDArray[np.uint8],
    seen: FloatArray,
) -> None:
    """Draw the rewards in the arena, the target and the arm."""
    # Screens count rows from the top.
    field = pygame.surfarray.make_surface(colours[:, ::-1])
    surface.blit(pygame.transform.smoothscale(field, (ARENA_SIDE, ARENA_SIDE)), corner)

    def place(point: FloatArray) -> tuple[float, float]:
        x, y = (point * [1.0, -1.0] / HALF_WIDTH + 1.0) / 2.0 * ARENA_SIDE
        return float(x), float(y)

    x, y = place(LENGTH * seen[4:6])
    draw_centred(surface, pin_sprite(TARGET, ICON_SIDE), (corner[0] + x, corner[1] + y))

    first = np.arctan2(seen[2], seen[0])
    both = first + np.arctan2(seen[3], seen[1])
    elbow = LINKS[0] * np.array([np.cos(first), np.sin(first)])
    tip = elbow + LINKS[1] * np.array([np.cos(both), np.sin(both)])
    joints = [place(point) for point in (np.zeros(2), elbow, tip)]
    large = enlarged(ARENA_SIDE, ARENA_SIDE, THEME.ink)
    for width, colour in ((ARM_WIDTH + 4, THEME.light), (ARM_WIDTH, THEME.ink)):
        thick = width * SUPERSAMPLING
        ends = [(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in joints]
        pygame.draw.lines(large, colour, False, ends, thick)
        for end in ends:
            pygame.draw.circle(large, colour, end, thick / 2)
    pygame.draw.circle(large, THEME.accent, ends[-1], 0.38 * thick)
    surface.blit(shrunk(large), corner)


def _key(slopes: FloatArray | None) -> list[KeyEntry]:
    """Return the signs of the picture, in words."""
    tip = enlarged(ICON_SIDE, ICON_SIDE, THEME.ink)
    for radius, colour in ((0.3, THEME.ink), (0.23, THEME.accent)):
        pygame.draw.circle(tip, colour, tip.get_rect().center, radius * tip.get_width())
    entries = [
        KeyEntry(pin_sprite(TARGET, ICON_SIDE), "target"),
        KeyEntry(shrunk(tip), "tip of the arm"),
    ]
    return [*entries, *gradient_entries("the weight", slopes)]
