"""Distributions that x gives by their logits, and their derivatives."""

from __future__ import annotations

import numpy as np

from ..core.mdp import FloatArray

__all__ = ["softmax", "softmax_vjp"]


def softmax(logits: FloatArray) -> FloatArray:
    """Return the distribution of logits along the last axis, `[..., D]`."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    share: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return share


def softmax_vjp(share: FloatArray, cotangent: FloatArray) -> FloatArray:
    """Return sum_i cotangent_i d share_i/d logits of distributions `[..., D]`."""
    mean = (share * cotangent).sum(axis=-1, keepdims=True)
    product: FloatArray = share * (cotangent - mean)
    return product
