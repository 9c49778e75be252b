"""What several test modules share: seats of a task, rollouts and bitwise comparisons."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chisquare

import bilevel_gym
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.envs.ids import follower_id
from bilevel_gym.methods import ExactResponse
from bilevel_gym.registration import TASKS, Task

FloatArray = NDArray[np.float64]
Env = gym.Env[Any, Any]


def game_class(task: Task) -> type[bilevel_gym.BilevelEnv]:
    """Return the class of a task's game."""
    game: Any = load_env_creator(task.entry_point)
    return game


# What is compared with a kernel, or solved with others, needs one.
TABULAR_TASKS = [task for task in TASKS if issubclass(game_class(task), TabularBilevelEnv)]
# What is compared with the follower's exact answer needs a game that has one; where the follower
# learns from interaction, there is none.
EXACT_TASKS = [task for task in TASKS if game_class(task).default_method == "exact"]
LEARNT_TASKS = [task for task in TASKS if task not in EXACT_TASKS]
# A task need not have a picture.
DRAWN_TASKS = [task for task in TASKS if game_class(task).draw is not bilevel_gym.BilevelEnv.draw]


# Small instances of tasks: a map of terrain, fewer and longer steps of hours, spending and assets,
# and a ring with a short cut through node 5, whose numbers are not consecutive.
TERRAIN = ["aab", "bSc", "Gca"]
HOUSEHOLDS: dict[str, Any] = {"num_assets": 25, "hours_levels": 4, "hours_step": 2.67}
HOUSEHOLDS |= {"spending_levels": 3, "spending_step": 2.5}
RING: Any = [[2, 3, 4], [3, 7, 2.5], [7, 2, 1], [2, 5, 1], [5, 7, 0], [7, 5, 3], [3, 2, 2]]


def leader_seat(task: Task, outer_steps: int = 100, **kwargs: Any) -> Env:
    """Make a task as it comes: in the leader's seat, on its small instance.

    A follower who learns gets no more than a few steps for each x.
    """
    options = {"outer_steps": outer_steps, **task.test_options}
    return gym.make(task.id, **{**task.test_kwargs, **options, **kwargs})


def follower_seat(task: Task, upper_params: ArrayLike | None = None, **kwargs: Any) -> Env:
    """Make a task in the follower's seat, by default at an x away from the initial one."""
    options = {**task.test_kwargs, **kwargs}
    if upper_params is None:
        small = {k: v for k, v in options.items() if k not in ("max_episode_steps", "render_mode")}
        upper_params = interior_point(leader_seat(task, **small))
    return gym.make(follower_id(task.id), upper_params=upper_params, **options)


def raw_game(task: Task, **kwargs: Any) -> Env:
    """Make the game itself, without any wrapper."""
    return leader_seat(task, **kwargs).unwrapped


SEATS: dict[str, Callable[[Task], Env]] = {
    "leader": leader_seat,
    "follower": follower_seat,
    "game": raw_game,
}


def game_of(env: Env) -> TabularBilevelEnv:
    """Return the tabular game below any stack of wrappers."""
    game = env.unwrapped
    assert isinstance(game, TabularBilevelEnv)
    return game


def game_below(env: Env) -> Any:
    """Return the game below any stack of wrappers, of whatever kind; ask what it can do."""
    game = env.unwrapped
    assert isinstance(game, bilevel_gym.BilevelEnv)
    return game


def interior_point(env: Env, seed: int = 5, share: float = 0.5) -> FloatArray:
    """Return a float64 x, not representable in float32, well inside the box of a game."""
    space = game_below(env).upper_space
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    offset = np.random.default_rng(seed).uniform(-share, share, space.shape)
    inside: FloatArray = (low + high) / 2 + (high - low) / 2 * offset
    return inside


