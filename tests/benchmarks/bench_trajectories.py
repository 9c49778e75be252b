"""Sampled episodes with the discounted sums of the reward's gradient, n = 104 tolls."""

from __future__ import annotations

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.episodes.simulator import Simulator
from tests.benchmarks import peers
from tests.benchmarks.problems import four_rooms
from tests.benchmarks.table import Compare, check_agreement

EPISODES, HORIZON, GAMMA = 10_000, 200, 0.99


@pytest.mark.parametrize("sampler", ["cumulative", "alias"])
@pytest.mark.parametrize("ending", [True, False], ids=["ending", "endless"])
def bench_against_jax(compare: Compare, ending: bool, sampler: str, backend: str) -> None:
    """Against a scan that draws from cumulative rows, and one that has our alias tables too."""
    mdp = four_rooms(cycling=False, ending=ending)
    kernel, policy = mdp.kernel, solve_soft_mdp(mdp).policy
    first = np.full(mdp.kernel.num_states, 1.0 / mdp.kernel.num_states)
    rng, cells = np.random.default_rng(0), np.arange(kernel.num_states)
    simulator = Simulator(kernel, policy)

    def ours() -> FloatArray:
        played = simulator.simulate(first, num_episodes=EPISODES, horizon=HORIZON, rng=rng)
        return played.discounted_gradient(cells, GAMMA, num_parameters=cells.size)

    peer = peers.jax_episodes(kernel, policy, sampler, EPISODES, HORIZON, GAMMA)
    expected = visits(kernel, policy, first)
    for side in (ours, peer):
        check_agreement(side().mean(axis=0), expected, 0.03, "the mean of the sums")
    compare(
        f"{EPISODES} episodes of {'at most ' if ending else ''}{HORIZON} steps, Four-Rooms, "
        f"gradient sums, {backend}",
        ours,
        f"JAX scan, {sampler} tables",
        peer,
        at_least={"numpy": 0.2, "numba": 3.0}[backend],
    )


def visits(kernel: Kernel, policy: FloatArray, first: FloatArray) -> FloatArray:
    """Return the expected discounted visits of each state within the horizon, `[S]`."""
    total = np.zeros_like(first)
    now = first
    for step in range(HORIZON):
        total += GAMMA**step * now
        now = kernel.flow(now[:, None] * policy)
    return total
