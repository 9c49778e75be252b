"""The two seats, the rescaled leader's seat and action masks."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import (
    ClipAction,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from bilevel_gym import (
    HyperGradient,
    LeaderVectorEnv,
    LowerLevel,
    RescaleUpper,
    TabularBilevelEnv,
)
from bilevel_gym.core.mdp import Kernel
from bilevel_gym.model.objectives import DiscountedReturn

from .helpers import (
    Env,
    FloatArray,
    answer_of,
    array_game,
    assert_identical,
    continue_rollout,
    every_copier,
    force_state,
    game_of,
    interior_point,
    rollout,
    sampled_actions,
    spoil,
)

ID = "BilevelGridWorld-v0"


def make(**kwargs: Any) -> Env:
    return gym.make(ID, map_name="4x4", **kwargs)


def follower(**kwargs: Any) -> LowerLevel:
    """Return a follower at an x away from the initial one."""
    return LowerLevel(make(**kwargs), interior_point(make()))


def layers(env: Env) -> list[str]:
    """Return the class names of a stack of wrappers, outermost first, down to the game."""
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return [*names, type(env).__name__]


BARE = ["TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "BilevelGridWorld"]


# Taking a seat ----------------------------------------------------------------------------------


def test_a_registered_game_comes_in_the_leaders_seat() -> None:
    assert layers(make()) == ["HyperGradient", *BARE]


def test_a_seat_replaces_an_outermost_seat() -> None:
    env = make()
    x = interior_point(env)
    assert layers(LowerLevel(env, x)) == ["LowerLevel", *BARE]
    assert layers(HyperGradient(env, outer_steps=5)) == ["HyperGradient", *BARE]
    assert layers(HyperGradient(LowerLevel(env, x))) == ["HyperGradient", *BARE]
    assert layers(LowerLevel(LowerLevel(env, x), -x)) == ["LowerLevel", *BARE]
    assert layers(HyperGradient(HyperGradient(HyperGradient(env)))) == ["HyperGradient", *BARE]


def test_a_replaced_seat_leaves_no_trace_in_the_spec() -> None:
    env = HyperGradient(follower(), outer_steps=7)
    assert env.spec is not None
    (wrapper,) = env.spec.additional_wrappers
    assert wrapper.name == "HyperGradient"
    assert wrapper.kwargs == {"method": "exact", "outer_steps": 7}


def test_seats_sit_on_a_bare_game_too() -> None:
    game = array_game()
    leader = HyperGradient(game)
    _, info = leader.reset(seed=0)
    expected = game.evaluate(np.zeros(3)).hyper_gradient
    np.testing.assert_allclose(info["hyper_gradient"], expected, atol=1e-12)
    follower = LowerLevel(game, np.zeros(3))
    assert layers(follower) == ["LowerLevel", "TabularBilevelEnv"]
    assert follower.reset(seed=0)[0] in (0, 1)


def test_the_peeled_environment_behaves_like_a_fresh_one() -> None:
    x = interior_point(make())
    peeled, fresh = LowerLevel(HyperGradient(make()), x), LowerLevel(make().unwrapped, x)
    actions = sampled_actions(fresh, 20)
    assert_identical(rollout(peeled, actions, seed=1), rollout(fresh, actions, seed=1))


def upper_reward_of(env: Env) -> Env:
    return TransformReward(env, lambda reward: 10.0 * float(reward))


WRAPPERS: dict[str, Callable[[Env], Env]] = {
    "TransformAction": lambda env: TransformAction(env, lambda a: a, env.action_space),
    "RescaleAction": lambda env: RescaleAction(env, np.float32(-2.0), np.float32(2.0)),
    "ClipAction": ClipAction,
    "TransformReward": upper_reward_of,
    "TransformObservation": lambda env: TransformObservation(
        env, lambda o: o, env.observation_space
    ),
    "RecordEpisodeStatistics": RecordEpisodeStatistics,
    "TimeLimit": lambda env: TimeLimit(env, 5),
    "Monitor": Monitor,
    "RescaleUpper": lambda env: RescaleUpper(env),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_above_the_seat_is_refused_by_name(name: str) -> None:
    wrapped = WRAPPERS[name](make())
    x = interior_point(wrapped)
    for seat, take in (
        ("LowerLevel", lambda: LowerLevel(wrapped, x)),
        ("HyperGradient", lambda: HyperGradient(wrapped)),
    ):
        with pytest.raises(TypeError) as caught:
            take()
        message = str(caught.value)
        assert re.search(rf"got {name}\b", message), message
        # It shows the right order: the seat first, the wrapper on top of it.
        assert f"{name}({seat}(gym.make(id)" in message, message


@pytest.mark.parametrize("name", ["ClipAction", "TransformReward", "Monitor"])
def test_a_wrapper_between_the_seat_and_the_game_is_refused_by_name(name: str) -> None:
    bare = make().unwrapped
    # These wrappers want the plain action space of one player.
    bare.action_space = game_of(bare).upper_space
    with pytest.raises(TypeError, match=rf"got {name}\b"):
        HyperGradient(WRAPPERS[name](bare))


def test_a_seat_buried_below_another_wrapper_is_found_out() -> None:
    buried = TransformReward(follower(), float)
    with pytest.raises(TypeError, match=r"got TransformReward\b"):
        HyperGradient(buried)
    # The outermost offender is the one that must go first.
    with pytest.raises(TypeError, match=r"got RecordEpisodeStatistics\b"):
        HyperGradient(RecordEpisodeStatistics(buried))


def test_wrappers_on_top_of_a_seat_work() -> None:
    env = RecordEpisodeStatistics(follower())
    records = rollout(env, [1] * 30, seed=0)
    assert any("episode" in record[-1] for record in records)


@pytest.mark.parametrize(
    ("seat", "error", "message"),
    [
        (lambda: HyperGradient(gym.make("CartPole-v1")), TypeError, "CartPoleEnv"),
        (lambda: LowerLevel(gym.make("CartPole-v1"), [0.0]), TypeError, "CartPoleEnv"),
        (lambda: HyperGradient(ID), TypeError, "gym.make"),  # type: ignore[arg-type]
        (lambda: RescaleUpper(follower()), TypeError, "RescaleUpper.*LowerLevel"),
        (lambda: RescaleUpper(Monitor(make())), TypeError, "RescaleUpper.*Monitor"),
        (
            lambda: HyperGradient(make(), method="exatc"),
            ValueError,
            "'exatc'.*'direct', 'exact'.*Did you mean 'exact'",
        ),
        (
            lambda: HyperGradient(make(), tolerence=1e-4),
            TypeError,
            "('tolerence'.*'exact'|'exact'.*'tolerence').*Did you mean 'tolerance'",
        ),
        (
            lambda: HyperGradient(make(), max_iteration=3),
            TypeError,
            "('max_iteration'.*'exact'|'exact'.*'max_iteration').*Did you mean 'max_iterations'",
        ),
    ],
)
def test_what_cannot_be_seated_is_refused(
    seat: Callable[[], Env], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        seat()


# The follower's seat ----------------------------------------------------------------------------


def test_the_follower_keeps_x_when_the_callers_array_changes() -> None:
    x = interior_point(make())
    env, twin = LowerLevel(make(), x), LowerLevel(make(), x.copy())
    x[:] = -1.0
    actions = sampled_actions(twin, 20)
    assert_identical(rollout(env, actions, seed=0), rollout(twin, actions, seed=0))
    assert env.spec is not None and twin.spec is not None
    assert env.spec == twin.spec


def test_the_followers_x_can_be_read_but_not_written() -> None:
    x = interior_point(make())
    env = LowerLevel(make(), x)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.upper_params, x)
    for seat in (env, copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        seat.step(0)
        # A write would escape the checks, and the rewards would go on under the old x.
        for given in (seat.upper_params, game_of(seat).initial_upper_params):
            with pytest.raises(ValueError, match="read-only"):
                given[0] = 0.5


STACKS: dict[str, Callable[[], Env]] = {
    "as registered": make,
    "another limit": lambda: make(max_episode_steps=7, slip=0.3),
    "a limit of one": lambda: make(max_episode_steps=1),
    "unchecked": lambda: make(disable_env_checker=True, max_episode_steps=5),
    "no wrappers": lambda: array_game(),
    "masked": lambda: TimeLimit(masked_game(), 6),
    "two limits": lambda: TimeLimit(TimeLimit(array_game(), 4), 9),
    "two limits, the smaller above": lambda: TimeLimit(TimeLimit(array_game(), 9), 4),
}


@pytest.mark.parametrize("name", STACKS)
def test_the_follower_steps_as_through_all_the_wrappers_below(name: str) -> None:
    x = interior_point(STACKS[name]())
    env, walked = LowerLevel(STACKS[name](), x), LowerLevel(STACKS[name](), x)
    rng = np.random.default_rng(0)
    flags = set()
    for seed in range(5):
        assert_identical(env.reset(seed=seed), walked.reset(seed=seed))
        for _ in range(60):
            action = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
            record = env.step(action)
            assert_identical(
                record, walked.env.step({"upper": walked.upper_params, "lower": action})
            )
            np.testing.assert_array_equal(env.action_masks(), walked.action_masks())
            flags.add(record[2:4])
            # An episode that is only out of time may go on, and is so at every further step.
            if record[2] or (record[3] and rng.random() < 0.5):
                assert_identical(env.reset(), walked.reset())
    assert (False, True) in flags or name in ("as registered", "no wrappers")


def test_the_followers_random_numbers_are_those_of_single_draws() -> None:
    stay = np.zeros((3, 2, 3))
    stay[:, :, :] = [0.5, 0.3, 0.2]
    env = LowerLevel(array_game(transition=stay), np.zeros(3))
    env.reset(seed=0)
    single = copy.deepcopy(env.unwrapped.np_random)
    for _ in range(2500):  # more than two blocks
        uniform = single.random()
        assert env.step(0)[0] == int(uniform >= 0.5) + int(uniform >= 0.5 + 0.3)


@every_copier
def test_a_copy_of_the_follower_goes_on_with_the_numbers_drawn_ahead(
    copier: Callable[[Env], Env],
) -> None:
    env = follower(slip=0.5)
    actions = sampled_actions(env, 1500)
    rollout(env, actions[:10], seed=0)
    twin = copier(env)
    assert_identical(continue_rollout(twin, actions), continue_rollout(env, actions))
    state = env.unwrapped.np_random.bit_generator.state
    assert twin.unwrapped.np_random.bit_generator.state == state


def test_numbers_drawn_ahead_are_left_with_their_generator() -> None:
    x = interior_point(make())
    env, fresh = LowerLevel(make(slip=0.5), x), LowerLevel(make(slip=0.5), x)
    actions = sampled_actions(env, 40)
    expected = rollout(fresh, actions, seed=1)
    rollout(env, actions[:10], seed=0)
    assert_identical(rollout(env, actions, seed=1), expected)
    # The same through `np_random`, on the seat and on the game.
    for holder in (env, env.unwrapped):
        rollout(env, actions[:10], seed=0)
        holder.np_random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(1)))
        assert_identical(rollout(env, actions), expected)


class Coin(TabularBilevelEnv):
    """A coin whose side x chooses: the kernel is what x moves."""

    def __init__(self) -> None:
        super().__init__(
            kernel=Kernel.from_dense([[[0.5, 0.5]], [[0.5, 0.5]]]),
            initial_distribution=[1.0, 0.0],
            objective=DiscountedReturn(),
            upper_space=gym.spaces.Box(0.0, 1.0, (1,), np.float32),
            initial_upper_params=[0.5],
            gamma=0.9,
            temperature=0.1,
        )

    def kernel(self, upper_params: FloatArray) -> Kernel:
        return Kernel.from_dense([[[1.0 - upper_params[0], upper_params[0]]]] * 2)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        return np.full((2, 1), upper_params[0])

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.array([cotangent.sum()])

    upper_reward = reward


def test_two_followers_of_one_game_each_move_and_are_paid_under_their_own_x() -> None:
    game = Coin()
    tails, heads = LowerLevel(game, [0.0]), LowerLevel(game, [1.0])
    heads.reset(seed=0)
    for seat, side in [(tails, 0), (heads, 1), (heads, 1), (tails, 0), (tails, 0), (heads, 1)]:
        state, reward, *_, info = seat.step(0)
        assert (state, reward, info["upper_reward"]) == (side, side, side)
        np.testing.assert_array_equal(seat.upper_params, [side])
    game.reset(seed=0)  # puts the initial x in force
    assert [heads.step(0)[0] for _ in range(20)] == [1] * 20
    # A refused move of one seat leaves the x of the other in force.
    with pytest.raises(ValueError, match="0..0"):
        tails.step(1)
    np.testing.assert_array_equal(game.view().upper_params, [1.0])


def test_the_followers_seat_takes_no_options() -> None:
    env = follower()
    with pytest.raises(ValueError, match=r"upper_params.*LowerLevel\(env, x\)"):
        env.reset(seed=0, options={"upper_params": np.zeros(14)})
    env.reset(seed=0, options={})


# The leader's seat ------------------------------------------------------------------------------


def test_the_reward_is_the_objective_and_the_response_is_at_hand() -> None:
    env = HyperGradient(make())
    x = interior_point(env)
    env.reset(seed=0)
    observation, reward, _, _, info = env.step(x)
    referee = game_of(env).evaluate(x)
    assert reward == pytest.approx(referee.objective, abs=1e-10)
    response = answer_of(env)
    assert response.objective == reward
    np.testing.assert_array_equal(response.upper_params, x)
    np.testing.assert_array_equal(response.hyper_gradient, info["hyper_gradient"])
    np.testing.assert_allclose(response.policy.sum(axis=1), 1.0, atol=1e-12)
    assert response.lower_value == info["lower_value"]
    assert response.samples is None and "inner_samples" not in info
    # What info hands out is not what the response reports.
    spoil([observation, info])
    np.testing.assert_array_equal(answer_of(env).hyper_gradient, response.hyper_gradient)
    np.testing.assert_array_equal(answer_of(env).upper_params, x)
    assert (answer_of(env).hyper_gradient != 77).all()


def test_the_direct_method_returns_the_direct_gradient() -> None:
    exact, direct = HyperGradient(make()), HyperGradient(make(), method="direct")
    x = interior_point(exact, share=0.02)  # where the follower still reacts
    exact.reset(seed=0), direct.reset(seed=0)
    _, reward, _, _, info = direct.step(x)
    assert exact.step(x)[1] == reward
    # Of this task only the cost of x is direct: -shaping_cost * ||x||^2.
    np.testing.assert_allclose(info["hyper_gradient"], -2 * 0.05 * x, atol=1e-14)
    np.testing.assert_array_equal(info["hyper_gradient"], answer_of(exact).direct_gradient)
    assert not np.allclose(info["hyper_gradient"], answer_of(exact).hyper_gradient, atol=0.01)


def test_options_of_the_method_reach_it_and_survive_json() -> None:
    env = HyperGradient(make(), method="exact", outer_steps=5, tolerance=1e-4, max_iterations=1)
    _, info = env.reset(seed=0)
    assert info["inner_iterations"] == 1 and info["inner_converged"] is False
    assert info["inner_residual"] > 1e-4
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert_identical(again.reset(seed=0)[1], env.reset(seed=0)[1])


def test_a_failed_wrapping_leaves_the_environment_usable() -> None:
    env, twin = make(), make()
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError):
        HyperGradient(env, method="exatc")
    with pytest.raises(ValueError):
        LowerLevel(env, [2.0])
    x = interior_point(env)
    assert_identical(env.step(x), twin.step(x))


# A reset that keeps what has been learnt ------------------------------------------------------

LEARNERS: dict[str, dict[str, Any]] = {
    "exact": {"max_iterations": 1},  # far from converged, so that a warm start shows
    "m-sobirl": {},
    "zero-order": {},
    "trace": {"episodes": 4},
}
every_learner = pytest.mark.parametrize("method", LEARNERS)


def learning(method: str, **options: Any) -> HyperGradient:
    return HyperGradient(array_game(), method, **{**LEARNERS[method], **options})


def walk(count: int) -> list[FloatArray]:
    return list(0.1 * np.random.default_rng(0).uniform(-1.0, 1.0, (count, 3)))


@every_learner
def test_a_warm_reset_answers_as_a_step_would(method: str) -> None:
    env, twin = learning(method), learning(method)
    xs = walk(4)
    assert_identical(env.reset(seed=2), twin.reset(seed=2))
    for reset_at, x in zip((False, True, False, True), xs, strict=True):
        observation, *_, info = twin.step(x)
        if reset_at:
            given = {"upper_params": x, "keep_learnt": True}
            assert_identical(env.reset(options=given), (observation, info))
            assert set(given) == {"upper_params", "keep_learnt"}
        else:
            assert_identical(env.step(x)[-1], info)
    # An ordinary reset forgets.
    cold = env.reset(options={"upper_params": xs[-1]})[1]
    assert (cold["hyper_gradient"] != info["hyper_gradient"]).any()


def test_a_warm_reset_begins_an_episode_at_the_initial_x() -> None:
    env = learning("exact", outer_steps=2)
    env.reset(seed=0)
    x = walk(1)[0]
    assert [env.step(x)[3] for _ in range(2)] == [False, True]
    _, info = env.reset(options={"keep_learnt": True})
    np.testing.assert_array_equal(info["upper_params"], env.game.initial_upper_params)
    assert [env.step(x)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [
        (7, {"keep_learnt": True}, "`seed` must be None with `keep_learnt`.*got 7"),
        (None, {"keep_learnt": 1}, "`keep_learnt` must be True or False, got 1"),
        (None, {"keep_learned": True}, "accepted: 'keep_learnt', 'upper_params'.*'keep_learnt'"),
        (None, {"keep_learnt": True, "upper_params": np.full(3, 9.0)}, "upper_params.*9.0"),
    ],
)
def test_a_warm_reset_that_cannot_be_changes_nothing(
    seed: int | None, options: dict[str, Any], message: str
) -> None:
    env, twin = learning("trace"), learning("trace")
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=seed, options=options)
    x = walk(1)[0]
    assert_identical(env.step(x), twin.step(x))


@every_learner
def test_there_is_nothing_to_keep_before_the_first_reset(method: str) -> None:
    with pytest.raises(ResetNeeded, match="`keep_learnt` needs something learnt.*without it"):
        learning(method).reset(options={"keep_learnt": True})
    learning(method).reset(seed=3, options={"keep_learnt": False})


def test_a_black_box_leader_goes_on_over_the_ends_of_its_episodes() -> None:
    env = DummyVecEnv([lambda: learning("m-sobirl", outer_steps=2, keep_learnt=True)])
    twin = learning("m-sobirl")
    env.seed(0)
    env.reset(), twin.reset(seed=0)
    for x in walk(4):
        _, rewards, dones, (info,) = env.step(np.array([x]))
        observation, reward, _, _, told = twin.step(x)
        assert rewards[0] == np.float32(float(reward))
        np.testing.assert_array_equal(info["hyper_gradient"], told["hyper_gradient"])
        if dones[0]:
            twin.step(twin.game.initial_upper_params)


def test_a_seat_that_keeps_what_was_learnt_forgets_it_with_a_seed() -> None:
    env, plain = learning("m-sobirl", keep_learnt=True), learning("m-sobirl")
    first = env.reset(seed=0)
    assert_identical(plain.reset(seed=0), first)
    env.step(walk(1)[0])
    assert_identical(env.reset(seed=0), first)
    env.step(walk(1)[0])
    assert_identical(env.reset(options={"keep_learnt": False}), first)
    assert env._saved_kwargs["keep_learnt"] is True
    assert "keep_learnt" not in plain._saved_kwargs


def test_a_rescaled_seat_hands_the_warm_start_on() -> None:
    env, plain = RescaleUpper(uneven_leader()), uneven_leader()
    env.reset(seed=0), plain.reset(seed=0)
    action = np.array([0.2, -0.4, 0.6])
    _, info = env.reset(options={"upper_params": action, "keep_learnt": True})
    plain.step(env.from_unit(action))
    assert info["inner_iterations"] == answer_of(plain).iterations
    np.testing.assert_allclose(info["upper_params"], action, atol=1e-15)


def test_a_vector_of_seats_keeps_the_warm_start_of_each() -> None:
    def copies(seats: bool) -> Any:
        if seats:
            return SyncVectorEnv([lambda: HyperGradient(make())] * 3)
        return LeaderVectorEnv(ID, 3, map_name="4x4")

    ours, theirs = copies(False), copies(True)
    rng = np.random.default_rng(0)
    xs = rng.uniform(-0.5, 0.5, (3, *ours.single_action_space.shape))
    for envs in (ours, theirs):
        with pytest.raises(ResetNeeded, match="`keep_learnt` needs"):
            envs.reset(options={"keep_learnt": True})
        envs.reset(seed=0)
        envs.step(xs)
        with pytest.raises(ValueError, match="`seed` must be None"):
            envs.reset(seed=1, options={"keep_learnt": True})
    mask = np.array([True, False, True])
    for options in ({}, {"upper_params": xs[0] + 1e-3}, {"reset_mask": mask}):
        (_, info), (_, expected) = (
            envs.reset(options={**options, "keep_learnt": True}) for envs in (ours, theirs)
        )
        np.testing.assert_array_equal(info["inner_iterations"], expected["inner_iterations"])
        np.testing.assert_allclose(info["hyper_gradient"], expected["hyper_gradient"], atol=1e-9)
    # One x for each.
    ours.step(xs)
    _, info = ours.reset(options={"upper_params": xs, "keep_learnt": True})
    assert info["inner_iterations"].max() <= 1


# RescaleUpper -----------------------------------------------------------------------------------


def uneven_leader() -> HyperGradient:
    """Return a leader whose box is neither symmetric nor of size two, nor exact in float32."""
    return HyperGradient(array_game(upper_low=-0.1, upper_high=2.3, upper_cost=0.1))


def test_rescaled_gradients_are_derivatives_with_respect_to_the_rescaled_action() -> None:
    seat = uneven_leader()
    env = RescaleUpper(seat)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    env.reset(seed=0)
    action = np.array([0.2, -0.4, 0.6])
    *_, info = env.step(action)
    np.testing.assert_allclose(info["upper_params"], action, atol=1e-15)
    box = seat.game.upper_space
    scale = (box.high.astype(float) - box.low.astype(float)) / 2.0
    response, plain = answer_of(env), answer_of(seat)
    np.testing.assert_array_equal(response.hyper_gradient, info["hyper_gradient"])
    np.testing.assert_allclose(response.hyper_gradient, scale * plain.hyper_gradient, rtol=1e-14)
    np.testing.assert_allclose(response.direct_gradient, scale * plain.direct_gradient, rtol=1e-14)
    np.testing.assert_allclose(response.upper_params, action, atol=1e-15)
    assert response.objective == plain.objective
    assert response.response_share == pytest.approx(plain.response_share)
    step, numeric = 1e-5, np.empty(3)
    for i, shift in enumerate(step * np.eye(3)):
        numeric[i] = (float(env.step(action + shift)[1]) - float(env.step(action - shift)[1])) / (
            2.0 * step
        )
    # Central differences: truncation of order step^2, rounding of order 1e-16 / step.
    np.testing.assert_allclose(info["hyper_gradient"], numeric, rtol=1e-7, atol=1e-9)
    assert np.abs(numeric).min() > 1e-3


def test_rescaled_reset_options_are_in_the_new_units() -> None:
    env, plain = RescaleUpper(uneven_leader()), uneven_leader()
    action = np.array([0.5, -1.0, 0.0])
    _, info = env.reset(seed=0, options={"upper_params": action})
    np.testing.assert_allclose(info["upper_params"], action, atol=1e-15)
    options = {"upper_params": action.copy()}
    env.reset(seed=0, options=options)
    np.testing.assert_array_equal(options["upper_params"], action)
    low, high = plain.action_space.low.astype(float), plain.action_space.high.astype(float)  # type: ignore[attr-defined]
    x = (low + high) / 2 + (high - low) / 2 * action
    _, expected = plain.reset(seed=0, options={"upper_params": x})
    assert info["lower_value"] == pytest.approx(expected["lower_value"], abs=1e-12)
    # Without options both start at the same point.
    _, info = env.reset(seed=0)
    np.testing.assert_allclose(
        low + (info["upper_params"] + 1) / 2 * (high - low), np.zeros(3), atol=1e-15
    )


@pytest.mark.parametrize("bounds", [(-0.1, 2.3), (0.1, 0.7), (-3.3, -1.1), (1e-3, 1e3)])
def test_rescaled_bounds_are_reached_without_leaving_the_box(bounds: tuple[float, float]) -> None:
    seat = HyperGradient(array_game(upper_low=bounds[0], upper_high=bounds[1]))
    env = RescaleUpper(seat)
    env.reset(seed=0)
    space = seat.game.upper_space
    for end, bound in ((-1.0, space.low), (1.0, space.high)):
        *_, info = env.step(np.full(3, end))
        np.testing.assert_array_equal(answer_of(seat).upper_params, bound.astype(float))
        # What is reported can be handed back.
        assert (np.abs(info["upper_params"]) <= 1.0).all()
        env.step(info["upper_params"])
        np.testing.assert_array_equal(answer_of(seat).upper_params, bound.astype(float))


def test_whatever_a_rescaled_leader_reports_can_be_handed_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = float(rng.normal())
        high = low + float(rng.exponential())
        env = RescaleUpper(HyperGradient(array_game(upper_low=low, upper_high=high)))
        _, info = env.reset(seed=0)
        assert (np.abs(info["upper_params"]) <= 1.0).all(), (low, high, info["upper_params"])
        env.step(info["upper_params"])


@pytest.mark.parametrize(
    "build",
    [
        lambda: RescaleUpper(HyperGradient(make(), outer_steps=3, tolerance=1e-9)),
        lambda: HyperGradient(make(), method="direct", max_iterations=50),
        lambda: follower(slip=0.25),
    ],
    ids=["RescaleUpper", "HyperGradient", "LowerLevel"],
)
def test_every_wrapper_survives_json(build: Callable[[], Env]) -> None:
    env = build()
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec and layers(again) == layers(env)
    actions = sampled_actions(env, 5)
    if isinstance(env.action_space, gym.spaces.Box):
        actions = [np.clip(action, -1.0, 1.0) for action in actions]
    assert_identical(rollout(again, actions, seed=4), rollout(env, actions, seed=4))


# Action masks -----------------------------------------------------------------------------------

# In state 0 both actions exist, in state 1 the first of three is missing, in state 2 only the last
# exists.
MASK = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]])


def masked_game() -> TabularBilevelEnv:
    transition = np.zeros((3, 3, 3))
    transition[:, 0, 0] = transition[:, 1, 1] = transition[:, 2, 2] = 1.0
    return TabularBilevelEnv.from_arrays(
        transition,
        np.array([[0.1, 0.2, 0.3], [9.0, 0.5, -0.4], [9.0, -9.0, 0.7]]),
        upper_reward=np.array([[0.0, 0.0, 0.0], [-8.0, 0.3, 0.6], [-8.0, 8.0, -0.2]]),
        initial_distribution=[0.0, 1.0, 0.0],
        gamma=0.9,
        temperature=0.1,
        action_mask=MASK,
    )


@pytest.mark.parametrize(
    ("state", "action", "reward", "upper_reward"),
    [(1, 0, -0.4, 0.3), (2, 0, 0.7, -0.2), (2, 1, 0.7, -0.2)],
)
def test_an_unavailable_action_changes_nothing_and_pays_the_worst_available_reward(
    state: int, action: int, reward: float, upper_reward: float
) -> None:
    x = np.array([0.0, 0.25, -0.5])
    env = LowerLevel(masked_game(), x)
    env.reset(seed=0)
    for _ in range(5):
        force_state(env, state)
        successor, received, terminated, truncated, info = env.step(action)
        assert (successor, terminated, truncated) == (state, False, False)
        assert received == reward + x[state]
        assert info["upper_reward"] == upper_reward
        np.testing.assert_array_equal(info["action_mask"], MASK[state])


def test_available_actions_of_a_masked_game_do_what_the_kernel_says() -> None:
    env = LowerLevel(masked_game(), np.zeros(3))
    state, info = env.reset(seed=0)
    # As Taxi reports them, and as a method.
    assert info["action_mask"].dtype == np.int8 and env.action_masks().dtype == np.bool_
    # The follower's spaces accept a mask: a sample is an action that exists.
    assert {int(env.action_space.sample(info["action_mask"])) for _ in range(30)} == {1, 2}
    for state, action in np.argwhere(MASK).tolist():
        force_state(env, state)
        np.testing.assert_array_equal(env.action_masks(), MASK[state].astype(bool))
        successor, *_, info = env.step(action)
        assert successor == action
        np.testing.assert_array_equal(info["action_mask"], MASK[successor])


def test_overwriting_a_mask_changes_nothing() -> None:
    env = LowerLevel(masked_game(), np.zeros(3))
    for _ in range(2):
        _, info = env.reset(seed=0)
        masks = env.action_masks()
        np.testing.assert_array_equal(info["action_mask"], MASK[1])
        np.testing.assert_array_equal(masks, MASK[1].astype(bool))
        spoil([info, masks])


def test_without_a_mask_all_actions_exist_and_info_does_not_speak_of_it() -> None:
    env = follower()
    _, info = env.reset(seed=0)
    assert "action_mask" not in info and "action_mask" not in env.step(0)[4]
    np.testing.assert_array_equal(env.action_masks(), np.ones(4, bool))


def test_the_policy_never_takes_an_action_that_does_not_exist() -> None:
    env = HyperGradient(masked_game())
    env.reset(seed=0)
    np.testing.assert_array_equal(answer_of(env).policy[MASK == 0], 0.0)
    np.testing.assert_allclose(answer_of(env).policy.sum(axis=1), 1.0, atol=1e-14)


# Games of arrays --------------------------------------------------------------------------------


def test_a_game_keeps_its_arrays_when_the_callers_change() -> None:
    def arguments() -> dict[str, FloatArray]:
        rng = np.random.default_rng(3)
        return {
            # In the memory order that the package works in, where a copy is easily forgotten.
            "reward": np.asfortranarray(rng.normal(size=(3, 2))),
            "upper_reward": np.asfortranarray(rng.normal(size=(3, 2))),
            "initial_distribution": np.array([0.5, 0.25, 0.25]),
            "features": rng.normal(size=(3, 2, 4)),
            "initial_upper_params": np.full(4, 0.5),
            "action_mask": np.array([[True, True], [True, False], [False, True]]),
        }

    given = arguments()
    game, twin = array_game(**given), array_game(**arguments())
    for array in given.values():
        array[...] = 0
    one, other = HyperGradient(game), HyperGradient(twin)
    assert_identical(one.reset(seed=0), other.reset(seed=0))
    assert_identical(one.step(np.full(4, 0.1)), other.step(np.full(4, 0.1)))
    x = np.full(4, 0.1)
    actions = sampled_actions(LowerLevel(twin, x), 20)
    assert_identical(
        rollout(LowerLevel(game, x), actions, seed=1), rollout(LowerLevel(twin, x), actions, seed=1)
    )


def test_a_game_of_arrays_without_features_shapes_every_state() -> None:
    game = array_game()
    x = np.array([0.5, -0.25, 0.125])
    np.testing.assert_allclose(game.reward(x) - game.reward(np.zeros(3)), x[:, None] + [0, 0])
    np.testing.assert_array_equal(game.reward_vjp(x, np.arange(6.0).reshape(3, 2)), [1, 5, 9])


def test_a_box_away_from_zero_starts_at_its_nearest_point() -> None:
    # 0.1 and 0.7 are no float32 numbers; the box is rounded outward, so that they lie in it.
    game = array_game(upper_low=0.1, upper_high=0.7)
    np.testing.assert_array_equal(game.initial_upper_params, np.full(3, 0.1))
    np.testing.assert_array_equal(game.evaluate(np.full(3, 0.7)).upper_params, np.full(3, 0.7))
    game = array_game(upper_low=-0.7, upper_high=-0.1)
    np.testing.assert_array_equal(game.initial_upper_params, np.full(3, -0.1))
    assert float(game.upper_space.low[0]) <= -0.7 < -0.1 <= float(game.upper_space.high[0])
