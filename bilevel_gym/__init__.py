"""Gymnasium suite for bilevel reinforcement learning with exact hyper-gradients.

Importing this package registers its tasks: `gymnasium.make("BilevelGridWorld-v0")` is a leader's
environment whose `step` carries the upper-level parameters x and whose `info["hyper_gradient"]` is
the derivative of the reward with respect to them. `LowerLevel` is the follower's seat.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import register, register_tasks

if TYPE_CHECKING:
    from . import core, envs, episodes, methods, model, optimizers, testing, wrappers
    from .designing import Design, design_reward
    from .envs import BilevelEnv, TabularBilevelEnv
    from .making import make
    from .methods.registry import register_method
    from .wrappers import (
        HyperGradient,
        LeaderVectorEnv,
        LowerLevel,
        LowerLevelVectorEnv,
        RescaleUpper,
    )

__version__ = "0.1.0"

__all__ = [
    "BilevelEnv",
    "Design",
    "HyperGradient",
    "LeaderVectorEnv",
    "LowerLevel",
    "LowerLevelVectorEnv",
    "RescaleUpper",
    "TabularBilevelEnv",
    "__version__",
    "core",
    "design_reward",
    "envs",
    "episodes",
    "make",
    "methods",
    "model",
    "optimizers",
    "register",
    "register_method",
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
    "make": "making",
    "register_method": "methods.registry",
}

if not TYPE_CHECKING:  # type checkers are to report names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        if name in __all__ or name in (
            "jax",
            "pettingzoo",
            "torch",
        ):  # a package, or a module with an extra
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)


register_tasks()
