"""Soft actor-critic at a fixed temperature, for a follower with continuous actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.sac.sac import SAC

from ..core.checks import check_positive, check_probability
from .replay import RewardFn
from .soft_learner import SoftLearner

__all__ = ["SoftSAC"]


class SoftSAC(SoftLearner, SAC):
    """The library's SAC, at a fixed temperature and paid by r_x.

    The policy is a squashed Gaussian: where exp(Q / temperature) has several peaks, it takes one.
    The entropy is that of actions scaled to [-1, 1], as the library has it; in the units of the
    action space it is larger by the sum of log((high - low) / 2), the same at every step.

    Source: Haarnoja et al., Soft Actor-Critic, ICML 2018, arXiv 1801.01290.

    Example:
        >>> from bilevel_gym.sb3 import SoftSAC
        >>> model = SoftSAC("MlpPolicy", "Pendulum-v1", temperature=0.05, gamma=0.95, seed=0)
        >>> model.reward_fn = lambda observations, actions: observations[:, 0]
        >>> model.learn(120).num_timesteps
        120
    """

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        temperature: float | None = None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float | None = None,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        reward_fn: RewardFn | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 1,
        schedule_steps: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        """Sit down in the follower's seat, of one environment or several.

        Args:
            policy: "MlpPolicy", or "CnnPolicy" for images.
            env: The environment, its id, or a vector environment of the library.
            temperature: Weight of the policy's entropy (`ent_coef` of the library), positive,
                fixed; None for the game's.
            learning_rate: Learning rate, or a schedule of the library, a callable of the remaining
                progress.
            buffer_size: Transitions that are remembered.
            learning_starts: Steps with uniform actions before the first update.
            batch_size: Transitions of an update.
            tau: Share of the critics that their targets take over at each update, in (0, 1].
            gamma: Discount, in [0, 1); None for the game's.
            train_freq: Steps between updates, or a tuple of a number and "step" or "episode".
            gradient_steps: Updates each time; -1 for as many as steps.
            reward_fn: r_x, see the attribute; None for the environment's own reward.
            replay_buffer_kwargs: Options of the buffer; `handle_timeout_termination=False` for
                episodes that end at a time limit for good.
            optimize_memory_usage: Whether the buffer holds each observation once; then timeouts are
                not told apart.
            n_steps: 1; more is refused.
            target_update_interval: Updates between two of the targets.
            schedule_steps: Environment steps that the schedule runs over; None for those of the
                `learn` under way.
            stats_window_size: Episodes that reported means of episodes are taken over.
            tensorboard_log: Folder for TensorBoard, None for no such log.
            policy_kwargs: Arguments of the policy, `net_arch` and `n_critics` among them.
            verbose: 0 for silence, 1 for tables, 2 for debugging.
            seed: Seed of everything random.
            device: Where the networks are.
            _init_setup_model: Whether to build all this at once; `load` does it later.

        Raises:
            ValueError: If an option is unknown or out of range, `temperature` or `gamma` is missing
                and the environment is not the follower's seat of a game, or observations are
                normalised on the way.
        """
        check_positive("tau", check_probability("tau", tau))
        super().__init__(
            policy,
            env,
            learning_rate,
            temperature=temperature,
            gamma=gamma,
            reward_fn=reward_fn,
            schedule_steps=schedule_steps,
            n_steps=n_steps,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            target_update_interval=target_update_interval,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def sample_actions(
        self, observations: NDArray[Any], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw actions of the policy, by random numbers of one's own.

        Args:
            observations: `[B, ...]`.
            rng: Where the randomness comes from.

        Returns:
            Actions `[B, ...]`, in the units of the action space.
        """
        self.policy.set_training_mode(False)
        with th.no_grad():
            mean, log_std, _ = self.actor.get_action_dist_params(
                self.policy.obs_to_tensor(observations)[0]
            )
            noise = rng.standard_normal(mean.shape, np.float32)
            squashed = th.tanh(mean + log_std.exp() * th.as_tensor(noise, device=self.device))
        scaled = squashed.cpu().numpy().reshape(-1, *(self.action_space.shape or ()))
        return self.policy.unscale_action(scaled)

    def _setup_model(self) -> None:
        """Build the networks and the buffer."""
        self.ent_coef = self.temperature
        super()._setup_model()
