"""BilevelBeamRider-v0: a reward for a player of an Atari game, so that the score is high."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit
from numpy.typing import NDArray

from ..core.checks import check_at_least, check_flag, check_positive, check_probability
from ..core.mdp import FloatArray
from ..rendering.canvas import HEADER_HEIGHT, THEME, pygame
from ..rendering.picture_charts import Axis, BarChart, draw_bars
from .base import View
from .parametric import ParametricGame
from .simulators import Restorable, require

__all__ = ["BilevelBeamRider"]

GAME = "ALE/BeamRider-v5"

# Frames that an action is repeated for, and screens that are seen at once.
SKIPPED, STACKED = 4, 4

SIDE, NUM_ACTIONS = 84, 9

ACTIONS = (
    "none",
    "fire",
    "up",
    "right",
    "left",
    "up\nright",
    "up\nleft",
    "right\nfire",
    "left\nfire",
)

# The chart beside the screen, in pixels.
BARS_WIDTH, BARS_HEIGHT = 470, 520


class BilevelBeamRider(ParametricGame):
    """A leader rewards a player of BeamRider by a network that sees the screen.

    ## Description
    BeamRider is a game of the Atari 2600: a ship at the bottom of the screen moves between five
    beams and shoots at what comes down on them. The follower plays it, but does not know the score:
    its reward is that of a convolutional network of its observation and its action. The leader's
    reward is the score, and it chooses the weights of the network.

    Yang, Gao, Yuan (2025) use this game for learning from preferences: there the leader fits a
    reward to a judge's choices between pairs of clips, and the player answers to it. This task has
    their game and their kind of levels, a network as the reward and an entropy-regularised player
    who learns, but no preferences: the leader's reward is the score itself, so that all of the
    hyper-gradient is the response of the follower. Their results are not those of this task.

    ## Upper Level
    x in [-`upper_bound`, `upper_bound`]^D, the weights of the network one after the other: with
    `channels` c, convolutions 8x8 (stride 4, c channels), 4x4 (stride 2, 2 c) and 3x3 (stride 2,
    2 c) with ReLUs, and an output for each action. c = 8 makes D = 8753. x starts at weights drawn
    from `seed`, as PyTorch draws them. The objective, to be maximised, is

        F(x) = E[ sum_t upper_gamma^t u_t ],

    u being the sign of the points of a step where `clipped`, the points themselves otherwise.

    ## Lower Level
    An entropy-regularised problem with discount `gamma`, temperature `temperature` and the reward
    r_x(s, a) = reward_bound tanh(network(s)_a). Entropy is relative to that of the uniform policy
    (see `ParametricGame`): being alive longer is worth nothing by itself.

    ## Spaces and Episode
    * Observation: `Box(0, 255, [4, 84, 84])` in uint8, the last four screens in grey, oldest first,
      each the brighter of two frames in every pixel. Channels come first, so that networks, replay
      buffer and reward see the same array.
    * Action: `Discrete(9)`: nothing, fire, up, right, left, up right, up left, right with fire,
      left with fire, for four frames.
    * Episode: it starts with 1 to 30 frames of doing nothing. It terminates when the last of three
      ships is lost, and is truncated after `episode_steps` (400) steps of four frames.

    ## Arguments
    * `channels` (8): width c of the network, at least 1;
    * `reward_bound` (1): bound on the reward, positive;
    * `clipped` (True): whether points count by their sign, so that all hits are alike;
    * `sticky` (0): probability that the console repeats the last action in a frame, in [0, 1];
    * `episode_steps` (400), `gamma` (.99), `upper_gamma` (.99), `temperature` (.01), `upper_bound`
      (10) and `render_mode`: see `ParametricGame`. The picture is the screen of the console, and
      the reward of each action there;
    * `device` ("auto"): where the network of the reward computes, "cpu", "cuda", or "auto" for the
      latter where there is one;
    * `seed` (0): seed of the weights that x starts at.

    The Arcade Learning Environment, with its games, and OpenCV are brought by the extra `atari`,
    and the network needs PyTorch: `pip install -e ".[atari,sb3]"`.

    The follower is `SoftDQN` with its "CnnPolicy". Unless `inner_options` are given, it learns at a
    rate of 1e-4 from batches of 32, one for four steps, with one critic and a replay buffer of
    20 000 transitions in .56 GB (`optimize_memory_usage`: each stack of screens is held once, and
    a time limit counts as the end of the game). Options that are given replace all of these.

    A recipe for a GPU. It saves what follower, critic and leader have learnt, and goes on from
    there when it is started again. It has not been run to its end, and no result is claimed; its 8
    million steps are what such games take.

        from pathlib import Path

        import gymnasium as gym
        from bilevel_gym import HyperGradient
        from bilevel_gym.core.files import replacing
        from bilevel_gym.core.plain import dumps, loads
        from bilevel_gym.envs import BilevelBeamRider
        from bilevel_gym.optimizers import Climb, make_rule

        learner = BilevelBeamRider.method_options["inner_options"]
        env = HyperGradient(
            gym.make("BilevelBeamRider-v0"),
            episodes=32,
            inner_steps=40_000,
            critic_updates=1000,
            inner_options={**learner, "buffer_size": 100_000},  # 2.8 GB
        )
        low, high = env.action_space.low, env.action_space.high
        climb = Climb(env.game.initial_upper_params, low, high, make_rule("adam", low, high))
        leader, file = Path("beam_rider.json"), "beam_rider.zip"
        if leader.exists():
            climb.load_state_dict(loads(leader.read_text()))
            env.method.load(file, trust=True)  # the game under way goes on, too
            _, info = env.reset(options={"upper_params": climb.x, "keep_learnt": True})
        else:
            _, info = env.reset(seed=0)
        while True:
            climb.move(env.response.objective, info["hyper_gradient"], rate=1e-3)
            number = climb.last.number
            print(number, climb.last.value, info["critic_loss"], flush=True)
            if number % 10 == 0:
                env.method.save(file)
                with replacing(leader) as temporary:
                    temporary.write_text(dumps(climb.state_dict()))
            if number >= 200:
                break
            _, _, _, _, info = env.step(climb.x)

    ## Ground Truth
    There is none: the objective, the hyper-gradient and the best x are not known, nor how far a
    leader gets.

    ## References
    Yang, Gao, Yuan, AISTATS 2025, arXiv 2405.19697 (see `BilevelRandomMDP`). M. G. Bellemare, Y.
    Naddaf, J. Veness, M. Bowling, "The Arcade Learning Environment: An Evaluation Platform for
    General Agents", JAIR 47, 2013. The preprocessing is that of V. Mnih et al., "Human-level
    control through deep reinforcement learning", Nature 518, 2015, without its end of the episode
    at the loss of a ship.
    """

    method_options = {
        "episodes": 16,
        "inner_steps": 1500,
        "first_inner_steps": 1500,
        "inner_options": {
            "learning_rate": 1e-4,
            "buffer_size": 20_000,
            "learning_starts": 1000,
            "batch_size": 32,
            "tau": 0.005,
            "train_freq": 4,
            "gradient_steps": 1,
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
            "policy_kwargs": {"n_critics": 1},
        },
    }

    leader_does, follower_does = "rewards what is seen", "plays"
    leader_wants = "points"
    follower_wants = "high rewards of a network that sees the screen"

    def __init__(
        self,
        *,
        channels: int = 8,
        reward_bound: float = 1.0,
        clipped: bool = True,
        sticky: float = 0.0,
        episode_steps: int = 400,
        gamma: float = 0.99,
        upper_gamma: float = 0.99,
        temperature: float = 0.01,
        upper_bound: float = 10.0,
        device: str = "auto",
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; raise `ValueError` for an argument, `ImportError` without an extra."""
        check_flag("clipped", clipped)
        self._sticky = check_probability("sticky", sticky)
        self._reward_bound = check_positive("reward_bound", reward_bound)
        check_at_least("episode_steps", episode_steps, 1)
        check_at_least("seed", seed, 0)
        require("BilevelBeamRider", "atari", "ale_py", "cv2")
        require("BilevelBeamRider", "sb3", "torch", "stable_baselines3")
        from ..rewards.convolutions import ConvolutionalReward

        model = ConvolutionalReward(
            spaces.Box(0, 255, (STACKED, SIDE, SIDE), np.uint8),
            spaces.Discrete(NUM_ACTIONS),
            channels=channels,
            bound=reward_bound,
            device=device,
            seed=seed,
        )
        super().__init__(
            GAME,
            model,
            episode_steps=episode_steps,
            upper_reward=signs if clipped else None,
            gamma=gamma,
            upper_gamma=upper_gamma,
            temperature=temperature,
            upper_bound=upper_bound,
            render_mode=render_mode,
        )

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh copy of the environment, its screens scaled and stacked."""
        import ale_py

        # Before the first console is made: it would print a banner.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        gym.register_envs(ale_py)
        console = gym.make(
            GAME,
            obs_type="grayscale",
            frameskip=1,
            repeat_action_probability=self._sticky,
            render_mode=render_mode,
        )
        screens = AtariPreprocessing(console, frame_skip=SKIPPED, screen_size=SIDE)
        stacked = FrameStackObservation(screens, STACKED)
        assert self._source.limit is not None
        return Restorable(TimeLimit(stacked, self._source.limit))

    def draw(self, view: View) -> pygame.Surface:
        """Draw the screen, and the reward of each action there."""
        surface = self._page(view, BARS_WIDTH + THEME.margin)
        if self._observation is not None:
            seen = np.repeat(np.asarray(self._observation)[None], NUM_ACTIONS, axis=0)
            rewards = self.reward_model.rewards(view.upper_params, seen, np.arange(NUM_ACTIONS))
            limit = self._reward_bound
            axis = Axis(-limit, limit, "the leader's x: reward of each action now")
            left = surface.get_width() - BARS_WIDTH - THEME.margin
            place = (left, HEADER_HEIGHT, BARS_WIDTH, BARS_HEIGHT)
            draw_bars(surface, place, BarChart(axis, ACTIONS, rewards, ".2f"))
        return surface


def signs(observations: NDArray[Any], actions: NDArray[Any], rewards: FloatArray) -> FloatArray:
    """Return the sign of the points, `[B]`."""
    return np.sign(rewards)
