"""The updates of soft learners whose networks are small and plain, on flat memory.

They are those of the learners themselves, written out: the same losses, the same gradients up to
rounding, the same steps. Where a policy is of another kind (images, other activations, another
optimizer, an accelerator), there is none, and the learner records gradients as ever.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch as th
from gymnasium import Space, spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from .flat import FlatAdam, FlatNetworks, Layers, hooked, linear_layers
from .standardised import StandardisedExtractor

__all__ = ["FlatDQN", "FlatPolicy", "FlatSAC"]

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


class Part(NamedTuple):
    """Plain networks of one shape.

    Attributes:
        networks: Their layers.
        optimizer: Plain Adam for their parameters; None for targets.
    """

    networks: list[Layers]
    optimizer: th.optim.Optimizer | None


def plain_part(networks: Sequence[Layers | None], optimizer: Any) -> Part | None:
    """Return networks as a part, None unless all are plain and of one shape.

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
        for parameter in (module.weight, module.bias)
    ]
    if any(shape != shapes[0] for shape in shapes) or any(
        parameter.device.type != "cpu" or parameter.dtype != th.float32 for parameter in parameters
    ):
        return None
    if optimizer is not None and not FlatAdam.suits(parameters, optimizer):
        return None
    return Part(plain, optimizer)


def plain_features(module: Any) -> bool:
    """Return whether features of observations are these themselves, flattened, in fixed units."""
    extractor = module.features_extractor
    return type(extractor) in (FlattenExtractor, StandardisedExtractor) and not hooked(extractor)


def features_of(
    observations: NDArray[Any], space: Space[Any], extractor: th.nn.Module | None = None
) -> NDArray[np.float32] | None:
    """Return what networks get of observations, `[B, F]`; None where it takes more than this."""
    if isinstance(space, spaces.Discrete):
        one_hot: NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)[observations]
        return one_hot
    if isinstance(space, spaces.Box) and not is_image_space(space):
        flat = observations.reshape(len(observations), -1).astype(np.float32, copy=False)
        if not isinstance(extractor, StandardisedExtractor):
            return flat
        return extractor.of_arrays(flat)
    return None


class FlatPolicy(ABC):
    """The networks of a policy on flat memory, with their optimizers."""

    def __init__(self, policy: Any, parts: list[Part]) -> None:
        """Move the networks; see `of`."""
        self._policy, self._parts = policy, parts
        self._networks = [FlatNetworks(part.networks) for part in parts]
        self._adams = [
            FlatAdam(networks, part.optimizer)
            for networks, part in zip(self._networks, parts, strict=True)
            if part.optimizer is not None
        ]

    @classmethod
    def of(cls, policy: Any, made: Self | None = None) -> Self | None:
        """Return the networks of a policy on flat memory, None if they are not plain.

        `made` is returned where it holds the policy as it is now.
        """
        parts = cls._plain_parts(policy)
        if parts is None:
            return None
        if made is not None and made._is_of(policy, parts):
            return made
        if not all(FlatAdam.even(part.optimizer) for part in parts):
            return None
        return cls(policy, parts)

    def holds(self, policy: Any) -> bool:
        """Return whether this is what a policy consists of, whatever has been done to it."""
        return self._is_of(policy, self._plain_parts(policy))

    def _is_of(self, policy: Any, parts: list[Part] | None) -> bool:
        return self._policy is policy and self._parts == parts and self.bound

    @property
    def bound(self) -> bool:
        """Whether parameters and states of optimizers still are in this memory."""
        return all(networks.bound for networks in self._networks) and all(
            adam.bound for adam in self._adams
        )

    @staticmethod
    @abstractmethod
    def _plain_parts(policy: Any) -> list[Part] | None:
        """Return the parts of a policy, None if one is not plain."""


class FlatDQN(FlatPolicy):
    """The critics of a `SoftDQN`, and their targets, on flat memory."""

    def __init__(self, policy: Any, parts: list[Part]) -> None:
        """Move the networks; see `of`."""
        super().__init__(policy, parts)
        self.critics, self._targets = self._networks
        [self._adam] = self._adams

    @staticmethod
    def _plain_parts(policy: Any) -> list[Part] | None:
        net, target = policy.q_net, policy.q_net_target
        if not plain_features(net) or not plain_features(target):
            return None
        targets = plain_part([linear_layers(critic) for critic in target.critics], None)
        critics = plain_part([linear_layers(critic) for critic in net.critics], policy.optimizer)
        return None if critics is None or targets is None else [critics, targets]

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


class FlatSAC(FlatPolicy):
    """The actor, the critics and their targets of a `SoftSAC`, on flat memory."""

    def __init__(self, policy: Any, parts: list[Part]) -> None:
        """Move the networks; see `of`."""
        super().__init__(policy, parts)
        self.actor, self.critics, self._targets = self._networks
        self._actor_adam, self._critic_adam = self._adams

    @staticmethod
    def _plain_parts(policy: Any) -> list[Part] | None:
        actor, critic, target = policy.actor, policy.critic, policy.critic_target
        if actor.use_sde or not all(map(plain_features, (actor, critic, target))):
            return None
        body = linear_layers(th.nn.Sequential(*actor.latent_pi, actor.mu))
        deviation = linear_layers(th.nn.Sequential(actor.log_std))
        if body is None or deviation is None or hooked(actor.latent_pi):
            return None
        body[-1] += deviation[0]  # mean and log of the standard deviation are one layer
        found = (
            plain_part([body], actor.optimizer),
            plain_part([linear_layers(q) for q in critic.q_networks], critic.optimizer),
            plain_part([linear_layers(q) for q in target.q_networks], None),
        )
        parts = [part for part in found if part is not None]
        return parts if len(parts) == len(found) else None

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
