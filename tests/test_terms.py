"""Terms of a reward: evaluated by the environment, kept with the step, weighed by x."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import DesignGame, ParametricGame
from bilevel_gym.envs.sources import Source
from bilevel_gym.envs.terms import RecordTerms
from bilevel_gym.learnt.followers import Follower
from bilevel_gym.sb3 import RelabellingReplayBuffer, SoftDQN

from .helpers import assert_identical, refusals
from .learnt import TINY_LEARNER
from .walks import Walk, make_walk, shaping

HERE = "tests.walks"

# What entropy relative to the uniform policy takes from the follower's reward, of two actions or
# one number in [-1, 1], at the default temperature.
UNIFORM = 0.05 * np.log(2.0)


def follower_of(game: ParametricGame, steps: int = 60) -> Follower:
    follower = Follower(game, steps=steps, first_steps=steps, options=TINY_LEARNER)
    follower.reset(np.random.default_rng(0))
    return follower


# The wrapper ------------------------------------------------------------------------------------


def test_terms_are_those_of_the_whole_step_and_the_reward_is_the_objective() -> None:
    def objective(observation: Any, action: Any, following: Any, info: Any) -> float:
        return float(10 * observation[0] + action)

    env = RecordTerms(make_walk(), shaping, objective=objective, also=("own_reward", "constant"))
    assert not env.names
    seen, _ = env.reset(seed=3)
    for action in (1, 0, 1, 1):
        following, reward, _, _, info = env.step(action)
        expected = [following[0] - seen[0], following[1], info["goal"], -1.0]
        np.testing.assert_allclose(info["terms"], expected, rtol=1e-6)
        assert reward == pytest.approx(10 * seen[0] + action)
        seen = following.copy()
    assert env.names == ("progress", "high", "own_reward", "constant")


def test_terms_are_in_the_order_of_their_names_whatever_a_function_says_first() -> None:
    calls = iter(range(9))

    def terms(*_: Any) -> dict[str, float]:
        pairs: list[tuple[str, Any]] = [
            ("one", 1),
            ("two", np.float32(2.0)),
            ("yes", np.array([True])),
        ]
        return dict(pairs if next(calls) % 2 else pairs[::-1])

    env = RecordTerms(make_walk(), terms, names=("one", "two", "yes"))
    env.reset(seed=0)
    for _ in range(2):
        assert env.step(0)[4]["terms"].tolist() == [1.0, 2.0, 1.0]


def test_entries_of_info_and_components_of_a_vector_reward_are_terms_by_name() -> None:
    env = RecordTerms(make_walk(pays="vector"), ["progress", "reward[1]"], objective="reward[0]")
    env.reset(seed=0)
    *_, info = env.step(1)
    assert info["terms"].tolist() == [0.25, -1.0]
    rewards = [env.step(1)[1] for _ in range(3)]
    assert rewards[-1] == 1.0 and not any(rewards[:-1])


def wrapped(**changes: Any) -> None:
    """Make a step of a walk whose terms are recorded."""
    arguments: dict[str, Any] = {"terms": shaping, "pays": "number", **changes}
    env = RecordTerms(make_walk(pays=arguments.pop("pays")), **arguments)
    env.reset(seed=0)
    env.step(1)
    env.step(0)


growing: list[int] = []


def changing(*_: Any) -> dict[str, float]:
    growing.append(0)
    return {"one": 1.0} if len(growing) % 2 else {"other": 2.0}


test_what_is_no_term_or_objective_is_refused_with_what_was_wrong = refusals(
    wrapped,
    ({"terms": 3}, TypeError, "`terms` must be a function.*names.*got 3"),
    ({"terms": ["progress", 3]}, TypeError, "`terms` must be a function.*'progress', 3"),
    ({"terms": []}, "`terms` must name one term at least, got \\[\\]"),
    ({"terms": ["place", "place"]}, "must be different, got 'place' twice"),
    (
        {"terms": "progres"},
        "unknown entry of `info` 'progres'.*mean 'progress'.*'place', 'progress'",
    ),
    ({"terms": ["word"]}, TypeError, "term 'word' must be a number, got 'here' for observation"),
    ({"terms": "reward[1]"}, "unknown entry.*'reward\\[1\\]'.*'own_reward'.*'place'"),
    ({"terms": f"{HERE}:shapes"}, "no function 'shapes'"),
    ({"terms": "tests.nowhere:terms"}, ImportError, "tests.nowhere"),
    ({"terms": lambda *_: [1.0]}, TypeError, "must return a dict.*got \\[1.0\\] for obs.*action 1"),
    ({"terms": lambda *_: {}}, "must return one term at least, got none"),
    ({"terms": lambda *_: {1: 1.0}}, TypeError, "must return a dict.*got {1: 1.0}"),
    ({"terms": lambda *_: {"a": np.nan}}, "term 'a' must be finite, got nan for observation array"),
    ({"terms": lambda *_: {"a": 1e39}}, "term 'a' must be finite, got 1e\\+39"),
    ({"terms": lambda *_: {"a": [1, 2]}}, TypeError, "term 'a' must be a number, got \\[1, 2\\]"),
    ({"terms": lambda *_: {"a": "b"}}, TypeError, "term 'a' must be a number, got 'b'"),
    (
        {"terms": lambda *_: dict[str, float]()["a"]},
        "`terms` raised KeyError: 'a' for observation.*action 1",
    ),
    ({"terms": lambda a: {}}, "`terms` raised TypeError.*positional argument"),
    ({"terms": changing}, "same names each time, \\['one'\\] at first, got \\['other'\\]"),
    ({"also": ["high"]}, "must be different, got 'high' twice"),
    ({"objective": 3}, TypeError, "`objective` must be a function.*got 3"),
    ({"objective": "goall"}, "unknown entry of `info` 'goall'.*Did you mean 'goal'"),
    ({"objective": lambda *_: np.inf}, "the 'objective' must be finite, got inf for observation"),
    ({"objective": lambda *_: None}, TypeError, "the 'objective' must be a number, got None"),
    ({"pays": "vector"}, "the reward has 2 components: `objective` must say"),
)


# The replay -------------------------------------------------------------------------------------


def test_a_replay_keeps_terms_and_pays_them_under_any_x(tmp_path: Path) -> None:
    env = RecordTerms(make_walk(), shaping)
    model = SoftDQN(
        "MlpPolicy",
        env,
        temperature=0.1,
        gamma=0.9,
        seed=0,
        replay_buffer_kwargs={"num_terms": 2},
        reward_fn=lambda observations, actions, terms: terms @ [1.0, -2.0],
        **TINY_LEARNER,
    )
    model.learn(40)
    buffer = model.replay_buffer
    assert isinstance(buffer, RelabellingReplayBuffer) and buffer.terms is not None
    batch = buffer.transitions(np.arange(40), np.random.default_rng(0))
    assert batch.terms is not None and batch.terms.shape == (40, 2)
    moves = batch.next_observations[:, 0] - batch.observations[:, 0]
    np.testing.assert_allclose(batch.terms[:, 0], moves, atol=1e-6)
    for weights in ([1.0, -2.0], [0.5, 0.0]):
        model.reward_fn = lambda observations, actions, terms, w=weights: terms @ w
        drawn = buffer.sample(64)
        seen, after = (part.numpy() for part in (drawn.observations, drawn.next_observations))
        expected = weights[0] * (after[:, 0] - seen[:, 0]) + weights[1] * after[:, 1]
        np.testing.assert_allclose(drawn.rewards.numpy()[:, 0], expected, atol=1e-5)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = SoftDQN.load(tmp_path / "model", env, device="cpu")
    restored = loaded.replay_buffer
    assert restored is not None and restored.num_terms == 2
    assert_identical(restored.state_dict(), buffer.state_dict())
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.replay_buffer is not restored and loaded.replay_buffer is not None
    assert_identical(loaded.replay_buffer.state_dict(), buffer.state_dict())


def test_an_environment_without_the_terms_that_are_to_be_kept_is_refused() -> None:
    model = SoftDQN(
        "MlpPolicy",
        make_walk(),
        temperature=0.1,
        gamma=0.9,
        replay_buffer_kwargs={"num_terms": 2},
        **TINY_LEARNER,
    )
    with pytest.raises(ValueError, match=r'`info\["terms"\]` must have 2 numbers, got None'):
        model.learn(4)


# The game ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("acts", ["discrete", "box"])
def test_watched_episodes_know_their_terms_and_go_into_the_replay_with_them(acts: str) -> None:
    game = DesignGame(make_walk, shaping, env_kwargs={"acts": acts})
    assert game.term_names == ("progress", "high", "own_reward", "constant")
    follower, x = follower_of(game), np.array([2.0, -1.0, 0.5, 1.0])
    follower.learn(x)
    buffer = follower.model.replay_buffer
    assert buffer is not None
    before = buffer.size()
    played = follower.play(x, 3, np.random.default_rng(1), keep=True)
    assert played.terms is not None and played.terms.shape == (*played.alive.shape, 4)
    after, seen = played.next_observations[..., 0], played.observations[..., 0]
    moves = (after - seen)[played.alive]
    np.testing.assert_allclose(played.terms[played.alive][:, 0], moves, atol=1e-6)
    owed = (played.terms @ (x / game.scales))[played.alive] - UNIFORM
    np.testing.assert_allclose(played.lower_rewards[played.alive], owed, atol=1e-6)
    kept = buffer.transitions(np.arange(before, buffer.size()), np.random.default_rng(0))
    assert kept.terms is not None
    each = played.terms.swapaxes(0, 1)[played.alive.T]
    np.testing.assert_allclose(kept.terms, each, atol=1e-6)
    paid = buffer.rewards_of(kept.observations, kept.actions, kept.terms)
    np.testing.assert_allclose(paid, each @ (x / game.scales) - UNIFORM, rtol=1e-5, atol=1e-5)


def test_weights_are_those_of_raw_terms_and_derivatives_match_the_reward() -> None:
    game = DesignGame("Pendulum-v1", upright, own_reward=False)
    x = np.array([1.0, -2.0, 3.0])
    weights = game.weights(x)
    np.testing.assert_allclose(game.of_weights(weights), x)
    assert [*weights] == ["up", "huge", "constant"]
    # One box suits them all.
    assert game.scales[1] == pytest.approx(1e4 * game.scales[0]) and game.scales[2] == 1.0
    rng = np.random.default_rng(0)
    terms, weighed = rng.standard_normal((5, 3)), rng.standard_normal(5)
    seen, taken = np.zeros((5, 3)), np.zeros((5, 1))
    rewards = game.reward(x, seen, taken, terms)
    np.testing.assert_allclose(rewards, terms @ [*weights.values()] - UNIFORM)
    slopes = [
        weighed @ (game.reward(x + h, seen, taken, terms) - rewards) / 1e-6
        for h in 1e-6 * np.eye(3)
    ]
    found = game.reward_vjp(x, seen, taken, weighed, terms)
    np.testing.assert_allclose(found, slopes, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown term 'upp'.*Did you mean 'up'"):
        game.of_weights({"upp": 1.0})


def upright(observation: Any, action: Any, following: Any, info: Any) -> dict[str, float]:
    return {"up": following[0], "huge": 1e4 * following[0]}


def test_the_followers_seat_is_paid_by_terms_of_the_step_made() -> None:
    game = DesignGame(make_walk, ["progress"], own_reward=False, constant=False)
    seat = LowerLevel(game, game.of_weights({"progress": 2.0}))
    seat.reset(seed=1)
    _, reward, _, _, info = seat.step(1)
    assert reward == pytest.approx(0.5 - UNIFORM) and info["terms"].tolist() == [0.25]
    assert info["upper_reward"] == 0.0
    assert game.title == "make_walk"


@pytest.mark.parametrize("method", ["score", "trace", "hpgd", "bc-hg"])
def test_methods_estimate_with_terms(method: str) -> None:
    game = DesignGame(make_walk, shaping)
    options: dict[str, Any] = {"episodes": 4, "inner_steps": 40, "critic_updates": 2}
    options["inner_options"] = TINY_LEARNER
    seat = HyperGradient(game, method, **options)
    _, info = seat.reset(seed=0)
    assert np.isfinite(info["hyper_gradient"]).all() and info["hyper_gradient"].shape == (4,)
    again = HyperGradient(DesignGame(make_walk, shaping), method, **options)
    assert_identical(again.reset(seed=0)[1], info)


def test_a_one_step_estimate_would_need_terms_of_other_actions() -> None:
    with pytest.raises(
        TypeError, match="`sobirl` needs the rewards of actions that were not taken"
    ):
        HyperGradient(DesignGame(make_walk, shaping), "sobirl")


def test_rewards_of_mujoco_are_terms_by_name() -> None:
    pytest.importorskip("mujoco")
    names = ["reward_forward", "reward_ctrl", "reward_survive"]
    game = DesignGame("Hopper-v5", names, own_reward=False, constant=False, measured_steps=60)
    assert game.term_names == (*names,)
    follower = follower_of(game, 20)
    follower.learn(np.ones(3))
    played = follower.play(np.ones(3), 1, np.random.default_rng(0))
    assert played.terms is not None
    np.testing.assert_allclose(played.terms.sum(axis=2), played.own_rewards, atol=1e-5)


# Where the environment comes from ---------------------------------------------------------------


def changed() -> Walk:
    walk = Walk()
    walk.stride = 0.5
    return walk


@pytest.mark.parametrize(
    ("env", "stride"),
    [
        (make_walk, 0.25),
        (f"{HERE}:make_walk", 0.25),
        (Walk, 0.25),
        (f"{HERE}:Walk", 0.25),
        (make_walk(), 0.25),
        (changed(), 0.5),
    ],
    ids=["function", "named function", "class", "named class", "instance", "changed instance"],
)
def test_an_environment_may_be_a_function_or_an_instance(env: Any, stride: float) -> None:
    game = DesignGame(env, ["progress"], episode_steps=7)
    assert game.episode_steps == 7
    one, other = game.make_environment(), game.make_environment()
    assert one.unwrapped is not other.unwrapped and one.unwrapped is not env
    one.reset(seed=0)
    assert one.step(1)[4]["progress"] == stride
    copied = other.reset(seed=0)[0]
    np.testing.assert_array_equal(copied, game.make_environment().reset(seed=0)[0])


def test_an_instance_is_left_alone_and_keeps_its_own_limit() -> None:
    env = TimeLimit(changed(), 9)
    env.reset(seed=5)
    state = env.unwrapped.__dict__["place"]
    game = DesignGame(env, ["progress"], episode_steps=12)
    assert game.episode_steps == 9 and env.unwrapped.__dict__["place"] == state
    registered = gym.make("CartPole-v1")
    assert ParametricGame(registered, {"kind": "network"}).episode_steps == 500
    # Without its wrappers it still has the limit that it is registered with.
    assert ParametricGame(registered.unwrapped, {"kind": "network"}).episode_steps == 500


class Stuck(Walk):
    """A walk that cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        """Fail as what holds a connection does."""
        raise TypeError("cannot pickle 'socket'")


