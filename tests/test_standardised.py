"""Learners read observations in units that are measured once; everything else has the raw ones."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor

from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.learnt.followers import MEASURED, Follower
from bilevel_gym.sb3 import SoftDQN, SoftSAC
from bilevel_gym.sb3.standardised import StandardisedExtractor, measured_units

from .learnt import TINY_LEARNER

Patch = pytest.MonkeyPatch
MODEL = {"kind": "network", "hidden": [4]}
OPTIONS: dict[str, Any] = {**TINY_LEARNER, "learning_starts": 8}
KINDS = {"discrete": ("MountainCar-v0", SoftDQN), "box": ("MountainCarContinuous-v0", SoftSAC)}
every_kind = pytest.mark.parametrize("acting", KINDS)


def follower(acting: str, **options: Any) -> Follower:
    game = ParametricGame(KINDS[acting][0], MODEL, episode_steps=30)
    return Follower(game, steps=24, first_steps=24, options=OPTIONS, **options)


def extractors(made: Follower) -> list[Any]:
    return [m for m in made.model.policy.modules() if isinstance(m, FlattenExtractor)]


def test_units_are_those_of_uniform_actions_but_no_smaller_than_the_range_allows() -> None:
    units = measured_units(gym.make("MountainCar-v0"), 300, seed=2)
    assert units == measured_units(gym.make("MountainCar-v0"), 300, seed=2)
    assert units is not None
    assert -0.6 < units["mean"][0] < -0.4
    place, speed = units["scale"]
    assert 0.09 <= place < 0.3 and 0.007 <= speed < 0.02
    # Speeds have no bounds; an entry that stays where it is has no unit.
    still = gym.wrappers.TransformObservation(
        gym.make("CartPole-v1"),
        lambda seen: np.append(seen, 3.0).astype(np.float32),
        gym.spaces.Box(-np.inf, np.inf, (5,), np.float32),
    )
    units = measured_units(still, 200, seed=0)
    assert units is not None and units["scale"][4] == 1.0 and units["mean"][4] == 3.0
    assert 0.2 < units["scale"][1] < 2.0
    assert measured_units(gym.make("FrozenLake-v1"), 10, seed=0) is None


@every_kind
def test_networks_read_numbers_of_order_one_and_the_replay_has_raw_ones(acting: str) -> None:
    made = follower(acting)
    units = extractors(made)
    assert len(units) >= 2 and all(type(one) is StandardisedExtractor for one in units)
    assert made.learn(made._game.initial_upper_params) == 24 + MEASURED
    assert made.learn(made._game.initial_upper_params) == 24
    buffer = made.model.replay_buffer
    assert buffer is not None and made.model._flat is not None
    raw = buffer.observations[: buffer.size(), 0]
    assert np.abs(raw[:, 1]).max() <= 0.07
    read = units[0](th.as_tensor(raw)).numpy()
    np.testing.assert_array_equal(read, units[0].of_arrays(raw))
    np.testing.assert_allclose(read, (raw - units[0].mean.numpy()) / units[0].scale.numpy())
    assert 0.1 < np.abs(read[:, 1]).max() < 10.0
    assert float(units[0](th.full((1, 2), 1e9)).max()) == 10.0


@every_kind
def test_updates_on_flat_memory_are_those_of_recorded_gradients(
    monkeypatch: Patch, acting: str
) -> None:
    kind, found = KINDS[acting][1], []
    for flat in (True, False):
        if not flat:
            monkeypatch.setattr(kind, "_flat_networks", lambda *_: None)
        made = follower(acting)
        made.learn(made._game.initial_upper_params)
        assert (made.model._flat is not None) == flat
        seen = made.play(made._game.initial_upper_params, 1, np.random.default_rng(0))
        one, _ = made.model.predict(seen.observations[:, 0], deterministic=True)
        found.append((one, [p.detach().numpy() for p in made.model.policy.parameters()]))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@every_kind
def test_units_are_in_the_file_and_a_loaded_follower_goes_on_bit_by_bit(acting: str) -> None:
    made, fresh = follower(acting), follower(acting)
    x = made._game.initial_upper_params
    made.learn(x)
    for one in extractors(made):  # others than a fresh follower measures
        one.mean += 0.25
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        made.save(archive)
    with zipfile.ZipFile(memory) as archive:
        fresh.load(archive)
    for one, other in zip(extractors(made), extractors(fresh), strict=True):
        assert th.equal(one.mean, other.mean) and th.equal(one.scale, other.scale)
    for each in (made, fresh):
        each.learn(x)
    state, again = (dict(each.model.policy.state_dict()) for each in (made, fresh))
    assert all(th.equal(value, again[name]) for name, value in state.items())


def test_followers_may_read_raw_observations_and_do_where_there_are_no_units() -> None:
    raw = follower("discrete", standardise=False)
    assert {type(one) for one in extractors(raw)} == {FlattenExtractor}
    assert raw.learn(raw._game.initial_upper_params) == 24
    # Files of learners without units are read as ever.
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        raw.save(archive)
    other = follower("discrete")
    with zipfile.ZipFile(memory) as archive:
        other.load(archive)
    assert {type(one) for one in extractors(other)} == {FlattenExtractor}
    kept = {"features_extractor_class": FlattenExtractor}
    game = ParametricGame("MountainCar-v0", MODEL, episode_steps=30)
    options = {**OPTIONS, "policy_kwargs": {"net_arch": [8], **kept}}
    assert {type(one) for one in extractors(Follower(game, options=options))} == {FlattenExtractor}
    with pytest.raises(ValueError, match="`standardise` must be True or False, got 1"):
        Follower(game, standardise=1)  # type: ignore[arg-type]
