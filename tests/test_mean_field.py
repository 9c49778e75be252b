"""Mean-field equilibria: problems without discount, derivatives of masses, several equilibria."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.ending import EndingMDP, solve_ending_mdp
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.mean_field import Followers
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import BilevelMarketEntry, MeanFieldEnv
from bilevel_gym.methods import METHODS, make_method
from bilevel_gym.model import MeanFieldModel, evaluate
from bilevel_gym.model.objectives import DiscountedReturn, PolicyCost, QuadraticCost, Sum
from bilevel_gym.model.responses import response_from, response_state
from bilevel_gym.testing import check_hyper_gradient

from .helpers import FloatArray, refusals

# Links of a small graph with circles, each with its cost; the last node is the end.
COSTS = {(0, 1): 1.0, (1, 0): 0.7, (0, 2): 2.5, (1, 2): 0.4, (2, 0): 1.5, (1, 3): 3.0, (2, 3): 1.2}


def way_out(temperature: float, gamma: float = 1.0, scale: float = 1.0) -> EndingMDP:
    """Return the problem of who leaves a small graph; what it does not reach costs a step more."""
    states, actions, targets = np.array([(i, j, j) for i, j in COSTS if j < 3]).T
    reward, mask = np.zeros((3, 4)), np.zeros((3, 4), dtype=bool)
    for (i, j), cost in COSTS.items():
        reward[i, j], mask[i, j] = -scale * cost, True
    kernel = Kernel.from_triplets(
        states, actions, targets, np.ones(len(states)), num_states=3, num_actions=4
    )
    return EndingMDP(kernel, reward, gamma, temperature, mask)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0])
def test_values_without_discount_are_logarithms_of_sums_over_all_ways(temperature: float) -> None:
    solution = solve_ending_mdp(way_out(temperature))
    # exp(V / tau) solves a linear system; shortest ways keep it in range.
    shortest = np.array([2.6, 1.6, 1.2])
    weights, ends = np.zeros((3, 3)), np.zeros(3)
    for (i, j), cost in COSTS.items():
        if j < 3:
            weights[i, j] = np.exp((shortest[i] - cost - shortest[j]) / temperature)
        else:
            ends[i] = np.exp((shortest[i] - cost) / temperature)
    sums = np.linalg.solve(np.eye(3) - weights, ends)
    np.testing.assert_allclose(
        solution.soft_value, temperature * np.log(sums) - shortest, rtol=1e-12
    )
    again = solve_ending_mdp(way_out(temperature), solution.soft_value)
    assert again.iterations == 0
    far = solve_ending_mdp(way_out(temperature), np.array([1e3, -1e3, 0.0]))
    np.testing.assert_allclose(far.soft_value, solution.soft_value, rtol=1e-12)


def test_with_a_discount_values_are_those_of_the_other_solver() -> None:
    ending = way_out(0.5, gamma=0.9)
    plain = TabularMDP(ending.kernel, ending.reward, 0.9, 0.5, ending.action_mask)
    expected = solve_soft_mdp(plain)
    solution = solve_ending_mdp(ending)
    np.testing.assert_allclose(solution.soft_value, expected.soft_value, rtol=1e-12)
    np.testing.assert_allclose(solution.policy, expected.policy, rtol=1e-10, atol=1e-300)


def test_where_circles_pay_there_is_no_value() -> None:
    # The spectral radius of exp(-c / tau) passes one here.
    solve_ending_mdp(way_out(2.0))
    with pytest.raises(ArithmeticError, match="diverges: going in circles pays"):
        solve_ending_mdp(way_out(4.0))
    with pytest.raises(ArithmeticError, match="too large for float64 at a temperature of 0.5"):
        solve_ending_mdp(way_out(0.5, scale=1e12))
    with pytest.raises(ArithmeticError, match="too large for float64"):
        BilevelMarketEntry(profits=[1e12, 2e12], needs=[1, 1]).evaluate([0.0, 0.0])
    with pytest.raises(ValueError, match="gamma"):
        way_out(1.0, gamma=1.1)
    stuck = Kernel.from_dense(np.eye(2)[:, None, :])
    with pytest.raises(ValueError, match="below 1 unless every episode ends"):
        solve_ending_mdp(EndingMDP(stuck, np.array([[-1.0], [-1.0]]), 1.0, 1.0))


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_masses_change_as_their_derivatives_say(gamma: float) -> None:
    rng = np.random.default_rng(0)
    size, actions = 5, 3
    dense = rng.dirichlet(np.ones(size), (size, actions)) * 0.9
    kernel = Kernel.from_dense(dense)
    reward, start = rng.normal(size=(size, actions)) - 2.0, rng.dirichlet(np.ones(size))

    def masses(reward: FloatArray, kernel: Kernel) -> Followers:
        return Followers(solve_ending_mdp(EndingMDP(kernel, reward, gamma, 0.3)), start)

    at = masses(reward, kernel)
    assert at.mass.sum() == pytest.approx(at.visits.sum())
    change, moved = rng.normal(size=(actions, size)), rng.normal(size=kernel.matrix.data.size)
    step = 1e-5
    sides = [
        masses(
            reward + sign * step * change.T,
            kernel.with_probabilities(kernel.matrix.data + sign * step * 1e-2 * moved),
        ).mass
        for sign in (1.0, -1.0)
    ]
    tangent = at.tangent(change, 1e-2 * moved)
    np.testing.assert_allclose((sides[0] - sides[1]) / (2.0 * step), tangent, atol=1e-8)
    weights = rng.normal(size=(actions, size))
    of_reward, value = at.cotangent(weights)
    mdp = at.answer.mdp
    of_kernel = kernel.on_transitions(of_reward.T, at.answer.soft_value)
    of_kernel += kernel.on_transitions(at.mass.T, value)
    pulled = (of_reward * change).sum() + mdp.gamma * of_kernel @ (1e-2 * moved)
    assert pulled == pytest.approx((weights * tangent).sum(), rel=1e-11)


class Queue(MeanFieldModel):
    """Two places; x prices both, the crowd pushes, slows the way there, and is what counts."""

    def __init__(self, **options: Any) -> None:
        rng = np.random.default_rng(3)
        kernel = Kernel.from_dense(rng.dirichlet(np.ones(3), (3, 2)) * 0.95)
        options = {"objective": DiscountedReturn(), "gamma": 0.9, "temperature": 0.2, **options}
        super().__init__(
            kernel=kernel,
            initial_distribution=[0.5, 0.3, 0.2],
            groups=[[0, 1], [1, -1], [0, 0]],
            low=-np.ones(2),
            high=np.ones(2),
            initial_upper_params=np.zeros(2),
            **options,
        )
        self._push = rng.normal(size=(3, 2, 2))
        self._price = rng.normal(size=(3, 2, 2))
        self._leader = rng.normal(size=(3, 2, 2))
        # Rows keep their sums.
        tilt = 0.02 * rng.normal(size=(3, 2, 3, 2))
        self._tilt = tilt - tilt.mean(axis=2, keepdims=True)

    def reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        return self._price @ np.sin(upper_params) - self._push @ crowd**2

    def reward_vjp(self, upper_params: FloatArray, crowd: FloatArray, cotangent: Any) -> FloatArray:
        return np.cos(upper_params) * np.einsum("sa,sad->d", cotangent, self._price)

    def reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        slopes = -2.0 * self._push * crowd
        return csr_array(slopes.transpose(1, 0, 2).reshape(6, 2))

    def upper_reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        return self._leader @ (crowd * upper_params + crowd**2)

    def upper_reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: Any
    ) -> FloatArray:
        return crowd * np.einsum("sa,sad->d", cotangent, self._leader)

    def upper_reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        slopes = self._leader * (upper_params + 2.0 * crowd)
        return csr_array(slopes.transpose(1, 0, 2).reshape(6, 2))

    def kernel(self, upper_params: FloatArray, crowd: FloatArray) -> Kernel:
        return self.initial_kernel.with_probabilities(
            self.initial_kernel.matrix.data + self._on_transitions() @ (crowd + 0.3 * upper_params)
        )

    def kernel_vjp(self, upper_params: FloatArray, crowd: FloatArray, cotangent: Any) -> FloatArray:
        return 0.3 * self._on_transitions().T @ cotangent

    def kernel_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        return csr_array(self._on_transitions())

    def _on_transitions(self) -> FloatArray:
        states, actions, successors = self.initial_kernel.triplets
        return self._tilt[states, actions, successors]


@pytest.mark.parametrize(
    "objective",
    [
        DiscountedReturn(),
        Sum((DiscountedReturn(0.8), PolicyCost(0.5), QuadraticCost(0.1))),
        Sum((PolicyCost(2.0), QuadraticCost(0.1))),
    ],
)
@pytest.mark.parametrize("entropy", ["plain", "relative"])
def test_where_all_depends_on_all_one_adjoint_gives_the_derivative(
    objective: Any, entropy: str
) -> None:
    env = HyperGradient(MeanFieldEnv(Queue(objective=objective, entropy=entropy)))
    for seed in range(2):
        x = np.random.default_rng(seed).uniform(-0.8, 0.8, 2)
        report = check_hyper_gradient(env, x, min_response_share=0.01)
        assert report.relative_error <= 1e-6, report
    answer: Any = env.game.evaluate(x)
    assert answer.converged and not answer.unique and answer.adjoint_residual < 1e-10
    model = env.game.model
    mdp = model.member_mdp(x, answer.crowd)
    solution = solve_ending_mdp(mdp)
    np.testing.assert_allclose(answer.policy, solution.policy, rtol=1e-9)
    mass = Followers(solution, model.initial_distribution).mass
    np.testing.assert_allclose(model.crowd_of(mass.T), answer.crowd, atol=1e-12)


def test_an_answer_is_kept_and_restored_whole() -> None:
    model = BilevelMarketEntry().model
    answer = evaluate(model, np.full(5, 0.1))
    restored: Any = response_from(response_state(answer))
    assert evaluate(model, np.full(5, 0.1), warm_start=restored).iterations == 0
    colder = evaluate(model.at_temperature(0.01), np.full(5, 0.1), warm_start=answer)
    assert colder.converged and colder.iterations > 0


def test_firms_that_attract_each_other_have_several_equilibria() -> None:
    alone, together = BilevelMarketEntry(), BilevelMarketEntry(crowding=-3.0)
    x = np.zeros(5)
    (only,) = alone.equilibria(x, starts=8)
    assert only.unique and only.objective == pytest.approx(alone.evaluate(x).objective)
    found = together.equilibria(x, starts=12)
    assert len(found) > 2 and not any(answer.unique for answer in found)
    assert sorted((a.objective for a in found), reverse=True) == [a.objective for a in found]
    for answer in found:
        model = together.model
        assert answer.converged
        again = together.evaluate(x, crowd=answer.crowd)
        assert again.iterations == 0
        mass = Followers(
            solve_ending_mdp(model.member_mdp(x, answer.crowd)), model.initial_distribution
        ).mass
        np.testing.assert_allclose(model.crowd_of(mass.T), answer.crowd, atol=1e-10)


def test_firms_who_crowd_each_other_out_are_monotone() -> None:
    model, rng = BilevelMarketEntry().model, np.random.default_rng(0)
    assert model.monotone
    for _ in range(5):
        masses = rng.dirichlet(np.ones(36), 2).reshape(2, 6, 6)
        one, other = (model.reward(np.zeros(5), model.crowd_of(mass)) for mass in masses)
        assert ((one - other) * (masses[0] - masses[1])).sum() <= 1e-15


def test_a_finite_crowd_tends_to_the_mean_field() -> None:
    model = BilevelMarketEntry(queue=2.0).model
    answer = evaluate(model, np.zeros(5))
    rng = np.random.default_rng(0)
    errors = []
    for followers in (100, 1600):
        drawn = [model.sampled_crowd(answer, followers, rng) for _ in range(40)]
        crowds, returns = np.array([z for z, _ in drawn]), np.array([f for _, f in drawn])
        errors.append(
            [np.abs(crowds - answer.crowd).mean(), np.abs(returns - answer.objective).mean()]
        )
    ratios = np.divide(errors[0], errors[1])
    assert (ratios > 2.5).all() and (ratios < 6.5).all(), ratios  # 4, but for sampling error


def test_methods_that_see_one_follower_alone_are_refused_with_the_reason() -> None:
    game = BilevelMarketEntry()
    for name in METHODS:
        if name in game.methods:
            make_method(name, game)
        else:
            with pytest.raises(TypeError, match="says nothing of how the others answer x"):
                make_method(name, game)
    estimate = HyperGradient(game, method="zero-order", directions=30, radius=1e-4)
    estimate.reset(seed=0)
    info = estimate.step(np.full(5, 0.1))[-1]
    exact = game.evaluate(np.full(5, 0.1)).hyper_gradient
    cosine = info["hyper_gradient"] @ exact / np.linalg.norm(exact)
    assert cosine / np.linalg.norm(info["hyper_gradient"]) > 0.8


def test_one_member_faces_the_equilibrium() -> None:
    game = BilevelMarketEntry()
    seat = LowerLevel(game, np.full(5, 0.2))
    answer = game.evaluate(np.full(5, 0.2))
    reward = game.model.reward(answer.upper_params, answer.crowd)
    state, _ = seat.reset(seed=0)
    for action in (1, 1, 2, 3, 0, 0):
        successor, received, *_ = seat.step(action)
        assert received == reward[state, action]
        state = successor
    with pytest.raises(ValueError, match="action must be an integer in 0..5"):
        seat.step(6)


test_mistakes_in_models_are_refused = refusals(
    lambda **options: Queue(**options),
    ({"gamma": 1.5}, r"`gamma` must lie in \[0, 1\]"),
    ({"temperature": 0.0}, "`temperature` must be positive"),
    ({"objective": 3}, TypeError, "objective"),
)
test_mistakes_in_answers_are_refused = refusals(
    lambda **options: evaluate(Queue(), np.zeros(2), **options),
    ({"crowd": [1.0]}, r"`crowd` must be finite numbers \[K\] = \(2,\)"),
    ({"crowd": [1.0, -1.0]}, "not negative"),
    ({"tolerance": 0.0}, "`tolerance` must be positive"),
    ({"max_iterations": -1}, "`max_iterations`"),
    ({"warm_start": 3}, TypeError, "ExactCrowdResponse"),
)
test_mistakes_in_markets_are_refused = refusals(
    BilevelMarketEntry,
    ({"profits": 3}, "`profits` must be a list of numbers"),
    ({"profits": "abc"}, "`profits` must be a list of numbers"),
    ({"profits": [1.0]}, "`needs` must be as many as `profits`, 1, got 5"),
    ({"needs": [np.nan] * 5}, "`needs` must be finite"),
    ({"mobility": 0.0}, r"`mobility` must lie in \(0, 1\], got 0.0"),
    ({"queue": -1.0}, "`queue` must be finite and not negative"),
    ({"max_fee": 0.0}, "`max_fee` must be positive"),
    ({"gamma": 1.0}, r"`gamma` must lie in \[0, 1\), got 1.0"),
)


def test_iterations_that_do_not_suffice_are_said() -> None:
    answer = evaluate(BilevelMarketEntry().model, np.zeros(5), max_iterations=2)
    assert not answer.converged and answer.iterations == 2 and answer.residual > 1e-8


@pytest.mark.parametrize("name", ["reward_by_crowd", "upper_reward_by_crowd", "kernel_by_crowd"])
def test_derivatives_by_the_crowd_are_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Queue()
    x, right = np.array([0.2, -0.1]), getattr(model, name)
    expected = evaluate(model, x).hyper_gradient
    for change, message in (
        (lambda slopes: slopes.toarray()[:, :1], r"must return shape \(\d+, 2\), got \(\d+, 1\)"),
        (lambda slopes: slopes * np.nan, "must return finite numbers"),
    ):
        monkeypatch.setattr(model, name, lambda *given, c=change: c(right(*given)))
        with pytest.raises(ValueError, match=f"`{name}` {message}"):
            evaluate(model, x)
    monkeypatch.setattr(model, name, lambda *given: right(*given).toarray())
    np.testing.assert_allclose(evaluate(model, x).hyper_gradient, expected, rtol=1e-12)


def test_what_draws_followers_and_starts_is_checked() -> None:
    model = Queue()
    answer: Any = evaluate(model, np.zeros(2))
    with pytest.raises(TypeError, match="`rng` must be a NumPy Generator, got 0"):
        model.sampled_crowd(answer, 10, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        model.equilibria(np.zeros(2), seed="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`crowding`"):
        BilevelMarketEntry(crowding=np.nan)
