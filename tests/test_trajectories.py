"""Many episodes at once: exact frequencies, and the same ones with and without numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import geom

from bilevel_gym.core import fast
from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.episodes import simulator as trajectories
from bilevel_gym.episodes.alias import alias_table
from bilevel_gym.episodes.simulator import Simulator, Trajectories

from .helpers import p_value, refusals
from .models import random_mdp

STATES, ACTIONS, GAMMA = 8, 3, 0.9
START = np.array([0.5, 0.0, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0])


Patch = pytest.MonkeyPatch

both_backends = pytest.mark.usefixtures("backend")


def random_policy(mdp: TabularMDP, seed: int = 1) -> FloatArray:
    """Return a policy that avoids the actions that do not exist, and some of the others."""
    rng = np.random.default_rng(seed)
    policy = rng.random((mdp.kernel.num_states, mdp.kernel.num_actions))
    policy[rng.random(policy.shape) < 0.2] = 0.0
    policy[:, 0] += 0.1
    if mdp.action_mask is not None:
        policy *= mdp.action_mask
    return policy / policy.sum(axis=1, keepdims=True)


def game(
    *, termination: float = 0.05, masked: bool = False
) -> tuple[Simulator, TabularMDP, FloatArray]:
    """Return a simulator, and the model and the policy behind it."""
    mdp = random_mdp(0, termination=termination, masked=masked)
    policy = random_policy(mdp)
    return Simulator(mdp.kernel, policy), mdp, policy


def play(simulator: Simulator, *, seed: int = 3, episodes: int = 1501, horizon: int = 70) -> Any:
    return simulator.simulate(
        START, num_episodes=episodes, horizon=horizon, rng=np.random.default_rng(seed)
    )


def random_pairs(count: int, seed: int = 4) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return rng.integers(STATES, size=count), rng.integers(ACTIONS, size=count)


def assert_same(first: Trajectories, second: Trajectories) -> None:
    assert first.pairs.dtype == second.pairs.dtype == np.int32
    assert np.array_equal(first.pairs, second.pairs)
    assert np.array_equal(first.final_states, second.final_states)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Compare sums, of at most some ten terms in size, up to the order of the additions."""
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance)


def outcome_probabilities(mdp: TabularMDP, policy: FloatArray) -> FloatArray:
    """Return the probability of action and successor, S for the end, `[S, A, S + 1]`."""
    dense = mdp.kernel.to_dense()
    missing = 1.0 - dense.sum(axis=2, keepdims=True)
    missing[missing < 1e-12] = 0.0
    full: FloatArray = policy[:, :, None] * np.concatenate([dense, missing], axis=2)
    return full


def exact_visits(mdp: TabularMDP, policy: FloatArray, horizon: int) -> FloatArray:
    """Return the expected discounted visits within a horizon, `[S, A]`."""
    matrix = np.einsum("sa,sat->st", policy, mdp.kernel.to_dense())
    state, total = START.copy(), np.zeros(STATES)
    for t in range(horizon):
        total += GAMMA**t * state
        state = state @ matrix
    return total[:, None] * policy


# The same episodes, whatever plays them ---------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("termination", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("from_pairs", [False, True])
def test_compiled_and_plain_episodes_agree_bit_for_bit(
    termination: float, masked: bool, from_pairs: bool
) -> None:
    pytest.importorskip("numba")
    simulator, mdp, _ = game(termination=termination, masked=masked)
    start: dict[str, Any] = {"initial_distribution": START, "num_episodes": 1501}
    if from_pairs:
        start = {"start_pairs": random_pairs(1501)}
    episodes, sums, states = [], [], []
    for compiled in (False, True):
        with fast.switched(compiled):
            rng = np.random.default_rng(3)
            played = simulator.simulate(**start, horizon=70, rng=rng)
            episodes.append(played)
            sums.append(played.discounted_visits(GAMMA))
            states.append(rng.bit_generator.state)
    assert_same(*episodes)
    assert states[0] == states[1]
    assert_close(sums[0], sums[1])


@both_backends
@pytest.mark.parametrize("termination", [0.0, 0.05])
def test_sizes_of_buffers_change_nothing(termination: float, monkeypatch: Patch) -> None:
    simulator, *_ = game(termination=termination)
    before = play(simulator, horizon=150)
    visits = before.discounted_visits(GAMMA)
    monkeypatch.setattr(trajectories, "BUFFER", 5000)
    monkeypatch.setattr(trajectories, "FIRST_PATH", 1)
    after = play(simulator, horizon=150)
    assert_same(before, after)
    assert_close(after.discounted_visits(GAMMA), visits, 1e-10)


