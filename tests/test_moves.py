"""Kernels whose actions share rows, against the same kernels with a row for every action."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.batch import solve_batch
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.soft import SoftSolution, solve_soft_mdp
from bilevel_gym.episodes.simulator import Simulator
from bilevel_gym.episodes.transitions import TransitionArrays, TransitionTables

from .helpers import FloatArray, p_value
from .models import assert_products, random_mdp

# Six actions on three moves, in no order, and a fourth move that no action makes.
MOVES = [2, 0, 2, 1, 0, 2]


def shared_mdp(*, masked: bool = False, temperature: float = 0.3, seed: int = 0) -> TabularMDP:
    rng = np.random.default_rng(seed)
    kernel = random_mdp(seed, num_actions=4, termination=0.1).kernel.with_moves(MOVES)
    mask = None
    if masked:
        mask = rng.random((8, 6)) < 0.5
        mask[:, 3] = True
    return TabularMDP(kernel, rng.normal(size=(8, 6)), 0.9, temperature, mask)


def expanded(mdp: TabularMDP) -> TabularMDP:
    return replace(mdp, kernel=mdp.kernel.expanded())


def test_the_expanded_kernel_is_what_the_moves_say() -> None:
    by_move = random_mdp(0, num_actions=4, termination=0.1).kernel.to_dense()
    kernel = shared_mdp().kernel
    assert (kernel.num_actions, kernel.num_moves) == (6, 4)
    np.testing.assert_array_equal(kernel.to_dense(), by_move[:, MOVES])
    np.testing.assert_array_equal(kernel.expanded().to_dense(), by_move[:, MOVES])
    assert kernel.expanded().moves is None and kernel.expanded().num_moves == 6
    assert kernel.by_move.pattern is kernel.pattern
    assert kernel.by_move.num_actions == 4 and kernel.by_move.moves is None
    plain = random_mdp(0).kernel
    assert plain.expanded() is plain and plain.by_move is plain


def test_every_product_is_that_of_the_expanded_kernel() -> None:
    first = shared_mdp()
    solution = solve_soft_mdp(first, solver="dense")
    assert_products(first.kernel, first.kernel.expanded().to_dense())
    # Everything that is computed once is there now; other probabilities are felt all the same.
    shares = np.random.default_rng(4).uniform(0.2, 0.9, first.kernel.matrix.nnz)
    data = first.kernel.matrix.data * shares
    second = replace(first, kernel=first.kernel.with_probabilities(data))
    np.testing.assert_array_equal(second.kernel.by_move.matrix.data, data)
    assert_products(second.kernel, second.kernel.expanded().to_dense())
    ours, theirs = (solve_soft_mdp(mdp, solver="dense") for mdp in (second, expanded(second)))
    assert_same_answers(second, ours, theirs)
    assert np.abs(ours.soft_value - solution.soft_value).max() > 1e-3
    # The first kernel is as it was.
    assert_products(first.kernel, first.kernel.expanded().to_dense())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.1, r"P\(0\|s=0, move=0\) = -0.1"),
        (np.nan, r"P\(0\|s=0, move=0\) = nan"),
        (1.1, "must sum to at most 1"),
    ],
)
def test_other_probabilities_of_moves_are_checked(value: float, words: str) -> None:
    kernel = shared_mdp().kernel
    data = kernel.matrix.data.copy()
    data[0] = value
    with pytest.raises(ValueError, match=words):
        kernel.with_probabilities(data)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 1e-3])
@pytest.mark.parametrize("solver", ["dense", "krylov", "value-iteration"])
def test_solution_and_gradient_are_those_of_the_expanded_kernel(
    solver: str, temperature: float, masked: bool
) -> None:
    mdp = shared_mdp(masked=masked, temperature=temperature)
    ours = solve_soft_mdp(mdp, solver=solver, tolerance=1e-13)
    theirs = solve_soft_mdp(expanded(mdp), solver="dense")
    assert ours.converged and ours.mdp is mdp
    assert_same_answers(mdp, ours, theirs)


def assert_same_answers(mdp: TabularMDP, ours: SoftSolution, theirs: SoftSolution) -> None:
    np.testing.assert_allclose(ours.soft_value, theirs.soft_value, atol=1e-10)
    np.testing.assert_allclose(ours.policy, theirs.policy, atol=1e-8)
    np.testing.assert_allclose(ours.policy.sum(axis=1), 1.0, atol=1e-13)
    slopes = np.random.default_rng(9).normal(size=mdp.reward.shape)
    first, second = response_gradient(ours, slopes), response_gradient(theirs, slopes)
    scale = float(np.abs(second.reward).max())
    np.testing.assert_allclose(first.reward, second.reward, atol=1e-7 * scale)
    dense = np.zeros((8, 4, 8))
    states, actions, successors = theirs.mdp.kernel.triplets
    np.add.at(dense, (states, np.array(MOVES)[actions], successors), second.kernel)
    np.testing.assert_allclose(first.kernel, dense[mdp.kernel.triplets], atol=1e-6 * scale)


@pytest.mark.parametrize("solver", ["dense", "value-iteration"])
def test_the_options_of_a_solve_are_those_of_the_solve_by_moves(solver: str) -> None:
    mdp = shared_mdp()
    exact = solve_soft_mdp(mdp, solver="dense")
    start = exact.soft_value + np.linspace(-1.0, 1.0, 8)
    rough = solve_soft_mdp(mdp, solver=solver, tolerance=1e-3, initial_value=start)
    assert rough.tolerance == 1e-3 and rough.solver == solver and rough.converged
    assert exact.residual < 1e-12 < rough.residual <= 1e-3
    none = solve_soft_mdp(mdp, solver=solver, initial_value=start, max_iterations=0)
    np.testing.assert_array_equal(none.soft_value, start)
    assert not none.converged and none.iterations == 0
    assert none.tolerance == exact.tolerance < 1e-6


def test_actions_that_do_not_exist_are_not_missed_where_all_others_cost_much() -> None:
    mdp = shared_mdp(masked=True)
    assert mdp.action_mask is not None
    costly = replace(mdp, reward=mdp.reward - 1e4)
    ours, theirs = solve_soft_mdp(costly), solve_soft_mdp(expanded(costly), solver="dense")
    np.testing.assert_allclose(ours.soft_value, theirs.soft_value, rtol=1e-12)
    np.testing.assert_allclose(ours.policy, theirs.policy, atol=1e-7)
    np.testing.assert_array_equal(ours.policy[~mdp.action_mask], 0.0)
    np.testing.assert_allclose(ours.policy.sum(axis=1), 1.0, atol=1e-13)


def test_batches_are_solved_by_moves_too(backend: str) -> None:
    first = shared_mdp()
    _ = first.kernel.pattern
    scaled = first.kernel.with_probabilities(0.9 * first.kernel.matrix.data)
    assert scaled.moves is first.kernel.moves and scaled.pattern is first.kernel.pattern
    mdps = [first, replace(first, reward=2.0 * first.reward), replace(first, kernel=scaled)]
    solutions = solve_batch(mdps)
    assert {s.solver for s in solutions} == {"compiled" if backend == "numba" else "dense"}
    for mdp, solution in zip(mdps, solutions, strict=True):
        assert_same_answers(mdp, solution, solve_soft_mdp(expanded(mdp)))


@pytest.mark.parametrize("masked", [False, True])
def test_samplers_draw_the_transitions_of_the_expanded_kernel(masked: bool) -> None:
    mdp, upper_reward = shared_mdp(masked=masked), np.random.default_rng(2).normal(size=(8, 6))
    states, actions = (index.ravel() for index in np.indices((8, 6)))
    for uniform in (0.0, 0.3, 0.77, 0.95):
        expected = TransitionArrays(expanded(mdp), upper_reward).sample(
            states, actions, np.full(48, uniform)
        )
        many = TransitionArrays(mdp, upper_reward).sample(states, actions, np.full(48, uniform))
        tables = TransitionTables(mdp, upper_reward)
        alone = [
            tables.sample(int(s), int(a), uniform) for s, a in zip(states, actions, strict=True)
        ]
        for found, single, wanted in zip(many, zip(*alone, strict=True), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(single, wanted)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_actions_of_one_move_keep_their_own_rewards(backwards: bool, masked: bool) -> None:
    mdp, upper_reward = shared_mdp(masked=masked), np.random.default_rng(2).normal(size=(8, 6))
    mask = np.ones((8, 6), dtype=bool) if mdp.action_mask is None else mdp.action_mask
    dense, tables = mdp.kernel.to_dense(), TransitionTables(mdp, upper_reward)
    order = [(state, action) for state in range(8) for action in range(6)]
    for state, action in 2 * (order[::-1] if backwards else order):  # rows are kept from visit one
        there, over, *paid = tables.sample(state, action, 0.6)
        if mask[state, action]:
            assert paid == [mdp.reward[state, action], upper_reward[state, action]]
            cumulative = np.cumsum(dense[state, action])
            assert not over and there == int((cumulative <= 0.6).sum())
        else:
            worst = [float(r[state, mask[state]].min()) for r in (mdp.reward, upper_reward)]
            assert paid == worst and not over and there == state


def test_simulated_episodes_have_the_frequencies_of_actions_and_successors() -> None:
    mdp = shared_mdp()
    policy: FloatArray = np.random.default_rng(1).dirichlet(np.ones(6), size=8)
    start = np.eye(8)[2]
    paths = Simulator(mdp.kernel, policy).simulate(
        start, num_episodes=20_000, horizon=1, rng=np.random.default_rng(5)
    )
    actions = np.bincount(paths.actions[0], minlength=6)
    assert p_value(actions, policy[2]) > 1e-4
    arrived = np.bincount(np.where(paths.final_states < 0, 8, paths.final_states), minlength=9)
    expected = policy[2] @ mdp.kernel.to_dense()[2]
    assert p_value(arrived, np.append(expected, 1.0 - expected.sum())) > 1e-4


def test_moves_of_one_kernel_do_not_pass_to_another() -> None:
    kernel = shared_mdp().kernel
    kernel.on_moves(np.ones((8, 6)))
    other = kernel.by_move.with_moves([3, 3, 0])
    weights = np.random.default_rng(0).normal(size=(8, 3))
    np.testing.assert_array_equal(other.on_moves(weights)[:, 3], weights[:, 0] + weights[:, 1])
    np.testing.assert_allclose(other.flow(weights), other.expanded().flow(weights), atol=1e-14)


def test_copies_keep_the_moves() -> None:
    kernel = pickle.loads(pickle.dumps(shared_mdp().kernel))
    np.testing.assert_array_equal(kernel.moves, MOVES)
    np.testing.assert_array_equal(kernel.to_dense(), shared_mdp().kernel.to_dense())


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        ([0, 4], ("`moves`", "0..3", "got 0..4")),
        ([-1, 0], ("`moves`", "0..3", "got -1..0")),
        ([0.0, 1.0], ("`moves`", "integers [A]", "float64")),
        ([[0, 1]], ("`moves`", "integers [A]", "(1, 2)")),
        ([], ("`moves`", "integers [A]", "(0,)")),
    ],
)
def test_wrong_moves_are_refused(moves: list[int], words: tuple[str, ...]) -> None:
    kernel: Kernel = random_mdp(0, num_actions=4).kernel
    with pytest.raises(ValueError) as caught:
        kernel.with_moves(moves)
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(ValueError, match="their own moves"):
        kernel.with_moves([0, 1]).with_moves([0])
