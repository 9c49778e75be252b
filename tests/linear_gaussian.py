"""A linear-quadratic game whose dynamics x moves, as an environment that is only played in."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelLQR, ParametricGame

NAMES = ("damping_1", "damping_2", "gain")

# BilevelLQR with 2 states and 1 control; see `tests.benchmarks.deep` for the limit of actions.
LQR: dict[str, Any] = {"dynamics": [[0.9, 0.3], [-0.2, 0.9]], "control": [[0.2], [0.8]]}
LQR |= {"state_cost": [[1.0, 0.0], [0.0, 0.5]], "action_cost": [[0.5]]}
LQR |= {"upper_state_cost": [[0.2, 0.0], [0.0, 2.0]], "upper_action_cost": [[0.3]]}
LQR |= {"upper_cost": 0.0, "gamma": 0.9, "temperature": 0.3, "enters": "dynamics"}
LQR |= {"noise_std": 0.2, "start_std": 0.6, "action_limit": 2.0}

START, BOUNDS, STEPS = (0.2, 0.1, 0.1), (0.0, 1.0), 40


@cache
def exact_game() -> BilevelLQR:
    """Return the game with its exact answers."""
    return BilevelLQR(**LQR)


class LinearGaussian(gym.Env[FloatArray, NDArray[np.float32]]):
    """s' = A(x) s + B(x) a + w, with x in attributes; the reward is that of the follower."""

    def __init__(self, damping_1: float = START[0]) -> None:
        """Set the parameters to where they start; one of them is an argument, too."""
        self.model = exact_game().model
        self.damping_1, self.damping_2, self.gain = damping_1, *START[1:]
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.state = np.zeros(2)

    @property
    def _x(self) -> FloatArray:
        return np.array([getattr(self, name) for name in NAMES])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Draw the first state."""
        super().reset(seed=seed)
        self.state = self.model.start_std * self.np_random.standard_normal(2)
        return self.state.copy(), {}

    def step(self, action: Any) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Make a transition."""
        dynamics, control, *_ = self.model.coefficients(self._x)
        move = np.asarray(action, np.float64)
        reward = float(self.model.reward(self._x, self.state, move))
        noise = self.model.noise_std * self.np_random.standard_normal(2)
        self.state = dynamics @ self.state + control @ move + noise
        return self.state.copy(), reward, False, False, {}

    def transition_score(
        self, observations: NDArray[Any], actions: NDArray[Any], next_observations: NDArray[Any]
    ) -> dict[str, FloatArray]:
        """Return dlog N(s'; A s + B a, noise^2)/dx, `[B]` for each."""
        dynamics, control, *_ = self.model.coefficients(self._x)
        drift, push = observations @ dynamics.T, actions @ control.T
        surprise = (next_observations - drift - push) / self.model.noise_std**2
        scores = (*-(surprise * drift).T, (surprise * push).sum(axis=1))
        return dict(zip(NAMES, scores, strict=True))


def upper_reward(seen: NDArray[Any], actions: NDArray[Any], rewards: FloatArray) -> FloatArray:
    """Return the leader's reward, `[B]`."""
    return exact_game().model.upper_reward(seen, actions.astype(np.float64))


def learnt_game(**options: Any) -> ParametricGame:
    """Return the same game for followers who learn."""
    exact = exact_game()
    given: dict[str, Any] = {"gamma": exact.gamma, "temperature": exact.temperature}
    given |= {"upper_gamma": exact.gamma, "upper_reward": upper_reward, "episode_steps": STEPS}
    given |= {"env_params": {name: BOUNDS for name in NAMES}}
    return ParametricGame(LinearGaussian, **{**given, **options})
