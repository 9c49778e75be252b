"""Sampled transitions come from the very kernel that the solver uses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from bilevel_gym import LowerLevel
from bilevel_gym.envs import ArrayBilevelEnv
from bilevel_gym.sampling import TransitionTables

from .models import random_mdp

DRAWS = 20_000


@pytest.mark.parametrize("termination", [0.0, 0.3, 0.95])
def test_successors_and_endings_have_the_frequencies_of_the_kernel(termination: float) -> None:
    mdp = random_mdp(0, termination=termination)
    tables = TransitionTables(mdp, np.zeros((8, 3)))
    uniforms = np.random.default_rng(1).random(DRAWS)
    dense = mdp.kernel.to_dense()
    for state, action in ((0, 0), (3, 2), (7, 1)):
        counts = np.zeros(9)
        for uniform in uniforms:
            successor, over, *_ = tables.sample(state, action, uniform)
            counts[8 if over else successor] += 1
        expected = np.append(dense[state, action], termination) * DRAWS
        possible = expected > 0.0
        assert not counts[~possible].any()
        assert chisquare(counts[possible], expected[possible]).pvalue > 1e-3


def test_the_ends_of_the_unit_interval_stay_within_the_row() -> None:
    tables = TransitionTables(random_mdp(0, termination=0.0), np.zeros((8, 3)))
    assert tables.sample(0, 0, 0.0)[:2] == (0, False)
    assert tables.sample(0, 0, np.nextafter(1.0, 0.0))[:2] == (7, False)


def test_first_states_have_the_frequencies_of_their_distribution() -> None:
    start = np.array([0.0, 0.2, 0.0, 0.5, 0.3, 0.0, 0.0, 0.0])
    mdp = random_mdp(0)
    game = ArrayBilevelEnv(
        mdp.kernel, mdp.reward, upper_reward=np.zeros((8, 3)), initial_distribution=start
    )
    env = LowerLevel(game, np.zeros(8))
    env.reset(seed=0)
    counts = np.bincount([env.reset()[0] for _ in range(5000)], minlength=8)
    assert not counts[start == 0.0].any()
    assert chisquare(counts[start > 0.0], 5000 * start[start > 0.0]).pvalue > 1e-3
