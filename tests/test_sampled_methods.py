"""Methods that learn the hyper-gradient from episodes, against the exact one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.episodes.sampler import BLOCK, Episodes, Sampler
from bilevel_gym.methods import TabularResponse, make_method
from bilevel_gym.methods.episode_sums import Batch, Critic, advantages, carried, renormalised
from bilevel_gym.methods.sampled import enough_steps
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LogLikelihood,
    Objective,
    Outcome,
    PolicyCost,
    QuadraticCost,
    Sum,
    TruncatedReturn,
)

from .benchmarks.estimators import cosine, four_rooms, truncated
from .helpers import refusals
from .small_games import (
    COUNTS,
    GAMES,
    SHAPE,
    Hidden,
    assert_unbiased,
    exact_parts,
    replicates,
    small_game,
)

pytestmark = pytest.mark.kernels


INNER = ["exact", "sweeps", "soft-q", "certainty-equivalence"]
SAMPLED = ["plug-in", "trace", "aho", "bc-hg", "sobirl", "hpgd"]
# Stoc-SoBiRL takes inner learners that see episodes alone.
EVERY = [(method, inner) for method in SAMPLED for inner in INNER]
EVERY += [("stoc-sobirl", inner) for inner in INNER[2:]]
UNIFORM: dict[str, Any] = {"starts": "uniform", "rollouts": 256, "episodes": 512}
EVERYWHERE = np.ones(SHAPE, dtype=bool)
PER_PAIR: dict[str, Any] = {"kind": ArrayModel, "initial_upper_params": np.zeros(15)}
PER_STATE = {**PER_PAIR, "features": None, "initial_upper_params": np.zeros(5)}


def few(method: str, inner: str) -> dict[str, Any]:
    """Return an inner learner with few episodes, if it plays any, and Stoc-SoBiRL sets none."""
    options = {"soft-q": {"episodes": 10, "passes": 2}, "certainty-equivalence": {"episodes": 10}}
    taken = dict(options.get(inner, {}))
    if method == "stoc-sobirl":  # its schedule says how many
        taken.pop("episodes")
    return {"inner": inner, "inner_options": taken}


class TestUnbiased:
    """Means over many replicates against the exact hyper-gradient."""

    @pytest.mark.parametrize("name", GAMES)
    @pytest.mark.parametrize(
        ("method", "options", "count", "precision", "bias"),
        [
            pytest.param("trace", {"critic": "exact"}, 15, 0.03, 5e-4, id="trace"),
            pytest.param("bc-hg", {"critic": "exact"}, 27, 0.035, 5e-4, id="bc-hg"),
            pytest.param("aho", {"critic": "exact"}, 30, 0.05, 5e-4, id="aho"),
            # What is fitted to episodes is biased by the order of 1 / episodes.
            pytest.param("aho", {}, 30, 0.05, 0.01, id="aho-seen"),
            pytest.param("trace", {}, 15, 0.03, 0.01, id="trace-seen"),
            pytest.param("plug-in", {"pooled": False}, 20, 0.03, 0.015, id="plug-in"),
            # Averages over visits are ratios: their bias falls as 1 / episodes. Visits are followed
            # for half a horizon or more, and miss about one per cent of what follows.
            pytest.param("sobirl", {"episodes": 4096}, 26, 0.07, 0.01, id="sobirl"),
            pytest.param("hpgd", {}, 24, 0.04, 0.02, id="hpgd"),
            pytest.param("hpgd", UNIFORM, 30, 0.06, 5e-4, id="hpgd-uniform"),
        ],
    )
    def test_returns(
        self,
        name: str,
        method: str,
        options: dict[str, Any],
        count: int,
        precision: float,
        bias: float,
    ) -> None:
        game = small_game(**GAMES[name])
        exact, response = exact_parts(game)
        assert exact.response_share > 0.1
        values, found, direct = replicates(game, method, count, **{"episodes": 1024, **options})
        assert_unbiased(values, exact.objective, precision=0.05, bias=5e-4)
        assert_unbiased(direct, exact.direct_gradient, precision=0.02, bias=5e-4)
        assert_unbiased(found, response, precision=precision, bias=bias)

    @pytest.mark.parametrize("options", [{}, GAMES["leader's horizon"]])
    def test_without_a_baseline(self, options: dict[str, Any]) -> None:
        game = small_game(termination=0.3, **options)
        _, found, _ = replicates(game, "sobirl", 30, episodes=4096, baseline=False)
        assert_unbiased(found, exact_parts(game)[1], precision=0.04, bias=0.01)

    def test_bc_hg_is_the_trace_of_the_actions_taken(self) -> None:
        game = small_game()
        found = [
            replicates(game, method, 2, episodes=50, **options)[1]
            for method, options in (("bc-hg", {}), ("trace", {"all_actions": False}))
        ]
        np.testing.assert_array_equal(*found)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize(
        "objective",
        [
            PolicyCost(0.7),
            LogLikelihood(COUNTS),
            Sum((PolicyCost(0.2), Sum((DiscountedReturn(0.6), QuadraticCost(0.3))))),
        ],
        ids=["cost", "likelihood", "sum"],
    )
    def test_terms_that_judge_the_policy(self, objective: Objective, masked: bool) -> None:
        game = small_game(masked=masked, objective=objective)
        exact, response = exact_parts(game)
        # More episodes than are played together.
        values, found, direct = replicates(game, "trace", 12, episodes=BLOCK + 1, critic="exact")
        if not isinstance(objective, Sum):  # known exactly
            np.testing.assert_allclose(values, exact.objective, rtol=1e-9)
        assert_unbiased(values, exact.objective, precision=0.05, bias=5e-4)
        if exact.direct_gradient.any():
            assert_unbiased(direct, exact.direct_gradient, precision=0.02, bias=5e-4)
        else:
            assert not direct.any()
        assert_unbiased(found, response, precision=0.04, bias=5e-4)

    def test_an_action_whose_probability_underflows_has_a_likelihood(self) -> None:
        game = small_game(temperature=1e-4, objective=LogLikelihood(np.ones(SHAPE)))
        exact = game.evaluate(game.initial_upper_params)
        assert (exact.policy == 0.0).any()
        response = make_method("trace", game, episodes=8).step(game.initial_upper_params)
        assert np.isfinite(response.objective)

    def test_an_action_that_does_not_exist_has_none(self) -> None:
        game = small_game(masked=True, objective=LogLikelihood(np.ones(SHAPE)))
        with pytest.raises(ValueError, match="action=2 does not exist in state 0"):
            make_method("trace", game, episodes=8).step(game.initial_upper_params)

    def test_a_horizon_that_is_too_short_shows(self) -> None:
        game = small_game()
        _, found, _ = replicates(game, "trace", 30, episodes=1024, critic="exact", horizon=4)
        with pytest.raises(AssertionError):
            assert_unbiased(found, exact_parts(game)[1], precision=0.05, bias=5e-4)


class TestParts:
    """Small pieces against plain loops and dense algebra."""

    @pytest.mark.parametrize("truncation", [None, 1, 2, 5, 9, 10, 11, 30])
    def test_carried(self, truncation: int | None) -> None:
        steps, gamma = 10, 0.7
        injections = np.random.default_rng(0).normal(size=(steps, 4))
        expected = np.zeros_like(injections)
        for t in range(steps):
            for earlier in range(t):
                if truncation is None or t - earlier < truncation:
                    expected[t] += gamma ** (t - earlier) * injections[earlier]
        before = injections.copy()
        found = carried(injections, gamma, truncation)
        np.testing.assert_allclose(found, expected, atol=1e-14)
        np.testing.assert_array_equal(injections, before)
        assert truncation != 1 or not found.any()  # exactly nothing

    def batch(
        self, game: TabularBilevelEnv, gamma: float | None = None, horizon: int | None = None
    ) -> Batch:
        """Return a batch of no episodes."""
        x = game.initial_upper_params
        policy = game.evaluate(x).policy
        sampler = game.model.sampler(x, policy)
        upper_gamma = game.gamma if gamma is None else gamma
        discounts = game.gamma, game.temperature, upper_gamma
        return Batch(x, [], policy, sampler, 40, *discounts, horizon)

    def exact_advantages(self, game: TabularBilevelEnv, batch: Batch, steps: int = 1) -> Any:
        """Return the leader's advantages in the true model."""
        kernel, reward = game.kernel(batch.upper_params), game.upper_reward(batch.upper_params)
        return advantages(kernel, reward, batch.policy, EVERYWHERE, batch, steps)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize(
        "objective",
        [
            DiscountedReturn(0.7),
            TruncatedReturn(1, 0.9),
            TruncatedReturn(5, 0.9),
            TruncatedReturn(7, 1.0),
        ],
        ids=["endless", "1", "5", "7"],
    )
    def test_advantages(self, objective: Any, masked: bool) -> None:
        game = small_game(masked=masked)
        x = game.initial_upper_params
        horizon = objective.horizon
        batch = self.batch(game, objective.gamma, horizon)
        policy, kernel = batch.policy, game.kernel(x)
        solution = solve_soft_mdp(game.model.lower_mdp(x))
        upper_reward, start = game.upper_reward(x), game.start_distribution(x)
        slope = objective.evaluate(Outcome(solution, x, upper_reward, start)).policy
        steps = 6
        tables = self.exact_advantages(game, batch, steps)
        for table in tables:
            np.testing.assert_allclose((policy * table).sum(axis=1), 0.0, atol=1e-12)
        matrix = kernel.policy_matrix(policy).toarray()
        if horizon is None:
            assert len(tables) == 1
            visits = np.linalg.solve(np.eye(5) - objective.gamma * matrix.T, start)
            found = visits[:, None] * tables[0]
        else:
            assert len(tables) == steps or horizon == 1
            assert not any(table.any() for table in tables[horizon:])
            every = self.exact_advantages(game, batch, horizon)
            np.testing.assert_array_equal(every[: min(horizon, steps)], tables[:horizon])
            found, present = np.zeros(SHAPE), start
            for table in every:
                found += present[:, None] * table
                present = objective.gamma * matrix.T @ present
        expected = slope - (policy * slope).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-9)

    def test_what_is_not_known_has_no_advantage(self) -> None:
        game = small_game()
        x, known = game.initial_upper_params, EVERYWHERE.copy()
        known[1] = [True, False, True]
        known[3] = False
        batch = self.batch(game)
        policy = renormalised(batch.policy, known)
        np.testing.assert_allclose(policy.sum(axis=1), [1.0, 1.0, 1.0, 0.0, 1.0])
        (table,) = advantages(game.kernel(x), game.upper_reward(x), policy, known, batch, 1)
        assert not table[~known].any() and table[known].all()
        # What is injected has mean zero under the true policy, too.
        np.testing.assert_allclose((batch.policy * table).sum(axis=1), 0.0, atol=1e-12)

    def test_the_critic_learns_the_advantage(self) -> None:
        game = small_game(masked=True, termination=0.1)
        batch = self.batch(game)
        uniform = game.action_mask / game.action_mask.sum(axis=1, keepdims=True)  # type: ignore
        x, exact = game.initial_upper_params, self.exact_advantages(game, batch)[0]
        critic, rng, errors = Critic(*SHAPE), np.random.default_rng(0), []
        for episodes in (20, 20_000):  # of another policy than the one that is judged
            critic.add(list(game.model.sampler(x, uniform).episodes(episodes, 30, rng)))
            table = critic.advantages(batch, 1)[0]
            errors.append(np.abs(table - exact)[game.action_mask].max())
        assert errors[1] <= 0.08 < errors[0]

    def test_the_critic_goes_by_the_last_pay(self) -> None:
        game = small_game()
        x, rng, critic = game.initial_upper_params, np.random.default_rng(0), Critic(*SHAPE)
        batch, uniform = self.batch(game), np.full(SHAPE, 1 / 3)
        for point in (0.0 * x - 1.0, x):
            critic.add(list(game.model.sampler(point, uniform).episodes(5000, 30, rng)))
        exact = self.exact_advantages(game, batch)[0]
        np.testing.assert_allclose(critic.advantages(batch, 1)[0], exact, atol=0.05)

    @pytest.mark.parametrize(
        ("gamma", "objective", "expected"),
        [
            (0.0, DiscountedReturn(), 1),
            (0.5, DiscountedReturn(), 14),
            (0.5, DiscountedReturn(0.3), 14),
            (0.5, DiscountedReturn(0.9), 88),
            (0.5, TruncatedReturn(20, 1.0), 34),
            (0.5, TruncatedReturn(2000, 0.9), 88),
            (0.5, Sum((TruncatedReturn(3), Sum((DiscountedReturn(0.9),)))), 88),
            (0.5, PolicyCost(1.0), 14),
        ],
    )
    def test_enough_steps(self, gamma: float, objective: Objective, expected: int) -> None:
        assert enough_steps(small_game(gamma=gamma, objective=objective).model) == expected


