"""Methods of the leader's seat, chosen by name: one module per published method."""

from __future__ import annotations

from ..model.responses import (
    ExactGaussianResponse,
    ExactResponse,
    GaussianResponse,
    Method,
    Response,
    TabularResponse,
)
from .registry import (
    LEARNT_METHODS,
    METHODS,
    make_method,
    method_names,
    register_method,
    registered_methods,
)

__all__ = [
    "LEARNT_METHODS",
    "METHODS",
    "ExactGaussianResponse",
    "ExactResponse",
    "GaussianResponse",
    "Method",
    "Response",
    "TabularResponse",
    "make_method",
    "method_names",
    "register_method",
    "registered_methods",
]
