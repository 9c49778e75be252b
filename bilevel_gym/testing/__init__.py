"""Checks for everyone who writes a bilevel task or a method."""

from .differences import STEPS, HyperGradientError, HyperGradientReport
from .hyper_gradients import check_hyper_gradient
from .log_derivatives import LogDerivativeError, check_log_derivatives
from .methods import MethodError, MethodReport, TaskReport, check_method

__all__ = [
    "STEPS",
    "HyperGradientError",
    "HyperGradientReport",
    "LogDerivativeError",
    "MethodError",
    "MethodReport",
    "TaskReport",
    "check_hyper_gradient",
    "check_log_derivatives",
    "check_method",
]
