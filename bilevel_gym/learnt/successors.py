"""The derivative of the follower's soft Q-function in x, learnt as successor features of dr_x/dx.

By the envelope theorem dQ_x/dx solves the Bellman equation of the follower's policy with dr_x/dx in
the place of the reward (Yang, Gao, Yuan, AISTATS 2025, arXiv 2405.19697),

    psi(s, a) = dr_x(s, a)/dx + gamma E[ psi(s', a') ],  a' ~ pi(. | s'),

one number for each entry of x: successor features (Dayan, Neural Computation 5, 1993), of the
follower's own discount. They say how the policy moves with x, whatever the leader's objective is:

    dlog pi(a | s)/dx = (psi(s, a) - E_pi psi(s, .)) / temperature.

Where x moves the dynamics, P(s'|s, a) has a derivative too, and dr_x/dx is joined by

    E[ gamma V(s') dlog P(s'|s, a)/dx ] = E[ (r_x + gamma V(s') - Q(s, a)) dlog P(s'|s, a)/dx ]

with the follower's soft values V and Q: what does not depend on s' may be subtracted, as the mean
of dlog P/dx is zero, and the difference varies much less.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.spaces import flatdim
from numpy.typing import NDArray
from stable_baselines3.common.utils import get_device

from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, LearntEpisodes, as_argument
from ..model.protocols import LearntGame
from ..rewards.tensors import as_inputs, blocks
from .baselines import FARTHEST, Plateau, explained_variance, watched_sums
from .critics import BATCH, DRAWS, POLYAK, UNITS, Trained
from .followers import Follower

__all__ = ["Scores", "SuccessorFeatures"]

# Two networks learn from different halves of what was seen.
HALVES = 2

# Most transitions of the replay that are learnt from, the latest ones, and most numbers in them.
TRANSITIONS, NUMBERS = 40_000, 2**24

# Updates between two checks of what is explained, and checks without a gain that end the training.
CHECKED, PATIENCE = 200, 3

# Steps whose scores are evaluated at a time.
BLOCK = 4096


class Scores(NamedTuple):
    """Derivatives of the log-probabilities of actions in x.

    Attributes:
        each: By each network, `[2, B, D]`.
        metric: Mean over steps of the Fisher information, by both networks, `[D, D]`.
    """

    each: FloatArray
    metric: FloatArray


class SuccessorFeatures(Trained):
    """psi(s, a), by two networks, each of which learns from one half of what was seen.

    What one has learnt from an episode the other one has not: watched episodes can be learnt from,
    and evaluated by the other network. Inputs are standardised, and outputs in units of their own,
    both measured when they are first fitted.

    Attributes:
        explained: Share of the variance of watched sums of dr_x/dx that was explained last, the
            mean over entries of x, in [-1, 1]; None where nothing varied.
    """

    network: Networks

    def __init__(self, game: LearntGame, seed: int, device: th.device | str = "cpu") -> None:
        """Begin with untrained networks; their weights, by `seed`, are the same on every device."""
        self._game, self._device = game, get_device(device)
        self._discrete = isinstance(game.lower_space, spaces.Discrete)
        self._actions = int(game.lower_space.n) if self._discrete else 1
        self._entries = game.initial_upper_params.size
        self.explained: float | None = None
        observed = flatdim(game.observation_space)
        inputs = observed + (0 if self._discrete else flatdim(game.lower_space))
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            network = Networks([inputs, *UNITS, self._actions * self._entries])
        super().__init__(network.to(self._device), fused=True)
        self._target = copy.deepcopy(self.network)
        self._units: Units | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimiser and units, for a file."""
        units = None if self._units is None else [th.as_tensor(part) for part in self._units]
        return {**super().state_dict(), "units": units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned, on whatever device that was."""
        super().load_state_dict(state)
        units = state["units"]
        self._units = None if units is None else Units(*(part.numpy() for part in units))

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "target": self._target}

    def fit(
        self,
        follower: Follower,
        upper_params: FloatArray,
        played: LearntEpisodes,
        most: int,
        rng: np.random.Generator,
    ) -> float:
        """Learn from the replay and from watched episodes until no more is explained.

        Episodes by turns go to the one network and the other one; what each of them has learnt is
        checked against the others. Returns the mean squared error of the last updates, in units of
        the networks. There are at most `most` updates.
        """
        data, halves = self._gathered(follower, upper_params, played, rng)
        features = np.zeros((*played.alive.shape, self._entries))
        ends = played.terminated[played.alive]
        seen = *played.as_batch, played.next_observations[played.alive]
        found = self._cumulants(follower, upper_params, *seen, ends, played.terms_of_batch, rng)
        features[played.alive] = found
        sums, steps = watched_sums(played, features, self._game.gamma)
        stop, loss = Plateau(PATIENCE), 0.0
        for begin in range(0, most, CHECKED):
            follower.tell(f"fitting critics, {begin} of {most}")
            updates, loss = min(CHECKED, most - begin), 0.0
            if not (begin and self._discrete):  # continuous actions are drawn anew
                following, policy = self._following(follower, data.next_observations, rng)
            for _ in range(updates):
                drawn = np.stack([half[rng.integers(len(half), size=BATCH)] for half in halves])
                loss += self._update(data, following, policy, th.as_tensor(drawn)) / updates
            self.explained = explained_variance(self._predicted(played, steps), sums)
            if stop.reached(self.explained):
                break
        return loss

    def scores(
        self, follower: Follower, observations: Batch, actions: Batch, rng: np.random.Generator
    ) -> Scores:
        """Return the scores of actions taken in some states."""
        count, entries = len(observations), self._entries
        each, metric = np.zeros((HALVES, count, entries)), np.zeros((entries, entries))
        for at in blocks(count, BLOCK):
            if self._discrete:
                policy = follower.probabilities(observations[at])
                psi = self._evaluated(observations[at])
                table = psi - np.einsum("ba,mbad->mbd", policy, psi)[:, :, None]
                taken = actions[at].reshape(-1).astype(np.int64)
                each[:, at] = table[:, np.arange(len(taken)), taken]
                mean = table.mean(axis=0)
                metric += np.einsum("ba,bad,bae->de", policy, mean, mean)
            else:
                others = np.repeat(observations[at], DRAWS, axis=0)
                psi = self._evaluated(others, follower.draw(others, rng))
                expected = psi.reshape(HALVES, -1, DRAWS, entries).mean(axis=2)
                each[:, at] = self._evaluated(observations[at], actions[at])[:, :, 0] - expected
                mean = each[:, at].mean(axis=0)
                # A mean of few draws has a variance of its own.
                metric += mean.T @ mean / (1.0 + 1.0 / DRAWS)
        temperature = self._game.temperature
        return Scores(each / temperature, metric / (count * temperature**2))

    # Learning ------------------------------------------------------------------------------------

    def _gathered(
        self,
        follower: Follower,
        upper_params: FloatArray,
        played: LearntEpisodes,
        rng: np.random.Generator,
    ) -> tuple[Gathered, list[NDArray[np.int64]]]:
        """Return transitions of the replay and of episodes, and the halves of them, `[B]` each."""
        game, buffer = self._game, follower.model.replay_buffer
        assert buffer is not None
        most = min(TRANSITIONS, NUMBERS // flatdim(game.observation_space))
        stored = buffer.latest(most, rng)
        episodes = np.nonzero(played.alive)[1]
        seen, taken = played.as_batch
        observations = np.concatenate([stored.observations, seen])
        actions = np.concatenate([stored.actions, taken.reshape(-1, *stored.actions.shape[1:])])
        following = played.next_observations[played.alive]
        ends = played.terminated[played.alive]
        terms = None
        if stored.terms is not None and played.terms_of_batch is not None:
            terms = np.concatenate([stored.terms, played.terms_of_batch])
        after = np.concatenate([stored.next_observations, following])
        over = np.concatenate([stored.dones, ends])
        seen_all = observations, actions, after, over
        features = self._cumulants(follower, upper_params, *seen_all, terms, rng)
        if self._units is None:
            self._units = self._measured(stored.observations, features)
        data = Gathered(
            inputs=self._inputs(observations, actions),
            taken=self._tensor(actions.reshape(-1), th.int64) if self._discrete else None,
            features=self._tensor(features / self._units.outputs),
            later=self._tensor(game.gamma * (1.0 - over)),
            next_observations=after,
        )
        owners = np.concatenate([rng.permutation(len(stored.rewards)), episodes]) % HALVES
        halves = [np.flatnonzero(owners == half) for half in range(HALVES)]
        return data, [half if len(half) else np.arange(len(owners)) for half in halves]

    def _cumulants(
        self,
        follower: Follower,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        following: Batch,
        ends: Batch,
        terms: FloatArray | None,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Return what psi sums over transitions, `[B, D]`: dr_x/dx, and what x does to them."""
        game, said = self._game, as_argument(terms)
        found = game.reward_jacobian(upper_params, observations, actions, **said)
        if not game.moves_dynamics:
            return found
        scores = game.transition_score(upper_params, observations, actions, following)
        seen = observations, actions, following, ends
        return found + follower.surprises(upper_params, *seen, rng, terms)[:, None] * scores

    def _measured(self, observations: Batch, features: FloatArray) -> Units:
        """Return units of inputs and outputs."""
        mean, deviation = np.zeros(1), np.ones(1)
        if not isinstance(self._game.observation_space, spaces.Discrete):
            numbers = observations.reshape(len(observations), -1).astype(np.float64)
            mean, deviation = numbers.mean(axis=0), numbers.std(axis=0)
            deviation = np.where(deviation > 1e-6, deviation, 1.0)
        size = np.sqrt(np.square(features).mean(axis=0))
        horizon = 1.0 / (1.0 - self._game.gamma)
        return Units(mean, deviation, np.where(size > 0.0, size, 1.0) * horizon)

    def _following(
        self, follower: Follower, seen: Batch, rng: np.random.Generator
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """Return inputs of what came next `[B, n]`, and the policy there if it is discrete."""
        if self._discrete:
            return self._inputs(seen), self._tensor(follower.probabilities(seen))
        return self._inputs(seen, follower.draw(seen, rng)), None

    def _update(
        self, data: Gathered, following: th.Tensor, policy: th.Tensor | None, drawn: th.Tensor
    ) -> float:
        """Take a gradient step of both networks, each on its own part of a batch `[2, B]`."""
        with th.no_grad():
            later = self._target(following[drawn])
            if policy is not None:
                later = th.einsum("mba,mbad->mbd", policy[drawn], self._by_action(later))
            target = data.features[drawn] + data.later[drawn][:, :, None] * later
        psi = self._by_action(self.network(data.inputs[drawn]))
        if data.taken is None:
            psi = psi.squeeze(2)
        else:
            taken = data.taken[drawn][:, :, None, None].expand(-1, -1, 1, self._entries)
            psi = psi.gather(2, taken).squeeze(2)
        loss = self._descend(psi, target)
        with th.no_grad():
            for old, new in zip(self._target.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, POLYAK)
        return loss

    def _by_action(self, outputs: th.Tensor) -> th.Tensor:
        return outputs.reshape(*outputs.shape[:2], self._actions, self._entries)

    def _predicted(self, played: LearntEpisodes, steps: NDArray[np.int64]) -> FloatArray:
        """Return psi of some steps of episodes, by the network that has not learnt from them."""
        seen, taken = (values[steps] for values in played.as_batch)
        episodes = np.nonzero(played.alive)[1][steps]
        action = taken.reshape(-1).astype(np.int64) if self._discrete else 0
        psi = self._evaluated(seen, taken)
        return psi[1 - episodes % HALVES, np.arange(len(steps)), action]

    # Networks ------------------------------------------------------------------------------------

    def _evaluated(self, observations: Batch, actions: Batch | None = None) -> FloatArray:
        """Return psi of all discrete actions, or of the actions given, `[2, B, A or 1, D]`."""
        assert self._units is not None
        with th.no_grad():
            read = self._inputs(observations, actions).expand(HALVES, -1, -1)
            found = self._by_action(self.network(read)).cpu().double().numpy()
        return found * self._units.outputs

    def _inputs(self, observations: Batch, actions: Batch | None = None) -> th.Tensor:
        """Return what the networks read, `[B, n]`; discrete actions are not read."""
        assert self._units is not None
        like = next(self.network.parameters())
        numbers = as_inputs(observations, self._game.observation_space, like).flatten(1)
        mean, deviation = (self._tensor(part) for part in self._units[:2])
        read = [((numbers - mean) / deviation).clamp(-FARTHEST, FARTHEST)]
        if actions is not None and not self._discrete:
            space = self._game.lower_space
            low, high = (self._tensor(bound.reshape(-1)) for bound in (space.low, space.high))
            read.append(2.0 * (as_inputs(actions, space, like) - low) / (high - low) - 1.0)
        return th.cat(read, dim=1)

    def _tensor(self, values: NDArray[Any], dtype: th.dtype = th.float32) -> th.Tensor:
        return th.as_tensor(values, dtype=dtype, device=self._device)


class Units(NamedTuple):
    """Units of the networks: mean and deviation of inputs `[n]`, and the size of outputs `[D]`."""

    mean: FloatArray
    deviation: FloatArray
    outputs: FloatArray


class Gathered(NamedTuple):
    """Transitions as the networks read them.

    Attributes:
        inputs: `[B, n]`.
        taken: Discrete actions, `[B]`.
        features: dr_x/dx in units of the networks, `[B, D]`.
        later: What comes next counts so much, `[B]`.
        next_observations: `[B, ...]`.
    """

    inputs: th.Tensor
    taken: th.Tensor | None
    features: th.Tensor
    later: th.Tensor
    next_observations: Batch


class Networks(th.nn.Module):
    """Perceptrons of the same shape side by side, `[2, B, n]` to `[2, B, outputs]`."""

    def __init__(self, sizes: list[int]) -> None:
        """Draw the weights, as `torch.nn.Linear` does."""
        super().__init__()
        self.weights, self.biases = th.nn.ParameterList(), th.nn.ParameterList()
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            width = before**-0.5
            self.weights.append(th.empty(HALVES, before, after).uniform_(-width, width))
            self.biases.append(th.empty(HALVES, 1, after).uniform_(-width, width))

    def forward(self, read: th.Tensor) -> th.Tensor:
        """Return the outputs."""
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            read = th.baddbmm(bias, read, weight)
            if layer < last:
                read = read.relu()
        return read
