"""Pictures of every task with an exact answer, in both seats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bilevel_gym.registration import Task

from .helpers import (
    DRAWN_TASKS,
    EXACT_TASKS,
    follower_seat,
    interior_point,
    leader_seat,
    sampled_actions,
)

DRAWN = [task for task in EXACT_TASKS if task in DRAWN_TASKS]


@pytest.mark.parametrize("task", DRAWN, ids=lambda task: task.id)
def test_pictures_keep_their_size_and_show_what_changes(task: Task) -> None:
    leader = leader_seat(task, render_mode="rgb_array")
    follower = follower_seat(task, interior_point(leader), render_mode="rgb_array")
    pictures: list[Any] = []
    for seat, actions in (
        (leader, [interior_point(leader)]),
        (follower, sampled_actions(follower, 2)),
    ):
        seat.reset(seed=0)
        pictures.append(seat.render())
        for action in actions:
            seat.step(action)
            pictures.append(seat.render())
    for number, picture in enumerate(pictures):
        assert picture.dtype == np.uint8 and picture.shape == pictures[0].shape
        assert not any(np.array_equal(picture, other) for other in pictures[:number])
