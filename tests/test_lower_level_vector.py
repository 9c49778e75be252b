"""Copies of the follower's seat as arrays: against Gymnasium's vectors and against the model."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import bilevel_gym
from bilevel_gym import LowerLevel, LowerLevelVectorEnv, TabularBilevelEnv
from bilevel_gym.episodes.transitions import TransitionTables
from bilevel_gym.registration import Task

from .helpers import (
    TABULAR_TASKS,
    Env,
    array_game,
    arrays_in,
    assert_identical,
    assert_vector_spaces_agree,
    every_copier,
    game_of,
    interior_point,
    leader_seat,
    p_value,
    spoil,
)

GRID, WALK, NOISE = "BilevelGridWorld-v0", "MaskedWalk-v0", "Noise-v0"
MODES = [mode.value for mode in AutoresetMode]
every_mode = pytest.mark.parametrize("mode", MODES)
every_task = pytest.mark.parametrize("task", TABULAR_TASKS, ids=lambda task: task.id)


def masked_walk() -> TabularBilevelEnv:
    """Return five cells in a row, left by the right end; at the left end no step to the left."""
    transition = np.zeros((5, 2, 5))
    for state in range(5):
        transition[state, 0, max(state - 1, 0)] = 1.0
        if state < 4:
            transition[state, 1, state + 1] = 1.0
    rng = np.random.default_rng(0)
    return TabularBilevelEnv.from_arrays(
        transition,
        rng.normal(size=(5, 2)),
        upper_reward=rng.normal(size=(5, 2)),
        initial_distribution=[0.0, 1.0, 0.0, 0.0, 0.0],
        action_mask=[[0, 1], [1, 1], [1, 1], [1, 1], [1, 1]],
    )


class BareGame(bilevel_gym.BilevelEnv):
    """A game without a model; it is refused when it is wrapped, so nothing below is ever called."""

    def __init__(self) -> None:
        space = gym.spaces.Discrete(2)
        super().__init__(
            upper_space=gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
            lower_space=space,
            observation_space=space,
            leader_observation_space=space,
            gamma=0.9,
            temperature=0.1,
            initial_upper_params=[0.0],
        )

    # The contract's other methods: the seat refuses this game when it is made, so that a call of
    # one of them is a failure.
    def begin(self) -> Any:
        raise NotImplementedError

    def advance(self, upper_params: Any, action: Any) -> Any:
        raise NotImplementedError

    def observe(self, response: Any) -> Any:
        raise NotImplementedError

    def view(self) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Register the games of this module, for its tests only."""
    bilevel_gym.register(WALK, masked_walk, max_episode_steps=6)
    bilevel_gym.register(NOISE, array_game, max_episode_steps=20)
    gym.register("Bare-v0", f"{__name__}:BareGame")
    yield
    for game_id in (WALK, NOISE, "Bare-v0"):
        del gym.registry[game_id]


def vector(game_id: str = NOISE, num_envs: int = 6, mode: str = MODES[0], **kwargs: Any) -> Any:
    x = interior_point(gym.make(game_id, **kwargs))
    return LowerLevelVectorEnv(game_id, num_envs, x, autoreset_mode=mode, **kwargs)


def synchronous(game_id: str, num_envs: int, mode: str, **kwargs: Any) -> Any:
    def seat() -> Env:
        return LowerLevel(gym.make(game_id, **kwargs), interior_point(gym.make(game_id, **kwargs)))

    return SyncVectorEnv([seat] * num_envs, autoreset_mode=mode)


