"""What the vector environments of both seats share."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ..core.checks import unknown_name

__all__ = ["checked_mode", "checked_reset_mask"]


def checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return the autoreset mode of that name.

    Raises:
        ValueError: If there is none.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = [known.value for known in AutoresetMode]
        raise ValueError(unknown_name("autoreset_mode", mode, known)) from None


def checked_reset_mask(
    options: dict[str, Any], num_envs: int, *, started: bool
) -> NDArray[np.bool_]:
    """Return which copies a reset starts, from its options; all, unless `reset_mask` is given.

    Args:
        options: Options of the reset.
        num_envs: Number of copies.
        started: Whether all copies have been reset before.

    Raises:
        TypeError: If the mask is not an array of bool.
        ValueError: If it has another shape or marks no copy.
        ResetNeeded: If it leaves out a copy that was never reset.
    """
    mask = options.get("reset_mask", np.ones(num_envs, dtype=bool))
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"`reset_mask` must be a NumPy array of bool, got {mask!r}")
    if mask.shape != (num_envs,):
        raise ValueError(f"`reset_mask` must have shape ({num_envs},), got {mask.shape}")
    if not mask.any():
        raise ValueError("`reset_mask` must mark at least one copy, got none")
    if not started and not mask.all():
        raise ResetNeeded("`reset_mask` needs a first `reset` of all copies")
    return mask
