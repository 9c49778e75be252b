"""Episodes that a leader watches, and transitions, against plain replays and counts by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray, Kernel, TabularMDP
from bilevel_gym.episodes.sampler import BLOCK, Episodes, Sampler, TransitionCounts
from bilevel_gym.episodes.simulator import Simulator
from bilevel_gym.episodes.transitions import TransitionArrays, TransitionTables

from .models import random_mdp
from .test_trajectories import assert_same

pytestmark = pytest.mark.kernels

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
    """Return the episodes as lists of (state, action, next state or -1, reward)."""
    pairs, final = episodes.pairs, episodes.final_states
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


@pytest.mark.parametrize("termination", [0.0, 0.3])
class TestEpisodes:
    """Episodes against a plain replay of their paths."""

    def test_every_step(self, termination: float) -> None:
        (episodes,) = blocks_of(termination)
        played = replayed(episodes)
        alive = np.zeros((len(episodes.upper_rewards), len(played)), dtype=bool)
        following = np.full(alive.shape, -1)
        rewards = np.zeros(alive.shape)
        for n, path in enumerate(played):
            for t, (_, _, after, reward) in enumerate(path):
                alive[t, n], following[t, n], rewards[t, n] = True, after, reward
        np.testing.assert_array_equal(episodes.alive, alive)
        np.testing.assert_array_equal(episodes.next_states, following)
        np.testing.assert_array_equal(episodes.upper_rewards, rewards)
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
    """What the sampler plays: the episodes of a simulator, some at a time."""

    def test_episodes_from_the_first_states(self) -> None:
        start, policy = start_and_policy()
        blocks, simulator = blocks_of(0.3, 2 * BLOCK + 5), Simulator(kernel(0.3), policy)
        assert [block.num_episodes for block in blocks] == [BLOCK, BLOCK, 5]
        rng = np.random.default_rng(3)
        for block in blocks:
            wanted = simulator.simulate(start, num_episodes=block.num_episodes, horizon=12, rng=rng)
            assert_same(block, wanted)

    def test_episodes_from_pairs(self) -> None:
        rngs = [np.random.default_rng(4), np.random.default_rng(4)]
        states = np.arange(BLOCK + 7, dtype=np.int32) % NUM_STATES
        actions = np.arange(BLOCK + 7, dtype=np.int32) % NUM_ACTIONS
        blocks = list(sampler(0.2).episodes_from(states, actions, 6, rngs[0]))
        assert [block.num_episodes for block in blocks] == [BLOCK, 7]
        simulator = Simulator(kernel(0.2), start_and_policy()[1])
        for block, part in zip(blocks, (slice(0, BLOCK), slice(BLOCK, None)), strict=True):
            wanted = simulator.simulate(
                start_pairs=(states[part], actions[part]), horizon=6, rng=rngs[1]
            )
            assert_same(block, wanted)

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


# Single transitions ------------------------------------------------------------------------------


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
