"""BilevelPendulum-v0: a reward for a pendulum, so that it stands up."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..core.checks import check_discount, check_not_negative, check_positive
from ..core.mdp import FloatArray
from ..episodes.recorded import Batch
from ..rendering.canvas import (
    HEADER_HEIGHT,
    SUPERSAMPLING,
    THEME,
    diverging_colours,
    enlarged,
    pygame,
    shrunk,
)
from ..rewards.models import LinearReward
from .base import View
from .learnable import torque_cost
from .parametric import ParametricGame

__all__ = ["BilevelPendulum"]

# Directions of the pole that have a reward, (cos, sin) of angles from upright, `[2, 6]`.
ANGLES = np.arange(6) * np.pi / 3.0
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)])
NAMES = ("up", "up left", "down left", "down", "down right", "up right")

# At an angle a from one of them, its reward has fallen to exp(SHARPNESS (cos(a) - 1)).
SHARPNESS = 2.0

# The picture of Gymnasium is a square of this side, with the pivot in its middle; a ring around the
# pole shows rewards, in pieces.
SIDE, RING, PIECES = 500, (128, 160), 180


class BilevelPendulum(ParametricGame):
    """A leader designs the reward of a pendulum; the only aim given is that it stands upright.

    ## Description
    The pendulum is that of Gymnasium's Pendulum-v1: it starts anywhere, at a small speed, and the
    torque is too weak to lift it straight from below. The follower swings it; its reward depends on
    the direction of the pole as the leader decides, less a cost of the torque. The leader's own
    reward is how upright the pole is. At x = 0 no direction has a reward, and the pole dangles.

    The rewards of directions do not depend on the torque: x acts only through the follower's
    behaviour many steps later. A one-step estimate of the hyper-gradient (`method="sobirl"`) is
    exactly zero here, and the direct gradient too.

    ## Upper Level
    x in [-`upper_bound`, `upper_bound`]^6, the rewards of six directions of the pole: up, and on in
    steps of 60 degrees to the left; x starts at 0. The objective, to be maximised, is

        F(x) = E[ sum_t upper_gamma^t cos(theta_t) ]

    over the steps of an episode, theta being the angle from upright.

    ## Lower Level
    The reward is

        r_x = b tanh(sum_i x_i exp(2 (cos(theta - theta_i) - 1)) / b) - c a^2

    with a the torque in -2..2, c the `effort_cost` and b the `reward_bound`. The policy is learnt
    for the discount `gamma` and the temperature `temperature`, entropy being relative to that of
    the uniform policy (see `ParametricGame`; episodes never terminate, so that this only shifts
    values), by soft actor-critic (`bilevel_gym.sb3.SoftSAC`), which keeps what it has learnt when
    x moves.

    ## Spaces and Episode
    * Observation: (cos theta, sin theta, speed), `Box([3])`, float32, the speed within 8.
    * Action: `Box(-2, 2, [1])`, the torque.
    * Episode: it never terminates, and is truncated after `episode_steps`.

    ## Arguments
    * `reward_bound` (1): bound on the reward of directions, positive;
    * `effort_cost` (.05): price of the squared torque, not negative;
    * `episode_steps` (100), `gamma` (.95), `upper_gamma` (.95, below 1), `temperature` (.05),
      `upper_bound` (10) and `render_mode`: see `ParametricGame`. The picture has a ring around the
      pole, coloured by the reward of each direction, and x below.

    ## Ground Truth
    There is none: the follower's answer is learnt, and objectives are estimates. From x0 by the
    safe climb with 50 000 environment steps, the sum of cos(theta) over an episode of 100 steps,
    the mean of 30 held-out episodes and its standard error:

    | seed | x0 | best |
    |---|---|---|
    | 0 | -44.1 (8.4) | 42.4 (9.9) |
    | 1 | -45.7 (8.4) | 62.0 (5.0) |
    | 2 | -38.1 (9.2) | 57.9 (6.5) |

    (`python -m tests.benchmarks.worlds`; less than a minute each.) With the one-step estimate, zero
    to the last bit, the leader stays at x0. The first estimates may point the wrong way, towards a
    reward for hanging; a follower that only hangs shows nothing better.
    """

    leader_does, follower_does = "rewards directions", "swings the pole"
    leader_wants = "the pole upright"
    follower_wants = "directions of high reward, and little torque"

    default_method = "score"

    def __init__(
        self,
        *,
        reward_bound: float = 1.0,
        effort_cost: float = 0.05,
        episode_steps: int = 100,
        gamma: float = 0.95,
        upper_gamma: float = 0.95,
        temperature: float = 0.05,
        upper_bound: float = 10.0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; a `ValueError` names an argument that is out of range."""
        self._bound = check_positive("reward_bound", reward_bound)
        cost = check_not_negative("effort_cost", effort_cost)
        check_discount("upper_gamma", upper_gamma)  # episodes do not end by themselves
        super().__init__(
            "Pendulum-v1",
            LinearReward(
                directions, len(NAMES), base=partial(torque_cost, weight=cost), bound=self._bound
            ),
            episode_steps=episode_steps,
            upper_reward=uprightness,
            gamma=gamma,
            upper_gamma=upper_gamma,
            temperature=temperature,
            upper_bound=upper_bound,
            render_mode=render_mode,
        )

    def knob_names(self) -> tuple[str, ...]:
        """Return the directions that have a reward."""
        return NAMES

    def draw(self, view: View) -> pygame.Surface:
        """Draw the pendulum in a ring of the rewards of directions, and x below."""
        picture = super().draw(view)
        ring = enlarged(2 * RING[1], 2 * RING[1], THEME.page)
        inner, outer = (radius * SUPERSAMPLING for radius in RING)
        angles = (np.arange(PIECES) + 0.5) * 2.0 * np.pi / PIECES
        states = np.stack([np.cos(angles), np.sin(angles), np.zeros(PIECES)], axis=1)
        rewards = self.reward_model.rewards(view.upper_params, states, np.zeros((PIECES, 1)))
        for angle, colour in zip(angles, diverging_colours(rewards, self._bound), strict=True):
            # Pieces overlap, so that there are no gaps between them.
            edges = angle + np.array([-0.5, 0.7]) * 2.0 * np.pi / PIECES
            # Angles go to the left from upright.
            around = np.stack([-np.sin(edges), -np.cos(edges)], axis=1)
            corners = np.concatenate([inner * around, outer * around[::-1]])
            pygame.draw.polygon(ring, colour.tolist(), (corners + outer).tolist())
        small = shrunk(ring)
        middle = picture.get_width() // 2, HEADER_HEIGHT + SIDE // 2
        picture.blit(small, small.get_rect(center=middle))
        return self._with_bars(picture, view, NAMES, "the leader's x: reward of each direction")


def directions(observations: Batch, actions: Batch) -> FloatArray:
    """Return how near the pole is to each direction, `[B, 6]`."""
    pole = np.asarray(observations[:, :2], np.float64)  # (cos, sin) of its angle
    return np.exp(SHARPNESS * (pole @ DIRECTIONS - 1.0))


def uprightness(observations: Batch, actions: Batch, rewards: FloatArray) -> FloatArray:
    """Return cos(theta), `[B]`."""
    return np.asarray(observations[:, 0], np.float64)
