"""Methods of the leader's seat, chosen by name: one module per published method."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..checks import check_options, unknown_name
from .base import (
    ExactGaussianResponse,
    ExactResponse,
    GaussianResponse,
    Method,
    Response,
    Sensitivities,
    SupportsEvaluate,
    TabularResponse,
)

__all__ = [
    "METHODS",
    "ExactGaussianResponse",
    "ExactResponse",
    "GaussianResponse",
    "Method",
    "Response",
    "Sensitivities",
    "SupportsEvaluate",
    "TabularResponse",
    "make_method",
]

# Adding a method is one module and one row.
METHODS = {
    "exact": "exact:Exact",
    "direct": "direct:Direct",
    "m-sobirl": "m_sobirl:MSoBiRL",
    "amd": "amd:AMD",
    "pbrl-value": "pbrl_value:PBRLValue",
    "pbrl-bellman": "pbrl_bellman:PBRLBellman",
    "zero-order": "zero_order:ZeroOrder",
    "trace": "trace:Trace",
    "sobirl": "sobirl:SoBiRL",
    "stoc-sobirl": "stoc_sobirl:StocSoBiRL",
    "hpgd": "hpgd:HPGD",
    "bc-hg": "bc_hg:BCHG",
}


def make_method(name: str, game: Any, /, **options: Any) -> Method:
    """Build a method for a game.

    Args:
        name: A key of `METHODS`.
        game: The game whose follower it answers for.
        **options: Options of the method, of JSON types.

    Raises:
        ValueError: If the name is unknown or an option is out of range.
        TypeError: If the method does not take an option or does not suit the game.
    """
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    module, _, attribute = METHODS[name].partition(":")
    factory = getattr(import_module(f"{__name__}.{module}"), attribute)
    check_options(f"method {name!r}", factory, options)
    method: Method = factory(game, **options)
    return method
