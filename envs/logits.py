"""Distributions that x gives by their logits, and their derivatives."""

from __future__ import annotations

from ..core.mdp import FloatArray

__all__ = ["softmax_vjp"]


def softmax_vjp(share: FloatArray, cotangent: FloatArray) -> FloatArray:
    """Return sum_i cotangent_i d share_i/d logits of distributions `[..., D]`."""
    mean = (share * cotangent).sum(axis=-1, keepdims=True)
    product: FloatArray = share * (cotangent - mean)
    return product
