"""PyTorch, observations and actions as its tensors, and batches in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

try:
    import torch as th
except ImportError as error:
    raise ImportError(
        'reward networks need PyTorch, which is not installed; run: pip install -e ".[sb3]"'
    ) from error

from .images import is_image_space

__all__ = ["IMAGES", "LARGEST_LAYER", "LARGEST_SEED", "as_inputs", "blocks", "perceptron", "th"]

# Images that go through a network at a time; they are large.
IMAGES = 256

# Units of a layer, or channels; and what seeds the generators of PyTorch.
LARGEST_LAYER = 2**16
LARGEST_SEED = 2**63 - 1


def blocks(count: int, size: int | None) -> Iterator[slice]:
    """Yield the parts of a batch that go through a network at a time; None for all of it."""
    size = size or max(1, count)
    for first in range(0, max(1, count), size):
        yield slice(first, first + size)


def as_inputs(values: NDArray[Any], space: Space[Any], like: th.Tensor) -> th.Tensor:
    """Return a batch of a space's elements `[B, ...]` as a network reads them.

    Discrete ones become one-hot vectors `[B, n]`, images `[B, C, H, W]` in 0..1, other boxes
    `[B, n]`, of the dtype and on the device of `like`.
    """
    tensor = th.as_tensor(np.ascontiguousarray(values), device=like.device)
    if isinstance(space, spaces.Discrete):
        indices = tensor.reshape(len(values)).long() - int(space.start)
        return th.nn.functional.one_hot(indices, int(space.n)).to(like.dtype)
    if is_image_space(space):
        return tensor.to(like.dtype) / 255.0
    return tensor.to(like.dtype).reshape(len(values), -1)


def perceptron(
    sizes: Sequence[int],
    activation: type[th.nn.Module] = th.nn.ReLU,
    dtype: th.dtype | None = None,
) -> th.nn.Sequential:
    """Return linear layers of some sizes, inputs first, with an activation between them."""
    layers: list[th.nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [th.nn.Linear(before, after, dtype=dtype), activation()]
    return th.nn.Sequential(*layers[:-1])
