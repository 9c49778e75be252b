"""The leader's critic: a network that predicts what the follower's actions bring the leader."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from ..mdp import FloatArray
from .networks import numbers

if TYPE_CHECKING:
    from ..envs.parametric import ParametricGame
    from .followers import Follower

__all__ = ["LeaderCritic"]

UNITS, BATCH, POLYAK, LEARNING_RATE = (64, 64), 256, 0.02, 1e-3

# Actions drawn for a mean over the policy where there are too many to add up. Targets do with one:
# the mean over many of them is the network's own.
DRAWS = 8


class LeaderCritic:
    """Q_u(s, a), fitted to the learner's replay by expected SARSA.

    Targets are u + gamma_u E_pi Q_u(s', .) under the follower's policy of today, whatever policy
    the transitions are of. An episode that is cut goes on as far as the critic is concerned. Where
    actions are discrete the network has an output for each, and reads them otherwise.
    """

    def __init__(self, game: ParametricGame, seed: int) -> None:
        """Begin with an untrained network.

        Args:
            game: The game.
            seed: Seed of the weights.
        """
        self._game = game
        self._discrete = isinstance(game.lower_space, spaces.Discrete)
        size = get_flattened_obs_dim(game.observation_space)
        outputs = 1
        if isinstance(game.lower_space, spaces.Discrete):
            outputs = int(game.lower_space.n)
        else:
            size += get_flattened_obs_dim(game.lower_space)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            sizes = [size, *UNITS]
            layers: list[th.nn.Module] = []
            for before, after in zip(sizes[:-1], sizes[1:], strict=True):
                layers += [th.nn.Linear(before, after), th.nn.ReLU()]
            self.network = th.nn.Sequential(*layers, th.nn.Linear(UNITS[-1], outputs))
        self._target = copy.deepcopy(self.network)
        self._optimizer = th.optim.Adam(self.network.parameters(), LEARNING_RATE, fused=True)

    def state_dict(self) -> dict[str, Any]:
        """Return networks and optimiser, for a file."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` has returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "target": self._target, "optimizer": self._optimizer}

    def fit(self, follower: Follower, updates: int, rng: np.random.Generator) -> float:
        """Take gradient steps on transitions of the replay; return the mean loss of the last tenth.

        Args:
            follower: Whose replay and policy it is.
            updates: Gradient steps, at least 1.
            rng: Where the batches come from.
        """
        buffer, losses = follower.model.replay_buffer, []
        assert buffer is not None
        for _ in range(updates):
            batch = buffer.transitions(rng.integers(buffer.size(), size=BATCH), rng)
            rewards = batch.rewards.astype(np.float64)
            paid = self._game.upper_reward(batch.observations, batch.actions, rewards)
            following = self._expected(self._target, batch.next_observations, follower, rng, 1)
            target = paid + self._game.upper_gamma * (1.0 - batch.dones) * following
            predicted = self._values(self.network, batch.observations, batch.actions)
            loss = th.nn.functional.mse_loss(predicted, th.as_tensor(target, dtype=th.float32))
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            with th.no_grad():
                for old, new in zip(
                    self._target.parameters(), self.network.parameters(), strict=True
                ):
                    old.lerp_(new, POLYAK)
            losses.append(float(loss.detach()))
        return float(np.mean(losses[-max(1, updates // 10) :]))

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
        if not self._discrete:
            with th.no_grad():
                taken = self._values(self.network, observations, actions).double().numpy()
            return taken - self._expected(self.network, observations, follower, rng, DRAWS), None
        with th.no_grad():
            q = self._outputs(self.network, observations).double().numpy()
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
        """Return E_pi Q(s, .), `[B]`, by so many draws where actions are continuous."""
        with th.no_grad():
            if self._discrete:
                q = self._outputs(network, observations).double().numpy()
                return (follower.probabilities(observations) * q).sum(axis=1)
            repeated = np.repeat(observations, draws, axis=0)
            drawn = follower.draw(repeated, rng)
            q = self._values(network, repeated, drawn).double().numpy()
            return q.reshape(len(observations), draws).mean(axis=1)

    def _values(
        self, network: th.nn.Module, observations: NDArray[Any], actions: NDArray[Any]
    ) -> th.Tensor:
        if self._discrete:
            taken = th.as_tensor(actions.reshape(-1, 1).astype(np.int64))
            return self._outputs(network, observations).gather(1, taken).squeeze(1)
        return self._outputs(network, observations, actions).squeeze(1)

    def _outputs(
        self,
        network: th.nn.Module,
        observations: NDArray[Any],
        actions: NDArray[Any] | None = None,
    ) -> th.Tensor:
        like = next(network.parameters())
        read = [numbers(observations, self._game.observation_space, like).flatten(1)]
        if actions is not None:
            read.append(numbers(actions, self._game.lower_space, like))
        outputs: th.Tensor = network(th.cat(read, dim=1))
        return outputs
