"""The kernel against dense linear algebra."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP

from .helpers import refusals
from .models import assert_products, random_mdp


def test_rows_are_action_major_with_int32_indices() -> None:
    transition = np.random.default_rng(0).dirichlet(np.ones(5), size=(5, 3)) * 0.9
    kernel = Kernel.from_dense(transition)
    np.testing.assert_array_equal(kernel.to_dense(), transition)
    np.testing.assert_array_equal(kernel.matrix.toarray()[1 * 5 + 2], transition[2, 1])
    assert kernel.matrix.indices.dtype == np.int32 and kernel.matrix.indptr.dtype == np.int32
    assert kernel.matrix.data.dtype == np.float64
    successors, probabilities = kernel.row(4, 2)
    np.testing.assert_array_equal(transition[4, 2, successors], probabilities)


def test_duplicate_transitions_are_summed() -> None:
    kernel = Kernel.from_triplets([0, 0], [0, 0], [1, 1], [0.25, 0.5], num_states=2, num_actions=1)
    assert kernel.to_dense()[0, 0, 1] == 0.75
    assert kernel.row_sums[0, 0] == 0.75 and kernel.row_sums[1, 0] == 0.0


def test_products_agree_with_dense_einsums() -> None:
    kernel = random_mdp(1).kernel
    assert_products(kernel, kernel.to_dense())
    # Whatever is computed once is computed for the first kernel here; the structure is shared.
    scale = np.random.default_rng(3).uniform(size=kernel.matrix.nnz)
    other = kernel.with_probabilities(kernel.matrix.data * scale)
    assert other.pattern is kernel.pattern
    assert np.abs(other.to_dense() - kernel.to_dense()).max() > 0.1
    assert_products(other, other.to_dense())


def test_a_pickled_kernel_leaves_its_caches_behind_and_works_as_before() -> None:
    kernel = random_mdp(2).kernel
    bare = len(pickle.dumps(kernel))
    assert_products(kernel, kernel.to_dense())
    assert len(pickle.dumps(kernel)) == bare
    assert_products(pickle.loads(pickle.dumps(kernel)), kernel.to_dense())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1e-9, r"finite and not negative, got P\(2\|s=1, a=0\) = -1e-09"),
        (np.nan, r"finite and not negative, got P\(2\|s=1, a=0\) = nan"),
        (np.inf, r"finite and not negative, got P\(2\|s=1, a=0\) = inf"),
        (0.8, r"must sum to at most 1 .*, got 1.1\d* for state 1, action 0"),
    ],
)
def test_other_probabilities_are_checked_like_the_first(value: float, words: str) -> None:
    kernel = Kernel.from_dense(np.full((3, 2, 3), 0.15))
    data = kernel.matrix.data.copy()
    data[3:6] = 0.15, 0.15, value  # from state 1 by action 0
    with pytest.raises(ValueError, match=words):
        kernel.with_probabilities(data)
    with pytest.raises(ValueError, match=r"`probabilities` must have shape \(18,\), got \(17,\)"):
        kernel.with_probabilities(data[1:])


def test_a_kernel_does_not_change_with_the_array_it_was_made_from() -> None:
    kernel = Kernel.from_dense(np.full((3, 2, 3), 0.15))
    data = np.full(18, 0.25)
    other = kernel.with_probabilities(data)
    data[:] = 9.0
    np.testing.assert_array_equal(other.to_dense(), np.full((3, 2, 3), 0.25))


def test_arrays_of_the_mdp_are_action_major_inside() -> None:
    mdp = random_mdp(0)
    assert mdp.reward.shape == (8, 3) and mdp.reward.flags.f_contiguous
    assert mdp.kernel.expect(np.ones(8)).flags.f_contiguous


def with_reward(reward: FloatArray) -> Callable[[], object]:
    return lambda: TabularMDP(random_mdp(0).kernel, reward, 0.9, 1.0)


def triplets(
    states: list[float], next_states: list[int], probabilities: list[float]
) -> Callable[[], object]:
    actions = [0] * len(states)
    return lambda: Kernel.from_triplets(
        states, actions, next_states, probabilities, num_states=2, num_actions=1
    )


test_bad_input_is_named = refusals(
    None,
    *(
        (lambda gamma=gamma: random_mdp(0, gamma=gamma), r"`gamma` must lie in \[0, 1\), got")
        for gamma in (-0.1, 1.0, 1.5, np.nan)
    ),
    (with_reward(np.zeros((3, 8))), r"\[S, A\] = \(8, 3\), got \(3, 8\)"),
    (
        with_reward(np.where(np.arange(24) == 13, np.nan, 0.0).reshape(8, 3)),
        "finite, got nan in state 4, action=1",
    ),
    (triplets([0], [2], [1.0]), "`next_states` must lie in 0..1, got 2..2"),
    (triplets([0, 0], [1, 1], [1.5, -0.5]), r"P\(1\|s=0, a=0\) = -0.5"),
    (triplets([0.5], [1], [1.0]), "`states` must be integers, got dtype float64"),
    (lambda: Kernel.from_dense([[[1.0 + 1e-8]]]), "must sum to at most 1"),
    (lambda: Kernel.from_dense([[[1.0 + 1e-3]]]), "must sum to at most 1"),
)


def test_rows_may_exceed_one_by_rounding() -> None:
    Kernel.from_dense([[[1.0 + 1e-12]]])