@both_backends
@pytest.mark.parametrize("termination", [0.0, 0.3])
def test_calls_of_whole_blocks_continue_each_other(termination: float) -> None:
    simulator, *_ = game(termination=termination)
    at_once = play(simulator, episodes=2048 + 301, horizon=20)
    rng = np.random.default_rng(3)
    first, second = (
        simulator.simulate(START, num_episodes=count, horizon=20, rng=rng) for count in (2048, 301)
    )
    steps = len(at_once.pairs)
    for part, columns in ((first, slice(0, 2048)), (second, slice(2048, None))):
        padded = np.full((steps, part.num_episodes), STATES * ACTIONS)
        padded[: len(part.pairs)] = part.pairs
        assert np.array_equal(padded, at_once.pairs[:, columns])
        assert np.array_equal(part.final_states, at_once.final_states[columns])


@both_backends
@pytest.mark.parametrize("termination", [0.0, 0.05])
def test_the_horizon_only_cuts(termination: float) -> None:
    simulator, *_ = game(termination=termination)
    long, short = play(simulator, horizon=70), play(simulator, horizon=21)
    assert np.array_equal(short.pairs, long.pairs[:21])
    assert np.array_equal(short.lengths, np.minimum(long.lengths, 21))
    assert np.array_equal(short.final_states, long.states[21])  # -1 in both for an end


# Frequencies ------------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("termination", [0.0, 0.3])
def test_steps_have_the_frequencies_of_policy_and_kernel(termination: float, masked: bool) -> None:
    simulator, mdp, policy = game(termination=termination, masked=masked)
    played = play(simulator, episodes=20_000, horizon=6)
    successors = np.vstack([played.states[1:], played.final_states[None]])
    counts = np.zeros((STATES, ACTIONS, STATES + 1))
    on = played.states >= 0
    last = np.where(successors < 0, STATES, successors)
    np.add.at(counts, (played.states[on], played.actions[on], last[on]), 1)
    probabilities = outcome_probabilities(mdp, policy)
    for state in range(STATES):
        assert p_value(counts[state], probabilities[state]) > 1e-3
    assert p_value(np.bincount(played.states[0], minlength=STATES), START) > 1e-3


@both_backends
def test_first_steps_from_pairs_have_the_frequencies_of_the_kernel() -> None:
    simulator, mdp, _ = game(termination=0.3)
    states, actions = random_pairs(40_000)
    played = simulator.simulate(
        start_pairs=(states, actions), horizon=2, rng=np.random.default_rng(0)
    )
    assert np.array_equal(played.states[0], states)
    assert np.array_equal(played.actions[0], actions)
    following = np.where(played.states[1] < 0, STATES, played.states[1])
    dense = mdp.kernel.to_dense()
    full = np.concatenate([dense, 1.0 - dense.sum(axis=2, keepdims=True)], axis=2)
    for state in range(STATES):
        for action in range(ACTIONS):
            chosen = (states == state) & (actions == action)
            seen = np.bincount(following[chosen], minlength=STATES + 1)
            assert p_value(seen, full[state, action]) > 1e-4


def test_alias_tables_hold_the_weights_to_32_bits() -> None:
    rng = np.random.default_rng(0)
    counts = np.concatenate([[1, 2, 3, 500], rng.integers(1, 40, size=200)])
    rows = np.repeat(np.arange(counts.size), counts)
    weights = rng.random(rows.size) ** rng.choice([0, 1, 4, 20], counts.size)[rows] + 1e-300
    table = alias_table(weights, rows, counts.size)
    first, second = table.outcomes[::2], table.outcomes[1::2]
    assert np.array_equal(first, np.arange(rows.size))
    assert np.array_equal(rows[second], rows), "an outcome of another row"
    full = first == second
    kept = np.where(full, 2**32, table.thresholds.astype(np.int64))
    units = kept + np.bincount(second, 2**32 - kept, rows.size).astype(np.int64)
    totals = np.bincount(rows, weights)
    exact = weights / totals[rows] * (counts * 2.0**32)[rows]
    # Half a unit for rounding; a row's largest weight takes what that leaves, half of one each.
    assert (np.abs(units - exact) <= 0.5 + 0.5 * counts[rows]).all()
    assert np.array_equal(np.bincount(rows, units).astype(np.int64), counts * 2**32)


def test_the_ends_of_the_unit_interval_stay_within_the_row() -> None:
    counts = np.arange(1, 300)
    rows = np.repeat(np.arange(counts.size), counts)
    table = alias_table(np.ones(rows.size), rows, counts.size)
    for number, cell in ((0, 0), (2**32 - 1, -1)):
        uniforms = np.full(counts.size, number, dtype=np.uint32)
        drawn = table.outcomes[table.draw(np.arange(counts.size), uniforms)]
        assert np.array_equal(drawn, np.cumsum(counts) + (cell if cell else -counts))


