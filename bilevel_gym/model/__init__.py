"""Bilevel problems as mathematics: models, objectives, responses. No environment is needed."""

from .base import BilevelModel, evaluate, evaluate_batch
from .linear_quadratic import LinearQuadraticModel
from .mean_field import MeanFieldModel
from .tabular import ArrayModel, TabularModel
from .unregularised import Unregularised, evaluate_unregularised

__all__ = [
    "ArrayModel",
    "BilevelModel",
    "LinearQuadraticModel",
    "MeanFieldModel",
    "TabularModel",
    "Unregularised",
    "evaluate",
    "evaluate_batch",
    "evaluate_unregularised",
]