class TestTruncation:
    """The first K terms of the advantage of dr/dx."""

    @pytest.mark.parametrize("per_action", [True, False])
    @pytest.mark.parametrize("terms", [1, 3, None])
    def test_expectation(self, per_action: bool, terms: int | None) -> None:
        game = small_game(**(PER_PAIR if per_action else PER_STATE))
        expected, full = truncated(game, terms), exact_parts(game)[0].hyper_gradient
        if terms is None:
            np.testing.assert_allclose(expected, full, rtol=1e-7)
        cases: Any = ("trace", {"critic": "exact"}), ("sobirl", {})
        for method, options in cases:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, found, direct = replicates(
                    game, method, 22, episodes=1024, truncation=terms, **options
                )
            assert not direct.any()
            if terms == 1 and not per_action:
                assert np.abs(expected).max() <= 1e-12
                assert np.abs(found).max() <= 1e-12 * np.abs(full).max()
            else:
                assert_unbiased(found, expected, precision=0.15, bias=0.01)

    def test_the_warning(self) -> None:
        per_action, per_state = small_game(), small_game(**PER_STATE)
        # Here actions that do not exist are the only ones that differ.
        mask, features = EVERYWHERE.copy(), np.zeros((*SHAPE, 5))
        mask[:, 2] = False
        features[:, :2] = np.eye(5)[:, None]
        masked = small_game(**{**PER_STATE, "features": features, "action_mask": mask})
        for game in (per_state, masked):
            with pytest.warns(UserWarning, match="truncation=1.*ArrayModel.*not depend"):
                make_method("sobirl", game, truncation=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            make_method("sobirl", per_action, truncation=1)
            for truncation in (None, 2):
                make_method("sobirl", per_state, truncation=truncation)


class TestWhatIsSeen:
    """A sampled method sees the sampler alone."""

    @pytest.mark.parametrize("inner", ["soft-q", "certainty-equivalence"])
    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("plug-in", {}),
            ("trace", {}),
            ("trace", {"all_actions": False, "truncation": 3}),
            ("aho", {}),
            ("bc-hg", {}),
            ("sobirl", {}),
            ("sobirl", {"truncation": 1}),
            ("stoc-sobirl", {}),
            ("hpgd", {}),
            ("hpgd", {"starts": "uniform"}),
        ],
    )
    @pytest.mark.parametrize("name", ["masked", "leader's horizon"])
    def test_the_model_is_hidden(
        self, name: str, method: str, options: dict[str, Any], inner: str
    ) -> None:
        game = small_game(kind=Hidden, **GAMES[name])
        game.objective = Sum((game.objective, PolicyCost(0.1), LogLikelihood(COUNTS)))
        # The kernel is not to be had by other names either.
        model: Any = game.model
        stored = model.initial_kernel

        def kernel(upper_params: FloatArray) -> Kernel:
            model._check()
            return stored

        def start(upper_params: FloatArray) -> FloatArray:
            model._check()
            return np.full(5, 0.2)

        model.initial_kernel, model.initial_distribution = None, np.full(5, np.nan)
        model.kernel, model.start_distribution = kernel, start
        learner = make_method(method, game, episodes=16, **few(method, inner), **options)
        learner.reset(np.random.default_rng(0))
        for shift in (0.0, 0.1):
            response = learner.step(game.initial_upper_params + shift)
            assert np.isfinite(response.hyper_gradient).all()  # type: ignore[arg-type]
            assert response.residual is None and response.converged is None

    def test_the_proof_would_fail(self) -> None:
        for method, options in (("trace", {"critic": "exact"}), ("sobirl", {"inner": "exact"})):
            game = small_game(kind=Hidden)
            options = {"inner": "soft-q", **options}
            with pytest.raises(AssertionError, match="outside the sampler"):
                make_method(method, game, **options).step(game.initial_upper_params)


