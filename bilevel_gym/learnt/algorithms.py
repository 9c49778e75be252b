"""The algorithms that a follower may learn by, their default options, and checks of those given."""

from __future__ import annotations

import copy
from typing import Any

from ..core.checks import check_at_least, check_options, first_line, received
from ..sb3.soft_dqn import SoftDQN
from ..sb3.soft_sac import SoftSAC

__all__ = ["ALGORITHMS", "checked_options"]

ALGORITHMS: dict[str, type[SoftDQN] | type[SoftSAC]] = {"soft-dqn": SoftDQN, "soft-sac": SoftSAC}

# What is not given: a constant learning rate, as there is always another x to follow; and for
# continuous actions small networks and fewer updates than steps, which learn as much in a ninth of
# the time.
DEFAULTS: dict[str, dict[str, Any]] = {
    "soft-dqn": {"learning_rate": 1e-3},
    "soft-sac": {
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [64, 64]},
        "train_freq": 8,
        "gradient_steps": 4,
        "tau": 0.02,
    },
}

# Arguments of the algorithms that follow from the game and the method.
RESERVED = ("own", "temperature", "gamma", "seed", "reward_fn", "_init_setup_model")


def checked_options(algorithm: str, options: Any) -> dict[str, Any]:
    """Return the arguments of an algorithm, with the learning rate where it is not given.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If `train_freq` or `gradient_steps` is out of range.
    """
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"`inner_options` must be a dict of options, got {received(options)}")
    owner = f"inner learner {algorithm!r}"
    check_options(owner, ALGORITHMS[algorithm], options or {}, reserved=RESERVED)
    try:
        chosen = copy.deepcopy({**DEFAULTS[algorithm], **(options or {})})
    except Exception as error:  # what cannot be copied may raise anything
        raise TypeError(f"`inner_options` cannot be copied: {first_line(error)}") from None
    often = chosen.get("train_freq", 1)
    if isinstance(often, list | tuple):
        if len(often) != 2:
            raise ValueError(
                '`train_freq` must be a number of steps or such as (4, "step"), '
                f"got {received(often)}"
            )
        if isinstance(often, list):  # there are no tuples in JSON
            chosen["train_freq"] = tuple(often)
        often = often[0]
    check_at_least("train_freq", often, 1)
    updates = chosen.get("gradient_steps", 1)
    check_at_least("gradient_steps", updates, -1)
    if updates == 0:
        raise ValueError(
            "`gradient_steps` must be at least 1, or -1 for as many as there were steps, got 0"
        )
    return chosen
