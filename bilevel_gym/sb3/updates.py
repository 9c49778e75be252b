"""The updates of soft learners whose networks are small and plain, on flat memory.

They are those of the learners themselves, written out: the same losses, the same gradients up to
rounding, the same steps. Where a policy is of another kind (images, other activations, another
optimizer, an accelerator), there is none, and the learner records gradients as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import Space, spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy

from .flat import FlatAdam, FlatNetworks, Layers, linear_layers

__all__ = ["FlatDQN", "FlatSAC"]

# Updates whose batches are drawn at once.
CHUNK = 32

# What Stable-Baselines3 adds to 1 - a^2 before its logarithm.
SQUASHED = 1e-6

Batch = tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor, th.Tensor]


def batches(model: Any, features: Any, updates: int, size: int) -> Iterator[Batch]:
    """Yield features, actions, next features, rewards and what goes on, `[B, ...]` of each update.

    Rewards and what goes on are `[B]`. `features` makes them of observations.
    """
    buffer = model.replay_buffer
    assert buffer is not None
    for begin in range(0, updates, CHUNK):
        count = min(CHUNK, updates - begin)
        drawn = buffer.sample(count * size, env=model.get_vec_normalize_env())
        whole = (
            features(drawn.observations),
            drawn.actions,
            features(drawn.next_observations),
            drawn.rewards[:, 0],
            1.0 - drawn.dones[:, 0],
        )
        for first in range(0, count * size, size):
            yield tuple(part[first : first + size] for part in whole)


def flattened(networks: list[Layers | None], optimizer: Any) -> FlatNetworks | None:
    """Return networks on flat memory, None unless all are plain and of one shape.

    So must their optimizer be, if they have one.
    """
    plain = [network for network in networks if network is not None]
    if len(plain) < len(networks):
        return None
    shapes = [[[m.weight.shape for m in modules] for modules in layers] for layers in plain]
    parameters = [
        parameter
        for layers in plain
        for modules in layers
        for module in modules
        for parameter in module.parameters()
    ]
    if any(shape != shapes[0] for shape in shapes) or any(
        parameter.device.type != "cpu" or parameter.dtype != th.float32 for parameter in parameters
    ):
        return None
    if optimizer is not None and not FlatAdam.suits(parameters, optimizer):
        return None
    return FlatNetworks(plain)


def plain_features(module: Any) -> bool:
    """Return whether features of observations have nothing to learn and nothing to remember."""
    extractor = module.features_extractor
    return not [*extractor.parameters(), *extractor.buffers()]


def features_of(observations: NDArray[Any], space: Space[Any]) -> NDArray[np.float32] | None:
    """Return what networks get of observations, `[B, F]`; None where it takes more than this."""
    if isinstance(space, spaces.Discrete):
        one_hot: NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)[observations]
        return one_hot
    if isinstance(space, spaces.Box) and not is_image_space(space):
        return observations.reshape(len(observations), -1).astype(np.float32, copy=False)
    return None


class FlatDQN:
    """The critics of a `SoftDQN`, and their targets, on flat memory."""

    def __init__(self, policy: Any, critics: FlatNetworks, targets: FlatNetworks) -> None:
        """Take over the policy's optimizer; see `of`."""
        self._policy, self.critics, self._targets = policy, critics, targets
        self._adam = FlatAdam(critics, policy.optimizer)

    @classmethod
    def of(cls, policy: Any) -> Self | None:
        """Return the networks of a `SoftQPolicy` on flat memory, None if they are not plain."""
        net, target = policy.q_net, policy.q_net_target
        if not plain_features(net):
            return None
        targets = flattened([linear_layers(critic) for critic in target.critics], None)
        critics = flattened([linear_layers(critic) for critic in net.critics], policy.optimizer)
        if critics is None or targets is None:
            return None
        return cls(policy, critics, targets)

    @property
    def bound(self) -> bool:
        """Whether the policy's parameters and its optimizer's state still are in this memory."""
        return self.critics.bound and self._targets.bound and self._adam.bound

    @th.no_grad()
    def train(self, model: Any, updates: int, batch_size: int) -> list[float]:
        """Make so many updates of a `SoftDQN`, as its `train` says, and return their losses."""
        net, gradient, losses = self._policy.q_net, self._adam.gradient, []
        gamma, temperature = model.gamma, model.temperature

        def features(observations: th.Tensor) -> th.Tensor:
            return net.extract_features(observations, net.features_extractor)

        for observations, actions, following, rewards, alive in batches(
            model, features, updates, batch_size
        ):
            next_q = self._targets.forward(following)[-1].amin(0)
            next_v = temperature * th.logsumexp(next_q / temperature, 1)
            target = rewards + alive * (gamma * next_v)
            values = self.critics.forward(observations)
            taken = actions.long().expand(len(values[-1]), -1, 1)
            error = values[-1].gather(2, taken)[:, :, 0] - target
            # The Huber loss of each critic, averaged over the batch.
            slope = error.clamp(-1.0, 1.0)
            losses.append((slope * (error - 0.5 * slope)).sum() / batch_size)
            slopes = th.zeros_like(values[-1]).scatter_(2, taken, slope[:, :, None] / batch_size)
            self.critics.backward(values, slopes, self._adam.places)
            norm = float(gradient.norm())
            if norm > model.max_grad_norm:
                gradient.mul_(model.max_grad_norm / (norm + 1e-6))
            self._adam.step()
            self._targets.memory.lerp_(self.critics.memory, model.tau)
        return th.stack(losses).tolist()

    def act(self, features: NDArray[np.float32], *, deterministic: bool) -> NDArray[np.int64]:
        """Return actions `[B]` for features `[B, F]`, as `SoftQNetwork` does."""
        q_values = self.critics.evaluate(features).min(axis=0)
        if not deterministic:
            # Of torch's generator, as there.
            gumbel = -np.log(th.empty(q_values.shape).exponential_().numpy())
            q_values = q_values / self._policy.q_net.temperature + gumbel
        return q_values.argmax(axis=1)


