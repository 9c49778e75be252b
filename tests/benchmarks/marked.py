"""Files that carry a number in every part: what is read tells which write it is of.

`write` gives a path the next number and returns it; `read` returns the number of a file, or raises
a `Damaged` if it is not whole, or of two writes at once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np

from bilevel_gym.core.files import replacing, write_whole

# Numbers of a second writer begin here, so that files tell the two apart.
APART = 1_000_000


class Damaged(Exception):
    """A file that is not what one write has made."""


@dataclass
class Marked:
    """A way to write numbered files, and to read them.

    Attributes:
        suffix: Of its files.
        write: Writes the next number to a path, and returns it.
        read: Returns the number of a file; whatever it raises is the fault of the file.
    """

    suffix: str
    write: Callable[[Path, int], int]
    read: Callable[[Path], int]

    def number(self, path: Path) -> int:
        """Return the number of a file.

        Raises:
            Damaged: If it cannot be read, or its parts differ.
        """
        try:
            return self.read(path)
        except Exception as error:
            raise Damaged(f"{path.name}: {type(error).__name__}: {error}") from error


def same(parts: Iterable[float]) -> int:
    """Return the number that all parts of a file carry."""
    (number,) = {float(part) for part in parts}
    return int(number)


def text() -> Marked:
    """JSON by `replacing`, of lengths that differ."""

    def write(path: Path, number: int) -> int:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps([number] * (1000 + number % 7 * 3000)))
        return number

    return Marked(".json", write, lambda path: same(json.loads(path.read_text())))


def arrays() -> Marked:
    """Arrays by `write_whole`."""

    def write(path: Path, number: int) -> int:
        write_whole(
            path, ".npz", lambda target: np.savez(target, a=np.full(9999, number), b=[number])
        )
        return number

    def read(path: Path) -> int:
        with np.load(path) as stored:
            return same([*stored["a"], *stored["b"]])

    return Marked(".npz", write, read)


def queue() -> Marked:
    """A queue of preferences."""
    from bilevel_gym.episodes.fragments import Pairs
    from bilevel_gym.learnt.answers import PreferenceQueue

    def write(path: Path, number: int) -> int:
        told, mark = PreferenceQueue(64), np.full((64, 2, 9), float(number))
        told.add(Pairs(np.stack([mark, mark], axis=3), mark[..., None], mark), np.ones(64))
        told.save(path)
        return number

    def read(path: Path) -> int:
        found = PreferenceQueue.load(path)
        assert len(found) == 64 and found.pairs is not None
        pairs = found.pairs
        return same(np.concatenate([pairs.observations, pairs.actions, pairs.rewards], axis=None))

    return Marked(".npz", write, read)


def ascent() -> Marked:
    """A leader of Stable-Baselines3."""
    from bilevel_gym.sb3 import HyperGradientAscent

    env = gym.make("BilevelGridWorld-v0")
    model = HyperGradientAscent("UpperParamsPolicy", env, seed=0).learn(3)

    def write(path: Path, number: int) -> int:
        model.num_timesteps = number
        cast(Any, model.policy).x.data.fill_(number)
        model.save(path)
        return number

    def read(path: Path) -> int:
        found = HyperGradientAscent.load(path, env)
        assert found.optimum.evaluations == 3
        return same([found.num_timesteps, *cast(Any, found.policy).x.tolist()])

    return Marked(".zip", write, read)


def method() -> Marked:
    """A method whose follower learns between two saves; the number counts the follower's steps."""
    from bilevel_gym import HyperGradient

    def seat() -> Any:
        game = gym.make("BilevelPendulum-v0", episode_steps=16)
        made: Any = HyperGradient(game, episodes=1, inner_steps=8, critic_updates=1)
        made.reset(seed=0)
        return made

    saving, loading = seat(), seat()
    x = saving.game.initial_upper_params

    def steps(of: Any) -> int:
        return int(of.method.follower.model.num_timesteps)

    def write(path: Path, number: int) -> int:
        if steps(saving) < number - 1 and path.exists():
            saving.method.load(path)  # a process of before has come farther
        saving.reset(options={"upper_params": x, "keep_learnt": True})
        saving.method.save(path)
        return steps(saving)

    def read(path: Path) -> int:
        loading.method.load(path)
        found = steps(loading)
        loading.reset(options={"upper_params": x, "keep_learnt": True})
        assert steps(loading) > found  # it goes on
        return found

    return Marked(".zip", write, read)


MARKED = {
    "replacing": text,
    "write_whole": arrays,
    "PreferenceQueue.save": queue,
    "HyperGradientAscent.save": ascent,
    "method.save": method,
}


def write_for_ever(marked: Marked, path: Path, tell: Callable[[int], None], first: int = 1) -> None:
    """Write a path again and again, and tell each number once its file is there."""
    for number in itertools.count(first):
        tell(marked.write(path, number))
