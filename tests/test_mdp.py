"""The kernel against dense linear algebra."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix

from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.model.jacobians import RewardJacobian

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


def sparse_kernels() -> dict[str, Callable[[FloatArray], Kernel]]:
    """Return all ways from probabilities `[S, A, S]` to a kernel."""
    ways: dict[str, Callable[[FloatArray], Kernel]] = {"dense": Kernel.from_dense}
    for name in ("csr", "csc", "coo", "lil", "dia"):
        ways[f"list of {name}"] = lambda p, name=name: Kernel.from_sparse(  # type: ignore[misc]
            [csr_array(p[:, a]).asformat(name) for a in range(p.shape[1])]
        )
    ways["list of matrices"] = lambda p: Kernel.from_sparse(
        [csr_matrix(p[:, a]) for a in range(p.shape[1])]
    )
    ways["action-major"] = lambda p: Kernel.from_sparse(
        csr_array(p.transpose(1, 0, 2).reshape(-1, len(p))), rows="action-major"
    )
    ways["state-major"] = lambda p: Kernel.from_sparse(
        csr_array(p.reshape(-1, len(p))), rows="state-major"
    )
    ways["constructor"] = lambda p: Kernel(
        csc_array(p.transpose(1, 0, 2).reshape(-1, len(p))), len(p), p.shape[1]
    )
    return ways


@pytest.mark.parametrize("way", sparse_kernels())
def test_every_way_to_a_kernel_gives_the_same_one_and_checks_it(way: str) -> None:
    build, wanted = sparse_kernels()[way], random_mdp(0).kernel
    dense = wanted.to_dense()
    found = build(dense)
    np.testing.assert_array_equal(found.to_dense(), dense)
    assert found.matrix.format == "csr" and found.matrix.indices.dtype == np.int32
    assert not found.matrix.data.flags.writeable
    for value, words in ((2.0, "sum to at most 1"), (-0.1, "not negative"), (np.nan, "finite")):
        wrong = dense.copy()
        wrong[1, 2, 3] = value
        with pytest.raises(ValueError, match=words):
            build(wrong)


def test_rows_of_single_precision_are_normalised() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 300):
        rows = rng.random((size, 2, size)).astype(np.float32)
        rows /= rows.sum(axis=2, keepdims=True)
        sums = Kernel.from_dense(rows).row_sums
        np.testing.assert_allclose(sums, 1.0, rtol=0, atol=1e-14)
    ending = Kernel.from_dense(0.5 * rows)  # these end the episode, and stay as they are
    np.testing.assert_allclose(ending.row_sums, 0.5, rtol=1e-6)


EYE = np.eye(2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Kernel(csr_array(np.eye(4)), 2, 2), r"\[M\*S, S\] = \(4, 2\), got \(4, 4\)"),
        (lambda: Kernel(csr_array(EYE), 2, 5), r"\(10, 2\), got \(2, 2\)"),
        (lambda: Kernel(np.eye(2), 2, 1), "SciPy sparse matrix .* got ndarray; see `Kernel.from_d"),
        (lambda: Kernel(csr_array(1j * EYE), 2, 1), "real numbers"),
        (lambda: Kernel(csr_array(EYE), 2, 3, np.array([0, 0])), "each of 3 actions, got 2"),
        (lambda: Kernel(csr_array(EYE), 2, 1, np.array([0.5])), "`moves` must be integers"),
        (lambda: Kernel.from_sparse(csr_array(EYE)), "`rows` must say how"),
        (lambda: Kernel.from_sparse([EYE]), "SciPy sparse matrix"),
        (lambda: Kernel.from_sparse([csr_array(EYE), csr_array(np.eye(3))]), r"one shape \[S, S\]"),
        (
            lambda: Kernel.from_sparse(csr_array(np.ones((3, 2))), rows="state-major"),
            r"\[A\*S, S\]",
        ),
        (
            lambda: Kernel.from_triplets([0], [0], [0, 1], [1.0], num_states=2, num_actions=1),
            "one l",
        ),
        (
            lambda: Kernel.from_triplets([0], [0], [0], [1.0], num_states=0, num_actions=1),
            "at least",
        ),
        (
            lambda: Kernel.from_triplets([0], [0], [0], [1.0], num_states=True, num_actions=1),
            "got True",
        ),
        (lambda: Kernel.from_dense([[["a"]]]), "real numbers, got list of dtype <U1"),
        (lambda: Kernel.from_dense(np.ma.masked_equal(EYE[:, None], 0.0)), "masked entries"),
    ],
)
def test_no_way_to_a_kernel_skips_the_checks(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([[0.0, -np.inf]], "True and False, or 1 and 0, got -inf"),
        ([[1.0, np.nan]], "got nan"),
        ([[1, -1]], "got -1"),
        ([["True", "False"]], "real numbers"),
        (np.ma.masked_equal([[1, 0]], 0), "masked entries"),
    ],
)
def test_a_mask_is_not_taken_by_truthiness(mask: Any, words: str) -> None:
    kernel = Kernel.from_dense(np.ones((1, 2, 1)))
    with pytest.raises(ValueError, match=words):
        TabularMDP(kernel, np.zeros((1, 2)), 0.9, 0.1, mask)
    assert solve_soft_mdp(TabularMDP(kernel, np.zeros((1, 2)), 0.9, 0.1, [[1, 0]])).converged  # type: ignore[arg-type]


def pointing_out(kind: Any, part: str) -> Any:
    """Return an identity `[2, 2]` of which an index has been changed by hand."""
    matrix = kind(csr_array(np.eye(2)))
    indices = getattr(matrix, part).copy()
    indices[1] = 99 if part != "row" else -1
    setattr(matrix, part, indices)
    return matrix


@pytest.mark.parametrize(
    ("kind", "part"),
    [(csr_array, "indices"), (csr_array, "indptr"), (csc_array, "indices"), (coo_array, "row")],
)
def test_matrices_that_point_out_of_themselves_are_refused(kind: Any, part: str) -> None:
    matrix = pointing_out(kind, part)
    builders: list[Callable[[], Any]] = [
        lambda: Kernel(matrix, 2, 1),
        lambda: Kernel.from_sparse([matrix]),
        lambda: Kernel.from_sparse(matrix, rows="state-major"),
        lambda: RewardJacobian(matrix, 2, 1),
    ]
    for build in builders:
        with pytest.raises(ValueError, match="valid sparse matrix"):
            build()


def test_a_kernel_is_not_changed_by_hand() -> None:
    matrix = random_mdp(0).kernel.matrix
    for part in (matrix.data, matrix.indices, matrix.indptr):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 99