class FlatSAC:
    """The actor, the critics and their targets of a `SoftSAC`, on flat memory."""

    def __init__(
        self, policy: SACPolicy, actor: FlatNetworks, critics: FlatNetworks, targets: FlatNetworks
    ) -> None:
        """Take over the policy's optimizers; see `of`."""
        self._policy, self.actor, self.critics, self._targets = policy, actor, critics, targets
        self._actor_adam = FlatAdam(actor, policy.actor.optimizer)
        self._critic_adam = FlatAdam(critics, policy.critic.optimizer)

    @classmethod
    def of(cls, policy: SACPolicy) -> Self | None:
        """Return the networks of a policy on flat memory, None if they are not plain."""
        actor, critic, target = policy.actor, policy.critic, policy.critic_target
        if actor.use_sde or not all(map(plain_features, (actor, critic, target))):
            return None
        body = linear_layers(th.nn.Sequential(*actor.latent_pi.children(), actor.mu))
        if body is None or not isinstance(actor.log_std, th.nn.Linear):
            return None
        body[-1].append(actor.log_std)  # mean and log of the standard deviation are one layer
        flat = (
            flattened([body], actor.optimizer),
            flattened([linear_layers(q) for q in critic.q_networks], critic.optimizer),
            flattened([linear_layers(q) for q in target.q_networks], None),
        )
        networks = [network for network in flat if network is not None]
        return cls(policy, *networks) if len(networks) == len(flat) else None

    @property
    def bound(self) -> bool:
        """Whether the policy's parameters and its optimizers' states still are in this memory."""
        networks = self.actor, self.critics, self._targets
        return (
            all(network.bound for network in networks)
            and self._actor_adam.bound
            and self._critic_adam.bound
        )

    @th.no_grad()
    def train(self, model: Any, updates: int, batch_size: int) -> tuple[list[float], list[float]]:
        """Make so many updates of a `SoftSAC`; return losses of the actor and of the critics."""
        actor = self._policy.actor
        actor_losses, critic_losses = [], []
        gamma, temperature = model.gamma, model.temperature

        def features(observations: th.Tensor) -> th.Tensor:
            return actor.extract_features(observations, actor.features_extractor)

        for number, (observations, actions, following, rewards, alive) in enumerate(
            batches(model, features, updates, batch_size)
        ):
            drawn = self._draw(observations)
            later = self._draw(following)
            next_q = self._q(self._targets, following, later.actions)[-1][:, :, 0].amin(0)
            target = rewards + alive * (gamma * (next_q - temperature * later.log_probability))

            values = self._q(self.critics, observations, actions)
            error = values[-1][:, :, 0] - target
            critic_losses.append((error * error).sum() * (0.5 / batch_size))
            slopes = (error / batch_size)[:, :, None]
            self.critics.backward(values, slopes, self._critic_adam.places)
            self._critic_adam.step()

            values = self._q(self.critics, observations, drawn.actions)
            least, critics = values[-1].min(dim=0, keepdim=True)
            actor_losses.append((temperature * drawn.log_probability - least[0, :, 0]).mean())
            slopes = th.zeros_like(values[-1]).scatter_(0, critics, -1.0 / batch_size)
            by_input = self.critics.backward(values, slopes).sum(0)
            by_action = by_input[:, observations.shape[1] :]
            self.actor.backward(
                drawn.values,
                drawn.slopes(by_action, temperature / batch_size)[None],
                self._actor_adam.places,
            )
            self._actor_adam.step()
            if number % model.target_update_interval == 0:
                self._targets.memory.lerp_(self.critics.memory, model.tau)
        return th.stack(actor_losses).tolist(), th.stack(critic_losses).tolist()

    def act(self, features: NDArray[np.float32], *, deterministic: bool) -> NDArray[np.float32]:
        """Return actions in [-1, 1] `[B, n]` for features `[B, F]`, as the actor does."""
        mean, log_std = np.split(self.actor.evaluate(features)[0], 2, axis=1)
        if not deterministic:
            log_std = np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)
            mean = mean + np.exp(log_std) * th.randn(mean.shape).numpy()
        return np.tanh(mean)

    def _q(self, networks: FlatNetworks, features: th.Tensor, actions: th.Tensor) -> Any:
        return networks.forward(th.cat([features, actions], 1))

    def _draw(self, features: th.Tensor) -> SquashedDraw:
        return SquashedDraw(self.actor.forward(features))


