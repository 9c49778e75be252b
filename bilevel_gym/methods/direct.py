"""The control: follow only the direct gradient, as if the follower would not react to x.

The follower's answer and the objective are exact; the hyper-gradient lacks its response term.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from ..core.mdp import FloatArray
from ..model.responses import Response
from .exact import Exact

__all__ = ["Direct"]


class Direct(Exact):
    """Answer exactly, but report the direct part of the hyper-gradient alone."""

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def step(self, upper_params: FloatArray) -> Response:
        """Return the exact response to x with the direct gradient as its hyper-gradient."""
        response = super().step(upper_params)
        return replace(response, hyper_gradient=response.direct_gradient)