def played(envs: Any, actions: Any, seed: int | None = None) -> list[Any]:
    """Return what `reset(seed)` and further steps give; ended copies start again where needed."""
    records = [envs.reset(seed=seed)]
    for action in actions:
        records.append(envs.step(action))
        over = records[-1][2] | records[-1][3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            records.append(envs.reset(options={"reset_mask": over}))
    return records


def sampled(envs: Any, steps: int, seed: int = 0) -> Any:
    actions = int(envs.single_action_space.n)
    return np.random.default_rng(seed).integers(actions, size=(steps, envs.num_envs))


# Against Gymnasium's own vectors ----------------------------------------------------------------


@every_mode
@pytest.mark.parametrize(
    ("game_id", "kwargs"),
    [
        (GRID, {"map_name": "4x4", "slip": 0.0}),
        (GRID, {"map_name": "4x4", "slip": 0.0, "max_episode_steps": 5}),
        (GRID, {"map_name": "4x4", "slip": 0.0, "max_episode_steps": 1}),
        (WALK, {}),
        (WALK, {"max_episode_steps": 3}),
    ],
    ids=["grid", "grid, limit 5", "grid, limit 1", "masked walk", "masked walk, limit 3"],
)
def test_without_chance_every_record_is_that_of_gymnasiums_own_vector(
    game_id: str, kwargs: dict[str, Any], mode: str
) -> None:
    ours, theirs = vector(game_id, 6, mode, **kwargs), synchronous(game_id, 6, mode, **kwargs)
    actions = sampled(ours, 120)
    records = played(ours, actions)
    assert_identical(records, played(theirs, actions))
    steps = [record for record in records if len(record) == 5]
    limited = game_id == WALK or "max_episode_steps" in kwargs
    assert any(record[2].any() for record in steps) or limited
    assert any(record[3].any() for record in steps) or not limited


@every_mode
def test_its_spaces_and_its_metadata_are_those_of_gymnasiums_own_vector(mode: str) -> None:
    assert_vector_spaces_agree(vector(WALK, 3, mode), synchronous(WALK, 3, mode))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_wrappers_of_vectors_work_on_top(mode: str) -> None:
    def episodes(envs: Any) -> list[Any]:
        recorded = RecordEpisodeStatistics(envs)
        infos = [record[-1] for record in played(recorded, sampled(envs, 60))]
        return [
            (info["episode"]["r"].tolist(), info["episode"]["l"].tolist())
            for info in infos
            if "episode" in info
        ]

    records = episodes(vector(WALK, 4, mode))
    assert records and records == episodes(synchronous(WALK, 4, mode))


def test_modes_are_given_by_name_or_as_such() -> None:
    for mode in AutoresetMode:
        for given in (mode, mode.value):
            envs = LowerLevelVectorEnv(NOISE, 2, np.zeros(3), autoreset_mode=given)
            assert envs.metadata["autoreset_mode"] is mode
    assert LowerLevelVectorEnv(NOISE, 2, np.zeros(3)).metadata["autoreset_mode"] is (
        AutoresetMode.NEXT_STEP
    )


# Against the model ------------------------------------------------------------------------------


@every_task
@every_mode
def test_each_copy_makes_the_transitions_of_the_scalar_seat(task: Task, mode: str) -> None:
    game = game_of(leader_seat(task))
    x = interior_point(game)
    envs = LowerLevelVectorEnv(
        task.id, 30, x, autoreset_mode=mode, **{**task.test_kwargs, "max_episode_steps": 25}
    )
    tables = TransitionTables(game.model.lower_mdp(x), game.upper_reward(x))
    start = np.cumsum(game.initial_distribution) / game.initial_distribution.sum()
    generator, _ = gym.utils.seeding.np_random(7)
    # The order of the draws, as the docstring has it, one copy after the other.
    states = [int(np.searchsorted(start, generator.random(), "right")) for _ in range(30)]
    elapsed, over = [0] * 30, [False] * 30
    observations, _ = envs.reset(seed=7)
    assert observations.tolist() == states
    for actions in sampled(envs, 80):
        uniforms = [generator.random() for _ in range(30)]
        final: dict[int, int] = {}
        begun, expected = [], []
        for i, (action, uniform) in enumerate(zip(actions.tolist(), uniforms, strict=True)):
            if mode == "NextStep" and over[i]:
                states[i], elapsed[i] = int(np.searchsorted(start, uniform, "right")), 0
                expected.append((0.0, 0.0, False, False))
                over[i] = False
                continue
            states[i], ended, reward, upper_reward = tables.sample(states[i], action, uniform)
            elapsed[i] += 1
            expected.append((reward, upper_reward, ended, elapsed[i] >= 25))
            over[i] = ended or elapsed[i] >= 25
            if mode == "SameStep" and over[i]:
                final[i] = states[i]
                begun.append(i)
        for i in begun:
            states[i], elapsed[i] = int(np.searchsorted(start, generator.random(), "right")), 0
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        assert observations.tolist() == states
        upper_rewards = infos.get("upper_reward", np.zeros(30))  # absent if nobody reports it
        if final:
            final_rewards = infos["final_info"]["upper_reward"]
            upper_rewards = np.where(infos["_final_info"], final_rewards, upper_rewards)
            assert {i: infos["final_obs"][i] for i in begun} == final
        given = np.stack([rewards, upper_rewards, terminations, truncations], axis=1)
        np.testing.assert_array_equal(given, np.array(expected, float))
        if mode == "Disabled" and any(over):
            marked = np.array(over)
            for i in np.flatnonzero(marked).tolist():
                states[i], elapsed[i] = int(np.searchsorted(start, generator.random(), "right")), 0
                over[i] = False
            observations, _ = envs.reset(options={"reset_mask": marked})
            assert observations.tolist() == states


def test_transitions_and_first_states_have_the_frequencies_of_the_model() -> None:
    envs = vector(NOISE, 500)
    game = game_of(gym.make(NOISE))
    x = interior_point(game)
    rows = game.kernel(x).to_dense()
    rows = np.concatenate([rows, 1.0 - rows.sum(axis=2, keepdims=True)], axis=2)
    counts, first = np.zeros((3, 2, 4)), np.zeros(3)
    before, _ = envs.reset(seed=0)
    np.add.at(first, before, 1.0)
    begins = np.zeros(500, bool)
    for actions in sampled(envs, 100):
        after, rewards, terminations, truncations, infos = envs.step(actions)
        moved = ~begins
        np.testing.assert_array_equal(infos["_upper_reward"], moved)
        arrived = np.where(terminations, 3, after)
        np.add.at(counts, (before[moved], actions[moved], arrived[moved]), 1.0)
        np.add.at(first, after[begins], 1.0)
        pairs = before[moved], actions[moved]
        np.testing.assert_array_equal(rewards[moved], game.reward(x)[pairs])
        np.testing.assert_array_equal(infos["upper_reward"][moved], game.upper_reward(x)[pairs])
        assert not (rewards[begins].any() or infos["upper_reward"][begins].any())
        before, begins = after, terminations | truncations
    p_values = [p_value(first, game.initial_distribution)]
    p_values += [p_value(counts[index], rows[index]) for index in np.ndindex(3, 2)]
    # A true simulator falls below this in one seed of ten thousand, and the seed is fixed.
    assert min(p_values) > 1e-4 / len(p_values), p_values


# Determinism ------------------------------------------------------------------------------------


@every_mode
def test_a_seed_determines_all_copies(mode: str) -> None:
    envs, fresh = vector(mode=mode), vector(mode=mode)
    actions = sampled(envs, 50)
    played(envs, actions, seed=1)
    records = played(envs, actions, seed=3)
    assert_identical(records, played(fresh, actions, seed=3))
    observations = [record[0].tolist() for record in records]
    assert observations != [record[0].tolist() for record in played(fresh, actions, seed=4)]
    # Without a seed the random numbers go on.
    assert observations != [record[0].tolist() for record in played(envs, actions)]


@every_mode
@every_copier
def test_a_copy_continues_identically(mode: str, copier: Callable[[Any], Any]) -> None:
    envs = vector(WALK, mode=mode)
    actions = sampled(envs, 40)
    played(envs, actions[:20], seed=0)
    twin = copier(envs)
    assert_identical(played(twin, actions[20:]), played(envs, actions[20:]))


def test_another_generator_may_be_put_in() -> None:
    envs, other = vector(), vector()
    envs.reset(seed=0), other.reset(seed=0)
    for each in (envs, other):
        each.np_random = np.random.default_rng(5)
    actions = sampled(envs, 20)
    assert_identical(played(envs, actions), played(other, actions))


@every_mode
def test_no_two_records_share_memory_and_overwriting_them_changes_nothing(mode: str) -> None:
    envs, twin = vector(WALK, mode=mode), vector(WALK, mode=mode)
    given = sampled(envs, 30)
    earlier: list[Any] = []
    envs.reset(seed=0), twin.reset(seed=0)
    for action in given:
        record, expected = envs.step(action), twin.step(action)
        assert_identical(record, expected)
        numbers = [array for array in arrays_in(record) if array.dtype != object]
        assert not any(np.shares_memory(one, other) for one in numbers for other in earlier)
        earlier = numbers
        over = record[2] | record[3]
        spoil(numbers)
        if mode == "Disabled" and over.any():
            for each in (envs, twin):
                mask = over.copy()
                each.reset(options={"reset_mask": mask})
                mask[:] = False


# Resets of some copies, masks -------------------------------------------------------------------


def test_the_marked_copies_start_again_and_the_others_go_on() -> None:
    envs = vector(WALK, 4, "Disabled")
    envs.reset(seed=0)
    envs.step(np.ones(4, int))
    states, infos = envs.reset(options={"reset_mask": np.array([True, False, False, True])})
    assert states.tolist() == [1, 2, 2, 1]
    assert infos["_action_mask"].tolist() == [True, False, False, True]
    assert infos["action_mask"].tolist() == [[1, 1], [0, 0], [0, 0], [1, 1]]
    # The time limit of six steps counts from each copy's own start.
    for expected in ([False] * 4,) * 4 + ([False, True, True, False],):
        *_, truncations, _ = envs.step(np.zeros(4, int))
        assert truncations.tolist() == expected


def test_masks_are_reported_in_infos_and_as_a_method() -> None:
    envs = vector(WALK, 3)
    assert envs.action_masks().all()  # nobody stands anywhere yet
    _, infos = envs.reset(seed=0)
    for action in (np.array([0, 1, 1]), np.array([1, 0, 0]), np.array([0, 0, 0])):
        masks = envs.action_masks()
        assert masks.dtype == np.bool_
        assert infos["action_mask"].dtype == np.int8
        np.testing.assert_array_equal(infos["action_mask"], masks)
        states, *_, infos = envs.step(action)
        np.testing.assert_array_equal(infos["action_mask"][:, 0], states != 0)
    envs = vector(NOISE, 2)
    assert envs.reset(seed=0)[1] == {}
    assert envs.action_masks().tolist() == [[True, True]] * 2


def test_x_is_at_hand_and_cannot_be_written() -> None:
    x = np.array([0.1, -0.2, 0.3])
    envs = LowerLevelVectorEnv(NOISE, 2, x)
    x[:] = 0.0
    np.testing.assert_array_equal(envs.upper_params, [0.1, -0.2, 0.3])
    for each in (envs, copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))):
        with pytest.raises(ValueError, match="read-only"):
            each.upper_params[0] = 1.0


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "fragments"),
    [
        ((NOISE, 0, np.zeros(3)), ValueError, ("`num_envs`", "at least 1", "got 0")),
        ((NOISE, 2.5, np.zeros(3)), ValueError, ("`num_envs`", "got 2.5")),
        ((NOISE, 2, np.zeros(4)), ValueError, ("`upper_params`", "shape (3,)", "got (4,)")),
        ((NOISE, 2, [0.0, 0.0, 9.0]), ValueError, ("`upper_params[2]`", "[-1.0, 1.0]", "got 9.0")),
        (("BilevelGridWord-v0", 2, np.zeros(3)), gym.error.NameNotFound, ("BilevelGridWord",)),
        (("CartPole-v1", 2, np.zeros(3)), TypeError, ("tabular game", "CartPoleEnv")),
        (("Bare-v0", 2, [0.0]), TypeError, ("tabular game", "BareGame", "SyncVectorEnv")),
    ],
)
def test_what_cannot_be_made_is_explained(
    arguments: tuple[Any, ...], error: type[Exception], fragments: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        LowerLevelVectorEnv(*arguments)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_options_of_the_maker_are_explained_too() -> None:
    with pytest.raises(ValueError, match="'SameSpet'.*'SameStep'.*Did you mean 'SameStep'"):
        vector(mode="SameSpet")
    with pytest.raises(ValueError, match="no picture, got render_mode='rgb_array'"):
        LowerLevelVectorEnv(GRID, 2, np.zeros(52), render_mode="rgb_array")
    with pytest.raises(TypeError, match="sloop"):
        LowerLevelVectorEnv(GRID, 2, np.zeros(52), sloop=0.1)


ACCEPTED = "integers in 0..1 of shape (3,)"


@every_mode
@pytest.mark.parametrize(
    ("call", "error", "fragments"),
    [
        (lambda e: e.step([0, 1]), ValueError, (ACCEPTED, "shape (2,)")),
        (lambda e: e.step(1), ValueError, (ACCEPTED, "shape ()")),
        (lambda e: e.step([[0], [1], [1]]), ValueError, (ACCEPTED, "shape (3, 1)")),
        (lambda e: e.step([[0], [1, 1], 0]), ValueError, (ACCEPTED, "different lengths")),
        (lambda e: e.step([0.0, 1.0, 1.0]), ValueError, (ACCEPTED, "float64")),
        (lambda e: e.step([True, True, False]), ValueError, (ACCEPTED, "bool")),
        (lambda e: e.step(None), ValueError, (ACCEPTED, "object")),
        (lambda e: e.step([0, 2, 0]), ValueError, (ACCEPTED, "got 2 for copy 1")),
        (lambda e: e.step([0, 0, -1]), ValueError, (ACCEPTED, "got -1 for copy 2")),
        (lambda e: e.reset(seed=-1), gym.error.Error, ("eed", "-1")),
        (lambda e: e.reset(seed=[1, 2, 3]), gym.error.Error, ("eed", "list")),
        (
            lambda e: e.reset(options={"upper_params": 0}),
            ValueError,
            ("unknown reset option 'upper_params'", "'reset_mask'"),
        ),
        (lambda e: e.reset(options={"reset_mask": [True] * 3}), TypeError, ("array of bool",)),
        (lambda e: e.reset(options={"reset_mask": np.ones(3)}), TypeError, ("array of bool",)),
        (
            lambda e: e.reset(options={"reset_mask": np.ones(2, bool)}),
            ValueError,
            ("shape (3,)", "got (2,)"),
        ),
        (
            lambda e: e.reset(options={"reset_mask": np.zeros(3, bool)}),
            ValueError,
            ("at least one",),
        ),
    ],
)
def test_a_mistake_is_explained_and_does_no_harm(
    mode: str, call: Callable[[Any], Any], error: type[Exception], fragments: tuple[str, ...]
) -> None:
    envs, untouched = vector(NOISE, 3, mode), vector(NOISE, 3, mode)
    actions = sampled(envs, 20)
    records = [played(each, actions[:3], seed=0) for each in (envs, untouched)]
    assert_identical(records[0], records[1])
    with pytest.raises(error) as caught:
        call(envs)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert_identical(played(envs, actions), played(untouched, actions))


@every_mode
def test_nothing_moves_before_the_first_reset(mode: str) -> None:
    envs = vector(WALK, 2, mode)
    with pytest.raises(ResetNeeded, match="reset"):
        envs.step(np.zeros(2, int))
    with pytest.raises(ResetNeeded, match="first `reset` of all"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(options={"reset_mask": np.ones(2, bool)})
    envs.step(np.zeros(2, int))


def test_ended_copies_wait_for_their_reset_when_nobody_else_starts_them() -> None:
    envs = vector(WALK, 3, "Disabled", max_episode_steps=2)
    envs.reset(seed=0)
    for _ in range(2):
        states, *_ = envs.step(np.ones(3, int))
    for _ in range(2):
        with pytest.raises(ResetNeeded, match=re.escape("copies [0, 1, 2]") + ".*reset_mask"):
            envs.step(np.ones(3, int))
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=re.escape("copies [1]")):
        envs.step(np.ones(3, int))
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert envs.step(np.ones(3, int))[0].tolist() == [2, 2, 2]
