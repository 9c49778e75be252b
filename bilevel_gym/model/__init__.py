"""Bilevel problems as mathematics: models, objectives, responses. No environment is needed."""

from .base import BilevelModel, evaluate, evaluate_batch
from .linear_quadratic import LinearQuadraticModel
from .tabular import ArrayModel, TabularModel

__all__ = [
    "ArrayModel",
    "BilevelModel",
    "LinearQuadraticModel",
    "TabularModel",
    "evaluate",
    "evaluate_batch",
]
