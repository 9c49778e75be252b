"""Networks that predict what the follower's actions bring the leader."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.spaces import flatdim
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import get_device

from ..core.mdp import FloatArray
from ..episodes.fragments import Pairs
from ..episodes.recorded import Batch, LearntEpisodes
from ..model.protocols import LearntGame
from ..rewards.images import is_image_space
from ..rewards.tensors import IMAGES, as_inputs, blocks, perceptron
from .baselines import Plateau, explained_variance, watched_sums

if TYPE_CHECKING:
    from ..sb3.replay import RelabellingReplayBuffer, Transitions
    from .followers import Follower

__all__ = ["FragmentCritic", "LeaderCritic", "LeaderCritics", "ReturnCritic", "Trained"]

UNITS, BATCH, POLYAK, LEARNING_RATE = (64, 64), 256, 0.02, 1e-3

# Batches of images are smaller: each image costs more, and says more.
IMAGE_BATCH = 64

# Actions drawn for a mean over the policy where it is no sum. One will do in targets: the network
# averages over many of them.
DRAWS = 8

# Updates whose batches are drawn at once: the policy stays the same.
TOGETHER = 32

# Updates between two checks of what is explained, and checks without a gain that end the training.
CHECKED, PATIENCE = 100, 2

# Gradient steps of the leader's critics, at most, for each that was asked for.
LONGEST = 2

# Batches from which the scale of the leader's rewards is measured.
MEASURED = 4


class Trained:
    """A network with its optimiser, which are saved together."""

    def __init__(self, network: th.nn.Module, *, fused: bool | None = None) -> None:
        """Set up the optimiser of a network; `fused` is an option of `torch.optim.Adam`."""
        self.network = network
        self._optimizer = th.optim.Adam(network.parameters(), LEARNING_RATE, fused=fused)

    def state_dict(self) -> dict[str, Any]:
        """Return networks and optimiser, for a file."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned, on whatever device that was."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self._optimizer}

    def _descend(self, predicted: th.Tensor, target: th.Tensor) -> float:
        """Take a gradient step on the mean squared error, and return what it was."""
        loss = th.nn.functional.mse_loss(predicted, target)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.detach())


