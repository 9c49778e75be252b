"""Odd moves, seeds and options in every seat, and odd options of every method."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import gymnasium as gym
import numpy as np
from hypothesis import strategies as st

import bilevel_gym
from bilevel_gym import (
    HyperGradient,
    LeaderVectorEnv,
    LowerLevel,
    LowerLevelVectorEnv,
    RescaleUpper,
)
from bilevel_gym.core.checks import accepted_options
from bilevel_gym.methods import METHODS, make_method
from bilevel_gym.methods.registry import resolve_method
from bilevel_gym.registration import QUICK
from bilevel_gym.testing import check_hyper_gradient, check_method

from .arrays import arrays, is_long
from .judge import Case, check_answer, finite
from .odd import Draw, case_of, spoilt

GRID = "BilevelGridWorld-v0"
MAP: dict[str, Any] = {"desc": ["S.G", "..H"]}
X = np.zeros(6)


def grid() -> Any:
    return gym.make(GRID, **MAP)


SEATS: dict[str, Any] = {
    "game": lambda: grid().unwrapped,
    "leader": lambda: HyperGradient(grid(), outer_steps=5),
    "rescaled": lambda: RescaleUpper(HyperGradient(grid())),
    "follower": lambda: LowerLevel(grid(), X),
    "leaders": lambda: LeaderVectorEnv(GRID, 2, **MAP),
    "followers": lambda: LowerLevelVectorEnv(GRID, 2, X, **MAP),
    "Pendulum": lambda: gym.make("BilevelPendulum-v0", episode_steps=20).unwrapped,
    "linear": lambda: gym.make("BilevelLQR-v0").unwrapped,
    "masked": lambda: bilevel_gym.TabularBilevelEnv.from_arrays(**arrays()),
}


@functools.cache
def used(name: str) -> Any:
    """Return an environment that has been used before: a refusal leaves it as it was."""
    return SEATS[name]()


def move_of(env: Any) -> Any:
    """Return a move that an environment takes."""
    env.action_space.seed(0)
    move = env.action_space.sample()
    return move


def seat(draw: Draw) -> Case:
    """A reset and a step in a seat."""
    name = draw(st.sampled_from([*SEATS]))
    env = used(name)
    x: Any = getattr(env.unwrapped, "initial_upper_params", X)
    if name == "rescaled":
        x = X
    options: dict[str, Any] = {"upper_params": x}
    if name in ("leader", "rescaled", "leaders"):
        options["keep_learnt"] = False
    if name in ("follower", "followers"):
        options = {}
    if name in ("leaders", "followers"):
        options["reset_mask"] = np.array([True, True])
    good = {"seed": 1, "options": options, "action": move_of(env)}
    given, said = spoilt(draw, good)

    def call() -> None:
        env.reset(seed=given["seed"], options=given["options"])
        _, reward, _, _, _ = env.step(given["action"])
        finite(np.asarray(reward, float))

    return case_of(f"seat {name}", said, call, "seed", "Seed", "option", "action", *options)


def take_seat(draw: Draw) -> Case:
    """The seats' constructors."""
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "HyperGradient": (
            HyperGradient,
            {
                "env": None,
                "method": "exact",
                "outer_steps": 5,
                "keep_learnt": False,
                "tolerance": 1e-8,
                "max_iterations": 20,
            },
        ),
        "LowerLevel": (LowerLevel, {"env": None, "upper_params": X}),
        "RescaleUpper": (RescaleUpper, {"env": None}),
        "LeaderVectorEnv": (
            LeaderVectorEnv,
            {
                "id": GRID,
                "num_envs": 2,
                "outer_steps": 5,
                "solver": "auto",
                "tolerance": 1e-8,
                "max_iterations": 20,
                "autoreset_mode": "NextStep",
                **MAP,
            },
        ),
        "LowerLevelVectorEnv": (
            LowerLevelVectorEnv,
            {
                "id": GRID,
                "num_envs": 2,
                "upper_params": X,
                "autoreset_mode": "NextStep",
                **MAP,
            },
        ),
        "make": (
            lambda env_id, **options: bilevel_gym.make(env_id, **options),
            {
                "env_id": GRID,
                "method": "trace",
                "outer_steps": 4,
                "keep_learnt": False,
                "episodes": 4,
                "render_mode": None,
                **MAP,
            },
        ),
    }
    name = draw(st.sampled_from([*ways]))
    make, good = ways[name]
    given, said = spoilt(draw, good)
    if "env" in given and not any(part.startswith("env:") for part in said):
        given["env"] = SEATS["leader"]()

    def call() -> None:
        if is_long(given):
            return
        env = make(**given)
        env.reset(seed=0)
        env.step(move_of(env))

    return case_of(name, said, call, *good, "method", "task", "RescaleUpper", "LowerLevel")


