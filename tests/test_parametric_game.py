"""Games made of any Gymnasium environment: their three seats, and the follower's reward."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.learnt.critics import LeaderCritic
from bilevel_gym.learnt.followers import Follower
from bilevel_gym.rewards import LinearReward, RewardModel, make_reward_model
from bilevel_gym.sb3.replay import Transitions

from .helpers import Env, assert_identical, interior_point, refusals, rollout, sampled_actions
from .learnt import TINY_LEARNER


def cart(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
    """Return two features of CartPole: the place, and a push to the right."""
    return np.stack([observations[:, 0], actions == 1], axis=1).astype(np.float64)


def effort(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
    """Return what the pendulum's torque costs."""
    return -0.1 * actions[:, 0].astype(np.float64) ** 2


def sideways(observations: NDArray[Any], actions: NDArray[Any], rewards: FloatArray) -> FloatArray:
    """Pay the leader for a cart on the right."""
    return observations[:, 0] + rewards


HERE = "tests.test_parametric_game"
LINEAR = {"kind": "linear", "features": f"{HERE}:cart", "num_params": 2, "bound": 0.5}
NETWORK = {"kind": "network", "hidden": [6], "seed": 3}
GAMES: dict[str, dict[str, Any]] = {
    "cartpole": {"env_id": "CartPole-v1", "reward_model": LINEAR, "episode_steps": 30},
    "pendulum": {"env_id": "Pendulum-v1", "reward_model": NETWORK, "episode_steps": 40},
}
GAMES["cartpole"]["upper_reward"] = f"{HERE}:sideways"
GAMES["pendulum"]["env_kwargs"] = {"g": 5.0}
# The least that a method can do.
TINY: dict[str, Any] = {"episodes": 3, "inner_steps": 16, "critic_updates": 1}
TINY["inner_options"] = {**TINY_LEARNER, "learning_starts": 4}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Register the games for a test."""
    entry = "bilevel_gym.envs.parametric:ParametricGame"
    for name, arguments in GAMES.items():
        gym.register(f"Parametric-{name}-v0", entry, kwargs=arguments)
    yield
    for name in GAMES:
        del gym.registry[f"Parametric-{name}-v0"]


def game_seat(name: str, **changes: Any) -> Env:
    return gym.make(f"Parametric-{name}-v0", **changes)


def follower_seat(name: str, **changes: Any) -> Env:
    game = game_seat(name, **changes)
    return LowerLevel(game, interior_point(game, share=0.1))


def leader_seat(name: str, **changes: Any) -> Env:
    return HyperGradient(game_seat(name, **changes), **TINY)


SEATS: dict[str, Callable[..., Env]]
SEATS = {"game": game_seat, "follower": follower_seat, "leader": leader_seat}
every_game = pytest.mark.parametrize("name", GAMES)
every_seat = pytest.mark.parametrize("seat", SEATS)


def below(env: Env) -> ParametricGame:
    game = env.unwrapped
    assert isinstance(game, ParametricGame)
    return game


# The contract of environments is that of tests.test_registry ------------------------------------


@every_game
@every_seat
def test_a_specification_goes_through_json_and_makes_the_same(name: str, seat: str) -> None:
    env = SEATS[seat](name)
    text = env.spec.to_json()  # type: ignore[union-attr]
    assert json.loads(text)["kwargs"]["reward_model"]["kind"] in ("linear", "network")
    made = gym.make(EnvSpec.from_json(text))
    actions = sampled_actions(env, 2)
    assert_identical(rollout(env, actions, seed=4), rollout(made, actions, seed=4))


# Rewards ----------------------------------------------------------------------------------------


def test_the_follower_is_paid_by_x_and_the_leader_by_its_own_reward() -> None:
    env = game_seat("cartpole")
    plain = gym.make("CartPole-v1")
    x = np.array([1.5, -2.0])
    seen, _ = env.reset(seed=2)
    below_it = below(env).environment.unwrapped
    plain.reset(seed=0)
    plain.unwrapped.state = below_it.state  # type: ignore[attr-defined]
    for action in (0, 1, 1):
        following, reward, terminated, truncated, info = env.step({"upper": x, "lower": action})
        paid = 0.5 * np.tanh((x @ [seen[0], action == 1]) / 0.5)
        # Entropy, weighed by .05, is relative to that of two actions alike.
        assert reward == pytest.approx(paid - 0.05 * np.log(2.0), rel=1e-12)
        assert info["upper_reward"] == pytest.approx(float(seen[0]) + 1.0, rel=1e-6)
        expected, *_ = plain.step(action)
        np.testing.assert_array_equal(following, expected)
        assert not terminated and not truncated
        seen = following


def test_the_leader_is_paid_what_the_environment_pays_unless_told_otherwise() -> None:
    env = game_seat("pendulum")
    env.reset(seed=0)
    for torque in (-2.0, 0.5):
        inner = copy.deepcopy(below(env).environment)
        action = np.array([torque], np.float32)
        _, paid, *_ = inner.step(action)
        *_, info = env.step({"upper": below(env).initial_upper_params, "lower": action})
        assert info["upper_reward"] == pytest.approx(float(paid), rel=1e-12)


@every_game
def test_relative_entropy_moves_rewards_alike_wherever_they_are_paid(name: str) -> None:
    games = [ParametricGame(**GAMES[name], entropy=kind) for kind in ("relative", "plain")]
    x = games[0].initial_upper_params + 0.5
    played = []
    for game in games:
        follower = Follower(game, steps=8, options={**TINY_LEARNER, "learning_starts": 4})
        played.append(follower.play(x, 3, np.random.default_rng(0)))
    relative, plain = played
    shift = 0.05 * np.log(2.0)
    np.testing.assert_array_equal(relative.alive, plain.alive)
    np.testing.assert_array_equal(relative.upper_rewards, plain.upper_rewards)
    np.testing.assert_allclose(relative.lower_rewards, plain.lower_rewards - shift * plain.alive)
    seen, taken = plain.as_batch
    weights = np.arange(len(seen), dtype=float)
    one, other = (game.reward_vjp(x, seen, taken, weights) for game in games)
    np.testing.assert_array_equal(one, other)
    steps = [LowerLevel(game, x) for game in games]
    for env in steps:
        env.reset(seed=3)
    paid = [env.step(taken[0])[1] for env in steps]
    assert paid[0] == pytest.approx(float(paid[1]) - shift, rel=1e-12)


def test_at_a_reward_of_zero_the_follower_has_no_reason_to_stay() -> None:
    # Soft value of the uniform policy, per step: r + tau H.
    for name in GAMES:
        game = ParametricGame(**{**GAMES[name], "reward_model": Nothing()})
        seen = np.zeros((1, *game.observation_space.shape))  # type: ignore[misc]
        reward = game.reward(np.zeros(1), seen, np.zeros((1, 1)))[0]
        assert reward + game.temperature * np.log(2.0) == pytest.approx(0.0, abs=1e-15)


def test_the_leaders_discount_is_1_and_its_critic_looks_no_further_than_an_episode() -> None:
    game = ParametricGame(**GAMES["cartpole"])
    assert game.upper_gamma == 1.0
    batch = Transitions(*(np.zeros((4, 4)),) * 3, np.ones(4, np.float32), np.zeros(4, np.float32))
    critic = LeaderCritic(game, 0)
    np.testing.assert_allclose(critic._in_units(batch)[1], 1.0 - 1.0 / 30.0)
    nearer = ParametricGame(**GAMES["cartpole"], upper_gamma=0.9)
    np.testing.assert_allclose(LeaderCritic(nearer, 0)._in_units(batch)[1], 0.9)


@pytest.mark.parametrize("own", [None, 0.25, "knob"])
@pytest.mark.parametrize("constant", [False, True])
def test_a_step_has_a_price_and_the_environments_reward_a_weight(own: Any, constant: bool) -> None:
    game = ParametricGame(**GAMES["pendulum"], constant_knob=constant, own_reward=own)
    plain = ParametricGame(**GAMES["pendulum"])
    knobs = [*([0.7] if constant else []), *([1.5] if own == "knob" else [])]
    np.testing.assert_array_equal(
        game.initial_upper_params, [*plain.initial_upper_params, *np.zeros(len(knobs))]
    )
    x = np.concatenate([plain.initial_upper_params, knobs])
    played = Follower(game, steps=8, options={**TINY_LEARNER, "learning_starts": 4}).play(
        x, 2, np.random.default_rng(0)
    )
    seen, taken = played.as_batch
    paid = played.own_rewards[played.alive]
    terms = {} if own is None else {"terms": paid[:, None]}
    weight = {None: 0.0, "knob": 1.5}.get(own, own)
    count = len(x) - len(knobs)
    expected = plain.reward(x[:count], seen, taken)
    expected = expected - 0.7 * constant + weight * paid
    found = game.reward(x, seen, taken, **terms)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(played.lower_rewards[played.alive], found, rtol=1e-6)
    weights = np.linspace(-1.0, 1.0, len(seen))
    gradient = game.reward_vjp(x, seen, taken, weights, **terms)
    slopes = [*([-weights.sum()] if constant else []), *([weights @ paid] if own == "knob" else [])]
    np.testing.assert_allclose(gradient[count:], slopes, rtol=1e-6, atol=1e-6)
    rows = game.reward_jacobian(x, seen, taken, **terms)
    np.testing.assert_allclose(weights @ rows, gradient, rtol=1e-6, atol=1e-9)


def test_knobs_are_learnt_about_and_survive_json() -> None:
    changes: dict[str, Any] = {"constant_knob": True, "own_reward": "knob"}
    made = gym.make("Parametric-cartpole-v0", **changes)
    again = gym.make(EnvSpec.from_json(made.spec.to_json()))  # type: ignore[union-attr]
    assert again.unwrapped.initial_upper_params.shape == (4,)  # type: ignore[attr-defined]
    env = HyperGradient(again, **TINY)
    _, info = env.reset(seed=0)
    x = np.array([0.1, 0.1, 0.2, 0.3])
    *_, info = env.step(x)
    assert info["hyper_gradient"].shape == (4,) and np.isfinite(info["hyper_gradient"]).all()
    follower = LowerLevel(again, x)
    seen, _ = follower.reset(seed=0)
    _, paid, *_ = follower.step(1)
    model = 0.5 * np.tanh((x[:2] @ [seen[0], 1.0]) / 0.5)
    assert paid == pytest.approx(model - 0.2 + 0.3 - 0.05 * np.log(2.0), rel=1e-6)


def test_episodes_end_as_the_environment_says_or_are_cut() -> None:
    env = LowerLevel(game_seat("cartpole"), np.zeros(2))
    steps, cut = [], []
    for seed in range(12):
        env.reset(seed=seed)
        terminated = truncated = False
        action = 0
        while not (terminated or truncated):
            action = 1 - action if seed < 6 else 0
            *_, terminated, truncated, _ = env.step(action)
        assert below(env).elapsed_steps <= 30
        steps.append(below(env).elapsed_steps)
        cut.append(truncated and not terminated)
        with pytest.raises(ResetNeeded, match="call `reset`"):
            env.step(0)
    assert max(steps[6:]) < 15 and not any(cut[6:])
    assert any(cut[:6]) and max(steps) == 30
    shorter = LowerLevel(TimeLimit(ParametricGame(**GAMES["cartpole"]), 4), np.zeros(2))
    shorter.reset(seed=0)
    assert [shorter.step(i % 2)[3] for i in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("observed", ["box", "discrete"])
@pytest.mark.parametrize("acting", ["box", "discrete"])
@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "linear"},
        {"kind": "linear", "bound": 0.7, "base": f"{HERE}:effort"},
        {"kind": "network", "hidden": [5, 4]},
        {"kind": "network", "hidden": [5], "bound": None, "activation": "relu"},
        {"kind": "network", "hidden": [5], "reads_actions": False},
    ],
    ids=["linear", "bounded", "network", "unbounded network", "of observations"],
)
def test_derivatives_match_the_reward(observed: str, acting: str, kind: dict[str, Any]) -> None:
    boxes = spaces.Box(-1, 1, (2, 3)), spaces.Box(-2, 2, (2,))
    places: spaces.Space[Any] = boxes[0] if observed == "box" else spaces.Discrete(5)
    moves: spaces.Space[Any] = boxes[1] if acting == "box" else spaces.Discrete(3)

    def phi(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
        s, a = (z.reshape(len(z), -1).astype(np.float64) for z in (observations, actions))
        return np.column_stack([s.sum(axis=1), a.sum(axis=1), np.sin(s[:, 0] * a[:, 0])])

    if kind["kind"] == "linear":
        kind = {**kind, "features": phi, "num_params": 3}
        if "base" in kind:
            kind["base"] = lambda observations, actions: 0.1 * phi(observations, actions)[:, 1]
    model = make_reward_model(kind, places, moves)
    rng = np.random.default_rng(0)
    moves.seed(0), places.seed(0)
    seen = np.stack([np.asarray(places.sample()) for _ in range(11)])
    taken = np.stack([np.asarray(moves.sample()) for _ in range(11)])
    x = model.initial_params() + 0.3 * rng.standard_normal(model.num_params)
    before = x.copy()
    weights = rng.standard_normal(11)
    found = model.vjp(x, seen, taken, weights)
    steps = 1e-5 * np.eye(len(x))
    ups, downs = ([model.rewards(x + s * h, seen, taken) for h in steps] for s in (1, -1))
    numeric = np.subtract(ups, downs) @ weights / 2e-5
    np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-8)
    assert found.dtype == np.float64 and np.linalg.norm(found) > 0.0
    # Of each entry by itself, whatever else is in the batch.
    alone = np.concatenate([model.rewards(x, seen[i : i + 1], taken[i : i + 1]) for i in range(11)])
    np.testing.assert_allclose(alone, model.rewards(x, seen, taken), rtol=1e-12)
    np.testing.assert_array_equal(x, before)


def test_a_network_takes_x_that_must_not_be_written_to_without_a_word() -> None:
    game = ParametricGame(**GAMES["pendulum"])
    x = game.validate_upper_params(game.initial_upper_params)
    seen = np.zeros((2, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = game.reward(x, seen, np.ones((2, 1), np.float32))
        game.reward(x + 0.1, seen, np.ones((2, 1), np.float32))
        again = game.reward(x, seen, np.ones((2, 1), np.float32))
    np.testing.assert_array_equal(one, again)


def test_a_bounded_reward_is_flat_far_away_and_never_not_a_number() -> None:
    model = LinearReward(cart, 2, bound=0.5)
    seen, taken = np.full((1, 4), 1e4), np.ones(1)
    with np.errstate(all="raise"):
        assert model.rewards(np.full(2, 10.0), seen, taken)[0] == 0.5
        assert not model.vjp(np.full(2, 10.0), seen, taken, np.ones(1)).any()


# Bad input --------------------------------------------------------------------------------------


def wide(observations: NDArray[Any], actions: NDArray[Any]) -> FloatArray:
    return np.ones((len(observations), 3))


def column(observations: NDArray[Any], actions: NDArray[Any], *_: Any) -> FloatArray:
    return np.ones((len(observations), 1))


class Unlimited(gym.Env[NDArray[np.float32], Any]):
    """An environment without a limit of steps, of any spaces."""

    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, actions: str = "Discrete(2)", seen: str | None = None) -> None:
        self.action_space = eval(actions, vars(spaces))
        if seen is not None:
            self.observation_space = eval(seen, vars(spaces))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}


test_bad_arguments_are_refused_with_what_was_wrong = refusals(
    lambda **changes: ParametricGame(**{**GAMES["cartpole"], **changes}),
    ({"env_id": "CartPole-v9"}, gym.error.Error, "CartPole"),
    ({"reward_model": {"kind": "lineer"}}, "'lineer'.*Did you mean 'linear'"),
    ({"reward_model": {"kind": ["linear"]}}, "kind of reward model \\['linear'\\]"),
    ({"reward_model": {}}, "kind of reward model None; accepted: 'fixed', 'linear'"),
    ({"reward_model": {**LINEAR, "bouned": 1}}, TypeError, "'bouned'.*'bound'"),
    ({"reward_model": {**LINEAR, "bound": -1.0}}, "`bound`.*-1.0"),
    ({"reward_model": {**LINEAR, "num_params": 0}}, "`num_params`.*got 0"),
    ({"reward_model": {**LINEAR, "features": "cart"}}, '"module:function".*cart'),
    ({"reward_model": {**LINEAR, "features": f"{HERE}:kart"}}, ValueError, "no function 'kart'"),
    ({"reward_model": {**NETWORK, "activation": "tann"}}, "'tann'.*'tanh'"),
    ({"reward_model": {**NETWORK, "hidden": [0]}}, "`hidden`.*got 0"),
    ({"reward_model": {"kind": "linear", "num_params": 2}}, TypeError, "needs `features`"),
    ({"reward_model": 3}, TypeError, "`reward_model` must be a RewardModel.*module.*got 3"),
    ({"env_id": 3}, TypeError, "`env_id` must be the id of a registered.*function.*got 3"),
    ({"env_id": gym.Env(), "env_kwargs": {}}, "observations of Env must be a Box.*got None"),
    ({"env_id": gym.make("CartPole-v1"), "env_kwargs": {"g": 1}}, "is made already, got {'g': 1}"),
    ({"env_id": lambda: 3}, ValueError, "must return an environment of Gymnasium, got 3"),
    ({"env_id": f"{HERE}:Unlimited", "episode_steps": None}, "`episode_steps` must say when"),
    ({"env_id": f"{HERE}:nothing"}, gym.error.Error, "`nothing` doesn't exist"),
    ({"env_kwargs": 3}, TypeError, "`env_kwargs` must be a dict.*got 3"),
    ({"upper_reward": 3}, TypeError, "`upper_reward` must be a function.*got 3"),
    ({"upper_reward": f"{HERE}:TINY"}, TypeError, "`upper_reward`.*got 'tests.*TINY'"),
    ({"reward_model": {**LINEAR, "features": 3}}, TypeError, "`features` must be a.*got 3"),
    ({"reward_model": {**LINEAR, "base": 3}}, TypeError, "`base` must be a function.*got 3"),
    ({"own_reward": "knobs"}, "`own_reward` must be a finite.*, 'knob' or None, got 'knobs'"),
    ({"own_reward": float("inf")}, "`own_reward`.*got inf"),
    ({"constant_knob": 1}, "`constant_knob` must be True or False, got 1"),
    ({"entropy": "relativ"}, "entropy 'relativ'.*Did you mean 'relative'"),
    ({"initial_upper_params": [0.0, 11.0]}, "`initial_upper_params\\[1\\]`.*11.0"),
)


def test_a_module_of_pytorch_is_a_reward_model() -> None:
    class Pays(th.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = th.nn.Linear(4 + 2, 1, bias=False)

        def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
            paid: th.Tensor = self.weights(th.cat([observations, actions], dim=1)).squeeze(1)
            return paid

    game = ParametricGame("CartPole-v1", Pays(), entropy="plain")
    assert game.title == "CartPole-v1"
    x = np.arange(6.0)
    seen, taken = np.array([[1.0, 0.0, 2.0, 0.0]]), np.array([1])
    np.testing.assert_allclose(game.reward(x, seen, taken), [0.0 + 4.0 + 5.0])
    slope = game.reward_vjp(x, seen, taken, np.array([2.0]))
    np.testing.assert_allclose(slope, [2.0, 0.0, 4.0, 0.0, 0.0, 2.0])


class Nothing:
    """A reward of zero."""

    num_params = 1

    def initial_params(self) -> FloatArray:
        return np.zeros(1)

    def rewards(self, upper_params: Any, observations: Any, actions: Any) -> FloatArray:
        return np.zeros(len(observations))

    def vjp(self, upper_params: Any, observations: Any, actions: Any, weights: Any) -> FloatArray:
        return np.zeros(1)


class Unbounded:
    """A reward model whose derivatives are not finite."""

    num_params = 2

    def initial_params(self) -> FloatArray:
        return np.array([0.25, 0.0])

    def rewards(self, upper_params: Any, observations: Any, actions: Any) -> FloatArray:
        return np.zeros(len(observations))

    def vjp(self, upper_params: Any, observations: Any, actions: Any, weights: Any) -> FloatArray:
        return np.full(2, np.inf)


class Shapeless(Unbounded):
    """A reward model whose rewards have another shape."""

    def rewards(self, upper_params: Any, observations: Any, actions: Any) -> FloatArray:
        return np.zeros((len(observations), 1))


def test_a_model_of_ones_own_is_taken_as_it_is_and_checked() -> None:
    own: RewardModel = Unbounded()
    game = ParametricGame("CartPole-v1", own)
    assert game.reward_model is own and game.episode_steps == 500
    np.testing.assert_array_equal(game.initial_upper_params, [0.25, 0.0])
    with pytest.raises(ValueError, match="`vjp` of the reward model.*finite numbers, got inf"):
        game.reward_vjp(np.zeros(2), np.zeros((3, 4)), np.zeros(3, dtype=int), np.ones(3))


test_functions_that_return_nonsense_are_named_when_the_game_is_made = refusals(
    lambda **changes: ParametricGame(**{**GAMES["cartpole"], **changes}),
    ({"reward_model": Shapeless()}, r"`rewards` of the reward model.*\(3,\), got \(3, 1\)"),
    ({"reward_model": {**LINEAR, "features": f"{HERE}:wide"}}, r"`features`.*\(3, 2\).*\(3, 3"),
    ({"reward_model": {**LINEAR, "base": f"{HERE}:column"}}, r"`base`.*\(3,\), got \(3, 1"),
    ({"upper_reward": f"{HERE}:column"}, r"`upper_reward`.*\(3,\), got \(3, 1\)"),
    ({"upper_reward": lambda *_: np.full(3, np.nan)}, "`upper_reward`.*finite.* got nan for obs"),
    (
        {"reward_model": {**LINEAR, "features": lambda o, a: np.log(o[:, :2] - 1.0)}},
        r"`rewards`.*finite numbers, got nan for observation array\(\[.*\].*action",
    ),
)


def test_environments_that_do_not_suit_are_refused() -> None:
    gym.register("Unlimited-v0", f"{HERE}:Unlimited")
    try:
        with pytest.raises(ValueError, match="`episode_steps` must say.*Unlimited-v0"):
            ParametricGame("Unlimited-v0", LINEAR)
        for kwargs, message in (
            ({"actions": "MultiDiscrete([2, 2])"}, "actions of Unlimited-v0.*MultiDiscrete"),
            ({"actions": "Discrete(2, start=1)"}, "from 0 on, got Discrete\\(2, start=1"),
            ({"actions": "Box(-float('inf'), 1.0, (1,))"}, "finite Box"),
            ({"actions": "Box(0, 3, (1,), 'int64')"}, "Unlimited-v0 must be.*real numbers.*int64"),
            ({"actions": "Box(-1.0, 1.0, ())"}, "Unlimited-v0 must be.*one axis"),
            ({"seen": "Dict({'a': Discrete(2)})"}, "observations of Unlimited-v0.*Dict"),
            ({"seen": "Discrete(3, start=1)"}, "from 0 on, got Discrete\\(3, start=1"),
            ({"seen": "Box(-1.0, 1.0, ())"}, "observations of Unlimited-v0.*one axis"),
            ({"seen": "Box(0, 255, (3, 35, 90), 'uint8')"}, "36 pixels a side.*35, 90.*Unlimited"),
            ({"seen": "Box(0, 255, (90, 35, 3), 'uint8')"}, "36 pixels a side.*90, 35"),
        ):
            with pytest.raises(ValueError, match=message):
                ParametricGame("Unlimited-v0", LINEAR, env_kwargs=kwargs, episode_steps=5)
        images = {"seen": "Box(0, 255, (36, 40, 3), 'uint8')"}
        image_model = {"kind": "linear", "features": f"{HERE}:wide", "num_params": 3}
        game = ParametricGame("Unlimited-v0", image_model, env_kwargs=images, episode_steps=5)
        with pytest.raises(ValueError, match="channels first.*make_environment"):
            HyperGradient(game)
        with pytest.raises(ValueError, match="does not read images"):
            ParametricGame("Unlimited-v0", NETWORK, env_kwargs=images, episode_steps=5)
    finally:
        del gym.registry["Unlimited-v0"]


@pytest.mark.parametrize(
    ("name", "action"),
    [
        *(("cartpole", action) for action in (2, -1, 0.0, np.float32(1), [1], None)),
        *(("pendulum", action) for action in ([2.5], 0.0, [np.nan], ["left"])),
    ],
)
def test_an_action_out_of_its_space_changes_nothing(name: str, action: Any) -> None:
    env, twin = follower_seat(name), follower_seat(name)
    actions = sampled_actions(env, 4)
    rollout(env, actions[:2], seed=1), rollout(twin, actions[:2], seed=1)
    with pytest.raises(ValueError, match="`action"):
        env.step(action)
    for good in actions[2:]:
        assert_identical(env.step(good), twin.step(good))
    assert below(env).elapsed_steps == 4


def test_moves_before_a_reset_and_unknown_options_and_methods_are_refused() -> None:
    env = ParametricGame(**GAMES["cartpole"])
    with pytest.raises(ResetNeeded, match="`reset` first"):
        env.step({"upper": np.zeros(2), "lower": 0})
    with pytest.raises(ValueError, match="'uper_params'.*'upper_params'"):
        env.reset(options={"uper_params": np.zeros(2)})
    with pytest.raises(TypeError, match="EpisodicResponse"):
        env.observe(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'exact' does not suit.*learns.*'bc-hg'.*'trace'"):
        HyperGradient(game_seat("cartpole"), "exact")


# The follower's seat ----------------------------------------------------------------------------


@every_game
@pytest.mark.parametrize("seat", ["follower", "leader"])
def test_pictures_show_the_environment_below_a_headline(name: str, seat: str) -> None:
    env = SEATS[seat](name, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert isinstance(first, np.ndarray) and first.dtype == np.uint8 and first.ndim == 3
    assert first.shape[1] >= 500 and len(np.unique(first)) > 3
    for action in sampled_actions(env, 1 if seat == "leader" else 3):
        env.step(action)
    second = env.render()
    assert isinstance(second, np.ndarray)
    assert second.shape == first.shape and not np.array_equal(first, second)
    env.close()
