"""The likeliest mistakes of a first hour, each with the one line that says what to do.

Tried in three uses: a method of one's own that is to be benchmarked, an environment of one's own
with knobs, and a class to teach.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import bilevel_gym
from bilevel_gym import TabularBilevelEnv
from bilevel_gym.core.mdp import Kernel
from bilevel_gym.envs import ParametricGame
from bilevel_gym.methods import Response
from bilevel_gym.model import evaluate
from bilevel_gym.optimizers import make_optimizer

# To type checkers anything: they would find many of these mistakes themselves.
gym: Any = gymnasium
HyperGradient: Any = bilevel_gym.HyperGradient
LowerLevel: Any = bilevel_gym.LowerLevel
LeaderVectorEnv: Any = bilevel_gym.LeaderVectorEnv
LowerLevelVectorEnv: Any = bilevel_gym.LowerLevelVectorEnv
RescaleUpper: Any = bilevel_gym.RescaleUpper
BilevelGridWorld: Any = bilevel_gym.envs.BilevelGridWorld
BilevelLQR: Any = bilevel_gym.envs.BilevelLQR
Arrays: Any = TabularBilevelEnv

ID, FOLLOWER = "BilevelGridWorld-v0", "BilevelGridWorldFollower-v0"
GAME = BilevelGridWorld(map_name="4x4")
X, ONES = np.zeros(14), np.ones(14)
S, A = 3, 2
HOME = np.repeat(np.eye(S)[:1, None], S, axis=0).repeat(A, axis=1)  # all moves lead to state 0
P, R, START = np.full((S, A, S), 1 / S), np.zeros((S, A)), np.full(S, 1 / S)
LONGEST = 420  # characters of a line


def leader(**options: Any) -> Any:
    """Return the leader's seat, after its reset."""
    seat = gym.make(ID, map_name="4x4", **options)
    seat.reset(seed=0)
    return seat


def follower() -> Any:
    """Return the follower's seat, after its reset."""
    seat = LowerLevel(BilevelGridWorld(map_name="4x4"), X)
    seat.reset(seed=0)
    return seat


def playing() -> Any:
    """Return the game of both players, after its reset."""
    game = BilevelGridWorld(map_name="4x4")
    game.reset(seed=0)
    return game


def arrays(transition: Any = P, reward: Any = R, **options: Any) -> Any:
    given = {"upper_reward": R, "initial_distribution": START, "gamma": 0.9, **options}
    return TabularBilevelEnv.from_arrays(transition, reward, **given)


class Mine(TabularBilevelEnv):
    """An environment of the user's own, not finished yet."""

    def __init__(self, **parts: Any) -> None:
        given: dict[str, Any] = {
            "kernel": Kernel.from_dense(P),
            "initial_distribution": START,
            "upper_space": gym.spaces.Box(-1.0, 1.0, (A,)),
            "gamma": 0.9,
            "temperature": 1.0,
        }
        super().__init__(**{**given, **parts})


class Rewarded(Mine):
    """It has rewards, but no derivatives of them."""

    def reward(self, upper_params: Any) -> Any:
        return np.zeros((S, A)) + upper_params

    def upper_reward(self, upper_params: Any) -> Any:
        return np.zeros((S, A))


class Misshapen(Rewarded):
    """Its vector-Jacobian product has another shape."""

    def reward_vjp(self, upper_params: Any, cotangent: Any) -> Any:
        return cotangent


class Own:
    """A method of the user's own."""

    exact = unbiased = False

    def __init__(self, model: Any) -> None:
        self.model = model

    def reset(self, rng: Any) -> None:
        """There is nothing to forget."""

    def step(self, upper_params: Any) -> Any:
        return evaluate(self.model, upper_params)


def own(**members: Any) -> Any:
    """Return the seat of a method with other members."""
    return leader(method=type("Other", (Own,), members))


def answering(answer: Callable[[Any], Any]) -> Any:
    return own(step=lambda self, x: answer(x))


def parametric(features: Any, **options: Any) -> Any:
    model = {"kind": "linear", "features": features, "num_params": 2, **options}
    return ParametricGame("CartPole-v1", model)


def climb(objective: Any) -> Any:
    return make_optimizer("adam", steps=2)(objective, X, -ONES, ONES)


class Grad:
    """What a tensor that requires grad looks like."""

    requires_grad = True


