"""The hyper-gradient of a task against differences of its reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_in_box, check_positive, finite_array, real_numbers, received
from ..core.mdp import FloatArray
from ..model import TabularModel
from .differences import (
    REWARD_ROUNDING,
    STEPS,
    HyperGradientError,
    HyperGradientReport,
    differences,
    moved_inward,
)
from .log_derivatives import check_log_derivatives

# Rounding may be this share of the response term before the comparison stops to mean anything.
MAX_ROUNDING_SHARE = 1e-4


def check_hyper_gradient(
    env: gym.Env[Any, Any],
    upper_params: ArrayLike | None = None,
    *,
    coordinates: int | Sequence[int] | None = None,
    tolerance: float = 1e-6,
    min_response_share: float = 0.1,
    steps: Sequence[float] = STEPS,
    seed: int = 0,
) -> HyperGradientReport:
    """Compare `info["hyper_gradient"]` with differences of the reward, through the whole stack.

    Each entry is differenced to fourth order on a ladder of steps; the step counts at which two
    neighbours of the ladder agree best. The error is measured against the response term, the part
    of the hyper-gradient that goes through the follower's answer, since a large direct part would
    hide errors of it.

    Args:
        env: The leader's seat of a game, with any wrappers above it.
        upper_params: x, in the units of `env.action_space`; None takes the initial one. It is
            moved inward where a difference would leave the box.
        coordinates: Which entries to compare: flat indices, a number of entries drawn by `seed`,
            or None for all.
        tolerance: Relative error allowed, positive.
        min_response_share: Smallest share of the response term for which the comparison is taken
            to be meaningful, in [0, 1].
        steps: The ladder, at least two positive steps.
        seed: Seed of `env.reset` and of the draw of coordinates.

    Raises:
        TypeError: If `env` is not in the leader's seat.
        ValueError: If the seat's method is an estimator (its reward is its own value, which
            differences of the exact objective need not follow), if the response term is too small
            at this x to be tested, or an argument is out of range.
        HyperGradientError: If the relative error exceeds the tolerance by more than rounding.
        LogDerivativeError: If the model has a `log_kernel_vjp` or `log_start_vjp` of its own that
            is wrong; see `check_log_derivatives`.
    """
    _check_arguments(env, tolerance, steps)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    try:
        _, info = env.reset(seed=seed)
    except ArithmeticError as refusal:  # NaN or infinity, which the seat refuses
        none = np.full(space.shape, np.nan)
        every = np.arange(none.size)
        report = HyperGradientReport(
            none, every, none.ravel(), none.ravel(), none.ravel(), math.nan, math.nan
        )
        raise HyperGradientError(f"nothing to compare, {refusal}", report) from refusal
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    given = info["upper_params"] if upper_params is None else upper_params
    x = check_in_box("upper_params", given, low, high)
    x = moved_inward(x, low, high, 2.0 * max(steps))

    def answer(x: FloatArray) -> tuple[float, FloatArray]:
        _, reward, terminated, truncated, info = env.step(x)
        if terminated or truncated:  # a wrapper above the seat may refuse to go on
            env.reset(seed=seed)
        return float(reward), info["hyper_gradient"]

    reward, gradient = answer(x)
    direct = env.get_wrapper_attr("response").direct_gradient
    response_term = gradient if direct is None else gradient - direct
    chosen = _choose_coordinates(coordinates, x.size, seed)
    model = getattr(env.unwrapped, "model", None)
    if isinstance(model, TabularModel) and model.says_logs:
        answered = env.get_wrapper_attr("response").upper_params  # in the units of the model
        where = chosen.tolist()
        check_log_derivatives(model, answered, coordinates=where, tolerance=tolerance, seed=seed)
    numeric, used = differences(lambda x: answer(x)[0], x, chosen.tolist(), steps)
    analytic = gradient.ravel()[chosen]

    # A subset of the entries stands for all: its squared error is scaled up to their number.
    scaling = math.sqrt(x.size / chosen.size)
    error = scaling * float(np.linalg.norm(numeric - analytic))
    rounding = scaling * float(np.linalg.norm(REWARD_ROUNDING * max(1.0, abs(reward)) / used))
    response_norm = float(np.linalg.norm(response_term))
    gradient_norm = float(np.linalg.norm(gradient))
    share = response_norm / gradient_norm if gradient_norm > 0.0 else 0.0
    tested = share >= min_response_share and response_norm > 0.0
    scale = response_norm if tested else gradient_norm
    report = HyperGradientReport(
        upper_params=x,
        coordinates=chosen,
        analytic=analytic,
        numeric=numeric,
        steps=used,
        relative_error=error / scale if scale > 0.0 else error,
        response_share=share,
    )
    # NaN must fail, hence the negated comparison.
    if not error <= tolerance * scale + rounding:
        raise HyperGradientError(
            f"the hyper-gradient is not the derivative of the reward ({tolerance=:g})", report
        )
    if share < min_response_share:
        raise ValueError(
            f"the response term must be at least {min_response_share:g} of the hyper-gradient for "
            f"the comparison to mean anything, got {share:.3g}; choose an x near the start or on "
            "an ascent path, or lower `min_response_share`"
        )
    if rounding > MAX_ROUNDING_SHARE * scale:
        raise ValueError(
            f"the hyper-gradient must stand out from rounding, got norm {scale:.3g} where the "
            f"differences of a reward of {reward:.3g} carry {rounding:.3g}; choose another x, or "
            "longer `steps`"
        )
    return report


def _check_arguments(env: gym.Env[Any, Any], tolerance: float, steps: Sequence[float]) -> None:
    if not env.has_wrapper_attr("method"):
        raise TypeError(
            "`env` must be in the leader's seat, as gym.make(id) gives it, or HyperGradient(game); "
            f"got {env}"
        )
    method = env.get_wrapper_attr("method")
    if not method.exact:
        raise ValueError(
            f"`env` must use an exact method, got {type(method).__name__}: an estimator's reward "
            "is its own value, and differences of it say nothing about its hyper-gradient"
        )
    check_positive("tolerance", tolerance)
    ladder = finite_array("steps", steps, (None,), "[K]")
    if len(ladder) < 2 or ladder.min() <= 0.0:
        raise ValueError(f"`steps` must be at least two positive steps, got {received(steps)}")


def _choose_coordinates(
    coordinates: int | Sequence[int] | None, size: int, seed: int
) -> NDArray[np.int64]:
    if coordinates is None:
        return np.arange(size)
    if isinstance(coordinates, Integral):
        coordinates = int(coordinates)
        if not 1 <= coordinates <= size:
            raise ValueError(f"`coordinates` must lie in 1..{size}, got {coordinates}")
        return np.sort(np.random.default_rng(seed).choice(size, coordinates, replace=False))
    chosen = real_numbers("coordinates", coordinates)
    entries = chosen.tolist() if chosen.ndim == 1 and chosen.dtype.kind in "iu" else []
    if not entries or not {*entries} <= {*range(size)} or len({*entries}) < len(entries):
        raise ValueError(
            f"`coordinates` must be different flat indices in 0..{size - 1}, got "
            f"{received(coordinates)}"
        )
    return chosen