def telling_points(env: Env, count: int) -> list[FloatArray]:
    """Return x at which the follower's answer makes up a tenth of the hyper-gradient or more.

    They are taken from an ascent path, then from around the initial x, then from anywhere.
    """
    game = game_below(env)
    low, high = (
        bound.astype(np.float64) for bound in (game.upper_space.low, game.upper_space.high)
    )
    width, rng = high - low, np.random.default_rng(7)
    path = [game.initial_upper_params]
    for _ in range(8):
        gradient = game.evaluate(path[-1]).hyper_gradient
        step = 0.02 * float(width.max()) * gradient / np.linalg.norm(gradient)
        path.append(np.clip(path[-1] + step, low, high))
    around = [
        np.clip(game.initial_upper_params + share * width * rng.normal(size=low.shape), low, high)
        for share in (0.01, 0.05, 0.2)
    ]
    anywhere = [share * interior_point(env, seed) for share in (0.05, 0.2, 1.0) for seed in (1, 2)]
    found: list[FloatArray] = []
    for x in [*path[::2], *around, *anywhere]:
        answer = game.evaluate(np.clip(x, low, high))
        response = np.linalg.norm(answer.hyper_gradient - answer.direct_gradient)
        if response > 0.15 * np.linalg.norm(answer.hyper_gradient) and response > 1e-3:
            found.append(answer.upper_params)
    assert len(found) >= count, len(found)
    return found[:count]


def sampled_actions(env: Env, count: int, seed: int = 11) -> list[Any]:
    """Draw actions of an environment, without touching the random numbers of its own space."""
    space = env.action_space
    state = np.random.default_rng(seed)

    def draw(space: gym.Space[Any]) -> Any:
        if isinstance(space, gym.spaces.Dict):
            return {name: draw(part) for name, part in space.items()}
        if isinstance(space, gym.spaces.Discrete):
            return int(state.integers(space.n))
        assert isinstance(space, gym.spaces.Box)
        return state.uniform(space.low, space.high).astype(np.float64)

    return [draw(space) for _ in range(count)]


def rollout(env: Env, actions: list[Any], seed: int | None = None) -> list[Any]:
    """Return everything `reset(seed)` and the steps after it give; ended episodes begin again."""
    records: list[Any] = [env.reset(seed=seed)]
    records += continue_rollout(env, actions)
    return records


def continue_rollout(env: Env, actions: list[Any]) -> list[Any]:
    """Return everything that further steps give; ended episodes of the follower begin again."""
    records: list[Any] = []
    for action in actions:
        records.append(env.step(action))
        if records[-1][2] or records[-1][3]:
            records.append(env.reset())
    return records


def assert_identical(first: Any, second: Any, where: str = "", *, rounding: bool = False) -> None:
    """Assert that two nested structures agree in types, dtypes, shapes and every bit.

    Args:
        first: A nest of dicts, sequences, arrays and scalars.
        second: Another; the order of a dict's keys does not matter.
        where: Where in the structures we are, for messages.
        rounding: Whether floats in arrays may differ by 1e-10 of the largest (float32: by 1e-7).
    """
    assert type(first) is type(second), f"{where}: {type(first)} and {type(second)}"
    if isinstance(first, dict):
        assert sorted(first) == sorted(second), where
        for key in first:
            assert_identical(first[key], second[key], f"{where}[{key!r}]", rounding=rounding)
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_identical(one, other, f"{where}[{i}]", rounding=rounding)
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype and first.shape == second.shape, where
        if first.dtype == object:
            assert_identical(first.tolist(), second.tolist(), where, rounding=rounding)
        elif rounding and first.dtype.kind == "f":
            size = max(1.0, float(np.abs(second).max()))
            atol = 1e-10 * size if first.dtype == np.float64 else 1e-7
            np.testing.assert_allclose(first, second, rtol=0, atol=atol, err_msg=where)
        else:
            assert first.tobytes() == second.tobytes(), f"{where}: {first} and {second}"
    else:
        assert first == second, f"{where}: {first!r} and {second!r}"


def p_value(counts: Any, weights: Any) -> float:
    """Return the chi-square p-value of counts of outcomes; impossible ones must not occur.

    Outcomes expected less than five times count together.

    Args:
        counts: How often each outcome was seen.
        weights: Probabilities of the outcomes, up to a factor; same shape.
    """
    counts, expected = (np.ravel(each).astype(float) for each in (counts, weights))
    assert not counts[expected <= 1e-12].any()
    expected = expected * (counts.sum() / expected.sum())
    often = expected >= 5.0
    rest = expected[~often].sum()
    if 0.0 < rest < 5.0:  # with the rarest of the others, if they are too few even so
        often[np.flatnonzero(often)[expected[often].argmin()]] = False
    parts = [np.append(each[often], each[~often].sum()) for each in (counts, expected)]
    possible = parts[1] > 0.0
    seen, awaited = (part[possible] for part in parts)
    return float(chisquare(seen, awaited).pvalue) if len(seen) > 1 else 1.0


every_copier = pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda original: pickle.loads(pickle.dumps(original))]
)


