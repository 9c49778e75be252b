"""Every mistake is answered with what was wrong, what was received and what is accepted."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from scipy.sparse import csr_array

from bilevel_gym import HyperGradient, LowerLevel, RescaleUpper
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import (
    BilevelGridWorld,
    BilevelInverseRL,
    BilevelRandomMDP,
    BilevelThermal,
    BilevelToll,
)
from bilevel_gym.model.objectives import DiscountedReturn, Sum
from bilevel_gym.optimizers import OPTIMIZERS, AdamRule
from bilevel_gym.testing import check_hyper_gradient, check_method

from .helpers import (
    Env,
    array_game,
    assert_identical,
    changed,
    force_state,
    game_of,
    interior_point,
    sampled_actions,
)

ID = "BilevelGridWorld-v0"
SIZE = 14  # entries of x on the map below
X = np.zeros(SIZE)

make = partial(gym.make, ID, map_name="4x4")


def leader(**options: Any) -> HyperGradient:
    return HyperGradient(make(), **options)


def masked() -> Env:
    return LowerLevel(array_game(action_mask=[[1, 1], [1, 0], [1, 1]]), np.zeros(3))


SEATS: Mapping[str, Callable[[], Env]] = {
    "leader": leader,
    "rescaled": lambda: RescaleUpper(leader()),
    "follower": lambda: LowerLevel(make(), np.full(SIZE, 0.25)),
    "game": lambda: make().unwrapped,
    "follower of a bare game": masked,
}

# Each mistake as a test's parameters: a call (it takes the environment where a seat is named), the
# error's type, what its message must contain, the seat, and whether the environment is fresh, in
# mid-episode or at its episode's end.
MISTAKES: list[Any] = []


def refused(
    name: str,
    call: Callable[..., Any],
    said: str,
    error: type[Exception] = ValueError,
    seat: str | None = None,
    phase: str = "playing",
) -> None:
    """Add a mistake; what its message must contain is separated by semicolons."""
    where = f"{seat}: {name}" if seat else name
    MISTAKES.append(pytest.param(call, error, said.split("; "), seat, phase, id=where))


# x, wherever it is given ------------------------------------------------------------------------


def but(entry: int, value: float) -> Any:
    """Return an x that is in the box but for one entry."""
    x = X.copy()
    x[entry] = value
    return x


BAD_X: dict[str, tuple[Any, str]] = {
    "a scalar": (0.5, "must have shape (14,); got ()"),
    "too short": (np.zeros(3), "must have shape (14,); got (3,)"),
    "too long": (np.zeros(15), "must have shape (14,); got (15,)"),
    "empty": ([], "must have shape (14,); got (0,)"),
    "two-dimensional": (np.zeros((14, 1)), "must have shape (14,); got (14, 1)"),
    "ragged": ([[0.0], [0.0, 1.0]], "real numbers; (14,); different lengths"),
    "strings": (["0.1"] * SIZE, "real numbers; (14,); list; <U3"),
    "None": (None, "real numbers; (14,); NoneType"),
    "with None among numbers": ([None] + [0.0] * 13, "real numbers; (14,); object"),
    "a mapping": ({"upper": X}, "real numbers; (14,); dict"),
    "complex": (np.zeros(SIZE, complex), "real numbers; (14,); complex128"),
    "boolean": (np.zeros(SIZE, bool), "real numbers; (14,); bool"),
    "with NaN": (but(3, np.nan), "[3]`; finite; [-1.0, 1.0]; got nan"),
    "with infinity": (but(0, np.inf), "[0]`; finite; [-1.0, 1.0]; got inf"),
    "with minus infinity": (but(13, -np.inf), "[13]`; finite; [-1.0, 1.0]; got -inf"),
    "above the box": (but(5, 1.5), "[5]`; [-1.0, 1.0]; got 1.5"),
    "below the box": (but(6, -1.25), "[6]`; [-1.0, 1.0]; got -1.25"),
    "above the box by rounding": (but(1, 1.0 + 1e-12), "[1]`; got 1.000000000001"),
    "above the box as an integer": ([0] * 13 + [2], "[13]`; [-1.0, 1.0]; got 2.0"),
}


def step(env: Env, action: Any) -> Any:
    return env.step(copy.deepcopy(action))


def reset_at(env: Env, x: Any) -> Any:
    return env.reset(options={"upper_params": copy.deepcopy(x)})


def reset_seed(env: Env, seed: int) -> Any:
    return env.reset(seed=seed)


def reset_options(env: Env, options: Any) -> Any:
    return env.reset(options=options)


def reset_with(env: Env, option: str) -> Any:
    return env.reset(options={option: X})


# (seat, call with x, name of the argument in the message)
X_TAKERS: list[tuple[str | None, str, Callable[..., Any], str]] = [
    ("leader", "step", step, "`upper_params"),
    ("leader", "reset", reset_at, "`upper_params"),
    ("game", "step", lambda env, x: step(env, {"upper": x, "lower": 1}), "`upper_params"),
    ("game", "reset", reset_at, "`upper_params"),
    ("rescaled", "step", step, "`action"),
    ("rescaled", "reset", reset_at, "`upper_params"),
    (None, "LowerLevel", lambda x: LowerLevel(make(), x), "`upper_params"),
    (None, "evaluate", lambda x: BilevelGridWorld(map_name="4x4").evaluate(x), "`upper_params"),
]
for (seat, where, call, argument), (what, (x, said)) in itertools.product(X_TAKERS, BAD_X.items()):
    if where == "LowerLevel" and x is None:  # there it is the game's initial x
        continue

    def give(*env: Env, call: Callable[..., Any] = call, x: Any = x) -> Any:
        return call(*env, copy.deepcopy(x))

    refused(f"{where}, x is {what}", give, f"{argument}; {said}", seat=seat)

# What else happens in an episode -----------------------------------------------------------------

action: Any
for action in (-1, 4, 1.5, 1.0, "up", None, np.array([1]), np.nan):
    said = f"follower's action; integer in 0..3; got {action!r}"
    refused(f"the action is {action!r}", partial(step, action=action), said, seat="follower")
    both = partial(step, action={"upper": X, "lower": action})
    refused(f"the follower's action is {action!r}", both, said, seat="game")
for action in (2, None, "up", {"lower": 2}, {"upper": 0.0}, (0.0, 1)):
    said = f'`action` must be; "upper": x; "lower": a; got {action!r}'
    refused(f"the action is {action!r}", partial(step, action=action), said, seat="game")

for seat in ("leader", "game", "rescaled"):
    said = "unknown reset option 'upper_parms'; Did you mean 'upper_params'; Accepted: "
    refused("an unknown reset option", partial(reset_with, option="upper_parms"), said, seat=seat)
for option in ("upper_params", "x"):
    said = f"follower's seat takes no reset options; {option}; LowerLevel(env, x)"
    refused(
        f"the reset option {option!r}", partial(reset_with, option=option), said, seat="follower"
    )
for seat in ("leader", "follower", "game"):
    refused("a negative seed", lambda env: env.reset(seed=-1), "eed; -1", gym.error.Error, seat)

ACTIONS: dict[str, Any] = {seat: X if seat in ("leader", "rescaled") else 1 for seat in SEATS}
ACTIONS["game"] = {"upper": X, "lower": 1}
for seat, action in ACTIONS.items():
    early = partial(step, action=action)
    refused("a step before the first reset", early, "step; reset", ResetNeeded, seat, "fresh")
for seat in ("game", "follower"):
    late, said = partial(step, action=ACTIONS[seat]), "`step`; episode ended; `reset`"
    refused("a step after the episode's end", late, said, ResetNeeded, seat, "over")
refused(
    "the response before the first reset",
    lambda env: env.response,
    "no answer yet; `reset`",
    ResetNeeded,
    "leader",
    "fresh",
)

# Constructors: the leader's seat -----------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"method": "exakt"},
        "unknown method 'exakt'; Did you mean 'exact'?; `bilevel-gym methods` lists all",
    ),
    ({"tolerance": 0.0}, "`tolerance`; positive; 0"),
    ({"tolerance": np.nan}, "`tolerance`; got nan"),
    ({"max_iterations": 0}, "`max_iterations`; at least 1; got 0"),
    ({"outer_steps": 0}, "`outer_steps`; at least 1; 0"),
    ({"outer_steps": 2.5}, "`outer_steps`; got 2.5"),
    ({"outer_steps": "9"}, "`outer_steps`; got '9'"),
    ({"outer_steps": True}, "`outer_steps`; got True"),
]
for options, said in OPTIONS:
    refused(f"HyperGradient: {options}", partial(leader, **options), said)
call, said = partial(leader, method=3), "a registered name or 'module:Class'; got 3"
refused("HyperGradient: a method that is a number", call, said, TypeError)
said = "'tol'; method 'exact'; 'max_iterations'; 'tolerance'"
refused("HyperGradient: an unknown option", partial(leader, tol=1e-3), said, TypeError)

# Constructors: tasks are in test_task_arguments.py ---------------------------------------------

refused("gym.make: a bad map", partial(gym.make, ID, desc=["S.", ".."]), "exactly one goal; got 0")
refused(
    "gym.make: misspelt",
    partial(gym.make, ID, sloop=0.1),
    "sloop; BilevelGridWorld; 'slip'",
    TypeError,
)

# Constructors: games of arrays -------------------------------------------------------------------

STAY = np.zeros((3, 2, 3))
STAY[[0, 1, 2], :, [0, 1, 2]] = 1.0


class Unwilling:
    """What cannot be made an array, like a tensor that requires a gradient."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        """Refuse."""
        raise RuntimeError("it requires grad")


for name, value, said in [
    ("transition", changed(STAY, (1, 0, 2), 0.25), "at most 1; 1.25; state 1; action 0"),
    ("transition", changed(STAY, (2, 1, 0), -0.25), "not negative; s=2; a=1; -0.25"),
    ("transition", changed(STAY, (2, 1, 0), np.nan), "finite; s=2; a=1; nan"),
    ("transition", np.zeros((3, 2, 4)), "[S, A, S]; (3, 2, 4)"),
    ("transition", np.eye(3), "[S, A, S]; (3, 3)"),
    ("transition", np.zeros((0, 2, 0)), "[S, A, S]; (0, 2, 0)"),
    ("reward", np.zeros((2, 3)), "[S, A] = (3, 2); got (2, 3)"),
    ("reward", changed(np.zeros((3, 2)), (2, 1), np.inf), "finite; inf"),
    ("upper_reward", np.zeros(3), "[S, A] = (3, 2); got (3,)"),
    ("initial_distribution", [0.5, 0.25, 0.0], "probabilities; sum to 1; 0.75"),
    ("initial_distribution", [1.5, -0.5, 0.0], "probabilities; smallest entry -0.5"),
    ("initial_distribution", [1.0, np.nan, 0.0], "finite; nan; [1]"),
    ("initial_distribution", [1.0], "[S] = (3,); got (1,)"),
    ("initial_distribution", [], "[S] = (3,); got (0,)"),
    ("action_mask", [[1, 1], [0, 0], [1, 0]], "at least one action; none in state 1"),
    ("action_mask", [1, 1, 0], "[S, A] = (3, 2); got (3,)"),
    ("upper_low", 1.0, "below `upper_high`; got 1.0 and 1.0"),
    ("upper_low", 2.0, "below `upper_high`; got 2.0 and 1.0"),
    ("upper_low", np.nan, "below `upper_high`; got nan and 1.0"),
    ("features", np.zeros((3, 4)), "(3, 2) + (D,); got (3, 4)"),
    ("features", np.full((3, 2, 1), np.nan), "finite; nan"),
    ("features", 1j * np.ones((3, 2, 1)), "real numbers; complex128"),
    ("upper_low", np.zeros(3), "got array([0., 0., 0.])"),
    ("initial_distribution", csr_array(np.ones((1, 3)) / 3.0), "real numbers; csr_array"),
    ("reward", np.ma.masked_equal(np.ones((3, 2)), 1.0), "masked entries"),
    ("reward", np.full((3, 2), "1"), "real numbers; <U1"),
    ("reward", Unwilling(), "real numbers; Unwilling; requires grad"),
    ("upper_gamma", 1.0, "[0, 1); got 1.0"),
    ("upper_cost", -1.0, "negative; -1.0"),
    ("temperature", 0.0, "got 0.0"),
    ("gamma", 1.0, "[0, 1); got 1.0"),
]:
    call = partial(array_game, **{name: value})
    refused(f"from_arrays: {name}, {said}", call, f"`{name}`; {said}")
call = partial(array_game().evaluate, np.zeros(3), warm_start={})
refused("evaluate: a warm start", call, "`warm_start`; earlier response; got dict", TypeError)
call = partial(array_game, upper_high=np.inf)
refused("from_arrays: an unbounded box", call, "`high`; finite; inf")
call, said = partial(array_game, initial_upper_params=[0.0, 3.0, 0.0]), "[-1.0, 1.0]; got 3.0"
refused("from_arrays: a start out of the box", call, f"`initial_upper_params[1]`; {said}")
call = partial(array_game, render_mode="rgb_array")
refused("from_arrays: a render mode", call, "render_mode", TypeError)


NOTHING_OF_THE_KIND: Any = 3
NO_SEED: Any = np.nan

# What is taken by several places ----------------------------------------------------------------

NESTED: Any = 1.0
for _ in range(300):
    NESTED = [NESTED]

# Each value as an argument of which a message shows what was received, in one short line.
for what, value, said in [
    ("an integer that Python does not print", -(10**5000), "got an integer of about 5001 digits"),
    ("lists in lists", NESTED, "got [[["),
    ("a matrix", np.zeros((3, 2)), "got array([[0., 0.], [0., 0.], [0., 0.]])"),
    ("a long text", "é" * 5000, "got 'ééé"),
]:
    takers: dict[str, Callable[..., Any]] = {
        "`gamma`": partial(array_game, gamma=value),
        "`outer_steps`": partial(leader, outer_steps=value),
        "render_mode": partial(BilevelGridWorld, render_mode=value),
        "`slip`": partial(BilevelGridWorld, slip=value),
    }
    for name, call in takers.items():
        shown = said.removeprefix("got ")
        refused(f"{name} is {what}", call, f"{name}; {shown}")

# An array of ten to the twelve, which is none in memory; and others that lose a part as they become
# arrays of float64.
HUGE = np.broadcast_to(np.float64(0.0), (10**6, 10**6))
for name in ("reward", "upper_reward", "action_mask", "initial_distribution", "features"):
    refused(f"a huge {name}", partial(array_game, **{name: HUGE}), f"`{name}`; shape; 1000000")
    partly = [np.ma.masked_array([1.0, 2.0], [True, False])] * 3
    refused(f"{name} of masked rows", partial(array_game, **{name: partly}), f"`{name}`; masked")
huge_rows = partial(Kernel.from_dense(STAY).with_probabilities, HUGE)
refused("huge probabilities", huge_rows, "`probabilities`; shape; 1000000")
wide = np.full((3, 2), np.longdouble("1e4000"))
refused("a reward beyond float64", partial(array_game, reward=wide), "`reward`; finite; inf")
refused("too many states", partial(Kernel, STAY, 10**12, 2), "`num_states`; at most 2147483647")
rows: Any
for rows in ("row-major", np.array([])):
    call = partial(Kernel.from_sparse, [csr_array(np.eye(3))], rows=rows)
    refused(f"rows is {rows!r}", call, "rows; 'action-major'")
refused(
    "no kernel",
    partial(TabularMDP, NOTHING_OF_THE_KIND, np.zeros((3, 2)), 0.9, 1.0),
    "`kernel`; 3",
    TypeError,
)
refused("no objective", partial(array_game, objective=1), "`objective`; got 1", TypeError)
refused("no terms", partial(Sum, NOTHING_OF_THE_KIND), "`terms`; got 3", TypeError)
for seat in ("leader", "game", "rescaled"):
    call = partial(reset_options, options=3)
    refused("options are a number", call, "`options`; dict; got 3", TypeError, seat)
call = partial(reset_options, options=3)
refused("options are a number", call, "takes no reset options, got 3", ValueError, "follower")
for seat in ("leader", "game", "follower"):
    call = partial(reset_seed, seed=-(10**5000))
    refused("a seed of many digits", call, "about 5001 digits", gym.error.Error, seat)
for horizon in (10**6, 2**63):
    call = partial(BilevelThermal, horizon=horizon)
    refused(f"a horizon of {horizon} steps", call, f"`horizon`; 100000; got {horizon}")
crowd: Any = np.broadcast_to(1, (10**12,))
call = partial(BilevelToll, destinations=crowd)
refused("more destinations than nodes", call, "`destinations`; got array([1, 1")
start = partial(solve_soft_mdp, TabularMDP(Kernel.from_dense(STAY), np.ones((3, 2)), 0.9, 1.0))
refused("a huge start", partial(start, initial_value=HUGE), "`initial_value`; (1000000, 1000000)")
refused("a huge box", partial(AdamRule, HUGE, HUGE), "`low`; memory; (1000000, 1000000)")
boxes: list[tuple[Any, Any, str]] = [
    (-1.0, np.ones(2), "`low` and `high`; one shape; () and (2,)"),
    (np.array([0.0, np.nan]), np.ones(2), "`low`; at most `high`; nan"),
    (1j * np.ones(2), np.ones(2), "`low`; real numbers; complex128"),
    (np.full(2, np.inf), np.full(2, np.inf), "`low`; at most `high`; inf"),
]
for low, high, said in boxes:
    for name, optimizer in OPTIMIZERS.items():
        call = partial(optimizer, lambda x: (0.0, x), np.zeros(2), low, high)
        refused(f"{name}: the box is {low!r} to {high!r}", call, said)
    refused(f"AdamRule: the box is {low!r} to {high!r}", partial(AdamRule, low, high), said)


ladders: list[tuple[Any, str]] = [
    (3, "`steps`; [K]"),
    ([0.0, 1.0], "two positive steps, got [0.0, 1.0]"),
]
for steps, said in ladders:
    call = partial(check_hyper_gradient, steps=steps)
    refused(f"check_hyper_gradient: steps {steps}", call, said, seat="leader", phase="fresh")
check = partial(check_method, "exact", ID)
refused(
    "check_method: options are a number",
    partial(check, options=NOTHING_OF_THE_KIND),
    "dict; 3",
    TypeError,
)
refused("check_method: seed", partial(check, seed=NO_SEED), "`seed` must be an integer; got nan")
refused(
    "check_method: an id",
    partial(check_method, "exact", NOTHING_OF_THE_KIND),
    "`env_id`; got 3",
    TypeError,
)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_no_value_that_is_not_finite_is_taken_for_the_best(name: str, bad: float) -> None:
    count = itertools.count()

    def objective(x: Any) -> tuple[float, Any]:
        value = -float(((x - 0.3) ** 2).sum())
        return (bad if next(count) == 2 else value), -2.0 * (x - 0.3)

    with pytest.raises(ArithmeticError, match=f"objective must be finite, got {bad} in evalua.* 3"):
        OPTIMIZERS[name](objective, np.zeros(2), -np.ones(2), np.ones(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"cobyqa"}))
def test_a_gradient_whose_length_is_not_finite_is_refused(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=r"gradient must be .*, got .* in entry \(1,\)"):
        OPTIMIZERS[name](
            lambda x: (0.0, np.array([0.0, bad])), np.zeros(2), -np.ones(2), np.ones(2)
        )


def test_overflow_is_told_by_an_error_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({"temperature": 1e308}, {"reward": np.full((3, 2), 1e308)}):
            with pytest.raises(ArithmeticError):
                array_game(**options).evaluate(np.zeros(3))


def test_what_was_given_may_be_changed_afterwards() -> None:
    reward = np.asfortranarray(np.ones((3, 2)))
    mdp = TabularMDP(Kernel.from_dense(STAY), reward, 0.5, 1.0)
    low, high = -np.ones(2), np.ones(2)
    rule = AdamRule(low, high)
    for array in (reward, low, high):
        array[:] = 7.0
    assert (mdp.reward == 1.0).all() and (rule.low == -1.0).all() and (rule.high == 1.0).all()


def test_fractions_are_numbers() -> None:
    half = Fraction(1, 2)
    mdp = TabularMDP(Kernel.from_dense(STAY), np.ones((3, 2)), half, half)  # type: ignore[arg-type]
    assert type(mdp.gamma) is float and DiscountedReturn(half).gamma == 0.5  # type: ignore[arg-type]
    game = array_game(objective=DiscountedReturn(half), gamma=half)  # type: ignore[arg-type]
    expected = array_game(objective=DiscountedReturn(0.5), gamma=0.5)
    x = np.zeros(3)
    assert game.evaluate(x).objective == expected.evaluate(x).objective


def test_flags_and_numbers_out_of_all_proportion_are_refused() -> None:
    climb = OPTIMIZERS["adam"]
    with pytest.raises(ValueError, match="`stop_at_zero` must be"):
        climb(None, [0.0], [-1.0], [1.0], stop_at_zero=np.zeros(2))
    with pytest.raises(ValueError, match="`num_demonstrations` must be an integer of at most"):
        BilevelInverseRL(num_demonstrations=10**5000)
    with pytest.raises(ValueError, match="`num_states` must be an integer of at most"):
        BilevelRandomMDP(num_states=10**30)


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
        goal = game.state_of((2, 3))  # acting there ends the episode
        assert goal is not None
        force_state(env, goal)
        assert env.step(sampled_actions(env, 1)[0])[2] is True


def what_follows(env: Env, phase: str) -> list[Any]:
    """Return what an environment does next."""
    actions = sampled_actions(env, 4, seed=2)
    records: list[Any] = []
    if phase == "playing":
        records += [game_of(env).np_random.bit_generator.state, *map(env.step, actions)]
        records += [env.reset(), *map(env.step, actions)]
    records += [env.reset(seed=4), *map(env.step, actions)]
    return records


@pytest.mark.parametrize(("call", "error", "said", "seat", "phase"), MISTAKES)
def test_a_mistake_is_explained_and_does_no_harm(
    call: Callable[..., Any], error: type[Exception], said: list[str], seat: str | None, phase: str
) -> None:
    environments = [SEATS[seat](), SEATS[seat]()] if seat else []
    for env in environments:
        bring_into(env, phase)

    with pytest.raises(error) as caught:
        call(*environments[:1])
    for fragment in said:
        assert fragment in str(caught.value), f"{fragment!r} is not in: {caught.value}"

    if environments:
        # The other environment has not seen the mistake.
        after, untouched = (what_follows(env, phase) for env in environments)
        assert_identical(after, untouched)


def test_a_mistake_of_the_leader_keeps_the_answer_at_hand() -> None:
    env = leader()
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