def method_options(name: str) -> dict[str, Any]:
    """Return options of a method with their defaults, small ones where they are budgets."""
    options: dict[str, Any] = {}
    factory = resolve_method(name)
    small = {
        "episodes": 4,
        "most_episodes": 8,
        "horizon": 4,
        "inner": "sweeps",
        "inner_options": {"sweeps": 2},
        "directions": 2,
        "penalty": 10.0,
        "sweeps": 2,
        "max_iterations": 20,
        "truncation": 3,
    }
    for function in (vars(c)["__init__"] for c in factory.__mro__ if "__init__" in vars(c)):
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not parameter.empty:
                options.setdefault(parameter.name, parameter.default)
    accepted = accepted_options(factory)
    return {n: small.get(n, value) for n, value in options.items() if n in accepted}


LEARNERS: dict[str, dict[str, Any]] = {
    "exact": {},
    "sweeps": {"sweeps": 2, "warm_start": True},
    "soft-q": {"step_size": 0.05, "decay": 0.6, "passes": 2, "episodes": 3, "horizon": 4},
    "certainty-equivalence": {"forget": 0.1, "episodes": 3, "horizon": 4},
}

WORK = (
    "episodes",
    "most_episodes",
    "horizon",
    "directions",
    "sweeps",
    "passes",
    "rollouts",
    "policy_steps",
    "adjoint_steps",
    "max_iterations",
    "points",
    "truncation",
)


def works_long(options: Any) -> bool:
    """Return whether options of a method ask for more than a moment's work."""
    values = (
        {**options, **(options.get("inner_options") or {})}
        if isinstance(options.get("inner_options"), dict | None)
        else options
    )
    return any(isinstance(values.get(n), int | np.integer) and values[n] > 500 for n in WORK)


def method(draw: Draw) -> Case:
    name = draw(st.sampled_from([m for m in METHODS if not m.startswith("deep-")]))
    good = method_options(name)
    if "inner" in good and draw(st.booleans()):
        good["inner"] = draw(st.sampled_from([*LEARNERS]))
        good["inner_options"] = LEARNERS[good["inner"]]
    given, said = spoilt(draw, {**good, "upper_params": np.array([0.5, -0.5])})

    def call() -> None:
        game = bilevel_gym.TabularBilevelEnv.from_arrays(**arrays())
        options = dict(given)
        x = game.validate_upper_params(options.pop("upper_params"))
        made = make_method(name, game, **options)
        made.reset(np.random.default_rng(0))
        if not works_long(options):
            check_answer(made.step(x))

    return case_of(
        f"method {name}",
        said,
        call,
        *good,
        "option",
        "learner",
        *LEARNERS["soft-q"],
        "sweeps",
        "warm_start",
        "forget",
    )


def learnt_method(draw: Draw) -> Case:
    """Options of the methods whose follower learns by networks; the methods are only made."""
    name = draw(st.sampled_from(["trace", "bc-hg", "hpgd", "sobirl"]))
    game = used("Pendulum")
    factory = resolve_method(name, game)
    quick = {n: v for n, v in QUICK.items() if n in accepted_options(factory)}
    more = {"truncation": 1, "baseline": True} if name == "sobirl" else {"truncation": 3}
    given, said = spoilt(draw, {**quick, **more})

    def call() -> None:
        make_method(name, game, **given).reset(np.random.default_rng(0))

    return case_of(
        f"learnt method {name}", said, call, "option", "inner", *QUICK["inner_options"], "net_arch"
    )


def testing(draw: Draw) -> Case:
    """What the package offers for tests of one's own."""
    if draw(st.booleans()):
        good = {"points": 1, "coordinates": 1, "seed": 0}
        parameters = inspect.signature(check_hyper_gradient).parameters
        good = {n: v for n, v in good.items() if n in parameters}
        given, said = spoilt(draw, good)
        game = used("masked")
        return case_of(
            "check_hyper_gradient", said, lambda: _unless_long(check_hyper_gradient, game, given)
        )
    given, said = spoilt(draw, {"method": "exact", "repeats": 2, "seed": 0})
    parameters = inspect.signature(check_method).parameters
    given = {n: v for n, v in given.items() if n in parameters}
    return case_of("check_method", said, lambda: _unless_long(check_method, used("masked"), given))


def _unless_long(function: Any, game: Any, given: dict[str, Any]) -> None:
    if not any(isinstance(v, int) and v > 100 for v in given.values()):
        function(game, **given) if "method" not in given else function(
            given.pop("method"), game, **given
        )


TARGETS = {f.__name__: f for f in (seat, take_seat, method, learnt_method)}
