"""What every registered task must do; a new row of the table is tested by being there."""

from __future__ import annotations

import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import bilevel_gym
from bilevel_gym import LowerLevel
from bilevel_gym.envs.ids import follower_id
from bilevel_gym.envs.parametric import ParametricGame
from bilevel_gym.registration import TASKS, Task, register_tasks
from bilevel_gym.testing import check_hyper_gradient

from .helpers import (
    DRAWN_TASKS,
    EXACT_TASKS,
    SEATS,
    TABULAR_TASKS,
    Env,
    answer_of,
    arrays_in,
    assert_copy_continues,
    assert_identical,
    discounted_returns,
    every_copier,
    follower_seat,
    force_state,
    game_below,
    game_class,
    game_of,
    interior_point,
    leader_seat,
    p_value,
    raw_game,
    rollout,
    sampled_actions,
    spoil,
    telling_points,
)


def kinds() -> list[Task]:
    """Return a task of each kind of game, for what the classes above a task are to do.

    That is every task whose class makes its own transitions, or one of each way in which the base
    classes make them: kernels, linear systems, learnt followers of all kinds.
    """
    names = ("GridWorld", "MarkovGame", "Toll", "Thermal", "Congestion", "Pendulum", "CartPole")
    chosen = [f"Bilevel{name}-v0" for name in (*names, "PreferencePendulum")]
    known = {game_class(task).advance for task in TASKS if task.id in chosen}
    return [task for task in TASKS if task.id in chosen or game_class(task).advance not in known]


