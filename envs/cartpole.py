"""BilevelCartPole-v0: shaping terms that help or harm, and a leader who weighs them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_not_negative
from ..core.mdp import FloatArray
from ..rendering.canvas import pygame
from ..rewards.models import LinearReward
from .base import View
from .parametric import ParametricGame

__all__ = ["BilevelCartPole"]

# What is observed, and the scale at which a term is tanh(1).
NAMES = ("position", "velocity", "angle", "angular velocity")
SHOWN_NAMES = ("cart stands", "cart moves", "pole leans", "pole turns")
SCALES = np.array([1.0, 1.0, 0.1, 1.0])

# Weights at the start: they reward pushes that speed the cart up and tip the pole over.
HARMFUL = (0.5, 0.5, -0.5, -0.5)


class BilevelCartPole(ParametricGame):
    """A leader weighs shaping terms, which at first teach the follower to drop the pole.

    ## Description
    The cart and the pole are those of Gymnasium's CartPole-v1; an episode ends when the pole leans
    too far or the cart leaves the track. The follower's reward is a small number for every step,
    and four shaping terms, each of which compares the push with one thing that is observed. The
    leader chooses the weights of the terms; its own reward is that of the environment, 1 for each
    step. At the initial weights pushing the cart ahead and the pole over has a larger reward than
    there is to gain by holding it, and the follower drops it at once. With the opposite signs the
    terms help.

    ## Upper Level
    x in [-1, 1]^4, the weights of the terms; x starts at (.5, .5, -.5, -.5). The objective, to be
    maximised, is

        F(x) = E[ sum_t upper_gamma^t ]

    over the steps of an episode, at most (1 - upper_gamma^200) / (1 - upper_gamma) = 86.6.

    ## Lower Level
    The reward is

        r_x = own_reward + sum_i x_i p tanh(o_i / s_i)

    with p = 1 for a push to the right and -1 for one to the left, o the observation (position,
    velocity, angle of the pole, its angular velocity), and s = (1, 1, .1, 1). The policy is learnt
    for the discount `gamma` and the temperature `temperature` by soft Q-learning
    (`bilevel_gym.sb3.SoftDQN`), which keeps what it has learnt when x moves. Entropy is relative to
    that of the uniform policy, see `ParametricGame`: at no temperature would the follower balance
    for its sake alone. Only `own_reward` is for every step in which it does.

    ## Spaces and Episode
    * Observation: that of CartPole-v1, `Box([4])`, float32.
    * Action: `Discrete(2)`: push to the left, to the right.
    * Episode: it terminates when the pole leans by more than 12 degrees or the cart is 2.4 from the
      middle, and is truncated after `episode_steps`.

    ## Arguments
    * `own_reward` (.2): the follower's reward for each step, not negative;
    * `episode_steps` (200), `gamma` (.95), `upper_gamma` (.99), `temperature` (.3) and
      `render_mode`: see `ParametricGame`. The picture has x below.

    ## Ground Truth
    There is none: the follower's answer is learnt, and objectives are estimates. From x0 by the
    safe climb with 50 000 environment steps, the mean length of 30 held-out episodes:

    | seed | x0 | best |
    |---|---|---|
    | 0 | 9.3 | 195.1 |
    | 1 | 10.5 | 200.0 |
    | 2 | 9.7 | 200.0 |

    (`python -m tests.benchmarks.worlds`; less than a minute each.) The first estimates are small
    and may point the wrong way, as episodes hardly differ there.

    ## References
    Y. Hu, W. Wang, H. Jia, Y. Wang, Y. Chen, J. Hao, F. Wu, C. Fan, "Learning to utilize shaping
    rewards: a new approach of reward shaping", NeurIPS 2020, arXiv 2011.02669 (BiPaRS), where
    weights of helpful and of harmful shaping rewards of CartPole are learnt. The terms, the soft
    follower and the numbers here are not theirs.
    """

    leader_does, follower_does = "weighs shaping terms", "pushes the cart"
    leader_wants = "the pole up for long"
    follower_wants = "rewards of the shaping terms, and a little for every step"

    default_method = "score"

    def __init__(
        self,
        *,
        own_reward: float = 0.2,
        episode_steps: int = 200,
        gamma: float = 0.95,
        upper_gamma: float = 0.99,
        temperature: float = 0.3,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; a `ValueError` names an argument that is out of range."""
        own = check_not_negative("own_reward", own_reward)
        super().__init__(
            "CartPole-v1",
            LinearReward(terms, len(NAMES), base=partial(living, reward=own)),
            episode_steps=episode_steps,
            gamma=gamma,
            upper_gamma=upper_gamma,
            temperature=temperature,
            upper_bound=1.0,
            initial_upper_params=HARMFUL,
            render_mode=render_mode,
        )

    def knob_names(self) -> tuple[str, ...]:
        """Return what the entries of x make cart and follower do."""
        return SHOWN_NAMES

    def draw(self, view: View) -> pygame.Surface:
        """Draw the cart and its pole, and x below."""
        headline = "the leader's x: reward of pushing the way in which the…"
        return self._with_bars(super().draw(view), view, SHOWN_NAMES, headline)


def terms(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
    """Return the shaping terms, `[B, 4]`."""
    push = 2.0 * np.asarray(actions, np.float64).reshape(-1, 1) - 1.0
    return push * np.tanh(np.asarray(observations, np.float64) / SCALES)


def living(observations: NDArray[Any], actions: NDArray[Any], *, reward: float) -> FloatArray:
    """Return the follower's reward for every step, `[B]`."""
    return np.full(len(observations), reward)