# What was done, the error's type, and what its one line must say, in this order.
MISTAKES: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    # Options of another side, and misspelt ones.
    (
        lambda: HyperGradient(GAME, slip=0.2),
        TypeError,
        "`slip` is an argument of the game.*gym.make",
    ),
    (
        lambda: LowerLevel(GAME, X, slip=0.2),
        TypeError,
        "`slip` is an argument of the game.*gym.make",
    ),
    (lambda: gym.make(ID, slipp=0.2), TypeError, "'slipp'.*mean 'slip'"),
    (lambda: BilevelGridWorld(slipp=0.2), TypeError, "'slipp'.*mean 'slip'"),
    (lambda: gym.make(ID, method="trace", episode=8), TypeError, "'episode'.*mean 'episodes'"),
    (lambda: gym.make(ID, episodes=8), TypeError, "'exact', but of the method.*'trace'"),
    (lambda: HyperGradient(GAME, episodes=8), TypeError, "takes no `episodes`.*do: .*'trace'"),
    (lambda: gym.make(ID, upper_params=X), TypeError, "follower's seat.*Follower.*step.x.*reset"),
    (lambda: gym.make(FOLLOWER, outer_steps=8), TypeError, "`outer_steps` is.*leader's seat"),
    (lambda: gym.make(FOLLOWER, episodes=8), TypeError, "leader's seat, with the method.*'trace'"),
    (lambda: arrays(temprature=1.0), TypeError, "'temprature'.*mean 'temperature'"),
    (lambda: GAME.evaluate(X, tolerence=1e-9), TypeError, "'tolerence'.*mean 'tolerance'"),
    (lambda: make_optimizer("adam", lr=0.1), TypeError, "'lr'.*learning_rate"),
    (lambda: make_optimizer("Adam"), ValueError, "'Adam'.*mean 'adam'"),
    (lambda: gym.make(ID, seed=1), TypeError, r"`seed`.*reset\(seed"),
    # Names.
    (lambda: bilevel_gym.make("GridWorld"), ValueError, "'GridWorld'.*mean 'BilevelGridWorld-v0'"),
    (lambda: gym.make(ID, method="Trace"), ValueError, "'Trace'.*mean 'trace'"),
    (lambda: getattr(bilevel_gym, "evaluate"), AttributeError, "it is in bilevel_gym.model"),  # noqa: B009
    # Methods that are known, but do not suit.
    (lambda: HyperGradient(BilevelLQR(), "trace"), TypeError, "not suit.*continuous.*'exact'"),
    (lambda: gym.make("BilevelPendulum-v0", method="amd"), TypeError, "not suit.*learns.*'score'"),
    (lambda: HyperGradient(GAME, "score"), TypeError, "not suit.*finitely many.*'exact'"),
    # What the game has, and the seat has not.
    (lambda: leader().evaluate(X), AttributeError, "`env.game.evaluate`"),
    (lambda: follower().evaluate(X), AttributeError, "`env.game.evaluate`"),
    (lambda: RescaleUpper(leader()).evaluate(X), AttributeError, "`env.unwrapped.evaluate`"),
    (lambda: LeaderVectorEnv(ID, 2).evaluate(X), AttributeError, "`env.game.evaluate`"),
    (
        lambda: LowerLevelVectorEnv(GAME, 2, X).evaluate(X),
        AttributeError,
        "`env.game.evaluate`",
    ),
    (lambda: leader().temperature, AttributeError, "`env.game.temperature`"),
    (lambda: leader().policy, AttributeError, "`env.response.policy`"),
    (
        lambda: gym.make("BilevelCartPole-v0").unwrapped.evaluate(np.zeros(4)),
        TypeError,
        "no exact answer, as its follower learns.*HyperGradient",
    ),
    # x, and moves.
    (lambda: GAME.evaluate(ONES + 1e-6), ValueError, r"lie in \[-1.0, 1.0\].*clip"),
    (lambda: leader().step(ONES + 0.05), ValueError, r"lie in \[-1.0, 1.0\].*clip"),
    (lambda: GAME.evaluate(Grad()), ValueError, r"requires grad.*detach\(\).*bilevel_gym.torch"),
    (lambda: GAME.evaluate(X[:4]), ValueError, r"must have shape \(14,\), got \(4,\)"),
    (lambda: leader().step({"upper": X}), ValueError, r"shape \(14,\), got dict"),
    (lambda: follower().step({"lower": 0}), ValueError, "an integer in 0..3"),
    (lambda: playing().step(0), ValueError, '{"upper": x, "lower": a}, got 0'),
    (lambda: gym.make(ID).step(np.zeros(52)), ResetNeeded, "`reset`"),
    (lambda: GAME.evaluate(X, warm_start={}), TypeError, "`evaluate` returned.*got dict"),
    (
        lambda: BilevelLQR().evaluate(np.zeros(6), warm_start={}),
        TypeError,
        "`evaluate` returned.*got dict",
    ),
    (lambda: LowerLevel(ID, X), TypeError, "gym.make"),
    (lambda: HyperGradient(gym.make("CartPole-v1")), TypeError, "ParametricGame"),
    (lambda: BilevelGridWorld(temperature=0.0), ValueError, "positive.*evaluate_unregularised"),
    # An environment of one's own.
    (lambda: arrays(P.transpose(1, 0, 2)), ValueError, r"\[S, A, S\].*transpose\(1, 0, 2\)"),
    (lambda: arrays(HOME.transpose(2, 0, 1)), ValueError, r"`transition`.*transpose\(1, 2, 0\)"),
    (lambda: arrays(HOME.transpose(0, 2, 1)), ValueError, r"`transition`.*transpose\(0, 2, 1\)"),
    (lambda: arrays(HOME.transpose(2, 1, 0)), ValueError, r"got 3.0.*transpose\(2, 1, 0\)"),
    (lambda: arrays(gym.make("FrozenLake-v1").unwrapped.P), ValueError, "dict.*BilevelToyText"),
    (lambda: arrays(1.1 * P), ValueError, "sum to at most 1.*got 1.1 for state 0, action 0"),
    (lambda: arrays(reward=R.T), ValueError, r"`reward` must have shape \[S, A\].*transpose"),
    (
        lambda: arrays(features=np.zeros((S * A, 4))),
        ValueError,
        r"`features`.*\[S, A, D\] = \(3, 2",
    ),
    (lambda: Arrays.from_arrays(P, R), TypeError, "needs `upper_reward`"),
    (lambda: Mine().evaluate(np.zeros(A)), TypeError, "Mine must define `reward"),
    (lambda: Rewarded().evaluate(np.zeros(A)), TypeError, r"must define `reward_vjp\(upper_params"),
    (lambda: Misshapen().evaluate(np.zeros(A)), ValueError, r"`reward_vjp`.*\(2,\), got \(3, 2\)"),
    (lambda: Mine(upper_space=(-1, 1)), TypeError, "gymnasium.spaces.Box"),
    (lambda: Mine(kernel=P), TypeError, "must be a Kernel"),
    (lambda: parametric(lambda o, a: o[:, :1]), ValueError, r"`features`.*\[B, D\].*got \(3, 1\)"),
    (lambda: parametric(lambda o, a: o[:, :2], bond=1), TypeError, "'bond'.*mean 'bound'"),
    (lambda: bilevel_gym.register("Mine-v0", GAME), TypeError, "must be the class.*module:Class"),
    (lambda: bilevel_gym.register("Mine-v0", "mine"), TypeError, "module:Class.*got 'mine'"),
    (
        lambda: bilevel_gym.register(ID, "mine:Own"),
        ValueError,
        f"'{ID}' is taken by .*GridWorld; choose",
    ),
    (lambda: bilevel_gym.design_reward("Track-v0", "x"), gym.error.Error, "module:ID or module:C"),
    # A method of one's own.
    (lambda: leader(method="differences"), ValueError, "one of your own is named by module:Class"),
    (lambda: leader(method=Own(None)), TypeError, "give its class"),
    (lambda: leader(method=lambda model, x: 0.0), TypeError, "a class with `reset` and `step`"),
    (lambda: own(exact=None), TypeError, "does not declare `exact`"),
    (lambda: own(step=None), TypeError, "no method `step`"),
    (lambda: answering(lambda x: (1.0, x)), ValueError, "must return a `Response`, got tuple"),
    (
        lambda: answering(lambda x: Response(upper_params=x, objective=1.0, hyper_gradient=X)),
        ValueError,
        "a TabularResponse.*bilevel_gym.model.evaluate",
    ),
    (lambda: bilevel_gym.register_method("trace", Own), ValueError, "'trace' is taken"),
    # Optimizers.
    (lambda: climb(GAME.evaluate), TypeError, r"x -> \(value, gradient\).*exact_objective"),
    (lambda: climb(GAME), TypeError, r"x -> \(value, gradient\).*LeaderObjective"),
)