def each(tasks: list[Task] | tuple[Task, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("task", tasks, ids=lambda task: task.id)


KINDS = kinds()
every_task, every_kind = each(TASKS), each(KINDS)
every_exact_task, every_tabular_task = each(EXACT_TASKS), each(TABULAR_TASKS)
every_exact_kind = each([task for task in KINDS if task in EXACT_TASKS])
every_seat = pytest.mark.parametrize("seat", SEATS)
both_players = pytest.mark.parametrize("seat", ["leader", "follower"])

# Beside `objective`, `hyper_gradient` and `upper_params`, which every method gives.
EXACT_INFO = {"inner_residual": "f8", "inner_iterations": "i8"}
EXACT_INFO |= {"inner_converged": "?", "lower_value": "f8"}
LEARNT_INFO = {"inner_samples": "i8", "critic_loss": "f8", "trust_ratio": "f8"}
LEARNT_INFO |= {"objective_se": "f8", "hyper_gradient_se": "f8", "trust": "f8"}
LEARNT_INFO |= {"hyper_gradient_cosine": "f8", "critic_explained": "f8", "cut_share": "f8"}
LEARNT_INFO |= {"kl_predicted": "f8", "kl_measured": "f8"}


# The table ---------------------------------------------------------------------------------


def test_ids_are_unique_and_versioned() -> None:
    ids = [task.id for task in TASKS]
    assert len(set(ids)) == len(ids) > 0
    for task_id in ids:
        name, _, version = task_id.rpartition("-v")
        assert name.isidentifier() and version.isdigit(), task_id


@every_task
def test_a_row_of_the_table_is_registered_and_its_docstring_names_arguments(task: Task) -> None:
    spec, follower = gym.spec(task.id), gym.spec(follower_id(task.id))
    for one in (spec, follower):
        assert one.kwargs == {"game": task.entry_point, **task.kwargs}
    assert spec.max_episode_steps is None and follower.max_episode_steps == task.max_episode_steps
    game = game_class(task)
    assert task.tabular == issubclass(game, bilevel_gym.TabularBilevelEnv)
    assert task.tabular == (spec.vector_entry_point is not None)
    assert task.tabular == (follower.vector_entry_point is not None)
    register_tasks()  # again, which leaves what is there
    assert gym.registry[task.id] is spec
    documentation = inspect.getdoc(game)
    assert documentation is not None
    section = documentation.partition("## Arguments")[2].partition("\n## ")[0]
    for name in inspect.signature(game).parameters:
        assert f"`{name}`" in section, name


# The checkers of Gymnasium and Stable-Baselines3 ---------------------------------------------


def unexpected_warnings(check: Callable[..., Any], env: Env) -> list[str]:
    """Return the warnings of a check of an environment, without those that there is a reason for.

    The checker warns about every wrapped environment, because a wrapper may hide what it looks
    for; the seats are wrappers by design. There is advice to normalise a box: where x or the
    follower's actions have natural units, `RescaleUpper` and its like are the answer. There is
    doubt about unbounded observations: states of linear systems are unbounded, and so are returns.
    A follower that has hardly learnt, and been watched briefly, is said to be one.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(env)
    game = game_below(env)
    reasons = [] if env is game else ["is different from the unwrapped version"]
    boxes = [s for s in (game.upper_space, game.lower_space) if isinstance(s, gym.spaces.Box)]
    if any(space.low.min() != -1.0 or space.high.max() != 1.0 for space in boxes):
        reasons.append("symmetric and normalized")
    seen = (game.observation_space, game.leader_observation_space)
    if not all(space.is_bounded() for space in seen if isinstance(space, gym.spaces.Box)):
        reasons.append("infinity. This is probably too")
    if isinstance(game, ParametricGame):
        reasons += ["has a trust of", "so that nothing can be learnt from them"]
    messages = [str(warning.message) for warning in caught]
    return [text for text in messages if not any(reason in text for reason in reasons)]


@every_task
@every_seat
def test_gymnasium_finds_nothing_to_complain_about(task: Task, seat: str) -> None:
    if seat == "leader" and task not in KINDS:
        pytest.skip("the seat is the same for all tasks of a kind")
    check = partial(check_env, skip_render_check=task not in DRAWN_TASKS)
    assert unexpected_warnings(check, SEATS[seat](task)) == []


@every_kind
@both_players
def test_stable_baselines3_finds_nothing_to_complain_about(task: Task, seat: str) -> None:
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    assert unexpected_warnings(check_env_sb3, SEATS[seat](task)) == []


# Determinism -----------------------------------------------------------------------------------


@every_kind
@every_seat
def test_an_environment_reset_with_a_seed_is_as_good_as_new(task: Task, seat: str) -> None:
    first, second, used = (SEATS[seat](task) for _ in range(3))
    rollout(used, sampled_actions(used, 9, seed=1), seed=8)
    actions = sampled_actions(first, 12)
    # The first record after the reset is the first step, where an inner solver that is warm in
    # one of them and cold in the other would differ.
    expected = rollout(first, actions, seed=3)
    assert_identical(rollout(second, actions, seed=3), expected)
    assert_identical(rollout(used, actions, seed=3), expected)


@every_kind
@every_seat
def test_a_reset_without_a_seed_goes_on_with_the_random_numbers(task: Task, seat: str) -> None:
    env = SEATS[seat](task)
    states = []
    for seed in (3, None, 3):
        env.reset(seed=seed)
        states.append(copy.deepcopy(env.unwrapped.np_random.bit_generator.state))
    # Drawing the first state moved the generator on; it did not start afresh.
    assert states[0] != states[1] and states[0] == states[2]


# What is returned -------------------------------------------------------------------------------


def assert_leader_info(env: Env, info: dict[str, Any], exact: bool) -> None:
    given = dict(info)
    assert math.isfinite(given["objective"]) and type(given.pop("objective")) is np.float64
    for key in ("hyper_gradient", "upper_params"):
        array = given.pop(key)
        assert array.dtype == np.float64 and array.shape == env.action_space.shape
        assert np.isfinite(array).all()
    if exact:
        assert set(given) == set(EXACT_INFO)
        assert info["inner_converged"] and info["inner_iterations"] >= 0
    else:
        assert {"inner_samples"} <= set(given) <= set(LEARNT_INFO)
        assert info["inner_samples"] > 0
    for key in given:
        assert info[key].dtype == {**EXACT_INFO, **LEARNT_INFO}[key], key
        assert info[key].shape == (env.action_space.shape if key == "hyper_gradient_se" else ())
        assert np.isfinite(info[key]).all(), key


@every_task
def test_the_leader_is_told_exactly_what_the_contract_says(task: Task) -> None:
    env = leader_seat(task)
    exact = task in EXACT_TASKS
    observation, info = env.reset(seed=0)
    assert_leader_info(env, info, exact)
    np.testing.assert_array_equal(info["upper_params"], game_below(env).initial_upper_params)
    for action in [interior_point(env), *sampled_actions(env, 2)]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert type(reward) is float and np.isfinite(reward)
        assert terminated is False and truncated is False
        assert_leader_info(env, info, exact)
        np.testing.assert_array_equal(info["upper_params"], action)


@every_task
def test_the_follower_is_told_exactly_what_the_contract_says(task: Task) -> None:
    env = follower_seat(task)
    game = game_below(env)
    discrete = isinstance(game.observation_space, gym.spaces.Discrete)
    _, info = env.reset(seed=0)
    assert set(info) <= {"upper_reward", "action_mask"} and info["upper_reward"] == 0.0
    mask = set(info) - {"upper_reward"}
    for action in sampled_actions(env, 30):
        observation, reward, terminated, truncated, info = env.step(action)
        assert type(observation) is (int if discrete else np.ndarray)
        assert observation in env.observation_space
        assert type(reward) is float and np.isfinite(reward)
        assert type(terminated) is bool and type(truncated) is bool
        assert set(info) == {"upper_reward"} | mask
        assert type(info["upper_reward"]) is np.float64 and np.isfinite(info["upper_reward"])
        if mask:
            assert info["action_mask"].dtype == np.int8
            np.testing.assert_array_equal(info["action_mask"], game.action_mask[observation])
        if terminated or truncated:
            env.reset()


@every_tabular_task
def test_the_leader_observes_the_normalised_discounted_occupancy(task: Task) -> None:
    env = leader_seat(task)
    game = game_of(env)
    env.reset(seed=0)
    for x in (game.initial_upper_params, interior_point(env)):
        observation, *_ = env.step(x)
        policy = answer_of(env).policy
        transition = np.einsum("sa,sat->st", policy, game.kernel(x).to_dense())
        # d = (1 - gamma) rho + gamma P_pi^T d, term by term until what is left is below float32.
        flow, occupancy = game.start_distribution(x), np.zeros(policy.shape[0])
        while flow.max() > 1e-12:
            occupancy += (1.0 - game.gamma) * flow
            flow = game.gamma * flow @ transition
        assert observation.dtype == np.float32
        np.testing.assert_allclose(observation, occupancy, atol=1e-6)


@every_kind
@every_seat
def test_what_is_returned_or_given_may_be_overwritten(task: Task, seat: str) -> None:
    env, twin = SEATS[seat](task), SEATS[seat](task)
    records: list[tuple[Any, ...]] = [env.reset(seed=0)]
    twin.reset(seed=0)
    spoilt = spoil(records[0])
    for action in sampled_actions(env, 5):
        given = copy.deepcopy(action)
        records.append(env.step(given))
        spoil(given)
        assert_identical(records[-1], twin.step(action))
        spoilt += spoil(records[-1])
    assert_identical(env.reset(), twin.reset())
    if seat == "leader":
        # Observation, hyper_gradient and upper_params, each time; the flag of convergence, or
        # errors of the hyper-gradient where they are known.
        assert 3 * 6 <= spoilt <= 4 * 6
    arrays = [array for record in records for array in arrays_in(record)]
    for i, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[i + 1 :])


@every_exact_kind
def test_the_leader_reads_float64_actions_at_full_precision(task: Task) -> None:
    env = leader_seat(task)
    x = interior_point(env)
    assert (x != x.astype(np.float32)).all()
    env.reset(seed=0)
    _, _, _, _, info = env.step(x)
    np.testing.assert_array_equal(info["upper_params"], x)
    # Along the gradient, differences over a step below the spacing of float32 numbers near x
    # would come out as zero or as a multiple of the truth. Curvature and rounding leave 1e-3.
    gradient = info["hyper_gradient"]
    length = 1e-8 * gradient / np.abs(gradient).max()
    values = [float(env.step(x + sign * length)[1]) for sign in (1.0, -1.0)]
    assert values[0] - values[1] == pytest.approx(2.0 * float((gradient * length).sum()), rel=1e-3)


@every_tabular_task
def test_the_follower_is_rewarded_under_x_at_full_precision(task: Task) -> None:
    env = follower_seat(task)
    game = game_of(env)
    reward = game.reward(interior_point(env))
    upper_reward = game.upper_reward(interior_point(env))
    state, _ = env.reset(seed=0)
    for action in sampled_actions(env, 100):
        successor, received, terminated, truncated, info = env.step(action)
        if game.action_mask is None or game.action_mask[state, action]:
            assert received == reward[state, action]
            assert info["upper_reward"] == upper_reward[state, action]
        state = env.reset()[0] if terminated or truncated else successor


# Specs, copies and vectors ---------------------------------------------------------------------


@every_kind
@both_players
def test_a_spec_survives_json_and_makes_the_same_environment(task: Task, seat: str) -> None:
    env = SEATS[seat](task)
    assert env.spec is not None
    text = env.spec.to_json()
    json.loads(text)
    spec = EnvSpec.from_json(text)
    assert spec == env.spec
    actions = sampled_actions(env, 5)
    expected = rollout(env, actions, seed=2)
    for source in (spec, env.spec):
        again = gym.make(source)
        assert type(again) is type(env) and again.spec == env.spec
        assert_identical(rollout(again, actions, seed=2), expected)


@every_kind
@every_seat
@every_copier
def test_a_copy_made_mid_episode_continues_identically(
    task: Task, seat: str, copier: Callable[[Env], Env]
) -> None:
    assert_copy_continues(SEATS[seat](task), copier)


@every_exact_kind
def test_synchronous_and_asynchronous_vectors_agree(task: Task) -> None:
    single = leader_seat(task)
    shape = game_below(single).upper_space.shape
    actions = np.array(sampled_actions(single, 6)).reshape(3, 2, *shape)
    records: list[list[Any]] = []
    for mode in ("sync", "async"):
        vector: Any = gym.make_vec(task.id, 2, vectorization_mode=mode, **task.test_kwargs)
        records.append([vector.reset(seed=[4, 5]), *(vector.step(action) for action in actions)])
        vector.close()
    assert_identical(records[0], records[1])

    single.reset(seed=4)
    for action, (_, rewards, _, _, info) in zip(actions, records[0][1:], strict=True):
        _, reward, _, _, alone = single.step(action[0])
        assert rewards[0] == reward
        assert info["hyper_gradient"].shape == action.shape
        assert info["hyper_gradient"].dtype == np.float64
        np.testing.assert_array_equal(info["hyper_gradient"][0], alone["hyper_gradient"])
        assert info["inner_converged"].dtype == np.bool_
        assert info["inner_iterations"].dtype.kind == "i"


# Episodes ---------------------------------------------------------------------------------------


@every_kind
def test_max_episode_steps_limits_the_follower(task: Task) -> None:
    follower = follower_seat(task, max_episode_steps=2)
    episodes = [rollout(follower, sampled_actions(follower, 2, seed), seed) for seed in range(50)]
    ends = [[record[2:4] for record in episode[1:]] for episode in episodes]
    assert all(first[1] is False for first, *_ in ends)
    lasting = [later[0][1] for first, *later in ends if not first[0]]
    assert lasting and all(lasting)


@every_exact_kind
def test_reset_forgets_the_warm_start_and_episodes_end_after_100_steps(task: Task) -> None:
    env = leader_seat(task)
    _, cold = env.reset(seed=0)
    assert cold["inner_iterations"] > 0
    _, _, _, _, warm = env.step(cold["upper_params"])
    assert cold["inner_iterations"] > warm["inner_iterations"]
    assert env.reset()[1]["inner_iterations"] == cold["inner_iterations"]
    x = interior_point(env)
    env.reset(seed=0)
    records = [env.step(x) for _ in range(101)]
    assert [record[2:4] for record in records] == [(False, False)] * 99 + [(False, True)] * 2
    # The warm start is still there: answering the same x again takes no Newton step.
    assert records[-1][4]["inner_iterations"] == 0
    env.reset()
    assert env.step(x)[2:4] == (False, False)


@every_kind
def test_reset_takes_other_upper_params_for_one_episode(task: Task) -> None:
    env = leader_seat(task)
    x = interior_point(env)
    observation, info = env.reset(seed=0, options={"upper_params": x})
    np.testing.assert_array_equal(info["upper_params"], x)
    if task in EXACT_TASKS:
        stepped, *_, direct = env.step(x)
        np.testing.assert_allclose(stepped, observation, atol=1e-6)
        np.testing.assert_allclose(direct["hyper_gradient"], info["hyper_gradient"], atol=1e-7)
    _, info = env.reset()
    np.testing.assert_array_equal(info["upper_params"], game_below(env).initial_upper_params)


@every_kind
def test_wrapping_again_chooses_the_length_of_the_leaders_episode(task: Task) -> None:
    env = leader_seat(task, outer_steps=3)
    x = interior_point(env)
    assert env.spec is not None
    for seat in (env, gym.make(EnvSpec.from_json(env.spec.to_json()))):
        seat.reset(seed=0)
        assert [seat.step(x)[3] for _ in range(4)] == [False, False, True, True]


@every_exact_task
def test_the_best_known_parameters_reach_the_recorded_value(task: Task) -> None:
    for game in (game_below(gym.make(task.id)), game_below(leader_seat(task))):
        if game.best_known is not None:  # some are recorded of the default instance alone
            response = game.evaluate(game.best_known.upper_params)
            assert response.objective == pytest.approx(game.best_known.value, rel=1e-9)
            assert game.best_known.value > game.evaluate(game.initial_upper_params).objective
            assert game.best_known.source


# The model --------------------------------------------------------------------------------------


@every_exact_task
def test_the_hyper_gradient_is_the_derivative_of_the_reward(task: Task) -> None:
    env = leader_seat(task)
    size = int(np.prod(game_below(env).upper_space.shape))
    for seed, x in enumerate(telling_points(env, 5)):
        report = check_hyper_gradient(env, x, coordinates=min(size, 6), seed=seed)
        assert report.relative_error <= 1e-6, report


@every_tabular_task
def test_cold_followers_earn_what_hard_value_iteration_says(task: Task) -> None:
    if "temperature" not in inspect.signature(game_class(task)).parameters:
        pytest.skip("its temperature is fixed")
    env = leader_seat(task, temperature=1e-4)
    game, x = game_of(env), interior_point(env)
    answer = game.evaluate(x)
    mdp = game.model.lower_mdp(x)
    value, change = np.zeros(mdp.kernel.num_states), np.inf
    while change > 1e-9 * (1.0 - game.gamma):
        q_value = mdp.reward + game.gamma * mdp.kernel.expect(value)
        if game.action_mask is not None:
            q_value[~game.action_mask] = -np.inf
        value, before = q_value.max(axis=1), value
        change = np.abs(value - before).max()
    entropy = 1e-4 * np.log(mdp.kernel.num_actions) / (1.0 - game.gamma)
    slack = 1e-8 * max(1.0, float(np.abs(value).max()))
    assert (answer.soft_value >= value - slack).all()
    assert (answer.soft_value <= value + entropy + slack).all()


# The simulator against the model ---------------------------------------------------------------


@every_tabular_task
def test_transitions_are_drawn_from_the_kernel_that_the_solver_uses(task: Task) -> None:
    env = follower_seat(task)
    game = game_of(env)
    rows = game.kernel(interior_point(env)).to_dense()  # [S, A, S]
    # The last column is the end of the episode.
    rows = np.concatenate([rows, 1.0 - rows.sum(axis=2, keepdims=True).clip(0.0, 1.0)], axis=2)
    rows[rows < 1e-12] = 0.0
    available = np.ones(rows.shape[:2], bool) if game.action_mask is None else game.action_mask
    pairs = np.argwhere(available)
    uncertain = pairs[(rows[tuple(pairs.T)] > 0.0).sum(axis=1) > 1]
    ending = pairs[rows[tuple(pairs.T)][:, -1] > 0.0]
    certain = pairs[(rows[tuple(pairs.T)] == 1.0).any(axis=1)]
    rng = np.random.default_rng(0)
    groups = ((uncertain, 10), (ending, 3), (certain, 4))
    chosen = np.concatenate([rng.permutation(group)[:count] for group, count in groups])
    assert len(chosen) > 3

    env.reset(seed=1)
    samples, p_values = 2000, []
    for state, action in chosen.tolist():
        counts = np.zeros(rows.shape[2])
        for _ in range(samples):
            force_state(env, state)
            successor, _, terminated, _, _ = env.step(action)
            counts[-1 if terminated else successor] += 1
        p_values.append(p_value(counts, rows[state, action]))
    # A true simulator falls below this in one seed of ten thousand, and the seed is fixed.
    assert all(p > 1e-4 / len(chosen) for p in p_values), p_values


@every_tabular_task
def test_first_states_are_drawn_from_the_initial_distribution(task: Task) -> None:
    env = raw_game(task)
    x = interior_point(env)
    start = game_of(env).start_distribution(x)
    counts = np.zeros_like(start)
    env.reset(seed=2)
    for _ in range(500):
        counts[env.reset(options={"upper_params": x})[0]] += 1
    assert p_value(counts, start) > 1e-4


@every_tabular_task
def test_episodes_under_the_reported_policy_return_what_the_model_says(task: Task) -> None:
    leader = leader_seat(task)
    x = interior_point(leader, share=0.2)
    leader.reset(seed=0, options={"upper_params": x})
    game, answer = game_of(leader), answer_of(leader)
    policy = answer.policy
    chain = np.einsum("sa,sat->st", policy, game.kernel(x).to_dense())
    # Returns and the discounted chance of the episode's end, by one linear system each.
    means = [(policy * reward).sum(axis=1) for reward in (game.reward(x), game.upper_reward(x))]
    rewards = np.stack([*means, 1.0 - chain.sum(axis=1)], axis=1)
    system = np.eye(len(chain)) - game.gamma * chain
    exact = game.start_distribution(x) @ np.linalg.solve(system, rewards)

    env = LowerLevel(leader.unwrapped, x)
    env.reset(seed=3)
    act = partial(answer.draw_action, rng=np.random.default_rng(4))
    mean, spread = discounted_returns(env, act, game.gamma, 400)
    # Four standard errors, and the cut of the longest episodes.
    assert (np.abs(mean - exact) < 4.0 * spread + 1e-3).all(), (mean, exact, spread)