@both_backends
def test_rows_that_miss_one_by_rounding_never_end() -> None:
    transition = np.full((10, 1, 10), 0.1)  # these sum to 0.9999999999999999
    transition[:5] = 0.0
    transition[:5, 0, :3] = 1.0 / 3.0
    simulator = Simulator(Kernel.from_dense(transition), np.ones((10, 1)))
    played = simulator.simulate(
        np.full(10, 0.1), num_episodes=500, horizon=400, rng=np.random.default_rng(0)
    )
    assert (played.lengths == 400).all() and (played.final_states >= 0).all()


# Ends -------------------------------------------------------------------------------------------


@both_backends
def test_lengths_are_geometric_and_cut_at_the_horizon() -> None:
    kernel = Kernel.from_dense([[[0.9]]])
    played = Simulator(kernel, [[1.0]]).simulate(
        [1.0], num_episodes=20_000, horizon=30, rng=np.random.default_rng(0)
    )
    counts = np.bincount(played.lengths, minlength=31)
    assert p_value(counts, np.append(geom.pmf(np.arange(30), 0.1), geom.sf(29, 0.1))) > 1e-3
    assert played.pairs.shape == (30, 20_000)
    assert played.num_steps == played.lengths.sum()
    over = played.lengths < 30
    assert (played.final_states[over] == -1).all()
    # After 30 steps an episode has ended by itself with the probability of one more ending.
    assert abs((played.final_states[~over] == 0).mean() - 0.9) < 4 * 0.3 / np.sqrt((~over).sum())


@both_backends
def test_paths_are_as_long_as_the_longest_episode() -> None:
    played = play(game(termination=0.6)[0], episodes=50, horizon=10**9)
    assert len(played.pairs) == played.lengths.max() < 100
    ended = np.arange(len(played.pairs))[:, None] >= played.lengths
    assert (played.states[ended] == -1).all() and (played.actions[ended] == -1).all()
    assert (played.states[~ended] >= 0).all() and (played.pairs[ended] == STATES * ACTIONS).all()


@both_backends
def test_a_start_pair_may_end_where_the_policy_never_does() -> None:
    transition = np.zeros((2, 2, 2))
    transition[:, 0] = [0.5, 0.5]  # action 1 ends the episode
    simulator = Simulator(Kernel.from_dense(transition), [[1.0, 0.0], [1.0, 0.0]])
    played, only_ends = (
        simulator.simulate(start_pairs=pairs, horizon=5, rng=np.random.default_rng(0))
        for pairs in (([0, 1, 1], [1, 0, 1]), ([0, 1], [1, 1]))
    )
    assert played.lengths.tolist() == [1, 5, 1]
    assert (played.final_states == -1).tolist() == [True, False, True]
    assert only_ends.pairs.tolist() == [[2, 3]]


# Sums -------------------------------------------------------------------------------------------


@both_backends
def test_sums_are_those_of_a_loop_over_steps() -> None:
    simulator, mdp, _ = game(termination=0.2)
    played = play(simulator, episodes=40, horizon=12)
    returns, visits = np.zeros(40), np.zeros((STATES, ACTIONS))
    for i in range(40):
        for t in range(played.lengths[i]):
            state, action = played.states[t, i], played.actions[t, i]
            assert played.along(mdp.reward)[t, i] == mdp.reward[state, action]
            returns[i] += GAMMA**t * mdp.reward[state, action]
            visits[state, action] += GAMMA**t / 40
    assert_close(played.discounted_sum(mdp.reward, GAMMA), returns)
    assert_close(played.discounted_visits(GAMMA), visits)
    assert not played.along(np.ones((STATES, ACTIONS)))[played.states < 0].any()
    # An episode may have one step.
    played = play(game()[0], horizon=1)
    assert np.array_equal(played.discounted_sum(mdp.reward, GAMMA), played.along(mdp.reward)[0])


@both_backends
@pytest.mark.parametrize("termination", [0.0, 0.05])
def test_means_are_those_of_linear_algebra(termination: float) -> None:
    simulator, mdp, policy = game(termination=termination)
    played = play(simulator, episodes=20_000, horizon=30)
    exact = exact_visits(mdp, policy, 30)
    # Four standard errors, taken from the sample itself; the seed is fixed.
    discounts = GAMMA ** np.arange(len(played.pairs))
    each = [discounts @ (played.pairs == pair) for pair in range(STATES * ACTIONS)]
    errors = np.std(each, axis=1).reshape(ACTIONS, STATES).T / np.sqrt(20_000)
    visits, returns = played.discounted_visits(GAMMA), played.discounted_sum(mdp.reward, GAMMA)
    assert (np.abs(visits - exact) <= 4 * errors).all()
    value = float((exact * mdp.reward).sum())
    assert abs(returns.mean() - value) < 4 * returns.std() / np.sqrt(20_000)
    assert_close(returns.mean(), (visits * mdp.reward).sum())


