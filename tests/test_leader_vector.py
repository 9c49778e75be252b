"""Copies of the leader's seat as arrays: against Gymnasium's vector of as many seats."""

from __future__ import annotations

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
from bilevel_gym import HyperGradient, LeaderVectorEnv
from bilevel_gym.optimizers import multistart_ascent, normalized_ascent
from bilevel_gym.registration import Task

from .helpers import (
    TABULAR_TASKS,
    array_game,
    arrays_in,
    assert_identical,
    assert_vector_spaces_agree,
    every_copier,
    spoil,
)
from .test_batch import Drift

GRID, NOISE, DRIFT, BARE = (
    "BilevelGridWorld-v0",
    "LeaderNoise-v0",
    "LeaderDrift-v0",
    "LeaderBare-v0",
)
MODES = [mode.value for mode in AutoresetMode]
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Register the games of this module, for its tests only."""
    bilevel_gym.register(NOISE, array_game, max_episode_steps=2)
    bilevel_gym.register(DRIFT, Drift, kwargs={"one_pattern": True})
    gym.register(BARE, "tests.test_lower_level_vector:BareGame")
    yield
    for game_id in (NOISE, DRIFT, BARE):
        del gym.registry[game_id]


def vector(game_id: str = NOISE, num_envs: int = 4, mode: str = MODES[0], **kwargs: Any) -> Any:
    return LeaderVectorEnv(game_id, num_envs, autoreset_mode=mode, **kwargs)


def synchronous(
    game_id: str = NOISE,
    num_envs: int = 4,
    mode: str = MODES[0],
    *,
    outer_steps: int = 100,
    solver: str = "auto",
    tolerance: float | None = None,
    max_iterations: int = 200,
    **kwargs: Any,
) -> Any:
    """Return Gymnasium's own vector of leader's seats."""

    def seat() -> Any:
        return HyperGradient(
            gym.make(game_id, **kwargs),
            outer_steps=outer_steps,
            solver=solver,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    return SyncVectorEnv([seat] * num_envs, autoreset_mode=mode)


def assert_close(first: Any, second: Any) -> None:
    """Assert that two records are the same to rounding."""
    assert_identical(first, second, rounding=True)


def moves(envs: Any, steps: int, seed: int = 0) -> Any:
    """Return x for each step and copy, near each other from step to step."""
    space, rng = envs.single_action_space, np.random.default_rng(seed)
    middle, half = (space.low + space.high) / 2.0, (space.high - space.low) / 2.0
    here = middle + 0.3 * half * rng.uniform(-1, 1, (envs.num_envs, *space.shape))
    drift = 0.01 * half * rng.uniform(-1, 1, (steps, envs.num_envs, *space.shape))
    return here + drift


def played(envs: Any, actions: Any, seed: int | None = None, **options: Any) -> list[Any]:
    """Return what a reset and further steps give; ended copies start again where needed."""
    records = [envs.reset(seed=seed, options=dict(options) or None)]
    for action in actions:
        records.append(envs.step(action))
        over = records[-1][2] | records[-1][3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            records.append(envs.reset(options={"reset_mask": over}))
    return records


# Against Gymnasium's own vector -----------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("game_id", [NOISE, DRIFT])
@pytest.mark.parametrize("outer_steps", [1, 3, 100])
def test_every_record_is_that_of_gymnasiums_own_vector(
    game_id: str, outer_steps: int, mode: str, backend: str
) -> None:
    # At a given tolerance the iterations counted do not depend on rounding.
    options: dict[str, Any] = {"outer_steps": outer_steps, "tolerance": 1e-9}
    ours, theirs = vector(game_id, 4, mode, **options), synchronous(game_id, 4, mode, **options)
    actions = moves(ours, 8)
    records = played(ours, actions, seed=3)
    assert_close(records, played(theirs, actions, seed=3))
    assert any(record[3].any() for record in records if len(record) == 5) == (outer_steps < 100)
    # Without a seed, and from elsewhere.
    start = moves(ours, 1, seed=9)[0, 0]
    assert_close(
        played(ours, actions[::-1], upper_params=start),
        played(theirs, actions[::-1], upper_params=start),
    )


@pytest.mark.parametrize("task", TABULAR_TASKS, ids=lambda task: task.id)
@pytest.mark.parametrize(
    "options", [{}, {"solver": "krylov"}, {"tolerance": 1e-6, "max_iterations": 1}], ids=str
)
def test_tasks_are_answered_as_in_their_seat(
    task: Task, options: dict[str, Any], backend: str
) -> None:
    arguments = {"outer_steps": 3, **task.test_kwargs, **options}
    ours, theirs = vector(task.id, 3, **arguments), synchronous(task.id, 3, **arguments)
    actions = moves(ours, 5)
    for one, other in zip(played(ours, actions), played(theirs, actions), strict=True):
        # At rounding, where the default tolerance ends, a last step more or less is chance.
        difference = one[-1].pop("inner_iterations") - other[-1].pop("inner_iterations")
        assert np.abs(difference).max() <= 1
        assert_close(one, other)


@every_mode
def test_copies_may_be_out_of_step(mode: str, backend: str) -> None:
    options: dict[str, Any] = {"outer_steps": 5, "tolerance": 1e-9}
    ours, theirs = vector(NOISE, 3, mode, **options), synchronous(NOISE, 3, mode, **options)
    actions = moves(ours, 9)
    for envs in (ours, theirs):
        envs.reset(seed=0)
        envs.step(actions[0])
    some = np.array([False, True, False])
    here = np.full(3, 0.25)
    for options in ({"reset_mask": some}, {"reset_mask": ~some, "upper_params": here}):
        assert_close(ours.reset(options=dict(options)), theirs.reset(options=dict(options)))
        for action in actions[1:3]:
            assert_close(ours.step(action), theirs.step(action))
    for action in actions[3:]:
        one, other = ours.step(action), theirs.step(action)
        assert_close(one, other)
        over = one[3]
        assert not over.all()
        if mode == "Disabled" and over.any():
            masked = {"reset_mask": over}
            assert_close(ours.reset(options=dict(masked)), theirs.reset(options=dict(masked)))


@every_mode
def test_its_spaces_and_its_metadata_are_those_of_gymnasiums_own_vector(mode: str) -> None:
    ours = vector(NOISE, 3, mode)
    assert_vector_spaces_agree(ours, synchronous(NOISE, 3, mode))
    given: Any = np.int64(2), AutoresetMode(mode)
    assert vector(NOISE, *given).metadata == ours.metadata


def test_wrappers_of_vectors_work_on_top() -> None:
    def episodes(envs: Any) -> list[Any]:
        recorded = RecordEpisodeStatistics(envs)
        infos = [record[-1] for record in played(recorded, moves(envs, 9))]
        return [info["episode"] for info in infos if "episode" in info]

    for one, other in zip(
        *(episodes(make(NOISE, 2, outer_steps=3)) for make in (vector, synchronous)), strict=True
    ):
        np.testing.assert_allclose(one["r"], other["r"], rtol=1e-6)
        np.testing.assert_array_equal(one["l"], [3, 3])


# Answers ----------------------------------------------------------------------------------------


def test_one_game_answers_for_all_copies_and_in_full(backend: str) -> None:
    envs = vector(NOISE, 3)
    envs.reset()
    x = moves(envs, 1)[0]
    _, rewards, *_, infos = envs.step(x)
    assert isinstance(envs.responses, list) and len(envs.responses) == 3
    for copy_, response in enumerate(envs.responses):
        alone = envs.game.evaluate(x[copy_])
        assert response.objective == rewards[copy_] == pytest.approx(alone.objective, abs=1e-10)
        np.testing.assert_array_equal(response.hyper_gradient, infos["hyper_gradient"][copy_])
        np.testing.assert_allclose(response.policy, alone.policy, atol=1e-10)
        np.testing.assert_array_equal(response.upper_params, x[copy_])
    envs.responses.clear()
    assert len(envs.responses) == 3


def test_each_copy_may_start_at_an_x_of_its_own(backend: str) -> None:
    envs, single = vector(NOISE, 3), vector(NOISE, 1)
    starts = moves(envs, 1)[0]
    observations, infos = envs.reset(options={"upper_params": starts})
    np.testing.assert_array_equal(infos["upper_params"], starts)
    for b in range(3):
        observation, info = single.reset(options={"upper_params": starts[b]})
        np.testing.assert_array_equal(observation[0], observations[b])
        assert info["lower_value"][0] == infos["lower_value"][b]
    # Rows of copies that do not start are ignored.
    rows = np.array([[np.nan] * 3, [0.5] * 3, [9.0] * 3])
    mask = np.array([False, True, False])
    _, infos = envs.reset(options={"upper_params": rows.tolist(), "reset_mask": mask})
    np.testing.assert_array_equal(infos["upper_params"], [[0.0] * 3, [0.5] * 3, [0.0] * 3])
    np.testing.assert_array_equal(envs.responses[0].upper_params, starts[0])


def test_warm_starts_last_until_the_reset(backend: str) -> None:
    envs = vector(GRID, 2, outer_steps=2, tolerance=1e-8)
    _, first = envs.reset()
    x = moves(envs, 1)[0]
    steps = [envs.step(x)[-1]["inner_iterations"].tolist() for _ in range(2)]
    assert steps[0] != [0, 0] and steps[1] == [0, 0]
    again = envs.step(x)[-1]  # ended, hence a new episode
    np.testing.assert_array_equal(again["inner_iterations"], first["inner_iterations"])
    assert envs.step(x)[-1]["inner_iterations"].tolist() == steps[0]


def test_x_is_taken_at_full_precision_and_only_from_copies_that_move(backend: str) -> None:
    envs = vector(NOISE, 2, outer_steps=1)
    envs.reset()
    x = np.array([[1 / 3, 0.1, -0.7]] * 2)
    np.testing.assert_array_equal(envs.step(x.tolist())[-1]["upper_params"], x)
    *_, infos = envs.step(np.full((2, 3), np.nan))  # both start again
    np.testing.assert_array_equal(infos["upper_params"], np.zeros((2, 3)))
    assert envs.step(x.astype(np.float32))[-1]["upper_params"].dtype == np.float64


@every_mode
def test_records_share_no_memory_and_overwriting_them_changes_nothing(mode: str) -> None:
    envs, twin = (vector(NOISE, 2, mode, outer_steps=2) for _ in range(2))
    actions = moves(envs, 6)
    earlier: list[Any] = []
    for each in (envs, twin):
        each.reset()
    for action in actions:
        record, expected = envs.step(action.copy()), twin.step(action)
        assert_close(record, expected)
        numbers = [array for array in arrays_in(record) if array.dtype != object]
        for i, one in enumerate(numbers):
            assert not any(np.shares_memory(one, other) for other in [*earlier, *numbers[:i]])
        earlier = numbers
        over = record[3].copy()
        spoil(numbers)
        if mode == "Disabled" and over.any():
            for each in (envs, twin):
                each.reset(options={"reset_mask": over.copy()})


@every_mode
@every_copier
def test_a_copy_continues_identically(
    mode: str, copier: Callable[[Any], Any], backend: str
) -> None:
    envs = vector(DRIFT, 2, mode, outer_steps=3)
    actions = moves(envs, 9)
    played(envs, actions[:4])
    twin = copier(envs)
    one, other = ([each.step(action) for action in actions[4:5]] for each in (envs, twin))
    assert_close(one, other)
    np.testing.assert_array_equal(one[0][1], other[0][1])


def test_restarts_climb_side_by_side(backend: str) -> None:
    envs, low, high = vector(NOISE, 3), -np.ones(3), np.ones(3)
    starts = moves(envs, 1)[0]
    envs.reset()

    def together(xs: Any) -> Any:
        _, values, _, _, infos = envs.step(xs)
        return values, infos["hyper_gradient"]

    def alone(x: Any) -> Any:
        response = envs.game.evaluate(x)
        return response.objective, response.hyper_gradient

    restarts = multistart_ascent(together, starts, low, high, steps=20)
    for start, optimum in zip(starts, restarts.optima, strict=True):
        single = normalized_ascent(alone, start, low, high, steps=20)
        assert optimum.best.value == pytest.approx(single.best.value, abs=1e-9)
    assert restarts.optimum.best.value == max(o.best.value for o in restarts.optima)


def test_a_leader_of_stable_baselines_trains_on_it() -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from bilevel_gym.sb3 import as_vec_env

    envs: Any = as_vec_env(vector(NOISE, 4, "SameStep", outer_steps=10))
    model = stable_baselines3.PPO(
        "MlpPolicy",
        envs,
        n_steps=32,
        batch_size=32,
        n_epochs=2,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
    ).learn(256)
    assert model.num_timesteps == 256
    envs.reset()
    for step in range(10):
        observations, rewards, dones, infos = envs.step(np.full((4, 3), 0.01 * step))
    assert dones.all() and observations.shape == (4, 3) and rewards.dtype == np.float32
    for info in infos:
        assert info["TimeLimit.truncated"] and info["terminal_observation"].shape == (3,)
        np.testing.assert_array_equal(info["upper_params"], np.full(3, 0.09))
        assert info["inner_converged"] is True and type(info["inner_iterations"]) is int


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "fragments"),
    [
        ((NOISE, 0), {}, ValueError, ("`num_envs`", "at least 1", "got 0")),
        ((NOISE, 2.5), {}, ValueError, ("`num_envs`", "got 2.5")),
        ((NOISE, 2), {"outer_steps": 0}, ValueError, ("`outer_steps`", "got 0")),
        ((NOISE, 2), {"solver": "baned"}, ValueError, ("'baned'", "Did you mean 'banded'")),
        ((NOISE, 2), {"tolerance": -1.0}, ValueError, ("`tolerance`", "got -1.0")),
        ((NOISE, 2), {"max_iterations": 0}, ValueError, ("`max_iterations`", "got 0")),
        ((NOISE, 2), {"autoreset_mode": "SameSpet"}, ValueError, ("Did you mean 'SameStep'",)),
        ((GRID, 2), {"render_mode": "rgb_array"}, ValueError, ("no picture", "'rgb_array'")),
        ((GRID, 2), {"sloop": 0.1}, TypeError, ("sloop",)),
        (("BilevelGridWord-v0", 2), {}, gym.error.NameNotFound, ("BilevelGridWord",)),
        (("CartPole-v1", 2), {}, TypeError, ("tabular game", "CartPoleEnv")),
        ((BARE, 2), {}, TypeError, ("tabular game", "BareGame", "SyncVectorEnv")),
    ],
)
def test_what_cannot_be_made_is_explained(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    error: type[Exception],
    fragments: tuple[str, ...],
) -> None:
    with pytest.raises(error) as caught:
        LeaderVectorEnv(*arguments, **options)
    for fragment in fragments:
        assert fragment in str(caught.value)


ROWS = np.zeros((3, 3))
OUTSIDE = np.where(np.eye(3, k=1) > 0, 2.0, 0.0)
NO_MASK = {"reset_mask": np.zeros(3, bool)}


@every_mode
@pytest.mark.parametrize(
    ("call", "error", "fragments"),
    [
        (lambda e: e.step(np.zeros(3)), ValueError, ("`actions`", "(3, 3)", "shape (3,)")),
        (lambda e: e.step(np.zeros((2, 3))), ValueError, ("(3, 3)", "shape (2, 3)")),
        (lambda e: e.step([[0.0], [0.0, 1.0], []]), ValueError, ("different lengths",)),
        (lambda e: e.step(None), ValueError, ("(3, 3)", "shape ()")),
        (lambda e: e.step(ROWS.astype(str)), ValueError, ("copy 0", "real numbers")),
        (lambda e: e.step(OUTSIDE), ValueError, ("copy 0: `upper_params[1]`", "got 2.0")),
        (lambda e: e.step([[0.0] * 3, [0.0] * 3, [0.0, 0.0, np.nan]]), ValueError, ("copy 2",)),
        (lambda e: e.reset(seed=-1), gym.error.Error, ("eed", "-1")),
        (lambda e: e.reset(options={"upper_parms": 0}), ValueError, ("Did you mean",)),
        (
            lambda e: e.reset(options={"upper_params": np.full(3, 3.0)}),
            ValueError,
            ("`upper_params[0]`", "got 3.0"),
        ),
        (lambda e: e.reset(options={"upper_params": 0.0}), ValueError, ("shape (3,), got ()",)),
        (
            lambda e: e.reset(options={"upper_params": np.zeros((2, 3))}),
            ValueError,
            ("`upper_params`", "shape (3, 3)", "shape (2, 3)"),
        ),
        (lambda e: e.reset(options={"upper_params": OUTSIDE}), ValueError, ("copy 0: ",)),
        (
            lambda e: e.reset(options={"upper_params": [[0.0], [0.0, 0.0]]}),
            ValueError,
            ("different lengths",),
        ),
        (lambda e: e.reset(options={"reset_mask": [True] * 3}), TypeError, ("array of bool",)),
        (
            lambda e: e.reset(options={"reset_mask": np.ones(2, bool)}),
            ValueError,
            ("shape (3,)", "got (2,)"),
        ),
        (lambda e: e.reset(options=NO_MASK), ValueError, ("at least one",)),
    ],
)
def test_a_mistake_is_explained_and_does_no_harm(
    mode: str, call: Callable[[Any], Any], error: type[Exception], fragments: tuple[str, ...]
) -> None:
    envs, untouched = (vector(NOISE, 3, mode, outer_steps=4) for _ in range(2))
    actions = moves(envs, 6)
    records = [played(each, actions[:2], seed=0) for each in (envs, untouched)]
    assert_close(records[0], records[1])
    with pytest.raises(error) as caught:
        call(envs)
    for fragment in fragments:
        assert fragment in str(caught.value)
    for action in actions[2:4]:
        assert_close(envs.step(action), untouched.step(action))


@every_mode
def test_nothing_is_answered_before_the_first_reset(mode: str) -> None:
    envs = vector(NOISE, 2, mode)
    with pytest.raises(ResetNeeded, match="reset"):
        envs.step(np.zeros((2, 3)))
    with pytest.raises(ResetNeeded, match="reset"):
        _ = envs.responses
    with pytest.raises(ResetNeeded, match="first `reset` of all"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(options={"reset_mask": np.ones(2, bool)})
    envs.step(np.zeros((2, 3)))


def test_ended_copies_wait_for_their_reset_when_nobody_else_starts_them() -> None:
    envs = vector(NOISE, 3, "Disabled", outer_steps=1)
    envs.reset()
    envs.step(np.zeros((3, 3)))
    for _ in range(2):
        with pytest.raises(ResetNeeded, match=re.escape("copies [0, 1, 2]") + ".*reset_mask"):
            envs.step(np.zeros((3, 3)))
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=re.escape("copies [1]")):
        envs.step(np.zeros((3, 3)))
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert envs.step(np.zeros((3, 3)))[3].all()
