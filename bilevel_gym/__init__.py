"""Gymnasium suite for bilevel reinforcement learning with exact hyper-gradients.

Importing this package registers its tasks: `gymnasium.make("BilevelGridWorld-v0")` is a leader's
environment whose `step` carries the upper-level parameters x and whose `info["hyper_gradient"]` is
the derivative of the reward with respect to them. `LowerLevel` is the follower's seat.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import register, register_tasks

if TYPE_CHECKING:
    from . import core, envs, episodes, methods, model, optimizers, testing, wrappers
    from .designing import Design, design_reward
    from .envs import BilevelEnv, TabularBilevelEnv
    from .envs.discretization import discretize
    from .envs.tabulated import Tabulated
    from .envs.tabulation import tabulate
    from .making import make
    from .methods.registry import register_method
    from .wrappers import (
        HyperGradient,
        LeaderVectorEnv,
        LowerLevel,
        LowerLevelVectorEnv,
        RescaleUpper,
    )

__version__ = "0.2.0"

__all__ = [
    "BilevelEnv",
    "Design",
    "HyperGradient",
    "LeaderVectorEnv",
    "LowerLevel",
    "LowerLevelVectorEnv",
    "RescaleUpper",
    "TabularBilevelEnv",
    "Tabulated",
    "__version__",
    "core",
    "design_reward",
    "discretize",
    "envs",
    "episodes",
    "make",
    "methods",
    "model",
    "optimizers",
    "register",
    "register_method",
    "tabulate",
    "testing",
    "wrappers",
]

# Loaded at first use: registering the ids alone should cost no more than Gymnasium itself.
_LAZY = {
    "BilevelEnv": "envs",
    "TabularBilevelEnv": "envs",
    "HyperGradient": "wrappers",
    "LeaderVectorEnv": "wrappers",
    "LowerLevel": "wrappers",
    "LowerLevelVectorEnv": "wrappers",
    "RescaleUpper": "wrappers",
    "Design": "designing",
    "design_reward": "designing",
    "Tabulated": "envs.tabulated",
    "discretize": "envs.discretization",
    "tabulate": "envs.tabulation",
    "make": "making",
    "register_method": "methods.registry",
}

# Where names are that are looked for here.
_ELSEWHERE = {
    **dict.fromkeys(("HyperGradientAscent", "SoftDQN", "SoftSAC", "as_vec_env"), "sb3"),
    **dict.fromkeys(("check_hyper_gradient", "check_method"), "testing"),
    **dict.fromkeys(("evaluate", "evaluate_batch", "evaluate_unregularised"), "model"),
    **dict.fromkeys(("TabularModel", "LinearQuadraticModel", "MeanFieldModel"), "model"),
    **dict.fromkeys(("Method", "Response", "ExactResponse", "TabularResponse"), "methods"),
    **dict.fromkeys(("OPTIMIZERS", "make_optimizer"), "optimizers"),
    **dict.fromkeys(("LeaderObjective", "exact_objective"), "wrappers"),
    **dict.fromkeys(("BilevelGridWorld", "BilevelToll", "ParametricGame"), "envs"),
}

if not TYPE_CHECKING:  # type checkers are to report names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        if name in __all__ or name in (
            "jax",
            "pettingzoo",
            "sb3",
            "torch",
        ):  # a package, or a module with an extra
            return import_module(f"{__name__}.{name}")
        hint = f"; it is in {__name__}.{_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}{hint}",
            name=name,
            obj=sys.modules[__name__],  # Python then adds the nearest name there is
        )

    def __dir__() -> list[str]:
        return sorted(__all__)


register_tasks()
