"""Pictures of games without a map."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bilevel_gym.rendering import frame
from bilevel_gym.rendering.canvas import HEADER_HEIGHT, THEME
from bilevel_gym.rendering.table import (
    HEADING_HEIGHT,
    LABEL_WIDTH,
    MAX_STATES,
    TABLES_WIDTH,
    TableScene,
    draw_table,
)

from .helpers import FloatArray, refusals


def some_scene(num_states: int = 6, num_actions: int = 3, dim: int = 8) -> TableScene:
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(num_actions), num_states)
    return TableScene(
        reward=rng.normal(size=(num_states, num_actions)),
        params=rng.normal(size=dim),
        policy=policy,
        occupancy=rng.dirichlet(np.ones(num_states)),
        gradient=rng.normal(size=dim),
        title="Title",
        status=(("objective", "1.0"),),
    )


def pixels(scene: TableScene) -> FloatArray:
    return frame(draw_table(scene)).astype(np.float64)


@pytest.mark.parametrize(
    "change",
    [
        {"reward": np.zeros((6, 3))},
        {"policy": np.full((6, 3), 1 / 3)},
        {"policy": None},
        {"occupancy": np.full(6, 1 / 6)},
        {"occupancy": None},
        {"params": np.ones(8)},
        {"gradient": -np.ones(8)},
        {"gradient": None},
        {"follower": 0},
        {"title": "Other"},
        {"status": ()},
    ],
)
def test_everything_in_a_scene_can_be_seen(change: dict[str, Any]) -> None:
    scene = some_scene()
    before, after = pixels(scene), pixels(replace(scene, **change))
    assert before.shape == after.shape
    assert np.abs(before - after).max() > 50.0


def test_the_follower_is_marked_in_its_own_row() -> None:
    scene = some_scene()
    plain = pixels(scene)
    rows = []
    for state in range(6):
        changed = np.abs(pixels(replace(scene, follower=state)) - plain).max(axis=2) > 50.0
        # Left of the tables; the key below is the same for all.
        rows.append(np.flatnonzero(changed[:550, :60].any(axis=1)).mean())
    np.testing.assert_allclose(np.diff(rows), np.diff(rows)[0], atol=1.0)
    assert np.diff(rows)[0] > 20.0


def test_a_greyscale_copy_keeps_the_order_of_the_rewards() -> None:
    reward = np.array([[-1.0, 0.0, 1.0]])
    scene = TableScene(reward=reward, params=np.zeros(1))
    picture = pixels(scene) @ np.array([0.299, 0.587, 0.114])
    # The only row of cells: below the headings, left of the middle; near the cells' corners.
    row = picture[HEADER_HEIGHT + HEADING_HEIGHT + 2, :]
    left, width = THEME.margin + LABEL_WIDTH, (TABLES_WIDTH - THEME.margin) // 2
    starts = [left + i * width // 3 for i in range(3)]
    greys = [row[start + 4] for start in starts]
    assert greys[0] < greys[1] < greys[2]


def test_large_games_show_a_part_and_stay_fast() -> None:
    scene = some_scene(100_000, 40, 50_000)
    begin = time.perf_counter()
    picture = pixels(scene)
    assert time.perf_counter() - begin < 5.0
    assert picture.shape == pixels(some_scene()).shape
    # Rows that are not shown do not count, unless the follower is there.
    far = 50_000
    hidden = np.array(scene.reward)
    hidden[far] += 100.0
    np.testing.assert_array_equal(pixels(replace(scene, reward=hidden)), picture)
    shown = [pixels(replace(scene, reward=r, follower=far)) for r in (scene.reward, hidden)]
    assert np.abs(shown[0] - shown[1]).max() > 50.0
    # The window stops at the last state.
    assert pixels(replace(scene, follower=99_999)).shape == picture.shape


@pytest.mark.parametrize("count", [1, MAX_STATES, MAX_STATES + 1])
def test_tables_of_any_length_are_drawn_with_zeros_and_actions_that_do_not_exist(
    count: int,
) -> None:
    scene = replace(some_scene(count, 2, 1), follower=count - 1)
    zeros = replace(
        scene, reward=np.zeros((count, 2)), occupancy=np.zeros(count), params=np.zeros(1)
    )
    gaps = np.array(scene.reward)
    gaps[0, 1] = np.nan
    before, dark = pixels(scene), pixels(replace(scene, reward=gaps, policy=gaps * 0.0))
    assert before.shape == pixels(zeros).shape == pixels(some_scene()).shape
    assert np.abs(dark - before).max() > 50.0


test_wrong_shapes_and_probabilities_are_refused = refusals(
    lambda **change: draw_table(replace(some_scene(), **change)),
    ({"reward": np.zeros(3)}, r"`reward` must have shape \[S, A\], got \(3,\)"),
    ({"policy": np.zeros((3, 3))}, r"`policy` must have shape \(6, 3\), got \(3, 3\)"),
    ({"occupancy": np.zeros(3)}, r"`occupancy` must have shape \(6,\), got \(3,\)"),
    ({"gradient": np.zeros(3)}, r"`gradient` must have shape \(8,\), got \(3,\)"),
    ({"follower": 6}, r"`follower` must lie in 0\.\.5, got 6"),
    ({"policy": np.full((6, 3), 1.5)}, r"`policy` must lie in \[0, 1\], got 1.5"),
    ({"occupancy": np.full(6, 1.5)}, r"`occupancy` must lie in \[0, 1\], got 1.5"),
)
