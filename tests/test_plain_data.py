"""Values and environments as text without code, and what has no such text."""

from __future__ import annotations

import io
from collections import OrderedDict, deque
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.core.plain import Codec, NotPlain, dumps, loads, name_of, vocabulary
from bilevel_gym.learnt.running import restored, snapshot

from .helpers import assert_identical
from .strangers import Planted, table

ENVIRONMENTS = (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCarContinuous-v0",
    "FrozenLake-v1",
    "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3",
    "CliffWalking-v1" if "CliffWalking-v1" in gym.registry else "CliffWalking-v0",
    "Blackjack-v1",
)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_an_environment_goes_on_from_text(env_id: str) -> None:
    def make() -> Any:
        return gym.wrappers.RecordEpisodeStatistics(gym.make(env_id), buffer_length=3)

    env = make()
    env.reset(seed=3), env.action_space.seed(1)
    for _ in range(30):
        if any(env.step(env.action_space.sample())[2:4]):
            env.reset()
    text = snapshot(env, make)
    assert text is not None
    other = restored(text, make, trust=False)
    assert other is not None
    for _ in range(100):
        action = env.action_space.sample()
        assert other.action_space.sample() == action
        # The time that an episode took is another one.
        one, two = (each.step(action)[:4] for each in (env, other))
        assert_identical(one, two)
        if any(one[2:4]):
            assert_identical(env.reset(), other.reset())


class Cells(gym.Env[int, int]):
    """A game whose layout is made of objects that refer to each other, anew in each episode."""

    observation_space: Any = gym.spaces.Discrete(10)
    action_space: Any = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.cells = [Cell(int(self.np_random.integers(10))) for _ in range(5)]
        for cell, following in zip(self.cells, [*self.cells[1:], self.cells[0]], strict=True):
            cell.following = following
        self.here = self.cells[0]
        return self.here.number, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.here = self.here.following
        self.here.number = (self.here.number + action) % 10
        return self.here.number, self.np_random.random(), False, False, {}


class Cell:
    def __init__(self, number: int) -> None:
        self.number, self.following = number, self


def test_objects_of_an_environment_refer_to_each_other_as_before() -> None:
    env = Cells()
    env.reset(seed=1), env.step(1)
    text = snapshot(env, Cells)
    assert text is not None
    other: Any = restored(text, Cells, trust=False)
    assert other.here is other.cells[1] and other.here is not env.here
    assert_identical([other.step(1) for _ in range(9)], [env.step(1) for _ in range(9)])


def test_an_environment_that_is_more_than_plain_data_has_no_text() -> None:
    counts = iter(range(100))

    def scaled() -> Any:
        return gym.wrappers.TransformReward(
            gym.make("CartPole-v1"), lambda r: float(r) * next(counts)
        )

    class Other(Cells):
        pass

    def lock() -> Any:
        env: Any = Cells()
        env.stream = io.BytesIO()
        return env

    def one() -> Any:
        return single

    single = Cells()
    for make, other in ((scaled, scaled), (Other, Cells), (lock, lock), (one, one)):
        env = make()
        env.reset(seed=0)
        assert snapshot(env, other) is None


def test_a_console_goes_on_from_a_trusted_file_alone() -> None:
    from bilevel_gym.envs import BilevelBeamRider

    make = BilevelBeamRider().make_environment
    env = make()
    env.reset(seed=0), env.step(1)
    text = snapshot(env, make)
    assert text is not None and restored(text, make, trust=False) is None
    other = restored(text, make, trust=True)
    assert other is not None
    assert_identical([other.step(3) for _ in range(5)], [env.step(3) for _ in range(5)])


def test_plain_data_comes_back_as_it_was() -> None:
    generator = np.random.default_rng(3)
    value = {
        "numbers": [1, -0.0, float("inf"), 1e-320, 2**100, True, None, 1j, b"bytes", "\ud800"],
        ("tuple", 3): ({1, 2}, frozenset("ab"), OrderedDict(b=1, a=2), deque([1], maxlen=2)),
        "scalars": [np.float32(0.1), np.int8(3), np.bool_(True), np.str_("a")],
        "arrays": [np.zeros((0, 3)), np.array(2.0), np.array(["ab", "c"]), np.dtype(">f4")],
        "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "generators": [generator, np.random.Generator(np.random.MT19937(1)), Random(1)],
        "again": generator,
        "state": np.random.RandomState(4),
    }
    value["self"] = value
    copied = loads(dumps(value))
    assert dumps(copied) == dumps(value)
    assert copied["self"] is copied and copied["again"] is copied["generators"][0]
    assert copied["again"].random() == generator.random()
    assert copied["order"].flags.f_contiguous and copied["order"].flags.writeable
    assert str(copied["scalars"]) == str(value["scalars"]) and str(copied["numbers"][1]) == "-0.0"


@pytest.mark.parametrize(
    "value",
    [object(), print, int, np.array([object()]), io.BytesIO(), Planted(), np.dtype("f4,f4")],
)
def test_what_is_no_plain_data_has_no_text(value: Any) -> None:
    with pytest.raises(NotPlain):
        dumps([value])


def test_two_classes_of_one_name_are_not_mixed_up() -> None:
    def made() -> Any:
        class Local:
            pass

        return Local()

    with pytest.raises(NotPlain, match="two different"):
        vocabulary([made(), made()], lambda value: None)
    with pytest.raises(KeyError):
        Codec({}).decode(table(name_of(Cells)))
