"""What copies of both seats as arrays have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from bilevel_gym import LeaderVectorEnv, LowerLevelVectorEnv

from .helpers import (
    array_game,
    arrays_in,
    assert_identical,
    assert_vector_spaces_agree,
    every_copier,
    refusals,
    spoil,
)
from .vectors import (
    BARE,
    DRIFT,
    GRID,
    KINDS,
    NOISE,
    WALK,
    continued,
    every_mode,
    followers,
    played,
    sampled,
)

pytestmark = pytest.mark.usefixtures("vector_games")

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_mode
@every_kind
def test_its_spaces_and_its_metadata_are_those_of_gymnasiums_own_vector(
    kind: str, mode: str
) -> None:
    short = KINDS[kind].short
    ours, theirs = (
        make(num_envs=3, mode=mode, **short) for make in (KINDS[kind].make, KINDS[kind].seats)
    )
    assert_vector_spaces_agree(ours, theirs)
    as_such = KINDS[kind].make(num_envs=np.int64(3), mode=AutoresetMode(mode), **short)
    assert as_such.metadata == ours.metadata


def test_copies_start_again_at_the_next_step_by_default() -> None:
    for envs in (LeaderVectorEnv(NOISE, 2), LowerLevelVectorEnv(NOISE, 2, np.zeros(3))):
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@every_kind
def test_wrappers_of_vectors_work_on_top(kind: str, mode: str) -> None:
    def episodes(make: Callable[..., Any]) -> list[Any]:
        envs = make(num_envs=4, mode=mode, **KINDS[kind].short)
        recorded: Any = RecordEpisodeStatistics(envs)
        infos = [record[-1] for record in played(recorded, KINDS[kind].actions(envs, 60))]
        return [info["episode"] for info in infos if "episode" in info]

    found, expected = episodes(KINDS[kind].make), episodes(KINDS[kind].seats)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["r"], other["r"], rtol=1e-6 * (kind == "leader"))
        np.testing.assert_array_equal(one["l"], other["l"])
        assert kind == "follower" or set(one["l"]) == {3}


@every_mode
@every_kind
@every_copier
def test_a_copy_continues_identically(
    copier: Callable[[Any], Any], kind: str, mode: str, backend: str
) -> None:
    envs = KINDS[kind].make(mode=mode, **{**KINDS[kind].short, **DRIFTING[kind]})
    actions = KINDS[kind].actions(envs, 12)
    played(envs, actions[:4], seed=0)
    twin = copier(envs)
    for one, other in zip(*(continued(e, actions[4:]) for e in (envs, twin)), strict=True):
        KINDS[kind].same(one, other)
        np.testing.assert_array_equal(one[1], other[1]) if len(one) == 5 else None


DRIFTING: dict[str, dict[str, Any]] = {"leader": {"game_id": DRIFT}, "follower": {}}


@every_mode
@every_kind
def test_records_share_no_memory_and_overwriting_them_changes_nothing(kind: str, mode: str) -> None:
    envs, twin = (KINDS[kind].make(mode=mode, **KINDS[kind].short) for _ in range(2))
    earlier: list[Any] = []
    envs.reset(seed=0), twin.reset(seed=0)
    for action in KINDS[kind].actions(envs, 12):
        record, expected = envs.step(action.copy()), twin.step(action)
        KINDS[kind].same(record, expected)
        numbers = [array for array in arrays_in(record) if array.dtype != object]
        for i, one in enumerate(numbers):
            # The follower's record is looked at as a whole: a mask may be told twice.
            others = [*earlier, *(numbers[:i] if kind == "leader" else [])]
            assert not any(np.shares_memory(one, other) for other in others)
        earlier = numbers
        over = record[2] | record[3]
        spoil(numbers)
        if mode == "Disabled" and over.any():
            for each in (envs, twin):
                mask = (expected[2] | expected[3]).copy()
                each.reset(options={"reset_mask": mask})
                mask[:] = False


# By id ------------------------------------------------------------------------------------------


@every_kind
def test_gymnasiums_make_vec_makes_them_and_their_specs_go_through_json(kind: str) -> None:
    env_id = {"leader": GRID, "follower": "BilevelGridWorldFollower-v0"}[kind]
    options: dict[str, Any] = {"map_name": "4x4"}
    if kind == "leader":
        options["outer_steps"] = np.int64(3)
    else:
        options["upper_params"] = np.full(14, 0.25)
    by_default, by_name = (
        gym.make_vec(env_id, 3, vectorization_mode=mode, **options)
        for mode in (None, "vector_entry_point")
    )
    one_by_one = gym.make_vec(env_id, 3, vectorization_mode="sync", **options)
    actions = KINDS[kind].actions(by_default, 40)
    expected = played(one_by_one, actions, seed=3)
    by_hand: Any = (LeaderVectorEnv if kind == "leader" else LowerLevelVectorEnv)(
        env_id, 3, **options
    )
    for envs in (by_default, by_name, by_hand):
        assert type(envs) in (LeaderVectorEnv, LowerLevelVectorEnv)
        assert envs.spec is not None
        again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
        assert again.spec == envs.spec
        for made in (envs, again):
            KINDS[kind].same(played(made, actions, seed=3), expected)
    options["autoreset_mode"] = "SameStep"
    shorter = gym.make_vec(env_id, 3, **options)
    assert shorter.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_a_game_may_take_the_place_of_its_id() -> None:
    envs, twin = LowerLevelVectorEnv(array_game(), 4), followers(NOISE, 4)
    x = twin.upper_params
    limited = LowerLevelVectorEnv(TimeLimit(array_game(), 5), 4, x)
    actions = sampled(twin, 30)
    assert_identical(played(limited, actions, seed=0), played(twin, actions, seed=0))
    assert envs.spec is None and not envs.upper_params.any()
    leaders_of = LeaderVectorEnv(array_game(), 2, outer_steps=3)
    assert leaders_of.reset()[0].shape == (2, 3)
    with pytest.raises(TypeError, match="has its arguments.*'slip'"):
        LowerLevelVectorEnv(array_game(), 4, slip=0.1)
    with pytest.raises(TypeError, match="'trace'.*make_vec.*sync"):
        gym.make_vec(GRID, 2, method="trace")
    for env_id in ("BilevelLQR-v0", "BilevelLQRFollower-v0"):
        assert type(gym.make_vec(env_id, 2)) is gym.vector.SyncVectorEnv


def test_what_arrays_cannot_do_is_said_with_what_can() -> None:
    mistakes: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        (GRID, {"keep_learnt": True}, TypeError, "takes no `keep_learnt`.*sync"),
        (GRID, {"max_episode_steps": 2}, TypeError, "`outer_steps`.*max_episode_steps=2"),
        (GRID, {"render_mode": "rgb_array"}, ValueError, "no picture.*'rgb_array'"),
        ("BilevelGridWorldFollower-v0", {"render_mode": "human"}, ValueError, "no picture"),
        ("BilevelLQR-v0", {"autoreset_mode": "SameStep"}, TypeError, "vector_kwargs"),
    ]
    for env_id, options, kind, message in mistakes:
        with pytest.raises(kind, match=message):
            gym.make_vec(env_id, 2, **options)


# Bad input --------------------------------------------------------------------------------------

ZEROS = np.zeros(3)
COMMON: list[tuple[Any, ...]] = [
    (NOISE, 0, {}, "`num_envs`.*at least 1, got 0"),
    (NOISE, 2.5, {}, "`num_envs`.*got 2.5"),
    (NOISE, 2, {"autoreset_mode": "SameSpet"}, "mean 'SameStep'"),
    (GRID, 2, {"sloop": 0.1}, TypeError, "sloop"),
    (GRID, 2, {"render_mode": "rgb_array"}, "no picture.*'rgb_array'"),
    ("BilevelGridWord-v0", 2, {}, gym.error.NameNotFound, "BilevelGridWord"),
    ("CartPole-v1", 2, {}, TypeError, "tabular game.*CartPoleEnv"),
    (BARE, 2, {}, TypeError, "tabular game.*BareGame.*SyncVectorEnv"),
]
leader_copies = partial(LeaderVectorEnv, NOISE, 2)
follower_copies = partial(LowerLevelVectorEnv, NOISE, 2)

test_what_cannot_be_made_is_explained = refusals(
    None,
    *((partial(LeaderVectorEnv, name, n, **given), *said) for name, n, given, *said in COMMON),
    *(
        (partial(LowerLevelVectorEnv, name, n, ZEROS, **given), *said)
        for name, n, given, *said in COMMON
    ),
    (partial(leader_copies, outer_steps=0), "`outer_steps`.*got 0"),
    (partial(leader_copies, solver="baned"), "'baned'.*Did you mean 'banded'"),
    (partial(leader_copies, tolerance=-1.0), "`tolerance`.*got -1.0"),
    (partial(leader_copies, max_iterations=0), "`max_iterations`.*got 0"),
    (partial(follower_copies, np.zeros(4)), r"`upper_params`.*\(3,\), got \(4,\)"),
    (partial(follower_copies, [0, 0, 9]), r"`upper_params\[2\]`.*-1.0.*got 9.0"),
)


OUTSIDE = np.where(np.eye(3, k=1) > 0, 2.0, 0.0)
BAD_ACTIONS: dict[str, list[tuple[Any, str]]] = {
    "leader": [
        (ZEROS, r"`actions`.*\(3, 3\).*shape \(3,\)"),
        (np.zeros((2, 3)), r"\(3, 3\).*shape \(2, 3\)"),
        ([[0.0], [0.0, 1.0], []], "different lengths"),
        (None, r"\(3, 3\).*shape \(\)"),
        (np.zeros((3, 3)).astype(str), "copy 0.*real numbers"),
        (OUTSIDE, r"copy 0: `upper_params\[1\]`.*got 2.0"),
        ([[0.0] * 3, [0.0] * 3, [0.0, 0.0, np.nan]], "copy 2"),
    ],
    "follower": [
        ([0, 1], r"integers in 0\.\.1 of shape \(3,\).*shape \(2,\)"),
        (1, r"shape \(\)"),
        ([[0], [1], [1]], r"shape \(3, 1\)"),
        ([[0], [1, 1], 0], "different lengths"),
        ([0.0, 1.0, 1.0], "float64"),
        ([True, True, False], "bool"),
        (None, "object"),
        ([0, 2, 0], "got 2 for copy 1"),
        ([0, 0, -1], "got -1 for copy 2"),
    ],
}
Reset = tuple[Any, dict[str, Any] | None, type[Exception], str]
BOTH: list[Reset] = [
    (-1, None, gym.error.Error, "eed.*-1"),
    ([1, 2], None, gym.error.Error, "`seed`.*3 of these"),
    ([1, 2, 0.5], None, gym.error.Error, r"`seed`.*got 0\.5"),
    ("abc", None, gym.error.Error, "`seed`.*got 'abc'"),
    (None, {"reset_mask": [True] * 3}, TypeError, "array of bool"),
    (None, {"reset_mask": np.ones(2, bool)}, ValueError, r"shape \(3,\).*got \(2,\)"),
    (None, {"reset_mask": np.zeros(3, bool)}, ValueError, "at least one"),
]
BAD_RESETS: dict[str, list[Reset]] = {
    "leader": [
        *BOTH,
        (None, {"upper_parms": 0}, ValueError, "Did you mean"),
        (None, {"upper_params": np.full(3, 3.0)}, ValueError, r"`upper_params\[0\]`.*got 3.0"),
        (None, {"upper_params": 0.0}, ValueError, r"shape \(3,\), got \(\)"),
        (None, {"upper_params": np.zeros((2, 3))}, ValueError, r"shape \(3, 3\).*shape \(2, 3\)"),
        (None, {"upper_params": OUTSIDE}, ValueError, "copy 0: "),
        (None, {"upper_params": [[0.0], [0.0, 0.0]]}, ValueError, "different lengths"),
    ],
    "follower": [
        *BOTH,
        (None, {"upper_params": 0}, ValueError, "reset option 'upper_params'.*'reset_mask'"),
        (None, {"reset_mask": np.ones(3)}, TypeError, "array of bool"),
    ],
}


@every_mode
@every_kind
def test_a_mistake_is_explained_and_does_no_harm(kind: str, mode: str) -> None:
    options = {"outer_steps": 4} if kind == "leader" else {}
    envs, untouched = (KINDS[kind].make(NOISE, 3, mode, **options) for _ in range(2))
    actions = KINDS[kind].actions(envs, 4)
    calls: list[tuple[Any, type[Exception], str]] = [
        *((partial(envs.step, given), ValueError, message) for given, message in BAD_ACTIONS[kind]),
        *(
            (partial(envs.reset, seed=seed, options=given), error, message)
            for seed, given, error, message in BAD_RESETS[kind]
        ),
    ]
    for call, error, message in calls:
        KINDS[kind].same(*(played(each, actions[:2], seed=0) for each in (envs, untouched)))
        with pytest.raises(error, match=message):
            call()
        KINDS[kind].same(*(continued(each, actions[2:]) for each in (envs, untouched)))


@every_mode
@every_kind
def test_nothing_moves_before_the_first_reset(kind: str, mode: str) -> None:
    envs = KINDS[kind].make(num_envs=2, mode=mode, **KINDS[kind].short)
    (action,) = KINDS[kind].actions(envs, 1)
    with pytest.raises(ResetNeeded, match="reset"):
        envs.step(action)
    if kind == "leader":
        with pytest.raises(ResetNeeded, match="reset"):
            _ = envs.responses
    with pytest.raises(ResetNeeded, match="first `reset` of all"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(options={"reset_mask": np.ones(2, bool)})
    envs.step(action)


@every_kind
def test_ended_copies_wait_for_their_reset_when_nobody_else_starts_them(kind: str) -> None:
    if kind == "leader":
        envs = KINDS[kind].make(NOISE, 3, "Disabled", outer_steps=1)
    else:
        envs = KINDS[kind].make(WALK, 3, "Disabled", max_episode_steps=1)
    action = np.ones(envs.action_space.shape, envs.action_space.dtype)
    envs.reset(seed=0)
    envs.step(action)
    for _ in range(2):
        with pytest.raises(ResetNeeded, match=re.escape("copies [0, 1, 2]") + ".*reset_mask"):
            envs.step(action)
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=re.escape("copies [1]")):
        envs.step(action)
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    observations, *_, truncations, _ = envs.step(action)
    assert truncations.all()
    assert kind == "leader" or observations.tolist() == [2, 2, 2]
