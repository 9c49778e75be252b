"""The kernel against dense linear algebra."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bilevel_gym.core.mdp import Kernel, TabularMDP

from .models import random_mdp


def test_dense_probabilities_survive_the_round_trip() -> None:
    transition = np.random.default_rng(0).dirichlet(np.ones(5), size=(5, 3)) * 0.9
    np.testing.assert_array_equal(Kernel.from_dense(transition).to_dense(), transition)


def test_rows_are_action_major_with_int32_indices() -> None:
    transition = np.random.default_rng(0).dirichlet(np.ones(4), size=(4, 2))
    kernel = Kernel.from_dense(transition)
    np.testing.assert_array_equal(kernel.matrix.toarray()[1 * 4 + 2], transition[2, 1])
    assert kernel.matrix.indices.dtype == np.int32 and kernel.matrix.indptr.dtype == np.int32
    assert kernel.matrix.data.dtype == np.float64


def test_duplicate_transitions_are_summed() -> None:
    kernel = Kernel.from_triplets([0, 0], [0, 0], [1, 1], [0.25, 0.5], num_states=2, num_actions=1)
    assert kernel.to_dense()[0, 0, 1] == 0.75
    assert kernel.row_sums[0, 0] == 0.75 and kernel.row_sums[1, 0] == 0.0


def test_products_agree_with_dense_einsums() -> None:
    kernel = random_mdp(1).kernel
    dense = kernel.to_dense()
    rng = np.random.default_rng(2)
    value, weights = rng.normal(size=8), rng.normal(size=(8, 3))
    policy = rng.dirichlet(np.ones(3), size=8)
    p_pi = np.einsum("sa,sat->st", policy, dense)
    np.testing.assert_allclose(kernel.expect(value), dense @ value, atol=1e-14)
    np.testing.assert_allclose(
        kernel.flow(weights), np.einsum("sa,sat->t", weights, dense), atol=1e-14
    )
    np.testing.assert_allclose(kernel.policy_matrix(policy).toarray(), p_pi, atol=1e-15)
    system = kernel.pattern.dense(kernel.system_entries(policy, 0.9))
    np.testing.assert_allclose(system, np.eye(8) - 0.9 * p_pi, atol=1e-15)
    states, actions, successors = kernel.triplets
    np.testing.assert_allclose(
        kernel.on_transitions(weights, value), weights[states, actions] * value[successors]
    )
    np.testing.assert_array_equal(kernel.matrix.data, dense[states, actions, successors])


def test_a_kernel_with_other_probabilities_shares_the_structure() -> None:
    kernel = random_mdp(1).kernel
    policy = np.full((8, 3), 1.0 / 3.0)
    kernel.policy_matrix(policy)
    other = kernel.with_probabilities(kernel.matrix.data * 0.5)
    assert other.pattern is kernel.pattern
    np.testing.assert_allclose(
        other.policy_matrix(policy).toarray(), 0.5 * kernel.policy_matrix(policy).toarray()
    )


def test_products_with_other_probabilities_are_their_own() -> None:
    kernel, rng = random_mdp(1).kernel, np.random.default_rng(3)
    value, weights = rng.normal(size=8), rng.normal(size=(8, 3))
    policy = rng.dirichlet(np.ones(3), size=8)
    # Whatever is computed once is computed for the first kernel here.
    kernel.flow(weights), kernel.row_sums, kernel.by_move, kernel.system_entries(policy, 0.9)
    other = kernel.with_probabilities(kernel.matrix.data * rng.uniform(size=kernel.matrix.nnz))
    dense = other.to_dense()
    assert np.abs(dense - kernel.to_dense()).max() > 0.1
    expected = np.einsum("sa,sat->t", weights, dense)
    np.testing.assert_allclose(other.flow(weights), expected, atol=1e-14)
    np.testing.assert_allclose(other.row_sums, dense.sum(axis=2), atol=1e-15)
    np.testing.assert_allclose(other.expect(value), dense @ value, atol=1e-14)
    system = other.pattern.dense(other.system_entries(policy, 0.9))
    p_pi = np.einsum("sa,sat->st", policy, dense)
    np.testing.assert_allclose(system, np.eye(8) - 0.9 * p_pi, atol=1e-15)
    assert other.by_move is other


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


@pytest.mark.parametrize("gamma", [-0.1, 1.0, 1.5, np.nan])
def test_a_discount_outside_the_unit_interval_is_rejected(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\), got"):
        random_mdp(0, gamma=gamma)


def test_rewards_must_fit_the_kernel() -> None:
    kernel = random_mdp(0).kernel
    with pytest.raises(ValueError, match=r"\[S, A\] = \(8, 3\), got \(3, 8\)"):
        TabularMDP(kernel, np.zeros((3, 8)), 0.9, 1.0)
    reward = np.zeros((8, 3))
    reward[4, 1] = np.nan
    with pytest.raises(ValueError, match="finite, got nan in state 4, action=1"):
        TabularMDP(kernel, reward, 0.9, 1.0)


def test_indices_out_of_range_are_rejected() -> None:
    with pytest.raises(ValueError, match="`next_states` must lie in 0..1, got 2..2"):
        Kernel.from_triplets([0], [0], [2], [1.0], num_states=2, num_actions=1)


def test_probabilities_of_both_signs_cannot_cancel() -> None:
    with pytest.raises(ValueError, match=r"P\(1\|s=0, a=0\) = -0.5"):
        Kernel.from_triplets([0, 0], [0, 0], [1, 1], [1.5, -0.5], num_states=2, num_actions=1)


def test_states_must_be_integers() -> None:
    with pytest.raises(ValueError, match="`states` must be integers, got dtype float64"):
        Kernel.from_triplets([0.5], [0], [1], [1.0], num_states=2, num_actions=1)


def test_a_row_holds_the_successors_of_a_pair() -> None:
    kernel = random_mdp(1).kernel
    successors, probabilities = kernel.row(5, 2)
    np.testing.assert_array_equal(kernel.to_dense()[5, 2, successors], probabilities)


@pytest.mark.parametrize("excess", [1e-8, 1e-3])
def test_rows_may_exceed_one_by_rounding_only(excess: float) -> None:
    Kernel.from_dense(np.array([[[1.0 + 1e-12]]]))
    with pytest.raises(ValueError, match="must sum to at most 1"):
        Kernel.from_dense(np.array([[[1.0 + excess]]]))


def test_a_pickled_kernel_leaves_its_caches_behind_and_works_as_before() -> None:
    kernel = random_mdp(2).kernel
    bare = len(pickle.dumps(kernel))
    policy = np.full((8, 3), 1.0 / 3.0)
    entries = kernel.system_entries(policy, 0.9)
    assert len(pickle.dumps(kernel)) == bare
    copy = pickle.loads(pickle.dumps(kernel))
    np.testing.assert_array_equal(copy.system_entries(policy, 0.9), entries)
