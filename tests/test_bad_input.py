"""Every mistake is answered with what was wrong, what was received and what is accepted."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from bilevel_gym import HyperGradient, LowerLevel, RescaleUpper
from bilevel_gym.envs import BilevelGridWorld, random_map

from .helpers import Env, array_game, assert_identical, game_of, interior_point, sampled_actions

ID = "BilevelGridWorld-v0"
SIZE = 14  # entries of x on the map below


def leader(**options: Any) -> Env:
    return HyperGradient(gym.make(ID, map_name="4x4"), **options)


def follower() -> Env:
    return LowerLevel(gym.make(ID, map_name="4x4"), np.full(SIZE, 0.25))


def game() -> Env:
    return gym.make(ID, map_name="4x4").unwrapped


def rescaled() -> Env:
    return RescaleUpper(HyperGradient(gym.make(ID, map_name="4x4")))


def masked() -> Env:
    return LowerLevel(array_game(action_mask=[[1, 1], [1, 0], [1, 1]]), np.zeros(3))


def but(entry: int, value: float) -> Any:
    """Return an x that is in the box but for one entry."""
    x = np.zeros(SIZE)
    x[entry] = value
    return x


@dataclass(frozen=True)
class Mistake:
    """A call that must be refused.

    Attributes:
        name: What is wrong, in words.
        call: The call; it takes the environment where one is set up.
        error: Type of the error.
        fragments: What the message must contain.
        setup: Makes the environment in which the mistake happens; None for constructors.
        phase: Whether that environment is fresh, in mid-episode or at its episode's end.
    """

    name: str
    call: Callable[..., Any]
    error: type[Exception]
    fragments: tuple[str, ...]
    setup: Callable[[], Env] | None = None
    phase: str = "playing"


# x, wherever it is given ------------------------------------------------------------------------

# (what is wrong, x, fragments of the message)
BAD_X: list[tuple[str, Any, tuple[str, ...]]] = [
    ("a scalar", 0.5, ("must have shape (14,)", "got ()")),
    ("too short", np.zeros(3), ("must have shape (14,)", "got (3,)")),
    ("too long", np.zeros(15), ("must have shape (14,)", "got (15,)")),
    ("empty", [], ("must have shape (14,)", "got (0,)")),
    ("two-dimensional", np.zeros((14, 1)), ("must have shape (14,)", "got (14, 1)")),
    ("ragged", [[0.0], [0.0, 1.0]], ("real numbers", "(14,)", "different lengths")),
    ("strings", ["0.1"] * SIZE, ("real numbers", "(14,)", "list", "<U3")),
    ("None", None, ("real numbers", "(14,)", "NoneType")),
    ("with None among numbers", [None] + [0.0] * 13, ("real numbers", "(14,)", "object")),
    ("a mapping", {"upper": np.zeros(SIZE)}, ("real numbers", "(14,)", "dict")),
    ("complex", np.zeros(SIZE, complex), ("real numbers", "(14,)", "complex128")),
    ("boolean", np.zeros(SIZE, bool), ("real numbers", "(14,)", "bool")),
    ("with NaN", but(3, np.nan), ("[3]`", "finite", "[-1.0, 1.0]", "got nan")),
    ("with infinity", but(0, np.inf), ("[0]`", "finite", "[-1.0, 1.0]", "got inf")),
    ("with minus infinity", but(13, -np.inf), ("[13]`", "finite", "[-1.0, 1.0]", "got -inf")),
    ("above the box", but(5, 1.5), ("[5]`", "[-1.0, 1.0]", "got 1.5")),
    ("below the box", but(6, -1.25), ("[6]`", "[-1.0, 1.0]", "got -1.25")),
    ("above the box by rounding", but(1, 1.0 + 1e-12), ("[1]`", "got 1.000000000001")),
    ("above the box as an integer", [0] * 13 + [2], ("[13]`", "[-1.0, 1.0]", "got 2.0")),
]

# (where, environment, call with x, name of the argument in the message)
X_TAKERS: list[tuple[str, Callable[[], Env] | None, Callable[..., Any], str]] = [
    ("leader.step", leader, lambda env, x: env.step(x), "`upper_params"),
    (
        "leader.reset",
        leader,
        lambda env, x: env.reset(options={"upper_params": x}),
        "`upper_params",
    ),
    ("game.step", game, lambda env, x: env.step({"upper": x, "lower": 1}), "`upper_params"),
    ("game.reset", game, lambda env, x: env.reset(options={"upper_params": x}), "`upper_params"),
    ("rescaled.step", rescaled, lambda env, x: env.step(x), "`action"),
    (
        "rescaled.reset",
        rescaled,
        lambda env, x: env.reset(options={"upper_params": x}),
        "`upper_params",
    ),
    ("LowerLevel", None, lambda x: LowerLevel(gym.make(ID, map_name="4x4"), x), "`upper_params"),
    ("game.evaluate", None, lambda x: BilevelGridWorld(map_name="4x4").evaluate(x), "`upper_param"),
]


def with_x(call: Callable[..., Any], x: Any) -> Callable[..., Any]:
    return lambda *env: call(*env, copy.deepcopy(x))


MISTAKES = [
    Mistake(f"{where}: x is {what}", with_x(call, x), ValueError, (argument, *fragments), setup)
    for (where, setup, call, argument), (what, x, fragments) in itertools.product(X_TAKERS, BAD_X)
]

# The follower's action --------------------------------------------------------------------------

for value, shown in [
    (-1, "-1"),
    (4, "4"),
    (1.5, "1.5"),
    (1.0, "1.0"),
    ("up", "'up'"),
    (None, "None"),
    (np.array([1]), "array([1])"),
    (np.nan, "nan"),
]:
    fragments = ("follower's action", "integer in 0..3", f"got {shown}")
    MISTAKES += [
        Mistake(
            f"follower.step: the action is {shown}",
            lambda env, value=value: env.step(value),
            ValueError,
            fragments,
            follower,
        ),
        Mistake(
            f"game.step: the follower's action is {shown}",
            lambda env, value=value: env.step({"upper": np.zeros(SIZE), "lower": value}),
            ValueError,
            fragments,
            game,
        ),
    ]

# Everything else that happens in an episode -----------------------------------------------------

both_keys = ("`action` must be", '"upper": x', '"lower": a')
MISTAKES += [
    Mistake(
        f"game.step: the action is {shown}",
        lambda env, value=value: env.step(value),
        ValueError,
        (*both_keys, f"got {shown}"),
        game,
    )
    for value, shown in [
        (2, "2"),
        (None, "None"),
        ("up", "'up'"),
        ({"lower": 2}, "{'lower': 2}"),
        ({"upper": 0.0}, "{'upper': 0.0}"),
        ((0.0, 1), "(0.0, 1)"),
    ]
]
MISTAKES += [
    Mistake(
        f"{name}.reset: an option is unknown",
        lambda env: env.reset(options={"upper_parms": np.zeros(SIZE)}),
        ValueError,
        ("unknown reset option 'upper_parms'", "accepted: ", "Did you mean 'upper_params'"),
        setup,
    )
    for name, setup in (("leader", leader), ("game", game), ("rescaled", rescaled))
]
MISTAKES += [
    Mistake(
        f"follower.reset: the option {option!r} is given",
        lambda env, option=option: env.reset(options={option: np.zeros(SIZE)}),
        ValueError,
        ("follower's seat takes no reset options", option, "LowerLevel(env, x)"),
        follower,
    )
    for option in ("upper_params", "x")
]
MISTAKES += [
    Mistake(
        f"{name}.reset: the seed is negative",
        lambda env: env.reset(seed=-1),
        gym.error.Error,
        ("eed", "-1"),
        setup,
    )
    for name, setup in (("leader", leader), ("follower", follower), ("game", game))
]
MISTAKES += [
    Mistake(
        f"{name}.step: before the first reset",
        lambda env, action=action: env.step(action),
        ResetNeeded,
        ("step", "reset"),
        setup,
        "fresh",
    )
    for name, setup, action in (
        ("leader", leader, np.zeros(SIZE)),
        ("rescaled", rescaled, np.zeros(SIZE)),
        ("follower", follower, 1),
        ("game", game, {"upper": np.zeros(SIZE), "lower": 1}),
        ("follower of a bare game", masked, 1),
    )
]
MISTAKES += [
    Mistake(
        "leader.response: before the first reset",
        lambda env: env.response,
        ResetNeeded,
        ("no answer yet", "`reset`"),
        leader,
        "fresh",
    ),
    Mistake(
        "game.step: after the episode's end",
        lambda env: env.step({"upper": np.zeros(SIZE), "lower": 1}),
        ResetNeeded,
        ("`step`", "episode ended", "`reset`"),
        game,
        "over",
    ),
    Mistake(
        "follower.step: after the episode's end",
        lambda env: env.step(1),
        ResetNeeded,
        ("`step`", "episode ended", "`reset`"),
        follower,
        "over",
    ),
]

# Constructors: the seats ------------------------------------------------------------------------

MISTAKES += [
    Mistake(f"HyperGradient: {name}", lambda options=options: leader(**options), error, fragments)
    for name, options, error, fragments in [
        (
            "the method is unknown",
            {"method": "exakt"},
            ValueError,
            ("unknown method 'exakt'", "'direct'", "'exact'", "Did you mean 'exact'?"),
        ),
        (
            "the method is no string",
            {"method": 3},
            ValueError,
            ("unknown method 3", "'direct'", "'exact'"),
        ),
        (
            "an option of the method is unknown",
            {"tol": 1e-3},
            TypeError,
            ("'tol'", "method 'exact'", "'max_iterations'", "'tolerance'"),
        ),
        ("the tolerance is zero", {"tolerance": 0.0}, ValueError, ("`tolerance`", "positive", "0")),
        ("the tolerance is NaN", {"tolerance": np.nan}, ValueError, ("`tolerance`", "got nan")),
        (
            "no iteration is allowed",
            {"max_iterations": 0},
            ValueError,
            ("`max_iterations`", "at least 1", "got 0"),
        ),
        (
            "there are no steps",
            {"outer_steps": 0},
            ValueError,
            ("`outer_steps`", "at least 1", "0"),
        ),
        ("there are 2.5 steps", {"outer_steps": 2.5}, ValueError, ("`outer_steps`", "got 2.5")),
        ("steps are a string", {"outer_steps": "9"}, ValueError, ("`outer_steps`", "got '9'")),
        ("steps are True", {"outer_steps": True}, ValueError, ("`outer_steps`", "got True")),
    ]
]

# Constructors: the grid world -------------------------------------------------------------------

REASONS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("no start", {"desc": ["..G"]}, ("`desc`", "exactly one start ('S')", "got 0")),
    ("two starts", {"desc": ["S.G", "..S"]}, ("`desc`", "exactly one start ('S')", "got 2")),
    ("no goal", {"desc": ["S.."]}, ("`desc`", "exactly one goal ('G')", "got 0")),
    ("two goals", {"desc": ["SGG"]}, ("`desc`", "exactly one goal ('G')", "got 2")),
    (
        "an unreachable goal",
        {"desc": ["S#.", ".#G"]},
        ("`desc`", "reachable", "(0, 0)", "(1, 2)"),
    ),
    (
        "ragged rows",
        {"desc": ["S.G", "...", ".."]},
        ("`desc`", "equal lengths", "3 in row 0", "2 in row 2"),
    ),
    (
        "an unknown character",
        {"desc": ["S.G", ".F."]},
        ("`desc`", "'F'", "row 1", "column 1", "'H' hazard", "'#' wall"),
    ),
    ("no rows", {"desc": []}, ("`desc`", "at least one cell", "empty map")),
    ("an empty row", {"desc": [""]}, ("`desc`", "at least one cell", "empty map")),
    ("a string for a map", {"desc": "S.G"}, ("`desc`", "list of strings", "got 'S.G'")),
    ("a number for a map", {"desc": 8}, ("`desc`", "list of strings", "got 8")),
    ("rows of lists", {"desc": [["S", "G"]]}, ("`desc`", "list of strings", "[['S', 'G']]")),
    (
        "a map and a size",
        {"desc": ["SG"], "size": 4},
        ("one of `desc`, `map_name` and `size`", "['SG']", "size=4"),
    ),
    (
        "a named map and a size",
        {"map_name": "4x4", "size": 8},
        ("one of `desc`, `map_name` and `size`", "map_name='4x4' and size=8"),
    ),
    ("a seed without a size", {"map_seed": 3}, ("`map_seed` goes with `size`", "map_seed=3")),
    (
        "an unknown map",
        {"map_name": "8x9"},
        ("unknown map_name '8x9'", "'16x16'", "'4x4'", "Did you mean '8x8'?"),
    ),
    ("a number for a map's name", {"map_name": 8}, ("unknown map_name 8", "'8x8'")),
    ("a list for a map's name", {"map_name": ["SG"]}, ("unknown map_name ['SG']", "'8x8'")),
    ("too small a size", {"size": 1}, ("`size`", "2..1000", "got 1")),
    ("too large a size", {"size": 1001}, ("`size`", "2..1000", "got 1001")),
    ("too large a side", {"size": (8, 1001)}, ("`size`", "2..1000", "got (8, 1001)")),
    ("a fractional size", {"size": 8.5}, ("`size`", "2..1000", "got 8.5")),
    ("fractional sides", {"size": (8.0, 8)}, ("`size`", "2..1000", "got (8.0, 8)")),
    ("three sides", {"size": (8, 8, 8)}, ("`size`", "(rows, columns)", "got (8, 8, 8)")),
    ("a string for a size", {"size": "8x8"}, ("`size`", "2..1000", "got '8x8'")),
    ("True for a size", {"size": True}, ("`size`", "2..1000", "got True")),
    (
        "a negative seed of the map",
        {"size": 5, "map_seed": -1},
        ("`map_seed`", "integer of at least 0", "got -1"),
    ),
    (
        "a fractional seed of the map",
        {"size": 5, "map_seed": 0.5},
        ("`map_seed`", "integer of at least 0", "got 0.5"),
    ),
    ("no discount", {"gamma": 1.0}, ("`gamma`", "[0, 1)", "got 1.0")),
    ("a discount above one", {"gamma": 1.5}, ("`gamma`", "[0, 1)", "got 1.5")),
    ("a negative discount", {"gamma": -0.1}, ("`gamma`", "[0, 1)", "got -0.1")),
    ("a discount of NaN", {"gamma": np.nan}, ("`gamma`", "[0, 1)", "got nan")),
    ("a temperature of zero", {"temperature": 0.0}, ("`temperature`", "positive", "got 0.0")),
    ("a negative temperature", {"temperature": -1}, ("`temperature`", "positive", "got -1")),
    ("a temperature of NaN", {"temperature": np.nan}, ("`temperature`", "positive", "got nan")),
    ("an infinite temperature", {"temperature": np.inf}, ("`temperature`", "finite", "got inf")),
    ("a negative slip", {"slip": -0.1}, ("`slip`", "[0, 1]", "got -0.1")),
    ("a slip above one", {"slip": 1.1}, ("`slip`", "[0, 1]", "got 1.1")),
    ("a slip of NaN", {"slip": np.nan}, ("`slip`", "[0, 1]", "got nan")),
    ("a negative cost of hazards", {"hazard_cost": -1}, ("`hazard_cost`", "negative", "got -1")),
    ("a hazard cost of NaN", {"hazard_cost": np.nan}, ("`hazard_cost`", "finite", "got nan")),
    ("a negative cost of x", {"shaping_cost": -2.0}, ("`shaping_cost`", "negative", "got -2.0")),
    ("a shaping cost of NaN", {"shaping_cost": np.nan}, ("`shaping_cost`", "finite", "got nan")),
    (
        "an unknown render mode",
        {"render_mode": "rgb"},
        ("unknown render_mode 'rgb'", "'human'", "'rgb_array'", "Did you mean 'rgb_array'?"),
    ),
]
# A string where a number belongs is refused with the same words.
REASONS += [
    (f"a string for {name}", {name: "0.5"}, (f"`{name}`", "got '0.5'"))
    for name in ("gamma", "temperature", "slip", "hazard_cost", "shaping_cost")
]
MISTAKES += [
    Mistake(
        f"BilevelGridWorld: {name}",
        lambda options=options: BilevelGridWorld(**options),
        ValueError,
        fragments,
    )
    for name, options, fragments in REASONS
]
MISTAKES += [
    Mistake(
        "gym.make: a map is bad",
        lambda: gym.make(ID, desc=["S.", ".."]),
        ValueError,
        ("exactly one goal", "got 0"),
    ),
    Mistake(
        "gym.make: an argument is misspelt",
        lambda: gym.make(ID, sloop=0.1),
        TypeError,
        ("sloop", ID),
    ),
    Mistake(
        "random_map: the size is a string",
        lambda: random_map("8", 0),  # type: ignore[arg-type]
        ValueError,
        ("`size`", "2..1000", "got '8'"),
    ),
]

# Constructors: games of arrays ------------------------------------------------------------------

STAY = np.zeros((3, 2, 3))
STAY[[0, 1, 2], :, [0, 1, 2]] = 1.0


def changed(array: Any, index: Any, value: float) -> Any:
    """Return a copy of an array with one entry changed."""
    copied = np.array(array, dtype=float)
    copied[index] = value
    return copied


MISTAKES += [
    Mistake(
        f"from_arrays: {name}",
        lambda options=options: array_game(**options),
        ValueError,
        fragments,
    )
    for name, options, fragments in [
        (
            "a row sums to more than one",
            {"transition": changed(STAY, (1, 0, 2), 0.25)},
            ("`transition`", "at most 1", "1.25", "state 1", "action 0"),
        ),
        (
            "a probability is negative",
            {"transition": changed(STAY, (2, 1, 0), -0.25)},
            ("`transition`", "not negative", "s=2", "a=1", "-0.25"),
        ),
        (
            "a probability is NaN",
            {"transition": changed(STAY, (2, 1, 0), np.nan)},
            ("`transition`", "finite", "s=2", "a=1", "nan"),
        ),
        (
            "the transitions are not square",
            {"transition": np.zeros((3, 2, 4))},
            ("`transition`", "[S, A, S]", "(3, 2, 4)"),
        ),
        (
            "the transitions are a matrix",
            {"transition": np.eye(3)},
            ("`transition`", "[S, A, S]", "(3, 3)"),
        ),
        (
            "there are no transitions",
            {"transition": np.zeros((0, 2, 0))},
            ("`transition`", "[S, A, S]", "(0, 2, 0)"),
        ),
        (
            "the reward has another shape",
            {"reward": np.zeros((2, 3))},
            ("`reward`", "[S, A] = (3, 2)", "got (2, 3)"),
        ),
        (
            "the reward is infinite",
            {"reward": changed(np.zeros((3, 2)), (2, 1), np.inf)},
            ("`reward`", "finite", "inf"),
        ),
        (
            "the leader's reward has another shape",
            {"upper_reward": np.zeros(3)},
            ("`upper_reward`", "[S, A] = (3, 2)", "got (3,)"),
        ),
        (
            "the first states' probabilities do not sum to one",
            {"initial_distribution": [0.5, 0.25, 0.0]},
            ("`initial_distribution`", "probabilities", "sum to 1", "0.75"),
        ),
        (
            "a first state's probability is negative",
            {"initial_distribution": [1.5, -0.5, 0.0]},
            ("`initial_distribution`", "probabilities", "smallest entry -0.5"),
        ),
        (
            "a first state's probability is NaN",
            {"initial_distribution": [1.0, np.nan, 0.0]},
            ("`initial_distribution`", "probabilities", "nan"),
        ),
        (
            "there are too few first states",
            {"initial_distribution": [1.0]},
            ("`initial_distribution`", "[S] = (3,)", "got (1,)"),
        ),
        (
            "there are no first states",
            {"initial_distribution": []},
            ("`initial_distribution`", "[S] = (3,)", "got (0,)"),
        ),
        (
            "a mask leaves no action",
            {"action_mask": [[1, 1], [0, 0], [1, 0]]},
            ("`action_mask`", "at least one action", "none in state 1"),
        ),
        (
            "a mask has another shape",
            {"action_mask": [1, 1, 0]},
            ("`action_mask`", "[S, A] = (3, 2)", "got (3,)"),
        ),
        (
            "the box is empty",
            {"upper_low": 1.0, "upper_high": 1.0},
            ("`upper_low`", "below `upper_high`", "got 1.0 and 1.0"),
        ),
        (
            "the box is upside down",
            {"upper_low": 1.0, "upper_high": -1.0},
            ("`upper_low`", "below `upper_high`", "got 1.0 and -1.0"),
        ),
        (
            "a bound is NaN",
            {"upper_low": np.nan},
            ("`upper_low`", "below `upper_high`", "got nan and 1.0"),
        ),
        ("the box is unbounded", {"upper_high": np.inf}, ("`upper_space`", "finite Box", "inf")),
        (
            "the start is out of the box",
            {"initial_upper_params": [0.0, 3.0, 0.0]},
            ("`initial_upper_params[1]`", "[-1.0, 1.0]", "got 3.0"),
        ),
        (
            "the features have another shape",
            {"features": np.zeros((3, 4))},
            ("`features`", "(3, 2) + (D,)", "got (3, 4)"),
        ),
        (
            "a feature is NaN",
            {"features": np.full((3, 2, 1), np.nan)},
            ("`features`", "finite", "nan"),
        ),
        (
            "the leader's discount is one",
            {"upper_gamma": 1.0},
            ("`upper_gamma`", "[0, 1)", "got 1.0"),
        ),
        ("the cost of x is negative", {"upper_cost": -1.0}, ("`upper_cost`", "negative", "-1.0")),
        ("the temperature is zero", {"temperature": 0.0}, ("`temperature`", "got 0.0")),
        ("the discount is one", {"gamma": 1.0}, ("`gamma`", "[0, 1)", "got 1.0")),
    ]
]


def drawn(render_mode: str) -> Any:
    array = array_game()
    array.render_mode = render_mode
    array.reset(seed=0)
    return array.render()


MISTAKES += [
    Mistake(
        "from_arrays: a render mode is asked for",
        lambda: array_game(render_mode="rgb_array"),
        TypeError,
        ("render_mode",),
    ),
    Mistake(
        "from_arrays: the game is drawn",
        lambda: drawn("rgb_array"),
        RuntimeError,
        ("ArrayBilevelEnv", "no picture"),
    ),
]


def bring_into(env: Env, phase: str) -> None:
    """Bring an environment into the phase in which a mistake is made."""
    if phase == "fresh":
        return
    env.reset(seed=9)
    for action in sampled_actions(env, 2, seed=1):
        env.step(action)
    if phase == "over":
        game = game_of(env)
        assert isinstance(game, BilevelGridWorld)
        game._state = game.state_of((2, 3))  # the goal: acting there ends the episode
        action = sampled_actions(env, 1)[0]
        assert env.step(action)[2] is True


def what_follows(env: Env, phase: str) -> list[Any]:
    """Return what an environment does next."""
    actions = sampled_actions(env, 4, seed=2)
    records: list[Any] = []
    if phase == "playing":
        records += [game_of(env).np_random.bit_generator.state, *map(env.step, actions)]
        records += [env.reset(), *map(env.step, actions)]
    records += [env.reset(seed=4), *map(env.step, actions)]
    return records


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_explained_and_does_no_harm(mistake: Mistake) -> None:
    environments: list[Env] = []
    if mistake.setup is not None:
        environments = [mistake.setup(), mistake.setup()]
        for env in environments:
            bring_into(env, mistake.phase)

    with pytest.raises(mistake.error) as caught:
        mistake.call(*environments[:1])
    message = str(caught.value)
    for fragment in mistake.fragments:
        assert fragment in message, f"{fragment!r} is not in: {message}"

    if environments:
        # The other environment has not seen the mistake.
        after, untouched = (what_follows(env, mistake.phase) for env in environments)
        assert_identical(after, untouched)


def test_a_mistake_of_the_leader_keeps_the_answer_at_hand() -> None:
    env = leader()
    assert isinstance(env, HyperGradient)
    x = interior_point(env)
    env.reset(seed=0)
    env.step(x)
    response = env.response
    for bad in (but(0, np.nan), np.zeros(2)):
        with pytest.raises(ValueError):
            env.step(bad)
        with pytest.raises(ValueError):
            env.reset(options={"upper_params": bad})
        assert env.response is response
