"""x in the environment of a follower who learns: what it sets, when, and what is estimated."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import ParametricGame
from bilevel_gym.envs.parameters import EnvParameters, WithParameters
from bilevel_gym.envs.sources import Source
from bilevel_gym.episodes.recorded import LearntEpisodes
from bilevel_gym.learnt.baselines import generalised_advantages
from bilevel_gym.methods import METHODS
from bilevel_gym.methods.registry import LEARNT_METHODS
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.wrappers import LeaderObjective

from .helpers import refusals
from .learnt import TINY_LEARNER, assert_goes_on_from_a_file, assert_mean
from .linear_gaussian import BOUNDS, NAMES, START, exact_game, learnt_game

QUICK: dict[str, Any] = {"episodes": 4, "inner_steps": 24, "inner_options": TINY_LEARNER}


BRIEF: dict[str, dict[str, Any]] = {"score": {"critic_updates": 10}, "zero-order": {}}


class Built(gym.Env[Any, Any]):
    """An environment whose constructor computes what it does from an argument."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    shared = np.ones(2)

    def __init__(self, size: float = 2.0, label: str = "", idle: float = 0.5) -> None:
        """Build it."""
        self.twice, self.idle = 2.0 * size, idle
        self.whole, self.listed, self.own = np.ones(2, dtype=int), [1.0, 1.0], np.ones(2)
        self.fixed = np.ones(2)
        self.fixed.flags.writeable = False

    def reset(self, **options: Any) -> tuple[FloatArray, dict[str, Any]]:
        """Begin at a random place."""
        super().reset(seed=options.get("seed"))
        return self.np_random.normal(size=1).astype(np.float32), {}

    def step(self, action: Any) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Go to where the size is."""
        drawn = self.np_random.normal(scale=0.1)
        return np.array([self.twice / 10.0 + drawn], np.float32), -self.twice, False, False, {}


def quick(env: Any = Built, **options: Any) -> ParametricGame:
    given: dict[str, Any] = {"env_params": {"size": (1.0, 4.0)}, "episode_steps": 10}
    return ParametricGame(env, **{**given, **options})


def sizes(game: ParametricGame) -> float:
    found: Any = game.environment.unwrapped
    return float(found.twice)


# What is set ---------------------------------------------------------------------------------


def test_attributes_arguments_and_functions_are_set_where_an_episode_begins() -> None:
    def thrice(env: Any, value: float) -> None:
        env.idle = 3.0 * value

    game = quick(env_params={"size": (1.0, 4.0), "twice": (0.0, 9.0), "mine": (0.0, 1.0, thrice)})
    assert game.knob_names() == ("size", "twice", "mine") and game.moves_dynamics
    assert game.initial_upper_params.tolist() == [2.0, 4.0, 0.5]  # as it is, or the middle
    np.testing.assert_array_equal(game.upper_space.low, [1.0, 0.0, 0.0])
    game.reset(seed=0, options={"upper_params": [3.0, 5.0, 0.2]})
    raw: Any = game.environment.unwrapped
    assert (raw.twice, raw.idle) == (5.0, pytest.approx(0.6))  # the attribute comes last
    *_, info = game.step({"upper": [1.0, 2.0, 0.3], "lower": np.zeros(1)})
    assert raw.twice == 5.0 and info["upper_reward"] == -5.0  # not in the middle of an episode
    game.begin()
    assert game.environment.unwrapped is not raw  # another argument: made anew
    assert sizes(game) == 2.0


def test_an_environment_made_anew_goes_on_with_its_random_numbers() -> None:
    def walk(*values: float) -> list[float]:
        env = quick().make_environment()
        seen = [env.reset(seed=3)[0]]
        for value in values:
            env.get_wrapper_attr("set_parameters")(np.array([value]))
            seen.append(env.reset()[0])
        return [float(one[0]) for one in seen]

    assert walk(2.0, 2.0) == walk(3.0, 1.0)


def test_copies_and_seats_have_the_same_values() -> None:
    game = quick()
    seat = LowerLevel(game, np.array([3.5]))
    seat.reset(seed=0)
    assert sizes(copy.deepcopy(seat).unwrapped) == 7.0 == sizes(game)  # type: ignore[arg-type]


def test_parameters_of_mujoco_are_set_through_its_model() -> None:
    pytest.importorskip("mujoco", reason='needs pip install -e ".[mujoco]"')
    names = ("model.body_mass[body1]", "model.actuator_gear[1, 0]", "model.dof_damping[joint1]")
    bounds = dict(zip(names, ((0.01, 1.0), (50.0, 300.0), (0.1, 3.0)), strict=True))
    game = ParametricGame("Reacher-v5", env_params=bounds)
    assert game.initial_upper_params[1:].tolist() == [200.0, 1.0]
    game.reset(seed=0, options={"upper_params": [0.5, 100.0, 2.0]})
    for env in (game.environment, copy.deepcopy(game.environment)):
        model: Any = env.get_wrapper_attr("model")
        assert model.body("body1").mass[0] == 0.5 and model.actuator_gear[1, 0] == 100.0
        assert model.dof_damping.tolist() == [1.0, 2.0, 0.0, 0.0]
        # What MuJoCo derives from the masses.
        assert model.body("body1").subtreemass[0] > 0.5


def test_reward_and_environment_share_x() -> None:
    def square(seen: Any, taken: Any) -> FloatArray:
        return np.asarray(seen, np.float64) ** 2

    model = {"kind": "linear", "features": square, "num_params": 1}
    game = quick(reward_model=model, upper_bound=2.0, constant_knob=True, own_reward="knob")
    assert game.upper_space.low.tolist() == [-2.0, -2.0, -2.0, 1.0]
    x, terms = np.array([0.5, 0.1, 0.2, 3.0]), np.full((3, 1), 7.0)
    seen, taken = np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1))
    rewards = game.reward(x, seen, taken, terms) + game.entropy_offset
    np.testing.assert_allclose(rewards, 0.5 * seen[:, 0] ** 2 - 0.1 + 0.2 * 7.0)
    slopes = game.reward_jacobian(x, seen, taken, terms)
    np.testing.assert_allclose(slopes, [[s**2, -1.0, 7.0, 0.0] for s in (1.0, 2.0, 3.0)])
    np.testing.assert_allclose(game.reward_vjp(x, seen, taken, np.ones(3), terms), slopes.sum(0))


def test_an_entry_is_set_in_one_environment_alone() -> None:
    parameters = EnvParameters(Source(Built, None), {"own[1]": (0.0, 3.0)})
    one, other = WithParameters(parameters), WithParameters(parameters)
    one.set_parameters(np.array([1.7]))
    one.enter()
    raw: Any = one.unwrapped, other.unwrapped
    assert [each.own.tolist() for each in raw] == [[1.0, 1.7], [1.0, 1.0]]


test_what_the_environment_does_not_have_is_refused = refusals(
    lambda **options: quick(**options),
    ({"env_params": {}}, TypeError, r"must be a dict of \(low, high\) .*, got {}"),
    ({"env_params": {"sise": (1.0, 2.0)}}, "parameter of .*'sise'. Did you mean 'size'"),
    ({"env_params": {"label": (0.0, 1.0)}}, "parameter of .*'label'"),
    ({"env_params": {"size": 3.0}}, TypeError, r"must have \(low, high\) for 'size', .*got 3.0"),
    ({"env_params": {"size": (2.0, 1.0)}}, "finite bounds low < high for 'size'"),
    ({"env_params": {"size": (0.0, np.inf)}}, "finite bounds low < high for 'size'"),
    ({"env_params": {"size": (3.0, 4.0)}}, r"around what .* has, 2 of 'size', got \(3, 4\)"),
    ({"env_params": {"action_space": (0.0, 1.0)}}, "are numbers, and 'action_space' .* is"),
    ({"env_params": {"twice[3]": (0.0, 1.0)}}, "has no parameter 'twice.3.'"),
    ({"env_params": {"whole[0]": (0.0, 3.0)}}, "must be in an array of floats, got int"),
    ({"env_params": {"listed[0]": (0.0, 3.0)}}, "must be in an array of floats, got list"),
    ({"env_params": {"fixed[0]": (0.0, 3.0)}}, "'fixed.0.' .*its array is read-only"),
    ({"env_params": {"shared[0]": (0.0, 3.0)}}, "all environments share its array"),
    ({"env_params": {"mine": (0.0, 1.0, 3)}}, TypeError, "env_params.'mine'.* must be a function"),
    ({"preferences": {}}, "`preferences` teach a reward in an environment that stays as it is"),
    ({"env_params": None}, TypeError, "`reward_model` must be a RewardModel"),
    ({"env_params": None, "reward_model": {"kind": "fixed"}}, "must have parameters"),
)


@pytest.mark.parametrize("method", sorted({*LEARNT_METHODS, *METHODS} - {"zero-order", "score"}))
def test_methods_that_take_the_dynamics_as_fixed_refuse(method: str) -> None:
    with pytest.raises(TypeError, match="whose x changes the dynamics .* takes as fixed; .*'zero-"):
        HyperGradient(quick(), method)


def test_score_needs_an_environment_that_declares_it() -> None:
    assert quick().default_method == "zero-order" and learnt_game().default_method == "score"
    with pytest.raises(TypeError, match="size, and Built declares no `transition_score` of it"):
        HyperGradient(quick(), "score")
    some = {**{name: BOUNDS for name in NAMES}, "other": (0.0, 1.0, lambda env, value: None)}
    with pytest.raises(TypeError, match="transitions become with other, and LinearGaussian"):
        HyperGradient(learnt_game(env_params=some), "score")


# The score of the transitions ----------------------------------------------------------------


def test_the_score_is_the_derivative_of_the_log_density() -> None:
    game, rng, x = learnt_game(), np.random.default_rng(0), np.array([0.3, 0.2, 0.4])
    seen, taken = rng.normal(size=(5, 2)), rng.uniform(-1.0, 1.0, (5, 1))
    after = seen + rng.normal(scale=0.3, size=(5, 2))
    model = exact_game().model

    def log_density(at: FloatArray) -> FloatArray:
        dynamics, control, *_ = model.coefficients(at)
        noise = after - seen @ dynamics.T - taken @ control.T
        return -np.square(noise).sum(axis=1) / (2.0 * model.noise_std**2)

    found = game.transition_score(x, seen, taken, after)
    for entry, step in enumerate(1e-6 * np.eye(3)):
        slope = (log_density(x + step) - log_density(x - step)) / 2e-6
        np.testing.assert_allclose(found[:, entry], slope, rtol=1e-6, atol=1e-6)


def test_what_x_does_to_transitions_is_the_exact_part_at_a_fixed_policy() -> None:
    # The exact follower, so that it is the formula alone that is tested.
    game, x, steps, count = learnt_game(), np.array(START), 40, 8192
    model, answer = exact_game().model, exact_game().evaluate(START)
    rng, dynamics = np.random.default_rng(0), model.coefficients(x)
    spread = np.linalg.cholesky(answer.covariance)
    seen, taken = np.zeros((steps + 1, count, 2)), np.zeros((steps, count, 1))
    seen[0] = model.start_std * rng.standard_normal((count, 2))
    for t in range(steps):
        drawn = rng.standard_normal((count, 1)) @ spread.T
        taken[t] = drawn - seen[t] @ answer.gain.T
        noise = model.noise_std * rng.standard_normal((count, 2))
        seen[t + 1] = seen[t] @ dynamics.dynamics.T + taken[t] @ dynamics.control.T + noise
    paid, alive = model.upper_reward(seen[:-1], taken), np.ones((steps, count), np.bool_)
    ends = np.zeros_like(alive)
    played = LearntEpisodes(seen[:-1], taken, paid, paid, alive, paid, seen[1:], ends)
    # Without the critic's share, lambda = 1, the estimate is unbiased.
    advantages = generalised_advantages(played, game.observation_space, game.upper_gamma, 1.0)
    after = played.next_observations[alive]
    scores = game.transition_score(x, *played.as_batch, after).reshape(steps, count, 3)
    weights = np.power(game.upper_gamma, np.arange(steps))[:, None] * advantages
    each = (weights[:, :, None] * scores).sum(axis=0)
    assert_mean(list(each), answer.direct_gradient)


@pytest.mark.parametrize("method", ["score", "zero-order"])
def test_the_leader_is_told_an_estimate_that_a_seed_determines(method: str) -> None:
    def told() -> list[FloatArray]:
        seat = HyperGradient(learnt_game(), method, **QUICK, **BRIEF[method])
        _, info = seat.reset(seed=2)
        infos = [info, *(seat.step(np.array(START) + shift)[-1] for shift in (0.05, 0.05, 0.1))]
        response = seat.response
        if method == "score":  # the two parts are told apart
            assert response.direct_gradient is not None and response.direct_gradient.any()
        return [info["hyper_gradient"] for info in infos]

    first = told()
    assert np.isfinite(first).all() and all(one.any() for one in first)
    np.testing.assert_array_equal(first, told())


# Differences of values -----------------------------------------------------------------------


def test_what_changes_nothing_has_no_derivative_as_both_sides_share_their_luck() -> None:
    given = {"size": (1.0, 4.0), "idle": (0.0, 1.0)}
    seat = HyperGradient(quick(env_params=given), directions=2, **QUICK)
    _, info = seat.reset(seed=0)
    size, idle = info["hyper_gradient"]
    # The leader's reward is -2 size in each of ten steps.
    assert size == pytest.approx(-20.0) and abs(idle) < 1e-4  # float32
    assert info["inner_samples"] > 24 * 4


def test_a_follower_forgets_other_dynamics_and_is_put_back_after_differences() -> None:
    seat = HyperGradient(quick(), directions=1, learn_from_watched=False, **QUICK)
    seat.reset(seed=0)
    method: Any = seat.method
    follower = method.follower
    follower.learn(np.array([3.0]), seed=1)
    buffer = follower.model.replay_buffer
    stored = buffer.rewards[: buffer.pos]
    assert len(stored) >= 24 and (stored == -6.0).all()  # nothing of the x before
    before = follower.snapshot()
    played = follower.play(np.array([3.0]), 4, np.random.default_rng(0))
    method.response_term(np.array([3.0]), played)
    np.testing.assert_array_equal(follower.snapshot(), before)
    assert buffer.size() == 0  # what was learnt at the other x is forgotten, too
    later = follower.play(np.array([3.0]), 4, np.random.default_rng(0))
    assert (later.own_rewards[later.alive] == -6.0).all()


def test_who_loads_goes_on(tmp_path: Path) -> None:
    def seat(method: str, game: Any) -> HyperGradient[Any]:
        return HyperGradient(game(), method, **QUICK, **BRIEF[method])

    for method, game in (("zero-order", quick), ("score", learnt_game)):
        folder = tmp_path / method
        folder.mkdir()
        assert_goes_on_from_a_file(partial(seat, method, game), folder)


def test_the_safe_climb_goes_where_the_leader_is_paid() -> None:
    leader = LeaderObjective(HyperGradient(quick(), directions=1, **QUICK))
    leader.resume(seed=0)
    climb = make_optimizer("safe", samples=4000, seed=0)
    found = climb(leader, quick().initial_upper_params, leader.low, leader.high)
    assert found.best.value > -30.0 > -40.0  # -40 at the start, -20 at best
