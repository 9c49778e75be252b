"""Where to start a climb on F, and easier problems on the way to it.

Far from the x that the leader wants, F is often flat: the follower does nothing that the leader
could steer, or has given up its goal. What leads out of there is known of the model.

* The x under which the follower's reward is closest to the leader's, in least squares: there the
  follower does what the leader wants of itself. On the way to it, at several shares of it, lie
  cheaper x. Of a crowd, the leader's reward is what one more of them is worth to it, what that does
  to the others included; on roads this leads to tolls of marginal costs.
* One entry of x at a time, where x has few of them: what a single payment does.
* A follower who is lent a share of the leader's reward, r_x + share u, needs less steering; the
  share falls, and x takes its place. At the first share the follower, left alone, is as well off
  with the policy that is best for the leader as with its own. A higher temperature, which falls at
  the same time, smooths F as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..core.mdp import FloatArray
from ..optimizers.climb import Start
from .base import BilevelModel
from .mean_field import MeanFieldModel
from .responses import ExactResponse
from .tabular import TabularModel

__all__ = ["easier_models", "suggested_starts"]

# Shares of the way to the x of the leader's reward.
SHARES = (0.05, 0.1, 0.2, 0.4, 0.8)

# The change of a single entry, as a share of the largest that the leader's reward asks for.
SINGLE = 0.5

# What the share that is lent falls to, of the first one, and factors of the temperature with it.
LENT = ((1.0, 3.0), (0.4, 2.0), (0.16, 1.0))

# The share of a follower who is as good as the leader's own.
WHOLE = 100.0

# Evaluations of the reward for the least squares.
FITTED = 200


class Fit(NamedTuple):
    """What the follower's reward is to be near to.

    Attributes:
        wanted: `[S, A]`.
        reward: x to r_x `[S, A]`.
        pulled: (x, weights of r_x `[S, A]`) to weights of x, shape of x.
    """

    wanted: FloatArray
    reward: Callable[[FloatArray], FloatArray]
    pulled: Callable[[FloatArray, FloatArray], FloatArray]


def suggested_starts(model: BilevelModel, x: FloatArray, most: int) -> list[Start]:
    """Return where a climb that begins at x may start as well; nowhere where u says nothing.

    Args:
        model: A bilevel problem.
        x: Shape of `model.low`.
        most: How many starts to return at most.
    """
    if isinstance(model, TabularModel):
        fit = Fit(model.upper_reward(x), model.reward, model.through_reward)
    elif isinstance(model, MeanFieldModel):
        answer = model.respond(x)
        fit = Fit(
            model.marginal_upper_reward(answer),
            lambda point: model.reward(point, answer.crowd),
            lambda point, gap: model.reward_vjp(point, answer.crowd, gap),
        )
    else:
        return []
    if not fit.wanted.any():
        return []
    change = _fitted(model, x, fit) - x
    largest = float(np.abs(change).max())
    if largest <= 1e-6 * float((model.high - model.low).max()):
        return []
    starts = [
        Start(f"{share:g} of the leader's reward", x + share * change) for share in SHARES[:most]
    ]
    if x.size <= most - len(starts):
        for entry in np.ndindex(x.shape):
            single = x.copy()
            single[entry] += SINGLE * largest
            starts.append(Start(f"entry {list(entry)}", np.clip(single, model.low, model.high)))
    return starts


def easier_models(model: BilevelModel, x: FloatArray) -> list[TabularModel]:
    """Return models whose follower is lent a falling share of the leader's reward.

    There are none where it would not do more for the leader with it.

    Args:
        model: A bilevel problem.
        x: Where the climb begins, shape of `model.low`.
    """
    if not isinstance(model, TabularModel):
        return []
    share = _first_share(model, x)
    return [] if share is None else [_lent(model, x, share * a, b) for a, b in LENT]


def _fitted(model: TabularModel | MeanFieldModel, x: FloatArray, fit: Fit) -> FloatArray:
    """Return the x in the box under which r_x is closest to what is wanted."""
    from scipy.optimize import Bounds, minimize

    exists = model.action_mask

    def distance(flat: FloatArray) -> tuple[float, FloatArray]:
        point = flat.reshape(x.shape)
        gap = fit.reward(point) - fit.wanted
        gap = gap if exists is None else np.where(exists, gap, 0.0)
        return 0.5 * float((gap * gap).sum()), fit.pulled(point, gap).ravel()

    found = minimize(
        distance,
        x.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(model.low.ravel(), model.high.ravel()),
        options={"maxfun": FITTED},
    )
    return np.clip(found.x.reshape(x.shape), model.low, model.high)


def _lent(model: TabularModel, x: FloatArray, share: float, warmth: float = 1.0) -> TabularModel:
    """Return a model whose follower gets r + share u, with u at x, and a higher temperature."""
    reward: Callable[[FloatArray], FloatArray] = model.reward
    lent = share * model.upper_reward(x)
    eased = model.at_temperature(warmth * model.temperature)
    eased.reward = lambda point: reward(point) + lent  # type: ignore[assignment,method-assign]
    return eased


def _first_share(model: TabularModel, x: FloatArray) -> float | None:
    """Return the share for which the follower is indifferent to the leader's own policy.

    None says that the leader gains nothing by that policy.
    """
    reward = model.lower_reward(x)
    own, leaders = (_returns(model, each, reward, x) for each in (model, _lent(model, x, WHOLE)))
    gained, lost = leaders[0] - own[0], own[1] - leaders[1]
    return lost / gained if gained > 0.0 and lost > 0.0 else None


def _returns(
    model: TabularModel, followed: TabularModel, reward: FloatArray, x: FloatArray
) -> tuple[float, float]:
    """Return what leader and follower get from the policy that answers x in another model.

    The follower's return is that of a reward `[S, A]` and the entropy; both are discounted by its
    own discount.
    """
    answer: ExactResponse = followed.respond(x)
    policy, visits = answer.policy, answer.occupancy / (1.0 - model.gamma)
    logs = np.log(np.where(policy > 0.0, policy, 1.0))
    own = np.where(policy > 0.0, reward, 0.0) - model.temperature * logs
    leaders, followers = (
        float(visits @ (policy * each).sum(axis=1)) for each in (model.upper_reward(x), own)
    )
    return leaders, followers