def test_what_cannot_be_copied_is_made_anew_or_refused() -> None:
    with pytest.raises(ValueError, match="cannot be copied.*'socket'.*give a function that makes"):
        Source(Stuck())
    gym.register("Stuck-v0", f"{__name__}:Stuck", max_episode_steps=5)
    try:
        source = Source(gym.make("Stuck-v0"))
        assert source.name == "Stuck-v0" and isinstance(source.make().unwrapped, Stuck)
    finally:
        del gym.registry["Stuck-v0"]


def test_pictures_need_a_function_that_takes_a_render_mode() -> None:
    game = DesignGame(make_walk, ["progress"], render_mode="rgb_array")
    game.reset(seed=0)
    assert game.render().ndim == 3
    with pytest.raises(ValueError, match="must take `render_mode`"):
        DesignGame(lambda: make_walk(), ["progress"], render_mode="rgb_array")


# Bad input --------------------------------------------------------------------------------------


ONE = make_walk()


class Unseeded(Walk):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class Restless(Walk):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset()


class Looked(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Dict({"place": self.observation_space})  # type: ignore[assignment]


test_bad_designs_are_refused_before_anything_is_learnt = refusals(
    lambda **changes: DesignGame(
        **{"env": make_walk, "terms": shaping, "measured_steps": 30, **changes}
    ),
    ({"env": 3}, TypeError, "`env_id` must be the id of a registered.*got 3"),
    ({"env": "CartPole-v9"}, gym.error.Error, "CartPole"),
    ({"env": Looked, "episode_steps": 5}, "got Dict.*FlattenObservation makes one array"),
    ({"env": Walk}, "`episode_steps` must say when episodes of 'Walk' are cut"),
    ({"env": lambda: ONE}, "must make a new environment each time.*same one twice"),
    ({"env": Unseeded, "episode_steps": 5}, "must take `seed`, as Gymnasium's does"),
    ({"env_kwargs": {"pays": "vector"}}, "`objective` must say what is wanted"),
    ({"env_kwargs": {"pay": "vector"}}, "must make an environment.*unexpected keyword.*'pay'"),
    ({"terms": ["progress", "places"]}, "unknown entry.*'places'.*Did you mean 'place'"),
    ({"measured_steps": 0}, "`measured_steps` must be.*got 0"),
    ({"own_reward": 2}, "`own_reward`.*got 2"),
    ({"scales": [1.0]}, "`scales`.*\\(4,\\)"),
    ({"scales": [1.0, 0.0, 1.0, 1.0]}, "`scales` must be positive"),
    ({"gamma": 1.0}, "`gamma`.*got 1.0"),
)


def test_what_cannot_be_repeated_or_does_not_vary_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="does not go the same way twice"):
        DesignGame(Restless, ["progress"], episode_steps=5)
    with pytest.warns(UserWarning, match="the same in all of 20 steps.*'never'"):
        DesignGame(make_walk, lambda *_: {"never": 0.0}, measured_steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DesignGame(make_walk, shaping)
