"""Soft actor-critic at a fixed temperature, for a follower with continuous actions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.sac.policies import Actor, CnnPolicy, SACPolicy
from stable_baselines3.sac.sac import SAC

from ..core.mdp import FloatArray
from .archive import ArchivedPolicy, allow
from .soft_learner import SoftLearner
from .updates import FlatSAC

__all__ = ["SoftSAC", "SoftSACPolicy"]


class SoftSACPolicy(ArchivedPolicy, SACPolicy):
    """The `SACPolicy` of Stable-Baselines3, whose files run no code when they are loaded."""


class SoftSACCnnPolicy(SoftSACPolicy, CnnPolicy):
    """A `SoftSACPolicy` of images."""


allow(SoftSACPolicy, SoftSACCnnPolicy)


class SoftSAC(SoftLearner, SAC):
    """The SAC of Stable-Baselines3, at a fixed temperature and with reward r_x.

    The policy is a squashed Gaussian: where exp(Q / temperature) has several peaks, it takes one.
    The entropy is that of actions scaled to [-1, 1], as in Stable-Baselines3; in the units of the
    action space it is larger by the sum of log((high - low) / 2), the same at every step.

    Source: Haarnoja et al., Soft Actor-Critic, ICML 2018, arXiv 1801.01290.

    Example:
        >>> from bilevel_gym.sb3 import SoftSAC
        >>> model = SoftSAC("MlpPolicy", "Pendulum-v1", temperature=0.05, gamma=0.95, seed=0)
        >>> model.reward_fn = lambda observations, actions: observations[:, 0]
        >>> model.learn(120).num_timesteps
        120
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **SAC.policy_aliases,
        "MlpPolicy": SoftSACPolicy,
        "CnnPolicy": SoftSACCnnPolicy,
    }
    flat, acting = FlatSAC, "actor"
    plain: ClassVar[frozenset[type]] = frozenset(
        {SoftSACPolicy, SACPolicy, Actor, ContinuousCritic}
    )
    states: ClassVar[frozenset[str]] = frozenset({"policy", "actor.optimizer", "critic.optimizer"})
    variables: ClassVar[frozenset[str]] = frozenset({"ent_coef_tensor"})

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        temperature: float | None = None,
        *,
        learning_rate: float | Schedule = 1e-3,
        tau: float = 0.005,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        target_update_interval: int = 1,
        **options: Any,
    ) -> None:
        """Initialise the learner in the follower's seat, of one environment or several.

        `temperature` is the `ent_coef` of Stable-Baselines3, positive, fixed; None for the game's.
        There are `gradient_steps` updates (-1: as many as steps) after each `train_freq` steps, or
        for example (4, "episode"); targets follow every `target_update_interval` updates. For other
        options see `SoftLearner`.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range, or the environment does not suit; see
                `SoftLearner`.
        """
        own = {
            "train_freq": train_freq,
            "gradient_steps": gradient_steps,
            "target_update_interval": target_update_interval,
        }
        options |= {"temperature": temperature, "learning_rate": learning_rate, "tau": tau}
        super().__init__(policy, env, own=own, **options)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Take so many gradient steps, each on a batch of so many transitions."""
        assert self.replay_buffer is not None
        flat = self._flat_networks()
        if flat is None:
            super().train(gradient_steps, batch_size)
            return
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        actor_losses, critic_losses = flat.train(self, gradient_steps, batch_size)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", self.temperature)
        self.logger.record("train/actor_loss", float(np.mean(actor_losses)))
        self.logger.record("train/critic_loss", float(np.mean(critic_losses)))

    def gaussian(self, observations: NDArray[Any]) -> tuple[th.Tensor, th.Tensor]:
        """Return mean and deviation of actions before they are squashed, `[B, n]` each."""
        self.policy.set_training_mode(False)
        with th.no_grad():
            mean, log_std, _ = self.actor.get_action_dist_params(
                self.policy.obs_to_tensor(observations)[0]
            )
            return mean, log_std.exp()

    def sample_actions(
        self, observations: NDArray[Any], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw actions `[B, ...]` of the policy by a generator, in units of the action space."""
        mean, deviation = self.gaussian(observations)
        noise = rng.standard_normal(mean.shape, np.float32)
        squashed = th.tanh(mean + deviation * th.as_tensor(noise, device=self.device))
        scaled = squashed.cpu().numpy().reshape(-1, *(self.action_space.shape or ()))
        return self.policy.unscale_action(scaled)

    def q_values(self, observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
        """Return Q of observations `[B, ...]` and actions `[B, ...]`, `[B]`: the smaller critic's.

        Actions are in units of the action space.
        """
        scaled = self.policy.scale_action(actions.reshape(-1, *(self.action_space.shape or ())))
        taken = th.as_tensor(scaled.reshape(len(scaled), -1), device=self.device).float()
        return self._smaller(observations, taken)

    def soft_values(
        self, observations: NDArray[Any], rng: np.random.Generator, draws: int = 8
    ) -> FloatArray:
        """Return V = E[Q - temperature log pi], `[B]` of observations `[B, ...]`.

        It is the mean of some draws of actions, whose density is that of actions in [-1, 1].
        """
        mean, deviation = self.gaussian(observations)
        policy = th.distributions.Normal(mean, deviation)
        found = np.zeros(len(observations))
        for _ in range(draws):
            noise = th.as_tensor(rng.standard_normal(mean.shape, np.float32), device=self.device)
            before = mean + deviation * noise
            # log(1 - tanh^2), which rounds to log 0 for large numbers
            narrowed = 2.0 * (np.log(2.0) - before - th.nn.functional.softplus(-2.0 * before))
            density = (policy.log_prob(before) - narrowed).sum(dim=1)  # type: ignore[no-untyped-call]
            entropy = self.temperature * density.cpu().numpy().astype(np.float64)
            found += (self._smaller(observations, th.tanh(before)) - entropy) / draws
        return found

    def _smaller(self, observations: NDArray[Any], actions: th.Tensor) -> FloatArray:
        """Return the smaller critic's Q of actions in [-1, 1], `[B]`."""
        self.policy.set_training_mode(False)
        with th.no_grad():
            each = self.critic(self.policy.obs_to_tensor(observations)[0], actions)
            return th.cat(each, dim=1).amin(dim=1).cpu().numpy().astype(np.float64)

    def _setup_model(self) -> None:
        self.ent_coef = self.temperature
        super()._setup_model()
