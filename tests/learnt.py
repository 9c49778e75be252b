"""What tests of followers who learn share: next to no training, exact critics, statistics."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.model.protocols import LearntMethod

from .helpers import assert_identical

# A learner with next to no training: it is not the learning that is tested.
TINY_LEARNER: dict[str, Any] = {
    "learning_starts": 8,
    "batch_size": 8,
    "buffer_size": 200,
    "policy_kwargs": {"net_arch": [8]},
    "device": "cpu",
}

# What every method says of its estimate from several episodes.
JUDGED = {"objective_se", "hyper_gradient_se", "hyper_gradient_cosine", "cut_share", "trust"}


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

    explained = None

    @property
    def each(self) -> list[ExactCritic]:
        """Return the critics that learn apart: this one."""
        return [self]

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


def assert_goes_on_from_a_file(make: Callable[[], HyperGradient], folder: Path) -> None:
    """Assert that whoever loads a method goes on bit by bit as the one that saved it."""
    env, fresh = make(), make()
    saved, loaded = cast(LearntMethod, env.method), cast(LearntMethod, fresh.method)
    x, box = env.game.initial_upper_params, env.game.upper_space
    xs = [np.clip(x + 0.05 * k, box.low, box.high) for k in range(3)]
    env.reset(seed=4), env.step(xs[0])
    saved.save(folder / "half way")
    assert [path.name for path in folder.iterdir()] == ["half way.zip"]
    with zipfile.ZipFile(folder / "half way.zip") as archive:
        data = {"about.json", "state.json", "answered.txt", "critic.pt", "queue.npz"}
        assert {*archive.namelist()} - data <= {"learner.zip", "environment.json"}
    expected = [env.step(x) for x in xs[1:]]
    loaded.load(str(folder / "half way"))  # without a reset before
    begun = fresh.reset(options={"upper_params": xs[1], "keep_learnt": True})
    assert_identical(begun, (expected[0][0], expected[0][-1]))
    assert_identical([fresh.step(x) for x in xs[2:]], expected[1:])
    # The method that saved goes back there too, after it has gone elsewhere.
    saved.load(folder / "half way.zip")
    assert_identical([env.step(x) for x in xs[1:]], expected)


def assert_broken_files_change_nothing(make: Callable[[], HyperGradient], folder: Path) -> None:
    """Assert that archives with a part that is missing or damaged are refused."""
    env, twin, other = make(), make(), make()
    env.reset(seed=1), twin.reset(seed=1), other.reset(seed=2)
    method = cast(LearntMethod, env.method)
    cast(LearntMethod, other.method).save(folder / "whole")
    with zipfile.ZipFile(folder / "whole.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path = folder / "broken.zip"

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"broken.zip {message}"):
            method.load(path)

    code = pickle.dumps(Code(), protocol=2)
    for name in members:
        others = {key: value for key, value in members.items() if key != name}
        refused(zipped({**others, name: b"nothing"}), "cannot be read: it is damaged")
        if name != "environment.json":  # no other member is unpickled, nor runs anything
            refused(zipped({**others, name: code}), "cannot be read: it is damaged")
        if name in ("about.json", "state.json"):
            refused(zipped(others), "is no file of a method's `save`")
        elif name != "environment.json":  # without which a new episode begins
            refused(zipped(others), f"is incomplete: it has no {name}")
    # A bit that is wrong.
    bad, part = (folder / "whole.zip").read_bytes(), members["learner.zip"]
    at = bad.index(part) + len(part) // 2
    refused(bad[:at] + bytes([bad[at] ^ 1]) + bad[at + 1 :], "cannot be read: it is damaged")
    refused(b"no archive", "is no file of a method's `save`")
    with pytest.raises(FileNotFoundError):
        method.load(folder / "nothing")
    assert_identical(walk(env, 1), walk(twin, 1))


class Code:
    """What fails a test when it is unpickled."""

    def __reduce__(self) -> Any:
        """Return the call that unpickling makes."""
        return pytest.fail, ("a file that is read runs code",)


def zipped(members: dict[str, bytes]) -> bytes:
    """Return an archive."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return memory.getvalue()
