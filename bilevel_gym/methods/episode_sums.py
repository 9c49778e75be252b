"""Sums over episodes that sampled methods share: what was seen, batches, visits, traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.linear import DiscountedSystem
from ..core.mdp import FloatArray, Kernel, action_major
from ..core.soft import PolicyAnswer
from ..core.state import Remembers
from ..episodes.sampler import Episodes, Plays, TransitionCounts
from ..model.objectives import Outcome
from ..model.tabular import TabularModel

__all__ = [
    "Batch",
    "Critic",
    "Seen",
    "advantages",
    "carried",
    "carried_from",
    "followed_visits",
    "on_pairs",
    "on_states",
    "renormalised",
    "spread",
]


@dataclass(frozen=True, eq=False)
class Batch:
    """What a method has seen under one x, for one of the leader's returns.

    Attributes:
        upper_params: x.
        blocks: The episodes.
        policy: The follower's policy `[S, A]`.
        sampler: Where more episodes come from.
        horizon: Steps after which episodes are cut.
        gamma: The follower's discount.
        temperature: The follower's temperature.
        upper_gamma: The leader's discount.
        upper_horizon: Steps that the leader counts, None for all.
    """

    upper_params: FloatArray
    blocks: Sequence[Episodes]
    policy: FloatArray
    sampler: Plays
    horizon: int
    gamma: float
    temperature: float
    upper_gamma: float
    upper_horizon: int | None

    @property
    def num_episodes(self) -> int:
        """N, over all blocks."""
        return sum(block.num_episodes for block in self.blocks)

    def discounts(self, steps: int) -> FloatArray:
        """Return the weights that the leader gives the first steps, `[steps]`."""
        weights = np.power(self.upper_gamma, np.arange(steps), dtype=np.float64)
        if self.upper_horizon is not None:
            weights[self.upper_horizon :] = 0.0
        return weights

    def visits(self) -> FloatArray:
        """Return mean visits of pairs, weighted as the leader does, `[S, A]`."""
        total = np.zeros(self.policy.shape)
        for block in self.blocks:
            weights = self.discounts(len(block.upper_rewards))[:, None]
            along = np.broadcast_to(weights, block.upper_rewards.shape)
            total += on_pairs(block, along)
        return total / self.num_episodes

    def returns(self) -> list[FloatArray]:
        """Return the leader's returns in each block, `[N]`."""
        return [
            self.discounts(len(block.upper_rewards)) @ block.upper_rewards for block in self.blocks
        ]


class Seen(Remembers):
    """What episodes have told of a game: transitions, the leader's rewards, first states.

    All that was added counts, whatever the policy was. The leader's reward of a pair, which x
    may move, is the one seen last.

    Attributes:
        counts: The transitions seen.
        upper_reward: The leader's rewards seen last, `[S, A]`, zero where none was.
        starts: How often an episode began in each state, `[S]`.
    """

    remembered = ("counts", "upper_reward", "starts")

    def __init__(self, num_states: int, num_actions: int) -> None:
        """Start with nothing seen."""
        self.counts = TransitionCounts(num_states, num_actions)
        self.upper_reward: FloatArray = np.zeros((num_states, num_actions))
        self.starts: FloatArray = np.zeros(num_states)

    def add(self, blocks: Sequence[Episodes]) -> None:
        """Take note of episodes."""
        for block in blocks:
            self.counts.add(block)
            seen = block.states[block.alive], block.actions[block.alive]
            self.upper_reward[seen] = block.upper_rewards[block.alive]
            self.starts += np.bincount(block.states[0], minlength=len(self.starts))

    def outcome(self, model: TabularModel, upper_params: FloatArray, policy: FloatArray) -> Outcome:
        """Return what an objective evaluates of a policy `[S, A]` in the game that was seen.

        Kernel and start are the frequencies seen; where nothing was, the episode ends and the
        leader's reward is zero. Of the model, the follower's reward, the discount and the mask are
        used.
        """
        mdp = model.mdp_with(self.counts.kernel(), upper_params)
        answer = PolicyAnswer(mdp=mdp, policy=policy)
        start = self.starts / max(1.0, self.starts.sum())
        return Outcome(answer, upper_params, self.upper_reward, start)


class Critic(Seen):
    """The leader's advantage A(s, a) = Q(s, a) - sum_b pi(b|s) Q(s, b), from transitions seen.

    The policy enters with its known probabilities. Actions that were not seen in a state have
    advantage zero.
    """

    def advantages(self, batch: Batch, steps: int) -> Sequence[FloatArray]:
        """Return the advantages `[S, A]` at each of the first steps (one for all, if endless)."""
        seen = self.counts.visits > 0.0
        policy = renormalised(batch.policy, seen)
        return advantages(self.counts.kernel(), self.upper_reward, policy, seen, batch, steps)