@pytest.mark.parametrize(("mistake", "error", "said"), MISTAKES)
def test_a_mistake_is_answered_in_one_line_with_the_remedy(
    mistake: Callable[[], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        mistake()
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= LONGEST


def test_the_names_that_are_elsewhere_are_there() -> None:
    pytest.importorskip("stable_baselines3")
    for name, module in bilevel_gym._ELSEWHERE.items():
        assert hasattr(getattr(bilevel_gym, module), name)


@pytest.mark.parametrize(
    ("library", "code", "extra"),
    [
        ("stable_baselines3", "bilevel_gym.sb3", "sb3"),
        ("torch", "bilevel_gym.torch", "torch"),
        ("jax", "bilevel_gym.jax", "jax"),
        ("stable_baselines3", "gym.make('BilevelPendulum-v0')", "sb3"),
        ("mujoco", "gym.make('BilevelReacher-v0')", "mujoco"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_brings_it(
    library: str, code: str, extra: str
) -> None:
    hidden = f"import sys; sys.modules[{library!r}] = None; import gymnasium as gym, bilevel_gym"
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden}; {code}"], capture_output=True, text=True
    )
    assert f'pip install -e ".[{extra}' in done.stderr.splitlines()[-1]


def test_what_is_not_there_is_still_not_there() -> None:
    seat = leader()
    assert not hasattr(seat, "nonsense") and not hasattr(seat, "_nonsense")
    with pytest.raises(ResetNeeded, match="no answer yet"):
        gym.make(ID).response  # noqa: B018