def assert_copy_continues(
    env: Env, copier: Callable[[Env], Env], count: int = 9, before: int = 4
) -> None:
    """Assert that a copy made in mid-episode does what the original does, `count` steps in all."""
    actions = sampled_actions(env, count)
    rollout(env, actions[:before], seed=6)
    other = copier(env)
    ahead = continue_rollout(env, actions[before:])
    # The original has moved on; the copy has not moved with it.
    assert_identical(continue_rollout(other, actions[before:]), ahead)
    assert_identical(other.reset(), env.reset())


def assert_vector_spaces_agree(ours: Any, theirs: Any) -> None:
    """Assert that a vector environment has the spaces and the metadata of another."""
    for space in ("observation_space", "action_space"):
        for name in (space, f"single_{space}"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert ours.num_envs == theirs.num_envs and ours.render_mode is None
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert ours.reset(seed=0)[0] in ours.observation_space
    assert ours.step(ours.action_space.sample())[0] in ours.observation_space


def arrays_in(structure: Any) -> Iterator[NDArray[Any]]:
    """Yield every array in a nested structure."""
    if isinstance(structure, np.ndarray):
        yield structure
    elif isinstance(structure, dict):
        for value in structure.values():
            yield from arrays_in(value)
    elif isinstance(structure, list | tuple):
        for value in structure:
            yield from arrays_in(value)


def spoil(structure: Any) -> int:
    """Overwrite every array in a nested structure; return how many there were."""
    count = 0
    for array in arrays_in(structure):
        array[...] = 77
        count += 1
    return count


def force_state(env: Env, state: int) -> None:
    """Put the follower of an episode under way, or just over, into a state."""
    game = game_of(env)
    game._state, game._over = state, False


def discounted_returns(
    seat: Env, act: Callable[[Any], Any], gamma: float, episodes: int
) -> tuple[FloatArray, FloatArray]:
    """Return means of returns in the follower's seat, and their standard errors.

    They are those of the follower, the leader and of what ends an episode, `[3]`.
    """
    returns = []
    for _ in range(episodes):
        state, _ = seat.reset()
        total, discount, over = np.zeros(3), 1.0, False
        while discount > 1e-4 and not over:
            state, reward, over, _, info = seat.step(act(state))
            total += discount * np.array([reward, info["upper_reward"], float(over)])
            discount *= gamma
        returns.append(total)
    return np.mean(returns, axis=0), np.std(returns, axis=0) / np.sqrt(episodes)


def changed(array: Any, index: Any, value: float) -> Any:
    """Return a copy of an array with one entry changed."""
    copied = np.array(array, dtype=float)
    copied[index] = value
    return copied


def array_game(**options: Any) -> TabularBilevelEnv:
    """Return a game of three states and two actions; in state 2 the episode may end.

    Options replace arguments of `TabularBilevelEnv.from_arrays`, `transition` and `reward` too.
    """
    transition = np.array(
        [
            [[0.2, 0.8, 0.0], [0.5, 0.0, 0.5]],
            [[0.0, 0.1, 0.9], [1.0, 0.0, 0.0]],
            [[0.3, 0.0, 0.4], [0.0, 0.0, 0.0]],
        ]
    )
    arguments: dict[str, Any] = {
        "transition": transition,
        "reward": np.array([[0.1, -0.3], [0.7, 0.2], [-0.4, 1.0]]),
        "upper_reward": np.array([[1.0, -0.5], [0.25, 0.0], [-1.0, 2.0]]),
        "initial_distribution": [0.6, 0.4, 0.0],
        "gamma": 0.9,
        "temperature": 0.2,
    }
    return TabularBilevelEnv.from_arrays(**{**arguments, **options})


def answer_of(seat: Any) -> ExactResponse:
    """Return the last answer in a tabular game's leader's seat, in full."""
    response = seat.response
    assert isinstance(response, ExactResponse)
    return response


def refusals(make: Callable[..., object] | None, *rows: tuple[Any, ...]) -> Callable[..., None]:
    """Return a test that mistakes are refused, each with a message that names it.

    Args:
        make: What takes the options of a row; None where a row holds a call.
        rows: Options or a call, the error's type unless it is a ValueError, and what its message
            must match.
    """

    @pytest.mark.parametrize("row", rows, ids=[str(row[-1]) for row in rows])
    def test(row: tuple[Any, ...]) -> None:
        given, *kind, message = row
        with pytest.raises(kind[0] if kind else ValueError, match=message):
            given() if make is None else make(**given)

    return test
