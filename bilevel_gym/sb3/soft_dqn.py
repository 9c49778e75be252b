"""Soft Q-learning: the entropy-regularised optimum of a follower with discrete actions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from stable_baselines3.common.utils import LinearSchedule, polyak_update
from stable_baselines3.dqn.dqn import DQN
from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy, QNetwork
from torch.nn import functional as F

from ..core.bellman import soft_backup
from ..core.checks import check_at_least, check_positive, check_probability
from ..core.mdp import FloatArray
from .archive import ArchivedPolicy, allow
from .soft_learner import SoftLearner
from .updates import FlatDQN

__all__ = ["SoftDQN", "SoftQCnnPolicy", "SoftQNetwork", "SoftQPolicy"]

# Learning rate of the default schedule, at its start and its end.
LEARNING_RATES = 3e-3, 1e-5


class SoftQNetwork(QNetwork):
    """Critics with outputs Q(s, .), and the Boltzmann policy of the smallest.

    They share the features.
    """

    def __init__(self, *args: Any, temperature: float, n_critics: int, **kwargs: Any) -> None:
        """Build so many critics; other arguments are those of `QNetwork`."""
        super().__init__(*args, **kwargs)
        self.temperature = temperature
        others = [
            th.nn.Sequential(
                *create_mlp(
                    self.features_dim, int(self.action_space.n), self.net_arch, self.activation_fn
                )
            )
            for _ in range(n_critics - 1)
        ]
        self.critics = th.nn.ModuleList([self.q_net, *others])

    def each(self, obs: PyTorchObs) -> th.Tensor:
        """Return Q of each critic, `[C, B, A]`."""
        features = self.extract_features(obs, self.features_extractor)
        return th.stack([critic(features) for critic in self.critics])

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """Return the smallest Q of the critics, `[B, A]`."""
        return self.each(obs).amin(dim=0)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        """Return actions `[B]`: the best ones, or draws of the Boltzmann policy."""
        q_values = self(observation)
        if deterministic:
            return q_values.argmax(dim=1)
        # Not normalised: the largest of independent Gumbel-perturbed logits is a draw.
        gumbel = -th.empty_like(q_values).exponential_().log()
        return (q_values / self.temperature + gumbel).argmax(dim=1)


class SoftQPolicy(ArchivedPolicy, DQNPolicy):
    """The Boltzmann policy exp(Q / temperature) of critics, with its target network."""

    def __init__(self, *args: Any, temperature: float, n_critics: int = 2, **kwargs: Any) -> None:
        """Build the networks, of so many critics; other arguments are those of `DQNPolicy`.

        Raises:
            ValueError: If the temperature or the number of critics is out of range.
        """
        self.temperature = check_positive("temperature", temperature)
        self.n_critics = check_at_least("n_critics", n_critics, 1)
        if "optimizer_class" not in kwargs:
            kwargs.setdefault("optimizer_kwargs", {"fused": True})  # Adam in one go: much faster
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> SoftQNetwork:
        """Return a network with features of its own."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return SoftQNetwork(**arguments, temperature=self.temperature, n_critics=self.n_critics).to(
            self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what `save` and `load` of the policy alone need."""
        return {
            **super()._get_constructor_parameters(),
            "temperature": self.temperature,
            "n_critics": self.n_critics,
        }


class SoftQCnnPolicy(SoftQPolicy, CnnPolicy):
    """A `SoftQPolicy` of images."""


allow(SoftQPolicy, SoftQCnnPolicy)


class SoftDQN(SoftLearner, DQN):
    """Learn the soft-optimal policy pi = exp((Q - V) / temperature) from interaction.

    The DQN of Stable-Baselines3 with three differences: targets have the soft value
    V = temperature logsumexp(Q / temperature) instead of the largest Q, of the smallest of the
    target critics; actions are drawn from the Boltzmann policy, those of training with a
    probability epsilon uniformly, and epsilon has a floor; the target network follows every update
    by `tau`. The floor matters: at a small temperature an action that is underestimated would not
    be tried again. Learning is off-policy, so the floor costs nothing. `predict` does not explore.

    With the environment's own rewards this is an ordinary algorithm. With `reward_fn` rewards are
    r_x, evaluated when a batch is sampled, so that x may move at every step of the leader.

    Source of the algorithm: Haarnoja et al., Reinforcement Learning with Deep Energy-Based
    Policies, ICML 2017, arXiv 1702.08165 (there for continuous actions); of the smaller of two
    critics: Fujimoto et al., ICML 2018, arXiv 1802.09477.

    Example:
        >>> import bilevel_gym, gymnasium as gym, numpy as np
        >>> from bilevel_gym.sb3 import SoftDQN
        >>> game = gym.make("BilevelGridWorld-v0", map_name="4x4")
        >>> env = bilevel_gym.LowerLevel(game, np.full(14, 0.25))
        >>> model = SoftDQN("MlpPolicy", env, schedule_steps=30_000, seed=0).learn(400)
        >>> model.action_probabilities(np.arange(14)).shape
        (14, 4)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SoftQPolicy,
        "CnnPolicy": SoftQCnnPolicy,
    }
    plain: ClassVar[frozenset[type]] = frozenset({SoftQPolicy, SoftQNetwork})
    flat, acting = FlatDQN, "q_net"
    states: ClassVar[frozenset[str]] = frozenset({"policy", "policy.optimizer"})
    policy: SoftQPolicy
    q_net: SoftQNetwork
    q_net_target: SoftQNetwork

    def __init__(
        self,
        policy: str | type[SoftQPolicy],
        env: GymEnv | str,
        temperature: float | None = None,
        *,
        learning_rate: float | Schedule | None = None,
        tau: float = 0.02,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 2,
        exploration_fraction: float = 0.5,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.15,
        max_grad_norm: float = 10.0,
        **options: Any,
    ) -> None:
        """Initialise the learner in the follower's seat, of one environment or several.

        The learning rate is a number or a schedule of Stable-Baselines3, None for a linear one from
        3e-3 to 1e-5. Epsilon falls from `exploration_initial_eps` to its floor,
        `exploration_final_eps`, over `exploration_fraction` of the schedule. There are
        `gradient_steps` updates (-1: as many as steps) after each `train_freq` steps, or for
        example (4, "episode"). Longer gradients are shortened to `max_grad_norm`. For other options
        see `SoftLearner`.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If an option is out of range, or the environment does not suit; see
                `SoftLearner`.
        """
        if learning_rate is None:
            learning_rate = LinearSchedule(*LEARNING_RATES, 1.0)
        check_probability("exploration_initial_eps", exploration_initial_eps)
        check_probability("exploration_final_eps", exploration_final_eps)
        check_positive(
            "exploration_fraction", check_probability("exploration_fraction", exploration_fraction)
        )
        own = {
            "train_freq": train_freq,
            "gradient_steps": gradient_steps,
            "exploration_fraction": exploration_fraction,
            "exploration_initial_eps": exploration_initial_eps,
            "exploration_final_eps": exploration_final_eps,
            "max_grad_norm": max_grad_norm,
        }
        options |= {"temperature": temperature, "learning_rate": learning_rate, "tau": tau}
        super().__init__(policy, env, own=own, **options)

    def action_probabilities(self, observations: NDArray[Any]) -> FloatArray:
        """Return the Boltzmann policy, without exploration: `[B, A]` of observations `[B, ...]`."""
        return soft_backup(self._soft_q(observations), self.temperature)[1]

    def soft_values(
        self, observations: NDArray[Any], rng: np.random.Generator | None = None
    ) -> FloatArray:
        """Return V = temperature logsumexp(Q / temperature), `[B]` of observations `[B, ...]`.

        Nothing is drawn for it.
        """
        return soft_backup(self._soft_q(observations), self.temperature)[0]

    def q_values(self, observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
        """Return Q of observations `[B, ...]` and actions `[B]`, `[B]`."""
        every = self._soft_q(observations)
        return every[np.arange(len(every)), actions.reshape(-1).astype(np.int64)]

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Take so many gradient steps, each on a batch of so many transitions."""
        assert self.replay_buffer is not None
        self._update_learning_rate(self.policy.optimizer)
        flat = self._flat_networks()
        losses = (
            self._updates(gradient_steps, batch_size)
            if flat is None
            else flat.train(self, gradient_steps, batch_size)
        )
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(np.mean(losses)))

    def _updates(self, gradient_steps: int, batch_size: int) -> list[float]:
        """Take gradient steps of any policy, and return their losses."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with th.no_grad():
                next_q = self.q_net_target(batch.next_observations)
                next_v = self.temperature * th.logsumexp(next_q / self.temperature, 1, keepdim=True)
                target = batch.rewards + (1.0 - batch.dones) * self.gamma * next_v
            q = self.q_net.each(batch.observations)
            taken = q.gather(2, batch.actions.long().expand(len(q), -1, 1))
            loss = len(q) * F.smooth_l1_loss(taken, target.expand_as(taken))
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            th.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        return losses

    def _soft_q(self, observations: NDArray[Any]) -> FloatArray:
        self.policy.set_training_mode(False)
        with th.no_grad():
            q_values = self.q_net(self.policy.obs_to_tensor(observations)[0])
        return q_values.cpu().numpy().astype(np.float64)

    def _setup_model(self) -> None:
        self.policy_kwargs["temperature"] = self.temperature
        super()._setup_model()

    def _sample_action(
        self,
        learning_starts: int,
        action_noise: ActionNoise | None = None,
        n_envs: int = 1,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return actions that explore, each environment's by itself, and once more to be stored."""
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        actions, stored = super()._sample_action(learning_starts, action_noise, n_envs)
        explores = np.random.random(n_envs) < self.exploration_rate
        for copy in np.flatnonzero(explores):
            actions[copy] = self.action_space.sample()
        return actions, actions

    def _on_step(self) -> None:
        """Log how much is explored; targets follow at each update."""
        self.logger.record("rollout/exploration_rate", self.exploration_rate)