class Counted(Sampler):
    """A sampler that counts."""

    total = 0

    def _counting(self, blocks: Iterator[Episodes]) -> Iterator[Episodes]:
        for block in blocks:
            Counted.total += int((block.pairs < SHAPE[0] * SHAPE[1]).sum())
            yield block

    def episodes(self, *arguments: Any) -> Iterator[Episodes]:
        return self._counting(super().episodes(*arguments))

    def episodes_from(self, *arguments: Any) -> Iterator[Episodes]:
        return self._counting(super().episodes_from(*arguments))


@pytest.mark.parametrize(
    ("method", "inner"), [*EVERY, *(("hpgd-uniform", inner) for inner in INNER)]
)
def test_samples_are_what_was_played(
    method: str, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilevel_gym.model.tabular.Sampler", Counted)
    terms = DiscountedReturn(), DiscountedReturn(0.5), PolicyCost(0.3)
    game = small_game(termination=0.2, objective=Sum(terms))
    options = {"method": method, **few(method, inner)}
    if method == "hpgd-uniform":
        options |= {"method": "hpgd", "starts": "uniform"}
    env = HyperGradient(game, episodes=20, **options)
    Counted.total = 0
    _, info = env.reset(seed=3)
    first = Counted.total
    assert info["inner_samples"] == first > 0
    more = env.step(info["upper_params"] * 0.5)[-1]["inner_samples"]
    assert more == Counted.total - first > 0
    assert method != "stoc-sobirl" or more > 1.5 * first  # its batch grows


def test_uniform_starts_are_from_actions_that_exist() -> None:
    game = small_game(masked=True)
    method = make_method(
        "hpgd", game, starts="uniform", rollouts=3, episodes=4, horizon=1, inner="exact"
    )
    assert game.action_mask is not None
    response = method.step(game.initial_upper_params)
    assert response.samples == 4 + 2 * 3 * game.action_mask.sum()


COMMON: list[tuple[Any, ...]] = [
    ({"episodes": 0}, "`episodes` must be an integer of at least 1, got 0"),
    ({"episodes": 2.5}, "`episodes`.*got 2.5"),
    ({"episodes": True}, "`episodes`.*got True"),
    ({"horizon": 0}, "`horizon` must be an integer of at least 1, got 0"),
    ({"horizon": "long"}, "`horizon`.*got 'long'"),
    ({"inner": "exakt"}, "unknown inner learner 'exakt'.* Did you mean 'exact'.* 'sweeps'"),
    ({"inner": ["exact"]}, "unknown inner learner"),
    ({"inner_options": [1]}, TypeError, "`inner_options` must be a dict.*got \\[1\\]"),
    ({"inner_options": {"sweeps": 3}}, TypeError, "inner learner 'exact'.*'sweeps'"),
    ({"episods": 3}, TypeError, "'episods'.*Did you mean 'episodes'"),
]
test_options_out_of_range_are_named = refusals(
    lambda method, **options: make_method(method, small_game(), **options),
    *(({"method": method, **row[0]}, *row[1:]) for method in SAMPLED for row in COMMON),
    ({"method": "trace", "critic": "sen"}, "unknown critic 'sen'.*Did you mean 'seen'"),
    ({"method": "trace", "all_actions": "no"}, "`all_actions` must be True or False, got 'no'"),
    ({"method": "trace", "truncation": 0}, "`truncation`.*at least 1, got 0"),
    ({"method": "bc-hg", "critic": None}, "unknown critic None"),
    ({"method": "sobirl", "truncation": -1}, "`truncation`.*at least 1, got -1"),
    ({"method": "sobirl", "baseline": 2}, "`baseline` must be True or False, got 2"),
    ({"method": "sobirl", "critic": "seen"}, TypeError, "'sobirl' takes no `critic`.*'trace'"),
    ({"method": "hpgd", "starts": "anywhere"}, "unknown starts 'anywhere'; .*'uniform'"),
    ({"method": "hpgd", "rollouts": 0}, "`rollouts`.*at least 1, got 0"),
    ({"method": "trace", "control_variate": 1}, "`control_variate`.*True or False, got 1"),
    ({"method": "bc-hg", "control_variate": True}, TypeError, "`control_variate`.*bc-hg.*trace"),
    ({"method": "bc-hg", "all_actions": True}, TypeError, "`all_actions`.*bc-hg.*trace"),
    ({"method": "aho", "truncation": 2}, TypeError, "`truncation` is no option of method 'aho'"),
    ({"method": "stoc-sobirl", "episodes": 0}, "`episodes` must be .* of at least 1, got 0"),
    ({"method": "stoc-sobirl", "growth": -1.0}, "`growth`.*finite and not negative, got -1.0"),
    ({"method": "stoc-sobirl", "growth": "fast"}, "`growth`.*got 'fast'"),
    ({"method": "stoc-sobirl", "most_episodes": 63}, "`most_episodes`.*at least 64, got 63"),
    ({"method": "stoc-sobirl", "inner": "exact"}, "`inner`.*'soft-q', got 'exact'.*'sobirl'"),
    ({"method": "stoc-sobirl", "inner": "sweeps"}, "`inner` must be.*got 'sweeps'"),
    ({"method": "stoc-sobirl", "inner": "softq"}, "unknown inner learner 'softq'.*'soft-q'"),
    ({"method": "stoc-sobirl", "inner_options": {"episodes": 9}}, "`inner_options`.*leave.*9"),
    (
        {"method": "stoc-sobirl", "inner_options": {"sweeps": 9}},
        TypeError,
        "'certainty-eq.*'sweeps'",
    ),
    ({"method": "stoc-sobirl", "grow": 1}, TypeError, "'grow'.*Did you mean 'growth'"),
    ({"method": "stoc-sobirl", "truncation": 0}, "`truncation`.*at least 1, got 0"),
)


@pytest.mark.parametrize("method", SAMPLED)
def test_games_that_do_not_suit_are_refused(method: str) -> None:
    with pytest.raises(TypeError, match="states and actions, got CartPoleEnv"):
        make_method(method, gym.make("CartPole-v1").unwrapped)


def test_the_leaders_seat_shows_the_response() -> None:
    game = small_game(termination=0.2)
    env = HyperGradient(game, method="trace", episodes=4000)
    observation, info = env.reset(seed=0)
    response = env.response
    exact = game.evaluate(game.initial_upper_params)
    assert isinstance(response, TabularResponse)
    assert info["inner_converged"] and info["hyper_gradient"].dtype == np.float64
    np.testing.assert_allclose(response.policy, exact.policy, atol=1e-9)
    np.testing.assert_allclose(response.occupancy, exact.occupancy, atol=0.02)
    np.testing.assert_allclose(observation, response.occupancy, rtol=1e-6)


def test_what_trace_is_for() -> None:
    """At 256 episodes the trace has at most half of the raw paper estimator's variance."""
    game = four_rooms(per_action=True)
    exact = exact_parts(game)[0].hyper_gradient
    _, trace, _ = replicates(game, "trace", 30, episodes=256)
    _, raw, _ = replicates(game, "sobirl", 30, episodes=256, baseline=False)
    assert trace.var(axis=0).sum() <= 0.5 * raw.var(axis=0).sum()
    assert np.mean([cosine(found, exact) for found in trace]) >= 0.975
