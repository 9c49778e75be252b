"""BilevelPreferencePendulum-v0: a reward learnt from preferences between fragments of swings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.checks import check_at_least, check_choice
from ..core.mdp import FloatArray
from ..methods.registry import PREFERENCE_METHODS
from ..model.judges import Judge
from ..rendering.canvas import (
    HEADER_HEIGHT,
    THEME,
    ColourScale,
    diverging_colours,
    draw_colour_bar,
    draw_note,
    pygame,
)
from .base import View
from .parametric import ASKS, ParametricGame

__all__ = ["BilevelPreferencePendulum"]

REWARD_MODELS = ("network", "linear")

# Torques that the follower chooses among, in Nm, and the fastest that the pendulum turns, in rad/s.
TORQUES = (-2.0, -1.0, 0.0, 1.0, 2.0)
SPEED = 8.0

NUM_FEATURES = 7

# Points and pixels of a side of the chart of r_x, of a line of text, and of the colour scale.
CHART_POINTS, CHART_SIDE, LINE, BAR = 125, 372, 26, 66
SMALL_CHART_POINTS = 100


class BilevelPreferencePendulum(ParametricGame):
    """A leader learns a pendulum's reward from preferences between two swings.

    ## Description
    Reinforcement learning from human feedback as a bilevel problem. The follower's reward is a
    model; a judge is shown pairs of fragments of its episodes, and tells which one is better; the
    leader looks for the reward model that explains the answers, on the fragments that are played
    for that very reward. The judge is synthetic, or you (`demos/preferences.py`).

    ## Upper Level
    x in [-upper_bound, upper_bound]^D, the parameters of r_x: weights and biases of a network of
    observation and action (D = 4801 with the default layers), or the weights of seven features
    ("linear"): cos, sin and cos^2 of the angle, speed, its square, its product with sin, and
    torque^2. Either ends in a tanh, so that |r_x| <= 1: answers do not fix the scale of a reward,
    and as it grows, the policy at a fixed temperature becomes deterministic. At the start a network
    is drawn from `seed`, and a linear model is zero. The objective, to be maximised, is the
    expected log-likelihood of an answer,

        F(x) = E[ log sigmoid(+-(R_x(d_1) - R_x(d_2))) ],  + where d_1 was preferred,

    R_x(d) being the sum of r_x along a fragment d of H = `fragment_steps` steps. Fragments are of
    two episodes of pi*(x), and begin at a multiple of H; the states that they begin in are taken as
    given. x enters through R_x, the direct term, and through the fragments that are compared, the
    response term. F is largest for fragments that are easy to tell apart, which need not be good
    ones: it scores the leader's model of the judge, not the follower.

    ## Lower Level
    The pendulum of Gymnasium (`Pendulum-v1`) with the reward r_x, discount `gamma` and an entropy
    bonus weighed by `temperature`, relative to that of the uniform policy (see `ParametricGame`;
    episodes never terminate, so that this only shifts values). The follower learns it by
    `bilevel_gym.sb3.SoftDQN` and keeps what it has learnt when x moves; rewards in its replay
    buffer are those of the present x.

    ## Spaces and Episode
    * Observation: cos and sin of the angle (0 is upright) and the speed, float32 `[3]`. Leader:
      when the judge was last asked, the mean return of the environment's own reward, the follower's
      discounted return, and the length of an episode, float32 `[3]`.
    * Action: `Discrete(5)`, torques of -2, -1, 0, 1 and 2 Nm.
    * Rewards: leader: the mean log-likelihood of all answers that are remembered, log(1/2) before
      the first.
    * Episode: it never terminates and is truncated after `episode_steps`.
    * Info: `upper_reward` is the environment's own reward. Leader: "sobirl" and "trace" add
      `trust_ratio` (the share of the response term that was used, 0 where there is none), and only
      "trace" has a `critic_loss`.

    ## Arguments
    * `reward_model` ("network"): or "linear";
    * `hidden` (64, 64): units of the network's layers;
    * `seed` (0): of the network at the start;
    * `fragment_steps` (25): H, at least 1;
    * `episode_steps` (200): steps of an episode, at least H;
    * `rationality` (1): the synthetic judge prefers d_1 with probability
      sigmoid(rationality (R(d_1) - R(d_2))), R summing the environment's own rewards; positive;
    * `judge` (None): another judge, (pairs, rng) -> answers `[M]` from 0 (the second is better) to
      1 (the first is), NaN for no answer, with pairs a `bilevel_gym.episodes.fragments.Pairs`; or
      where to import it from, "module:function". A judge who answers later returns NaN now, and
      adds the answer to the method's `queue` then;
    * `upper_bound` (10), `gamma` (.97), `temperature` (.1) and `render_mode`: see `ParametricGame`.
      The picture shows the pendulum, and r_x by angle and speed.

    Methods of the leader's seat, see `bilevel_gym.learnt.preference_methods`: "direct" (Christiano
    et al., DRLHF; the default), "sobirl" and "trace" with a response term. They ask every 25 steps
    of the leader, for 7 answers (40 at first, 200 altogether); steps are small and many, by Adam
    with a learning rate of 1e-3 for example.

    ## Ground Truth
    There is none for the pendulum: objective and gradients are estimates. On a game of three states
    that is small enough to enumerate, direct term, one-step response and full response of these
    methods are the exact ones of `bilevel_gym.model.preferences` to sampling error (a test).

    The follower is scored by the return of the environment's own reward, over 200 steps of its
    policy without exploration (`python -m tests.benchmarks.rlhf`; 200 answers, 25 000 environment
    steps, Adam, a minute on a free core; seeds 0, 1, 2):

    | method | return at the end |
    |---|---|
    | "direct" | -166, -153, -149 |
    | "sobirl" | -186, -165, -143 |
    | "trace" | -174, -171, -151 |
    | "sobirl" with `kappa=None` | -1288 (seed 0 alone) |
    | random torques | -1203 |

    The response term has no effect here that can be told from noise. As estimated from 7 pairs it
    is some 30 to 3000 times as long as `kappa` (.3 of the direct term) allows, and at full length
    it prevents learning.

    ## References
    P. F. Christiano, J. Leike, T. B. Brown, M. Martic, S. Legg, D. Amodei, "Deep reinforcement
    learning from human preferences", NeurIPS 2017, arXiv 1706.03741. As a bilevel problem:
    S. Chakraborty et al., ICLR 2024, arXiv 2308.02585; Yang, Gao, Yuan, AISTATS 2025, arXiv
    2405.19697 (see `BilevelRandomMDP`).
    """

    leader_does, follower_does = "learns a reward", "swings the pole"
    leader_wants = "a reward that explains which swings a judge prefers"
    follower_wants = "angles and speeds of high reward"

    kind = ASKS
    methods = PREFERENCE_METHODS
    default_method = "direct"

    _chart: tuple[bytes, FloatArray] | None = None  # what was drawn last, and of which x

    def __init__(
        self,
        *,
        reward_model: str = "network",
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
        fragment_steps: int = 25,
        episode_steps: int = 200,
        rationality: float = 1.0,
        judge: Judge | str | None = None,
        upper_bound: float = 10.0,
        gamma: float = 0.97,
        temperature: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; raise `ValueError` for an argument, `ImportError` without PyTorch."""
        check_at_least("seed", seed, 0)
        check_choice("reward_model", reward_model, REWARD_MODELS)
        preferences = {
            "fragment_steps": fragment_steps,
            "judge": judge,
            "rationality": rationality,
        }
        linear = {"features": features, "num_params": NUM_FEATURES, "bound": 1.0}
        options = linear if reward_model == "linear" else {"hidden": hidden, "seed": seed}
        super().__init__(
            "Pendulum-v1",
            {"kind": reward_model, **options},
            episode_steps=episode_steps,
            gamma=gamma,
            temperature=temperature,
            upper_gamma=1.0,
            upper_bound=upper_bound,
            preferences=preferences,
            render_mode=render_mode,
        )

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh pendulum with discrete torques."""
        return gym.wrappers.TransformAction(
            super().make_environment(render_mode), torque, spaces.Discrete(len(TORQUES))
        )

    def draw(self, view: View) -> pygame.Surface:
        """Draw the pendulum, and r_x, averaged over torques, by angle and speed beside it."""
        side = CHART_SIDE
        surface = self._page(view, side + 2 * THEME.margin)
        left, top = surface.get_width() - THEME.margin - side, HEADER_HEIGHT + LINE
        caption, ink = "the leader's x: reward of angle and speed", THEME.ink
        draw_note(surface, caption, (left, HEADER_HEIGHT), colour=ink)
        shown = view.upper_params.tobytes()
        if self._chart is None or self._chart[0] != shown:  # an episode keeps its x
            self._chart = shown, self.chart(view.upper_params, CHART_POINTS)
        colours = diverging_colours(self._chart[1], 1.0)
        # Angles to the left, as the pole leans, and speed upwards.
        pixels = pygame.surfarray.make_surface(colours[::-1, ::-1])
        surface.blit(pygame.transform.smoothscale(pixels, (side, side)), (left, top))
        for text, share, anchor in (("hangs", 0.0, "topleft"), ("upright", 0.5, "midtop")):
            draw_note(surface, text, (left + round(share * side), top + side + 4), anchor)
        draw_note(surface, "hangs", (left + side, top + side + 4), "topright")
        draw_note(surface, "turns left", (left - 6, top), "topright")
        draw_note(surface, "right", (left - 6, top + side), "bottomright")
        if self._observation is not None:
            cosine, sine, speed = (float(value) for value in self._observation)
            across = (1.0 - np.arctan2(sine, cosine) / np.pi) / 2.0
            up = (speed / SPEED + 1.0) / 2.0
            here = (left + across * side, top + (1.0 - up) * side)
            for radius, colour in ((8, THEME.light), (6, THEME.accent)):
                pygame.draw.circle(surface, colour, here, radius)
        bar = (left, top + side + LINE, side, BAR)
        draw_colour_bar(surface, bar, ColourScale(1.0, "reward r_x; dot: now", power=1.0))
        return surface

    def draw_reward(
        self, surface: pygame.Surface, place: tuple[int, int, int, int], upper_params: FloatArray
    ) -> None:
        """Draw r_x by angle and speed in a rectangle, and its scale below."""
        left, top, side, height = place
        colours = diverging_colours(self.chart(upper_params, SMALL_CHART_POINTS), 1.0)
        pixels = pygame.surfarray.make_surface(colours[::-1, ::-1])
        surface.blit(pygame.transform.scale(pixels, (side, side)), (left, top))
        bar = (left, top + side + THEME.gap // 2, side, height - side)
        draw_colour_bar(surface, bar, ColourScale(1.0, "r_x by angle and speed", power=1.0))

    def chart(self, upper_params: FloatArray, points: int) -> FloatArray:
        """Return the mean r_x over torques, `[P, P]`, by angle (-pi..pi) and speed (-8..8)."""
        angle, speed = np.meshgrid(
            np.linspace(-np.pi, np.pi, points), np.linspace(-SPEED, SPEED, points), indexing="ij"
        )
        seen = np.stack([np.cos(angle), np.sin(angle), speed], axis=2).reshape(-1, 3)
        seen = seen.astype(np.float32)
        rewards = [
            self.reward_model.rewards(upper_params, seen, np.full(len(seen), action))
            for action in range(len(TORQUES))
        ]
        return np.mean(rewards, axis=0).reshape(points, points)


def torque(action: Any) -> NDArray[np.float32]:
    """Return the torque of an action, `[1]`."""
    return np.array([TORQUES[int(action)]], dtype=np.float32)


def features(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
    """Return cos, sin and cos^2 of the angle, speed, its square, sin times speed, and torque^2.

    All are within -1..1, `[B, 7]`; observations are cos, sin and speed, `[B, 3]`.
    """
    cosine, sine, speed = np.asarray(observations, dtype=np.float64).T
    speed = speed / SPEED
    strength = np.asarray(TORQUES)[np.asarray(actions, dtype=np.int64)] / max(TORQUES)
    return np.stack([cosine, sine, cosine**2, speed, speed**2, sine * speed, strength**2], axis=1)
