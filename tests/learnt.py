"""What tests of followers who learn share: next to no training, exact critics, statistics."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv

# A learner with next to no training: it is not the learning that is tested.
TINY_LEARNER: dict[str, Any] = {
    "learning_starts": 8,
    "batch_size": 8,
    "buffer_size": 200,
    "policy_kwargs": {"net_arch": [8]},
    "device": "cpu",
}


class ExactCritic:
    """The exact leader's advantage of a table's soft-optimal policy at x."""

    def __init__(
        self,
        game: TabularBilevelEnv,
        x: FloatArray | None = None,
        upper_gamma: float | None = None,
        times: float = 1.0,
        more: float = 0.0,
    ) -> None:
        gamma = game.gamma if upper_gamma is None else upper_gamma
        x = game.initial_upper_params if x is None else x
        kernel, self.policy = game.model.kernel(x), game.evaluate(x).policy
        upper = times * game.model.upper_reward(x) + more
        dense = kernel.policy_matrix(self.policy).toarray()
        system = np.eye(len(dense)) - gamma * dense
        value = np.linalg.solve(system, (self.policy * upper).sum(axis=1))
        q_values = upper + gamma * kernel.to_dense() @ value
        self.table = q_values - (self.policy * q_values).sum(axis=1, keepdims=True)

    def fit(self, *_: Any) -> float:
        return 0.0

    def advantages(
        self, seen: NDArray[Any], taken: NDArray[Any], *_: Any
    ) -> tuple[FloatArray, FloatArray]:
        every = self.table[seen.astype(int)]
        return every[np.arange(len(seen)), taken.astype(int)], every

    def probabilities(self, seen: Any) -> FloatArray:
        """Return the soft-optimal policy in some states, as a follower does."""
        return self.policy[np.asarray(seen).astype(int)]

    def put_into(self, method: Any) -> Any:
        """Make this the method's critic, if it has one that stays, and its follower optimal."""
        method.follower.probabilities = self.probabilities
        if method.critic is not None:
            method.critic = self
        return method


def assert_mean(samples: Sequence[Any], exact: Any, share: float = 0.12) -> None:
    """Assert that the mean of samples is what it should be, as far as statistics can tell."""
    stack = np.stack(samples)
    error = stack.mean(axis=0) - exact
    deviation = stack.std(axis=0, ddof=1) / np.sqrt(len(stack))
    assert np.all(np.abs(error) <= 4.0 * deviation + 1e-12), (error, deviation)
    # Which says something only if the deviation is small.
    assert np.linalg.norm(deviation) < share * np.linalg.norm(exact)


def walk(env: HyperGradient, count: int) -> list[Any]:
    """Take some steps of the leader near the initial x."""
    x, box = env.game.initial_upper_params, env.game.upper_space
    return [env.step(np.clip(x + 0.05 * k, box.low, box.high)) for k in range(count)]


def members_of(path: Path) -> dict[str, bytes]:
    """Return what is in an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """Write an archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
