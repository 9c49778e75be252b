"""Checks for everyone who writes a bilevel task or a method."""

from .hyper_gradients import STEPS, HyperGradientError, HyperGradientReport, check_hyper_gradient
from .methods import MethodError, MethodReport, TaskReport, check_method

__all__ = [
    "STEPS",
    "HyperGradientError",
    "HyperGradientReport",
    "MethodError",
    "MethodReport",
    "TaskReport",
    "check_hyper_gradient",
    "check_method",
]
