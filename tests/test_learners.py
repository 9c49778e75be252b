"""Inner learners: what they answer, what they remember, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.bellman import soft_backup
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.methods.exploration import neutral_kernel
from bilevel_gym.methods.learners import LEARNERS, Answer, make_learner

from .benchmarks.estimators import four_rooms
from .helpers import refusals
from .models import random_mdp
from .test_trace_variance import Noted

pytestmark = pytest.mark.kernels

MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 1]], dtype=bool)


def small_game(*, masked: bool = False, **options: Any) -> TabularBilevelEnv:
    """Return a game of six states and three actions, whose x shapes states."""
    model = random_mdp(2, num_states=6, num_actions=3, termination=0.1)
    arguments: dict[str, Any] = {
        "upper_reward": np.zeros((6, 3)),
        "initial_distribution": np.full(6, 1 / 6),
        "gamma": 0.85,
        "temperature": 0.3,
        "action_mask": MASK if masked else None,
    }
    return TabularBilevelEnv.from_arrays(model.kernel, model.reward, **{**arguments, **options})


def learner(name: str, game: TabularBilevelEnv, seed: int = 0, **options: Any) -> Any:
    made = make_learner(name, game.model, options)
    made.reset(np.random.default_rng(seed))
    return made


def divergence(game: TabularBilevelEnv, x: FloatArray, policy: FloatArray) -> float:
    """Return KL(pi* || pi), weighted with the discounted occupancy of pi*."""
    exact = game.evaluate(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(exact.policy > 0.0, exact.policy * np.log(exact.policy / policy), 0.0)
    weights = exact.occupancy / exact.occupancy.sum()
    return float(weights @ terms.sum(axis=1))


class TestExact:
    """The solver as a learner."""

    def test_the_answer_is_exact_and_warm(self) -> None:
        game = small_game(masked=True)
        made, x = learner("exact", game), np.linspace(-0.5, 0.5, 6)
        first = made.answer(x)
        exact = game.evaluate(x)
        np.testing.assert_allclose(first.policy, exact.policy, atol=1e-10)
        np.testing.assert_allclose(first.soft_value, exact.soft_value, atol=1e-10)
        assert first.converged and first.samples == 0 and first.residual <= 1e-9
        assert made.answer(x).iterations < first.iterations


class TestSweeps:
    """Soft value iteration, cut short."""

    def swept(self, game: TabularBilevelEnv, x: FloatArray, value: FloatArray, n: int) -> Any:
        """Return value and policy after n backups, by dense loops."""
        dense, reward, tau = game.kernel(x).to_dense(), game.reward(x), game.temperature
        mask = np.ones(reward.shape, bool) if game.action_mask is None else game.action_mask

        def soft_q(value: FloatArray) -> FloatArray:
            return np.where(mask, reward + game.gamma * dense @ value, -np.inf)

        for _ in range(n):
            value = tau * np.log(np.exp(soft_q(value) / tau).sum(axis=1))
        policy = np.exp(soft_q(value) / tau)
        return value, policy / policy.sum(axis=1, keepdims=True)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("sweeps", [1, 2, 7])
    @pytest.mark.parametrize("warm_start", [True, False])
    def test_backups(self, sweeps: int, masked: bool, warm_start: bool) -> None:
        game, value = small_game(masked=masked), np.zeros(6)
        made = learner("sweeps", game, sweeps=sweeps, warm_start=warm_start)
        for x in (np.linspace(-0.5, 0.5, 6), np.full(6, 0.2)):
            value, policy = self.swept(game, x, value if warm_start else np.zeros(6), sweeps)
            answer = made.answer(x)
            np.testing.assert_allclose(answer.soft_value, value, atol=1e-12)
            np.testing.assert_allclose(answer.policy, policy, atol=1e-12)
            residual = np.abs(self.swept(game, x, value, 1)[0] - value).max()
            np.testing.assert_allclose(answer.residual, residual, atol=1e-12)
            assert answer.iterations == sweeps and answer.samples == 0
            assert answer.converged is None


class TestCertaintyEquivalence:
    """The model of frequencies."""

    def test_four_rooms(self) -> None:
        game = four_rooms(per_action=True)
        x = game.initial_upper_params
        made = learner("certainty-equivalence", game, episodes=64)
        steps = 0
        while steps < 40_000:
            answer = made.answer(x)
            steps += answer.samples
        assert steps <= 50_000
        assert divergence(game, x, answer.policy) <= 0.06

    def test_exploration_is_what_it_takes(self) -> None:
        # Action 0 ends the episode with a small reward, action 1 leads to where a large one is.
        transition = np.zeros((2, 2, 2))
        transition[0, 1, 1] = 1.0
        game = TabularBilevelEnv.from_arrays(
            transition,
            np.array([[0.2, 0.0], [1.0, 1.0]]),
            upper_reward=np.zeros((2, 2)),
            initial_distribution=[1.0, 0.0],
            gamma=0.9,
            temperature=0.01,
        )
        x = np.zeros(2)
        found = {}
        for exploration in (0.0, 0.1):
            options: dict[str, Any] = {"exploration": exploration, "optimism": 0.0, "episodes": 200}
            made = learner("certainty-equivalence", game, **options)
            for _ in range(5):
                answer = made.answer(x)
            found[exploration] = answer.policy[0, 1]
        assert found[0.0] <= 1e-6 and found[0.1] >= 1.0 - 1e-6

    @pytest.mark.parametrize("masked", [False, True])
    def test_it_converges(self, masked: bool) -> None:
        game, x = small_game(masked=masked), np.linspace(-0.5, 0.5, 6)
        few = learner("certainty-equivalence", game, episodes=10).answer(x)
        many = learner("certainty-equivalence", game, episodes=40_000).answer(x)
        exact = game.evaluate(x)
        assert np.abs(many.soft_value - exact.soft_value).max() <= 0.03
        assert divergence(game, x, many.policy) <= 5e-4 < divergence(game, x, few.policy)
        if masked:
            assert not many.policy[~MASK].any() and not few.policy[~MASK].any()

    @pytest.fixture
    def counts(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Noted]:
        monkeypatch.setattr("bilevel_gym.methods.learners.TransitionCounts", Noted)
        return lambda: Noted.made[-1]

    def test_the_answer_is_that_of_the_counts(self, counts: Callable[[], Noted]) -> None:
        game, x = small_game(), np.zeros(6)
        made = learner("certainty-equivalence", game, episodes=8, horizon=3)
        answer, model = made.answer(x), game.model.lower_mdp(x)
        kernel = neutral_kernel(counts().kernel(), counts().visits)
        exact = solve_soft_mdp(replace(model, kernel=kernel))
        np.testing.assert_allclose(answer.policy, exact.policy, atol=1e-9)
        np.testing.assert_allclose(answer.soft_value, exact.soft_value, atol=1e-9)
        assert answer.samples == counts().visits.sum() and answer.residual is None

    @pytest.mark.parametrize(("forget", "share"), [(0.0, 1.0), (0.75, 0.25), (1.0, 0.0)])
    def test_forgetting(self, forget: float, share: float, counts: Callable[[], Noted]) -> None:
        made, x = learner("certainty-equivalence", small_game(), forget=forget), np.zeros(6)
        first = made.answer(x).samples
        same = made.answer(x).samples  # under the same x nothing is forgotten
        assert counts().visits.sum() == first + same
        new = made.answer(x + 0.1).samples
        np.testing.assert_allclose(counts().visits.sum(), share * (first + same) + new)
        made.reset(np.random.default_rng(1))  # forgets all
        assert made.answer(x).samples == counts().visits.sum()

    def test_rounds(self) -> None:
        made = learner("certainty-equivalence", small_game(), episodes=5, rounds=4, horizon=1)
        answer = made.answer(np.zeros(6))
        assert answer.samples == 20 and answer.iterations == 4


class TestSoftQ:
    """Tabular soft Q-learning."""

    def backups_by_hand(
        self, game: TabularBilevelEnv, played: Any, *, decay: float, least: float, passes: int
    ) -> FloatArray:
        """Return Q after some passes through episodes, from their ends, by plain loops."""
        reward, tau = game.reward(np.zeros(6)), game.temperature
        soft_q, visits = np.zeros((6, 3)), np.zeros((6, 3))
        states, actions = played.states, played.actions
        for t in passes * list(range(len(states) - 1, -1, -1)):
            allowed = np.where(MASK, soft_q, -np.inf)
            value = tau * np.log(np.exp(allowed / tau).sum(axis=1))
            targets: dict[tuple[int, int], list[float]] = {}
            for s, a, after in zip(states[t], actions[t], played.next_states[t], strict=True):
                if s >= 0:
                    ahead = game.gamma * value[after] if after >= 0 else 0.0
                    targets.setdefault((int(s), int(a)), []).append(float(reward[s, a] + ahead))
            for pair, wanted in targets.items():
                visits[pair] += len(wanted)
                alpha = max(visits[pair] ** -decay, least)
                for _ in wanted:  # all episodes move it towards their mean
                    soft_q[pair] += alpha * (np.mean(wanted) - soft_q[pair])
        return soft_q

    @pytest.mark.parametrize("episodes", [1, 25])
    @pytest.mark.parametrize("passes", [1, 3])
    @pytest.mark.parametrize(("decay", "least"), [(0.6, 0.05), (0.0, 0.3), (1.0, 0.2)])
    def test_updates(self, decay: float, least: float, passes: int, episodes: int) -> None:
        game, x = small_game(masked=True), np.zeros(6)
        made = learner(
            "soft-q",
            game,
            episodes=episodes,
            decay=decay,
            step_size=least,
            exploration=1.0,
            horizon=40,
            passes=passes,
        )
        rng = np.random.default_rng(0)
        uniform = MASK / MASK.sum(axis=1, keepdims=True)
        (played,) = game.model.sampler(x, uniform).episodes(episodes, 40, rng)
        expected = self.backups_by_hand(game, played, decay=decay, least=least, passes=passes)
        assert played.num_steps >= 5
        answer = made.answer(x)
        assert answer.samples == played.num_steps and answer.iterations == passes
        value, policy = soft_backup(np.where(MASK, expected, -np.inf), game.temperature)
        np.testing.assert_allclose(answer.soft_value, value, atol=1e-12)
        np.testing.assert_allclose(answer.policy, policy, atol=1e-12)

    @pytest.mark.parametrize("masked", [False, True])
    def test_more_samples_make_it_better(self, masked: bool) -> None:
        game, x = small_game(masked=masked), np.linspace(-0.5, 0.5, 6)
        made = learner("soft-q", game, episodes=30, decay=0.8, step_size=0.001, passes=1)
        found = []
        for answers in (1, 19, 80):
            for _ in range(answers):
                answer = made.answer(x)
            found.append(divergence(game, x, answer.policy))
        assert found[1] < found[0] / 1.5 and found[2] < found[0] / 3.0, found
        if masked:
            assert not answer.policy[~MASK].any()


@pytest.mark.parametrize("name", ["soft-q", "certainty-equivalence"])
class TestWatching:
    """What learners that see episodes alone share."""

    @pytest.mark.parametrize("exploration", [0.0, 0.2, 1.0])
    def test_what_was_learnt_is_followed_but_for_exploration(
        self, name: str, exploration: float
    ) -> None:
        game, x = small_game(masked=True), np.zeros(6)
        played: list[FloatArray] = []
        sampler = game.model.sampler
        game.model.sampler = lambda x, p: played.append(p) or sampler(x, p)  # type: ignore
        options: dict[str, Any] = {"optimism": 0.0} if name == COUNTING else {}
        made = learner(name, game, exploration=exploration, episodes=40, **options)
        believed = made.answer(x).policy
        made.answer(x)
        uniform = MASK / MASK.sum(axis=1, keepdims=True)
        expected = (1.0 - exploration) * believed + exploration * uniform
        np.testing.assert_allclose(played[1], expected, atol=1e-12)
        assert np.abs(believed - uniform).max() > 0.1
        assert exploration == 1.0 or np.abs(played[1] - played[0]).max() > 1e-3

    def test_horizon(self, name: str) -> None:
        assert learner(name, small_game(), episodes=3, horizon=1).answer(np.zeros(6)).samples == 3
        endless = TabularBilevelEnv.from_arrays(
            np.ones((1, 1, 1)),
            np.zeros((1, 1)),
            upper_reward=np.zeros((1, 1)),
            initial_distribution=[1.0],
            gamma=0.85,
        )
        # 10 / (1 - .85) steps
        assert learner(name, endless, episodes=3).answer(np.zeros(1)).samples == 3 * 67

    def test_seeds(self, name: str) -> None:
        game, x = small_game(), np.zeros(6)
        one, same, other = (learner(name, game, seed, episodes=5).answer(x) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.policy, same.policy)
        assert (one.policy != other.policy).any()


WATCHING: list[tuple[dict[str, Any], str]] = [
    ({"episodes": 0}, "`episodes` must be an integer of at least 1, got 0"),
    ({"rounds": 1.5}, "`rounds`.*got 1.5"),
    ({"exploration": 1.2}, "`exploration` must lie in \\[0, 1\\], got 1.2"),
    ({"exploration": float("nan")}, "`exploration`.*got nan"),
    ({"horizon": 0}, "`horizon`.*at least 1, got 0"),
]
COUNTING = "certainty-equivalence"

test_every_mistake_is_named_when_the_learner_is_made = refusals(
    lambda name, **options: make_learner(name, small_game().model, options),
    *(({"name": name, **given}, m) for name in ("soft-q", COUNTING) for given, m in WATCHING),
    ({"name": "sweeps", "sweeps": 0}, "`sweeps`.*at least 1, got 0"),
    ({"name": "sweeps", "warm_start": "yes"}, "`warm_start` must be True or False, got 'yes'"),
    ({"name": "soft-q", "step_size": 0.0}, "`step_size` must be positive.*got 0.0"),
    ({"name": "soft-q", "step_size": 2.0}, "`step_size` must lie in \\[0, 1\\], got 2.0"),
    ({"name": "soft-q", "decay": -0.1}, "`decay` must lie in \\[0, 1\\], got -0.1"),
    ({"name": "soft-q", "passes": 0}, "`passes`.*at least 1, got 0"),
    ({"name": COUNTING, "optimism": -1.0}, "`optimism` must be finite and not neg.*got -1.0"),
    ({"name": COUNTING, "optimism": None}, "`optimism` must be finite.*got None"),
    ({"name": COUNTING, "optimism": float("nan")}, "`optimism` must be finite.*got nan"),
    ({"name": COUNTING, "forget": 1.5}, "`forget` must lie in \\[0, 1\\], got 1.5"),
    *(
        ({"name": name, "colour": 1}, TypeError, f"option for inner learner '{name}': 'colour'")
        for name in LEARNERS
    ),
    ({"name": "soft-q", "exploratoin": 1}, TypeError, "Did you mean 'exploration'"),
    ({"name": "softq"}, "unknown inner learner 'softq'.*mean 'soft-q'"),
    ({"name": "certainty"}, "unknown inner learner 'certainty'.*mean 'certainty-equivalence'"),
)


@pytest.mark.parametrize("name", LEARNERS)
def test_answers_stand_and_reset_forgets(name: str) -> None:
    made: Any = learner(name, small_game())
    answers: list[tuple[Answer, FloatArray, FloatArray]] = []
    for shift in (0.0, 0.3, -0.3):
        answer = made.answer(np.full(6, shift))
        answers.append((answer, answer.policy.copy(), answer.soft_value.copy()))
    # What a learner has answered is not changed by what it learns later.
    for answer, policy, value in answers:
        np.testing.assert_array_equal(answer.policy, policy)
        np.testing.assert_array_equal(answer.soft_value, value)
    made.reset(np.random.default_rng(0))
    first, again = answers[0][0], made.answer(np.zeros(6))
    np.testing.assert_array_equal(again.policy, first.policy)
    np.testing.assert_array_equal(again.soft_value, first.soft_value)
    assert (again.iterations, again.samples) == (first.iterations, first.samples)
