"""Episodes that a leader watches, against plain replays and counts by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.episodes.sampler import BLOCK, Episodes, Sampler, TransitionCounts

from .models import random_mdp

pytestmark = pytest.mark.kernels

# A correct code exceeds a bound once in so many runs; seeds are fixed.
ONCE_IN = 1e4

NUM_STATES, NUM_ACTIONS = 5, 3
Step = tuple[int, int, int, float]


def start_and_policy() -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(1)
    start = np.append(rng.dirichlet(np.ones(NUM_STATES - 1)), 0.0)
    return start, rng.dirichlet(np.ones(NUM_ACTIONS), size=NUM_STATES)


def kernel(termination: float) -> Kernel:
    return random_mdp(
        0, num_states=NUM_STATES, num_actions=NUM_ACTIONS, termination=termination
    ).kernel


UPPER_REWARD = np.random.default_rng(2).normal(size=(NUM_STATES, NUM_ACTIONS))


def sampler(termination: float) -> Sampler:
    start, policy = start_and_policy()
    return Sampler(kernel(termination), policy, start, UPPER_REWARD)


def replayed(episodes: Episodes) -> list[list[Step]]:
    """Return the episodes as lists of (state, action, next state or -1, pay)."""
    pairs, final = episodes.trajectories.pairs, episodes.trajectories.final_states
    end = NUM_STATES * NUM_ACTIONS
    played: list[list[Step]] = []
    for n in range(pairs.shape[1]):
        path = [int(pair) for pair in pairs[:, n] if pair != end]
        assert all(pair == end for pair in pairs[len(path) :, n])
        states, actions = [p % NUM_STATES for p in path], [p // NUM_STATES for p in path]
        after = [*states[1:], int(final[n])]
        played.append(
            [
                (s, a, t, float(UPPER_REWARD[s, a]))
                for s, a, t in zip(states, actions, after, strict=True)
            ]
        )
    return played


def blocks_of(
    termination: float, number: int = 300, horizon: int = 12, seed: int = 3
) -> list[Episodes]:
    rng = np.random.default_rng(seed)
    return list(sampler(termination).episodes(number, horizon, rng))


def assert_frequencies(observed: Sequence[int], expected: FloatArray) -> None:
    """Check counts against probabilities by a chi-square test."""
    counts = np.asarray(observed, np.float64)
    mean = expected / expected.sum() * counts.sum()
    assert (counts[mean == 0.0] == 0.0).all()
    possible = mean > 0.0
    statistic = float(((counts - mean)[possible] ** 2 / mean[possible]).sum())
    assert statistic <= chi2.ppf(1.0 - 1.0 / ONCE_IN, possible.sum() - 1), (counts, mean)


@pytest.mark.parametrize("termination", [0.0, 0.3])
class TestEpisodes:
    """Episodes against a plain replay of their paths."""

    def test_every_step(self, termination: float) -> None:
        (episodes,) = blocks_of(termination)
        played = replayed(episodes)
        alive = np.zeros((len(episodes.upper_rewards), len(played)), dtype=bool)
        following = np.full(alive.shape, -1)
        paid = np.zeros(alive.shape)
        for n, path in enumerate(played):
            for t, (_, _, after, pay) in enumerate(path):
                alive[t, n], following[t, n], paid[t, n] = True, after, pay
        np.testing.assert_array_equal(episodes.alive, alive)
        np.testing.assert_array_equal(episodes.next_states, following)
        np.testing.assert_array_equal(episodes.upper_rewards, paid)
        assert episodes.num_episodes == 300
        assert episodes.num_steps == sum(map(len, played))
        # Both ways to end occur: by itself, and by the horizon.
        ends = {path[-1][2] < 0 for path in played}
        assert ends == ({True, False} if termination else {False})

    def test_an_end_at_the_horizon_is_no_cut(self, termination: float) -> None:
        (episodes,) = blocks_of(termination, horizon=1)
        ended = int((episodes.next_states[0] < 0).sum())
        assert episodes.upper_rewards.shape == (1, 300)
        assert (ended > 0) == (termination > 0.0)


class TestSampler:
    """What the sampler plays."""

    def test_first_states(self) -> None:
        start, _ = start_and_policy()
        first = np.concatenate(
            [block.trajectories.states[0] for block in blocks_of(0.1, 20_000, horizon=1)]
        )
        assert_frequencies(np.bincount(first, minlength=NUM_STATES).tolist(), start)

    def test_actions_and_transitions(self) -> None:
        _, policy = start_and_policy()
        dense = kernel(0.3).to_dense()
        seen: Counter[tuple[int, int, int]] = Counter()
        for block in blocks_of(0.3, 20_000):
            for path in replayed(block):
                seen.update((s, a, after) for s, a, after, _ in path)
        for s in range(NUM_STATES):
            actions = [
                sum(seen[s, a, t] for t in range(-1, NUM_STATES)) for a in range(NUM_ACTIONS)
            ]
            assert_frequencies(actions, policy[s])
            for a in range(NUM_ACTIONS):
                row = np.append(dense[s, a], 1.0 - dense[s, a].sum())
                counts = [seen[s, a, t] for t in [*range(NUM_STATES), -1]]
                assert_frequencies(counts, row)

    def test_blocks(self) -> None:
        number = 2 * BLOCK + 5
        blocks = blocks_of(0.3, number)
        assert [block.num_episodes for block in blocks] == [BLOCK, BLOCK, 5]
        # No block repeats another.
        assert not np.array_equal(
            blocks[0].trajectories.pairs[:2], blocks[1].trajectories.pairs[:2]
        )

    def test_starts_that_are_given(self) -> None:
        number = BLOCK + 7
        rng = np.random.default_rng(4)
        states = rng.integers(NUM_STATES, size=number).astype(np.int32)
        actions = rng.integers(NUM_ACTIONS, size=number).astype(np.int32)
        blocks = list(sampler(0.2).episodes_from(states, actions, 6, rng))
        assert [block.num_episodes for block in blocks] == [BLOCK, 7]
        for name, given in (("states", states), ("actions", actions)):
            played = [getattr(block.trajectories, name)[0] for block in blocks]
            np.testing.assert_array_equal(np.concatenate(played), given)
        after = np.concatenate([block.next_states[0] for block in blocks])
        dense = kernel(0.2).to_dense()
        going_on = dense[states, actions].sum(axis=0)
        expected = np.append(going_on, number - going_on.sum())
        counts = np.bincount(np.where(after < 0, NUM_STATES, after), minlength=NUM_STATES + 1)
        assert_frequencies(counts.tolist(), expected)

    def test_the_generator_decides(self) -> None:
        def paths(seed: int) -> Any:
            return blocks_of(0.2, 50, seed=seed)[0].trajectories.pairs

        np.testing.assert_array_equal(paths(5), paths(5))
        assert paths(5).shape != paths(6).shape or (paths(5) != paths(6)).any()

    @pytest.mark.parametrize(("number", "horizon", "name"), [(0, 5, "num_ep"), (5, 0, "horizon")])
    def test_bad_numbers(self, number: int, horizon: int, name: str) -> None:
        with pytest.raises(ValueError, match=f"`{name}.*at least 1, got 0"):
            list(sampler(0.1).episodes(number, horizon, np.random.default_rng(0)))

    def test_a_policy_that_is_none(self) -> None:
        start, policy = start_and_policy()
        with pytest.raises(ValueError, match="`policy`"):
            Sampler(kernel(0.1), 2.0 * policy, start, UPPER_REWARD)


class TestTransitionCounts:
    """The model of frequencies against counts by hand."""

    def by_hand(self, weighted: Sequence[tuple[float, Episodes]]) -> tuple[FloatArray, FloatArray]:
        visits, going_on = np.zeros((5, 3)), np.zeros((5, 3, 5))
        for weight, episodes in weighted:
            for path in replayed(episodes):
                for s, a, after, _ in path:
                    visits[s, a] += weight
                    if after >= 0:
                        going_on[s, a, after] += weight
        seen = np.maximum(visits, 1e-300)[:, :, None]
        return visits, np.where(visits[:, :, None] > 0.0, going_on / seen, 0.0)

    @pytest.mark.parametrize("termination", [0.0, 0.4])
    def test_several_adds_and_fading(self, termination: float) -> None:
        counts = TransitionCounts(NUM_STATES, NUM_ACTIONS)
        weighted: list[tuple[float, Episodes]] = []
        for seed, share in enumerate([0.0, 0.25, 0.0, 0.5]):
            counts.fade(share)
            weighted = [((1.0 - share) * weight, block) for weight, block in weighted]
            # Few episodes: some pairs are not seen at first.
            for block in blocks_of(termination, 2, horizon=4, seed=seed):
                counts.add(block)
                weighted.append((1.0, block))
            visits, frequencies = self.by_hand(weighted)
            np.testing.assert_allclose(counts.visits, visits, rtol=1e-12)
            np.testing.assert_allclose(counts.kernel().to_dense(), frequencies, rtol=1e-12)
        assert (visits == 0.0).any() or termination == 0.0

    def test_nothing_seen(self) -> None:
        counts = TransitionCounts(NUM_STATES, NUM_ACTIONS)
        assert (counts.visits == 0.0).all()
        assert (counts.kernel().row_sums == 0.0).all()

    def test_everything_forgotten(self) -> None:
        counts = TransitionCounts(NUM_STATES, NUM_ACTIONS)
        counts.add(blocks_of(0.2)[0])
        counts.fade(1.0)
        assert (counts.visits == 0.0).all() and (counts.kernel().row_sums == 0.0).all()

    def test_fading_for_long_leaves_distributions(self) -> None:
        counts = TransitionCounts(NUM_STATES, NUM_ACTIONS)
        counts.add(blocks_of(0.0, horizon=3)[0])
        for _ in range(400):  # .1^400 is no float64
            counts.fade(0.9)
            sums = counts.kernel().row_sums
            seen = counts.visits > 0.0
            np.testing.assert_allclose(sums[seen], 1.0, rtol=1e-6)
        assert (counts.visits == 0.0).all()