class SquashedDraw:
    """Actions a = tanh(mean + std e), e standard normal, of a Gaussian policy.

    Attributes:
        values: Values of the actor's layers, the last one `[1, B, 2 n]`.
        actions: a, `[B, n]`.
        log_probability: Of a, `[B]`, as Stable-Baselines3 rounds it off near the bounds.
    """

    def __init__(self, values: list[th.Tensor]) -> None:
        """Draw from torch's generator."""
        self.values = values
        mean, log_std = values[-1][0].chunk(2, 1)
        self._free = (log_std > LOG_STD_MIN) & (log_std < LOG_STD_MAX)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        self._noise = th.randn_like(mean)
        self._moved = log_std.exp() * self._noise
        self.actions = th.tanh(mean + self._moved)
        self._squeeze = 1.0 - self.actions * self.actions
        density = -0.5 * self._noise * self._noise - log_std - 0.5 * math.log(2.0 * math.pi)
        self.log_probability = (density - (self._squeeze + SQUASHED).log()).sum(1)

    def slopes(self, by_action: th.Tensor, weight: float) -> th.Tensor:
        """Return the derivative of a sum by mean and log of the standard deviation, `[B, 2 n]`.

        The sum has the derivative `by_action` by the actions themselves, and holds `weight` times
        their log-probabilities.
        """
        by_action = by_action + 2.0 * weight * self.actions / (self._squeeze + SQUASHED)
        by_mean = by_action * self._squeeze
        by_log_std = (by_mean * self._moved - weight) * self._free
        return th.cat([by_mean, by_log_std], 1)
