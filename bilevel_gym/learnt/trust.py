"""How far an estimate from watched episodes can be trusted.

The error of an estimate has two parts that can be measured: that of the episodes, from estimates of
groups of them, and that of the critic, from two critics that have learnt apart. From them follows
the expected cosine to the estimate without these errors
(`bilevel_gym.methods.error_bars.expected_cosine`). What is wrong beside that lowers the trust.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.mdp import FloatArray

__all__ = ["Estimate", "assessed", "group_of"]

# Groups of episodes, at most.
GROUPS = 32

# Below these there is a warning; see `assessed`.
LEAST_EXPLAINED, MOST_UNREST, MOST_MOVED, LEAST_TRUST = 0.1, 4.0, 0.5, 0.5


class Estimate(NamedTuple):
    """An estimate of a response term.

    Attributes:
        gradient: The estimate, shape of x.
        critic_loss: Mean squared error of the critic, None without one.
        parts: The same from groups of episodes, see `group_of`, `[G, *x]`.
        critics: The same by two critics that have learnt apart, `[2, *x]`, None without them.
        explained: Share of the variance of watched sums that the critic explains.
        metric: Fisher information of the policy in x, `[D, D]`.
        direct: What x does to transitions at a fixed policy, a part of the gradient, shape of x;
            None where it does nothing, or is not told from the rest.
        samples: Environment steps that the estimate took.
    """

    gradient: FloatArray
    critic_loss: float | None = None
    parts: FloatArray | None = None
    critics: FloatArray | None = None
    explained: float | None = None
    metric: FloatArray | None = None
    direct: FloatArray | None = None
    samples: int = 0

    def standard_error(self, direct_parts: FloatArray | None = None) -> FloatArray | None:
        """Return the standard error of each entry, shape of x; None where it is unknown.

        `direct_parts`, `[G, *x]`, are estimates of what is added to the gradient, from the same
        groups.
        """
        if self.parts is None or len(self.parts) < 2:
            return None
        parts = self.parts if direct_parts is None else self.parts + direct_parts
        variance = parts.var(axis=0, ddof=1) / len(parts)
        if self.critics is not None:
            variance = variance + np.square(np.diff(self.critics, axis=0)[0] / 2.0)
        # Where nothing varies, it is not known how much might have.
        return np.sqrt(variance) if variance.any() else None


def group_of(episodes: Any, count: int) -> Any:
    """Return the group of each of some of `count` episodes, in 0..G-1."""
    return episodes % min(GROUPS, count)


def assessed(
    *,
    cosine: float | None,
    objective_se: float | None,
    explained: float | None,
    kl_predicted: float | None,
    kl_measured: float | None,
) -> tuple[float, str]:
    """Return the trust in an estimate, in [0, 1], and what limits it, a sentence."""
    if objective_se is None:
        return 0.0, "With a single episode the size of the errors is unknown."
    if objective_se == 0.0:
        return 0.0, "All watched episodes have the same value for the leader."
    if cosine is None:
        return 0.0, "Nothing in the estimate varies, so that the size of its error is unknown."
    limits = [
        (cosine, f"The expected cosine to the hyper-gradient without errors is {cosine:.2g}.")
    ]
    if explained is not None and explained < LEAST_EXPLAINED:
        # What chance adds to the sums cannot be explained by anyone: this is no proof.
        share = 0.5 * (1.0 + max(0.0, explained) / LEAST_EXPLAINED)
        limits.append((share, f"The critic explains {max(explained, 0.0):.0%} of watched sums."))
    if kl_measured is not None and kl_measured > MOST_MOVED:
        share = MOST_MOVED / kl_measured
        limits.append(
            (share, f"The follower's policy moved by a KL of {kl_measured:.2g} a step at once.")
        )
    elif kl_measured is not None and kl_predicted is not None:
        unrest = kl_measured / max(MOST_UNREST * kl_predicted, 0.1 * MOST_MOVED)
        if unrest > 1.0:
            limits.append(
                (
                    1.0 / unrest,
                    f"The follower's policy moved by a KL of {kl_measured:.2g} a step, where "
                    f"{kl_predicted:.2g} follows from x: it has not settled.",
                )
            )
    trust = float(np.prod([share for share, _ in limits]))
    return trust, min(limits)[1]
