"""Taking a seat, the follower's seat, action masks and games of arrays."""

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
from gymnasium.wrappers import (
    ClipAction,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)
from stable_baselines3.common.monitor import Monitor

from bilevel_gym import (
    HyperGradient,
    LowerLevel,
    RescaleUpper,
    TabularBilevelEnv,
)
from bilevel_gym.core.mdp import Kernel
from bilevel_gym.model.objectives import DiscountedReturn

from .helpers import (
    Env,
    FloatArray,
    array_game,
    assert_identical,
    continue_rollout,
    every_copier,
    force_state,
    game_of,
    interior_point,
    refusals,
    rollout,
    sampled_actions,
    spoil,
)

ID, FOLLOWER_ID = "BilevelGridWorld-v0", "BilevelGridWorldFollower-v0"


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


BARE = ["BilevelGridWorld"]


# Taking a seat ----------------------------------------------------------------------------------


def test_a_registered_game_comes_in_the_leaders_seat_which_others_replace() -> None:
    env = make()
    x = interior_point(env)
    assert layers(env) == ["HyperGradient", *BARE]
    assert layers(LowerLevel(env, x)) == ["LowerLevel", *BARE]
    assert layers(HyperGradient(env, outer_steps=5)) == ["HyperGradient", *BARE]
    assert layers(HyperGradient(LowerLevel(env, x))) == ["HyperGradient", *BARE]
    assert layers(LowerLevel(LowerLevel(env, x), -x)) == ["LowerLevel", *BARE]
    assert layers(HyperGradient(HyperGradient(HyperGradient(env)))) == ["HyperGradient", *BARE]
    assert layers(LowerLevel(array_game(), np.zeros(3))) == ["LowerLevel", "TabularBilevelEnv"]


def test_a_replaced_seat_leaves_no_trace_in_the_spec() -> None:
    own = {"game": "bilevel_gym.envs.grid_world:BilevelGridWorld", "map_name": "4x4"}
    options: list[dict[str, Any]] = [{}, {"keep_learnt": True}]
    for more in options:
        env: Any = HyperGradient(follower(), outer_steps=7, **more)
        assert (env.spec.id, env.spec.additional_wrappers) == (ID, ())
        assert env.spec.kwargs == {**own, "outer_steps": 7, **more}
    traced = gym.make(ID, map_name="4x4", method="trace", episodes=8, outer_steps=3)
    x = interior_point(traced)
    seat: Any = LowerLevel(traced, x)
    assert seat.spec.id == FOLLOWER_ID and seat.spec.max_episode_steps == 200
    assert seat.spec.kwargs == {**own, "upper_params": x.tolist()}
    again: Any = LowerLevel(seat)
    assert again.spec.kwargs == own


WRAPPERS: dict[str, Callable[[Env], Env]] = {
    "TransformAction": lambda env: TransformAction(env, lambda a: a, env.action_space),
    "RescaleAction": lambda env: RescaleAction(env, np.float32(-2.0), np.float32(2.0)),
    "ClipAction": ClipAction,
    "TransformReward": lambda env: TransformReward(env, lambda reward: 10.0 * float(reward)),
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


test_what_cannot_be_seated_is_refused = refusals(
    None,
    (lambda: HyperGradient(gym.make("CartPole-v1")), TypeError, "CartPoleEnv"),
    (lambda: LowerLevel(gym.make("CartPole-v1"), [0.0]), TypeError, "CartPoleEnv"),
    (lambda: HyperGradient(ID), TypeError, "gym.make"),  # type: ignore[arg-type]
    (lambda: RescaleUpper(follower()), TypeError, "RescaleUpper.*LowerLevel"),
    (lambda: RescaleUpper(Monitor(make())), TypeError, "RescaleUpper.*Monitor"),
    (
        lambda: HyperGradient(make(), method="exatc"),
        "'exatc'.*Did you mean 'exact'.*`bilevel-gym methods` lists all",
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
    # The outermost offender is the one that must go first.
    (
        lambda: HyperGradient(RecordEpisodeStatistics(TransformReward(follower(), float))),
        TypeError,
        r"got RecordEpisodeStatistics\b",
    ),
)


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
    "another limit": lambda: TimeLimit(make(slip=0.3).unwrapped, 7),
    "a limit of one": lambda: TimeLimit(make().unwrapped, 1),
    "checked": lambda: PassiveEnvChecker(TimeLimit(make().unwrapped, 5)),
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
    env = LowerLevel(array_game(transition=stay, initial_distribution=[0.5, 0.5, 0.0]), np.zeros(3))
    env.reset(seed=0)
    single = copy.deepcopy(env.unwrapped.np_random)
    for step in range(2500):  # more than two blocks
        if step % 7 == 3:
            first = int(single.random() >= 0.5)
            assert env.reset()[0] == first
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


@pytest.mark.parametrize(
    "build",
    [
        lambda: RescaleUpper(HyperGradient(make(), outer_steps=3, tolerance=1e-9)),
        lambda: HyperGradient(make(), method="direct", max_iterations=50),
        lambda: HyperGradient(make(), method="exact", tolerance=1e-4, max_iterations=1),
        lambda: follower(slip=0.25),
    ],
    ids=["RescaleUpper", "HyperGradient", "options", "LowerLevel"],
)
def test_every_wrapper_survives_json(build: Callable[[], Env]) -> None:
    env = build()
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
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
        masks = env.action_masks()
        np.testing.assert_array_equal(masks, MASK[state].astype(bool))
        successor, *_, info = env.step(action)
        assert successor == action
        np.testing.assert_array_equal(info["action_mask"], MASK[successor])
        spoil([info, masks])  # which changes nothing


def test_without_a_mask_all_actions_exist_and_info_does_not_speak_of_it() -> None:
    env = follower()
    _, info = env.reset(seed=0)
    assert "action_mask" not in info and "action_mask" not in env.step(0)[4]
    np.testing.assert_array_equal(env.action_masks(), np.ones(4, bool))


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


def test_the_ends_of_the_unit_interval_stay_in_the_box_whatever_rounding_does() -> None:
    # Beside 1e10, 1e-12 is lost: the centre minus the scale is zero.
    game = array_game(upper_low=1e-12, upper_high=1e10)
    seat, space = RescaleUpper(HyperGradient(game)), game.upper_space
    for end in (-1.0, 1.0):
        x = seat.from_unit(np.full(3, end))
        assert (space.low <= x).all() and (x <= space.high).all()
    seat.reset(seed=0, options={"upper_params": -np.ones(3)})
    np.testing.assert_array_equal(seat.response.upper_params, -np.ones(3))
