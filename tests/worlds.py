"""Random and structured problems, the odd ones among them: units, fillers, certainty, periods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP

from .referee import Truth

KINDS = (
    "dense",
    "sparse",
    "periodic",
    "absorbing",
    "near-deterministic",
    "sub-stochastic",
    "constant",
    "blocks",
    "permutations",
    "reducible",
)
SIZES = (2, 3, 5, 10, 20, 50, 100)
DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0 - 1e-6)
UNITS = (1e-300, 1e-100, 1e-8, 1.0, 1e3, 1e12)


class Answers(NamedTuple):
    """What a referee says of both players, in extended precision.

    Attributes:
        value: The follower's soft value `[S]`.
        policy: Its policy `[S, A]`.
        objective: The leader's discounted return.
        gradient: Its derivative with respect to the follower's reward `[S, A]`.
    """

    value: Any
    policy: Any
    objective: Any
    gradient: Any


@dataclass(frozen=True, eq=False)
class World:
    """A problem of both players.

    Attributes:
        kind: One of `KINDS`.
        mdp: The follower's.
        upper_reward: The leader's reward `[S, A]`.
        start: Distribution of the first state `[S]`.
        truth: What is true of it.
    """

    kind: str
    mdp: TabularMDP
    upper_reward: FloatArray
    start: FloatArray
    truth: Truth

    @cached_property
    def answers(self) -> Answers:
        """What is true, to extended precision."""
        objective, slope = self.truth.discounted_return(self.upper_reward, self.start)
        gradient = self.truth.response(slope)
        return Answers(self.truth.value, self.truth.policy, objective, gradient)

    @cached_property
    def exact_answers(self) -> Answers:
        """What is true, to hundreds of bits; for a few states."""
        from .exact import Exact

        truth = self.truth
        players = truth.gamma, truth.temperature, truth.mask, self.upper_reward, self.start
        exact = Exact(truth.transition, truth.reward, *players)
        return Answers(exact.value, exact.policy, exact.objective, exact.gradient)


def world(seed: int, sizes: tuple[int, ...] = SIZES) -> World:
    """Return the problem of a seed."""
    rng, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
    size, actions = int(rng.choice(sizes)), int(rng.choice([2, 3, 5]))
    weights = _weights(kind, size, actions, rng)
    transition = weights / weights.sum(axis=2, keepdims=True)
    if kind == "sub-stochastic":
        transition *= rng.uniform(0.5, 1.0, (size, actions, 1))
    unit = float(rng.choice(UNITS)) if rng.random() < 0.3 else 1.0
    reward = unit * rng.normal(size=(size, actions))
    if rng.random() < 0.2:  # what nobody takes, as neighbours' packages write it
        reward[rng.integers(size), 0] = -unit * 10.0 ** rng.integers(3, 21)
    mask = None
    if rng.random() < 0.2:
        mask = rng.random((size, actions)) < 0.7
        mask[:, -1] = True
        reward[~mask] = rng.choice([0.0, -1e20 * unit, 1e20 * unit, -np.inf])
    exponent = rng.uniform(-8.0, 3.0) if rng.random() < 0.3 else rng.uniform(-2.0, 0.0)
    gamma, tau = float(rng.choice(DISCOUNTS)), float(unit * 10.0**exponent)
    mdp = TabularMDP(Kernel.from_dense(transition), reward, gamma, tau, mask)
    upper_reward, start = rng.normal(size=(size, actions)), rng.dirichlet(np.ones(size))
    truth = Truth(mdp.kernel.to_dense(), reward, gamma, tau, mask)
    return World(kind, mdp, upper_reward, start, truth)


def _weights(kind: str, size: int, actions: int, rng: np.random.Generator) -> Any:
    """Return transition weights `[S, A, S]` of a kind; each row has some."""
    shape, states = (size, actions, size), np.arange(size)
    if kind in ("dense", "sub-stochastic"):
        return rng.random(shape)
    if kind == "constant":
        return np.ones(shape)
    if kind == "sparse":
        weights = rng.random(shape)
        return weights * (weights.argsort(axis=2).argsort(axis=2) >= size - 3)
    if kind == "reducible":
        return rng.random(shape) * np.triu(np.ones((size, size)))[:, None, :]
    weights = np.zeros(shape)
    if kind == "absorbing":
        weights = rng.random(shape) * (rng.random(shape) < 0.3)
        weights[..., 0] += 0.1
        weights[0] = np.eye(1, size)
    elif kind == "blocks":
        half = max(1, size // 2)
        weights[:half, :, :half] = rng.random((half, actions, half))
        weights[half:, :, half:] = rng.random((size - half, actions, size - half))
        weights[..., 0] += 1e-4
    else:
        for action in range(actions):
            after = (states + 1 + 2 * (action % 2)) % size
            if kind == "near-deterministic":
                weights[:, action] = 1e-9 / size
                after = rng.integers(size, size=size)
            elif kind == "permutations":
                weights[:, action, 0] = 0.01
                after = rng.permutation(size)
            weights[states, action, after] += 1.0
    return weights
