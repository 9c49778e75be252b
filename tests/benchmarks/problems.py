"""The problems that the rows of the table are measured on.

All are instances of the follower's problem, built from a seed, at sizes up to millions of states.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.envs.four_rooms import FREE, PLACES
from bilevel_gym.envs.grids import slippery_kernel

# HPGD's map (Thoma et al., NeurIPS 2024): the intended move has .56.
FOUR_ROOMS_GOAL, FOUR_ROOMS_SLIP = (1, 9), 0.44


def four_rooms(*, cycling: bool, seed: int = 0) -> TabularMDP:
    """Return a problem on the Four-Rooms map: goal reward 1, 104 states, gamma .99, tau .003.

    If `cycling`, rewards of moves are random and of either sign: the follower may cycle for profit,
    and value iteration contracts by gamma alone (some 1500 sweeps). Otherwise every cell takes a
    toll, episodes end, and it needs a tenth of that.
    """
    rng = np.random.default_rng(seed)
    goal = PLACES.index(FOUR_ROOMS_GOAL)
    kernel = map_kernel(FREE, goal, FOUR_ROOMS_SLIP)
    shape = (kernel.num_states, kernel.num_actions)
    pay = rng.normal(0.0, 0.1, shape) if cycling else np.repeat(-tolls(rng, shape[0]), 4, axis=1)
    pay[goal] = 1.0
    return TabularMDP(kernel, pay, gamma=0.99, temperature=0.003)


def grid(
    side: int, *, gamma: float = 0.99, temperature: float = 0.05, slip: float = 0.1, seed: int = 0
) -> TabularMDP:
    """Return an open grid of side x side cells with a toll in each, and its end in one corner.

    At the default temperature entropy pays more than the tolls cost, so the follower prefers never
    to end and value iteration contracts by gamma alone.
    """
    rng = np.random.default_rng(seed)
    kernel = map_kernel(np.ones((side, side), dtype=bool), side * side - 1, slip)
    reward = np.broadcast_to(-tolls(rng, side * side), (side * side, 4))
    return TabularMDP(kernel, reward, gamma=gamma, temperature=temperature)


def garnet(
    num_states: int,
    num_actions: int,
    branching: int,
    *,
    gamma: float = 0.99,
    temperature: float = 0.05,
    seed: int = 0,
) -> TabularMDP:
    """Return a random problem: `branching` random successors with random weights, rewards U(0, 1).

    A successor drawn twice gets the sum of both weights.
    """
    rng = np.random.default_rng(seed)
    pairs = num_states * num_actions
    successors = rng.integers(num_states, size=(pairs, branching), dtype=np.int32)
    weights = rng.random((pairs, branching))
    weights /= weights.sum(axis=1, keepdims=True)
    # Straight into CSR: triplets of millions of states would take twenty times the room.
    starts = np.arange(0, pairs * branching + 1, branching, dtype=np.int32)
    matrix = csr_array((weights.ravel(), successors.ravel(), starts), shape=(pairs, num_states))
    matrix.sum_duplicates()
    kernel = Kernel(matrix, num_states, num_actions)
    reward = rng.random((num_actions, num_states)).T
    return TabularMDP(kernel, reward, gamma=gamma, temperature=temperature)


def random_mdp(seed: int = 0) -> tuple[Kernel, FloatArray, FloatArray]:
    """Return kernel, c and M of the synthetic problem of Yang, Gao and Yuan (AISTATS 2025).

    S = 10, A = 5, and the reward is r(s, a) = c(s, a) x^T M x with x `[100]`.
    """
    rng = np.random.default_rng(seed)
    num_states, num_actions, dimension = 10, 5, 100
    transition = np.zeros((num_states, num_actions, num_states))
    for row in transition.reshape(-1, num_states):
        successors = rng.choice(num_states, rng.integers(1, num_states), replace=False)
        row[successors] = rng.random(successors.size)
        row /= row.sum()
    scales = rng.random((num_states, num_actions)) * rng.random((num_states, num_actions))
    return Kernel.from_dense(transition), scales, rng.normal(size=(dimension, dimension))


def perturbed(mdp: TabularMDP, size: float, seed: int = 1) -> TabularMDP:
    """Return the problem with every reward moved by up to `size`, relative."""
    factors = 1.0 + size * np.random.default_rng(seed).uniform(-1.0, 1.0, mdp.reward.shape)
    return replace(mdp, reward=mdp.reward * factors)


def kernel_bytes(kernel: Kernel) -> int:
    """Return how much memory a kernel takes."""
    matrix = kernel.matrix
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def map_kernel(free: NDArray[np.bool_], goal: int, slip: float) -> Kernel:
    """Return the kernel of four moves on a map; cells that are not free bounce.

    Free cells `[H, W]` are states, numbered row by row; in the state `goal` any action ends the
    episode; `slip` is the probability of the three other moves together.
    """
    states = np.where(free, free.cumsum().reshape(free.shape) - 1, -1)
    return slippery_kernel(states, np.arange(free.sum())[None] == goal, slip)


def tolls(rng: np.random.Generator, num_states: int) -> FloatArray:
    """Return a toll U(0, .1) for each state, `[S, 1]`."""
    return rng.uniform(0.0, 0.1, (num_states, 1))
