"""Methods of the leader's seat, chosen by name: one module per published method."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..core.checks import accepted_options, check_options, unknown_name
from ..model.responses import (
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
    "LEARNT_METHODS",
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
    "exact": ".exact:Exact",
    "direct": ".direct:Direct",
    "m-sobirl": ".m_sobirl:MSoBiRL",
    "amd": ".amd:AMD",
    "pbrl-value": ".pbrl_value:PBRLValue",
    "pbrl-bellman": ".pbrl_bellman:PBRLBellman",
    "zero-order": ".zero_order:ZeroOrder",
    "trace": ".trace:Trace",
    "sobirl": ".sobirl:SoBiRL",
    "stoc-sobirl": ".stoc_sobirl:StocSoBiRL",
    "hpgd": ".hpgd:HPGD",
    "bc-hg": ".bc_hg:BCHG",
    # Followers who learn by networks; these rows need PyTorch.
    "deep-trace": "bilevel_gym.learnt.tables:DeepTrace",
    "deep-bc-hg": "bilevel_gym.learnt.tables:DeepBCHG",
    "deep-hpgd": "bilevel_gym.learnt.tables:DeepHPGD",
    "deep-sobirl": "bilevel_gym.learnt.tables:DeepSoBiRL",
}


# The same for games whose follower learns from interaction, which have no table. They need PyTorch.
LEARNT_METHODS = {
    "trace": "bilevel_gym.learnt.estimators:LearntTrace",
    "bc-hg": "bilevel_gym.learnt.estimators:LearntBCHG",
    "hpgd": "bilevel_gym.learnt.estimators:LearntHPGD",
    "sobirl": "bilevel_gym.learnt.estimators:LearntSoBiRL",
}


def make_method(name: str, game: Any, /, **options: Any) -> Method:
    """Build a method for a game.

    Args:
        name: A key of the game's `methods`, which are `METHODS` unless its follower learns.
        game: The game whose follower it answers for.
        **options: Options of the method, of JSON types; those of the game's `method_options` that
            are not among them come from there.

    Raises:
        ValueError: If the name is unknown or an option is out of range.
        TypeError: If the method does not take an option or does not suit the game.
    """
    table = getattr(game, "methods", METHODS)
    if name not in table:
        raise ValueError(unknown_name("method", name, table))
    module, _, attribute = table[name].partition(":")
    factory = getattr(import_module(module, __name__), attribute)
    check_options(f"method {name!r}", factory, options)
    accepted = accepted_options(factory)
    suited = getattr(game, "method_options", {})
    suited = {name: value for name, value in suited.items() if name in accepted}
    method: Method = factory(game, **{**suited, **options})
    return method