# Mistakes ---------------------------------------------------------------------------------------


def of_policy(given: Any) -> Callable[[], object]:
    """Make a simulator with a policy, or with one that is uniform but for the entry [2, 1]."""
    policy = np.full((STATES, ACTIONS), 1 / ACTIONS)
    policy[2, 1] = np.ravel(given)[0]
    return lambda: Simulator(random_mdp(0).kernel, policy if np.ndim(given) == 0 else given)


def simulated(**options: Any) -> Callable[[], object]:
    arguments: dict[str, Any] = {"initial_distribution": START, "num_episodes": 5, "horizon": 3}
    return lambda: game()[0].simulate(**{**arguments, "rng": np.random.default_rng(0), **options})


def from_pairs(states: Any, actions: Any) -> Callable[[], object]:
    return simulated(initial_distribution=None, num_episodes=None, start_pairs=(states, actions))


def summed(method: str, *arguments: Any, **options: Any) -> Callable[[], object]:
    return lambda: getattr(play(game()[0], episodes=5, horizon=3), method)(*arguments, **options)


test_mistakes_are_named = refusals(
    None,
    (of_policy(np.ones((3, 8)) / 8), r"`policy` must have shape \(8, 3\), got \(3, 8\)"),
    (of_policy(0.5), r"`policy` must sum to one, got 1.16666\d* in state 2"),
    (of_policy(-0.1), r"`policy\[2, 1\]` must be finite and lie in \[0.0, inf\], got -0.1"),
    (of_policy(np.nan), r"`policy\[2, 1\]` must be finite and lie in \[0.0, inf\], got nan"),
    (simulated(initial_distribution=np.ones(3)), r"_distribution` must .*\(8,\), got \(3,\)"),
    (simulated(initial_distribution=0.9 * START), "_distribution` must sum to one, got 0.9"),
    (simulated(num_episodes=0), "`num_episodes` must be an integer of at least 1"),
    (simulated(num_episodes=2.5), "`num_episodes` must be an integer of at least 1"),
    (simulated(horizon=0), "`horizon` must be an integer of at least 1, got 0"),
    (simulated(rng=0), TypeError, r"`rng` must be a numpy.random.Generator, got int"),
    (simulated(rng=np.random.RandomState(0)), TypeError, "numpy.random.Generator, got RandomState"),
    (simulated(num_episodes=None), "need `initial_distribution` and `num_episodes`"),
    (simulated(start_pairs=([0], [0])), "give neither `initial_distribution` nor"),
    (from_pairs([0, 1], [0]), r"actions \[N\], got shapes \(2,\), \(1,\)"),
    (from_pairs([0, 8], [0, 0]), r"states of .* in 0..7, at least one, got 0..8"),
    (from_pairs([0, 1], [0, -1]), r"actions of .* in 0..2, at least one, got -1..0"),
    (from_pairs([0.0], [0]), "states of .* must be integers"),
    (from_pairs([], []), "at least one, got none"),
    (summed("discounted_sum", np.ones(STATES), GAMMA), r"`values` must .*\(8, 3\), got \(8,\)"),
    (summed("discounted_sum", np.ones((STATES, ACTIONS)), 1.5), r"\[0, 1\], got 1.5"),
    (summed("discounted_visits", -0.1), r"`gamma` must lie in \[0, 1\], got -0.1"),
)


# The switch of the compiled kernels -------------------------------------------------------------


def test_the_environment_variable_is_the_default_and_its_demand_names_the_extra(
    monkeypatch: Patch,
) -> None:
    with fast.switched(None):
        monkeypatch.setenv(fast.ENVIRONMENT_VARIABLE, "0")
        assert not fast.enabled()
        monkeypatch.setenv(fast.ENVIRONMENT_VARIABLE, "yes")
        with pytest.raises(ValueError, match="BILEVEL_GYM_FAST, 'yes'; accepted: '0', '1', 'auto'"):
            fast.enabled()
        monkeypatch.setenv(fast.ENVIRONMENT_VARIABLE, "auto")
        assert fast.enabled() == fast.available()
        monkeypatch.delenv(fast.ENVIRONMENT_VARIABLE)
        assert fast.enabled() == fast.available()
    monkeypatch.setattr(fast, "available", lambda: False)
    with pytest.raises(ImportError, match=r'pip install -e ".\[fast\]"'):
        with fast.switched(True):
            pass
    with fast.switched(None):
        monkeypatch.setenv(fast.ENVIRONMENT_VARIABLE, "1")
        with pytest.raises(ImportError, match="numba cannot be imported"):
            fast.enabled()
        monkeypatch.delenv(fast.ENVIRONMENT_VARIABLE)
        assert play(game()[0]).num_episodes == 1501
