"""Sampled transitions come from the very kernel that the solver uses."""

from __future__ import annotations

import numpy as np
import pytest

from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.episodes.transitions import TransitionArrays, TransitionTables

from .models import random_mdp


def test_the_ends_of_the_unit_interval_stay_within_the_row() -> None:
    tables = TransitionTables(random_mdp(0, termination=0.0), np.zeros((8, 3)))
    assert tables.sample(0, 0, 0.0)[:2] == (0, False)
    assert tables.sample(0, 0, np.nextafter(1.0, 0.0))[:2] == (7, False)


def sparse_mdp() -> TabularMDP:
    """Return an MDP with rows of every length from none to six, in no order."""
    rng = np.random.default_rng(4)
    transition = np.zeros((6, 4, 6))
    for row in transition.reshape(-1, 6):
        count = rng.integers(7)
        # Sums below, at and, by rounding, next to one.
        total = rng.choice([0.5, 1.0, 1.0 - 1e-13])
        row[rng.permutation(6)[:count]] = rng.dirichlet(np.ones(count)) * total if count else 0.0
    return TabularMDP(Kernel.from_dense(transition), rng.normal(size=(6, 4)), 0.9, 0.1)


@pytest.mark.parametrize(
    "mdp",
    [
        random_mdp(0, termination=0.0),
        random_mdp(1, termination=0.4),
        random_mdp(2, masked=True),
        random_mdp(3, num_states=300, num_actions=2),
        sparse_mdp(),
    ],
    ids=["full rows", "endings", "masked", "long rows", "rows of all lengths"],
)
def test_many_at_a_time_are_the_very_transitions_that_come_one_by_one(mdp: TabularMDP) -> None:
    num_states, num_actions = mdp.reward.shape
    rng = np.random.default_rng(5)
    upper_reward = rng.normal(size=mdp.reward.shape)
    tables, arrays = TransitionTables(mdp, upper_reward), TransitionArrays(mdp, upper_reward)
    states, actions = (index.ravel() for index in np.indices(mdp.reward.shape))
    pairs = list(zip(states.tolist(), actions.tolist(), strict=True))
    # The ends of the interval, numbers between, and the very steps of some row.
    steps = np.cumsum(mdp.kernel.row(num_states - 1, 0)[1])[:5].clip(max=np.nextafter(1.0, 0.0))
    for uniform in [0.0, np.nextafter(1.0, 0.0), *rng.random(20), *steps, *np.nextafter(steps, 0)]:
        batched = arrays.sample(states, actions, np.full(states.size, uniform))
        alone = [tables.sample(state, action, uniform) for state, action in pairs]
        for one, many in zip(zip(*alone, strict=True), batched, strict=True):
            np.testing.assert_array_equal(many, one)


def test_one_long_row_costs_no_memory_in_the_others() -> None:
    # A hub that leads to each of 3000 states, each of which leads back: padded, 72 MB.
    size = 3000
    states = np.concatenate([np.zeros(size, int), np.arange(1, size)])
    successors = np.concatenate([np.arange(size), np.zeros(size - 1, int)])
    probabilities = np.concatenate([np.full(size, 1.0 / size), np.ones(size - 1)])
    kernel = Kernel.from_triplets(
        states, np.zeros_like(states), successors, probabilities, num_states=size, num_actions=1
    )
    reward = np.zeros((size, 1))
    arrays = TransitionArrays(TabularMDP(kernel, reward, 0.9, 0.1), reward)
    held = sum(value.nbytes for value in vars(arrays).values() if isinstance(value, np.ndarray))
    assert held < 100 * size
    uniforms = np.random.default_rng(6).random(10)
    drawn, *_ = arrays.sample(np.zeros(10, int), np.zeros(10, int), uniforms)
    np.testing.assert_array_equal(drawn, np.floor(uniforms * size))
