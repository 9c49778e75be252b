"""Methods that know the model: what they converge to, what they are before, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.envs.inverse_rl import BilevelInverseRL
from bilevel_gym.envs.markov_game import BilevelMarkovGame
from bilevel_gym.envs.random_mdp import BilevelRandomMDP
from bilevel_gym.envs.tabular import TabularBilevelEnv
from bilevel_gym.envs.tax_design import BilevelTaxDesign
from bilevel_gym.envs.toll import BilevelToll
from bilevel_gym.methods import Response, TabularResponse
from bilevel_gym.methods.amd import AMD
from bilevel_gym.methods.m_sobirl import MSoBiRL, descend
from bilevel_gym.methods.pbrl import PBRLBellman, PBRLValue, with_log_terms
from bilevel_gym.methods.zero_order import ZeroOrder
from bilevel_gym.model import BilevelModel
from bilevel_gym.model.objectives import DiscountedReturn

from .helpers import array_game
from .models import central_difference, numeric_gradient, relative_error
from .small_games import FEATURES, MASK, Moved, judged_game

Game = TabularBilevelEnv


def small_tax() -> Game:
    return BilevelTaxDesign(
        num_assets=9, hours_levels=3, hours_step=4.0, spending_levels=2, spending_step=5.0
    )


# x in the reward, in the kernel and the first state, under masks, and with actions that share moves
GAMES: dict[str, Callable[[], Game]] = {
    "random": BilevelRandomMDP,
    "grid": lambda: BilevelGridWorld(size=4),
    "markov": lambda: BilevelMarkovGame(gamma=0.9),
    "toll": BilevelToll,
    "likelihood": lambda: BilevelInverseRL(gamma=0.9),
    "moves": small_tax,
    "masked": lambda: array_game(action_mask=MASK, features=FEATURES),
}


def near_start(game: Game, seed: int = 1, share: float = 0.05) -> FloatArray:
    low, high = game.upper_space.low.astype(float), game.upper_space.high.astype(float)
    noise = np.random.default_rng(seed).normal(size=low.shape)
    return np.clip(game.initial_upper_params + share * (high - low) * noise, low, high)


def repeated(method: Any, x: FloatArray, times: int) -> TabularResponse:
    method.reset(np.random.default_rng(0))
    for _ in range(times):
        response = method.step(x)
    assert isinstance(response, TabularResponse)
    return response


def estimate(response: Response) -> FloatArray:
    assert response.hyper_gradient is not None
    return response.hyper_gradient


# At a fixed x both methods converge to the exact hyper-gradient -----------------------------------


@pytest.mark.parametrize("name", GAMES)
def test_both_converge_to_the_exact_hyper_gradient(name: str) -> None:
    game = GAMES[name]()
    x = near_start(game)
    exact = game.evaluate(x)
    assert np.linalg.norm(exact.hyper_gradient - exact.direct_gradient) > 1e-6
    # M-SoBiRL's adjoint steps contract with the squared condition number.
    steps, times = (30_000, 8) if name == "grid" else (5000, 6)
    for method, repeats in (
        (MSoBiRL(game.model, sweeps=200, adjoint_steps=steps), times),
        (AMD(game.model, sweeps=200), 5),
    ):
        answer = repeated(method, x, repeats)
        assert relative_error(estimate(answer), exact.hyper_gradient) <= 1e-8
        assert answer.objective == pytest.approx(exact.objective, rel=1e-10)
        np.testing.assert_allclose(answer.policy, exact.policy, atol=1e-10)
        assert answer.residual is not None and answer.residual < 1e-9
        assert answer.lower_value == pytest.approx(exact.lower_value, rel=1e-10)
        np.testing.assert_allclose(answer.occupancy, exact.occupancy, atol=1e-10)
        assert answer.direct_gradient is not None
        np.testing.assert_allclose(answer.direct_gradient, exact.direct_gradient, atol=1e-9)


def test_the_first_steps_are_what_a_dense_implementation_gives() -> None:
    game = array_game(action_mask=MASK, features=FEATURES)
    transition, mask = game.kernel(np.zeros(4)).to_dense(), MASK
    start, upper, gamma, tau = game.initial_distribution, game.upper_reward(np.zeros(4)), 0.9, 0.2
    value, adjoint, slope = np.zeros(3), np.zeros(3), np.zeros((3, 4))
    m_sobirl = MSoBiRL(game.model, sweeps=3, adjoint_step=0.1, adjoint_steps=2)
    amd = AMD(game.model, sweeps=3)
    for method in (m_sobirl, amd):
        method.reset(np.random.default_rng(0))
    rng = np.random.default_rng(5)
    for _ in range(4):
        x = rng.uniform(-1.0, 1.0, 4)
        reward = game.reward(x)
        for _ in range(3):
            weights = np.exp((reward + gamma * transition @ value) / tau) * mask
            value = tau * np.log(weights.sum(axis=1))
        weights = np.exp((reward + gamma * transition @ value) / tau) * mask
        policy = weights / weights.sum(axis=1, keepdims=True)
        flow = np.einsum("sa,sat->st", policy, transition)
        inverse = np.linalg.inv(np.eye(3) - gamma * flow)
        worth = inverse @ (policy * upper).sum(axis=1)
        visits = inverse.T @ start
        gain = visits[:, None] * (upper + gamma * transition @ worth)
        score = policy * (gain - (policy * gain).sum(axis=1, keepdims=True)) / tau
        matrix, target = (
            np.eye(3) - gamma * flow.T,
            gamma * np.einsum("sat,sa->t", transition, score),
        )
        for _ in range(2):
            adjoint = adjoint - 0.1 * matrix.T @ (matrix @ adjoint - target)
        expected = np.einsum("sad,sa->d", FEATURES, score + policy * adjoint[:, None])
        found = m_sobirl.step(x)
        assert found.soft_value is not None
        np.testing.assert_allclose(found.soft_value, value, rtol=1e-12)
        np.testing.assert_allclose(found.policy, policy, rtol=1e-12)
        assert found.objective == pytest.approx(start @ worth, rel=1e-12)
        np.testing.assert_allclose(estimate(found), expected, rtol=1e-10)
        for _ in range(3):
            slopes = FEATURES + gamma * np.einsum("sat,td->sad", transition, slope)
            slope = np.einsum("sa,sad->sd", policy, slopes)
        slopes = FEATURES + gamma * np.einsum("sat,td->sad", transition, slope)
        expected = np.einsum("sa,sad->d", score, slopes)
        np.testing.assert_allclose(estimate(amd.step(x)), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("method", "options"), [(MSoBiRL, {}), (AMD, {}), (PBRLValue, {"policy_steps": 1})]
)
def test_what_was_reached_is_kept_while_x_moves_and_forgotten_by_reset(
    method: Any, options: dict[str, Any]
) -> None:
    game = BilevelGridWorld(size=4)
    warm, x, y = method(game.model, **options), near_start(game), near_start(game, seed=2)
    first = repeated(warm, x, 1)
    warm.step(y)
    again = warm.step(x)
    assert relative_error(estimate(again), estimate(first)) > 1e-3
    assert np.abs(again.policy - first.policy).max() > 1e-6
    np.testing.assert_array_equal(estimate(repeated(warm, x, 1)), estimate(first))
    if not options:  # without a warm start every step is the first
        cold = method(game.model, warm_start=False)
        found = [estimate(repeated(cold, x, 1)), estimate(cold.step(y)), estimate(cold.step(x))]
        np.testing.assert_array_equal(found[::2], [estimate(first)] * 2)


def test_m_sobirl_reaches_the_published_gradient_norm_on_its_synthetic_problem() -> None:
    game = BilevelRandomMDP()
    method = MSoBiRL(game.model)
    method.reset(np.random.default_rng(0))
    x, errors = game.initial_upper_params.copy(), []
    for step in range(3000):
        found = estimate(method.step(x))
        if step < 200:
            errors.append(relative_error(found, game.evaluate(x).hyper_gradient))
        x = np.clip(x + 8e-3 * found, game.upper_space.low, game.upper_space.high)
    assert np.linalg.norm(game.evaluate(x).hyper_gradient) < 1e-9
    # On the way it is an estimate: x moves faster than the adjoint follows, until the rewards fade.
    assert max(errors[:10]) > 0.05 and max(errors[-10:]) < 1e-2


def test_descent_steps_that_would_diverge_are_shortened() -> None:
    rng = np.random.default_rng(0)
    flow = np.zeros((8, 8))
    flow[:, 0] = 1.0  # all roads lead to state 0
    matrix, target = np.eye(8) - 0.7 * flow, rng.normal(size=8)
    assert 0.5 > 2.0 / np.linalg.norm(matrix, 2) ** 2
    found = descend(matrix, target, np.zeros(8), 0.5, 20_000)
    np.testing.assert_allclose(found, np.linalg.solve(matrix.T, target), rtol=1e-8)
    one = descend(matrix, target, np.zeros(8), 1e-3, 1)
    np.testing.assert_allclose(one, 1e-3 * matrix @ target, rtol=1e-12)


def test_amd_refuses_games_whose_jacobian_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    game = BilevelRandomMDP(num_states=20_000, branching=3, upper_dim=5)
    with pytest.raises(ValueError, match="at most 50000 pairs .* got 100000 pairs"):
        AMD(game.model)
    with pytest.raises(ValueError, match="rows times transitions"):
        monkeypatch.setattr("bilevel_gym.methods.amd.MAX_COTANGENTS", 1000)
        AMD(small_tax().model)


# Penalty methods ----------------------------------------------------------------------------------


def dense_surrogate(
    game: Game, x: FloatArray, policy: FloatArray, kind: str, weight: float
) -> float:
    """Return f(x, pi) - weight p(x, pi) by dense algebra, for a discounted return."""
    transition, reward = game.kernel(x).to_dense(), game.reward(x)
    gamma, tau, size = game.gamma, game.temperature, len(reward)
    mask = np.ones_like(policy) if game.action_mask is None else game.action_mask
    best = np.zeros(size)
    for _ in range(6000):
        before, q = best, reward + gamma * transition @ best
        top = np.where(mask, q, -np.inf).max(axis=1)
        best = top + tau * np.log((np.exp((q - top[:, None]) / tau) * mask).sum(axis=1))
        if np.abs(best - before).max() < 1e-15:
            break
    inverse = np.linalg.inv(np.eye(size) - gamma * np.einsum("sa,sat->st", policy, transition))
    log_policy = np.log(np.where(policy > 0.0, policy, 1.0))
    start = game.start_distribution(x)
    objective = start @ inverse @ (policy * game.upper_reward(x)).sum(axis=1)
    if kind == "bellman":
        loss = (-policy * q + tau * policy * log_policy).sum(axis=1) + best
        return float(objective - weight * loss.mean())
    rho = start if kind == "initial" else np.full(size, 1.0 / size)
    value = inverse @ (policy * (reward - tau * log_policy)).sum(axis=1)
    return float(objective - weight * rho @ (best - value))


PENALTIES: dict[str, Callable[..., Any]] = {
    "initial": PBRLValue,
    "uniform": lambda model, **options: PBRLValue(model, start="uniform", **options),
    "bellman": PBRLBellman,
}
RETURNS: dict[str, Callable[[], Game]] = {
    "masked": GAMES["masked"],
    "markov": lambda: BilevelMarkovGame(gamma=0.8, horizon=None, temperature=0.3),
    "moved": lambda: judged_game(kind=Moved, objective=DiscountedReturn()),
}


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize("kind", PENALTIES)
def test_the_hyper_gradient_of_a_penalty_method_is_that_of_its_surrogate(
    kind: str, name: str
) -> None:
    game = RETURNS[name]()
    method = PENALTIES[kind](game.model, penalty=7.0, policy_steps=1)
    x = near_start(game, share=0.02)
    method.reset(np.random.default_rng(0))
    method.step(near_start(game, seed=4, share=0.1))  # so that the policy is not the answer to x
    answer = method.step(x)
    numeric = numeric_gradient(
        lambda x: dense_surrogate(game, x, answer.policy, kind, 7.0), x, 1e-3
    )
    assert relative_error(numeric, estimate(answer)) < 1e-7
    # f is judged at the policy, and so is its direct part.
    assert answer.objective == pytest.approx(dense_surrogate(game, x, answer.policy, kind, 0.0))


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize("kind", PENALTIES)
def test_mirror_steps_lead_to_the_top_of_the_surrogate(kind: str, name: str) -> None:
    game = RETURNS[name]()
    x = near_start(game, share=0.02)
    method = PENALTIES[kind](game.model, penalty=7.0, policy_steps=500)
    answer = repeated(method, x, 1)
    assert answer.converged and answer.iterations is not None and answer.iterations < 500
    top = dense_surrogate(game, x, answer.policy, kind, 7.0)
    assert top > dense_surrogate(game, x, game.evaluate(x).policy, kind, 7.0) + 1e-4
    for state, action in np.argwhere(answer.policy > 0.0):
        tilt = np.zeros_like(answer.policy)
        tilt[state, action] = 1.0

        def tilted(h: float, tilt: FloatArray = tilt) -> float:
            policy = answer.policy * np.exp(h * tilt)
            policy /= policy.sum(axis=1, keepdims=True)
            return dense_surrogate(game, x, policy, kind, 7.0)

        assert abs(central_difference(tilted, 1e-3)) < 1e-7


@pytest.mark.parametrize("name", ["masked", "markov", "likelihood", "random", "moves"])
@pytest.mark.parametrize("kind", PENALTIES)
def test_the_error_of_a_solved_surrogate_falls_like_one_over_the_penalty(
    kind: str, name: str
) -> None:
    game = {**GAMES, **RETURNS}[name]()
    x = near_start(game, share=0.0 if name == "likelihood" else 0.02)
    exact = game.evaluate(x)
    base = 1e5 if name in ("likelihood", "moves") else 1e3 if kind == "bellman" else 100.0
    errors = []
    for penalty in (base, 10.0 * base, 100.0 * base):
        answer = repeated(PENALTIES[kind](game.model, penalty=penalty, policy_steps=100), x, 2)
        assert answer.converged
        assert answer.objective >= exact.objective - 1e-9  # the surrogate's policy helps the leader
        errors.append(relative_error(estimate(answer), exact.hyper_gradient))
    assert errors[0] < 0.3
    assert errors[1] < 0.16 * errors[0] and errors[2] < 0.16 * errors[1]


@pytest.mark.parametrize(("kind", "penalty"), [("initial", 3.0), ("bellman", 100.0)])
def test_mirror_steps_climb_where_whole_ones_would_overshoot(kind: str, penalty: float) -> None:
    game = BilevelGridWorld(size=4)
    x = near_start(game)
    method = PENALTIES[kind](game.model, penalty=penalty, policy_steps=1)
    values = [dense_surrogate(game, x, method.step(x).policy, kind, penalty) for _ in range(15)]
    assert np.diff(values).min() > -1e-12
    assert values[3] > values[2] > values[1] > values[0]


@pytest.mark.parametrize("temperature", [1e-3, 1.0])
@pytest.mark.parametrize("kind", PENALTIES)
def test_mirror_steps_are_stable_at_low_temperatures_and_high_penalties(
    kind: str, temperature: float
) -> None:
    game = BilevelGridWorld(size=4, temperature=temperature)
    for penalty in (1e-3, 1.0, 1e9):
        method = PENALTIES[kind](game.model, penalty=penalty)
        for seed in (1, 2):
            answer = method.step(near_start(game, seed=seed))
            assert np.isfinite(estimate(answer)).all()
            np.testing.assert_allclose(answer.policy.sum(axis=1), 1.0, rtol=1e-12)


def test_terms_in_the_logarithm_of_the_policy_are_maximised_state_by_state() -> None:
    rng = np.random.default_rng(0)
    logits = 5.0 * rng.normal(size=(6, 4))
    shares = rng.random((6, 4)) * 10.0 ** rng.integers(-8, 8, size=(6, 1))
    shares[0], shares[1, :2] = 0.0, 0.0
    logits[2, 3], shares[2, 3] = -np.inf, 0.0
    log_policy = with_log_terms(logits, shares)
    policy = np.exp(log_policy)
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, rtol=1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = logits - log_policy + shares / policy
    for state in range(6):  # the same for all actions, at the top
        there = slope[state][np.isfinite(logits[state])]
        np.testing.assert_allclose(there, there[0], rtol=1e-8, atol=1e-8)
    assert policy[2, 3] == 0.0


# Zero-order estimates -----------------------------------------------------------------------------


class Quadratic(BilevelModel):
    """F(x) = a . x - x . B x / 2 over a box, and no follower at all."""

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        lows, highs = np.full((2, 2), low), np.full((2, 2), high)
        super().__init__(
            low=lows, high=highs, initial_upper_params=lows, gamma=0.9, temperature=1.0
        )
        self.slope = np.array([1.0, -2.0, 0.5, 0.0])
        self.curvature = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.3
        self.seen: list[FloatArray] = []

    def respond(self, upper_params: Any, *, warm_start: Any = None, **_: Any) -> Response:
        x = np.array(upper_params)
        assert (self.low <= x).all() and (x <= self.high).all()
        self.seen.append(x)
        flat = x.ravel()
        return Response(
            upper_params=x,
            objective=float(self.slope @ flat - flat @ self.curvature @ flat / 2.0),
            hyper_gradient=(self.slope - self.curvature @ flat).reshape(2, 2),
        )


ESTIMATORS: list[dict[str, Any]] = [
    {"points": points, "smoothing": smoothing, "baseline": baseline}
    for smoothing in ("sphere", "gaussian")
    for points, baseline in ((2, "centre"), (1, "centre"), (1, "previous"))
]


@pytest.mark.parametrize("options", ESTIMATORS)
def test_zero_order_estimates_are_unbiased_on_a_quadratic(options: dict[str, Any]) -> None:
    # The smoothed objective of a quadratic has the gradient of the objective itself, whatever the
    # radius, so that the mean over many steps must be the gradient up to its standard error.
    model = Quadratic()
    x = np.array([[0.1, -0.2], [0.3, 0.0]])
    method = ZeroOrder(model, radius=0.1, directions=4, **options)
    method.reset(np.random.default_rng(0))
    answers = [method.step(x) for _ in range(600)]
    draws = np.array([estimate(answer) for answer in answers])
    error = draws.mean(axis=0) - estimate(model.respond(x))
    deviation = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(error) < 4.5 * deviation).all()
    assert deviation.max() < 0.15
    assert answers[0].iterations == 1 + 4 * options["points"]
    assert answers[0].direct_gradient is None


def test_a_large_radius_answers_for_the_smoothed_objective() -> None:
    class Cubic(Quadratic):
        def respond(self, upper_params: Any, *, warm_start: Any = None, **_: Any) -> Response:
            x = np.array(upper_params)
            return Response(upper_params=x, objective=float(x[0, 0] ** 3))

    # On the ball of radius mu in R^4, E v_1^2 = mu^2 / 6: d/dc E (c + v_1)^3 = 3 c^2 + mu^2 / 2.
    x = np.zeros((2, 2))
    for smoothing, expected in (("sphere", 0.5 * 0.3**2), ("gaussian", 3.0 * 0.3**2)):
        method = ZeroOrder(Cubic(), radius=0.3, directions=20_000, smoothing=smoothing)
        method.reset(np.random.default_rng(0))
        found = estimate(method.step(x))
        # Normal points beyond 1 are clipped, which takes a little.
        assert found[0, 0] == pytest.approx(expected, rel=0.05)
        assert np.abs(found.ravel()[1:]).max() < 0.03


@pytest.mark.parametrize("points", [1, 2])
def test_zero_order_points_stay_in_the_box_and_the_bound_leaves_no_bias_on_the_sphere(
    points: int,
) -> None:
    model = Quadratic(0.0, 1.0)
    x = np.array([[0.0, 1.0], [0.5, 1e-4]])
    method = ZeroOrder(model, radius=0.01, directions=2000, points=points)
    method.reset(np.random.default_rng(0))
    answer = method.step(x)
    assert answer.objective == model.respond(x).objective
    np.testing.assert_array_equal(answer.upper_params, x)
    inside = estimate(model.respond(np.clip(x, 0.01, 0.99)))
    assert relative_error(estimate(answer), inside) < 0.12
    # A clipped forward difference would have halved the entries at the bounds.
    at_bound = estimate(answer)[0]
    np.testing.assert_allclose(at_bound, inside[0], rtol=0.15)


# What is refused ----------------------------------------------------------------------------------

BAD: list[tuple[Any, dict[str, Any], str]] = [
    (MSoBiRL, {"sweeps": 0}, "`sweeps` must be an integer of at least 1, got 0"),
    (MSoBiRL, {"adjoint_step": -0.5}, "`adjoint_step` must be positive and finite, got -0.5"),
    (MSoBiRL, {"adjoint_steps": 1.5}, "`adjoint_steps` must be an integer of at least 1, got 1.5"),
    (MSoBiRL, {"warm_start": 1}, "`warm_start` must be True or False, got 1"),
    (AMD, {"sweeps": True}, "`sweeps` must be an integer of at least 1, got True"),
    (AMD, {"warm_start": "no"}, "`warm_start` must be True or False, got 'no'"),
    (PBRLValue, {"penalty": 0.0}, "`penalty` must be positive and finite, got 0.0"),
    (PBRLValue, {"policy_steps": 0}, "`policy_steps` must be an integer of at least 1, got 0"),
    (PBRLValue, {"start": "inital"}, "unknown start 'inital'.*Did you mean 'initial'"),
    (PBRLBellman, {"penalty": np.inf}, "`penalty` must be positive and finite, got inf"),
    (PBRLBellman, {"tolerance": -1.0}, "`tolerance` must be positive and finite, got -1.0"),
    (ZeroOrder, {"points": 3}, "`points` must be 1 or 2, got 3"),
    (ZeroOrder, {"directions": 0}, "`directions` must be an integer of at least 1, got 0"),
    (ZeroOrder, {"radius": 0.0}, "`radius` must be positive and finite, got 0.0"),
    (ZeroOrder, {"radius": 1.5}, "`radius` must leave room in the box.*at most 1.0"),
    (ZeroOrder, {"smoothing": "cube"}, "unknown smoothing 'cube'; accepted: 'gaussian', 'sphere'"),
    (ZeroOrder, {"baseline": []}, "unknown baseline \\[\\]"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_options_out_of_range_are_named(method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(BilevelGridWorld(size=4).model, **options)


@pytest.mark.parametrize("method", [MSoBiRL, AMD, PBRLValue, PBRLBellman, ZeroOrder])
def test_answers_have_the_shape_of_x_and_games_without_a_model_are_refused(method: Any) -> None:
    game = BilevelMarkovGame()
    learner = method(game.model)
    learner.reset(np.random.default_rng(0))
    x = np.full((3, 2), 0.1)
    response = learner.step(x)
    assert x.flags.writeable and response.hyper_gradient.shape == (3, 2)
    assert response.hyper_gradient.dtype == np.float64 and not response.policy.flags.writeable
    assert 0.0 < response.occupancy.sum() <= 1.0 + 1e-9
    with pytest.raises(ValueError, match="upper_params"):
        learner.step(np.full((3, 2), 11.0))
    learner.step(x)
    with pytest.raises(TypeError, match="got object"):
        method(object())
