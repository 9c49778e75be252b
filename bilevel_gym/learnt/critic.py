"""The leader's critic: a network that predicts what the follower's actions bring the leader."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.spaces import flatdim
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import get_device

from ..core.mdp import FloatArray
from ..model.protocols import LearntGame
from ..rewards.images import is_image_space
from ..rewards.tensors import IMAGES, as_inputs, blocks

if TYPE_CHECKING:
    from ..sb3.replay import Transitions
    from .followers import Follower

__all__ = ["LeaderCritic", "Trained"]

UNITS, BATCH, POLYAK, LEARNING_RATE = (64, 64), 256, 0.02, 1e-3

# The same for images, which cost more and teach more, each.
IMAGE_BATCH = 64

# Actions drawn for a mean over the policy where there are too many to add up. Targets do with one:
# the mean over many of them is the network's own.
DRAWS = 8

# So many batches tell how large the leader's rewards are.
MEASURED = 4


class Trained:
    """A network with its optimiser, which go into a file together.

    Attributes:
        network: The network.
    """

    network: th.nn.Module
    _optimizer: th.optim.Optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return networks and optimiser, for a file."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` has returned, on whatever device that was."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self._optimizer}


class LeaderCritic(Trained):
    """Q_u(s, a), fitted to the learner's replay by expected SARSA.

    Targets are u + gamma_u E_pi Q_u(s', .) under the follower's policy of today, whatever policy
    the transitions are of. An episode that is cut goes on as far as the critic is concerned. The
    network speaks in units of its own, Q_u = offset + scale q, measured when it is first fitted:
    what is paid everywhere alike would otherwise take it longer to learn than all that matters, and
    what it has not learnt of that points anywhere. Where
    actions are discrete the network has an output for each, and reads them otherwise. Images go
    through the convolutions of Mnih et al. (Nature 518, 2015) first, as the library has them.
    """

    def __init__(self, game: LearntGame, seed: int, device: th.device | str = "cpu") -> None:
        """Begin with an untrained network.

        Args:
            game: The game.
            seed: Seed of the weights, which are the same on every device.
            device: Where it computes; that of the follower's model is the right one.
        """
        self._game, self._device = game, get_device(device)
        self._discrete = isinstance(game.lower_space, spaces.Discrete)
        seen = game.observation_space
        self._images = is_image_space(seen)
        acted, outputs = 0, 1
        if isinstance(game.lower_space, spaces.Discrete):
            outputs = int(game.lower_space.n)
        else:
            acted = flatdim(game.lower_space)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            network = (
                _Seeing(seen, acted, outputs)
                if self._images
                else _perceptron(flatdim(seen) + acted, outputs)
            )
        self.network = network.to(self._device)
        self._target = copy.deepcopy(self.network)
        self._optimizer = th.optim.Adam(self.network.parameters(), LEARNING_RATE, fused=True)
        self._units: tuple[float, float] | None = None  # offset and scale

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimiser and units, for a file."""
        return {**super().state_dict(), "units": self._units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` has returned, on whatever device that was."""
        super().load_state_dict(state)
        self._units = state["units"]

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "target": self._target}

    def fit(self, follower: Follower, updates: int, rng: np.random.Generator) -> float:
        """Take gradient steps on transitions of the replay; return the mean loss of the last tenth.

        Args:
            follower: Whose replay and policy it is.
            updates: Gradient steps, at least 1.
            rng: Where the batches come from.
        """
        buffer, losses = follower.model.replay_buffer, []
        assert buffer is not None
        size = IMAGE_BATCH if self._images else BATCH
        if self._units is None:
            self._units = self._measured(buffer.transitions(buffer.draw(MEASURED * size, rng), rng))
        offset, scale = self._units
        for _ in range(updates):
            batch = buffer.transitions(buffer.draw(size, rng), rng)
            later = self._game.upper_gamma * (1.0 - batch.dones)
            following = self._expected(self._target, batch.next_observations, follower, rng, 1)
            target = (self._paid(batch) - (1.0 - later) * offset) / scale + later * following
            predicted = self._values(self.network, batch.observations, batch.actions)
            wanted = th.as_tensor(target, dtype=predicted.dtype, device=self._device)
            loss = th.nn.functional.mse_loss(predicted, wanted)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            with th.no_grad():
                for old, new in zip(
                    self._target.parameters(), self.network.parameters(), strict=True
                ):
                    old.lerp_(new, POLYAK)
            losses.append(float(loss.detach()))
        return scale**2 * float(np.mean(losses[-max(1, updates // 10) :]))

    def _paid(self, batch: Transitions) -> FloatArray:
        rewards = batch.rewards.astype(np.float64)
        return self._game.upper_reward(batch.observations, batch.actions, rewards)

    def _measured(self, batch: Transitions) -> tuple[float, float]:
        """Return the mean of Q_u, were all states alike, and how far targets lie about it."""
        paid, later = self._paid(batch), self._game.upper_gamma * (1.0 - batch.dones)
        # Undiscounted, and without an end in sight, what counts is an episode.
        offset = float(paid.mean()) / max(1.0 - float(later.mean()), 1.0 / self._game.episode_steps)
        scale = float((paid - (1.0 - later) * offset).std())
        return offset, scale if scale > 0.0 else 1.0

    def advantages(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        follower: Follower,
        rng: np.random.Generator,
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return the leader's advantages of actions taken `[B]`, and of all `[B, A]` if discrete.

        Args:
            observations: `[B, ...]`.
            actions: `[B, ...]`.
            follower: Whose policy it is.
            rng: For means over a policy that cannot be added up.
        """
        _, scale = self._units or (0.0, 1.0)
        if not self._discrete:
            taken = self._evaluated(self.network, observations, actions)[:, 0]
            mean = self._expected(self.network, observations, follower, rng, DRAWS)
            return scale * (taken - mean), None
        q = scale * self._evaluated(self.network, observations)
        table = q - (follower.probabilities(observations) * q).sum(axis=1, keepdims=True)
        taken = table[np.arange(len(table)), actions.reshape(-1).astype(np.int64)]
        return taken, table

    def _expected(
        self,
        network: th.nn.Module,
        observations: NDArray[Any],
        follower: Follower,
        rng: np.random.Generator,
        draws: int,
    ) -> FloatArray:
        """Return E_pi q(s, .), `[B]`, by so many draws where actions are continuous."""
        if self._discrete:
            q = self._evaluated(network, observations)
            return (follower.probabilities(observations) * q).sum(axis=1)
        means = []
        for at in self._blocks(len(observations), draws):
            repeated = np.repeat(observations[at], draws, axis=0)
            q = self._evaluated(network, repeated, follower.draw(repeated, rng))
            means.append(q.reshape(-1, draws).mean(axis=1))
        return np.concatenate(means)

    def _evaluated(
        self,
        network: th.nn.Module,
        observations: NDArray[Any],
        actions: NDArray[Any] | None = None,
    ) -> FloatArray:
        """Return what the network says, `[B, outputs]`, for good."""
        with th.no_grad():
            found = [
                self._outputs(network, observations[at], None if actions is None else actions[at])
                for at in self._blocks(len(observations))
            ]
            return th.cat(found).cpu().double().numpy()

    def _blocks(self, count: int, copies: int = 1) -> Iterator[slice]:
        """Yield the parts of a batch that go through at a time, each entry so many times."""
        return blocks(count, IMAGES // copies if self._images else max(1, count))

    def _values(
        self, network: th.nn.Module, observations: NDArray[Any], actions: NDArray[Any]
    ) -> th.Tensor:
        if self._discrete:
            indices = actions.reshape(-1, 1).astype(np.int64)
            taken = th.as_tensor(indices, device=self._device)
            return self._outputs(network, observations).gather(1, taken).squeeze(1)
        return self._outputs(network, observations, actions).squeeze(1)

    def _outputs(
        self,
        network: th.nn.Module,
        observations: NDArray[Any],
        actions: NDArray[Any] | None = None,
    ) -> th.Tensor:
        like = next(network.parameters())
        read = [as_inputs(observations, self._game.observation_space, like).flatten(1)]
        if actions is not None:
            read.append(as_inputs(actions, self._game.lower_space, like))
        outputs: th.Tensor = network(th.cat(read, dim=1))
        return outputs


class _Seeing(th.nn.Module):
    """Convolutions of an image, and a perceptron of what they find and of what else is read."""

    def __init__(self, space: spaces.Space[Any], others: int, outputs: int) -> None:
        super().__init__()
        # A copy: the library draws from the space.
        self.convolutions = NatureCNN(copy.deepcopy(space))
        self.perceptron = _perceptron(self.convolutions.features_dim + others, outputs)
        self._shape, self._pixels = space.shape or (), flatdim(space)

    def forward(self, read: th.Tensor) -> th.Tensor:
        images, others = read[:, : self._pixels], read[:, self._pixels :]
        found = self.convolutions(images.reshape(len(read), *self._shape))
        outputs: th.Tensor = self.perceptron(th.cat([found, others], dim=1))
        return outputs


def _perceptron(inputs: int, outputs: int) -> th.nn.Sequential:
    sizes = [inputs, *UNITS]
    layers: list[th.nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [th.nn.Linear(before, after), th.nn.ReLU()]
    return th.nn.Sequential(*layers, th.nn.Linear(UNITS[-1], outputs))
