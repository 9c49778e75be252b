"""Discounted sums along watched episodes: what they are, what is expected, and explained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, LearntEpisodes
from ..rewards.tensors import as_inputs

__all__ = [
    "Plateau",
    "explained_variance",
    "generalised_advantages",
    "random_features",
    "returns_to_go",
    "standardised",
    "watched_sums",
]

# Groups of episodes, each of which is predicted by what the others teach.
FOLDS = 4

# Strengths of the ridge, relative to the number of steps.
RIDGES = (1e-4, 1e-2, 1.0)

# Random features of a regression: at least and at most, and steps for each of them.
FEATURES, STEPS_PER_FEATURE = (10, 100), 20

# More inputs than that are first projected to as many, at random.
MOST_INPUTS = 40

# Of an episode that was cut, the sums of the last steps miss what would have followed: so many,
# in units of the horizon 1 / (1 - gamma), are left out where something is checked against them.
UNFINISHED = 3.0

# The least gain in the share that is explained that counts as one.
GAIN = 0.01

# Standardised inputs are kept within so many deviations.
FARTHEST = 10.0


def returns_to_go(rewards: FloatArray, gamma: float) -> FloatArray:
    """Return the discounted sum of rewards from each step on, `[T, N, ...]`, of the same shape."""
    returns = rewards.copy()
    for t in range(len(rewards) - 2, -1, -1):
        returns[t] += gamma * returns[t + 1]
    return returns


def watched_sums(
    played: LearntEpisodes, along: FloatArray, gamma: float
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return discounted sums of values `[T, N, ...]` from K steps on, `[K, ...]`, and the steps.

    The steps, `[K]`, are those of episodes whose sums are whole: without the last ones of episodes
    that were cut, unless that would leave none of the episode.
    """
    lengths, cut = played.alive.sum(axis=0), ~played.terminated.any(axis=0)
    missing = np.where(cut, UNFINISHED / max(1.0 - gamma, UNFINISHED / len(along)), 0.0)
    whole = np.arange(len(along))[:, None] < np.maximum(lengths - missing, 1.0)
    steps = np.flatnonzero(whole[played.alive])
    return returns_to_go(along, gamma)[played.alive][steps], steps


def explained_variance(found: FloatArray, sums: FloatArray) -> float | None:
    """Return the share of the variance of sums that is explained, the mean over columns.

    That of each column is at least -1. None where nothing varies.

    Args:
        found: What was predicted, `[K]` or `[K, D]`.
        sums: What it was, of the same shape.
    """
    variance = np.atleast_1d(sums.var(axis=0))
    varies = variance > 1e-10 * np.atleast_1d(np.square(sums).mean(axis=0))
    if not varies.any():
        return None
    left = np.atleast_1d((sums - found).var(axis=0))[varies] / variance[varies]
    return float(np.maximum(1.0 - left, -1.0).mean())


class Plateau:
    """Whether what is explained has stopped to rise."""

    def __init__(self, patience: int) -> None:
        """Begin with nothing explained; so many checks without a gain are the end."""
        self._best, self._without, self._patience = -math.inf, 0, patience

    def reached(self, explained: float | None) -> bool:
        """Take note of a check, and return whether several have brought no more."""
        if explained is not None and explained > self._best + GAIN:
            self._best, self._without = explained, 0
        else:
            self._without += 1
        return self._without >= self._patience


def standardised(observations: Batch, space: spaces.Space[Any]) -> FloatArray:
    """Return observations as numbers of mean 0 and deviation 1 over the batch, `[B, n]`."""
    numbers = as_inputs(observations, space, th.zeros(())).flatten(1).double().numpy()
    deviation = np.maximum(numbers.std(axis=0), 1e-8)
    return np.clip((numbers - numbers.mean(axis=0)) / deviation, -FARTHEST, FARTHEST)


def random_features(inputs: FloatArray, count: int) -> FloatArray:
    """Return so many fixed random features of inputs `[B, n]`, and a constant: `[B, count + 1]`."""
    fixed = np.random.default_rng(0)
    directions = fixed.standard_normal((inputs.shape[1], count))
    found = np.tanh(inputs @ directions + fixed.standard_normal(count))
    return np.concatenate([found, np.ones((len(inputs), 1))], axis=1)


def generalised_advantages(
    played: LearntEpisodes, space: spaces.Space[Any], gamma: float, decay: float
) -> FloatArray:
    """Return the leader's generalised advantages of the actions of episodes, `[T, N]`.

    The expected returns in them are of a regression that the episode itself is no part of.

    Args:
        played: The episodes.
        space: Space of their observations.
        gamma: The leader's discount.
        decay: lambda of the paper, in [0, 1].

    Source: Schulman, Moritz, Levine, Jordan, Abbeel, ICLR 2016, arXiv 1506.02438.
    """
    values = expected_returns(played, space, gamma)
    following = np.zeros_like(values)
    following[:-1] = values[1:]
    surprises = np.where(played.alive, played.upper_rewards + gamma * following - values, 0.0)
    return returns_to_go(surprises, gamma * decay)


def expected_returns(played: LearntEpisodes, space: spaces.Space[Any], gamma: float) -> FloatArray:
    """Return what the leader's returns are expected to be from each step on, `[T, N]`.

    Ridge regressions on random features of observations and time, of the strength that predicts
    best, or the mean where none does better; each fold of the episodes is predicted by the others.
    They are 0 after the end of an episode, and where there is no other one.
    """
    alive = played.alive
    steps, episodes = np.nonzero(alive)
    targets = returns_to_go(played.upper_rewards, gamma)[alive]
    inputs = standardised(played.as_batch[0], space)
    if inputs.shape[1] > MOST_INPUTS:
        directions = np.random.default_rng(0).standard_normal((inputs.shape[1], MOST_INPUTS))
        inputs = inputs @ directions / np.sqrt(inputs.shape[1])
    inputs = np.concatenate([inputs, 2.0 * steps[:, None] / len(alive)], axis=1)
    count = int(np.clip(len(targets) // STEPS_PER_FEATURE, *FEATURES))
    features = np.concatenate([random_features(0.7 * inputs, count), inputs], axis=1)
    candidates = np.zeros((len(RIDGES) + 1, len(targets)))
    for fold in range(FOLDS):
        chosen = episodes % FOLDS == fold
        if chosen.any() and not chosen.all():
            candidates[:, chosen] = _regressed(
                features[~chosen], targets[~chosen], features[chosen]
            )
    errors = np.square(candidates - targets).sum(axis=1)
    values = np.zeros(alive.shape)
    values[alive] = candidates[errors.argmin()]
    return values


def _regressed(features: FloatArray, targets: FloatArray, others: FloatArray) -> FloatArray:
    """Return predictions for other features by ridges of each strength, and the mean, `[R, B]`."""
    mean = targets.mean()
    gram, moments = features.T @ features, features.T @ (targets - mean)
    ridges = [len(targets) * strength * np.eye(len(gram)) for strength in RIDGES]
    found = [mean + others @ np.linalg.solve(gram + ridge, moments) for ridge in ridges]
    return np.stack([*found, np.full(len(others), mean)])