class LeaderCritic(Trained):
    """Q_u(s, a), fitted to the learner's replay buffer by expected SARSA.

    Targets are u + gamma_u E_pi Q_u(s', .) under the follower's present policy, whatever policy
    the transitions are of. An episode that is cut goes on as far as the critic is concerned; for
    values to be finite, gamma_u is the leader's discount but at most 1 - 1 / `episode_steps`. The
    network predicts in units of its own, Q_u = offset + scale q, measured when it is first fitted:
    learning a reward that is the same everywhere would otherwise take it longer than learning the
    differences that matter. Where actions are discrete the network has an output for each;
    continuous ones are inputs. Images go through the convolutions of Mnih et al. (Nature 518, 2015)
    first, as Stable-Baselines3 has them.
    """

    def __init__(
        self,
        game: LearntGame,
        seed: int,
        device: th.device | str = "cpu",
        half: int | None = None,
    ) -> None:
        """Begin with an untrained network; its weights, by `seed`, are the same on every device.

        With a `half`, 0 or 1, it learns from the even or the odd slots of the replay buffer alone.
        """
        self._game, self._device, self._half = game, get_device(device), half
        self.discount = min(game.upper_gamma, 1.0 - 1.0 / game.episode_steps)
        self._discrete = isinstance(game.lower_space, spaces.Discrete)
        seen = game.observation_space
        self._images = is_image_space(seen)
        inputs = 0 if self._discrete else flatdim(game.lower_space)
        outputs = int(game.lower_space.n) if self._discrete else 1
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            network = (
                _ImageNetwork(seen, inputs, outputs)
                if self._images
                else perceptron([flatdim(seen) + inputs, *UNITS, outputs])
            )
        super().__init__(network.to(self._device), fused=True)
        self._target = copy.deepcopy(self.network)
        self._units: tuple[float, float] | None = None  # offset and scale

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimiser and units, for a file."""
        return {**super().state_dict(), "units": self._units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned, on whatever device that was."""
        super().load_state_dict(state)
        self._units = state["units"]

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "target": self._target}

    def fit(self, follower: Follower, updates: int, rng: np.random.Generator) -> float:
        """Take gradient steps on the replay buffer; return the mean loss of the last tenth."""
        buffer, losses = follower.model.replay_buffer, []
        assert buffer is not None
        size = IMAGE_BATCH if self._images else BATCH
        if self._units is None:
            self._units = self._measured(self._drawn(buffer, MEASURED * size, rng))
        together = 1 if self._images else TOGETHER
        for begin in range(0, updates, together):
            count = size * min(together, updates - begin)
            batch = self._drawn(buffer, count, rng)
            inputs, taken = self._inputs(batch.observations, batch.actions)
            following, weights = self._under_policy(batch.next_observations, follower, rng)
            reward, later = self._in_units(batch)
            for part in blocks(count, size):
                with th.no_grad():
                    expected = (weights[part] * self._target(following[part])).sum(1)
                predicted = self.network(inputs[part]).gather(1, taken[part]).squeeze(1)
                target = reward[part] + later[part] * expected
                losses.append(self._descend(predicted, target))
                with th.no_grad():
                    for old, new in zip(
                        self._target.parameters(), self.network.parameters(), strict=True
                    ):
                        old.lerp_(new, POLYAK)
        return self._units[1] ** 2 * _last_tenth(losses)

    def _drawn(
        self, buffer: RelabellingReplayBuffer, count: int, rng: np.random.Generator
    ) -> Transitions:
        """Return so many transitions, of the half of the buffer that is learnt from."""
        drawn = buffer.draw(count, rng)
        if self._half is not None:
            # The slot before it, or the next one, which may be the first: all of them are whole.
            drawn = np.where(drawn % 2 == self._half, drawn, drawn ^ 1) % buffer.size()
        return buffer.transitions(drawn, rng)

    def _under_policy(
        self, observations: Batch, follower: Follower, rng: np.random.Generator
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return inputs `[B, n]`, and the weights of outputs that make E_pi q `[B, outputs]`."""
        if self._discrete:
            weights = self._tensor(follower.probabilities(observations))
            return self._inputs(observations)[0], weights
        inputs, _ = self._inputs(observations, follower.draw(observations, rng))
        return inputs, th.ones(len(inputs), 1, dtype=inputs.dtype, device=self._device)

    def _in_units(self, batch: Transitions) -> tuple[th.Tensor, th.Tensor]:
        """Return the leader's rewards in units of the network, and what later ones count, `[B]`."""
        offset, scale = self._units or (0.0, 1.0)
        later = self.discount * (1.0 - batch.dones)
        reward = (self._upper(batch) - (1.0 - later) * offset) / scale
        return self._tensor(reward), self._tensor(later)

    def _tensor(self, values: NDArray[Any]) -> th.Tensor:
        return th.as_tensor(values, dtype=th.float32, device=self._device)

    def _upper(self, batch: Transitions) -> FloatArray:
        rewards = batch.rewards.astype(np.float64)
        return self._game.upper_reward(batch.observations, batch.actions, rewards)

    def _measured(self, batch: Transitions) -> tuple[float, float]:
        """Return what Q_u is if all states are alike, and the deviation of targets from it."""
        upper, later = self._upper(batch), self.discount * (1.0 - batch.dones)
        offset = float(upper.mean()) / (1.0 - float(later.mean()))
        scale = float((upper - (1.0 - later) * offset).std())
        return offset, scale if scale > 0.0 else 1.0

    def advantages(
        self, observations: Batch, actions: Batch, follower: Follower, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return the leader's advantages of actions taken `[B]`, of all `[B, A]` if discrete."""
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
        observations: Batch,
        follower: Follower,
        rng: np.random.Generator,
        draws: int,
    ) -> FloatArray:
        """Return E_pi q(s, .), `[B]`, by so many draws where actions are continuous."""
        if self._discrete:
            q = self._evaluated(network, observations)
            return (follower.probabilities(observations) * q).sum(axis=1)
        means = []
        for at in blocks(len(observations), IMAGES // draws if self._images else None):
            repeated = np.repeat(observations[at], draws, axis=0)
            q = self._evaluated(network, repeated, follower.draw(repeated, rng))
            means.append(q.reshape(-1, draws).mean(axis=1))
        return np.concatenate(means)

    def _evaluated(
        self, network: th.nn.Module, observations: Batch, actions: Batch | None = None
    ) -> FloatArray:
        """Return outputs of a network, `[B, outputs]`, without gradients."""
        with th.no_grad():
            found = [
                network(self._inputs(observations[at], None if actions is None else actions[at])[0])
                for at in blocks(len(observations), IMAGES if self._images else None)
            ]
            return th.cat(found).cpu().double().numpy()

    def _inputs(
        self, observations: Batch, actions: Batch | None = None
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return what the network reads `[B, n]`, and the outputs of the actions taken `[B, 1]`.

        Discrete actions, or none, are not read.
        """
        like = next(self.network.parameters())
        read = [as_inputs(observations, self._game.observation_space, like).flatten(1)]
        taken = np.zeros((len(observations), 1), dtype=np.int64)
        if actions is not None and self._discrete:
            taken = actions.reshape(-1, 1).astype(np.int64)
        elif actions is not None:
            read.append(as_inputs(actions, self._game.lower_space, like))
        return th.cat(read, dim=1), th.as_tensor(taken, device=self._device)

    def q_values(self, observations: Batch, actions: Batch) -> FloatArray:
        """Return Q_u of actions taken, `[B]`."""
        offset, scale = self._units or (0.0, 1.0)
        q = self._evaluated(self.network, observations, actions)
        taken = actions.reshape(-1).astype(np.int64) if self._discrete else 0
        return offset + scale * q[np.arange(len(q)), taken]


class LeaderCritics:
    """Leader's critics that learn apart: two, each from one half of the replay buffer.

    What they differ by is an error of theirs. Of images there is one alone, as it takes longer.

    Attributes:
        each: The critics.
        explained: Share of the variance of watched returns that their mean explained last, at least
            -1; None where nothing varied.
    """

    def __init__(self, game: LearntGame, seed: int, device: th.device | str = "cpu") -> None:
        """Begin with untrained networks; their weights, by `seed`, are the same on every device."""
        halves = [None] if is_image_space(game.observation_space) else [0, 1]
        self.explained: float | None = None
        self.each = [LeaderCritic(game, seed + k, device, half) for k, half in enumerate(halves)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each, for a file."""
        return {str(number): critic.state_dict() for number, critic in enumerate(self.each)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned."""
        for number, critic in enumerate(self.each):
            critic.load_state_dict(state[str(number)])

    def fit(
        self, follower: Follower, played: LearntEpisodes, updates: int, rng: np.random.Generator
    ) -> float:
        """Learn from the replay buffer until they explain no more of the returns of episodes.

        The episodes must not be in the buffer yet. Each takes `updates` gradient steps, and at most
        twice as many: differences between actions are much smaller than those between states, and
        go on to improve. Returns the mean loss of the last of them.
        """
        sums, steps = watched_sums(played, played.upper_rewards, self.each[0].discount)
        seen, taken = (values[steps] for values in played.as_batch)
        stop, losses = Plateau(PATIENCE), [0.0]
        together = min(CHECKED, updates)
        for done in range(together, LONGEST * updates + 1, together):
            follower.tell(f"fitting critics, {done - together} of {LONGEST * updates}")
            losses = [critic.fit(follower, together, rng) for critic in self.each]
            found = [critic.q_values(seen, taken) for critic in self.each]
            self.explained = explained_variance(np.mean(found, axis=0), sums)
            if stop.reached(self.explained) and done >= updates:
                break
        return float(np.mean(losses))


class ReturnCritic(LeaderCritic):
    """Q_u(s, a), fitted to returns of episodes; only differences between actions count."""

    def regress(
        self,
        observations: Batch,
        actions: Batch,
        returns: FloatArray,
        updates: int,
        rng: np.random.Generator,
    ) -> float:
        """Take gradient steps on returns `[B]`; return the mean squared error of the last tenth."""
        # A new network finds small numbers faster; their mean is no part of an advantage.
        offset, scale = self._units = float(returns.mean()), max(float(returns.std()), 1e-8)
        targets = self._tensor((returns - offset) / scale)
        losses = []
        for _ in range(updates):
            drawn = rng.integers(len(returns), size=BATCH)
            inputs, taken = self._inputs(observations[drawn], actions[drawn])
            predicted = self.network(inputs).gather(1, taken).squeeze(1)
            losses.append(self._descend(predicted, targets[drawn]))
        return scale**2 * _last_tenth(losses)


class FragmentCritic(Trained):
    """The part of an answer's log-likelihood l that a step of a fragment explains, by action."""

    def __init__(self, game: LearntGame, seed: int) -> None:
        """Begin with an untrained network for the discrete actions of a game."""
        self._space = game.observation_space
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            sizes = [flatdim(self._space) + 1, *UNITS, int(game.lower_space.n)]
            super().__init__(perceptron(sizes))

    def values(self, place: FloatArray, observations: Batch) -> FloatArray:
        """Return the predictions `[B, A]`; `place` is that of steps in the fragment, in [0, 1)."""
        with th.no_grad():
            return self._outputs(place, observations).double().numpy()

    def fit(
        self, pairs: Pairs, excess: FloatArray, updates: int, rng: np.random.Generator
    ) -> float:
        """Take gradient steps on steps of fragments; return the mean loss of the last tenth.

        `excess` is l of each pair, centred, `[M]`.
        """
        seen, taken = pairs.as_batch
        alive, length = np.flatnonzero(pairs.alive), pairs.rewards.shape[2]
        losses = []
        for _ in range(updates):
            batch = alive[rng.integers(len(alive), size=BATCH)]
            predicted = self._outputs((batch % length) / length, seen[batch])
            actions = th.as_tensor(taken[batch].reshape(-1, 1).astype(np.int64))
            target = th.as_tensor(excess[batch // (2 * length)], dtype=th.float32)
            losses.append(self._descend(predicted.gather(1, actions).squeeze(1), target))
        return _last_tenth(losses)

    def _outputs(self, place: FloatArray, observations: Batch) -> th.Tensor:
        like = next(self.network.parameters())
        read = [
            th.as_tensor(place, dtype=like.dtype).reshape(-1, 1),
            as_inputs(observations, self._space, like).flatten(1),
        ]
        outputs: th.Tensor = self.network(th.cat(read, dim=1))
        return outputs


class _ImageNetwork(th.nn.Module):
    """Convolutions of an image, and a perceptron of their features and of other inputs."""

    def __init__(self, space: spaces.Space[Any], others: int, outputs: int) -> None:
        super().__init__()
        # A copy: the library draws from the space.
        self.convolutions = NatureCNN(copy.deepcopy(space))
        self.perceptron = perceptron([self.convolutions.features_dim + others, *UNITS, outputs])
        self._shape, self._pixels = space.shape or (), flatdim(space)

    def forward(self, read: th.Tensor) -> th.Tensor:
        images, others = read[:, : self._pixels], read[:, self._pixels :]
        features = self.convolutions(images.reshape(len(read), *self._shape))
        outputs: th.Tensor = self.perceptron(th.cat([features, others], dim=1))
        return outputs


def _last_tenth(losses: Sequence[float]) -> float:
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))
