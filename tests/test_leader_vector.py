"""Copies of the leader's seat as arrays: against Gymnasium's vector of as many seats."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bilevel_gym.optimizers import multistart_ascent, normalized_ascent
from bilevel_gym.registration import TASKS

from .helpers import TABULAR_TASKS
from .vectors import (
    DRIFT,
    GRID,
    MODES,
    NOISE,
    assert_close,
    every_mode,
    leader_seats,
    leaders,
    moves,
    played,
)

pytestmark = pytest.mark.usefixtures("vector_games")


# Against Gymnasium's own vector -----------------------------------------------------------------


@cache
def records_of_seats(game_id: str, outer_steps: int, mode: str) -> tuple[list[Any], list[Any]]:
    """Return records of Gymnasium's own vector, from a seed and from an x."""
    theirs = leader_seats(game_id, 3, mode, outer_steps=outer_steps, tolerance=1e-9)
    actions, start = moves(theirs, 6), moves(theirs, 1, seed=9)[0, 0]
    return played(theirs, actions, seed=3), played(theirs, actions[::-1], upper_params=start)


@pytest.mark.parametrize("game_id", [NOISE, DRIFT])
@pytest.mark.parametrize(
    ("outer_steps", "mode"), [*((n, mode) for n in (1, 3) for mode in MODES), (100, MODES[0])]
)
def test_every_record_is_that_of_gymnasiums_own_vector(
    game_id: str, outer_steps: int, mode: str, backend: str
) -> None:
    # At a given tolerance the iterations counted do not depend on rounding.
    ours = leaders(game_id, 3, mode, outer_steps=outer_steps, tolerance=1e-9)
    expected, elsewhere = records_of_seats(game_id, outer_steps, mode)
    actions, start = moves(ours, 6), moves(ours, 1, seed=9)[0, 0]
    records = played(ours, actions, seed=3)
    assert_close(records, expected)
    assert any(record[3].any() for record in records if len(record) == 5) == (outer_steps < 100)
    # Without a seed, and from elsewhere.
    assert_close(played(ours, actions[::-1], upper_params=start), elsewhere)


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "krylov": {"solver": "krylov"},
    "one iteration": {"tolerance": 1e-6, "max_iterations": 1},
}


@cache
def answers_in_seats(task_id: str, name: str) -> list[Any]:
    """Return records of a task in Gymnasium's own vector."""
    (task,) = (task for task in TASKS if task.id == task_id)
    theirs = leader_seats(task_id, 2, outer_steps=2, **task.test_kwargs, **OPTIONS[name])
    return played(theirs, moves(theirs, 3))


@pytest.mark.parametrize("task", TABULAR_TASKS, ids=lambda task: task.id)
@pytest.mark.parametrize("name", OPTIONS)
def test_tasks_are_answered_as_in_their_seat(task: Any, name: str, backend: str) -> None:
    ours = leaders(task.id, 2, outer_steps=2, **task.test_kwargs, **OPTIONS[name])
    records = played(ours, moves(ours, 3))
    for one, other in zip(records, answers_in_seats(task.id, name), strict=True):
        # At rounding, where the default tolerance ends, a last step more or less is chance.
        found, expected = ({**record[-1]} for record in (one, other))
        difference = found.pop("inner_iterations") - expected.pop("inner_iterations")
        assert np.abs(difference).max() <= 1
        assert_close((*one[:-1], found), (*other[:-1], expected))


@every_mode
def test_copies_may_be_out_of_step(mode: str, backend: str) -> None:
    options: dict[str, Any] = {"outer_steps": 5, "tolerance": 1e-9}
    ours, theirs = leaders(NOISE, 3, mode, **options), leader_seats(NOISE, 3, mode, **options)
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


# Answers ----------------------------------------------------------------------------------------


def test_one_game_answers_for_all_copies_and_in_full(backend: str) -> None:
    envs = leaders(NOISE, 3)
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
    envs, single = leaders(NOISE, 3), leaders(NOISE, 1)
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
    envs = leaders(GRID, 2, outer_steps=2, tolerance=1e-8)
    _, first = envs.reset()
    x = moves(envs, 1)[0]
    steps = [envs.step(x)[-1]["inner_iterations"].tolist() for _ in range(2)]
    assert steps[0] != [0, 0] and steps[1] == [0, 0]
    again = envs.step(x)[-1]  # ended, hence a new episode
    np.testing.assert_array_equal(again["inner_iterations"], first["inner_iterations"])
    assert envs.step(x)[-1]["inner_iterations"].tolist() == steps[0]


def test_x_is_taken_at_full_precision_and_only_from_copies_that_move(backend: str) -> None:
    envs = leaders(NOISE, 2, outer_steps=1)
    envs.reset()
    x = np.array([[1 / 3, 0.1, -0.7]] * 2)
    np.testing.assert_array_equal(envs.step(x.tolist())[-1]["upper_params"], x)
    *_, infos = envs.step(np.full((2, 3), np.nan))  # both start again
    np.testing.assert_array_equal(infos["upper_params"], np.zeros((2, 3)))
    assert envs.step(x.astype(np.float32))[-1]["upper_params"].dtype == np.float64


def test_restarts_climb_side_by_side(backend: str) -> None:
    envs, low, high = leaders(NOISE, 3), -np.ones(3), np.ones(3)
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

    envs: Any = as_vec_env(leaders(NOISE, 4, "SameStep", outer_steps=10))
    options: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "device": "cpu"}
    assert stable_baselines3.PPO("MlpPolicy", envs, **options).learn(128).num_timesteps == 128
    envs.reset()
    for step in range(10):
        observations, rewards, dones, infos = envs.step(np.full((4, 3), 0.01 * step))
    assert dones.all() and observations.shape == (4, 3) and rewards.dtype == np.float32
    for info in infos:
        assert info["TimeLimit.truncated"] and info["terminal_observation"].shape == (3,)
        np.testing.assert_array_equal(info["upper_params"], np.full(3, 0.09))
        assert info["inner_converged"] and info["inner_iterations"].dtype == np.int64