def advantages(
    kernel: Kernel,
    reward: FloatArray,
    policy: FloatArray,
    known: NDArray[np.bool_],
    batch: Batch,
    steps: int,
) -> Sequence[FloatArray]:
    """Return the leader's advantages in a model `[S, A]`, at each of the steps or once for all.

    The leader's reward, the policy and what is known are `[S, A]`; advantages are zero where
    nothing is. The batch says how the leader discounts, and until when.
    """
    gamma, horizon = batch.upper_gamma, batch.upper_horizon
    expected = (policy * reward).sum(axis=1)

    def advantage(value: FloatArray) -> FloatArray:
        q_value = reward + gamma * kernel.expect(value)
        return np.where(known, q_value - (policy * q_value).sum(axis=1, keepdims=True), 0.0)

    if horizon is None:
        value, _ = DiscountedSystem(kernel, policy, gamma).solve(expected)
        return [advantage(value)]
    value, tables = np.zeros(len(expected)), []
    for _ in range(horizon):
        tables.append(advantage(value))
        value = expected + gamma * (policy * kernel.expect(value)).sum(axis=1)
    return [*tables[::-1], *[np.zeros_like(reward)] * max(0, steps - horizon)][:steps]


def renormalised(policy: FloatArray, seen: NDArray[np.bool_]) -> FloatArray:
    """Return a policy among the actions that were seen, `[S, A]`; zero where none was."""
    known = np.where(seen, policy, 0.0)
    mass = known.sum(axis=1, keepdims=True)
    return np.divide(known, mass, out=np.zeros_like(known), where=mass > 0.0)


def carried(injections: FloatArray, gamma: float, truncation: int | None = None) -> FloatArray:
    """Return gamma e_{t-1}, what earlier injections c_t amount to at each step, `[T, N]` both.

    Truncated to K, an injection counts at its own step and the K - 1 steps after it.
    """
    carry = np.zeros_like(injections)
    for t in range(1, len(injections)):
        carry[t] = gamma * (carry[t - 1] + injections[t - 1])
    if truncation is not None and truncation < len(injections):
        late = carry[:-truncation] + injections[:-truncation]
        cut = carry.copy()
        cut[truncation:] -= gamma**truncation * late
        return cut
    return carry


def carried_from(
    sampler: Plays,
    pairs: tuple[NDArray[Any], NDArray[Any]],
    injections: FloatArray,
    gamma: float,
    horizon: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Episodes, FloatArray]]:
    """Play an episode from each of some pairs; yield blocks with what their injections amount to.

    The pairs are states and actions, `[M]` each. Each of them injects what it has in `injections`
    `[S, A]`; each block has sums `[T, N]`.
    """
    for block in sampler.episodes_from(*pairs, horizon, rng):
        injected = np.zeros(block.upper_rewards.shape)
        injected[0] = action_major(injections).take(block.pairs[0])
        yield block, carried(injected, gamma)


def on_pairs(block: Episodes, weights: FloatArray) -> FloatArray:
    """Return weights of steps `[T, N]`, summed for each state and action, `[S, A]`."""
    size = block.num_states * block.num_actions
    sums = np.bincount(block.pairs.ravel(), weights.ravel(), minlength=size + 1)[:-1]
    return sums.astype(np.float64, copy=False).reshape(-1, block.num_states).T


def on_states(block: Episodes, weights: FloatArray) -> FloatArray:
    """Return weights of steps `[T, N]`, summed for each state, `[S]`."""
    alive = block.alive
    sums = np.bincount(block.states[alive], weights[alive], minlength=block.num_states)
    return sums.astype(np.float64, copy=False)


def followed_visits(blocks: Sequence[Episodes], batch: Batch) -> FloatArray:
    """Return how often each pair was visited and followed for long enough, `[S, A]`.

    Visits in the first half of the horizon are; what is seen to follow later ones is cut short.
    """
    total = np.zeros(batch.policy.shape)
    for block in blocks:
        counted = block.alive.astype(np.float64)
        counted[_half(batch) :] = 0.0
        total += on_pairs(block, counted)
    return total


def spread(
    blocks: Sequence[Episodes],
    injected: FloatArray,
    visits: FloatArray,
    batch: Batch,
    truncation: int | None = None,
) -> FloatArray:
    """Return what injections `[S, A]` amount to on the pairs that were seen to follow them.

    What follows a pair is averaged over its `visits`, the `followed_visits` of the episodes; pairs
    without any spread nothing. For `truncation` see `carried`.
    """
    per_visit = np.divide(injected, visits, out=np.zeros_like(visits), where=visits > 0.0)
    total = np.zeros(injected.shape)
    for block in blocks:
        injections = block.along(per_visit)
        injections[_half(batch) :] = 0.0
        total += on_pairs(block, carried(injections, batch.gamma, truncation))
    return total


def _half(batch: Batch) -> int:
    return (batch.horizon + 1) // 2
